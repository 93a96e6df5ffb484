"""ADA: p follows the sign of D's logits on reals, and each change is applied to each image with probability p."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.plugins.adaptive_augment import AdaptiveAugment, adapted, blit, cut, recolor
from gantricks.rng import Clock, Rng
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import standard_normal, within_chance

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"start": 0.5, "speed": 300.0, "interval": 2}, {}),
    "mixing": ({"start": 0.3, "speed": 100.0, "target": 0.0, "cutout": True}, MIXING | {"n_critic": 2}),
    "three channels": ({"start": 0.9, "speed": 60.0, "interval": 1, "color": False}, {"sample": (3, 8, 12)}),
}
REFUSED: dict[str, str] = dict.fromkeys(("relativistic", "wasserstein"), "adaptive_augment needs decision")

MISTAKES = {
    "p follows D's probability": Mistake(
        old="(logits - ctx.undecided).sign().sum()",
        new="logits.sigmoid().sum()",
        caught_by=("trace_law", "test_p_follows_the_rule_on_hand_made_logits"),
    ),
    "the sign is taken about 0 whatever the objective": Mistake(
        old="logits - ctx.undecided",
        new="logits",
        caught_by="test_the_sign_is_about_the_objectives_undecided_value",
    ),
    "p falls where D overfits": Mistake(
        old="(mean_sign - target).sign()",
        new="(target - mean_sign).sign()",
        caught_by=("trace_law", "test_p_moves_by_the_images_seen"),
    ),
    "p moves by the size of the excess": Mistake(
        old="(mean_sign - target).sign()",
        new="(mean_sign - target)",
        caught_by=("trace_law", "test_p_moves_by_the_images_seen"),
    ),
    "p moves in every step": Mistake(
        old="self.steps >= self.config.interval",
        new="self.steps >= 1",
        caught_by=("trace_law", "test_p_follows_the_rule_on_hand_made_logits"),
    ),
    "p moves by one batch": Mistake(
        old="self.images.add_(ctx.real.size)",
        new="self.images.fill_(ctx.real.size)",
        caught_by=("trace_law", "test_p_follows_the_rule_on_hand_made_logits"),
    ),
    "the sign of the last batch alone": Mistake(
        old="self.signs / self.scores",
        new="(logits - ctx.undecided).sign().mean().to(torch.float32)",
        caught_by="test_p_follows_the_rule_on_hand_made_logits",
    ),
    "p leaves [0, 1]": Mistake(
        old="(p + (mean_sign - target).sign() * images / speed).clamp(0, 1)",
        new="p + (mean_sign - target).sign() * images / speed",
        caught_by=("test_p_moves_by_the_images_seen", "trace_law[three channels]"),
    ),
    "p is not saved": Mistake(
        old='names = ("p", "mean_sign", "signs", "scores", "images", "steps")',
        new='names = ("mean_sign", "signs", "scores", "images", "steps")',
        caught_by="resume",
    ),
    "on reals only": Mistake(
        inside="AdaptiveAugment",
        new="""
            @hookimpl
            def d_input(self, batch, is_real, ctx):
                return batch.with_images(recolor(batch.images, self.p, ctx.rng)) if is_real else batch
        """,
        caught_by=("trace_law", "both-sides"),
    ),
    "one decision for the whole batch": Mistake(
        old="rng.bernoulli(shape, p)",
        new="rng.bernoulli((3, 1), p).expand(shape)",
        caught_by="test_each_colour_changes_with_probability_p_by_itself",
    ),
    "changes are applied whatever p": Mistake(
        old="rng.bernoulli((3, count), p)",
        new="rng.bernoulli((3, count), 0.5)",
        caught_by="test_at_p_0_nothing_changes",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """P moves by images / speed every `interval` D steps, towards where the mean sign is at its target, and images are
    changed as often as p says.
    """
    options = played.trick(name).config
    interval, undecided = options.interval, played.game.step.loss.undecided
    p, signs, images, scores, values, number = np.float32(options.start), 0, 0, 0, [], 0
    for phase in played.steps_of("d"):
        values.append((phase.step, phase.critic, float(p)))
        if phase.trial:
            continue
        number += 1
        assert phase.real_out is not None
        signs += int((phase.real_out.logits - undecided).sign().sum())
        scores += len(phase.real_out.logits)
        images += phase.real.size
        if number % interval == 0:
            excess = np.float32(signs / scores) - np.float32(options.target)
            p = np.clip(p + np.sign(excess) * np.float32(images) / np.float32(options.speed), 0, 1)
            signs = images = scores = 0
    found = float(played.state["tricks"][f"{name}/p"])
    assert abs(found - float(p)) < 1e-5, f"p is {found}, not {float(p)}"

    during = {(step, critic): value for step, critic, value in values}
    after = [*(value for *_, value in values[1:]), float(p)]
    at_the_end_of = {step: value for (step, *_), value in zip(values, after, strict=True)}
    sides: dict[tuple[str, bool], list[tuple[bool, float]]] = {}
    for call in played.of(name, "d_input"):
        batch, is_real = call.arguments
        assert batch.classes is None or torch.equal(batch.classes, call.result.classes)
        value = during[call.step, call.critic] if call.phase == "d" else at_the_end_of[call.step]
        for changed in (batch.images != call.result.images).flatten(1).any(1).tolist():
            sides.setdefault((call.phase, is_real), []).append((changed, value))
    assert sides.keys() >= {("d", True), ("d", False), ("g", False)}, f"shown to D only in {sorted(sides)}"
    for side, pairs in sides.items():
        count, chances = sum(changed for changed, _ in pairs), torch.tensor([value for _, value in pairs]).double()
        # flips and moves may leave an image as it is; brightness and contrast do not
        least = 1 - (1 - chances) ** (2 * options.color)
        most = 1 - (1 - chances) ** (3 * options.blit + 3 * options.color + options.cutout)
        for bound, sign in ((least, -1), (most, 1)):
            far = sign * (count - float(bound.sum()))
            assert far <= 5 * float((bound * (1 - bound)).sum()) ** 0.5 + 1e-6, (
                f"changed in {side}: {count} of {len(pairs)}, expected {float(bound.sum()):.3g}"
            )


IMAGES = TrickHost(sample=(3, 8, 8))


def stream(seed: int = 0) -> Rng:
    return Rng(seed, "tricks/a", Clock(), dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


# ---------------------------------------------------------------- the rule


@given(st.floats(0, 1), st.floats(-1, 1), st.integers(1, 10_000), st.floats(-1, 1), st.floats(10, 1e6))
def test_p_moves_by_the_images_seen(p, mean_sign, images, target, speed) -> None:
    found = adapted(*(scalar(x, torch.float64) for x in (p, mean_sign, float(images))), target, speed).item()
    step = images / speed
    expected = p + step if mean_sign > target else p - step if mean_sign < target else p
    assert found == pytest.approx(min(max(expected, 0), 1), rel=1e-12, abs=1e-12)
    assert 0 <= found <= 1


def play(logits: list[list[float]], **options: object) -> list[float]:
    """P after each D step whose reals have these logits."""
    size = len(logits[0])
    game = IMAGES.but(batch_size=size).with_trick("adaptive_augment", **options).game()
    ctx, trick = game.contexts["adaptive_augment"], game.plan.tricks[0].trick
    game.advance()
    for tensor, start in ((trick.p, trick.config.start), (trick.signs, 0), (trick.scores, 0)):
        tensor.fill_(start)
    trick.images.zero_()
    trick.steps.zero_()
    found = []
    game.clock.enter("d")
    for row in logits:
        game.frame.real_out = game.frame.fake_out._replace(logits=torch.tensor(row).double()[:, None])
        trick.after_d_step(ctx)
        found.append(trick.p.item())
    return found


def test_p_follows_the_rule_on_hand_made_logits() -> None:
    sure, even, wrong = [3.0, 0.1, 2.0, 5.0, 1.0], [1.0, 1.0, 1.0, 1.0, -9.0], [-1.0, -2.0, 0.1, -1.0, 1.0]
    # 5 images a step, p moves every 2 steps by 10 / 40
    found = play([sure, sure, wrong, sure, even, even, wrong, wrong, sure, wrong], interval=2, speed=40.0, start=0.5)
    # mean signs: 1; 0.4; 0.6, which is the target; -0.2; 0.4
    assert found == pytest.approx([0.5, 0.75, 0.75, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0])
    found = play([sure] * 10, interval=2, speed=30.0)
    assert found == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1, 1, 1])


def test_the_sign_is_about_the_objectives_undecided_value() -> None:
    host = IMAGES.with_trick("least_squares").with_trick("adaptive_augment", interval=1, speed=80.0, target=0.0)
    game = host.game()
    ctx, trick = game.contexts["adaptive_augment"], game.plan.tricks[1].trick
    game.advance()
    trick.p.fill_(0.5)
    game.clock.enter("d")
    for value, expected in ((0.4, 0.4), (0.6, 0.5)):
        game.frame.real_out = game.frame.fake_out._replace(logits=torch.full((8, 1), value).double())
        trick.after_d_step(ctx)
        assert trick.p.item() == pytest.approx(expected)


def test_p_rises_while_d_knows_the_reals_and_is_resumed() -> None:
    host = IMAGES.but(steps=12, count=8, optimizer={"name": "adam", "lr": 0.02})
    played = host.with_trick("adaptive_augment", speed=200.0, target=-1.0).train()
    logged = [scalars["adaptive_augment/p"] for scalars in played.scalars]
    assert logged == pytest.approx([0, 0, 0, 0.16, 0.16, 0.16, 0.16, 0.32, 0.32, 0.32, 0.32, 0.48])
    signs = [torch.sign(phase.real_out.logits).mean().item() for phase in played.steps_of("d")]
    assert played.scalars[-1]["adaptive_augment/mean_sign"] == pytest.approx(sum(signs[8:]) / 4)


# ---------------------------------------------------------------- the changes


@pytest.mark.parametrize("change", [blit, recolor, cut])
@given(gs.batches(shape=(3, 8, 8)), gs.rng())
def test_at_p_0_nothing_changes(change, batch, rng) -> None:
    assert torch.equal(change(batch.images, scalar(0.0), rng), batch.images)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16)])
def test_blits_only_move_pixels(shape) -> None:
    images = torch.arange(1.0, 1 + np.prod(shape[1:]), dtype=torch.float64).reshape(1, 1, *shape[1:])
    images = images.expand(500, *shape)
    found = blit(images, scalar(1.0), stream())
    for image in found:
        assert set(image.flatten().tolist()) <= set(images[0].flatten().tolist())
    assert (found == images).flatten(1).all(1).double().mean() < 0.1


def test_each_blit_takes_place_with_probability_p() -> None:
    """By the orientation of the middle of the image, where moves do not matter, and by the moves."""
    count, p = 20_000, 0.4
    i, j = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    image = torch.stack([i, j]).double()
    found = blit(image.expand(count, 2, 16, 16), scalar(p), stream())
    # how the two coordinates grow downwards and to the right tells flip and rotation
    down, right = found[:, :, 8, 7] - found[:, :, 7, 7], found[:, :, 7, 8] - found[:, :, 7, 7]
    turned = down[:, 0] == 0
    handedness = down[:, 0] * right[:, 1] - down[:, 1] * right[:, 0]
    within_chance(handedness < 0, p / 2, "flips")
    within_chance(turned, p / 2, "quarter turns")
    upside_down = ~turned & (down[:, 0] < 0)
    within_chance(upside_down, p / 4, "half turns")
    plain = ~turned & (down[:, 0] > 0) & (handedness > 0)
    move = (7 - found[plain][:, 0, 7, 7], 7 - found[plain][:, 1, 7, 7])
    moved = (move[0] != 0) | (move[1] != 0)
    within_chance(moved, p * 24 / 25, "moves")
    for by in move:
        assert set(by.tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
        within_chance(by[moved] == 2, 5 / 24, "moves by 2")


def test_each_colour_changes_with_probability_p_by_itself() -> None:
    count, p = 4000, 0.3
    image = torch.tensor([[1.0, -1.0], [0.5, -0.5], [0.25, -0.25]], dtype=torch.float64).reshape(1, 3, 1, 2)
    found = recolor(image.expand(count, 3, 1, 2), scalar(p), stream())
    # c·(x + b), and saturation, which keeps the mean over channels
    grey = found.mean(1).squeeze(1)
    contrast = (grey[:, 0] - grey[:, 1]) / (2 * image[0, :, 0, 0].mean())
    brightness = (grey[:, 0] + grey[:, 1]) / 2 / contrast
    saturation = (found[:, 0, 0, 0] - found[:, 2, 0, 0]) / 0.75 / contrast
    changed = [(value - rest).abs() > 1e-9 for value, rest in ((brightness, 0), (contrast, 1), (saturation, 1))]
    for one, name in zip(changed, ("brightness", "contrast", "saturation"), strict=True):
        within_chance(one, p, name)
    within_chance(changed[0] & changed[1], p * p, "brightness and contrast")
    within_chance(changed[1] & changed[2], p * p, "contrast and saturation")
    standard_normal(brightness[changed[0]] / 0.2, "brightness")
    standard_normal(contrast[changed[1]].log2() / 0.5, "contrast")
    standard_normal(saturation[changed[2]].log2(), "saturation")


def test_a_rectangle_is_cut_with_probability_p() -> None:
    found = cut(torch.ones(4000, 1, 8, 8), scalar(0.3), stream())
    zeros = (found == 0).sum((1, 2, 3))
    within_chance(zeros > 0, 0.3, "cuts")
    assert zeros.max() == 16
    assert zeros[zeros > 0].min() == 4  # a quarter of it is inside at least


@given(gs.rng(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_images_type_is_kept(rng, dtype) -> None:
    images = torch.zeros((2, 3, 8, 8), dtype=dtype)
    for change in (blit, recolor, cut):
        assert change(images, scalar(0.5), rng).dtype == dtype


def test_gradients_pass_through_all_changes() -> None:
    images, weights, direction = noise(3, 8, 3, 8, 8)

    def shown(images: Tensor) -> Tensor:
        rng = stream()
        p = scalar(0.8)
        return (cut(recolor(blit(images, p, rng), p, rng), p, rng) * weights).sum()

    images.requires_grad_()
    (slope,) = torch.autograd.grad(shown(images), images)
    expected = (shown(images + 1e-3 * direction) - shown(images)).detach() / 1e-3
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-9, atol=1e-9)
    assert slope.abs().sum() > 1


# ---------------------------------------------------------------- in a run


def test_samples_are_those_of_the_generator() -> None:
    game = IMAGES.with_trick("adaptive_augment", start=1.0).train(2).game
    z = Rng(0, "sampling/latents", Clock(), dtype=torch.float64).normal((64, 4))
    with torch.no_grad():
        expected = game.generator.eval()(z)[:5]
    assert torch.equal(torch.from_numpy(sampling.sample(game, 5, seed=0)), expected.float())


def test_the_defaults_are_the_papers() -> None:
    options = AdaptiveAugment.Config()
    assert (options.target, options.speed, options.interval, options.start) == (0.6, 500_000, 4, 0)
    assert (options.blit, options.color, options.cutout) == (True, True, False)


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError, match="needs images"):
        TrickHost().with_trick("adaptive_augment").plan()


class Differences(Trick):
    """An objective of differences of outputs alone, where no output means "undecided"."""

    @hookimpl
    def adversarial_loss(self):
        raise NotImplementedError


def test_an_objective_without_a_decision_is_refused() -> None:
    with pytest.raises(UserError, match="needs decision"):
        IMAGES.with_trick(Differences).with_trick("adaptive_augment").plan()


@pytest.mark.parametrize("wrong", [{"start": 1.1}, {"speed": 0.0}, {"target": 2.0}, {"interval": 0}])
def test_options_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        IMAGES.with_trick("adaptive_augment", **wrong).plan()
