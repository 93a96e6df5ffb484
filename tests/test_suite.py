"""The kit tested on itself: every wrong trick here is caught, by the check that is named for its mistake."""

from __future__ import annotations

import copy
import itertools
import random
import traceback
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pydantic import Field

from gantricks import Batch, Trick, TrickError, hookimpl
from gantricks.catalogue.registry import Registry
from gantricks.testing import LAWS, Case, NotApplicable, TrickHost, run_suite, trick_suite
from gantricks.testing import strategies as gs
from gantricks.testing.host import name_of

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


@wrong("stream")
class ASettingForEverybody(Noise):
    """Wrong."""

    @hookimpl
    def on_boundary(self):
        torch.set_float32_matmul_precision("high")


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
class AFactSetInItsConstructor(Noise):
    """Wrong."""

    def __init__(self, config):
        super().__init__(config)
        self.forwards = {"d": 1}


@wrong("contract")
class StateThatCheckingSets(Noise):
    """Wrong."""

    def problems(self, setting):
        self.steps = setting.steps
        return []


@wrong("contract")
class AHookThatIsNone(Noise):
    """Wrong."""

    @hookimpl
    def d_label(self, labels, ctx):  # type: ignore[gantricks-hook]
        return labels


@wrong("contract")
class StrengthsOfAnOptionThatIsNone(Noise):
    """Wrong."""

    strengths = {"strenght": (0.1, 0.2, 0.3)}


@wrong("contract")
class StrengthsWithoutTheDefault(Noise):
    """Wrong."""

    strengths = {"strength": (1.0, 2.0, 3.0)}


@wrong("contract")
class TwoStrengths(Noise):
    """Wrong."""

    strengths = {"strength": (0.1, 0.2)}  # type: ignore[dict-item]


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


# ---------------------------------------------------------------- that it plays at all


@wrong("plays")
class RaisesInTheStep(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + self.strenght


@wrong("plays")
class LosesTheFirstStep(Noise):
    """Wrong."""

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"inverse": 1 / torch.zeros((), device=ctx.device, dtype=ctx.dtype)}


# ---------------------------------------------------------------- numbers on the host, and late in a run


@wrong("resume")
class FadesAfterAHundredStepsOnTheHost(Noise):
    """Wrong."""

    def __init__(self, config):
        super().__init__(config)
        self.steps = 0

    @hookimpl
    def after_g_step(self):
        self.steps += 1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels if self.steps >= 100 else super().d_labels(labels, ctx)


@wrong("resume")
class AFlagThatFallsWithItsCounter(Noise):
    """Wrong."""

    def __init__(self, config):
        super().__init__(config)
        self.kept = {"left": 900, "open": True}

    @hookimpl
    def on_boundary(self):
        self.kept["left"] -= 1
        self.kept["open"] = self.kept["left"] > 0

    @hookimpl
    def d_labels(self, labels, ctx):
        return super().d_labels(labels, ctx) if self.kept["open"] else labels


@wrong("resume")
class CountsOnTheClass(Noise):
    """Wrong."""

    steps = 0

    @hookimpl
    def after_g_step(self):
        type(self).steps += 1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels if type(self).steps >= 100_000 else super().d_labels(labels, ctx)


class CountingLayer(torch.nn.Module):
    """A layer that scales its input once it has been used a thousand times."""

    used = 0

    def forward(self, x):
        self.used += self.training
        return 2 * x if self.used > 1000 else 1.5 * x


@wrong("resume")
class ALayerThatCountsItsPasses(Noise):
    """Wrong."""

    @hookimpl
    def transform_discriminator(self, network):
        network.neck.append(CountingLayer())
        return network


@wrong("resume")
class ATensorThatNothingDeclares(Counting):
    """Wrong."""

    def tensors(self):
        return {}

    @hookimpl
    def d_labels(self, labels, ctx):
        return torch.where(self.count >= 100, labels, 0.9 * labels)


@wrong("resume")
class AnArrayOnTheHost(Noise):
    """Wrong."""

    capturable = False

    @hookimpl
    def on_setup(self):
        self.seen = np.zeros(2)

    @hookimpl
    def after_g_step(self):
        self.seen[0] += 1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels if self.seen[0] > 400 else super().d_labels(labels, ctx)


