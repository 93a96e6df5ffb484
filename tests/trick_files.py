"""What the test file of each shipped trick says of it, for the suites that run on every trick.

`tests/plugins/test_<trick>.py` holds everything that is said of a trick, as module constants and one function:

* `SETTINGS`: settings at which it does something, by name: (options, changes to the smallest host), the plain one "".
* `trace_law(played, name)`: what it promises, read off a recorded run, alone or beside any other trick. Formulas are
  written out there, none is the trick's own.
* `MISTAKES`: what published implementations get wrong, each with the tests and laws that catch it.
* `REFUSED`: the tricks beside which `check` refuses it, and words of the reason. A pair stands in one of its two files.

And `OVERRIDES` where they are needed: what a recipe must set beside the trick (""), or beside one of its options, and
what makes it small.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from gantricks import Trick
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.testing import Case, Mistake, Played, Settings, TrickHost

FOLDER = Path(__file__).parent / "plugins"

NEEDED = {
    "SETTINGS": 'settings at which the trick does something, the plain one named "": {"": ({"strength": 0.3}, {})}',
    "trace_law": "the trick's own law on a recorded run: def trace_law(played, name)",
    "MISTAKES": 'mistakes by what they do, with what catches each: {"...": Mistake(old=..., new=..., caught_by=...)}',
    "REFUSED": "tricks that `check` refuses beside it, with words of the reason; {} where there are none",
}
"""What a trick's test file must hold, and what that is."""


@dataclass(frozen=True)
class TrickFile:
    """What one test file says."""

    trick: str
    path: Path
    settings: Settings
    trace_law: Callable[[Played, str], None]
    mistakes: Mapping[str, Mistake]
    refused: Mapping[str, str]
    overrides: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def cls(self) -> type[Trick]:
        return Registry(installed=False).load("tricks", self.trick).cls

    def case(self, setting: str = "", host: TrickHost | None = None) -> Case:
        """The trick at one of its settings, on the host of that setting unless another is given."""
        options, changes = self.settings[setting]
        return Case(self.cls, options, host or host_for(self, **changes), trace=self.keeps_its_law)

    def keeps_its_law(self, played: Played, name: str) -> None:
        with torch.no_grad():
            self.trace_law(played, name)


def host_for(*files: TrickFile, **changes: object) -> TrickHost:
    """The smallest host that fits these tricks."""
    return TrickHost.for_trick(*(file.cls for file in files), **changes)


@cache
def trick_files() -> dict[str, TrickFile]:
    """The test file of every shipped trick that has a whole one; `faults` tells what the others lack."""
    return {trick: trick_file(trick, FOLDER) for trick in shipped("tricks") if not faults(trick, FOLDER)}


def trick_file(trick: str, folder: Path) -> TrickFile:
    module = _module(trick)
    return TrickFile(
        trick,
        folder / f"test_{trick}.py",
        module.SETTINGS,
        module.trace_law,
        module.MISTAKES,
        module.REFUSED,
        getattr(module, "OVERRIDES", {}),
    )


def faults(trick: str, folder: Path) -> list[str]:
    """Sentences about what is missing in the test file of a trick in `folder`, which is on the path."""
    path = folder / f"test_{trick}.py"
    if not path.is_file():
        return [f"the trick {trick} has no test file: write {path}, with {', '.join(NEEDED)}"]
    module = _module(trick)
    missing = [f"{path} lacks {name}: {what}" for name, what in NEEDED.items() if not hasattr(module, name)]
    if not missing and "" not in module.SETTINGS:
        missing.append(f'{path}: SETTINGS has no plain setting, named ""')
    if not missing and not any(
        by.startswith("trace_law") for mistake in module.MISTAKES.values() for by in mistake.catchers
    ):
        missing.append(f"{path}: trace_law catches no mistake of MISTAKES, so nothing shows that it can fail")
    return missing


def _module(trick: str) -> ModuleType:
    # by name: pytest rewrites the assertions of what is imported so
    return importlib.import_module(f"test_{trick}")
