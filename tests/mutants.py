"""Recipes, overrides and command lines as nobody would write them, played in this process.

`play(kind, count, seed)` makes `count` of a kind and counts how they ended. Whatever is written, a command ends with
exit status 0 or 2, without a traceback and within two seconds of CPU; what `check` accepts, `train` trains.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import json
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import tomli_w
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning
from PIL import Image

from gantricks.catalogue.index import index
from gantricks.cli import main
from gantricks.cli.options import inline
from gantricks.planning.keys import SECTIONS, EvaluateKeys
from gantricks.planning.recipe_files import shipped_recipes
from gantricks.planning.validation import load_recipe

KINDS = ("recipes", "overrides", "commands")
CPU_SECONDS = 2.0
"""What a command may take that trains nothing."""
LARGE_WEIGHTS = 100_000_000
"""So many weights may take as long again: `check` builds the networks, to see what surgery makes of them."""

KEPT_SMALL = [
    *("train.steps=2", "train.log_every=1", "train.sample_every=2", "train.checkpoint_every=2", "train.capture=off"),
    *("data.batch_size=4", "train.n_critic=1", "train.device=cpu"),
]
"""What makes any recipe one that is trained in no time."""
_SIZES = {
    "channels": 4,
    "growth": 4,
    "layers": 1,
    "hidden": [8],
    "image_size": 16,
    "samples": 500,
    "embedding_dim": 2,
    "count": 500,
}


@dataclass
class Played:
    """How many there were, how they `ended` by status, and every one that ended wrong, with what it said."""

    ended: Counter[str] = field(default_factory=Counter)
    trained: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "played": sum(self.ended.values()),
            **dict(sorted(self.ended.items())),
            "trained": self.trained,
            "wrong": len(self.wrong),
            "slowest_cpu_seconds": round(self.slowest, 2),
        }


def play(kind: str, count: int, seed: int) -> Played:
    """Make `count` of a kind from `seed` and play each in an empty folder beside small data of every sort."""
    played = Played()
    with workplace(), warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # of texts that are long on purpose
        _run(["check", "dcgan"])  # what is imported once is no part of anything that follows
        _run(["train", "ring_mlp", "--run-dir", "small", *_words(KEPT_SMALL), *_words(_narrow("ring_mlp"))])

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(_STRATEGIES[kind]())
        def each(case: Any) -> None:
            if sum(played.ended.values()) < count:
                _PLAYERS[kind](case, played)

        each()
    return played


# ---------------------------------------------------------------- recipes


class _Raw(str):
    """A value that stands in the file as it is written here."""


_NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**9, 10**18, 65536, 1000]),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e-45, 1e38, 1e39, 1e300, -1e300, 0.5, 1.0]),
    st.floats(),
    st.sampled_from(
        [_Raw("0x" + "f" * 5000), _Raw("9" * 4000), _Raw("9" * 5000), _Raw("1e400"), _Raw("0b" + "1" * 70)]
    ),
)
_TEXTS = st.one_of(
    st.sampled_from(
        ["", "off", "on", "auto", "adam", "sgd", "mlp", "dcgan", "ring", "soft_labels", "inception", "~x/y"]
    ),
    st.sampled_from(["a\0b", "a\nb", "\x1b[31m", "x" * 5000, "../up", "/", ".", "~", "pictures", "кот", "classifier"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
_SCHEDULES = st.fixed_dictionaries(
    {"start": _NUMBERS, "end": _NUMBERS}, optional={"until": _NUMBERS, "til": st.just(1)}
)
_VALUES = st.recursive(
    st.one_of(
        _NUMBERS,
        _TEXTS,
        st.booleans(),
        _SCHEDULES,
        st.sampled_from([datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.time(1)]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_DEEP = st.integers(1, 3000)


def _recipes() -> st.SearchStrategy[tuple[str, bytes]]:
    """A shipped recipe, its name, and what a few changes make of its text."""

    @st.composite
    def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
        name = draw(st.sampled_from(sorted(shipped_recipes())))
        table = copy.deepcopy(_seed(name))
        wild = draw(st.booleans())
        for _ in range(draw(st.integers(1, 3))):
            (_change if wild else _vary)(table, draw)
        text = _toml(table)
        if wild and draw(st.integers(0, 4)) == 0:
            text = _garbled(text, draw)
        encodings = ["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"]
        encoding = draw(st.sampled_from(encodings)) if wild else "utf-8"
        return name, text.encode(encoding, errors="replace")

    return mutated()


def _vary(table: dict[str, Any], draw: st.DrawFn) -> None:
    """Give an option a value that it takes, or add or remove a trick: what is accepted more often than not."""
    tricks = table.setdefault("tricks", {})
    kind = draw(st.integers(0, 9))
    if kind == 0 and tricks:
        del tricks[draw(st.sampled_from(sorted(tricks)))]
    elif kind <= 2:
        name = draw(st.sampled_from(sorted(index()["tricks"])))
        tricks[name] = {}
    elif kind <= 4 and tricks:
        name = draw(st.sampled_from(sorted(tricks)))
        _set_one(tricks[name], _schema("tricks", tricks[name].get("use", name), "options"), draw)
    elif kind <= 6:
        role = draw(st.sampled_from(["generator", "discriminator"]))
        _set_one(table[role], _schema("networks", table[role]["network"], role), draw)
    else:
        section = draw(st.sampled_from(["data", "data", "train", "generator", "discriminator", "evaluate"]))
        if section == "data" and draw(st.booleans()):
            _set_one(table["data"], _schema("data", table["data"]["source"], "options"), draw)
        else:
            model = EvaluateKeys if section == "evaluate" else SECTIONS[section]
            _set_one(table[section], inline(model.model_json_schema()), draw, ("source", "network"))


def _set_one(
    table: dict[str, Any], schema: Mapping[str, Any], draw: st.DrawFn, but: tuple[str, ...] = ("path",)
) -> None:
    properties = {key: entry for key, entry in schema.get("properties", {}).items() if key not in but}
    if properties:
        key = draw(st.sampled_from(sorted(properties)))
        table[key] = draw(fitting(properties[key]))


def _schema(kind: str, name: str, part: str) -> Mapping[str, Any]:
    return inline(index()[kind][name][part] or {})


def fitting(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that an option takes, by its JSON schema; those at its ends more often than others."""
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return st.one_of([fitting(branch) for branch in branches if branch.get("type") != "null"])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if schema.get("type") == "boolean":
        return st.booleans()
    if schema.get("type") == "integer":
        low = low if low is not None else 0
        high = high if high is not None else 100
        return st.sampled_from([low, low + 1, high - 1, high]) | st.integers(low, min(high, low + 20))
    if schema.get("type") == "number":
        low, high = -10.0 if low is None else low, 10.0 if high is None else high
        open_low, open_high = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
        return st.floats(low, high, exclude_min=open_low, exclude_max=open_high) | st.floats(
            low, min(high, low + 1), exclude_min=open_low, exclude_max=open_high
        )
    if schema.get("type") == "array":
        items = schema.get("items", {})
        if isinstance(items, list):
            return st.tuples(*map(fitting, items)).map(lambda values: sorted(values, key=str))
        return st.lists(fitting(items), min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 3), 3))
    if schema.get("type") == "object":
        return st.fixed_dictionaries({key: fitting(entry) for key, entry in schema.get("properties", {}).items()})
    return st.sampled_from(["classifier", "auto", "x"])


