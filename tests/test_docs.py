"""The documentation says what the code says, and what it tells people to do works."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from gantricks.catalogue.index import index, shipped
from gantricks.hooks import KINDS
from gantricks.planning.plan import make_plan
from gantricks.planning.validation import load_recipe
from gantricks.testing import LAWS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]
DRAWINGS = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.svg"))]


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    # not by its name: that is also the name of a package
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        spec.loader.exec_module(module)
        yield module


# ---------------------------------------------------------------- the pages


def differing(texts: dict[str, str]) -> list[str]:
    """The files that do not hold these texts."""
    return [
        path
        for path, text in texts.items()
        if not (DOCS / path).exists() or (DOCS / path).read_text(encoding="utf-8") != text
    ]


def test_every_page_and_picture_is_the_one_that_the_code_gives(build: ModuleType) -> None:
    stale = differing(build.pages())
    stale += ["evidence.json"] * (build.EVIDENCE.read_text(encoding="utf-8") != build.evidence_file())
    stale += [
        path
        for path, picture in build.forests().items()
        if not (DOCS / path).exists() or Image.open(DOCS / path).convert("RGB").tobytes() != picture.tobytes()
    ]
    assert not stale, f"run: python docs/build.py ({', '.join(stale)})"


@pytest.mark.slow
def test_the_page_of_small_games_is_what_the_engine_plays(build: ModuleType) -> None:
    assert not differing(build.played())


def test_what_is_drawn_is_what_lies_there(build: ModuleType) -> None:
    assert sorted(build.drawings()) == DRAWINGS


def test_every_trick_hook_and_law_has_its_place() -> None:
    def headings(page: str, level: str) -> list[str]:
        text = (DOCS / page).read_text(encoding="utf-8")
        return re.findall(rf"^{level} ([\w-]+)$", text, flags=re.MULTILINE)

    assert {path.stem for path in (DOCS / "tricks").glob("*.md")} - {"README"} == set(shipped("tricks"))
    assert headings("hooks.md", "##") == list(KINDS)
    assert headings("testing.md", "###") == [*LAWS, "trace"]
    assert headings("metrics.md", "##") == [*shipped("metrics"), *shipped("extractors")]
    for page, place in (("README.md", "tricks/"), ("tricks/README.md", "")):
        text = (DOCS / page).read_text(encoding="utf-8")
        listed = re.findall(rf"\[(\w+)\]\({place}\1\.md\)", text)
        assert sorted(listed) == sorted(shipped("tricks")), page


@pytest.mark.parametrize("name", shipped("tricks"))
def test_the_page_of_a_trick_holds_its_card_and_below_it_the_details(name: str) -> None:
    card = index()["tricks"][name]
    page = (DOCS / "tricks" / f"{name}.md").read_text(encoding="utf-8")
    above, heading, below = page.partition("\n## Details\n")
    places = [above.index(paragraph) for paragraph in card["card"].split("\n\n")]
    assert places == sorted(places)
    assert bool(heading) == bool(card["details"])
    assert below.strip() == card["details"]


@pytest.mark.parametrize("recipe", sorted((DOCS / "evidence").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_of_the_evidence_are_sound(recipe: Path, tmp_path: Path) -> None:
    overrides, data = [], load_recipe(recipe).data
    if getattr(data.options, "path", None):  # the user's file, which is not here
        pictures = np.zeros((3000, 28, 28) if data.found.name == "stacked" else (3000, 32, 32, 3), np.uint8)
        labels = np.arange(len(pictures)) % 10
        np.savez(tmp_path / "data.npz", x_train=pictures, y_train=labels, x_test=pictures[:600], y_test=labels[:600])
        overrides = [f"data.path={tmp_path / 'data.npz'}"]
    assert make_plan(load_recipe(recipe, overrides)).metrics


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            to = page.parent / target if target else page
            assert to.exists(), f"{page.name} links to {target}"
            if anchor:
                names = re.findall(r"^#+ (.+)$", to.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in names}, anchor


def test_the_example_of_the_kit_runs() -> None:
    text = (DOCS / "testing.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        exec(example, {})


# ---------------------------------------------------------------- the pictures


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb", by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def texts(figure: Figure) -> dict[str, Bbox]:
    """The box of each text in pixels, by what it says and where it begins."""
    found = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            found[f"{text.get_text()} ({box.x0:.0f}, {box.y0:.0f})"] = box
    return found


def curves(figure: Figure) -> Iterator[np.ndarray]:
    """Points of every line, half a pixel apart, as far as they are on its axes: (N, 2)."""
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_linestyle() == "None":
                continue
            corners = line.get_transform().transform_path(line.get_path()).vertices
            for start, end in pairwise(np.asarray(corners)):
                shares = np.linspace(0, 1, 2 + int(2 * np.hypot(*(end - start))))[:, None]
                points = start + shares * (end - start)
                box = axes.bbox
                inside = (points >= (box.x0, box.y0)) & (points <= (box.x1, box.y1))
                yield points[inside.all(axis=1)]


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * path.startswith("images/games_")) for path in DRAWINGS]
)
def test_a_picture_is_small_and_can_be_read_on_white_and_on_dark_pages(path: str, build: ModuleType) -> None:
    text = (DOCS / path).read_text(encoding="utf-8")
    assert len(text.encode()) < 100_000
    for colour in set(re.findall(r"#[0-9a-f]{6}", text)):
        assert contrast(colour, "#ffffff") > 3.5, colour
        assert contrast(colour, "#0d1117") > 3.5, colour

    figure = build.drawings()[path]().figure
    FigureCanvasAgg(figure).draw()
    boxes = texts(figure)
    assert boxes
    for what, box in boxes.items():
        assert figure.bbox.x0 <= box.x0, what
        assert figure.bbox.y0 <= box.y0, what
        assert box.x1 <= figure.bbox.x1, what
        assert box.y1 <= figure.bbox.y1, what
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert not a.overlaps(b), f"{one} and {other} overlap"
    for points in curves(figure):
        for what, box in boxes.items():
            hidden = (points > (box.x0, box.y0)) & (points < (box.x1, box.y1))
            assert not hidden.all(axis=1).any(), f"a curve runs through {what}"


def test_pictures_of_tricks_stand_on_their_pages_and_say_what_they_show() -> None:
    images = [DOCS / path for path in DRAWINGS if path.startswith("images/") and "architecture" not in path]
    assert len(images) >= 20
    of_games = (DOCS / "games.md").read_text(encoding="utf-8").replace("](images/", "](../images/")
    for drawing in images:
        own = DOCS / "tricks" / f"{drawing.stem}.md"
        page = of_games if drawing.stem.startswith("games_") else own.read_text(encoding="utf-8")
        shown = re.findall(r"^!\[(.*)\]\(\.\./images/(\w+)\.svg\)\n\n\*(.*)\*$", page, flags=re.MULTILINE)
        assert page is of_games or len(shown) == 1
        ((alt, _, caption),) = (found for found in shown if found[1] == drawing.stem)
        titles = ElementTree.parse(drawing).iter("{http://www.w3.org/2000/svg}title")
        assert [title.text for title in titles] == [alt]
        assert alt.endswith(".")
        assert caption.endswith(".")


# ---------------------------------------------------------------- the first trick, done as its page says

Run = Callable[[str], tuple[int, str]]
"""Runs a command line and returns its exit status and what it printed."""

BLOCK = re.compile(
    r"^(?:[^`\n]*`(?P<file>[^`\n]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def follow(page: str, run: Run) -> int:
    """Write every file that the page shows, run every command, and compare what it prints with what the page shows,
    where … stands for anything on a line, or for any lines. Returns the number of commands."""
    commands, printed = 0, ""
    blocks = list(BLOCK.finditer(page))
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        kind, text = block["kind"], block["text"]
        if kind == "sh":
            shown = after["text"] if after and after["kind"] == "text" else ""
            outcomes = [run(line) for line in text.splitlines()]
            commands += len(outcomes)
            printed = "".join(output for _, output in outcomes)
            refused = bool(re.search(r"^broken|^--set", shown, flags=re.MULTILINE))
            assert [status for status, _ in outcomes] == [2 if refused else 0] * len(outcomes), printed
        elif kind == "text":
            lines = text.rstrip().split("\n")
            pattern = "\n".join("(?s:.*?)" if line == "…" else re.escape(line).replace("…", "[^\n]*") for line in lines)
            assert re.fullmatch(pattern, printed.strip()), f"shown:\n{text}\nprinted:\n{printed}"
        else:
            assert block["file"], f"a listing without the name of its file:\n{text}"
            Path(block["file"]).write_text(text, encoding="utf-8")
    return commands


def first_trick() -> str:
    return (DOCS / "first_trick.md").read_text(encoding="utf-8")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return folder


@pytest.mark.usefixtures("empty_folder")
def test_the_first_trick_up_to_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    """All but what needs a process of its own: its tests and its installation."""
    from gantricks.cli import main

    def run(line: str) -> tuple[int, str]:
        capsys.readouterr()
        program, *words = line.split()
        if program == "tail":
            return 0, Path(words[-1]).read_text(encoding="utf-8").splitlines()[-1]
        assert program == "gantricks"
        status = main(words)
        return status, "".join(capsys.readouterr())

    page, _, _ = first_trick().partition("## 7.")
    page = re.sub(r"```sh\npython -m pytest.*?```\n\n```text.*?```", "", page, flags=re.DOTALL)
    assert follow(page, run) == 6


@pytest.mark.usefixtures("empty_folder")
def test_your_own_parts_word_for_word(capsys: pytest.CaptureFixture[str]) -> None:
    from gantricks.cli import main

    def run(line: str) -> tuple[int, str]:
        capsys.readouterr()
        program, *words = line.split()
        if program == "tail":
            return 0, Path(words[-1]).read_text(encoding="utf-8").splitlines()[-1]
        if program == "gantricks":
            status = main(words)
            return status, "".join(capsys.readouterr())
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=dict(os.environ), timeout=300
        )
        return done.returncode, done.stdout

    assert follow((DOCS / "own_parts.md").read_text(encoding="utf-8"), run) == 7


@pytest.mark.slow
def test_the_first_trick_word_for_word(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools", reason="without it pip cannot build the package offline")
    home = empty_folder.parent / "venv"
    venv.create(home, symlinks=True)
    # what is installed here, gantricks and pip included, is there too
    here = sysconfig.get_path("purelib")
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (purelib / "around.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    script = home / "bin" / "gantricks"
    script.write_text(f"#!{home}/bin/python\nimport sys\nfrom gantricks.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def run(line: str) -> tuple[int, str]:
        if "pip install" in line:
            line += " --quiet --no-build-isolation --no-index --disable-pip-version-check --root-user-action=ignore"
        # env: left out, the child would get what readline has exported behind Python's back, such as a width
        done = subprocess.run(
            line,
            shell=True,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout

    assert follow(first_trick(), run) == 10


# ---------------------------------------------------------------- a trick more

TRICK = '''"""Label shift: every target of D, a little higher."""

from gantricks import Trick, hookimpl


class LabelShift(Trick):
    """Label shift: every target of D, a little higher."""

    needs = {"targets"}

    @hookimpl
    def d_labels(self, labels):
        return labels + 0.1
'''


@pytest.mark.slow
def test_a_new_trick_needs_one_file_and_one_command_and_no_generated_file_by_hand(tmp_path: Path) -> None:
    root = DOCS.parent
    for folder in ("docs", "gantricks", "plugins", "recipes"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    for folder in ("plugins", "recipes"):  # as an installation maps them
        (tmp_path / "gantricks" / folder).symlink_to(tmp_path / folder)

    def files() -> dict[str, bytes]:
        found = (path for path in tmp_path.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in found}

    before = files()
    (tmp_path / "plugins" / "label_shift.py").write_text(TRICK, encoding="utf-8")
    command = [sys.executable, "docs/build.py"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)
    after = files()
    changed = {path for path, content in after.items() if before.get(path) != content}
    assert changed == {
        "plugins/label_shift.py",
        "gantricks/catalogue/index.json",
        "docs/README.md",
        "docs/hooks.md",
        "docs/tricks/README.md",
        "docs/tricks/label_shift.md",
    }
    assert "Targets: [label_flipping](tricks/label_flipping.md), [label_shift]" in after["docs/README.md"].decode()
