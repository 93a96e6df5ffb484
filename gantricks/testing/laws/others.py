"""Laws about evaluation, and about the same trick in other runs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gantricks.engine import sampling, state
from gantricks.engine.game import Game, Tensors
from gantricks.engine.sampling import eval_mode
from gantricks.errors import UserError
from gantricks.networks.base import mixes_samples
from gantricks.planning.contract import hooks_of
from gantricks.testing.case import Case, NotApplicable, law, samples_of
from gantricks.testing.host import TrickHost
from gantricks.testing.instruments import (
    Accompanied,
    Poison,
    Resized,
    global_generators_at_rest,
    modes_kept,
    never_asked_in_training_mode,
)
from gantricks.testing.laws.values import folds_hold
from gantricks.testing.record import differences, same_bits, snapshot, watch_phases
from gantricks.trick import Trick


@law(
    "evaluation",
    "move no state and no mode while logging, sampling or evaluating; in a layer, look at module.training",
    presumes=("plays", "seed"),
)
def _evaluation(case: Case) -> None:
    game, undisturbed = case.with_it.game(), case.with_it.game()
    # a trick may remember log lines, as long as the run is the same as without it
    own = tuple(name for name in game.trick_tensors if name.partition("/")[0] == case.name)
    with game.training(), undisturbed.training():
        for _ in range(3):
            game.advance()
            undisturbed.advance()
            with global_generators_at_rest(" while logging"), modes_kept(game, "logging"):
                game.scalars()
            with _looking(game, "sampling"):
                first = samples_of(game)
                assert same_bits(first, samples_of(game)), "two samplings with one seed differ"
            with _looking(game, "evaluating"):
                network = sampling.evaluated_discriminator(game)
                for asked in (network, game.discriminator):
                    assert same_bits(*(_judged(game, asked) for _ in range(2))), "D in eval mode is not deterministic"
    changed = [name for name in differences(snapshot(game), snapshot(undisturbed)) if name.partition("/")[2] not in own]
    assert not changed, f"logging, sampling and evaluating changed the run: {changed[:3]}"
    seen = {"sampling_generator", "sampling_latents", "sampler", "transform_generator", "latents"}
    if not seen & set(hooks_of(case.trick)):
        plain = case.without.game()
        trained = {**snapshot(plain), "generator": snapshot(game)["generator"]}
        state.load(plain, trained, state.counters(plain))
        assert same_bits(samples_of(plain), first), "samples are not those of the plain generator"


@contextlib.contextmanager
def _looking(game: Game, by: str) -> Iterator[None]:
    before = snapshot(game)
    with (
        global_generators_at_rest(f" while {by}"),
        modes_kept(game, by),
        never_asked_in_training_mode(game, by),
    ):
        yield
    changed = differences(before, snapshot(game))
    assert not changed, f"{by} changed the run: {changed[:3]}"


def _judged(game: Game, network: Any) -> Tensor:
    count = 2 * network.group
    device = game.placement.device
    images = torch.zeros((count, *network.shape), dtype=game.placement.dtype, device=device)
    classes = torch.zeros(count, dtype=torch.int64, device=device) if network.conditional else None
    with sampling.aside(game, 0), eval_mode(network):
        condition = torch.zeros((count, network.condition), dtype=images.dtype, device=device)
        logits: Tensor = network(images, classes, condition if network.conditioned else None).logits
    return logits


@law(
    "critics",
    "work for every D step of a step: their number is the recipe's, and tricks may change it",
    presumes=("plays", "fold", "resume"),
)
def _critics(case: Case) -> None:
    if "play" in hooks_of(case.trick):
        raise NotApplicable("it decides itself how many D steps there are")
    _goes_on(case.with_it.but(n_critic=3), "3 D steps in each step")


@law(
    "batch-size",
    "take sizes from the tensors at hand, for the batch size may change; or refuse it in problems()",
    presumes=("plays", "fold", "resume"),
)
def _batch_size(case: Case) -> None:
    host = case.with_it
    size, refusal = host.batch_size, None
    for sizes in ((size // 2, 2 * size), (size // 2,), (2 * size,), (size - 2,)):
        resized = host.with_trick(Resized, "resized", to=sizes)
        try:
            resized.plan()
        except UserError as reason:
            refusal = reason
            continue
        _goes_on(resized, f"batches of {size}, then of {' and of '.join(map(str, sizes))}")
        if case.trick.batch_sizes is Trick.batch_sizes:  # otherwise it sets batch sizes itself
            _whichever_way(
                host.but(batch_size=sizes[0]), host.with_trick(Resized, "resized", to=sizes[:1], at=1), sizes[0]
            )
        return
    raise NotApplicable(f"it refuses another batch size: {refusal}")


def _whichever_way(recipes: TrickHost, tricks: TrickHost, size: int) -> None:
    """Check that a batch size set by a trick before the first step gives the same run as one in the recipe."""
    try:
        games = recipes.game(), tricks.game()
    except UserError:
        return
    for game in games:
        with game.training():
            for _ in range(2):
                game.advance()
    changed = differences(snapshot(games[0]), snapshot(games[1]))
    assert not changed, f"batches of {size} are others when the recipe says so than when a trick does: {changed[:3]}"


def _goes_on(host: TrickHost, told: str) -> None:
    """Check four steps: they are played, folds keep their law, and a run resumed after each step ends the same."""
    try:
        game = host.game()
    except UserError as refusal:
        raise NotApplicable(f"it is refused with {told}: {refusal}") from refusal
    saved = []
    try:
        with game.training():
            for _ in range(4):
                game.advance()
                saved.append((snapshot(game), state.counters(game)))
        for tensors, counters in saved[:3:2]:
            resumed = host.game()
            state.load(resumed, tensors, counters)
            with resumed.training():
                while resumed.finished < len(saved) and resumed.advance():
                    pass
            changed = differences(snapshot(resumed), saved[-1][0])
            assert not changed, f"with {told}, resumed at step {counters['step']}, these differ: {changed[:3]}"
        folds_hold(host.train(3))
    except AssertionError:
        raise
    except Exception as broken:
        raise AssertionError(f"with {told}: {type(broken).__name__}: {broken}") from broken
    assert game.non_finite() is None, f"not finite with {told}"


@law(
    "companions",
    "go by ctx.learners and ctx.learns_in: tricks can add players beside D and G, and `player` may be one of them",
    presumes=("plays", "fold", "resume"),
)
def _companions(case: Case) -> None:
    host = case.without.with_trick(Accompanied, "accompanied").with_trick(case.trick, case.name, **case.options)
    _goes_on(host, "a companion of each player")


@law("corners", "batch of 1, one channel, float32, bf16, conditions: make them work, or refuse them in problems()")
def _corners(case: Case) -> None:
    host = case.with_it
    corners: list[dict[str, Any]] = [{"precision": "fp32"}, {"precision": "bf16"}, {"batch_size": 1}]
    if len(host.sample) == 3:
        corners += [{"sample": (1, 8, 8)}, {"sample": (3, 8, 8)}]
    given = {"classes": 0, "condition": 2} | {
        role: {key: value for key, value in getattr(host, role).items() if key != "conditional"} | {"conditioned": True}
        for role in ("generator", "discriminator")
    }
    for corner in [*corners, given]:
        if "batch_size" in corner and _has_batch_norm(host):
            continue  # batch norm has no statistics over one vector, with or without the trick
        try:
            host.but(**corner).game()
        except UserError:
            continue
        played = host.but(**corner).train(2)
        assert played.game.non_finite() is None, f"not finite at {corner}"


@law("cost", "declare in `forwards` how many more forward passes of each network a step takes")
def _cost(case: Case) -> None:
    phases, passes = _passes(case.with_it.but(n_critic=1))
    # a trick's `play` does not share fakes between phases
    plain = case.without.but(n_critic=1)
    _, each = _passes(plain.but(reuse_fakes=False) if "play" in hooks_of(case.trick) else plain)
    extra = {}
    for network in ("d", "g"):
        usual = sum(count * each[phase, network] for phase, count in phases.items())
        extra[network] = sum(count for (_, asked), count in passes.items() if asked == network) - usual
    declared = {"d": 0, "g": 0, **case.instance.forwards}
    told = f"it takes {extra} more forward passes and declares {declared}"
    if mixes_samples(case.without.game().discriminator):  # the joint pass of the G step includes the real batch already
        assert all(extra[name] <= declared[name] for name in extra), told
    else:
        assert extra == declared, told


def _passes(host: TrickHost) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Count the D and G steps within the second step, and the forward passes of each network in each of them."""
    game = host.game()
    phases: Counter[str] = Counter()
    passes: Counter[tuple[str, str]] = Counter()

    def note(network: str) -> None:
        if game.clock.phase in ("d", "g"):  # what is evaluated between steps is no cost of a step
            passes.update([(game.clock.phase, network)])

    with game.training():
        game.advance()
        watch_phases(game, lambda phase: phases.update([phase]))
        for player in game.players.values():
            player.network.register_forward_hook(lambda *_, name=player.name: note(name))
        game.advance()
    return phases, passes


@law(
    "fault",
    "scale updates by ctx.healthy, or leave fault_safe = False: after a fault nothing moves",
    presumes=("plays", "seed"),
)
def _fault(case: Case) -> None:
    for player in ("d", "g"):
        game = case.with_it.with_trick(Poison, "poison", at=3, player=player).game()
        healthy = case.with_it.game()
        before: list[dict[str, Tensors]] = []

        def look(phase: str, player: str = player, healthy: Game = healthy, before: list[Any] = before) -> None:
            if healthy.finished == 2 and phase == player and not before:
                before.append(snapshot(healthy))

        watch_phases(healthy, look)
        with game.training(), healthy.training():
            for _ in range(3):
                healthy.advance()
            for _ in range(5):
                game.advance()
        if not before:
            continue  # the trick's `play` has no such phase
        moved = differences(before[0], snapshot(game))
        assert not moved, f"after a fault in {player} these moved: {moved[:5]}"
        fault = game.non_finite()
        assert fault is not None
        assert (fault.player, fault.step) == (player, 3)


def _has_batch_norm(host: TrickHost) -> bool:
    game = host.game()
    return any(
        isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for player in game.players.values()
        for module in player.network.modules()
    )
