"""The commands. Each imports what it needs when it runs: commands that only read the index never import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="gantricks",
    help="Train GANs from recipes in which every trick is a plugin.",
    epilog="Start with: gantricks train ring_mlp",
    add_completion=False,
    rich_markup_mode=None,  # rich would read a word in brackets, such as [evaluate], as a style
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _path(written: str | Path) -> Path:
    """Read an option or argument that is a path; `~` is the home folder."""
    from gantricks.errors import UserError
    from gantricks.paths import expanded

    if written == "":
        raise typer.BadParameter("it is empty; is a variable of the shell not set?")
    try:
        return expanded(written)
    except UserError as error:
        raise typer.BadParameter("; ".join((error.problems[0].what, error.problems[0].hint))) from None


def _recipe(written: str) -> str:
    return str(_path(written)) if written.startswith("~") or not written else written


def _json_alone(wanted: bool) -> bool:
    if wanted:
        from gantricks.cli.streams import keep_for_json

        keep_for_json()
    return wanted


RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", parser=_recipe, help="A recipe file, or the name of a shipped recipe.")
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", parser=_path, help="The folder of a run, such as runs/dcgan.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, such as train.steps=100 or tricks.soft_labels=off. Repeatable.",
    ),
]
OfSamples = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a trick that acts on samples alone, such as tricks.truncation.limit=0.5. Repeatable.",
    ),
]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        parser=_path,
        help="A Python file that holds a trick, a network, a data source, a metric or a logger, which has the file's "
        "name. Repeatable.",
    ),
]
Picture = Annotated[
    Path, typer.Option(metavar="FILE.png", parser=_path, help="The picture to write; never an existing file.")
]
AtStep = Annotated[int | None, typer.Option(min=0, help="Which checkpoint; the newest when left out.")]
AsJson = Annotated[bool, typer.Option("--json", callback=_json_alone, help="Print JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        from gantricks import __version__

        typer.echo(f"gantricks {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _gantricks(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command()
def train(
    recipe: RecipeName,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=_path, help="The folder of the run; runs/<name> when left out."),
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
    seed: Annotated[int | None, typer.Option(help="The seed of every random stream.")] = None,
    plugin: Plugins = None,
    resume: Annotated[
        Literal["auto"] | None,
        typer.Option(help="auto: go on with the run of this recipe in the folder, if there is one."),
    ] = None,
) -> None:
    """Train a recipe in a new folder.

    Shows the plan, then trains. Ctrl-C saves the run and ends it, as SIGTERM, SIGHUP and SIGUSR1 do; a second one ends
    it at once. `gantricks resume` goes on from there. With --resume auto, the same line begins a run, goes on with it,
    or says that it is finished.
    """
    from gantricks.cli.training import train

    raise typer.Exit(train(recipe, run_dir, _with(overrides, device, seed), plugin or [], resume))


@app.command()
def resume(
    run: RunFolder,
    step: AtStep = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Lengthen the run to this many steps in all. Its schedules keep their length."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Where the data is now, such as data.path=DIR, or a logger, such as loggers.NAME=off. Repeatable.",
        ),
    ] = None,
    device: Device = None,
    plugin: Plugins = None,
) -> None:
    """Continue a run that was interrupted, as if it had never stopped; or lengthen it."""
    from gantricks.cli.training import resume

    raise typer.Exit(resume(run, step, steps, device, overrides or [], plugin or []))


@app.command()
def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    device: Device = None,
    plugin: Plugins = None,
    json: AsJson = False,
) -> None:
    """Show what a recipe would do, or everything that is wrong with it, without training."""
    from gantricks.cli.training import check

    raise typer.Exit(check(recipe, _with(overrides, device, None), plugin or [], json))


@app.command()
def sample(
    run: RunFolder,
    out: Picture,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many samples.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same latents.")] = 0,
    step: AtStep = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="CAPTION", help="What to draw, for runs on captions. Repeatable; captions take turns."),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npy", help="Rows of numbers in place of captions, of the encoder that was used."),
    ] = None,
    overrides: OfSamples = None,
    plugin: Plugins = None,
) -> None:
    """Draw samples of a run's generator to a PNG file."""
    from gantricks.cli.training import sample

    sample(run, out, count, seed, step, text or [], conditions, overrides or [], plugin or [])


