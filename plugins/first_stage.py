"""First stage: a generator that a run has trained becomes the first stage of one in two stages, and is frozen.

`run` is the folder of that run. Its generator for sampling (averaged weights where the run keeps some), at its newest
checkpoint or the one at `step`, is copied into the first stage when the training begins. From then on the stage is part
of this run's own checkpoints, so that the folder is not needed any more.

The first stage must be what the run has trained: the same options under `first` in [generator], and the same surgery.
List this trick after the surgery, such as conditioning_augmentation, that the run had too. The stage is in eval mode:
its batch norms use what they have seen in their own training, and noise in its layers is off.

Without `run`, the stage is frozen as it was initialised.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from gantricks import (
    Context,
    Generator,
    Problem,
    Setting,
    Trick,
    TwoStageGenerator,
    UserError,
    hookimpl,
    load_generator,
)


def freeze(network: nn.Module) -> None:
    """Put a network in eval mode for good, with weights that are not trained."""
    network.requires_grad_(False)
    network.eval()
    network.train = types.MethodType(_stays, network)  # type: ignore[method-assign]


def _stays(network: nn.Module, mode: bool = True) -> nn.Module:
    return network


class FirstStage(Trick):
    """First stage (StackGAN): the first of G's two stages is taken from a finished run, and stays as it is.

    What a picture shows, and where, is settled at half the size, where that is easy to learn. The second stage starts
    from pictures that are right as a whole, and has only to correct them and to add detail.

    When it hurts: what the first stage has lost, the second seldom finds again. A mode that is missing there is missing
    in the end.

    Source: Zhang et al. 2017, StackGAN, §3.3 and §3.4.
    """

    needs = {"generator_two_stages"}
    conflicts = {
        "class_batch_norm": "the first stage keeps its batch norms, with what they have seen in its own training",
        "virtual_batch_norm": "the first stage keeps its batch norms, with what they have seen in its own training",
    }
    paths = ("run",)

    class Config(Trick.Config):
        run: Annotated[
            str | None, Field(min_length=1, max_length=4096, description="the folder of the run that trained the stage")
        ] = None
        step: Annotated[
            int | None, Field(ge=1, le=1_000_000_000, description="the checkpoint to take; left out, the newest")
        ] = None

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        if setting.begins and self.config.run is not None and not _is_folder(self.config.run):
            return [f"run: there is no folder {self.config.run}; write that of the run that trained the first stage"]
        return []

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        assert isinstance(network, TwoStageGenerator)
        run = self.config.run
        if run is not None and _is_folder(run):  # a run that has begun has the stage in its own checkpoint
            self._take(network.first, run, ctx)
        freeze(network.first)
        return network

    def _take(self, first: Generator, run: str, ctx: Context) -> None:
        try:
            trained = load_generator(run, step=self.config.step)
        except UserError as error:
            where = f"tricks.{ctx.name}"
            raise UserError(*(Problem(f"{p.where}: {p.what}", where, p.hint) for p in error.problems)) from error
        theirs, ours = trained.state_dict(), first.state_dict()
        wrong = sorted(name for name in {*theirs, *ours} if _shape(theirs.get(name)) != _shape(ours.get(name)))
        if wrong:
            few = "; ".join(f"{name} {_told(theirs.get(name))}, here {_told(ours.get(name))}" for name in wrong[:3])
            raise UserError(
                Problem(
                    f"the generator of {run} is not this recipe's first stage: {few}",
                    f"tricks.{ctx.name}",
                    "write the same options under first in [generator], the same latent_dim and data, and list this "
                    "trick after the surgery that the run had too",
                )
            )
        with torch.no_grad():
            for name, tensor in ours.items():
                tensor.copy_(theirs[name])


def _is_folder(run: str) -> bool:
    return Path(run).expanduser().is_dir()


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _told(tensor: torch.Tensor | None) -> str:
    return "does not exist" if tensor is None else f"is {' × '.join(map(str, tensor.shape)) or 'a number'}"
