"""Laws about the values that hooks receive and return."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.engine import sampling
from gantricks.engine.dispatch import fold
from gantricks.engine.game import Game
from gantricks.errors import UserError
from gantricks.hooks import KINDS
from gantricks.planning.contract import hooks_of
from gantricks.records import Batch, Latents
from gantricks.rng import Clock, Rng
from gantricks.testing.case import Case, NotApplicable, law
from gantricks.testing.instruments import (
    Pointed,
)
from gantricks.testing.record import Call, Played, copied, same_bits, watch_phases


@law("fold", "return what came in with the same shape, type and device, and write into nothing that others read")
def _fold(case: Case) -> None:
    folds_hold(case.whole.played)
    # in float32, because float64 hides a wrong dtype
    calls: dict[str, list[Call]] = defaultdict(list)
    game = case.with_it.but(precision="fp32").game(calls)
    try:
        with game.training():
            game.advance()
    finally:  # report this law first, because a later error may follow from it
        folds_hold(Played(game, calls, {}))


def folds_hold(played: Played) -> None:
    """Check the law "fold" on a recorded run."""
    folds = [hook for hook in played.calls if KINDS[hook] == "fold" and not hook.startswith("transform")]
    folds = [hook for hook in folds if hook not in ("sampling_generator", "sampler", "evaluation_discriminator")]
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
            pairs = zip(value, result, strict=True) if isinstance(value, Batch | Latents) else [(value, result)]
            for before, after in pairs:
                gave = before is None and hook in ("real_batch", "generated_batch")  # what these hooks are for
                assert gave or (before is None) == (after is None), f"{hook} lost or invented classes or conditions"
                if before is not None:
                    assert before.shape == after.shape, f"{hook} changed the shape"
                    assert before.dtype == after.dtype, f"{hook} changed the type"
                    assert before.device == after.device, f"{hook} changed the device"


@law("classes", "give every image the class that it came with: index images and classes alike")
def _classes(case: Case) -> None:
    _each_keeps_its_own(case, _Marks("class", "conditional", "classes"))


@law("conditions", "give every image the condition that it came with: index images and conditions alike")
def _conditions(case: Case) -> None:
    _each_keeps_its_own(case, _Marks("condition", "conditioned", "condition"))


@dataclass(frozen=True)
class _Marks:
    """What belongs to each image of a batch: its class, or its condition. It is used as the number of the image.

    `option` of both networks makes fakes have it, `field` is the member of a batch.
    """

    what: str
    option: str
    field: str

    def batch(self, images: Tensor, numbers: Tensor) -> Batch:
        marks = numbers if self.field == "classes" else torch.stack([numbers, numbers + 0.5], 1).to(images.dtype)
        return Batch(images, **{self.field: marks})

    def read(self, batch: Batch) -> list[int] | None:
        """Return the number that each image has, -1 where they are mixed up; None where D judges other pairs."""
        marks = getattr(batch, self.field)
        assert marks is not None, f"the {self.what}s of a batch are lost"
        if self.field == "classes":
            return [int(mark) for mark in marks]
        if marks.shape[1] != 2:
            return None
        first, second = marks.unbind(1)
        return [int(mark) for mark in torch.where(first + 0.5 == second, first, -1.0)]

    def game(self, case: Case) -> tuple[Game, bool]:
        """Return a game with as many classes as a batch has samples, or with conditions of two numbers, and whether
        fakes have them too.
        """
        host = case.without
        given = {"classes": host.batch_size} if self.field == "classes" else {"condition": 2}
        other = "conditioned" if self.option == "conditional" else "conditional"
        generator = {**host.generator, self.option: True}
        discriminator = {**host.discriminator, self.option: True}
        refusal = None
        for changes, fakes in (
            ({"generator": generator, "discriminator": discriminator}, True),
            ({"generator": generator}, True),
            ({}, False),
        ):
            alone = {role: {k: v for k, v in options.items() if k != other} for role, options in changes.items()}
            changed = host.but(**given, **alone).with_trick(case.trick, case.name, **case.options)
            try:
                return changed.game(), fakes
            except UserError as reason:
                refusal = reason
        raise NotApplicable(f"it is refused beside this: {refusal}")


def _each_keeps_its_own(case: Case, marks: _Marks) -> None:
    used = [hook for hook in ("fake_batch", "d_input") if hook in hooks_of(case.trick)]
    if not used:
        raise NotApplicable("it hands on no batch")
    game, fakes = marks.game(case)
    game.advance()
    own = [tensor for name, tensor in game.trick_tensors.items() if name.partition("/")[0] == case.name]
    start = [tensor.detach().clone() for tensor in own]
    size = game.feed.batch_size

    if "fake_batch" in used and fakes:
        _earlier_ones_keep_theirs(game, marks)
    for hook, phase, is_real in [("fake_batch", "d", False)] + [("d_input", *at) for at in _SIDES]:
        if hook not in used or not (is_real or fakes):
            continue

        def through(images: Tensor, hook: str = hook, phase: str = phase, is_real: bool = is_real) -> Batch:
            with torch.no_grad():
                for tensor, then in zip(own, start, strict=True):
                    tensor.copy_(then)
            game.clock.enter(phase)
            batch = marks.batch(images.clone(), torch.arange(size, device=images.device))
            arguments = (is_real,) if hook == "d_input" else ()
            handed: Batch = fold(getattr(game.hooks, hook), batch, *arguments)
            return handed

        rng = Rng(0, "images", Clock(), game.placement.device, game.placement.dtype)
        images = torch.tanh(rng.normal((size, *game.discriminator.shape)))
        plain = through(images)
        origins = marks.read(plain)
        if origins is None or not same_bits(plain.images, through(images).images):
            continue
        follows = torch.zeros((size, size), dtype=torch.bool)
        for number in range(size):
            other = images.clone()
            other[number] = torch.tanh(rng.normal(game.discriminator.shape))
            follows[:, number] = (through(other).images != plain.images).reshape(size, -1).any(1).cpu()
        for row, origin in enumerate(origins):
            assert origin >= 0 or not follows[row].any(), f"{hook} mixes the {marks.what}s of several images"
            astray = (
                follows[row].any() and not follows[row, origin]
            )  # an image that follows no input comes from another batch
            assert not astray, (
                f"{hook} returns image {int(follows[row].nonzero()[0])} of the batch with the {marks.what} of image "
                f"{origin}"
            )


def _earlier_ones_keep_theirs(game: Game, marks: _Marks) -> None:
    """Check that an image from an earlier batch which `fake_batch` returns keeps its class or condition."""
    size = game.feed.batch_size
    rng = Rng(0, "batches", Clock(), game.placement.device, game.placement.dtype)
    came: list[tuple[Tensor, int]] = []
    for number in range(5):
        images = torch.tanh(rng.normal((size, *game.discriminator.shape)))
        numbers = rng.randint(size, size)
        came += zip(images.flatten(1), numbers.tolist(), strict=True)
        game.clock.enter("d", number)
        with torch.no_grad():
            handed: Batch = copied(fold(game.hooks.fake_batch, marks.batch(images.clone(), numbers)))
        if (found := marks.read(handed)) is None:
            return
        for image, mark in zip(handed.images.flatten(1), found, strict=True):
            known = [each for row, each in came if torch.equal(row, image)]
            assert not known or mark in known, (
                f"fake_batch returns an image of an earlier batch with {marks.what} {mark}, and it came with {known[0]}"
            )


_SIDES = (("d", True), ("d", False), ("g", False))


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
        if batch.condition is not None and call.result.condition is not None:
            differs = differs | (batch.condition != call.result.condition).any(1)
        changed[call.phase, is_real] += int(differs.sum())
        seen[call.phase, is_real] += batch.size
    share = max((changed[side] / seen[side] for side in seen), default=0.0)
    for phase, is_real in _SIDES:
        expected = share * seen[phase, is_real]
        if expected >= 6 and not changed[phase, is_real]:  # the probability by chance is e^-6
            what = f"{'reals' if is_real else 'fakes'} in {phase.upper()}'s step"
            others = max(changed, key=lambda side: changed[side])
            rest = f"{'reals' if others[1] else 'fakes'} in {others[0].upper()}'s step"
            raise AssertionError(f"d_input leaves {what} as they are, and changes {rest}")


def _shown_as_they_are(case: Case) -> None:
    """Check that `d_scores` shows D both batches unchanged, or changes both."""
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
    judged |= {"g_scores"}
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
        # a slope of 0 is allowed: a real target of 1/2 has it
        assert slope is None or slope * sign > -1e-6, f"{told} (slope {slope:.3g} where D is undecided)"


_STEERING = {"d_scores", "after_d_backward", "after_g_backward", "transform_optimizer"}


def _goes_downhill(case: Case) -> None:
    """Check that gradients changed by a trick, and updates of its own optimizer, keep their direction."""
    played = case.whole.played
    for player in ("d", "g"):
        before, after = [], []
        for call in played.calls.get(f"after_{player}_backward", ()):
            if call.trick == case.name:
                before += [call.before[name].flatten() for name in call.before if name in call.after]
                after += [call.after[name].flatten() for name in call.before if name in call.after]
        # noise alone makes the cosine 0, a wrong sign makes it -1
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
    """Check that `d_scores` returns the scores of reals first, then those of fakes."""
    game = case.with_it.game()
    game.advance()
    real, fake = (b.with_images(b.images.detach().requires_grad_()) for b in (game.frame.real, game.frame.fake) if b)
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
        with sampling.aside(game, seed):
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
    """Return the largest distance between two empirical distribution functions (Kolmogorov-Smirnov)."""
    a, b = a.flatten().sort().values, b.flatten().sort().values
    both = torch.cat([a, b])
    shares = [torch.searchsorted(t, both, right=True).double() / t.numel() for t in (a, b)]
    return float((shares[0] - shares[1]).abs().max())