@app.command()
def evaluate(
    run: RunFolder,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A metric of the recipe, or any at its defaults; the recipe's, or those that suit its data, when left "
            "out. Repeatable.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Generated samples; the recipe's number when left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 0,
    step: AtStep = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of [evaluate] or [data], such as data.path=DIR or "
            '\'evaluate.frechet_distance.extractor={name="inception",weights="…"}\'; or a trick that acts on samples '
            "alone, such as tricks.truncation.limit=0.5. Repeatable.",
        ),
    ] = None,
    device: Device = None,
    plugin: Plugins = None,
    json: AsJson = False,
) -> None:
    """Measure what a run has learned, beside the same figures of real data."""
    from gantricks.cli.evaluation import evaluate_run

    evaluate_run(run, metric or [], samples, seed, step, overrides or [], device or "cpu", plugin or [], json)


@app.command()
def interpolate(
    run: RunFolder,
    out: Picture,
    rows: Annotated[int, typer.Option(min=1, max=100, help="How many paths from one latent to another.")] = 8,
    columns: Annotated[
        int | None,
        typer.Option(min=2, max=1000, help="Samples along each path; 10 images or 250 points when left out."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same latents.")] = 0,
    step: AtStep = None,
    overrides: OfSamples = None,
    plugin: Plugins = None,
) -> None:
    """Draw samples of a run's generator along great circles through its latents."""
    from gantricks.cli.training import interpolate

    interpolate(run, out, rows, columns, seed, step, overrides or [], plugin or [])


Seeds = Annotated[int, typer.Option(min=2, max=1000, help="Runs of each variant, from the recipe's seed on.")]
StudyDesign = Annotated[
    Literal["independent", "paired"] | None,
    typer.Option(
        help="independent, when left out: the recipe itself is played √k times as often as each of k variants; "
        "paired: runs with one seed are compared with each other."
    ),
]
Adjust = Annotated[
    Literal["max-t", "holm"] | None,
    typer.Option(help="How the number of comparisons is allowed for; max-t when left out."),
]
Margin = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1e300,
        help="What counts as no effect: a share of a figure that is always above 0, 0.1 when left out, or a "
        "difference of another.",
    ),
]
Spread = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|FILE",
        help="How far runs differ by chance, to say before the first run what will be seen: 20%, or results.json.",
    ),
]
StudyMetric = Annotated[
    str | None, typer.Option(metavar="NAME", help="What is compared; the recipe's first metric when left out.")
]
StudyFigure = Annotated[
    str | None, typer.Option(metavar="NAME", help="A figure of the metric; its main one when left out.")
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Runs at once, each in a process.")]
StudyFolder = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", parser=_path, help="The study's folder; studies/<name>-<mode> when left out."),
]


