"""The suite for networks: every one that ships passes, and for each law a network that breaks it fails."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import nn

from gantricks.networks.base import (
    Discriminator,
    Generator,
    GivenDiscriminator,
    GivenGenerator,
    Network,
    given_problems,
)
from gantricks.networks.dcgan import DCGAN
from gantricks.networks.densenet import DenseNet
from gantricks.networks.mlp import MLP
from gantricks.networks.r3 import R3
from gantricks.networks.resnet import ResNet
from gantricks.networks.stackgan import StackGAN
from gantricks.networks.style import Style
from gantricks.testing import NETWORK_LAWS, NetworkCase, network_suite

SMALL = {"channels": 3}
test_dcgan = network_suite(DCGAN, (3, 12, 16), SMALL, SMALL)
test_dcgan_without_norms = network_suite(DCGAN, (1, 9, 9), SMALL | {"batch_norm": False}, SMALL | {"batch_norm": False})
test_resnet = network_suite(ResNet, (3, 12, 16), SMALL, SMALL | {"batch_norm": True})
test_densenet = network_suite(DenseNet, (3, 12, 16), None, {"channels": 4, "growth": 3, "layers": 2})
test_r3 = network_suite(R3, (3, 12, 16), SMALL | {"blocks": 1}, SMALL | {"blocks": 1})
test_style = network_suite(Style, (3, 12, 16), SMALL | {"style_dim": 4})
test_stackgan = network_suite(StackGAN, (3, 12, 16), {"channels": 4, "blocks": 1, "first": SMALL})
test_mlp = network_suite(MLP, (2,), {"hidden": [6, 5]}, {"hidden": [6, 5]})
test_mlp_on_images = network_suite(MLP, (1, 3, 4), {"hidden": [6], "batch_norm": True}, {"hidden": [6]})


class Plain(Network):
    """One hidden layer, for vectors: right by every law."""

    class GeneratorConfig(GivenGenerator):
        hidden: Annotated[int, Field(ge=1, description="units")] = 6

    class DiscriminatorConfig(GivenDiscriminator):
        hidden: Annotated[int, Field(ge=1, description="units")] = 6

    @staticmethod
    def problems(role, config, shapes):
        return ["for vectors"] if len(shapes.sample) != 1 else given_problems(config, shapes)

    @staticmethod
    def capabilities(role, config, shapes):
        return {key for key in ("conditional", "conditioned") if getattr(config, key)}

    @staticmethod
    def generator(config, shapes):
        width = config.condition_dim * config.conditioned
        network = Generator(shapes, config.conditional, config.embedding_dim, width)
        network.body = block(network.input_dim, config.hidden)
        network.head = nn.Linear(config.hidden, shapes.sample[0])
        return network

    @staticmethod
    def discriminator(config, shapes):
        network = Discriminator(shapes, config.hidden, config.conditional, config.conditioned)
        network.body = block(shapes.sample[0], config.hidden)
        network.head = nn.Linear(config.hidden, 1)
        return network


def block(inner, outer, **more):
    layers = OrderedDict(linear=nn.Linear(inner, outer), **more, activation=nn.Tanh())
    return nn.Sequential(OrderedDict(hidden=nn.Sequential(layers)))


test_plain = network_suite(Plain, (2,))


def changed(role="discriminator", **parts):
    """`Plain` with the last part of one role's building changed."""

    def builder(config, shapes):
        network = getattr(Plain, role)(config, shapes)
        return parts["change"](network) or network

    return type("Wrong", (Plain,), {role: staticmethod(builder)})


class Undescribed(Plain):
    class DiscriminatorConfig(Plain.DiscriminatorConfig):
        slope: float = 0.2


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))

    def initialise(self, rng):
        pass

    def forward(self, x):
        return x * self.scale


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.empty(()))

    def initialise(self, rng):
        self.count.zero_()

    def forward(self, x):
        self.count.add_(1)
        return x


class InFloat32(nn.Module):
    def forward(self, x):
        return x.float()


class Constant(nn.Linear):
    """The same weights whatever the seed."""

    def initialise(self, rng):
        self.weight.fill_(0.1)
        self.bias.zero_()


def append(module):
    return lambda network: network.body.append(module()) and None


def wider(network):
    network.feature_dim += 1


def unused(network):
    network.spare = nn.Linear(2, 2)


def deaf(network):
    network.conditional = False
    network.projection = None
    network.pairing = None
    network.conditioned = False


def draws_in_the_builder(network):
    torch.manual_seed(0)


def start_alike(network):
    network.body[0][0] = Constant(2, 6)
    network.head = Constant(6, 1)
    network.projection = network.pairing = None
    network.conditional = network.conditioned = False


class Silent(Plain):
    """Tells nothing of batch norm."""

    @staticmethod
    def discriminator(config, shapes):
        network = Plain.discriminator(config, shapes)
        network.body = block(shapes.sample[0], config.hidden, norm=nn.BatchNorm1d(config.hidden))
        return network


class Everything(Plain):
    """Tells no problem."""

    @staticmethod
    def problems(role, config, shapes):
        return []


class Boastful(DCGAN):
    @staticmethod
    def maps(role, config, shapes):
        return [*DCGAN.maps(role, config, shapes), (1, 1)]


class ByPlace(DCGAN):
    """Flattens memory and not the maps."""

    @staticmethod
    def discriminator(config, shapes):
        network = DCGAN.discriminator(config, shapes)
        network.body[-1] = Memory()
        return network


class Memory(nn.Module):
    def forward(self, x):
        return x.as_strided((len(x), x[0].numel()), (x[0].numel(), 1))


WRONG = {
    "options": (Undescribed, (2,), "the option slope has no description"),
    "layout": (changed(change=draws_in_the_builder), (2,), "draws from torch's global generator"),
    "start": (changed(change=start_alike), (2,), "every seed starts alike"),
    "form": (changed(change=wider), (2,), r"features: \(4, 6\)"),
    "precision": (changed(change=append(InFloat32)), (2,), "a pass in float64 fails"),
    "gradients": (changed(change=unused), (2,), "spare.weight has no gradient"),
    "alone": (changed(change=append(Centred)), (2,), "depends on the others of its batch"),
    "eval": (changed(change=append(Counts)), (2,), "a pass in eval mode changes body.1.count"),
    "described": (changed(change=deaf), (2,), "conditional is False and the option is True"),
    "layout-in-memory": (ByPlace, (3, 12, 16), "not close"),
    "capabilities": (Silent, (2,), "batch_norm is not among its capabilities"),
    "maps": (Boastful, (3, 12, 16), r"no map has the size \(1, 1\)"),
    "problems": (Everything, (2,), "are not refused, and fail"),
}


def test_every_law_has_a_network_that_breaks_it():
    assert {*WRONG} == {*NETWORK_LAWS}


@pytest.mark.parametrize("law", WRONG)
def test_a_wrong_network_is_told(law):
    network, sample, words = WRONG[law]
    options = {"channels": 3} if issubclass(network, DCGAN) else {}
    with pytest.raises(AssertionError, match=words):
        NETWORK_LAWS[law].check(NetworkCase(network, "discriminator", sample, options))


@pytest.mark.parametrize(
    ("law", "module", "words"),
    [
        ("start", Holds, "is not filled"),
        ("eval", Draws, "two passes in eval mode differ"),
        ("eval", Centred, "depends on the others"),
    ],
)
def test_what_is_wrong_is_named(law, module, words):
    with pytest.raises(AssertionError, match=words):
        NETWORK_LAWS[law].check(NetworkCase(changed(change=append(module)), "discriminator", (2,)))
