"""Every generic law, checked on every trick that ships."""

from __future__ import annotations

import pytest

from gantricks.registry import Registry, shipped
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost

IMAGES = {"sample": (1, 8, 8)}

SETTINGS: dict[str, tuple[dict, dict]] = {
    # trick: (options at which it does something, changes to the smallest host that fits it)
    "discriminator_dropout": ({"input": 0.2, "hidden": 0.5}, {}),
    "ema": ({"decay": 0.9}, {"sample": (1, 8, 8), "generator": {"batch_norm": True}}),
    "historical_averaging": ({"strength": 0.3}, {}),
    "instance_noise": ({"sigma": 0.3}, {}),
    "label_flipping": ({"p": 0.3}, {}),
    "label_smoothing": ({"real": 0.8}, {}),
    "minibatch_discrimination": ({"kernels": 5, "dim": 3}, {}),
    "separate_batches": ({}, {}),
    "soft_labels": ({"real": (0.7, 1.2), "fake": (0.0, 0.3)}, {}),
    "virtual_batch_norm": ({"reference": 6}, {}),
}


def case(trick: str) -> Case:
    options, changes = SETTINGS[trick]
    cls = Registry(installed=False).load("tricks", trick).cls
    return Case(cls, options, TrickHost.for_trick(cls, **changes))


def test_every_shipped_trick_is_in_the_table() -> None:
    assert sorted(SETTINGS) == shipped("tricks")


@pytest.mark.parametrize("law", LAWS.values(), ids=str)
@pytest.mark.parametrize("trick", SETTINGS)
def test_law(trick: str, law) -> None:
    try:
        law.check(case(trick))
    except NotApplicable as reason:
        pytest.skip(f"{law.id} says nothing about {trick}: {reason}")
    except AssertionError as broken:
        raise AssertionError(f"{trick} breaks the law {law.id!r}: {broken}\nmend: {law.mend}") from broken
