"""Conditions: numbers that describe each sample go with it, from the data through both networks, to a run's samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gantricks
from gantricks import Latents, Trick, TrickError, UserError, hookimpl, load_recipe
from gantricks.catalogue.registry import Registry
from gantricks.data.stand_in import reference_conditions
from gantricks.engine import sampling, state
from gantricks.engine.feed import Feed
from gantricks.runs.manifest import other_data, read_manifest
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, same_bits, snapshot

GIVEN = {"generator": {"conditioned": True}, "discriminator": {"conditioned": True}}
HOST = TrickHost(condition=3, **GIVEN)
IMAGES = HOST.but(sample=(1, 8, 8))


def row_of(game, image: torch.Tensor) -> int:
    """The place of a real sample in the data."""
    every = game.feed.take(torch.arange(game.feed.count)).images
    (row,) = (every == image).flatten(1).all(1).nonzero().flatten().tolist()
    return row


# ---------------------------------------------------------------- from the data to D


@pytest.mark.parametrize("host", [HOST, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize("budget", [None, 0], ids=["on the device", "gathered"])
def test_a_real_sample_comes_with_its_own_condition(host, budget) -> None:
    game = host.game()
    game.feed = Feed(game.dataset, 0, 8, game.placement, budget=budget)
    for _ in range(3):
        batch = game.feed.next()
        for image, condition in zip(batch.images, batch.condition, strict=True):
            expected = torch.from_numpy(game.dataset.conditions[row_of(game, image)]).double()
            assert same_bits(condition, expected)
    few = game.feed.subset(torch.tensor([7, 3, 5]))
    assert same_bits(few.take(torch.tensor([2, 0])).condition, few.conditions[[2, 0]])
    assert same_bits(few.conditions.float(), torch.from_numpy(game.dataset.conditions[[7, 3, 5]]))


def test_fakes_are_made_for_conditions_of_the_data_and_judged_by_them() -> None:
    played = HOST.train(3)
    of_data = {tuple(row) for row in torch.from_numpy(played.game.dataset.conditions).double().tolist()}
    seen = set()
    for phase in played.phases:
        for batch in (phase.fake, phase.fake_in, phase.real):
            rows = {tuple(row) for row in batch.condition.tolist()}
            assert rows <= of_data
        assert same_bits(phase.fake.condition, phase.fake_in.condition)
        seen |= rows
    assert len(seen) > 10
    assert not played.phases[0].fake.condition.requires_grad


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
def test_both_networks_answer_to_the_condition_of_each_sample_alone(network) -> None:
    host = HOST.but(sample=(2,) if network == "mlp" else (1, 8, 8))
    for role in ("generator", "discriminator"):
        options = {"network": network, "conditioned": True} | ({"channels": 4} if network == "resnet" else {})
        if network != "mlp":
            options |= {"batch_norm": False, "depth": 2}
        host = host.but(**{role: options})
    game = host.game()
    z, condition = torch.randn(4, game.generator.latent_dim).double(), torch.randn(4, 3).double()
    other = condition.clone()
    other[1] += 1
    with torch.no_grad():
        made, changed = (game.generator(z, None, given) for given in (condition, other))
        assert same_bits(made[[0, 2, 3]], changed[[0, 2, 3]])
        assert not same_bits(made[1], changed[1])
        first, second = (game.discriminator(made, None, given) for given in (condition, other))
    assert same_bits(first.features, second.features)  # the condition is joined after them
    assert (first.logits != second.logits).flatten().tolist() == [False, True, False, False]


def test_the_logit_of_a_pair_is_that_of_features_and_condition_together() -> None:
    game = HOST.game()
    d, batch = game.discriminator, game.feed.next()
    out = d(*batch)
    inner, outer = d.pairing.inner, d.pairing.outer
    joined = torch.cat([out.features, batch.condition], 1) @ inner.weight.T + inner.bias
    hidden = torch.where(joined > 0, joined, 0.2 * joined)
    paired = out.features + hidden @ outer.weight.T + outer.bias
    torch.testing.assert_close(out.logits, paired @ d.head.weight.T + d.head.bias)


def test_a_d_that_judges_pairs_is_given_pairs() -> None:
    game = HOST.game()
    with pytest.raises(TrickError, match="judges pairs, and is given images without their condition"):
        game.discriminator(game.feed.next().images)


# ---------------------------------------------------------------- what a trick may do with them


class Labels(Trick):
    """Pairs of a sample and the mean of its numbers, for reals and for fakes."""

    @hookimpl
    def transform_discriminator(self, network, ctx):
        network.conditioned, network.condition = True, 2
        network.pairing = ctx.build("pairing", lambda: torch.nn.Linear(network.feature_dim + 2, 8), like=network)
        network.head = ctx.build("head", lambda: torch.nn.Linear(8, 1), like=network)
        return network

    @hookimpl
    def real_batch(self, batch):
        return self.described(batch)

    @hookimpl
    def generated_batch(self, batch, ctx):
        assert ctx.fake_latents.shape == (batch.size, ctx.latent_dim)
        return self.described(batch)

    def described(self, batch):
        mean = batch.images.flatten(1).mean(1, keepdim=True)
        return batch._replace(condition=torch.cat([mean, mean + 1], 1))


@pytest.mark.parametrize("beside", [(), ("experience_replay",), ("separate_batches",), ("instance_noise",)])
def test_a_trick_can_give_pairs_of_its_own(beside) -> None:
    host = TrickHost(steps=4).with_trick(Labels, "labels")
    for name in beside:
        host = host.with_trick(name)
    played = host.train(4)
    for phase in played.phases:
        for batch in (phase.real, phase.fake):
            if batch is not None:
                mean = batch.images.flatten(1).mean(1, keepdim=True)
                torch.testing.assert_close(batch.condition, torch.cat([mean, mean + 1], 1))
    game, resumed = host.game(), host.game()
    for _ in range(2):
        game.advance()
    state.load(resumed, snapshot(game), state.counters(game))
    for _ in range(2):
        game.advance()
        resumed.advance()
    assert not differences(snapshot(game), snapshot(resumed))


def test_latents_are_a_record_that_g_is_called_with() -> None:
    game = HOST.with_trick("instance_noise").game()
    given = game.contexts["instance_noise"].latents(5)
    assert isinstance(given, Latents)
    assert given.classes is None
    assert given.condition.shape == (5, 3)
    assert game.generator(*given).shape == (5, 2)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (TrickHost(generator={"conditioned": True}), "conditioned = true needs data with conditions"),
        (TrickHost(condition=3, discriminator={"conditioned": True}), "so fakes have no condition to be judged by"),
        (
            TrickHost(condition=3, classes=3, generator={"conditioned": True, "conditional": True}),
            "a condition says more than the class",
        ),
    ],
)
def test_what_does_not_fit_is_refused(host, told) -> None:
    with pytest.raises(UserError, match=told):
        host.plan()


# ---------------------------------------------------------------- a run

SOURCE = '''
"""Points on a line, described by their place on it."""

from typing import Annotated

import numpy as np
from gantricks.data.base import Dataset, Description, Source, silent
from gantricks.options import Options
from pydantic import Field


class Line(Source):
    """Points on a line, described by their place on it."""

    class Config(Options):
        shift: Annotated[float, Field(description="added to every condition")] = 0.0

    def describe(self):
        return Description((2,), 64, condition=2)

    def load(self, progress=silent):
        places = np.linspace(-1, 1, 64, dtype=np.float32)
        conditions = np.stack([places, places**2], 1) + np.float32(self.config.shift)
        return Dataset(np.stack([places, -places], 1), conditions=conditions)
'''

RECIPE = """
name = "line"
[data]
source = "line"
batch_size = 8
[generator]
network = "mlp"
latent_dim = 2
hidden = [8]
conditioned = true
condition_dim = 4
[discriminator]
network = "mlp"
hidden = [8]
conditioned = true
[train]
steps = 4
log_every = 2
checkpoint_every = 2
sample_every = 4
device = "cpu"
"""


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path]:
    plugin, path = tmp_path / "line.py", tmp_path / "line.toml"
    plugin.write_text(SOURCE)
    path.write_text(RECIPE)
    folder = tmp_path / "run"
    gantricks.train(path, run_dir=folder, plugins=[plugin])
    return folder, plugin


def test_a_run_is_sampled_without_its_data_for_the_conditions_that_it_has_kept(run) -> None:
    folder, plugin = run
    plan = load_recipe(folder / "recipe.toml", registry=Registry([plugin]))
    assert plan.generator.options.conditioned
    shifted = plugin.read_text().replace(
        "def load(self, progress=silent):", "def load(self, progress=silent):\n        1 / 0"
    )
    plugin.write_text(shifted)
    assert gantricks.sample(folder, count=9, plugins=[plugin]).size


def test_other_conditions_are_noticed_when_a_run_goes_on(run) -> None:
    folder, _ = run
    then = read_manifest(folder).data
    assert then.condition == 2
    now = then.model_dump() | {"class_names": [], "conditions": "0" * 32}
    assert "the same samples have other conditions now" in other_data(then, now)
    assert not other_data(then, then.model_dump() | {"class_names": []})


def test_samples_are_made_for_conditions_spread_over_the_data() -> None:
    game = HOST.game()
    kept = reference_conditions(game.dataset)
    assert np.array_equal(kept, game.dataset.conditions)
    seen = []
    game.generator.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    first = sampling.sample(game, 50, seed=0)
    assert same_bits(seen[0][:50].float(), torch.from_numpy(np.concatenate([kept, kept[:10]])))
    assert np.array_equal(first[:20], sampling.sample(game, 20, seed=0))
