"""Packing (PacGAN): the discriminator judges several samples of one provenance at once.

D is the network of the recipe, but for its first layer. This layer is built for `m` times the channels (of vectors, `m`
times the numbers). It starts as the network starts a layer of that many inputs. All other weights start as they would
without the trick. `m` consecutive samples of a batch make a pack. Reals and fakes never share one.

A batch of B samples is B / `m` packs: that many logits, targets and rows of features. So labels are smoothed or flipped
pack by pack. Every size that batches have must be a multiple of `m`.

Lin et al. count packs. Their batches of 100 hold 100 · `m` samples, from which G and D also gain without packing. To
compare at equal samples in each update, keep `batch_size`. To compare at equal verdicts, multiply it by `m`.

What D says of a pack is of no single class. So a D that is given classes or tells them is refused. G may be
conditional.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Setting, Trick, hookimpl


def pack(samples: Tensor, m: int) -> Tensor:
    """Each `m` consecutive samples as one, side by side on the channels: (B, C, …) to (B / m, m · C, …).

    Vectors (B, D) become (B / m, m · D). Source: Lin et al. 2018.

    Raises ValueError where `m` does not divide B.
    """
    size, channels, *rest = samples.shape
    if size % m:
        raise ValueError(f"{size} samples cannot be packed in packs of {m}")
    return samples.reshape(size // m, m * channels, *rest)


class Pack(nn.Module):
    """`pack`; `shape` is that of a pack of samples of the given shape."""

    def __init__(self, m: int, sample: tuple[int, ...]) -> None:
        super().__init__()
        self.m = m
        self.shape = (m * sample[0], *sample[1:])

    def forward(self, samples: Tensor) -> Tensor:
        return pack(samples, self.m)

    def extra_repr(self) -> str:
        return f"m={self.m}"


class Packing(Trick):
    """Packing (PacGAN): D judges `m` samples at once, all real or all fake, and gives one verdict for all.

    A generator that collapses makes samples that are each plausible, and a D that looks at one at a time cannot tell.
    Packs of such samples are alike in a way that packs of real ones are not, the more so the larger `m`. G pays for it.

    When it hurts: fewer verdicts from the same samples make gradients noisier, and `m` times the inputs are harder to
    judge. The paper stays at 2 to 4. Samples grow more varied before they grow better.

    Source: Lin et al. 2018, PacGAN: The power of two samples in generative adversarial networks.
    """

    neutral = {"m": 1}
    conflicts = {
        "discriminator_conditional": "D would judge a pack as one of a class, and the samples in it are of several; "
        "write conditional = false in [discriminator]",
        "discriminator_conditioned": "D would judge a pack by one condition, and the samples in it have several; "
        "write conditioned = false in [discriminator]",
        "class_logits": "D would tell one class of a pack, and the samples in it are of several",
    }
    cautions = {"input_grad": "D judges packs, and the penalty takes D's gradient by each sample for one of its own"}
    strengths = {"m": (2, 4, 8)}

    class Config(Trick.Config):
        m: Annotated[int, Field(ge=1, le=32, description="samples that D judges at once; 1: no packing")] = 2

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        return {"group": config.m}

    def problems(self, setting: Setting) -> list[str]:
        return [sentence for size in setting.batch_sizes for sentence in self._problems(size, setting.count)]

    def _problems(self, size: int, count: int) -> list[str]:
        m = self.config.m
        if size % m == 0:
            return []
        near = [packs * m for packs in (size // m, size // m + 1) if 0 < packs * m <= count]
        sizes = f"let batches hold {' or '.join(map(str, near))}, or " if near else ""
        return [f"a batch of {size} cannot be split into packs of {m}; {sizes}write an m that divides it"]

    @hookimpl
    def d_stem(self, shape: tuple[int, ...], ctx: Context) -> Pack:
        return Pack(self.config.m, shape)
