"""The page about runs: it holds what the runs have written, needs nothing else, and lets nothing through unescaped."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Iterator
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
from gantricks.report.records import LARGEST, differing

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


def test_figures_that_were_measured_while_it_trained_are_the_first_curves(tmp_path: Path) -> None:
    def measured(folder: Path, *values: float | None) -> Path:
        run = make_run(folder)
        with (run / "metrics.jsonl").open("a") as file:
            for number, value in enumerate(values, 1):
                figures = {"metric/fid/fid": value, "metric/ring/high_quality": 2.0}
                file.write(json.dumps({"step": 10 * number, **figures}) + "\n")
        return run

    run = measured(tmp_path / "one", 9.0, None, 3.0)
    html = page([read_run(run)])
    titles = re.findall(r"<figcaption>([^<]*)</figcaption>(?:<ul.*?</ul>)?<svg", html)
    assert titles[:2] == ["fid", "Losses"]
    assert "The same at every step: ring: high_quality 2." in html
    (drawn,) = re.findall(r"<figcaption>fid</figcaption>(<svg.*?</svg>)", html)
    assert len(re.findall(r"M[\d.]+ [\d.]+h0", drawn)) == 2  # single points can be seen
    html = page([read_run(run), read_run(measured(tmp_path / "other", 4.0))])
    (drawn,) = re.findall(r"<figcaption>fid</figcaption>(<svg.*?</svg>)", html)
    assert re.findall(r'<path class="curve (c\d)"', drawn) == ["c0", "c1"]


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
    with pytest.raises(UserError) as error:
        read_run(run)
    assert file in error.value.problems[0].where


ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    10**5000,
    math.nan,
    -math.inf,
    1e308,
    5e-324,
    "",
    "\x1b[31m",
    "<b>",
    [],
    [[]],
    {},
    {"a": {}},
]
MANIFEST = {
    "format": 1,
    "gantricks": "0.1.0",
    "torch": "2.13.0",
    "capture": "off",
    "threads": 1,
    "parameters": {"generator": 5},
    "tricks": {"a": {"use": "a", "origin": "gantricks"}, "b": {"use": "c", "origin": "c.py sha256:5"}},
    "data": {"count": 3, "shape": [1, 8, 8], "class_names": ["a"], "held_out": 0, "fingerprint": "f", "labels": None},
    "recipe": {"name": "a"},
    "sessions": [{"argv": ["a"], "began": "2026-01-02", "from_step": 0, "to_step": None}],
}
LINES = [{"step": 1, "loss/d": 1.0, "loss/g": None}, {"step": 2, "loss/d": 2.0, "x": 3}]


def within(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from within(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """`value` with `odd` at that path."""
    if not path:
        return odd
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], odd)
    return copy


def shown_or_refused(run: Path, file: str) -> bool:
    """A page of sound HTML, or a sentence about that very file."""
    try:
        record = read_run(run)
    except UserError as error:
        (problem,) = error.problems
    else:
        Reader(page([record])).close()
        return True
    assert file in problem.where
    assert len(problem.what) < 300
    return False


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_one_odd_value_in_a_file_is_a_page_or_a_sentence(tmp_path: Path, odd: Any) -> None:
    sys.set_int_max_str_digits(0)
    try:
        for file, value in {"manifest.json": MANIFEST, "evaluation.json": EVALUATION, "metrics.jsonl": LINES}.items():
            run = make_run(tmp_path / file)
            for path in within(value):
                found = changed(value, path, odd)
                text = json.dumps(found)
                if file == "metrics.jsonl" and isinstance(found, list):
                    text = "".join(json.dumps(line) + "\n" for line in found)
                (run / file).write_text(text)
                sys.set_int_max_str_digits(4300)
                shown_or_refused(run, file)
                sys.set_int_max_str_digits(0)
    finally:
        sys.set_int_max_str_digits(4300)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*MANIFEST, "step", "metrics"]), inner),
)


@given(st.sampled_from(["manifest.json", "evaluation.json", "metrics.jsonl", "recipe.toml"]), JSON | st.binary())
def test_whatever_is_in_a_file_is_a_page_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, file: str, content: Any
) -> None:
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    (run / file).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    shown_or_refused(run, file)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.toml", b"name = 3"),
        ("recipe.toml", b"\xff"),
        ("recipe.toml", b'name = "a"\ntrain = 5'),
        ("recipe.toml", b"a = " + b"[" * 5000),
        ("recipe.toml", b"a" + b".a" * 5000 + b" = 1"),
        ("recipe.toml", b"a = 0x" + b"f" * 9000),
        ("recipe.toml", b"seed = " + b"9" * 9000),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b'{"sessions": null}'),
        ("manifest.json", b'{"tricks": {"a": {"use": "x"}}}'),
        ("manifest.json", b'{"format": 99}'),
        ("metrics.jsonl", b'{"step": -1}\n'),
        ("metrics.jsonl", b'{"step": 1, "loss/d": "1"}\n'),
        ("metrics.jsonl", b'{"step": 1, "loss/d": [1]}\n'),
        ("metrics.jsonl", b"[1]\n"),
        ("metrics.jsonl", b"\xff\n"),
        ("evaluation.json", b'{"metrics": [{}]}'),
        ("evaluation.json", b"\xff\xfe\xff"),
        ("evaluation.json", b'{"metrics": [{"metric": "a", "figures": {"b": {"value": "1", "better": "lower"}}}]}'),
    ],
)
def test_damage_of_every_kind_is_a_sentence(tmp_path: Path, file: str, content: bytes) -> None:
    run = make_run(tmp_path / "run")
    (run / file).write_bytes(content)
    assert not shown_or_refused(run, file)


def test_dates_in_a_recipe_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "recipe.toml").write_text("name = 'dated'\nday = 2026-01-02\n")
    other = make_run(tmp_path / "other")
    assert "2026-01-02" in page([read_run(run), read_run(other)])


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_a_windows_shell_has_written_is_read(tmp_path: Path, codec: str) -> None:
    run = make_run(tmp_path / "run")
    for file in ("recipe.toml", "metrics.jsonl"):
        (run / file).write_text((run / file).read_text(), encoding=codec)
    (run / "evaluation.json").write_text(json.dumps(EVALUATION), encoding=codec)
    html = page([read_run(run)])
    assert "coverage: modes" in html
    assert "soft_labels, separate_batches" in html
    assert "Losses" in html


def test_values_that_are_no_numbers_are_gaps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "a": NaN}\n{"step": 2, "a": Infinity}\n{"step": 3, "a": 1e305}\n{"step": 4, "a": 2}\n'
    )
    (run / "evaluation.json").write_text(
        json.dumps(changed(EVALUATION, ("metrics", 0, "figures", "kl", "value"), math.nan))
    )
    record = read_run(run)
    assert record.curves["a"] == [(1, None), (2, None), (3, None), (4, 2.0)]
    assert "<td>not finite</td><td></td>" in page([record])


def test_a_last_line_that_is_being_written_is_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    whole = read_run(run).curves
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "loss/d"')
    assert read_run(run).curves == whole


def test_pictures_with_names_that_are_no_steps_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "samples" / f"{'9' * 200}.png").write_bytes(b"x")
    (run / "samples" / "000040.png").mkdir()
    assert read_run(run).picture == (30, PNG)


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


@given(st.lists(st.floats(-LARGEST, LARGEST), min_size=2, max_size=9))
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    numbers = re.findall(r"[ML]([0-9.]+) ([0-9.]+)", chart("a", [("", 0, list(enumerate(values)))]))
    assert len(numbers) == len(values)
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in numbers)


def test_a_single_point_stands_in_the_middle_and_its_step_once() -> None:
    drawn = chart("loss", [("D", 0, [(50, 1.25)])])
    assert drawn.count(">50<") == 1
    assert 'text-anchor="end">step' in drawn
    place = re.search(r'd="M([\d.]+) ', drawn)
    assert place
    assert float(place[1]) == pytest.approx((56 + WIDTH - 12) / 2)


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


def test_what_was_set_for_an_evaluation_is_told_beside_its_figures(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    given = {"set": ["tricks.truncation.limit=0.5", "tricks.<b>=on"]}
    (runs[0] / "evaluation.json").write_text(json.dumps(EVALUATION | given))
    (runs[1] / "evaluation.json").write_text(json.dumps(EVALUATION))
    html = page([read_run(run) for run in runs])
    told = "tricks.truncation.limit=0.5, tricks.&lt;b&gt;=on.</p>"
    assert len(re.findall(rf"Set for the evaluation: [^:<]*a[^:<]*: {re.escape(told)}", html)) == 1
    assert f"Set for the evaluation: {told}" in page([read_run(runs[0])])
    assert "Set for the evaluation" not in page([read_run(runs[1])])
