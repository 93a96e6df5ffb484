"""Who imports whom, where import-linter does not look, and that the page says what the contract says."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import gantricks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def contract() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (found,) = (one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    layers: list[str] = found["layers"]
    return layers


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every module that a file imports, wherever in it, with the name that it takes from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_the_core_imports_no_trick() -> None:
    for path in (ROOT / "gantricks").rglob("*.py"):
        for module, name in imports(path):
            assert not f"{module}.{name}".startswith("gantricks.plugins"), path
            assert module.partition(".")[0] != "plugins", path


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.stem)
def test_a_trick_imports_public_names_alone(path: Path) -> None:
    for module, name in imports(path):
        if module.partition(".")[0] in ("gantricks", "plugins"):
            assert module == "gantricks"
            assert name in gantricks.__all__


def test_every_module_has_one_layer_and_the_page_shows_them_in_their_order() -> None:
    layers = [re.findall(r"\w+", layer) for layer in contract()]
    listed = [name for layer in layers for name in layer]
    package = ROOT / "gantricks"
    modules = {path.stem for path in package.glob("[!_]*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert sorted(listed) == sorted(modules - {"mypy_plugin"})

    quoted = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)[0])
    assert quoted["layers"] == contract()