@app.command()
def ablate(
    context: typer.Context,
    recipe: RecipeName,
    mode: Annotated[
        Literal["leave-one-out", "add-one", "pairs", "factorial", "screening", "confirm"],
        typer.Option(
            metavar="MODE",
            help="leave-one-out: without each of its tricks; add-one: with one trick more; pairs: what two tricks do "
            "together; factorial: every subset of a few tricks; screening: random sets of tricks at random strengths "
            "and hyper-parameters; confirm: finalists in fresh blocks of these.",
        ),
    ] = "leave-one-out",
    seeds: Seeds = 5,
    design: StudyDesign = None,
    adjust: Adjust = None,
    margin: Margin = None,
    spread: Spread = None,
    runs: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="With screening, how many runs, 256 when left out; more extend a study."),
    ] = None,
    order: Annotated[
        int | None,
        typer.Option(
            min=1, max=8, help="With factorial, the most tricks in an interaction that is shown; 2 if left out."
        ),
    ] = None,
    finalists: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="With confirm, the tricks that are compared with the recipe.")
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            min=2, max=1000, help="With confirm, how many draws of hyper-parameters and a seed; 24 when left out."
        ),
    ] = None,
    metric: StudyMetric = None,
    figure: StudyFigure = None,
    jobs: Jobs = 1,
    tricks: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these tricks; all of the recipe's, or all there are.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="KEY=VALUE",
            help="An option of a trick that the mode adds, such as tricks.ema.decay=0.99; with screening, three values "
            "are its strengths: tricks.r1.weight=[0.1, 1.0, 10.0]. Repeatable.",
        ),
    ] = None,
    folder: StudyFolder = None,
    overrides: Overrides = None,
    device: Device = None,
    plugin: Plugins = None,
    json: AsJson = False,
) -> None:
    """Measure what each trick does: runs with it and without it, the change with its interval, and a verdict.

    The same command continues a study that was stopped.
    """
    shared: dict[str, Any] = {
        "metric": metric,
        "figure": figure,
        "jobs": jobs,
        "options": options or [],
        "folder": folder,
        "overrides": _with(overrides, device, None),
        "plugins": plugin or [],
        "json": json,
    }
    named, chosen = _names(tricks), _names(finalists)
    source = context.get_parameter_source("seeds")
    sown = source is not None and source.name == "COMMANDLINE"
    rules: dict[str, Any] = {"design": design, "adjust": adjust, "margin": margin, "spread": spread}
    own_of = {"runs": runs, "order": order, "finalists": chosen or None, "blocks": blocks}
    _refuse_foreign(mode, {name: value for name, value in (own_of | rules).items() if value is not None}, named, sown)
    if mode == "factorial" or mode == "screening" or mode == "confirm":
        from gantricks.cli.designs import designed

        own: dict[str, dict[str, Any]] = {
            "factorial": {"seeds": seeds, "tricks": named, "order": order or 2},
            "screening": {"runs": runs or 256, "tricks": named},
            "confirm": {
                "finalists": chosen,
                "blocks": blocks or 24,
                "adjust": adjust or "max-t",
                "margin": margin,
                "spread": spread,
            },
        }
        raise typer.Exit(designed(mode, recipe, **own[mode], **shared))
    from gantricks.cli.study import study
    from gantricks.study import ablate

    rules |= {"design": design or "independent", "adjust": adjust or "max-t"}
    raise typer.Exit(study(ablate, recipe, mode=mode, seeds=seeds, tricks=named, **rules, **shared))


@app.command()
def sweep(
    recipe: RecipeName,
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE,VALUE,…", help="A key and its values; of several keys, every combination."),
    ],
    seeds: Seeds = 5,
    design: StudyDesign = None,
    adjust: Adjust = None,
    margin: Margin = None,
    spread: Spread = None,
    metric: StudyMetric = None,
    figure: StudyFigure = None,
    jobs: Jobs = 1,
    folder: StudyFolder = None,
    overrides: Overrides = None,
    device: Device = None,
    plugin: Plugins = None,
    json: AsJson = False,
) -> None:
    """Measure what other values of a recipe's keys do: the change against the recipe itself, and a verdict.

    For example: gantricks sweep grid_mlp tricks.ema.decay=0.9,0.99 --seeds 5. The same command continues a study that
    was stopped.
    """
    from gantricks.cli.study import study
    from gantricks.study.sweep import sweep

    raise typer.Exit(
        study(
            sweep,
            recipe,
            values,
            seeds=seeds,
            design=design or "independent",
            adjust=adjust or "max-t",
            margin=margin,
            spread=spread,
            metric=metric,
            figure=figure,
            jobs=jobs,
            folder=folder,
            overrides=_with(overrides, device, None),
            plugins=plugin or [],
            json=json,
        )
    )


@app.command()
def tune(
    recipe: RecipeName,
    space: Annotated[
        list[str],
        typer.Option(
            "--param",
            metavar="KEY=VALUES",
            help="What is searched: LOW..HIGH, with :log or :int after it, or A|B|C, such as "
            "generator.optimizer.lr=1e-5..1e-2:log or 'tricks.soft_labels=off|{}'. Repeatable.",
        ),
    ],
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="How many trials in all; more extend a search.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each trial, from the recipe's seed on.")] = 1,
    prune_every: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS",
            min=1,
            max=10**9,
            help="Measure so often while a run trains, and stop trials that are worse than the median; off when left "
            "out.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The seed of the search; runs have their own.")] = 0,
    metric: StudyMetric = None,
    figure: StudyFigure = None,
    jobs: Jobs = 1,
    folder: StudyFolder = None,
    overrides: Overrides = None,
    device: Device = None,
    plugin: Plugins = None,
    json: AsJson = False,
) -> None:
    """Search the values of a recipe's keys with Optuna, and write the best as a recipe.

    For example: gantricks tune grid_mlp --param tricks.ema.decay=0.9..0.9999 --trials 30. The same command continues a
    search that was stopped.
    """
    from gantricks.study.trials import require_optuna

    require_optuna()
    from gantricks.cli.tune import search

    raise typer.Exit(
        search(
            recipe,
            space,
            trials=trials,
            seeds=seeds,
            prune_every=prune_every,
            seed=seed,
            metric=metric,
            figure=figure,
            jobs=jobs,
            folder=folder,
            overrides=_with(overrides, device, None),
            plugins=plugin or [],
            json=json,
        )
    )


