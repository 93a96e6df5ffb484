"""Triple-GAN: a classifier is a third player, and the discriminator judges pairs of an image and a class.

Three players make pairs (x, y). The data has labelled images. G makes images of given classes, (G(y, z), y). The
classifier C gives real images classes, (x, y) with y ~ p_C(y|x). D takes the labelled pairs for real and the others for
fake. With BCE(s, t) = softplus(s) - t s of D's logits s, D minimises

    BCE(labelled, 1) + (1 - α) BCE(of G, 0) + α BCE(of C, 0),

and is best at D = p / (p + (1 - α) p_g + α p_c). G minimises (1 - α) BCE(of G, 1). C learns in D's step, from three
terms:

- the cross-entropy of the labelled images;
- α Σ_y p_C(y|x) log(1 - D(x, y)), the mean over images without labels. It is the exact expectation over the K classes,
  for which D scores each image K times, without gradient. The authors' code has -log D of the likeliest class there,
  times its probability and a further 0.01;
- from the share `generated_from` of the run on, `generated` times the cross-entropy of G's images and their classes.
  Early samples do not look like their class.

`labels` images in all, the same number of each class, are labelled. `subset_seed` chooses which. Every batch of reals
is one of labelled images, and the batch drawn from the data gives C its images: their classes are never read. Label
tricks act on the first two terms of D. [tricks.ema] with `players = ["discriminator"]` averages C too, and
[evaluate.held_out_error] with classifier = "triple_gan.classifier" measures it.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from gantricks import (
    Adam,
    AdversarialLoss,
    Batch,
    Companion,
    Context,
    Discriminator,
    OptimizerOptions,
    Options,
    Out,
    Problem,
    Rng,
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


def drawn_classes(class_logits: Tensor, rng: Rng) -> Tensor:
    """One class for each image, y ~ p_C(y|x), int64 (B,): `class_logits` are (B, K)."""
    upto = class_logits.softmax(1).cumsum(1)
    # rounding can leave the last sum below 1
    return (rng.uniform((len(upto), 1)) >= upto[:, :-1]).sum(1)


def expected_exposure(class_logits: Tensor, scores: Tensor) -> Tensor:
    """E_x Σ_y p_C(y|x) log(1 - D(x, y)), 0-dim, float32 at least: `class_logits` (B, K), D's logits `scores` (B, K).

    No gradient flows to `scores`. Li et al. 2017, §3: C's term of the game, as an expectation and not by a draw.
    """
    dtype = torch.promote_types(class_logits.dtype, torch.float32)
    return -(class_logits.to(dtype).softmax(1) * softplus(scores.detach().to(dtype))).sum(1).mean()


def class_loss(class_logits: Tensor, classes: Tensor | None) -> Tensor:
    """-E log p_C(y|x), 0-dim, float32 at least: `class_logits` (B, K), `classes` (B,) int64."""
    assert classes is not None
    return cross_entropy(class_logits.to(torch.promote_types(class_logits.dtype, torch.float32)), classes)


class ClassifierOptions(Options):
    """What trains the classifier."""

    optimizer: Annotated[OptimizerOptions, Field(description="what trains the classifier")] = Adam()


class TripleGAN(Trick):
    """Triple-GAN: a classifier learns from few labels beside G, and D judges images together with classes.

    A D that both classifies and tells fakes cannot be best at both. Here the roles are apart: D judges pairs, C makes
    pairs of real images, G of classes. The game ends only where all three have the distribution of the data, so C is
    right and G makes what its class says.

    When it hurts: with few labels D knows the labelled images by heart. D scores each image once for every class, which
    is slow with many. Classes must be equally frequent.

    Source: Li et al. 2017, Triple Generative Adversarial Nets, §3 and algorithm 1.
    """

    needs = {"classes", "generator_conditional", "discriminator_conditional"}
    provides = {"targets", "decision"}
    conflicts = {
        "discriminator_conditioned": "D judges images with classes, and the pairs of the classifier have nothing else"
    }
    cautions = dict.fromkeys(
        ("minibatch_discrimination", "minibatch_stddev"),
        "D compares the samples of a batch, and one image with each class is no batch of different samples",
    )
    forwards = {"d": 2}
    trial = {"labels": 6}
    strengths = {"generated": (0.03, 0.1, 0.3)}

    class Config(Trick.Config):
        labels: Annotated[
            int, Field(ge=1, le=10_000_000, description="number of labelled images, the same for each class")
        ] = 100
        subset_seed: Annotated[int, Field(ge=0, lt=2**63, description="chooses which images are labelled")] = 0
        alpha: Annotated[float, Field(gt=0, lt=1, description="α, C's share of the fakes that D judges")] = 0.5
        generated: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight in C of the loss on G's images")
        ] = 0.1
        generated_from: Annotated[float, Field(ge=0, le=1, description="share of the run before that loss begins")] = (
            0.2
        )
        classifier: Annotated[ClassifierOptions, Field(description="the classifier's training")] = ClassifierOptions()

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        return label_problems(self.config.labels, setting.classes, setting.count)

    @hookimpl
    def companions(self, ctx: Context) -> dict[str, Companion]:
        classifier = self.classifier = ctx.build_network("discriminator", "classifier")
        assert isinstance(classifier, Discriminator)
        features, classes = classifier.feature_dim, ctx.data.classes
        classifier.head = ctx.build("classifier.head", lambda: nn.Linear(features, classes), like=classifier)
        return {"classifier": Companion(classifier, self.config.classifier.optimizer, learns_in="d")}

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
    def real_batch(self, batch: Batch, ctx: Context) -> Batch:
        self.unlabelled = batch.images
        return self.subset.take(positions(len(self.subset), batch.size, ctx.rng))

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Pairs(self)

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        options, judged, fakes = self.config, self.unlabelled, ctx.fake
        begun = (ctx.elapsed >= options.generated_from).to(ctx.dtype)
        class_logits = self.classifier(judged).logits
        return {
            "labelled": class_loss(self.classifier(ctx.real.images).logits, ctx.real.classes),
            "exposed": options.alpha
            * expected_exposure(class_logits, self._scores(judged, class_logits.shape[1], ctx)),
            "generated": begun
            * ctx.value(options.generated)
            * class_loss(self.classifier(fakes.images).logits, fakes.classes),
        }

    def _scores(self, images: Tensor, classes: int, ctx: Context) -> Tensor:
        """D's logit of each image with each class, (B, K), without gradient."""
        each = torch.arange(classes, device=ctx.device).repeat(len(images))
        with torch.no_grad():
            out = ctx.discriminate(Batch(images.repeat_interleave(classes, 0), each), True)
        return out.logits.reshape(-1, classes)


class Pairs(AdversarialLoss):
    """Both players' losses; `ctx` is that of the trick, whose random stream draws C's classes."""

    def __init__(self, trick: TripleGAN) -> None:
        self.trick = trick

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        images, alpha = self.trick.unlabelled, self.trick.config.alpha
        with torch.no_grad():
            classes = drawn_classes(self.trick.classifier(images).logits, ctx.rng)
        told = ctx.discriminate(Batch(images, classes), True)
        return {
            "real": binary_cross_entropy_with_logits(real.logits, real_labels, reduction="none"),
            "fake": (1 - alpha) * binary_cross_entropy_with_logits(fake.logits, fake_labels, reduction="none"),
            "classified": alpha * softplus(told.logits),
        }

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        share = 1 - self.trick.config.alpha
        return {"adversarial": share * binary_cross_entropy_with_logits(fake.logits, labels, reduction="none")}
