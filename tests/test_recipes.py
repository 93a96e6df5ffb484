"""Every recipe that ships is accepted, trains, samples and resumes; the lists are in their recipes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gantricks.recipes
from gantricks.catalogue.registry import Registry
from gantricks.planning.prepare import plan_recipe
from gantricks.runs.api import resume, train
from gantricks.runs.checkpoint import checkpoints

RECIPES = sorted(Path(gantricks.recipes.__path__[0]).glob("*.toml"))
SMALL = [
    "train.steps=3",
    "train.checkpoint_every=2",
    "train.log_every=1",
    "train.sample_every=3",
    "train.precision=fp32",
]
LARGE = ["minibatch_discrimination.kernels=5", "virtual_batch_norm.reference=4", "experience_replay.capacity=8"]


def names(recipe: Path) -> list[str]:
    return [trick.name for trick in plan_recipe(recipe, overrides(recipe), Registry())[0].tricks]


def tables(recipe: Path) -> dict[str, dict[str, Any]]:
    """The tables of a recipe, with those that it extends."""
    read = tomllib.loads(recipe.read_text(encoding="utf-8"))
    found = tables(recipe.with_name(read["extends"])) if "extends" in read else {}
    for name, table in read.items():
        if isinstance(table, dict):
            found[name] = found.get(name, {}) | table
    return found


def overrides(recipe: Path, folder: Path | None = None) -> list[str]:
    """What makes a recipe small, and gives it data from `folder`."""
    said, wanted = tables(recipe), [*SMALL]
    for player in ("generator", "discriminator"):
        network = said[player]["network"]
        wanted.append(f"{player}.hidden=[8]" if network == "mlp" else f"{player}.channels=4")
        if network == "stackgan":
            wanted.append(f"{player}.first.channels=4")
    source = said["data"]["source"]
    if source in ("ring", "grid"):
        wanted.append("data.samples=500")
    elif source == "folder":
        wanted += [f"data.path={folder}", "data.image_size=48"]
    else:
        wanted.append("data.batch_size=8")
    if source == "npz":
        wanted.append(f"data.path={folder and folder / said['data']['path']}")
    if source == "scenes":
        wanted.append("data.count=200")
    tricks = said.get("tricks", {})
    wanted += [f"tricks.{name}.labels=20" for name in ("semi_supervised", "triple_gan") if name in tricks]
    if "data_init" in tricks.get("weight_norm", {}):
        wanted.append("tricks.weight_norm.data_init=10")
    return wanted + [f"tricks.{option}" for option in LARGE if option.partition(".")[0] in tricks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty pictures of noise, and archives of eighty more in the form of MNIST, CIFAR-10 and SVHN."""
    made = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for number in range(80):
        Image.fromarray(draw.integers(0, 256, (60, 70, 3), dtype=np.uint8)).save(made / f"{number}.png")
    for name, shape in (("mnist", (28, 28)), ("cifar10", (32, 32, 3)), ("svhn", (32, 32, 3))):
        pictures = draw.integers(0, 256, (80, *shape), dtype=np.uint8)
        labels = np.arange(80) % 10
        np.savez(made / f"{name}.npz", x_train=pictures, y_train=labels, x_test=pictures[:20], y_test=labels[:20])
    return made


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_accepted_trains_samples_and_resumes(recipe, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    if recipe.stem == "stackgan_2":  # its first stage is a run of the other one
        before = recipe.with_stem("stackgan_1")
        train(before, overrides=overrides(before), run_dir="runs/stackgan_1")
    result = train(recipe, overrides=overrides(recipe, folder), run_dir=tmp_path / "run")
    assert result.finished == 3
    (picture,) = result.pictures
    assert np.asarray(Image.open(picture)).std() > 0
    cut = tmp_path / "cut"
    shutil.copytree(result.run, cut)
    shutil.rmtree(cut / "checkpoints" / "000003")
    resume(cut)
    assert (cut / "metrics.jsonl").read_bytes() == (result.run / "metrics.jsonl").read_bytes()
    assert list(checkpoints(cut)) == [2, 3]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for(recipe):
    first, *_ = recipe.read_text(encoding="utf-8").split("\n\n")
    assert first.startswith("# ")
    assert len(first) > 45
    assert tomllib.loads(recipe.read_text(encoding="utf-8"))["name"] == recipe.stem


HACKS = {
    "spherical_latents": 3,
    "separate_batches": 4,
    "leaky_relu": 5,
    "soft_labels": 6,
    "label_flipping": 6,
    "experience_replay": 8,
    "network_swap": 8,
    "sgd_discriminator": 9,
    "failure_watch": 10,
    "auxiliary_classifier": 12,
    "instance_noise": 13,
    "generator_noise": 13,
    "label_injection": 16,
    "generator_dropout": 17,
}
"""The points of the list that are tricks."""


def test_the_list_of_hacks_is_in_its_recipe_point_by_point():
    (recipe,) = (path for path in RECIPES if path.stem == "gan_hacks")
    assert set(names(recipe)) == set(HACKS)
    lines = recipe.read_text(encoding="utf-8").splitlines()
    points = {int(line[1:4]): line for line in lines if line[:4].strip("# ").isdigit()}
    assert list(points) == list(range(1, 18))
    for trick, point in HACKS.items():
        assert trick in points[point]


def test_the_improved_techniques_are_in_their_recipe():
    (recipe,) = (path for path in RECIPES if path.stem == "improved_techniques")
    wanted = {"virtual_batch_norm", "minibatch_discrimination", "label_smoothing", "historical_averaging"}
    assert set(names(recipe)) == wanted | {"separate_batches"}


@pytest.mark.slow
def test_the_class_that_is_asked_for_is_the_class_that_is_made(tmp_path):
    """1,000 of the recipe's 2,500 steps; at the end, and of `auxiliary_classifier`, see the recipes' headers."""
    script = Path(__file__).parents[1] / "benchmarks" / "class_agreement.py"
    wanted = ["train.steps=1000", "train.checkpoint_every=1000", "train.sample_every=1000"]
    run = train("conditional", overrides=wanted, run_dir=tmp_path / "run").run
    done = subprocess.run([sys.executable, script, run, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["samples"] >= 1000
    assert found["classifier"]["accuracy"] >= 0.8, "a classifier that does not know the classes agrees with nothing"
    assert found["agreement"] >= 0.8, (
        f"{found['agreement']:.1%}, by one that is right on {found['classifier']['accuracy']:.1%}"
    )