@wrong("resume")
class ACounterInAClosure(Noise):
    """Wrong."""

    def __init__(self, config):
        super().__init__(config)
        steps = 0

        def tick():
            nonlocal steps
            steps += 1
            return steps

        self.tick = tick

    @hookimpl
    def d_loss_terms(self, ctx):
        weight = 0.0 if self.tick() > 200 else 0.1
        return {"drift": weight * ctx.real_out.logits.square().mean()}


@wrong("resume")
class AnIteratorThatCounts(Noise):
    """Wrong."""

    def __init__(self, config):
        super().__init__(config)
        self.ticks = itertools.count()

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels if next(self.ticks) > 2000 else super().d_labels(labels, ctx)


@wrong("resume")
class ACounterOnTheNetwork(Noise):
    """Wrong."""

    @hookimpl
    def after_g_step(self, ctx):
        ctx.discriminator.steps = getattr(ctx.discriminator, "steps", 0) + 1

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels if getattr(ctx.discriminator, "steps", 0) > 300 else super().d_labels(labels, ctx)


class SlowedAdam(torch.optim.Adam):
    steps_done = 0

    def step(self, closure=None):
        self.steps_done += 1
        for group in self.param_groups:
            group["lr"] = 0.01 if self.steps_done < 500 else 0.001
        return super().step(closure)


@wrong("resume")
class AnOptimizerThatCounts(Noise):
    """Wrong."""

    capturable = False

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        return SlowedAdam([p for group in optimizer.param_groups for p in group["params"]], lr=0.01)


@wrong("late")
class AFlagRaisedInPassing(Noise):
    """Wrong."""

    raised = False

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 120:
            self.raised = True
            ctx.set_batch_size(6)

    @hookimpl
    def after_d_backward(self, ctx):
        if self.raised:
            ctx.discriminator.head.weight.grad.mul_(0.5)


@wrong("late")
class WaitsInTheLastQuarter(Counting):
    """Wrong."""

    @hookimpl
    def on_boundary(self, ctx):
        self.later = ctx.progress >= 0.75 and ctx.step > 50

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.01 * (self.count.item() if self.later else self.count)


@wrong("late")
class DividesByWhatIsLeft(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.left = torch.ones((), device=ctx.device)

    def tensors(self):
        return {"left": self.left}

    @hookimpl
    def on_boundary(self, ctx):
        self.left.fill_(0 if ctx.step > 60 and ctx.progress == 1 else 1)

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"scaled": (ctx.real_out.logits.mean() / self.left).to(ctx.dtype)}


# ---------------------------------------------------------------- another process


@wrong("process")
class NoiseInTheOrderOfASet(Noise):
    """Wrong."""

    @hookimpl
    def after_g_backward(self, ctx):
        weights = dict(ctx.generator.named_parameters())
        for name in {*weights}:
            weights[name].grad.add_(0.01 * ctx.rng.normal(weights[name].shape))