def _change(table: dict[str, Any], draw: st.DrawFn) -> None:
    places = list(_places(table))
    inner, key = draw(st.sampled_from(places))
    if key not in inner:
        return
    known = sorted({key for _, key in places} | _options())
    kind = draw(st.integers(0, 9))
    if kind == 0:
        del inner[key]
    elif kind <= 4:
        inner[key] = draw(_VALUES)
    elif kind == 5:
        inner[draw(st.sampled_from(known) | _TEXTS)] = inner.pop(key)
    elif kind == 6:
        inner[draw(st.sampled_from(known))] = draw(_VALUES)
    elif kind == 7:
        tricks = table.setdefault("tricks", {})
        if isinstance(tricks, dict):
            use = draw(st.sampled_from(sorted(index()["tricks"])))
            tricks[draw(st.sampled_from([use, "again", "x" * 200]))] = draw(
                st.sampled_from([{}, {"use": use}, "on", "off", True, 3, {"use": "nothing"}])
            )
    elif kind == 8:
        deep: Any = draw(_VALUES)
        for _ in range(min(draw(_DEEP), 150)):
            deep = {"a": deep} if draw(st.booleans()) else [deep]
        inner[key] = deep
    else:
        inner.update({f"{key}{number}": 1 for number in range(draw(st.sampled_from([2, 50, 3000])))})


