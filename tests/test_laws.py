"""Every generic law, checked on every trick that ships."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from measured import Measured
from trace_laws import TRACE_LAWS

from gantricks import Trick, UserError
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.engine import sampling
from gantricks.hooks import KINDS
from gantricks.planning.contract import hooks_of
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost, compiled_holds, pair_holds, run_suite

MIXING = {"sample": (1, 8, 8), "discriminator": {"batch_norm": True, "depth": 2}, "batch_size": 6}
CONDITIONAL = {"sample": (1, 8, 8), "classes": 3, "generator": {"conditional": True, "batch_norm": True}}
CONDITIONAL |= {"discriminator": {"conditional": True}}
CLASSIFIED = {"sample": (1, 8, 8), "generator": {"conditional": True}, "discriminator": MIXING["discriminator"]}
MAX_POOL = {"network": "resnet", "channels": 4, "pool": "max"}

SETTINGS: dict[str, tuple[dict, dict]] = {
    # trick, or trick/variant: (options at which it does something, changes to the smallest host that fits it)
    "auxiliary_classifier": ({}, {}),
    "auxiliary_classifier/mixing": ({"generator": {"start": 0.1, "end": 1.0}}, CLASSIFIED | {"n_critic": 2}),
    "balance_gate": ({"discriminator": 0.9, "generator": 0.2, "window": 2}, {}),
    "balance_gate/mixing": ({"discriminator": 0.5, "generator": 1.0, "window": 1}, MIXING | {"n_critic": 2}),
    "batch_size_schedule": ({"start": 4, "end": 8, "at": 0.4}, {}),
    "batch_size_schedule/mixing": ({"start": 4, "end": 6}, MIXING | {"reuse_fakes": False}),
    "discriminator_dropout": ({"input": 0.2, "hidden": 0.5}, {}),
    "discriminator_dropout/mixing": ({"input": 0.2, "hidden": 0.5}, MIXING),
    "early_stopping": ({"every": 2, "patience": 50}, {}),
    "early_stopping/conditional": ({"every": 1, "patience": 50, "min_delta": 0.01}, CONDITIONAL | {"n_critic": 2}),
    "discriminator_noise": ({}, {}),
    "discriminator_noise/mixing": ({"input": 0.2, "hidden": 0.3}, MIXING),
    "ema": ({"decay": 0.9}, {"sample": (1, 8, 8), "generator": {"batch_norm": True}}),
    "ema/both": ({"decay": 0.9, "players": "both", "bias_correction": True}, MIXING | {"n_critic": 2}),
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
    "grow": ({"until": 0.7}, {}),
    "grow/mixing": ({"until": 0.9, "fade": 1.0}, MIXING | {"sample": (2, 16, 12), "n_critic": 2}),
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
    "semi_supervised": ({"labels": 6}, {}),
    "semi_supervised/mixing": (
        {"labels": 9, "labelled_batch": 5, "unsupervised": {"start": 0.5, "end": 1.0}},
        MIXING | {"n_critic": 2},
    ),
    "separate_batches": ({}, {}),
    "separate_batches/mixing": ({}, MIXING),
    "network_swap": ({"keep_every": 1, "capacity": 2, "swap_every": 2, "length": 1}, {}),
    "network_swap/conditional": ({"keep_every": 2, "swap_every": 3, "length": 2}, CONDITIONAL | {"n_critic": 2}),
    "packing": ({"m": 2}, {}),
    "packing/mixing": ({"m": 2}, MIXING | {"n_critic": 2}),
    "packing/resnet": ({"m": 2}, {"sample": (3, 8, 8), "discriminator": {"network": "resnet", "channels": 4}}),
    "sgd_discriminator": ({"momentum": 0.5}, {}),
    "soft_labels": ({"real": (0.7, 1.2), "fake": (0.0, 0.3)}, {}),
    "soft_labels/conditional": ({}, CONDITIONAL | {"n_critic": 2, "reuse_fakes": False}),
    "spherical_latents": ({}, {}),
    "spherical_latents/uniform": ({"distribution": "uniform"}, CONDITIONAL),
    "spherical_latents/unit": ({"distribution": "unit_uniform"}, {}),
    "strided_downsampling": ({}, {"sample": (1, 9, 8), "discriminator": MAX_POOL}),
    "virtual_batch_norm": ({"reference": 6}, {}),
    "virtual_batch_norm/conditional": ({"reference": 6}, CONDITIONAL),
    "weight_norm": ({}, {}),
    "weight_norm/conditional": ({}, CONDITIONAL),
    "weight_norm/data": ({"data_init": 20, "lengths": "heads"}, {"sample": (1, 8, 8), "n_critic": 2}),
}


@lru_cache(2)  # laws share its runs
def case(setting: str) -> Case:
    options, changes = SETTINGS[setting]
    cls = Registry(installed=False).load("tricks", setting.partition("/")[0]).cls
    return Case(cls, options, host_for(cls, **changes))


def host_for(*tricks: type[Trick], **changes: Any) -> TrickHost:
    """The smallest host that fits these tricks; with a metric where one of them wants one."""
    measured = any("metric" in trick.needs for trick in tricks)
    return (Measured if measured else TrickHost).for_trick(*tricks, **changes)


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
        raise AssertionError(f"{trick} breaks the law {law.id!r}: {broken}\nhint: {law.hint}") from broken


@pytest.mark.slow
@pytest.mark.parametrize("trick", SETTINGS)
def test_the_compiled_step_is_the_eager_step(trick: str) -> None:
    try:
        compiled_holds(case(trick))
    except NotApplicable as reason:
        pytest.skip(str(reason))


# ---------------------------------------------------------------- each trick's own law, on a recorded run


def test_every_shipped_trick_has_a_law_of_its_own() -> None:
    assert sorted(TRACE_LAWS) == shipped("tricks")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_trick_alone_keeps_its_own_law(setting: str) -> None:
    TRACE_LAWS[setting.partition("/")[0]](case(setting).with_it.train(), "trick")


MISTAKES = [
    # the setting, and what is written wrong in the trick's source: that run must break its law
    ("auxiliary_classifier", "torch.float32)), classes)", "torch.float32)), classes.flip(0))"),
    ("balance_gate", "mean <= limit", "mean >= limit"),
    ("batch_size_schedule", "progress < at", "progress < at / 2"),
    ("discriminator_dropout", "if self.training else x", "if True else x"),
    ("discriminator_dropout", "1 - p) / (1 - p)", "1 - p)"),
    ("discriminator_dropout", "ctx.rng.fork(name)", "ctx.rng.seeded(0)"),
    ("early_stopping", "self.waited.zero_()\n            ctx.snapshot()", "self.waited.zero_()"),
    ("early_stopping", "gain > min_delta", "gain < min_delta"),
    ("discriminator_noise", "LayerNoise(self.config.input,", "LayerNoise(3 * self.config.input,"),
    ("discriminator_noise", "in blocks[:-1]:", "in blocks:"),
    ("ema", "(9 / (count + 10))", "(10 / (count + 11))"),
    ("ema", "copy_where_(*average.buffers, ctx.updated > 0)", "pass"),
    ("ema/both", "share / -torch.expm1((count + 1) * rate)", "share"),
    ("ema/both", 'copy_where_(*self.discriminator.buffers, ctx.updated_in_step("d") > 0)', "pass"),
    ("experience_replay", "chosen = rng.bernoulli(batch.size, p)", "chosen = rng.bernoulli(1, p)"),
    (
        "experience_replay/conditional",
        "torch.where(chosen, buffer.classes.index_select(0, slots), batch.classes)",
        "batch.classes",
    ),
    ("failure_watch", "if not self.silence[position]:", "if True:"),
    ("feature_matching", "to(dtype).mean(0) - fake.to(dtype).mean(0)", "to(dtype) - fake.to(dtype)"),
    (
        "generator_dropout",
        "return drop(x, self.p, self.rng)",
        "return drop(x, self.p, self.rng) if self.training else x",
    ),
    ("generator_noise", "LayerNoise(self.config.sigma,", "LayerNoise(self.config.sigma**2,"),
    ("generator_noise", "ctx.rng.fork(name)", "ctx.rng.seeded(0)"),
    (
        "gradient_clipping",
        "torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))",
        "gradients[0].norm()",
    ),
    ("grow", "if not (is_real and self.growth.fading):", "if True:"),
    ("grow", 'mode="nearest"', 'mode="bilinear"'),
    ("historical_averaging", "strength + strength", "strength"),
    ("historical_averaging", "updated.to(dtype) / count.to(dtype)", "0.1 * updated.to(dtype)"),
    ("instance_noise", "ctx.value(self.config.sigma)", "ctx.value(self.config.sigma) ** 2"),
    ("instance_noise", "return batch.with_images(", "return batch if ctx.phase == 'g' else batch.with_images("),
    ("instance_norm", "= norm.weight, norm.bias", "= nn.Parameter(torch.ones_like(norm.weight)), norm.bias"),
    ("label_flipping", "is_real ^ flips", "is_real & ~flips"),
    ("label_flipping", "ctx.rng.bernoulli(is_real.shape,", "ctx.rng.bernoulli(1,"),
    ("label_flipping/clock", "self.config.every - self.config.length", "self.config.every"),
    ("label_injection", "self.embedding(self.classes.now)", "self.embedding(0 * self.classes.now)"),
    ("label_smoothing", "labels.masked_fill(is_real, real)", "real * labels + (1 - real) / 2"),
    ("leaky_relu", "nn.LeakyReLU(slope,", "nn.LeakyReLU(0.01,"),
    ("least_squares", "0.5 * (outputs", "(outputs"),
    ("lr_decay", "torch.pow(gamma, progress)", "(1 - (1 - gamma) * progress)"),
    ("minibatch_discrimination", "s.diagonal(dim1=1, dim2=2).zero_()", "s.diagonal(dim1=1, dim2=2)"),
    ("minibatch_stddev", ".square().mean(0)", ".square().sum(0) / (group - 1)"),
    (
        "minimax",
        "-binary_cross_entropy_with_logits(logits, 1 - targets)",
        "binary_cross_entropy_with_logits(logits, targets)",
    ),
    ("n_critic_schedule", "progress < at", "progress <= 1"),
    ("network_swap", 'open * (1 - self.away["g"])', "open"),
    ("network_swap", "copy_(self.live[player], self.present[player])", "pass"),
    ("semi_supervised", "0.5 * ctx.value(options.unsupervised)", "ctx.value(options.unsupervised)"),
    ("semi_supervised", "cross_entropy(class_logits, classes)", "cross_entropy(class_logits, classes.flip(0))"),
    (
        "separate_batches",
        "return ctx.discriminator(*real), ctx.discriminator(*fake)",
        "return __import__('gantricks.engine.step').step.score_jointly(ctx.discriminator, real, fake)",
    ),
    (
        "packing",
        "samples.reshape(size // m, m * channels, *rest)",
        "samples.unflatten(0, (m, -1)).movedim(0, 1).flatten(1, 2)",
    ),
    ("sgd_discriminator", "lr=lr, momentum=momentum", "lr=lr, momentum=0.9"),
    ("soft_labels", "rng.uniform(labels.shape)", "rng.uniform(1)"),
    ("soft_labels", "high = torch.full_like(labels, fake.high)", "high = torch.full_like(labels, real.low)"),
    ("spherical_latents", "normalize(z, dim=1) * math.sqrt(z.shape[1])", "normalize(z, dim=1)"),
    ("strided_downsampling", "nn.Conv2d(channels, channels, window,", "nn.Conv2d(channels, channels, 1,"),
    ("virtual_batch_norm", "moment[:n].mean(0, keepdim=True)", "moment[:n].mean(0, keepdim=True).detach()"),
    ("virtual_batch_norm", "moment[:n].mean(0, keepdim=True)", "moment.mean(0, keepdim=True)"),
    ("weight_norm/conditional", "LengthAndDirection(1 if transposed else 0)", "LengthAndDirection(0)"),
]


@pytest.mark.parametrize(("setting", "right", "wrong"), MISTAKES)
def test_a_mistake_breaks_the_tricks_own_law(setting: str, right: str, wrong: str, monkeypatch) -> None:
    trick = setting.partition("/")[0]
    source = resources.files("gantricks.plugins").joinpath(f"{trick}.py").read_text(encoding="utf-8")
    assert source.count(right) == 1
    module = ModuleType(f"mistaken_{trick}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pydantic looks up annotations
    exec(compile(source.replace(right, wrong), f"{trick}.py with a mistake", "exec"), vars(module))
    (mistaken,) = (c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Trick) and c is not Trick)
    played = replace(case(setting), trick=mistaken).with_it.train()
    with pytest.raises(AssertionError):
        TRACE_LAWS[trick](played, "trick")


def test_every_law_catches_a_mistake() -> None:
    assert {setting.partition("/")[0] for setting, _, _ in MISTAKES} == set(TRACE_LAWS)


@pytest.mark.slow
@pytest.mark.parametrize("trick", shipped("tricks"))
def test_a_trick_passes_at_its_trial_settings(trick: str) -> None:
    """What `gantricks tricks NAME --check` runs."""
    outcomes = run_suite(trick, host=host_for(Registry(installed=False).load("tricks", trick).cls))
    assert all(outcome.ok for outcome in outcomes), [str(outcome) for outcome in outcomes if not outcome.ok]


# ---------------------------------------------------------------- composition

TRICKS = [setting for setting in SETTINGS if "/" not in setting]

REFUSED = {
    # pairs that `check` refuses, and the words in which it does
    ("auxiliary_classifier", "packing"): "packing does not go with class_logits",
    ("grow", "network_swap"): "network_swap does not go with grow",
    ("auxiliary_classifier", "semi_supervised"): "class logits a meaning",
    ("instance_norm", "virtual_batch_norm"): "generator_batch_norm",
    ("label_injection", "packing"): "packing does not go with discriminator_conditional",
    ("label_injection", "semi_supervised"): "nothing to recognise",
    ("label_smoothing", "soft_labels"): "label_smoothing does not go with soft_labels",
    ("least_squares", "minimax"): "adversarial_loss",
    ("least_squares", "semi_supervised"): "adversarial_loss",
    ("minibatch_discrimination", "minibatch_stddev"): "d_head",
    ("minibatch_discrimination", "semi_supervised"): "does not work at all",
    ("minibatch_stddev", "semi_supervised"): "d_head",
    ("packing", "semi_supervised"): "packing does not go with class_logits",
    ("minimax", "semi_supervised"): "adversarial_loss",
}


def plain_case(trick: str) -> Case:
    cls = Registry(installed=False).load("tricks", trick).cls
    return Case(cls, SETTINGS[trick][0], name=trick, trace=TRACE_LAWS[trick])


def pair_of_cases(first: str, second: str) -> tuple[Case, Case, TrickHost]:
    a, b = plain_case(first), plain_case(second)
    return a, b, host_for(a.trick, b.trick)


@pytest.mark.parametrize("first", TRICKS)
def test_every_pair_composes_in_both_orders_or_is_refused_for_a_reason(first: str, refused_pair) -> None:
    for second in TRICKS:
        if second == first:
            continue
        pair = min(first, second), max(first, second)
        if pair not in REFUSED:
            try:
                pair_holds(*pair_of_cases(first, second))
            except (AssertionError, UserError) as broken:
                raise AssertionError(f"{first}, then {second}: {broken}") from broken
        else:
            with pytest.raises(UserError, match=REFUSED[pair]) as refusal:
                pair_holds(*pair_of_cases(first, second))
            refused_pair(*pair, "; ".join(problem.what for problem in refusal.value.problems))


def test_few_pairs_are_refused() -> None:
    assert len(REFUSED) <= 15
    assert all(first < second for first, second in REFUSED)


@pytest.mark.parametrize(("first", "second"), REFUSED)
def test_a_pair_is_refused_for_what_the_tricks_declare_and_for_nothing_else(first: str, second: str) -> None:
    a, b, host = pair_of_cases(first, second)
    for lone, other in ((a, b), (b, a)):
        if not set(lone.trick.conflicts) & set(other.trick.needs):  # what the other needs, the host has
            replace(lone, host=host).with_it.plan()  # not refused: what follows is about the pair
    with pytest.raises(UserError) as refusal:
        replace(b, host=replace(a, host=host).with_it).with_it.plan()
    declared = list(grounds(a, b))
    for problem in refusal.value.problems:
        assert any(ground in problem.what for ground in declared), f"{problem.what}: declared is {declared}"


def grounds(a: Case, b: Case) -> Iterator[str]:
    """What two tricks declare that keeps them apart, in words that `check` uses."""
    for part in set(a.trick.replaces) & set(b.trick.replaces):
        yield f"replace the same part, {part}"
    for hook in set(hooks_of(a.trick)) & set(hooks_of(b.trick)):
        if KINDS[hook] == "choice":
            yield f"provide {hook}, and a recipe has one"
    for one, other in ((a, b), (b, a)):
        for what, reason in one.trick.conflicts.items():
            if what in {other.name, *other.trick.provides, *other.trick.needs}:
                yield reason
        if "adversarial_loss" in hooks_of(other.trick):
            yield from (f"{one.name} needs {need}" for need in set(one.trick.needs) - set(other.trick.provides))


@given(st.lists(st.sampled_from(TRICKS), unique=True, min_size=3, max_size=6), st.integers(0, 1000))
@example(["auxiliary_classifier", "grow", "historical_averaging"], 0)  # growth: weights whose history begins later
@settings(max_examples=25)
def test_any_set_of_tricks_that_compose_trains_saves_resumes_and_samples(chosen: list[str], seed: int) -> None:
    against = {frozenset(pair) for pair in REFUSED}
    chosen = [a for i, a in enumerate(chosen) if not any(frozenset((a, b)) in against for b in chosen[:i])]
    cases = [plain_case(trick) for trick in chosen]
    host = host_for(*(c.trick for c in cases), seed=seed, steps=4)
    for c in cases[:-1]:
        host = host.with_trick(c.trick, c.name, **c.options)
    last = replace(cases[-1], host=host)
    LAWS["resume"].check(last)
    LAWS["same-step"].check(last)
    LAWS["captured"].check(last)
    assert np.isfinite(sampling.sample(last.with_it.train().game, 5, seed=0)).all()
