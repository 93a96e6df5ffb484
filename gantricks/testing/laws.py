"""The laws that every trick obeys, each a check with a stable id and a one-line mend."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gantricks.capture import INTERPRETER
from gantricks.errors import UserError
from gantricks.game import Game
from gantricks.hooks import KINDS, hookimpl
from gantricks.networks.base import mixes_samples
from gantricks.plan import contract_problems, hooks_of, notify
from gantricks.records import Batch
from gantricks.testing.host import Played, TrickHost, differences, same_bits, snapshot
from gantricks.trick import Trick


class _RefusedGenerator(torch.Generator):
    """In torch.Generator's place: still a type, because modules of torch imported meanwhile annotate with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _RefusedGenerator:
        raise AssertionError("a generator of its own was made")


class NotApplicable(Exception):
    """The law says nothing about this trick; the message says why."""


@dataclass(frozen=True)
class Case:
    """A trick class at settings where it does something, and the host it is tried in.

    `options` are those settings; the host is `TrickHost.for_trick(trick)` unless another is given. `name` is what the
    trick is called in the run, which is what other tricks' conflicts look at. `trace` is the trick's own law on a
    recorded run, alone or with other tricks in it: given what was played and the trick's name in that run, it raises
    AssertionError where the law is broken.
    """

    trick: type[Trick]
    options: Mapping[str, Any] = field(default_factory=dict)
    host: TrickHost | None = None
    name: str = "trick"
    trace: Callable[[Played, str], None] | None = None

    @property
    def without(self) -> TrickHost:
        """The host without the trick."""
        return self.host or TrickHost.for_trick(self.trick)

    @property
    def with_it(self) -> TrickHost:
        """The host with the trick at its active settings."""
        return self.without.with_trick(self.trick, self.name, **self.options)


@dataclass(frozen=True)
class Law:
    """`check(case)` raises AssertionError where the law is broken and NotApplicable where it says nothing."""

    id: str
    mend: str
    check: Callable[[Case], None]

    def __str__(self) -> str:
        return self.id


LAWS: dict[str, Law] = {}
"""Every generic law, by id."""


