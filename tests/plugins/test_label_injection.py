"""Laws of labels at several layers: C + E inputs, constant label maps, every insertion counts, equivariance."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gantricks import Players, UserError
from gantricks.plugins.label_injection import LabelEmbedding, LabelInjection, Labelled, beside, label_maps
from gantricks.plugins.virtual_batch_norm import Reference
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, is_block, roles_of, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {"sample": (1, 8, 8), "generator": {"conditional": True, "batch_norm": True}}),
    "vectors": ({"dim": 3}, {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the class enters the first block only": Mistake(
        old="return found",
        new="return found[:1]",
        caught_by="test_every_block_of_the_chosen_players_reads_e_inputs_more",
    ),
    "tiling scrambles the label over its maps": Mistake(
        old="tiled.expand(*labels.shape, *x.shape[2:])",
        new="tiled.flatten(1).repeat(1, x[0, 0].numel()).reshape(*labels.shape, *x.shape[2:])",
        caught_by="test_label_maps_are_constant_over_height_and_width_and_differ_by_sample",
    ),
    "every sample is given the first class": Mistake(
        old="self.embedding(self.classes.now)",
        new="self.embedding(0 * self.classes.now)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The first layer of each block adds a linear map of its own embedding of the class, tiled to H × W."""
    for role in roles_of(played.trick(name).config):
        done = surgery(played, name, role)
        network: Any = getattr(played.game, role)
        injected = [new for _, new in done.replaced.values()]
        for block in (place for place, module in done.before.items() if is_block(place, module)):
            inside = [place for place in done.replaced if place.startswith(f"{block}.")]
            assert len(inside) == 1, f"{block} is given the class {len(inside)} times"
        for shift in (0, 1):
            seen = flows(played, role, injected, shift=shift)
            known = flows(played, role, [labelled.labels.embedding for labelled in injected], shift=shift)
            for (labelled, x, y), (embedding, classes, _) in zip(seen, known, strict=True):
                assert torch.equal(classes[-8:], (torch.arange(8) + shift) % network.classes)
                embedded = one_hot(classes, network.classes).to(x.dtype) @ embedding.weight
                tiled = embedded.reshape(*embedded.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
                added = labelled.labels.layer(tiled)
                close(y, labelled.layer(x) + added, "a layer that is given the class")
                assert not torch.equal(added[-8:-1], added[-7:]), "classes make no difference"


VECTORS = TrickHost(classes=3, generator={"conditional": True}, discriminator={"conditional": True})
PLAIN_NORMS = {"conditional": True, "batch_norm": False, "depth": 2}
IMAGES = VECTORS.but(sample=(1, 8, 8), generator=PLAIN_NORMS, discriminator=PLAIN_NORMS)
RESNET = IMAGES.but(
    generator={"network": "resnet", **PLAIN_NORMS}, discriminator={"network": "densenet", "layers": 2, **PLAIN_NORMS}
)
HOSTS = pytest.mark.parametrize("host", [VECTORS, IMAGES, RESNET], ids=["mlp", "dcgan", "resnet-densenet"])
ROLES = ("generator", "discriminator")
BOTH_ROLES = pytest.mark.parametrize("role", ROLES)
BN = IMAGES.but(generator={"conditional": True, "batch_norm": True})


def injected(network: nn.Module) -> dict[str, Labelled]:
    return {name: m for name, m in network.named_modules() if isinstance(m, Labelled)}


def inputs(host: TrickHost, role: str, count: int = 5, seed: int = 0) -> Tensor:
    shape = (host.latent_dim,) if role == "generator" else host.sample
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(network: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    out = network(x, classes)
    return out if isinstance(out, Tensor) else out.logits


# ---------------------------------------------------------------- the formula


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([(), (1, 1), (3, 2)]), st.data())
def test_label_maps_are_constant_over_height_and_width_and_differ_by_sample(batch, dim, size, data):
    labels, x = data.draw(gs.tensors((batch, dim))), torch.zeros((batch, 7, *size), dtype=torch.float64)
    maps = label_maps(labels, x)
    assert maps.shape == (batch, dim, *size)
    assert torch.cat([x, maps], 1).shape == (batch, 7 + dim, *size)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in size)) if size else [()]:
        assert same_bits(maps[(..., *place)], labels)
    assert label_maps(labels, x.bfloat16()).dtype == torch.bfloat16


LAYERS = {
    "linear": (lambda c: nn.Linear(c, 3), ()),
    "conv": (lambda c: nn.Conv2d(c, 3, (3, 2), stride=2, padding=1, dilation=(1, 2)), (5, 6)),
    "transposed": (lambda c: nn.ConvTranspose2d(c, 3, 4, stride=2, padding=1, output_padding=(1, 0)), (3, 4)),
}


