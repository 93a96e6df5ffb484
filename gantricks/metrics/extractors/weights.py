"""Reads published weights from files with known checksums."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from gantricks.errors import Problem, UserError


def read_weights(path: Path, sha256: str, hint: str) -> dict[str, Tensor]:
    """Return the tensors of a file in torch's own format with the checksum `sha256`, all 64 digits of it.

    That format is a pickle, the only one that is read here, because these weights are published in no other format. The
    bytes are read only if they equal the published ones; in addition `weights_only` rebuilds tensors and calls nothing
    else. Raises UserError with `hint` where the file is missing or another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(Problem(f"the weights cannot be read: {error.strerror or error}", str(path), hint)) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        what = f"not the published weights: the file's sha256 is {found}, not {sha256}"
        raise UserError(Problem(what, str(path), hint))
    try:
        weights: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious file may make the reader raise anything
        what = "the file holds something else than tensors, which is not read"
        raise UserError(Problem(what, str(path), hint)) from error
    return weights


def frozen(network: nn.Module, weights: dict[str, Tensor], path: Path, hint: str) -> nn.Module:
    """Return `network` with these weights, in eval mode and without gradients. Raises UserError where they do
    not fit.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        words = str(error).splitlines()[-1].strip()
        raise UserError(Problem(f"the weights do not fit the network: {words}", str(path), hint)) from error
    return network.eval().requires_grad_(False)