def _law(identity: str, mend: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def add(check: Callable[[Case], None]) -> Callable[[Case], None]:
        LAWS[identity] = Law(identity, mend, check)
        return check

    return add


@_law("contract", "name and sign hooks as in gantricks.hooks; declare state in tensors(), update it in place")
def _contract(case: Case) -> None:
    assert not list(contract_problems(case.trick))
    assert hooks_of(case.trick), "it implements no hook"
    assert case.trick.__doc__, "it has no card: write a class docstring"
    for name, option in case.trick.Config.model_fields.items():
        assert option.description, f"the option {name!r} has no description"
        assert not option.is_required(), f"the option {name!r} has no default"


@_law(
    "neutral", "at its neutral setting the trick must compute nothing that changes a value, or declare neutral = None"
)
def _neutral(case: Case) -> None:
    if case.trick.neutral is None:
        raise NotApplicable("it declares no neutral setting")
    neutral = case.without.with_trick(case.trick, case.name, **case.trick.neutral).train()
    plain = case.without.train()
    assert not differences(neutral.state, plain.state, besides=("tricks",))
    assert same_bits(_samples(neutral.game), _samples(plain.game)), "samples differ"


@_law("active", "the settings under test must change something, or the other laws are checked on nothing")
def _active(case: Case) -> None:
    with_it, plain = case.with_it.train(), case.without.train()
    changed = differences(with_it.state, plain.state, besides=("tricks",))
    watches = set(hooks_of(case.trick)) <= _WATCHING
    exact = set(hooks_of(case.trick)) == {"d_scores"}
    seen = changed or watches or exact or not same_bits(_samples(with_it.game), _samples(plain.game))
    assert seen, f"a run of {case.with_it.steps} steps with it is the run without it, bit for bit"


@_law("stream", "draw from ctx.rng only: never from torch's, numpy's or Python's global generators")
def _stream(case: Case) -> None:
    import random

    import numpy as np

    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    with mock.patch.object(torch, "Generator", _RefusedGenerator):
        played = case.with_it.train()
    assert same_bits(torch_state, torch.get_rng_state()), "torch's global generator was used"
    assert str(numpy_state) == str(np.random.get_state()), "numpy's global generator was used"
    assert python_state == random.getstate(), "Python's global generator was used"
    beside = case.with_it.with_trick(_Drawer, "drawer").train()
    assert not differences(played.state, beside.state), "another trick's draws changed this one's"


@_law("fold", "return what came in with the same shape, type and device, and never write into an argument")
def _fold(case: Case) -> None:
    folds_hold(case.with_it.train(3))
    folds_hold(case.with_it.but(precision="fp32").train(1))  # where a type that float64 hides comes out


def folds_hold(played: Played) -> None:
    """The law "fold", on a recorded run."""
    folds = [hook for hook in played.calls if KINDS[hook] == "fold" and not hook.startswith("transform")]
    folds = [hook for hook in folds if hook not in ("sampling_generator", "evaluation_discriminator")]
    for hook, calls in played.calls.items():
        assert not any(call.modified for call in calls), f"{hook} wrote into one of its arguments"
    for hook in folds:
        for call in played.calls[hook]:
            value, result = call.arguments[0], call.result
            pairs = zip(value, result, strict=True) if isinstance(value, Batch) else [(value, result)]
            for before, after in pairs:
                assert (before is None) == (after is None), f"{hook} lost or invented the classes"
                if before is not None:
                    assert before.shape == after.shape, f"{hook} changed the shape"
                    assert before.dtype == after.dtype, f"{hook} changed the type"
                    assert before.device == after.device, f"{hook} changed the device"


@_law("other-player", "change only the player of ctx.phase: weights, gradients, optimizer state, modes")
def _other_player(case: Case) -> None:
    game = case.with_it.but(reuse_fakes=False).game()
    for _ in range(3):
        _boundary(game)
        for phase, other in (("d", "generator"), ("g", "discriminator")):
            network = getattr(game, other)
            before = snapshot(game)
            gradients = {name: p.grad if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
            taking_part = _taking_part(game)
            game.step.d_step() if phase == "d" else game.step.g_step()
            after = snapshot(game)
            parameters = {f"{other}/{name}" for name, _ in network.named_parameters()}
            moved = [
                name
                for name in differences(before, after)
                if name in parameters or name.startswith(f"{other}_optimizer/")
            ]
            assert not moved, f"the {phase} step moved {moved}"
            assert _taking_part(game) == taking_part, f"the {phase} step left weights frozen, or thawed some"
            for player in game.players.values():
                left = [name for name, module in player.network.named_modules() if not module.training]
                assert not left, f"the {phase} step left {left[0] or 'a network'} in eval mode"
            for name, parameter in network.named_parameters():
                assert _same_gradient(gradients[name], parameter.grad), f"the {phase} step touched {other}'s gradients"
        game._at(game.finished + 1)


@_law("resume", "declare every mutable tensor in tensors(), allocated in on_setup; keep no other state")
def _resume(case: Case) -> None:
    host = case.with_it
    whole = host.game()
    saved = []
    for _ in range(host.steps):
        whole.advance()
        saved.append((snapshot(whole), whole.counters(), _samples(whole)))
    logged = whole.scalars()[0]
    for state, counters, samples in saved[:-1]:
        resumed = host.game()
        resumed.load(state, counters)
        assert same_bits(_samples(resumed), samples), f"loaded at step {counters['step']}, it samples differently"
        while resumed.finished < host.steps:
            resumed.advance()
        changed = differences(snapshot(resumed), saved[-1][0])
        assert not changed, f"resumed at step {counters['step']}, these differ: {changed[:5]}"
        assert resumed.scalars()[0] == logged, f"resumed at step {counters['step']}, the logged values differ"


@_law("in-place", "update state in place (copy_, add_, lerp_ …): a rebound tensor is lost to checkpoints and capture")
def _in_place(case: Case) -> None:
    game = case.with_it.game()
    trick = game.plan.tricks[-1].trick
    declared = {name: (tensor, tensor.data_ptr()) for name, tensor in trick.tensors().items()}
    for _ in range(3):
        game.advance()
    now = trick.tensors()
    assert now.keys() == declared.keys(), "tensors() names other tensors than at the start"
    for name, (tensor, pointer) in declared.items():
        assert now[name] is tensor, f"{name} was rebound"
        assert tensor.data_ptr() == pointer, f"{name}'s memory was replaced"
        assert tensor.dim() or tensor.dtype == torch.float32 or not tensor.is_floating_point(), (
            f"{name} is a scalar and not float32"
        )


@_law("seed", "draw from ctx.rng only, and keep nothing on the class or the module, nor iterate over a set")
def _seed(case: Case) -> None:
    first, second = case.with_it.train(), case.with_it.train()
    changed = differences(first.state, second.state)
    assert not changed, f"two runs with one seed differ in {changed[:3]}"
    assert first.scalars == second.scalars, "the logged values differ"


@_law("no-sync", "inside the step no .item(), .cpu(), bool(tensor), .tolist(), and no shape that depends on values")
def _no_sync(case: Case) -> None:
    game = case.with_it.game()
    for _ in range(3):
        _boundary(game)
        with _NoSync():
            game.step()
        game._at(game.finished + 1)
    if not case.trick.capturable:
        raise NotApplicable("it declares capturable = False")
    _boundary(game)
    # the fake step leaves fake gradients behind, and the game is not used again
    with FakeTensorMode(allow_non_fake_inputs=True):
        game.step()


@_law("same-step", "no Python branch or number may change from step to step: it would freeze when the step is captured")
def _same_step(case: Case) -> None:
    if not case.trick.capturable:
        raise NotApplicable("it declares capturable = False")
    game = case.with_it.game()
    game.advance()
    firsts: dict[tuple[int, ...], tuple[int, list[Any]]] = {}
    for number in range(2, 6):
        _boundary(game)
        batches = [game.feed.draw() for _ in range(2 * game.step.n_critic)]  # the host's part of a step
        with mock.patch.object(game.feed, "draw", iter(batches).__next__), _OpTrace() as trace:
            game.step()
        game._at(game.finished + 1)
        # a step of another structure is captured anew
        first, ops = firsts.setdefault(game.structure, (number, trace.ops))
        for then, now in zip(ops, trace.ops, strict=False):
            assert then == now, f"step {first} runs {then}, step {number} runs {now}"
        assert len(trace.ops) == len(ops), f"step {first} runs {len(ops)} operations, step {number} {len(trace.ops)}"


@_law("captured", "decide nothing on the host inside the step, and rebind no tensor that the step reads")
def _captured(case: Case) -> None:
    if not case.trick.capturable:
        raise NotApplicable("it declares capturable = False")
    host = case.with_it
    eager, captured = host.game(), host.game()
    captured.backend = INTERPRETER
    for step in range(1, host.steps + 1):
        eager.advance()
        captured.advance()
        assert captured.backend, captured.frame.warnings[-1].removeprefix("the step is played eagerly: ")
        changed = differences(snapshot(eager), snapshot(captured))
        assert not changed, f"replayed, step {step} is another one: {changed[:3]} differ"
    assert eager.scalars() == captured.scalars(), "replayed, the logged values are others"


@_law("memory", "keep no tensor of a step beyond the next one: what accumulates fills the memory in a long run")
def _memory(case: Case) -> None:
    game = case.with_it.game()
    for _ in range(2):
        game.advance()
    batches = [game.feed.draw() for _ in range(2 * game.step.n_critic)]  # the host's part of a step
    with mock.patch.object(game.feed, "draw", iter(batches).__next__), _Made() as made:
        game.advance()
    del batches
    for _ in range(2):
        game.advance()
    gc.collect()
    kept = [tensor for tensor in (reference() for reference in made.tensors) if tensor is not None]
    assert not kept, f"{len(kept)} tensors made in step 3 are still there two steps later: {_shown(kept[0])}"


@_law("evaluation", "look at module.training in a layer, and move no state while sampling")
def _evaluation(case: Case) -> None:
    game, undisturbed = case.with_it.game(), case.with_it.game()
    for _ in range(3):
        game.advance()
        undisturbed.advance()
        first = _samples(game)
        assert same_bits(first, _samples(game)), "two samplings with one seed differ"
        game.discriminator.eval()
        with torch.no_grad():
            count = 2 * game.discriminator.group
            images = torch.zeros((count, *game.discriminator.shape), dtype=torch.float64)
            classes = torch.zeros(count, dtype=torch.int64) if game.discriminator.conditional else None
            assert same_bits(game.discriminator(images, classes).logits, game.discriminator(images, classes).logits), (
                "D in eval mode is not deterministic"
            )
        game.discriminator.train()
    assert not differences(snapshot(game), snapshot(undisturbed)), "sampling changed the run"
    if not {"sampling_generator", "transform_generator", "latents"} & set(hooks_of(case.trick)):
        plain = case.without.game()
        state = snapshot(game) | {"tricks": snapshot(plain)["tricks"]}
        plain.load({**snapshot(plain), "generator": state["generator"]}, plain.counters())
        assert same_bits(_samples(plain), first), "samples are not those of the plain generator"


@_law("gradients", "detach what the other player made, cut no path to the one that learns, avoid 0/0 and log 0")
def _gradients(case: Case) -> None:
    game = case.with_it.but(reuse_fakes=False).game()
    for _ in range(2):
        _boundary(game)
        for phase in ("d", "g"):
            for player in game.players.values():
                for parameter in player.parameters:
                    parameter.grad = None
            game.step.d_step() if phase == "d" else game.step.g_step()
            for player in game.players.values():
                gradients = [parameter.grad for parameter in player.parameters]
                if player.name == phase:
                    missing = [g for g in gradients if g is None or not torch.isfinite(g).all()]
                    assert not missing, f"some of {phase}'s weights have no finite gradient"
                    assert any(bool(g.any()) for g in gradients if g is not None), f"{phase} has only zero gradients"
                else:
                    assert all(g is None for g in gradients), f"the {phase} step gave {player.name} gradients"
        game._at(game.finished + 1)


@_law("corners", "batch of 1, one channel, float32 and bf16: make them work, or refuse them in problems()")
def _corners(case: Case) -> None:
    host = case.with_it
    corners: list[dict[str, Any]] = [{"precision": "fp32"}, {"precision": "bf16"}, {"batch_size": 1}]
    if len(host.sample) == 3:
        corners += [{"sample": (1, 8, 8)}, {"sample": (3, 8, 8)}]
    for corner in corners:
        if "batch_size" in corner and _has_batch_norm(host):
            continue  # plain batch norm has no statistics over one vector, with or without the trick
        try:
            host.but(**corner).game()
        except UserError:
            continue
        played = host.but(**corner).train(2)
        assert played.game.fault() is None, f"not finite at {corner}"


@_law("cost", "declare in `forwards` how many more forward passes of each network a step takes")
def _cost(case: Case) -> None:
    with_it, d_steps = _forwards(case.with_it.but(n_critic=1))
    without, _ = _forwards(case.without.but(n_critic=d_steps))  # a trick may set how many D steps there are
    extra = {name: with_it[name] - without[name] for name in ("d", "g")}
    declared = {"d": 0, "g": 0, **case.trick.forwards}
    told = f"it takes {extra} more forward passes and declares {declared}"
    if mixes_samples(case.without.game().discriminator):  # joint passes hold the real batch already in the G step
        assert all(extra[name] <= declared[name] for name in extra), told
    else:
        assert extra == declared, told


@_law("fault", "scale updates by ctx.healthy, or leave fault_safe = False: after a fault nothing moves")
def _fault(case: Case) -> None:
    for player in ("d", "g"):
        host = case.with_it.with_trick(_Poison, "poison", at=3, player=player)
        game, healthy = host.game(), case.with_it.game()
        for _ in range(2):
            game.advance()
            healthy.advance()
        _boundary(healthy)  # what moves there, moves before the fault
        if player == "g":
            for critic in range(healthy.step.n_critic):  # the D steps before the fault are healthy ones
                healthy.step.d_step(critic, host.reuse_fakes and critic == healthy.step.n_critic - 1)
        before = snapshot(healthy)
        for _ in range(3):
            game.advance()
        after = snapshot(game)
        after = {
            group: {
                name: tensor for name, tensor in tensors.items() if not name.startswith(("poison/", "tricks/poison/"))
            }
            for group, tensors in after.items()
        }
        moved = differences(before, after)
        if player == "g":  # batch norm in G moved with the forward that both phases shared
            moved = [name for name in moved if "running_" not in name and "num_batches" not in name]
        assert not moved, f"after a fault in {player} these moved: {moved[:5]}"
        fault = game.fault()
        assert fault is not None
        assert (fault.player, fault.step) == (player, 3)


# ---------------------------------------------------------------- what the checks are made of


_WATCHING = {"on_setup", "on_run_start", "on_boundary", "log_scalars", "on_log", "on_finish", "on_run_end"}
"""Hooks with which a trick looks on: it need not change a number."""


class _Drawer(Trick):
    """Draws a lot, everywhere, and changes nothing."""

    @hookimpl
    def before_d_step(self, ctx: Any) -> None:
        ctx.rng.normal((3, 5))

    @hookimpl
    def d_input(self, batch: Batch, ctx: Any) -> Batch:
        ctx.rng.uniform(batch.images.shape)
        return batch

    @hookimpl
    def g_labels(self, labels: Tensor, ctx: Any) -> Tensor:
        ctx.rng.permutation(7)
        return labels


class _Poison(Trick):
    """A loss term that is not finite from one step on."""

    class Config(Trick.Config):
        at: int = 3
        player: str = "d"

    @hookimpl
    def on_setup(self, ctx: Any) -> None:
        self.count = torch.zeros((), device=ctx.device)

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def _term(self, ctx: Any) -> dict[str, Tensor]:
        zero = torch.zeros((), device=ctx.device, dtype=ctx.dtype)
        return {"poison": torch.where(self.count + 1 >= self.config.at, zero / 0, zero)}

    @hookimpl
    def after_g_step(self) -> None:
        self.count.add_(1)

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        return self._term(ctx) if self.config.player == "d" else {}

    @hookimpl
    def g_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        return self._term(ctx) if self.config.player == "g" else {}


class _NoSync(TorchFunctionMode):
    """Refuses every call that makes the host wait for a value."""

    FORBIDDEN = frozenset(
        getattr(torch.Tensor, name)
        for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.FORBIDDEN, f"the step calls Tensor.{func.__name__}"
        return func(*args, **(kwargs or {}))


class _Made(TorchDispatchMode):
    """Weak references to every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs))}
        new = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor) and id(leaf) not in given]
        self.tensors += [weakref.ref(tensor) for tensor in new]
        return out


class _OpTrace(TorchDispatchMode):
    """Records each operation with the shapes of its tensors and the values of its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "prim" not in str(func):
            # a tensor made of a host's number: frozen like the number itself
            made = args[0].tolist() if "lift_fresh" in str(func) else None
            self.ops.append((str(func), _shown(args), _shown(sorted((kwargs or {}).items())), made))
        return func(*args, **(kwargs or {}))


def _shown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, list | tuple):
        return tuple(_shown(item) for item in value)
    if isinstance(value, int | float | bool | str | type(None)):
        return value
    return type(value).__name__


def _forwards(host: TrickHost) -> tuple[dict[str, int], int]:
    """How many forward passes of each network the second step takes, and how many D steps it has."""
    game = host.game()
    game.advance()
    counts = {"d": 0, "g": 0}
    for player in game.players.values():
        player.network.register_forward_hook(lambda *_, name=player.name: counts.update({name: counts[name] + 1}))
    game.advance()
    return counts, game.step.n_critic


def _boundary(game: Game) -> None:
    """What `Game.advance` does before a step."""
    game.clock.enter("boundary")
    notify(game.hooks.on_boundary)


def _samples(game: Game) -> Tensor:
    return torch.from_numpy(game.sample(6, seed=3))


def _taking_part(game: Game) -> list[bool]:
    return [p.requires_grad for player in game.players.values() for p in player.network.parameters()]


def _same_gradient(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return same_bits(a, b)


def _has_batch_norm(host: TrickHost) -> bool:
    game = host.game()
    return any(
        isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for player in game.players.values()
        for module in player.network.modules()
    )
