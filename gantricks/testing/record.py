"""Records a run: every hook call and every phase. Compares states bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gantricks.engine import state
from gantricks.engine.dispatch import Hooks
from gantricks.engine.frame import MADE
from gantricks.engine.game import Game, Tensors
from gantricks.engine.guard import NORM_OF
from gantricks.records import Batch, Out
from gantricks.trick import Trick


@dataclass(frozen=True)
class Call:
    """One call of a hook.

    `trick` is the caller's name; `arguments` are those without `ctx`, copied before the call; `result` is what it
    returned. `modified` tells whether the call changed one of its tensor arguments in place. `step` and `critic` count
    steps, and D steps within one, from 0; `phase` is that of `ctx`. `before` and `after` hold what the hook may change
    in place, by name: the modules of the network in `transform_generator` and `transform_discriminator`, copies of the
    player's gradients in `after_d_backward` and `after_g_backward`, nothing in other hooks. `touched` names the
    batches, scores and labels of `ctx` that the call changed in place, such as "fake".
    """

    trick: str
    arguments: tuple[Any, ...]
    result: Any
    modified: bool
    step: int
    phase: str
    critic: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    touched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phase:
    """The record of one D step ("d") or G step ("g"), copied at its end.

    Batches, scores, labels and latents are those of `ctx`, or None: in a G step `fake_labels` are G's targets, and
    `real_out` exists where a trick read it or D mixes samples. `terms` are the player's loss terms by name,
    "<trick>.<term>" for those of tricks. `gradients` are those that its optimizer received. `before` and `after` are
    its weights and buffers at the start and end of the phase; `origin` are those that the update was applied to, which
    are others than `before` where a `play` says so. `trial` tells whether the update was one to be taken back, of which
    no trick is told. `updated` tells whether it was updated. `passes` are D's forward passes: the images and D's
    output.
    """

    player: str
    step: int
    critic: int
    real: Batch
    fake: Batch
    real_in: Batch | None
    fake_in: Batch
    real_out: Out | None
    fake_out: Out
    real_labels: Tensor | None
    fake_labels: Tensor
    fake_latents: Tensor
    terms: dict[str, float]
    gradients: Tensors
    before: Tensors
    after: Tensors
    origin: Tensors
    trial: bool
    updated: bool
    passes: tuple[tuple[Tensor, Out], ...]


@dataclass
class Played:
    """A tiny run after some steps.

    It holds the `game` itself, every hook's `calls` and the `phases` of its steps in order, the log scalars of each
    step, and the state at the `start`.
    """

    game: Game
    calls: dict[str, list[Call]]
    start: dict[str, Tensors]
    phases: list[Phase] = field(default_factory=list)
    scalars: list[dict[str, float]] = field(default_factory=list)

    @property
    def state(self) -> dict[str, Tensors]:
        """Return a copy of all tensors that a checkpoint would hold."""
        return snapshot(self.game)

    def trick(self, name: str) -> Trick:
        """Return the trick that the run calls `name`."""
        return next(planned.trick for planned in self.game.plan.tricks if planned.name == name)

    def of(self, trick: str, hook: str) -> list[Call]:
        """Return this trick's calls of one hook, in order. Raises AssertionError where there are none, since a law on
        no call would always hold.
        """
        calls = [call for call in self.calls.get(hook, ()) if call.trick == trick]
        assert calls, f"{trick} was never called on {hook}"
        return calls

    def steps_of(self, player: str) -> list[Phase]:
        """Return the D steps ("d") or the G steps ("g"), in order."""
        return [phase for phase in self.phases if phase.player == player]


def snapshot(game: Game) -> dict[str, Tensors]:
    """Return a copy of all tensors that a checkpoint would hold."""
    return {
        group: {name: tensor.detach().clone() for name, tensor in tensors.items()}
        for group, tensors in state.tensors(game).items()
    }


def differences(a: dict[str, Tensors], b: dict[str, Tensors], besides: tuple[str, ...] = ()) -> list[str]:
    """Return the names of tensors that are not bit-identical in two snapshots, without the groups in `besides`."""
    found = []
    for group in sorted((a.keys() | b.keys()) - set(besides)):
        of_a, of_b = a.get(group, {}), b.get(group, {})
        for name in sorted(of_a.keys() | of_b.keys()):
            same = name in of_a and name in of_b and same_bits(of_a[name], of_b[name])
            if not same:
                found.append(f"{group}/{name}")
    return found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether shape, type and every bit are equal; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def recorded(hooks: Hooks, calls: dict[str, list[Call]]) -> Hooks:
    """Return hooks that record every call in `calls`."""

    def noting(hook: str, trick: str, function: Callable[..., Any]) -> Callable[..., Any]:
        changed = _CHANGED_IN_PLACE.get(hook, lambda *_: {})

        def noted(*arguments: Any) -> Any:
            shown, ctx = arguments[:-1], arguments[-1]
            clock = ctx._game.clock
            where = clock.step, clock.phase, clock.critic
            given, before = copied(shown), changed(ctx, *shown)
            seen = {name: (value, copied(value)) for name in MADE if (value := getattr(ctx._frame, name)) is not None}
            result = function(*arguments)
            modified = not _equal(given, shown)
            touched = tuple(name for name, (value, copy) in seen.items() if not _equal(copy, value))
            after = changed(ctx, result)
            calls[hook].append(Call(trick, given, copied(result), modified, *where, before, after, touched))
            return result

        noted.__name__ = function.__name__
        return noted

    return Hooks(
        **{
            hook: tuple((noting(hook, ctx.name, function), ctx) for function, ctx in implementations)
            for hook, implementations in vars(hooks).items()
        }
    )


def _modules(ctx: Any, network: nn.Module | None) -> dict[str, nn.Module]:
    return (
        {} if network is None else dict(network.named_modules())
    )  # a hook that returned nothing is reported by the fold


def _gradients(network: nn.Module) -> Tensors:
    return {name: p.grad.detach().clone() for name, p in network.named_parameters() if p.grad is not None}


_CHANGED_IN_PLACE: dict[str, Callable[..., dict[str, Any]]] = {
    "transform_generator": _modules,
    "transform_discriminator": _modules,
    "after_d_backward": lambda ctx, *_: _gradients(ctx.discriminator),
    "after_g_backward": lambda ctx, *_: _gradients(ctx.generator),
}


def record_phases(played: Played) -> None:
    """Append each phase that the game plays from now on to `played.phases`."""
    game = played.game
    frame = game.frame
    passes: list[tuple[Tensor, Out]] = []

    def note(network: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], out: Out) -> None:
        passes.append(copied((inputs[0] if inputs else named["images"], out)))

    game.discriminator.register_forward_hook(note, with_kwargs=True)

    def record(name: str) -> None:
        play, network = getattr(game.step, f"{name}_step"), game.players[name].network

        def weights() -> Tensors:
            found: Tensors = copied(network.state_dict())
            return found

        def recorded(*arguments: Any, **named: Any) -> None:
            passes.clear()
            before = weights()
            start = (named.get("start") or {}).get(name)
            moved = zip(dict(network.named_parameters()), start, strict=True) if start else ()
            origin = before | {weight: value.clone() for weight, value in moved}
            play(*arguments, **named)
            made = {key: copied(getattr(frame, key)) for key in MADE}
            played.phases.append(
                Phase(
                    player=name,
                    step=game.clock.step,
                    critic=game.clock.critic,
                    **made,
                    terms=_terms(game, name),
                    gradients=_gradients(network),
                    before=before,
                    after=weights(),
                    origin=origin,
                    trial=named.get("trial", False),
                    updated=bool(frame.updated),
                    passes=tuple(passes),
                )
            )

        setattr(game.step, play.__name__, recorded)

    record("d")
    record("g")


def watch_phases(
    game: Game, before: Callable[[str], Any] = lambda player: None, after: Callable[[str, Any], None] = lambda *_: None
) -> None:
    """From now on, call `before("d")` or `before("g")` before each phase that the game plays, and `after` with the
    player and the result of `before`.
    """

    def watch(player: str) -> None:
        play = getattr(game.step, f"{player}_step")

        def watched(*arguments: Any, **named: Any) -> None:
            seen = before(player)
            play(*arguments, **named)
            after(player, seen)

        setattr(game.step, f"{player}_step", watched)

    watch("d")
    watch("g")


def copied(value: Any) -> Any:
    """Return a value with detached copies of its tensors. Modules and all other objects stay the same."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, tuple):
        parts = [copied(item) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return same_bits(a, b)
    if isinstance(a, tuple):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return True


def _terms(game: Game, player: str) -> dict[str, float]:
    values = game.guard.report()[0][player]
    return {name: value for name, value in values.items() if name != "step" and not name.startswith(NORM_OF)}
