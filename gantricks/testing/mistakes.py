"""Mistakes made on purpose: a change to the source of a trick, and the test that must fail on it.

    from gantricks.testing import Mistake, mistake_suite

    MISTAKES = {
        "one draw for the whole batch": Mistake(
            old="rng.uniform(labels.shape)",
            new="rng.uniform((1, 1))",
            caught_by="test_draws_are_fresh_for_every_image",
        ),
        "G's targets are softened": Mistake(
            inside="SoftLabels",
            new='''
            @hookimpl
            def g_labels(self, labels, ctx):
                return soften(labels, ctx.rng)
            ''',
            caught_by=("test_the_generators_targets_stay_one", "trace_law"),
        ),
    }

    test_mistakes = mistake_suite(SoftLabels, MISTAKES, tests=__file__)

Source is matched as a syntax tree, so that its layout, comments and quotes do not matter. A test is first run on the
source as it stands, by the same machinery: one that always fails would catch everything.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from gantricks.testing.case import LAWS, Case, NotApplicable
from gantricks.testing.host import TrickHost
from gantricks.trick import Trick

TRACE_LAW = "trace_law"
"""The name of a trick's own law on a recorded run in its test file."""


@dataclass(frozen=True)
class Mistake:
    """A change to the source of a module, and what must fail on it.

    With `old`, an expression or a few statements in a row that occur once, `new` takes its place; statements are left
    out where `new` is empty. Without `old`, `new` is definitions of functions, methods or classes, decorators included:
    each takes the place of the definition with its name, or joins the others where there is none.

    `inside` is where to look: the dotted name of a class, method or function of the module; empty, the whole module.

    `caught_by` is what must raise AssertionError, one or several, each by itself: a test function of the trick's test
    file, `other_file.py::test` by a path from there, the id of a generic law (at every setting of the trick), or
    `trace_law`, the trick's own law at its plain setting; `trace_law[name]` is at the setting of that name.
    """

    new: str
    caught_by: str | tuple[str, ...]
    old: str = ""
    inside: str = ""

    @property
    def catchers(self) -> tuple[str, ...]:
        return (self.caught_by,) if isinstance(self.caught_by, str) else self.caught_by


class Misplaced(AssertionError):
    """Raised when a mistake cannot be made, because the code that it replaces does not occur exactly once."""


def mistake_suite(
    subject: type[Trick] | ModuleType, mistakes: Mapping[str, Mistake], tests: str | Path
) -> Callable[..., None]:
    """Return a pytest test with one case per mistake and per test that catches it.

    `subject` is the trick, or the module whose source is changed. `mistakes` are named by what they do. `tests` is the
    test file (`__file__`). Tests run in a fresh copy of it, which imports the changed module.

    For laws the test file holds `SETTINGS`, which maps names of settings to (options, changes to the smallest host),
    the plain one named "". A file without them is checked at the trick's `trial`. `trace_law(played, name)` is the
    trick's own law. A test in `caught_by` has no fixtures; all of its parameter sets and hypothesis examples are run.
    """
    import pytest

    cases = [(mistake, catcher) for mistake in mistakes.values() for catcher in mistake.catchers]
    ids = [f"{name}-{catcher}" for name, mistake in mistakes.items() for catcher in mistake.catchers]

    @pytest.mark.parametrize(("mistake", "catcher"), cases, ids=ids)
    def suite(mistake: Mistake, catcher: str) -> None:
        assert_caught(subject, mistake, catcher, Path(tests))

    return suite


def assert_caught(subject: type[Trick] | ModuleType, mistake: Mistake, catcher: str, tests: Path) -> None:
    """Check that the test passes on the present source and fails with the mistake in it. Raises AssertionError
    otherwise.
    """
    changed = mistaken(subject, mistake)
    _hold_without_it(subject, catcher, tests)
    try:
        run_changed(subject, changed, catcher, tests)
    except _failures():
        return
    raise AssertionError(f"{catcher} does not notice the mistake")


_HELD: set[tuple[str, str, Path]] = set()


def _hold_without_it(subject: type[Trick] | ModuleType, catcher: str, tests: Path) -> None:
    key = (_module(subject).__name__, catcher, tests)
    if key not in _HELD:
        try:
            run_changed(subject, ast.parse(source_of(subject)), catcher, tests)
        except _failures() as broken:
            raise AssertionError(f"{catcher} fails without the mistake too: {broken}") from broken
        _HELD.add(key)


