"""What reaches the terminal: text from outside as text, help whole, JSON alone; streams and variables as they come."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

import gantricks
from gantricks.cli import app as commands
from gantricks.cli import main
from gantricks.cli.console import Text, _Patient, errors, output, typed, write_command, write_json, write_prose
from gantricks.cli.errors import write_problems
from gantricks.cli.plans import write_warning
from gantricks.cli.progress import Screen
from gantricks.data import images
from gantricks.errors import Problem, UserError, printable
from gantricks.paths import expanded

ANY = st.text(st.characters(), max_size=20) | st.text(
    st.sampled_from("a [/red]\x00\x07\x0b\n\r\t\x1b\x7f\x9b\u2028\u202e\u2066\u200f\ufeff\udce9\ud800"),
    max_size=12,
)
HOSTILE = "a\x1b]0;owned\x07\x1b[31m\r\n\x9b2J\u202eb\udce9[red]"
ESCAPES = HOSTILE.replace("\udce9", "é")


@pytest.fixture(autouse=True, scope="module")
def no_width() -> Iterator[None]:
    """What is no terminal has lines of any length, whatever the shell of these tests says of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


# ---------------------------------------------------------------- text from outside


@given(ANY)
@example(HOSTILE)
def test_printable_text_holds_nothing_that_a_terminal_obeys_and_loses_nothing(text: str) -> None:
    shown = printable(text)
    assert all(sign.isprintable() or sign in "\u200c\u200d" for sign in shown)
    assert printable(shown) == shown
    shown.encode("utf-8")
    assert shown == text if text.isprintable() else shown != text or set(text) & set("\u200c\u200d")
    kept = iter(shown)
    assert all(sign in kept for sign in text if sign.isprintable())  # in their order


def test_bytes_that_are_no_text_are_shown_as_bytes() -> None:
    assert printable(os.fsdecode(b"caf\xe9\n\x1b")) == r"caf\xe9\n\x1b"


def written(write: Any) -> str:
    """What `write` prints on a console in a file."""
    file = io.StringIO()
    write(_Patient(file=file, width=1000, highlight=False, markup=False, emoji=False))
    return file.getvalue()


def in_a_cell(text: Any) -> Table:
    table = Table.grid()
    table.add_column(no_wrap=True)
    table.add_row(text)
    return table


@pytest.mark.parametrize("dress", [str, Text, lambda text: Text.assemble(("", "bold"), (text, "red")), in_a_cell])
@given(text=ANY)
@example(text=HOSTILE)
def test_whatever_is_printed_is_one_line_of_text(dress: Any, text: str) -> None:
    line = written(lambda console: console.print(dress(text), soft_wrap=True)).removesuffix("\n")
    assert line == printable(text).rstrip()


@given(ANY, ANY, ANY)
@example(HOSTILE, HOSTILE, HOSTILE)
def test_a_problem_is_a_line_and_its_hint_another(what: str, where: str, hint: str) -> None:
    problem = Problem(f"what {what}", f"where {where}", f"mend {hint}")
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        write_problems([problem])
    for text in (printed.getvalue(), f"{problem}\n", f"{UserError(problem)}\n"):
        first, second = text.removesuffix("\n").split("\n")
        assert first.rstrip() == f"where {printable(where)}: what {printable(what)}".rstrip()
        assert second.rstrip() == f"    mend {printable(hint)}".rstrip()
    assert problem.as_dict() == {"what": f"what {what}", "where": f"where {where}", "hint": f"mend {hint}"}


@given(ANY)
@example(HOSTILE)
def test_warnings_commands_and_prose_are_text(text: str) -> None:
    for write in (write_warning, write_command, lambda console, text: write_prose(console, text)):
        assert printable(shown := written(lambda console, write=write: write(console, text)), "\n") == shown


def test_a_bar_shows_a_name_as_text() -> None:
    file = io.StringIO()
    console = _Patient(file=file, force_terminal=True, width=200, color_system=None)
    screen = Screen(console)
    screen.reading(HOSTILE, 0, 10)
    screen.reading(HOSTILE, 10, 10)
    # and what rich makes of a name by itself
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console, auto_refresh=False) as bar:
        bar.add_task("x\x9b31m\x07")
    # rich moves the cursor by codes of one kind; those of the name would be of others
    plain = re.sub(r"\x1b\[(\?25[lh]|\d*[A-K])", "", file.getvalue())
    assert not set(plain) & set("\x1b\x07\x9b\u202e")
    assert r"a\x1b]0;owned\x07" in plain
    assert "[red]" in plain


