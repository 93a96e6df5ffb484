"""Mistakes made on purpose: where they fit, whatever the layout, and what is told of those that go unnoticed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from gantricks.testing import Mistake
from gantricks.testing.mistakes import Misplaced, assert_caught, change, mistake_suite

SOURCE = """
def double(x):
    # twice
    y = (x +
         x)
    y = y * 1
    return y

class Both:
    def first(self): return double(1)
    def second(self): return double(2)
"""


def changed(**mistake: str) -> str:
    return ast.unparse(change(SOURCE, Mistake(caught_by="test", **{"old": "", **mistake})))


def test_an_expression_is_found_whatever_its_layout() -> None:
    assert "y = x + 2 * x" in changed(old="x + x", new="x + 2 * x")
    assert changed(old="(x+\n x)", new="x") == changed(old="x + x", new="( x )")


def test_statements_in_a_row_are_replaced_or_left_out() -> None:
    body = """
        y = x + x
        y = y * 1
    """
    assert "y = 3 * x\n    return y" in changed(old=body, new="y = 3 * x")
    assert "y = x + x\n    return y" in changed(old="y = y * 1", new="")
    assert "def first(self):\n        pass" in changed(old="return double(1)", new="", inside="Both")


def test_a_definition_takes_the_place_of_its_namesake_or_joins_the_others() -> None:
    assert changed(inside="Both", new="def first(self): return 7").count("def first") == 1
    added = ast.parse(changed(inside="Both", new="def third(self): return 7")).body[1]
    assert [method.name for method in added.body] == ["first", "second", "third"]  # type: ignore[attr-defined]
    assert changed(new="def double(x): return x").count("def double") == 1


def test_inside_names_where_to_look() -> None:
    assert "double(3)" in changed(old="double(1)", new="double(3)", inside="Both.first")
    with pytest.raises(Misplaced, match="does not occur"):
        changed(old="double(1)", new="double(3)", inside="Both.second")


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"old": "x - x", "new": "x"}, "does not occur"),
        ({"old": "y", "new": "x"}, "occurs 2 times"),
        ({"old": "x + x", "new": "x+x"}, "changes nothing"),
        ({"old": "x + x", "new": "x", "inside": "Neither"}, "no definition 'Neither'"),
    ],
)
def test_a_mistake_that_does_not_fit_is_told(mistake: dict[str, str], told: str) -> None:
    with pytest.raises(Misplaced, match=told):
        changed(**mistake)


def test_what_adds_nothing_that_has_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="has definitions as `new`"):
        changed(new="y = 3")


# ---------------------------------------------------------------- on a module that is somebody's own

PLUGIN = """
from gantricks import Trick, hookimpl

class Halving(Trick):
    @hookimpl
    def d_labels(self, labels):
        return labels / 2
"""

TESTS = """
from halving_kit import Halving
from halving_kit.halving import Halving as Same
import pytest

def trace_law(played, name):
    assert all((call.result == call.arguments[0] / 2).all() for call in played.of(name, "d_labels"))

@pytest.mark.parametrize("label", [0.0, pytest.param(1.0)])
def test_a_label_is_halved(label):
    assert Halving.d_labels(None, label) == Same.d_labels(None, label) == label / 2

def test_nothing():
    pass

def test_that_always_fails():
    assert False
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with a trick in it, as somebody else's is, and its test file."""
    package = tmp_path / "halving_kit"
    package.mkdir()
    (package / "__init__.py").write_text("from halving_kit.halving import Halving\n")
    (package / "halving.py").write_text(PLUGIN)
    (tmp_path / "test_halving.py").write_text(TESTS)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    from halving_kit import Halving  # type: ignore[import-not-found]

    yield Halving, tmp_path / "test_halving.py"
    for name in set(sys.modules) - before:
        if name.startswith("halving_kit"):
            del sys.modules[name]


WRONG = {"old": "labels / 2", "new": "labels / 3"}


@pytest.mark.parametrize("catcher", ["test_a_label_is_halved", "trace_law", "test_halving.py::test_a_label_is_halved"])
def test_a_mistake_in_somebodys_package_is_caught_and_gone_afterwards(kit, catcher: str) -> None:
    trick, tests = kit
    assert_caught(trick, Mistake(caught_by=catcher, **WRONG), catcher, tests)
    assert sys.modules["halving_kit"].Halving is trick
    assert trick.d_labels(None, 1.0) == 0.5
    assert "gantricks_mistakes_test_halving" not in sys.modules


def test_a_law_catches_too(kit) -> None:
    trick, tests = kit
    mistake = Mistake(old="labels / 2", new="labels / (2 + 0 * labels.sum().item())", caught_by="no-sync")
    assert_caught(trick, mistake, "no-sync", tests)


def test_a_mistake_that_goes_unnoticed_is_told(kit) -> None:
    trick, tests = kit
    with pytest.raises(AssertionError, match="test_nothing does not notice the mistake"):
        assert_caught(trick, Mistake(caught_by="test_nothing", **WRONG), "test_nothing", tests)


def test_a_test_that_fails_without_the_mistake_catches_nothing(kit) -> None:
    trick, tests = kit
    with pytest.raises(AssertionError, match="test_that_always_fails fails without the mistake too"):
        assert_caught(trick, Mistake(caught_by="x", **WRONG), "test_that_always_fails", tests)


def test_a_name_that_is_no_test_and_no_law_is_told(kit) -> None:
    trick, tests = kit
    with pytest.raises(ValueError, match=r"'test_nowhere' is neither a test of .*test_halving\.py nor a law"):
        assert_caught(trick, Mistake(caught_by="x", **WRONG), "test_nowhere", tests)


def test_the_suite_has_a_case_for_each_that_catches(kit) -> None:
    trick, tests = kit
    both = ("test_a_label_is_halved", "trace_law")
    suite = mistake_suite(trick, {"a third": Mistake(caught_by=both, **WRONG)}, tests)
    (mark,) = suite.pytestmark  # type: ignore[attr-defined]
    assert mark.kwargs["ids"] == [f"a third-{catcher}" for catcher in both]
    for mistake, catcher in mark.args[1]:
        suite(mistake=mistake, catcher=catcher)
