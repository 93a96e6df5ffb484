"""A step as a CUDA graph: what capturing needs of `torch.cuda`, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Compute on a stream of its own. It waits for all that was asked before, and all that is asked later waits for it.

    What a step makes once and keeps must be made before the capture, and on another stream than the default one.
    """
    with torch.cuda.device(device):
        here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(here)
        try:
            with torch.cuda.stream(side):
                yield
        finally:
            here.wait_stream(side)


def pool(device: torch.device) -> Any:
    """Return a pool of memory for graphs of which one is replayed at a time, and none reads what another has left."""
    with torch.cuda.device(device):
        return torch.cuda.graph_pool_handle()


def recorded(step: Callable[[], None], device: torch.device, memory: Any) -> Callable[[], None]:
    """Record the kernels of `step` and return what replays them. Their memory comes from the pool `memory`."""
    graph = torch.cuda.CUDAGraph()
    # other threads, such as the one that reads data ahead, may go on pinning memory meanwhile
    with (
        torch.cuda.device(device),
        torch.cuda.graph(graph, pool=memory, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"),
    ):
        step()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay
