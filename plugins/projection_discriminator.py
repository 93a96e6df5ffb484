"""Projection discriminator: a D that is built without classes judges samples as those of their class.

The logit becomes ψ(φ(x)) + ⟨e_y, φ(x)⟩: φ(x) are D's features, ψ its head, and e_y is a learned embedding of the class
y. Reals are judged as of their own class, fakes as of the class that G was asked for, in both steps.

Networks that ship have this projection with `conditional = true` in [discriminator], and there the trick is refused. It
gives the projection to a D with `conditional = false`, or without such an option, and chooses its start and its form. G
must be conditional. D then counts as conditional for all other tricks.

`std` is the standard deviation of the embeddings at the start. Left out, they start as D's other weights do. With 0, D
starts as it would without classes.

With `pooled`, e_y has one number for each map of the last features in place of one for each of its places, and meets
the sums of the maps, as in the authors' code. These are fewer weights, and the class cannot depend on where something
is. The head reads all features as before, while theirs reads the sums too. D must end in maps.

List the trick before others that treat the weights of embeddings, such as spectral norm.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Discriminator, Problem, Rng, Setting, Trick, UserError, hookimpl


def over_places(embedded: Tensor, places: int) -> Tensor:
    """Embeddings (B, C) of maps to those of features, (B, C · places), where features are maps laid out one by one.

    Each number is repeated for all places of its map. So ⟨over_places(e), φ⟩ = ⟨e, Σ φ⟩, with the sum over the places
    of each map: the projection on sum-pooled features. Source: Miyato & Koyama 2018, official code (global sum
    pooling).
    """
    return embedded.repeat_interleave(places, 1, output_size=embedded.shape[1] * places)


class Projection(nn.Embedding):
    """Classes (B,) to embeddings of features (B, A), A = `maps` · `places`, with weights (K, `maps`) ~ N(0, `std`²)."""

    def __init__(self, classes: int, maps: int, places: int, std: float) -> None:
        super().__init__(classes, maps)
        self.places, self.std = places, std

    def initialise(self, rng: Rng) -> None:
        self.weight.copy_(self.std * rng.normal(self.weight.shape))

    def forward(self, classes: Tensor) -> Tensor:
        return over_places(super().forward(classes), self.places)


class ProjectionDiscriminator(Trick):
    """Projection discriminator: D's logit gains the inner product of its features and a learned embedding of the class.

    A D that is told the class as one more input must find out what to do with it. If each class has a distribution of a
    simple form, the best D is a sum of two parts: one for how real a sample is, and an inner product for how well it
    fits its class. D has this form from the start.

    When it hurts: an embedding learns from samples of its own class only, slowly where a class has few. Wrong labels go
    straight into the logit.

    Source: Miyato & Koyama 2018, cGANs with Projection Discriminator, eq. 3 and §3.
    """

    needs = {"classes", "generator_conditional"}
    provides = {"discriminator_conditional"}
    replaces = {"d_projection"}
    conflicts = {"discriminator_conditioned": "a condition says more than the class"}

    class Config(Trick.Config):
        std: Annotated[
            float | None,
            Field(ge=0, le=10, description="deviation of the embeddings at the start; as other weights when left out"),
        ] = None
        pooled: Annotated[
            bool, Field(description="let the class meet the sum of each of the last maps, not each place")
        ] = False

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        found = []
        if getattr(setting.discriminator, "conditional", False):
            found.append(
                "D has this projection already, by conditional = true in [discriminator]; write conditional = false "
                "there, or switch the trick off"
            )
        if setting.classes == 1:
            found.append("the data has one class only, so there is nothing to tell apart; switch the trick off")
        if self.config.pooled and not setting.discriminator_maps:
            found.append("this D has no maps that could be summed; write pooled = false")
        return found

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if network.projection is not None:
            raise UserError(
                Problem("D has a projection of the class already", f"tricks.{ctx.name}", "switch the trick off")
            )
        features = network.feature_dim
        places = last_places(network, ctx) if self.config.pooled else 1
        std = next(std for std in (self.config.std, network.init_std, features**-0.5) if std is not None)

        def make() -> Projection:
            return Projection(network.classes, features // places, places, std)

        network.projection = ctx.build("projection", make, like=network)
        return network


def last_places(network: Discriminator, ctx: Context) -> int:
    """Return the number of places of the maps that become D's features. Found by showing it a sample."""
    shapes: list[tuple[int, ...]] = []

    def note(_: nn.Module, args: Any) -> None:
        shapes.append(args[0].shape[1:])

    twin = copy.deepcopy(network).eval()
    *_, last = (child for child in twin.body if isinstance(child, nn.Flatten | nn.Sequential))
    if isinstance(last, nn.Flatten):
        last.register_forward_pre_hook(note)
    images = torch.zeros((network.group, *network.shape), device=ctx.device, dtype=ctx.dtype)
    with torch.no_grad():
        twin(images, torch.zeros(network.group, dtype=torch.int64, device=ctx.device))
    if not shapes or len(shapes[0]) != 3 or math.prod(shapes[0]) != network.feature_dim:
        raise UserError(
            Problem("this D's features are no maps that could be summed", f"tricks.{ctx.name}", "write pooled = false")
        )
    return math.prod(shapes[0][1:])
