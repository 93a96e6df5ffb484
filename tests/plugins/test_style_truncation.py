"""Laws of style truncation: the mean of the sample's own class, a factor in the first layers, in samples alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks.engine import sampling
from gantricks.plugins.style_truncation import StyleTruncation, Truncated, truncate
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import close
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

STYLED = {"network": "style", "style_dim": 4, "mapping_layers": 2, "depth": 2}
SETTINGS: Settings = {
    "": ({}, {}),
    "classes": ({"psi": 0.4, "layers": 2}, {"classes": 3, "generator": {**STYLED, "conditional": True}}),
    "conditions": ({"psi": 0.4}, {"condition": 3, "generator": {**STYLED, "conditioned": True, "condition_dim": 2}}),
}
OVERRIDES = {"": ["generator.network=style"]}
NO_BATCH_NORM, NO_SURGERY, STYLES = "has no batch norm", "surgery on plain ones does not fit", "generator_styles"
REFUSED: dict[str, str] = {
    "class_batch_norm": NO_BATCH_NORM,
    "equalized_lr": STYLES,
    "first_stage": "has one stage",
    "grow": NO_SURGERY,
    "instance_norm": NO_BATCH_NORM,
    "label_injection": "gives every layer the class already",
    "leaky_relu": "has no ReLU",
    "orthogonal_init": STYLES,
    "virtual_batch_norm": NO_BATCH_NORM,
    "weight_norm": "divides the length of its weights out",
}

MISTAKES = {
    "styles go away from the mean": Mistake(
        old="torch.lerp(mean.expand_as(styles), styles, psi)",
        new="torch.lerp(styles, mean.expand_as(styles), psi)",
        caught_by="test_it_is_the_affine_map_in_the_first_layers",
    ),
    "the last layers are truncated": Mistake(
        old="torch.cat([truncated[:, :layers], styles[:, layers:]], 1)",
        new="torch.cat([styles[:, :layers], truncated[:, layers:]], 1)",
        caught_by=("test_it_is_the_affine_map_in_the_first_layers", "trace_law[classes]"),
    ),
    "classes share a mean": Mistake(
        old="classes.new_full((count,), k)",
        new="torch.arange(count) % network.classes",
        caught_by="trace_law[classes]",
    ),
    "rows have the condition of the first": Mistake(
        old="row.expand(count, -1)", new="condition[0].expand(count, -1)", caught_by="trace_law[conditions]"
    ),
    "the mean of the batch": Mistake(
        old="network.styles(self.latents).mean(0, keepdim=True)",
        new="network.styles(self.latents[:2]).mean(0, keepdim=True)",
        caught_by="trace_law",
    ),
    "the run's own generator is changed": Mistake(
        old="network = copy.deepcopy(network)",
        new="pass",
        caught_by="test_training_is_what_it_is_without_the_trick",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The mean is that of styles of fresh latents, of the row's own class or condition; the rest is `truncate`."""
    config = played.trick(name).config
    network = sampling.sampling_generator(played.game, 3)
    (module,) = [change for change in network.style_changes if isinstance(change, Truncated)]
    z = torch.linspace(-1, 1, 5 * network.latent_dim, dtype=torch.float64).reshape(5, -1)
    classes = torch.tensor([2, 0, 1, 2, 2]) if network.conditional else None
    condition = torch.linspace(0, 1, 15, dtype=torch.float64).reshape(5, 3) if network.conditioned else None
    with sampling.eval_mode(network):
        styles = network.styles(z, classes, condition)
        moved = module(styles, network, classes, condition)
        for row in range(5):
            means = []
            for latent in module.latents:
                own = None if classes is None else classes[row : row + 1]
                given = None if condition is None else condition[row : row + 1]
                means.append(network.styles(latent[None], own, given)[0])
            mean = torch.stack(means).mean(0)
            for layer in range(network.style_count):
                cut = config.layers is None or layer < config.layers
                expected = mean + config.psi * (styles[row] - mean) if cut else styles[row]
                close(moved[row, layer], expected[layer], "a truncated style", rtol=1e-9, atol=1e-12)
    assert len(module.latents) == config.latents


def host(**options) -> TrickHost:
    return TrickHost.for_trick(StyleTruncation).with_trick("style_truncation", **options)


@given(st.floats(0, 1), st.integers(1, 4), st.none() | st.integers(1, 5))
def test_it_is_the_affine_map_in_the_first_layers(psi, count, layers):
    styles = torch.arange(count * 4 * 3, dtype=torch.float64).reshape(count, 4, 3).cos()
    mean = torch.arange(12, dtype=torch.float64).reshape(1, 4, 3).sin()
    moved = truncate(styles, mean, psi, layers)
    for layer in range(4):
        factor = psi if layers is None or layer < layers else 1.0
        close(moved[:, layer], factor * styles[:, layer] + (1 - factor) * mean[:, layer], "a style", atol=1e-12)


def test_at_zero_all_samples_of_a_class_are_one():
    one = host(psi=0.0)
    images = sampling.sample(one.game(), 4, seed=1)
    assert np.allclose(images, images[:1], atol=1e-12)
    generator = {**STYLED, "conditional": True}
    given = TrickHost.for_trick(StyleTruncation).but(classes=3, generator=generator)
    images = sampling.sample(given.with_trick("style_truncation", psi=0.0).game(), 6, seed=1)
    assert np.allclose(images[:3], images[3:], atol=1e-12)
    assert not np.allclose(images[0], images[1], atol=1e-6)


def test_training_is_what_it_is_without_the_trick():
    plain, cut = TrickHost.for_trick(StyleTruncation).train(3), host(psi=0.1).train(3)
    before = sampling.sample(cut.game, 4, 0)
    assert not differences(plain.state, cut.state)
    assert same_bits(torch.from_numpy(before), torch.from_numpy(sampling.sample(cut.game, 4, 0)))
    assert not np.array_equal(sampling.sample(plain.game, 4, 0), before)
    assert not len(cut.game.generator.style_changes)


def test_averaged_weights_are_truncated_whoever_stands_before_it():
    alone = TrickHost.for_trick(StyleTruncation)
    before = alone.with_trick("style_truncation", psi=0.5).with_trick("ema")
    after = alone.with_trick("ema").with_trick("style_truncation", psi=0.5)
    images = [sampling.sample(each.train(3).game, 4, 0) for each in (before, after, alone.with_trick("ema"))]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("options", [{"psi": -0.1}, {"psi": 1.1}, {"layers": 0}, {"latents": 0}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValidationError):
        StyleTruncation.Config(**options)
