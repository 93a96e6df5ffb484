"""Growing: both networks start on small images, and blocks are added one by one, each faded in.

The run begins without the `blocks` outermost blocks of each player, on images halved as many times. The default is as
many blocks as can be. Then the blocks join, evenly spaced, so that the networks are whole after the share `until` of
the run.

A block that joins is faded in, for the share `fade` of the time from one block to the next. G shows (1 - α) · what it
showed before + α · what it shows with the block, with α from 0 to 1. D's block and the real images are mixed alike.

Images keep their full size all along. G's are enlarged, and D's are shrunk by as much, so other tricks, samples and
buffers notice nothing. But what acts on single pixels, such as instance noise, is averaged out while D shrinks its
images.

The weights of blocks to come are drawn at the start. They rest, untouched by the optimizer, until their block joins.
The weights that are there keep their values and their optimizer state.

While a block is the outermost, a 1x1 convolution stands between it and the image, with tanh in G and LeakyReLU in D.
These are the only weights added.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gantricks import (
    Batch,
    Context,
    Discriminator,
    Generator,
    Problem,
    Setting,
    Trick,
    UserError,
    block_shapes,
    hookimpl,
)

Size = tuple[int, ...]
"""Height and width."""
Shape = tuple[int, ...]
Maps = dict[str, tuple[Shape, Shape]]


def shrink(images: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) to (B, C, *size): the mean of the pixels that fall together."""
    return interpolate(images, size=size, mode="area")


def enlarge(images: Tensor, size: Size) -> Tensor:
    """(B, C, h, w) to (B, C, *size): pixels repeated."""
    return interpolate(images, size=size, mode="nearest")


def fade(old: Tensor, new: Tensor, alpha: Tensor) -> Tensor:
    """(1 - α) · old + α · new, exactly `old` at α = 0 and `new` at 1; `alpha` is 0-dim. Karras et al. 2018, fig. 2."""
    return torch.lerp(old, new, alpha.to(old.dtype))


def stage(progress: float, blocks: int, until: float, share: float) -> tuple[int, bool]:
    """How many of `blocks` have been added at `progress` (0 to 1), and whether the last of them is still fading in.

    Block i comes at i · `period` and takes `share` of a period to fade in, so that the last is there at `until`.
    """
    period = until / (blocks + share)
    added = min(int(progress / period), blocks)
    return added, added > 0 and progress < (added + share) * period


class Growth:
    """How far the networks have grown. One for both of them and for their copies, which grow with them.

    `sizes` are those of the images, from the first to the full one; `added` blocks have joined, the last of which is
    still `fading` in with weight `alpha`.
    """

    def __init__(self, sizes: list[Size], alpha: Tensor) -> None:
        self.sizes, self.alpha = sizes, alpha
        self.added, self.fading = len(sizes) - 1, False
        self.passing_by: Tensor | None = None
        """What the block that fades in is given, for the older part that its result is mixed with; within a pass."""

    def __deepcopy__(self, memo: Any) -> Growth:
        return self

    @property
    def last(self) -> int:
        return len(self.sizes) - 1

    def joins(self, size: Size) -> int:
        """The number of added blocks from which on there are maps of this size."""
        return next(added for added, of_image in enumerate(self.sizes) if size <= of_image)

    def take_passing_by(self, otherwise: Tensor) -> Tensor:
        early, self.passing_by = self.passing_by, None
        # G may be run with further rows in front, which have been cut off since
        return otherwise if early is None else early[-len(otherwise) :]


class UpBlock(nn.Sequential):
    """A block of G that is passed over until it has joined."""

    def __init__(self, layers: nn.Sequential, growth: Growth, joins: int, first: bool) -> None:
        super().__init__(OrderedDict(layers.named_children()))
        self.growth, self.joins, self.first = growth, joins, first

    def forward(self, x: Tensor) -> Tensor:
        growth = self.growth
        if self.joins > growth.added:
            return x
        if growth.fading and self.first and self.joins == growth.added:
            growth.passing_by = x
        out: Tensor = super().forward(x)
        return out


