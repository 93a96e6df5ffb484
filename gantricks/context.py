"""The context that every hook receives: a trick's view of the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gantricks.networks.base import Discriminator, Generator
from gantricks.options import Schedule
from gantricks.records import Batch, Latents, Out
from gantricks.rng import Rng

M = TypeVar("M", bound=nn.Module)


class Samples(Protocol):
    """A selection of the real samples, for draws within the step. `classes` are their classes, int64 (n,), or None,
    `conditions` their conditions, (n, E), or None.
    """

    classes: Tensor | None
    conditions: Tensor | None

    def __len__(self) -> int: ...

    def take(self, positions: Tensor) -> Batch:
        """The samples at these positions, int64 (B,)."""
        ...


class Data(Protocol):
    """The real data, for tricks to read. Reading does not change the order of training."""

    @property
    def count(self) -> int:
        """The number of samples."""
        ...

    @property
    def classes(self) -> int:
        """The number of classes, 0 where there are none."""
        ...

    @property
    def class_of_each(self) -> Tensor | None:
        """The class of every sample, int64 (count,) on the device, or None."""
        ...

    def conditions(self, indices: Tensor) -> Tensor | None:
        """The conditions of the samples with these indices, (B, E), or None where the data has none."""
        ...

    @property
    def batch_size(self) -> int:
        """The present number of samples in a batch."""
        ...

    @property
    def is_images(self) -> bool: ...

    def take(self, indices: Tensor) -> Batch:
        """The samples with these indices, int64 (B,)."""
        ...

    def subset(self, indices: Tensor) -> Samples:
        """The samples with these indices, int64 (n,), for draws within the step. They are put on the device whatever
        their size.
        """
        ...


class Context(ABC):
    """One trick's view of the run, passed to every hook as `ctx`.

    Always available: `name`, `device`, `generator`, `discriminator`, `latent_dim`, `data`, `rng`, `value(option)`,
    `undecided`, `healthy`, `elapsed`.

    In a step, each as soon as it exists: `phase`, `real`, `fake` (batches as drawn), `real_in`, `fake_in` (after
    `d_input`), `real_out`, `fake_out`, `real_labels`, `fake_labels`, `discriminate`, `updated`,
    `updated_in_step(player)`.

    Between steps, when logging, and at the start and end of a run: `step`, `progress`, `images_seen`.
    """

    __slots__ = ()

    name: str
    """The trick's name in the recipe."""
    rng: Rng
    """The trick's own stream of random draws. A trick may use no other randomness."""

    @property
    @abstractmethod
    def real(self) -> Batch:
        """The real batch as drawn; in the G step, that of the last D step, or a new one where none has been played in
        this step.
        """

    @property
    @abstractmethod
    def fake(self) -> Batch:
        """The fakes: after `fake_batch` and detached in the D step, attached to G in the G step."""

    @property
    @abstractmethod
    def real_in(self) -> Batch:
        """D's input of reals. These are leaves with gradient where a trick declares `needs = {"input_grad"}`."""

    @property
    @abstractmethod
    def fake_in(self) -> Batch:
        """D's input of fakes. In the D step, these are leaves with gradient as for `real_in`."""

    @property
    @abstractmethod
    def fake_latents(self) -> Tensor:
        """The latents that G was given for this phase's fakes, (B, latent_dim), after the hook `latents`. In the D
        step, `fake_batch` may have replaced fakes since.
        """

    @property
    @abstractmethod
    def fake_out(self) -> Out:
        """D's scores of the fakes; in the G step, those that its loss is taken of."""

    @property
    @abstractmethod
    def real_labels(self) -> Tensor:
        """D's targets for the reals, (B, 1)."""

    @property
    @abstractmethod
    def fake_labels(self) -> Tensor:
        """D's targets for the fakes, (B, 1); in the G step, G's targets."""

    @property
    @abstractmethod
    def real_out(self) -> Out:
        """D's scores of the reals. In the G step these are the scores of the real batch under the updated D, without
        gradient; they are computed at the first access and shared. Where a trick scores for G (`g_scores`), they are
        those that it returned.
        """

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The run's floating-point type outside the networks: float32, or float64."""

    @property
    @abstractmethod
    def generator(self) -> Generator: ...

    @property
    @abstractmethod
    def discriminator(self) -> Discriminator: ...

    @property
    @abstractmethod
    def latent_dim(self) -> int: ...

    @property
    @abstractmethod
    def data(self) -> Data:
        """The real data, for reading."""

    @property
    @abstractmethod
    def undecided(self) -> float:
        """The output of D that means "as likely real as fake" under the recipe's objective: 0 for logits of a
        probability. A larger output means that D takes the sample for real.

        A trick that reads it needs "decision". Raises TrickError where the objective has no such output.
        """

    @property
    @abstractmethod
    def healthy(self) -> Tensor:
        """0-dim float32 on the device: 1 until the first non-finite loss or gradient, 0 from then on. A trick that
        scales each update of its state by it may declare `fault_safe = True`.
        """

    @property
    @abstractmethod
    def updated(self) -> Tensor:
        """0-dim float32 on the device: 1 where the phase's player was updated, 0 where a gate was closed or `healthy`
        is 0. Use it in `after_d_step` and `after_g_step` for state that follows a player.
        """

    @abstractmethod
    def updated_in_step(self, player: str) -> Tensor:
        """0-dim float32 on the device: 1 where the last update of "d" or "g" in this step took place; 0 where a gate
        was closed, where there has been no update yet, or where `healthy` is 0.

        Use it for state that follows a player during the other player's phase. The player's batch statistics change
        there too, and where its gate is closed they may be those of a network that stands in for it, such as a past D.
        """

    @property
    @abstractmethod
    def phase(self) -> str:
        """ "d" or "g" in a step; "setup", "boundary", "log", "metrics" or "sample" outside."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Number of finished steps, a host number."""

    @property
    @abstractmethod
    def progress(self) -> float:
        """The progress of the run, a host number: 0 at the first step, 1 at the last. In a run that was lengthened, it
        is 1 from the end of its schedules on.
        """

    @property
    @abstractmethod
    def elapsed(self) -> Tensor:
        """`progress` as a 0-dim tensor on the device, for use in the step."""

    @property
    @abstractmethod
    def images_seen(self) -> int:
        """Number of real samples drawn so far, a host number."""

    @abstractmethod
    def value(self, option: float | Schedule) -> Tensor:
        """A number or schedule of the trick's options as a 0-dim tensor on the device, at the present step."""

    @abstractmethod
    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        """Apply `d_input` and D to a further batch. Where D mixes samples, scores depend on the batch that they
        share.
        """

    @abstractmethod
    def score(self, real: Batch, fake: Batch, weights: Mapping[str, Tensor]) -> tuple[Out, Out]:
        """Score two batches of D's inputs as its own step does, by a D with other `weights`, named as its parameters
        are. It has the present D's weights where none are given. Gradients flow to `weights`, and the present D stays
        as it is, its buffers too.
        """

    @abstractmethod
    def another_real(self) -> Batch:
        """Return the next batch of real samples, beyond those that the D steps are given. Every call draws another.
        In a step only.
        """

    @abstractmethod
    def d_input(self, batch: Batch, is_real: bool) -> Batch:
        """Return what D would be shown of a further batch: the hook `d_input` of all tricks, without D."""

    @abstractmethod
    def judge(self, batch: Batch) -> Out:
        """Return the scores that samples get from the discriminator which evaluation uses
        (`evaluation_discriminator`), in eval mode and without the hook `d_input`. For `sampler`.
        """

    @abstractmethod
    def d_loss(
        self, real: Out, fake: Out, real_labels: Tensor | None = None, fake_labels: Tensor | None = None
    ) -> Tensor:
        """Return D's adversarial loss for these scores under the recipe's objective, 0-dim. Labels left out are those
        of the last D step, or 1 and 0 where there are none for so many samples.
        """

    @abstractmethod
    def g_loss(self, fake: Out, labels: Tensor | None = None, real: Out | None = None) -> Tensor:
        """Return G's adversarial loss for these scores under the recipe's objective, 0-dim. Labels left out are those
        of the G step, or 1 outside it or for another number of samples. Where the objective compares, scores of reals
        left out are `real_out`.
        """

    @abstractmethod
    def latents(self, count: int) -> Latents:
        """Draw what G is given, as in training, from this trick's stream: latents (count, latent_dim), classes (count,)
        where G is conditional, conditions (count, E) where it is conditioned.
        """

    @abstractmethod
    def build(self, name: str, make: Callable[[], M], like: nn.Module) -> M:
        """Build a new module for the network `like`, with `name` as its place there (such as "head" or "body.extra").

        `make` lays it out without drawing anything. It is put on the run's device and initialised in the way of `like`,
        from a stream of its own.
        """

    @abstractmethod
    def build_network(self, role: Literal["generator", "discriminator"], name: str) -> Generator | Discriminator:
        """Build a further network as the recipe builds its generator or discriminator, without surgery.

        It is initialised from a stream of its own, `name` of this trick. A discriminator is given images alone. For
        companions that are to be of one kind with the players: an encoder is a discriminator with another head.
        """

    @abstractmethod
    def stop(self, reason: str) -> None:
        """End the run before the next step. For `on_boundary` and `on_metrics`."""

    @abstractmethod
    def warn(self, sentence: str) -> None:
        """Show a sentence to the user with the next log line. For `on_log` and `on_metrics`."""

    @abstractmethod
    def set_n_critic(self, n: int) -> None:
        """Set the number of D steps in each step, from the next step on. For `on_boundary`. It is part of a
        checkpoint.
        """

    @property
    @abstractmethod
    def n_critic(self) -> int:
        """The present number of D steps in each step, a host number. A step is captured for each."""

    @abstractmethod
    def set_variant(self, name: str, value: bool | int | str) -> None:
        """Choose the form that the step has from the next one on. For `on_setup` and `on_boundary`.

        In the step, `ctx.variant(name)` returns the value, and hooks may branch on it: a penalty that is due in every
        fourth step, say. One captured step is kept for each combination of values, so there should be few. It is not
        part of a checkpoint: set it anew before each step, from `ctx.step`.
        """

    @abstractmethod
    def variant(self, name: str) -> bool | int | str:
        """Return the value that this trick has set with `set_variant`. Raises TrickError where it has set none."""

    @abstractmethod
    def set_batch_size(self, n: int) -> None:
        """Set the number of samples in each batch, from the next step on. For `on_boundary`. It is part of a
        checkpoint.
        """

    @abstractmethod
    def evaluate(self, metric: str, own_samples: bool = False) -> float:
        """Return the main figure of a metric for the present state. For `on_boundary`. `metric` is the name of an
        instance in the recipe's `[evaluate]`.

        The run is not changed: it continues as it would without the evaluation. With `own_samples`, the samples come
        from a stream of this trick, not from the seed that evaluation uses. Set it in a trick that chooses by the
        figure, so that the figure reported later is an independent one.
        """

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics in `[evaluate]`, in the recipe's order."""

    @abstractmethod
    def better(self, metric: str) -> Literal["higher", "lower"]:
        """Which direction of that figure is better: "higher" or "lower"."""

    @abstractmethod
    def snapshot(self) -> None:
        """Save a copy of the present state in place of an earlier one: both networks and optimizers, and the tensors of
        all other tricks. For `on_boundary` and `on_finish`. The copy is part of a checkpoint.
        """

    @abstractmethod
    def restore(self) -> None:
        """Restore the snapshot, to the bit. This trick's own tensors and the number of finished steps stay. It is meant
        for a run that ends: training on from there draws other numbers than it did the first time.
        """

    @abstractmethod
    def restructured(self) -> None:
        """Tell the core that the set of trained weights (those with `requires_grad`) has changed, from the next step
        on. For `on_setup`, `on_load` and `on_boundary`.

        Optimizers keep the state of all weights, and start new weights without any.
        """

    @abstractmethod
    def d_step(
        self,
        critic: int,
        share_fakes: bool = False,
        trial: bool = False,
        start: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> None:
        """Play one D step. For `play`. `critic` numbers the D steps within the step and keys their random draws. With
        `share_fakes`, the next G step uses the same fakes, if it follows before G is changed.

        With `trial`, no trick is told of the update (`after_d_step`): it is one that the trick takes back. `start` has
        weights to which the update is applied in place of the present ones, at which the gradient was taken: for every
        player that learns in this step, in the order of its `parameters()`. Where the update is skipped, the player is
        left with these.
        """

    @abstractmethod
    def g_step(self, number: int = 0, trial: bool = False, start: Mapping[str, Sequence[Tensor]] | None = None) -> None:
        """Play one G step. For `play`. `number` numbers the G steps within the step and keys their random draws. For
        `trial` and `start` see `d_step`.
        """

    @abstractmethod
    def restoring(self, *players: str) -> AbstractContextManager[None]:
        """Return a context at whose end these players are as they were at its start: weights, buffers and the state of
        the optimizer. For `play`.
        """

    @abstractmethod
    def optimizer(self, player: str) -> torch.optim.Optimizer:
        """The optimizer of a player ("d", "g", or the name of a companion), for reading its settings and state. It is
        made before `on_setup`.
        """

    @abstractmethod
    def learners(self, phase: str) -> Mapping[str, nn.Module]:
        """The networks that learn in the step of "d" or of "g", by player: that player's own first, then the companions
        that learn with it.
        """

    @abstractmethod
    def learns_in(self, player: str) -> str:
        """The step in which a player learns, "d" or "g"."""
