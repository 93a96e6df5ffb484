"""Every generic law, checked on every trick that ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from covering import orders, together
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trick_files import FOLDER, faults, host_for, trick_files

from gantricks import UserError
from gantricks.catalogue.index import shipped
from gantricks.engine import sampling
from gantricks.hooks import KINDS
from gantricks.planning.contract import acts_on_samples_alone, hooks_of
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost, compiled_holds, pair_holds, run_suite, set_holds

FILES = trick_files()
SETTINGS = {
    f"{trick}/{name}".rstrip("/"): (trick, name) for trick, file in sorted(FILES.items()) for name in file.settings
}


MOST = 2
"""The settings of each trick at which the suite checks every law; the slow tests check all of them."""

EACH = [
    pytest.param(setting, marks=pytest.mark.slow if [*FILES[trick].settings].index(name) >= MOST else ())
    for setting, (trick, name) in SETTINGS.items()
]


@lru_cache(2)  # laws share its runs
def case(setting: str) -> Case:
    trick, name = SETTINGS[setting]
    return FILES[trick].case(name)


@pytest.mark.parametrize("trick", shipped("tricks"))
def test_a_trick_has_a_test_file_that_says_everything_of_it(trick: str) -> None:
    assert not (missing := faults(trick, FOLDER)), "\n".join(missing)


def test_what_a_test_file_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (told,) = faults("no_such", tmp_path)
    assert told.startswith("the trick no_such has no test file: write ")
    (tmp_path / "test_bare.py").write_text("SETTINGS = {}\n")
    assert [sentence.split(": ")[0] for sentence in faults("bare", tmp_path)] == [
        f"{tmp_path}/test_bare.py lacks {name}" for name in ("trace_law", "MISTAKES", "REFUSED")
    ]
    rest = "trace_law, MISTAKES, REFUSED = print, {}, {}\n"
    (tmp_path / "test_nowhere.py").write_text(f"SETTINGS = {{}}\n{rest}")
    (tmp_path / "test_toothless.py").write_text(f"SETTINGS = {{'': ({{}}, {{}})}}\n{rest}")
    assert 'named ""' in faults("nowhere", tmp_path)[0]
    assert "catches no mistake" in faults("toothless", tmp_path)[0]


@pytest.mark.parametrize("law", LAWS.values(), ids=str)
@pytest.mark.parametrize("trick", EACH)
def test_law(trick: str, law) -> None:
    try:
        law.check(case(trick))
    except NotApplicable as reason:
        pytest.skip(f"{law.id} says nothing about {trick}: {reason}")
    except AssertionError as broken:
        raise AssertionError(f"{trick} breaks the law {law.id!r}: {broken}\nhint: {law.hint}") from broken


@pytest.mark.slow
@pytest.mark.parametrize("trick", SETTINGS)
def test_the_compiled_step_is_the_eager_step(trick: str) -> None:
    try:
        compiled_holds(case(trick))
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_trick_alone_keeps_its_own_law(setting: str) -> None:
    FILES[SETTINGS[setting][0]].keeps_its_law(case(setting).with_it.train(), "trick")


@pytest.mark.slow
@pytest.mark.parametrize("trick", shipped("tricks"))
def test_a_trick_passes_at_its_trial_settings(trick: str) -> None:
    """What `gantricks tricks NAME --check` runs."""
    outcomes = run_suite(trick, host=host_for(FILES[trick]))
    assert all(outcome.ok for outcome in outcomes), [str(outcome) for outcome in outcomes if not outcome.ok]


# ---------------------------------------------------------------- composition

TRICKS = sorted(FILES)

REFUSED = {(*sorted((trick, other)),): words for trick, file in FILES.items() for other, words in file.refused.items()}
"""Pairs that `check` refuses, and words in which it does."""


def plain_case(trick: str) -> Case:
    return replace(FILES[trick].case(), name=trick, host=None)


def pair_of_cases(first: str, second: str) -> tuple[Case, Case, TrickHost]:
    return plain_case(first), plain_case(second), host_for(FILES[first], FILES[second])


AT_ONCE = 10
"""The number of tricks that are tried together, so that every pair is tried in far fewer runs than there are pairs."""

ORDERS = orders(TRICKS, [frozenset(pair) for pair in REFUSED], AT_ONCE)


@pytest.mark.parametrize("order", ORDERS, ids="+".join)
def test_every_pair_composes_in_both_orders_in_some_set(order: tuple[str, ...]) -> None:
    set_holds([plain_case(trick) for trick in order], host_for(*(FILES[trick] for trick in order)))


def test_every_pair_is_in_some_compiled_set() -> None:
    tried = {frozenset(pair) for chosen in COMPILED for pair in combinations(chosen, 2)}
    apart = {frozenset(pair) for pair in REFUSED}
    in_training = {trick for chosen in COMPILED for trick in chosen}
    assert tried == {frozenset(pair) for pair in combinations(sorted(in_training), 2)} - apart
    assert all(acts_on_samples_alone(plain_case(trick).instance.__class__) for trick in {*TRICKS} - in_training)


def test_every_pair_stands_in_both_orders_in_some_set() -> None:
    stands = {pair for order in ORDERS for pair in combinations(order, 2)}
    apart = {frozenset(pair) for pair in REFUSED}
    assert stands == {pair for pair in permutations(TRICKS, 2) if frozenset(pair) not in apart}


COMPILED_AT_ONCE = 16

COMPILED = together(
    [trick for trick in TRICKS if not acts_on_samples_alone(plain_case(trick).instance.__class__)],
    [frozenset(pair) for pair in REFUSED],
    COMPILED_AT_ONCE,
)
"""Few sets of tricks, in which any two tricks that act in training are compiled together."""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(COMPILED)))
def test_every_pair_is_compiled_together_in_some_set(number: int) -> None:
    *others, last = (plain_case(trick) for trick in COMPILED[number])
    host = host_for(*(FILES[trick] for trick in COMPILED[number]))
    for each in others:
        host = host.with_trick(each.trick, each.name, **each.options)
    compiled_holds(Case(last.trick, last.options, host, last.name))


@pytest.mark.slow
@pytest.mark.parametrize("first", TRICKS)
def test_every_pair_composes_alone_in_both_orders(first: str) -> None:
    for second in TRICKS:
        if second != first and (min(first, second), max(first, second)) not in REFUSED:
            try:
                pair_holds(*pair_of_cases(first, second))
            except (AssertionError, UserError) as broken:
                raise AssertionError(f"{first}, then {second}: {broken}") from broken


@pytest.mark.parametrize("pair", REFUSED, ids="+".join)
def test_a_pair_is_refused_in_both_orders_for_its_reason(pair: tuple[str, str], refused_pair) -> None:
    for first, second in (pair, pair[::-1]):
        with pytest.raises(UserError, match=REFUSED[pair]) as refusal:
            pair_holds(*pair_of_cases(first, second))
        refused_pair(*pair, "; ".join(problem.what for problem in refusal.value.problems))


def test_few_pairs_are_refused() -> None:
    assert len(REFUSED) <= 0.06 * len(TRICKS) * (len(TRICKS) - 1) / 2


def test_a_refused_pair_stands_in_one_file() -> None:
    assert sum(len(file.refused) for file in FILES.values()) == len(REFUSED)
    assert {other for file in FILES.values() for other in file.refused} <= set(TRICKS)


@pytest.mark.parametrize(("first", "second"), REFUSED)
def test_a_pair_is_refused_for_what_the_tricks_declare_and_for_nothing_else(first: str, second: str) -> None:
    a, b, host = pair_of_cases(first, second)
    for lone, other in ((a, b), (b, a)):
        if not needed_of_another_network(lone, other):  # what the other needs, the host has
            replace(lone, host=host).with_it.plan()  # not refused: what follows is about the pair
    with pytest.raises(UserError) as refusal:
        replace(b, host=replace(a, host=host).with_it).with_it.plan()
    declared = list(grounds(a, b))
    for problem in refusal.value.problems:
        assert any(ground in problem.what for ground in declared), f"{problem.what}: declared is {declared}"


def needed_of_another_network(a: Case, b: Case) -> bool:
    """Return whether one trick refuses what the other needs of a network: then no host has what both need."""
    return any(set(one.trick.conflicts) & set(other.trick.needs) for one, other in ((a, b), (b, a)))


def grounds(a: Case, b: Case) -> Iterator[str]:
    """What two tricks declare that keeps them apart, in words that `check` uses."""
    for part in set(a.instance.replaces) & set(b.instance.replaces):
        yield f"replace the same part, {part}"
    for hook in set(hooks_of(a.trick)) & set(hooks_of(b.trick)):
        if KINDS[hook] == "choice":
            yield f"provide {hook}, and a recipe has one"
    for one, other in ((a, b), (b, a)):
        for what, reason in one.trick.conflicts.items():
            if what in {other.name, *other.trick.provides, *other.trick.needs}:
                yield reason
            if what in other.trick.needs:
                yield f"{other.name} needs {what}"
        if "adversarial_loss" in hooks_of(other.trick):
            yield from (f"{one.name} needs {need}" for need in set(one.trick.needs) - set(other.trick.provides))


@given(st.lists(st.sampled_from(TRICKS), unique=True, min_size=3, max_size=6), st.integers(0, 1000))
@example(["auxiliary_classifier", "grow", "historical_averaging"], 0)  # growth: weights whose history begins later
@settings(max_examples=10)
def test_any_set_of_tricks_that_compose_trains_saves_resumes_and_samples(chosen: list[str], seed: int) -> None:
    against = {frozenset(pair) for pair in REFUSED}
    chosen = [a for i, a in enumerate(chosen) if not any(frozenset((a, b)) in against for b in chosen[:i])]
    cases = [plain_case(trick) for trick in chosen]
    host = host_for(*(FILES[trick] for trick in chosen), seed=seed, steps=4)
    for c in cases[:-1]:
        host = host.with_trick(c.trick, c.name, **c.options)
    last = replace(cases[-1], host=host)
    LAWS["resume"].check(last)
    LAWS["same-step"].check(last)
    LAWS["captured"].check(last)
    assert np.isfinite(sampling.sample(last.with_it.train().game, 5, seed=0)).all()
