"""The captured step: D and G step, tricks, draws and optimizers as one call that is replayed.

A step is rehearsed on the side, with its draws and its batches in tensors that stay (`Tape`, `Reel`). Then it is
captured: on a GPU as a CUDA graph; on the CPU as one graph of operations (`make_fx`), in which every tensor that was
not made within the step is an input, by identity, and which inductor compiles. The graph is replayed against the eager
step before it is trusted, so that what a trick decides on the host cannot freeze unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from gantricks.engine.feed import Reel
from gantricks.rng import Tape

if TYPE_CHECKING:
    from gantricks.engine.game import Game
    from gantricks.planning.device import Placement
    from gantricks.planning.plan import Plan

INDUCTOR, CUDA_GRAPH, INTERPRETER = "inductor", "cuda-graph", "interpreter"
COMPILING_PAYS = {"fp32": 30_000, "bf16": 10_000, "vectors": 60_000}
"""Steps from which on compiling for the CPU saves more time than it takes: convolutions in a precision, or vectors."""

INDUCTOR_SETTINGS = {
    # a small network's step is over in half a millisecond, of which calls from Python would be a quarter
    "cpp_wrapper": True,
    "size_asserts": False,
}

REHEARSED = 2
"""Steps that the traced graph is compared with the eager step for, bit by bit."""

Run = Callable[[list[Tensor]], list[Any]]


def backend(plan: Plan, placement: Placement) -> str | None:
    """How the step of this recipe is captured, or None where it is to be played eagerly: a matter of the recipe and the
    device alone, so that a recipe that is run twice is played in one way.
    """
    wanted, steps = plan.recipe.train.capture, plan.recipe.train.length
    if placement.device.type == "cuda":
        return CUDA_GRAPH if wanted != "off" else None
    if wanted == "on":
        return INDUCTOR
    repays = COMPILING_PAYS.get(placement.precision if plan.convolutions else "vectors", math.inf)
    return INDUCTOR if wanted == "auto" and steps >= repays and placement.precision != "fp64" else None


class CannotCapture(Exception):
    """The message says what stands in the way."""


class Captured:
    """One step of `game` as one call, for as long as what it does stays the same.

    `backend`: INDUCTOR compiles for the CPU; CUDA_GRAPH records the kernels; INTERPRETER runs the traced graph as it
    is, operation by operation, as the laws do.

    Raises CannotCapture with the reason where the step cannot be captured.
    """

    def __init__(self, game: Game, backend: str) -> None:
        for planned in game.plan.tricks:
            if not planned.trick.capturable:
                raise CannotCapture(f"the trick {planned.name} declares that it cannot be captured")
        self.game = game
        self.tape, self.reel = Tape(), Reel()
        self._live: list[Tensor] = []
        self._run: Run
        moving = game.moving()
        start = [tensor.clone() for tensor in moving]
        cursor, finished = game.feed.cursor, game.finished

        def rewind() -> None:
            with torch.no_grad():
                for tensor, then in zip(moving, start, strict=True):
                    tensor.copy_(then)
            game.feed.cursor = cursor
            game._at(finished)

        side = torch.cuda.Stream() if backend == CUDA_GRAPH else None
        try:
            # what is made once and kept is made in the first step; on a GPU aside of the stream that is captured
            with torch.cuda.stream(side):
                self._rehearse(game.step)
            moving, start = _with_new(moving, start, game.moving())
            rewind()
            first = self._play(game.step, 1) if backend == INDUCTOR else []
            rewind()
            eager = self._play(game.step)
            rewind()
            self._fill()
            if backend == CUDA_GRAPH:
                self._run = self._record()
                return
            graph, self._live, self._shape = self._trace()
            rewind()
            self._run = lambda live: graph(*live)
            traced = self._play(self.replay)
            if not all(map(_same, eager, traced)):
                raise CannotCapture(
                    "replayed, it is not the step that was traced: a number or a choice on the host changes"
                )
            if backend == INDUCTOR:
                rewind()
                self._run = _compiled(graph, self._live)
                if name := _astray(game, start, first, self._play(self.replay, 1)):
                    raise CannotCapture(f"compiled, it is another step than the eager one: {name} moves otherwise")
        finally:
            rewind()
            game.feed.reel = game.clock.tape = None
            for player in game.players.values():
                player.take_part()

    def __call__(self) -> None:
        """Play the step after those that are finished."""
        self._fill()
        self.replay()

    def replay(self) -> None:
        self._show(self._run(self._live))

    def _rehearse(self, step: Callable[[], None]) -> None:
        game = self.game
        game.clock.tape, game.feed.reel = self.tape, self.reel
        step()

    def _play(self, step: Callable[[], None], steps: int = REHEARSED) -> list[Tensor]:
        """What so many steps make of everything that moves."""
        game, first = self.game, self.game.finished
        for number in range(first, first + steps):
            game._at(number)
            self._fill()
            self._rewind()
            step()
        return [tensor.clone() for tensor in game.moving()]

    def _fill(self) -> None:
        self.reel.fill(self.game.feed)
        self.tape.fill(self.game.finished)

    def _rewind(self) -> None:
        self.tape.rewind()
        self.reel.rewind()

    def _record(self) -> Run:
        """The kernels of a step as a CUDA graph. Rehearsal has warmed up what is made once."""
        graph = torch.cuda.CUDAGraph()
        self._rewind()
        try:
            with torch.cuda.graph(graph):
                self.game.step()
        except Exception as fault:
            raise CannotCapture(f"CUDA cannot capture it: {str(fault).strip().splitlines()[0]}") from fault
        shown, self._shape = pytree.tree_flatten(self.game.frame.shown())

        def run(live: list[Tensor]) -> list[Any]:
            graph.replay()
            return shown

        return run

    def _trace(self) -> tuple[fx.GraphModule, list[Tensor], Any]:
        from torch.fx.experimental.proxy_tensor import make_fx  # a second to import, which only capture needs

        shape = None

        def step() -> list[Any]:
            nonlocal shape
            self._rewind()
            self.game.step()
            shown, shape = pytree.tree_flatten(self.game.frame.shown())
            return [value.detach() if isinstance(value, Tensor) else value for value in shown]

        try:
            graph = make_fx(step, tracing_mode="real")()
        except Exception as fault:  # whatever a trick does that cannot be traced
            raise CannotCapture(f"it cannot be traced: {str(fault).strip().splitlines()[0]}") from fault
        return *_lifted(graph), shape

    def _show(self, values: list[Any]) -> None:
        self.game.frame.show(pytree.tree_unflatten(values, self._shape))


def _with_new(tensors: list[Tensor], copies: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """`now`, with the copies that there are; tensors that the first step made start from zero."""
    known = {tensor.data_ptr(): copy for tensor, copy in zip(tensors, copies, strict=True)}
    return now, [known.get(tensor.data_ptr(), torch.zeros_like(tensor)) for tensor in now]


STRAYS = {"fp64": 1e-6, "fp32": 0.05, "bf16": 0.3}
"""How far a compiled step may end from the eager one, in parts of the way: what Adam makes of rounding."""


def _astray(game: Game, start: list[Tensor], eager: list[Tensor], compiled: list[Tensor]) -> str:
    """What one compiled step moves otherwise than the eager one does, or "".

    Adam turns a gradient that should be 0 and is rounded to 1e-9 into a whole step, so weights are compared all
    together, and the gradients closely by the optimizer's means of them.
    """
    precision, position = game.placement.precision, {t.data_ptr(): i for i, t in enumerate(game.moving())}
    for name, tensors in _groups(game).items():
        here = {position[tensor.data_ptr()] for tensor in tensors if tensor.data_ptr() in position}
        difference = _norm(eager[i].double() - compiled[i] for i in here)
        moved, size = _norm(eager[i].double() - start[i] for i in here), _norm(eager[i].double() for i in here)
        rounding = 1e-14 if precision == "fp64" else 1e-6
        if not difference <= STRAYS[precision] * moved + rounding * (size + 1):
            return name
    return ""


def _groups(game: Game) -> dict[str, list[Tensor]]:
    """What moves: a network's weights and buffers, what an optimizer keeps of one kind, a trick's tensors; a trick's
    single numbers each alone."""
    groups: dict[str, list[Tensor]] = {}
    for group, tensors in game.state().items():
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


def _lifted(graph: fx.GraphModule) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph with every tensor that it holds as an input, and these tensors. One that is seen twice, as itself and
    as an alias of the same memory, becomes one input."""
    nodes = graph.graph
    first = next(node for node in nodes.nodes if node.op != "get_attr")
    inputs: dict[Any, fx.Node] = {}
    live: list[Tensor] = []
    for node in list(nodes.nodes):
        if node.op == "get_attr":
            tensor = getattr(graph, str(node.target)).detach()
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if key not in inputs:
                with nodes.inserting_before(first):
                    inputs[key] = nodes.placeholder(f"live_{len(live)}")
                live.append(tensor)
            node.replace_all_uses_with(inputs[key])
            nodes.erase_node(node)
    for node in reversed(list(nodes.nodes)):
        if node.op == "call_function" and "profiler" in str(node.target):
            nodes.erase_node(node)
    lifted = fx.GraphModule(torch.nn.Module(), nodes)
    nodes.lint()
    return lifted, live


