"""The instruments of the laws: tricks that disturb a run, and modes that watch operations."""

from __future__ import annotations

import functools
import math
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gantricks.engine.dispatch import notify
from gantricks.engine.game import Game
from gantricks.hooks import hookimpl
from gantricks.optimizer_options import Adam
from gantricks.records import Batch, Companion, Out
from gantricks.rng import Kind, Rng
from gantricks.testing.record import same_bits
from gantricks.trick import Setting, Trick

# ---------------------------------------------------------------- tricks that run beside the tested one


class Drawer(Trick):
    """Draws random numbers in several hooks, and changes nothing."""

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


class Poison(Trick):
    """Adds a loss term that is not finite from step `at` on, counted from 1."""

    class Config(Trick.Config):
        at: int = 3
        player: str = "d"

    def _term(self, ctx: Any) -> dict[str, Tensor]:
        value = float("nan") if ctx._game.finished >= self.config.at - 1 else 0.0
        return {"poison": torch.full((), value, device=ctx.device, dtype=ctx.dtype)}

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        return self._term(ctx) if self.config.player == "d" else {}

    @hookimpl
    def g_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        return self._term(ctx) if self.config.player == "g" else {}


class Shut(Trick):
    """Closes both players' gates from step `at` on, counted from 1."""

    class Config(Trick.Config):
        at: int = 4

    def _gate(self, open: Tensor, ctx: Any) -> Tensor:
        return open * float(ctx._game.finished < self.config.at - 1)

    @hookimpl
    def d_gate(self, open: Tensor, ctx: Any) -> Tensor:
        return self._gate(open, ctx)

    @hookimpl
    def g_gate(self, open: Tensor, ctx: Any) -> Tensor:
        return self._gate(open, ctx)


class Resized(Trick):
    """Changes the batch size at each step from step `at` on, counted from 1."""

    class Config(Trick.Config):
        to: tuple[int, ...] = (4,)
        at: int = 3

    def batch_sizes(self, setting: Setting) -> tuple[int, ...]:
        return *(() if self.config.at == 1 else (setting.batch_size,)), *self.config.to

    @hookimpl
    def on_boundary(self, ctx: Any) -> None:
        since = ctx.step - (self.config.at - 1)
        if 0 <= since < len(self.config.to):
            ctx.set_batch_size(self.config.to[since])


class SecondPass(Trick):
    """Passes samples through each network a second time in every step, before the backward."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        return {"again": 1e-3 * ctx.discriminate(ctx.real, True).logits.mean()}

    @hookimpl
    def g_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        given = ctx.latents(ctx.fake.size)
        # conditions of the fakes themselves: a trick may have given them its own
        again = ctx.fake._replace(images=ctx.generator(*given), classes=given.classes)
        return {"again": 1e-3 * ctx.discriminate(again, False).logits.mean()}


class Accompanied(Trick):
    """A companion of each player: one scores reals in D's step, the other finds the latents of fakes in G's."""

    @hookimpl
    def companions(self, ctx: Any) -> dict[str, Companion]:
        inputs, outputs = math.prod(ctx.discriminator.shape), {"judge": 1, "encoder": ctx.latent_dim}

        def layers(width: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width))

        self.networks = {
            name: ctx.build(name, functools.partial(layers, width), ctx.discriminator)
            for name, width in outputs.items()
        }
        return {
            name: Companion(network, Adam(lr=1e-2), "d" if name == "judge" else "g")
            for name, network in self.networks.items()
        }

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        return {"judged": (self.networks["judge"](ctx.real.images) - 1).square().mean()}

    @hookimpl
    def g_loss_terms(self, ctx: Any) -> dict[str, Tensor]:
        found = self.networks["encoder"](ctx.fake.images.detach())
        return {"found": (found - ctx.fake_latents).square().mean()}


# ---------------------------------------------------------------- between steps


def boundary(game: Game) -> None:
    """Do what `Game.advance` does before a step."""
    game.clock.enter("boundary")
    notify(game.hooks.on_boundary)


@contextmanager
def batches_unseen(game: Game) -> Iterator[None]:
    """Hide the loading of real batches from modes, because it is the host's part of a step."""
    with mock.patch.object(game.feed, "draw", _unseen(game.feed.draw)):
        yield


@contextmanager
def host_unseen(game: Game, note: Callable[[Any], None] = lambda drawn: None) -> Iterator[None]:
    """Hide the loading of real batches and the drawing of random numbers from modes. `note` is called with
    every draw.
    """

    unseen = _unseen(Rng._draw)

    def drawn(rng: Rng, kind: Kind, *arguments: Any) -> Any:
        note((kind.name, rng.name, shown(arguments)))
        return unseen(rng, kind, *arguments)

    with batches_unseen(game), mock.patch.object(Rng, "_draw", drawn):
        yield


def _unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    def unseen(*arguments: Any) -> Any:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return function(*arguments)

    return unseen


# ---------------------------------------------------------------- global generators, modes


