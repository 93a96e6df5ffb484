"""Virtual batch normalization: the generator's samples are normalised with a fixed reference batch, not each other.

N latents (and classes, where G is conditional) are drawn once. They run through G in front of every batch, with the
current weights and with gradient. Each sample is normalised with their statistics and, as one part in N + 1, its own.

The trick needs a generator with batch norm and replaces all of it. It keeps the weights and biases (N(1, 0.02²) and 0
at the start). The reference is saved with G. The trick goes with everything that leaves G's batch norm alone.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Generator, Problem, Trick, UserError, hookimpl

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Moments(torch.autograd.Function):
    """Mean and mean square over the last dimension: (B, C, L) to two (B, C).

    Autograd's own backward of these takes twice the time: it writes four maps as large as x where one will do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x.mean(2), x.square().mean(2)

    @staticmethod
    def backward(ctx: Any, mean: Tensor, square: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        length = x.shape[2]
        return torch.addcmul((mean / length)[..., None], x, (square * 2 / length)[..., None])


def virtual_batch_norm(x: Tensor, reference: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """`x` (N + B, C, ...), its first N = `reference` rows the reference batch; `weight` and `bias` (C,).

    The reference rows are normalised with their own statistics, as plain batch norm does it. Row i of the rest with
    μ_i = (μ(x_i) + N μ_ref) / (N + 1), the same mix of the mean squares, and var = E[x²] - μ², so that it depends on
    no other row of the rest. Statistics are float32 at least; gradient flows through those of the reference too.

    Source: Salimans et al. 2016, §3.5, and official code.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(*x.shape[:2], -1)
    mean, square = (_mixed(moment, reference) for moment in _Moments.apply(wide))
    # E[x²] - μ² can round to less than nothing
    scale = weight * ((square - mean.square()).clamp(min=0) + eps).rsqrt()
    shift = bias - mean * scale
    return torch.addcmul(shift[..., None], wide, scale[..., None]).reshape(x.shape).to(x.dtype)


def _mixed(moment: Tensor, n: int) -> Tensor:
    """Each row's own moment (N + B, C) to the one that it is normalised with."""
    of_reference = moment[:n].mean(0, keepdim=True)
    return torch.cat([of_reference.expand(n, -1), (moment[n:] + n * of_reference) / (n + 1)])


class VirtualNorm(nn.Module):
    """`virtual_batch_norm` in the place of a batch norm whose weight and bias it takes over."""

    def __init__(self, norm: Any, reference: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.reference = norm.weight, norm.bias, norm.eps, reference

    def forward(self, x: Tensor) -> Tensor:
        return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)


class Reference(nn.Module):
    """The reference batch: joins every batch that enters a generator, and leaves it as the last part of the body."""

    latents: Tensor
    classes: Tensor | None
    condition: Tensor | None

    def __init__(self, latents: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("latents", latents)
        self.register_buffer("classes", classes)
        self.register_buffer("condition", condition)

    def join(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The generator's arguments with the reference in front, where they are still side by side."""

        def joined(
            latents: Tensor, classes: Tensor | None = None, condition: Tensor | None = None
        ) -> tuple[Tensor | None, ...]:
            own = (self.latents, self.classes, self.condition)
            return tuple(
                torch.cat([reference, given]) if reference is not None and given is not None else given
                for reference, given in zip(own, (latents, classes, condition), strict=True)
            )

        return joined(*args, **kwargs), {}

    def forward(self, x: Tensor) -> Tensor:
        return x[len(self.latents) :]


class VirtualBatchNorm(Trick):
    """Virtual batch normalization: G's batch norms use a reference batch fixed at the start instead of the live batch.

    Batch norm makes every image depend on the others drawn with it, which shows as a common tint of a whole batch of
    small size. With a reference batch of N latents (`reference`) a sample depends on its own latents alone, in training
    and in sampling alike. A batch of one works.

    When it hurts: G computes N more samples in every pass, sampling included. At N equal to the batch size it costs
    about twice as much. A small N gives a noisy normalisation. N should not be far below a usual batch.

    Source: Salimans et al. 2016, §3.5.
    """

    needs = {"generator_batch_norm"}
    replaces = {"generator_batch_norm"}

    class Config(Trick.Config):
        reference: Annotated[int, Field(ge=2, le=4096, description="number of latents in the reference batch")] = 64

    config: Config

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        n = self.config.reference
        norms = {name: m for name, m in network.body.named_modules() if isinstance(m, _BatchNorm)}
        everywhere = sum(isinstance(m, _BatchNorm) for m in network.modules())
        if len(norms) < everywhere or not all(norm.affine for norm in norms.values()):
            raise UserError(
                Problem(
                    "this generator has batch norm that virtual batch norm cannot replace, and does not work on top of",
                    f"tricks.{ctx.name}",
                    "use a generator whose batch norms are all in its body and affine, or switch the trick off",
                )
            )
        for name, norm in norms.items():
            network.body.set_submodule(name, VirtualNorm(norm, n))

        reference = Reference(*ctx.latents(n))
        network.body.add_module(f"{ctx.name}_reference", reference)
        network.register_forward_pre_hook(reference.join, prepend=True, with_kwargs=True)
        return network
