"""The kit tested on itself: every wrong trick here is caught, by the check that is named for its mistake."""

from __future__ import annotations

import random
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pydantic import Field

from gantricks import Batch, Trick, hookimpl
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost, run_suite, trick_suite
from gantricks.testing import strategies as gs

WRONG: dict[str, tuple[str, TrickHost | None, type[Trick]]] = {}
"""What is wrong: (the check that must catch it, the host it is tried in, the trick)."""


def wrong(check: str, host: TrickHost | None = None) -> Any:
    def add(cls: type[Trick]) -> type[Trick]:
        name = "".join(" " + c.lower() if c.isupper() else c for c in cls.__name__).strip()
        WRONG[name] = (check, host, cls)
        return cls

    return add


class Noise(Trick):
    """Noise on D's targets."""

    class Config(Trick.Config):
        strength: Annotated[float, Field(ge=0, description="standard deviation")] = 0.1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + self.config.strength * ctx.rng.normal(labels.shape)


class Counting(Trick):
    """Targets that sink with a counter on the device: right, and the base of wrong ones."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros((), device=ctx.device)

    def tensors(self):
        return {"count": self.count}

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.01 * self.count

    @hookimpl
    def after_g_step(self, ctx):
        self.count.add_(1)


# ---------------------------------------------------------------- randomness


@wrong("stream")
class TorchsGlobalGenerator(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + 0.1 * torch.randn_like(labels)


@wrong("stream")
class NumpysGlobalGenerator(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + 0.1 * np.random.rand()


@wrong("stream")
class PythonsGlobalGenerator(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + 0.1 * random.random()


@wrong("seed")
class AGeneratorOfItsOwn(Noise):
    """Wrong."""

    generator = torch.Generator()

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + 0.1 * torch.randn(labels.shape, generator=self.generator, dtype=labels.dtype)


# ---------------------------------------------------------------- values handed on


@wrong("fold")
class WritesIntoTheLabels(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels.mul_(0.9)


@wrong("fold")
class NarrowsToFloat32(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return (0.9 * labels).float()


@wrong("fold")
class LeavesClassesBehind(Noise):
    """Wrong."""

    needs = {"classes"}

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return Batch(batch.images * 0.9)


@wrong("fold")
class DropsASample(Noise):
    """Wrong."""

    @hookimpl
    def fake_batch(self, batch, ctx):
        return Batch(batch.images[1:])


@wrong("active")
class ForgetsToReturn(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        labels * 0.9


@wrong("active")
class DoesNothing(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels


@wrong("neutral")
class NeutralIsNotNeutral(Noise):
    """Wrong."""

    neutral = {"strength": 0.0}

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels * 0.9 + self.config.strength


# ---------------------------------------------------------------- state


@wrong("resume")
class ForgetsItsState(Counting):
    """Wrong."""

    def tensors(self):
        return {}


@wrong("in-place")
class RebindsItsState(Counting):
    """Wrong."""

    @hookimpl
    def after_g_step(self, ctx):
        self.count = self.count + 1


@wrong("resume")
class CountsInPython(Counting):
    """Wrong."""

    steps = 0

    def tensors(self):
        return {}

    @hookimpl
    def d_labels(self, labels, ctx):
        self.steps += 1
        return labels - 0.01 * torch.full_like(labels, self.steps)


@wrong("same-step")
class BranchesOnTheStepNumber(Counting):
    """Wrong."""

    steps = 0

    @hookimpl
    def d_labels(self, labels, ctx):
        self.steps += 1
        return labels * 0.9 if self.steps % 4 == 0 else labels - 0.01 * self.count


@wrong("in-place")
class ScalarStateInFloat64(Counting):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros((), dtype=torch.float64)


@wrong("in-place")
class AllocatesStateLate(Counting):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.kept = {}

    def tensors(self):
        return self.kept

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.01 * self.kept.setdefault("count", torch.zeros(()))

    @hookimpl
    def after_g_step(self, ctx):
        self.kept["count"].add_(1)


@wrong("fault")
class ClaimsToBeSafeFromFaults(Counting):
    """Wrong."""

    fault_safe = True


# ---------------------------------------------------------------- the host


@wrong("no-sync")
class CallsItem(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels * (0.9 + 0 * labels.mean().item())


@wrong("no-sync")
class AsksForTheTruthOfATensor(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels * 0.9 if labels.mean() > 0.5 else labels


@wrong("no-sync")
class ListsATensor(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels * (0.9 + 0 * len(labels.tolist()))


@wrong("no-sync")
class GoesByTheCpu(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels.cpu() * 0.9


@wrong("no-sync")
class AShapeThatDependsOnValues(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels * 0.9 + 0 * labels[labels > 0.5].sum()


# ---------------------------------------------------------------- the other player, gradients


@wrong("other-player")
class MovesTheGeneratorInTheDStep(Noise):
    """Wrong."""

    @hookimpl
    @torch.no_grad()
    def after_d_step(self, ctx):
        for parameter in ctx.generator.parameters():
            parameter.mul_(0.999)


@wrong("other-player")
class GivesTheGeneratorGradientsInTheDStep(Noise):
    """Wrong."""

    @hookimpl
    def after_d_backward(self, ctx):
        for parameter in ctx.generator.parameters():
            parameter.grad = torch.ones_like(parameter)


@wrong("other-player")
class LeavesTheGeneratorFrozen(Noise):
    """Wrong."""

    @hookimpl
    def after_g_step(self, ctx):
        ctx.generator.head.requires_grad_(False)


@wrong("gradients")
class DetachesWhatDSees(Noise):
    """Wrong."""

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return batch.detach().with_images(0.9 * batch.images.detach())


@wrong("gradients")
class AGradientThatIsNoNumber(Noise):
    """Wrong."""

    @hookimpl
    def after_d_backward(self, ctx):
        ctx.discriminator.head.weight.grad.div_(0)


# ---------------------------------------------------------------- evaluation, cost, corners


@wrong("evaluation")
class SamplesAreNoisy(Noise):
    """Wrong."""

    @hookimpl
    def transform_generator(self, network, ctx):
        network.head.register_forward_hook(lambda *parts: parts[-1] + 0.1 * torch.randn_like(parts[-1]))
        return network


@wrong("evaluation")
class SamplingMovesTheWeights(Noise):
    """Wrong."""

    @hookimpl
    @torch.no_grad()
    def sampling_generator(self, network, ctx):
        next(network.parameters()).mul_(0.99)
        return network


@wrong("cost")
class AForwardPassThatIsNotDeclared(Noise):
    """Wrong."""

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"again": 0.1 * ctx.discriminate(ctx.real, True).logits.mean()}


@wrong("corners")
class DividesByTheBatchLessOne(Noise):
    """Wrong."""

    @hookimpl
    def d_loss_terms(self, ctx):
        logits = ctx.real_out.logits
        return {"spread": (logits - logits.mean()).square().sum() / (logits.shape[0] - 1)}


# ---------------------------------------------------------------- the contract


@wrong("contract")
class NoCard(Noise):
    pass


@wrong("contract")
class AnOptionWithoutDescription(Noise):
    """Wrong."""

    class Config(Trick.Config):
        strength: float = 0.1


@wrong("contract")
class AHookThatIsNone(Noise):
    """Wrong."""

    @hookimpl
    def d_label(self, labels, ctx):
        return labels


@wrong("contract")
class ADefaultArgument(Noise):
    """Wrong."""

    @hookimpl
    def g_labels(self, labels, ctx=None):
        return labels


# ---------------------------------------------------------------- between steps, and over many


@wrong("same-step")
class ANumberFromTheBoundary(Noise):
    """Wrong."""

    @hookimpl
    def on_boundary(self, ctx):
        self.strength = 0.1 * ctx.progress

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - self.strength


@wrong("captured")
class ATensorReboundAtTheBoundary(Noise):
    """Wrong."""

    @hookimpl
    def on_boundary(self, ctx):
        self.strength = torch.full((), 0.1 * ctx.progress, dtype=torch.float64, device=ctx.device)

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - self.strength


@wrong("no-sync")
class WaitsLater(Counting):
    """Wrong."""

    @hookimpl
    def on_boundary(self, ctx):
        self.later = ctx.step >= 1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.01 * (self.count.item() if self.later else self.count)


@wrong("memory")
class KeepsEveryLogit(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self):
        self.logits = []

    @hookimpl
    def after_d_step(self, ctx):
        self.logits.append(ctx.real_out.logits.detach())


@wrong("other-player")
class LeavesDInEvalMode(Noise):
    """Wrong."""

    @hookimpl
    def before_g_step(self, ctx):
        ctx.discriminator.eval()


@wrong("stream")
class AFixedGenerator(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self):
        self.generator = torch.Generator().manual_seed(0)

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + 0.1 * torch.rand(labels.shape, generator=self.generator, dtype=labels.dtype)


@wrong("seed")
class RemembersOnTheClass(Noise):
    """Wrong."""

    runs = 0

    @hookimpl
    def on_setup(self):
        type(self).runs += 1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.01 * self.runs


@wrong("fold")
class AlwaysDouble(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return 0.9 * labels.double()


WRONG["no card"][2].__doc__ = None


class PullsToTheMean(Trick):
    """Half of weight decay: the gradient of G gains 0.1 times its weights."""

    sign = 1.0

    @hookimpl
    def after_g_backward(self, ctx):
        for parameter in ctx.generator.parameters():
            parameter.grad.add_(self.sign * 0.1 * parameter.detach())


class SignFlipped(PullsToTheMean):
    """Wrong, as only its own law can tell."""

    sign = -1.0


def gains_a_tenth_of_the_weights(played, name):
    for call, phase in zip(played.of(name, "after_g_backward"), played.steps_of("g"), strict=True):
        for weight, gradient in call.after.items():
            torch.testing.assert_close(gradient - call.before[weight], 0.1 * phase.before[weight])


def test_a_flipped_sign_is_caught_by_the_tricks_own_law() -> None:
    right = run_suite(PullsToTheMean, trace=gains_a_tenth_of_the_weights)
    wrong = run_suite(SignFlipped, trace=gains_a_tenth_of_the_weights)
    assert all(outcome.ok for outcome in right), [str(outcome) for outcome in right if not outcome.ok]
    assert [outcome.id for outcome in wrong if not outcome.ok] == ["trace"]


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_trick_is_caught_by_the_check_that_is_named_for_its_mistake(mistake: str) -> None:
    check, host, trick = WRONG[mistake]
    case = Case(trick, host=host, name=trick.__name__.lower())
    try:
        LAWS[check].check(case)
    except NotApplicable as reason:
        raise AssertionError(f"the law says nothing: {reason}") from reason
    except Exception:  # whatever it breaks with, that is how the report would have it
        return
    failed = {outcome.id: outcome.detail for outcome in run_suite(trick, host=host) if not outcome.ok}
    raise AssertionError(f"caught by {failed or 'nothing'}")


@pytest.mark.parametrize("trick", [Noise, Counting])
def test_a_right_trick_passes_every_check(trick: type[Trick]) -> None:
    outcomes = run_suite(trick)
    assert [outcome.id for outcome in outcomes] == list(LAWS)
    assert all(outcome.status in ("passed", "skipped") for outcome in outcomes), [str(o) for o in outcomes]
    assert sum(outcome.status == "passed" for outcome in outcomes) >= 15


def test_every_law_has_a_mistake_that_it_catches_and_a_mend() -> None:
    assert {check for check, _, _ in WRONG.values()} == set(LAWS)
    assert len(WRONG) >= 25
    assert all(len(law.mend) > 20 for law in LAWS.values())


def test_expected_failures_are_strict() -> None:
    trick = WRONG["claims to be safe from faults"][2]
    declared = run_suite(trick, expected_failures={"fault": "known"})
    assert {outcome.id: outcome.status for outcome in declared}["fault"] == "expected"
    stale = run_suite(Noise, expected_failures={"fault": "mended since", "neutral": "says nothing of it"})
    statuses = {outcome.id: outcome.status for outcome in stale}
    assert statuses["fault"] == statuses["neutral"] == "unexpected"
    with pytest.raises(ValueError, match="names no check: flaut"):
        run_suite(Noise, expected_failures={"flaut": "misspelt"})


test_the_suite_is_one_line = trick_suite(Noise, {"strength": 0.3}, beside=["soft_labels", Counting])


def test_a_refused_pair_is_a_failure_that_can_be_declared() -> None:
    class Alone(Noise):
        """It goes with nothing."""

        conflicts = {"counting": "it is alone"}

    outcomes = {o.id: o for o in run_suite(Alone, beside=[Counting])}
    assert "it is alone" in outcomes["pair:counting"].detail
    declared = run_suite(Alone, beside=[Counting], expected_failures={"pair:counting": "documented conflict"})
    assert all(outcome.ok for outcome in declared)


def test_hypothesis_seeds_torch_and_puts_its_generator_back() -> None:
    def drawn(seed: int) -> list[float]:
        torch.manual_seed(seed)
        found: list[float] = []

        @given(gs.seeds())
        @settings(max_examples=5, derandomize=True, database=None)
        def example(_: int) -> None:
            found.append(torch.rand(()).item())

        before = torch.get_rng_state()
        example()
        assert torch.equal(before, torch.get_rng_state())
        return found

    assert drawn(1) == drawn(2), "an example that fails could not be replayed"


class AnnotatesAtRunTime(Noise):
    """Right: what a library does that is first imported while the law watches."""

    @hookimpl
    def on_setup(self, ctx):
        self.kind = torch.Generator | None


def test_a_generator_may_be_named_but_not_made() -> None:
    LAWS["stream"].check(Case(AnnotatesAtRunTime))


def test_an_installed_trick_is_found_by_its_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "halved_targets.py").write_text(
        '''
from gantricks import Trick, hookimpl


class HalvedTargets(Trick):
    """D's targets are halved."""

    @hookimpl
    def d_labels(self, labels):
        return labels / 2
'''
    )
    facts = tmp_path / "halved_targets-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: halved-targets\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[gantricks.tricks]\nhalved_targets = halved_targets:HalvedTargets\n")
    monkeypatch.syspath_prepend(tmp_path)
    calls = TrickHost().with_trick("halved_targets").train(1).calls["d_labels"]
    assert [float(call.result.max()) for call in calls] == [0.5, 0.0]
    assert {outcome.id for outcome in run_suite("halved_targets") if not outcome.ok} == set()
