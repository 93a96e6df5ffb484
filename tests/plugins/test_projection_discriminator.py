"""Laws of the projection discriminator: the class adds ⟨e_y, φ(x)⟩ to the logit, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from gantricks import Trick, UserError, hookimpl
from gantricks.engine.capture import INDUCTOR, CapturedStep
from gantricks.networks.base import Discriminator
from gantricks.plugins.projection_discriminator import Projection, ProjectionDiscriminator, over_places
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, samples
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

GIVEN = {"classes": 3, "generator": {"conditional": True}}
SETTINGS: Settings = {
    "": ({}, {}),
    "pooled": ({"pooled": True, "std": 0.5}, {**GIVEN, "sample": (1, 8, 8), "n_critic": 2}),
    "mixing": ({"std": 0.0}, {**MIXING, **GIVEN}),
}
REFUSED: dict[str, str] = {
    "packing": "packing does not go with discriminator_conditional",
    "semi_supervised": "nothing to recognise",
}

MISTAKES = {
    "classes are shifted": Mistake(
        old="super().forward(classes)",
        new="super().forward((classes + 1) % self.num_embeddings)",
        caught_by=("test_two_classes_differ_by_the_product_with_the_difference_of_their_embeddings", "trace_law"),
    ),
    "every class has the first embedding": Mistake(
        old="super().forward(classes)",
        new="super().forward(0 * classes)",
        caught_by="trace_law",
    ),
    "fakes are judged as of the classes of the reals": Mistake(
        old="super().forward(classes)",
        new="super().forward(classes[: len(classes) // 2].repeat(2))",
        caught_by="test_each_side_is_judged_as_of_its_own_classes",
    ),
    "the product is a mean over the features": Mistake(
        old="over_places(super().forward(classes), self.places)",
        new="over_places(super().forward(classes) / self.embedding_dim, self.places)",
        caught_by="trace_law",
    ),
    "maps are averaged and not summed": Mistake(
        old="embedded.repeat_interleave(places, 1, output_size=embedded.shape[1] * places)",
        new="embedded.repeat_interleave(places, 1) / places",
        caught_by=("test_the_product_is_that_with_the_sums_of_the_maps", "trace_law[pooled]"),
    ),
    "numbers meet places and not maps": Mistake(
        old="embedded.repeat_interleave(places, 1, output_size=embedded.shape[1] * places)",
        new="embedded.repeat(1, places)",
        caught_by=("test_the_product_is_that_with_the_sums_of_the_maps", "trace_law[pooled]"),
    ),
    "the embedding does not learn": Mistake(
        old="super().forward(classes)",
        new="super().forward(classes).detach()",
        caught_by="test_the_gradient_of_an_embedding_is_the_features_of_its_own_class",
    ),
    "a deviation of 0 is taken for none": Mistake(
        old="std is not None",
        new="std",
        caught_by="test_zero_embeddings_leave_the_discriminator_that_has_no_classes",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The logit is what the head says plus Σ_a E[y, a] φ_a, with φ the head's own input, or the sums of its maps."""
    config, network = played.trick(name).config, played.game.discriminator
    assert network.conditional
    table = network.projection.weight
    for shift in (0, 1):
        (head,) = flows(played, "discriminator", [network.head], training=False, shift=shift)
        batch = samples(played, "discriminator", shift)
        features = head.given
        if config.pooled:
            features = features.reshape(len(features), table.shape[1], -1).sum(2)
        expected = head.result[:, 0] + torch.einsum("ba,ba->b", table[batch.classes], features)
        was_training = network.training
        played.game.clock.enter("log")
        found = network.eval()(*batch).logits
        network.train(was_training)
        close(found[:, 0], expected, "logits")


VECTORS = TrickHost(classes=3, generator={"conditional": True})
IMAGES = VECTORS.but(sample=(1, 8, 8), discriminator={"depth": 2})
MIXING_HOST = IMAGES.but(discriminator={"batch_norm": True, "depth": 2})
NETWORKS = {
    "mlp": VECTORS,
    "dcgan": IMAGES,
    "resnet": IMAGES.but(discriminator={"network": "resnet", "depth": 2}),
    "densenet": IMAGES.but(discriminator={"network": "densenet", "depth": 2, "layers": 2}),
    "r3": IMAGES.but(discriminator={"network": "r3", "depth": 2}),
    "style": IMAGES.but(generator={"network": "style", "conditional": True}),
}
HOSTS = pytest.mark.parametrize("host", NETWORKS.values(), ids=NETWORKS)