def _garbled(text: str, draw: st.DrawFn) -> str:
    lines = text.split("\n")
    at = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return "\n".join([*lines[:at], lines[at], *lines[at:]])
    if kind == 1:
        return "\n".join([*lines, *lines[at:]])
    if kind == 2:
        return text[: draw(st.integers(0, len(text)))]
    if kind == 3:
        where = draw(st.integers(0, len(text)))
        return (
            text[:where]
            + draw(st.text(max_size=3) | st.sampled_from(["\0", "\r", "[", "{", '"""', "=", "#"]))
            + text[where:]
        )
    if kind == 4:
        return "\n".join([*lines[:at], ".".join(["a"] * draw(_DEEP)) + " = 1", *lines[at:]])
    if kind == 5:
        return f"[{'.'.join(['a'] * draw(_DEEP))}]\n{text}"
    return (
        f'extends = "{draw(st.sampled_from([*sorted(shipped_recipes()), "mine.toml", "nothing", "/", "~/x"]))}"\n{text}'
    )


def _places(table: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    for key, value in table.items():
        yield table, key
        if isinstance(value, dict):
            yield from _places(value)


def _seed(name: str) -> dict[str, Any]:
    if name not in _SEEDS:
        recipe = load_recipe(name, _data(name))
        _SEEDS[name] = recipe.as_dict()
        for key in _data(name):  # as_dict makes it absolute, and the workplace moves
            _SEEDS[name]["data"]["path"] = key.partition("=")[2]
    return _SEEDS[name]


_SEEDS: dict[str, dict[str, Any]] = {}


def _toml(table: dict[str, Any]) -> str:
    raws: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        if isinstance(value, _Raw):
            raws.append(str(value))
            return f"@raw{len(raws) - 1}@"
        return value

    text = tomli_w.dumps(plain(table))
    return re.sub(r'"@raw(\d+)@"', lambda found: raws[int(found[1])], text)


def _play_recipe(case: tuple[str, bytes], played: Played) -> None:
    name, text = case
    Path("mine.toml").write_bytes(text)
    _played(["mine.toml"], name, played, lambda: repr(text.decode("utf-8", errors="replace"))[:3000])


# ---------------------------------------------------------------- overrides


def _overrides() -> st.SearchStrategy[tuple[str, list[str]]]:
    """A shipped recipe and a few `KEY=VALUE` strings."""

    @st.composite
    def some(draw: st.DrawFn) -> tuple[str, list[str]]:
        name = draw(st.sampled_from(sorted(shipped_recipes())))
        return name, [draw(_override(_keys(name))) for _ in range(draw(st.integers(1, 3)))]

    return some()


def _override(keys: list[str]) -> st.SearchStrategy[str]:
    @st.composite
    def one(draw: st.DrawFn) -> str:
        key = draw(st.sampled_from(keys))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            key = key.rpartition(".")[2]
        elif kind == 1:
            key += draw(st.sampled_from([".x", ".", "..y", " ", ".start", "x", ".0"]))
        elif kind == 2:
            key = draw(st.sampled_from(["", ".", "a" * 300, ".".join("a" * 500), "extends", "tricks", "\udcff", "кот"]))
        value = draw(_written())
        if key.count(".") == 2 and draw(st.booleans()):
            section, name, option = key.split(".")
            card = index()["tricks" if section == "tricks" else "metrics"].get(name, {}) if section != "data" else {}
            if schema := inline(card.get("options") or {}).get("properties", {}).get(option):
                value = _toml({"v": draw(fitting(schema))})[4:].strip()
        elif key.startswith("tricks.") and draw(st.booleans()):
            value = draw(st.sampled_from(["on", "{}", "off", "true"]))
        return f"{key}{draw(st.sampled_from(['='] * 12 + ['', '==', ' = ']))}{value}"

    return one()


def _written() -> st.SearchStrategy[str]:
    odd = [
        "",
        " ",
        "on",
        "off",
        "true",
        "2024",
        "1e5",
        "2024-01-01",
        "[",
        "{",
        "{}",
        "[]",
        "1\nx=2",
        '"',
        "#",
        "\udcff",
    ]
    odd += ["[" * 5000, "9" * 5000, "0x" + "f" * 5000, "nan", "-inf", "1e400", "{start=0.1,end=0}", "adam", "mlp"]
    odd += [
        "[0.5,0.9]",
        "[1,0]",
        "{name=1}",
        '{name="sgd"}',
        "None",
        "yes",
        ".5",
        "1,000",
        "~nobody/x",
        "a\0b",
        "\x1b[1m",
    ]
    return st.sampled_from(odd) | st.text(max_size=6) | _VALUES.map(lambda value: _toml({"v": value})[4:].strip())


def _keys(name: str) -> list[str]:
    found = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields}
    found |= {f"evaluate.{key}" for key in EvaluateKeys.model_fields} | {"name", "seed"}
    found |= {
        f"{role}.optimizer.{key}" for role in ("generator", "discriminator") for key in ("lr", "betas", "name", "eps")
    }

    def below(table: Mapping[str, Any], path: str) -> Iterator[str]:
        for key, value in table.items():
            yield f"{path}{key}"
            if isinstance(value, dict):
                yield from below(value, f"{path}{key}.")

    found |= set(below(_seed(name), ""))
    for section, kind in (("tricks", "tricks"), ("evaluate", "metrics")):
        for instance, card in index()[kind].items():
            found.add(f"{section}.{instance}")
            found |= {f"{section}.{instance}.{key}" for key in card["options"].get("properties", {})}
    return sorted(found)


