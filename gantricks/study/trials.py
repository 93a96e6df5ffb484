"""The trials of a search, which Optuna draws, prunes and keeps in the study's folder, in journal.log."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gantricks.errors import Problem, UserError
from gantricks.study.draws import uniform
from gantricks.study.folder import damaged
from gantricks.study.parameters import Choice, Drawn, Parameter, applies

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
ADVICE = "name another folder with --dir to begin the search anew"

State = Literal["done", "pruned", "diverged", "collapsed", "impossible", "unfinished"]
"""`done` trials have a figure. `pruned` were stopped; in `diverged` and `collapsed` a run has no figure that counts;
`impossible` values go together in no recipe. `unfinished` trials are gone on with by the same command.
"""


@dataclass(frozen=True)
class Trial:
    """One trial: its values by key, and what came of it.

    `figure` is the mean over its runs, a geometric one where the study compares ratios. `curve` has the figure by step,
    as it was shown to the pruner. `steps` and `seconds` are those of all its runs.
    """

    number: int
    values: dict[str, Drawn]
    state: State
    figure: float | None = None
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0
    curve: dict[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return named(self.number)


def named(number: int) -> str:
    """Return the name of a trial, which its folder has."""
    return f"trial-{number:04d}"


def require_optuna() -> None:
    """Raise UserError where Optuna is missing. A search calls it first."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError(Problem("a search needs Optuna", "gantricks tune", 'pip install "gantricks[tune]"')) from error


class Trials:
    """The trials in the journal of a study's folder, whose lock the caller holds.

    The values of trial n depend on `seed`, on n, and on the trials that have ended by then. So a search that was
    stopped draws what it would have drawn, and not its first values again.
    """

    def __init__(self, folder: Path, space: Sequence[Parameter], better: str, seed: int) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed = space, seed
        path = folder / JOURNAL
        _mended(path)
        with damaged(path, ADVICE):
            # a file as its lock, because Windows makes no links for everybody
            backend = JournalFileBackend(str(path), JournalFileOpenLock(str(path)))
            self._study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name="tune",
                direction="maximize" if better == "higher" else "minimize",
                pruner=optuna.pruners.MedianPruner(),
                load_if_exists=True,
            )
        self._open = dict[int, optuna.Trial]()

    def __len__(self) -> int:
        return len(self._frozen())

    def __getitem__(self, number: int) -> Trial:
        return self._told(self._frozen()[number])

    def every(self) -> list[Trial]:
        return [self._told(frozen) for frozen in self._frozen()]

    @property
    def best(self) -> Trial | None:
        """The trial with the best figure, the first of equal ones."""
        try:
            return self[self._study.best_trial.number]
        except ValueError:
            return None

    def draw(self, number: int | None = None) -> tuple[int, dict[str, Drawn]]:
        """Return the number and the values of a new trial; or of a trial that was left unfinished, whose values may be
        complete or not.
        """
        import optuna

        upcoming = len(self) if number is None else number
        self._study.sampler = optuna.samplers.TPESampler(seed=int(uniform(self.seed, "tune", upcoming) * 2**32))
        if number is None:
            trial = self._study.ask()
        else:
            trial = optuna.Trial(self._study, self._frozen()[number]._trial_id)
        drawn = dict[str, Drawn]()
        for one in self.space:
            if applies(one, drawn):
                drawn[one.key] = _suggested(trial, one)
        self._open[trial.number] = trial
        return trial.number, drawn

    def show(self, number: int, step: int, value: float) -> bool:
        """Show a figure of an open trial to the pruner. Returns whether the trial is to be stopped."""
        trial = self._open[number]
        if step in self._frozen()[number].intermediate_values:
            return False  # it was shown before the run was interrupted
        trial.report(value, step)
        return trial.should_prune()

    def end(self, number: int, state: State, figure: float | None = None, **facts: Any) -> Trial:
        """Write down how an open trial has ended, with further facts of a `Trial`.

        Optuna counts a trial without a figure as pruned, whatever the reason: it counts as worse than all that have
        one, so that the sampler keeps away from there. What has failed it would forget.
        """
        from optuna.trial import TrialState

        trial = self._open.pop(number)
        for name, value in ({"state": state} | facts).items():
            trial.set_user_attr(name, value)
        if figure is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, figure)
        return self[number]

    def importance(self) -> dict[str, float]:
        """Return how much each parameter matters for being among the best tenth of the trials, as shares of 1, by
        PED-ANOVA (Watanabe et al. 2023). It is empty where too few trials tell.
        """
        import optuna

        figures = [trial.figure for trial in self.every() if trial.figure is not None]
        if len(figures) < LEAST or min(figures) == max(figures):
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def _frozen(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _told(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        attributes: Mapping[str, Any] = frozen.user_attrs
        ended = frozen.state.is_finished()
        return Trial(
            number=frozen.number,
            values={one.key: frozen.params[one.key] for one in self.space if one.key in frozen.params},
            state=attributes.get("state", "unfinished") if ended else "unfinished",
            figure=frozen.value if attributes.get("state") == "done" else None,
            reason=attributes.get("reason", ""),
            steps=attributes.get("steps", 0),
            seconds=attributes.get("seconds", 0.0),
            curve=dict(sorted(frozen.intermediate_values.items())),
        )


LEAST = 10
"""The smallest number of trials with a figure from which importance is told."""


def _suggested(trial: optuna.Trial, one: Parameter) -> Drawn:
    if isinstance(one, Choice):
        value: str = trial.suggest_categorical(one.key, one.values)
        return value
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(one.key, one.low, one.high, log=one.log)


def _mended(path: Path) -> None:
    """Remove what a killed process has left of a journal: the beginning of a line, to which Optuna would append the
    next one, and its lock, for which Optuna would wait half a minute.
    """
    with damaged(path, ADVICE), contextlib.suppress(FileNotFoundError):
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
