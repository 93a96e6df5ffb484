"""`gantricks doctor`: reports on this installation and finds what is broken."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

import gantricks
from gantricks.catalogue.imports import distribution, unreadable
from gantricks.catalogue.index import index, shipped
from gantricks.catalogue.kinds import SINGULAR
from gantricks.catalogue.registry import Registry
from gantricks.cli.console import Text, output, write_json
from gantricks.data.images import CACHE_VARIABLE, lasting_cache
from gantricks.errors import UserError
from gantricks.planning.contract import contract_problems
from gantricks.planning.device import cpu_has_bf16, cuda_has_bf16
from gantricks.planning.recipe_files import shipped_recipes
from gantricks.planning.validation import load_recipe

PACKAGES = ("numpy", "pydantic", "pluggy", "Pillow", "safetensors", "tensorboard", "matplotlib", "typer", "rich")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    `state`: "good", "note" for something the user may want to change, "bad" for something broken. `ours` is true where
    gantricks itself is broken.
    """

    topic: str
    what: str
    state: str = "good"
    ours: bool = False


def doctor(json: bool) -> int:
    """Print every finding. Returns the exit status: 1 when gantricks itself is broken."""
    examinations: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _cpu,
        _cuda,
        _cache,
        _shipped,
        _installed,
    )
    findings = [finding for examination in examinations for finding in examination()]
    broken = any(finding.state == "bad" and finding.ours for finding in findings)
    if json:
        write_json({"sound": not broken, "findings": [asdict(finding) for finding in findings]})
        return int(broken)
    from rich.table import Table

    console = output()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    marks = {"good": ("ok", "green"), "note": ("!", "yellow"), "bad": ("broken", "red")}
    topic = ""
    for finding in findings:
        word, style = marks[finding.state]
        table.add_row(
            Text(word, style),
            finding.topic if finding.topic != topic else "",
            Text(finding.what, "" if finding.state == "good" else style),
        )
        topic = finding.topic
    console.print(table)
    return int(broken)


def _versions() -> Iterator[Finding]:
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("versions", f"gantricks {gantricks.__version__}, torch {torch.__version__}, {python}")
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    yield Finding("versions", ", ".join(found))
    if missing:
        yield Finding(
            "versions", f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}", "bad", ours=True
        )


def _cpu() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    name = torch.backends.cpu.get_cpu_capability()
    counted = f"{cores} core{'s' * (cores != 1)}, {threads} thread{'s' * (threads != 1)}, {name} kernels"
    if threads > cores:
        yield Finding("cpu", f"{counted}: more threads than cores is slow; set OMP_NUM_THREADS={cores}", "note")
    else:
        yield Finding("cpu", counted)
    if cpu_has_bf16():
        yield Finding("cpu", 'bf16 faster than fp32: train.precision = "auto" uses it for convolutional networks')
    else:
        yield Finding("cpu", 'bf16 no faster than fp32: train.precision = "auto" is fp32 here')


def _cuda() -> Iterator[Finding]:
    if torch.version.cuda is None:
        yield Finding(
            "cuda",
            "this torch is built without CUDA; for an NVIDIA GPU install the build that pytorch.org/get-started names",
            "note",
        )
        return
    if not torch.cuda.is_available():
        yield Finding(
            "cuda",
            f"torch is built for CUDA {torch.version.cuda} and finds no device; does nvidia-smi list one, is its "
            "driver recent enough, and does CUDA_VISIBLE_DEVICES not hide it?",
            "note",
        )
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        gib = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        own = f"sm_{properties.major}{properties.minor}"
        bf16 = "bf16 in hardware" if cuda_has_bf16(torch.device("cuda", number)) else "no bf16 in hardware, so fp32"
        yield Finding("cuda", f"cuda:{number} {properties.name}, {own}, {bf16}, {gib}")
        if own not in torch.cuda.get_arch_list():
            yield Finding(
                "cuda", f"cuda:{number} is {own}, for which this torch was not built; install another build", "note"
            )
    yield Finding("cuda", f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")


def _cache() -> Iterator[Finding]:
    try:
        folder = lasting_cache()
    except UserError as error:
        yield Finding("cache", " ".join(str(error).split()), "note")
        return
    if folder is None:
        what = f"there is no home folder, so decoded images are not kept; set {CACHE_VARIABLE} to a folder"
        yield Finding("cache", what, "note")
        return
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        kept = sum(path.stat().st_size for path in folder.glob("*.npy")) if folder.is_dir() else 0
        yield Finding("cache", f"{folder} is writable and holds {kept / 2**20:,.0f} MiB of decoded images")
    else:
        what = f"{folder} cannot be written, so no folder of images can be read; set {CACHE_VARIABLE} to another folder"
        yield Finding("cache", what, "note")


def _shipped() -> Iterator[Finding]:
    registry = Registry(installed=False)
    counts, errors = [], []
    for kind, singular in SINGULAR.items():
        names = shipped(kind)
        if names:
            counts.append(f"{len(names)} {singular}{'s' * (len(names) != 1)}")
        for name in names:
            try:
                cls = registry.load(kind, name).cls
            except Exception as error:
                errors.append(f"the {singular} {name!r} cannot be imported: {error}")
                continue
            if kind == "tricks":
                errors += [f"the trick {name!r} breaks the contract: {problem}" for problem in contract_problems(cls)]
        if unlisted := sorted(set(names) ^ set(index()[kind])):
            errors.append(
                f"the index of {kind} is stale about {', '.join(unlisted)}; "
                "python -m gantricks.catalogue.index builds it"
            )
    for name, path in shipped_recipes().items():
        try:
            load_recipe(path, registry=registry)
        except UserError as error:
            errors.append(f"the recipe {name} is wrong: {error}")
    counts.append(f"{len(shipped_recipes())} recipes")
    yield Finding("shipped", ", ".join(counts))
    yield from (Finding("shipped", error, "bad", ours=True) for error in errors)
    try:
        importlib.import_module("gantricks.runs.logs")
    except Exception as error:
        yield Finding("shipped", f"TensorBoard cannot be imported: {error}", "bad", ours=True)


def _installed() -> Iterator[Finding]:
    registry = Registry()
    found = False
    for kind, singular in SINGULAR.items():
        for point in registry.offered(kind):
            found = True
            label = f"the {singular} {point.name!r} of {distribution(point)}"
            if point.name in shipped(kind):
                yield Finding("plugins", f"{label} is hidden by the shipped one", "note")
                continue
            try:
                cls = registry.load(kind, point.name).cls
            except UserError as error:
                yield Finding("plugins", f"{label} is broken: {error.problems[0].what}", "bad")
                continue
            try:
                problems = list(contract_problems(cls)) if kind == "tricks" else []
            except Exception as error:
                problems = [f"its hooks cannot be read: {error}"]
            if problems:
                yield Finding("plugins", f"{label} breaks the contract: {'; '.join(problems)}", "bad")
            else:
                yield Finding("plugins", label)
    if not found:
        yield Finding("plugins", "no installed package offers any")
    yield from (Finding("plugins", sentence, "bad") for sentence in unreadable())
