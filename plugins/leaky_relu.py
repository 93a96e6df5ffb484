"""LeakyReLU instead of ReLU: units that are off still pass a part of their gradient.

`players` says whose units are replaced. Only ReLU is replaced. A LeakyReLU that a network brings with it (`dcgan`'s D
has one) keeps its slope. Softplus and tanh stay. The trick combines with everything.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from gantricks import Context, Discriminator, Generator, Players, Probability, Problem, Trick, UserError, hookimpl


def leak(network: nn.Module, slope: float) -> int:
    """Replace every `nn.ReLU` of `network`, however deep, by f(x) = x for x > 0 and `slope` · x below; returns their
    number.

    Source: Maas et al. 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models, §2.
    """
    # a module that stands in two places is found in both
    found = [(name, m) for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, nn.ReLU)]
    for name, relu in found:
        network.set_submodule(name, nn.LeakyReLU(slope, relu.inplace))
    return len(found)


class LeakyRelu(Trick):
    """LeakyReLU instead of ReLU in G, in D, or in both: below zero the slope is not 0 but `slope`.

    G learns from the gradient that comes back through D. A ReLU that is off passes none, and a unit that is off for
    every image never comes on again. Both make that gradient sparse, which the GAN hacks list advises against. With
    slope 0.2 each unit always passes something.

    When it hurts: rarely. A generator with batch norm keeps its units alive anyway, and Radford et al. found that ReLU
    works well there. A slope near 1 leaves little that is not linear.

    Source: GAN hacks list, point 5; Radford et al. 2016, official code (slope 0.2, in D).
    """

    neutral = {"slope": 0.0}
    strengths = {"slope": (0.1, 0.2, 0.4)}

    class Config(Trick.Config):
        slope: Annotated[Probability, Field(description="slope below zero; 0 is ReLU itself")] = 0.2
        players: Annotated[Players, Field(description="whose units are replaced")] = Players()

    config: Config

    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        self.replaced = self._leak(network, "generator")
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        self.replaced += self._leak(network, "discriminator")
        if self.config.slope and not self.replaced:
            raise UserError(
                Problem(
                    "there is no ReLU that LeakyReLU could replace",
                    f"tricks.{ctx.name}",
                    'name the other player, give the network ReLU (activation = "relu" in mlp) or switch this off',
                )
            )
        return network

    def _leak(self, network: nn.Module, player: str) -> int:
        # LeakyReLU of slope 0 would make NaN of -inf, which ReLU does not
        wanted = self.config.slope > 0 and player in self.config.players
        return leak(network, self.config.slope) if wanted else 0
