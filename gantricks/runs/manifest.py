"""manifest.json: what a run says about itself, and the part of it that is read back. Nothing here imports torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gantricks.data.base import Description
from gantricks.errors import Problem, UserError
from gantricks.files import write_whole
from gantricks.runs.folder import MANIFEST

FORMAT = 1
"""The format of a run's folder. Runs without this number are read as well; they do not hold what sampling needs of the
data."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
LARGEST = 1 << 26
"""Numbers that a sample can have."""


def _no_larger(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > LARGEST:
        raise ValueError("there are no samples as large as that")
    return shape


Shape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...], Field(min_length=1, max_length=3), AfterValidator(_no_larger)
]


class _Facts(BaseModel):
    """Facts beyond those named here are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class TrickFacts(_Facts):
    """An instance of a trick: which trick it is, and where that came from."""

    use: str
    origin: str


class DataFacts(_Facts):
    """The data that a run began with, so that it can be sampled without, and known again.

    `fingerprint` is a sum over the samples, `labels` one over their classes.
    """

    count: Count | None = None
    shape: Shape | None = None
    class_names: tuple[str, ...] | None = None
    held_out: Count = 0
    fingerprint: str | None = None
    labels: str | None = None

    @property
    def description(self) -> Description | None:
        """None where a run of an earlier format does not say what its data was like."""
        if not self.count or self.shape is None or len(self.shape) == 2 or self.class_names is None:
            return None
        return Description(self.shape, self.count, self.class_names, held_out=self.held_out)


class Session(_Facts):
    """One process's part of a run; `set` are the keys that it was given beside the recipe."""

    argv: list[str] = []
    began: str | None = None
    ended: str | None = None
    from_step: Count | None = None
    to_step: Count | None = None


class Manifest(_Facts):
    """Those facts of a manifest that are read back. `recipe` is the resolved recipe that the run was begun with."""

    format: Count = 0
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    gantricks: str | None = None
    torch: str | None = None
    numpy: str | None = None
    python: str | None = None
    platform: str | None = None
    device: str | None = None
    device_name: str | None = None
    precision: Literal["fp32", "bf16", "fp64"] | None = None
    capture: Literal["off", "inductor", "cuda-graph"] | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    parameters: dict[str, Count] = {}
    tricks: dict[str, TrickFacts] = {}
    data: DataFacts = DataFacts()
    recipe: dict[str, Any] | None = None
    sessions: list[Session] = []


class _Format(BaseModel):
    model_config = ConfigDict(strict=True)

    format: Count = 0
    gantricks: Any = None


def read_manifest(run: Path) -> Manifest:
    """What a run's manifest says; nothing where a run has not got as far as writing one.

    Raises UserError when the file is damaged, or when the run has a format of the future.
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
                f"the file is damaged: {in_words(error)}",
                str(path),
                "without it the run can be resumed, but not with the certainty of the same numbers: rename it",
            )
        ) from error


def write_manifest(run: Path, facts: dict[str, Any]) -> None:
    """Replace the run's manifest by `facts`, beside those it holds that nothing here knows."""
    there = read_manifest(run).model_dump(mode="json", exclude_unset=True)
    write_whole(run / MANIFEST, json.dumps({"format": FORMAT, **there, **facts}, indent=1) + "\n")


def in_words(error: ValidationError) -> str:
    """The first thing that is wrong, and where in the file."""
    first = error.errors(include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
