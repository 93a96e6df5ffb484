"""Rejection sampling: samples that D takes for fakes are made again of other latents. Training is what it is without.

The best D of the default objective gives log p_data(x) / p_g(x). Accepting a sample of G with the probability
p_data / (M p_g), M the largest ratio, gives samples of the data. With logits D and their maximum D_M this is σ(F),
F = D - D_M - log(1 - exp(D - D_M - ε)) - γ. The shift γ = 0 is the exact law. In many dimensions nearly all samples
would be rejected with it, so γ is the `percentile` of the scores F + γ of fakes: at 80, a sample that only one in five
surpasses is accepted with the probability ½. A low percentile accepts nearly all. `gamma` is a fixed γ in its place.

Before each series of samples, D scores `burn_in` fakes. Their largest logit is D_M, and γ follows from them; a larger
logit met later counts from there on, within one call of 64 samples. Published code scores up to 50,000, and sets γ by
each batch. Latents come from a stream of the trick. A sample keeps its class and condition. It is made anew until one
is accepted, `attempts` times in all; where none is, it is the one with the highest logit.

D is the one that evaluation uses, in eval mode, and sees samples as they are, without augmentation. A sample costs as
many passes of G and D as it has attempts. The trick leaves out `gantricks interpolate`, whose latents are given. Of a
run that is finished: `gantricks sample RUN --set tricks.rejection_sampling=on --out FILE.png`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Batch, Context, Latents, Sampler, Trick, hookimpl

CHUNK = 64
"""The number of fakes in one pass of the burn-in."""


def score(logits: Tensor, maximum: Tensor | float, epsilon: float = 0.0) -> Tensor:
    """F + γ = d - log(1 - exp(d - ε)), d = logit - maximum, number by number. A logit above the maximum counts as it.

    At the maximum it is log(1 / (1 - exp(-ε))), infinite for ε = 0. Source: Azadi et al. 2019, §3.
    """
    below = (logits - maximum).clamp(max=0)
    return below - (-torch.expm1(below - epsilon)).log()


def acceptance(logits: Tensor, maximum: Tensor | float, gamma: Tensor | float = 0.0, epsilon: float = 0.0) -> Tensor:
    """The probability σ(F) with which a sample of this logit is accepted; exp(logit - maximum) for γ = ε = 0."""
    return torch.sigmoid(score(logits, maximum, epsilon) - gamma)


class RejectionSampling(Trick):
    """Discriminator rejection sampling: a sample that D takes for a fake is drawn again, more likely the surer D is.

    A trained D still sees where G makes too many samples, between two modes for one. Dropping some of them there brings
    the rest nearer to the data. G and its training are left alone.

    When it hurts: what G never makes cannot be accepted. A D that overfits, or was held back, rejects by chance.
    A high percentile drops variety, and costs many passes for each sample.

    Source: Azadi et al. 2019, "Discriminator Rejection Sampling", §3.
    """

    needs = {"log_ratio"}
    conflicts = {
        "bigan": "D judges a sample with its latents there, and is given none",
        "minibatch_discrimination": "D's score of a sample depends on the rest of its batch there",
        "minibatch_stddev": "D's score of a sample depends on the rest of its batch there",
        "packing": "D judges several samples at once there, and says nothing of one",
    }
    cautions = {
        "label_smoothing": "with its targets D's logit is no longer the log of the density ratio",
        "label_flipping": "with its targets D's logit is no longer the log of the density ratio",
        "soft_labels": "with its targets D's logit is no longer the log of the density ratio",
        "instance_noise": "D compares noisy samples while the noise lasts, and judges clean ones here",
    }
    neutral = {"attempts": 1}
    trial = {"burn_in": 64, "attempts": 3}
    strengths = {"percentile": (50.0, 80.0, 95.0)}

    class Config(Trick.Config):
        percentile: Annotated[
            float, Field(ge=0, le=100, description="the percentile of fakes that is accepted with the probability 1/2")
        ] = 80.0
        gamma: Annotated[
            float | None, Field(ge=-1000, le=1000, description="γ, in place of the percentile; 0 is the exact law")
        ] = None
        attempts: Annotated[
            int, Field(ge=1, le=10_000, description="how often a sample is made until one is accepted, at most")
        ] = 100
        burn_in: Annotated[
            int, Field(ge=1, le=1_000_000, description="fakes that are scored first, for D_M and for γ")
        ] = 2048
        epsilon: Annotated[
            float, Field(ge=1e-300, le=1, description="ε, which keeps F finite at the largest logit")
        ] = 1e-14

    config: Config

    @hookimpl
    def sampler(self, sampler: Sampler, ctx: Context) -> Sampler:
        options = self.config
        if options.attempts == 1:
            return sampler

        def made(given: Latents) -> tuple[Tensor, Tensor]:
            images = sampler(given)
            return images, ctx.judge(Batch(images, given.classes, given.condition)).logits[:, 0].double()

        first = torch.cat([made(ctx.latents(CHUNK))[1] for _ in range(-(-options.burn_in // CHUNK))])[: options.burn_in]
        most = first.max()
        gamma: Tensor | float = options.gamma or 0.0
        if options.gamma is None:
            gamma = score(first, most, options.epsilon).quantile(options.percentile / 100)

        def accepted_ones(given: Latents) -> Tensor:
            count = given.z.shape[0]
            images, best = made(given)
            maximum = torch.maximum(most, best.max())
            waiting = ctx.rng.uniform(count) >= acceptance(best, maximum, gamma, options.epsilon)
            for _ in range(options.attempts - 1):
                rows = waiting.nonzero()[:, 0]
                if not len(rows):
                    break
                # drawn for all rows: what a row draws does not depend on which others wait
                again = given._replace(z=ctx.latents(count).z)
                draws = ctx.rng.uniform(count)[rows]
                others, logits = made(_rows(again, rows))
                maximum = torch.maximum(maximum, logits.max())
                accepted = draws < acceptance(logits, maximum, gamma, options.epsilon)
                taken = accepted | (logits > best[rows])
                images = images.index_copy(0, rows[taken], others[taken])
                best[rows[taken]] = logits[taken]
                waiting[rows[accepted]] = False
            return images

        return accepted_ones


def _rows(given: Latents, rows: Tensor) -> Latents:
    classes, condition = (None if each is None else each[rows] for each in given[1:])
    return Latents(given.z[rows], classes, condition)