def _options() -> set[str]:
    parts = [card[part] for cards in index().values() for card in cards.values() for part in _PARTS if card.get(part)]
    return {key for part in parts for key in part.get("properties", {})}


_PARTS = ("options", "generator", "discriminator")


def _play_overrides(case: tuple[str, list[str]], played: Played) -> None:
    name, overrides = case
    _played([name, *_words(_data(name)), *_words(overrides)], name, played, lambda: repr(case)[:3000])


# ---------------------------------------------------------------- command lines


def _commands() -> st.SearchStrategy[list[str]]:
    """The words of a command, among them some that mean nothing."""
    recipes = st.sampled_from(
        ["ring_mlp", "grid_mlp", "dcgan", "mine.toml", "nothing", "", "pictures", "ring_mlp.toml", "/"]
    )
    runs = st.sampled_from(["small"] * 4 + ["nothing", "pictures", "", "mine.toml", "~nobody/x"])
    numbers = st.sampled_from(["0", "1", "2", "-1", "x", "", "1.5", "9" * 30, "9" * 5000, "nan", "2"])
    outs = st.sampled_from(["x.png", "x.jpg", "nowhere/x.png", "pictures", "", "~nobody/x.png", "mine.toml", "a\0.png"])
    devices = st.sampled_from(["cpu", "auto", "cuda", "cuda:7", "mps", "0,1", "gpu", "", "cuda:99999999999"])
    flags = {
        "--set": _override(_keys("ring_mlp")),
        "--seed": numbers,
        "--step": numbers,
        "--count": st.sampled_from(["1", "3", "0", "-1", "x", "1000000000"]),
        "--samples": numbers,
        "--rows": st.sampled_from(["1", "2", "0", "x", "1000"]),
        "--columns": st.sampled_from(["2", "3", "1", "x"]),
        "--out": outs,
        "--device": devices,
        "--plugin": st.sampled_from(["nothing.py", "mine.toml", "pictures", "", "broken.py"]),
        "--metric": st.sampled_from(["fid", "mixture_coverage", "precision", "nothing", "", "held_out_error"]),
        "--copy": st.sampled_from([".", "nowhere", "mine.toml", ""]),
        "--dir": st.sampled_from([".", "nowhere", "mine.toml", "a/b"]),
        "--run-dir": st.sampled_from(["small", "new", "mine.toml", "mine.toml/x", "pictures", "", "~nobody/x", "a\0b"]),
        "--json": None,
        "--help": None,
        "--check": None,
        "--nothing": None,
        "--version": None,
    }
    subjects = {
        **dict.fromkeys(("train", "check"), recipes),
        **dict.fromkeys(("resume", "sample", "interpolate", "evaluate", "report"), runs),
        "tricks": st.sampled_from(["", "soft_labels", "nothing", "ema"]),
        "recipes": st.sampled_from(["", "dcgan", "nothing"]),
        "new-trick": st.sampled_from(["target_jitter", "1x", "class", "", "кот", "a/b"]),
        "schema": st.just(""),
        "nothing": st.just(""),
    }
    fitting = {
        "train": ["--set", "--seed", "--device", "--run-dir", "--plugin"],
        "check": ["--set", "--device", "--plugin", "--json"],
        "resume": ["--step", "--device", "--plugin"],
        "sample": ["--out", "--count", "--seed", "--step", "--plugin"],
        "interpolate": ["--out", "--rows", "--columns", "--seed", "--step"],
        "evaluate": ["--metric", "--samples", "--seed", "--step", "--set", "--device", "--json"],
        "report": ["--out"],
        "recipes": ["--copy", "--json"],
        "tricks": ["--json", "--plugin"],
        "new-trick": ["--dir"],
    }

    @st.composite
    def words(draw: st.DrawFn) -> list[str]:
        command = draw(st.sampled_from(sorted(subjects)))
        made = [command, *filter(None, [draw(subjects[command])])]
        if command in ("sample", "interpolate") and draw(st.integers(0, 3)):
            made += ["--out", "picture.png"]
        for _ in range(draw(st.integers(0, 3))):
            fits = fitting.get(command, ["--json"])
            flag = draw(st.sampled_from(fits * 6 + sorted(flags))) if fits else draw(st.sampled_from(sorted(flags)))
            if flag == "--check" and command == "tricks":
                continue  # the laws take minutes
            made.append(flag)
            values = flags[flag]
            if values is not None:
                made.append(draw(values))
        if draw(st.integers(0, 9)) == 0:
            made.append(draw(st.text(max_size=5) | st.sampled_from(["--", "-", "--=", "\x1b[31m", "\udcff"])))
        return made

    return words()


