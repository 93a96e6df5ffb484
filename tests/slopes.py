"""The slope of D in a recorded run, for the laws of penalties on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from gantricks.testing import Mistake, Played
from gantricks.testing.measure import terms_are, value_at
from gantricks.testing.record import Phase


class Pass(NamedTuple):
    """A pass of D that was played again: leaves with gradient, and the logits, which are those recorded."""

    images: Tensor
    logits: Tensor


def passes_again(played: Played, phase: Phase) -> list[Pass | None]:
    """D's passes in a D step, played again in order from the weights and buffers at its start.

    None stands for a pass that gives other scores than it did: another trick has changed D's layers since, or they draw
    anew. Where no other trick is there, every pass must give the same ones.
    """
    network = played.game.discriminator
    state = {name: tensor.clone() for name, tensor in phase.before.items()}
    found: list[Pass | None] = []
    with torch.enable_grad(), played.game.clock.aside(phase.step, "d", phase.critic):
        for images, out in phase.passes:
            leaf = images.detach().clone().requires_grad_()
            logits = functional_call(network, state, (leaf, *belonging_to(phase, images))).logits
            same = logits.shape == out.logits.shape and torch.allclose(logits, out.logits, rtol=1e-9, atol=1e-12)
            assert same or len(played.game.plan.tricks) > 1, "the recorded scores are not D's"
            found.append(Pass(leaf, logits) if same else None)
    return found


def belonging_to(phase: Phase, images: Tensor) -> list[Tensor | None]:
    """The classes and the conditions of the images of a pass: of both batches, of the fakes, or of the reals."""
    assert phase.real_in is not None
    reals, fakes = phase.real_in[1:], phase.fake_in[1:]
    if len(images) == phase.real_in.size + phase.fake_in.size:
        pairs = zip(reals, fakes, strict=True)
        return [None if real is None or fake is None else torch.cat([real, fake]) for real, fake in pairs]
    chosen = fakes if torch.equal(images, phase.fake_in.images) else reals
    rows = torch.arange(len(images)) % phase.real_in.size  # a trick's own pass may hold more images than a batch
    return [
        one[rows] if one is not None and other is not None else None for one, other in zip(chosen, fakes, strict=True)
    ]


def pays_for_the_slope_at(played: Played, name: str, side: str) -> None:
    """The term is γ/2 times the squared slope at D's inputs of one side, "real_in" or "fake_in": k times as much in
    each k-th step, and 0 between.
    """
    config, checked = played.trick(name).config, 0
    for phase in played.steps_of("d"):
        if phase.step % config.every:
            assert phase.terms[f"{name}.penalty"] == 0
            continue
        slopes = slopes_at(passes_again(played, phase), getattr(phase, side).images)
        if slopes is None:
            continue
        checked += 1
        weight = value_at(played, config.weight, phase.step) * config.every / 2
        terms_are(phase, {f"{name}.penalty": weight * slopes.pow(2).sum(1).mean()})
    assert checked or len(played.game.plan.tricks) > 1


# what the weight and the interval of such a penalty may get wrong
MISTAKES = {
    "the square is not halved": Mistake(
        old="(0.5 * self.config.every)",
        new="self.config.every",
        caught_by="trace_law",
    ),
    "a lazy penalty has the weight of an eager one": Mistake(
        old="(0.5 * self.config.every)",
        new="0.5",
        caught_by="trace_law[lazy]",
    ),
    "a lazy penalty skips the first step": Mistake(
        old="ctx.step % self.config.every == 0",
        new="(ctx.step + 1) % self.config.every == 0",
        caught_by="trace_law[lazy]",
    ),
}


def slopes_at(passes: list[Pass | None], images: Tensor) -> Tensor | None:
    """The gradients of D's logits by `images`, a row for each logit, from the pass that they were in; None where that
    pass could not be played again.
    """
    for one in passes:
        if one is None:
            continue
        given, wanted = one.images.detach(), len(images)
        start = next((i for i in range(len(given) - wanted + 1) if torch.equal(given[i : i + wanted], images)), None)
        if start is not None:
            group = len(given) // len(one.logits)
            with torch.enable_grad():
                judged = one.logits[start // group : (start + wanted) // group]
                (slopes,) = torch.autograd.grad(judged.sum(), one.images, retain_graph=True)
            return slopes[start : start + wanted].reshape(len(judged), -1)
    return None