@wrong("process")
class SeededByAHash(Noise):
    """Wrong."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels * (0.9 + 0.1 * (hash(ctx.name) % 1000) / 1000)


# ---------------------------------------------------------------- looking at a run changes it


@wrong("evaluation")
class LogsInEvalModeAndStaysThere(Noise):
    """Wrong."""

    @hookimpl
    def log_scalars(self, ctx):
        z, classes = ctx.latents(4)
        return {"mean": ctx.generator.eval()(z, classes).mean()}


@wrong("evaluation")
class LogsThroughBatchNorm(Noise):
    """Wrong."""

    needs = {"generator_batch_norm"}

    @hookimpl
    def log_scalars(self, ctx):
        z, classes = ctx.latents(4)
        return {"mean": ctx.generator(z, classes).mean()}


@wrong("evaluation")
class CountsItsLogLines(Counting):
    """Wrong."""

    @hookimpl
    def on_log(self):
        self.count.add_(1)


@wrong("evaluation")
class SamplingSwitchesTheLiveGenerator(Noise):
    """Wrong."""

    @hookimpl
    def sampling_generator(self, network):
        return network.eval()


@wrong("evaluation")
class EvaluationFreezesTheLiveDiscriminator(Noise):
    """Wrong."""

    @hookimpl
    def evaluation_discriminator(self, network):
        return network.requires_grad_(False)


@wrong("evaluation")
class ASamplerThatSeedsTorch(Noise):
    """Wrong."""

    @hookimpl
    def sampling_generator(self, network):
        torch.manual_seed(0)
        return network


class Chosen(torch.nn.Module):
    """A generator that pulls its samples towards what D likes."""

    def __init__(self, generator, judge):
        super().__init__()
        self.generator, self.judge = generator, [judge]

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "generator" else getattr(self.generator, name)

    def forward(self, latents, classes=None, condition=None):
        images = self.generator(latents, classes, condition)
        return images * (1 + 0.01 * torch.sigmoid(self.judge[0](images, classes, condition).logits))


@wrong("evaluation")
class SamplesAreChosenByDInTrainingMode(Noise):
    """Wrong."""

    @hookimpl
    def sampling_generator(self, network, ctx):
        return Chosen(network, ctx.discriminator)


@wrong("latents")
class TruncatesInTrainingOnly(Noise):
    """Wrong."""

    @hookimpl
    def latents(self, z, ctx):
        return z.clamp(-1, 1) if ctx.phase in ("d", "g") else z


@wrong("latents")
class NoisyLatentsInTrainingOnly(Noise):
    """Wrong."""

    @hookimpl
    def latents(self, z, ctx):
        return z if ctx.phase == "sample" else z + ctx.rng.normal(z.shape)


@wrong("latents")
class ForgetsTheGeneratorsStep(Noise):
    """Wrong."""

    @hookimpl
    def latents(self, z, ctx):
        return z if ctx.phase == "g" else 0.9 * z


# ---------------------------------------------------------------- sizes, D steps, gates


@wrong("batch-size")
class StateForTheRecipesBatchSize(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.mean = torch.zeros((ctx.data.batch_size, 1), device=ctx.device, dtype=ctx.dtype)

    def tensors(self):
        return {"mean": self.mean}

    @hookimpl
    def after_d_step(self, ctx):
        self.mean.lerp_(torch.tanh(ctx.real_out.logits.detach()), 0.1)

    @hookimpl
    def d_labels(self, labels, is_real, ctx):
        return labels - 0.05 * self.mean * is_real


@wrong("batch-size")
class AWeightForEachPlaceInTheBatch(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.weights = torch.linspace(0.9, 1.1, ctx.data.batch_size, device=ctx.device, dtype=ctx.dtype).unsqueeze(1)

    @hookimpl
    def d_labels(self, labels):
        return labels * self.weights[: len(labels)].to(labels.dtype)


@wrong("batch-size")
class DividesByTheRecipesBatchSize(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.size = ctx.data.batch_size

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"drift": 0.1 * ctx.real_out.logits.square().sum() / self.size}


@wrong("critics")
class OneSlotForTheDStep(Noise):
    """Wrong."""

    @hookimpl
    def on_boundary(self):
        self.strengths = [0.1]

    @hookimpl
    def after_d_backward(self, ctx):
        ctx.discriminator.head.weight.grad.mul_(self.strengths.pop())


@wrong("companions")
class KnowsTwoPlayers(Trick):
    """Wrong."""

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        for group in optimizer.param_groups:
            group["lr"] *= {"d": 2.0, "g": 0.5}[player]
        return optimizer


@wrong("corners")
class ScoresImagesWithoutTheirConditions(Trick):
    """Wrong."""

    forwards = {"d": 1}

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"again": 0.1 * ctx.discriminator(ctx.real_in.images, ctx.real_in.classes).logits.square().mean()}


class Follower(Trick):
    """A slow copy of G's weights: right, and the base of wrong ones."""

    neutral = None

    @hookimpl
    def on_setup(self, ctx):
        self.copies = [p.detach().clone() for p in ctx.generator.parameters()]

    def tensors(self):
        return {f"copy{number}": follower for number, follower in enumerate(self.copies)}

    def follow(self, ctx, share):
        for follower, parameter in zip(self.copies, ctx.generator.parameters(), strict=True):
            follower.lerp_(parameter.detach(), share.to(follower.dtype))

    @hookimpl
    def after_g_step(self, ctx):
        self.follow(ctx, 0.1 * ctx.updated)

    @hookimpl
    def g_loss_terms(self, ctx):
        pairs = zip(self.copies, ctx.generator.parameters(), strict=True)
        return {"distance": 0.1 * sum((follower - p).square().sum() for follower, p in pairs)}


