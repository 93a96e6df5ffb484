"""Odd image files and archives: each is read, refused in a sentence or passed over, as `odd_files` says of it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import odd_files


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return list(odd_files.outcomes(tmp_path_factory.mktemp("odd")))


@pytest.mark.parametrize("kind", ["image", "archive"])
def test_every_odd_file_becomes_what_it_should(outcomes, kind):
    assert [(odd.name, wrong) for found, odd, wrong in outcomes if found == kind and wrong] == []


def test_there_are_a_hundred_of_them_and_no_two_alike(outcomes):
    names = [(kind, odd.name) for kind, odd, _ in outcomes]
    assert len(set(names)) == len(names) >= 100
    assert {odd.becomes for _, odd, _ in outcomes} == {"read", "refused", "passed over"}


def test_what_is_believed_to_be_right_and_is_not_is_counted_as_wrong(monkeypatch):
    """The scoreboard itself: a file that becomes something else than it should is seen."""
    sound = odd_files.png()
    lies = [
        odd_files.refused("sound", "a.png", sound),
        odd_files.read("empty", "a.png", b""),
        odd_files.read("of another colour", "a.png", sound, (0, 0, 0)),
        odd_files.passed_over("an image", odd_files.file("a.png", sound)),
        odd_files.refused("for another reason", "a.png", b"", "too large"),
    ]
    monkeypatch.setattr(odd_files, "odd_images", lambda: lies)
    monkeypatch.setattr(odd_files, "odd_archives", lambda mark: [])
    assert odd_files.play() == {"image": 5, "archive": 0, "read": 0, "refused": 0, "passed over": 0, "wrong": 5}
