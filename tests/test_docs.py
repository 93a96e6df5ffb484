"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from gantricks.hooks import KINDS
from gantricks.registry import shipped

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_the_one_that_the_code_gives(build: ModuleType) -> None:
    stale = [
        path
        for path, text in build.pages().items()
        if not (DOCS / path).exists() or (DOCS / path).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run: python docs/build.py ({', '.join(stale)})"


def test_every_trick_and_every_hook_has_a_page() -> None:
    assert {path.stem for path in (DOCS / "tricks").glob("*.md")} - {"README"} == set(shipped("tricks"))
    headings = re.findall(r"^## (\w+)$", (DOCS / "hooks.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings == list(KINDS)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#\w+)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
