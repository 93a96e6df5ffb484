"""The pictures of the pages: those of the tricks are computed by calling the tricks' own functions.

`python docs/build.py` writes them. They have no background, and colours that can be read on white and on dark pages.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import games
import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D
from torch import Tensor, nn
from torch.nn.functional import batch_norm, binary_cross_entropy_with_logits

from gantricks import Batch, Discriminator, Out, Rng, slerp
from gantricks.engine.step import score_jointly
from gantricks.plugins.batch_size_schedule import BatchSizeSchedule, batch_size_at
from gantricks.plugins.ema import follow_, share_at
from gantricks.plugins.experience_replay import ExperienceReplay, insert, replay
from gantricks.plugins.gradient_clipping import clip_
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

INK, BLUE, ORANGE, GREEN, PURPLE = "#7a7a7a", "#3d7fd0", "#d2691e", "#2f8f5b", "#9a62c7"
"""Text and what there is without the trick; reals; fakes; what the trick makes of it; another thing to compare with."""

PIXEL = 0.75
"""Points of a pixel on the page."""

STYLE = matplotlib.rcParamsDefault | {
    "font.family": "DejaVu Sans",
    "font.size": 11 * PIXEL,
    "text.color": INK,
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelpad": 4 * PIXEL,
    "axes.labelsize": 11 * PIXEL,
    "axes.titlesize": 11 * PIXEL,
    "axes.titlelocation": "left",
    "axes.titlepad": 9 * PIXEL,
    "axes.linewidth": PIXEL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": PIXEL,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11 * PIXEL,
    "ytick.labelsize": 11 * PIXEL,
    "xtick.major.width": PIXEL,
    "xtick.major.size": 4 * PIXEL,
    "ytick.major.size": 0,
    "lines.linewidth": 2 * PIXEL,
    "lines.solid_capstyle": "round",
    "lines.markeredgewidth": 0,
    "patch.linewidth": 0,
    "svg.fonttype": "path",
    "svg.hashsalt": "gantricks",
    "svg.id": None,
}
DASHED = (0, (5, 4))
PROGRESS: dict[str, Any] = {"xlim": (0, 1), "xticks": [0, 0.25, 0.5, 0.75, 1], "xticklabels": ["0", "", "1/2", "", "1"]}
"""An axis that shows a whole run."""

Align = Literal["left", "center", "right"]


@dataclass(frozen=True)
class Picture:
    """A drawing, what is read to those who do not see it, and a sentence that says what to see."""

    figure: Figure
    alt: str
    caption: str = ""

    def svg(self) -> str:
        """The file's text, the same for the same drawing: numbers are rounded to a hundredth of a point."""
        file = io.StringIO()
        with matplotlib.rc_context(STYLE):
            told = dict.fromkeys(("Creator", "Date", "Format", "Type")) | {"Title": self.alt}
            self.figure.savefig(file, format="svg", metadata=told)
        _, _, drawn = file.getvalue().partition("<svg ")
        drawn = re.sub(r' (?:d|x|y|points)="[^"]*"', lambda found: _rounded(found[0]), drawn)
        return re.sub(r" +$", "", f'<svg role="img" {drawn}', flags=re.MULTILINE)


def _rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text)


PICTURES: dict[str, Callable[[], Picture]] = {}
"""What draws the picture of a trick, by the trick's name."""


GAMES: dict[str, Callable[[], Picture]] = {}
"""What draws a picture of the page of small games, by the picture's name."""


def _of(trick: str) -> Callable[[Callable[[], Picture]], Callable[[], Picture]]:
    return _kept(PICTURES, trick)


def _played(name: str) -> Callable[[Callable[[], Picture]], Callable[[], Picture]]:
    return _kept(GAMES, name)


def _kept(
    pictures: dict[str, Callable[[], Picture]], name: str
) -> Callable[[Callable[[], Picture]], Callable[[], Picture]]:
    def add(draw: Callable[[], Picture]) -> Callable[[], Picture]:
        pictures[name] = cache(_styled(draw))
        return draw

    return add


