"""The original Inception network. Figures of its features are FID, KID and IS."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gantricks.data.base import Description
from gantricks.data.images import PathText
from gantricks.errors import Problem, UserError
from gantricks.metrics.base import Subject
from gantricks.metrics.extractors.base import Extractor
from gantricks.metrics.extractors.weights import read_weights
from gantricks.options import Options
from gantricks.pictures import to_pixels

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The full checksum. Another file with the same eight digits as in the file's name could be made in minutes."""
BATCH = 32

_FETCH = (
    "fetch weights-inception-2015-12-05-6726825d.pth from the releases of github.com/toshas/torch-fidelity and set "
    "weights to its path"
)
_INSTALL = 'pip install "gantricks[eval]", or take the extractor "classifier"'


class Inception(Extractor):
    """The pooled last layer of the Inception network of 2015, 2,048 features, as torch-fidelity computes it. With it,
    and only with it, the Fréchet distance is FID, the kernel distance KID, and the classifier score IS.

    The weights are a file of yours, since nothing is downloaded: `weights-inception-2015-12-05-6726825d.pth` of
    torch-fidelity's releases, which pytorch-fid calls `pt_inception-2015-12-05-6726825d.pth`; any other file is
    refused. `pip install "gantricks[eval]"` brings torch-fidelity. Images are rounded to 256 levels, and resized to
    299×299 as TensorFlow 1 did; grey is repeated on three channels. On two cores a thousand images take some minutes.
    Papers compute FID of 50,000 samples.

    Of a run that is finished: `gantricks evaluate RUN --samples 50000 --metric frechet_distance --set
    'evaluate.frechet_distance.extractor={name="inception",weights="FILE"}'`.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture; Heusel et al. 2017 for FID, Bińkowski et al.
    2018 for KID, Salimans et al. 2016 for IS; Obukhov et al. 2020, torch-fidelity.
    """

    dimension = 2048
    needs = frozenset({"images"})
    names = {"frechet_distance": "FID", "kernel_distance": "KID", "classifier_score": "IS"}
    paths = ("weights",)

    class Config(Options):
        weights: Annotated[PathText, Field(description="the file of the original weights")]

    config: Config

    def problems(self, description: Description) -> list[str]:
        found = []
        if not find_spec("torch_fidelity"):
            found.append(f"the extractor needs torch-fidelity: {_INSTALL}")
        if not self._path.is_file():
            found.append(f"there is no file of weights at {self._path}: {_FETCH}")
        return found

    def prepare(self, subject: Subject) -> None:
        weights = read_weights(self._path, SHA256, _FETCH)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:  # its package imports torchvision, which may not be installed
            raise UserError(Problem(f"torch-fidelity cannot be imported: {error}", hint=_INSTALL)) from error
        # torch-fidelity unpickles any file; it is given one with only tensors, which were read safely
        safe = io.BytesIO()
        torch.save(weights, safe)
        safe.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):  # building it draws weights, which are then replaced
                network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], safe)
        except RuntimeError as error:
            words = str(error).splitlines()[-1].strip()
            raise UserError(Problem(f"the weights do not fit: {words}", str(self._path), _FETCH)) from error
        self.network = network.to(subject.device)
        self.device = subject.device

    def features(self, images: np.ndarray) -> np.ndarray:
        return self._found(images, 0).double().numpy()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of the network's 1,008 outputs, without its biases, as in the Inception score."""
        return self._found(images, 1).double().softmax(1).numpy()

    @torch.no_grad()
    def _found(self, images: np.ndarray, output: int) -> Tensor:
        pixels = torch.from_numpy(to_pixels(images)).permute(0, 3, 1, 2)
        found = [self.network(part.expand(-1, 3, -1, -1).to(self.device))[output] for part in pixels.split(BATCH)]
        return torch.cat(found).cpu()

    @property
    def _path(self) -> Path:
        return Path(self.config.weights).expanduser()