def _play_command(words: list[str], played: Played) -> None:
    if words[0] in ("train", "resume", "evaluate"):
        # the last that is given wins
        small = [*KEPT_SMALL, *_narrow("dcgan" if "dcgan" in words else "ring_mlp")]
        words = [*words, *(_words(small) if words[0] == "train" else ())]
        words = [*words, "--samples", "200"] if words[0] == "evaluate" else words
    limit = CPU_SECONDS if words[0] not in ("train", "resume", "evaluate", "report", "sample", "interpolate") else 30.0
    status, said, seconds = _run(words)
    played.ended[str(status)] += 1
    played.slowest = max(played.slowest, seconds if limit == CPU_SECONDS else 0)
    _judge(status, said, seconds, limit, lambda: repr(words)[:3000], played)
    for left in ("x.png", "picture.png", "new", "runs", "nowhere", "target_jitter"):
        shutil.rmtree(left, ignore_errors=True) if Path(left).is_dir() else Path(left).unlink(missing_ok=True)


# ---------------------------------------------------------------- playing


def _played(words: list[str], name: str, played: Played, case: Callable[[], str]) -> None:
    """Check a recipe, and train it if it is accepted when it is small."""
    status, said, seconds = _run(["check", *words])
    played.ended[str(status)] += 1
    played.slowest = max(played.slowest, seconds / (1 + _weights(said) / LARGE_WEIGHTS))
    _judge(status, said, seconds, CPU_SECONDS * (1 + _weights(said) / LARGE_WEIGHTS), case, played)
    small = _words([*KEPT_SMALL, *_narrow(name)])
    if status == 0 and _run(["check", *words, *small])[0] == 0:
        status, said, seconds = _run(["train", *words, *small, "--run-dir", "run"])
        played.trained += 1
        diverged = status == 2 and "not finite" in said
        _judge(status if diverged or status != 2 else 3, said, seconds, 30.0, case, played)
        shutil.rmtree("run", ignore_errors=True)


