"""The device, precision and threads of a run."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gantricks.errors import Problem, UserError


@dataclass(frozen=True)
class Placement:
    """Where and how a run computes.

    `dtype` is the type of parameters, losses and all tensors in hooks; `autocast` is the type inside the networks;
    `threads` is the number of CPU threads. With `tf32`, a GPU multiplies float32 numbers with 10 bits after the point.
    """

    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None
    threads: int = field(default_factory=torch.get_num_threads)
    tf32: bool = False

    @property
    def precision(self) -> str:
        if self.autocast:
            return "bf16"
        return "fp64" if self.dtype == torch.float64 else "tf32" if self.tf32 else "fp32"

    def __str__(self) -> str:
        if self.device.type == "cuda":
            index = self.device.index or 0
            return f"cuda:{index} ({torch.cuda.get_device_name(index)}), {self.precision}"
        return f"{self.device}, {self.threads} thread{'s' * (self.threads != 1)}, {self.precision}"

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Make torch compute as this run does within this context: its threads, its products of float32 numbers, and
        the same convolutions in every run, without which resume would not be bit-identical.
        """
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        wanted: list[tuple[Any, str, bool]] = [
            (products, "allow_tf32", self.tf32),
            (convolutions, "allow_tf32", self.tf32),
            (convolutions, "deterministic", True),
            (convolutions, "benchmark", False),
        ]
        before, threads = [getattr(owner, name) for owner, name, _ in wanted], torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads)
            for owner, name, value in wanted:
                setattr(owner, name, value)
            yield
        finally:
            torch.set_num_threads(threads)
            for (owner, name, _), value in zip(wanted, before, strict=True):
                setattr(owner, name, value)


def place(
    device: str, precision: str, where: str = "", convolutions: bool = False, multiply_adds: int | None = None
) -> Placement:
    """Resolve a recipe's `device` and `precision`.

    A device "auto" is the first CUDA device when there is one. A precision "auto" is bf16 where the hardware supports
    it and both networks have `convolutions`. For small matrices the casts cost more than they save, and bf16 cannot
    distinguish points a few hundredths apart near 1. `threads` depends on `multiply_adds`, the number of them in a
    network's pass over a batch, if it is known. Raises UserError when the device does not exist, or has no TF32 where
    that is asked for.
    """
    chosen = _device(device, where)
    if precision == "tf32" and not (chosen.type == "cuda" and _has_tf32(chosen)):
        raise UserError(Problem(f"{chosen} has no TF32", where, 'write precision = "fp32", or "auto"'))
    if precision == "auto":
        has_units = cuda_has_bf16(chosen) if chosen.type == "cuda" else cpu_has_bf16()
        precision = "bf16" if convolutions and has_units else "fp32"
    return Placement(
        chosen,
        torch.float64 if precision == "fp64" else torch.float32,
        torch.bfloat16 if precision == "bf16" else None,
        threads_for(multiply_adds),
        precision == "tf32",
    )


WORTH_THREADS = 1 << 25
"""The number of multiply-adds in a pass from which several threads share it: about a millisecond of one core."""


def threads_for(multiply_adds: int | None) -> int:
    """Return the number of threads to compute with: torch's default, but one for a pass of few `multiply_adds`.

    A small step consists of thousands of kernels of a few microseconds, and threads wait for each other after each. On
    idle cores more threads gain little, and where a core is busy all threads wait for it. OMP_NUM_THREADS takes
    precedence. Otherwise the number depends only on the recipe and the number of cores, so that running a recipe twice
    on a machine gives the same numbers.
    """
    if multiply_adds is None or multiply_adds >= WORTH_THREADS or os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    return 1


def peak_memory(device: torch.device) -> int | None:
    """Return the largest number of bytes that this process has held: of the GPU's memory, or of the machine's. None
    where the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, `getrusage` includes the process that started this one
        peak = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), flags=re.MULTILINE)
        return int(peak[1]) * 1024 if peak else None
    try:
        import resource
    except ImportError:  # not on this system
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_memory() -> int | None:
    """Return the number of bytes of memory of this machine, or of the container of this process. None where it is
    unknown.
    """
    found = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(limit).read_text(encoding="ascii")))
    return min(found, default=None)


def out_of_memory(error: BaseException) -> str | None:
    """Return the amount in an out-of-memory error ("2.00 GiB", "" where it is not given), or None for any other
    error.
    """
    words = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in words:
        asked = re.search(r"to allocate ([\d.]+ \w+)", words)
        return asked[1] if asked else ""
    return None


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers faster than fp32: by AMX, or by AVX512-BF16 unless it is Intel's.

    Intel's AVX512-BF16 has no more throughput than its fp32. Some virtual machines have it without AMX.
    """
    has = torch.cpu.get_capabilities()
    by_avx = has.get("avx512_bf16", False) and "intel" not in str(has.get("cpu_name", "")).lower()
    return bool(has.get("amx_bf16", False) or by_avx)


AMPERE = (8, 0)
"""The compute capability of the first GPUs that multiply bf16 and TF32 numbers in hardware."""


def cuda_has_bf16(device: torch.device) -> bool:
    """Whether this CUDA device multiplies bf16 numbers in hardware. Older ones only emulate them."""
    return torch.cuda.get_device_capability(device) >= AMPERE


def _has_tf32(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= AMPERE


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
    """Return the number of bytes of samples that may stay on the device. Larger data is read from the memory map in
    batches.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 4
    return 1 << 30
