"""The base classes of networks: the parts that the core, and every trick that does surgery, may rely on."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantricks.errors import Problem, TrickError, UserError
from gantricks.options import Options
from gantricks.records import Out
from gantricks.rng import Rng


@dataclass(frozen=True)
class Shapes:
    """The sizes that a network must fit.

    `sample`: (C, H, W) or (D,). `classes`: 0 when the data has none. `condition`: the numbers that describe each
    sample, 0 when the data has none.
    """

    sample: tuple[int, ...]
    latent_dim: int
    classes: int = 0
    condition: int = 0


class GivenGenerator(Options):
    """What a generator is given beside the latents."""

    conditional: Annotated[bool, Field(description="make samples of a given class")] = False
    embedding_dim: Annotated[
        int, Field(ge=1, le=1024, description="numbers that stand for the class beside the latents")
    ] = 50
    conditioned: Annotated[bool, Field(description="make samples for a given condition, such as a caption")] = False
    condition_dim: Annotated[
        int, Field(ge=1, le=1024, description="numbers that stand for the condition beside the latents")
    ] = 64


class GivenDiscriminator(Options):
    """What a discriminator is given beside the images."""

    conditional: Annotated[bool, Field(description="judge a sample as one of its class")] = False
    conditioned: Annotated[bool, Field(description="judge a sample together with its condition")] = False


def given_problems(config: GivenGenerator | GivenDiscriminator, shapes: Shapes) -> list[str]:
    """Return sentences saying what the data lacks of what the network is to be given."""
    found = []
    if config.conditional and not shapes.classes:
        found.append("conditional = true needs data with classes, and these have none; use conditional = false")
    if config.conditioned and not shapes.condition:
        found.append("conditioned = true needs data with conditions, and these have none; use conditioned = false")
    if config.conditional and config.conditioned:
        found.append("a condition says more than the class; use conditional = false beside conditioned = true")
    return found


def given_capabilities(config: GivenGenerator | GivenDiscriminator) -> set[str]:
    """Return what tricks may rely on: "conditional", "conditioned"."""
    return {name for name in ("conditional", "conditioned") if getattr(config, name)}


class ClassEmbedding(nn.Embedding):
    """An embedding of the class, appended to the latents. It starts ~ N(0, 1), like the latents."""

    def initialise(self, rng: Rng) -> None:
        self.weight.copy_(rng.normal(self.weight.shape))


class SummedLayers(nn.Module):
    """A layer that returns the sum of several linear or convolutional layers.

    Surgery that gives a layer further inputs puts one of these in its place. The pre-activation of a unit is then this
    sum, and code that reads pre-activations (weight norm's initialisation from data) reads the sum.
    """

    def summands(self) -> Iterable[nn.Module]:
        """Return the layers whose outputs are added."""
        raise NotImplementedError


class PassClasses:
    """The classes of the pass that `network` is in, for its layers: `now` is (B,) int64, and None outside a pass.

    The layers of a body are given their input alone. Surgery that needs the classes in one of them makes one of these
    for the network, and the layer reads `now`. A copy of the network has a copy of it.
    """

    now: Tensor | None = None

    def __init__(self, network: Generator | Discriminator) -> None:
        network.register_forward_pre_hook(self._take, with_kwargs=True)
        network.register_forward_hook(self._forget)

    def _take(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.now = args[1] if len(args) > 1 else kwargs.get("classes")

    def _forget(self, network: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self.now = None


class Generator(nn.Module):
    """A network from latents (B, latent_dim) to images of `shape`. When conditional it is given classes (B,) too, when
    conditioned conditions (B, E).

    `body` is an `nn.Sequential` of blocks from `inputs(latents, classes, condition)` to the last hidden layer; `head`
    turns that into images. A block is an `nn.Sequential` with children named `linear` or `conv`, `norm` (where there is
    one) and `activation`. Surgery replaces parts of `body` or `head`; `forward` stays the same. A conditional generator
    whose `embedding_dim` is not 0 appends an embedding of the class to the latents; one whose `condition_dim` is not 0
    appends `conditioning(condition)`, (B, `condition_dim`). So `body` receives (B, `input_dim`). `initialise` reads
    `init_std`.
    """

    body: nn.Sequential
    head: nn.Module
    embedding: ClassEmbedding | None
    conditioning: nn.Module | None
    init_std: float | None = 0.02
    autocast: torch.dtype | None = None
    """The type to compute in, set by the core. Inputs and outputs keep their own type."""

    def __init__(
        self, shapes: Shapes, conditional: bool = False, embedding_dim: int = 0, condition_dim: int = 0
    ) -> None:
        super().__init__()
        self.shape = shapes.sample
        self.latent_dim = shapes.latent_dim
        self.classes = shapes.classes if conditional else 0
        self.conditional = conditional
        self.condition = shapes.condition if condition_dim else 0
        self.condition_dim = condition_dim
        self.conditioned = condition_dim > 0
        embeds = conditional and embedding_dim > 0
        self.embedding = ClassEmbedding(shapes.classes, embedding_dim) if embeds else None
        self.conditioning = condense(shapes.condition, condition_dim) if self.conditioned else None
        self.input_dim = shapes.latent_dim + (embedding_dim if embeds else 0) + condition_dim

    def inputs(self, latents: Tensor, classes: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Return the input of the first block of `body`: (B, `input_dim`)."""
        parts = [latents]
        if self.embedding is not None:
            parts.append(self.embedding(classes))
        if self.conditioning is not None:
            parts.append(self.conditioning(condition))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def forward(self, latents: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        with precision(latents, self.autocast):
            images: Tensor = self.head(self.body(self.inputs(latents, classes, condition)))
        return images.to(latents.dtype)


class StyleGenerator(Generator):
    """A generator that makes styles of the latents, and images of the styles. It offers the capability "styles".

    Styles are (B, L, d): L = `style_count` vectors of length d = `style_dim` for each sample, in the order of the
    layers that they steer, coarse ones first. `style_changes` are modules that are called on them in turn, as
    `change(styles, network, classes, condition)`, and return styles. Tricks may add to them.
    """

    style_count: int
    style_dim: int

    def __init__(
        self, shapes: Shapes, conditional: bool = False, embedding_dim: int = 0, condition_dim: int = 0
    ) -> None:
        super().__init__(shapes, conditional, embedding_dim, condition_dim)
        self.style_changes = nn.ModuleList()

    def styles(self, latents: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Return the styles (B, L, d) of latents (B, latent_dim), before `style_changes`."""
        raise NotImplementedError

    def synthesise(self, styles: Tensor) -> Tensor:
        """Return the images of styles (B, L, d)."""
        raise NotImplementedError

    def forward(self, latents: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        styles = self.styles(latents, classes, condition)
        for change in self.style_changes:
            styles = change(styles, self, classes, condition)
        return self.synthesise(styles)


class TwoStageGenerator(Generator):
    """A generator whose blocks see the image of another one, `first`. It offers the capability "two_stages"."""

    first: Generator


class Discriminator(nn.Module):
    """A network from images of `shape` to an `Out`. When conditional it is given classes (B,) too, when conditioned
    conditions (B, E).

    A `stem` that a trick provides comes first and turns images into the input of `body`. Where it combines samples,
    `group` of them for each row, an `Out` has B / `group` rows, of consecutive samples. `body` is an `nn.Sequential` of
    blocks, as in a `Generator`, and one `nn.Flatten`, from images to the features (B, A), A = `feature_dim`; `head`
    turns features into logits (B, 1). A network that is built conditional has a `projection`, from classes (B,) to
    embeddings (B, A), and adds ⟨projection(class), features⟩ to the logit (Miyato & Koyama 2018, eq. 3). Where a trick
    provides "discriminator_conditional", D is conditional before any surgery, and that trick gives it a use for
    classes. `class_head`, when a trick sets it, turns features into class logits (B, K); with `head_reads` =
    "class_logits", these are the input of `head`. `pairing` joins features and condition, (B, A + E) to (B, A), in a
    discriminator that judges pairs; `condition` = E. `neck` is between the features and the heads, and is empty unless
    a trick adds layers to it. `initialise` reads `init_std`.
    """

    stem: nn.Module | None
    body: nn.Sequential
    neck: nn.Sequential
    pairing: nn.Module | None
    head: nn.Module
    head_reads: Literal["features", "class_logits"] = "features"
    class_head: nn.Module | None
    projection: nn.Embedding | None
    init_std: float | None = 0.02
    autocast: torch.dtype | None = None
    """The type to compute in, set by the core. Inputs and outputs keep their own type."""

    def __init__(self, shapes: Shapes, feature_dim: int, conditional: bool = False, conditioned: bool = False) -> None:
        super().__init__()
        self.shape = shapes.sample
        self.feature_dim = feature_dim
        self.classes = shapes.classes if conditional else 0
        self.conditional = conditional
        self.condition = shapes.condition if conditioned else 0
        self.conditioned = conditioned
        self.pairing = Pairing(feature_dim, shapes.condition) if conditioned else None
        self.group = 1
        self.stem = None
        self.neck = nn.Sequential()
        self.class_head = None
        self.projection = nn.Embedding(shapes.classes, feature_dim) if conditional else None

    def forward(self, images: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> Out:
        with precision(images, self.autocast):
            features = self.body(images if self.stem is None else self.stem(images))
            seen = features
            if self.pairing is not None:
                if condition is None:
                    raise TrickError("the discriminator judges pairs, and is given images without their condition")
                seen = self.pairing(torch.cat([seen, condition.to(seen.dtype)], 1))
            seen = self.neck(seen) if len(self.neck) else seen
            class_logits = None if self.class_head is None else self.class_head(seen)
            logits = self.head(seen if self.head_reads == "features" else class_logits)
            if self.projection is not None:
                logits = logits + (self.projection(classes) * seen).sum(1, keepdim=True)
        return Out(logits, features, class_logits).to(images.dtype)


def condense(condition: int, width: int) -> nn.Sequential:
    """Return layers from a condition (B, `condition`) to the numbers that stand for it in a generator, (B, `width`)."""
    return nn.Sequential(OrderedDict(linear=nn.Linear(condition, width), activation=nn.LeakyReLU(0.2)))


class Pairing(nn.Module):
    """Features and a condition (B, `features` + `condition`) to features of the pair (B, `features`).

    The features are kept, and a hidden layer of at most 256 units adds what it makes of both.
    """

    def __init__(self, features: int, condition: int) -> None:
        super().__init__()
        self.features = features
        hidden = min(features, 256)
        self.inner = nn.Linear(features + condition, hidden)
        self.activation = nn.LeakyReLU(0.2)
        self.outer = nn.Linear(hidden, features)

    def forward(self, both: Tensor) -> Tensor:
        added: Tensor = self.outer(self.activation(self.inner(both)))
        return both[:, : self.features] + added


def precision(tensor: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(tensor.device.type, dtype)


class Network:
    """Base class of every pair of architectures, found by name.

    It is one module in `gantricks/networks`, or an entry point in the group `gantricks.networks`. The class docstring
    is its card. A network may have a generator or a discriminator alone: the other's Config stays None. Builders may
    run under `torch.device("meta")`, so they only lay modules out; `initialise` fills every parameter and buffer from a
    random stream.
    """

    GeneratorConfig: ClassVar[type[Options] | None] = None
    DiscriminatorConfig: ClassVar[type[Options] | None] = None

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        """Return sentences saying why this network cannot be built; `role` is "generator" or "discriminator"."""
        return []

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        """Return what tricks may rely on, such as "batch_norm". Tricks see it as "generator_batch_norm"."""
        return set()

    @staticmethod
    def maps(role: str, config: Any, shapes: Shapes) -> list[tuple[int, int]]:
        """Return height and width of the maps between blocks, from the image to the smallest map; an empty list without
        maps.
        """
        return []

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> Generator:
        raise NotImplementedError

    @staticmethod
    def discriminator(config: Any, shapes: Shapes) -> Discriminator:
        raise NotImplementedError


# Layers whose own reset_parameters() sets constants and draws nothing from the global generator.
_CONSTANT_START = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.PReLU,
)
_FILLED = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def initialise(network: nn.Module, rng: Rng, like: nn.Module | None = None, at: str = "") -> None:
    """Fill every parameter and buffer of `network`, each layer from the stream named after it.

    The network says how by `init_std`, or the one that it is to be a part of (`like`, under the name `at`). A number:
    weights of linear and convolutional layers and embeddings ~ N(0, `init_std`²) (Radford et al. 2015, §4). None:
    ~ N(0, 2 / fan_in) in `body`, where rectifiers halve the signal (He et al. 2015, eq. 10), and N(0, 1 / fan_in)
    elsewhere. Biases are 0. Batch norm weights are ~ N(1, 0.02²), as in the code of Radford et al., with fresh running
    statistics; other norms start as PyTorch has them. A module with a method `initialise(rng)` fills what it holds
    itself (not its children), without gradient. One with a method `draw_from(rng)` is given the stream that it draws
    from in the step.

    A layer's values depend on the seed and its own name only, never on which other layers exist.

    Raises TypeError for a module that holds parameters or buffers which none of these rules fills.
    """
    std = getattr(like or network, "init_std", 0.02)
    with torch.no_grad():
        for inner, module in network.named_modules():
            name = ".".join(part for part in (at, inner) if part)
            held = {*module._parameters, *module._buffers}
            if draw_from := getattr(module, "draw_from", None):
                draw_from(rng.fork(f"{name}/draws"))  # a fork: `anew` would draw the same numbers in every step
            fill = getattr(module, "initialise", None)
            if fill is not None:
                fill(rng.anew(name))
            elif held <= _FILLED and isinstance(module, _CONSTANT_START):
                module.reset_parameters()
                if (
                    isinstance(module, nn.modules.batchnorm._BatchNorm)
                    and module.affine
                    and module.weight.requires_grad
                ):
                    module.weight.add_(0.02 * rng.anew(name).normal(module.weight.shape))
            elif held <= _FILLED and isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd):
                scale = std
                if scale is None:
                    gain = 2 if name.startswith("body.") else 1
                    scale = math.sqrt(gain / fan_in(module))
                module.weight.copy_(scale * rng.anew(name).normal(module.weight.shape))
                bias = getattr(module, "bias", None)
                if bias is not None:
                    bias.zero_()
            elif held:
                raise TypeError(
                    f"{type(module).__name__} {name!r} holds {', '.join(sorted(held))}, which nothing fills; "
                    "give it a method `initialise(rng)`"
                )


def fan_in(layer: nn.Linear | nn.Embedding | nn.modules.conv._ConvNd) -> float:
    """Return the number of weighted inputs in one output; for a transposed convolution with a stride, the average."""
    weight = layer.weight
    if isinstance(layer, nn.Embedding):
        return weight.shape[1]  # its products with the features are summed
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return weight[:, 0].numel() / layer.groups / math.prod(layer.stride)
    return weight[0].numel()


def mixes_samples(network: nn.Module) -> bool:
    """Return whether, in training, the network's output for one sample depends on the rest of its batch.

    True for batch norm and for any module with an attribute `mixes_samples = True`.
    """
    return any(
        getattr(module, "mixes_samples", isinstance(module, nn.modules.batchnorm._BatchNorm))
        for module in network.modules()
    )


def weighted_layers(network: nn.Module, trick: str, what: str, embeddings: bool = False) -> list[tuple[str, nn.Module]]:
    """Return the linear and convolutional layers of a network, and `embeddings` if wanted, with their names. For
    surgery on weights.

    Raises UserError at `trick`, its name in the recipe, where the body has none; `what` says what could be done to one,
    such as "that could be redrawn".
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.modules.conv._ConvNd)
    kinds += (nn.Embedding,) if embeddings else ()
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    if not any(name.startswith("body.") for name, _ in layers):
        hint = "name the other player alone in players, or choose another network"
        player = "generator" if isinstance(network, Generator) else "discriminator"
        sentence = f"the {player} has no linear or convolutional layer {what}"
        raise UserError(Problem(sentence, f"tricks.{trick}", hint))
    return layers


def refuse_computed_weights(layers: Iterable[tuple[str, nn.Module]], trick: str) -> None:
    """Raise UserError at `trick`, its name in the recipe, where another one computes the weights of a layer already."""
    for name, layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            hint = "switch one of them off, or let each have a player of its own"
            raise UserError(Problem(f"another trick computes the weights of {name} already", f"tricks.{trick}", hint))


def block_shapes(network: Generator | Discriminator) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shapes of what each block of the body is given and of what it gives, by the block's name there, such
    as ((8, 4, 4), (4, 8, 8)) for maps (C, H, W).

    They are found by showing a copy of the network a sample of zeros. For surgery that adds layers of a fitting size.
    """
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    twin = copy.deepcopy(network).eval()
    for name, block in twin.body.named_children():
        # the children, because a generator may run them without their block
        for layer in block.children() if isinstance(block, nn.Sequential) else ():

            def note(layer: nn.Module, args: Any, out: Tensor, name: str = name) -> None:
                given, _ = seen.get(name, (tuple(args[0].shape[1:]), None))
                seen[name] = given, tuple(out.shape[1:])

            layer.register_forward_hook(note)
    count, sample = (1, (network.latent_dim,)) if isinstance(network, Generator) else (network.group, network.shape)
    like = next(network.parameters())
    classes = torch.zeros(count, dtype=torch.int64, device=like.device) if network.conditional else None
    described = [like.new_zeros(count, network.condition)] if network.conditioned else []
    with torch.no_grad():
        twin(like.new_zeros(count, *sample), classes, *described)
    return seen


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
