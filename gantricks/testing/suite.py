"""The generic laws as one pytest test of a trick, and as a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gantricks.catalogue.registry import Registry
from gantricks.errors import UserError
from gantricks.testing.case import LAWS, Case, Law, NotApplicable, told
from gantricks.testing.host import TrickHost, name_of
from gantricks.testing.laws.values import folds_hold
from gantricks.testing.record import Played
from gantricks.trick import Trick


@dataclass(frozen=True)
class Outcome:
    """The result of one check.

    `status`: "passed", "failed", "skipped", "expected" (failed, as declared) or "unexpected" (passed, though a failure
    was declared). `detail` is the reason, `hint` what to do.
    """

    id: str
    status: str
    detail: str = ""
    hint: str = ""

    @property
    def ok(self) -> bool:
        return self.status not in ("failed", "unexpected")

    def __str__(self) -> str:
        told = f"{self.id}: {self.status}"
        if self.detail:
            told += f": {self.detail}"
        return f"{told}\nhint: {self.hint}" if self.hint and not self.ok else told


def run_suite(
    trick: str | type[Trick],
    options: Mapping[str, Any] | None = None,
    host: TrickHost | None = None,
    beside: Iterable[str | type[Trick]] = (),
    expected_failures: Mapping[str, str] | None = None,
    trace: Callable[[Played, str], None] | None = None,
    refused: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Run every check of a trick and return the outcomes. The arguments are those of `trick_suite`."""
    expected = dict(expected_failures or {})
    checks = list(_checks(trick, options, host, beside, trace, refused or {}))
    _refuse_unknown(expected, checks)
    return [_outcome(law, case, expected.get(law.id)) for law, case in checks]


def trick_suite(
    trick: str | type[Trick],
    options: Mapping[str, Any] | None = None,
    host: TrickHost | None = None,
    beside: Iterable[str | type[Trick]] = (),
    expected_failures: Mapping[str, str] | None = None,
    trace: Callable[[Played, str], None] | None = None,
    refused: Mapping[str, str] | None = None,
) -> Callable[..., None]:
    """A pytest test with one case per law: `test_my_trick = trick_suite("my_trick", {"strength": 0.5})`.

    `trick` is a class, or the name of one that is installed. `options` are settings at which it does something; left
    out, the trick's own `trial`. `host` is the tiny run it is tried in, the smallest that fits its needs unless given.
    `beside` names other tricks it must work with: each adds the check "pair:<name>", in both orders.
    `expected_failures` maps the ids of checks that are known to fail to the reason; one that passes after all fails
    the test. `trace` is the trick's own law on a recorded run: it adds the check "trace", on a run with this trick
    alone, and is part of every pair's check. It is given what was played and the trick's name there, and raises
    AssertionError where the law is broken; `played.of(name, hook)` and `played.steps_of("d")` are what it reads:

        def targets_stay_in_the_interval(played, name):
            for call in played.of(name, "d_labels"):
                assert ((call.result >= 0.7) & (call.result <= 1)).all()

    In a pair, arguments are what an earlier trick made of them: a law that compares a call's arguments with its result
    holds beside any other trick, one that expects the core's own values does not.

    `refused` maps names of tricks beside which this one is refused to words of the reason: each adds the check
    "refused:<name>", in both orders.
    """
    import pytest

    expected = dict(expected_failures or {})
    checks = list(_checks(trick, options, host, beside, trace, refused or {}))
    _refuse_unknown(expected, checks)

    @pytest.mark.parametrize(("law", "case"), checks, ids=[law.id for law, _ in checks])
    def suite(law: Law, case: Case) -> None:
        outcome = _outcome(law, case, expected.get(law.id))
        if outcome.status == "skipped":
            pytest.skip(outcome.detail)
        if outcome.status == "expected":
            pytest.xfail(outcome.detail)
        assert outcome.ok, str(outcome)

    return suite


def _checks(
    trick: str | type[Trick],
    options: Mapping[str, Any] | None,
    host: TrickHost | None,
    beside: Iterable[str | type[Trick]],
    trace: Callable[[Played, str], None] | None,
    refused: Mapping[str, str],
) -> Iterable[tuple[Law, Case]]:
    cls = _class(trick)
    case = Case(cls, dict(cls.trial if options is None else options), host, name_of(trick), trace)
    for law in LAWS.values():
        yield law, case
    if trace:
        yield _OWN_LAW, case
    for other in beside:
        yield _pair(name_of(other), _class(other)), case
    for name, words in refused.items():
        yield _refused(name, words), case