def _failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions by which a test fails. `pytest.raises` without an error does not raise AssertionError."""
    import pytest

    return AssertionError, pytest.fail.Exception


def _module(subject: type[Trick] | ModuleType) -> ModuleType:
    return subject if isinstance(subject, ModuleType) else sys.modules[subject.__module__]


def source_of(subject: type[Trick] | ModuleType) -> str:
    """Return the source of a module, or of the module of a trick."""
    module = _module(subject)
    if not module.__file__:
        raise ValueError(f"the module {module.__name__} has no file")
    return Path(module.__file__).read_text(encoding="utf-8")


# ---------------------------------------------------------------- the change


def mistaken(subject: type[Trick] | ModuleType, mistake: Mistake) -> ast.Module:
    """Return the syntax tree of the subject's module with the mistake in it. Raises `Misplaced` where it does
    not fit.
    """
    return change(source_of(subject), mistake)


def change(source: str, mistake: Mistake) -> ast.Module:
    """Return the syntax tree of `source` with the mistake in it.

    Raises `Misplaced` where `old` does not occur exactly once in `inside`, or `inside` is not a definition; ValueError
    where a mistake has neither old nor new.
    """
    tree = ast.parse(source)
    scope = _scope(tree, mistake.inside)
    before = ast.dump(tree)
    if not mistake.old:
        _redefine(scope, _statements(mistake.new))
    elif (old := _expression(mistake.old)) and (new := _expression(mistake.new)):
        _replace_expression(scope, old, new, mistake.old)
    else:
        _replace_statements(scope, _statements(mistake.old), _statements(mistake.new), mistake.old)
    if ast.dump(tree) == before:
        raise Misplaced("the mistake changes nothing")
    return ast.fix_missing_locations(tree)


def _statements(text: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(text)).body


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(textwrap.dedent(text).strip(), mode="eval").body
    except SyntaxError:
        return None


def _scope(tree: ast.Module, inside: str) -> ast.AST:
    scope: ast.AST = tree
    for name in filter(None, inside.split(".")):
        found = [node for node in getattr(scope, "body", ()) if getattr(node, "name", None) == name]
        if len(found) != 1:
            raise Misplaced(f"there is no definition {inside!r} in the source, or more than one")
        (scope,) = found
    return scope


def _same(a: ast.AST, b: ast.AST) -> bool:
    return ast.dump(a) == ast.dump(b)


def _once(found: Sequence[Any], old: str) -> Any:
    if len(found) != 1:
        times = f"occurs {len(found)} times" if found else "does not occur"
        raise Misplaced(f"what the mistake replaces {times} in the source: {textwrap.dedent(old).strip()}")
    return found[0]


def _replace_expression(scope: ast.AST, old: ast.expr, new: ast.expr, text: str) -> None:
    places: list[tuple[ast.AST, str, int | None]] = []
    for node in ast.walk(scope):
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and _same(value, old):
                places.append((node, field, None))
            elif isinstance(value, list):
                places += [
                    (node, field, i) for i, one in enumerate(value) if isinstance(one, ast.expr) and _same(one, old)
                ]
    node, field, position = _once(places, text)
    at = getattr(node, field) if position is None else getattr(node, field)[position]
    placed = _placed(new, at)
    if position is None:
        setattr(node, field, placed)
    else:
        getattr(node, field)[position] = placed


def _replace_statements(scope: ast.AST, old: list[ast.stmt], new: list[ast.stmt], text: str) -> None:
    places = [
        (body, start)
        for node in ast.walk(scope)
        for _, body in ast.iter_fields(node)
        if isinstance(body, list)
        for start in range(len(body) - len(old) + 1)
        if all(isinstance(one, ast.AST) and _same(one, other) for one, other in zip(body[start:], old, strict=False))
    ]
    body, start = _once(places, text)
    at = body[start]
    body[start : start + len(old)] = [_placed(one, at) for one in new] or (
        [_placed(ast.Pass(), at)] if len(body) == len(old) else []
    )


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _redefine(scope: ast.AST, new: list[ast.stmt]) -> None:
    if not new or not isinstance(scope, ast.Module | ast.ClassDef):
        raise ValueError("a mistake without `old` has definitions as `new`, of a module or of a class")
    for one in new:
        if not isinstance(one, _Definition):
            raise ValueError(f"a mistake without `old` has definitions as `new`, not {ast.unparse(one)!r}")
        places = [i for i, there in enumerate(scope.body) if getattr(there, "name", None) == one.name]
        if places:
            scope.body[places[-1]] = _placed(one, scope.body[places[-1]])
        else:
            scope.body.append(_placed(one, scope.body[-1]))


def _placed(new: Any, at: ast.AST) -> Any:
    """Return a copy of `new` with the line numbers of the code that it replaces."""
    new = copy.deepcopy(new)
    for node in ast.walk(new):
        if isinstance(node, ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias | ast.excepthandler):
            ast.copy_location(node, at)
    return new


# ---------------------------------------------------------------- a test on changed source


def run_changed(subject: type[Trick] | ModuleType, changed: ast.Module, catcher: str, tests: Path) -> None:
    """Run a law or a test of the file `tests` with `changed` in the place of the subject's module. Raises what it
    raises.
    """
    module = _module(subject)
    code = compile(changed, f"{module.__name__}, changed", "exec")
    with _Patches() as patches, _repeatable():
        replaced = _replace_module(module, code, patches)
        trick = None if isinstance(subject, ModuleType) else getattr(replaced, subject.__name__)
        law, _, setting = catcher.removesuffix("]").partition("[")
        file, _, test = catcher.rpartition("::")
        loaded = _load(tests.parent / file if file else tests, patches)
        if law == TRACE_LAW:
            _check_trace(_case(trick, loaded, setting), loaded)
        elif catcher in LAWS:
            _check_law(catcher, [_case(trick, loaded, name) for name in getattr(loaded, "SETTINGS", {"": ()})])
        elif hasattr(loaded, test):
            _check_test(getattr(loaded, test))
        else:
            raise ValueError(f"{catcher!r} is neither a test of {loaded.__file__} nor a law")


class _Patches(ExitStack):
    """Attributes and modules that are set, and restored at the end. Other modules that are imported meanwhile stay."""

    def set(self, owner: Any, name: str, value: Any) -> None:
        self.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def set_module(self, name: str, module: ModuleType) -> None:
        if before := sys.modules.get(name):
            self.callback(sys.modules.__setitem__, name, before)
        else:
            self.callback(sys.modules.pop, name, None)
        sys.modules[name] = module


@contextmanager
def _repeatable() -> Iterator[None]:
    """Make hypothesis use the same examples in every run, and not shrink a failure."""
    from hypothesis import Phase, settings

    settings.register_profile("gantricks-before", settings.default)
    settings.register_profile(
        "gantricks-mistakes",
        settings.default,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        report_multiple_bugs=False,
    )
    settings.load_profile("gantricks-mistakes")
    try:
        yield
    finally:
        settings.load_profile("gantricks-before")


def _replace_module(original: ModuleType, code: CodeType, patches: _Patches) -> ModuleType:
    """Replace the original module by one with this code, in every module of gantricks and of its own package that has
    imported names from it.
    """
    name = original.__name__
    if original.__spec__ is None:
        raise ValueError(f"the module {name} was not imported from a file")
    changed = importlib.util.module_from_spec(original.__spec__)
    patches.set_module(name, changed)  # before its code runs, because annotations are looked up in sys.modules
    exec(code, vars(changed))
    package, _, attribute = name.rpartition(".")
    if package:
        patches.set(sys.modules[package], attribute, changed)
    tops = {"gantricks", name.partition(".")[0]}
    for other in [module for path, module in sys.modules.items() if path.partition(".")[0] in tops]:
        for key, value in list(vars(other).items()):
            if other is not changed and getattr(value, "__module__", None) == name and hasattr(value, "__name__"):
                patches.set(other, key, getattr(changed, value.__name__))
    return changed


def _load(path: Path, patches: _Patches) -> ModuleType:
    """Import a test file anew and return its module."""
    spec = importlib.util.spec_from_file_location(f"gantricks_mistakes_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patches.set_module(spec.name, module)
    spec.loader.exec_module(module)
    return module


def _case(trick: type[Trick] | None, tests: ModuleType, setting: str) -> Case:
    if trick is None:
        raise ValueError("a mistake in a module without a trick is caught by a test, not by a law")
    options, changes = getattr(tests, "SETTINGS", {"": (trick.trial, {})})[setting]
    return Case(trick, options, TrickHost.for_trick(trick, **changes))


def _check_trace(case: Case, tests: ModuleType) -> None:
    getattr(tests, TRACE_LAW)(case.with_it.train(), case.name)


def _check_law(law: str, cases: Sequence[Case]) -> None:
    """Check a generic law at every setting at which it applies."""
    checked = 0
    for case in cases:
        try:
            LAWS[law].check(case)
        except NotApplicable:
            continue
        checked += 1
    if not checked:
        raise ValueError(f"the law {law} says nothing about this trick")


def _check_test(test: Callable[..., None]) -> None:
    """Run a test function with each of its parameter sets. One that is skipped counts as passed."""
    import pytest

    choices: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args
            single = isinstance(names, str) and "," not in names
            split = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]
            sets = [_values(value, single) for value in values]
            choices.append([dict(zip(split, one, strict=True)) for one in sets])
    for chosen in product(*choices):
        try:
            test(**{name: value for one in chosen for name, value in one.items()})
        except pytest.skip.Exception:
            continue


def _values(given: Any, single: bool) -> Sequence[Any]:
    """Return the values of one parameter set, in the form that `parametrize` accepts."""
    import pytest

    if isinstance(given, type(pytest.param())):
        return given.values
    return (given,) if single else given