def shown(host: TrickHost, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.tanh(torch.randn((count, *host.sample), generator=generator, dtype=torch.float64))
    return images, torch.randint(host.classes, (count,), generator=generator)


# ---------------------------------------------------------------- the formula


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(1, 1), (2, 3), (4, 1)]), st.data())
def test_the_product_is_that_with_the_sums_of_the_maps(batch, channels, size, data):
    maps, embedded = data.draw(gs.tensors((batch, channels, *size))), data.draw(gs.tensors((batch, channels)))
    over = over_places(embedded, size[0] * size[1])
    expected = np.einsum("bc,bchw->b", embedded.numpy(), maps.numpy())
    np.testing.assert_allclose((over * maps.flatten(1)).sum(1).numpy(), expected, rtol=0, atol=1e-12)


@HOSTS
def test_two_classes_differ_by_the_product_with_the_difference_of_their_embeddings(host):
    network = host.with_trick("projection_discriminator", std=1.0).game().discriminator.eval()
    images, _ = shown(host)
    table = network.projection.weight.detach().numpy()
    outs = [network(images, torch.full((6,), number)) for number in range(3)]
    features = outs[0].features.detach().numpy()
    for one, other in ((0, 1), (1, 2), (2, 0)):
        found = (outs[one].logits - outs[other].logits).detach().numpy()[:, 0]
        np.testing.assert_allclose(found, features @ (table[one] - table[other]), rtol=0, atol=1e-10)
        assert np.abs(found).max() > 1e-6


@HOSTS
def test_zero_embeddings_leave_the_discriminator_that_has_no_classes(host):
    game, plain = host.with_trick("projection_discriminator", std=0.0).game(), host.game()
    images, classes = shown(host)
    assert same_bits(game.discriminator(images, classes).logits, plain.discriminator(images).logits)
    for (name, a), (other, b) in zip(
        [(n, p) for n, p in game.discriminator.named_parameters() if n != "projection.weight"],
        plain.discriminator.named_parameters(),
        strict=True,
    ):
        assert name == other
        assert same_bits(a, b)


def test_the_gradient_of_an_embedding_is_the_features_of_its_own_class():
    for host in (VECTORS, IMAGES):
        network = host.with_trick("projection_discriminator").game().discriminator
        images, classes = shown(host, 5)[0], torch.tensor([0, 2, 0, 2, 2])
        weights = torch.tensor([1.0, -2, 3, 0.5, 7], dtype=torch.float64)
        out = network(images, classes)
        (out.logits[:, 0] * weights).sum().backward()
        features, expected = out.features.detach().numpy(), np.zeros(network.projection.weight.shape)
        np.add.at(expected, classes.numpy(), weights.numpy()[:, None] * features)
        found = network.projection.weight.grad
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
        assert not found[1].any()


@HOSTS
def test_permuting_samples_and_classes_together_permutes_the_logits(host):
    network = host.with_trick("projection_discriminator", std=1.0).game().discriminator
    images, order = shown(host)[0], torch.tensor([3, 0, 5, 4, 1, 2])
    classes = torch.tensor([0, 1, 2, 2, 0, 1])
    logits = network(images, classes).logits
    torch.testing.assert_close(network(images[order], classes[order]).logits, logits[order], rtol=0, atol=1e-11)
    assert not torch.allclose(network(images[order], classes).logits, logits[order], rtol=0, atol=1e-6)


@HOSTS
def test_it_is_what_a_conditional_network_has(host):
    built = host.but(discriminator={**host.discriminator, "conditional": True}).game().discriminator
    added = host.with_trick("projection_discriminator").game().discriminator
    assert built.state_dict().keys() == added.state_dict().keys()
    assert (built.conditional, built.classes) == (added.conditional, added.classes) == (True, 3)
    added.load_state_dict(built.state_dict())
    images, classes = shown(host)
    assert same_bits(added(images, classes).logits, built(images, classes).logits)


