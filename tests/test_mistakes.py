"""The mistakes that published implementations make, made here on purpose: the trick's own suite must catch each."""

from __future__ import annotations

import pytest
from trick_files import trick_files

from gantricks.testing.mistakes import assert_caught

FILES = trick_files()
CASES = [
    pytest.param(trick, name, catcher, id=f"{trick}: {name} ({catcher})")
    for trick, file in sorted(FILES.items())
    for name, mistake in file.mistakes.items()
    for catcher in mistake.catchers
]


@pytest.mark.parametrize(("trick", "name", "catcher"), CASES)
def test_the_suite_catches(trick: str, name: str, catcher: str) -> None:
    file = FILES[trick]
    assert_caught(file.cls, file.mistakes[name], catcher, file.path)
