"""The defaults that the papers and lists give, written down a second time."""

from __future__ import annotations

import pytest

from gantricks import Interval, Players, Schedule
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry

DEFAULTS = {
    "batch_size_schedule": {"start": 32, "end": 64},
    "discriminator_dropout": {"input": 0.2, "hidden": 0.5},
    "discriminator_noise": {"input": 2 * 0.3, "hidden": 0.5},
    "ema": {"decay": 0.999, "players": Players("generator")},
    "experience_replay": {"p": 0.5, "capacity": 512},
    "feature_matching": {"norm": "l2"},
    "generator_dropout": {"p": 0.5},
    "instance_noise": {"sigma": Schedule(start=0.1, end=0.0)},
    "label_flipping": {"mode": "per_image", "p": 0.05, "threshold": 0.9},
    "label_smoothing": {"real": 0.9},
    "leaky_relu": {"slope": 0.2},
    "minibatch_discrimination": {"kernels": 100, "dim": 5},
    "minibatch_stddev": {"group": 4},
    "semi_supervised": {"labels": 100, "unsupervised": 1.0},
    "soft_labels": {"real": Interval(0.7, 1.2), "fake": Interval(0.0, 0.3), "clip": False},
    "balance_gate": {"discriminator": 0.9, "generator": 0.9},
}


@pytest.mark.parametrize("trick", DEFAULTS)
def test_defaults_are_the_published_ones(trick: str) -> None:
    assert trick in shipped("tricks")
    config = Registry(installed=False).load("tricks", trick).cls.Config()
    assert {name: getattr(config, name) for name in DEFAULTS[trick]} == DEFAULTS[trick]