@wrong("gates")
class FollowsWhoRests(Follower):
    """Wrong."""

    @hookimpl
    def after_g_step(self, ctx):
        self.follow(ctx, 0.1 * ctx.healthy)


@wrong("gates")
class FollowsTheGeneratorInTheDStep(Follower):
    """Wrong."""

    @hookimpl
    def after_d_step(self, ctx):
        self.follow(ctx, 0.1 * ctx.healthy)

    @hookimpl
    def after_g_step(self, ctx):
        pass


@wrong("gates")
class MovesWeightsThatAreHeld(Noise):
    """Wrong."""

    @hookimpl
    @torch.no_grad()
    def after_d_step(self, ctx):
        ctx.discriminator.head.weight.mul_(1 - 0.01 * ctx.healthy)


# ---------------------------------------------------------------- what others go on with


@wrong("fold")
class ClampsTheFakesOfTheGeneratorsStep(Noise):
    """Wrong."""

    @hookimpl
    def after_d_step(self, ctx):
        ctx.fake.images.clamp_(-0.1, 0.1)


@wrong("fold")
class ScalesTheScoresBehindAutogradsBack(Noise):
    """Wrong."""

    @hookimpl
    def before_g_step(self, ctx):
        pass

    @hookimpl
    def after_d_backward(self, ctx):
        ctx.real_out.features.data.mul_(0.5)


@wrong("classes")
class ShufflesFakesWithoutTheirClasses(Noise):
    """Wrong."""

    @hookimpl
    def fake_batch(self, batch, ctx):
        return batch.with_images(batch.images[ctx.rng.permutation(batch.size)])


@wrong("classes")
class TurnsTheRowOfWhatDSees(Noise):
    """Wrong."""

    @hookimpl
    def d_input(self, batch):
        return batch.with_images(batch.images.roll(1, 0))


@wrong("classes")
class ShufflesClassesAlone(Noise):
    """Wrong."""

    @hookimpl
    def d_input(self, batch, ctx):
        order = ctx.rng.permutation(batch.size)
        return Batch(0.9 * batch.images, None if batch.classes is None else batch.classes[order])


class Blurred(Trick):
    """Noise on everything that D sees: right, and the base of wrong ones."""

    @hookimpl
    def d_input(self, batch, ctx):
        return batch.with_images(batch.images + 0.1 * ctx.rng.normal(batch.images.shape).to(batch.images.dtype))


@wrong("both-sides")
class AugmentsRealsOnly(Blurred):
    """Wrong."""

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return super().d_input(batch, ctx) if is_real else batch


@wrong("both-sides")
class AugmentsInTheDStepOnly(Blurred):
    """Wrong."""

    @hookimpl
    def d_input(self, batch, ctx):
        return super().d_input(batch, ctx) if ctx.phase == "d" else batch


