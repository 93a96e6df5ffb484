"""The pictures of the trick pages, computed by calling the tricks' own functions. docs/build.py writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import torch
from plot import BLUE, GREEN, INK, ORANGE, PURPLE, Axes, Axis, Canvas
from torch import Tensor, nn
from torch.nn.functional import batch_norm, binary_cross_entropy_with_logits

from gantricks import Batch, Discriminator, Out, Rng, slerp
from gantricks.engine.step import score_jointly
from gantricks.plugins.batch_size_schedule import BatchSizeSchedule, batch_size_at
from gantricks.plugins.ema import follow_, share_at
from gantricks.plugins.experience_replay import ExperienceReplay, insert, replay
from gantricks.plugins.gradient_clipping import clip_
from gantricks.plugins.historical_averaging import add_gradient_, join_means_
from gantricks.plugins.instance_noise import InstanceNoise, add_noise
from gantricks.plugins.instance_norm import instance_norm_like
from gantricks.plugins.label_flipping import LabelFlipping, flip, steps_left
from gantricks.plugins.label_smoothing import LabelSmoothing, smooth
from gantricks.plugins.leaky_relu import LeakyRelu, leak
from gantricks.plugins.least_squares import least_squares_loss
from gantricks.plugins.lr_decay import decayed
from gantricks.plugins.minibatch_discrimination import initial_scale, similarity
from gantricks.plugins.minibatch_stddev import deviation
from gantricks.plugins.minimax import generator_loss
from gantricks.plugins.n_critic_schedule import NCriticSchedule, critic_steps
from gantricks.plugins.separate_batches import SeparateBatches
from gantricks.plugins.sgd_discriminator import sgd
from gantricks.plugins.soft_labels import SoftLabels, soften
from gantricks.plugins.spherical_latents import to_cube, to_sphere
from gantricks.plugins.strided_downsampling import strided_convolution
from gantricks.plugins.virtual_batch_norm import virtual_batch_norm
from gantricks.rng import Clock

PROGRESS = {0: "0", 0.25: "", 0.5: "1/2", 0.75: "", 1: "1"}


@dataclass(frozen=True)
class Picture:
    """A drawing, and a sentence that says what to see. What is read to those who do not see it is its title."""

    canvas: Canvas
    caption: str


PICTURES: dict[str, Callable[[], Picture]] = {}
"""What draws the picture of a trick, by the trick's name."""


def _of(trick: str) -> Callable[[Callable[[], Picture]], Callable[[], Picture]]:
    def add(draw: Callable[[], Picture]) -> Callable[[], Picture]:
        PICTURES[trick] = cache(draw)
        return draw

    return add


def _rng(seed: int = 0) -> Rng:
    return Rng(seed, "docs", Clock(), dtype=torch.float64)


def _span(low: float, high: float, count: int = 121) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)


class Evenly:
    """In the place of a random stream: U[0, 1) as `n` evenly spaced numbers, so that a histogram has no noise."""

    def uniform(self, shape: Any) -> Tensor:
        count = math.prod(shape)
        return ((torch.arange(count, dtype=torch.float64) + 0.5) / count).reshape(shape)


def _histogram(axes: Axes, values: Tensor, width: float, colour: str) -> None:
    """Bars of `width` (data units), as high as the share of `values` in them, in percent."""
    bins = (values.flatten() / width + 1e-9).floor().long()
    for number, count in zip(*(found.tolist() for found in bins.unique(return_counts=True)), strict=True):
        axes.box(number * width, (number + 1) * width, 0, 100 * count / len(bins), colour)


# ---------------------------------------------------------------- targets


@_of("soft_labels")
def _soft_targets() -> Picture:
    options, evenly = SoftLabels.Config(), cast(Rng, Evenly())
    canvas = Canvas("Histogram of D's targets: even from 0 to 0.3 for fakes, even from 0.7 to 1.2 for reals.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("target t", -0.1, 1.3, [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]),
        Axis("% of the targets, in steps of 0.05", 0, 20, [0, 10, 20]),
    )
    for called, colour in ((False, ORANGE), (True, BLUE)):
        is_real = torch.full((6000, 1), called)
        drawn = soften(is_real.double(), is_real, options.real, options.fake, evenly)
        _histogram(axes, drawn, 0.05, colour)
        name, (low, high) = ("reals", options.real) if called else ("fakes", options.fake)
        told = f"{name}: U({low:g}, {high:g})"
        if called:
            axes.label(low, 7, told, colour, "end", dx=-8)
        else:
            axes.label(high, 14, told, colour, dx=8)
        axes.mark(x=float(called))
    return Picture(
        canvas,
        "D's targets are spread around the plain labels 0 and 1 (dashed), and some of the reals' lie above 1.",
    )


