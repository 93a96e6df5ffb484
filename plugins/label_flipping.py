"""Occasional label flipping: some reals are called fake and some fakes real, one by one or all at once.

In expectation the mode "per_image" is smoothing to 1 - p and p, and the best logits are finite.

In the mode "burst" a step is one update of G, and all D steps in it flip together. With `trigger = "every"` bursts come
by the clock: the last `length` of every `every` steps flip. With `trigger = "accuracy"` they come when D is too strong:
it told the true origin in more than `threshold` of the cases, on average over the last `window` steps. Of each step the
last D step counts. Flipped steps do not count, nor do those before them: after a burst at least `window` steps pass
before the next.

The assignment flips, not the target. label_smoothing and soft_labels choose values by it, in either order, so targets
stay in their intervals. G's targets and class labels never flip. The trick is refused with objectives without targets
(hinge, Wasserstein, relativistic).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gantricks import Context, Probability, Schedule, Scheduled, Trick, hookimpl


def flip(is_real: Tensor, flips: Tensor) -> Tensor:
    """The assignment `is_real` (B, 1) bool, the other one where `flips` (bool, broadcast). Its own inverse."""
    return is_real ^ flips


def accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of samples whose true origin D tells, the mean of both kinds, 0-dim float32. A logit of 0 tells nothing.

    `real_logits`, `fake_logits`: (B, 1), of reals and fakes by origin, whatever they are called.
    """
    return ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean()) / 2


def steps_left(left: Tensor, due: Tensor, length: int) -> Tensor:
    """How many steps of a burst lie ahead, after one with `left` (0-dim); `due` (0-dim bool) begins one of `length`."""
    return (left - 1).clamp(min=0) + length * due


class LabelFlipping(Trick):
    """Occasional label flipping: D is sometimes told that reals are fake and fakes are real.

    Wrong labels keep a D that is winning from growing certain, and give G a gradient again. There are two modes. In
    "per_image" each label flips by itself with probability `p`. In "burst" all of D's labels flip for `length` steps
    and then flip back.

    When it hurts: D is taught the wrong thing on purpose, and long bursts undo what it knows. Prefer few and short
    ones.

    Source: GAN hacks list, point 6; the bursts are practitioners' lore.
    """

    needs = {"targets"}
    neutral = {"mode": "per_image", "p": 0.0}
    strengths = {"p": (0.02, 0.05, 0.15)}

    class Config(Trick.Config):
        mode: Annotated[
            Literal["per_image", "burst"], Field(description="flip labels one by one, or all of them for a while")
        ] = "per_image"
        p: Annotated[
            float | Schedule,
            Scheduled(0, 1),
            Field(description="probability that a label flips, in mode per_image"),
        ] = 0.05
        trigger: Annotated[
            Literal["every", "accuracy"], Field(description="a burst comes by the clock, or when D is too strong")
        ] = "every"
        every: Annotated[int, Field(ge=2, le=1_000_000, description="steps from one burst to the next")] = 500
        length: Annotated[int, Field(ge=1, le=100_000, description="steps of a burst")] = 5
        threshold: Annotated[
            Probability, Field(ge=0.5, lt=1, description="running accuracy of D above which a burst begins")
        ] = 0.9
        window: Annotated[int, Field(ge=1, le=10_000, description="steps over which the accuracy of D is averaged")] = (
            50
        )

        @model_validator(mode="after")
        def _every_option_matters(self) -> Any:
            idle = {"trigger", "every", "length", "threshold", "window"}
            where = f'mode = "{self.mode}"'
            if self.mode == "burst":
                idle = {"p", "threshold", "window"} if self.trigger == "every" else {"p", "every"}
                where = f'trigger = "{self.trigger}" of mode = "burst"'
            for name in sorted(idle):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} does nothing with {where}; remove it")
            if self.mode == "burst" and self.trigger == "every" and self.length >= self.every:
                raise ValueError(
                    f"bursts of {self.length} steps every {self.every} leave no step with true labels; "
                    f"write a length below {self.every}"
                )
            return self

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        asks = config.mode == "burst" and config.trigger == "accuracy"
        return {"needs": {"targets", "decision"}} if asks else {}

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.left = torch.zeros((), device=ctx.device)  # steps of the present burst still to play
        self.true_steps = torch.zeros((), device=ctx.device)  # in a row, up to now
        self.accuracies = torch.zeros(self.config.window, device=ctx.device)  # the oldest first

    def tensors(self) -> dict[str, Tensor]:
        if self.config.mode == "per_image":
            return {}
        by_clock = {"left": self.left, "true_steps": self.true_steps}
        return by_clock if self.config.trigger == "every" else {**by_clock, "accuracies": self.accuracies}

    @hookimpl
    def d_assignment(self, is_real: Tensor, ctx: Context) -> Tensor:
        if self.config.mode == "burst":
            return flip(is_real, self.left > 0)
        return flip(is_real, ctx.rng.bernoulli(is_real.shape, ctx.value(self.config.p)))

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        if self.config.mode == "burst" and self.config.trigger == "accuracy":
            real, fake = (out.logits - ctx.undecided for out in (ctx.real_out, ctx.fake_out))
            self.accuracies[0].copy_(accuracy(real, fake))

    @hookimpl
    def after_g_step(self) -> None:
        if self.config.mode == "per_image":
            return
        self.true_steps.add_(1).mul_(self.left == 0)
        if self.config.trigger == "every":
            due = self.true_steps >= self.config.every - self.config.length
        else:
            due = (self.true_steps >= self.config.window) & (self.accuracies.mean() > self.config.threshold + 1e-5)
            self.accuracies.copy_(self.accuracies.roll(-1))
        self.left.copy_(steps_left(self.left, due, self.config.length))

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {} if self.config.mode == "per_image" else {"steps_left": self.left}
