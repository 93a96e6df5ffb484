"""Experience replay: the discriminator is shown fakes of earlier steps among the current ones.

Each fake is, with probability `p`, replaced by one drawn from the buffer. Then the current fakes enter the buffer. Once
it is full they overwrite others at random. So a fake stays for about `capacity` / batch size D steps, and some stay
much longer. `capacity` counts samples: the buffer takes the memory of that many, on the device and in every checkpoint.

Batch norm in D sees a blend of generators. Statistics of how well D does on fakes speak of old fakes too.

Only D's step replays. G always learns from its own fakes. Classes travel with their images. The trick goes with every
other.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Batch, Context, Probability, Rng, Trick, hookimpl


def replay(batch: Batch, buffer: Batch, filled: Tensor, p: float, rng: Rng) -> Batch:
    """Each sample with probability `p` replaced by one of the first `filled` of `buffer`, class, condition and all.

    `filled`: 0-dim, a whole number; at 0 the batch stays as it is. Source: Shrivastava et al. 2017, §2.3.
    """
    chosen = rng.bernoulli(batch.size, p) & (filled > 0)
    # u is at most 1 - 2⁻²⁴, so u · filled is rounded to less than filled
    slots = (rng.uniform(batch.size) * filled).long()
    one_per_sample = chosen.reshape(-1, *[1] * (batch.images.dim() - 1))
    images = torch.where(one_per_sample, buffer.images.index_select(0, slots), batch.images)
    batch = batch.with_images(images)
    if batch.classes is not None and buffer.classes is not None:
        classes = torch.where(chosen, buffer.classes.index_select(0, slots), batch.classes)
        batch = batch._replace(classes=classes)
    if batch.condition is not None and buffer.condition is not None:
        condition = torch.where(chosen[:, None], buffer.condition.index_select(0, slots), batch.condition)
        batch = batch._replace(condition=condition)
    return batch


def insert(batch: Batch, buffer: Batch, filled: Tensor, healthy: Tensor, rng: Rng) -> None:
    """Write samples into `buffer` and count them in `filled`, both in place; nothing is written where `healthy` is 0.

    Free slots are filled in order. Once there is none, a run of slots that starts anywhere is overwritten, so that each
    is as likely to go as any other. Of a batch larger than the buffer, its first samples go in.
    """
    capacity, count = buffer.size, min(batch.size, buffer.size)
    start = torch.where(filled < capacity, filled, rng.uniform(()) * capacity).long()
    slots = (start + torch.arange(count, device=filled.device)) % capacity
    for kept, new in zip(buffer, batch, strict=True):
        if kept is not None and new is not None:
            kept.index_copy_(0, slots, torch.where(healthy > 0, new[:count], kept.index_select(0, slots)))
    filled.add_(healthy * count).clamp_(max=capacity)


class ExperienceReplay(Trick):
    """Experience replay: some of the fakes that D sees in its own step are fakes that G made earlier.

    A D that sees only the latest fakes forgets what G did before, and G can return to it. They chase each other around
    the modes. With a buffer of past fakes D has to stay right about G's history.

    When it hurts: D spends part of its effort on fakes that G no longer makes, and tells G less about those it makes
    now. A large `p` or a long memory slows learning.

    Source: GAN hacks list, point 8; Shrivastava et al. 2017, "Learning from Simulated and Unsupervised Images through
    Adversarial Training", §2.3 (which replaces half of each batch).
    """

    neutral = {"capacity": 0}
    fault_safe = True
    strengths = {"p": (0.25, 0.5, 0.75)}

    class Config(Trick.Config):
        capacity: Annotated[int, Field(ge=0, le=65536, description="samples that the buffer holds; 0: no replay")] = 512
        p: Annotated[Probability, Field(description="probability that a fake is replaced by one from the buffer")] = 0.5

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        capacity, network = self.config.capacity, ctx.generator
        images = torch.zeros((capacity, *network.shape), device=ctx.device, dtype=ctx.dtype)
        classes = torch.zeros(capacity, device=ctx.device, dtype=torch.int64) if network.conditional else None
        described = max(network.condition, ctx.discriminator.condition)
        condition = torch.zeros((capacity, described), device=ctx.device, dtype=ctx.dtype) if described else None
        self.buffer = Batch(images, classes, condition)
        self.filled = torch.zeros((), device=ctx.device)

    def tensors(self) -> dict[str, Tensor]:
        named = self.buffer._asdict() | {"filled": self.filled}
        return {name: tensor for name, tensor in named.items() if tensor is not None} if self.config.capacity else {}

    @hookimpl
    def fake_batch(self, batch: Batch, ctx: Context) -> Batch:
        if not self.config.capacity:
            return batch
        self.current = batch
        return replay(batch, self.buffer, self.filled, self.config.p, ctx.rng)

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        # not before: only now is it known whether these fakes are finite
        if self.config.capacity:
            insert(self.current, self.buffer, self.filled, ctx.healthy, ctx.rng)
