"""What docs/reliability.md says was tried is tried here in small: the benchmark itself finds nothing wrong."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reliability.py"
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def reliability() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reliability_benchmark", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # by its name dataclasses look for the module that they are in
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def test_the_page_says_what_was_measured_and_nothing_came_out_wrong(reliability: ModuleType) -> None:
    measured = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    assert (DOCS / "reliability.md").read_text(encoding="utf-8") == reliability.page(measured)
    assert not [sentence for figures in measured.values() for sentence in figures["wrong"]]


def test_a_disk_strikes_where_it_is_told_to_and_counts(reliability: ModuleType, tmp_path: Path) -> None:
    from gantricks.files import write_whole

    counting = reliability.Disk()
    with counting.watched():
        write_whole(tmp_path / "a", "text")
    assert counting.asked >= 4  # made, written, flushed, renamed
    former = os.fsync
    for place in range(1, counting.asked + 1):
        with pytest.raises(OSError, match="No space left"), reliability.Disk(place, reliability.full).watched():
            write_whole(tmp_path / "b", "text")
    assert os.fsync is former


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are killed in processes that are forked")
def test_damaged_checkpoints_are_refused_in_a_sentence_or_right(reliability: ModuleType) -> None:
    figures = reliability.measure("checkpoints", 60, seed=1)
    assert figures["wrong"] == []
    assert sum(figures["tried"].values()) == 60


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count"), [("kills", 10), ("disk", 40), ("checkpoints", 1000)])
def test_more_of_every_part(reliability: ModuleType, part: str, count: int) -> None:
    assert reliability.measure(part, count, seed=2)["wrong"] == []
