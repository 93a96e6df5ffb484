"""Auxiliary classifier (AC-GAN): the discriminator also says which class it sees, and the generator makes it right.

D minimises its usual loss plus the class loss on reals and on fakes. The classes of fakes are those that G was given. G
minimises its usual loss plus the class loss of its fakes. `real`, `fake` and `generator` are the weights of these three
class losses. Each is a number or a schedule; the paper has 1 everywhere.

Early fakes do not look like their class yet, and D learns wrong classes from them. With `fake = 0` D learns classes
from reals only.

D need not be given classes: `conditional = false` in [discriminator] is right here. Label tricks, such as smoothing and
flipping, act on real and fake and never on classes. The trick does not go with semi_supervised, which has class logits
of its own.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gantricks import Context, Discriminator, Schedule, Scheduled, Setting, Trick, hookimpl


def class_loss(class_logits: Tensor | None, classes: Tensor | None) -> Tensor:
    """-E log P(C = c | x), 0-dim, float32 at least: `class_logits` (B, K), `classes` (B,) int64.

    Source: Odena et al. 2017, eq. 3, of one batch.
    """
    assert class_logits is not None
    assert classes is not None
    return cross_entropy(class_logits.to(torch.promote_types(class_logits.dtype, torch.float32)), classes)


class AuxiliaryClassifier(Trick):
    """Auxiliary classifier (AC-GAN): D also classifies what it sees, and G is rewarded for samples of the given class.

    A linear layer beside D's head turns D's features into class logits, and the loss of each player gains a class loss.
    Classes make D's features richer and the task of G more structured, and samples improve.

    When it hurts: G is paid for samples that are easy to classify, which leaves the borders between classes empty. With
    many classes G collapses within each. Lower `generator` when that shows, say to 0.1.

    Source: Odena et al. 2017, Conditional Image Synthesis with Auxiliary Classifier GANs; GAN hacks list, point 12.
    """

    needs = {"classes", "generator_conditional"}
    provides = {"class_logits"}
    replaces = {"d_class_head"}
    conflicts = {"semi_supervised": "both give D's class logits a meaning, K classes here and K + 1 there"}
    cautions = {
        "label_injection": "a D that is fed the class has nothing to recognise, and the class loss teaches nothing; "
        'set its players = ["generator"]'
    }
    strengths = {"real": (0.3, 1.0, 3.0), "fake": (0.3, 1.0, 3.0), "generator": (0.3, 1.0, 3.0)}

    class Config(Trick.Config):
        real: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight in D of the class loss on reals")
        ] = 1.0
        fake: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight in D of the class loss on fakes")
        ] = 1.0
        generator: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight in G of the class loss on fakes")
        ] = 1.0

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        if setting.classes == 1:
            return ["the data has one class only, so there is nothing to classify; switch the trick off"]
        return []

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        features, classes = network.feature_dim, ctx.data.classes
        network.class_head = ctx.build("class_head", lambda: nn.Linear(features, classes), like=network)
        return network

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        return {
            "class_real": ctx.value(self.config.real) * class_loss(ctx.real_out.class_logits, ctx.real_in.classes),
            "class_fake": ctx.value(self.config.fake) * class_loss(ctx.fake_out.class_logits, ctx.fake_in.classes),
        }

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        loss = class_loss(ctx.fake_out.class_logits, ctx.fake_in.classes)
        return {"class_fake": ctx.value(self.config.generator) * loss}
