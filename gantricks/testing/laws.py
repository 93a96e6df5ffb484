"""The laws that every trick obeys, each a check with a stable id and a one-line hint."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gantricks.engine.capture import INDUCTOR, INTERPRETER
from gantricks.engine.game import Game, Tensors, at_rest
from gantricks.engine.guard import Fault
from gantricks.errors import UserError
from gantricks.hooks import KINDS
from gantricks.networks.base import mixes_samples
from gantricks.planning.contract import contract_problems, hooks_of
from gantricks.planning.plan import fold
from gantricks.records import Batch
from gantricks.rng import Clock, Rng
from gantricks.testing.case import LAWS, Case, Law, NotApplicable, law, samples_of
from gantricks.testing.elsewhere import CannotGoThere, digests, play_elsewhere
from gantricks.testing.host import (
    Call,
    Played,
    TrickHost,
    copied,
    differences,
    recorder,
    same_bits,
    snapshot,
    watch_phases,
)
from gantricks.testing.instruments import (
    Drawer,
    HostNumber,
    Made,
    NoSync,
    OpTrace,
    Pointed,
    Poison,
    RefusedGenerator,
    Resized,
    SecondPass,
    Shut,
    batches_unseen,
    boundary,
    global_generators_at_rest,
    global_settings_kept,
    held_by,
    host_numbers,
    host_unseen,
    modes_kept,
    never_asked_in_training_mode,
    shown,
)
from gantricks.trick import Trick

__all__ = ["LAWS", "Case", "Law", "NotApplicable", "compiled_holds", "folds_hold"]

ROLES = {"d": "discriminator", "g": "generator"}
OTHER = {"d": "generator", "g": "discriminator"}


# ---------------------------------------------------------------- first of all


@law("plays", "mend what it raises here; the other laws are asked once it plays", presumes=())
def _plays(case: Case) -> None:
    if list(contract_problems(case.trick)):
        raise NotApplicable("its hooks break the contract, which is a law of its own")
    whole = case.whole
    fault = whole.played.game.fault()
    assert fault is None, f"in step {fault.step}, {_told(fault)} is not finite"
    for name, tensors in whole.state.items():
        for key, tensor in tensors.items():
            assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), f"{name}/{key} is not finite"
    assert torch.isfinite(whole.samples).all(), "its samples are not finite"


def _told(fault: Fault) -> str:
    return " and ".join(map(fault.told, fault.names))


@law("contract", "name and sign hooks as in gantricks.hooks, and write a card; give options a default", presumes=())
def _contract(case: Case) -> None:
    problems = list(contract_problems(case.trick))
    assert not problems, "; ".join(problems)
    assert hooks_of(case.trick), "it implements no hook"
    assert case.trick.__doc__, "it has no card: write a class docstring"
    for name, option in case.trick.Config.model_fields.items():
        assert option.description, f"the option {name!r} has no description"
        assert not option.is_required(), f"the option {name!r} has no default"
    conventions = [name for name, known in LAWS.items() if known.convention]
    for name, reason in case.instance.deliberate.items():
        assert name in conventions, f"deliberate names {name!r}, and not one of {', '.join(conventions)}"
        assert reason, f"deliberate gives no reason for {name!r}"


@law("neutral", "at its neutral setting the trick must compute nothing that changes a value, or declare neutral = None")
def _neutral(case: Case) -> None:
    if case.trick.neutral is None:
        raise NotApplicable("it declares no neutral setting")
    neutral = case.without.with_trick(case.trick, case.name, **case.trick.neutral).train()
    changed = differences(neutral.state, case.plain.state, besides=("tricks",))
    assert not changed, f"at {dict(case.trick.neutral)} these differ from a run without it: {changed[:3]}"
    assert same_bits(samples_of(neutral.game), case.plain.samples), "samples differ"


@law("active", "the settings under test must change something, or the other laws are checked on nothing")
def _active(case: Case) -> None:
    changed = differences(case.whole.state, case.plain.state, besides=("tricks",))
    watches = set(hooks_of(case.trick)) <= _WATCHING
    exact = set(hooks_of(case.trick)) <= {"d_scores", "play"}
    seen = changed or watches or exact or not same_bits(case.whole.samples, case.plain.samples)
    assert seen, f"a run of {case.with_it.steps} steps with it is the run without it, bit for bit"


_WATCHING = {"on_setup", "on_run_start", "on_boundary", "log_scalars", "on_log", "on_finish", "on_run_end"}
"""Hooks with which a trick looks on: it need not change a number."""


@law("stream", "draw from ctx.rng only: never from torch's, numpy's or Python's global generators")
def _stream(case: Case) -> None:
    with global_settings_kept(), global_generators_at_rest(), mock.patch.object(torch, "Generator", RefusedGenerator):
        beside = case.with_it.with_trick(Drawer, "drawer").train()
    whole = case.whole  # without the refused generator: that of its own has been found above
    again = case.with_it.train()
    if differences(whole.state, again.state):
        return  # it is not the same twice: the law "seed"
    assert not differences(whole.state, beside.state), "another trick's draws changed this one's"


# ---------------------------------------------------------------- values handed on


@law("fold", "return what came in with the same shape, type and device, and write into nothing that others read")
def _fold(case: Case) -> None:
    folds_hold(case.whole.played)
    # where a type that float64 hides comes out
    calls: dict[str, list[Call]] = defaultdict(list)
    game = case.with_it.but(precision="fp32").game(recorder(calls))
    try:
        with game.training():
            game.advance()
    finally:  # whatever breaks further on, it began here
        folds_hold(Played(game, calls, {}))


def folds_hold(played: Played) -> None:
    """The law "fold", on a recorded run."""
    folds = [hook for hook in played.calls if KINDS[hook] == "fold" and not hook.startswith("transform")]
    folds = [hook for hook in folds if hook not in ("sampling_generator", "evaluation_discriminator")]
    for hook, calls in played.calls.items():
        for call in calls:
            assert not call.modified, f"{hook} wrote into one of its arguments"
            assert not call.touched, (
                f"{hook} wrote into ctx.{call.touched[0]}, in place: the rest of the step, and G's step with it, goes "
                "on with those values; work on a copy"
            )
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


@law("classes", "give every image the class that it came with: index images and classes alike")
def _classes(case: Case) -> None:
    used = [hook for hook in ("fake_batch", "d_input") if hook in hooks_of(case.trick)]
    if not used:
        raise NotApplicable("it hands on no batch")
    game, fakes = _with_classes(case)
    game.advance()
    own = [tensor for name, tensor in game.trick_tensors.items() if name.partition("/")[0] == case.name]
    start = [tensor.detach().clone() for tensor in own]
    size = game.feed.batch_size

    if "fake_batch" in used and fakes:
        _earlier_ones_keep_theirs(game)
    for hook, phase, is_real in [("fake_batch", "d", False)] + [("d_input", *at) for at in _SIDES]:
        if hook not in used or not (is_real or fakes):
            continue

        def through(images: Tensor, hook: str = hook, phase: str = phase, is_real: bool = is_real) -> Batch:
            with torch.no_grad():
                for tensor, then in zip(own, start, strict=True):
                    tensor.copy_(then)
            game.clock.enter(phase)
            batch = Batch(images.clone(), torch.arange(size, device=images.device))
            arguments = (is_real,) if hook == "d_input" else ()
            handed: Batch = fold(getattr(game.hooks, hook), batch, *arguments)
            return handed

        rng = Rng(0, "images", Clock(), game.placement.device, game.placement.dtype)
        images = torch.tanh(rng.normal((size, *game.discriminator.shape)))
        plain = through(images)
        if plain.classes is None or not same_bits(plain.images, through(images).images):
            continue
        follows = torch.zeros((size, size), dtype=torch.bool)
        for number in range(size):
            other = images.clone()
            other[number] = torch.tanh(rng.normal(game.discriminator.shape))
            follows[:, number] = (through(other).images != plain.images).reshape(size, -1).any(1).cpu()
        for row, origin in enumerate(plain.classes.tolist()):
            astray = follows[row].any() and not follows[row, origin]  # one that follows none is from elsewhere
            assert not astray, (
                f"{hook} returns image {int(follows[row].nonzero()[0])} of the batch with the class of image {origin}"
            )


def _earlier_ones_keep_theirs(game: Game) -> None:
    """An image that `fake_batch` returns from an earlier batch has the class that it came with."""
    size = game.feed.batch_size
    rng = Rng(0, "batches", Clock(), game.placement.device, game.placement.dtype)
    came: list[tuple[Tensor, int]] = []
    for number in range(5):
        images = torch.tanh(rng.normal((size, *game.discriminator.shape)))
        batch = Batch(images, rng.randint(size, size))
        came += zip(images.flatten(1), batch.classes.tolist() if batch.classes is not None else [], strict=True)
        game.clock.enter("d", number)
        with torch.no_grad():
            handed: Batch = copied(fold(game.hooks.fake_batch, Batch(images.clone(), batch.classes)))
        if handed.classes is None:
            return
        for image, label in zip(handed.images.flatten(1), handed.classes.tolist(), strict=True):
            known = [each for row, each in came if torch.equal(row, image)]
            assert not known or label in known, (
                f"fake_batch returns an image of an earlier batch with class {label}, and it came with {known[0]}"
            )


_SIDES = (("d", True), ("d", False), ("g", False))


def _with_classes(case: Case) -> tuple[Game, bool]:
    """A game with as many classes as a batch has samples, and whether fakes have them too."""
    host = case.without
    names = {"classes": host.batch_size}
    generator = {**host.generator, "conditional": True}
    discriminator = {**host.discriminator, "conditional": True}
    refusal = None
    for changes, fakes in (
        ({"generator": generator, "discriminator": discriminator}, True),
        ({"generator": generator}, True),
        ({}, False),
    ):
        changed = host.but(**names, **changes).with_trick(case.trick, case.name, **case.options)
        try:
            return changed.game(), fakes
        except UserError as reason:
            refusal = reason
    raise NotApplicable(f"it is refused beside classes: {refusal}")


@law(
    "both-sides",
    "change reals and fakes, in D's step and in G's, or D tells them apart by it; else say why in `deliberate`",
    convention=True,
)
def _both_sides(case: Case) -> None:
    hooks = {"d_input", "d_scores"} & set(hooks_of(case.trick))
    if not hooks:
        raise NotApplicable("it does not change what D sees")
    if "d_scores" in hooks:
        _shown_as_they_are(case)
    if "d_input" not in hooks:
        return
    changed: Counter[tuple[str, bool]] = Counter()
    seen: Counter[tuple[str, bool]] = Counter()
    for call in case.whole.played.of(case.name, "d_input"):
        batch, is_real = call.arguments
        differs = (batch.images != call.result.images).reshape(batch.size, -1).any(1)
        if batch.classes is not None and call.result.classes is not None:
            differs = differs | (batch.classes != call.result.classes)
        changed[call.phase, is_real] += int(differs.sum())
        seen[call.phase, is_real] += batch.size
    share = max((changed[side] / seen[side] for side in seen), default=0.0)
    for phase, is_real in _SIDES:
        expected = share * seen[phase, is_real]
        if expected >= 6 and not changed[phase, is_real]:  # by chance: e^-6
            what = f"{'reals' if is_real else 'fakes'} in {phase.upper()}'s step"
            others = max(changed, key=lambda side: changed[side])
            rest = f"{'reals' if others[1] else 'fakes'} in {others[0].upper()}'s step"
            raise AssertionError(f"d_input leaves {what} as they are, and changes {rest}")


def _shown_as_they_are(case: Case) -> None:
    """`d_scores` shows D both batches as it was given them, or neither."""
    for phase in case.whole.played.steps_of("d"):
        if not phase.real_in or not phase.passes:
            continue
        shown = torch.cat([images.flatten(1) for images, _ in phase.passes])
        there = {
            side: all((shown == row).all(1).any() for row in batch.images.flatten(1))
            for side, batch in (("reals", phase.real_in), ("fakes", phase.fake_in))
        }
        assert there["reals"] == there["fakes"], (
            f"d_scores does not show D the {'reals' if there['fakes'] else 'fakes'} that it is given: change what D "
            "sees in d_input, for reals and fakes alike"
        )


@law(
    "signs",
    "D's loss falls as a real's logit rises and rises with a fake's, G's falls with a fake's; else say why in "
    "`deliberate`",
    convention=True,
)
def _signs(case: Case) -> None:
    hooks = set(hooks_of(case.trick))
    judged = {"adversarial_loss", "g_objective", "d_assignment", "d_labels", "g_labels", "d_loss_terms", "g_loss_terms"}
    if not hooks & (judged | _STEERING):
        raise NotApplicable("it changes no target, no loss and no gradient")
    if hooks & _STEERING:
        _goes_downhill(case)
    if "d_scores" in hooks:
        _scores_in_their_places(case)
    if not hooks & judged:
        return
    game = case.with_it.game()
    pointed = Pointed(game)
    watch_phases(game, after=lambda *_: pointed.note())
    with game.training():
        for _ in range(6):
            game.advance()
    for side, sign, told in (
        ("real", -1, "D's loss rises with the logits of reals: D learns to call them fake"),
        ("fake", 1, "D's loss falls as the logits of fakes rise: D learns to call them real"),
        ("g", -1, "G's loss rises with the logits of its fakes: G learns to be found out"),
    ):
        slope = pointed.slopes.get(side)
        # 0 is nobody's mistake: a real target of 1/2, say
        assert slope is None or slope * sign > -1e-6, f"{told} (slope {slope:.3g} where D is undecided)"


_STEERING = {"d_scores", "after_d_backward", "after_g_backward", "transform_optimizer"}


def _goes_downhill(case: Case) -> None:
    """Gradients that a trick has changed, and the steps of an optimizer that it has, lead where they led before."""
    played = case.whole.played
    for player in ("d", "g"):
        before, after = [], []
        for call in played.calls.get(f"after_{player}_backward", ()):
            if call.trick == case.name:
                before += [call.before[name].flatten() for name in call.before if name in call.after]
                after += [call.after[name].flatten() for name in call.before if name in call.after]
        # noise alone takes the cosine to 0, a sign to -1
        turned = bool(before) and _cosine(before, after) < -0.5
        assert not turned, f"after_{player}_backward turns the gradients around"
        if "transform_optimizer" in hooks_of(case.trick):
            phases = played.steps_of(player)
            steps = [(p.after[n] - p.before[n]).flatten() for p in phases for n in p.gradients]
            gradients = [gradient.flatten() for p in phases for gradient in p.gradients.values()]
            climbs = bool(steps) and _cosine(steps, gradients) > 0
            assert not climbs, f"{player.upper()}'s weights move along the gradients of its loss, and not against them"


def _cosine(a: list[Tensor], b: list[Tensor]) -> float:
    return float(torch.cosine_similarity(torch.cat(a), torch.cat(b), dim=0))


def _scores_in_their_places(case: Case) -> None:
    """`d_scores` returns the scores of reals, then those of fakes."""
    game = case.with_it.game()
    game.advance()
    real, fake = (Batch(b.images.detach().requires_grad_(), b.classes) for b in (game.frame.real, game.frame.fake) if b)
    for hook, ctx in game.hooks.d_scores:
        if ctx.name == case.name:
            game.clock.enter("d")
            for side, out, batch in zip(("real", "fake"), hook(real, fake, ctx), (real, fake), strict=True):
                (slope,) = torch.autograd.grad(out.logits.sum(), batch.images, retain_graph=True, allow_unused=True)
                assert slope is not None, f"the {side} scores of d_scores are not those of the {side} batch"
                assert slope.any(), f"the {side} scores of d_scores are not those of the {side} batch"


@law(
    "latents",
    "change latents alike in training and in sampling, or G is sampled where it was not trained; else say why in "
    "`deliberate`",
    convention=True,
)
def _latents(case: Case) -> None:
    if "latents" not in hooks_of(case.trick):
        raise NotApplicable("it leaves latents alone")
    game = case.with_it.game()
    game.advance()
    count = 512
    rng = Rng(0, "latents", Clock(), game.placement.device, game.placement.dtype)
    z = rng.normal((count, game.generator.latent_dim))

    def sampled(seed: int) -> Tensor:
        with game.aside(seed):
            return _handed(game, z)

    def trained(phase: str, critic: int) -> Tensor:
        game.clock.enter(phase, critic)
        return _handed(game, z)

    drawn = sampled(0)
    fixed = same_bits(drawn, sampled(1))
    for phase in ("d", "g"):
        found = trained(phase, 0)
        if same_bits(found, drawn):
            continue
        assert not (fixed and same_bits(found, trained(phase, 1))), (
            f"the same latents become others in {phase.upper()}'s step than when sampling"
        )
        for told, measure in (("coordinates", torch.abs), ("lengths", lambda t: t.norm(dim=1))):
            gap = _largest_gap(measure(found), measure(drawn))
            assert gap < 3 * (2 / count) ** 0.5, (
                f"the {told} of latents in {phase.upper()}'s step are distributed otherwise than when sampling"
            )


def _handed(game: Game, z: Tensor) -> Tensor:
    with torch.no_grad():
        handed: Tensor = fold(game.hooks.latents, z.clone())
    return handed


def _largest_gap(a: Tensor, b: Tensor) -> float:
    """The largest distance between two empirical distribution functions (Kolmogorov-Smirnov)."""
    a, b = a.flatten().sort().values, b.flatten().sort().values
    both = torch.cat([a, b])
    shares = [torch.searchsorted(t, both, right=True).double() / t.numel() for t in (a, b)]
    return float((shares[0] - shares[1]).abs().max())


# ---------------------------------------------------------------- the players


@law("other-player", "change only the player of ctx.phase: weights, gradients, optimizer state, modes")
def _other_player(case: Case) -> None:
    game = case.with_it.but(reuse_fakes=False).game()

    def before(phase: str) -> Any:
        other = OTHER[phase]
        network = getattr(game, other)
        gradients = {name: p.grad if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
        return snapshot(game), gradients, _taking_part(game)

    def after(phase: str, seen: Any) -> None:
        other = OTHER[phase]
        network = getattr(game, other)
        start, gradients, taking_part = seen
        parameters = {f"{other}/{name}" for name, _ in network.named_parameters()}
        moved = [
            name
            for name in differences(start, snapshot(game))
            if name in parameters or name.startswith(f"{other}_optimizer/")
        ]
        assert not moved, f"the {phase} step moved {moved}"
        assert _taking_part(game) == taking_part, f"the {phase} step left weights frozen, or thawed some"
        for player in game.players.values():
            left = [name for name, module in player.network.named_modules() if not module.training]
            assert not left, f"the {phase} step left {left[0] or 'a network'} in eval mode"
        for name, parameter in network.named_parameters():
            assert _same_gradient(gradients[name], parameter.grad), f"the {phase} step touched {other}'s gradients"

    watch_phases(game, before, after)
    with game.training():
        for _ in range(3):
            game.advance()


@law("gradients", "detach what the other player made, cut no path to the one that learns, avoid 0/0 and log 0")
def _gradients(case: Case) -> None:
    game = case.with_it.but(reuse_fakes=False).game()

    def before(phase: str) -> None:
        for player in game.players.values():
            for parameter in player.parameters:
                parameter.grad = None

    def after(phase: str, _: Any) -> None:
        for player in game.players.values():
            gradients = [parameter.grad for parameter in player.parameters]
            if player.name == phase:
                missing = [g for g in gradients if g is None or not torch.isfinite(g).all()]
                assert not missing, f"some of {phase}'s weights have no finite gradient"
                assert any(bool(g.any()) for g in gradients if g is not None), f"{phase} has only zero gradients"
            else:
                assert all(g is None for g in gradients), f"the {phase} step gave {player.name} gradients"

    watch_phases(game, before, after)
    with game.training():
        for _ in range(2):
            game.advance()


@law("learns", "step the optimizer of a network of your own, or freeze its weights with requires_grad_(False)")
def _learns(case: Case) -> None:
    game = case.with_it.game()
    (trick,) = [planned.trick for planned in game.plan.tricks if planned.name == case.name]
    for player in game.players.values():
        held = {id(p) for group in player.optimizer.param_groups for p in group["params"]}
        stray = [n for n, p in player.network.named_parameters() if p.requires_grad and id(p) not in held]
        assert not stray, f"no optimizer has {player.name.upper()}'s weights {stray[:3]}: add them in transform_… hooks"
    players = {id(p) for player in game.players.values() for p in player.network.parameters()}
    own: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in trick.tensors().items():
        own[id(tensor)] = name, tensor
    for network in held_by(trick, nn.Module):
        own |= {id(p): (f"{type(network).__name__}.{name}", p) for name, p in network.named_parameters()}
    for optimizer in held_by(trick, torch.optim.Optimizer):
        for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            own.setdefault(id(parameter), (f"weight {number} of its {type(optimizer).__name__}", parameter))
    learning = [(name, t, t.detach().clone()) for i, (name, t) in own.items() if t.requires_grad and i not in players]
    asked = [(hook, network, [p.detach().clone() for p in network.parameters()]) for hook, network in _asked_for(game)]
    if not learning and not asked:
        raise NotApplicable("it has no weights of its own that learn or are asked")
    with game.training():
        for _ in range(4):
            game.advance()
    for hook, _, start in asked:
        now = [p.detach() for name, network in _asked_for(game) if name == hook for p in network.parameters()]
        assert len(now) != len(start) or not all(map(same_bits, now, start)), (
            f"in 4 steps the network that {hook} returns has not moved: it does not follow the one that is trained"
        )
    still = [name for name, tensor, start in learning if same_bits(tensor, start)]
    assert not still, f"in 4 steps these weights of its own never moved: {still[:3]}"


def _asked_for(game: Game) -> list[tuple[str, nn.Module]]:
    """The networks that sampling and evaluation use, where they are not the ones that are trained."""
    with game.aside(0):
        sampled = fold(game.hooks.sampling_generator, game.generator)
        evaluated = fold(game.hooks.evaluation_discriminator, game.discriminator)
    live = {game.generator, game.discriminator}
    asked = (("sampling_generator", sampled), ("evaluation_discriminator", evaluated))
    return [(hook, network) for hook, network in asked if network not in live]


@law("second-pass", "change no buffer in place that a forward pass has used before its backward: clone it for use")
def _second_pass(case: Case) -> None:
    try:
        played = case.with_it.with_trick(SecondPass, "second_pass").train(2)
    except UserError as refusal:
        raise NotApplicable(f"it is refused beside a second pass: {refusal}") from refusal
    except RuntimeError as broken:
        if "modified by an inplace operation" not in str(broken):
            raise
        raise AssertionError(
            "a second forward pass changes in place what the first one's backward needs: penalties and "
            "consistency terms cannot work beside it"
        ) from broken
    assert played.game.fault() is None, "with a second pass through each network, values are not finite"


@law("gates", "move what follows a player by ctx.updated: where a gate is closed, the player has not moved")
def _gates(case: Case) -> None:
    if not {"after_d_step", "after_g_step", "after_d_backward", "after_g_backward"} & set(hooks_of(case.trick)):
        raise NotApplicable("it does nothing after an update")
    opened, closed = 3, 4
    game = case.with_it.with_trick(Shut, "shut", at=opened + 1).game()
    followers = _copies_of_weights(game, case.name)
    shut = False

    def weights(phase: str) -> Tensors:
        return {name: p.detach().clone() for name, p in game.players[phase].network.named_parameters()}

    def unmoved(phase: str, before: Tensors) -> None:
        if shut:
            moved = differences({"": before}, {"": weights(phase)})
            assert not moved, f"{phase.upper()}'s gate is closed, and its weights moved: {moved[:3]}"

    watch_phases(game, weights, unmoved)
    moves: Counter[str] = Counter()
    with game.training():
        for _ in range(opened):
            game.advance()
        shut = True
        for _ in range(closed):
            before = {name: tensor.detach().clone() for name, tensor in followers.items()}
            game.advance()
            moves.update(name for name, tensor in followers.items() if not same_bits(before[name], tensor))
    restless = [name for name, count in moves.items() if count == closed]
    assert not restless, f"no player is updated, and what follows their weights moves in every step: {restless[:3]}"


def _copies_of_weights(game: Game, trick: str) -> Tensors:
    """The tensors of a trick that start as copies of a player's weights."""
    weights = [p.detach() for player in game.players.values() for p in player.network.parameters()]
    weights = [weight for weight in weights if weight.numel() > 1 and bool((weight != weight.flatten()[0]).any())]
    return {
        name: tensor
        for name, tensor in game.trick_tensors.items()
        if name.partition("/")[0] == trick and any(same_bits(tensor.detach(), weight) for weight in weights)
    }


