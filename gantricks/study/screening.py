"""Screening: each run plays a random set of tricks at random strengths and hyper-parameters; a regression tells what
each does on average, whatever else is done.

It ranks tricks; it does not settle anything. The finalists are confirmed with fresh runs (`gantricks.study.confirm`).
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gantricks.catalogue.index import shipped
from gantricks.errors import Problem, UserError
from gantricks.files import write_whole
from gantricks.hooks import KINDS
from gantricks.option_errors import first_error
from gantricks.planning.contract import hooks_of
from gantricks.planning.recipe import TrickPart
from gantricks.planning.validation import load_recipe
from gantricks.study.draws import (
    BETAS,
    RATES,
    RATIOS,
    Settings,
    has_beta1,
    inline,
    one_of,
    seed_of,
    settings_of,
    uniform,
)
from gantricks.study.effects import (
    Direction,
    Effect,
    Family,
    Findings,
    Row,
    direction,
    findings,
    judge,
    regress,
    usable,
)
from gantricks.study.effects_forest import effects_forest
from gantricks.study.effects_words import as_markdown
from gantricks.study.folder import OUTCOMES, Folder, choose, damaged, read_text, written_in
from gantricks.study.playing import Figure, Playing, Reporter, conduct
from gantricks.study.pool import WORKER
from gantricks.study.study import begin, open_study, portable, write_results, written
from gantricks.study.variants import Base, Variant, trick_of, tricks_to_add, try_variant
from gantricks.trick import Trick

SIZES = (2, 3, 4, 5, 6)
"""The numbers of tricks in a run, each as likely. If all runs had four, only differences between tricks were known."""
LEVELS = (-1, 0, 1)
"""The codes of weak, moderate and strong."""
FINALISTS = 8
"""The largest number of tricks that a screening proposes to confirm."""

EAGER = "train.capture=off"
"""Each set of tricks would have to be compiled anew, which takes longer than it saves."""

STRENGTH = " strength"
RATE, BENT, BETA, RATIO = "learning rate × 2", "learning rate, curvature", "β₁", "D steps per G step"


@dataclass(frozen=True)
class Candidate:
    """A trick that runs may draw.

    `origin` is where it comes from. `options` are overrides that it always has. `levels` are overrides for weak,
    moderate and strong; empty where it has one strength. `group` names what it replaces, which at most one trick of a
    run can; empty where no other candidate replaces the same.
    """

    name: str
    origin: str = "gantricks"
    options: tuple[str, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()
    group: str = ""

    def overrides(self, level: int) -> list[str]:
        strength = self.levels[LEVELS.index(level)] if self.levels else ()
        return [f"tricks.{self.name}={{}}", *self.options, *strength]


@dataclass(frozen=True)
class Draw:
    """A run of a screening: its tricks in order, each with the code of its strength, and its hyper-parameters.

    `dropped` tricks were drawn and do not go with those before them; each has the reason.
    """

    number: int
    tricks: dict[str, int]
    settings: Settings
    dropped: dict[str, str] = field(default_factory=dict)


_DRAW = TypeAdapter(Draw)

Refusal = Callable[[Mapping[str, int], Settings], str]
"""Says why tricks with these strengths, in this order, do not go together; nothing where they do."""


@dataclass(frozen=True)
class Space:
    """What runs are drawn from. `sizes` are the numbers of tricks in a run; `impossible` tricks are never drawn."""

    base: Base
    candidates: tuple[Candidate, ...]
    ratios: tuple[int, ...]
    impossible: dict[str, str]

    @property
    def sizes(self) -> Sequence[int]:
        """The numbers of tricks in a run, each as likely: about four, fewer where there are few to choose from."""
        factors = len({candidate.group or candidate.name for candidate in self.candidates})
        return SIZES if factors >= 2 * 4 else range(factors + 1)

    def variant(self, name: str, tricks: Mapping[str, int], settings: Settings) -> Variant:
        """Return the recipe with these tricks, strengths and hyper-parameters, checked."""
        of = {candidate.name: candidate for candidate in self.candidates}
        changes = [change for trick, level in tricks.items() for change in of[trick].overrides(level)]
        return try_variant(self.base, name, [*changes, *settings.overrides(self.base.recipe)])

    def refusal(self, tricks: Mapping[str, int], settings: Settings) -> str:
        return self.variant("", tricks, settings).impossible


def draw(space: Space, number: int, refusal: Refusal | None = None) -> Draw:
    """Draw run `number`: it depends on the recipe's seed, on the number and on the candidates alone.

    Candidates are taken in a random order until the run has its number of tricks; one that does not go with those
    before it is dropped. `refusal` is by default that of the space.
    """
    refusal = refusal or space.refusal
    seed = space.base.recipe.seed
    settings = settings_of(space.base.recipe, "screening", number, space.ratios)
    size = one_of(space.sizes, seed, "screening", number, "size")
    tricks: dict[str, int] = {}
    dropped: dict[str, str] = {}
    taken: dict[str, str] = {}
    for candidate in sorted(space.candidates, key=lambda c: uniform(seed, "screening", number, "order", c.name)):
        if len(tricks) == size:
            break
        level = one_of(LEVELS, seed, "screening", number, "strength", candidate.name) if candidate.levels else 0
        if candidate.group and candidate.group in taken:
            dropped[candidate.name] = f"{taken[candidate.group]} has the place of {candidate.group}"
        elif why := refusal({**tricks, candidate.name: level}, settings):
            dropped[candidate.name] = why
        else:
            tricks[candidate.name] = level
            if candidate.group:
                taken[candidate.group] = candidate.name
    return Draw(number, tricks, settings, dropped)


# ---------------------------------------------------------------- what there is to draw from


def space_of(base: Base, tricks: Sequence[str] = (), options: Sequence[str] = ()) -> Space:
    """Return what the runs of a recipe are drawn from: `tricks`, by default all that ship, with these `options`.

    An option `tricks.NAME.KEY=[weak, moderate, strong]`, of three values that the key takes one by one, says how strong
    the trick may be, in place of what it declares itself. Raises UserError with everything that is wrong, and where
    fewer than two tricks can be drawn.
    """
    optioned = [name for option in options if (name := trick_of(option))]
    names = tricks_to_add(tricks or [*shipped("tricks"), *optioned], options, base.registry)
    own = {trick.name for trick in base.recipe.tricks}
    impossible: dict[str, str] = {}
    parts: dict[str, TrickPart] = {}
    found: dict[str, Candidate] = {}
    for name in names:
        if name in own:
            impossible[name] = "it is in the recipe already"
            continue
        given = [option for option in options if trick_of(option) == name]
        given, levels, part = _strengths(base, name, given)
        variant = try_variant(base, name, [f"tricks.{name}={{}}", *given])
        if variant.impossible:
            impossible[name] = variant.impossible
            continue
        found[name], parts[name] = Candidate(name, part.found.origin, tuple(given), levels), part
    groups = exclusive({name: part.found.make(part.options) for name, part in parts.items()})
    candidates = tuple(replace(candidate, group=groups.get(name, "")) for name, candidate in found.items())
    if len(candidates) < 2:
        raise UserError(
            *(Problem(f"it cannot be drawn: {why}", name) for name, why in impossible.items()),
            Problem("a screening draws from two tricks at least", "--tricks", "name more of them"),
        )
    ratios, refused = ratios_of(base)
    return Space(base, candidates, ratios, impossible | refused)


def ratios_of(base: Base) -> tuple[tuple[int, ...], dict[str, str]]:
    """Return the ratios of D's steps to G's that the recipe can be trained with at the ends of the other ranges, and
    why not with others, by override. Raises UserError where there is none.
    """
    beta1 = BETAS[-1] if has_beta1(base.recipe) else None
    refused: dict[int, str] = {}
    for ratio in RATIOS:
        told = (try_variant(base, "", Settings(rate, beta1, ratio).overrides(base.recipe)) for rate in RATES)
        if why := next((variant.impossible for variant in told if variant.impossible), ""):
            refused[ratio] = why
    if len(refused) == len(RATIOS):
        raise UserError(
            Problem(f"no hyper-parameters that are drawn can be trained: {refused[RATIOS[0]]}", base.file.name)
        )
    return tuple(ratio for ratio in RATIOS if ratio not in refused), {
        f"train.n_critic={ratio}": why for ratio, why in refused.items()
    }


def _strengths(base: Base, name: str, given: Sequence[str]) -> tuple[list[str], tuple[tuple[str, ...], ...], TrickPart]:
    """Return the options that a trick always has, its strengths as overrides, and the trick at its defaults."""
    fixed: list[str] = []
    levels: dict[str, Sequence[Any]] = {}
    candidates = [(option, *_listed(option)) for option in given]
    plain = [option for option, _, listed in candidates if listed is None]
    part = _part(base, name, plain)
    for option, key, listed in candidates:
        if listed is not None and not _takes(part, key, listed) and all(_takes(part, key, value) for value in listed):
            levels[key] = [_plain(part, {key: value})[key] for value in listed]
        else:
            fixed.append(option)
    part = _part(base, name, fixed)  # raises where an option is wrong
    declared: Mapping[str, Sequence[Any]] = part.found.cls.strengths  # type: ignore[attr-defined]
    if not levels and not (declared.keys() & part.options.model_fields_set):
        levels = _declared(part, declared)
    overrides = tuple(
        tuple(f"tricks.{name}.{key}={inline(values[i])}" for key, values in levels.items())
        for i in range(len(LEVELS) if levels else 0)
    )
    return fixed, overrides, part


def _declared(part: TrickPart, strengths: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Return the strengths that a trick declares, as plain data. Raises UserError where it does not take them."""
    try:
        columns = zip(*strengths.values(), strict=True) if strengths else ()
        every = [_plain(part, dict(zip(strengths, values, strict=True))) for values in columns]
        if len(every) not in (0, len(LEVELS)):
            raise ValueError(f"{len(every)} and not {len(LEVELS)} values")
    except ValueError as error:  # of pydantic too
        why = first_error(error) if isinstance(error, ValidationError) else error
        hint = f"gantricks tricks {part.found.name} --check examines a trick; or give it others with --with"
        raise UserError(Problem(f"its strengths are not to be used: {why}", part.found.origin, hint)) from error
    return {key: [plain[key] for plain in every] for key in strengths}


