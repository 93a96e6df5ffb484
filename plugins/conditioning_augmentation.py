"""Conditioning augmentation: the generator is given a random vector around what stands for the condition.

A linear layer gives μ and log σ² of a condition, such as a caption's embedding. In training G is given c = μ + σ ε,
with ε ~ N(0, 1) drawn for every sample and pass; when sampling it is given μ, where the authors' code draws too. G's
loss has the term weight · KL(N(μ, σ²) ‖ N(0, 1)), a mean over the numbers of c, as in the authors' code, whose weight
of 2 is the default. The paper's formula is their sum, which is as many times larger.

The layer takes the place of the one with which G reads conditions, and c is as long as what that one gives
(`condition_dim`). In a generator of two stages, each stage has its own; one that is kept in eval mode (first_stage)
stays as it is.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Generator, Rng, Schedule, Scheduled, Trick, hookimpl


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) as a mean over samples and numbers, 0-dim: `mean` μ and `log_variance` log σ² (B, d).

    Source: Kingma & Welling 2014, appendix B; Zhang et al. 2017, eq. 2.
    """
    widened = torch.promote_types(mean.dtype, torch.float32)
    mean, log_variance = mean.to(widened), log_variance.to(widened)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class Augmented(nn.Module):
    """Conditions (B, E) to μ + σ ε (B, d) in training mode, to μ in eval mode."""

    def __init__(self, condition: int, width: int, rng: Rng) -> None:
        super().__init__()
        self.statistics = nn.Linear(condition, 2 * width)
        self.rng = rng

    def parameters_of(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and log σ², (B, d) each."""
        mean, log_variance = self.statistics(condition).chunk(2, 1)
        return mean, log_variance

    def forward(self, condition: Tensor) -> Tensor:
        mean, log_variance = self.parameters_of(condition)
        if not self.training:
            return mean
        noise = self.rng.normal(mean.shape).to(mean.dtype)
        return mean + (0.5 * log_variance).exp() * noise


class ConditioningAugmentation(Trick):
    """Conditioning augmentation: G is given c ~ N(μ(t), σ²(t)) in place of one fixed vector for each caption t.

    Captions are few, and lie far apart in a space of many dimensions. With one vector each, G learns what to draw at
    single points and nothing between them. Here every caption stands for a small cloud, and the KL term draws the
    clouds together, so that small changes of a caption change a picture a little.

    When it hurts: noise in c and noise in the latents do the same to a picture. With a large `weight` the clouds are
    all one, and the caption is lost.

    Source: Zhang et al. 2017, StackGAN, §3.2, and its official code.
    """

    needs = {"generator_conditioned"}
    replaces = {"generator_conditioning"}
    conflicts = {"generator_conditional": "a condition says more than the class"}
    strengths = {"weight": (0.5, 2.0, 8.0)}

    class Config(Trick.Config):
        weight: Annotated[
            float | Schedule, Scheduled(0.0, 1e4), Field(description="weight of the divergence in G's loss")
        ] = 2.0

    config: Config

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        for name, part in _conditioned(network):
            place = f"{name}.conditioning".removeprefix(".")
            rng = ctx.rng.fork(place)
            condition, width = part.condition, part.condition_dim

            def make(condition: int = condition, width: int = width, rng: Rng = rng) -> Augmented:
                return Augmented(condition, width, rng)

            part.conditioning = ctx.build(place, make, like=network)
        return network

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        assert ctx.fake.condition is not None
        first, *others = (
            divergence(*part.conditioning.parameters_of(ctx.fake.condition))
            for _, part in _conditioned(ctx.generator)
            if isinstance(part.conditioning, Augmented)
        )
        return {"divergence": ctx.value(self.config.weight) * sum(others, start=first)}


def _conditioned(network: nn.Module) -> list[tuple[str, Generator]]:
    """Return the generators in `network`, itself included, that read a condition and are trained."""
    found = ((name, part) for name, part in network.named_modules() if isinstance(part, Generator))
    return [(name, part) for name, part in found if part.conditioning is not None and part.training]