@wrong("classes")
class AReplayThatForgetsClasses(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.kept = torch.zeros((4, *ctx.discriminator.shape), device=ctx.device, dtype=ctx.dtype)

    def tensors(self):
        return {"kept": self.kept}

    @hookimpl
    def fake_batch(self, batch):
        count = min(4, batch.size)
        images = torch.cat([self.kept[:count].to(batch.images.dtype), batch.images[count:]])
        self.kept[:count].copy_(batch.images[:count])
        return batch.with_images(images)


class _TurnsConditions(Noise):
    """Wrong."""

    @hookimpl
    def d_input(self, batch):
        condition = None if batch.condition is None else self.turned(batch.condition)
        return Batch(0.9 * batch.images, batch.classes, condition)


@wrong("conditions")
class ShufflesConditionsAlone(_TurnsConditions):
    """Wrong."""

    def turned(self, condition):
        return condition.roll(1, 0)


@wrong("conditions")
class MixesConditions(_TurnsConditions):
    """Wrong."""

    def turned(self, condition):
        return torch.cat([condition[:, :1], condition[:, 1:].flip(0)], 1)


@wrong("conditions")
class ForgetsConditions(Noise):
    """Wrong."""

    @hookimpl
    def d_input(self, batch):
        return Batch(0.9 * batch.images, batch.classes)


@wrong("conditions")
class AReplayThatForgetsConditions(Noise):
    """Wrong: each image comes back with its class and not with its condition."""

    @hookimpl
    def on_setup(self, ctx):
        self.kept = torch.zeros((4, *ctx.discriminator.shape), device=ctx.device, dtype=ctx.dtype)
        self.classes = torch.zeros(4, device=ctx.device, dtype=torch.int64)

    def tensors(self):
        return {"kept": self.kept, "classes": self.classes}

    @hookimpl
    def fake_batch(self, batch):
        count = min(4, batch.size)
        images = torch.cat([self.kept[:count].to(batch.images.dtype), batch.images[count:]])
        self.kept[:count].copy_(batch.images[:count])
        classes = batch.classes
        if classes is not None:
            classes = torch.cat([self.classes[:count], classes[count:]])
            self.classes[:count].copy_(batch.classes[:count])
        return batch._replace(images=images, classes=classes)


@wrong("both-sides")
class ScoresOtherRealsThanItIsGiven(Noise):
    """Wrong."""

    provides = {"separate_passes"}
    forwards = {"d": 1}

    @hookimpl
    def d_scores(self, real, fake, ctx):
        return ctx.discriminator(0.9 * real.images, real.classes), ctx.discriminator(*fake)


@wrong("both-sides")
class AugmentsFakesOnly(Blurred):
    """Wrong."""

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return batch if is_real else super().d_input(batch, ctx)


# ---------------------------------------------------------------- objectives, networks


class Hinge(Trick):
    """The hinge loss: right, and the base of wrong ones."""

    undecided = 0.0
    towards = 1.0

    @hookimpl
    def adversarial_loss(self):
        return self

    def d_loss(self, real, fake, real_labels, fake_labels, ctx):
        return {"real": torch.relu(1 - real.logits), "fake": torch.relu(1 + fake.logits)}

    def g_loss(self, real, fake, labels, ctx):
        return {"fake": -self.towards * fake.logits}


@wrong("signs")
class TheGeneratorsLossReversed(Hinge):
    """Wrong."""

    towards = -1.0


@wrong("signs")
class RealsAndFakesExchanged(Hinge):
    """Wrong."""

    def d_loss(self, real, fake, real_labels, fake_labels, ctx):
        return {"real": torch.relu(1 + real.logits), "fake": torch.relu(1 - fake.logits)}


@wrong("signs")
class TargetsOfTheGeneratorTurned(Noise):
    """Wrong."""

    @hookimpl
    def g_labels(self, labels):
        return 1 - labels


@wrong("signs")
class ATermThatOutweighsTheLoss(Noise):
    """Wrong."""

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"shy": 2 * ctx.fake_out.logits.mean()}


@wrong("signs")
class TurnsTheGradientsAround(Noise):
    """Wrong."""

    @hookimpl
    def after_g_backward(self, ctx):
        for parameter in ctx.generator.parameters():
            parameter.grad.neg_()


@wrong("signs")
class AnOptimizerThatClimbs(Noise):
    """Wrong."""

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        if player == "d":
            return optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return torch.optim.SGD(parameters, lr=0.01, maximize=True, fused=True)


@wrong("signs")
class ScoresInTheOtherOrder(Noise):
    """Wrong."""

    forwards = {"d": 1}
    provides = {"separate_passes"}

    @hookimpl
    def d_scores(self, real, fake, ctx):
        return ctx.discriminator(*fake), ctx.discriminator(*real)