def test_only_the_console_makes_text_of_rich_s_kind() -> None:
    for path in Path(commands.__file__).parent.glob("*.py"):
        if path.name != "console.py":
            assert "rich.text" not in path.read_text(encoding="utf-8"), path.name


@given(st.recursive(ANY, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner), max_leaves=5))
@example({HOSTILE: HOSTILE, "\U000e0001": "é…"})
def test_json_is_what_was_given_and_holds_nothing_that_a_terminal_obeys(value: object) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii", errors="backslashreplace")
    with contextlib.redirect_stdout(stream):
        write_json(value)
    text = raw.getvalue().decode("utf-8")
    assert json.loads(text) == json.loads(json.dumps(value))  # where two halves of a surrogate pair are one character
    assert printable(text, "\n") == text


@pytest.mark.parametrize("word", ["a b", "it's", "$x\n", "\x1b[31m", "é\udce9\n", "\x85\\'\n", "-", "~"])
def test_a_command_is_typed_as_a_shell_reads_it(word: str) -> None:
    shown = typed(["printf", "%s", word])
    assert shown.isprintable()
    read = subprocess.run(
        ["bash", "-c", shown], capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"}, check=True
    )
    assert read.stdout == os.fsencode(word)


def test_names_of_files_are_shown_as_text_in_messages(gantricks: Any) -> None:
    Path("p").mkdir()
    Image.new("RGB", (16, 16)).save("p/a.png")
    Path("p/b\x1b]0;owned\x1b\\\x1b[31m\nc.png").write_text("x")
    outcome = gantricks("check", "folder_dcgan", "--set", "data.path=p")
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if "not an image" in line]
    assert r"b\x1b]0;owned\x1b\\x1b[31m\nc.png" in line
    assert "\x1b" not in outcome.err + outcome.out


@pytest.mark.parametrize(
    "words",
    [
        ["check", HOSTILE],
        ["train", HOSTILE],
        ["check", "ring_mlp", "--set", HOSTILE],
        ["check", "ring_mlp", "--set", f"{ESCAPES}={ESCAPES}"],
        ["check", "ring_mlp", "--set", f"tricks.{HOSTILE}.x=1"],
        ["check", "ring_mlp", "--set", f"data.source={HOSTILE}"],
        ["check", "ring_mlp", "--device", ESCAPES],
        ["check", "ring_mlp", "--plugin", HOSTILE],
        ["resume", HOSTILE],
        ["sample", HOSTILE, "--out", HOSTILE],
        ["report", HOSTILE],
        ["tricks", HOSTILE],
        ["recipes", HOSTILE],
        ["recipes", "dcgan", "--copy", HOSTILE],
        ["new-trick", HOSTILE],
        ["new-trick", "mine", "--dir", HOSTILE],
        [HOSTILE],
        ["train", "ring_mlp", f"--{HOSTILE}"],
    ],
    ids=lambda words: "-".join(word for word in words if word.isprintable()),
)
def test_words_of_a_command_are_shown_as_text(gantricks: Any, words: list[str]) -> None:
    outcome = gantricks(*words)
    assert outcome.status == 2
    shown = outcome.out + outcome.err
    assert "Traceback" not in shown
    assert printable(shown, "\n") == shown
    assert r"\x1b]0;owned" in shown


def test_a_run_in_a_folder_of_any_name_says_what_can_be_typed(gantricks: Any) -> None:
    folder = "run\x1b[31m\n"
    trained = gantricks("train", "ring_mlp", *gantricks.small, "--set", "train.steps=1", "--run-dir", folder)
    assert trained.status == 0, trained.err
    assert printable(trained.out, "\n") == trained.out
    assert r"gantricks sample $'run\x1b[31m\n' --count" in trained.out.splitlines()[-1]


