"""With the plugin, mypy holds the hooks of a trick against the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("mypy")

CASES = {
    "misspelt": ("def d_label(self, labels, ctx): ...", 'There is no hook "d_label"; did you mean "d_labels"?'),
    "unheard-of": ("def zzz(self): ...", 'There is no hook "zzz"; gantricks.hooks has them all'),
    "unknown argument": (
        "def g_labels(self, label, ctx): ...",
        'The hook "g_labels" has no argument "label"; it has labels, ctx',
    ),
    "argument of another hook": (
        "def g_labels(self, labels, is_real): ...",
        'The hook "g_labels" has no argument "is_real"; it has labels, ctx',
    ),
    "other type of an argument": (
        "def fake_batch(self, batch: Out, ctx): ...",
        'The hook "fake_batch" gives "Batch" as "batch", not "Out"',
    ),
    "narrower argument": ("def d_input(self, batch, is_real: Never): ...", 'gives "bool" as "is_real"'),
    "other result": (
        "def fake_batch(self, batch: Batch) -> Out: return Out(None, None)",
        'The hook "fake_batch" returns "Batch", not "Out"',
    ),
    "result of an event": (
        "def on_setup(self, ctx: Context) -> int: return 1",
        'The hook "on_setup" returns "None", not "int"',
    ),
    "no annotations": ("def d_labels(self, labels, is_real, ctx): return labels", None),
    "arguments left out": ("def fake_batch(self, batch: Batch) -> Batch: return batch", None),
    "no arguments": ("def on_setup(self) -> None: ...", None),
    "annotations left out": ("def fake_batch(self, batch, ctx: Context): return batch", None),
    "wider argument, narrower result": ("def fake_batch(self, batch: object) -> Mine: return Mine(None)", None),
    "whole contract": (
        "def d_scores(self, real: Batch, fake: Batch, ctx: Context) -> tuple[Out, Out]: raise ValueError",
        None,
    ),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says about each case, in one run: of torch and pydantic it need not know anything."""
    from mypy import api

    folder = tmp_path_factory.mktemp("typed")
    (folder / "mypy.ini").write_text(
        f"[mypy]\nplugins = gantricks.mypy_plugin\nfollow_imports = silent\ncache_dir = {folder / 'cache'}\n"
        + "".join(
            f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "pydantic", "numpy", "matplotlib", "PIL")
        )
    )
    head = (
        "from typing import Never\nfrom gantricks import Batch, Context, Out, Trick, hookimpl\n"
        "class Mine(Batch): ...\nclass Base(Trick): ...\nclass NoTrick:\n    @hookimpl\n    def d_label(self): ...\n"
    )
    lines, at = head.splitlines(), {}
    for number, (name, (method, _)) in enumerate(CASES.items()):
        lines += [f"class Case{number}({'Trick' if number % 2 else 'Base'}):", "    @hookimpl", f"    {method}"]
        at[len(lines)] = name
    (folder / "tricks.py").write_text("\n".join(lines) + "\n")
    printed, errors, _ = api.run(["--config-file", str(folder / "mypy.ini"), str(folder / "tricks.py")])
    assert not errors, errors
    found = re.findall(r"tricks\.py:(\d+): error: (.*)  \[gantricks-hook\]$", printed, flags=re.MULTILINE)
    assert {int(line) for line, _ in found} <= {*at}, printed
    return {at[int(line)]: message for line, message in found}


@pytest.mark.parametrize("case", CASES)
def test_mypy_finds_what_disagrees_with_the_contract_and_nothing_else(case: str, told: dict[str, str]) -> None:
    _, expected = CASES[case]
    if expected is None:
        assert case not in told
    else:
        assert expected in told[case]


def test_only_mypy_imports_the_plugin() -> None:
    package = Path(__file__).parents[1] / "gantricks"
    users = [path for path in package.rglob("*.py") if "mypy" in re.sub(r"#.*", "", path.read_text(encoding="utf-8"))]
    assert users == [package / "mypy_plugin.py"]