def _class(trick: str | type[Trick]) -> type[Trick]:
    return Registry().load("tricks", trick).cls if isinstance(trick, str) else trick


def _pair(name: str, other: type[Trick]) -> Law:
    def check(case: Case) -> None:
        beside = Case(other, other.trial, name=name)
        try:
            pair_holds(case, beside, case.host)
            pair_holds(beside, case, case.host)
        except UserError as refusal:
            raise AssertionError(f"the pair is refused: {refusal}") from refusal

    hint = "make them compose, or declare why not in conflicts, needs or replaces"
    return Law(f"pair:{name}", hint, check, presumes=("plays",))


def _refused(name: str, words: str) -> Law:
    def check(case: Case) -> None:
        other = Case(_class(name), _class(name).trial, name=name)
        host = case.host or TrickHost.for_trick(case.instance, other.instance)
        for first, second in ((case, other), (other, case)):
            both = replace(second, host=replace(first, host=host).with_it).with_it
            told = _refusal(both)
            assert told, f"{first.name} and {second.name} are not refused"
            assert words in told, f"the pair is refused for another reason: {told}"

    mend = "declare in conflicts, needs or replaces what keeps them apart, or take the pair out of `refused`"
    return Law(f"refused:{name}", mend, check, presumes=("plays",))


def _refusal(host: TrickHost) -> str:
    """Return the problems with which `check` refuses the host's tricks, or ""."""
    try:
        host.plan()
    except UserError as refusal:
        return str(refusal)
    return ""


def pair_holds(first: Case, second: Case, host: TrickHost | None = None, steps: int = 3) -> None:
    """Train two tricks together in this order, and check the run as `set_holds` does."""
    set_holds((first, second), host, steps)


def set_holds(cases: Sequence[Case], host: TrickHost | None = None, steps: int = 3) -> None:
    """Train several tricks together in this order, and check the run.

    It must be finite; each fold keeps its law on the trace, and each trick its own (`Case.trace`); state is updated in
    place; a resumed run is bit-identical. Raises UserError where the tricks are refused together, AssertionError where
    a check fails.
    """
    host = host or TrickHost.for_trick(*(case.instance for case in cases))
    *others, last = cases
    for case in others:
        host = host.with_trick(case.trick, case.name, **case.options)
    whole = Case(last.trick, last.options, host, last.name)
    for law in ("in-place", "same-step"):
        LAWS[law].check(whole)
    played = whole.with_it.but(steps=steps).train(steps)
    fault = played.game.non_finite()
    assert fault is None, f"{fault} is not finite"
    folds_hold(played)
    for case in cases:
        _keeps_its_law(case, played)
    LAWS["resume"].check(replace(whole, host=whole.without.but(steps=steps)))


def _keeps_its_law(case: Case, played: Played) -> None:
    if case.trace:
        try:
            case.trace(played, case.name)
        except AssertionError as broken:
            raise AssertionError(f"{case.name} breaks its own law: {broken}") from broken


_OWN_LAW = Law(
    "trace",
    "mend the trick; or the law, where it asks for more than a recorded run can show",
    lambda case: _keeps_its_law(case, case.with_it.train()),
    presumes=("plays",),
)


def _outcome(law: Law, case: Case, expected: str | None) -> Outcome:
    if expected is None and (first := case.presumed(law)):
        return Outcome(law.id, "skipped", f"it is checked once the law {first!r} holds")
    outcome = case.outcome(law)
    if isinstance(outcome, NotApplicable):
        if expected is not None:
            return Outcome(
                law.id,
                "unexpected",
                f"a failure was declared ({expected}), and it says nothing: {outcome}",
                "remove it from expected_failures",
            )
        return Outcome(law.id, "skipped", str(outcome))
    if outcome:
        if expected is not None:
            return Outcome(law.id, "expected", expected)
        return Outcome(law.id, "failed", told(outcome, case.trick), law.hint)
    if expected is not None:
        return Outcome(law.id, "unexpected", f"a failure was declared ({expected})", "remove it from expected_failures")
    return Outcome(law.id, "passed")


def _refuse_unknown(expected: Mapping[str, str], checks: list[tuple[Law, Case]]) -> None:
    known = {law.id for law, _ in checks}
    if unknown := sorted(set(expected) - known):
        there = ", ".join(sorted(known))
        raise ValueError(f"expected_failures names no check: {', '.join(unknown)}; there are {there}")
