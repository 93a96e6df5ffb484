"""Semi-supervised learning: the discriminator is a classifier of K classes for which fakes are the class K + 1.

D gives K class logits l. A further class, "fake", has the logit 0, so D(x) = Z / (Z + 1) with Z = Σ_k exp(l_k). D
minimises three terms:

- for the few images whose label it may see, the cross-entropy of the K classes;
- for all real images, which must belong to one of the classes, ½ softplus(-log Z);
- for fakes, ½ softplus(log Z).

The halves are those of the official code. The paper's formula has none.

`labels` images in all, the same number of each class, are labelled. `subset_seed` chooses which, and the run's seed has
no part in it. A batch of `labelled_batch` of them goes through D at each of its steps, in a pass of its own. If
`labelled_batch` is left out, it is the size of the batches of reals. Classes of other images are never read.
`unsupervised` weighs the two terms of real and fake. At 0 D is the supervised baseline, with the same network and the
same labels.

Without feature matching G learns what is best for its samples instead, D(G(z)) → 1. Labels of real and fake may be
smoothed or flipped as usual. [tricks.ema] with `players = ["discriminator"]` averages the classifier, and the official
code's numbers are of such an average. A D that is given classes has nothing to recognise.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gantricks import (
    AdversarialLoss,
    Context,
    Discriminator,
    Out,
    Problem,
    Schedule,
    Scheduled,
    Setting,
    Trick,
    UserError,
    hookimpl,
    label_problems,
    labelled_subset,
    positions,
)


def verdict(class_logits: Tensor) -> Tensor:
    """D's logit, (B, 1), of being real: log Σ_k exp(l_k), from the class logits l (B, K); float32 at least.

    With the logit of the class "fake" fixed at 0 the softmax over K + 1 classes gives p(real) = σ(log Σ_k exp(l_k)).
    Source: Salimans et al. 2016, §5.
    """
    return torch.logsumexp(class_logits.to(torch.promote_types(class_logits.dtype, torch.float32)), 1, keepdim=True)


def supervised_loss(class_logits: Tensor, classes: Tensor) -> Tensor:
    """-log p(y | x, real) = log Σ_k exp(l_k) - l_y, (B,): `class_logits` (B, K), `classes` (B,) int64."""
    return cross_entropy(class_logits, classes, reduction="none")


class Verdict(nn.Module):
    """`verdict` as D's head."""

    def forward(self, class_logits: Tensor) -> Tensor:
        return verdict(class_logits)


class SemiSupervised(Trick):
    """Semi-supervised learning: D is a classifier of K classes, trained with few labels, many images and G's fakes.

    To tell real from fake D has to find what real images have in common, and the classes are drawn along those lines.
    On MNIST 100 labels are enough for one error in a hundred. Put [tricks.feature_matching] beside it: the paper's
    classifier is good with it.

    When it hurts: samples look worse than those of a GAN without it. A generator that matches the data perfectly leaves
    D nothing to learn from (Dai et al. 2017). Minibatch discrimination spoils it.

    Source: Salimans et al. 2016, §5, and official code.
    """

    needs = {"classes", "separate_passes"}
    provides = {"class_logits", "targets", "decision", "log_ratio"}
    replaces = {"d_head"}
    conflicts = {
        "auxiliary_classifier": "both give D's class logits a meaning, K classes there and K + 1 here",
        "minibatch_discrimination": 'it "does not work at all" for classifying (Salimans et al. 2016, §5)',
        "discriminator_conditional": "a D that is given the class of each image has nothing to recognise",
        "hinge": "D's logit is that of a probability here, log Σ exp of its class logits, and no margin",
        "wasserstein": "D's logit is that of a probability here, log Σ exp of its class logits, and no critic's value",
        "relativistic": "D's logit is that of a probability here, and the probability is that of one image alone",
    }
    forwards = {"d": 1}
    trial = {"labels": 6}
    strengths = {"unsupervised": (0.3, 1.0, 3.0)}

    class Config(Trick.Config):
        labels: Annotated[
            int, Field(ge=1, le=10_000_000, description="number of labelled images, the same for each class")
        ] = 100
        subset_seed: Annotated[int, Field(ge=0, lt=2**63, description="chooses which images are labelled")] = 0
        labelled_batch: Annotated[
            int | None,
            Field(ge=1, le=65_536, description="labelled images in each D step; left out: as many as reals"),
        ] = None
        unsupervised: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight of the terms of real and fake")
        ] = 1.0

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        return label_problems(self.config.labels, setting.classes, setting.count)

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        features, classes = network.feature_dim, ctx.data.classes
        network.class_head = ctx.build("class_head", lambda: nn.Linear(features, classes), like=network)
        network.head, network.head_reads = Verdict(), "class_logits"
        return network

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        assert ctx.data.class_of_each is not None
        rng = ctx.rng.seeded(self.config.subset_seed)
        try:
            indices = labelled_subset(ctx.data.class_of_each, ctx.data.classes, self.config.labels, rng)
        except ValueError as error:
            place, hint = f"tricks.{ctx.name}.labels", "write fewer labels, or leave that class out of the data"
            raise UserError(Problem(str(error), place, hint)) from error
        self.subset = ctx.data.subset(indices)

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return KPlusOne(self)


class KPlusOne(AdversarialLoss):
    """Both players' losses; `ctx` is that of the trick, whose random stream draws the labelled batches."""

    def __init__(self, trick: SemiSupervised) -> None:
        self.trick = trick

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        subset, options = self.trick.subset, self.trick.config
        batch = subset.take(positions(len(subset), options.labelled_batch or ctx.real.size, ctx.rng))
        class_logits = ctx.discriminate(batch, True).class_logits
        assert class_logits is not None
        assert batch.classes is not None
        half = 0.5 * ctx.value(options.unsupervised)
        return {
            "labelled": supervised_loss(class_logits, batch.classes),
            "unlabelled": half * binary_cross_entropy_with_logits(real.logits, real_labels, reduction="none"),
            "fake": half * binary_cross_entropy_with_logits(fake.logits, fake_labels, reduction="none"),
        }

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": binary_cross_entropy_with_logits(fake.logits, labels, reduction="none")}
