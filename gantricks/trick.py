"""The base class of tricks, and what they can declare. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gantricks.options import Options

if TYPE_CHECKING:
    from torch import Tensor

CAPABILITIES: dict[str, str] = {
    "targets": "an adversarial loss that uses labels; switch off the trick that replaces the default one, which does",
    "decision": "an adversarial loss in which an output of D means that a sample is as likely real as fake; switch off "
    "the trick that replaces the default one, which has 0",
    "log_ratio": "an adversarial loss whose best D is the log of the ratio of densities, reals over fakes; switch off "
    "the trick that replaces the default one, which has it",
    "classes": 'data with classes; set a source that has them in [data], such as "fashion_mnist"',
    "conditions": "data whose samples have conditions, such as captions; set a source that has them in [data]",
    "images": 'image data; set a source of images in [data], such as "fashion_mnist"',
    "metric": "a metric in the recipe; add one, such as [evaluate.mixture_coverage]",
    "measurements": "metrics that are measured while the run trains; set every = 1000 in [evaluate], say",
    "class_logits": "a D that predicts classes; add [tricks.auxiliary_classifier], for one",
    "separate_passes": "scoring reals and fakes in separate passes; add [tricks.separate_batches]",
    "input_grad": "D's inputs as leaves with gradient (always at hand)",
    "generator_batch_norm": "a generator with batch norm; set batch_norm = true in [generator]",
    "discriminator_batch_norm": "a discriminator with batch norm; set batch_norm = true in [discriminator]",
    "generator_convolutions": 'a convolutional generator; set network = "dcgan" in [generator]',
    "discriminator_convolutions": 'a convolutional discriminator; set network = "dcgan" in [discriminator]',
    "discriminator_max_pool": 'a D with max pooling; set network = "resnet" and pool = "max" in [discriminator]',
    "generator_styles": 'a generator with styles; set network = "style" in [generator]',
    "generator_two_stages": 'a generator in two stages; set network = "stackgan" in [generator]',
    "generator_conditional": "a generator that is given classes; set conditional = true in [generator]",
    "discriminator_conditional": "a discriminator that is given classes; set conditional = true in [discriminator]",
    "generator_conditioned": "a generator that is given conditions; set conditioned = true in [generator]",
    "discriminator_conditioned": "a discriminator that is given conditions; set conditioned = true in [discriminator]",
}
"""Capabilities that a trick can need, and how a recipe provides them. Tricks may provide others to each other."""


FACTS = ("needs", "provides", "replaces", "conflicts", "cautions", "group", "forwards", "capturable")
"""Declarations of a trick that may depend on its options (`Trick.facts`)."""


@dataclass(frozen=True)
class Setting:
    """Facts about a recipe that `Trick.problems` may use, before any tensor exists.

    `batch_sizes` are all batch sizes of the run: the recipe's `batch_size`, or those that tricks set in its place.
    `shape` is that of one sample, (C, H, W) or (D,); `group` is the number of samples that D judges at once; `count` is
    the number of samples in the data; `condition` is the number of numbers that describe each. `generator` and
    `discriminator` are the networks' options. `generator_maps` and `discriminator_maps` are the heights and widths of
    the maps between their blocks, from the image to the smallest map. `metrics` are those of the recipe, by instance,
    with the better direction of the main figure, "higher" or "lower". `begins` is false where a run goes on, or is
    sampled or measured: its state is in its checkpoint.
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
    condition: int = 0
    begins: bool = True


class Trick:
    """Base class of every trick. The docstring of a subclass is its card: what it does, why it helps, when it hurts,
    its source.

    A trick is a plain class. Its hooks are methods marked with `@hookimpl`, with the names and arguments of
    `gantricks.hooks`; they have no default arguments. Its options are the nested `Config`.

    State: `tensors()` returns every tensor that the trick changes, by name. They are allocated in `on_setup` (or in a
    `transform_…` hook) and from then on only updated **in place**: the core saves, restores and masks them by identity.
    Scalars are float32.
    """

    needs: Collection[str] = frozenset()
    """Capabilities (see `CAPABILITIES`) that the rest of the recipe must provide."""
    provides: Collection[str] = frozenset()
    """Capabilities that this trick offers to others."""
    replaces: Collection[str] = frozenset()
    """Parts of a network that only one trick can replace, such as "d_head"."""
    conflicts: Mapping[str, str] = {}
    """What the trick cannot work with, each with the reason: tricks, capabilities that are provided, or capabilities
    that another trick needs (such as "input_grad", for penalties on D's gradient).
    """
    cautions: Mapping[str, str] = {}
    """What the trick works badly with, named like `conflicts`, each with the reason; shown as warnings."""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    """Options at which a run is bit-identical to one without the trick, or None where no such options exist."""
    group: int = 1
    """The number of samples, all real or all fake, that D judges at once because of this trick (`d_stem`)."""
    forwards: ClassVar[Mapping[str, int]] = {}
    """The number of additional forward passes of D ("d") and G ("g") in each step."""
    trial: ClassVar[Mapping[str, Any]] = {}
    """Options with which the kit tests the trick, where its defaults have no effect within a few steps of a few
    samples.
    """
    strengths: ClassVar[Mapping[str, tuple[Any, Any, Any]]] = {}
    """The options that say how strongly the trick acts, each with three values: weak, moderate and strong, the default
    among them. They change together: a screening study (`gantricks ablate --mode screening`) draws one of the three.
    """
    paths: ClassVar[Collection[str]] = ()
    """Names of the options that hold file system paths; a run's recipe keeps them absolute."""
    capturable: bool = True
    """Whether the step can be captured with this trick in it."""
    deliberate: Mapping[str, str] = {}
    """Conventions that the trick breaks on purpose, each with the reason. Conventions are laws of the kit
    (`gantricks.testing`) that hold for nearly every trick: "both-sides", "signs" and "latents". Those named here are
    not checked.
    """
    fault_safe: bool = False
    """True when every update of `tensors()` is scaled by `ctx.healthy`, so that nothing changes from the first
    non-finite loss on. Otherwise the core keeps a second copy of those tensors and restores them itself.
    """

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
        """Return the declarations above that depend on the options, by name: any of `needs`, `provides`, `replaces`,
        `conflicts`, `cautions`, `group`, `forwards`, `capturable`. They take the place of the class attributes.
        """
        return {}

    def problems(self, setting: Setting) -> list[str]:
        """Return sentences saying why this trick cannot work in this recipe, each with a hint. Called by `check`."""
        return []

    def batch_sizes(self, setting: Setting) -> tuple[int, ...]:
        """Return all batch sizes that this trick sets (`ctx.set_batch_size`); none where it leaves the recipe's."""
        return ()

    def tensors(self) -> dict[str, Tensor]:
        """Return the trick's mutable state by name, with all that it has taken from the data and needs for sampling.
        The tensors are the same objects at every call.
        """
        return {}
