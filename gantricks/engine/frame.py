"""The tensors of the present step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gantricks.records import Batch, Out

MADE = ("real", "fake", "real_in", "fake_in", "real_out", "fake_out", "real_labels", "fake_labels", "fake_latents")
"""The tensors that a phase produces, in this order."""


class Frame:
    """The tensors that the present step has produced so far. The step writes them, and tricks read them through their
    contexts.

    `updated` is 1 on the device where the phase's player was updated. `updates` holds the same for each player that was
    updated in this step. `targets` are D's labels for reals and fakes in the last D step, and `logits` its outputs, for
    the log.
    """

    __slots__ = (*MADE, "logits", "targets", "updated", "updates")

    real: Batch | None
    fake: Batch | None
    real_in: Batch | None
    fake_in: Batch | None
    real_out: Out | None
    fake_out: Out | None
    real_labels: Tensor | None
    fake_labels: Tensor | None
    fake_latents: Tensor | None
    targets: tuple[Tensor, Tensor] | None

    def __init__(self, healthy: Tensor) -> None:
        self.updated = healthy
        self.updates: dict[str, Tensor] = {}
        self.logits: dict[str, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Forget the previous step or D step, so that a trick cannot read a tensor before it is produced."""
        self.real = None
        self.targets = None
        self.clear_all_but_real()

    def clear_all_but_real(self) -> None:
        self.fake = None
        self.real_in = None
        self.fake_in = None
        self.real_out = None
        self.fake_out = None
        self.real_labels = None
        self.fake_labels = None
        self.fake_latents = None

    def let_go(self) -> None:
        """Forget every tensor of the step, those for the log too."""
        self.clear()
        self.updates, self.logits = {}, {}

    def contents(self) -> tuple[Any, ...]:
        """The contents of the frame after a step."""
        return tuple(getattr(self, name) for name in MADE), self.updated, self.logits

    def fill(self, contents: tuple[Any, ...]) -> None:
        """Set the contents of the frame to those of an earlier step."""
        made, self.updated, self.logits = contents
        for name, value in zip(MADE, made, strict=True):
            setattr(self, name, value)
