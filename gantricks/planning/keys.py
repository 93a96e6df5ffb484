"""The tables of a recipe and the core's own keys. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gantricks.optimizer_options import Adam, OptimizerOptions
from gantricks.option_errors import shown
from gantricks.options import Options

MOST_STEPS = 1_000_000_000


def _in_words(pattern: str, refusal: Callable[[str], str]) -> AfterValidator:
    """Return a validator for texts that match `pattern`. `refusal` returns the message for any other text."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError("form", "{words}", {"words": refusal(text)})
        return text

    return AfterValidator(check)


def _name_refusal(text: str) -> str:
    what = "a name is made of letters from A to Z, digits, ., _ and -, and begins with a letter or a digit"
    mended = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return f"{what}, not {shown(text)}" + (f"; write {shown(mended)}" if mended and len(text) <= 60 else "")


def _device_refusal(text: str) -> str:
    numbers = re.findall(r"\d+", text)
    if re.fullmatch(r"(cuda:)?\d+(\s*,\s*(cuda:)?\d+)+", text.strip()):
        hint = f"a run computes on one device; write cuda:{int(numbers[0][:3])}"
    elif text.strip().isdigit():
        hint = f"write cuda:{int(numbers[0][:3])}"
    elif text.strip().lower() in ("gpu", "nvidia", "cuda:", "cuda0", "rocm", "hip"):
        hint = "write cuda, or cuda:0 for the first of several"
    elif text.strip().lower() in ("mps", "metal", "xpu", "tpu", "xla", "npu", "hpu", "vulkan", "dml"):
        hint = "gantricks computes on CPUs and CUDA devices; write cpu"
    else:
        hint = "write auto, cpu, cuda or cuda:N"
    return f"there is no device {shown(text)}; {hint}"


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


_DEVICE = r"auto|cpu|cuda(:\d{1,3})?"


class Top(Options):
    """The keys above the first table."""

    name: Annotated[
        str,
        Field(
            max_length=100,
            description="the run's folder is named for it",
            json_schema_extra={"pattern": f"^{_NAME}$"},
        ),
        _in_words(_NAME, _name_refusal),
    ]
    seed: Annotated[int, Field(ge=0, lt=2**63, description="every random stream of the run derives from it")] = 0


class DataKeys(Options):
    """`[data]`. The source's own keys stand in it too."""

    source: Annotated[str, Field(description="name of a data source")]
    batch_size: Annotated[int, Field(ge=1, le=65536, description="real samples per D step")] = 64


class GeneratorKeys(Options):
    """`[generator]`. The network's own keys stand in it too."""

    network: Annotated[str, Field(description="name of a network")]
    latent_dim: Annotated[int, Field(ge=1, le=65536, description="dimension of z")] = 100
    optimizer: Annotated[OptimizerOptions, Field(description="what trains G")] = Adam()


class DiscriminatorKeys(Options):
    """`[discriminator]`. The network's own keys stand in it too."""

    network: Annotated[str, Field(description="name of a network")]
    optimizer: Annotated[OptimizerOptions, Field(description="what trains D")] = Adam()


class TrainKeys(Options):
    """`[train]`."""

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS, description="generator updates")]
    schedule_steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST_STEPS,
            description="steps that schedules run over, before they stay at their end; left out: all",
        ),
    ] = None
    n_critic: Annotated[int, Field(ge=1, le=1000, description="D steps per G step")] = 1
    reuse_fakes: Annotated[bool, Field(description="the last D step and the G step share one generator forward")] = True
    device: Annotated[
        str,
        Field(description="auto, cpu, cuda or cuda:N", json_schema_extra={"pattern": f"^({_DEVICE})$"}),
        _in_words(_DEVICE, _device_refusal),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "tf32", "bf16", "fp64"],
        Field(description="bf16 is autocast; tf32 is fp32 with coarser products, on a GPU; fp64 is for tests"),
    ] = "auto"
    capture: Annotated[
        Literal["auto", "on", "off"],
        Field(description="play the step as one compiled call; auto: on a GPU, and in runs long enough to repay it"),
    ] = "auto"
    log_every: Annotated[int, Field(ge=1, le=MOST_STEPS, description="steps between two lines of metrics.jsonl")] = 50
    sample_every: Annotated[int, Field(ge=1, le=MOST_STEPS, description="steps between two pictures")] = 500
    checkpoint_every: Annotated[int, Field(ge=1, le=MOST_STEPS, description="steps between two checkpoints")] = 500
    keep: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | Literal["all"],
        Field(description='how many checkpoints are kept, the newest of them; "all": every one'),
    ] = 3

    @property
    def length(self) -> int:
        """The number of steps that schedules run over."""
        return self.schedule_steps or self.steps


class EvaluateKeys(Options):
    """`[evaluate]`. Every table in it is a metric."""

    every: Annotated[
        Annotated[int, Field(ge=1, le=MOST_STEPS)] | Literal["off"],
        Field(description='steps from one measurement to the next while the run trains; "off": none'),
    ] = "off"
    samples: Annotated[
        int, Field(ge=1, le=10_000_000, description="generated samples per metric, unless it has a number of its own")
    ] = 5000

    reals: Annotated[
        Literal["data", "held_out"],
        Field(
            description="what samples are compared with: the data of training, or half of what it holds out; the other "
            "half then teaches the networks that metrics look through"
        ),
    ] = "data"

    def due(self, step: int) -> bool:
        """Return whether the metrics are measured after this step because of its number."""
        return self.every != "off" and step % self.every == 0


SECTIONS: dict[str, type[Options]] = {
    "data": DataKeys,
    "generator": GeneratorKeys,
    "discriminator": DiscriminatorKeys,
    "train": TrainKeys,
}


INSTANCES = {"tricks": "tricks", "evaluate": "metrics", "loggers": "loggers"}
"""The tables of which every table is an instance of a part, and the kind of these parts."""


SELECTORS = {"data": "source", "generator": "network", "discriminator": "network"}
"""The key of each table that says to which part its other keys belong."""
