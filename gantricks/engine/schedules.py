"""The progress of the run, and the present value of each number and schedule in the options."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gantricks.options import Schedule


class Schedules:
    """Values at the present step of a run of `length` steps, of which `finished` are done.

    `progress` is 0 in the first step and 1 from step number `length` on. It is a host number; `elapsed` is the same as
    a 0-dim tensor on the device.
    """

    def __init__(self, length: int, device: torch.device, dtype: torch.dtype) -> None:
        self.length = length
        self.finished = 0
        self.progress = 0.0
        self.elapsed = torch.zeros((), device=device, dtype=dtype)
        self._device, self._dtype = device, dtype
        self._constants: dict[float, Tensor] = {}
        self._scheduled: dict[Schedule, Tensor] = {}

    def move_to(self, finished: int) -> None:
        self.finished = finished
        self.progress = min(finished / (self.length - 1), 1.0) if self.length > 1 else 1.0
        self.elapsed.fill_(self.progress)
        self._scheduled.clear()

    def value(self, option: float | Schedule) -> Tensor:
        """A number or a schedule as a 0-dim tensor on the device, at the present step."""
        if isinstance(option, Schedule):
            if option not in self._scheduled:
                weight = self.elapsed  # never above 1
                if option.until < 1:
                    # tensors on both sides, because torch takes longer to wrap a number than to divide
                    weight = torch.minimum(weight / self._constant(option.until), self._constant(1.0))
                # lerp meets both ends exactly
                self._scheduled[option] = torch.lerp(self._constant(option.start), self._constant(option.end), weight)
            return self._scheduled[option]
        return self._constant(option)

    def prepare(self, options: Iterable[object]) -> None:
        """Copy the numbers of the tricks' options to the device now, so that the step copies nothing from the host."""
        for option in options:
            if isinstance(option, Schedule):
                for number in (option.start, option.end, option.until, 1.0):
                    self._constant(number)
            elif isinstance(option, float):
                self._constant(option)

    def _constant(self, number: float) -> Tensor:
        if number not in self._constants:
            self._constants[number] = torch.tensor(number, device=self._device, dtype=self._dtype)
        return self._constants[number]