class UpHead(nn.Module):
    """Maps to images of the full size: by G's own head once it is whole, by 1x1 convolutions before."""

    def __init__(self, head: nn.Module, early: nn.ModuleList, growth: Growth) -> None:
        super().__init__()
        self.head, self.early, self.growth = head, early, growth

    def forward(self, x: Tensor) -> Tensor:
        growth = self.growth
        size = growth.sizes[-1]
        whole = growth.added == growth.last
        images: Tensor = self.head(x) if whole else enlarge(self.early[growth.added](x), size)
        if growth.fading:
            older = self.early[growth.added - 1](growth.take_passing_by(x))
            images = fade(enlarge(older, size), images, growth.alpha)
        return images


class DownBlock(nn.Sequential):
    """A block of D that is passed over until it has joined; the `first` of a size can be where the image enters."""

    from_image: nn.Module

    def __init__(self, layers: nn.Sequential, growth: Growth, joins: int, first: bool) -> None:
        super().__init__(OrderedDict(layers.named_children()))
        self.growth, self.joins, self.first = growth, joins, first

    def forward(self, x: Tensor) -> Tensor:
        growth = self.growth
        if self.joins > growth.added:
            return x
        if self.first and self.joins == growth.added:
            if growth.fading:
                growth.passing_by = x
            if self.joins < growth.last:
                x = self.enter(x)
        elif self.first and growth.fading and self.joins == growth.added - 1:
            x = fade(self.enter(growth.take_passing_by(x)), x, growth.alpha)
        for name, layer in self.named_children():
            if name != "from_image":
                x = layer(x)
        return x

    def enter(self, images: Tensor) -> Tensor:
        maps: Tensor = self.from_image(shrink(images, self.growth.sizes[self.joins]))
        return maps


