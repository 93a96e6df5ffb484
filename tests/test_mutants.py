"""Whatever is written into a recipe or on a command line: exit status 0 or 2, no traceback, and soon."""

from __future__ import annotations

import os

import mutants
import pytest


@pytest.mark.parametrize("kind", mutants.KINDS)
def test_a_few_mutants_end_well(kind: str) -> None:
    played = mutants.play(kind, 25, seed=0)
    assert sum(played.ended.values()) == 25
    assert not played.wrong, "\n".join(played.wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("recipes", 10_000), ("overrides", 2_000), ("commands", 2_000)])
def test_thousands_of_mutants_end_well(kind: str, count: int) -> None:
    played = mutants.play(kind, count, seed=int(os.environ.get("MUTANTS_SEED", "1")))
    assert not played.wrong, "\n".join(played.wrong[:20])
    assert played.trained or kind == "commands"