@_of("label_smoothing")
def _smoothed_loss() -> Picture:
    canvas = Canvas(
        "D's loss on one real against its logit: at target 1 it falls without end, at target 0.9 it is least at 2.2."
    )
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("logit s of D on a real", -2, 8, [-2, 0, 2, 4, 6, 8]),
        Axis("D's loss on it, BCE(s, t), in nats", 0, 2, [0, 0.5, 1, 1.5, 2]),
    )
    logits, real = _span(-2, 8), torch.ones((121, 1), dtype=torch.float64)
    alpha = LabelSmoothing.Config().real
    smoothed = smooth(real, real > 0, alpha)
    for targets, colour, name in ((real, INK, "t = 1: falls for ever"), (smoothed, GREEN, f"t = {alpha:g}")):
        losses = binary_cross_entropy_with_logits(logits[:, None], targets, reduction="none")[:, 0]
        axes.curve(logits.tolist(), losses.tolist(), colour)
        axes.label(6.5, losses[102].item(), name, colour, "middle", dy=-8)
    best = math.log(alpha / (1 - alpha))
    axes.mark(x=best, colour=GREEN)
    axes.label(best, 1.7, f"best logit: log(0.9 / 0.1) = {best:.1f}", GREEN, dx=8)
    return Picture(canvas, "With the target 0.9 there is a best logit, and a D that goes beyond it is pulled back.")


@_of("label_flipping")
def _flips() -> Picture:
    canvas = Canvas("Which labels are flipped, over 60 steps: single ones scattered evenly, or all of them in bursts.")
    steps, batch = 60, 12
    every, length = 20, 3
    called = torch.ones((batch, 1), dtype=torch.bool)
    rng, p = _rng(), LabelFlipping.Config().p
    assert isinstance(p, float)
    scattered = [flip(called, rng.bernoulli(called.shape, p)) for _ in range(steps)]

    bursts, left, true_steps = [], torch.tensor(0.0), 0
    for _ in range(steps):
        bursts.append(flip(called, left > 0))
        true_steps = 0 if left > 0 else true_steps + 1
        left = steps_left(left, torch.tensor(true_steps >= every - length), length)

    titles = ('mode = "per_image"', 'mode = "burst"')
    for place, title, assigned in zip(canvas.panels(2), titles, (scattered, bursts), strict=True):
        x, y = Axis("step", 0, steps, [0, 20, 40, 60]), Axis("image of the batch", 0, batch, [0, 6, 12])
        axes = Axes(canvas, place, x, y, title)
        for step, real in enumerate(assigned):
            flipped = [image for image in range(batch) if not real[image]]
            if len(flipped) == batch:
                axes.box(step, step + 1, 0, batch, GREEN)
            else:
                for image in flipped:
                    axes.box(step, step + 1, image, image + 1, GREEN)
    return Picture(canvas, "Each mark is a wrong label: one image here and there, or the whole batch for a few steps.")


# ---------------------------------------------------------------- batches and inputs


@_of("instance_noise")
def _fading_noise() -> Picture:
    sigma = InstanceNoise.Config().sigma
    assert not isinstance(sigma, float)
    canvas = Canvas("What D sees of a pixel of value 0 over a run: noise of deviation 0.1 that narrows to nothing.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("share of the run", 0, 1, PROGRESS),
        Axis("value that D sees of a pixel which is 0, in an image in [−1, 1]", -0.3, 0.3, [-0.2, 0, 0.2]),
    )
    progress, rng = _span(0, 1, 401), _rng()
    deviations = [sigma.at(share) for share in progress.tolist()]
    seen = [
        add_noise(torch.zeros(1, dtype=torch.float64), torch.tensor(deviation), rng).item() for deviation in deviations
    ]
    axes.dots(progress.tolist(), seen, GREEN)
    for side in (-2, 2):
        axes.curve([0, 1], [side * sigma.at(0), side * sigma.at(1)], INK, 1.5, "5 4")
    axes.label(0.5, 2 * sigma.at(0.5), "± 2σ", dx=4, dy=-8)
    return Picture(canvas, "The noise is strongest at the start and gone in the last step; it is never clamped.")