def _weights(said: str) -> int:
    """How many weights both networks of a plan have."""
    return sum(int(found.replace(",", "")) for found in re.findall(r"([\d,]+) parameters", said))


def _judge(status: int, said: str, seconds: float, limit: float, case: Callable[[], str], played: Played) -> None:
    if status not in (0, 2) or "Traceback" in said or seconds > limit or (status == 2 and not said.strip()):
        played.wrong.append(f"status {status}, {seconds:.1f} s of CPU: {case()}\n{said[-1500:]}")


def _run(words: list[str]) -> tuple[int, str, float]:
    """The exit status of a command, what it printed, and its seconds of CPU."""
    said = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(words)
    return status, said.getvalue(), time.process_time() - began


def _words(overrides: list[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _data(name: str) -> list[str]:
    if name.startswith("folder"):
        return ["data.path=pictures"]
    return [f"data.path={name.partition('_')[0]}.npz"] if name.endswith("_semi_supervised") else []


def _narrow(name: str) -> list[str]:
    """Overrides that make the networks and the data of a shipped recipe small, of the options that it has."""
    found = []
    for section in ("data", "generator", "discriminator"):
        has = _seed(name)[section]
        found += [f"{section}.{key}={json.dumps(value)}" for key, value in _SIZES.items() if key in has]
    return [one for one in found if not (name.endswith("_semi_supervised") and one.startswith("data."))]


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    """An empty folder with pictures and archives in it; everything else is put back afterwards."""
    before = Path.cwd()
    kept = {name: os.environ.get(name) for name in ("GANTRICKS_CACHE", "COLUMNS")}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["GANTRICKS_CACHE"] = str(Path(folder) / "cache")
        os.environ["COLUMNS"] = "200"
        try:
            _make_data()
            yield
        finally:
            os.chdir(before)
            for name, value in kept.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _make_data() -> None:
    draw = np.random.default_rng(0)
    Path("pictures").mkdir()
    for number in range(8):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(f"pictures/{number}.png")
    for name, shape in (("mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        pictures, labels = draw.integers(0, 256, (200, *shape), dtype=np.uint8), np.arange(200) % 10
        np.savez(f"{name}.npz", x_train=pictures, y_train=labels, x_test=pictures[:20], y_test=labels[:20])
    Path("mine.toml").write_text('extends = "ring_mlp"\n')
    Path("broken.py").write_text("1 / 0\n")


_STRATEGIES: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "recipes": _recipes,
    "overrides": _overrides,
    "commands": _commands,
}
_PLAYERS: dict[str, Callable[[Any, Played], None]] = {
    "recipes": _play_recipe,
    "overrides": _play_overrides,
    "commands": _play_command,
}


if __name__ == "__main__":
    import sys

    kind, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    result = play(kind, count, seed)
    print(json.dumps(result.as_dict()))
    for error in result.wrong:
        print(f"---- {error}")
