"""What a run survives: kills at any moment, damaged checkpoints, a disk that fills at any write, odd input.

    python benchmarks/reliability.py                                   all parts; takes an hour
    python benchmarks/reliability.py --part kills --count 20
    python benchmarks/reliability.py --part checkpoints --part disk

Each part counts what it tried and what came out wrong, which is to be nothing; the figures of a part are merged into
docs/reliability.json, and docs/reliability.md is written from that. Exits with 1 when something came out wrong.

Moments are chosen by a seed. A kill is SIGKILL to a process of its own: after a time, or in the middle of a request to
the disk (files made and written, flushed, renamed). A disk that is full refuses one such request, or that one and all
after it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import gantricks
from gantricks import UserError, store
from gantricks.cli import main as command_line
from gantricks.files import is_part
from gantricks.runs import checkpoint
from gantricks.runs.opening import open_run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "data")]  # what is tried there is described beside the tests
Figures = dict[str, Any]

RUN = [
    *("ring_mlp", "--device", "cpu"),
    *("--set", "data.samples=500", "--set", "data.batch_size=16", "--set", "generator.hidden=[8]"),
    *("--set", "discriminator.hidden=[8]", "--set", "tricks.ema={}", "--set", "tricks.lr_decay={}"),
]
INTERVALS = ("log_every", "sample_every", "checkpoint_every")


def intervals(steps: int, *every: int) -> list[str]:
    """The options of a run of so many steps, with so many between two lines, pictures and checkpoints."""
    settings = {"steps": steps, **dict(zip(INTERVALS, every, strict=True))}
    return [part for key, value in settings.items() for part in ("--set", f"train.{key}={value}")]


def finish(run: Path) -> dict[str, str]:
    """Everything that two runs of a recipe must have in common, and the names of whatever else is there."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name.startswith("earlier-") or path.name == ".lock":
            continue
        if name.startswith("cache/"):  # a run goes on without the cache of decoded images
            continue
        if "tfevents" in name or path.name == "manifest.json":
            found[name.partition("tfevents")[0]] = ""
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# ---------------------------------------------------------------- the disk