@_of("experience_replay")
def _ages() -> Picture:
    options, batch, steps = ExperienceReplay.Config(), 64, 600
    buffer = Batch(torch.zeros((options.capacity, 1), dtype=torch.float64))
    filled, healthy, rng = torch.tensor(0.0), torch.tensor(1.0), _rng()
    ages = []
    for step in range(steps):
        fakes = Batch(torch.full((batch, 1), float(step), dtype=torch.float64))
        shown = replay(fakes, buffer, filled, options.p, rng)
        insert(fakes, buffer, filled, healthy, rng)
        if step >= steps // 2:
            ages.append(step - shown.images)
    shares = torch.cat(ages).flatten().long().bincount(minlength=25) * 100 / (len(ages) * batch)

    canvas = Canvas("Age of the fakes that D is shown: half are new, the rest mostly 1 to 15 D steps old.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("age of a fake that D is shown, in D steps", -0.5, 24.5, [0, 5, 10, 15, 20]),
        Axis(
            f"% of the fakes (batches of {batch}, p = {options.p:g}, capacity = {options.capacity})",
            0,
            60,
            [0, 20, 40, 60],
        ),
    )
    for age, share in enumerate(shares[:25].tolist()):
        axes.box(age - 0.5, age + 0.5, 0, share, GREEN if age else ORANGE)
    axes.label(0.5, shares[0].item(), "made just now", ORANGE, dx=8, dy=12)
    axes.label(4, shares[4].item(), "from the buffer", GREEN, dx=8, dy=-12)
    return Picture(canvas, "Half of what D sees is what G makes now; the rest is its past, the recent past most often.")


@_of("separate_batches")
def _passes() -> Picture:
    def discriminator(images: Tensor, classes: Tensor | None) -> Out:
        features = batch_norm(images, None, None, training=True)
        return Out(features.square().sum((1, 2, 3)).reshape(-1, 1), features.flatten(1))

    def scores(separately: bool) -> Callable[[Tensor], Tensor]:
        def score(x: Tensor) -> Tensor:
            real, fake = Batch(x[:6]), Batch(x[6:])
            if separately:
                ctx: Any = SimpleNamespace(discriminator=discriminator)
                outs = SeparateBatches(SeparateBatches.Config()).d_scores(real, fake, ctx)
            else:
                outs = score_jointly(cast(Discriminator, discriminator), real, fake)
            return torch.cat([out.logits for out in outs])

        return score

    canvas = Canvas(
        "Whose pixels move whose score in a D with batch norm: in one pass everybody's, in two passes reals move reals "
        "only and fakes move fakes only.",
        height=316,
    )
    x = _rng().normal((12, 1, 4, 4))
    for place, title, separately in zip(canvas.panels(2), ("one pass", "two passes"), (False, True), strict=True):
        kinds = [("reals", 6, BLUE), ("fakes", 6, ORANGE)]
        _dependence(
            canvas, place, title, scores(separately), x, kinds, kinds, "the score of", "depends on the pixels of"
        )
    return Picture(
        canvas,
        "A filled square: the score of the row's image depends on the column's image; in two passes no real bears on "
        "a fake.",
    )


@_of("spherical_latents")
def _lengths() -> Picture:
    dim = 100
    z = _rng().normal((4000, dim))
    canvas = Canvas(
        "Left: lengths of latents of 100 dimensions; on the sphere all are 10, normal ones 8 to 12, uniform ones 5 to "
        "6.5. Right: half-way between two latents a straight line is at length 7, slerp at 10."
    )
    first, second = canvas.panels(2)
    axes = Axes(
        canvas,
        first,
        Axis(f"length ‖z‖ of a latent, D = {dim}", 4, 13, [4, 6, 8, 10, 12]),
        Axis("% of the latents, in steps of 0.25", 0, 100, [0, 50, 100]),
    )
    for latents, colour, name, at in (
        (to_cube(z), PURPLE, "uniform", (5.8, 48)),
        (z, INK, "normal", (8.4, 20)),
        (to_sphere(z) * (1 + 1e-9), GREEN, "sphere", (11.6, 90)),
    ):
        _histogram(axes, latents.norm(dim=1), 0.25, colour)
        axes.label(*at, name, colour, "middle")

    a, b = to_sphere(_rng(1).normal((2, dim)))
    b = to_sphere((b - (a @ b) / dim * a)[None])[0]  # as far apart as two latents usually are: a right angle
    shares = _span(0, 1, 41)
    axes = Axes(
        canvas,
        second,
        Axis("share of the way between two latents", 0, 1, {0: "0", 0.5: "1/2", 1: "1"}),
        Axis("length ‖z‖ on the way", 6, 11, [6, 7, 8, 9, 10, 11]),
    )
    straight = torch.stack([torch.lerp(a, b, t) for t in shares]).norm(dim=1)
    round_it = torch.stack([slerp(a, b, t) for t in shares]).norm(dim=1)
    axes.curve(shares.tolist(), straight.tolist(), INK)
    axes.curve(shares.tolist(), round_it.tolist(), GREEN)
    axes.label(0.5, 10, "slerp", GREEN, "middle", dy=-8)
    axes.label(0.5, straight[20].item(), "straight line", INK, "middle", dy=18)
    return Picture(
        canvas,
        "Latents on the sphere have one length, and slerp keeps it where a straight line leads through the middle.",
    )


