"""How fast the feed hands out images as the data grows, and what memory it takes, against a DataLoader.

    python benchmarks/loading.py                            2,000 to 200,000 images of 32x32, grey
    python benchmarks/loading.py --counts 2000 20000 --size 64 --channels 3 --batch-size 128

Synthetic images in a temporary folder, as the array of bytes that gantricks keeps decoded images in. Each set is fed
from the device ("resident": it fits the budget), from the memory map ("mapped": the budget is zero, and one batch is
gathered ahead), and by PyTorch's DataLoader over the same array in memory, without workers and shuffled, as scripts
have it. All hand out float32 in [-1, 1]. The nine (three sets of three ways) take turns; printed are microseconds per
batch, images per second, and the ratio of images per second to that of the smallest set, which a feed that scales
leaves at 1. Drawing the order of a new epoch is part of it.

Memory is measured in a process of its own for each set: how much the resident set size grows from before the feed
exists to after an epoch's worth of batches (1,000 at most). The pages of a memory map that are in memory belong to the
system's cache, which gives them up when something else needs the room, and are counted apart.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, begin, interleaved, ratio, write
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from gantricks.data.base import Dataset
from gantricks.engine.feed import Feed
from gantricks.planning.device import place

WAYS = ("resident", "mapped", "DataLoader")


class Pictures(TorchDataset):
    """A data set as scripts write it: one image at a time, made a float in [-1, 1]."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.samples[index]).permute(2, 0, 1).float().div(127.5).sub(1.0)


def write_images(path: Path, count: int, size: int, channels: int) -> None:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, channels))
    draw = np.random.default_rng(0)
    for start in range(0, count, 4096):
        part = array[start : start + 4096]
        part[:] = draw.integers(0, 256, part.shape, dtype=np.uint8)
    array.flush()


def batches(way: str, path: Path, batch_size: int) -> Callable[[], Any]:
    """A function that hands out the next batch."""
    mapped = np.load(path, mmap_mode="r")
    if way == "DataLoader":
        loader = DataLoader(Pictures(np.array(mapped)), batch_size, shuffle=True, drop_last=True)

        def endless() -> Any:
            while True:
                yield from loader

        return endless().__next__
    budget = mapped.nbytes if way == "resident" else 0
    return Feed(Dataset(mapped), 0, batch_size, place("cpu", "fp32"), budget=budget).next


def seconds_per_batch(draw: Callable[[], Any], count: int, share: int = 1) -> float:
    """`share`: only one batch out of so many, where a batch takes long."""
    count //= share
    start = time.perf_counter()
    for _ in range(count):
        draw()
    return (time.perf_counter() - start) / count


# ---------------------------------------------------------------- memory


def resident_bytes() -> tuple[int, int]:
    """(anonymous memory, pages of files in memory) of this process, in bytes; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = {name: int(value) for name, value in re.findall(r"^(Rss\w+):\s+(\d+) kB", status, flags=re.MULTILINE)}
    return 1024 * kib["RssAnon"], 1024 * kib["RssFile"]


def memory_of(way: str, path: Path, batch_size: int) -> None:
    """Print how much the two kinds grow from before the feed exists to after an epoch."""
    warm = batches(way, path.with_name("warm.npy"), batch_size)
    for _ in range(3):
        warm()
    before = resident_bytes()
    draw = batches(way, path, batch_size)
    for _ in range(min(1000, len(np.load(path, mmap_mode="r")) // batch_size)):
        draw()
    print(*(b - a for a, b in zip(before, resident_bytes(), strict=True)))


def memory(way: str, path: Path, batch_size: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--memory-of", way, str(path), "--batch-size", str(batch_size)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    own, files = (int(word) / 2**20 for word in answer)
    return {"own_mib": own, "file_pages_mib": files}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--size", type=int, default=32, help="height and width")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--memory-of", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.memory_of:
        memory_of(parsed.memory_of[0], Path(parsed.memory_of[1]), parsed.batch_size)
        return
    shape = {"size": parsed.size, "channels": parsed.channels, "batch_size": parsed.batch_size}
    head = begin(parsed, **shape)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.npy" for count in parsed.counts}
        for count, path in paths.items():
            write_images(path, count, parsed.size, parsed.channels)
        write_images(Path(folder) / "warm.npy", 4 * parsed.batch_size, parsed.size, parsed.channels)
        draws = {(way, count): batches(way, paths[count], parsed.batch_size) for count in paths for way in WAYS}
        contestants = {
            (way, count): partial(seconds_per_batch, draw, share=50 if way == "DataLoader" else 1)
            for (way, count), draw in draws.items()
        }
        times = interleaved(contestants, 1000, parsed.rounds)
        del draws, contestants

        smallest = min(paths)
        print(f"{'images':>9}  {'':11} {'a batch':>12} {'images/s':>12}  to {smallest:,}              its memory")
        for way in WAYS:
            for count, path in paths.items():
                seconds = times[way, count]
                a_batch = statistics.median(seconds)
                figures = results[f"{way}/{count}"] = {
                    "batch_us": 1e6 * a_batch,
                    "images_per_second": parsed.batch_size / a_batch,
                    "speed_against_smallest": ratio(times[way, smallest], seconds),
                    "data_mib": path.stat().st_size / 2**20,
                }
                told = ""
                if Path("/proc/self/status").exists():
                    figures |= memory(way, path, parsed.batch_size)
                    told = f"{figures['own_mib']:8.1f} MiB + {figures['file_pages_mib']:.1f} MiB of the file"
                print(
                    f"{count:9,}  {way:11} {figures['batch_us']:9.1f} µs {figures['images_per_second']:12,.0f} "
                    f"{figures['speed_against_smallest']}  {told}",
                    flush=True,
                )
    write(parsed.out, head, results)


if __name__ == "__main__":
    main()
