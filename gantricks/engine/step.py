"""The step: the whole algorithm on one page.

One step is n_critic discriminator updates followed by one generator update. Everything that a trick can change is a
hook; a hook that no trick of the recipe implements is an empty tuple and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gantricks.engine.dispatch import Event, Fold, Hooks, Term, choose, collect, fold, notify
from gantricks.engine.feed import Feed
from gantricks.engine.frame import Frame
from gantricks.engine.guard import Guard
from gantricks.engine.players import Player, frozen
from gantricks.errors import TrickError
from gantricks.losses import AdversarialLoss
from gantricks.networks.base import Discriminator
from gantricks.records import Batch, Latents, Out
from gantricks.rng import Clock

Start = Mapping[str, Sequence[Tensor]] | None
"""The weights to which an update is applied, by player; None for the present ones."""


@dataclass(frozen=True)
class Rules:
    """How the recipe plays.

    * `separate`: reals and fakes never share a pass of D.
    * `mixes`: D mixes samples, so that in joint mode the G step must score the fakes together with a real batch.
    * `input_grad`: a trick needs gradients with respect to D's inputs.
    * `compares`: G's loss uses D's scores of reals.
    """

    reuse_fakes: bool
    separate: bool
    mixes: bool
    input_grad: bool
    compares: bool


@dataclass
class Step:
    """The D step and the G step of one recipe.

    `latents` draws what G is given for a number of samples. `loss` is the objective, and `loss_ctx` the context of the
    trick that provides it.
    """

    hooks: Hooks
    frame: Frame
    clock: Clock
    feed: Feed
    guard: Guard
    d: Player
    g: Player
    companions: tuple[Player, ...]
    latents: Callable[[int], Latents]
    loss: AdversarialLoss
    loss_ctx: Any
    rules: Rules
    n_critic: int
    shared: tuple[Batch, Tensor | None] | None = None
    """The fakes that the last D step shares with the G step, and their latents."""

    def __post_init__(self) -> None:
        self.teams = {
            own.name: (own, *(player for player in self.companions if player.phase == own.name))
            for own in (self.d, self.g)
        }
        """The players that learn in each phase, the phase's own first."""

    def __call__(self) -> None:
        self.frame.updates.clear()
        self.frame.clear()
        if self.hooks.play:
            choose(self.hooks.play)
        else:
            for critic in range(self.n_critic):
                self.d_step(critic, share_fakes=self.rules.reuse_fakes and critic == self.n_critic - 1)
            self.g_step()
        if self.hooks.after_step:
            self.guard.begin()
            notify(self.hooks.after_step)
            self.guard.end()

    def d_step(self, critic: int = 0, share_fakes: bool = False, trial: bool = False, start: Start = None) -> None:
        hooks, frame = self.hooks, self.frame
        self.clock.play("d", critic)
        frame.clear()
        self.guard.begin()
        notify(hooks.before_d_step)

        real = frame.real = self.draw_real()
        fake = self.generate(real.size, attached=share_fakes)
        self.shared = (fake, frame.fake_latents) if share_fakes else None
        frame.fake = fold(hooks.fake_batch, fake.detach())

        frame.real_in = self.leaf(fold(hooks.d_input, real, True))
        frame.fake_in = self.leaf(fold(hooks.d_input, frame.fake, False))
        real_out, fake_out = frame.real_out, frame.fake_out = self.score(frame.real_in, frame.fake_in)
        frame.real_labels = self.d_labels(real_out.logits, True)
        frame.fake_labels = self.d_labels(fake_out.logits, False)
        frame.targets = frame.real_labels, frame.fake_labels
        frame.logits = {"real": real_out.logits.detach(), "fake": fake_out.logits.detach()}

        terms = self.loss.d_loss(real_out, fake_out, frame.real_labels, frame.fake_labels, self.loss_ctx)
        terms = means(terms, self.loss_ctx.name)
        self.update(self.d, terms, hooks.d_loss_terms, hooks.after_d_backward, hooks.d_gate, start)
        if not trial:
            notify(hooks.after_d_step)
        self.guard.end()

    def g_step(self, number: int = 0, trial: bool = False, start: Start = None) -> None:
        hooks, frame = self.hooks, self.frame
        self.clock.play("g", number)
        frame.clear_all_but_real()
        self.guard.begin()
        notify(hooks.before_g_step)

        if self.shared:
            fake, frame.fake_latents = self.shared
        else:
            fake = self.generate(self.feed.batch_size, attached=True)
        frame.fake, self.shared = fake, None

        with frozen(self.teams["d"]):
            frame.fake_in = fold(hooks.d_input, fake, False)
            fake_out = frame.fake_out = self.score_attached(frame.fake_in)
            labels = frame.fake_labels = fold(hooks.g_labels, torch.ones_like(fake_out.logits))

            if hooks.g_objective:
                terms = collect(hooks.g_objective)
            else:
                real_out = self.real_out() if self.rules.compares else None
                weights = fold(hooks.g_weights, torch.ones_like(fake_out.logits)) if hooks.g_weights else None
                terms = self.loss.g_loss(real_out, fake_out, labels, self.loss_ctx)
                terms = means(terms, self.loss_ctx.name, weights)
            self.update(self.g, terms, hooks.g_loss_terms, hooks.after_g_backward, hooks.g_gate, start)
        if not trial:
            notify(hooks.after_g_step)
        self.guard.end()

    def update(
        self,
        player: Player,
        terms: dict[str, Tensor],
        more: Term[Tensor],
        after_backward: Event,
        gates: Fold[Tensor],
        start: Start,
    ) -> None:
        """Run one backward through the sum of all terms, and update the player and its companions once. The update is
        skipped after the first non-finite value, and where a gate is closed. `start` has the weights that the update
        is applied to, where these are not the present ones.
        """
        terms |= collect(more)
        team = self.teams[player.name]
        for member in team:
            for parameter in member.parameters:
                parameter.grad = None
        with_gradient = [term for term in terms.values() if term.requires_grad]
        if not with_gradient:
            raise TrickError(
                f"no term of {player.name.upper()}'s loss has a gradient ({', '.join(terms)}): it was detached, or "
                "computed without the network's output"
            )
        torch.autograd.backward(with_gradient)  # the gradient of their sum, without computing the sum
        notify(after_backward)
        gradients = {member.name: [p.grad for p in member.parameters if p.grad is not None] for member in team}
        self.guard.inspect(player.name, terms, gradients)
        updated = self.guard.healthy
        if gates:
            updated = fold(gates, torch.ones_like(updated)) * updated
            player.held.copy_(1.0 - updated)
        self.frame.updated = updated
        for member in team:
            self.frame.updates[member.name] = updated
            if start:
                member.put(start[member.name])
            member.move()

    def generate(self, count: int, attached: bool) -> Batch:
        """Generate fakes, with their graph if `attached`."""
        given = self.latents(count)
        self.frame.fake_latents = given.z
        with torch.set_grad_enabled(attached):
            made = Batch(self.g.network(*given), given.classes, given.condition)
            return fold(self.hooks.generated_batch, made)

    def score(self, real: Batch, fake: Batch) -> tuple[Out, Out]:
        """Score both batches with D: through the recipe's `d_scores`, or jointly in one pass."""
        return choose(self.hooks.d_scores, real, fake) or score_jointly(self.d.network, real, fake)  # type: ignore[arg-type]

    def score_by(self, weights: Mapping[str, Tensor], real: Batch, fake: Batch) -> tuple[Out, Out]:
        """Score both batches as the D step does, by a D with these weights and copies of its buffers."""
        buffers = {name: buffer.clone() for name, buffer in self.d.network.named_buffers()}
        held = {f"network.{name}": tensor for name, tensor in (buffers | dict(weights)).items()}
        scores: tuple[Out, Out] = functional_call(_Asked(self.d.network), held, (lambda: self.score(real, fake),))
        return scores

    def score_attached(self, fake: Batch) -> Out:
        """Score the fakes of the G step: through the recipe's `g_scores`, or with D.

        Where D mixes samples and the D step scores reals and fakes in one pass, the G step does so too. Alone, the same
        fakes would get other scores, and G would learn against another D.
        """
        if scores := choose(self.hooks.g_scores, fake):
            self.frame.real_out, fake_out = scores
            return fake_out
        if self.rules.separate or not self.rules.mixes:
            out: Out = self.d.network(*fake)
            return out
        real = fold(self.hooks.d_input, self.real_batch(), True)
        real_out, fake_out = score_jointly(self.d.network, real, fake)  # type: ignore[arg-type]
        self.frame.real_out = real_out.detach()
        return fake_out

    def real_out(self) -> Out:
        """Return the scores of the D step's real batch under the updated D, without gradient. They are computed once in
        a G step.
        """
        if self.frame.real_out is None:
            self.frame.real_out = self.score_reals()
        return self.frame.real_out

    def score_reals(self) -> Out:
        with torch.no_grad():
            return self.discriminate(self.real_batch(), True)

    def real_batch(self) -> Batch:
        """Return the real batch of the last D step, or a new one where no D step has been played in this step."""
        if self.frame.real is None:
            self.frame.real = self.draw_real()
        return self.frame.real

    def draw_real(self) -> Batch:
        return fold(self.hooks.real_batch, self.feed.next())

    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        out: Out = self.d.network(*fold(self.hooks.d_input, batch, is_real))
        return out

    def d_labels(self, logits: Tensor, is_real: bool) -> Tensor:
        """Return the targets of D. The first hook decides which samples are called real; the second gives each target
        its value, from that alone.
        """
        called_real = fold(self.hooks.d_assignment, torch.full_like(logits, is_real, dtype=torch.bool))
        return fold(self.hooks.d_labels, called_real.to(logits.dtype), called_real)

    def leaf(self, batch: Batch) -> Batch:
        return batch.with_images(batch.images.detach().requires_grad_()) if self.rules.input_grad else batch