# ---------------------------------------------------------------- networks


@_of("virtual_batch_norm")
def _reference() -> Picture:
    n, live = 6, 6
    draw = _rng().normal((n + live, 1, 4, 4))
    weight, bias = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    canvas = Canvas(
        "Which sample's values move which sample's output: with batch norm each live sample's move every other's; with "
        "virtual batch norm those of the reference batch and its own.",
        height=208,
    )
    samples, both = [("live batch", live, BLUE)], [("reference", n, GREEN), ("live batch", live, BLUE)]
    first, second = canvas.panels(2)
    _dependence(
        canvas,
        first,
        "batch norm",
        lambda x: batch_norm(x, None, None, training=True),
        draw[n:],
        samples,
        samples,
        "the output of",
        "depends on the values of",
    )
    _dependence(
        canvas,
        second,
        "virtual batch norm",
        lambda x: virtual_batch_norm(x, n, weight, bias)[n:],
        draw,
        samples,
        both,
        "the output of",
        "depends on the values of",
    )
    return Picture(
        canvas,
        "A filled square: the output of the row's sample depends on the column's; no live sample depends on another, "
        "and the statistics come from the reference batch.",
    )


@_of("instance_norm")
def _by_itself() -> Picture:
    x = _rng().normal((6, 1, 4, 4))
    norm = instance_norm_like(nn.BatchNorm2d(1).double())
    canvas = Canvas(
        "Which sample's values move which sample's output: with batch norm everybody's, with instance norm its own.",
        height=208,
    )
    samples = [("live batch", 6, BLUE)]
    first, second = canvas.panels(2)
    _dependence(
        canvas,
        first,
        "batch norm",
        lambda x: batch_norm(x, None, None, training=True),
        x,
        samples,
        samples,
        "the output of",
        "depends on the values of",
    )
    _dependence(canvas, second, "instance norm", norm, x, samples, samples, "the output of", "depends on the values of")
    return Picture(
        canvas,
        "A filled square: the output of the row's sample depends on the column's; with instance norm on its own alone.",
    )


@_of("leaky_relu")
def _leak() -> Picture:
    slope = LeakyRelu.Config().slope
    canvas = Canvas("ReLU is flat below 0, LeakyReLU falls there with slope 0.2; above 0 they are the same.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("input x of a unit", -3, 3, [-3, -2, -1, 0, 1, 2, 3]),
        Axis("its output f(x)", -1.2, 3, [-1, 0, 1, 2, 3]),
    )
    plain = nn.Sequential(nn.ReLU())
    leaking = nn.Sequential(nn.ReLU())
    leak(leaking, slope)
    x = torch.tensor([-3.0, 0.0, 3.0])
    axes.curve(x.tolist(), leaking(x).tolist(), GREEN)
    axes.curve(x.tolist(), plain(x).tolist(), INK)
    axes.label(-2, 0, "ReLU: no gradient comes back", INK, "middle", dy=-8)
    axes.label(-1.2, slope * -1.2, f"LeakyReLU: {slope:g} of it does", GREEN, dy=18)
    return Picture(canvas, "Below zero a unit still passes a fifth of the gradient, so none is ever lost.")


