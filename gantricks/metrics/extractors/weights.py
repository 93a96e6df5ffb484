"""Reads weights that others published, from files that are known by their sums."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from gantricks.errors import Problem, UserError


def read_weights(path: Path, sha256: str, mend: str) -> dict[str, Tensor]:
    """The tensors of a file in torch's own format whose sum begins with `sha256`.

    Such a file is a pickle, the only form these weights are published in. Two locks are on it: bytes other than the
    published ones are refused unread, and `weights_only` rebuilds tensors and nothing else, so that no code of the
    file's runs. Raises UserError with `mend` where the file is missing, or is another one.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if not found.startswith(sha256):
                what = (
                    f"not the published weights: the file's sha256 is {found}, not {sha256}{'…' * (len(sha256) < 64)}"
                )
                raise UserError(Problem(what, str(path), mend))
            file.seek(0)
            weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as fault:
        raise UserError(Problem(f"the weights cannot be read: {fault.strerror or fault}", str(path), mend)) from fault
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as fault:
        raise UserError(
            Problem("the file holds something else than tensors, which is not read", str(path), mend)
        ) from fault
    return weights


def frozen(network: nn.Module, weights: dict[str, Tensor], path: Path, mend: str) -> nn.Module:
    """`network` with these weights, in eval mode and without gradients. Raises UserError where they do not fit."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as fault:
        words = str(fault).splitlines()[-1].strip()
        raise UserError(Problem(f"the weights do not fit the network: {words}", str(path), mend)) from fault
    return network.eval().requires_grad_(False)
