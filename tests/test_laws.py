"""Every generic law, checked on every trick that ships."""

from __future__ import annotations

import pytest

from gantricks.registry import Registry, shipped
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost

MIXING = {"sample": (1, 8, 8), "discriminator": {"batch_norm": True, "depth": 2}, "batch_size": 6}
CONDITIONAL = {"sample": (1, 8, 8), "classes": 3, "generator": {"conditional": True, "batch_norm": True}}
CONDITIONAL |= {"discriminator": {"conditional": True}}

SETTINGS: dict[str, tuple[dict, dict]] = {
    # trick, or trick/variant: (options at which it does something, changes to the smallest host that fits it)
    "discriminator_dropout": ({"input": 0.2, "hidden": 0.5}, {}),
    "discriminator_dropout/mixing": ({"input": 0.2, "hidden": 0.5}, MIXING),
    "ema": ({"decay": 0.9}, {"sample": (1, 8, 8), "generator": {"batch_norm": True}}),
    "historical_averaging": ({"strength": 0.3}, {}),
    "historical_averaging/conditional": ({"strength": {"start": 0.3, "end": 0.1}}, CONDITIONAL | {"n_critic": 2}),
    "instance_noise": ({"sigma": 0.3}, {}),
    "instance_noise/mixing": ({"sigma": {"start": 0.3, "end": 0.0}}, MIXING),
    "label_flipping": ({"p": 0.3}, {}),
    "label_flipping/clock": ({"mode": "burst", "every": 3, "length": 1}, {"n_critic": 2}),
    "label_flipping/accuracy": (
        {"mode": "burst", "trigger": "accuracy", "threshold": 0.5, "window": 2, "length": 2},
        {"optimizer": {"name": "adam", "lr": 0.1}},
    ),
    "label_smoothing": ({"real": 0.8}, {}),
    "minibatch_discrimination": ({"kernels": 5, "dim": 3}, {}),
    "minibatch_discrimination/conditional": ({"kernels": 5, "dim": 3}, CONDITIONAL),
    "separate_batches": ({}, {}),
    "separate_batches/mixing": ({}, MIXING),
    "soft_labels": ({"real": (0.7, 1.2), "fake": (0.0, 0.3)}, {}),
    "soft_labels/conditional": ({}, CONDITIONAL | {"n_critic": 2, "reuse_fakes": False}),
    "virtual_batch_norm": ({"reference": 6}, {}),
    "virtual_batch_norm/conditional": ({"reference": 6}, CONDITIONAL),
}


def case(setting: str) -> Case:
    options, changes = SETTINGS[setting]
    cls = Registry(installed=False).load("tricks", setting.partition("/")[0]).cls
    return Case(cls, options, TrickHost.for_trick(cls, **changes))


def test_every_shipped_trick_is_in_the_table() -> None:
    assert sorted({setting.partition("/")[0] for setting in SETTINGS}) == shipped("tricks")


@pytest.mark.parametrize("law", LAWS.values(), ids=str)
@pytest.mark.parametrize("trick", SETTINGS)
def test_law(trick: str, law) -> None:
    try:
        law.check(case(trick))
    except NotApplicable as reason:
        pytest.skip(f"{law.id} says nothing about {trick}: {reason}")
    except AssertionError as broken:
        raise AssertionError(f"{trick} breaks the law {law.id!r}: {broken}\nmend: {law.mend}") from broken
