"""The hooks: every place where a trick can act, what it receives, what it returns, and when it runs.

A hook is one of four kinds, and the kind is part of the contract:

fold
    Value in, value out, in recipe order: the next trick sees what the last one returned.
term
    Returns `{name: scalar tensor}`. Loss terms are added to that player's loss and logged one by one; the core owns
    the single `backward()` and the single optimizer step.
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
    from gantricks.records import Batch, Out

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
    """The contract, in the order of a run. Each method is a hook; none of them is ever called on this class."""

    # ------------------------------------------------------------------ once, before the first step

    @choice
    def d_stem(self, shape: tuple[int, ...], ctx: Context) -> nn.Module:
        """What images go through before D's body, asked for before D is built: a module with an attribute `shape`, that
        of what comes out, for which D is then built. `shape`: that of one sample, (C, H, W) or (D,). Where it puts
        samples together, B of them to B / g, the trick says so by `group` = g. Default: nothing.
        """

    @fold
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        """Surgery on G, once, before optimizers exist.

        `network` exposes `body` (an `nn.Sequential` of blocks), `head`, `shape` and `latent_dim`. Parameters that are
        added must be initialised here, from `ctx.rng`. Tricks that replace the same part name it in `replaces`.
        """

    @fold
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        """Surgery on D, once, before optimizers exist.

        `network` exposes `body` (blocks from images to features (B, A)), `head` (features to logits (B, 1)), `shape`
        and `feature_dim`. A head that is replaced is declared as `replaces = {"d_head"}`.
        """

    @fold
    def transform_optimizer(self, optimizer: torch.optim.Optimizer, player: str, ctx: Context) -> torch.optim.Optimizer:
        """Replace or adjust a player's optimizer, once per player; `player` is "d" or "g"."""

    @choice
    def adversarial_loss(self, ctx: Context) -> AdversarialLoss:
        """The objective of the game, asked for once: an object with `d_loss(real, fake, real_labels, fake_labels, ctx)`
        and `g_loss(real, fake, labels, ctx)`, each returning named terms of one number a sample, of which the core
        takes the means (`gantricks.AdversarialLoss`). What it offers to other tricks ("targets" when labels matter to
        it) goes into the trick's `provides`. Default: the non-saturating binary cross-entropy, which provides
        "targets".
        """

    @event
    def on_setup(self, ctx: Context) -> None:
        """Networks and optimizers exist, saved state is not loaded yet: allocate the trick's tensors here. Called once
        wherever a run is built: to train, to resume, to sample, to evaluate. To sample or to evaluate a run, `ctx.data`
        is made up: what sampling needs of the real samples must be among the trick's tensors.
        """

    @event
    def on_load(self, ctx: Context) -> None:
        """A saved state has been loaded into every tensor: bring back what follows from it on the host."""

    @event
    def on_run_start(self, ctx: Context) -> None:
        """Training begins, or goes on from a checkpoint that has been loaded: open what a run needs beside its tensors.
        Neither sampling nor evaluation calls it.
        """

    # ------------------------------------------------------------------ between steps, on the host

    @event
    def on_boundary(self, ctx: Context) -> None:
        """Between steps, on the host: `ctx.step`, `ctx.progress` and `ctx.images_seen` can be read,
        `ctx.set_n_critic(n)` and `ctx.set_batch_size(n)` hold from the next step on, and `ctx.stop(reason)` ends the
        run before it. A trick that makes other weights take part says so with `ctx.restructured()`.
        """

    @choice
    def play(self, ctx: Context) -> None:
        """Replaces the order of phases within one step: call `ctx.d_step(critic)` and `ctx.g_step()` as often as the
        algorithm wants, with a different `critic` number for each D step. Default: n_critic D steps, then one G step.
        """

    # ------------------------------------------------------------------ the D step

    @event
    def before_d_step(self, ctx: Context) -> None:
        """First thing in a D step; nothing has been drawn."""

    @fold
    def latents(self, z: Tensor, ctx: Context) -> Tensor:
        """Wherever latents are drawn: in both steps, when sampling, and by tricks that draw some before the first step,
        so that what it uses must be there from `__init__` or a `transform_…` hook on. `z`: (B, latent_dim), N(0, 1).
        """

    @fold
    def fake_batch(self, batch: Batch, ctx: Context) -> Batch:
        """The fakes that D is shown in its own step, detached from G. Never called in the G step."""

    @fold
    def d_input(self, batch: Batch, is_real: bool, ctx: Context) -> Batch:
        """Everything D sees, in both steps: once for reals (`is_real`), once for fakes. In the G step gradients flow
        through it to G.
        """

    @choice
    def d_scores(self, real: Batch, fake: Batch, ctx: Context) -> tuple[Out, Out]:
        """How D scores the two batches in its own step; call `ctx.discriminator(images, classes)`. Default: jointly, in
        one concatenated pass. A provider that never lets reals and fakes meet in one pass declares
        `provides = {"separate_passes"}`, and the G step then scores fakes alone too.
        """

    @fold
    def d_assignment(self, is_real: Tensor, ctx: Context) -> Tensor:
        """Which of these samples are *called* real: bool (B, 1), all true for reals, all false for fakes. Called once
        for reals and once for fakes.
        """

    @fold
    def d_labels(self, labels: Tensor, is_real: Tensor, ctx: Context) -> Tensor:
        """D's targets, (B, 1), once for reals and once for fakes. `is_real` is the assignment, (B, 1) bool; labels
        start as its 0/1 values. Choose values by `is_real`, not by origin, or every flip is undone.
        """

    @term
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        """Further terms of D's loss, the same names at every step. Everything of the D step can be read;
        `ctx.discriminate` scores extra batches.
        """

    @event
    def after_d_backward(self, ctx: Context) -> None:
        """D's gradients exist and its optimizer has not stepped: add closed-form gradients, clip."""

    @fold
    def d_gate(self, open: Tensor, ctx: Context) -> Tensor:
        """Whether D's optimizer steps, asked after the backward: 0-dim float32, 1 when it does, 0 when D and its
        optimizer stay as they are. Return `open` times the trick's own 0 or 1.
        """

    @event
    def after_d_step(self, ctx: Context) -> None:
        """D has been updated, unless a gate was closed (`ctx.updated`); its gradients are still there. State that
        follows D moves here.
        """

    # ------------------------------------------------------------------ the G step

    @event
    def before_g_step(self, ctx: Context) -> None:
        """First thing in a G step; with `reuse_fakes`, the fakes exist already."""

    @fold
    def g_labels(self, labels: Tensor, ctx: Context) -> Tensor:
        """G's targets, (B, 1), starting as ones. A D-label trick cannot leak into them."""

    @fold
    def g_weights(self, weights: Tensor, ctx: Context) -> Tensor:
        """How much each fake counts in G's adversarial loss, (B, 1), starting as ones; the core takes the weighted
        mean. D's scores of the fakes are there: `ctx.fake_out`.
        """

    @choice
    def g_objective(self, ctx: Context) -> dict[str, Tensor]:
        """Replaces G's adversarial loss by other named terms (feature matching)."""

    @term
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        """Further terms of G's loss, the same names at every step."""

    @event
    def after_g_backward(self, ctx: Context) -> None:
        """G's gradients exist and its optimizer has not stepped."""

    @fold
    def g_gate(self, open: Tensor, ctx: Context) -> Tensor:
        """Whether G's optimizer steps, as `d_gate` for D."""

    @event
    def after_g_step(self, ctx: Context) -> None:
        """G has been updated, unless a gate was closed (`ctx.updated`); the last thing in a step."""

    # ------------------------------------------------------------------ beside the steps

    @fold
    def sampling_generator(self, network: Generator, ctx: Context) -> Generator:
        """The generator that sampling and evaluation use. It is put in eval mode for them and back afterwards."""

    @fold
    def evaluation_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        """The discriminator that evaluation uses, where a metric asks which class it sees (averaged weights, say). It
        is put in eval mode for that and back afterwards.
        """

    @term
    def log_scalars(self, ctx: Context) -> dict[str, Tensor]:
        """Scalars to log beside the losses; called at log intervals only, after the G step."""

    @event
    def on_log(self, scalars: dict[str, float], ctx: Context) -> None:
        """After each log line, on the host, with its scalars by name: "loss/d", "gradient_norm/g", "logits/real",
        "<trick>/<name>" … `ctx.warn(sentence)` tells the user. Not called when a value was not finite.
        """

    @event
    def on_finish(self, ctx: Context) -> None:
        """The last step is done, or a trick has stopped the run: what changes here is in the last checkpoint. A run
        that is interrupted has not finished, and does not come here.
        """

    @event
    def on_run_end(self, ctx: Context) -> None:
        """Training ends, however it does: done, stopped, interrupted, or with an error. Once for each `on_run_start`;
        the last checkpoint has been taken, so a trick closes here what it has opened, and changes nothing.
        """
