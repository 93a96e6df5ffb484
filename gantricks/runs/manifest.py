"""manifest.json: facts about a run, its id, and what has changed since it began. Reading it needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gantricks.data.base import Dataset, Description
from gantricks.errors import Problem, UserError, legible
from gantricks.files import write_whole
from gantricks.option_errors import first_error
from gantricks.runs.folder import MANIFEST

if TYPE_CHECKING:
    from gantricks.planning.device import Placement
    from gantricks.planning.plan import Plan

FORMAT = 1
"""The format of a run's folder. Runs without this number can be read too, but lack the facts about the data that
sampling needs.
"""

Count = Annotated[int, Field(ge=0, lt=2**63)]
LARGEST = 1 << 26
"""The largest number of values in a sample."""


def _no_larger(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > LARGEST:
        raise ValueError("no sample is that large")
    return shape


Shape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...], Field(min_length=1, max_length=3), AfterValidator(_no_larger)
]


class _Facts(BaseModel):
    """A table of facts. Facts that are not named here are kept."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class PartFacts(_Facts):
    """An instance of a trick or a logger: the name of the part and where it was found."""

    use: str
    origin: str


class DataFacts(_Facts):
    """Facts about the data that a run began with, so that the run can be sampled without the data, and changed data is
    noticed.

    `fingerprint` is a hash of the samples, `labels` one of their classes, `conditions` one of their conditions.
    """

    count: Count | None = None
    shape: Shape | None = None
    class_names: tuple[str, ...] | None = None
    held_out: Count = 0
    fingerprint: str | None = None
    labels: str | None = None
    condition: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    conditions: str | None = None
    words: tuple[str, ...] = ()

    @property
    def description(self) -> Description | None:
        """The description of the data, or None for a run of an earlier format that lacks it."""
        if not self.count or self.shape is None or len(self.shape) == 2 or self.class_names is None:
            return None
        return Description(
            self.shape,
            self.count,
            self.class_names,
            held_out=self.held_out,
            condition=self.condition,
            words=self.words,
        )


class Session(_Facts):
    """One process's part of a run. `set` holds the keys that were given on the command line."""

    argv: list[str] = []
    began: str | None = None
    ended: str | None = None
    from_step: Count | None = None
    to_step: Count | None = None


class Manifest(_Facts):
    """The facts of a manifest that are read back. `recipe` is the resolved recipe that the run began with."""

    format: Count = 0
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    gantricks: str | None = None
    torch: str | None = None
    numpy: str | None = None
    python: str | None = None
    platform: str | None = None
    device: str | None = None
    device_name: str | None = None
    precision: Literal["fp32", "tf32", "bf16", "fp64"] | None = None
    capture: Literal["off", "inductor", "cuda-graph"] | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    parameters: dict[str, Count] = {}
    tricks: dict[str, PartFacts] = {}
    loggers: dict[str, PartFacts] = {}
    data: DataFacts = DataFacts()
    recipe: dict[str, Any] | None = None
    sessions: list[Session] = []


class _Format(BaseModel):
    model_config = ConfigDict(strict=True)

    format: Count = 0
    gantricks: Any = None


def read_manifest(run: Path) -> Manifest:
    """Return a run's manifest, or an empty one where it is not written yet.

    Raises UserError when the file is damaged, or has a later format than this version reads.
    """
    path = run / MANIFEST
    try:
        text = path.read_bytes()
        found = _Format.model_validate_json(text)
        if found.format > FORMAT:
            version = f": {found.gantricks}" if isinstance(found.gantricks, str) else ""
            raise UserError(
                Problem(
                    f"the run has format {found.format}, and this version of gantricks reads formats up to {FORMAT}",
                    str(path),
                    f"use the version of gantricks that wrote it, or a later one{version}",
                )
            )
        return Manifest.model_validate_json(text)
    except FileNotFoundError:
        return Manifest()
    except ValidationError as error:
        raise UserError(
            Problem(
                f"the file is damaged: {first_error(error)}",
                str(path),
                "rename it: the run can be resumed without it, but changes since the run began are not noticed then",
            )
        ) from error


def write_manifest(run: Path, facts: dict[str, Any]) -> None:
    """Replace the run's manifest by `facts`. Facts in the file that this version does not know are kept."""
    there = read_manifest(run).model_dump(mode="json", exclude_unset=True)
    write_whole(run / MANIFEST, json.dumps({"format": FORMAT, **there, **facts}, indent=1) + "\n")


# ---------------------------------------------------------------- facts that a run's numbers depend on


