"""Laws, and the cases that they check: a trick at some options, in a tiny run."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gantricks.engine import sampling
from gantricks.engine.game import Game, Tensors
from gantricks.errors import UserError
from gantricks.testing.host import TrickHost, made
from gantricks.testing.record import Played
from gantricks.trick import Trick


class NotApplicable(Exception):
    """Raised when the law does not apply to this trick. The message is the reason."""


class Whole(NamedTuple):
    """A recorded run of all steps: the calls and phases in `played`, the `state` at its end, and `samples` of it. Laws
    share it, so it must not be played on.
    """

    played: Played
    state: dict[str, Tensors]
    samples: Tensor


@dataclass(frozen=True)
class Case:
    """A trick class at settings where it has an effect, and the host that it is tested in.

    `options` are those settings. `host` is the smallest that fits the trick unless another is given. `name` is the
    trick's name in the run, to which other tricks' conflicts refer. `trace` is the trick's own law on a recorded run,
    alone or with other tricks: it receives the run and the trick's name in it, and raises AssertionError where the law
    is broken.
    """

    trick: type[Trick]
    options: Mapping[str, Any] = field(default_factory=dict)
    host: TrickHost | None = None
    name: str = "trick"
    trace: Callable[[Played, str], None] | None = None
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def instance(self) -> Trick:
        """An instance of the trick at these settings. Its needs and declarations may depend on them."""
        instance: Trick = self._once("instance", lambda: made(self.trick, self.options))
        return instance

    @property
    def without(self) -> TrickHost:
        """The host without the trick."""
        return self.host or TrickHost.for_trick(self.instance)

    @property
    def with_it(self) -> TrickHost:
        """The host with the trick at these settings."""
        return self.without.with_trick(self.trick, self.name, **self.options)

    @property
    def whole(self) -> Whole:
        """The run with the trick."""
        whole: Whole = self._once("whole", lambda: _whole(self.with_it))
        return whole

    @property
    def plain(self) -> Whole:
        """The run without the trick."""
        plain: Whole = self._once("plain", lambda: _whole(self.without))
        return plain

    def outcome(self, law: Law) -> Exception | None:
        """Check the law once and return what it raises: AssertionError or any other error where it is broken,
        NotApplicable, or None where it holds.
        """
        outcome: Exception | None = self._once(f"law {law.id}", lambda: _outcome(law, self))
        return outcome

    def presumed(self, law: Law) -> str | None:
        """Return the id of a presumed law that does not hold, or None. A law is checked only if those it
        presumes hold.
        """
        for identity in law.presumes:
            outcome = self.outcome(LAWS[identity])
            # where hooks break the contract, "plays" does not apply, and nothing is played
            if outcome and (identity == "plays" or not isinstance(outcome, NotApplicable)):
                return identity
        return None

    def _once(self, what: str, find: Callable[[], Any]) -> Any:
        if what not in self._known:
            self._known[what] = find()
        return self._known[what]


def _whole(host: TrickHost) -> Whole:
    played = host.train()
    return Whole(played, played.state, samples_of(played.game))


def _outcome(law: Law, case: Case) -> Exception | None:
    try:
        law.check(case)
    except Exception as outcome:  # any error of a wrong trick is a failure
        return outcome
    return None


def told(broken: BaseException, trick: type[Trick]) -> str:
    """Describe an error, with the line of the trick's own file where it was raised."""
    if isinstance(broken, AssertionError):
        return str(broken)
    if isinstance(broken, UserError):
        return f"the recipe is refused: {'; '.join(problem.what for problem in broken.problems)}"
    words = f"{type(broken).__name__}: {broken}"
    file = getattr(sys.modules.get(trick.__module__), "__file__", None)
    own = [frame for frame in traceback.extract_tb(broken.__traceback__) if file and frame.filename == file]
    return f"{words} (in {own[-1].name}, line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else words


def samples_of(game: Game) -> Tensor:
    """Return a few samples, the same for the same state."""
    return torch.from_numpy(sampling.sample(game, 6, seed=3))


@dataclass(frozen=True)
class Law:
    """A generic law. `check(case)` raises AssertionError where it is broken and NotApplicable where it does not apply.

    A `convention` may be broken on purpose, by a trick that says so in `deliberate`. `presumes` names the laws that
    must hold first: where one of them is broken, checking this one would only repeat its failure.
    """

    id: str
    hint: str
    check: Callable[[Case], None]
    convention: bool = False
    presumes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.id


LAWS: dict[str, Law] = {}
"""Every generic law, by id."""


Check = Callable[[Case], None]


def law(
    identity: str, hint: str, convention: bool = False, presumes: tuple[str, ...] = ("plays",)
) -> Callable[[Check], Check]:
    """Return a decorator that adds a check to the laws."""

    def add(check: Check) -> Check:
        @functools.wraps(check)
        def unless_deliberate(case: Case) -> None:
            if identity in case.instance.deliberate:
                raise NotApplicable(f"it breaks this on purpose: {case.instance.deliberate[identity]}")
            check(case)

        LAWS[identity] = Law(identity, hint, unless_deliberate if convention else check, convention, presumes)
        return check

    return add
