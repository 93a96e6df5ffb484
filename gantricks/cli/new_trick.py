"""`gantricks new-trick`: writes a package with a working example trick, its tests and its entry point."""

from __future__ import annotations

import builtins
import keyword
import os
import re
from pathlib import Path
from string import Template

from gantricks.catalogue.index import shipped
from gantricks.cli.console import Text, output, typed, write_command
from gantricks.cli.files import require_folder
from gantricks.errors import Problem, UserError
from gantricks.files import naming, part_folder

_TAKEN = {"Annotated", "Config", "Context", "Field", "Mistake", "Played", "Rng", "Settings", "Tensor", "Trick"}
"""Names that the generated files define or import besides the class."""

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "The trick $name for gantricks."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["gantricks"]

[project.optional-dependencies]
test = ["gantricks[test]"]

# recipes know the trick by the name on the left
[project.entry-points."gantricks.tricks"]
$name = "$package:$cls"

[tool.setuptools.packages.find]
where = ["src"]

[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

_README = """\
# $distribution

The trick `$name` for gantricks: each of D's targets moves a random part of the way to 1/2. It is an example that
works: put your own idea in its place.

| file | what it holds |
|---|---|
| `src/$package/$name.py` | the trick: a pure function with the formula, and the class that puts it on a hook |
| `tests/test_$name.py` | the laws that every trick obeys and its own, mistakes that they catch, and properties |
| `pyproject.toml` | the name by which recipes know the trick |

## Install

```sh
python -m pip install -e '.[test]'
```

## Use it in a recipe

```toml
extends = "ring_mlp.toml"
name = "ring_$name"

[tricks.$name]
strength = 0.5
```

`gantricks tricks $name` shows its card and its options. Before it is installed, name its file:
`gantricks train RECIPE --plugin src/$package/$name.py`.

## Test it

```sh
python -m pytest
gantricks tricks $name --check
```

The first runs the tests of this folder, installed or not; the second runs the laws on the installed trick at its
defaults.
"""

_INIT = '''\
"""The trick $name for gantricks."""

from $package.$name import $cls

__all__ = ["$cls"]
'''

_TRICK = '''\
"""$title: D's targets move towards 1/2, each by a random amount.

G's targets are untouched. Details like this one stand here, so that the card stays short.
"""

from __future__ import annotations

from typing import Annotated

from gantricks import Context, Rng, Trick, hookimpl
from pydantic import Field
from torch import Tensor


def pull_in(labels: Tensor, strength: float, rng: Rng) -> Tensor:
    """`labels` (B, 1), each moved by its own share, drawn from U(0, strength), of the way to 1/2."""
    share = strength * rng.uniform(labels.shape).to(labels.dtype)
    return labels + share * (0.5 - labels)


class $cls(Trick):
    """$title: each of D's targets moves a random part of the way to 1/2, afresh for every sample.

    A D that is asked for certainty drives its logits without end. With targets that differ from sample to sample it
    has no reason to.

    When it hurts: the stronger it is, the less D can say.

    Source: where the idea comes from, and where it was measured.
    """

    needs = {"targets"}
    neutral = {"strength": 0.0}

    class Config(Trick.Config):
        strength: Annotated[float, Field(ge=0, le=1, description="the largest part of the way to 1/2")] = 0.5

    @hookimpl
    def d_labels(self, labels: Tensor, ctx: Context) -> Tensor:
        return pull_in(labels, self.config.strength, ctx.rng)
'''

_TESTS = '''\
"""$title: the laws that every trick obeys, its own, and its formula on random inputs."""

from gantricks.testing import Mistake, Played, Settings, mistake_suite, trick_suite
from gantricks.testing import strategies as gs
from hypothesis import given, settings
from hypothesis import strategies as st

from $package.$name import $cls, pull_in

# settings at which it does something, by name: its options, and changes to the smallest run; the plain one is ""
SETTINGS: Settings = {"": ({"strength": 1.0}, {})}

# tricks beside which `check` refuses it, and words of the reason
REFUSED: dict[str, str] = {}

# what is easily got wrong, and the test or the law that catches it
MISTAKES = {
    "targets move twice as far": Mistake(
        old="strength * rng.uniform(labels.shape).to(labels.dtype)",
        new="2 * strength * rng.uniform(labels.shape).to(labels.dtype)",
        caught_by=("test_targets_stay_within_strength_of_their_labels_and_on_their_side", "trace_law"),
    ),
    "G's targets move too": Mistake(
        inside="$cls",
        new="""
            @hookimpl
            def g_labels(self, labels, ctx):
                return pull_in(labels, self.config.strength, ctx.rng)
        """,
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """What it promises, read off a recorded run: D's targets move towards 1/2, and G's are left alone."""
    strength = played.trick(name).config.strength
    for call in played.of(name, "d_labels"):
        labels, targets = call.arguments[0], call.result
        share = (targets - labels) / (0.5 - labels)
        assert ((share >= 0) & (share <= strength)).all(), f"shares from {share.min():.3g} to {share.max():.3g}"
    assert not [call for call in played.calls.get("g_labels", ()) if call.trick == name], "G's targets are its own"


test_laws = trick_suite($cls, SETTINGS[""][0], trace=trace_law, refused=REFUSED)
test_mistakes = mistake_suite($cls, MISTAKES, tests=__file__)


@given(gs.labels(), gs.rng(), st.floats(0, 1))
@settings(deadline=None)
def test_targets_stay_within_strength_of_their_labels_and_on_their_side(labels, rng, strength):
    targets = pull_in(labels, strength, rng)
    assert targets.shape == labels.shape
    assert ((targets - labels).abs() <= strength / 2 + 1e-12).all()
    assert (targets[labels == 1] >= 0.5).all()
    assert (targets[labels == 0] <= 0.5).all()


@given(gs.labels(), gs.rng())
@settings(deadline=None)
def test_no_strength_is_identity(labels, rng):
    assert (pull_in(labels, 0.0, rng) == labels).all()
'''


def new_trick(name: str, folder: Path) -> None:
    """Write a package with the trick `name` to a new folder in `folder`. Nothing existing is overwritten."""
    _refuse_unfit(name)
    require_folder(folder, f"--dir {folder}")
    facts = {
        "name": name,
        # the name of a distribution must end in a letter or a digit
        "distribution": f"gantricks-{re.sub('_+', '-', name).strip('-')}",
        "package": f"gantricks_{name}",
        "cls": _class_name(name),
        "title": re.sub("_+", " ", name).strip().capitalize(),
    }
    root = folder / facts["distribution"]
    if os.path.lexists(root):
        raise UserError(
            Problem(
                "it is there already, and nothing is overwritten",
                str(root),
                "name another folder with --dir, or move it away",
            )
        )
    trick, tests = Path("src", facts["package"], f"{name}.py"), Path("tests", f"test_{name}.py")
    made = {
        trick: (_TRICK, "the trick: change this one"),
        tests: (_TESTS, "its tests"),
        Path("pyproject.toml"): (_PYPROJECT, "the package, and its entry point"),
        Path("README.md"): (_README, "how to use it"),
        trick.with_name("__init__.py"): (_INIT, ""),
    }
    with part_folder(root) as part:
        for path, (text, _) in made.items():
            with naming(root / path):
                (part / path).parent.mkdir(parents=True, exist_ok=True)
                (part / path).write_text(Template(text).substitute(facts), encoding="utf-8", newline="\n")
        with naming(root):
            part.rename(root)
    _tell(name, root, root / trick, {str(root / path): told for path, (_, told) in made.items() if told})


def _tell(name: str, root: Path, trick: Path, made: dict[str, str]) -> None:
    console = output()
    console.print(f"{root} holds a trick that works, to make your own of:", soft_wrap=True)
    width = max(map(len, made))
    for path, told in made.items():
        console.print(Text.assemble(("  ", ""), (path.ljust(width), "bold"), (f"  {told}", "dim")), soft_wrap=True)
    # pip reads a bare word as the name of a package, not of a folder
    installable = root if root.is_absolute() else f"./{root.as_posix()}"
    try_it = ["gantricks", "train", "ring_mlp", "--plugin", str(trick), "--set", f"tricks.{name}.strength=0.5"]
    commands = {
        # a run folder of its own, because that of the plain recipe may exist already
        "To try it before it is installed:": [*try_it, "--run-dir", f"runs/{name}"],
        "To install it, with what its tests need; then recipes can name it:": [
            *("python", "-m", "pip", "install", "-e", f"{installable}[test]")
        ],
        "To test it:": ["python", "-m", "pytest", str(root)],
        "To see whether it obeys the laws, once it is installed:": ["gantricks", "tricks", name, "--check"],
    }
    for told, command in commands.items():
        console.print()
        console.print(Text(told, "dim"))
        write_command(console, typed(command))


def _refuse_unfit(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        fit = re.sub(r"[^a-z0-9]+", "_", apart).strip("_")
        such = fit if re.match(r"[a-z]", fit) and _is_free(fit) else "target_jitter"
        raise UserError(
            Problem(
                f"{name!r} cannot be the name of a trick: it takes small letters, digits and _, a letter first",
                "new-trick",
                f"gantricks new-trick {such}",
            )
        )
    if _is_free(name):
        return
    what = "a word of Python's" if keyword.iskeyword(name) else "the name of a trick that ships with gantricks"
    raise UserError(Problem(f"{name!r} is {what}", "new-trick", f"another name: gantricks new-trick my_{name}"))


def _is_free(name: str) -> bool:
    return not keyword.iskeyword(name) and name not in shipped("tricks")


def _class_name(name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("_"))
    return f"{camel}Trick" if camel in _TAKEN or hasattr(builtins, camel) else camel