@given(st.sampled_from(sorted(LAYERS)), st.integers(1, 4), st.integers(1, 5), st.data())
def test_the_pair_is_one_layer_of_c_plus_e_inputs_on_the_concatenation(kind, channels, dim, data):
    make, size = LAYERS[kind]
    layer = make(channels).double()
    extra = beside(layer, dim).double()
    wide = make(channels + dim).double()
    axis = 0 if kind == "transposed" else 1
    with torch.no_grad():
        wide.weight.copy_(torch.cat([layer.weight, extra.weight], axis))
        wide.bias.copy_(layer.bias)
    x, labels = data.draw(gs.tensors((2, channels, *size))), data.draw(gs.tensors((2, dim)))
    tiled = labels.reshape(2, dim, *[1] * len(size)) * torch.ones((1, 1, *size), dtype=torch.float64)
    together = wide(torch.cat([x, tiled], 1))
    torch.testing.assert_close(layer(x) + extra(label_maps(labels, x)), together, rtol=0, atol=1e-12)
    assert extra.bias is None


# ---------------------------------------------------------------- the surgery


@HOSTS
@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_every_block_of_the_chosen_players_reads_e_inputs_more(host, players):
    game, plain = host.with_trick("label_injection", dim=5, players=players.written()).game(), host.game()
    for role in ROLES:
        network, before = getattr(game, role), getattr(plain, role)
        if role not in players:
            assert not injected(network)
            continue
        blocks = [f"body.{name}" for name, block in before.body.named_children() if isinstance(block, nn.Sequential)]
        assert len(blocks) >= 2
        found = injected(network)
        assert [".".join(name.split(".")[:2]) for name in found] == blocks
        for name, labelled in found.items():
            old = before.get_submodule(name)
            axis = 0 if isinstance(old, nn.ConvTranspose2d) else 1
            assert same_bits(labelled.layer.weight, old.weight)
            assert labelled.labels.layer.weight.shape[axis] == 5
            layers = [m for m in before.get_submodule(name.rsplit(".", 1)[0]).modules() if hasattr(m, "weight")]
            assert old is layers[0]


@HOSTS
@BOTH_ROLES
def test_the_class_matters_through_each_insertion_alone(host, role):
    network = getattr(host.with_trick("label_injection", dim=4).game(), role).eval()
    with torch.no_grad():
        for module in network.modules():  # all that the network itself does with classes
            if isinstance(module, nn.Embedding) and not isinstance(module, LabelEmbedding):
                module.weight.copy_(module.weight[:1].expand_as(module.weight))
    weights = [labelled.labels.layer.weight for labelled in injected(network).values()]
    kept = [weight.detach().clone() for weight in weights]
    x = inputs(host, role)
    one, other = torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64)

    def only(chosen: int | None) -> None:
        with torch.no_grad():
            for number, (weight, before) in enumerate(zip(weights, kept, strict=True)):
                weight.copy_(before if number == chosen else torch.zeros_like(before))

    only(None)
    assert same_bits(run(network, x, one), run(network, x, other))
    for number in range(len(weights)):
        only(number)
        difference = (run(network, x, one) - run(network, x, other)).abs().flatten(1).amax(1)
        assert (difference > 1e-9).all(), f"insertion {number}"


@HOSTS
@BOTH_ROLES
def test_permuting_samples_and_classes_together_permutes_what_comes_out(host, role):
    network = getattr(host.with_trick("label_injection").game(), role)
    x, classes, order = inputs(host, role), torch.tensor([0, 1, 2, 1, 0]), torch.tensor([3, 0, 4, 1, 2])
    out = run(network, x, classes)
    torch.testing.assert_close(run(network, x[order], classes[order]), out[order], rtol=0, atol=1e-12)
    assert not torch.allclose(run(network, x[order], classes), out[order], rtol=0, atol=1e-9)


@HOSTS
def test_embeddings_and_weights_of_every_insertion_train(host):
    game = host.with_trick("label_injection").game()
    before = {
        f"{player.name}.{name}": p.detach().clone()
        for player in game.players.values()
        for name, p in player.network.named_parameters()
        if ".labels." in name
    }
    for _ in range(2):
        game.advance()
    for player in game.players.values():
        for name, parameter in player.network.named_parameters():
            if ".labels." in name:
                assert not same_bits(parameter, before[f"{player.name}.{name}"]), name
    for player in "dg":  # no two of a network start alike
        starts = [tuple(t.flatten()[:3].tolist()) for name, t in before.items() if name.startswith(player)]
        assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
def test_a_label_starts_with_the_weight_of_its_share_of_the_inputs(network):
    sizes = {"hidden": [256, 256]} if network == "mlp" else {"network": network, "channels": 64, "depth": 2}
    host = VECTORS if network == "mlp" else IMAGES
    host = host.but(discriminator={"conditional": True, **sizes})
    plain = host.game().discriminator
    found = injected(host.with_trick("label_injection", dim=16).game().discriminator)
    name, labelled = [*found.items()][1]
    old, new = plain.get_submodule(name), labelled.labels.layer
    if network == "dcgan":
        expected = 0.02
    else:
        expected = (2 / (new.weight[0].numel() + old.weight[0].numel())) ** 0.5
    assert new.weight.std().item() == pytest.approx(expected, rel=0.1)
    assert labelled.labels.embedding.weight.std().item() == pytest.approx(1, abs=0.35)