class Disk:
    """Counts what a process asks of the disk, and may strike at one request, or at that and all after it.

    A write is half done when it is struck.
    """

    def __init__(self, at: int | None = None, strike: Callable[[], None] = lambda: None, lasting: bool = False) -> None:
        self.at, self.strike, self.lasting = at, strike, lasting
        self.asked = 0
        self._lock = threading.Lock()

    def struck(self) -> bool:
        with self._lock:
            self.asked += 1
            return self.at is not None and (self.asked == self.at or (self.lasting and self.asked > self.at))

    def ask(self) -> None:
        if self.struck():
            self.strike()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        disk = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                if disk.struck():
                    super().write(memoryview(data)[: len(data) // 2])
                    disk.strike()
                return super().write(data)

        def asking(function: Any, counts: Callable[..., bool] = lambda *_: True) -> Any:
            def asked(*args: Any, **kwargs: Any) -> Any:
                if counts(*args):
                    disk.ask()
                return function(*args, **kwargs)

            return asked

        def fdopen(descriptor: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode in ("wb", "ab"):
                return io.BufferedWriter(Raw(descriptor, mode))
            return former["fdopen"](descriptor, mode, *args, **kwargs)

        def save_file(tensors: Any, path: Path) -> None:
            keep(tensors, path)
            if disk.struck():
                os.truncate(path, path.stat().st_size // 2)
                disk.strike()

        former = {name: getattr(os, name) for name in ("open", "fdopen", "mkdir", "fsync", "replace", "rename", "link")}
        module: Any = store
        keep = module.save_file
        for name, function in former.items():
            if name not in ("open", "fdopen"):
                setattr(os, name, asking(function))
        os.open = asking(former["open"], lambda path, flags, *_: bool(flags & os.O_CREAT))
        os.fdopen = fdopen  # type: ignore[assignment]
        module.save_file = save_file
        try:
            yield
        finally:
            for name, function in former.items():
                setattr(os, name, function)
            module.save_file = keep


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


# ---------------------------------------------------------------- kills


@dataclass(frozen=True)
class Ended:
    """How a child process ended: its status as a shell has it, the seconds it took, what it said."""

    status: int
    seconds: float
    said: str


def in_a_child(argv: list[str], folder: Path, disk: Disk | None = None, after: float | None = None) -> Ended:
    """Run a command in a process of its own, which is killed `after` some seconds unless `disk` kills it."""
    words = folder / "said"
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sink = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        torch.set_num_threads(1)
        status = 1
        try:
            with disk.watched() if disk else contextlib.nullcontext():
                status = command_line(argv)
            if disk:
                (folder / "asked").write_text(str(disk.asked))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    timer = threading.Timer(after, os.kill, (child, signal.SIGKILL)) if after is not None else None
    if timer:
        timer.start()
    _, status = os.waitpid(child, 0)
    if timer:
        timer.cancel()
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - began, words.read_text(errors="replace"))


def kills(count: int, seed: int, folder: Path) -> Figures:
    """`count` kills for each way to play the step, until every run that was killed has come to its end."""
    figures: Figures = {"kills": {}, "within_a_request": {}, "finished": {}, "checkpoints_loaded": 0, "wrong": []}
    wrong = figures["wrong"]
    for way, setting in (("eager", "off"), ("captured", "on")):
        draw, home = random.Random(f"{seed} {way}"), folder / way
        home.mkdir()
        argv = [*RUN, *intervals(60, 2, 20, 5), "--set", f"train.capture={setting}", "--run-dir"]
        for name in ("first", "whole"):  # the second finds the compiled step in the cache
            whole = in_a_child(["train", *argv, name], home, Disk())
            assert whole.status == 0, whole.said
        asked, expected = int((home / "asked").read_text()), finish(home / "whole")
        done = within = finished = 0
        while not finished or done < count:
            run = home / f"run-{finished}"
            begun = (run / "recipe.toml").exists()
            if checkpoint.checkpoints(run) or (begun and draw.random() < 0.5):
                words = ["resume", run.name]
            else:  # a run without checkpoint may be begun afresh as well
                words = ["train", *argv, run.name]
            at, after = None, None
            if done < count:
                if draw.random() < 0.7:
                    at = draw.randint(1, max(2, asked // 2))
                else:
                    after = draw.uniform(0, whole.seconds)
            ended = in_a_child(words, home, Disk(at, kill), after)
            if ended.status == -signal.SIGKILL:
                done, within = done + 1, within + (at is not None)
                for path in checkpoint.checkpoints(run).values():
                    try:
                        checkpoint.load(path)
                        figures["checkpoints_loaded"] += 1
                    except Exception as error:
                        wrong.append(f"{way}: kill {done} left {path.name}: {error}")
                if done < count:
                    continue
                # the last one of them goes on to its end
                words = ["resume", run.name] if (run / "recipe.toml").exists() else ["train", *argv, run.name]
                ended = in_a_child(words, home)
            if ended.status:
                wrong.append(f"{way}: {' '.join(words)} ended with {ended.status}: {ended.said[-300:]}")
            elif differing := sorted(name for name, _ in finish(run).items() ^ expected.items()):
                wrong.append(f"{way}: after kill {done} the finish differs: {', '.join(differing)}")
            finished += 1
        figures["kills"][way], figures["within_a_request"][way], figures["finished"][way] = done, within, finished
    return figures


def kills_in_words(figures: Figures) -> str:
    told = ", ".join(
        f"{figures['kills'][way]} of a run played {way} ({figures['within_a_request'][way]} of them in the middle of a "
        f"request to the disk)"
        for way in figures["kills"]
    )
    return (
        f"{sum(figures['kills'].values())} kills (`kill -9`): {told}. Runs were resumed, or begun afresh where they "
        f"had no checkpoint, and killed again; {sum(figures['finished'].values())} came to their end. Right: every "
        f"checkpoint that is there can be loaded ({figures['checkpoints_loaded']} were), and the finish is byte for "
        "byte that of a run that was never stopped, recipe, metrics, pictures and checkpoints, with nothing left "
        "beside it."
    )


# ---------------------------------------------------------------- damaged checkpoints

KEEPER = '''
from gantricks import Trick, hookimpl


class Keeper(Trick):
    """Keeper: the state after two steps is one to come back to."""

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 2:
            ctx.snapshot()
'''
ODD: list[Any] = [None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308]
ODD += [float("nan"), float("inf"), "", "x", "4"]
ODD += ["../../x", "a/b", "x" * 10_000, [], [1], ["a"], {}, {"a": 1}, [[[[]]]], {"step": 1}]


def seal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change state.json as another program would that knows how to seal it."""
    path = folder / store.STATE
    state = json.loads(path.read_text())
    state.pop("self")
    change(state)
    state["self"] = store._digest_of(state)
    path.write_text(json.dumps(state))


def damage_bytes(folder: Path, draw: random.Random) -> str:
    """Damage a file as disks and people do. Returns what was done."""
    path = draw.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    how = draw.choice(["flip", "cut", "append", "zeros", "remove", "swap", "folder", "other"])
    if how == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del content[draw.randrange(len(content)) :]
    elif how == "append":
        content += draw.randbytes(draw.randint(1, 64))
    elif how == "zeros":
        start = draw.randrange(len(content))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    elif how == "swap":
        other = draw.choice(sorted(folder.iterdir()))
        theirs = other.read_bytes()
        other.write_bytes(content)
        content = bytearray(theirs)
    elif how == "other":
        content = bytearray(draw.randbytes(draw.randint(0, 4096)))
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "remove":
        path.write_bytes(content)
    return f"{how} {path.name}"


def damage_state(folder: Path, draw: random.Random) -> str:
    """Change a value somewhere in state.json and seal it. Returns what was done."""
    done = ""

    def change(state: dict[str, Any]) -> None:
        nonlocal done
        here: Any = state
        where: list[Any] = []
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not keys:
                return
            key = draw.choice(keys)
            where.append(key)
            if isinstance(here[key], dict | list) and here[key] and draw.random() < 0.8:
                here = here[key]
                continue
            break
        odd = draw.choice(ODD)
        if draw.random() < 0.2:
            del here[key]
            done = f"without {where}"
        elif isinstance(here, dict) and draw.random() < 0.2:
            here[f"more_{key}"] = odd
            done = f"more_{where} = {odd!r:.40}"
        else:
            here[key] = odd
            done = f"{where} = {odd!r:.40}"

    seal(folder, change)
    return done


def damage_tensors(folder: Path, draw: random.Random) -> str:
    """Change a file of tensors and seal it. Returns what was done."""
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    how = draw.choice(["drop", "add", "rename", "shape", "type", "bytes", "header", "empty", "many", "values"])
    if how in ("bytes", "header"):
        content = bytearray(path.read_bytes())
        size = 8 + int.from_bytes(content[:8], "little") if how == "header" else len(content)
        for _ in range(draw.randint(1, 20)):
            content[draw.randrange(size)] = draw.randrange(256)
        path.write_bytes(content)
    else:
        tensors = dict(load_file(path))
        name = draw.choice(sorted(tensors)) if tensors else ""
        if how == "empty" or (not tensors and how != "many"):
            tensors = {}
        elif how == "drop":
            del tensors[name]
        elif how == "add":
            tensors[f"{name}.more"] = torch.zeros(draw.choice([(), (3,), (2, 2)]))
        elif how == "rename":
            tensors[name[::-1]] = tensors.pop(name)
        elif how == "shape":
            tensors[name] = tensors[name][None].clone() if draw.random() < 0.5 else tensors[name].flatten()[:1].clone()
        elif how == "type":
            tensors[name] = tensors[name].to(draw.choice([torch.float64, torch.float16, torch.int64, torch.bool]))
        elif how == "values":
            tensors[name] = torch.full_like(tensors[name], draw.choice([0, 1, -1, 1e30, float("nan"), float("inf")]))
        else:
            tensors |= {f"many.{number}": torch.zeros(()) for number in range(20_000)}
        path.unlink()
        save_file(tensors, path)
    seal(folder, lambda state: state["sha256"].update({path.name: store._digest(path)}))
    return f"{how} {path.name}"


def same_state(a: Any, b: Any) -> bool:
    return bool(
        a[1] == b[1]
        and a[0].keys() == b[0].keys()
        and all(
            a[0][group].keys() == b[0][group].keys()
            and all(torch.equal(a[0][group][name], b[0][group][name]) for name in a[0][group])
            for group in a[0]
        )
    )


def checkpoints(count: int, seed: int, folder: Path) -> Figures:
    """`count` damaged checkpoints, half of them sealed again, looked at and, where they are taken, gone on with."""
    plugin = folder / "keeper.py"
    plugin.write_text(KEEPER)
    for name, extra in (("run", []), ("other", ["--seed", "1"])):
        argv = [*RUN, *extra, *intervals(4, 1, 4, 2), "--set", "tricks.keeper={}", "--plugin", str(plugin)]
        argv += ["--set", "train.capture=off", "--run-dir", str(folder / name)]
        ended = in_a_child(["train", *argv], folder)
        assert ended.status == 0, ended.said
    run = folder / "run"
    opened = open_run(run, [plugin]).view("cpu")
    place = run / "checkpoints" / "000004"
    sound = folder / "sound"
    place.rename(sound)
    figures: Figures = {"tried": Counter(), "refused": Counter(), "taken": Counter(), "longest_seconds": 0.0}
    wrong = figures["wrong"] = []
    draw = random.Random(seed)
    shutil.copytree(sound, place)
    original = checkpoint.load(place)
    for number in range(count):
        shutil.rmtree(place)
        shutil.copytree(sound, place)
        kind = ("bytes", "state, sealed", "bytes", "tensors, sealed")[number % 4]
        if number % 50 == 49:
            kind = "of another run" if number % 100 == 99 else "of another step"
            shutil.rmtree(place)
            theirs = folder / "other" if kind == "of another run" else run
            shutil.copytree(theirs / "checkpoints" / ("000004" if theirs != run else "000002"), place)
            what = kind
        elif kind == "bytes":
            what = damage_bytes(place, draw)
        else:
            what = (damage_state if kind.startswith("state") else damage_tensors)(place, draw)
        figures["tried"][kind] += 1
        began = time.process_time()
        try:
            game = opened.game()
            taken = True
        except UserError:
            taken = False
            figures["refused"][kind] += 1
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
            continue
        finally:
            figures["longest_seconds"] = max(figures["longest_seconds"], round(time.process_time() - began, 2))
        if not taken:
            continue
        figures["taken"][kind] += 1
        if "sealed" not in kind and not same_state(original, checkpoint.load(place)):
            wrong.append(f"{what}: it was taken")
        try:
            with game.training():
                game.advance()
                game.scalars()
        except UserError:
            pass
        except Exception as error:
            wrong.append(f"{what}: taken, then {type(error).__name__}: {error}")
    return figures


def checkpoints_in_words(figures: Figures) -> str:
    rows = "\n".join(
        f"| {kind} | {tried} | {figures['refused'].get(kind, 0)} | {figures['taken'].get(kind, 0)} |"
        for kind, tried in figures["tried"].items()
    )
    return (
        f"{sum(figures['tried'].values()):,} checkpoints of which something is wrong. Right: each is refused in a "
        "sentence, or nothing that counts is different (white space); one that was changed and sealed again, as only a "
        "program that knows how can do, may be taken where what it says is possible, and then its next step is played. "
        f"The longest look took {figures['longest_seconds']} s.\n\n"
        "| damage | tried | refused | taken |\n|---|---|---|---|\n" + rows
    )


# ---------------------------------------------------------------- a full disk


def prepared(folder: Path) -> Path:
    """What the commands find: a run that is half done, and a folder of pictures."""
    from PIL import Image

    home = folder / "prepared"
    (home / "pictures").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 99)).save(home / "pictures" / f"{number}.png")
    argv = [*RUN, *intervals(6, 1, 3, 2), "--set", "train.capture=off", "--run-dir", "half"]
    ended = in_a_child(["train", *argv], home)
    assert ended.status == 0, ended.said
    shutil.rmtree(home / "half" / "checkpoints" / "000006")
    (home / "said").unlink()
    return home


SMALL = ["--set", "train.capture=off", "--run-dir", "new"]
COMMANDS: dict[str, list[str]] = {
    "train": ["train", *RUN, *intervals(6, 1, 3, 2), "--set", "train.keep=1", *SMALL],
    "train on pictures": [
        *("train", "folder_dcgan", "--device", "cpu", "--set", "data.path=pictures", "--set", "data.image_size=16"),
        *("--set", "data.batch_size=2", "--set", "generator.channels=4", "--set", "discriminator.channels=4"),
        *intervals(1, 1, 1, 1),
        *SMALL,
    ],
    "resume": ["resume", "half"],
    "sample": ["sample", "half", "--out", "samples.png", "--count", "4"],
    "interpolate": ["interpolate", "half", "--out", "path.png", "--rows", "1"],
    "report": ["report", "half"],
    "recipes --copy": ["recipes", "dcgan", "--copy", "."],
    "new-trick": ["new-trick", "my_trick"],
}


def told(argv: list[str], disk: Disk) -> tuple[int, str]:
    """The exit status of a command in this process, and what it says."""
    words = io.StringIO()
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words), disk.watched():
        status = command_line(argv)
    return status, words.getvalue()


def leftovers(home: Path) -> list[str]:
    return [str(path.relative_to(home)) for path in home.rglob("*") if is_part(path.name)]


def again(argv: list[str], home: Path) -> list[str]:
    """What the user types after there is room again."""
    begun = (home / "new" / "recipe.toml").exists()
    return ["resume", "new"] if argv[0] == "train" and begun else argv


def disk(count: int, seed: int, folder: Path) -> Figures:
    """Every request of every command is refused, alone and with all after it; `count` requests of each at most."""
    figures: Figures = {"requests": {}, "refused": Counter(), "went_on": Counter(), "wrong": []}
    wrong, draw = figures["wrong"], random.Random(seed)
    source = prepared(folder)
    former, cache = Path.cwd(), os.environ.get("GANTRICKS_CACHE")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def afresh() -> Path:
        os.chdir(former)
        home = folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(source, home)
        os.chdir(home)
        os.environ["GANTRICKS_CACHE"] = str(home / "cache")
        return home

    try:
        for name, argv in COMMANDS.items():
            home, counting = afresh(), Disk()
            status, words = told(argv, counting)
            assert status == 0, words
            expected = finish(home)
            figures["requests"][name] = counting.asked
            places = list(range(1, counting.asked + 1))
            if len(places) > count:
                places = sorted(draw.sample(places, count))
            for place in places:
                for lasting in (False, True):
                    home, case = afresh(), f"{name}, request {place}{' and all after it' * lasting}"
                    status, words = told(argv, Disk(place, full, lasting))
                    figures["refused" if status else "went_on"][name] += 1
                    if status not in (0, 2) or "Traceback" in words or (status and "No space left" not in words):
                        wrong.append(f"{case}: status {status}: {words[-300:]}")
                    if left := leftovers(home):
                        wrong.append(f"{case}: left {', '.join(left)}")
                    if status == 0 and argv[0] != "train":
                        continue
                    status, words = told(again(argv, home), Disk())
                    if status:
                        wrong.append(f"{case}: and then status {status}: {words[-300:]}")
                    elif differing := sorted(n for n, _ in finish(home).items() ^ expected.items()):
                        wrong.append(f"{case}: and then these differ: {', '.join(differing)}")
    finally:
        os.chdir(former)
        torch.set_num_threads(threads)
        os.environ.pop("GANTRICKS_CACHE")
        if cache is not None:
            os.environ["GANTRICKS_CACHE"] = cache
    return figures


def disk_in_words(figures: Figures) -> str:
    rows = "\n".join(
        f"| `{name}` | {asked} | {figures['refused'].get(name, 0)} | {figures['went_on'].get(name, 0)} |"
        for name, asked in figures["requests"].items()
    )
    tried = sum(figures["refused"].values()) + sum(figures["went_on"].values())
    return (
        f"{tried:,} times a request to the disk, each of a command or some of them, was refused, alone or with all "
        "after it: no space left. Right: the command ends with status 2 and a sentence that names the file, nothing "
        "half written is left, and the same command, or `resume`, does its work when there is room; what a run then "
        "ends with is what it would have ended with. A removal that is refused stops nothing.\n\n"
        "| command | requests | ended with a sentence | went on |\n|---|---|---|---|\n" + rows
    )


# ---------------------------------------------------------------- what is written, and what is in a folder


def recipes(count: int, seed: int, folder: Path) -> Figures:
    """So many recipes as nobody would write them, and a fifth of that of overrides and of command lines."""
    import mutants

    played = {
        kind: mutants.play(kind, count if kind == "recipes" else max(1, count // 5), seed) for kind in mutants.KINDS
    }
    return {
        "kinds": {kind: each.as_dict() for kind, each in played.items()},
        "wrong": [f"{kind}: {case}" for kind, each in played.items() for case in each.wrong],
    }


def recipes_in_words(figures: Figures) -> str:
    rows = "\n".join(
        f"| {kind} | {each['played']:,} | {each.get('0', 0):,} | {each.get('2', 0):,} | {each['trained']:,} | "
        f"{each['slowest_cpu_seconds']:.1f} s |"
        for kind, each in figures["kinds"].items()
    )
    return (
        "Shipped recipes with keys taken away, doubled or renamed and values of every type, size and depth in their "
        "place; `--set` and whole command lines made in the same way. Right: exit status 0 or 2 and no traceback, "
        "within two seconds of CPU where nothing is trained; what `check` accepts is trained for two steps with small "
        "networks.\n\n| kind | tried | accepted | refused | trained | slowest, CPU |\n|---|---|---|---|---|---|\n"
    ) + rows


def images(count: int, seed: int, folder: Path) -> Figures:
    """Every odd file there is a description of; their number and order are fixed."""
    import odd_files

    figures: Figures = {"files": Counter(), "became": Counter(), "wrong": []}
    for kind, odd, wrong in odd_files.outcomes(folder):
        figures["files"][kind] += 1
        figures["became"][odd.becomes] += not wrong
        figures["wrong"] += [f"{kind} {odd.name}: {wrong}"] if wrong else []
    return figures


def images_in_words(figures: Figures) -> str:
    became = figures["became"]
    return (
        f"{figures['files']['image']} pictures and {figures['files']['archive']} archives that are damaged, of unusual "
        "kinds, or no such thing at all: cut off, with wrong sums, of other modes and depths, turned, huge, empty, "
        "links in circles, pipes, bombs, pickles. Right: the pixels and classes that they hold, or a sentence that "
        f"names the file, or passed over and mentioned. {became['read']} were read, {became['refused']} refused, "
        f"{became['passed over']} passed over."
    )


# ---------------------------------------------------------------- all of them


@dataclass(frozen=True)
class Part:
    """`measure(count, seed, folder)` gives the figures, with what came out wrong under "wrong"; `count` is how many by
    default."""

    title: str
    measure: Callable[[int, int, Path], Figures]
    words: Callable[[Figures], str]
    count: int


PARTS = {
    "kills": Part("Kills", kills, kills_in_words, 200),
    "checkpoints": Part("Damaged checkpoints", checkpoints, checkpoints_in_words, 1000),
    "disk": Part("A full disk", disk, disk_in_words, 10_000),
    "recipes": Part("Recipes, overrides and command lines", recipes, recipes_in_words, 10_000),
    "images": Part("Odd pictures and archives", images, images_in_words, 0),
}


def page(measured: dict[str, Figures]) -> str:
    """docs/reliability.md."""
    sections = []
    for name, part in PARTS.items():
        if name in measured:
            figures = measured[name]
            wrong = figures["wrong"]
            outcome = f"{len(wrong)} came out wrong." if wrong else "None came out wrong."
            how = f"Seed {figures['seed']}, gantricks {figures['gantricks']}, torch {figures['torch']}."
            sections.append(f"## {part.title}\n\n{part.words(figures)}\n\n**{outcome}** {how}\n")
    return (
        "# Reliability\n\nWritten by `python benchmarks/reliability.py` from docs/reliability.json; each part counts "
        "what it tried, and what came out wrong.\n\n" + "\n".join(sections)
    )


def measure(name: str, count: int | None, seed: int) -> Figures:
    """The figures of a part, with what they were measured with."""
    part = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        figures = part.measure(part.count if count is None else count, seed, Path(folder))
    return {"seed": seed, "gantricks": gantricks.__version__, "torch": torch.__version__, **figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="one of the parts; all when left out; repeatable"
    )
    parser.add_argument("--count", type=int, help="how many are tried of a part, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where reliability.json and reliability.md are")
    asked = parser.parse_args()
    kept = asked.docs / "reliability.json"
    measured = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name in asked.part or PARTS:
        measured[name] = measure(name, asked.count, asked.seed)
        kept.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        (asked.docs / "reliability.md").write_text(page(measured), encoding="utf-8")
        for sentence in measured[name]["wrong"]:
            print(f"WRONG: {name}: {sentence}")
        print(f"{name}: {len(measured[name]['wrong'])} wrong")
    return int(any(figures["wrong"] for figures in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