def versions() -> dict[str, str]:
    """Return the versions of the software that a run is computed with."""
    import numpy
    import torch

    import gantricks

    return {
        "gantricks": gantricks.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def data_facts(dataset: Dataset, description: Description) -> dict[str, Any]:
    """Return the manifest's facts about the data."""
    return {
        "count": len(dataset.samples),
        "shape": list(description.shape),
        "class_names": [legible(name) for name in description.class_names],
        "held_out": description.held_out,
        "fingerprint": _fingerprint(dataset.samples),
        "labels": None if dataset.classes is None else _fingerprint(dataset.classes),
        "condition": description.condition,
        "conditions": None if dataset.conditions is None else _fingerprint(dataset.conditions),
        "words": list(description.words),
    }


FINGERPRINTED = 1 << 28
"""The number of bytes of samples up to which the fingerprint covers all of them."""


def _fingerprint(rows: np.ndarray) -> str:
    """Return a hash of the samples: of all of them, or of a thousand spread over a large set."""
    if rows.nbytes > FINGERPRINTED:
        rows = rows[np.linspace(0, len(rows) - 1, 1000).astype(int)]
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


_INTERVALS = ("log_every", "sample_every", "checkpoint_every")


def identity(plan: Plan, placement: Placement, fingerprint: str) -> str:
    """Return the id of a new run, which is stored in its manifest and its checkpoints.

    It is a hash of everything that the run's numbers depend on, so that two runs with one id make the same checkpoints.
    `fingerprint` is that of the data.
    """
    recipe = plan.recipe.as_dict()
    data, train = recipe["data"], recipe["train"]
    recipe["data"] = {key: data[key] for key in data.keys() - set(plan.source.paths)}
    recipe["train"] = {key: train[key] for key in train.keys() - {*_INTERVALS, "keep"}}
    recipe["tricks"] = list(recipe.get("tricks", {}).items())  # their order counts
    recipe.pop("loggers", None)
    if "on_metrics" not in plan.on:  # then nobody in the run knows when metrics are measured
        del recipe["evaluate"]["every"]
    now = versions()
    facts = [recipe | {"name": ""}, fingerprint, now["gantricks"], now["torch"], str(placement)]
    facts += [_content(planned.origin) for planned in plan.tricks]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


OTHER_DRAWS = "the random draws of its steps are others there, so it goes on differently"


def differences(manifest: Manifest, plan: Plan, placement: Placement, data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each change since the run began that may change its numbers."""
    if not manifest.format and manifest.gantricks:
        yield "the run began with the random draws of an earlier version; it goes on with others"
    for planned in plan.tricks:
        then = manifest.tricks[planned.name].origin if planned.name in manifest.tricks else planned.origin
        if _content(then) != _content(legible(planned.origin)):
            yield f"the trick {planned.name} was {then} and is now {planned.origin}; the run goes on differently"
    if changed := other_data(manifest.data, data):
        yield f"{changed}; the run goes on differently"
    now = {**versions(), "device": str(placement.device), "precision": placement.precision}
    for fact in ("gantricks", "torch", "numpy", "device", "precision"):
        then = getattr(manifest, fact)
        if then is not None and then != now[fact]:
            changed = f"the run began with {fact} {then} and goes on with {now[fact]}"
            kinds = {str(then).partition(":")[0], str(now[fact]).partition(":")[0]}
            others = fact == "device" and len(kinds) > 1
            yield f"{changed}; {OTHER_DRAWS if others else 'its numbers may differ in the last bits'}"


def other_data(then: DataFacts, now: Mapping[str, Any]) -> str:
    """Return a sentence where the data differs from the data that the run began with, as far as that is
    known, or "".
    """
    if then.fingerprint not in (None, now["fingerprint"]):
        return f"the data is not that of the beginning: {then.count} samples then, {now['count']} now"
    if then.class_names is not None and list(then.class_names) != now["class_names"]:
        names = (", ".join(names) or "none" for names in (then.class_names, now["class_names"]))
        return "the classes of the data are not those of the beginning: {} then, {} now".format(*names)
    if then.labels is not None and then.labels != now["labels"]:
        return "the data is not that of the beginning: the same samples have other classes now"
    if then.conditions is not None and then.conditions != now["conditions"]:
        return "the data is not that of the beginning: the same samples have other conditions now"
    return ""


def _content(origin: str) -> str:
    """Return the part of a trick's origin that identifies its code: for a file its hash, whatever its path."""
    return origin.rpartition(" sha256:")[2]