# ---------------------------------------------------------------- the start, and the sums of maps


def test_embeddings_start_with_the_deviation_that_is_asked_for():
    wide = VECTORS.but(discriminator={"hidden": [256, 256]})
    dcgan = IMAGES.but(discriminator={"depth": 2, "channels": 64})
    resnet = IMAGES.but(discriminator={"network": "resnet", "depth": 2, "channels": 64})
    for host, options, expected in (
        (wide, {}, 256**-0.5),
        (wide, {"std": 0.3}, 0.3),
        (dcgan, {}, 0.02),
        (resnet, {}, resnet.game().discriminator.feature_dim ** -0.5),
        (resnet, {"pooled": True}, resnet.game().discriminator.feature_dim ** -0.5),
    ):
        weight = host.with_trick("projection_discriminator", **options).game().discriminator.projection.weight
        assert weight.std().item() == pytest.approx(expected, rel=0.15)
        assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5
    seeds = [VECTORS.but(seed=seed).with_trick("projection_discriminator").game() for seed in (0, 0, 1)]
    first, again, other = (game.discriminator.projection.weight for game in seeds)
    assert same_bits(first, again)
    assert not same_bits(first, other)


@pytest.mark.parametrize("network", ["dcgan", "resnet", "densenet", "r3"])
def test_pooled_embeddings_have_one_number_for_each_map(network):
    host = NETWORKS[network].but(sample=(1, 8, 12))
    plain = host.game().discriminator
    shapes = []
    plain.body.flatten.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    images, classes = shown(host)
    features = plain(images).features
    game = host.with_trick("projection_discriminator", pooled=True, std=1.0).game()
    channels = shapes[0][1]
    table = game.discriminator.projection.weight
    assert table.shape == (3, channels)
    sums = features.reshape(6, channels, -1).sum(2)
    expected = plain(images).logits[:, 0] + (table[classes] * sums).sum(1)
    torch.testing.assert_close(game.discriminator(images, classes).logits[:, 0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("first", [True, False])
def test_pooled_embeddings_find_the_maps_behind_other_surgery(first):
    host = IMAGES.but(sample=(1, 16, 16), discriminator={"depth": 3}, generator={"conditional": True, "depth": 3})
    ours = [("projection_discriminator", {"pooled": True})]
    others = [("label_injection", {}), ("grow", {}), ("discriminator_dropout", {})]
    for trick, options in ours + others if first else others + ours:
        host = host.with_trick(trick, **options)
    game = host.train(3).game
    assert game.non_finite() is None
    assert game.discriminator.projection.weight.shape == (3, host.game().discriminator.feature_dim // 4)


# ---------------------------------------------------------------- in a run


def test_each_side_is_judged_as_of_its_own_classes():
    for host in (VECTORS, MIXING_HOST, VECTORS.with_trick("separate_batches")):
        played = host.with_trick("projection_discriminator", std=1.0).train(3)
        seen_apart = False
        for phase in played.steps_of("d"):
            table, head, bias = (phase.before[name] for name in ("projection.weight", "head.weight", "head.bias"))
            for out, batch in ((phase.real_out, phase.real_in), (phase.fake_out, phase.fake_in)):
                expected = out.features @ head[0] + bias + (table[batch.classes] * out.features).sum(1)
                close(out.logits[:, 0], expected, "logits in D's step")
            seen_apart |= not torch.equal(phase.real_in.classes, phase.fake_in.classes)
        assert seen_apart
        for phase in played.steps_of("g"):
            (d,) = (one.after for one in played.steps_of("d") if one.step == phase.step)
            out, classes = phase.fake_out, phase.fake_in.classes
            expected = out.features @ d["head.weight"][0] + d["head.bias"]
            expected = expected + (d["projection.weight"][classes] * out.features).sum(1)
            close(out.logits[:, 0], expected, "logits in G's step")


class Looks(Trick):
    """Notes what surgery before and after sees."""

    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        self.seen = network.conditional, network.classes, network.projection is not None
        return network


@pytest.mark.parametrize("first", [True, False])
def test_the_discriminator_is_conditional_for_all_surgery(first):
    host = VECTORS.with_trick(Looks, "looks") if first else VECTORS
    host = host.with_trick("projection_discriminator")
    host = host if first else host.with_trick(Looks, "looks")
    (looks,) = (planned.trick for planned in host.game().plan.tricks if planned.name == "looks")
    assert looks.seen == (True, 3, not first)
    (without,) = (planned.trick for planned in VECTORS.with_trick(Looks).game().plan.tricks)
    assert without.seen == (False, 0, False)


@pytest.mark.parametrize("first", [True, False])
def test_labels_can_be_injected_beside_it(first):
    host = IMAGES if first else IMAGES.with_trick("label_injection")
    host = host.with_trick("projection_discriminator")
    host = host.with_trick("label_injection") if first else host
    assert host.train(2).game.non_finite() is None


def test_only_embeddings_of_classes_that_were_there_move():
    host = VECTORS.but(classes=40, count=40, batch_size=4, optimizer={"name": "sgd", "lr": 0.1})
    played = host.with_trick("projection_discriminator", std=1.0).train(1)
    (phase,) = played.steps_of("d")
    before, after = phase.before["projection.weight"], phase.after["projection.weight"]
    there = set(phase.real_in.classes.tolist()) | set(phase.fake_in.classes.tolist())
    assert {row for row in range(40) if not same_bits(before[row], after[row])} == there


def test_a_copy_is_independent_and_equal():
    network = IMAGES.with_trick("projection_discriminator", pooled=True).game().discriminator
    twin = copy.deepcopy(network)
    images, classes = shown(IMAGES)
    assert same_bits(twin(images, classes).logits, network(images, classes).logits)
    with torch.no_grad():
        twin.projection.weight.add_(1)
    assert not same_bits(twin(images, classes).logits, network(images, classes).logits)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"pooled": True}], ids=["features", "pooled"])
