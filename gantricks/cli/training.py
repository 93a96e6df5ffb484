"""`train`, `resume`, `check`, `sample` and `interpolate`: the commands that compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL.Image import Image

from gantricks.catalogue.registry import Registry
from gantricks.cli.console import Text, output, typed, write_command, write_json
from gantricks.cli.errors import problems_of, write_problems
from gantricks.cli.files import free_for, writing_new
from gantricks.cli.plans import as_dict, write_evidence, write_plan, write_warning
from gantricks.cli.progress import Screen, clock
from gantricks.engine.start import try_surgery
from gantricks.planning.prepare import plan_recipe
from gantricks.runs import api as run
from gantricks.runs.conditions import read_conditions
from gantricks.runs.reporter import Result


def train(
    recipe: str,
    run_dir: Path | None,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    resume: Literal["auto"] | None,
) -> int:
    """Train and report how it ended. Returns the exit status."""
    screen = Screen(output())
    try:
        result = run.train(
            recipe, overrides=overrides, run_dir=run_dir, plugins=plugins, resume=resume, reporter=screen
        )
    finally:
        screen.close()
    return _ended(result, screen, plugins)


def resume(
    folder: Path,
    step: int | None,
    steps: int | None,
    device: str | None,
    overrides: Sequence[str],
    plugins: Sequence[Path],
) -> int:
    """Continue and report how it ended. Returns the exit status."""
    screen = Screen(output())
    try:
        result = run.resume(
            folder, step=step, steps=steps, device=device, plugins=plugins, overrides=overrides, reporter=screen
        )
    finally:
        screen.close()
    return _ended(result, screen, plugins)


def check(recipe: str, overrides: Sequence[str], plugins: Sequence[Path], json: bool) -> int:
    """Show the plan, or every problem. Returns the exit status."""
    try:
        plan, placement = plan_recipe(recipe, overrides, Registry(plugins))
        try_surgery(plan)
    except Exception as error:
        problems = problems_of(error)
        if not problems:
            raise
        if json:
            write_json({"problems": [problem.as_dict() for problem in problems], "plan": None})
        else:
            write_problems(problems)
        return 2
    if json:
        write_json({"problems": [], "plan": as_dict(plan, placement)})
        return 0
    console = output()
    write_plan(console, plan, placement)
    write_evidence(console, plan)
    console.print(Text("Nothing is in the way. To train it:", "green"))
    given = [part for override in overrides for part in ("--set", override)]
    write_command(console, typed(["gantricks", "train", recipe, *given, *_flags(plugins)]))
    return 0


def sample(
    folder: Path,
    out: Path,
    count: int,
    seed: int,
    step: int | None,
    texts: Sequence[str],
    conditions: Path | None,
    overrides: Sequence[str],
    plugins: Sequence[Path],
) -> None:
    """Write a picture of samples to `out`, which must not exist, in an existing folder."""
    free_for(out, ".png", "pictures are PNG files", "samples")
    rows = None if conditions is None else read_conditions(conditions)
    console = output()

    def warn(sentence: str) -> None:
        write_warning(console, sentence)

    image = run.sample(
        folder,
        count,
        seed,
        step=step,
        plugins=plugins,
        overrides=overrides,
        texts=texts,
        conditions=rows,
        warn=warn,
    )
    _save_new(image, out)
    size = f"{image.width} × {image.height} pixels"
    output().print(f"{count:,} sample{'s' * (count != 1)} of {folder}, seed {seed}: {out} ({size})", soft_wrap=True)


def interpolate(
    folder: Path,
    out: Path,
    rows: int,
    columns: int | None,
    seed: int,
    step: int | None,
    overrides: Sequence[str],
    plugins: Sequence[Path],
) -> None:
    """Write a picture of a walk through the latents to `out`, which must not exist, in an existing folder."""
    from gantricks.runs.interpolation import interpolate

    free_for(out, ".png", "pictures are PNG files", "path")
    image = interpolate(folder, rows, columns, seed, step=step, plugins=plugins, overrides=overrides)
    _save_new(image, out)
    size = f"{image.width} × {image.height} pixels"
    output().print(f"{rows} path{'s' * (rows != 1)} of {folder}, seed {seed}: {out} ({size})", soft_wrap=True)


def _save_new(image: Image, out: Path) -> None:
    with writing_new(out) as file:
        image.save(file, format="PNG")


def _ended(result: Result, screen: Screen, plugins: Sequence[Path]) -> int:
    console, folder = screen.console, str(result.run)
    done = f"{result.finished:,} of {result.steps:,} steps"
    if result.signal is not None and (result.finished < result.steps or result.unmeasured):
        console.print(Text(f"Interrupted after {done}; the run is saved. To go on:", "yellow"))
        write_command(console, typed(["gantricks", "resume", folder, *_flags(plugins)]))
        return 128 + result.signal
    if screen.began is None:
        console.print(f"{folder} is finished already: {done}.", soft_wrap=True)
    elif result.stopped:
        console.print(Text(f"A trick ended the run after {done}. {result.stopped}", "yellow"))
    else:
        lasted = clock(screen.seconds) if screen.seconds >= 60 else f"{screen.seconds:.1f} s"
        held = f", {result.memory / 2**20:,.0f} MiB of memory at most" if result.memory else ""
        console.print(Text(f"Done: {done} in {lasted}{held}.", "green"))
    if result.state_from is not None:
        console.print(f"The state that it ended with is that after step {result.state_from:,}.", soft_wrap=True)
    if pictures := result.pictures:
        earlier = f" ({len(pictures) - 1} earlier beside it)" if len(pictures) > 1 else ""
        console.print(f"The last picture is {pictures[-1]}{earlier}. To draw more:", soft_wrap=True)
        words = ["gantricks", "sample", folder, "--count", "64", "--out", "samples.png"]
        write_command(console, typed([*words, *_flags(plugins)]))
    return 0 if result.signal is None else 128 + result.signal


def _flags(plugins: Sequence[Path]) -> list[str]:
    return [part for path in plugins for part in ("--plugin", str(path))]