@_of("minibatch_discrimination")
def _similarities() -> Picture:
    batch, kernels, dim = 64, 20, 5
    rows = _rng().normal((batch, kernels, dim))
    rows *= initial_scale(rows)
    spreads = _span(0, 4, 41)
    canvas = Canvas(
        "Similarity of a sample to its batch of 64: 63 where all samples are the same, 24 at the usual spread."
    )
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("spread of the batch, in units of that of real samples at the start", 0, 4, [0, 1, 2, 3, 4]),
        Axis(f"similarity o of a sample to the rest of its batch of {batch}", 0, 75, [0, 21, 42, 63]),
    )
    similar = torch.stack([similarity(spread * rows).mean() for spread in spreads])
    axes.curve(spreads.tolist(), similar.tolist(), GREEN)
    axes.dot(0, similar[0].item(), GREEN)
    axes.label(0, similar[0].item(), "a collapsed batch: B − 1", GREEN, dx=6, dy=-8)
    axes.dot(1, similar[10].item(), GREEN)
    axes.label(1, similar[10].item(), f"real samples: {similar[10].item():.0f}", GREEN, dx=8, dy=-6)
    return Picture(
        canvas, "The more alike a batch is, the larger the numbers that D is told; it sees a collapse at once."
    )


@_of("minibatch_stddev")
def _deviations() -> Picture:
    batch, width, group = 64, 20, 4
    rows = _rng().normal((batch, width))
    spreads = _span(0, 4, 9)
    canvas = Canvas(
        "The number that minibatch stddev appends is proportional to the spread of the batch, 0 at a collapse."
    )
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("standard deviation of the features over the data", 0, 4, [0, 1, 2, 3, 4]),
        Axis(f"number appended, the mean over a batch of {batch} in groups of {group}", 0, 4, [0, 2, 4]),
    )
    told = [deviation(spread * rows, group).mean().item() for spread in spreads]
    axes.curve([0, 4], [0, 4], INK, 1.5, "5 4")
    axes.label(3, 3, "the deviation itself", INK, "end", dx=-12, dy=-4)
    axes.curve(spreads.tolist(), told, GREEN)
    axes.label(3.4, told[7], "what D is told", GREEN, dx=-30, dy=26)
    axes.dot(0, told[0], GREEN)
    return Picture(
        canvas,
        "D is told how much the batch varies (somewhat less than it does, as a group is small); a collapse shows as 0.",
    )


@_of("strided_downsampling")
def _dense_gradient() -> Picture:
    size = 8
    pool = nn.MaxPool2d(2)
    strided = strided_convolution(pool, 1, (size, size)).double()
    with torch.no_grad():
        for parameter in strided.parameters():
            parameter.copy_(_rng(1).normal(parameter.shape))
    canvas = Canvas(
        "Gradient that reaches each pixel of an 8 × 8 map: one in four through max pooling, all of them through a "
        "strided convolution.",
        height=250,
    )
    for (left, top, width, _), title, layer in zip(
        canvas.panels(2), ("max pooling", "strided convolution"), (pool, strided), strict=True
    ):
        image = _rng().normal((1, 1, size, size)).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(image).square().sum(), image)
        strength = gradient[0, 0].abs().sqrt()
        side, left = 20, round(left + (width - 160) / 2)
        canvas.text(left + 80, top - 12, title, font_weight="bold")
        _cells(canvas, left, top, side, strength / strength.max(), GREEN)
        canvas.text(left + 80, top + 160 + 20, f"{int((gradient != 0).sum())} of {size * size} pixels get a gradient")
    return Picture(
        canvas, "The fuller a pixel's colour, the more gradient reaches it; a pool sends it to one pixel in four."
    )


# ---------------------------------------------------------------- objectives and gradients

Place = tuple[float, float, str]
"""A point of the data and the anchor of a text there."""


def _loss_and_gradient(
    canvas: Canvas,
    loss_axis: Axis,
    slope_axis: Axis,
    losses: Iterable[tuple[Callable[[Tensor, Tensor], Tensor], str, str, Place, Place]],
) -> None:
    """Two axes: each loss of one fake against D's output for it, and the strength of its gradient.

    A loss comes with its name, its colour, and where the name goes on either axes.
    """
    first, second = canvas.panels(2)
    x = Axis("D's output s for a fake", -6, 6, [-6, -3, 0, 3, 6])
    both = Axes(canvas, first, x, loss_axis), Axes(canvas, second, x, slope_axis)
    for loss, name, colour, *places in losses:
        outputs = _span(-6, 6, 97).requires_grad_()
        values = torch.stack([loss(s.reshape(1, 1), torch.ones(1, 1, dtype=s.dtype)) for s in outputs])
        (slopes,) = torch.autograd.grad(values.sum(), outputs)
        for axes, ys, (at_x, at_y, anchor) in zip(both, (values, slopes.abs()), places, strict=True):
            axes.curve(outputs.tolist(), ys.tolist(), colour)
            axes.label(at_x, at_y, name, colour, anchor)


