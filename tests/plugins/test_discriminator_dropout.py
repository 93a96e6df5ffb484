"""Laws of dropout in D: p = 0 is identity, the mean is kept, eval is whole, each pass has a mask of its own."""

from __future__ import annotations

import pytest
import torch
from test_dropout_and_noise import drops
from torch import nn

from gantricks.plugins.discriminator_dropout import Dropout
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import block_ends, flows, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"input": 0.2, "hidden": 0.5}, {}),
    "mixing": ({"input": 0.2, "hidden": 0.5}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "masks come from the global generator": Mistake(
        old="x * rng.bernoulli_like(x, 1 - p) / (1 - p)",
        new="nn.functional.dropout(x, p)",
        caught_by="stream",
    ),
    "what is kept is not scaled up": Mistake(
        old="x * rng.bernoulli_like(x, 1 - p) / (1 - p)",
        new="x * rng.bernoulli_like(x, 1 - p)",
        caught_by=("test_dropout_and_noise.py::test_expectation_is_kept", "trace_law"),
    ),
    "one mask for all steps": Mistake(
        old="return drop(x, self.p, self.rng) if self.training else x",
        new="""
            if not hasattr(self, "mask"):
                self.mask = drop(x.new_ones(x.shape), self.p, self.rng)
            return x * self.mask[: len(x)] if self.training else x
        """,
        caught_by="test_dropout_and_noise.py::test_every_pass_of_training_draws_anew",
    ),
    "on in eval": Mistake(
        old="drop(x, self.p, self.rng) if self.training else x",
        new="drop(x, self.p, self.rng)",
        caught_by="test_eval_is_whole_and_deterministic",
    ),
    "D drops in eval mode": Mistake(
        old="drop(x, self.p, self.rng) if self.training else x",
        new="drop(x, self.p, self.rng) if True else x",
        caught_by="trace_law",
    ),
    "every layer has the same mask": Mistake(
        old="Dropout(self.config.hidden, ctx.rng.fork(name))",
        new="Dropout(self.config.hidden, ctx.rng.seeded(0))",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """A share of D's input and, last in each block, of its hidden layers is zeroed in training; in eval nothing is."""
    config = played.trick(name).config
    done = surgery(played, name, "discriminator")
    first = next(place for place in done.after if place.startswith("body."))
    assert first in done.added, f"D's input goes to {first}"
    layers = {done.added[first]: config.input}
    layers |= dict.fromkeys(block_ends(done, besides=first), config.hidden)
    drops(played, "discriminator", layers)
    for _, x, y in flows(played, "discriminator", layers, training=False):
        assert torch.equal(x, y), "D drops in eval mode"


IMAGES = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": False})
VECTORS = TrickHost()


def dropouts(network: nn.Module) -> dict[str, Dropout]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Dropout)}


# ---------------------------------------------------------------- the surgery


def test_dropout_follows_the_input_and_every_block_of_a_convolutional_d():
    host = TrickHost(sample=(3, 16, 16), discriminator={"batch_norm": True})
    network = host.with_trick("discriminator_dropout", input=0.1, hidden=0.4).game().discriminator
    hidden = [f"body.{block}.discriminator_dropout_dropout" for block in ("down1", "down2")]
    assert list(dropouts(network)) == ["body.discriminator_dropout_input", *hidden]
    assert all([*block.children()][-1] in dropouts(network).values() for block in network.body[1:3])
    assert [module.p for module in dropouts(network).values()] == [0.1, 0.4, 0.4]


def test_dropout_follows_the_input_and_every_hidden_layer_of_an_mlp():
    network = VECTORS.with_trick("discriminator_dropout").game().discriminator
    hidden = [f"body.{block}.discriminator_dropout_dropout" for block in ("hidden1", "hidden2")]
    assert list(dropouts(network)) == ["body.discriminator_dropout_input", *hidden]
    assert [module.p for module in dropouts(network).values()] == [0.2, 0.5, 0.5]


@pytest.mark.parametrize("share", ["input", "hidden"])
def test_a_share_of_zero_inserts_nothing(share):
    network = VECTORS.with_trick("discriminator_dropout", **{share: 0.0}).game().discriminator
    hidden = [f"hidden{number}.discriminator_dropout_dropout" for number in (1, 2)]
    others = {"input": hidden, "hidden": ["discriminator_dropout_input"]}[share]
    assert list(dropouts(network)) == [f"body.{name}" for name in others]


def test_one_layer_more_moves_no_other_mask():
    def hidden_masks(**options):
        game = VECTORS.with_trick("discriminator_dropout", **options).game()
        game.clock.enter("d")
        layers = dropouts(game.discriminator)
        ones = torch.ones(4, 8, dtype=torch.float64)
        for name, layer in layers.items():  # in the order of a forward pass
            if name.endswith("input"):
                layer(ones)
        return [layer(ones) for name, layer in layers.items() if not name.endswith("input")]

    both, alone = hidden_masks(), hidden_masks(input=0.0)
    assert all(same_bits(a, b) for a, b in zip(both, alone, strict=True))
    assert not same_bits(*both), "two layers share one stream"


def test_two_instances_stay_apart():
    host = VECTORS.with_trick("discriminator_dropout", "early", hidden=0.0)
    host = host.with_trick("discriminator_dropout", "late", input=0.1)
    layers = dropouts(host.game().discriminator)
    assert {name: layer.p for name, layer in layers.items()} == {
        "body.late_input": 0.1,
        "body.early_input": 0.2,
        "body.hidden1.late_dropout": 0.5,
        "body.hidden2.late_dropout": 0.5,
    }
    assert len({layer.rng.name for layer in layers.values()}) == 4


# ---------------------------------------------------------------- in a run


def test_eval_is_whole_and_deterministic():
    game = IMAGES.with_trick("discriminator_dropout").game()
    plain = IMAGES.game()
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    network = game.discriminator
    assert not same_bits(network(images).logits, network(images).logits)
    network.eval()
    assert same_bits(network(images).logits, plain.discriminator.eval()(images).logits)
