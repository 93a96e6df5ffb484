"""CUDA graphs and streams on the CPU: what gantricks asks of `torch.cuda` to capture a step, without a GPU.

A graph records the operations between its beginning and its end; a replay does them again on the same memory. Streams
compute at once, but it is known what each has waited for, so that an access to memory that nothing orders is found.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal")


class Stream:
    def __init__(self, cuda: EmulatedCuda, device: int) -> None:
        self.cuda, self.device = cuda, device
        self.clock = 0
        self.knows: dict[Stream, int] = {}

    def wait_stream(self, other: Stream) -> None:
        for stream, clock in {**other.knows, other: other.clock}.items():
            self.knows[stream] = max(clock, self.knows.get(stream, 0))


class Graph:
    """`calls` are the recorded operations: function, arguments and results."""

    def __init__(self, cuda: EmulatedCuda) -> None:
        self.cuda, self.calls = cuda, list[tuple[Any, Any, Any, list[Tensor]]]()
        self.device, self.pool, self.mode = -1, None, ""
        cuda.graphs.append(weakref.ref(self))

    def replay(self) -> None:
        assert self.cuda.device == self.device, f"replayed on cuda:{self.cuda.device}, recorded on cuda:{self.device}"
        with torch.no_grad():
            for function, args, kwargs, results in self.calls:
                for kept, now in zip(results, tensors_of(function(*args, **kwargs)), strict=True):
                    if kept.data_ptr() != now.data_ptr() and kept.numel():
                        kept.data.copy_(now)


class Recorder(TorchDispatchMode):
    """Puts every operation into a graph, and refuses those that wait for the device."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function).startswith(HOST_READS):
            raise RuntimeError("operation not permitted when stream is capturing")
        result = function(*args, **(kwargs or {}))
        if self.graph.cuda.records:
            self.graph.calls.append((function, args, kwargs or {}, tensors_of(result)))
        return result


class Races(TorchDispatchMode):
    """Finds memory that two streams use, one of them to write, without waiting for each other."""

    def __init__(self, cuda: EmulatedCuda) -> None:
        super().__init__()
        self.cuda = cuda
        self.storages: dict[int, Any] = {}
        """Every storage that was seen, so that none is taken for another that has its memory."""
        self.written: dict[int, tuple[Stream, int]] = {}
        self.read: dict[int, dict[Stream, int]] = {}
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if self.cuda.capturing:
            return result  # nothing is computed yet
        stream = self.cuda.current
        stream.clock += 1
        given = function._schema.arguments
        for argument, value in [
            *zip(given, args, strict=False),
            *((a, kwargs[a.name]) for a in given if a.name in kwargs),
        ]:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tensors_of(value):
                self._used(tensor, stream, writes, str(function))
        for tensor in tensors_of(result):
            if id_of(tensor) not in self.storages:
                self._used(tensor, stream, True, str(function))
        return result

    def _used(self, tensor: Tensor, stream: Stream, writes: bool, function: str) -> None:
        key = id_of(tensor)
        self.storages[key] = tensor.untyped_storage()
        before = [self.written[key]] if key in self.written else []
        before += [*self.read.get(key, {}).items()] if writes else []
        for other, clock in before:
            if other is not stream and clock > stream.knows.get(other, 0):
                self.found.append(f"{function} {'writes' if writes else 'reads'} what another stream is at work on")
        if writes:
            self.written[key] = stream, stream.clock
        else:
            self.read.setdefault(key, {})[stream] = stream.clock


class EmulatedCuda:
    """Takes the place of the parts of `torch.cuda` that a capture uses.

    `device` is the current one. `graphs` are all that were made. With `records = False`, a graph stays empty, as one
    that was recorded on the wrong stream.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device, self.records, self.capturing, self.pools = 0, True, False, 0
        self.graphs: list[weakref.ref[Graph]] = []
        self.captures: list[dict[str, Any]] = []
        self.default = [Stream(self, 0), Stream(self, 1)]
        self.streams = [*self.default]
        self.current = self.default[0]
        places = {
            "CUDAGraph": lambda: Graph(self),
            "graph": self._graph,
            "Stream": self._stream_of,
            "stream": self._stream,
            "current_stream": lambda device=None: self.current,
            "graph_pool_handle": self._pool,
            "device": self._device,
        }
        for name, place in places.items():
            monkeypatch.setattr(torch.cuda, name, place)

    @property
    def alive(self) -> int:
        """How many graphs there are."""
        gc.collect()
        return sum(graph() is not None for graph in self.graphs)

    def _pool(self) -> tuple[int, int]:
        self.pools += 1
        return self.device, self.pools

    def _stream_of(self, device: Any = None) -> Stream:
        self.streams.append(Stream(self, self.device if device is None else torch.device(device).index or 0))
        return self.streams[-1]

    @contextmanager
    def _device(self, device: Any) -> Iterator[None]:
        before, here = self.device, self.current
        self.device = torch.device(device).index or 0
        self.current = here if here.device == self.device else self.default[self.device]
        try:
            yield
        finally:
            self.device, self.current = before, here

    @contextmanager
    def _stream(self, stream: Stream | None) -> Iterator[None]:
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _graph(
        self, graph: Graph, pool: Any = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        for one in self.streams:  # torch waits for the whole device
            for other in self.streams:
                one.wait_stream(other)
        graph.device = self.default[0].device if stream is None else stream.device  # torch's own stream is made once
        self.captures.append({"mode": capture_error_mode, "pool": pool, "device": graph.device, "alive": self.alive})
        self.capturing = True
        try:
            with self._stream(stream), Recorder(graph):
                yield
        except Exception as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error.__cause__
        finally:
            self.capturing = False


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def id_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