@_of("minimax")
def _saturation() -> Picture:
    canvas = Canvas(
        "G's loss and its gradient against the logit: minimax is flat where D rejects a fake, the default is steep."
    )
    default, saturating = binary_cross_entropy_with_logits, generator_loss
    _loss_and_gradient(
        canvas,
        Axis("G's loss", -6, 6, [-6, -3, 0, 3, 6]),
        Axis("strength of its gradient, |dL/ds|", 0, 1.5, [0, 0.5, 1, 1.5]),
        [
            (default, "non-saturating", INK, (-3.5, 3.8, "start"), (-5.8, 1.08, "start")),
            (saturating, "minimax", GREEN, (2.5, -3.8, "end"), (5.8, 1.08, "end")),
        ],
    )
    return Picture(
        canvas, "Where D rejects a fake (left), which is how every run starts, minimax leaves G hardly any gradient."
    )


@_of("least_squares")
def _squares() -> Picture:
    canvas = Canvas(
        "G's loss and its gradient against D's output: least squares has its minimum at 1 and pulls back from both "
        "sides, the default is flat above."
    )
    default, squared = binary_cross_entropy_with_logits, least_squares_loss
    _loss_and_gradient(
        canvas,
        Axis("G's loss", 0, 8, [0, 2, 4, 6, 8]),
        Axis("strength of its gradient, |dL/ds|", 0, 3, [0, 1, 2, 3]),
        [
            (default, "non-saturating", INK, (-5.8, 0.8, "start"), (-5.8, 1.15, "start")),
            (squared, "least squares", GREEN, (1, 6.8, "middle"), (1, 2.6, "middle")),
        ],
    )
    return Picture(
        canvas, "Least squares pulls every fake to the output 1, the harder the further it is, on either side."
    )


@_of("gradient_clipping")
def _clipped() -> Picture:
    limit = 1.0
    canvas = Canvas("Length of the gradient after clipping against its length before: the same up to 1, then 1.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("length of the gradient before", 0, 4, [0, 1, 2, 3, 4]),
        Axis("length after", 0, 4, [0, 1, 2, 3, 4]),
    )
    befores, afters = [0.0, 0.5, 1.0, 2.0, 4.0], []
    for before in befores:
        gradient = torch.full((4,), before / 2)
        clip_([gradient], torch.tensor(limit))
        afters.append(gradient.norm().item())
    axes.curve([0, 4], [0, 4], INK, 1.5, "5 4")
    axes.label(3, 3, "as it was", INK, "end", dx=-12, dy=-4)
    axes.curve(befores, afters, GREEN)
    axes.label(3, limit, f"max_norm = {limit:g}", GREEN, "middle", dy=-8)
    return Picture(canvas, "Gradients within the limit are left alone, longer ones are shortened to it.")


def _f(x: float) -> float:
    return x if x < 0 else x * x


def _slope(x: float) -> float:
    return 1.0 if x < 0 else 2 * x


def _play(steps: int, strength: float, alternating: bool) -> tuple[list[float], list[float]]:
    """Where the two players of (f(x) − 1)(y − 1), x minimising and y maximising, are from (2, 2.5) on.

    Salimans et al. 2016, §3.3; gradient steps of rate 0.05. The equilibrium is (1, 1).
    """
    players = [torch.tensor([2.0], dtype=torch.float64), torch.tensor([2.5], dtype=torch.float64)]
    means, count = [player.clone() for player in players], torch.ones(())
    path = [(2.0, 2.5)]
    for _ in range(steps):
        x, y = path[-1]
        at_x = _slope(x) * (y - 1)
        at_y = 1 - _f(x - 0.05 * at_x if alternating else x)
        gradients = [torch.tensor([at_x], dtype=torch.float64), torch.tensor([at_y], dtype=torch.float64)]
        add_gradient_(gradients, players, means, torch.tensor(strength, dtype=torch.float64))
        torch._foreach_add_(players, gradients, alpha=-0.05)
        join_means_(means, count, players, torch.ones(()))
        path.append((players[0].item(), players[1].item()))
    xs, ys = zip(*path, strict=True)
    return [*xs], [*ys]


