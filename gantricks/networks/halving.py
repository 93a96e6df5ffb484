"""Sizes of maps in networks that halve an image several times."""

from __future__ import annotations

from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field

from gantricks.networks.base import Shapes, given_problems
from gantricks.options import Options

Size = tuple[int, int]
"""Height and width of a map."""


class HalvingOptions(Options):
    """The sizes and widths of a network that halves an image several times."""

    channels: Annotated[int, Field(ge=1, le=1024, description="feature maps at the size next to the image")] = 64
    depth: Annotated[
        int | None,
        Field(ge=1, le=7, description="halvings of the image; left out: until the smaller side is at most 5"),
    ] = None
    width: Annotated[
        Literal["doubling", "constant"],
        Field(description='"doubling": feature maps double with every halving; "constant": always `channels`'),
    ] = "doubling"

    def widths(self, count: int) -> list[int]:
        """Return the feature maps at `count` sizes, the one next to the image first."""
        growth = 2 if self.width == "doubling" else 1
        return [self.channels * growth**halved for halved in range(count)]


def halvings(image: Size, depth: int | None = None) -> list[Size]:
    """Return the sizes of an image under `depth` halvings that round up, from its own size on.

    By default the depth is the smallest, and at least 1, that brings the smaller side to 5 or below.
    """
    if depth is None:
        depth = next(d for d in count(1) if min(image) <= 5 * 2**d)
    height, width = image
    return [(-(-height // 2**d), -(-width // 2**d)) for d in range(depth + 1)]


def misfits(name: str, config: Any, shapes: Shapes) -> list[str]:
    """Return sentences saying why the network `name`, which halves images `config.depth` times, does not fit these
    data.
    """
    found = []
    if len(shapes.sample) != 3:
        found.append(
            f'{name} needs images, and these data are vectors of {shapes.sample[0]} numbers; use network = "mlp"'
        )
    else:
        height, width = shapes.sample[1:]
        # ceil(side / 2^depth) ≥ 2, because a map one pixel wide cannot be halved
        deepest = (min(height, width) - 1).bit_length() - 1
        if deepest < 1:
            found.append(f"{name} cannot halve images of {height}x{width}; each side needs 3 pixels or more")
        elif config.depth is not None and config.depth > deepest:
            found.append(
                f"depth = {config.depth} is too deep for images of {height}x{width}; "
                f"the most that leaves each side 2 pixels is depth = {deepest}"
            )
    return found + given_problems(config, shapes)
