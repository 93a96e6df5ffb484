"""Where and how a run computes: device, precision, memory format."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gantricks.errors import Problem, UserError


@dataclass(frozen=True)
class Placement:
    """`dtype` is the type of parameters, losses and everything hooks see; `autocast` the type inside the networks."""

    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None

    @property
    def precision(self) -> str:
        return "bf16" if self.autocast else "fp64" if self.dtype == torch.float64 else "fp32"

    def __str__(self) -> str:
        if self.device.type == "cuda":
            index = self.device.index or 0
            return f"cuda:{index} ({torch.cuda.get_device_name(index)}), {self.precision}"
        threads = torch.get_num_threads()
        return f"{self.device}, {threads} thread{'s' * (threads != 1)}, {self.precision}"


def place(device: str, precision: str, where: str = "", convolutions: bool = False) -> Placement:
    """Resolve a recipe's `device` and `precision`.

    A device "auto" is the first CUDA device when there is one. A precision "auto" is bf16 where the hardware computes
    in it; on a CPU only when both networks have `convolutions`, since for small matrices the casts cost more than
    they save. Raises UserError when the device is not there.
    """
    chosen = _device(device, where)
    if chosen.type == "cuda":
        # the same kernels in the same order at every run; without it resume is not bit-identical
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    if precision == "auto":
        gains = torch.cuda.is_bf16_supported() if chosen.type == "cuda" else convolutions and cpu_has_bf16()
        precision = "bf16" if gains else "fp32"
    return Placement(
        chosen,
        torch.float64 if precision == "fp64" else torch.float32,
        torch.bfloat16 if precision == "bf16" else None,
    )


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers in hardware (AVX512-BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def _device(device: str, where: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        there = "this machine has no CUDA device" if not count else f"CUDA devices here: 0 to {count - 1}"
        raise UserError(Problem(f"{device} is not there; {there}", where, 'write device = "auto" or "cpu"'))
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def resident_budget(device: torch.device) -> int:
    """How many bytes of samples may live on the device; more is read from the memory map, a batch at a time."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 4
    return 1 << 30
