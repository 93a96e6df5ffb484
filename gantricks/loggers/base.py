"""The base class of loggers. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gantricks.options import Options

if TYPE_CHECKING:
    from PIL.Image import Image

Outcome = Literal["finished", "stopped", "interrupted", "failed"]
"""How training ends: all its steps are done, a trick has stopped it, a signal has come, or there was an error."""


class Logger:
    """Base class of every logger, found by name: a file named with `--plugin`, or an entry point in the group
    `gantricks.loggers`. The docstring of a subclass is its card.

    A logger passes on what a run tells of itself: to a service, a table, a chat. It comes beside metrics.jsonl,
    TensorBoard's events and the pictures, which every run writes. It is made where a recipe is checked, too, so its
    constructor opens nothing; what is wrong with its options it raises there as a UserError.

    The methods are called between two steps, by the thread that trains, and the run waits for them. Those of this class
    do nothing; override the ones that you need. Whatever a method raises does not end the run: the user is told once,
    and the logger is called no more.
    """

    paths: Collection[str] = ()
    """The options that are paths. The run's recipe has them in full."""

    class Config(Options):
        """The logger's options: its keys in the recipe."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def started(self, run: Path, recipe: Mapping[str, Any], after: int) -> None:
        """Training begins, or goes on after step `after`. What was told of later steps before is void.

        `run` is the folder of the run. Files of the logger's own belong in its subfolder `loggers`, which the logger
        makes. `recipe` is the resolved recipe as plain data.
        """

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take a line of metrics.jsonl: losses and the like, or the figures of metrics, "metric/<metric>/<figure>".

        A value may be infinite or NaN.
        """

    def picture(self, step: int, picture: Image) -> None:
        """Take a picture of samples after `step`. A run that is resumed where it ended draws its last one again."""

    def ended(self, step: int, outcome: Outcome, reason: str) -> None:
        """Training has ended after `step`, and all files of the run are written.

        `reason` is the sentence of the trick that stopped it, the name of the signal, the error in words, or "" for
        "finished". It is called however training ends, unless the process is killed.
        """
