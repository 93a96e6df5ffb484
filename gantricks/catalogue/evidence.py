"""What studies have found out about the tricks that ship: evidence.json, which docs/build.py writes."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

NONE = "not measured"
OPEN = "not established"


class Evidence(NamedTuple):
    """What one study has found out about a trick.

    `column`: what was trained, such as "grid-25". `verdict`: "helps", "hurts", "no effect beyond 10 %", "not
    established", or how often runs were lost. `effect`: the change of the study's figure with its simultaneous 95 %
    interval, "−34 % [−41, −27]"; empty without an interval. `runs`: how many runs had the trick. `price`: the factor by
    which it multiplies the time of a step, "× 1.05"; empty where it is not known.
    """

    column: str
    verdict: str
    effect: str
    runs: int
    price: str

    @property
    def sentence(self) -> str:
        """What was found, in one line: "grid-25: −34 % [−41, −27], helps"."""
        told = f"{self.effect}, {self.verdict}" if self.effect and self.verdict in ("helps", "hurts") else self.verdict
        return f"{self.column}: {told}"


def evidence_of(trick: str) -> tuple[Evidence, ...]:
    """Return what is known of a trick, a finding for each column; nothing where it was not measured."""
    return tuple(Evidence(**found) for found in shipped_evidence()["tricks"].get(trick, ()))


def evidence(trick: str) -> str:
    """Return in one line what studies have found out about a trick: "grid-25: −34 % [−41, −27], helps; …". For one that
    was not measured, or does not ship, it is "not measured". The figures are those of docs/evidence.md.
    """
    return "; ".join(found.sentence for found in evidence_of(trick)) or NONE


@cache
def shipped_evidence() -> dict[str, Any]:
    """Return evidence.json: under "columns" what each study has trained and compared, under "tricks" its findings."""
    found: dict[str, Any] = json.loads((files("gantricks.catalogue") / "evidence.json").read_text(encoding="utf-8"))
    return found