# ---------------------------------------------------------------- state


@law("resume", "declare every mutable tensor in tensors(), allocated in on_setup; keep no other state")
def _resume(case: Case) -> None:
    host = case.with_it
    before_any = _shared_numbers(case, host)
    whole = host.game()
    saved = []
    with whole.training():
        for _ in range(host.steps):
            if not whole.advance():
                break
            saved.append((snapshot(whole), whole.counters(), samples_of(whole), _numbers(whole, case.name)))
        logged = whole.scalars()[0]
    if not saved:
        raise NotApplicable("it stops the run before the first step")
    suspects = {path for path, value in before_any.items() if saved[-1][3].get(path, value) != value}
    for state, counters, samples, _ in saved[:-1]:
        resumed = host.game()
        resumed.load(state, counters)
        assert same_bits(samples_of(resumed), samples), f"loaded at step {counters['step']}, it samples differently"
        with resumed.training():
            while resumed.finished < len(saved) and resumed.advance():
                if resumed.finished == counters["step"] + 1:
                    there, here = saved[counters["step"]][3], _numbers(resumed, case.name)
                    suspects |= {path for path, value in here.items() if there.get(path, value) != value}
        changed = differences(snapshot(resumed), saved[-1][0])
        assert not changed, f"resumed at step {counters['step']}, these differ: {changed[:5]}"
        assert resumed.scalars()[0] == logged, f"resumed at step {counters['step']}, the logged values differ"
    for path in sorted(suspects):
        middle = saved[len(saved) // 2]
        _number_is_idle(case, host, path, *middle[:2])


LATE_NUMBERS = (0, 1, 2, 99, 100, 499, 500, 999, 1000, 9999, 10_000, 10**6)
"""What a number on the host may have grown to late in a run: one that flips at a round number flips here."""


def _number_is_idle(
    case: Case, host: TrickHost, path: str, state: dict[str, Tensors], counters: dict[str, Any]
) -> None:
    """A number that a resumed run does not have changes nothing of it, whatever it is."""

    def played(value: float | None) -> tuple[Any, ...]:
        game = host.game()
        game.load(state, counters)
        with game.training():
            number = _places(game, case.name).get(path)
            if number is None:  # it comes with the first step
                game.advance()
                number = _places(game, case.name).get(path)
            if number is None:
                return ()
            try:
                if value is not None:
                    number.set(value)
                for _ in range(2):
                    game.advance()
                return number.value, snapshot(game), samples_of(game)
            finally:
                number.restore()

    undisturbed = played(None)
    if not undisturbed:
        return
    number = undisturbed[0]
    for value in (not number,) if isinstance(number, bool) else LATE_NUMBERS:
        try:
            _, state_then, samples_then = played(value)
        except Exception:
            continue
        idle = not differences(state_then, undisturbed[1]) and same_bits(samples_then, undisturbed[2])
        assert idle, (
            f"the run depends on {path}, which a resumed run does not have: at {value} it goes on otherwise; make it a "
            "tensor, named in tensors()"
        )


def _places(game: Game, name: str) -> dict[str, HostNumber]:
    (trick,) = [planned.trick for planned in game.plan.tricks if planned.name == name]
    return host_numbers(game, trick)


def _numbers(game: Game, name: str) -> dict[str, float]:
    return {path: number.value for path, number in _places(game, name).items()}


def _shared_numbers(case: Case, host: TrickHost) -> dict[str, float]:
    """Those on the class and in the module, which every run of a process has in common."""
    return {path: value for path, value in _numbers(host.game(), case.name).items() if not path.startswith("self.")}


@law(
    "late",
    "let what changes in the course of a run follow from tensors() or from ctx.step, never from what was seen before",
    presumes=("plays", "resume"),
)
def _late(case: Case) -> None:
    host = case.with_it.but(steps=LAST)
    whole = host.game()
    with whole.training():
        if not _pass_by(whole, LATE):
            return  # it has stopped the run
        state, counters = snapshot(whole), whole.counters()
        resumed = host.game()
        resumed.load(state, counters)
        with resumed.training():
            for _ in range(2):
                assert whole.advance() == resumed.advance(), f"loaded at step {LATE}, it stops the run otherwise"
        changed = differences(snapshot(whole), snapshot(resumed))
        assert not changed, f"resumed at step {LATE} of {LAST}, these differ two steps later: {changed[:3]}"
        assert same_bits(samples_of(whole), samples_of(resumed)), f"resumed at step {LATE}, it samples differently"
        boundary(whole)
        with host_unseen(whole), NoSync():
            whole.step()
        whole._at(whole.finished + 1)
        if not _pass_by(whole, LAST - 1) or not whole.advance():
            return
        whole.finish()
    fault = whole.fault()
    assert fault is None, f"late in a run, in step {fault.step}, {_told(fault)} is not finite"


LATE, LAST = 150, 200
"""A step late in a run, and its end."""


def _pass_by(game: Game, until: int) -> bool:
    """Go on to a step: what happens on the host between steps happens at each of them, and every 50th is played. False
    where a trick has stopped the run."""
    for step in range(game.finished, until):
        if step % 50 == 0:
            if not game.advance():
                return False
            continue
        boundary(game)
        if game.frame.stop_reason:
            return False
        game._at(step + 1)
    return True


@law("in-place", "update state in place (copy_, add_, lerp_ …): a rebound tensor is lost to checkpoints and capture")
def _in_place(case: Case) -> None:
    game = case.with_it.game()
    (trick,) = [planned.trick for planned in game.plan.tricks if planned.name == case.name]
    declared = {name: (tensor, tensor.data_ptr()) for name, tensor in trick.tensors().items()}
    with game.training():
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


@law("seed", "draw from ctx.rng only, and keep nothing on the class or the module")
def _seed(case: Case) -> None:
    first, second = case.whole, case.with_it.train()
    changed = differences(first.state, second.state)
    assert not changed, f"two runs with one seed differ in {changed[:3]}"
    assert first.played.scalars == second.scalars, "the logged values differ"


@law(
    "process",
    "iterate over lists and dicts, never over a set, and seed nothing by hash() or id()",
    presumes=("plays", "seed"),
)
def _process(case: Case) -> None:
    try:
        elsewhere = play_elsewhere(case.with_it)
    except CannotGoThere as reason:
        raise NotApplicable(str(reason)) from reason
    here = digests(case.whole.state, case.whole.samples, case.whole.played.scalars)
    changed = sorted(name for name in here.keys() | elsewhere.keys() if here.get(name) != elsewhere.get(name))
    assert not changed, f"another process, with other hashes, plays another run: {changed[:3]} differ"


# ---------------------------------------------------------------- the captured step


@law("no-sync", "inside the step no .item(), .cpu(), bool(tensor), .tolist(), and no shape that depends on values")
def _no_sync(case: Case) -> None:
    game = case.with_it.game()
    with game.training(), host_unseen(game):
        for _ in range(3):
            boundary(game)
            with NoSync():
                game.step()
            game._at(game.finished + 1)
        if not case.instance.capturable:
            raise NotApplicable("it declares capturable = False")
        boundary(game)
        # the fake step leaves fake gradients behind, and the game is not used again
        with FakeTensorMode(allow_non_fake_inputs=True):
            game.step()


@law("same-step", "no Python branch or number may change from step to step: it would freeze when the step is captured")
def _same_step(case: Case) -> None:
    if not case.instance.capturable:
        raise NotApplicable("it declares capturable = False")
    game = case.with_it.game()
    firsts: dict[tuple[int, ...], tuple[int, list[Any]]] = {}
    with game.training():
        game.advance()
        for number in range(2, 6):
            boundary(game)
            trace = OpTrace()
            with host_unseen(game, trace.ops.append), trace:
                game.step()
            game._at(game.finished + 1)
            # a step of another structure is captured anew
            first, ops = firsts.setdefault(game.structure, (number, trace.ops))
            for then, now in zip(ops, trace.ops, strict=False):
                assert then == now, f"step {first} runs {then}, step {number} runs {now}"
            assert len(trace.ops) == len(ops), (
                f"step {first} runs {len(ops)} operations, step {number} {len(trace.ops)}"
            )


@law("captured", "decide nothing on the host inside the step, and rebind no tensor that the step reads")
def _captured(case: Case) -> None:
    if not case.instance.capturable:
        raise NotApplicable("it declares capturable = False")
    host = case.with_it
    eager, captured = host.game(), host.game()
    captured.backend = INTERPRETER
    with eager.training(), captured.training():
        for step in range(1, host.steps + 1):
            if not eager.advance():
                break
            captured.advance()
            assert captured.backend, captured.frame.warnings[-1].removeprefix("the step is played eagerly: ")
            changed = differences(snapshot(eager), snapshot(captured))
            assert not changed, f"replayed, step {step} is another one: {changed[:3]} differ"
        assert eager.scalars() == captured.scalars(), "replayed, the logged values are others"


@law("memory", "keep no tensor of a step beyond the next one: what accumulates fills the memory in a long run")
def _memory(case: Case) -> None:
    game = case.with_it.game()
    with game.training(), batches_unseen(game):
        for _ in range(2):
            game.advance()
        with Made() as made:
            game.advance()
        for _ in range(2):
            if not game.advance():
                raise NotApplicable("it stops the run before a step's tensors could go")
    gc.collect()
    kept = [tensor for tensor in (reference() for reference in made.tensors) if tensor is not None]
    assert not kept, f"{len(kept)} tensors made in step 3 are still there two steps later: {shown(kept[0])}"


# ---------------------------------------------------------------- looking at a run


@law(
    "evaluation",
    "move no state and no mode while logging, sampling or evaluating; in a layer, look at module.training",
    presumes=("plays", "seed"),
)
def _evaluation(case: Case) -> None:
    game, undisturbed = case.with_it.game(), case.with_it.game()
    # what a watcher remembers of log lines is its own affair, as long as the run goes on as without
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
                network = game.evaluated_discriminator()
                for asked in (network, game.discriminator):
                    assert same_bits(*(_judged(game, asked) for _ in range(2))), "D in eval mode is not deterministic"
    changed = [name for name in differences(snapshot(game), snapshot(undisturbed)) if name.partition("/")[2] not in own]
    assert not changed, f"logging, sampling and evaluating changed the run: {changed[:3]}"
    if not {"sampling_generator", "transform_generator", "latents"} & set(hooks_of(case.trick)):
        plain = case.without.game()
        state = snapshot(game) | {"tricks": snapshot(plain)["tricks"]}
        plain.load({**snapshot(plain), "generator": state["generator"]}, plain.counters())
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
    with game.aside(0), at_rest(network):
        logits: Tensor = network(images, classes).logits
    return logits


# ---------------------------------------------------------------- other runs


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
        if case.trick.batch_sizes is Trick.batch_sizes:  # else it has sizes of its own
            _whichever_way(
                host.but(batch_size=sizes[0]), host.with_trick(Resized, "resized", to=sizes[:1], at=1), sizes[0]
            )
        return
    raise NotApplicable(f"it refuses another batch size: {refusal}")


def _whichever_way(recipes: TrickHost, tricks: TrickHost, size: int) -> None:
    """A batch size that a trick has set before the first step is what the recipe could have said."""
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
    """Four steps are played, folds hold, and from a save after each of them the run goes on as it did."""
    try:
        game = host.game()
    except UserError as refusal:
        raise NotApplicable(f"it is refused with {told}: {refusal}") from refusal
    saved = []
    try:
        with game.training():
            for _ in range(4):
                game.advance()
                saved.append((snapshot(game), game.counters()))
        for state, counters in saved[:3:2]:
            resumed = host.game()
            resumed.load(state, counters)
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
    assert game.fault() is None, f"not finite with {told}"


@law("corners", "batch of 1, one channel, float32 and bf16: make them work, or refuse them in problems()")
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


@law("cost", "declare in `forwards` how many more forward passes of each network a step takes")
def _cost(case: Case) -> None:
    phases, passes = _passes(case.with_it.but(n_critic=1))
    # phases that a trick plays share no fakes
    plain = case.without.but(n_critic=1)
    _, each = _passes(plain.but(reuse_fakes=False) if "play" in hooks_of(case.trick) else plain)
    extra = {}
    for network in ("d", "g"):
        usual = sum(count * each[phase, network] for phase, count in phases.items())
        extra[network] = sum(count for (_, asked), count in passes.items() if asked == network) - usual
    declared = {"d": 0, "g": 0, **case.instance.forwards}
    told = f"it takes {extra} more forward passes and declares {declared}"
    if mixes_samples(case.without.game().discriminator):  # joint passes hold the real batch already in the G step
        assert all(extra[name] <= declared[name] for name in extra), told
    else:
        assert extra == declared, told


def _passes(host: TrickHost) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Of the second step: how many D and G steps it has, and how many forward passes of each network in each."""
    game = host.game()
    phases: Counter[str] = Counter()
    passes: Counter[tuple[str, str]] = Counter()
    with game.training():
        game.advance()
        watch_phases(game, lambda phase: phases.update([phase]))
        for player in game.players.values():
            player.network.register_forward_hook(lambda *_, name=player.name: passes.update([(game.clock.phase, name)]))
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
            continue  # a trick's play has no such phase
        moved = differences(before[0], snapshot(game))
        assert not moved, f"after a fault in {player} these moved: {moved[:5]}"
        fault = game.fault()
        assert fault is not None
        assert (fault.player, fault.step) == (player, 3)


def compiled_holds(case: Case, steps: int = 3) -> None:
    """The step as inductor compiles it is the eager step: in float64, under SGD, every tensor that moves is within 1e-9
    after each of `steps` steps. Compiling takes many seconds, so it is none of `LAWS`.

    Raises AssertionError where it is another step or cannot be compiled, NotApplicable where the trick declares that it
    cannot be captured, or this machine has no C++ compiler.
    """
    if not case.instance.capturable:
        raise NotApplicable("it declares capturable = False")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise NotApplicable("there is no C++ compiler")
    sgd = {"name": "sgd", "lr": 1e-2}  # Adam makes a whole step of a gradient that is 0 but for rounding
    host = case.with_it.but(precision="fp64", optimizer=sgd)
    eager, compiled = host.game(), host.game()
    compiled.backend = INDUCTOR
    with eager.training(), compiled.training():
        for step in range(1, steps + 1):
            eager.advance()
            compiled.advance()
            assert compiled.backend, compiled.frame.warnings[-1].removeprefix("the step is played eagerly: ")
            here, there = snapshot(eager), snapshot(compiled)
            far = []
            for name in differences(here, there):
                group, _, key = name.partition("/")
                a, b = here[group].get(key), there[group].get(key)
                if a is None or b is None or not torch.allclose(a.double(), b.double(), 1e-9, 1e-9, equal_nan=True):
                    far.append(name)
            assert not far, f"compiled, step {step} is another one: {far[:5]} differ"


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
