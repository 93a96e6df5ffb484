"""What studies have found out about a trick, wherever a trick is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gantricks import evidence
from gantricks.catalogue.evidence import evidence_of, shipped_evidence
from gantricks.catalogue.index import index
from gantricks.study.effects import Effect, in_words, judge

FOUND: dict[str, Any] = {
    "columns": {
        "grid-25": {
            "study": "a",
            "runs": 256,
            "mode": "screening",
            "metric": "mixture_coverage",
            "figure": "total_variation",
            "better": "lower",
            "steps": 20000,
        },
        "fashion-16": {
            "study": "b",
            "runs": 64,
            "mode": "screening",
            "metric": "frechet_distance",
            "figure": "frechet_distance",
            "better": "lower",
            "steps": 6000,
        },
    },
    "tricks": {
        "ema": [
            {
                "column": "grid-25",
                "verdict": "helps",
                "effect": "−34 % [−41, −27]",
                "runs": 24,
                "price": "× 1.05",
            },
            {
                "column": "fashion-16",
                "verdict": "not established",
                "effect": "−3 % [−20, +17]",
                "runs": 9,
                "price": "",
            },
        ],
        "soft_labels": [
            {
                "column": "fashion-16",
                "verdict": "no effect beyond 10 %",
                "effect": "−1 % [−5, +4]",
                "runs": 9,
                "price": "",
            }
        ],
    },
}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence of a made-up study."""
    monkeypatch.setattr("gantricks.catalogue.evidence.shipped_evidence", lambda: FOUND)
    monkeypatch.setattr("gantricks.cli.tricks.shipped_evidence", lambda: FOUND)


@pytest.mark.usefixtures("found")
def test_a_line_says_what_is_known_and_that_nothing_is() -> None:
    assert evidence("ema") == "grid-25: −34 % [−41, −27], helps; fashion-16: not established"
    assert evidence("soft_labels") == "fashion-16: no effect beyond 10 %"
    assert evidence("label_flipping") == evidence("of_others") == "not measured"


def test_the_evidence_that_ships_is_of_tricks_and_columns_that_are_there() -> None:
    there = shipped_evidence()
    assert there["tricks"].keys() <= index()["tricks"].keys()
    for trick in there["tricks"]:
        columns = [known.column for known in evidence_of(trick)]
        assert len({*columns}) == len(columns)
        assert {*columns} <= there["columns"].keys()


@pytest.mark.usefixtures("found")
def test_the_list_of_tricks_has_a_column_for_each_study(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    lines = gantricks("tricks").out.splitlines()
    assert lines[0].split()[-2:] == ["grid-25", "fashion-16"]
    cells = {line.split()[0]: line.split()[-3:] for line in lines if line.strip()}
    assert cells["ema"] == ["−34", "%", "?"]
    assert cells["label_flipping"][-2:] == ["–", "–"]
    assert "total_variation after 20,000 steps, lower is better, 256 runs" in " ".join(lines)
    monkeypatch.setenv("COLUMNS", "60")
    assert "fashion-16: not established" in gantricks("tricks").out


@pytest.mark.usefixtures("found")
def test_a_card_tells_effect_runs_and_price(gantricks: Any) -> None:
    text = " ".join(gantricks("tricks", "ema").out.split())
    assert "grid-25 helps −34 % [−41, −27] 24 runs with it time of a step × 1.05" in text
    assert json.loads(gantricks("tricks", "ema", "--json").out)["evidence"] == FOUND["tricks"]["ema"]
    assert "Measured" not in gantricks("tricks", "label_flipping").out


@pytest.mark.usefixtures("found")
def test_check_tells_what_is_known_of_the_recipe_s_tricks(gantricks: Any) -> None:
    given = ["ring_mlp", "--set", "tricks.ema={}", "--set", 'tricks.mine={use="soft_labels"}']
    given += ["--set", "tricks.label_flipping={}"]
    lines = [" ".join(line.split()) for line in gantricks("check", *given).out.splitlines()]
    assert "ema grid-25: −34 % [−41, −27], helps; fashion-16: not established" in lines
    assert "mine (soft_labels) fashion-16: no effect beyond 10 %" in lines
    assert "label_flipping not measured" in lines
    plan = json.loads(gantricks("check", *given, "--json").out)["plan"]
    assert [len(trick["evidence"]) for trick in plan["tricks"]] == [2, 1, 0]
    assert "what studies have found" not in gantricks("check", "ring_mlp").out


@pytest.mark.usefixtures("found")
def test_a_warning_that_names_a_trick_quotes_what_is_known_of_it() -> None:
    from gantricks.plugins.failure_watch import quoted

    assert quoted("ema") == "ema (grid-25: −34 % [−41, −27], helps; fashion-16: not established)"
    assert quoted("instance_noise") == "instance_noise (not measured)"


@pytest.mark.parametrize(
    ("low", "high", "scale", "words"),
    [
        (-0.5, -0.3, "log", "−33 % [−39, −26]"),
        (-0.02, 0.02, "log", "+0 % [−2, +2]"),
        (2.0, 4.0, "log", "× 20.1 [+639 %, × 54.6]"),
        (-0.5, 0.25, "raw", "−0.125 [−0.5, +0.25]"),
        (None, None, "log", ""),
    ],
)
def test_an_effect_in_words(low: Any, high: Any, scale: Any, words: str) -> None:
    value = None if low is None else (low + high) / 2
    assert in_words(Effect("a", value, low, high), scale) == words


def test_an_effect_of_a_screening_is_judged_as_one_of_a_factorial() -> None:
    assert judge(Effect("a", -0.4, -0.5, -0.3), "log", "lower").verdict == "helps"
    assert judge(Effect("a", -0.4, -0.5, -0.3), "log", "higher").verdict == "hurts"
    assert judge(Effect("a", 0.0, -0.05, 0.05), "log", "lower").verdict == "no effect beyond 10 %"
    lost = Effect("a", -0.4, -0.5, -0.3, lost=9, played=9, lost_without=0, played_without=90, p_lost=1e-6)
    assert judge(lost, "log", "lower").verdict == "loses runs more often: 9 of 9 runs against 0 of 90"
