"""Truncation: samples are made of latents without tails. Training is what it is without the trick.

The latents of samples follow a normal distribution cut off at ±`limit`. Brock et al. draw a number beyond the limit
anew, until it is within. Here each number z is mapped to Φ⁻¹(Φ(-limit) + Φ(z) (Φ(limit) - Φ(-limit))), Φ the normal
distribution function. The result has exactly the same distribution, a seed still gives the same latents, and the
samples along a path between two latents change without jumps. A limit of 9, which no draw reaches, changes nothing.

`per_class` has a limit for each class, in the order of the classes, and takes the place of `limit`. Some classes bear a
low limit and others do not. It needs a generator that is given classes.

Of a run that is finished: `gantricks sample RUN --set tricks.truncation.limit=0.5 --out FILE.png`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Latents, Setting, Trick, hookimpl

FAR = 9.0
"""A limit from which on latents stay as they are: a draw beyond it has a probability of 2 · 10⁻¹⁹."""

Limit = Annotated[float, Field(gt=0, le=FAR)]


def truncate(z: Tensor, limit: float | Tensor) -> Tensor:
    """N(0, 1) draws (any shape) to draws from N(0, 1) given |z| ≤ `limit`, number by number.

    `limit` is a number or broadcasts against `z`; from `FAR` on, numbers stay as they are. By symmetry the map of the
    module's docstring is √2 erf⁻¹(erf(limit / √2) erf(z / √2)): odd, increasing, and precise near 0.

    The distribution is that of Brock et al. 2019, §3.1, who draw anew what lies beyond the limit.
    """
    wide, bound = z.double(), torch.as_tensor(limit, dtype=torch.float64, device=z.device)
    share = torch.erf(bound / math.sqrt(2)) * torch.erf(wide / math.sqrt(2))
    # far out the share rounds to 1, whose inverse is infinite
    within = (math.sqrt(2) * torch.erfinv(share)).clamp(-bound, bound)
    return torch.where(bound < FAR, within, wide).to(z.dtype)


class Truncation(Trick):
    """Truncation: samples are made of latents from a normal distribution that is cut off at ±`limit`.

    Latents near 0 are those that G has met most often. The lower the limit, the better each sample looks, and the less
    samples differ. So one run gives any trade of fidelity against variety, without being trained again.

    When it hurts: FID and recall count variety, and get worse below some limit. A generator that was never trained on
    such latents alone may answer with saturated colours; orthogonal regularization was made against that.

    Source: Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", §3.1.
    """

    neutral = {"limit": FAR}
    conflicts = {
        "spherical_latents": "it cuts off the tails of Gaussian latents, and latents on a sphere or in a cube have none"
    }
    strengths = {"limit": (2.0, 1.0, 0.5)}

    class Config(Trick.Config):
        limit: Annotated[Limit, Field(description="the largest size of each of a latent's numbers")] = 1.0
        per_class: Annotated[
            tuple[Limit, ...] | None,
            Field(description="a limit for each class, in place of limit; left out: the same for all"),
        ] = None

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        return {"needs": {"generator_conditional"} if config.per_class else frozenset()}

    def problems(self, setting: Setting) -> list[str]:
        given = self.config.per_class
        if given is not None and setting.classes and len(given) != setting.classes:
            return [f"per_class has {len(given)} limits, and the data {setting.classes} classes; write one for each"]
        return []

    @hookimpl
    def sampling_latents(self, given: Latents, ctx: Context) -> Latents:
        limit: float | Tensor = self.config.limit
        if self.config.per_class is not None:
            assert given.classes is not None
            each = torch.tensor(self.config.per_class, dtype=torch.float64, device=given.z.device)
            limit = each[given.classes][:, None]
        return given._replace(z=truncate(given.z, limit))
