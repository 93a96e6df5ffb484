"""What a trick sees of the run: the context that every hook is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gantricks.networks.base import Discriminator, Generator
from gantricks.options import Schedule
from gantricks.records import Batch, Out
from gantricks.rng import Rng

M = TypeVar("M", bound=nn.Module)


class Samples(Protocol):
    """Some of the real samples, to draw from in the step. `classes`: theirs, int64 (n,), or None."""

    classes: Tensor | None

    def __len__(self) -> int: ...

    def take(self, positions: Tensor) -> Batch:
        """The samples at these positions, int64 (B,)."""
        ...


class Data(Protocol):
    """The real data as tricks may read it: nothing that is read here moves the order of training."""

    @property
    def count(self) -> int:
        """How many samples there are."""
        ...

    @property
    def classes(self) -> int:
        """How many classes they have, 0 where they have none."""
        ...

    @property
    def class_of_each(self) -> Tensor | None:
        """The class of every sample, int64 (count,) on the device, or None."""
        ...

    @property
    def batch_size(self) -> int:
        """How many samples a batch holds at present."""
        ...

    @property
    def is_images(self) -> bool: ...

    def take(self, indices: Tensor) -> Batch:
        """The samples with these indices, int64 (B,)."""
        ...

    def subset(self, indices: Tensor) -> Samples:
        """The samples with these indices, int64 (n,), to draw from in the step: on the device whatever they take."""
        ...


class Context(ABC):
    """One trick's view of the run, passed to every hook as `ctx`.

    Always at hand: `name`, `device`, `generator`, `discriminator`, `latent_dim`, `data`, `rng`, `value(option)`,
    `undecided`, `healthy`, `elapsed`. In a step, each from the moment it exists: `phase`, `real`, `fake` (batches as
    drawn), `real_in`, `fake_in` (after `d_input`), `real_out`, `fake_out`, `real_labels`, `fake_labels`,
    `discriminate`, `updated`, `updated_in_step(player)`. Between steps, when logging, and at the start and end of a
    run: `step`, `progress`, `images_seen`.
    """

    __slots__ = ()

    name: str
    """The trick's name in the recipe."""
    rng: Rng
    """The trick's stream of random draws, the only one that it may use."""

    @property
    @abstractmethod
    def real(self) -> Batch:
        """The real batch as drawn; in the G step, that of the last D step."""

    @property
    @abstractmethod
    def fake(self) -> Batch:
        """The fakes: after `fake_batch` and detached in the D step, attached to G in the G step."""

    @property
    @abstractmethod
    def real_in(self) -> Batch:
        """What D was shown of the reals. Leaves with gradient where a trick declares `needs = {"input_grad"}`."""

    @property
    @abstractmethod
    def fake_in(self) -> Batch:
        """What D was shown of the fakes. In the D step, leaves with gradient as for `real_in`."""

    @property
    @abstractmethod
    def fake_out(self) -> Out:
        """D's scores of the fakes."""

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
        """D's scores of the reals. In the G step: the real batch through the updated D, without gradient, computed at
        the first reading and shared."""

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
        """The real data, to read."""

    @property
    @abstractmethod
    def undecided(self) -> float:
        """The output of D that stands for as likely real as fake, as the objective of the recipe has it: 0 for logits
        of a probability. Above it, D takes a sample for real."""

    @property
    @abstractmethod
    def healthy(self) -> Tensor:
        """0-dim float32 on the device: 1, and 0 from the first non-finite loss or gradient on. A trick that scales
        each update of its state by it may declare `fault_safe = True`."""

    @property
    @abstractmethod
    def updated(self) -> Tensor:
        """0-dim float32 on the device: 1 where the phase's player was updated, 0 where a gate was closed or `healthy`
        is 0; for what follows a player in `after_d_step` and `after_g_step`."""

    @abstractmethod
    def updated_in_step(self, player: str) -> Tensor:
        """0-dim float32 on the device: 1 where the last update of "d" or "g" in this step took place, 0 where a gate
        was closed, where there has been none yet, or where `healthy` is 0. For what follows a player in the other's
        phase: its statistics move there, too, and where its gate is closed they may be those of a stand-in."""

    @property
    @abstractmethod
    def phase(self) -> str:
        """ "d" or "g" in a step; "setup", "boundary", "log" or "sample" outside."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Number of finished steps, a host number."""

    @property
    @abstractmethod
    def progress(self) -> float:
        """0 at the first step, 1 at the last and, where a run was lengthened, from the end of its schedules on; a host
        number."""

    @property
    @abstractmethod
    def elapsed(self) -> Tensor:
        """`progress` as a 0-dim tensor on the device, which the step may read."""

    @property
    @abstractmethod
    def images_seen(self) -> int:
        """Number of real samples drawn so far, a host number."""

    @abstractmethod
    def value(self, option: float | Schedule) -> Tensor:
        """A number or schedule of the trick's options as a 0-dim tensor on the device, at the present step."""

    @abstractmethod
    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        """`d_input` and D, for a further batch. D must not mix these samples with others to be scored the same."""

    @abstractmethod
    def latents(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Latents (count, latent_dim) as training draws them, and classes (count,) where G is conditional, both from
        this trick's own stream."""

    @abstractmethod
    def build(self, name: str, make: Callable[[], M], like: nn.Module) -> M:
        """A new module for the network `like`, to be its `name` (such as "head" or "body.extra"): laid out by `make`
        without drawing anything, put on the run's device, and initialised as `like` is, from a stream of its own."""

    @abstractmethod
    def stop(self, reason: str) -> None:
        """End the run before the next step; for `on_boundary`."""

    @abstractmethod
    def warn(self, sentence: str) -> None:
        """Tell the user, with the next log line; for `on_log`."""

    @abstractmethod
    def set_n_critic(self, n: int) -> None:
        """The number of D steps in each step from the next one on; for `on_boundary`. Part of a checkpoint."""

    @abstractmethod
    def set_batch_size(self, n: int) -> None:
        """The number of samples in each batch from the next one on; for `on_boundary`. Part of a checkpoint."""

    @abstractmethod
    def evaluate(self, metric: str, own_samples: bool = False) -> float:
        """The main figure of a metric that the recipe names in `[evaluate]`, by its instance's name, for the present
        state; for `on_boundary`. Nothing of the run is changed by it: with the same figures, it goes on as without.

        `own_samples`: those of a stream of this trick's own, and not those that evaluation draws with the run's seed;
        for a trick that chooses by the figure, so that what is reported later is another one."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics in `[evaluate]`, in the recipe's order."""

    @abstractmethod
    def better(self, metric: str) -> Literal["higher", "lower"]:
        """Which direction of that figure is better: "higher" or "lower"."""

    @abstractmethod
    def snapshot(self) -> None:
        """Keep a copy of the present state, in place of an earlier one: both networks and optimizers and the
        tensors of all other tricks; for `on_boundary` and `on_finish`. The copy is part of a checkpoint."""

    @abstractmethod
    def restore(self) -> None:
        """Make the state of the snapshot the present one, to the bit; this trick's own tensors and the number of steps
        done stay. For a run that ends: it does not go on from there as it did the first time."""

    @abstractmethod
    def restructured(self) -> None:
        """Say that other weights than before take part from the next step on, those with `requires_grad`; for
        `on_setup`, `on_load` and `on_boundary`. Optimizers keep the state of all weights, and start those that join
        from none."""

    @abstractmethod
    def d_step(self, critic: int) -> None:
        """One D step, for `play`. `critic` numbers the D steps within the step and keys their random draws."""

    @abstractmethod
    def g_step(self) -> None:
        """One G step, for `play`."""
