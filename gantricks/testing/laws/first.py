"""The first laws: a trick plays, keeps the contract, and has an effect."""

from __future__ import annotations

from unittest import mock

import torch

from gantricks.engine.guard import NonFinite
from gantricks.planning.contract import contract_problems, hooks_of
from gantricks.testing.case import LAWS, Case, NotApplicable, law, samples_of
from gantricks.testing.instruments import (
    Drawer,
    RefusedGenerator,
    global_generators_at_rest,
    global_settings_kept,
)
from gantricks.testing.record import differences, same_bits
from gantricks.trick import FACTS


@law("plays", "mend what it raises here; the other laws are checked once it plays", presumes=())
def _plays(case: Case) -> None:
    if list(contract_problems(case.trick)):
        raise NotApplicable("its hooks break the contract, which is a law of its own")
    whole = case.whole
    fault = whole.played.game.non_finite()
    assert fault is None, f"in step {fault.step}, {told(fault)} is not finite"
    for name, tensors in whole.state.items():
        for key, tensor in tensors.items():
            assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), f"{name}/{key} is not finite"
    assert torch.isfinite(whole.samples).all(), "its samples are not finite"


def told(found: NonFinite) -> str:
    return " and ".join(map(found.in_words, found.names))


@law("contract", "name and sign hooks as in gantricks.hooks, and write a card; give options a default", presumes=())
def _contract(case: Case) -> None:
    problems = list(contract_problems(case.trick))
    assert not problems, "; ".join(problems)
    assert hooks_of(case.trick), "it implements no hook"
    assert case.trick.__doc__, "it has no card: write a class docstring"
    for name, option in case.trick.Config.model_fields.items():
        assert option.description, f"the option {name!r} has no description"
        assert not option.is_required(), f"the option {name!r} has no default"
    for name, levels in case.trick.strengths.items():
        assert name in case.trick.Config.model_fields, f"strengths names {name!r}, which is no option"
        assert len(levels) == 3, f"strengths has {len(levels)} values of {name!r}: weak, moderate and strong are wanted"
    strong = [case.trick.Config(**{name: v[i] for name, v in case.trick.strengths.items()}) for i in range(3)]
    assert not case.trick.strengths or case.trick.Config() in strong, "none of its strengths is the default"
    assert not case.trick.strengths or len(set(map(repr, strong))) == 3, "two of its strengths are the same"
    conventions = [name for name, known in LAWS.items() if known.convention]
    for name, reason in case.instance.deliberate.items():
        assert name in conventions, f"deliberate names {name!r}, and not one of {', '.join(conventions)}"
        assert reason, f"deliberate gives no reason for {name!r}"
    asked = next(planned.trick for planned in case.with_it.plan().tricks if planned.name == case.name)
    added = vars(asked).keys() - vars(case.instance).keys()
    assert not added, f"problems() sets {', '.join(sorted(added))}: checking a recipe changes nothing of a trick"
    said = case.trick.facts(case.instance.config)
    for fact in FACTS:
        expected = said.get(fact, getattr(case.trick, fact))
        assert getattr(case.instance, fact) == expected, (
            f"{fact} depends on the options and is not among what facts(config) returns"
        )


@law("neutral", "at its neutral setting the trick must compute nothing that changes a value, or declare neutral = None")
def _neutral(case: Case) -> None:
    if case.trick.neutral is None:
        raise NotApplicable("it declares no neutral setting")
    neutral = case.without.with_trick(case.trick, case.name, **case.trick.neutral).train()
    changed = differences(neutral.state, case.plain.state, besides=("tricks",))
    assert not changed, f"at {dict(case.trick.neutral)} these differ from a run without it: {changed[:3]}"
    assert same_bits(samples_of(neutral.game), case.plain.samples), "samples differ"


@law("active", "the settings under test must change something, or the other laws are checked on nothing")
def _active(case: Case) -> None:
    changed = differences(case.whole.state, case.plain.state, besides=("tricks",))
    watches = set(hooks_of(case.trick)) <= _WATCHING
    exact = set(hooks_of(case.trick)) <= {"d_scores", "play"}
    seen = changed or watches or exact or not same_bits(case.whole.samples, case.plain.samples)
    assert seen, f"a run of {case.with_it.steps} steps with it is the run without it, bit for bit"


_WATCHING = {
    "on_setup",
    "on_run_start",
    "on_boundary",
    "log_scalars",
    "on_log",
    "on_metrics",
    "on_finish",
    "on_run_end",
}
"""Hooks that only watch: a trick with no others need not change a number."""


@law("stream", "draw from ctx.rng only: never from torch's, numpy's or Python's global generators")
def _stream(case: Case) -> None:
    with global_settings_kept(), global_generators_at_rest(), mock.patch.object(torch, "Generator", RefusedGenerator):
        beside = case.with_it.with_trick(Drawer, "drawer").train()
    whole = case.whole  # without RefusedGenerator: a generator of its own was reported above
    again = case.with_it.train()
    if differences(whole.state, again.state):
        return  # a run that is not repeatable is reported by the law "seed"
    assert not differences(whole.state, beside.state), "another trick's draws changed this one's"
