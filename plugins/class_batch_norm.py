"""Class batch norm: the generator's batch norms have a scale and a shift of their own for each class.

A batch is normalised as a whole, as batch norm does it: mean and variance are those of all samples, whatever their
classes. Then each sample is multiplied by γ_y and shifted by β_y, one number for each map, of its own class y. Running
statistics are batch norm's, and are used in eval mode.

Every batch norm of G is treated. The scales and shifts of all classes start as those of the norm that they replace
(N(1, 0.02²) and 0). So G starts as the function that it would be without the trick, and classes part as they learn. The
cost is K - 1 more rows in each norm, for K classes. What G does with classes by itself stays.

The trick needs a conditional generator with batch norm. It goes with surgery of any kind that leaves G's batch norm
alone, in either order.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from gantricks import Context, Generator, PassClasses, Setting, Trick, hookimpl

_BatchNorm = nn.modules.batchnorm._BatchNorm


def scale_and_shift(x: Tensor, classes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """γ_y · x + β_y, map by map: x (B, C, …), `classes` (B,) int64, γ = `weight` and β = `bias` (K, C); x's type.

    Source: Dumoulin et al. 2017, A Learned Representation for Artistic Style, eq. 5 (instance norm); de Vries et al.
    2017, Modulating Early Visual Processing by Language, §3.
    """
    of_maps = *x.shape[:2], *[1] * (x.dim() - 2)
    gamma, beta = (embedding(classes, table).reshape(of_maps) for table in (weight, bias))
    return (x * gamma + beta).to(x.dtype)


class ClassNorm(nn.Module):
    """A batch norm whose scale and shift, `weight` and `bias` (K, C), are chosen by the class.

    All K = `count` rows start as the scale and shift of `norm`, or as 1 and 0 where it has none.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, norm: Any, count: int, classes: PassClasses) -> None:
        super().__init__()
        self.norm, self.classes = copy.deepcopy(norm), classes
        self.norm.affine, self.norm.weight, self.norm.bias = False, None, None
        plain = torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)
        weight, bias = (norm.weight.detach(), norm.bias.detach()) if norm.affine else plain
        self.weight, self.bias = (nn.Parameter(start.repeat(count, 1)) for start in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        assert self.classes.now is not None, "a conditional generator is given classes"
        return scale_and_shift(self.norm(x), self.classes.now, self.weight, self.bias)


class ClassBatchNorm(Trick):
    """Class batch norm: each batch norm of G scales and shifts a sample's maps by numbers learned for its class.

    A G that is told the class beside its latents must carry it through all layers, and can ignore it. Here the class
    chooses at every norm which maps are strong, with two numbers a map. So classes share all convolutions, and still
    differ at every level of detail.

    When it hurts: as with batch norm, a sample depends on its batch, and so on the classes that happen to be in it.
    With many classes the scales of each are seldom trained.

    Source: Dumoulin et al. 2017; de Vries et al. 2017; Miyato & Koyama 2018, §5.1 (in G).
    """

    needs = {"classes", "generator_conditional", "generator_batch_norm"}
    replaces = {"generator_batch_norm"}

    def problems(self, setting: Setting) -> list[str]:
        if 1 in setting.batch_sizes and not setting.generator_maps:
            return ["batch norm of vectors needs more than one sample; let batches hold 2 samples or more"]
        return []

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        classes = PassClasses(network)
        for place, norm in [(place, m) for place, m in network.named_modules() if isinstance(m, _BatchNorm)]:
            network.set_submodule(place, ClassNorm(norm, network.classes, classes))
        return network