def _refuse_foreign(mode: str, given: dict[str, Any], tricks: list[str], seeds: bool) -> None:
    """Raise UserError for the options of `ablate` that another mode has and this one has not."""
    from gantricks.errors import Problem, UserError

    of: dict[str, tuple[str, ...]] = {
        "runs": ("screening",),
        "order": ("factorial",),
        "finalists": ("confirm",),
        "blocks": ("confirm",),
    }
    comparing = ("leave-one-out", "add-one", "pairs")
    of |= {"design": comparing} | dict.fromkeys(("adjust", "margin", "spread"), (*comparing, "confirm"))
    problems = [
        Problem(
            f"--{name} belongs to --mode {' or '.join(of[name])}", f"--mode {mode}", "leave it out, or name that mode"
        )
        for name in given
        if mode not in of[name]
    ]
    if mode == "confirm" and tricks:
        problems.append(Problem("--mode confirm compares finalists", "--tricks", "name them with --finalists"))
    if mode in ("screening", "confirm") and seeds:
        instead = {"screening": "--runs", "confirm": "--blocks"}[mode]
        problems.append(Problem(f"--mode {mode} draws its seeds", "--seeds", f"say how many with {instead}"))
    if problems:
        raise UserError(*problems)


def _names(listed: str | None) -> list[str]:
    return [name.strip() for name in (listed or "").split(",") if name.strip()]


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", parser=_path, help="The folder of a run, or of several.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", parser=_path, help="The page to write; report.html in the first run when left out."
        ),
    ] = None,
) -> None:
    """Put one run, or several side by side, on one page: recipe, samples, curves, evaluation, environment.

    Figures are those that `gantricks evaluate RUN --json > RUN/evaluation.json` has left.
    """
    from gantricks.cli.report import report

    report(runs, out)


@app.command()
def tricks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A trick.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Run the laws that every trick obeys on this one.")] = False,
    plugin: Plugins = None,
    json: AsJson = False,
) -> None:
    """List the tricks, show the card and the options of one, or check that it obeys the laws."""
    from gantricks.cli.tricks import check_trick, list_tricks, show_trick

    if check:
        raise typer.Exit(check_trick(name, plugin or (), json))
    if name is None:
        list_tricks(plugin or (), json)
    else:
        show_trick(name, plugin or (), json)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A shipped recipe.")] = None,
    copy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=_path, help="Copy the recipe to this folder, to edit it there."),
    ] = None,
    json: AsJson = False,
) -> None:
    """List the shipped recipes, or show or copy one."""
    from gantricks.cli.recipes import copy_recipe, list_recipes, show_recipe

    if copy is not None:
        copy_recipe(name, copy, json)
    elif name is None:
        list_recipes(json)
    else:
        show_recipe(name, json)


@app.command()
def new_trick(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What recipes will call it, such as target_jitter.")],
    folder: Annotated[
        Path,
        typer.Option(
            "--dir",
            metavar="DIR",
            parser=_path,
            help="Where to make its folder; here when left out.",
            show_default=False,
        ),
    ] = Path(),
) -> None:
    """Write a package with a working example trick and its tests, to change into your own."""
    from gantricks.cli.new_trick import new_trick

    new_trick(name, folder)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check TOML."""
    from gantricks.cli.console import write_json
    from gantricks.cli.schema import recipe_schema

    write_json(recipe_schema())


@app.command()
def doctor(json: AsJson = False) -> None:
    """Examine this installation: versions, devices, cache, plugins."""
    from gantricks.cli.doctor import doctor

    raise typer.Exit(doctor(json))


def _with(overrides: list[str] | None, device: str | None, seed: int | None) -> list[str]:
    """Return the overrides, the short options last, so that they win."""
    short = {"train.device": device, "seed": seed}
    return [*(overrides or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]


command: Any = typer.main.get_command(app)
for _one in command.commands.values():
    # typer would cut the sentences in the list of commands
    _one.short_help = " ".join((_one.help or "").partition("\n\n")[0].split())
