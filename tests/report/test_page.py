"""The page about runs: it holds what the runs have written, needs nothing else, and lets nothing through unescaped."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError
from gantricks.report import page, read_run
from gantricks.report.chart import HEIGHT, WIDTH, chart
from gantricks.report.records import differing

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Every tag closed in order, and everything that could load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def make_run(folder: Path, *, seed: int = 0, losses: Any = (1.0, 0.5, 0.25), **changes: Any) -> Path:
    recipe = {
        "name": "ring & <b>co</b>",
        "seed": seed,
        "data": {"source": "ring"},
        "train": {"steps": 30},
        "tricks": {"soft_labels": {"real": [0.7, 1.2]}, "separate_batches": {}},
    } | changes
    (folder / "samples").mkdir(parents=True)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    lines = [{"step": 10 * (i + 1), "loss/d": v, "loss/g": 2.0, "x/<i>": v} for i, v in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "samples" / "000010.png").write_bytes(b"an earlier one")
    (folder / "samples" / "000030.png").write_bytes(PNG)
    manifest = {
        "torch": "2.13.0",
        "threads": 1,
        "sessions": [{"began": "2026-01-02T03:04:05.678", "argv": ["a", "<b>"]}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


EVALUATION = {
    "metrics": [
        {
            "metric": "coverage",
            "figures": {
                "modes": {"value": 7.0, "better": "higher", "floor": 8.0},
                "kl": {"value": None, "better": "lower", "floor": None},
            },
        }
    ]
}


def test_one_run_is_on_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    html = page([read_run(run)])
    read = Reader(html)
    assert read.sources == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert "script" not in read.tags
    assert "http" not in re.sub(r'src="[^"]*"', "", html)
    assert "url(" not in html
    for text in (
        "soft_labels, separate_batches",
        "30 of 30 steps",
        "step 30",
        "2.13.0",
        "2026-01-02 03:04:05",
        "Losses",
    ):
        assert text in html, text
    assert "<th>coverage: modes, higher is better</th><td>7</td><td>8</td>" in html
    assert "<td>not finite</td><td></td>" in html
    assert "real = [" in html


def test_text_of_others_is_escaped(tmp_path: Path) -> None:
    html = page([read_run(make_run(tmp_path / "run"))])
    assert "<b>co" not in html
    assert "<i>" not in html
    assert "ring &amp; &lt;b&gt;co&lt;/b&gt;" in html
    assert "x/&lt;i&gt;" in html


def test_several_runs_stand_side_by_side_with_what_differs(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", seed=3, tricks={"soft_labels": {"real": [0.9, 1.0]}}),
        make_run(tmp_path / "c", losses=()),
    ]
    records = [read_run(run) for run in runs]
    assert differing(records) == {
        "seed": ["0", "3", "0"],
        "tricks.soft_labels.real": ["[0.7, 1.2]", "[0.9, 1.0]", "[0.7, 1.2]"],
        "tricks.separate_batches": ["{}", None, "{}"],
    }
    html = page(records)
    read = Reader(html)
    assert len(read.sources) == 3
    drawn = re.search(r"<figcaption>loss/d</figcaption><svg.*?</svg>", html)
    assert drawn
    assert re.findall(r'<path class="curve (c\d)"', drawn[0]) == ["c0", "c1"]
    assert "The same at every step: loss/g 2." in html


def test_the_same_run_twice_differs_in_nothing(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "run"))
    assert differing([record, record]) == {}
    assert "the recipes are the same" in page([record, record])


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text('name = "young"\n')
    Reader(page([read_run(run)]))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("recipe.toml", "= 3"),
        ("manifest.json", "{"),
        ("metrics.jsonl", '{"step": 1}\n{"loss\n'),
        ("evaluation.json", "no"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, text: str) -> None:
    run = make_run(tmp_path / "run")
    (run / file).write_text(text)
    with pytest.raises(UserError) as fault:
        read_run(run)
    assert file in fault.value.problems[0].where


def test_a_last_line_that_was_cut_off_costs_that_line_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = read_run(run).curves
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 900, "loss')
    assert read_run(run).curves == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "nowhere")


VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=50)


@given(VALUES)
def test_every_point_lies_on_the_chart_and_gaps_stay_gaps(values: list[float | None]) -> None:
    svg = chart("a", [("a", 0, list(enumerate(values)))])
    finite = [value for value in values if value is not None]
    if not finite:
        assert svg == ""
        return
    path = re.search(r'd="([^"]*)"', svg)
    assert path
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path[1])]
    assert len(points) == len(finite)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    begun = [i for i, v in enumerate(values) if v is not None and (i == 0 or values[i - 1] is None)]
    assert path[1].count("M") == len(begun)
    order = sorted(range(len(finite)), key=lambda i: finite[i])
    heights = [points[i][1] for i in order]
    assert heights == sorted(heights, reverse=True)


@given(st.integers(0, 2000), st.integers(700, 5000))
def test_a_long_curve_keeps_its_extremes(at: int, count: int) -> None:
    curve: list[tuple[int, float | None]] = [(i, 0.0) for i in range(count)]
    curve[at % count] = (at % count, 50.0)
    svg = chart("a", [("a", 0, curve)])
    assert len(svg) < 20_000
    path = re.search(r'd="([^"]*)"', svg)
    assert path
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]
    rules = [float(y) for y in re.findall(r'y1="([\d.]+)"', svg)]
    assert max(heights) == max(rules)
    assert max(heights) - min(heights) > 0.8 * (max(rules) - min(rules))  # the axis ends at 60
