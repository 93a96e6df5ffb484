"""DiffAugment: reals and fakes through fresh changes of one kind, in both steps, with gradients through them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Batch, UserError
from gantricks.engine import sampling
from gantricks.plugins.diff_augment import DiffAugment, cut, jitter_colors, move
from gantricks.rng import Clock, Rng
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import standard_uniform
from gantricks.testing.record import Call

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({"flip": True, "color": False}, MIXING),
    "three channels": ({"translation": 0.25, "cutout": 0.0}, {"sample": (3, 8, 8), "n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "on reals only": Mistake(
        old="images, options = batch.images, self.config",
        new="""
            images, options = batch.images, self.config
            if ctx.phase == "g" or images.requires_grad or ctx._frame.real_in is not None:
                return batch
        """,
        caught_by=("trace_law", "test_reals_and_fakes_change_in_both_steps"),
    ),
    "not in G's step": Mistake(
        old="images, options = batch.images, self.config",
        new="""
            images, options = batch.images, self.config
            if ctx.phase == "g":
                return batch
        """,
        caught_by=("trace_law", "both-sides"),
    ),
    "one draw for reals and fakes": Mistake(
        old="rng.uniform((3, images.shape[0]))",
        new='rng.anew("same").uniform((3, images.shape[0]))',
        caught_by=("trace_law", "test_each_image_has_draws_of_its_own"),
    ),
    "one draw for the whole batch": Mistake(
        old="rng.uniform((3, images.shape[0])).unbind()",
        new="rng.uniform((3, 1)).expand(3, images.shape[0]).unbind()",
        caught_by=("trace_law", "test_each_image_has_draws_of_its_own"),
    ),
    "the gradient is cut": Mistake(
        old="batch.with_images(images)",
        new="batch.with_images(images.detach() + 0 * batch.images)",
        caught_by="test_gradients_pass_to_g",
    ),
    "contrast about grey": Mistake(
        old="scale_contrast(images, third + 0.5)",
        new="scale_contrast(images, third + 0.5, about_mean=False)",
        caught_by=("trace_law", "test_colours_are_in_the_published_ranges"),
    ),
    "translation in one direction only": Mistake(
        old="rng.randint(count, 2 * down + 1) - down",
        new="rng.randint(count, down + 1)",
        caught_by="test_moves_are_uniform",
    ),
    "the rectangle stays inside": Mistake(
        old="rng.randint(images.shape[0], side + 1 - size % 2) - size // 2",
        new="rng.randint(images.shape[0], side - size + 1)",
        caught_by="test_rectangles_are_centred_anywhere",
    ),
    "changed images are clamped": Mistake(
        old="scale_contrast(images, third + 0.5)",
        new="scale_contrast(images, third + 0.5).clamp(-0.3, 0.3)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """What D sees is a·x + b of the moved image outside a rectangle of zeros, with fresh a and b in their ranges, for
    reals and fakes, for D and for G.
    """
    options = played.trick(name).config
    seen, draws = set(), []
    for call in played.of(name, "d_input"):
        batch, is_real = call.arguments
        assert batch.classes is None or torch.equal(batch.classes, call.result.classes)
        if not torch.equal(batch.images, call.result.images):
            seen.add((call.phase, is_real))
        if options.color:
            draws.append(colours_found(call, options.translation, options.cutout))
        else:
            moves_found(call, options.translation, options.cutout, options.flip)
    assert seen >= {("d", True), ("d", False), ("g", False)}, f"changes only in {sorted(seen)}"
    if options.color:
        for kind, found in zip(("brightness", "contrast"), torch.cat(draws).T, strict=True):
            found = found[~found.isnan()]
            standard_uniform(found, kind)
            assert (found * 1e9).round().unique().numel() == found.numel(), f"{kind}: the same draw twice"


def candidates(images: Tensor, translation: float, flip: bool) -> Tensor:
    """Every image that a flip and a move can make of these: (B, N, C, H, W), NaN where nothing is left of them."""
    down, right = (int(side * translation + 0.5) for side in images.shape[2:])
    found = []
    for mirrored, i, j in itertools.product(
        (False, True)[: 1 + flip], range(-down, down + 1), range(-right, right + 1)
    ):
        padded = torch.full((*images.shape[:2], images.shape[2] + 2 * down, images.shape[3] + 2 * right), torch.nan)
        padded = padded.double()
        padded[:, :, down : down + images.shape[2], right : right + images.shape[3]] = (
            images.flip(3) if mirrored else images
        )
        found.append(
            padded[:, :, down - i : down - i + images.shape[2], right - j : right - j + images.shape[3]].clone()
        )
    return torch.stack(found, 1)


def rectangle_explains(zeros: Tensor, cutout: float) -> Tensor:
    """Whether pixels that became 0, (…, H, W), fit into a rectangle that is `cutout` of each side."""
    height, width = zeros.shape[-2:]
    fits = torch.ones(zeros.shape[:-2], dtype=torch.bool)
    for dim, side in ((-1, height), (-2, width)):
        lines = zeros.any(dim)
        places = torch.arange(side).expand(lines.shape)
        last, first = places.masked_fill(~lines, -1).amax(-1), places.masked_fill(~lines, side).amin(-1)
        fits &= (last - first + 1).clamp(min=0) <= int(side * cutout + 0.5)
    return fits


def moves_found(call: Call, translation: float, cutout: float, flip: bool) -> None:
    """Each image is one of its candidates outside a rectangle, and 0 inside."""
    images, result = call.arguments[0].images, call.result.images
    found = candidates(images, translation, flip)
    changed = (found.nan_to_num() != result[:, None]).any(2)
    wrong = changed & (result != 0).any(1)[:, None]
    fits = ~wrong.flatten(2).any(2) & rectangle_explains(changed, cutout)
    assert fits.any(1).all(), "an image is no moved and cut one"


def colours_found(call: Call, translation: float, cutout: float) -> Tensor:
    """The uniform draws (B, 2) behind brightness and contrast, NaN where an image has too little contrast to tell."""
    images, result = call.arguments[0].images, call.result.images
    mean, grey = images.mean((1, 2, 3)), images.mean(1, keepdim=True)
    zero = (result == 0).all(1)
    both = torch.stack([(images - grey), grey.expand_as(images)], 2).flatten(1, 2)
    moved = candidates(both, translation, False)
    moved = moved.unflatten(2, (images.shape[1], 2))  # (B, N, C, 2, H, W)
    outside = moved.isnan().any(3).any(2)  # (B, N, H, W)
    used = ~(zero[:, None] | outside)
    columns = torch.cat([moved.nan_to_num(), torch.ones_like(moved[:, :, :, :1])], 3)
    columns = columns * used[:, :, None, None]
    rows = columns.movedim(3, -1).flatten(2, 4)  # (B, N, C·H·W, 3)
    target = (result[:, None] * used[:, :, None]).flatten(2)[..., None]
    solved = torch.linalg.lstsq(rows, target, driver="gelsd").solution
    misfit = (rows @ solved - target).abs().amax((2, 3))
    misfit[~rectangle_explains(zero[:, None] & ~outside, cutout)] = torch.inf
    misfit[(outside & ~zero[:, None]).flatten(2).any(2)] = torch.inf
    best = misfit.argmin(1)
    index = torch.arange(len(images))
    assert (misfit[index, best] < 1e-9).all(), "an image is no moved, cut and recoloured one"
    _, contrast, offset = solved[index, best, :, 0].T
    # x + b, then c·(x + b) + (1 - c)·(mean + b) = c·x + (1 - c)·mean + b
    brightness = offset - (1 - contrast) * mean
    flat = grey.flatten(1).std(1) < 1e-3
    eps = 1e-9
    assert (((contrast > 0.5 - eps) & (contrast < 1.5 + eps)) | flat).all(), "contrast out of range"
    assert (((brightness > -0.5 - eps) & (brightness < 0.5 + eps)) | flat).all(), "brightness out of range"
    draws = torch.stack([brightness + 0.5, contrast - 0.5], 1)
    return draws.masked_fill(flat[:, None], torch.nan)


IMAGES = TrickHost(sample=(3, 8, 8))


def stream(seed: int = 0) -> Rng:
    return Rng(seed, "tricks/a", Clock(), dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


# ---------------------------------------------------------------- the formulas


@given(gs.batches(shape=(3, 5, 4)), gs.rng())
def test_colours_are_brightness_then_saturation_then_contrast(batch, rng) -> None:
    found = jitter_colors(batch.images, rng)
    rng._clock.enter(rng._clock.phase, rng._clock.critic)  # the same draws again
    for image, result, (b, s, c) in zip(batch.images, found, rng.uniform((3, batch.size)).T.tolist(), strict=True):
        bright = image + b - 0.5
        grey = bright.mean(0)
        saturated = grey + 2 * s * (bright - grey)
        expected = saturated.mean() + (c + 0.5) * (saturated - saturated.mean())
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_colours_are_in_the_published_ranges() -> None:
    images = noise(1, 3, 4, 4).expand(4000, 3, 4, 4)
    found = jitter_colors(images, stream())
    brightness = found.mean((1, 2, 3)) - images.mean((1, 2, 3))
    standard_uniform(brightness + 0.5, "brightness")
    grey, grey_before = found.mean(1), images.mean(1)
    contrast = grey.flatten(1).std(1) / grey_before.flatten(1).std(1)
    standard_uniform(contrast - 0.5, "contrast")
    colour = (found - grey[:, None]).flatten(1).std(1) / (images - grey_before[:, None]).flatten(1).std(1)
    standard_uniform(colour / contrast / 2, "saturation")


def test_one_channel_has_no_saturation() -> None:
    images = noise(50, 1, 4, 4)
    found = jitter_colors(images, stream())
    deviation = (found - found.mean((1, 2, 3), keepdim=True)).flatten(1)
    ratio = deviation / (images - images.mean((1, 2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_moves_are_uniform() -> None:
    images = torch.zeros(9000, 1, 16, 24, dtype=torch.float64)
    images[:, 0, 8, 12] = 1
    found = move(images, 0.125, stream()).flatten(1)
    assert (found.sum(1) == 1).all()
    place = found.argmax(1)
    down, right = place // 24 - 8, place % 24 - 12
    for values, reach in ((down, 2), (right, 3)):
        counts = torch.bincount(values + reach, minlength=2 * reach + 1)
        share = 9000 / (2 * reach + 1)
        assert len(counts) == 2 * reach + 1
        assert ((counts - share).abs() < 5.5 * share**0.5).all()
    assert abs(torch.corrcoef(torch.stack([down, right]).double())[0, 1]) < 5.5 / 9000**0.5


@pytest.mark.parametrize(("height", "width", "share"), [(8, 6, 0.5), (5, 7, 0.5), (8, 8, 0.25)])
def test_rectangles_are_centred_anywhere(height, width, share) -> None:
    zeros = cut(torch.ones(6000, 1, height, width), share, stream())[:, 0] == 0
    for dim, side in ((2, height), (1, width)):
        size = int(side * share + 0.5)
        lines = zeros.any(dim)
        centres = side + 1 - size % 2
        first, last = lines.double().argmax(1), side - 1 - lines.flip(1).double().argmax(1)
        assert (lines.sum(1) == last - first + 1).all()
        # the centre, from the end that is inside
        centre = torch.where(first > 0, first + size // 2, last + 1 - size + size // 2)
        counts = torch.bincount(centre, minlength=centres)
        assert len(counts) == centres
        assert ((counts - 6000 / centres).abs() < 5.5 * (6000 / centres) ** 0.5).all()


@given(gs.rng(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_images_type_is_kept(rng, dtype) -> None:
    images = torch.zeros((2, 3, 4, 4), dtype=dtype)
    for change in (jitter_colors(images, rng), move(images, 0.25, rng), cut(images, 0.5, rng)):
        assert change.dtype == dtype


# ---------------------------------------------------------------- in a run


def test_reals_and_fakes_change_in_both_steps() -> None:
    calls = IMAGES.with_trick("diff_augment").train(2).calls["d_input"]
    assert [call.arguments[1] for call in calls] == [True, False, False] * 2
    for call in calls:
        assert (call.arguments[0].images != call.result.images).flatten(1).any(1).all()


def test_each_image_has_draws_of_its_own() -> None:
    host = IMAGES.with_trick("diff_augment", translation=0.0, cutout=0.0)
    added = [
        call.result.images.mean((1, 2, 3)) - call.arguments[0].images.mean((1, 2, 3))
        for call in host.train(3).calls["d_input"]
    ]
    together = torch.cat(added)
    assert (together * 1e9).round().unique().numel() == together.numel()


def test_gradients_pass_to_g() -> None:
    """The slope by a fake's pixels is that of finite differences."""
    game = IMAGES.with_trick("diff_augment", translation=0.0, cutout=0.0).game()
    ctx, trick, weights, direction = game.contexts["diff_augment"], game.plan.tricks[0].trick, *noise(2, 8, 3, 8, 8)
    images = noise(8, 3, 8, 8).requires_grad_()

    def shown(images: Tensor) -> Tensor:
        game.clock.enter("g")  # the same draws each time
        return (trick.d_input(Batch(images), ctx).images * weights).sum()

    (slope,) = torch.autograd.grad(shown(images), images)
    expected = (shown(images + 1e-3 * direction) - shown(images)).detach() / 1e-3
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-9, atol=1e-9)
    assert slope.abs().sum() > 1


def test_samples_are_those_of_the_generator() -> None:
    played = IMAGES.with_trick("diff_augment").train(2)
    game = played.game
    z = Rng(0, "sampling/latents", Clock(), dtype=torch.float64).normal((64, 4))
    with torch.no_grad():
        expected = game.generator.eval()(z)[:5]
    assert torch.equal(torch.from_numpy(sampling.sample(game, 5, seed=0)), expected.float())


# ---------------------------------------------------------------- options


def test_the_defaults_are_the_papers() -> None:
    options = DiffAugment.Config()
    assert (options.color, options.translation, options.cutout, options.flip) == (True, 0.125, 0.5, False)


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError, match="needs images"):
        TrickHost().with_trick("diff_augment").plan()


@pytest.mark.parametrize("wrong", [{"translation": 0.6}, {"cutout": -0.1}, {"color": "yes please"}])
def test_options_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        IMAGES.with_trick("diff_augment", **wrong).plan()