@_of("historical_averaging")
def _orbits() -> Picture:
    canvas = Canvas(
        "Paths of two players around the equilibrium (1, 1): alternating steps circle, simultaneous ones spiral out, "
        "simultaneous ones with historical averaging spiral in.",
        height=236,
    )
    games = (
        ("alternating steps", 250, 0.0, True, INK),
        ("simultaneous steps", 300, 0.0, False, ORANGE),
        ("the same, λ = 0.1", 600, 0.1, False, GREEN),
    )
    for place, (title, steps, strength, alternating, colour) in zip(canvas.panels(3), games, strict=True):
        axes = Axes(
            canvas,
            place,
            Axis("x, of one player", -2, 4, [-2, 0, 1, 2, 4]),
            Axis("y, of the other", -2, 4, [-2, 0, 1, 2, 4]),
            title,
        )
        xs, ys = _play(steps, strength, alternating)
        shown = next((i for i, x in enumerate(xs) if not -2 <= x <= 4), len(xs))
        axes.curve(xs[:shown], ys[:shown], colour, 1.5)
        axes.dot(1, 1, INK, 2.5)
        axes.dot(2, 2.5, colour, 4.5)
    return Picture(
        canvas,
        "From the large dot on, players without averaging circle the equilibrium (small dot) or drift away; with it "
        "they end there.",
    )


# ---------------------------------------------------------------- optimizers, schedules, averages


@_of("ema")
def _average() -> Picture:
    steps = 600
    times = torch.arange(steps, dtype=torch.float64)
    weight = 1 - torch.exp(-times / 60) + 0.25 * torch.sin(times / 9) + 0.1 * _rng().normal(steps)
    canvas = Canvas("A weight that swings around 1, and two moving averages of it: the longer one is calmer and later.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("step", 0, steps, [0, 100, 200, 300, 400, 500, 600]),
        Axis("weight", -0.4, 1.8, [0, 0.5, 1, 1.5]),
    )
    axes.curve(times[::2].tolist(), weight[::2].tolist(), INK, 1, opacity=0.6)
    axes.label(150, 1.6, "the weight as it is trained", INK, "middle")
    for decay, colour, at in ((0.9, PURPLE, 0.25), (0.99, GREEN, -0.1)):
        average, path = [weight[:1].clone()], []
        for count, now in enumerate(weight):
            follow_(average, [now.reshape(1)], share_at(times[count], decay, warmup=True))
            path.append(average[0].item())
        axes.curve(times.tolist(), path, colour)
        axes.label(300, at, f"decay = {decay:g}", colour, "middle")
    return Picture(
        canvas,
        "The average rests where the weight only swings; the longer it remembers, the calmer and the later it is.",
    )


@_of("sgd_discriminator")
def _step_lengths() -> Picture:
    sizes = [10**exponent for exponent in (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0)]

    def step(make: Callable[[list[Tensor]], torch.optim.Optimizer], size: float) -> float:
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = make([weight])
        for _ in range(50):
            before = weight.item()
            weight.grad = torch.tensor([size], dtype=torch.float64)
            optimizer.step()
        return before - weight.item()

    canvas = Canvas("Length of D's step against the size of its gradient: constant with Adam, proportional with SGD.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("size of a weight's gradient", 1e-5, 1, {1e-5: "10⁻⁵", 1e-3: "10⁻³", 1e-1: "10⁻¹", 1: "1"}, log=True),
        Axis("step of the weight", 1e-7, 1e-1, {1e-7: "10⁻⁷", 1e-5: "10⁻⁵", 1e-3: "10⁻³", 1e-1: "10⁻¹"}, log=True),
    )
    adam = [step(lambda weights: torch.optim.Adam(weights, 4e-4, betas=(0.5, 0.999)), size) for size in sizes]
    plain = [step(lambda weights: sgd(weights, 0.01, 0.0), size) for size in sizes]
    axes.curve(sizes, adam, INK)
    axes.curve(sizes, plain, GREEN)
    axes.label(1e-4, 4e-4, "Adam, lr 0.0004", INK, "middle", dy=-8)
    axes.label(1e-3, 1e-5, "SGD, lr 0.01", GREEN, dx=10, dy=12)
    return Picture(canvas, "Adam's steps are as long for small gradients as for large ones; SGD's shrink with it.")


@_of("lr_decay")
def _decay() -> Picture:
    canvas = Canvas("Learning rate over a run, as a share of the first: it falls to 0.5, 0.1 or 0.01, exponentially.")
    axes = Axes(
        canvas,
        canvas.panels()[0],
        Axis("share of the run", 0, 1, PROGRESS),
        Axis("learning rate, of what the recipe sets", 0, 1, [0, 0.5, 1]),
    )
    progress = _span(0, 1, 61)
    for gamma, colour, at, anchor, dx, dy in (
        (0.5, INK, 30, "start", 8, -4),
        (0.1, GREEN, 36, "start", 8, -4),
        (0.01, PURPLE, 20, "end", -8, 8),
    ):
        rates = [decayed(torch.tensor(1.0, dtype=torch.float64), gamma, share).item() for share in progress]
        axes.curve(progress.tolist(), rates, colour)
        axes.label(progress[at].item(), rates[at], f"gamma = {gamma:g}", colour, anchor, dx, dy)
    return Picture(canvas, "The rate falls fastest at the start and ends at `gamma` times what the recipe sets.")


