"""The hooks: every place where a trick can act, what it receives, what it returns, and when it runs.

A hook is one of four kinds, and the kind is part of the contract:

fold
    Value in, value out, in recipe order: the next trick sees what the last one returned.
term
    Returns `{name: value}`, kept apart from other tricks' as "<trick>.<name>". Loss terms are scalar tensors, added to
    that player's loss and logged one by one; the core owns the single `backward()` and the single optimizer step.
choice
    At most one provider in a recipe; two are an error when the recipe is checked.
event
    Returns nothing.

Shapes: B is the batch size, C × H × W an image (vector data is (B, D) instead), A the width of D's last layer, K the
number of classes. Where D judges g samples at once (`d_stem`), it has B / g logits, labels and rows of features. An
implementation may leave out arguments that it does not use; `ctx` is a `gantricks.Context`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from gantricks.context import Context
    from gantricks.losses import AdversarialLoss
    from gantricks.networks.base import Discriminator, Generator
    from gantricks.records import Batch, Companion, Latents, Out, Sampler

_mark_spec = pluggy.HookspecMarker("gantricks")
hookimpl = pluggy.HookimplMarker("gantricks")
"""Marks a method of a `Trick` as the implementation of the hook of that name."""

F = TypeVar("F", bound=Callable[..., Any])

KINDS: dict[str, str] = {}
"""The kind of every hook, by name, in the order in which a run reaches them."""


def _kind(kind: str) -> Callable[[F], F]:
    def mark(spec: F) -> F:
        KINDS[spec.__name__] = kind
        return _mark_spec(spec)

    return mark


fold, term, choice, event = _kind("fold"), _kind("term"), _kind("choice"), _kind("event")


class HookSpecs:
    """The contract, in the order of a run. Each method specifies a hook and is never called."""

    # ------------------------------------------------------------------ once, before the first step

    @choice
    def d_stem(self, shape: tuple[int, ...], ctx: Context) -> nn.Module:
        """Return a module that images pass through before D's body. Default: none.

        It is asked for before D is built, and has an attribute `shape`: the shape of its output, for which D is then
        built. The argument `shape` is that of one sample, (C, H, W) or (D,). A stem that combines samples, B of them to
        B / g, needs `group` = g in the trick.
        """

    @fold
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        """Change G's layers (surgery), once, before optimizers exist. `network` exposes `body` (an `nn.Sequential` of
        blocks), `head`, `shape` and `latent_dim`. Added parameters must be initialised here, from `ctx.rng`. Tricks
        that replace the same part name it in `replaces`. A layer of the body is given its input alone; where it needs
        the classes, `gantricks.PassClasses` has them.
        """

    @fold
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        """Change D's layers (surgery), once, before optimizers exist. `network` exposes `body` (blocks from images to
        features (B, A)), `head` (features to logits (B, 1)), `shape` and `feature_dim`. A trick that replaces the head
        declares `replaces = {"d_head"}`. One that gives D a use for classes declares `provides =
        {"discriminator_conditional"}`: D is conditional for all surgery then, also for tricks that come before it.
        """

    @term
    def companions(self, ctx: Context) -> dict[str, Companion]:
        """Add players to the game: each is a network with an optimizer of its own. It is asked for once, after surgery,
        and wherever a run is built.

        The core moves them to the device, and trains, gates, guards, saves and restores them like D and G. Their names
        in logs, files and metrics are "<trick>.<name>". `ctx.build_network` and `ctx.build` make networks whose weights
        follow from the seed. Terms that train a companion are those of the player `learns_in`: it learns nothing from
        a term that does not depend on it.
        """

    @fold
    def transform_optimizer(self, optimizer: torch.optim.Optimizer, player: str, ctx: Context) -> torch.optim.Optimizer:
        """Replace or adjust a player's optimizer, once per player; `player` is "d", "g" or the name of a companion,
        "<trick>.<name>" (`ctx.learns_in` says with whom it learns).

        An update is skipped where a gate is closed or a value was not finite. Torch's fused optimizers do so by
        themselves. One with a method `step_unless(held)` does too: `held` is 0-dim, 1 where weights and state must
        stay. Of any other, the core copies weights and state before each update. State that is not made in the first
        update belongs in `optimizer.state`, as tensors, from the start.
        """

    @choice
    def adversarial_loss(self, ctx: Context) -> AdversarialLoss:
        """Return the objective of the game. It is asked for once.

        It is an object with `d_loss(real, fake, real_labels, fake_labels, ctx)` and `g_loss(real, fake, labels, ctx)`.
        Each returns named terms of one number a sample, and the core takes their means (`gantricks.AdversarialLoss`).
        The trick's `provides` names what the objective offers to other tricks ("targets" when it uses labels). Default:
        the non-saturating binary cross-entropy, which provides "targets".
        """

    @event
    def on_setup(self, ctx: Context) -> None:
        """Allocate the trick's tensors. Networks and optimizers exist, and saved state is not loaded yet.

        It is called once wherever a run is built: to train, resume, sample or evaluate. For sampling and evaluation
        `ctx.data` holds made-up samples, so a trick must keep what sampling needs of the real samples among its
        tensors.
        """

    @event
    def on_load(self, ctx: Context) -> None:
        """Restore host state that follows from the tensors. A saved state has been loaded into every tensor."""

    @event
    def on_run_start(self, ctx: Context) -> None:
        """Open what training needs besides tensors. Training begins, or continues from a loaded checkpoint. Sampling
        and evaluation do not call this hook.
        """

    # ------------------------------------------------------------------ between steps, on the host

    @event
    def on_boundary(self, ctx: Context) -> None:
        """Act between two steps, on the host.

        `ctx.step`, `ctx.progress` and `ctx.images_seen` can be read. `ctx.set_n_critic(n)`, `ctx.set_batch_size(n)` and
        `ctx.set_variant(name, value)` apply from the next step on, and `ctx.stop(reason)` ends the run before it. A
        trick that changes which weights are trained calls `ctx.restructured()`.
        """

    @choice
    def play(self, ctx: Context) -> None:
        """Replace the order of phases within one step: call `ctx.d_step(critic)` and `ctx.g_step(number)` as often as
        the algorithm needs. Each has other draws, whatever its number. A step that is taken back is a `trial`. Default:
        `ctx.n_critic` D steps, then one G step.
        """

    # ------------------------------------------------------------------ the D step

    @event
    def before_d_step(self, ctx: Context) -> None:
        """Called first in a D step, before anything is drawn."""

    @fold
    def latents(self, z: Tensor, ctx: Context) -> Tensor:
        """Change latents `z` (B, latent_dim), N(0, 1), wherever they are drawn: in both steps, when sampling, and by
        tricks that draw some before the first step. What the hook uses must therefore exist after `__init__` or a
        `transform_…` hook.
        """

    @fold
    def real_batch(self, batch: Batch, ctx: Context) -> Batch:
        """Change the real batch that a D step has drawn, before anything sees it: give it conditions, say. The G step
        uses the same batch.
        """

    @fold
    def generated_batch(self, batch: Batch, ctx: Context) -> Batch:
        """Change what G has made, wherever a step generates, before anything sees it: give it conditions, say.
        `ctx.fake_latents` are its latents. Gradients flow through it to G.
        """

    @fold
    def fake_batch(self, batch: Batch, ctx: Context) -> Batch:
        """Change the fakes that D sees in its own step, detached from G. Not called in the G step."""

    @fold
    def d_input(self, batch: Batch, is_real: bool, ctx: Context) -> Batch:
        """Change every input of D, in both steps: called once for reals (`is_real`) and once for fakes. In the G step
        gradients flow through it to G.
        """

    @choice
    def d_scores(self, real: Batch, fake: Batch, ctx: Context) -> tuple[Out, Out]:
        """Score the two batches in D's own step, with `ctx.discriminator(images, classes)`. Default: jointly, in one
        concatenated pass. A provider that never puts reals and fakes in one pass declares `provides =
        {"separate_passes"}`, and the G step then scores fakes alone too.
        """

    @fold
    def d_assignment(self, is_real: Tensor, ctx: Context) -> Tensor:
        """Decide which of these samples are *called* real: bool (B, 1), at first all true for reals and all false for
        fakes. Called once for reals and once for fakes.
        """

    @fold
    def d_labels(self, labels: Tensor, is_real: Tensor, ctx: Context) -> Tensor:
        """Change D's targets, (B, 1). Called once for reals and once for fakes. `is_real` is the assignment, (B, 1)
        bool; labels start as its 0/1 values. Choose values by `is_real`, not by origin, or every flip is undone.
        """

    @term
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        """Add terms to D's loss, with the same names at every step. All tensors of the D step can be read;
        `ctx.discriminate` scores extra batches.
        """

    @event
    def after_d_backward(self, ctx: Context) -> None:
        """Act on D's gradients before its optimizer steps: add closed-form gradients, clip."""

    @fold
    def d_gate(self, open: Tensor, ctx: Context) -> Tensor:
        """Decide after the backward whether D's optimizer steps: 0-dim float32, 1 for a step, 0 to leave D and its
        optimizer unchanged. Return `open` times the trick's own 0 or 1.
        """

    @event
    def after_d_step(self, ctx: Context) -> None:
        """Update state that follows D. D has been updated, unless a gate was closed (`ctx.updated`); its gradients
        still exist.
        """

    # ------------------------------------------------------------------ the G step

    @event
    def before_g_step(self, ctx: Context) -> None:
        """Called first in a G step. With `reuse_fakes`, the fakes exist already."""

    @choice
    def g_scores(self, fake: Batch, ctx: Context) -> tuple[Out, Out] | None:
        """Score the real batch and the fakes for G's loss, in this order, by another D than the present one:
        `ctx.score` does so with other weights. `fake` is D's input of fakes; that of reals is `ctx.d_input(ctx.real,
        True)`. Gradients flow through both scores to G. None stands for the default: the present D, and scores of reals
        without gradient.
        """

    @fold
    def g_labels(self, labels: Tensor, ctx: Context) -> Tensor:
        """Change G's targets, (B, 1), which start as ones. They are separate from D's labels."""

    @fold
    def g_weights(self, weights: Tensor, ctx: Context) -> Tensor:
        """Change the weight of each fake in G's adversarial loss, (B, 1), starting as ones; the core takes the weighted
        mean. D's scores of the fakes are in `ctx.fake_out`.
        """

    @choice
    def g_objective(self, ctx: Context) -> dict[str, Tensor]:
        """Replace G's adversarial loss by other named terms (feature matching)."""

    @term
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        """Add terms to G's loss, with the same names at every step."""

    @event
    def after_g_backward(self, ctx: Context) -> None:
        """Act on G's gradients before its optimizer steps."""

    @fold
    def g_gate(self, open: Tensor, ctx: Context) -> Tensor:
        """Decide whether G's optimizer steps, as `d_gate` does for D."""

    @event
    def after_g_step(self, ctx: Context) -> None:
        """Update state that follows G. G has been updated, unless a gate was closed (`ctx.updated`)."""

    @event
    def after_step(self, ctx: Context) -> None:
        """Act after the last phase of a step. Both players may be changed here: averaged, moved back. A change must not
        take place where `ctx.healthy` is 0. This is the last hook of a step.
        """

    # ------------------------------------------------------------------ beside the steps

    @fold
    def sampling_generator(self, network: Generator, ctx: Context) -> Generator:
        """Return the generator for sampling and evaluation. It is in eval mode for these, and has its former mode
        afterwards. It is called as G is, with latents, classes and conditions. A trick that changes it returns a copy,
        and is asked after one that `replaces` "generator_for_sampling".
        """

    @fold
    def sampling_latents(self, given: Latents, ctx: Context) -> Latents:
        """Change what G is given for samples, wherever it makes some for pictures and metrics, and never in training.
        The latents have passed the hook `latents`. Classes and conditions stay.

        Each row is a continuous function of its latents, for `interpolate` walks through it.
        """

    @fold
    def sampler(self, sampler: Sampler, ctx: Context) -> Sampler:
        """Return the function that makes samples: `sampler(given)` returns an image for each row of `given`, of the
        same class and condition. It may call the one that it was given more than once, and with other latents.

        The hook is called once for a series of samples, and may measure G there. The first sampler applies
        `sampling_latents` and calls the network of `sampling_generator`. That network is in eval mode, and gradients
        are off. `ctx.judge` scores samples, `ctx.latents` draws further latents. A sample may depend on the rows of its
        call, and never on earlier calls. `interpolate` leaves this hook out, since its latents are given.
        """

    @fold
    def evaluation_companion(self, network: nn.Module, name: str, ctx: Context) -> nn.Module:
        """Return the network for metrics that ask the companion `name`, "<trick>.<name>" (one with averaged weights,
        say). It is in eval mode for these, and has its former mode afterwards.
        """

    @fold
    def evaluation_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        """Return the discriminator for metrics that use its class logits (one with averaged weights, say). It is in
        eval mode for these, and has its former mode afterwards.
        """

    @term
    def log_scalars(self, ctx: Context) -> dict[str, Tensor]:
        """Return scalars to log beside the losses. Called at log intervals only, after the G step."""

    @event
    def on_log(self, scalars: dict[str, float], ctx: Context) -> None:
        """Act on the host after each log line, with its scalars by name: "loss/d", "gradient_norm/g", "logits/real",
        "<trick>/<name>" … `ctx.warn(sentence)` tells the user. Not called when a value was not finite.
        """

    @event
    def on_metrics(self, figures: dict[str, float], ctx: Context) -> None:
        """Act on the host on what the metrics have found. Where `[evaluate]` sets `every`, it is called after each so
        many steps, and after the last one, before `on_finish`.

        `figures` are those of the present state by name, "metric/<metric>/<figure>", the main one of each metric first,
        on the samples of `gantricks evaluate`. One that could not be measured is NaN. What `ctx` does in `on_boundary`
        it does here too: `ctx.stop(reason)` ends the run. A run that is resumed here is not told again, so what follows
        from the figures belongs in tensors. A trick that acts nowhere else declares `needs = {"measurements"}`.
        """

    @event
    def on_finish(self, ctx: Context) -> None:
        """Change the final state, which the last checkpoint holds. The last step is done, or a trick has stopped the
        run. A run that is interrupted has not finished, and does not call this hook.
        """

    @event
    def on_run_end(self, ctx: Context) -> None:
        """Close what the trick has opened. Training has ended in any way: done, stopped, interrupted, or with an error.
        Called once for each `on_run_start`, after the last checkpoint, so it must not change the run's state.
        """