def _listed(option: str) -> tuple[str, list[Any] | None]:
    """Return the key of a trick's option, and its value where that is a list of as many values as there are levels."""
    dotted, _, text = option.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = None
    three = len(keys) == 3 and isinstance(value, list) and len(value) == len(LEVELS)
    return keys[-1], value if three else None


def _part(base: Base, name: str, options: Sequence[str]) -> TrickPart:
    recipe = load_recipe(base.file, [*base.overrides, f"tricks.{name}={{}}", *options], base.registry)
    return next(trick for trick in recipe.tricks if trick.name == name)


def _plain(part: TrickPart, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a trick with changes, as plain data."""
    model = type(part.options)
    given = {key: getattr(part.options, key) for key in part.options.model_fields_set}
    plain: dict[str, Any] = model(**{**given, **changes}).model_dump(mode="json")
    return plain


def _takes(part: TrickPart, key: str, value: Any) -> bool:
    try:
        _plain(part, {key: value})
    except ValidationError:
        return False
    return True


def exclusive(tricks: Mapping[str, Trick]) -> dict[str, str]:
    """Return the exclusive group of each trick that is in one: what it replaces, where others replace the same.

    Tricks exclude one another that declare to replace the same part, or that provide the same choice, such as the
    objective. A trick that does so twice belongs to the larger group; with the other it is incompatible.
    """
    places: dict[str, set[str]] = {}
    for name, trick in tricks.items():
        for place in {*trick.replaces, *(hook for hook in hooks_of(type(trick)) if KINDS.get(hook) == "choice")}:
            places.setdefault(place, set()).add(name)
    found: dict[str, str] = {}
    while crowded := {place: names - found.keys() for place, names in places.items() if len(names - found.keys()) > 1}:
        place = max(sorted(crowded), key=lambda place: len(crowded[place]))
        found |= dict.fromkeys(sorted(crowded[place]), place)
    return found


# ---------------------------------------------------------------- the study


DRAWS = "draws.jsonl"
ADVICE = "remove the line to draw the run anew"


def _name(number: int) -> str:
    return f"run-{number:04d}"


class _Screening(Playing):
    """The runs of a screening. Each is drawn when it is its turn; draws.jsonl keeps a line for each."""

    def __init__(
        self, home: Folder, space: Space, runs: int, compared: Figure, plugins: Sequence[Path], reporter: Reporter
    ):
        self.space = space
        self.numbers = {_name(number): number for number in range(runs)}
        seed = space.base.recipe.seed
        every = [(name, seed_of(seed, "screening", number)) for name, number in self.numbers.items()]
        super().__init__(home, every, space.base.recipe, compared, plugins, reporter, slim=True)

        self._draws = self._drawn_before()

    def recipe(self, variant: str, seed: int) -> Path:
        path = self.home.recipe(variant)
        if variant not in self._draws:
            self._draws[variant] = draw(self.space, self.numbers[variant])
            lines = (json.dumps(asdict(self._draws[name]), ensure_ascii=False) + "\n" for name in sorted(self._draws))
            with written_in(self.home):
                write_whole(self.home.path / DRAWS, "".join(lines))
            path.unlink(missing_ok=True)  # of an earlier draw whose line was removed
        if not path.is_file():
            found = self._draws[variant]
            recipe = self.space.variant(variant, found.tricks, found.settings).recipe
            assert recipe, "a draw has been checked"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, recipe.as_toml())
        return path

    def drawn(self, variant: str) -> Draw:
        """Return the draw of a run as it was played. Raises UserError where its line is gone."""
        try:
            return self._draws[variant]
        except KeyError:
            where, folder = str(self.home.path / DRAWS), self.home.recipe(variant).parent
            advice = f"remove its line in {OUTCOMES}, and {folder}, to play the run anew"
            raise UserError(Problem(f"the draw of {variant} is gone", where, advice)) from None

    def _drawn_before(self) -> dict[str, Draw]:
        """Return the draws by variant. Raises UserError where their file is damaged."""
        path, found = self.home.path / DRAWS, dict[str, Draw]()
        for line, text in enumerate((read_text(path, ADVICE) or "").splitlines(), 1):
            with damaged(f"{path}:{line}", ADVICE):
                drawn = _DRAW.validate_json(text)
                found[_name(drawn.number)] = drawn
        return found


def screening(
    recipe: str | Path,
    *,
    runs: int = 256,
    metric: str | None = None,
    figure: str | None = None,
    tricks: Sequence[str] = (),
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
    jobs: int = 1,
    folder: Path | None = None,
    plugins: Sequence[Path] = (),
    reporter: Reporter | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Path, Findings]:
    """Play `runs` random runs and regress the figure on everything that was drawn.

    The same call continues a study that was stopped; with more `runs`, it extends the study. `tricks` and `options` say
    what is drawn (`space_of`). Returns the study's folder and its findings, which are also written there. Raises
    UserError with everything that is wrong; Interrupted, after the workers have saved their runs.
    """
    reporter = reporter or Reporter()
    opened = open_study(recipe, metric, figure, [EAGER, *overrides], jobs, plugins)
    space = space_of(opened.base, tricks, options)
    definition = _definition(space, opened.compared)
    home = choose(folder, f"{opened.base.recipe.name}-screening", definition)

    def playing() -> _Screening:
        found = _Screening(home, space, runs, opened.compared, opened.plugins, reporter)
        words = f"{min(space.sizes)} to {max(space.sizes)} of {len(space.candidates)} tricks each"
        why = [f"{name} is not drawn: {reason}" for name, reason in space.impossible.items()]
        reporter.designed(home.path, words, runs, len(found.outcomes), why)
        return found

    def end(played: _Screening) -> Findings:
        found = analyse(space, played)
        write_results(home, found.as_dict(), as_markdown(found), effects_forest(found))
        return found

    return home.path, conduct(
        home,
        lambda: begin(home, {}, definition, opened.threads),
        playing,
        end,
        jobs=jobs,
        threads=opened.threads,
        worker=worker,
        reporter=reporter,
    )


def _definition(space: Space, compared: Figure) -> dict[str, Any]:
    """Return what distinguishes this study from others. The number of runs does not, so that it can be extended."""
    return {
        "mode": "screening",
        "metric": compared.metric,
        "figure": compared.name,
        "better": compared.better,
        "seed": space.base.recipe.seed,
        "steps": space.base.recipe.train.steps,
        "base": written(space.base.recipe),
        "rates": [*RATES],
        "betas": [*BETAS],
        "ratios": [*space.ratios],
        "sizes": [*space.sizes],
        "tricks": portable([asdict(candidate) for candidate in space.candidates]),
        "impossible": space.impossible,
    }


# ---------------------------------------------------------------- the analysis


def analyse(space: Space, played: _Screening) -> Findings:
    """Regress the figure of the runs that have ended on their tricks, strengths and hyper-parameters."""
    draws = {variant: played.drawn(variant) for variant, _ in played.outcomes}
    rows = [Row(outcome, coded(space, draws[variant])) for (variant, _), outcome in played.outcomes.items()]
    settings, strengths = settings_columns(space), [c.name + STRENGTH for c in space.candidates if c.levels]
    names = [candidate.name for candidate in space.candidates]
    wanted = 2 * len([*settings, *names, *strengths])
    if few := len(usable(rows)) < wanted:
        strengths = []  # else most of what the runs tell of the tricks would be spent on their strengths
    found = regress(rows, [*settings, *names, *strengths], played.compared.ratio)
    better = direction(played)
    groups = {candidate.name: candidate.group for candidate in space.candidates}
    tricks = [judge(replace(e, group=groups[e.name]), found.scale, better) for e in found.effects([*groups], _has)]
    tricks.sort(key=lambda effect: effect.hopeful(better), reverse=True)
    families = (
        Family("trick", tuple(tricks)),
        Family("strength, one step up", found.effects(strengths, _has)),
        Family("hyper-parameter", found.effects(settings, _has)),
    )
    return findings(
        "screening",
        space.base,
        played,
        found,
        (family for family in families if family.effects),
        impossible=space.impossible,
        remarks=tuple(_remarks(space, wanted if few else None)),
        finalists=finalists(tricks, better),
        table=tuple(_described(row, draws[row.outcome.variant]) for row in rows),
    )


def settings_columns(space: Space) -> list[str]:
    """Return the columns of the hyper-parameters. β₁ and the ratio are levels, against the first of each."""
    with_beta1 = has_beta1(space.base.recipe)
    betas = [f"{BETA} {beta:g} against {BETAS[0]:g}" for beta in BETAS[1:]] if with_beta1 else []
    return [RATE, BENT, *betas, *(_ratio(space, ratio) for ratio in space.ratios[1:])]


def _ratio(space: Space, ratio: int) -> str:
    return f"{ratio} {RATIO} against {space.ratios[0]}"


def coded(space: Space, drawn: Draw) -> dict[str, float]:
    """Return the value of each column for a run.

    A trick is 1 where it was drawn; its strength -1, 0 or 1 there and 0 elsewhere, so that the trick's own effect is
    the mean over its strengths. The learning rate is the log of the factor on it, base 2, and its square.
    """
    rate, settings = math.log2(drawn.settings.rate), drawn.settings
    found = {RATE: rate, BENT: rate**2}
    found |= {f"{BETA} {beta:g} against {BETAS[0]:g}": float(settings.beta1 == beta) for beta in BETAS[1:]}
    found |= {_ratio(space, ratio): float(settings.ratio == ratio) for ratio in space.ratios[1:]}
    for candidate in space.candidates:
        found[candidate.name] = float(candidate.name in drawn.tricks)
        found[candidate.name + STRENGTH] = float(drawn.tricks.get(candidate.name, 0))
    return found


def _has(row: Row, name: str) -> bool | None:
    """Return whether a run has a factor: the trick; of the runs with a trick, its strong form; a learning rate above
    the recipe's, or far from it.
    """
    trick = name.removesuffix(STRENGTH)
    if trick != name and not row.columns[trick]:
        return None
    return row.columns[name] > (_FAR if name == BENT else 0)


_FAR = (math.log2(RATES[1]) / 2) ** 2
"""The square of the learning rate's log that half of the runs exceed."""


def finalists(tricks: Iterable[Effect], better: Direction) -> tuple[str, ...]:
    """Return the tricks to confirm: the best by the end of the interval that speaks least for them, of those whose
    estimate is on the better side, and with which runs are not lost more often.
    """
    sign = 1 if better == "higher" else -1
    hopeful = [e for e in tricks if e.low is not None and sign * (e.value or 0) > 0 and not e.loses_more]
    ranked = sorted(hopeful, key=lambda effect: effect.hopeful(better), reverse=True)
    return tuple(effect.name for effect in ranked[:FINALISTS])


def _remarks(space: Space, wanted: int | None) -> Iterable[str]:
    yield (
        "the effect of a trick is its mean over the other tricks, strengths and hyper-parameters that were drawn, "
        "against runs without it; tricks are ranked by the end of the interval that speaks least for them. A screening "
        "ranks: the best of many are best by luck in part, so what it finds good is to be confirmed with fresh runs"
    )
    if groups := _levels(space):
        told = "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items())
        yield f"at most one trick of each group is in a run, and its effect is against none of the group ({told})"
    if wanted is not None:
        yield f"strengths are not estimated from fewer than {wanted} runs"


def _levels(space: Space) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for candidate in space.candidates:
        if candidate.group:
            groups.setdefault(candidate.group, []).append(candidate.name)
    return groups


def _described(row: Row, drawn: Draw) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "run": drawn.number,
        "seed": outcome.seed,
        "tricks": drawn.tricks,
        **asdict(drawn.settings),
        "dropped": drawn.dropped,
        "status": outcome.status,
        "collapsed": outcome.collapsed,
        "values": outcome.values,
        "seconds": outcome.seconds,
    }
