"""Builds networks as the recipe describes them, without the tricks' surgery."""

from __future__ import annotations

import torch
from torch import nn

from gantricks.engine.game import Game
from gantricks.networks.base import Discriminator, Generator, Shapes, initialise
from gantricks.planning.device import Placement
from gantricks.rng import Rng


def lay_out(game: Game, role: str, given: Shapes) -> Generator | Discriminator:
    """Return the recipe's network of a role, "generator" or "discriminator", on the run's device, with nothing in its
    weights. `given` are the sizes that it must fit.
    """
    part = getattr(game.plan.recipe, role)
    with torch.device("meta"):
        network: Generator | Discriminator = getattr(part.found.cls, role)(part.options, given)
    network.to_empty(device=game.placement.device).to(game.placement.dtype)
    network.autocast = game.placement.autocast
    return network


def build_alone(game: Game, role: str, rng: Rng) -> Generator | Discriminator:
    """Return a further network of a role, initialised from `rng`. A discriminator is given images alone."""
    network = lay_out(game, role, game.plan.shapes)
    if isinstance(network, Discriminator):
        network.conditional, network.classes, network.projection = False, 0, None
        network.conditioned, network.condition, network.pairing = False, 0, None
    initialise(network, rng)
    return network


def settle(network: nn.Module, placement: Placement, is_images: bool) -> None:
    """Give a network the device, the type and the layout of the run, in training mode."""
    network.to(placement.device, placement.dtype)
    if is_images:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
