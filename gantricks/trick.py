"""What a trick is. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gantricks.options import Options

if TYPE_CHECKING:
    from torch import Tensor

CAPABILITIES: dict[str, str] = {
    "targets": "an adversarial loss that uses labels; switch off the trick that replaces the default one, which does",
    "classes": 'data with classes; set a source that has them in [data], such as "fashion_mnist"',
    "images": 'image data; set a source of images in [data], such as "fashion_mnist"',
    "metric": "a metric in the recipe; add one, such as [evaluate.mixture_coverage]",
    "class_logits": "a D that says which class it sees; add [tricks.auxiliary_classifier], for one",
    "separate_passes": "scoring reals and fakes in separate passes; add [tricks.separate_batches]",
    "input_grad": "D's inputs as leaves with gradient (always at hand)",
    "generator_batch_norm": "a generator with batch norm; set batch_norm = true in [generator]",
    "discriminator_batch_norm": "a discriminator with batch norm; set batch_norm = true in [discriminator]",
    "generator_convolutions": 'a convolutional generator; set network = "dcgan" in [generator]',
    "discriminator_convolutions": 'a convolutional discriminator; set network = "dcgan" in [discriminator]',
    "discriminator_max_pool": 'a D with max pooling; set network = "resnet" and pool = "max" in [discriminator]',
    "generator_conditional": "a generator that is given classes; set conditional = true in [generator]",
    "discriminator_conditional": "a discriminator that is given classes; set conditional = true in [discriminator]",
}
"""What a trick can need, and how a recipe provides it. Tricks may provide further ones to each other."""


FACTS = ("needs", "provides", "replaces", "conflicts", "cautions", "group", "forwards", "capturable")
"""What a trick says of itself, and may say anew for its options (`Trick.facts`)."""


@dataclass(frozen=True)
class Setting:
    """The facts of a recipe that a trick may look at in `Trick.problems`, before any tensor exists.

    `batch_sizes` are all that batches have in the run: `batch_size`, the recipe's, or what tricks set in its place.
    `shape` is that of one sample, (C, H, W) or (D,); `group` how many samples D judges at once; `count` the number of
    samples in the data; `generator` and `discriminator` are the networks' options; `generator_maps` and
    `discriminator_maps` the heights and widths of the maps between their blocks, the image first and the smallest last;
    `metrics` are those of the recipe, by instance, and whether "higher" or "lower" is better in their main figure.
    """

    shape: tuple[int, ...]
    count: int
    classes: int
    batch_size: int
    batch_sizes: tuple[int, ...]
    latent_dim: int
    steps: int
    n_critic: int
    generator: Options
    discriminator: Options
    generator_maps: tuple[tuple[int, int], ...] = ()
    discriminator_maps: tuple[tuple[int, int], ...] = ()
    group: int = 1
    metrics: Mapping[str, str] = field(default_factory=dict)


class Trick:
    """Base class of every trick. The docstring of a subclass is its card: what it does, why it helps, when it hurts,
    its source.

    A trick is a plain class. Its hooks are methods marked with `@hookimpl`, named and signed as in
    `gantricks.hooks`; they take no default arguments. Its options are the nested `Config`.

    State: `tensors()` returns every tensor that the trick changes, by name. They are allocated in `on_setup` (or
    in a `transform_…` hook) and from then on only updated **in place**: the core saves, restores and masks them by
    identity. Scalars are float32.
    """

    needs: Collection[str] = frozenset()
    """Capabilities (see `CAPABILITIES`) that the rest of the recipe must provide."""
    provides: Collection[str] = frozenset()
    """Capabilities that this trick offers to others."""
    replaces: Collection[str] = frozenset()
    """Parts of a network that only one trick can replace, such as "d_head"."""
    conflicts: Mapping[str, str] = {}
    """What it cannot work with, each with the reason: tricks, capabilities that are provided, or capabilities that
    another trick needs (such as "input_grad", for penalties on D's gradient)."""
    cautions: Mapping[str, str] = {}
    """What it works badly with, named in the same way, each with the reason; shown as warnings."""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    """Options at which a run is bit-identical to one without the trick, or None where there are none such."""
    group: int = 1
    """How many samples of one provenance D judges at once because of it (`d_stem`)."""
    forwards: ClassVar[Mapping[str, int]] = {}
    """How many more forward passes of D ("d") and G ("g") each step takes because of it."""
    trial: ClassVar[Mapping[str, Any]] = {}
    """Options at which it does something within a few steps of a few samples, where its defaults do not: what the kit
    tries it with."""
    capturable: bool = True
    """Whether the step can be captured with this trick in it."""
    deliberate: Mapping[str, str] = {}
    """Conventions that it breaks on purpose, each with the reason: laws of the kit (`gantricks.testing`) that hold for
    nearly every trick, "both-sides", "signs" and "latents", and that are then not asked of this one."""
    fault_safe: bool = False
    """True when every update of `tensors()` is scaled by `ctx.healthy`, so that nothing moves from the first non-finite
    loss on. Otherwise the core keeps a second copy of those tensors and restores them itself."""

    class Config(Options):
        """The trick's options: its keys in the recipe."""

    config: Any

    def __init__(self, config: Any) -> None:
        self.config = config
        for fact, value in self.facts(config).items():
            if fact not in FACTS:
                raise TypeError(f"facts of {type(self).__name__}: {fact!r} is none of {', '.join(FACTS)}")
            setattr(self, fact, value)

    @classmethod
    def facts(cls, config: Any) -> Mapping[str, Any]:
        """Those of the facts above that depend on the options, by name, in place of what the class says: `needs`,
        `provides`, `replaces`, `conflicts`, `cautions`, `group`, `forwards`, `capturable`."""
        return {}

    def problems(self, setting: Setting) -> list[str]:
        """Sentences saying why this trick cannot work in this recipe, each with the hint. Called by `check`."""
        return []

    def batch_sizes(self, setting: Setting) -> tuple[int, ...]:
        """All batch sizes that this trick sets (`ctx.set_batch_size`); none where it leaves the recipe's."""
        return ()

    def tensors(self) -> dict[str, Tensor]:
        """The trick's mutable state, by name, and what it has taken from the data and samples with; the same tensors at
        every call."""
        return {}
