"""Every generic law, checked on every trick that ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks import UserError
from gantricks.registry import Registry, shipped
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost, pair_holds

MIXING = {"sample": (1, 8, 8), "discriminator": {"batch_norm": True, "depth": 2}, "batch_size": 6}
CONDITIONAL = {"sample": (1, 8, 8), "classes": 3, "generator": {"conditional": True, "batch_norm": True}}
CONDITIONAL |= {"discriminator": {"conditional": True}}
CLASSIFIED = {"sample": (1, 8, 8), "generator": {"conditional": True}, "discriminator": MIXING["discriminator"]}
MAX_POOL = {"network": "resnet", "channels": 4, "pool": "max"}

SETTINGS: dict[str, tuple[dict, dict]] = {
    # trick, or trick/variant: (options at which it does something, changes to the smallest host that fits it)
    "auxiliary_classifier": ({}, {}),
    "auxiliary_classifier/mixing": ({"generator": {"start": 0.1, "end": 1.0}}, CLASSIFIED | {"n_critic": 2}),
    "batch_size_schedule": ({"start": 4, "end": 8, "at": 0.4}, {}),
    "batch_size_schedule/mixing": ({"start": 4, "end": 6}, MIXING | {"reuse_fakes": False}),
    "discriminator_dropout": ({"input": 0.2, "hidden": 0.5}, {}),
    "discriminator_dropout/mixing": ({"input": 0.2, "hidden": 0.5}, MIXING),
    "ema": ({"decay": 0.9}, {"sample": (1, 8, 8), "generator": {"batch_norm": True}}),
    "experience_replay": ({"capacity": 12}, {}),
    "experience_replay/conditional": ({"capacity": 5, "p": 0.8}, CONDITIONAL | {"n_critic": 2}),
    "failure_watch": ({"window": 4, "gradient_norm": 0.01}, {}),
    "failure_watch/conditional": ({"window": 4, "samples": 3}, CONDITIONAL | {"n_critic": 2}),
    "feature_matching": ({}, {}),
    "feature_matching/conditional": ({"norm": "l1"}, CONDITIONAL),
    "gradient_clipping": ({"max_norm": 0.1}, {}),
    "generator_dropout": ({}, {}),
    "generator_dropout/conditional": ({"p": 0.2}, CONDITIONAL | {"reuse_fakes": False}),
    "generator_noise": ({}, {}),
    "generator_noise/conditional": ({"sigma": 0.5}, CONDITIONAL | {"reuse_fakes": False}),
    "historical_averaging": ({"strength": 0.3}, {}),
    "historical_averaging/conditional": ({"strength": {"start": 0.3, "end": 0.1}}, CONDITIONAL | {"n_critic": 2}),
    "instance_noise": ({"sigma": 0.3}, {}),
    "instance_noise/mixing": ({"sigma": {"start": 0.3, "end": 0.0}}, MIXING),
    "instance_norm": ({}, {}),
    "instance_norm/discriminator": ({"players": "discriminator"}, MIXING),
    "label_flipping": ({"p": 0.3}, {}),
    "label_flipping/clock": ({"mode": "burst", "every": 3, "length": 1}, {"n_critic": 2}),
    "label_flipping/accuracy": (
        {"mode": "burst", "trigger": "accuracy", "threshold": 0.5, "window": 2, "length": 2},
        {"optimizer": {"name": "adam", "lr": 0.1}},
    ),
    "label_injection": ({}, {"sample": (1, 8, 8), "generator": {"conditional": True, "batch_norm": True}}),
    "label_injection/vectors": ({"dim": 3}, {"n_critic": 2}),
    "label_smoothing": ({"real": 0.8}, {}),
    "leaky_relu": ({"slope": 0.3}, {}),
    "leaky_relu/generator": ({"players": "generator"}, {"sample": (1, 8, 8)}),
    "least_squares": ({}, {}),
    "least_squares/mixing": ({}, MIXING),
    "lr_decay": ({}, {}),
    "lr_decay/sgd": ({}, {"n_critic": 2, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}}),
    "minibatch_discrimination": ({"kernels": 5, "dim": 3}, {}),
    "minibatch_discrimination/conditional": ({"kernels": 5, "dim": 3}, CONDITIONAL),
    "minimax": ({}, {}),
    "minimax/mixing": ({}, MIXING),
    "minibatch_stddev": ({}, {}),
    "minibatch_stddev/conditional": ({"group": 2}, CONDITIONAL | {"n_critic": 2}),
    "n_critic_schedule": ({"start": 3, "end": 1, "at": 0.4}, {}),
    "n_critic_schedule/conditional": ({"start": 1, "end": 2, "at": 0.5}, CONDITIONAL | {"reuse_fakes": False}),
    "separate_batches": ({}, {}),
    "separate_batches/mixing": ({}, MIXING),
    "sgd_discriminator": ({"momentum": 0.5}, {}),
    "soft_labels": ({"real": (0.7, 1.2), "fake": (0.0, 0.3)}, {}),
    "soft_labels/conditional": ({}, CONDITIONAL | {"n_critic": 2, "reuse_fakes": False}),
    "spherical_latents": ({}, {}),
    "spherical_latents/uniform": ({"distribution": "uniform"}, CONDITIONAL),
    "strided_downsampling": ({}, {"sample": (1, 9, 8), "discriminator": MAX_POOL}),
    "virtual_batch_norm": ({"reference": 6}, {}),
    "virtual_batch_norm/conditional": ({"reference": 6}, CONDITIONAL),
    "weight_norm": ({}, {}),
    "weight_norm/conditional": ({}, CONDITIONAL),
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


# ---------------------------------------------------------------- composition

TRICKS = [setting for setting in SETTINGS if "/" not in setting]

REFUSED = {
    # pairs that `check` refuses, and the words in which it does
    ("instance_norm", "virtual_batch_norm"): "generator_batch_norm",
    ("label_smoothing", "soft_labels"): "label_smoothing does not go with soft_labels",
    ("least_squares", "minimax"): "adversarial_loss",
    ("minibatch_discrimination", "minibatch_stddev"): "d_head",
}


def plain_case(trick: str) -> Case:
    return Case(Registry(installed=False).load("tricks", trick).cls, SETTINGS[trick][0], name=trick)


@pytest.mark.parametrize("first", TRICKS)
def test_every_pair_composes_in_both_orders_or_is_refused_for_a_reason(first: str) -> None:
    for second in TRICKS:
        if second == first:
            continue
        reason = REFUSED.get(tuple(sorted((first, second))))
        if reason is None:
            try:
                pair_holds(plain_case(first), plain_case(second))
            except (AssertionError, UserError) as broken:
                raise AssertionError(f"{first}, then {second}: {broken}") from broken
        else:
            with pytest.raises(UserError, match=reason):
                pair_holds(plain_case(first), plain_case(second))


@given(st.lists(st.sampled_from(TRICKS), unique=True, min_size=3, max_size=6), st.integers(0, 1000))
@settings(max_examples=25)
def test_any_set_of_tricks_that_compose_trains_saves_resumes_and_samples(chosen: list[str], seed: int) -> None:
    against = {frozenset(pair) for pair in REFUSED}
    chosen = [a for i, a in enumerate(chosen) if not any(frozenset((a, b)) in against for b in chosen[:i])]
    cases = [plain_case(trick) for trick in chosen]
    host = TrickHost.for_trick(*(c.trick for c in cases), seed=seed, steps=4)
    for c in cases[:-1]:
        host = host.with_trick(c.trick, c.name, **c.options)
    last = replace(cases[-1], host=host)
    LAWS["resume"].check(last)
    LAWS["same-step"].check(last)
    assert np.isfinite(last.with_it.train().game.sample(5, seed=0)).all()
