"""Every value that is documented of every option is one that a run can be made of."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mutants
import numpy as np
import pytest
import torch
from PIL import Image
from trick_files import trick_files

from gantricks.catalogue.index import index
from gantricks.catalogue.registry import Registry
from gantricks.cli.options import inline
from gantricks.engine import capture
from gantricks.engine.start import start, try_surgery
from gantricks.engine.subject import GameSubject
from gantricks.errors import UserError
from gantricks.planning.device import place
from gantricks.planning.keys import SECTIONS, DiscriminatorKeys
from gantricks.planning.plan import Plan
from gantricks.planning.prepare import plan_recipe

PICTURES = ["data.image_size=16", *(f"{role}.channels=4" for role in ("generator", "discriminator"))]
BASES = {
    "ring_mlp": ["data.samples=200", *(f"{role}.hidden=[8,8]" for role in ("generator", "discriminator"))],
    "dcgan": PICTURES,
    "conditional": PICTURES,
    "growing": PICTURES,
    "auxiliary_classifier": PICTURES,
}
"""Recipes of every sort; a value is tried in the first that takes it."""
FEW = ["data.batch_size=4", "train.steps=2", "train.device=cpu", "train.precision=fp32"]
OVERRIDES = {trick: file.overrides for trick, file in trick_files().items()}
"""What a trick, or one of its options, cannot do without, and what makes it small."""


class Case(NamedTuple):
    """An option, one of its values as TOML, what has to be set beside it, and the recipe where only one will do."""

    option: str
    value: str
    beside: tuple[str, ...] = ()
    base: str = ""

    def __str__(self) -> str:
        return f"{self.option}={self.value}"


def values(schema: dict[str, Any]) -> Iterator[Any]:
    """The values that a JSON schema names one by one, and one of each type of a union."""
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        for branch in branches:
            yield from values(branch) if branch.get("type") != "null" else ()
            if branch.get("type") in ("number", "integer"):
                yield branch.get("minimum", branch.get("exclusiveMinimum", 0) + 1)
            elif "start" in branch.get("properties", {}):
                yield {"start": 0.5, "end": 0.25, "until": 0.5}
    elif "const" in schema or "enum" in schema:
        yield from schema.get("enum", [schema.get("const")])
    elif schema.get("type") == "boolean":
        yield from (False, True)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}={written(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value)


def options_of(schema: dict[str, Any], path: str, beside: tuple[str, ...] = (), base: str = "") -> Iterator[Case]:
    for key, entry in inline(schema).get("properties", {}).items():
        if key not in ("optimizer", "extractor"):
            yield from (Case(f"{path}.{key}", written(value), beside, base) for value in values(entry))


def cases() -> Iterator[Case]:
    for section, model in SECTIONS.items():
        yield from options_of(model.model_json_schema(), section)
    for device in ("auto", "cpu", "cuda", "cuda:0"):
        yield Case("train.device", device)
    for base, precision in itertools.product(("ring_mlp", "dcgan"), ("auto", "fp32", "bf16", "fp64")):
        yield Case("train.precision", precision, base=base)
    roles = ("generator", "discriminator")
    for role, optimizer in itertools.product(roles, DiscriminatorKeys.model_json_schema()["$defs"].values()):
        name = optimizer["properties"]["name"]["const"]
        yield Case(f"{role}.optimizer.name", name)
        beside = (f"{role}.optimizer.name={name}", *([f"{role}.optimizer.momentum=0.5"] if name == "sgd" else []))
        yield from options_of(optimizer, f"{role}.optimizer", beside)
    for name, card in index()["networks"].items():
        for role, base in itertools.product(roles, ("ring_mlp", "dcgan") if name == "mlp" else ("dcgan",)):
            if card[role]:
                yield from (
                    case._replace(beside=(f"{role}.network={name}", *_small(name, role), *_conditional(case)))
                    for case in options_of(card[role], role, base=base)
                    if case != Case(f"{role}.conditional", "true", (), "ring_mlp")
                )
    for name, card in index()["data"].items():
        base = "ring_mlp" if name in ("ring", "grid") else "dcgan"
        beside = (f"data.source={name}", *([f"data.path={_PATHS[name]}"] if name in _PATHS else []))
        yield Case("data.source", name, beside, base)
        yield from options_of(card["options"], "data", beside, base)
    for name, card in index()["tricks"].items():
        overrides = OVERRIDES.get(name, {})
        beside = tuple(overrides.get("", ()))
        yield Case(f"tricks.{name}", "on", beside)
        for case in options_of(card["options"], f"tricks.{name}", beside):
            option = case.option.rpartition(".")[2]
            yield case._replace(beside=(*beside, *overrides.get(option, ())))


_PATHS = {"folder": "pictures", "npz": "mnist.npz", "stacked": "mnist.npz"}


def _small(name: str, role: str) -> list[str]:
    return [f"{role}.hidden=[8,8]"] if name == "mlp" else [f"{role}.channels=4"]


def _conditional(case: Case) -> list[str]:
    """A D that is given classes wants a G that is."""
    return ["generator.conditional=true"] if case[:2] == ("discriminator.conditional", "true") else []


@pytest.fixture(scope="module", autouse=True)
def workplace() -> Iterator[None]:
    with mutants.workplace():
        yield


def planned(case: Case) -> Plan:
    """The plan of the first recipe that takes this value."""
    refusals = []
    for base in [case.base] if case.base else BASES:
        # what is set beside names another network or source, to which these options mean nothing
        others = [one.partition(".")[0] for one in case.beside if one.partition("=")[0] in _SELECTORS]
        sized = [one for one in BASES[base] if one.partition(".")[0] not in others]
        beside = [one for one in case.beside if one.partition("=")[0] != case.option]
        overrides = [*sized, *FEW, *beside, f"{case.option}={case.value}"]
        try:
            plan, _ = plan_recipe(base, overrides, Registry(installed=False))
            try_surgery(plan)
        except UserError as refusal:
            refusals.append(f"{base}: {refusal}")
        else:
            return plan
    pytest.fail("\n".join(refusals))


_NETWORKS = ("generator.network", "discriminator.network")
_SELECTORS = ("data.source", *_NETWORKS)


def marked(case: Case) -> Any:
    """Networks and tricks have suites of their own, and take most of the time."""
    others = case.option.startswith("tricks.") or any(one.partition("=")[0] in _NETWORKS for one in case.beside)
    return pytest.param(case, marks=[pytest.mark.slow] if others else [], id=str(case))


@pytest.mark.parametrize("case", [marked(case) for case in sorted(set(cases()))])
def test_a_documented_value_is_trained(case: Case) -> None:
    if ("cuda" in case.value or "tf32" in case.value) and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    if case == Case("train.capture", '"on"'):
        pytest.skip("compiled in the tests of the captured step")
    plan = planned(case)
    train = plan.recipe.train
    placement = place(train.device, train.precision, convolutions=plan.convolutions)
    capture.backend(plan, placement)
    game = start(plan, plan.source.load(), placement)
    for _ in range(2):
        game.advance()
    scalars, fault = game.scalars()
    assert fault is None
    assert np.isfinite(list(scalars.values())).all()


METRICS = {
    "mixture_coverage": "ring_mlp",
    "held_out_error": "auxiliary_classifier",
    "stacked_modes": "stacked",
}


def metric_cases() -> Iterator[Case]:
    for name, card in index()["metrics"].items():
        yield Case(f"evaluate.{name}", "on")
        yield from options_of(card["options"], f"evaluate.{name}")
        if "extractor" in card["options"].get("properties", {}):
            for extractor in index()["extractors"]:
                yield Case(f"evaluate.{name}.extractor", written({"name": extractor}))


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(metric_cases())), ids=str)
def test_a_documented_value_of_a_metric_is_measured(case: Case) -> None:
    name = case.option.split(".")[1]
    overrides, base = [*FEW, "evaluate.samples=200"], METRICS.get(name, "dcgan")
    value = case.value
    if "inception" in value:
        pytest.skip("its weights are a file of the user's")
    if "efficientnet" in value:
        pytest.importorskip("efficientnet_lite_pytorch")
    if '"classifier"' in value:
        value = '{name="classifier",steps=2}'
    if name == "stacked_modes":
        overrides += ["data.source=stacked", "data.path=mnist.npz", "data.count=200", f"evaluate.{name}.samples=64"]
        overrides += [f"evaluate.{name}.steps=2", *PICTURES[1:]]
        base = "dcgan"
    elif name == "held_out_error":
        overrides += ["data.source=npz", "data.path=mnist.npz", *PICTURES]
    else:
        overrides += BASES[base]
    if name == "kernel_distance":
        overrides.append(f"evaluate.{name}.block_size=32")
    if case.value == "on" and "extractor" in index()["metrics"][name]["options"].get("properties", {}):
        overrides.append(f'evaluate.{name}.extractor={{name="classifier",steps=2}}')
    plan, placement = plan_recipe(base, [*overrides, f"{case.option}={value}"], Registry(installed=False))
    game = start(plan, plan.source.load(), placement)
    measured = plan.metrics[-1].metric
    found = measured.measure(GameSubject(game, plan.facts.samples, 0, lambda what, done, total: None))
    assert found.values.keys() == measured.figures.keys()


def test_the_workplace_holds_pictures() -> None:
    assert Image.open(next(Path("pictures").iterdir())).size == (24, 20)


@pytest.mark.parametrize("end", ["minimum", "maximum"])
def test_the_ends_of_what_train_counts_are_counted(end: str) -> None:
    numbers = SECTIONS["train"].model_json_schema()["properties"]
    counted = [f"train.{key}={numbers[key][end]}" for key in ("steps", "log_every", "sample_every", "checkpoint_every")]
    ends = [*counted, f"seed={2**63 - 1}", f"data.seed={2**63 - 1}", "train.capture=off"]
    plan, placement = plan_recipe("ring_mlp", [*BASES["ring_mlp"], *FEW, *ends], Registry(installed=False))
    game = start(plan, plan.source.load(), placement)
    game.advance()
    assert np.isfinite(list(game.scalars()[0].values())).all()
