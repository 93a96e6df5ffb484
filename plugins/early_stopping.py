"""Early stopping: the run ends when a metric has stopped improving, with the state in which it was best.

The metric is measured on the state at hand, every `every` steps and once more at the end. A figure is the new best if
it is better than the best so far by more than `min_delta`. The state that has it is kept. Whether higher or lower is
better is the metric's own.

However the run ends, the best state then comes back to the bit: weights, buffers, both optimizers, the tensors of every
other trick. The last picture and the last checkpoint show it. The command and the manifest tell the step that it is
from. A run that has ended in this way does not train on. Up to its end, training is bit-identical to a run without the
trick. The cost is the measurements and one more copy of everything.

A figure that was picked is a little too good. So by default the trick watches the metric on samples of its own
(`stream`), and `evaluate` and `ablate` measure others. With `stream = "evaluation"` it picks the very figure that
`evaluate` finds with the run's seed: do not report that one. Either way it picks by the metric that is compared, which
a run without the trick does not.

List it first in the recipe. Then it measures what the step has left, and not what other tricks prepare for the next
one. Where the recipe has a schedule, a run that stops early has not seen all of it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Setting, Trick, hookimpl


def improves(figure: float, best: float, better: str, min_delta: float) -> bool:
    """Whether `figure` is better than `best` by more than `min_delta`; `better` is "higher" or "lower".

    NaN is never better.
    """
    gain = figure - best if better == "higher" else best - figure
    return gain > min_delta


class EarlyStopping(Trick):
    """Early stopping: ends the run when a metric has not improved for a while, and brings back the best state.

    Samples of a GAN get worse again, and losses do not tell when: they say how D and G stand to each other, not how
    good samples are. So `metric` is measured every `every` steps. The run stops after `patience` measurements in a row
    without a new best.

    When it hurts: a metric of few samples is noisy, and the best of many noisy figures is partly luck. Measure more
    samples, or set `min_delta`. A lost mode that the metric cannot see goes unnoticed.

    Source: practitioners' reports; Prechelt 1998, Early Stopping - But When?
    """

    needs = {"metric"}
    replaces = {"final_state"}
    fault_safe = True
    cautions = {"grow": "listed after it, early_stopping measures networks whose newest block has not been trained"}
    trial = {"every": 2, "patience": 50}

    class Config(Trick.Config):
        metric: Annotated[
            str | None, Field(description="name of a metric in [evaluate]; left out: the first one there")
        ] = None
        every: Annotated[int, Field(ge=1, le=10_000_000, description="steps from one measurement to the next")] = 1000
        patience: Annotated[
            int, Field(ge=1, le=10_000, description="measurements in a row without an improvement that end the run")
        ] = 10
        min_delta: Annotated[
            float, Field(ge=0, le=1e6, description="what a figure must gain to count as an improvement")
        ] = 0.0
        stream: Annotated[
            Literal["own", "evaluation"],
            Field(
                description='samples it is measured on: "own" ones, or those that evaluation draws with the run\'s seed'
            ),
        ] = "own"

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        if not setting.metrics:
            return []  # that it needs one has been said
        metric = self.config.metric
        if metric and metric not in setting.metrics:
            return [f"there is no metric {metric!r} in [evaluate]; it has: {', '.join(setting.metrics)}"]
        if self.config.every > setting.steps:
            return [
                f"every = {self.config.every} measures once, at the end of a run of {setting.steps} steps; write less"
            ]
        return []

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.metric = self.config.metric or ctx.metrics[0]
        self.better = ctx.better(self.metric)
        # on the host, where they are read
        self.best = torch.full((1,), -math.inf if self.better == "higher" else math.inf, dtype=torch.float64)
        self.best_step, self.measured, self.waited, self.ended = (torch.zeros((), dtype=torch.int64) for _ in range(4))

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        if self.ended:
            ctx.stop(f"the run has ended already, with its best state, that after step {int(self.best_step):,}")
            return
        if ctx.step == 0:
            ctx.snapshot()  # what it takes of memory, it takes from the start
        elif ctx.step % self.config.every == 0:
            self._measure(ctx)
            if self.waited >= self.config.patience:
                ctx.stop(
                    f"{self.metric} has not improved on {self.best.item():.6g}, that after step "
                    f"{int(self.best_step):,}, in {int(self.waited)} measurements"
                )

    @hookimpl
    def on_finish(self, ctx: Context) -> None:
        if self.ended or not ctx.healthy:
            return
        self._measure(ctx)
        if self.best_step:
            ctx.restore()
        self.ended.fill_(1)

    def _measure(self, ctx: Context) -> None:
        """Measure the state at hand, unless that has been done, and keep it if it is the best so far."""
        if self.measured == ctx.step or not ctx.healthy:
            return
        figure = ctx.evaluate(self.metric, own_samples=self.config.stream == "own")
        self.measured.fill_(ctx.step)
        if improves(figure, self.best.item(), self.better, self.config.min_delta):
            self.best.fill_(figure)
            self.best_step.fill_(ctx.step)
            self.waited.zero_()
            ctx.snapshot()
        else:
            self.waited.add_(1)

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {"best": self.best[0], "best_step": self.best_step, "waited": self.waited}

    def tensors(self) -> dict[str, Tensor]:
        names = ("best", "best_step", "measured", "waited", "ended")
        return {name: getattr(self, name) for name in names}
