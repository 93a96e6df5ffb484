"""What a law is, and what it is asked about: a trick at some options, in a tiny run."""

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
    """The law says nothing about this trick; the message says why."""


class Whole(NamedTuple):
    """A recorded run of all steps: what was `played`, the `state` at its end, and `samples` of it. Laws share it, so
    nobody plays it on.
    """

    played: Played
    state: dict[str, Tensors]
    samples: Tensor


@dataclass(frozen=True)
class Case:
    """A trick class at settings where it does something, and the host it is tried in.

    `options` are those settings; the host is the smallest that fits the trick unless another is given. `name` is what
    the trick is called in the run, which is what other tricks' conflicts look at. `trace` is the trick's own law on a
    recorded run, alone or with other tricks in it: given what was played and the trick's name in that run, it raises
    AssertionError where the law is broken.
    """

    trick: type[Trick]
    options: Mapping[str, Any] = field(default_factory=dict)
    host: TrickHost | None = None
    name: str = "trick"
    trace: Callable[[Played, str], None] | None = None
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def instance(self) -> Trick:
        """The trick at these settings: what it needs and declares may depend on them."""
        instance: Trick = self._once("instance", lambda: made(self.trick, self.options))
        return instance

    @property
    def without(self) -> TrickHost:
        """The host without the trick."""
        return self.host or TrickHost.for_trick(self.instance)

    @property
    def with_it(self) -> TrickHost:
        """The host with the trick at its active settings."""
        return self.without.with_trick(self.trick, self.name, **self.options)

    @property
    def whole(self) -> Whole:
        """The run with the trick."""
        whole: Whole = self._once("whole", lambda: _whole(self.with_it))
        return whole

    @property
    def plain(self) -> Whole:
        """The run without it."""
        plain: Whole = self._once("plain", lambda: _whole(self.without))
        return plain

    def outcome(self, law: Law) -> Exception | None:
        """What the law raises, asked once: AssertionError or any other where it is broken, NotApplicable, or None where
        it holds.
        """
        outcome: Exception | None = self._once(f"law {law.id}", lambda: _outcome(law, self))
        return outcome

    def presumed(self, law: Law) -> str | None:
        """The id of a law that must hold before this one says anything, and does not; or None."""
        for identity in law.presumes:
            outcome = self.outcome(LAWS[identity])
            # hooks that break the contract are not played, and then nothing is
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
    except Exception as outcome:  # whatever a wrong trick raises is its failure
        return outcome
    return None


def told(broken: BaseException, trick: type[Trick]) -> str:
    """What went wrong in words, with the line of the trick's own file where it did."""
    if isinstance(broken, AssertionError):
        return str(broken)
    if isinstance(broken, UserError):
        return f"the recipe is refused: {'; '.join(problem.what for problem in broken.problems)}"
    words = f"{type(broken).__name__}: {broken}"
    file = getattr(sys.modules.get(trick.__module__), "__file__", None)
    own = [frame for frame in traceback.extract_tb(broken.__traceback__) if file and frame.filename == file]
    return f"{words} (in {own[-1].name}, line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else words


def samples_of(game: Game) -> Tensor:
    """A few samples, the same for the same state."""
    return torch.from_numpy(sampling.sample(game, 6, seed=3))


@dataclass(frozen=True)
class Law:
    """`check(case)` raises AssertionError where the law is broken and NotApplicable where it says nothing.

    A `convention` may be broken on purpose: by a trick that says so in `deliberate`. `presumes` names the laws that
    must hold first: where one of them is broken, this one would only say the same in other words.
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
    """Adds a check to the laws."""

    def add(check: Check) -> Check:
        @functools.wraps(check)
        def unless_deliberate(case: Case) -> None:
            if identity in case.instance.deliberate:
                raise NotApplicable(f"it breaks this on purpose: {case.instance.deliberate[identity]}")
            check(case)

        LAWS[identity] = Law(identity, hint, unless_deliberate if convention else check, convention, presumes)
        return check

    return add
