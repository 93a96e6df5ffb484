"""The step: the whole algorithm on one page.

One step is n_critic discriminator updates followed by one generator update. Everything that a trick can change is a
hook; a hook that no trick of the recipe implements is an empty tuple and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.engine.context import Context, Frame
from gantricks.errors import TrickError
from gantricks.losses import AdversarialLoss
from gantricks.networks.base import Discriminator, Generator
from gantricks.planning.optimizers import direct_step
from gantricks.planning.plan import Hooks, HookTuple, fold, notify
from gantricks.records import Batch, Out
from gantricks.rng import Rng


@dataclass
class Player:
    """One side of the game: its network and what trains it.

    `name` is "d" or "g"; `parameters` are the weights that take part at present; `held` is 1 on the device where an
    update must not happen, 0 where it may.
    """

    name: str
    network: Generator | Discriminator
    optimizer: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]
    held: Tensor

    def __post_init__(self) -> None:
        self.reads_held = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self.direct = direct_step(self.optimizer)
        if self.reads_held:  # fused optimizers skip a step by themselves
            self.optimizer.found_inf = self.held  # type: ignore[attr-defined]

    def take_part(self) -> None:
        """Look anew at which weights take part: those that want a gradient."""
        for parameter in self.network.parameters():
            parameter.grad = None  # an optimizer would follow the last gradient of a weight that has left
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def move(self) -> None:
        """One optimizer step, or none where `held`."""
        if self.direct:
            self.direct(self.held)
            return
        if self.reads_held:
            self.optimizer.step()
            return
        states = (state.values() for state in self.optimizer.state.values())
        live = [p.data for p in self.parameters] + [t for values in states for t in values if torch.is_tensor(t)]
        before = [tensor.clone() for tensor in live]
        self.optimizer.step()
        for tensor, copy in zip(live, before, strict=True):
            tensor.copy_(torch.where(self.held > 0, copy, tensor))


class Step:
    """The D step and the G step, frozen for one recipe.

    `separate`: reals and fakes never meet in one pass of D. `mixes`: D mixes samples, so that in joint mode the G step
    must score the fakes beside a real batch. `input_grad`: a trick wants D's inputs as leaves with gradient.
    """

    def __init__(
        self,
        frame: Frame,
        hooks: Hooks,
        ctx: Context,
        loss: AdversarialLoss,
        d: Player,
        g: Player,
        latent_rng: Rng,
        class_rng: Rng,
        *,
        n_critic: int,
        reuse_fakes: bool,
        separate: bool,
        mixes: bool,
        input_grad: bool,
    ) -> None:
        self.frame, self.hooks, self.ctx, self.loss = frame, hooks, ctx, loss
        self.d, self.g = d, g
        self.latent_rng, self.class_rng = latent_rng, class_rng
        self.n_critic, self.reuse_fakes = n_critic, reuse_fakes
        self.separate, self.mixes, self.input_grad = separate, mixes, input_grad
        self.shared_fake: Batch | None = None
        self.judged: dict[str, Tensor] = {}
        frame.step = self

    def __call__(self) -> None:
        self.frame.updates.clear()
        self.frame.clear()
        if self.hooks.play:
            notify(self.hooks.play)
        else:
            for critic in range(self.n_critic):
                self.d_step(critic, share_fakes=self.reuse_fakes and critic == self.n_critic - 1)
            self.g_step()

    def d_step(self, critic: int = 0, share_fakes: bool = False) -> None:
        hooks, frame = self.hooks, self.frame
        frame.clock.play("d", critic)
        frame.clear()
        frame.guard.begin()
        notify(hooks.before_d_step)

        real = frame.real = frame.feed.next()
        fake = self.generate(real.size, attached=share_fakes)
        self.shared_fake = fake if share_fakes else None
        frame.fake = fold(hooks.fake_batch, fake.detach())

        frame.real_in = self.leaf(fold(hooks.d_input, real, True))
        frame.fake_in = self.leaf(fold(hooks.d_input, frame.fake, False))
        frame.real_out, frame.fake_out = self.score(frame.real_in, frame.fake_in)
        frame.real_labels = self.d_labels(frame.real_out.logits, True)
        frame.fake_labels = self.d_labels(frame.fake_out.logits, False)

        self.judged = {"real": frame.real_out.logits.detach(), "fake": frame.fake_out.logits.detach()}

        terms = dict(self.loss.d_loss(self.ctx))
        self.update(self.d, terms, hooks.d_loss_terms, hooks.after_d_backward, hooks.d_gate)
        notify(hooks.after_d_step)
        frame.guard.end()

    def g_step(self) -> None:
        hooks, frame = self.hooks, self.frame
        frame.clock.play("g")
        frame.forget_all_but_real()
        frame.guard.begin()
        notify(hooks.before_g_step)

        fake, self.shared_fake = self.shared_fake, None
        frame.fake = fake = fake or self.generate(frame.feed.batch_size, attached=True)

        with frozen(self.d.parameters):
            frame.fake_in = fold(hooks.d_input, fake, False)
            frame.fake_out = self.score_attached(frame.fake_in)
            frame.fake_labels = fold(hooks.g_labels, torch.ones_like(frame.fake_out.logits))

            if hooks.g_objective:
                (objective, ctx), *_ = hooks.g_objective
                terms = named(objective(ctx), ctx)
            else:
                terms = dict(self.loss.g_loss(self.ctx))
            self.update(self.g, terms, hooks.g_loss_terms, hooks.after_g_backward, hooks.g_gate)
        notify(hooks.after_g_step)
        frame.guard.end()

    def update(
        self, player: Player, terms: dict[str, Tensor], more: HookTuple, after_backward: HookTuple, gates: HookTuple
    ) -> None:
        """One backward through the sum of all terms, one optimizer step: none from the first fault on, and none where
        a gate is closed.
        """
        for hook, ctx in more:
            if added := hook(ctx):
                terms.update(named(added, ctx))
        for parameter in player.parameters:
            parameter.grad = None
        with_gradient = [term for term in terms.values() if term.requires_grad]
        if not with_gradient:
            raise TrickError(
                f"no term of {player.name.upper()}'s loss has a gradient ({', '.join(terms)}): it was detached, or "
                "computed without the network's output"
            )
        torch.autograd.backward(with_gradient)  # the gradient of their sum, which nobody needs to compute
        notify(after_backward)
        gradients = [p.grad for p in player.parameters if p.grad is not None]
        guard = self.frame.guard
        guard.inspect(player.name, terms, gradients)
        self.frame.updated = guard.healthy
        if gates:
            self.frame.updated = fold(gates, torch.ones_like(guard.healthy)) * guard.healthy
            player.held.copy_(1.0 - self.frame.updated)
        self.frame.updates[player.name] = self.frame.updated
        player.move()

    def generate(self, count: int, attached: bool) -> Batch:
        """Fakes, in their graph (`attached`) or without one."""
        z, classes = self.frame.draw_latents(count, self.latent_rng, self.class_rng)
        with torch.set_grad_enabled(attached):
            return Batch(self.frame.generator(z, classes), classes)

    def score(self, real: Batch, fake: Batch) -> tuple[Out, Out]:
        """D on both batches: as the recipe's `d_scores` has it, or jointly in one pass."""
        for hook, ctx in self.hooks.d_scores:
            return hook(real, fake, ctx)
        return score_jointly(self.frame.discriminator, real, fake)

    def score_attached(self, fake: Batch) -> Out:
        """D on the G step's fakes. Where D mixes samples and reals and fakes share a pass in the D step, they share one
        here too: alone, the same fakes would be scored differently, and G would learn against another D.
        """
        frame = self.frame
        if self.separate or not self.mixes:
            return frame.discriminator(*fake)
        real = fold(self.hooks.d_input, self.real_batch(), True)
        real_out, fake_out = score_jointly(frame.discriminator, real, fake)
        frame.real_out = real_out.detach()
        return fake_out

    def score_reals_again(self) -> Out:
        """The D step's real batch through the updated D, for tricks that read `ctx.real_out` in the G step."""
        with torch.no_grad():
            return self.discriminate(self.real_batch(), True)

    def real_batch(self) -> Batch:
        """The last D step's; one for itself where no D step came first in this step."""
        if self.frame.real is None:
            self.frame.real = self.frame.feed.next()
        return self.frame.real

    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        return self.frame.discriminator(*fold(self.hooks.d_input, batch, is_real))

    def d_labels(self, logits: Tensor, is_real: bool) -> Tensor:
        """First which samples are called real, then, from that alone, the value of each target."""
        called_real = fold(self.hooks.d_assignment, torch.full_like(logits, is_real, dtype=torch.bool))
        return fold(self.hooks.d_labels, called_real.to(logits.dtype), called_real)

    def leaf(self, batch: Batch) -> Batch:
        return batch.with_images(batch.images.detach().requires_grad_()) if self.input_grad else batch


def score_jointly(discriminator: Discriminator, real: Batch, fake: Batch) -> tuple[Out, Out]:
    """Both batches in one pass of D, reals first."""
    classes = None
    if real.classes is not None and fake.classes is not None:
        classes = torch.cat([real.classes, fake.classes])
    out: Out = discriminator(torch.cat([real.images, fake.images]), classes)
    judged = out.logits.shape[0] * real.size // (real.size + fake.size)
    return out.split(judged)


def named(terms: dict[str, Tensor], ctx: Context) -> dict[str, Tensor]:
    """A trick's loss terms under its own name."""
    for name, term in terms.items():
        if term.dim():
            raise TrickError(f"{ctx.name}: the loss term {name!r} has shape {tuple(term.shape)}; a term is a scalar")
    return {f"{ctx.name}.{name}": term for name, term in terms.items()}


@contextmanager
def frozen(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """No gradient for these weights: the G step goes through D without paying for D's weight gradients."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
