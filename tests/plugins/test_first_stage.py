"""First stage: weights of a finished run's generator, which never move."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from gantricks import UserError, load_generator, train
from gantricks.runs.api import load_game
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {"": ({}, {})}
REFUSED = {
    "class_batch_norm": "the first stage keeps its batch norms",
    "path_length": "has one stage",
    "style_mixing": "has one stage",
    "virtual_batch_norm": "the first stage keeps its batch norms",
}

MISTAKES = {
    "its weights are trained": Mistake(
        old="network.requires_grad_(False)", new="network.requires_grad_(True)", caught_by="trace_law"
    ),
    "its batch norm goes on": Mistake(
        old="network.train = types.MethodType(_stays, network)",
        new="network.mode = types.MethodType(_stays, network)",
        caught_by="trace_law",
    ),
    "the weights that are trained, and not those that are sampled with": Mistake(
        inside="FirstStage._take",
        old="trained = load_generator(run, step=self.config.step)",
        new="""
            from gantricks.runs.api import load_game
            trained = load_game(run, step=self.config.step).generator
""",
        caught_by="test_the_stage_is_the_generator_that_the_run_is_sampled_with",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """No weight and no statistic of the first stage moves."""
    before, after = (state["generator"] for state in (played.start, played.state))
    stage = [key for key in before if key.startswith("first.")]
    assert stage
    for key in stage:
        assert same_bits(before[key], after[key]), key


# ---------------------------------------------------------------- with a run

SMALL = ["data.count=400", "data.text_dim=16", "data.batch_size=8", "train.device=cpu", "train.precision=fp32"]
FIRST = [
    *SMALL,
    *("data.image_size=16", "generator.channels=4", "discriminator.channels=4", "generator.condition_dim=6"),
    *("generator.latent_dim=5", "train.steps=3", "train.checkpoint_every=1", "train.sample_every=3"),
]
SECOND = [
    *SMALL,
    *("data.image_size=32", "generator.channels=4", "generator.blocks=1", "generator.first.channels=4"),
    *("discriminator.channels=4", "generator.condition_dim=6", "generator.latent_dim=5"),
    *("train.steps=2", "train.checkpoint_every=1", "train.sample_every=2"),
]


FOLDERS = tempfile.TemporaryDirectory()


@cache
def first_run() -> Path:
    """A short run of stackgan_1."""
    folder = Path(FOLDERS.name) / "first"
    train("stackgan_1", overrides=FIRST, run_dir=folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _sweep():
    yield
    FOLDERS.cleanup()


@pytest.fixture
def first() -> Path:
    return first_run()


def second(first: Path, *more: str):
    return [*SECOND, f"tricks.first_stage.run={first}", *more]


def test_the_stage_is_the_generator_that_the_run_is_sampled_with() -> None:
    first = first_run()
    with tempfile.TemporaryDirectory() as folder:
        train("stackgan_2", overrides=second(first), run_dir=Path(folder) / "second")
        ours = load_game(Path(folder) / "second").generator.first
    theirs = load_generator(first)
    assert {*theirs.state_dict()} == {*ours.state_dict()}
    for name, tensor in theirs.state_dict().items():
        assert same_bits(tensor, ours.state_dict()[name]), name
    raw = load_game(first).generator.state_dict()
    assert any(not same_bits(tensor, raw[name]) for name, tensor in theirs.state_dict().items())


def test_an_earlier_checkpoint_can_be_taken(first, tmp_path) -> None:
    train("stackgan_2", overrides=second(first, "tricks.first_stage.step=1"), run_dir=tmp_path / "second")
    theirs, ours = load_generator(first, step=1), load_game(tmp_path / "second").generator.first
    assert all(same_bits(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_the_run_is_needed_at_the_start_alone(first, tmp_path) -> None:
    away = shutil.copytree(first, tmp_path / "away")
    train("stackgan_2", overrides=second(away), run_dir=tmp_path / "second")
    before = load_generator(tmp_path / "second").state_dict()
    shutil.rmtree(away)
    after = load_generator(tmp_path / "second").state_dict()
    assert all(same_bits(tensor, after[name]) for name, tensor in before.items())
    with pytest.raises(UserError, match="there is no folder"):
        train("stackgan_2", overrides=second(away), run_dir=tmp_path / "third")


def test_a_run_of_another_shape_is_refused_with_what_differs(first, tmp_path) -> None:
    wider = second(first, "generator.first.channels=6")
    with pytest.raises(
        UserError,
        match=r"is not this recipe's first stage: body.project.linear.weight is 128 × 11, here is 192 × 11",
    ) as told:
        train("stackgan_2", overrides=wider, run_dir=tmp_path / "second")
    assert "write the same options under first" in told.value.problems[0].hint


def test_a_folder_that_is_no_run_and_a_home_that_is_none_are_refused_where_they_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^--set tricks\.first_stage\.run=.*: .*the folder is not a run"):
        train("stackgan_2", overrides=second(tmp_path), run_dir=tmp_path / "second")
    with pytest.raises(UserError, match=r"tricks\.first_stage\.run: there is no such home folder"):
        train("stackgan_2", overrides=second("~nobody_of_this_name/run"), run_dir=tmp_path / "second")


def test_what_the_second_stage_sees_is_the_first_ones_picture() -> None:
    stages = {"network": "stackgan", "first": {"channels": 4}, "blocks": 1}
    game = TrickHost(sample=(1, 8, 8), generator=stages).with_trick("first_stage").game()
    seen = []
    game.generator.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    z = torch.randn(2, 4, dtype=torch.float64)
    game.generator(z)
    assert same_bits(seen[0], game.generator.first(z))