# ---------------------------------------------------------------- classes find their pass


def test_a_copy_of_the_network_reads_its_own_classes():
    network = IMAGES.with_trick("label_injection").game().generator
    twin = deepcopy(network)
    holders = {id(m.labels.classes) for m in injected(network).values()}
    of_twin = {id(m.labels.classes) for m in injected(twin).values()}
    assert len(holders) == len(of_twin) == 1
    assert not holders & of_twin
    z, classes = inputs(IMAGES, "generator"), torch.tensor([0, 1, 2, 1, 0])
    expected = network(z, classes)

    def interrupt(module: nn.Module, args: tuple) -> None:
        twin(z[:2], classes[:2])

    injected(network)["body.project.linear"].register_forward_pre_hook(interrupt)
    assert same_bits(network(z, classes), expected)
    assert same_bits(twin(z, classes), expected)


def test_classes_may_come_by_keyword_and_are_forgotten_after_the_pass():
    network = IMAGES.with_trick("label_injection").game().generator
    z, classes = inputs(IMAGES, "generator"), torch.tensor([0, 1, 2, 1, 0])
    assert same_bits(network(z, classes=classes), network(z, classes))
    assert all(labelled.labels.classes.now is None for labelled in injected(network).values())


def test_a_joint_pass_scores_as_two_passes_do():
    network = IMAGES.with_trick("label_injection").game().discriminator
    x, classes = inputs(IMAGES, "discriminator"), torch.tensor([0, 1, 2, 1, 0])
    apart = torch.cat([run(network, x[:2], classes[:2]), run(network, x[2:], classes[2:])])
    torch.testing.assert_close(run(network, x, classes), apart, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "order", [("label_injection", "virtual_batch_norm"), ("virtual_batch_norm", "label_injection")]
)
def test_a_reference_batch_gets_the_classes_of_the_reference(order):
    host = BN
    for trick in order:
        host = host.with_trick(trick, **({"reference": 6} if trick == "virtual_batch_norm" else {}))
    game = host.train(2).game
    network = game.generator
    z, classes = inputs(BN, "generator"), torch.tensor([0, 1, 2, 1, 0])
    seen = []
    first = injected(network)["body.project.linear"]
    first.labels.embedding.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    images = network(z, classes)
    (reference,) = (module for module in network.modules() if isinstance(module, Reference))
    assert torch.equal(seen[0], torch.cat([reference.classes, classes]))
    # each sample is its own, its class included
    torch.testing.assert_close(network(z[2:3], classes[2:3])[0], images[2], rtol=0, atol=1e-12)


def test_an_average_of_the_generator_reads_the_classes_it_is_given():
    host = IMAGES.with_trick("label_injection").with_trick("ema", decay=0.5, warmup=False)
    game = host.train(3).game
    shadow = next(planned.trick for planned in game.plan.tricks if planned.name == "ema").averages["generator"].shadow
    z = inputs(IMAGES, "generator", 1).repeat(3, 1)
    images = shadow(z, torch.arange(3))
    assert not torch.allclose(images[0], images[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(shadow(z[:1], torch.tensor([2]))[0], images[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["weight_norm", "label_injection"])
@pytest.mark.parametrize("first", [True, False])
def test_it_works_on_layers_that_other_surgery_has_treated(norm, first):
    host = IMAGES.with_trick(norm, "norm") if first else IMAGES
    host = host.with_trick("label_injection")
    host = host if first else host.with_trick(norm, "norm")
    played = host.train(2)
    assert played.game.non_finite() is None
    assert len(injected(played.game.discriminator)) == (4 if norm == "label_injection" else 2)


# ---------------------------------------------------------------- refusals


def test_classes_and_conditional_players_are_needed_where_they_are_used():
    with pytest.raises(UserError, match="needs classes"):
        TrickHost().with_trick("label_injection").plan()
    half = IMAGES.but(discriminator={"depth": 2})
    with pytest.raises(UserError, match="discriminator_conditional"):
        half.with_trick("label_injection").plan()
    half.with_trick("label_injection", players=["generator"]).train(1)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dim": 257}, {"players": "nobody"}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        LabelInjection.Config(**wrong)


def test_a_network_without_layers_to_put_the_class_before_is_refused() -> None:
    style = {"network": "style", "channels": 4, "depth": 2, "conditional": True}
    host = TrickHost(sample=(1, 8, 8), classes=3, generator=style, discriminator={"conditional": True})
    with pytest.raises(UserError, match=r"tricks\.label_injection: this network has no linear or convolutional layer"):
        host.with_trick("label_injection").game()
    host.with_trick("label_injection", players=["discriminator"]).game()
