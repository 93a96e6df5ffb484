"""Pictures of walks through the latents of a trained generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL.Image import Image

from gantricks.engine.sampling import walk
from gantricks.errors import Problem, UserError
from gantricks.planning.plan import Plan
from gantricks.runs.edits import not_of_samples
from gantricks.runs.opening import open_run
from gantricks.runs.samples import drawn

IMAGES, VECTORS = 10, 250
"""The number of samples on a path, for images and for points."""


def interpolate(
    run: str | Path,
    rows: int = 8,
    columns: int | None = None,
    seed: int = 0,
    *,
    step: int | None = None,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
) -> Image:
    """Return a picture of `rows` paths of `columns` samples, from a run's newest checkpoint or the one at `step`.

    Images are laid out in a grid with a row for each path. Points are drawn over the real ones. `overrides`,
    `KEY=VALUE` strings, set tricks that change the latents of samples alone. Those that replace them are left out.
    """
    if problems := list(not_of_samples(overrides)):
        raise UserError(*problems)
    view = open_run(Path(run), plugins).view(device, overrides)
    if problems := list(_idle(view.plan, overrides)):
        raise UserError(*problems)
    game = view.game(step)
    with game.placement.computing():
        samples = walk(game, rows, columns or (IMAGES if game.feed.is_images else VECTORS), seed)
    flat = samples.reshape(-1, *samples.shape[2:])
    return drawn(game, flat, columns=samples.shape[1])


def _idle(plan: Plan, overrides: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each override of a trick that walks leave out."""
    for name in plan.on.get("sampler", ()):
        for override in overrides:
            if f"{override.partition('=')[0].strip()}.".startswith(f"tricks.{name}."):
                what = f"{name} makes samples of other latents than it is given, and a path gives its own"
                yield Problem(what, f"--set {override}", "leave it out, or draw single samples: gantricks sample")