class Grow(Trick):
    """Growing: G and D start on small images, and one block after the other is added to both, each faded in.

    Small images are learned soon, with small networks. The coarse layout that they settle is what the finer blocks
    start from. Steps on small images are cheaper, so the run is shorter altogether. After the share `until` of the run,
    the networks are those of the recipe.

    When it hurts: a short run spends too little of its time on the full image. Lower `until` or `blocks` then.

    Source: Karras et al. 2018, Progressive Growing of GANs, §2 and appendix A.
    """

    needs = {"images", "generator_convolutions", "discriminator_convolutions"}
    replaces = {"growth"}
    deliberate = {"both-sides": "reals are faded in like G's samples, which leave G faded already"}
    strengths = {"until": (0.3, 0.6, 0.9)}

    class Config(Trick.Config):
        blocks: Annotated[
            int | None,
            Field(ge=1, le=6, description="blocks that join in the run; left out: all but the innermost of D"),
        ] = None
        until: Annotated[
            float, Field(gt=0, le=1, description="share of the run after which the networks are whole")
        ] = 0.6
        fade: Annotated[
            float, Field(ge=0, le=1, description="share of the time between two blocks that fading in takes")
        ] = 0.5

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        able = sorted({len(maps) - 2 for maps in (setting.generator_maps, setting.discriminator_maps) if maps})
        if not able or 1 <= (self.config.blocks or 1) <= able[0]:
            return []
        if able[0] < 1:
            return ["there is no block to add later, since a network halves the image only once; use a deeper one"]
        return [f"blocks = {self.config.blocks} are more than can join later; the most is blocks = {able[0]}"]

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        self.alpha = torch.ones((), device=ctx.device)
        maps = block_shapes(network)
        self.growth = Growth(self._sizes(maps, ctx), self.alpha)
        widths = [0] * self.growth.last
        for name, joins, first in self._joining({name: out for name, (_, out) in maps.items()}):
            if joins < self.growth.last:
                widths[joins] = maps[name][1][0]
            network.body.set_submodule(name, UpBlock(_layers(network, name, ctx), self.growth, joins, first))

        def make() -> nn.ModuleList:
            return nn.ModuleList(_point(width, network.shape[0], nn.Tanh()) for width in widths)

        network.head = UpHead(network.head, ctx.build("head.early", make, like=network), self.growth)
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        maps = block_shapes(network)
        channels = next(iter(maps.values()))[0][0]  # of several images, where D judges several at once
        for name, joins, first in self._joining({name: given for name, (given, _) in maps.items()}):
            block = DownBlock(_layers(network, name, ctx), self.growth, joins, first)
            network.body.set_submodule(name, block)
            if first and joins < self.growth.last:

                def make(width: int = maps[name][0][0]) -> nn.Module:
                    return _point(channels, width, nn.LeakyReLU(0.2))

                block.from_image = ctx.build(f"body.{name}.from_image", make, like=network)
        return network

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.added, self.fading = (torch.zeros((), device=ctx.device) for _ in range(2))
        self._stand(0, False, ctx)

    @hookimpl
    def on_load(self, ctx: Context) -> None:
        self._stand(int(self.added), bool(self.fading), ctx)

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        added, fading = stage(ctx.progress, self.growth.last, self.config.until, self.config.fade)
        if (added, fading) == (self.growth.added, self.growth.fading) or not ctx.healthy:
            return
        self.added.fill_(added)
        self.fading.fill_(fading)
        self.alpha.fill_(1)
        self._stand(added, fading, ctx)

    @hookimpl
    def before_d_step(self, ctx: Context) -> None:
        if self.growth.fading:
            period = self.config.until / (self.growth.last + self.config.fade)
            since = ctx.elapsed / period - self.growth.added
            self.alpha.copy_((since / self.config.fade).clamp(0, 1))

    @hookimpl
    def d_input(self, batch: Batch, is_real: bool, ctx: Context) -> Batch:
        if not (is_real and self.growth.fading):
            return batch
        older = shrink(batch.images, self.growth.sizes[self.growth.added - 1])
        return batch.with_images(fade(enlarge(older, self.growth.sizes[-1]), batch.images, self.growth.alpha))

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {"blocks": self.added, "alpha": self.alpha}

    def tensors(self) -> dict[str, Tensor]:
        return {"added": self.added, "fading": self.fading, "alpha": self.alpha}

    def _sizes(self, of_generator: Maps, ctx: Context) -> list[Size]:
        """The sizes of images that the networks go through, the first and smallest first."""
        made = {out[1:] for _, out in of_generator.values()}
        full, *smaller = dict.fromkeys(given[1:] for given, _ in block_shapes(ctx.discriminator).values())
        shared = [size for size in smaller if size in made]
        if not shared or (self.config.blocks or 1) > len(shared):
            raise UserError(
                Problem(
                    f"only {len(shared)} of the sizes that D's blocks are given are made by G's blocks as well",
                    f"tricks.{ctx.name}",
                    "let both halve the image in the same way, or set fewer blocks",
                )
            )
        return [full, *shared[: self.config.blocks]][::-1]

    def _joining(self, shapes: dict[str, Shape]) -> Iterator[tuple[str, int, bool]]:
        """Each block by name, the number of added blocks at which it joins, and whether it is the first that does."""
        seen: set[int] = set()
        for name, (_, *size) in shapes.items():
            joins = self.growth.joins(tuple(size))
            yield name, joins, joins not in seen
            seen.add(joins)

    def _stand(self, added: int, fading: bool, ctx: Context) -> None:
        """Make the networks those with `added` blocks. The weights of all other blocks rest."""
        growth = self.growth
        growth.added, growth.fading = added, fading
        edges = {added, added - 1} if fading else {added}
        for module in (*ctx.generator.modules(), *ctx.discriminator.modules()):
            if isinstance(module, UpBlock | DownBlock):
                module.requires_grad_(module.joins <= added)
            if isinstance(module, DownBlock) and hasattr(module, "from_image"):
                module.from_image.requires_grad_(module.joins in edges)
            if isinstance(module, UpHead):
                module.head.requires_grad_(added == growth.last)
                for number, early in enumerate(module.early):
                    early.requires_grad_(number in edges)
        ctx.restructured()


def _layers(network: Generator | Discriminator, name: str, ctx: Context) -> nn.Sequential:
    block = network.body.get_submodule(name)
    if type(block).forward is not nn.Sequential.forward:
        raise UserError(
            Problem(
                f"the block {name} is a {type(block).__name__}, which does more than to run its layers in turn",
                f"tricks.{ctx.name}",
                "use a network whose blocks are plain sequences, such as dcgan",
            )
        )
    assert isinstance(block, nn.Sequential)
    return block


def _point(inner: int, outer: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict[str, nn.Module](conv=nn.Conv2d(inner, outer, 1), activation=activation))