class _Asked(nn.Module):
    """A network that is asked by a function, so that whatever the function does sees other weights in it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ask: Callable[[], Any]) -> Any:
        return ask()


def score_jointly(discriminator: Discriminator, real: Batch, fake: Batch) -> tuple[Out, Out]:
    """Score both batches in one pass of D, reals first."""
    out: Out = discriminator(*map(_joined, real, fake))
    judged = out.logits.shape[0] * real.size // (real.size + fake.size)
    return out.split(judged)


def _joined(real: Tensor | None, fake: Tensor | None) -> Tensor | None:
    return None if real is None or fake is None else torch.cat([real, fake])


def means(terms: dict[str, Tensor], trick: str, weights: Tensor | None = None) -> dict[str, Tensor]:
    """Return the mean of each term of `trick`'s objective over its samples, weighted by `weights` (B, 1) if given.

    Raises TrickError where a term is not one number a sample, (B,) or (B, 1).
    """
    for name, term in terms.items():
        samples = term.shape[0] if term.dim() else 0
        # (B, B) is what a difference of (B, 1) and (B,) broadcasts to
        if term.numel() != samples or (weights is not None and samples != len(weights)):
            raise TrickError(
                f"{trick}: the objective's term {name!r} has shape {tuple(term.shape)}; a term is one number a sample, "
                "and the core takes the mean"
            )
    if weights is None:
        return {name: term.mean() for name, term in terms.items()}
    total = weights.sum()
    return {name: (term * weights.view_as(term)).sum() / total for name, term in terms.items()}