class NormByPowerIteration(torch.nn.Module):
    """A weight divided by its spectral norm, of which `u` is the left singular vector in the making."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("u", torch.ones_like(weight[:, 0]) / weight.shape[0] ** 0.5)

    def forward(self, weight):
        with torch.no_grad():
            v = torch.nn.functional.normalize(weight.T @ self.u, dim=0)
            if self.training:
                self.u.copy_(torch.nn.functional.normalize(weight @ v, dim=0))
        return weight / (self.used() @ weight @ v)

    def used(self):
        return self.u.clone()


class UnclonedNorm(NormByPowerIteration):
    def used(self):
        return self.u


class UntiringNorm(NormByPowerIteration):
    training = property(lambda self: True, lambda self, mode: None)


class SpectralNorm(Trick):
    """Spectral norm in D: right, and the base of wrong ones."""

    norm = NormByPowerIteration

    @hookimpl
    def transform_discriminator(self, network):
        for layer in [m for m in network.modules() if isinstance(m, torch.nn.Linear)]:
            norm = self.norm(layer.weight.detach())
            torch.nn.utils.parametrize.register_parametrization(layer, "weight", norm)
        return network


@wrong("second-pass")
class SpectralNormWithoutAClone(SpectralNorm):
    """Wrong."""

    norm = UnclonedNorm


@wrong("evaluation")
class SpectralNormThatMovesInEvalMode(SpectralNorm):
    """Wrong."""

    norm = UntiringNorm


class Encoder(Trick):
    """A third network that finds latents again: right, and the base of wrong ones."""

    capturable = False

    @hookimpl
    def on_setup(self, ctx):
        first, last = ctx.discriminator.shape[0], ctx.latent_dim
        weight = ctx.rng.normal((last, first))
        self.weight = torch.nn.Parameter(0.1 * weight)
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)

    def tensors(self):
        return {"weight": self.weight}

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"found": 0.1 * (ctx.fake.images @ self.weight.T).square().mean()}

    @hookimpl
    def after_g_backward(self, ctx):
        self.weight.grad.mul_(ctx.healthy)
        self.optimizer.step()
        self.optimizer.zero_grad()


@wrong("learns")
class AThirdNetworkThatNeverSteps(Encoder):
    """Wrong."""

    @hookimpl
    def after_g_backward(self, ctx):
        self.optimizer.zero_grad()


@wrong("learns")
class SamplesFromTheStart(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        self.average = copy.deepcopy(ctx.generator).requires_grad_(False)

    @hookimpl
    def sampling_generator(self):
        return self.average


@wrong("learns")
class WeightsThatNoOptimizerHas(Noise):
    """Wrong."""

    @hookimpl
    def on_setup(self, ctx):
        ctx.discriminator.neck.append(ctx.build("neck.0", lambda: torch.nn.Linear(8, 8), ctx.discriminator))


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
    case = Case(trick, host=host, name=name_of(trick))
    try:
        LAWS[check].check(case)
    except NotApplicable as reason:
        raise AssertionError(f"the law says nothing: {reason}") from reason
    except (AssertionError, TrickError):
        return
    except Exception as broken:
        if any(frame.filename == __file__ for frame in traceback.extract_tb(broken.__traceback__)[2:]):
            return  # in a line of its own: otherwise it is the law that breaks
        raise
    failed = {outcome.id: outcome.detail for outcome in run_suite(trick, host=host) if not outcome.ok}
    raise AssertionError(f"caught by {failed or 'nothing'}")


class Rounds(Trick):
    """Three D steps and two G steps in each play, one after the other."""

    @hookimpl
    def play(self, ctx):
        for critic in (0, 1):
            ctx.d_step(critic)
        ctx.g_step()
        ctx.d_step(2)
        ctx.g_step()


class RoundsWithState(Rounds):
    """The same, with a tensor that moves in every D step."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros((), device=ctx.device)

    def tensors(self):
        return {"count": self.count}

    @hookimpl
    def after_d_step(self, ctx):
        self.count.add_(1)

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.001 * self.count


class AsItsOptionsHaveIt(Trick):
    """What it needs, costs and declares follows from its options."""

    class Config(Trick.Config):
        classes: Annotated[bool, Field(description="read classes, and score reals once more on the host")] = True

    @classmethod
    def facts(cls, config):
        return {
            "needs": {"classes"} if config.classes else set(),
            "forwards": {"d": 1} if config.classes else {},
            "capturable": not config.classes,
        }

    @hookimpl
    def d_loss_terms(self, ctx):
        if not self.config.classes:
            return {"scores": 0.1 * ctx.real_out.logits.square().mean()}
        share = 1 + ctx.real.classes.to(ctx.dtype).mean()
        return {"again": share * ctx.discriminate(ctx.real, True).logits.square().mean()}


@pytest.mark.parametrize(
    "trick", [Noise, Counting, Follower, Blurred, Hinge, SpectralNorm, Encoder, Rounds, RoundsWithState]
)
def test_a_right_trick_passes_every_check(trick: type[Trick]) -> None:
    outcomes = run_suite(trick)
    assert [outcome.id for outcome in outcomes] == list(LAWS)
    assert all(outcome.status in ("passed", "skipped") for outcome in outcomes), [str(o) for o in outcomes if not o.ok]
    assert sum(outcome.status == "passed" for outcome in outcomes) >= 15


