"""The captured step: a whole training step as one call that can be replayed.

A step is rehearsed first, with its draws and batches in tensors at fixed addresses (`StaticDraws`, `StaticBatches`).
Then it is captured. On a GPU it becomes a CUDA graph. On the CPU it becomes one graph of operations (`make_fx`), which
inductor compiles; every tensor that exists before the step is an input of this graph. Either replay is compared with
the eager step before it is trusted, so that a host value which a trick changes is not frozen unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from gantricks.engine import cuda_graph, state
from gantricks.engine.compilation import Replay, compiled, lifted
from gantricks.engine.feed import StaticBatches
from gantricks.engine.game import Game
from gantricks.errors import Problem, UserError
from gantricks.planning.device import Placement, out_of_memory
from gantricks.planning.plan import Plan
from gantricks.rng import StaticDraws

INDUCTOR, CUDA_GRAPH, INTERPRETER = "inductor", "cuda-graph", "interpreter"
COMPILING_PAYS = {"fp32": 30_000, "bf16": 10_000, "vectors": 60_000}
"""The number of steps from which compiling for the CPU saves more time than it takes: by precision where both networks
have convolutions, otherwise under "vectors".
"""

REHEARSED = 2
"""The number of steps over which the traced graph is compared with the eager step, bit by bit."""


def backend(plan: Plan, placement: Placement) -> str | None:
    """Return how the step of this recipe is captured, or None where it is played eagerly.

    This depends on the recipe and the device alone, so that a recipe is played in the same way each time it is run.
    """
    wanted, steps = plan.recipe.train.capture, plan.recipe.train.length
    if placement.device.type == "cuda":
        return CUDA_GRAPH if wanted != "off" else None
    if wanted == "on":
        return INDUCTOR
    repays = COMPILING_PAYS.get(placement.precision if plan.convolutions else "vectors", math.inf)
    return INDUCTOR if wanted == "auto" and steps >= repays and placement.precision != "fp64" else None


class CannotCapture(Exception):
    """Raised when a step cannot be captured. The message is the reason."""


class Capturing:
    """Plays the steps of a game captured, by `backend`.

    The first step is captured, and another one whenever the structure of the step changes. One step is kept for each
    variant that tricks have chosen (`ctx.set_variant`). Where the first capture
    fails, a warning is given, the run is played eagerly, and `backend` becomes None. `announce` is called before a
    capture, which can take a minute. Raises UserError where a later capture fails.
    """

    def __init__(
        self, game: Game, backend: str | None, announce: Callable[[str], None] = lambda sentence: None
    ) -> None:
        self.game, self.announce = game, announce
        self.backend = backend
        self._structure: tuple[int, ...] | None = None
        self._captured: dict[tuple[Any, ...], CapturedStep] = {}
        # one for all forms of the step, of which one is replayed at a time
        self._memory = cuda_graph.pool(game.placement.device) if backend == CUDA_GRAPH else None

    def __call__(self) -> None:
        game = self.game
        if self.backend is None:
            game.step()
            return
        if self._structure != game.structure:
            self._captured.clear()
            game.frame.let_go()  # else the tensors of the last step would keep the memory of the old graphs
        if game.variant not in self._captured:
            self.announce("compiling the step" if self.backend == INDUCTOR else "capturing the step")
            try:
                self._captured[game.variant] = CapturedStep(game, self.backend, self._memory)
            except CannotCapture as reason:
                if self._structure is not None:
                    raise UserError(
                        Problem(
                            f"after {game.finished} steps the step has changed and cannot be captured anew: {reason}",
                            "train.capture",
                            'play such a run eagerly: capture = "off"',
                        )
                    ) from reason
                self.backend = None
                game.warnings.append(f"the step is played eagerly: {reason}")
                game.step()
                return
            self._structure = game.structure
        self._captured[game.variant]()


class CapturedStep:
    """One step of `game` as one call, valid as long as the structure of the step stays the same.

    `backend`: INDUCTOR compiles for the CPU; CUDA_GRAPH records the kernels, in memory of the pool `memory`;
    INTERPRETER runs the traced graph operation by operation, for the laws. Raises CannotCapture with the reason where
    the step cannot be captured.
    """

    def __init__(self, game: Game, backend: str, memory: Any = None) -> None:
        for planned in game.plan.tricks:
            if not planned.trick.capturable:
                raise CannotCapture(f"the trick {planned.name} declares that it cannot be captured")
        self.game = game
        self.draws, self.batches = StaticDraws(), StaticBatches()
        self._live: list[Tensor] = []
        self._run: Replay
        moving = state.moving(game)
        start = [tensor.clone() for tensor in moving]
        cursor, finished = game.feed.cursor, game.finished

        def rewind() -> None:
            with torch.no_grad():
                for tensor, then in zip(moving, start, strict=True):
                    tensor.copy_(then)
            game.feed.cursor = cursor
            game.move_to(finished)

        device = game.placement.device
        try:
            # the first step makes what is made once and kept
            with cuda_graph.beside(device) if backend == CUDA_GRAPH else nullcontext():
                self._rehearse(game.step)
            moving, start = _with_new(moving, start, state.moving(game))
            rewind()
            first = self._play(game.step, 1) if backend == INDUCTOR else []
            rewind()
            eager = self._play(game.step)
            rewind()
            self._fill()
            if backend == CUDA_GRAPH:
                self._run = self._record(device, memory)
                rewind()
                replayed = self._play(self.replay)
                if all(map(_same, start, replayed)):
                    raise CannotCapture("the recorded step changes nothing")
                if not all(map(_same, eager, replayed)) and (name := _difference(game, start, eager, replayed)):
                    raise CannotCapture(f"{FROZEN}, seen in {name}")
                return
            graph, self._live, self._shape = self._trace()
            rewind()
            self._run = lambda live: graph(*live)
            traced = self._play(self.replay)
            if not all(map(_same, eager, traced)):
                raise CannotCapture(FROZEN)
            if backend == INDUCTOR:
                rewind()
                self._run = self._compiled(graph)
                if name := _difference(game, start, first, self._play(self.replay, 1)):
                    raise CannotCapture(f"the compiled step differs from the eager one in {name}")
        finally:
            rewind()
            game.feed.static = game.clock.static = None
            for player in game.players.values():
                player.take_part()

    def __call__(self) -> None:
        """Play the next step."""
        self._fill()
        self.replay()

    def replay(self) -> None:
        self._show(self._run(self._live))

    def _rehearse(self, step: Callable[[], None]) -> None:
        game = self.game
        game.clock.static, game.feed.static = self.draws, self.batches
        step()

    def _play(self, step: Callable[[], None], steps: int = REHEARSED) -> list[Tensor]:
        """Play this many steps and return copies of all tensors that they change."""
        game, first = self.game, self.game.finished
        for number in range(first, first + steps):
            game.move_to(number)
            self._fill()
            self._rewind()
            step()
        return [tensor.clone() for tensor in state.moving(game)]

    def _fill(self) -> None:
        self.batches.fill(self.game.feed)
        self.draws.fill(self.game.finished)

    def _rewind(self) -> None:
        self.draws.rewind()
        self.batches.rewind()

    def _record(self, device: torch.device, memory: Any) -> Replay:
        """Record the kernels of a step as a CUDA graph, after a rehearsal that has made what is made once."""
        self._rewind()
        with _refusing("CUDA cannot capture it"):
            replay = cuda_graph.recorded(self.game.step, device, memory)
        contents, self._shape = pytree.tree_flatten(self.game.frame.contents())

        def run(live: list[Tensor]) -> list[Any]:
            replay()
            return contents

        return run

    def _trace(self) -> tuple[fx.GraphModule, list[Tensor], Any]:
        from torch.fx.experimental.proxy_tensor import make_fx  # a second to import, which only capture needs

        shape = None

        def step() -> list[Any]:
            nonlocal shape
            self._rewind()
            self.game.step()
            contents, shape = pytree.tree_flatten(self.game.frame.contents())
            return [value.detach() if isinstance(value, Tensor) else value for value in contents]

        with _refusing("it cannot be traced"):
            graph = make_fx(step, tracing_mode="real")()
        return *lifted(graph), shape

    def _compiled(self, graph: fx.GraphModule) -> Replay:
        with _refusing("it cannot be compiled"):
            return compiled(graph, self._live)

    def _show(self, values: list[Any]) -> None:
        self.game.frame.fill(pytree.tree_unflatten(values, self._shape))


FROZEN = "the replayed step differs from the eager one: a number or a choice on the host changes"


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn an error, whatever a trick does that cannot be captured, into CannotCapture. Where memory has run out, the
    step itself does not fit, and the error is raised as it is.
    """
    try:
        yield
    except Exception as error:
        links: list[BaseException] = [error]
        while (before := links[-1].__cause__ or links[-1].__context__) and before not in links:
            links.append(before)  # ending a capture that has failed raises an error of its own
        for link in links:
            if out_of_memory(link) is not None:
                raise link from None
        raise CannotCapture(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _with_new(tensors: list[Tensor], copies: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return `now` and `copies`, with zeros as the start of the tensors that the first step has made."""
    known = {tensor.data_ptr(): copy for tensor, copy in zip(tensors, copies, strict=True)}
    return now, [known.get(tensor.data_ptr(), torch.zeros_like(tensor)) for tensor in now]


TOLERANCES = {"fp64": 1e-6, "fp32": 0.05, "tf32": 0.3, "bf16": 0.3}
"""How far a replayed step may end from the eager one, relative to the length of the change. Adam amplifies rounding."""


def _difference(game: Game, start: list[Tensor], eager: list[Tensor], compiled: list[Tensor]) -> str:
    """Return what a replayed step changes differently from the eager step, or "".

    Adam turns a gradient that should be 0 and is rounded to 1e-9 into a full update. So weights are compared all
    together, and gradients are compared closely through the optimizer's running means.
    """
    precision, position = game.placement.precision, {t.data_ptr(): i for i, t in enumerate(state.moving(game))}
    for name, tensors in _groups(game).items():
        here = {position[tensor.data_ptr()] for tensor in tensors if tensor.data_ptr() in position}
        difference = _norm(eager[i].double() - compiled[i] for i in here)
        moved, size = _norm(eager[i].double() - start[i] for i in here), _norm(eager[i].double() for i in here)
        rounding = 1e-14 if precision == "fp64" else 1e-6
        if not difference <= TOLERANCES[precision] * moved + rounding * (size + 1):
            return name
    return ""


def _groups(game: Game) -> dict[str, list[Tensor]]:
    """Return the tensors that a step changes, in groups: the weights and buffers of a network, each kind of state of an
    optimizer, the tensors of a trick. Each scalar of a trick is a group of its own.
    """
    groups: dict[str, list[Tensor]] = {}
    for group, tensors in state.tensors(game).items():
        for name, tensor in tensors.items():
            if group == "kept" or not (tensor.is_floating_point() and torch.isfinite(tensor).all()):
                continue
            if group == "tricks":
                key = name if tensor.numel() == 1 else name.partition("/")[0]
            elif group.endswith("_optimizer"):
                key = f"{name.rpartition('.')[2]} of the {group.removesuffix('_optimizer')}'s optimizer"
            else:
                key = f"the {group}"
            groups.setdefault(key, []).append(tensor)
    return groups


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