def _styled(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    def drawn(*arguments: Any) -> Picture:
        with matplotlib.rc_context(STYLE):
            return draw(*arguments)

    return drawn


def _figure(width: int = 640, height: int = 240) -> Figure:
    """A sheet of so many pixels."""
    figure = Figure((width / 96, height / 96), dpi=96)
    FigureCanvasSVG(figure)
    return figure


def _panels(count: int = 1, height: int = 240, rows: int = 1) -> list[Axes]:
    """Axes side by side, in rows of so many pixels, with room around each for its labels."""
    figure, each, total = _figure(height=height * rows), 640 / count, height * rows
    return [
        figure.add_axes(
            ((each * i + 52) / 640, (height * above + 46) / total, (each - 68) / 640, (height - 90) / total)
        )
        for above in reversed(range(rows))
        for i in range(count)
    ]


def _ticks(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Ticks with the shortest numbers that say where they are."""
    axes.set_xticks(xs, [f"{x:g}".replace("-", "−") for x in xs])
    axes.set_yticks(ys, [f"{y:g}".replace("-", "−") for y in ys])


def _sheet(axes: Axes) -> Figure:
    """What the axes are on."""
    figure = axes.get_figure(root=True)
    assert figure
    return figure


def _label(
    axes: Axes, x: float, y: float, text: str, colour: str = INK, align: Align = "left", dx: float = 0, dy: float = 0
) -> None:
    """`text` at a point, moved by (dx, dy) pixels, to the right and up."""
    moved = (dx * PIXEL, dy * PIXEL)
    axes.annotate(text, (x, y), xytext=moved, textcoords="offset points", color=colour, ha=align, annotation_clip=False)


def _head(axes: Axes, text: str, above: float = 30) -> None:
    """What a panel shows, in bold, so many pixels above it."""
    axes.annotate(text, (0.5, 1), (0, above * PIXEL), "axes fraction", "offset points", fontweight="bold", ha="center")


def _rng(seed: int = 0) -> Rng:
    return Rng(seed, "docs", Clock(), dtype=torch.float64)


def _span(low: float, high: float, count: int = 121) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)


class Evenly:
    """In the place of a random stream: U[0, 1) as `n` evenly spaced numbers, so that a histogram has no noise."""

    def uniform(self, shape: Any) -> Tensor:
        count = math.prod(shape)
        found: Tensor = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).reshape(shape)
        return found


def _histogram(axes: Axes, values: Tensor, width: float, colour: str) -> None:
    """Bars of `width` (data units), as high as the share of `values` in them, in percent."""
    found = values.flatten() + 1e-9 * width
    edges = [width * number for number in range(math.floor(found.min() / width), math.floor(found.max() / width) + 2)]
    shares = [100 / len(found)] * len(found)
    axes.hist(found.tolist(), edges, weights=shares, rwidth=0.93, color=colour, alpha=0.8)


# ---------------------------------------------------------------- targets


@_of("soft_labels")
def _soft_targets() -> Picture:
    options, evenly = SoftLabels.Config(), cast(Rng, Evenly())
    alt = "Histogram of D's targets: even from 0 to 0.3 for fakes, even from 0.7 to 1.2 for reals."
    (axes,) = _panels()
    axes.set(
        xlabel="target t",
        xlim=(-0.1, 1.3),
        xticks=[0, 0.2, 0.4, 0.6, 0.8, 1, 1.2],
        title="% of the targets, in steps of 0.05",
        ylim=(0, 20),
        yticks=[0, 10, 20],
    )
    for called, colour in ((False, ORANGE), (True, BLUE)):
        is_real = torch.full((6000, 1), called)
        drawn = soften(is_real.double(), is_real, options.real, options.fake, evenly)
        _histogram(axes, drawn, 0.05, colour)
        name, (low, high) = ("reals", options.real) if called else ("fakes", options.fake)
        told = f"{name}: U({low:g}, {high:g})"
        if called:
            _label(axes, low, 7, told, colour, "right", dx=-8)
        else:
            _label(axes, high, 14, told, colour, dx=8)
        axes.axvline(float(called), color=INK, linewidth=PIXEL, linestyle=DASHED)
    return Picture(
        _sheet(axes),
        alt,
        "D's targets are spread around the plain labels 0 and 1 (dashed), and some of the reals' lie above 1.",
    )


@_of("label_smoothing")
def _smoothed_loss() -> Picture:
    alt = "D's loss on one real against its logit: at target 1 it falls without end, at target 0.9 it is least at 2.2."
    (axes,) = _panels()
    axes.set(
        xlabel="logit s of D on a real",
        xlim=(-2, 8),
        xticks=[-2, 0, 2, 4, 6, 8],
        title="D's loss on it, BCE(s, t), in nats",
        ylim=(0, 2),
        yticks=[0, 0.5, 1, 1.5, 2],
    )
    logits, real = _span(-2, 8), torch.ones((121, 1), dtype=torch.float64)
    alpha = LabelSmoothing.Config().real
    smoothed = smooth(real, real > 0, alpha)
    for targets, colour, name in ((real, INK, "t = 1: falls for ever"), (smoothed, GREEN, f"t = {alpha:g}")):
        losses = binary_cross_entropy_with_logits(logits[:, None], targets, reduction="none")[:, 0]
        axes.plot(logits.tolist(), losses.tolist(), color=colour)
        _label(axes, 6.5, losses[102].item(), name, colour, "center", dy=8)
    best = math.log(alpha / (1 - alpha))
    axes.axvline(best, color=GREEN, linewidth=PIXEL, linestyle=DASHED)
    _label(axes, best, 1.7, f"best logit: log(0.9 / 0.1) = {best:.1f}", GREEN, dx=8)
    return Picture(
        _sheet(axes), alt, "With the target 0.9 there is a best logit, and a D that goes beyond it is pulled back."
    )


@_of("label_flipping")
def _flips() -> Picture:
    alt = "Which labels are flipped, over 60 steps: single ones scattered evenly, or all of them in bursts."
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

    both = _panels(2)
    titles = ('mode = "per_image"', 'mode = "burst"')
    for axes, title, assigned in zip(both, titles, (scattered, bursts), strict=True):
        _head(axes, title)
        axes.set(xlabel="step", xlim=(0, steps), xticks=[0, 20, 40, 60])
        axes.set(title="image of the batch", ylim=(0, batch), yticks=[0, 6, 12])
        kept = torch.cat([*assigned], dim=1)
        _squares_on(axes, (~kept).double(), GREEN, outlined=False)
    return Picture(
        _sheet(axes), alt, "Each mark is a wrong label: one image here and there, or the whole batch for a few steps."
    )


# ---------------------------------------------------------------- batches and inputs


@_of("instance_noise")
def _fading_noise() -> Picture:
    sigma = InstanceNoise.Config().sigma
    assert not isinstance(sigma, float)
    alt = "What D sees of a pixel of value 0 over a run: noise of deviation 0.1 that narrows to nothing."
    (axes,) = _panels()
    axes.set(
        xlabel="share of the run",
        **PROGRESS,
        title="value that D sees of a pixel which is 0, in an image in [−1, 1]",
        ylim=(-0.3, 0.3),
        yticks=[-0.2, 0, 0.2],
    )
    progress, rng = _span(0, 1, 401), _rng()
    deviations = [sigma.at(share) for share in progress.tolist()]
    seen = [
        add_noise(torch.zeros(1, dtype=torch.float64), torch.tensor(deviation), rng).item() for deviation in deviations
    ]
    axes.plot(progress.tolist(), seen, "o", color=GREEN, markersize=2 * PIXEL)
    for side in (-2, 2):
        axes.plot([0, 1], [side * sigma.at(0), side * sigma.at(1)], color=INK, linewidth=1.5 * PIXEL, linestyle=DASHED)
    _label(axes, 0.5, 2 * sigma.at(0.5), "± 2σ", dx=8, dy=10)
    return Picture(
        _sheet(axes), alt, "The noise is strongest at the start and gone in the last step; it is never clamped."
    )


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

    alt = "Age of the fakes that D is shown: half are new, the rest mostly 1 to 15 D steps old."
    (axes,) = _panels()
    axes.set(
        xlabel="age of a fake that D is shown, in D steps",
        xlim=(-0.5, 24.5),
        xticks=[0, 5, 10, 15, 20],
        title=f"% of the fakes (batches of {batch}, p = {options.p:g}, capacity = {options.capacity})",
        ylim=(0, 60),
        yticks=[0, 20, 40, 60],
    )
    for age, share in enumerate(shares[:25].tolist()):
        axes.bar(age, share, 0.93, color=GREEN if age else ORANGE, alpha=0.8)
    _label(axes, 0.5, shares[0].item(), "made just now", ORANGE, dx=8, dy=-12)
    _label(axes, 4, shares[4].item(), "from the buffer", GREEN, dx=8, dy=12)
    return Picture(
        _sheet(axes), alt, "Half of what D sees is what G makes now; the rest is its past, the recent past most often."
    )


@_of("separate_batches")
def _passes() -> Picture:
    def discriminator(images: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> Out:
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

    alt = (
        "Whose pixels move whose score in a D with batch norm: in one pass everybody's, in two passes reals move reals "
        "only and fakes move fakes only."
    )
    x = _rng().normal((12, 1, 4, 4))
    panels = _panels(2, height=316)
    for axes, title, separately in zip(panels, ("one pass", "two passes"), (False, True), strict=True):
        kinds = [("reals", 6, BLUE), ("fakes", 6, ORANGE)]
        _dependence(axes, title, scores(separately), x, kinds, kinds, "the score of", "depends on the pixels of")
    return Picture(
        _sheet(axes),
        alt,
        "A filled square: the score of the row's image depends on the column's image; in two passes no real bears on "
        "a fake.",
    )


@_of("spherical_latents")
def _lengths() -> Picture:
    dim = 100
    z = _rng().normal((4000, dim))
    alt = (
        "Left: lengths of latents of 100 dimensions; on the sphere all are 10, normal ones 8 to 12, uniform ones 5 to "
        "6.5. Right: half-way between two latents a straight line is at length 7, slerp at 10."
    )
    axes, ways = _panels(2)
    axes.set(
        xlabel=f"length ‖z‖ of a latent, D = {dim}",
        xlim=(4, 13),
        xticks=[4, 6, 8, 10, 12],
        title="% of the latents, in steps of 0.25",
        ylim=(0, 100),
        yticks=[0, 50, 100],
    )
    for latents, colour, name, at in (
        (to_cube(z), PURPLE, "uniform", (5.8, 38)),
        (z, INK, "normal", (8.4, 20)),
        (to_sphere(z) * (1 + 1e-9), GREEN, "sphere", (11.6, 90)),
    ):
        _histogram(axes, latents.norm(dim=1), 0.25, colour)
        _label(axes, *at, name, colour, "center")

    a, b = to_sphere(_rng(1).normal((2, dim)))
    b = to_sphere((b - (a @ b) / dim * a)[None])[0]  # as far apart as two latents usually are: a right angle
    shares = _span(0, 1, 41)
    ways.set(
        xlabel="share of the way between two latents",
        xlim=(0, 1),
        xticks=[0, 0.5, 1],
        xticklabels=["0", "1/2", "1"],
        title="length ‖z‖ on the way",
        ylim=(6, 11),
        yticks=[6, 7, 8, 9, 10, 11],
    )
    straight = torch.stack([torch.lerp(a, b, t) for t in shares]).norm(dim=1)
    round_it = torch.stack([slerp(a, b, t) for t in shares]).norm(dim=1)
    ways.plot(shares.tolist(), straight.tolist(), color=INK)
    ways.plot(shares.tolist(), round_it.tolist(), color=GREEN)
    _label(ways, 0.5, 10, "slerp", GREEN, "center", dy=8)
    _label(ways, 0.5, straight[20].item(), "straight line", INK, "center", dy=-18)
    return Picture(
        _sheet(axes),
        alt,
        "Latents on the sphere have one length, and slerp keeps it where a straight line leads through the middle.",
    )


# ---------------------------------------------------------------- networks


@_of("virtual_batch_norm")
def _reference() -> Picture:
    n, live = 6, 6
    draw = _rng().normal((n + live, 1, 4, 4))
    weight, bias = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    alt = (
        "Which sample's values move which sample's output: with batch norm each live sample's move every other's; with "
        "virtual batch norm those of the reference batch and its own."
    )
    samples, both = [("live batch", live, BLUE)], [("reference", n, GREEN), ("live batch", live, BLUE)]
    axes, beside = _panels(2, height=208)
    _dependence(
        axes,
        "batch norm",
        lambda x: batch_norm(x, None, None, training=True),
        draw[n:],
        samples,
        samples,
        "the output of",
        "depends on the values of",
    )
    _dependence(
        beside,
        "virtual batch norm",
        lambda x: virtual_batch_norm(x, n, weight, bias)[n:],
        draw,
        samples,
        both,
        "the output of",
        "depends on the values of",
    )
    return Picture(
        _sheet(axes),
        alt,
        "A filled square: the output of the row's sample depends on the column's; no live sample depends on another, "
        "and the statistics come from the reference batch.",
    )


@_of("instance_norm")
def _by_itself() -> Picture:
    x = _rng().normal((6, 1, 4, 4))
    norm = instance_norm_like(nn.BatchNorm2d(1).double())
    alt = "Which sample's values move which sample's output: with batch norm everybody's, with instance norm its own."
    samples = [("live batch", 6, BLUE)]
    axes, beside = _panels(2, height=208)
    _dependence(
        axes,
        "batch norm",
        lambda x: batch_norm(x, None, None, training=True),
        x,
        samples,
        samples,
        "the output of",
        "depends on the values of",
    )
    _dependence(beside, "instance norm", norm, x, samples, samples, "the output of", "depends on the values of")
    return Picture(
        _sheet(axes),
        alt,
        "A filled square: the output of the row's sample depends on the column's; with instance norm on its own alone.",
    )


@_of("leaky_relu")
def _leak() -> Picture:
    slope = LeakyRelu.Config().slope
    alt = "ReLU is flat below 0, LeakyReLU falls there with slope 0.2; above 0 they are the same."
    (axes,) = _panels()
    axes.set(
        xlabel="input x of a unit",
        xlim=(-3, 3),
        xticks=[-3, -2, -1, 0, 1, 2, 3],
        title="its output f(x)",
        ylim=(-1.2, 3),
        yticks=[-1, 0, 1, 2, 3],
    )
    plain = nn.Sequential(nn.ReLU())
    leaking = nn.Sequential(nn.ReLU())
    leak(leaking, slope)
    x = torch.tensor([-3.0, 0.0, 3.0])
    axes.plot(x.tolist(), leaking(x).tolist(), color=GREEN)
    axes.plot(x.tolist(), plain(x).tolist(), color=INK)
    _label(axes, -2, 0, "ReLU: no gradient comes back", INK, "center", dy=8)
    _label(axes, -1.2, slope * -1.2, f"LeakyReLU: {slope:g} of it does", GREEN, dy=-18)
    return Picture(_sheet(axes), alt, "Below zero a unit still passes a fifth of the gradient, so none is ever lost.")


@_of("minibatch_discrimination")
def _similarities() -> Picture:
    batch, kernels, dim = 64, 20, 5
    rows = _rng().normal((batch, kernels, dim))
    rows *= initial_scale(rows)
    spreads = _span(0, 4, 41)
    alt = "Similarity of a sample to its batch of 64: 63 where all samples are the same, 24 at the usual spread."
    (axes,) = _panels()
    axes.set(
        xlabel="spread of the batch, in units of that of real samples at the start",
        xlim=(0, 4),
        xticks=[0, 1, 2, 3, 4],
        title=f"similarity o of a sample to the rest of its batch of {batch}",
        ylim=(0, 75),
        yticks=[0, 21, 42, 63],
    )
    similar = torch.stack([similarity(spread * rows).mean() for spread in spreads])
    axes.plot(spreads.tolist(), similar.tolist(), color=GREEN)
    axes.plot(0, similar[0].item(), "o", color=GREEN, markersize=8 * PIXEL, clip_on=False)
    _label(axes, 0, similar[0].item(), "a collapsed batch: B − 1", GREEN, dx=6, dy=8)
    axes.plot(1, similar[10].item(), "o", color=GREEN, markersize=8 * PIXEL, clip_on=False)
    _label(axes, 1, similar[10].item(), f"real samples: {similar[10].item():.0f}", GREEN, dx=8, dy=6)
    return Picture(
        _sheet(axes),
        alt,
        "The more alike a batch is, the larger the numbers that D is told; it sees a collapse at once.",
    )


@_of("minibatch_stddev")
def _deviations() -> Picture:
    batch, width, group = 64, 20, 4
    rows = _rng().normal((batch, width))
    spreads = _span(0, 4, 9)
    alt = "The number that minibatch stddev appends is proportional to the spread of the batch, 0 at a collapse."
    (axes,) = _panels()
    axes.set(
        xlabel="standard deviation of the features over the data",
        xlim=(0, 4),
        xticks=[0, 1, 2, 3, 4],
        title=f"number appended, the mean over a batch of {batch} in groups of {group}",
        ylim=(0, 4),
        yticks=[0, 2, 4],
    )
    told = [deviation(spread * rows, group).mean().item() for spread in spreads]
    axes.plot([0, 4], [0, 4], color=INK, linewidth=1.5 * PIXEL, linestyle=DASHED)
    _label(axes, 3, 3, "the deviation itself", INK, "right", dx=-12, dy=4)
    axes.plot(spreads.tolist(), told, color=GREEN)
    _label(axes, 3.4, told[7], "what D is told", GREEN, dx=-30, dy=-26)
    axes.plot(0, told[0], "o", color=GREEN, markersize=8 * PIXEL, clip_on=False)
    return Picture(
        _sheet(axes),
        alt,
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
    alt = (
        "Gradient that reaches each pixel of an 8 × 8 map: one in four through max pooling, all of them through a "
        "strided convolution."
    )
    panels = _panels(2, height=250)
    for axes, title, layer in zip(panels, ("max pooling", "strided convolution"), (pool, strided), strict=True):
        image = _rng().normal((1, 1, size, size)).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(image).square().sum(), image)
        strength = gradient[0, 0].abs().sqrt()
        _matrix(axes, title, size, size, 20)
        _squares_on(axes, strength / strength.max(), GREEN)
        axes.set_xlabel(f"{int((gradient != 0).sum())} of {size * size} pixels get a gradient")
    return Picture(
        _sheet(axes),
        alt,
        "The fuller a pixel's colour, the more gradient reaches it; a pool sends it to one pixel in four.",
    )


# ---------------------------------------------------------------- objectives and gradients

Place = tuple[float, float, Align]
"""A point of the data and the end of a text that is there."""


def _loss_and_gradient(
    losses: Iterable[tuple[Callable[[Tensor, Tensor], Tensor], str, str, Place, Place]],
) -> list[Axes]:
    """Two axes: each loss of one fake against D's output for it, and the strength of its gradient.

    A loss comes with its name, its colour, and where the name goes on either axes.
    """
    both = _panels(2)
    for axes, title in zip(both, ("G's loss", "strength of its gradient, |dL/ds|"), strict=True):
        axes.set(xlabel="D's output s for a fake", xlim=(-6, 6), xticks=[-6, -3, 0, 3, 6], title=title)
    for loss, name, colour, *places in losses:
        outputs = _span(-6, 6, 97).requires_grad_()
        values = torch.stack([loss(s.reshape(1, 1), torch.ones(1, 1, dtype=s.dtype)).squeeze() for s in outputs])
        (slopes,) = torch.autograd.grad(values.sum(), outputs)
        for axes, ys, (at_x, at_y, align) in zip(both, (values, slopes.abs()), places, strict=True):
            axes.plot(outputs.tolist(), ys.tolist(), color=colour)
            _label(axes, at_x, at_y, name, colour, align)
    return both


@_of("minimax")
def _saturation() -> Picture:
    alt = "G's loss and its gradient against the logit: minimax is flat where D rejects a fake, the default is steep."
    default, saturating = binary_cross_entropy_with_logits, generator_loss
    axes, slope = _loss_and_gradient(
        [
            (default, "non-saturating", INK, (-3.5, 3.8, "left"), (-5.8, 1.08, "left")),
            (saturating, "minimax", GREEN, (2.5, -3.8, "right"), (5.8, 1.08, "right")),
        ],
    )
    axes.set(ylim=(-6, 6), yticks=[-6, -3, 0, 3, 6])
    slope.set(ylim=(0, 1.5), yticks=[0, 0.5, 1, 1.5])
    return Picture(
        _sheet(axes),
        alt,
        "Where D rejects a fake (left), which is how every run starts, minimax leaves G hardly any gradient.",
    )


@_of("least_squares")
def _squares() -> Picture:
    alt = (
        "G's loss and its gradient against D's output: least squares has its minimum at 1 and pulls back from both "
        "sides, the default is flat above."
    )
    default, squared = binary_cross_entropy_with_logits, least_squares_loss
    axes, slope = _loss_and_gradient(
        [
            (default, "non-saturating", INK, (-5.8, 0.8, "left"), (-5.8, 1.15, "left")),
            (squared, "least squares", GREEN, (1, 6.8, "center"), (1, 2.6, "center")),
        ],
    )
    axes.set(ylim=(0, 8), yticks=[0, 2, 4, 6, 8])
    slope.set(ylim=(0, 3), yticks=[0, 1, 2, 3])
    return Picture(
        _sheet(axes),
        alt,
        "Least squares pulls every fake to the output 1, the harder the further it is, on either side.",
    )


@_of("gradient_clipping")
def _clipped() -> Picture:
    limit = 1.0
    alt = "Length of the gradient after clipping against its length before: the same up to 1, then 1."
    (axes,) = _panels()
    axes.set(
        xlabel="length of the gradient before",
        xlim=(0, 4),
        xticks=[0, 1, 2, 3, 4],
        title="length after",
        ylim=(0, 4),
        yticks=[0, 1, 2, 3, 4],
    )
    befores, afters = [0.0, 0.5, 1.0, 2.0, 4.0], []
    for before in befores:
        gradient = torch.full((4,), before / 2)
        clip_([gradient], torch.tensor(limit))
        afters.append(gradient.norm().item())
    axes.plot([0, 4], [0, 4], color=INK, linewidth=1.5 * PIXEL, linestyle=DASHED)
    _label(axes, 3, 3, "as it was", INK, "right", dx=-12, dy=4)
    axes.plot(befores, afters, color=GREEN)
    _label(axes, 3, limit, f"max_norm = {limit:g}", GREEN, "center", dy=8)
    return Picture(_sheet(axes), alt, "Gradients within the limit are left alone, longer ones are shortened to it.")


@_of("historical_averaging")
def _orbits() -> Picture:
    alt = (
        "Paths of two players around the equilibrium (1, 1): alternating steps circle, simultaneous ones spiral out, "
        "simultaneous ones with historical averaging spiral in."
    )
    at_once = games.SALIMANS.but(simultaneous=True)
    shown = (
        ("alternating steps", games.SALIMANS, 250, INK),
        ("simultaneous steps", at_once, 300, ORANGE),
        ("the same, λ = 0.1", at_once.with_trick("historical_averaging", strength=0.1), 600, GREEN),
    )
    panels = _panels(3, height=236)
    for axes, (title, game, steps, colour) in zip(panels, shown, strict=True):
        path = game.path(games.SALIMANS_START, steps)
        _walk(axes, title, path, colour, (-2, 4), (-2, 0, 1, 2, 4), games.SALIMANS_AT)
    return Picture(
        _sheet(panels[0]),
        alt,
        "From the large dot on, players without averaging circle the equilibrium (small dot) or drift away; with it "
        "they end there.",
    )


def _walk(
    axes: Axes,
    title: str,
    path: Tensor,
    colour: str,
    span: tuple[float, float],
    ticks: tuple[float, ...],
    equilibrium: tuple[float, float] = (0.0, 0.0),
) -> None:
    """The way of two players, (N, 2), from a large dot on, as far as it is on the axes."""
    low, high = span
    _head(axes, title)
    axes.set(xlabel="x, of one player", xlim=span, xticks=ticks)
    axes.set(title="y, of the other", ylim=span, yticks=ticks)
    outside = ((path < low) | (path > high)).any(1).nonzero().flatten().tolist()
    xs, ys = path[: min([*outside, len(path)])].T.tolist()
    axes.plot(xs, ys, color=colour, linewidth=1.5 * PIXEL)
    axes.plot(*equilibrium, "o", color=INK, markersize=5 * PIXEL, clip_on=False)
    axes.plot(xs[0], ys[0], "o", color=colour, markersize=9 * PIXEL, clip_on=False)


# ---------------------------------------------------------------- optimizers, schedules, averages


@_of("ema")
def _average() -> Picture:
    steps = 600
    times = torch.arange(steps, dtype=torch.float64)
    weight = 1 - torch.exp(-times / 60) + 0.25 * torch.sin(times / 9) + 0.1 * _rng().normal(steps)
    alt = "A weight that swings around 1, and two moving averages of it: the longer one is calmer and later."
    (axes,) = _panels()
    axes.set(
        xlabel="step",
        xlim=(0, steps),
        xticks=[0, 100, 200, 300, 400, 500, 600],
        title="weight",
        ylim=(-0.4, 1.8),
        yticks=[0, 0.5, 1, 1.5],
    )
    axes.plot(times[::2].tolist(), weight[::2].tolist(), color=INK, linewidth=PIXEL, alpha=0.6)
    _label(axes, 150, 1.6, "the weight as it is trained", INK, "center")
    for decay, colour, at in ((0.9, PURPLE, 0.25), (0.99, GREEN, -0.25)):
        average, path = [weight[:1].clone()], []
        for count, now in enumerate(weight):
            follow_(average, [now.reshape(1)], share_at(times[count], decay, warmup=True))
            path.append(average[0].item())
        axes.plot(times.tolist(), path, color=colour)
        _label(axes, 300, at, f"decay = {decay:g}", colour, "center")
    return Picture(
        _sheet(axes),
        alt,
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

    alt = "Length of D's step against the size of its gradient: constant with Adam, proportional with SGD."
    (axes,) = _panels()
    axes.set(
        xlabel="size of a weight's gradient",
        xscale="log",
        xlim=(1e-5, 1),
        xticks=[1e-5, 1e-3, 1e-1, 1],
        xticklabels=["10⁻⁵", "10⁻³", "10⁻¹", "1"],
        title="step of the weight",
        yscale="log",
        ylim=(1e-7, 1e-1),
        yticks=[1e-7, 1e-5, 1e-3, 1e-1],
        yticklabels=["10⁻⁷", "10⁻⁵", "10⁻³", "10⁻¹"],
    )
    axes.minorticks_off()
    adam = [step(lambda weights: torch.optim.Adam(weights, 4e-4, betas=(0.5, 0.999)), size) for size in sizes]
    plain = [step(lambda weights: sgd(weights, 0.01, 0.0), size) for size in sizes]
    axes.plot(sizes, adam, color=INK)
    axes.plot(sizes, plain, color=GREEN)
    _label(axes, 1e-4, 4e-4, "Adam, lr 0.0004", INK, "center", dy=-14)
    _label(axes, 1e-3, 1e-5, "SGD, lr 0.01", GREEN, dx=12, dy=-18)
    return Picture(
        _sheet(axes), alt, "Adam's steps are as long for small gradients as for large ones; SGD's shrink with it."
    )


@_of("lr_decay")
def _decay() -> Picture:
    alt = "Learning rate over a run, as a share of the first: it falls to 0.5, 0.1 or 0.01, exponentially."
    (axes,) = _panels()
    axes.set(
        xlabel="share of the run",
        **PROGRESS,
        title="learning rate, of what the recipe sets",
        ylim=(0, 1),
        yticks=[0, 0.5, 1],
    )
    progress = _span(0, 1, 61)
    told: list[tuple[float, str, int, Align, float, float]] = [
        (0.5, INK, 30, "left", 8, 4),
        (0.1, GREEN, 36, "left", 8, 4),
        (0.01, PURPLE, 20, "right", -8, -8),
    ]
    for gamma, colour, at, align, dx, dy in told:
        rates = [decayed(torch.tensor(1.0, dtype=torch.float64), gamma, share).item() for share in progress]
        axes.plot(progress.tolist(), rates, color=colour)
        _label(axes, progress[at].item(), rates[at], f"gamma = {gamma:g}", colour, align, dx, dy)
    return Picture(
        _sheet(axes), alt, "The rate falls fastest at the start and ends at `gamma` times what the recipe sets."
    )


def _change(value: Callable[[float, int, int, float], int], options: Any) -> Axes:
    """A schedule that changes once, from `start` to `end` at `at`."""
    start, end, at = options.start, options.end, options.at
    (axes,) = _panels(height=200)
    axes.set(xlabel="share of the run", **PROGRESS)
    if at not in PROGRESS["xticks"]:
        axes.set_xticks([*PROGRESS["xticks"], at], [*PROGRESS["xticklabels"], f"{at:g}"])
    shares = [0, math.nextafter(at, 0), at, 1]
    axes.plot(shares, [value(share, start, end, at) for share in shares], color=GREEN)
    _label(axes, 0, start, f"start = {start}", GREEN, dx=3, dy=8)
    _label(axes, 1, end, f"end = {end}", GREEN, "right", dx=-3, dy=8)
    return axes


@_of("n_critic_schedule")
def _critics() -> Picture:
    axes = _change(critic_steps, NCriticSchedule.Config())
    axes.set(title="D steps for each G step", ylim=(0, 6), yticks=[0, 1, 5])
    return Picture(
        _sheet(axes),
        "D steps for each G step over a run: 5 in the first tenth, then 1.",
        "D is brought up first, by `start` steps for each of G's; from `at` on they take turns.",
    )


@_of("batch_size_schedule")
def _batches() -> Picture:
    axes = _change(batch_size_at, BatchSizeSchedule.Config())
    axes.set(title="samples in a batch", ylim=(0, 80), yticks=[0, 32, 64])
    return Picture(
        _sheet(axes),
        "Batch size over a run: 32 in the first half, 64 in the second.",
        "Many cheap, noisy updates first; from `at` on, larger batches average the noise away.",
    )


# ---------------------------------------------------------------- squares

Groups = list[tuple[str, int, str]]
"""Samples that stand together: what they are, how many there are, their colour."""


def _dependence(
    axes: Axes,
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
    _matrix(axes, title, outputs, inputs, 18, right=22)
    axes.set_xlabel(of_columns)
    axes.set_title(of_rows + " ", x=0, ha="right")
    for _, start, count, colour in _spans(columns):
        _squares_on(axes, moved[:, start : start + count].double(), colour, start)
    axes.set_yticks([start + count / 2 for _, start, count, _ in _spans(rows)], [name for name, *_ in rows])
    axes.set_xticks([start + count / 2 for _, start, count, _ in _spans(columns)], [name for name, *_ in columns])
    for ticks, groups in ((axes.get_yticklabels(), rows), (axes.get_xticklabels(), columns)):
        for tick, (_, _, colour) in zip(ticks, groups, strict=True):
            tick.set_color(colour)


def _spans(groups: Groups) -> Iterator[tuple[str, int, int, str]]:
    """Each group with the number of its first sample."""
    start = 0
    for name, count, colour in groups:
        yield name, start, count, colour
        start += count


def _matrix(axes: Axes, title: str, rows: int, columns: int, side: int, right: float = 0) -> None:
    """Axes for a table of squares of `side` pixels, the first row on top, moved to the right by so many pixels."""
    width, height = (96 * size for size in _sheet(axes).get_size_inches())
    box = axes.get_position()
    middle = (box.x0 + box.x1) / 2 + right / width
    axes.set_position(
        (
            middle - side * columns / 2 / width,
            box.y1 - side * rows / height,
            side * columns / width,
            side * rows / height,
        )
    )
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    _head(axes, title, 12)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _squares_on(axes: Axes, shares: Tensor, colour: str, start: int = 0, *, outlined: bool = True) -> None:
    """A square for each number of a matrix, the stronger the nearer it is to 1, outlined where it is 0."""
    for level in sorted({math.ceil(4 * share - 1e-9) / 4 for share in shares.flatten().tolist()} - {0.0}):
        chosen = (shares > level - 0.25 + 1e-9) & (shares <= level + 1e-9)
        axes.add_patch(PathPatch(_outlines(chosen, start), facecolor=to_rgba(colour, 0.9 * level)))
    if outlined and (shares == 0).any():
        axes.add_patch(
            PathPatch(_outlines(shares == 0, start), facecolor="none", edgecolor=to_rgba(INK, 0.4), linewidth=PIXEL)
        )


def _outlines(chosen: Tensor, start: int) -> Outline:
    """The squares that are chosen, each with a gap around it."""
    corners = chosen.nonzero().tolist()
    square = Outline.unit_rectangle()
    places = [Affine2D().scale(0.88).translate(start + column + 0.06, row + 0.06) for row, column in corners]
    return Outline.make_compound_path(*(square.transformed(place) for place in places))


# ---------------------------------------------------------------- small games


@_played("games_bilinear")
def _bilinear_paths() -> Picture:
    """Ways of playing the bilinear game."""
    plain, at_once = games.BILINEAR, games.AT_ONCE
    averaging = at_once.with_trick("historical_averaging", strength=0.1)
    shown = (
        ("simultaneous", at_once, 150, ORANGE),
        ("alternating", plain, 64, INK),
        ("extragradient", plain.with_trick("extragradient"), 450, GREEN),
        ("optimistic", plain.with_trick("optimistic"), 400, GREEN),
        ("lookahead", at_once.with_trick("lookahead"), 500, GREEN),
        ("historical_averaging", averaging, 450, GREEN),
    )
    panels = _panels(3, height=236, rows=2)
    for axes, (title, game, steps, colour) in zip(panels, shown, strict=True):
        _walk(axes, title, game.path(steps=steps), colour, (-2, 2), (-2, -1, 0, 1, 2))
    return Picture(
        _sheet(panels[0]),
        "Paths of two players around the equilibrium (0, 0): simultaneous steps spiral out, alternating ones circle; "
        "extragradient, optimistic, lookahead and historical averaging spiral in.",
        "From the large dot at (1, 1) on, with steps of 0.1: two ways of plain play never arrive, four tricks do. "
        "Optimistic steps alternate here; lookahead and historical averaging act on simultaneous ones.",
    )


@_played("games_rates")
def _growth_by_rate() -> Picture:
    """What a step multiplies the distance by, against the learning rate: formulas as lines, measurements as dots."""
    (axes,) = _panels(height=360)
    axes.set(xlabel="learning rate η of both players", xlim=(0, 1), ylim=(0.67, 1.3))
    axes.set(title="a step multiplies the distance by")
    _ticks(axes, (0, 0.2, 0.4, 0.6, 0.8, 1), (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3))
    drawn: dict[str, tuple[str, float, float, Align]] = {
        "simultaneous": (INK, 0.42, 1.12, "right"),
        "alternating": (INK, 0.99, 1.012, "right"),
        "lookahead": (PURPLE, 0.88, 1.08, "left"),
        "extragradient": (GREEN, 0.83, 0.85, "left"),
        "r1": (BLUE, 0.2, 0.88, "right"),
        "optimistic": (ORANGE, 0.53, 0.75, "left"),
    }
    for curve in games.CURVES:
        colour, x, y, align = drawn[curve.name]
        rates = _span(0, 1, 201).tolist()
        axes.plot(rates, [curve.formula(rate) for rate in rates], color=colour, linewidth=1.5 * PIXEL)
        dots = [number / 10 for number in range(1, 10)]
        axes.plot(dots, [curve.measured(rate) for rate in dots], "o", color=colour, markersize=6 * PIXEL)
        _label(axes, x, y, curve.name, colour, align)
    return Picture(
        _sheet(axes),
        "What a step multiplies the distance from the equilibrium by, against the learning rate: above 1 for "
        "simultaneous steps, 1 for alternating ones, below 1 for the tricks up to a rate of their own.",
        "Lines are the formulas, dots are measured. Below 1 the players come closer. Optimistic steps do so fastest, "
        "and lead away at rates above 1/√3.",
    )


@_played("games_dirac")
def _dirac_paths() -> Picture:
    """Ways of playing the Dirac-GAN."""
    plain = games.TwoWeights(games.RATE)
    minimax, wasserstein = plain.with_trick("minimax"), games.BILINEAR
    noise = minimax.but(batch_size=1000).with_trick("instance_noise", sigma=1.0)
    shown = (
        ("minimax", minimax, 140, INK),
        ("wasserstein, clipped", plain.with_trick("wasserstein", clip=0.5), 300, ORANGE),
        ("gradient_penalty", wasserstein.with_trick("gradient_penalty", weight=0.5), 300, ORANGE),
        ("non-saturating", plain, 450, PURPLE),
        ("instance_noise", noise, 250, GREEN),
        ("r1, γ = 0.3", minimax.with_trick("r1", weight=0.3), 300, GREEN),
    )
    panels = _panels(3, height=236, rows=2)
    for axes, (title, game, steps, colour) in zip(panels, shown, strict=True):
        _walk(axes, title, game.path(steps=steps), colour, (-2, 2), (-2, -1, 0, 1, 2))
        axes.set(xlabel="x, the point of G", title="y, the slope of D")
    return Picture(
        _sheet(panels[0]),
        "Paths of a Dirac-GAN's weights: minimax circles the equilibrium, clipped weights and a gradient penalty of "
        "target 1 go round it for ever, the default objective comes closer very slowly, instance noise and R1 arrive.",
        "Alternating steps of 0.1 from (1, 1), the large dot. Data is at x = 0, so players ought to end at the small "
        "dot. The gradient penalty is played with wasserstein, instance noise and R1 with minimax.",
    )


@_played("games_roots")
def _roots() -> Picture:
    """Eigenvalues of the Dirac-GAN under minimax as penalties on D grow: on the curve of theory, as dots measured."""
    (axes,) = _panels(height=400)
    axes.set(xlabel="real part: below 0 the players come closer", xlim=(-2, 0.2), ylim=(-0.6, 0.6))
    axes.set(title="imaginary part: how fast they go round")
    _ticks(axes, (-2, -1.5, -1, -0.5, 0), (-0.5, -0.25, 0, 0.25, 0.5))
    turns = _span(math.pi / 2, 3 * math.pi / 2)
    axes.plot((0.5 * turns.cos()).tolist(), (0.5 * turns.sin()).tolist(), color=INK, linewidth=PIXEL)
    axes.plot([-2, 0], [0, 0], color=INK, linewidth=PIXEL)
    axes.plot([0, 0], [-0.6, 0.6], color=INK, linewidth=PIXEL, linestyle=DASHED)
    for gamma in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
        upper, lower = sorted(games.direction(games.damped(gamma)), key=lambda value: (-value.imag, value.real))
        axes.plot([upper.real, lower.real], [upper.imag, lower.imag], "o", color=GREEN, markersize=8 * PIXEL)
        align: Align = "left" if gamma == 0 else "right" if gamma <= 1 else "center"
        _label(
            axes,
            upper.real,
            upper.imag,
            f"γ = {gamma:g}",
            GREEN,
            align,
            {"left": 9, "right": -8, "center": 0}[align],
            6 if gamma < 1 else 11,
        )
    for sigma, align in ((0.9, "center"), (1.3, "left")):
        upper, lower = games.direction(games.noisy(sigma))
        axes.plot([upper.real, lower.real], [upper.imag, lower.imag], "D", color=PURPLE, markersize=7 * PIXEL)
        _label(axes, upper.real, upper.imag, f"σ = {sigma:g}", PURPLE, align, 0 if align == "center" else 9, -20)
    _label(axes, -1.9, 0.53, "r1: a penalty γ/2 of D's squared slope", GREEN)
    _label(axes, -1.9, 0.43, "instance_noise of deviation σ", PURPLE)
    return Picture(
        _sheet(axes),
        "Eigenvalues of the Dirac-GAN in the complex plane: from ±i/2 on the imaginary axis R1 moves them along a "
        "circle to −1/2, and then apart on the real axis; instance noise moves them along the same circle.",
        "Without a penalty the pair is on the dashed axis, and players circle for ever. Both remedies move it along "
        "one curve. At γ = 1 the players arrive soonest; beyond it one of the pair comes back.",
    )


# ---------------------------------------------------------------- other pages


@_styled
def learning_curves(path: Path) -> Picture:
    """Test error by step of the arms of a comparison, each a list of what `gantricks evaluate --json` wrote."""
    arms = json.loads(path.read_bytes())
    (axes,) = _panels()
    axes.set(xlabel="step", xlim=(0, 10_500), xticks=range(0, 10_001, 2000))
    axes.set(title="test error, %", ylim=(42, 58), yticks=range(42, 59, 4))
    ends = []
    for (arm, found), colour, below in zip(arms.items(), (GREEN, INK), (True, False), strict=True):
        steps = [one["step"] for one in found]
        errors = [one["metrics"][0]["figures"]["error"]["value"] for one in found]
        axes.plot(steps, errors, color=colour)
        _label(axes, steps[-1], errors[-1], arm.replace("_", " "), colour, "right", dy=-18 if below else 10)
        ends.append(f"{arm.replace('_', ' ')} from {errors[0]:.1f} to {errors[-1]:.1f}")
    return Picture(_sheet(axes), "Test error over the steps, in %: " + ", ".join(ends))


ROOMS = {
    "cli": "commands and what they print",
    "study": "with and without a trick",
    "testing": "the laws, tiny runs",
    "report": "one page about runs",
    "runs": "the loop around the step; folder, checkpoints, logs, evaluation",
    "engine": "the hooks in recipe order, the step, sampling, capture",
    "planning": "from TOML to a plan: every problem at once",
    "metrics": "what a run has learned, in figures",
    "loggers": "what is told of a run",
    "networks": "architectures, a file each",
    "data": "data sources, a file each",
    "catalogue": "what there is, by name",
}
"""What is said of each package of the contract."""

SEEN = "what a plugin sees, and what everybody uses"


@_styled
def layers(contract: list[str]) -> Picture:
    """The packages as layers, the first of the contract on top, and the plugins beside them."""
    row, gap, left, right, width = 50, 8, 30, 520, 720
    height = 28 + len(contract) * (row + gap) + 36
    figure = _figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()

    def box(x: float, y: float, wide: float, high: float, colour: str, **style: Any) -> None:
        rounded = "round,pad=0,rounding_size=4"
        shape = FancyBboxPatch((x, y), wide, high, rounded, facecolor=to_rgba(colour, 0.1), edgecolor=colour, **style)
        shape.set_linewidth(PIXEL)
        axes.add_patch(shape)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        axes.text(x, y, text, va="baseline", **style)

    axes.annotate(
        "", (14, height - 18), (14, 28), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.5 * PIXEL}
    )
    write(8, 18, "imports go down", ha="left")
    for number, layer in enumerate(contract):
        top = 28 + number * (row + gap)
        names = [name.strip() for name in re.split("[|:]", layer)]
        if len(names) > 4:
            box(left, top, right - left, row + 18, GREEN)
            write(left + 10, top + 20, SEEN, color=GREEN, fontweight="bold")
            half = (len(names) + 1) // 2
            write(left + 10, top + 38, " · ".join(names[:half]))
            write(left + 10, top + 56, " · ".join(names[half:]))
            continue
        if not set(names) <= ROOMS.keys():
            box(left, top, right - left, row, GREEN)
            write(left + 10, top + 20, "the contract of a trick", color=GREEN, fontweight="bold")
            write(left + 10, top + 38, " · ".join(names))
            continue
        each = (right - left + gap) / len(names)
        for place, name in enumerate(names):
            box(left + place * each, top, each - gap, row, BLUE)
            write(left + place * each + 10, top + 20, name, color=BLUE, fontweight="bold")
            write(left + place * each + 10, top + 38, ROOMS[name])
    beside, bottom = right + 16, 28 + len(contract) * (row + gap) - gap + 18
    box(beside, 28, width - 8 - beside, bottom - 28, ORANGE, linestyle=(0, (4, 3)))
    write(beside + 12, 48, "plugins/", color=ORANGE, fontweight="bold")
    told = [
        "one trick a file",
        "",
        "They import the public",
        "names of gantricks,",
        "and nothing else.",
        "No trick imports",
        "another.",
        "",
        "Nothing imports them:",
        "they are found by name",
        "when a recipe asks.",
    ]
    for number, line in enumerate(told):
        write(beside + 12, 66 + 17 * number, line)
    return Picture(
        figure,
        "The packages of gantricks as layers, from the command line on top to what plugins see at the bottom: each "
        "imports only what is below it. Beside them the plugins, which import public names alone.",
    )
