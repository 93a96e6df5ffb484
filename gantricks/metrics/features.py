"""The features that metrics compare: the choice of an extractor, and its features of a subject, computed once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from gantricks.catalogue.registry import Registry
from gantricks.errors import Problem, UserError
from gantricks.metrics.base import NEEDS, EvaluationFacts, Samples, Subject
from gantricks.metrics.extractors.base import Extractor
from gantricks.option_errors import check_options, shortened, validated
from gantricks.options import Options

Kind = Literal["features", "probabilities"]


class Chosen(NamedTuple):
    """The name of an extractor, with its options."""

    name: str
    options: Options

    def extractor(self) -> Extractor:
        built: Extractor = _class(self.name)(self.options)
        return built


def choose(value: Any) -> Chosen:
    """Read `"classifier"`, or a table such as `{ name = "inception", weights = "…" }`.

    Raises (on validation): an unknown name, or options that the extractor does not have.
    """
    if isinstance(value, Chosen):
        return value
    table = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise _refusal('write extractor = "classifier", or a table: { name = "inception", weights = "…" }')
    try:
        config = _class(name).Config
    except UserError as error:
        raise _refusal("; ".join(f"{p.what}; {p.hint}" for p in error.problems)) from error
    if wrong := [f"{'.'.join(keys)}: {what}" for keys, what, _ in check_options(config, table)]:
        raise _refusal(f"extractor {name!r}: {'; '.join(wrong)}")
    return Chosen(name, validated(config, table))


def _refusal(words: str) -> PydanticCustomError:
    return PydanticCustomError("extractor", "{words}", {"words": shortened(words, 300)})


def _class(name: str) -> type[Extractor]:
    return Registry().load("extractors", name).cls


def _written(chosen: Chosen) -> str | dict[str, Any]:
    table = chosen.options.model_dump(mode="json", exclude_none=True)
    for key in _class(chosen.name).paths:
        if key in table:
            table[key] = str(Path(table[key]).expanduser().absolute())
    return {"name": chosen.name, **table}


ExtractorChoice = Annotated[
    Chosen,
    Field(
        default_factory=lambda: choose("classifier"),
        description="what turns images into features: a name, or a table of a name and the extractor's options",
    ),
    BeforeValidator(choose),
    PlainSerializer(_written),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            ],
            "default": "classifier",
        }
    ),
]
"""The option `extractor` of a metric."""


def extractor_problems(chosen: Chosen, facts: EvaluationFacts, kind: Kind = "features") -> list[str]:
    """Return sentences saying why the chosen extractor cannot be used here."""
    extractor = chosen.extractor()
    missing = sorted(set(extractor.needs) - facts.provided)
    found = [f"the extractor {chosen.name!r} needs {need}: {NEEDS.get(need, need)}" for need in missing]
    if kind == "probabilities" and not extractor.classifies():
        found.append(f'the extractor {chosen.name!r} gives no probabilities; take "classifier"')
    return found or extractor.problems(facts.description)


def too_few(facts: EvaluationFacts, least: int, reason: str) -> list[str]:
    """Return a sentence where fewer than `least` samples, or reals, would be compared. `reason` completes it."""
    if facts.samples < least:
        return [f"{facts.samples} samples {reason}: ask for {least} or more"]
    if facts.description.count < least:
        return [f"{facts.description.count} real images {reason}: the data must hold {least} or more"]
    return []


@dataclass(frozen=True)
class Compared:
    """The features of `reals` (N, A) and of `others` (M, A), and the extraction that they come from."""

    reals: np.ndarray
    others: np.ndarray
    extracted: Extracted

    @property
    def facts(self) -> dict[str, str | int | float]:
        return {"samples": len(self.others), "reals": len(self.reals), **self.extracted.facts}


def generated_and_real(subject: Subject, chosen: Chosen) -> Compared:
    """Return features of the generated samples, and of as many reals, or of all where there are fewer."""
    extracted = Extracted(subject, chosen)
    count = min(subject.samples, len(subject.dataset.samples))
    return Compared(extracted.reals(count), extracted.generated(subject.samples), extracted)


def real_and_real(subject: Subject, chosen: Chosen, least: int = 2) -> Compared | None:
    """Return features of two disjoint parts of the reals, each as large as the number of samples.

    Where the data is too small for that, they are its halves. None where those have fewer than `least` images.
    """
    count = min(subject.samples, len(subject.dataset.samples) // 2)
    if count < least:
        return None
    extracted = Extracted(subject, chosen)
    return Compared(extracted.reals(count), extracted.reals(count, which=1), extracted)


class Extracted:
    """Features (n, A), or probabilities (n, K), of the samples of one subject from one extractor, in its dtype.

    They are kept while the subject exists, and shared by all metrics with the same extractor. The extractor and the
    features of reals are kept as long as `Subject.once` keeps them.
    """

    def __init__(self, subject: Subject, chosen: Chosen) -> None:
        def prepared() -> Extractor:
            extractor = chosen.extractor()
            extractor.prepare(subject)
            return extractor

        self.subject = subject
        self._key = json.dumps(_written(chosen), sort_keys=True)
        self.extractor = subject.once(("extractor", self._key), prepared)
        self.facts = {"extractor": chosen.name, **self.extractor.facts, "seed": subject.seed}

    def generated(self, count: int, kind: Kind = "features") -> np.ndarray:
        """Return the features of `count` generated samples. Raises UserError where one is not finite."""
        kept, key = _GENERATED.setdefault(self.subject, {}), (self._key, kind, count)
        if key not in kept:
            kept[key] = self._computed(kind, "generated images", count, self.subject.generated(count))
        return kept[key]

    def reals(self, count: int, which: int = 0, kind: Kind = "features") -> np.ndarray:
        """Return the features of `count` samples of the data, `which` as in `Subject.reals`. Raises UserError where one
        is not finite.
        """
        return self.subject.once(
            ("reals", self._key, kind, count, which),
            lambda: self._computed(kind, "real images", count, self.subject.reals(count, which)),
        )

    def called(self, figure: str) -> dict[str, str]:
        """Return the fact that gives the published name of `figure` with these features, or no fact."""
        name = self.extractor.names.get(figure)
        return {"called": name} if name else {}

    def _computed(self, kind: Kind, what: str, count: int, batches: Samples) -> np.ndarray:
        parts, done = [], 0
        for images, _ in batches:
            part = self.extractor.features(images) if kind == "features" else self.extractor.probabilities(images)
            if not np.isfinite(part).all():
                raise UserError(
                    Problem(
                        f"the {kind} of {what} are not finite",
                        f"extractor {self.facts['extractor']!r}",
                        "evaluate an earlier step, or take another extractor",
                    )
                )
            parts.append(part)
            done += len(part)
            self.subject.progress(f"{kind} of {what}", done, count)
        return np.concatenate(parts)


# weak references, so that the features of a state are freed with its subject
_GENERATED: WeakKeyDictionary[Subject, dict[tuple[str, Kind, int], np.ndarray]] = WeakKeyDictionary()
