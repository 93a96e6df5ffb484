"""Reads weights that others published, from files that are known by their sums."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from gantricks.errors import Problem, UserError


def read_weights(path: Path, sha256: str, mend: str) -> dict[str, Tensor]:
    """The tensors of a file in torch's own format whose sum begins with `sha256`.

    That format can carry code, and it is the only one that these weights are published in. Two locks are on it: bytes
    other than the published ones are refused unread, and `weights_only` rebuilds tensors and nothing else, so that no
    code of the file's runs. Raises UserError with `mend` where the file is missing, or is another one.
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
            return _tensors(file, path, mend)
    except OSError as fault:
        raise UserError(Problem(f"the weights cannot be read: {fault.strerror or fault}", str(path), mend)) from fault


def _tensors(file: BinaryIO, path: Path, mend: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as fault:  # whatever a file that was made to harm brings the reader to
        what = "the file holds something else than tensors, which is not read"
        raise UserError(Problem(what, str(path), mend)) from fault
    return weights


def frozen(network: nn.Module, weights: dict[str, Tensor], path: Path, mend: str) -> nn.Module:
    """`network` with these weights, in eval mode and without gradients. Raises UserError where they do not fit."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as fault:
        words = str(fault).splitlines()[-1].strip()
        raise UserError(Problem(f"the weights do not fit the network: {words}", str(path), mend)) from fault
    return network.eval().requires_grad_(False)
