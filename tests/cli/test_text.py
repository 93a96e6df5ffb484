"""Runs on captions are sampled for texts, or for rows of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SMALL = [
    part
    for key in (
        *("data.count=300", "data.image_size=16", "data.text_dim=16", "data.batch_size=8", "train.device=cpu"),
        *("generator.channels=4", "generator.condition_dim=6", "discriminator.channels=4"),
        *("train.steps=2", "train.precision=fp32", "train.sample_every=2"),
    )
    for part in ("--set", key)
]


@pytest.fixture
def drawn(gantricks: Any) -> Path:
    assert gantricks("train", "stackgan_1", *SMALL, "--run-dir", "run").status == 0
    return Path("run")


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def sampled(gantricks: Any, *words: object, count: int = 4) -> Any:
    outcome = gantricks("sample", "run", "--count", count, *words, "--out", "t.png")
    assert outcome.status == 0, outcome.err
    found = pixels("t.png")
    Path("t.png").unlink()
    return found, outcome


def test_each_column_shows_one_text(gantricks: Any, drawn: Path) -> None:
    bag, shoes = "a red bag", "two blue shoes"
    both, _ = sampled(gantricks, "--text", bag, "--text", shoes)
    again, _ = sampled(gantricks, "--text", "A red bag!", "--text", shoes)
    assert (both == again).all()
    turned, _ = sampled(gantricks, "--text", shoes, "--text", bag)
    half = both.shape[1] // 2
    assert (both[:, :half] != turned[:, :half]).any()
    usual, _ = sampled(gantricks)
    assert usual.shape == both.shape
    assert (usual != both).any()


def test_the_data_is_not_needed_and_words_that_it_lacks_are_told(
    gantricks: Any, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantricks.data.scenes import Scenes

    monkeypatch.setattr(Scenes, "load", None)
    _, outcome = sampled(gantricks, "--text", "a red bagg", "--text", "a qwertz")
    told = " ".join((outcome.out + outcome.err).split())
    assert "no caption of the data has the word 'bagg', so it means nothing here; did you mean 'bag'?" in told
    assert "the word 'qwertz', so it means nothing here" in told


def test_rows_take_the_place_of_texts(gantricks: Any, drawn: Path) -> None:
    from gantricks.data.text import embed

    np.save("rows.npy", embed(["a red bag", "two blue shoes"], 16))
    by_rows, _ = sampled(gantricks, "--conditions", "rows.npy")
    by_text, _ = sampled(gantricks, "--text", "a red bag", "--text", "two blue shoes")
    assert (by_rows == by_text).all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--text", "…"], "no word in '…'"),
        (["--conditions", "wrong.npy"], "rows of 16 numbers, not an array of shape (2, 3)"),
        (["--conditions", "nowhere.npy"], "cannot be read"),
        (["--conditions", "wrong.npy", "--text", "a bag"], "leave one of them out"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_is_written(
    gantricks: Any, drawn: Path, words: list[str], told: str
) -> None:
    np.save("wrong.npy", np.ones((2, 3)))
    outcome = gantricks("sample", "run", *words, "--out", "t.png")
    assert outcome.status == 2
    assert told in " ".join(outcome.err.split())
    assert not Path("t.png").exists()


def test_a_run_without_captions_says_so(gantricks: Any, run: Path) -> None:
    outcome = gantricks("sample", "run", "--text", "a bag", "--out", "t.png")
    assert outcome.status == 2
    assert "the generator of this run is given no conditions" in " ".join(outcome.err.split())


def test_a_run_on_a_folder_with_captions_is_sampled_for_a_text(gantricks: Any) -> None:
    import json

    Path("pictures").mkdir()
    lines = []
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(f"pictures/{number}.png")
        lines.append(json.dumps({"file": f"{number}.png", "caption": f"a {'dark' if number < 6 else 'bright'} red"}))
    Path("pictures/captions.jsonl").write_text("\n".join(lines))
    given = [part for key in ("data.path=pictures", "data.image_size=16", "data.text_dim=16", "data.batch_size=4",
                              "generator.conditioned=true", "discriminator.conditioned=true", "generator.channels=4",
                              "discriminator.channels=4", "train.steps=2", "train.device=cpu", "train.precision=fp32")
             for part in ("--set", key)]  # fmt: skip
    assert gantricks("train", "folder_dcgan", *given, "--run-dir", "run").status == 0
    bright, _ = sampled(gantricks, "--text", "a bright red")
    dark, _ = sampled(gantricks, "--text", "a dark red")
    assert (bright != dark).any()