def test_the_step_compiles(options):
    game = IMAGES.but(precision="fp32").with_trick("projection_discriminator", **options).game()
    CapturedStep(game, INDUCTOR)()


# ---------------------------------------------------------------- what is refused


class OwnProjection(Trick):
    """Stands for a network that projects classes without the option `conditional`."""

    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        network.projection = Projection(3, network.feature_dim, 1, 1.0)
        return network


@pytest.mark.parametrize(
    ("host", "options", "reason"),
    [
        (TrickHost(generator={}), {}, "needs classes"),
        (TrickHost(classes=3), {}, "needs generator_conditional"),
        (TrickHost(classes=1, generator={"conditional": True}), {}, "one class only"),
        (VECTORS.but(discriminator={"conditional": True}), {}, "write conditional = false there"),
        (VECTORS.but(condition=2, discriminator={"conditioned": True}), {}, "more than the class"),
        (VECTORS, {"pooled": True}, "no maps that could be summed"),
        (VECTORS.but(sample=(1, 8, 8), discriminator={"network": "mlp"}), {"pooled": True}, "no maps"),
        (VECTORS.with_trick("projection_discriminator", "other"), {}, "replace the same part, d_projection"),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_checked(host, options, reason):
    with pytest.raises(UserError, match=reason):
        host.with_trick("projection_discriminator", **options).plan()


def test_a_projection_that_is_there_already_is_refused():
    with pytest.raises(UserError, match=r"tricks\.projection_discriminator: D has a projection of the class already"):
        VECTORS.with_trick(OwnProjection).with_trick("projection_discriminator").game()


class Squeezed(Trick):
    """A last block behind the maps."""

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Any) -> Discriminator:
        width = network.feature_dim
        last = nn.Sequential(ctx.build("body.last", lambda: nn.Linear(width, width), like=network))
        network.body.add_module("last", last)
        return network


def test_features_that_are_no_maps_are_not_pooled():
    host = IMAGES.with_trick(Squeezed)
    with pytest.raises(UserError, match=r"tricks\.projection_discriminator: this D's features are no maps"):
        host.with_trick("projection_discriminator", pooled=True).game()
    host.with_trick("projection_discriminator").game()


@pytest.mark.parametrize("wrong", [{"std": -0.1}, {"std": 11}, {"pooled": "sometimes"}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        ProjectionDiscriminator.Config(**wrong)
