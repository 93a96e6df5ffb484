"""Failure watch: warns when the logged numbers show one of the usual ways in which a game fails.

The symptoms:

- D's loss stays near 0 (`d_loss`).
- A gradient norm is above `gradient_norm`.
- The variance of D's loss has grown `variance_growth`-fold from the first half of the window to the second.
- G's loss falls steadily: in a share `falling` of all pairs of log lines the later one is lower.
- Samples have collapsed: the mean distance between two of them stays below `distance` times that between real samples.
  This distance is logged, for a batch of `samples` fixed latents.

Values that are not finite stop every run, with or without the trick.

The cost is one pass of G at each log line. After a resume the trick warns of the same things at the same steps. It goes
with every other trick.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Probability, Trick, evidence, hookimpl

SERIES = ("loss/d", "loss/g", "gradient_norm/d", "gradient_norm/g", "sample_distance")
SYMPTOMS = ("d_wins", "d_gradient", "g_gradient", "d_unsteady", "g_falls", "collapse")


def mean_distance(samples: Tensor) -> Tensor:
    """The mean Euclidean distance between two different rows of `samples` (B, …), 0-dim; NaN for fewer than two."""
    rows = samples.flatten(1)
    return torch.pdist(rows.to(torch.promote_types(rows.dtype, torch.float32))).mean()


def falling_share(series: np.ndarray) -> float:
    """The share of pairs of a series (W,) whose later value is the lower one: 1 when it only falls, 1/2 for noise."""
    earlier, later = np.triu_indices(len(series), 1)
    return float(np.mean(series[later] < series[earlier]))


def quoted(trick: str) -> str:
    """A trick's name, with what studies have found out about it."""
    return f"{trick} ({evidence(trick)})"


def symptoms(history: np.ndarray, limits: FailureWatch.Config, real_distance: float) -> dict[str, str]:
    """What is wrong, as sentences by symptom (see `SYMPTOMS`), after the logs of `history` (5, W).

    Its rows are `SERIES`, its columns logs, the newest last; NaN where there is none yet. Only the gradient norms are
    judged by one log, the rest by a full window. `real_distance` is `mean_distance` of real samples.
    """
    d_loss, g_loss, d_norm, g_norm, distance = history
    found = {}
    for player, norm in (("d", d_norm[-1]), ("g", g_norm[-1])):
        if norm > limits.gradient_norm:
            found[f"{player}_gradient"] = (
                f"the norm of {player.upper()}'s gradient is {norm:.3g}; a smaller learning rate or "
                f"{quoted('gradient_clipping')} keeps such steps short"
            )
    if np.isnan(d_loss).any():
        return found

    window = len(d_loss)
    # the absolute value: a loss of D that is far below 0 is one without targets, and says nothing of the kind
    if (abs(d_loss) < limits.d_loss).all():
        found["d_wins"] = (
            f"D's loss has been below {limits.d_loss:g} for {window} logs: G learns nothing from a D that is never "
            f"wrong; weaken D by a lower learning rate, {quoted('label_smoothing')}, {quoted('instance_noise')} or "
            f"{quoted('discriminator_dropout')}"
        )
    before, now = d_loss[: window // 2].var(), d_loss[-(window // 2) :].var()
    if before > 0 and now > limits.variance_growth * before:
        found["d_unsteady"] = (
            f"the variance of D's loss has grown {now / before:.3g}-fold within {window} logs: the game is about to "
            "come apart; lower the learning rates"
        )
    if falling_share(g_loss) >= limits.falling:
        found["g_falls"] = (
            f"G's loss has fallen steadily for {window} logs: G may be fooling a D that has stopped learning; look at "
            "the samples, and strengthen D if they are poor"
        )
    if (distance < limits.distance * real_distance).all():
        found["collapse"] = (
            f"samples are {distance[-1] / real_distance:.2g} times as far apart as real ones, for {window} logs: G has "
            f"collapsed; go back to an earlier checkpoint and try {quoted('minibatch_stddev')} or "
            f"{quoted('minibatch_discrimination')}"
        )
    return found


class FailureWatch(Trick):
    """Failure watch: warns when the losses, gradients or samples show one of the usual signs of a failing game.

    A failing game rarely ends by itself. It goes on for hours and learns nothing. After each log line the trick looks
    at the last `window` of them. It warns once per window and symptom. It only watches: networks, optimizers and random
    streams are bit-identical to a run without it.

    When it hurts: all thresholds are rules of thumb for losses with targets. With Wasserstein and hinge losses D's loss
    may rest near 0 in good health. Switch that warning off there with `d_loss = 0`.

    Source: GAN hacks list, point 10.
    """

    neutral = {}  # at any setting
    trial = {"window": 4, "gradient_norm": 0.01}
    fault_safe = True  # nothing is updated in the step

    class Config(Trick.Config):
        window: Annotated[int, Field(ge=4, le=1000, description="log lines that are looked at together")] = 20
        d_loss: Annotated[float, Field(ge=0, le=1e3, description="D's loss below which D has won; 0: off")] = 0.01
        gradient_norm: Annotated[float, Field(gt=0, le=1e12, description="norm above which a gradient is too long")] = (
            100.0
        )
        variance_growth: Annotated[
            float, Field(gt=1, le=1e6, description="growth of the variance of D's loss that is a sign of failure")
        ] = 10.0
        falling: Annotated[float, Field(gt=0.5, le=1, description="share of falling pairs that is a steady fall")] = 0.9
        distance: Annotated[Probability, Field(description="distance of samples over that of reals; 0: off")] = 0.1
        samples: Annotated[int, Field(ge=2, le=4096, description="samples whose distances are measured")] = 64

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        # on the host, where they are read
        self.history = torch.full((len(SERIES), self.config.window), torch.nan, dtype=torch.float64)
        self.silence = torch.zeros(len(SYMPTOMS), dtype=torch.int64)
        self.given = ctx.latents(self.config.samples)
        count = min(self.config.samples, ctx.data.count)
        # evenly spaced, as data may be sorted by class
        reals = ctx.data.take(torch.arange(count, device=ctx.device) * ctx.data.count // count)
        self.real_distance = float(mean_distance(reals.images))

    @hookimpl
    def log_scalars(self, ctx: Context) -> dict[str, Tensor]:
        network, training = ctx.generator, ctx.generator.training
        network.eval()  # in training mode batch norm's statistics would move
        try:
            return {"sample_distance": mean_distance(network(*self.given))}
        finally:
            network.train(training)

    @hookimpl
    def on_log(self, scalars: dict[str, float], ctx: Context) -> None:
        own = {f"{ctx.name}/{SERIES[-1]}": SERIES[-1]}
        named = {own.get(name, name): value for name, value in scalars.items()}
        self.history.copy_(self.history.roll(-1, 1))
        self.history[:, -1] = torch.tensor([named.get(name, torch.nan) for name in SERIES], dtype=torch.float64)
        self.silence.sub_(1).clamp_(min=0)
        for symptom, sentence in symptoms(self.history.numpy(), self.config, self.real_distance).items():
            position = SYMPTOMS.index(symptom)
            if not self.silence[position]:
                self.silence[position] = self.config.window
                ctx.warn(sentence)

    def tensors(self) -> dict[str, Tensor]:
        return {"history": self.history, "silence": self.silence}