@pytest.mark.parametrize("classes", [True, False])
def test_what_a_trick_declares_is_read_from_the_instance(classes: bool) -> None:
    outcomes = {outcome.id: outcome for outcome in run_suite(AsItsOptionsHaveIt, {"classes": classes})}
    assert all(outcome.ok for outcome in outcomes.values()), [str(o) for o in outcomes.values() if not o.ok]
    assert outcomes["cost"].status == "passed"
    skipped = {id for id, outcome in outcomes.items() if "capturable = False" in outcome.detail}
    assert skipped == ({"no-sync", "same-step", "captured"} if classes else set())


def test_one_exception_is_told_once_and_with_its_line() -> None:
    outcomes = run_suite(WRONG["raises in the step"][2])
    assert [outcome.id for outcome in outcomes if not outcome.ok] == ["plays"]
    assert "has no attribute 'strenght'" in outcomes[0].detail
    assert "in d_labels, line " in outcomes[0].detail
    assert {outcome.status for outcome in outcomes[2:]} == {"skipped"}
    assert {outcome.detail for outcome in outcomes[2:]} == {"it is checked once the law 'plays' holds"}


def test_hooks_that_break_the_contract_are_told_once() -> None:
    outcomes = run_suite(WRONG["a hook that is none"][2])
    assert [outcome.id for outcome in outcomes if not outcome.ok] == ["contract"]


def test_a_convention_is_broken_on_purpose_where_the_trick_says_why() -> None:
    class RealsFromAnotherCamera(WRONG["augments reals only"][2]):
        """Real pictures are sharper than they should be."""

        deliberate = {"both-sides": "reals come from a camera that is sharper than G"}

    class Excused(Noise):
        """Wrong."""

        deliberate = {"resume": "it is hard"}

    (both_sides,) = [o for o in run_suite(RealsFromAnotherCamera) if o.id == "both-sides"]
    assert both_sides.status == "skipped"
    assert "sharper than G" in both_sides.detail
    with pytest.raises(AssertionError, match="names 'resume', and not one of both-sides, signs, latents"):
        LAWS["contract"].check(Case(Excused))


def test_what_a_trick_does_within_its_own_run_is_its_own_to_open_and_close() -> None:
    class Notebook(Noise):
        """Notes every step in something that is open while it trains."""

        open = 0

        @hookimpl
        def on_run_start(self):
            type(self).open += 1
            self.notes = []

        @hookimpl
        def on_boundary(self):
            self.notes.append("step")

        @hookimpl
        def on_run_end(self):
            type(self).open -= 1
            del self.notes

    outcomes = run_suite(Notebook)
    assert all(outcome.ok for outcome in outcomes), [str(o) for o in outcomes if not o.ok]
    assert Notebook.open == 0


def test_a_trick_has_the_name_by_which_recipes_know_it(tmp_path) -> None:
    path = tmp_path / "r9.py"
    path.write_text(
        '''
from gantricks import Trick, hookimpl


class GradientPenalty(Trick):
    """Refuses noise."""

    conflicts = {"soft_labels": "its targets are hard", "counting": "it counts itself"}

    @hookimpl
    def d_labels(self, labels):
        return 0.9 * labels
'''
    )
    penalty = Registry([path]).load("tricks", "r9").cls
    assert name_of(penalty) == "r9"
    assert name_of(Registry().load("tricks", "soft_labels").cls) == "soft_labels"
    assert name_of(CountsInPython) == "counts_in_python"
    assert name_of(type("R1GPNoise", (Noise,), {"__module__": __name__})) == "r1_gp_noise"

    class Rival(Noise):
        """It does not go with the file."""

        conflicts = {"r9": "both move targets"}

    for first, other in ((penalty, "soft_labels"), (penalty, Counting), (Rival, penalty)):
        (pair,) = [o for o in run_suite(first, beside=[other]) if o.id.startswith("pair:")]
        assert pair.status == "failed"
        assert "the pair is refused" in pair.detail