def test_a_traceback_is_text_and_keeps_its_lines(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError(HOSTILE)

    monkeypatch.setattr("gantricks.cli.recipes.list_recipes", broken)
    outcome = gantricks("recipes")
    assert outcome.status == 1
    assert printable(outcome.err, "\n\t") == outcome.err
    assert outcome.err.startswith("Traceback (most recent call last):\n  File")


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("name", [None, *commands.command.commands])
def test_help_shows_every_word_whole(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch, name: str | None, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    group = commands.command
    command = group.commands[name] if name else group
    outcome = gantricks(*([name] if name else []), "--help")
    assert outcome.status == 0
    assert max(map(len, outcome.out.splitlines())) <= width
    shown = outcome.out.split()
    texts = [command.help, *(parameter.help for parameter in command.params if getattr(parameter, "help", None))]
    if name is None:
        texts += [other.help.partition("\n\n")[0] for other in group.commands.values()]
    for text in texts:
        # in a narrow column a long word, and one with a hyphen, goes on in the next line
        assert "".join(text.split()) in "".join(shown), text
        assert all(word in shown for word in text.split() if len(word) < 20 and "-" not in word), text


def test_help_keeps_words_in_brackets(gantricks: Any) -> None:
    assert "Override a key of [evaluate]" in " ".join(gantricks("evaluate", "--help").out.split())


def test_without_a_command_the_help_is_shown_and_the_status_is_2(gantricks: Any) -> None:
    outcome = gantricks()
    assert (outcome.status, outcome.out) == (2, "")
    assert "doctor" in outcome.err


def test_words_in_brackets_survive_in_messages(gantricks: Any) -> None:
    outcome = gantricks("check", "ring_mlp", "--set", "[red]bold[/red]=1", "--set", "[link]=x")
    assert "[red]bold[/red]" in outcome.err + outcome.out
    assert "[link]" in outcome.err + outcome.out


# ---------------------------------------------------------------- JSON alone

TALKER = '''
print("hello from a library")
import os, sys
sys.stdout.write("and again\\n")
os.system("echo from a child")
from gantricks import Trick, hookimpl


class Talker(Trick):
    """Talks."""

    def __init__(self, config):
        print("made")
        super().__init__(config)

    def problems(self, setting):
        print("asked")
        return []

    @hookimpl
    def transform_generator(self, network, ctx):
        print("transforming")
        return network
'''


@pytest.mark.parametrize(
    "words", [("check", "ring_mlp", "--set", "tricks.talker={}", "--json"), ("tricks", "talker", "--json")]
)
def test_what_plugins_print_is_not_among_the_json(gantricks: Any, words: tuple[str, ...]) -> None:
    Path("talker.py").write_text(f"{TALKER}# {words}")  # each is imported anew
    outcome = gantricks(*words, "--plugin", "talker.py")
    assert outcome.status == 0
    json.loads(outcome.out)
    assert "hello from a library" in outcome.err
    assert sys.stdout is not sys.stderr


def test_nor_is_what_their_children_print(tmp_path: Path) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    done = ran("tricks", "talker", "--plugin", "talker.py", "--json", folder=tmp_path)
    assert json.loads(done.stdout)["name"] == "talker"
    assert b"from a child" in done.stderr
    assert b"hello from a library" in done.stderr


# ---------------------------------------------------------------- plugins that end the program

QUITTER = '''
import sys
from gantricks import Trick, hookimpl


class Quitter(Trick):
    """Quits."""

    @hookimpl
    def d_labels(self, labels, ctx):
        sys.exit(WORDS)
'''


@pytest.mark.parametrize(("words", "said"), [("'out of licences'", ": out of licences"), ("0", ": 0"), ("", "")])
def test_a_hook_that_ends_the_program_is_named(gantricks: Any, words: str, said: str) -> None:
    Path("quitter.py").write_text(QUITTER.replace("WORDS", words))
    outcome = gantricks("train", "ring_mlp", *gantricks.small, "--plugin", "quitter.py", "--set", "tricks.quitter={}")
    assert outcome.status == 2
    assert re.search(rf"quitter\.py:11: this plugin ended the program{said}$", outcome.err, re.MULTILINE), outcome.err


def test_a_file_that_ends_the_program_is_named_by_check_and_train(gantricks: Any) -> None:
    Path("leaver.py").write_text("import sys; sys.exit()")
    for words in (("check", "ring_mlp"), ("train", "ring_mlp")):
        outcome = gantricks(*words, "--plugin", "leaver.py", "--set", "tricks.leaver={}")
        assert outcome.status == 2
        assert "leaver.py:1: importing it ends the program" in outcome.err
    assert not Path("runs").exists()
    warned = gantricks("check", "ring_mlp", "--plugin", "leaver.py")
    assert warned.status == 0
    assert "--plugin leaver.py is not used by the recipe, and it is broken" in warned.out


def test_doctor_names_packages_that_exit_share_a_name_or_have_no_metadata(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantricks.cli.doctor._shipped", lambda: iter(()))
    for name in ("leaving", "first", "second"):
        facts = Path("site", f"{name}-1.0.dist-info")
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        offered = "leaving" if name == "leaving" else "noise"
        (facts / "entry_points.txt").write_text(f"[gantricks.tricks]\n{offered} = {name}_module:Quitter\n")
        Path("site", f"{name}_module.py").write_text(QUITTER if name != "leaving" else "raise SystemExit('bye')")
    Path("site", "odd-1.0.dist-info").mkdir()
    Path("site", "odd-1.0.dist-info", "entry_points.txt").write_bytes(b"[\xff")
    monkeypatch.syspath_prepend(Path("site").absolute())
    outcome = gantricks("doctor")
    assert outcome.status == 0
    assert "'leaving' of leaving 1.0 is broken: importing it ends the program: bye" in outcome.out
    twice = (
        "two plugins have the trick 'noise': first_module:Quitter of first 1.0 and second_module:Quitter of second 1.0"
    )
    assert outcome.out.count(twice) == 2
    assert "odd-1.0.dist-info cannot be read: UnicodeDecodeError" in outcome.out


# ---------------------------------------------------------------- streams and variables


def ran(*words: str, folder: Path, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The program, its streams arranged by what `shell` appends to its command line."""
    taken_away = {name for name, value in variables.items() if value == ""} | {"COLUMNS", "PYTHONIOENCODING"}
    kept = {name: value for name, value in os.environ.items() if name not in taken_away}
    command = ["bash", "-c", f'exec "$0" -m gantricks "$@" {shell}'] if shell else []
    return subprocess.run(
        [*command, sys.executable, *([] if shell else ["-m", "gantricks"]), *words],
        cwd=folder,
        env=kept | {name: value for name, value in variables.items() if value},
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("words", "shell", "status", "said"),
    [
        (["--version"], ">&-", 0, b""),
        (["recipes"], ">&- 2>&- <&-", 0, b""),
        (["recipes", "--json"], ">&-", 0, b""),
        (["recipes", "nope"], "2>&-", 2, b""),
        (["recipes", "nope"], "2>/dev/full", 2, b""),
        (["recipes"], ">/dev/full", 2, b"standard output: No space left on device"),
        (["recipes", "dcgan"], ">/dev/full", 2, b"standard output: No space left on device"),
        (["recipes", "--json"], ">/dev/full", 2, b"standard output: No space left on device"),
        (["--help"], ">/dev/full", 2, b"No space left on device"),
        (["--help"], "| true; exit ${PIPESTATUS[0]}", 0, b""),
    ],
)
def test_a_stream_that_takes_nothing_is_a_sentence_or_silence(
    tmp_path: Path, words: list[str], shell: str, status: int, said: bytes
) -> None:
    done = ran(*words, folder=tmp_path, shell=shell)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert bool(done.stderr) == bool(said)


def test_a_run_goes_on_when_nobody_can_be_told(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    status = main(["train", "ring_mlp", *gantricks.small, "--set", "train.steps=2", "--run-dir", "run"])
    assert status == 2
    assert list(Path("run/checkpoints").iterdir())


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_what_is_read_back_is_utf_8_whatever_the_terminal(tmp_path: Path, encoding: str) -> None:
    recipe = ran("recipes", "pacgan_grid", folder=tmp_path, PYTHONIOENCODING=encoding)
    tomllib.loads(recipe.stdout.decode("utf-8"))
    card = ran("tricks", "ema", "--json", folder=tmp_path, PYTHONIOENCODING=encoding)
    ours = (Path(gantricks.__file__).parent / "catalogue" / "index.json").read_text(encoding="utf-8")
    assert json.loads(card.stdout.decode("utf-8"))["card"] == json.loads(ours)["tricks"]["ema"]["card"]


def test_words_for_people_are_escaped_where_the_terminal_lacks_their_letters(tmp_path: Path) -> None:
    done = ran("recipes", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\xa75" in done.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {"COLUMNS": "abc"},
        {"COLUMNS": "²"},
        {"COLUMNS": "0"},
        {"COLUMNS": "-5"},
        {"COLUMNS": "1"},
        {"COLUMNS": "9" * 40},
        {"LINES": "x"},
        {"TERM": ""},
        {"TERM": "nonsense", "FORCE_COLOR": "1"},
        {"NO_COLOR": "1"},
        {"LANG": "xx_YY.nonsense", "LC_ALL": "nonsense"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"XDG_CACHE_HOME": "relative"},
        {"HOME": ""},
    ],
    ids=str,
)
def test_odd_variables_stop_nothing(tmp_path: Path, variables: dict[str, str]) -> None:
    done = ran("recipes", folder=tmp_path, **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"dcgan" in done.stdout


def test_python_m_gantricks_is_gantricks(tmp_path: Path) -> None:
    assert ran("--version", folder=tmp_path).stdout == f"gantricks {gantricks.__version__}\n".encode()


# ---------------------------------------------------------------- paths


@pytest.fixture
def home(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path("home").absolute()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_a_tilde_is_the_home_folder_in_every_path(gantricks: Any, home: Path) -> None:
    (home / "chooser.py").write_text(QUITTER.replace("sys.exit(WORDS)", "return labels"))
    steps = ("--set", "train.steps=1", "--set", "tricks.chooser={}")
    told = gantricks("train", "ring_mlp", *gantricks.small, *steps, "--run-dir=~/run", "--plugin=~/chooser.py")
    assert told.status == 0, told.err
    assert gantricks("sample", "~/run", "--out=~/a.png", "--plugin=~/chooser.py").status == 0
    assert gantricks("interpolate", "~/run", "--out=~/b.png", "--plugin=~/chooser.py").status == 0
    assert gantricks("report", "~/run", "--out=~/c.html").status == 0
    assert gantricks("recipes", "dcgan", "--copy=~").status == 0
    assert gantricks("new-trick", "mine", "--dir=~").status == 0
    assert gantricks("check", "~/dcgan.toml").status == 0
    made = {path.name for path in home.iterdir()} - {"__pycache__"}
    assert made == {"chooser.py", "run", "a.png", "b.png", "c.html", "dcgan.toml", "gantricks-mine"}
    refused = gantricks("sample", "~/run", "--out=~/new/a.png", "--plugin=~/chooser.py")
    assert f"mkdir -p {home}/new" in refused.err
    assert not list(Path().rglob("~*"))


def test_a_home_that_nobody_has_is_refused_and_no_folder_is_named_for_it(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("~nobody_here/x", "~nobody_here"):
        outcome = gantricks("train", "ring_mlp", f"--run-dir={path}")
        assert outcome.status == 2
        assert "'--run-dir': there is no user 'nobody_here'" in outcome.err
        assert f"./{path}" in outcome.err
    homeless(monkeypatch)
    outcome = gantricks("train", "ring_mlp", "--run-dir=~/x")
    assert outcome.status == 2
    assert "HOME is not set" in outcome.err
    assert not list(Path().iterdir())
    Path("~kept").write_text("")
    assert expanded("~kept") == Path("~kept")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "ring_mlp", "--run-dir", ""),
        ("train", ""),
        ("resume", ""),
        ("sample", "run", "--out", ""),
        ("report", ""),
        ("recipes", "dcgan", "--copy", ""),
        ("check", "ring_mlp", "--plugin", ""),
    ],
)
def test_an_empty_path_is_a_variable_that_is_not_set(gantricks: Any, words: tuple[str, ...]) -> None:
    outcome = gantricks(*words)
    assert outcome.status == 2
    assert "it is empty" in outcome.err
    assert not list(Path().iterdir())


# ---------------------------------------------------------------- recipes that are none


def test_what_is_no_recipe_file_is_a_sentence_at_once(gantricks: Any) -> None:
    os.mkfifo("pipe.toml")
    Path("folder.toml").mkdir()
    Path("loop.toml").symlink_to("loop.toml")
    Path("gone.toml").symlink_to("nowhere")
    Path("binary.toml").write_bytes(bytes(range(256)))
    for name in (
        "pipe.toml",
        "/dev/null",
        "/dev/zero",
        "folder.toml",
        "loop.toml",
        "gone.toml",
        "binary.toml",
        "n" * 300,
    ):
        outcome = gantricks("check", name)
        assert outcome.status == 2, name
        assert "Traceback" not in outcome.err
        assert name in outcome.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_recipe_that_may_not_be_read_is_a_sentence(gantricks: Any) -> None:
    Path("mine.toml").write_text("")
    Path("mine.toml").chmod(0)
    outcome = gantricks("check", "mine.toml")
    assert outcome.status == 2
    assert "Permission denied" in outcome.err


# ---------------------------------------------------------------- the cache


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry."""
    import pwd

    def unknown(number: int) -> Any:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for variable in ("HOME", "GANTRICKS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)


def test_without_a_home_everything_works_and_doctor_says_what_is_missed(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless(monkeypatch)
    Path("p").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16)).save(f"p/{number}.png")
    small = ("--set", "data.image_size=16", "--set", "data.batch_size=4", "--set", "generator.channels=8")
    steps = ("--set", "discriminator.channels=8", "--set", "train.steps=1", "--run-dir", "run")
    outcome = gantricks("train", "folder_dcgan", "--set", "data.path=p", *small, *steps)
    assert outcome.status == 0, outcome.err
    folder = images.cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder == images.cache_folder() == images.compiler_cache().parent
    monkeypatch.setattr("gantricks.cli.doctor._shipped", lambda: iter(()))
    told = gantricks("doctor", "--json")
    findings = [found["what"] for found in json.loads(told.out)["findings"] if found["topic"] == "cache"]
    assert findings
    assert "no home folder" in findings[0]
    assert "GANTRICKS_CACHE" in findings[0]


@pytest.mark.parametrize("value", ["file", "file/below", "/proc/none", "~nobody_here/x", "new/relative"])
def test_an_odd_cache_is_a_sentence_or_works(gantricks: Any, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    Path("file").write_text("kept")
    Path("p").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16)).save(f"p/{number}.png")
    monkeypatch.setenv("GANTRICKS_CACHE", value)
    small = ("--set", "data.image_size=16", "--set", "data.batch_size=4", "--set", "generator.channels=8")
    steps = ("--set", "discriminator.channels=8", "--set", "train.steps=1", "--run-dir", "run")
    outcome = gantricks("train", "folder_dcgan", "--set", "data.path=p", *small, *steps)
    assert outcome.status in (0, 2)
    assert outcome.status == 0 or "GANTRICKS_CACHE" in outcome.err
    assert "Traceback" not in outcome.err
    assert Path("file").read_text() == "kept"
    assert gantricks("doctor", "--json").status in (0, 1)


@pytest.mark.parametrize(
    ("own", "xdg", "found"),
    [
        ("/own", "/xdg", "/own"),
        ("", "/xdg", "/xdg/gantricks"),
        ("", "", "HOME/.cache/gantricks"),
        ("", "relative", "HOME/.cache/gantricks"),
        ("~/own", "", "HOME/own"),
        ("own", "", "HERE/own"),
    ],
)
def test_the_cache_is_where_the_variables_say(
    home: Path, monkeypatch: pytest.MonkeyPatch, own: str, xdg: str, found: str
) -> None:
    monkeypatch.setenv("GANTRICKS_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    where = found.replace("HOME", str(home)).replace("HERE", str(Path().absolute()))
    assert images.cache_folder() == Path(where)


def test_both_streams_have_consoles() -> None:
    assert output().file is sys.stdout
    assert errors().file is sys.stderr
