"""Batch-size schedule: batches are small early in the run and larger later.

The schedule takes the place of `batch_size` in [data] for the whole run. Each sample still comes once per epoch across
the change.

Sizes above the number of samples are refused. So are sizes that another trick of the recipe cannot work with.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gantricks import Context, Probability, Setting, Trick, hookimpl


def batch_size_at(progress: float, start: int, end: int, at: float) -> int:
    """The batch size: `start` while `progress` (0 in the first step, 1 in the last) is below `at`, then `end`."""
    return start if progress < at else end


class BatchSizeSchedule(Trick):
    """Batch-size schedule: batches hold `start` samples early in the run, and `end` from the share `at` on.

    Small batches give many noisy, cheap updates while the game is far from settled. Later this noise is what keeps
    samples from getting better. Larger batches average it away, much as a lower learning rate does.

    When it hurts: later steps cost more time and memory, so try the larger size first. A larger batch also changes what
    depends on the batch: batch norm's statistics, minibatch layers.

    Source: practitioners' reports (32, then 64); Smith et al. 2018, Don't Decay the Learning Rate, Increase the Batch
    Size.
    """

    replaces = {"batch_size"}
    trial = {"start": 4, "end": 8}

    class Config(Trick.Config):
        start: Annotated[int, Field(ge=1, le=65536, description="samples in a batch at the start")] = 32
        end: Annotated[int, Field(ge=1, le=65536, description="samples in a batch from `at` on")] = 64
        at: Annotated[Probability, Field(description="share of the run at which it changes")] = 0.5

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        return [
            f"{name} = {size} and the data holds {setting.count} samples; write {name} = {setting.count} at most"
            for name, size in (("start", self.config.start), ("end", self.config.end))
            if size > setting.count
        ]

    def batch_sizes(self, setting: Setting) -> tuple[int, ...]:
        return self.config.start, self.config.end

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        ctx.set_batch_size(batch_size_at(ctx.progress, self.config.start, self.config.end, self.config.at))