def test_a_third_partys_network_is_given_its_own_options_alone(tmp_path, monkeypatch) -> None:
    (tmp_path / "plain_networks.py").write_text(
        '''
from gantricks.networks.base import Discriminator, Generator, Network
from gantricks.networks.mlp import MLP
from gantricks.options import Options


class Plain(Network):
    """Two layers."""

    class GeneratorConfig(Options):
        width: int = 6

    class DiscriminatorConfig(Options):
        width: int = 6

    @staticmethod
    def generator(config, shapes):
        return MLP.generator(MLP.GeneratorConfig(hidden=(config.width,)), shapes)

    @staticmethod
    def discriminator(config, shapes):
        return MLP.discriminator(MLP.DiscriminatorConfig(hidden=(config.width,)), shapes)
'''
    )
    facts = tmp_path / "plain_networks-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-networks\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[gantricks.networks]\nplain = plain_networks:Plain\n")
    monkeypatch.syspath_prepend(tmp_path)
    host = TrickHost(generator={"network": "plain"}, discriminator={"network": "plain", "width": 5})
    game = host.game()
    assert game.discriminator.feature_dim == 5
    outcomes = run_suite(Noise, host=host)
    assert all(outcome.ok for outcome in outcomes), [str(o) for o in outcomes if not o.ok]


def test_a_trick_that_stops_the_run_is_asked_about_what_it_plays() -> None:
    class Short(Noise):
        """Ends the run after three steps."""

        @hookimpl
        def on_boundary(self, ctx):
            if ctx.step == 3:
                ctx.stop("enough")

    outcomes = run_suite(Short)
    assert all(outcome.ok for outcome in outcomes), [str(o) for o in outcomes if not o.ok]
    assert len(TrickHost().with_trick(Short).train().scalars) == 3


def test_a_class_that_no_other_process_can_import_is_not_asked_to_be_the_same_there() -> None:
    class Local(Noise):
        """Defined within a function."""

    with pytest.raises(NotApplicable, match="Local is defined where another process cannot import it"):
        LAWS["process"].check(Case(Local))


class PenaltyOnReals(Trick):
    """R1: the squared gradient of D at reals (Mescheder et al. 2018)."""

    needs = {"input_grad"}
    side = "real"

    @hookimpl
    def d_loss_terms(self, ctx):
        batch, out = getattr(ctx, f"{self.side}_in"), getattr(ctx, f"{self.side}_out")
        (slope,) = torch.autograd.grad(out.logits.sum(), batch.images, create_graph=True)
        return {"penalty": 0.5 * slope.flatten(1).square().sum(1).mean()}


class PenaltyOnFakes(PenaltyOnReals):
    """Wrong, as only its own law can tell."""

    side = "fake"


def penalises_reals(played, name):
    for phase in played.steps_of("d"):
        images = phase.real_in.images.clone().requires_grad_()
        logits = torch.func.functional_call(played.game.discriminator, phase.before, (images,)).logits
        (slope,) = torch.autograd.grad(logits.sum(), images)
        found = torch.tensor(phase.terms[f"{name}.penalty"], dtype=torch.float64)
        torch.testing.assert_close(found, 0.5 * slope.flatten(1).square().sum(1).mean())


class Diversity(Trick):
    """G is rewarded where samples differ as much as their latents do (Mao et al. 2019)."""

    sign = 1.0

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"alike": 1 / (1 + torch.pdist(ctx.fake.images.flatten(1)).sum()) ** self.sign}


class DiversityUpsideDown(Diversity):
    """Wrong, as only its own law can tell."""

    sign = -1.0


def falls_as_samples_spread(played, name):
    spread = [float(torch.pdist(phase.fake.images.flatten(1)).sum()) for phase in played.steps_of("g")]
    terms = [phase.terms[f"{name}.alike"] for phase in played.steps_of("g")]
    by_spread = [term for _, term in sorted(zip(spread, terms, strict=True))]
    assert by_spread == sorted(terms, reverse=True)


@pytest.mark.parametrize(
    ("right", "wrong", "trace"),
    [
        (PenaltyOnReals, PenaltyOnFakes, penalises_reals),
        (Diversity, DiversityUpsideDown, falls_as_samples_spread),
    ],
)
def test_what_only_a_trick_knows_of_itself_is_its_own_law(right, wrong, trace) -> None:
    assert all(outcome.ok for outcome in run_suite(right, trace=trace)), [str(o) for o in run_suite(right, trace=trace)]
    assert [outcome.id for outcome in run_suite(wrong, trace=trace) if not outcome.ok] == ["trace"]


def test_every_law_has_a_mistake_that_it_catches_and_a_hint() -> None:
    assert {check for check, _, _ in WRONG.values()} == set(LAWS)
    assert len(WRONG) >= 25
    assert all(len(law.hint) > 20 for law in LAWS.values())


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