# ---------------------------------------------------------------- compilation for the CPU


def _compiled(graph: fx.GraphModule, live: list[Tensor]) -> Run:
    from torch._inductor.compile_fx import compile_fx

    _write_out(graph)
    try:
        with torch.no_grad():
            compiled: Any = compile_fx(graph, live, config_patches=INDUCTOR_SETTINGS)
    except Exception as fault:
        raise CannotCapture(f"it cannot be compiled: {str(fault).strip().splitlines()[0]}") from fault

    def run(live: list[Tensor]) -> list[Any]:
        with torch.no_grad():
            values: list[Any] = compiled(*live)
        return values

    return run


def _write_out(graph: fx.GraphModule) -> None:
    """Write fused optimizers and the operations on lists that inductor cannot fuse with the rest out in ones it can."""
    aten = torch.ops.aten
    map_arg: Any = fx.node.map_arg
    formulas: dict[Any, Callable[..., None]] = {
        aten._fused_adam_.default: _adam,
        aten._fused_adam_.tensor_lr: _adam,
        aten._fused_adamw_.default: _adamw,
        aten._fused_adamw_.tensor_lr: _adamw,
        aten._fused_sgd_.default: _sgd,
        aten._fused_sgd_.tensor_lr: _sgd,
        aten._foreach_lerp_.List: _lerp,
    }
    tracer = fx.proxy.GraphAppendingTracer(graph.graph)

    def proxy(node: fx.Node) -> Any:
        return fx.Proxy(node, tracer)

    for node in list(graph.graph.nodes):
        if node.target is aten._foreach_norm.Scalar:
            _open_norms(node)
        if node.target in formulas:
            with graph.graph.inserting_before(node):
                args, kwargs = map_arg((node.args, node.kwargs), proxy)
                formulas[node.target](*args, **kwargs)
            graph.graph.erase_node(node)
    graph.recompile()