class RefusedGenerator(torch.Generator):
    """Replaces torch.Generator, and raises when one is made. It is a type, because modules of torch may use it in
    annotations.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> RefusedGenerator:
        raise AssertionError("a generator of its own was made")


@contextmanager
def global_generators_at_rest(what: str = "") -> Iterator[None]:
    """Raise AssertionError if the block draws from or seeds the global generator of torch, numpy or Python."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        # a state that no ordinary seed leads to
        torch.default_generator.manual_seed(0x9E3779B97F4A7C15)
        np.random.seed(0x9E3779B9)
        random.seed(0x9E3779B97F4A7C15)
        odd = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        yield
        used = "generator was used or seeded" + what
        assert same_bits(odd[0], torch.get_rng_state()), f"torch's global {used}"
        assert odd[1] == str(np.random.get_state()), f"numpy's global {used}"
        assert odd[2] == random.getstate(), f"Python's global {used}"
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def global_settings_kept() -> Iterator[None]:
    """Raise AssertionError if the block changes torch's or numpy's global settings."""
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    try:
        yield
        changed = [name for name, (read, _) in _SETTINGS.items() if read() != before[name]]
        assert not changed, f"it changes {' and '.join(changed)}, for everybody"
    finally:
        for name, (read, write) in _SETTINGS.items():
            if read() != before[name]:
                write(before[name])


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "whether gradients are recorded": (torch.is_grad_enabled, torch._C._set_grad_enabled),
    "the default type": (torch.get_default_dtype, torch.set_default_dtype),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether algorithms are deterministic": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "whether anomalies are looked for": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "how numpy treats errors": (np.geterr, lambda found: np.seterr(**found)),
}


@contextmanager
def modes_kept(game: Game, by: str) -> Iterator[None]:
    """Raise AssertionError if the block changes the mode of a layer, or which weights are trained."""

    def modes() -> dict[str, bool]:
        found: dict[str, bool] = {}
        for player in game.players.values():
            found |= {f"{player.name}/{name}": m.training for name, m in player.network.named_modules()}
            found |= {f"{player.name}/{name}.grad": p.requires_grad for name, p in player.network.named_parameters()}
        return found

    before = modes()
    yield
    changed = [name for name, mode in modes().items() if before.get(name) != mode]
    assert not changed, f"{by} left {_spoken(changed[0])} in another mode ({len(changed)} changed)"


def _spoken(path: str) -> str:
    player, _, name = path.partition("/")
    return f"{name or 'all'} of {player.upper()}"


@contextmanager
def never_asked_in_training_mode(game: Game, by: str) -> Iterator[None]:
    """Raise AssertionError if the block calls a network that is in training mode."""

    def check(player: str) -> Callable[..., None]:
        def asked(module: nn.Module, *_: Any) -> None:
            assert not module.training, f"{by} asked {player.upper()} while it was in training mode"

        return asked

    handles = [player.network.register_forward_pre_hook(check(player.name)) for player in game.players.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------- modes that watch operations


class NoSync(TorchFunctionMode):
    """Raises on every call that makes the host wait for a value on the device."""

    FORBIDDEN = frozenset(
        getattr(torch.Tensor, name)
        for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.FORBIDDEN, f"the step calls Tensor.{func.__name__}"
        return func(*args, **(kwargs or {}))


class Made(TorchDispatchMode):
    """Holds weak references to every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs))}
        new = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor) and id(leaf) not in given]
        self.tensors += [weakref.ref(tensor) for tensor in new]
        return out


class OpTrace(TorchDispatchMode):
    """Records each operation with the shapes of its tensors and the values of its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "prim" not in str(func):
            # a tensor made from a host number is frozen in a captured step, like the number itself
            made = args[0].tolist() if "lift_fresh" in str(func) else None
            self.ops.append((str(func), shown(args), shown(sorted((kwargs or {}).items())), made))
        return func(*args, **(kwargs or {}))


def shown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, list | tuple):
        return tuple(shown(item) for item in value)
    if isinstance(value, int | float | bool | str | type(None)):
        return value
    return type(value).__name__


# ---------------------------------------------------------------- D's scores shifted to the undecided point


class Pointed:
    """Makes every loss of a game be computed near the point where D is undecided, through the real graph.

    `slopes` sums the derivative with respect to the mean logit: "real" and "fake" in D's loss, "g" in G's.
    """

    def __init__(self, game: Game) -> None:
        self.slopes: dict[str, float] = {}
        self._game = game
        step = game.step
        score, attached, again = step.score, step.score_attached, step.score_reals
        self._shifts: dict[str, Tensor] = {}

        def scored(real: Batch, fake: Batch) -> tuple[Out, Out]:
            real_out, fake_out = score(real, fake)
            if game.clock.phase == "g":  # a trick's own scores on the way to those of `g_scores`
                return real_out, fake_out
            return self._point("real", real_out), self._point("fake", fake_out)

        def scored_attached(fake: Batch) -> Out:
            out = self._point("g", attached(fake))
            if game.frame.real_out is not None:
                game.frame.real_out = self._point("", game.frame.real_out)
            return out

        for name, replaced in (
            ("score", scored),
            ("score_attached", scored_attached),
            ("score_reals", lambda: self._point("", again())),
        ):
            setattr(step, name, replaced)

    def _point(self, side: str, out: Out) -> Out:
        logits = out.logits
        spread = torch.linspace(-0.1, 0.1, logits.shape[0], dtype=logits.dtype, device=logits.device).unsqueeze(1)
        if logits.shape[0] == 1:
            spread = torch.zeros_like(spread)
        # one number shifts all logits of the side, so that its gradient comes from the loss alone
        shift = torch.zeros((), dtype=logits.dtype, device=logits.device, requires_grad=bool(side))
        if side:
            self._shifts[side] = shift
        return out._replace(logits=logits - logits.detach() + (self._game.step.loss.undecided or 0.0) + spread + shift)

    def note(self) -> None:
        """Add the slopes of a phase, after its backward."""
        for side, shift in self._shifts.items():
            if shift.grad is not None:
                self.slopes[side] = self.slopes.get(side, 0.0) + float(shift.grad)
        self._shifts.clear()