def _change(canvas: Canvas, y: Axis, value: Callable[[float, int, int, float], int], options: Any) -> None:
    """A schedule that changes once, from `start` to `end` at `at`."""
    start, end, at = options.start, options.end, options.at
    axes = Axes(canvas, canvas.panels()[0], Axis("share of the run", 0, 1, PROGRESS | {at: f"{at:g}"}), y)
    shares = [0, math.nextafter(at, 0), at, 1]
    axes.curve(shares, [value(share, start, end, at) for share in shares], GREEN)
    axes.label(0, start, f"start = {start}", GREEN, dx=3, dy=-8)
    axes.label(1, end, f"end = {end}", GREEN, "end", dx=-3, dy=-8)


@_of("n_critic_schedule")
def _critics() -> Picture:
    canvas = Canvas("D steps for each G step over a run: 5 in the first tenth, then 1.", height=200)
    _change(canvas, Axis("D steps for each G step", 0, 6, [0, 1, 5]), critic_steps, NCriticSchedule.Config())
    return Picture(canvas, "D is brought up first, by `start` steps for each of G's; from `at` on they take turns.")


@_of("batch_size_schedule")
def _batches() -> Picture:
    canvas = Canvas("Batch size over a run: 32 in the first half, 64 in the second.", height=200)
    _change(canvas, Axis("samples in a batch", 0, 80, [0, 32, 64]), batch_size_at, BatchSizeSchedule.Config())
    return Picture(canvas, "Many cheap, noisy updates first; from `at` on, larger batches average the noise away.")


# ---------------------------------------------------------------- squares

Groups = list[tuple[str, int, str]]
"""Samples that stand together: what they are, how many there are, their colour."""


def _dependence(
    canvas: Canvas,
    place: tuple[float, float, float, float],
    title: str,
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    rows: Groups,
    columns: Groups,
    of_rows: str,
    of_columns: str,
) -> None:
    """A square for each row of `function(x)` and each row of `x`: filled where the first depends on the second."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    outputs, inputs = jacobian.shape[0], x.shape[0]
    moved = jacobian.reshape(outputs, -1, inputs, x[0].numel()).abs().amax((1, 3)) > 1e-9
    side, left, top = 18, round(place[0]) + 46, 54
    width, height = side * inputs, side * outputs
    canvas.text(left + width / 2, 18, title, font_weight="bold")
    for _, start, count, colour in _spans(columns):
        _cells(canvas, left + start * side, top, side, moved[:, start : start + count].double(), colour)
    for name, start, count, colour in _spans(rows):
        canvas.text(left - 6, top + (start + count / 2) * side + 4, name, colour, "end")
    for name, start, count, colour in _spans(columns):
        canvas.text(left + (start + count / 2) * side, top + height + 16, name, colour)
    canvas.text(left - 6, top - 8, of_rows, anchor="end")
    canvas.text(left + width / 2, top + height + 34, of_columns)


def _spans(groups: Groups) -> Iterator[tuple[str, int, int, str]]:
    """Each group with the number of its first sample."""
    start = 0
    for name, count, colour in groups:
        yield name, start, count, colour
        start += count


def _cells(canvas: Canvas, left: float, top: float, side: int, shares: Tensor, colour: str) -> None:
    """A square for each number of a matrix, the stronger the nearer it is to 1, outlined where it is 0."""
    for level in (1.0, 0.75, 0.5, 0.25):
        chosen = (shares > level - 0.25) & (shares <= level + 1e-9)
        squares = "".join(
            f"M{left + side * column + 1:g},{top + side * row + 1:g}h{side - 2}v{side - 2}h{2 - side}z"
            for row, column in chosen.nonzero().tolist()
        )
        if squares:
            canvas.add("path", d=squares, fill=colour, fill_opacity=0.9 * level)
    empty = "".join(
        f"M{left + side * column + 1:g},{top + side * row + 1:g}h{side - 2}v{side - 2}h{2 - side}z"
        for row, column in (shares == 0).nonzero().tolist()
    )
    if empty:
        canvas.add("path", d=empty, fill="none", stroke=INK, stroke_opacity=0.4)