def _open_norms(node: fx.Node) -> None:
    """The norms of a list of tensors as one norm for each, which fuse with what comes after."""
    graph, tensors = node.graph, node.args[0]
    order = node.args[1] if len(node.args) > 1 else 2
    assert isinstance(tensors, list | tuple)
    for item in list(node.users):
        with graph.inserting_before(node):
            norm = graph.call_function(torch.ops.aten.linalg_vector_norm.default, (tensors[item.args[1]], order))  # type: ignore[index]
        item.replace_all_uses_with(norm)
        graph.erase_node(item)
    graph.erase_node(node)


def _lerp(starts: Any, ends: Any, weights: Any) -> None:
    for start, end, weight in zip(starts, ends, weights, strict=True):
        start.lerp_(end, weight)


def _update(held: Any, *pairs: tuple[Any, Any]) -> None:
    for old, new in pairs:
        old.copy_(torch.where(held > 0, old, new))


def _adam(
    parameters: Any, gradients: Any, means: Any, squares: Any, _: Any, steps: Any, *, lr: Any, beta1: Any, beta2: Any,
    weight_decay: Any, eps: Any, found_inf: Any, decoupled: bool = False, **others: Any,
) -> None:  # fmt: skip
    """Kingma & Ba 2015, algorithm 1, in the order of operations of torch's fused kernel."""
    for p, g, m, v, t in zip(parameters, gradients, means, squares, steps, strict=True):
        if decoupled:
            decayed = p - lr * weight_decay * p
        else:
            decayed, g = p, g + weight_decay * p if weight_decay else g
        mean = m + (1 - beta1) * (g - m)
        square = beta2 * v + (1 - beta2) * g * g
        t = t.double()  # as the fused kernel has it: in float32, β₂^t leaves few digits of 1 - β₂^t
        correction1, correction2 = 1 - beta1**t, 1 - beta2**t
        moved = decayed - lr / correction1 * mean / (square.sqrt() / correction2.sqrt() + eps)
        _update(found_inf, (p, moved), (m, mean), (v, square))


def _adamw(*args: Any, **kwargs: Any) -> None:
    """Loshchilov & Hutter 2019, algorithm 2."""
    _adam(*args, decoupled=True, **kwargs)


def _sgd(
    parameters: Any, gradients: Any, buffers: Any, *, weight_decay: Any, momentum: Any, lr: Any, dampening: Any,
    nesterov: Any, found_inf: Any, **others: Any,
) -> None:  # fmt: skip
    """Heavy ball: m ← momentum · m + (1 - dampening) · g, θ ← θ - lr · m."""
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        g = g + weight_decay * p if weight_decay else g
        if momentum:
            buffer = momentum * buffers[i] + (1 - dampening) * g
            step = g + momentum * buffer if nesterov else buffer
            _update(found_inf, (p, p - lr * step), (buffers[i], buffer))
        else:
            _update(found_inf, (p, p - lr * g))
