"""Small pictures with captions that come with the package: coloured pieces of clothing beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.data import text
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.fashion_mnist import FashionMnist
from gantricks.options import Options

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 40, 45),
    "green": (45, 200, 70),
    "blue": (65, 95, 245),
    "yellow": (240, 220, 50),
    "purple": (180, 60, 220),
    "white": (240, 240, 240),
}
"""The colour of a full pixel of a piece."""

KINDS: dict[str, tuple[int, ...]] = {
    "shirt": (0, 6),
    "coat": (2, 4),
    "trouser": (1,),
    "dress": (3,),
    "shoe": (5, 7),
    "boot": (9,),
    "bag": (8,),
}
"""The classes of Fashion-MNIST that a word names."""

_PLURALS = {"dress": "dresses"}
_COLOURLESS = 0.25


@dataclass(frozen=True)
class Piece:
    """A piece of clothing in a scene. `colour` and `kind` are the words for it, and `told` is whether the caption tells
    the colour. `row` and `column` are its place, in quarters of the picture, 0 to 2: a piece is two quarters wide.
    """

    kind: str
    colour: str
    told: bool
    row: int
    column: int

    @property
    def words(self) -> str:
        return f"{self.colour} {self.kind}" if self.told else self.kind

    @property
    def plural(self) -> str:
        several = _PLURALS.get(self.kind, f"{self.kind}s")
        return f"{self.colour} {several}" if self.told else several


@dataclass(frozen=True)
class Scene:
    """What a picture shows, and its caption."""

    pieces: tuple[Piece, ...]
    caption: str


def scene(draw: np.random.Generator) -> Scene:
    """Return a random scene: one piece, two of one sort, two beside or above each other, or two and one."""

    def sort() -> tuple[str, str, bool]:
        kind, colour = draw.choice(list(KINDS)), draw.choice(list(COLOURS))
        return str(kind), str(colour), bool(draw.random() >= _COLOURLESS)

    first, second = sort(), sort()
    return _LAYOUTS[int(draw.integers(len(_LAYOUTS)))](first, second, bool(draw.random() < 0.5))


_Sort = tuple[str, str, bool]


def _one(first: _Sort, second: _Sort, turned: bool) -> Scene:
    piece = Piece(*first, 1, 1)
    return Scene((piece,), f"a {piece.words}")


def _two_alike(first: _Sort, second: _Sort, turned: bool) -> Scene:
    pair = Piece(*first, 1, 0), Piece(*first, 1, 2)
    return Scene(pair, f"two {pair[0].plural}")


def _beside(first: _Sort, second: _Sort, turned: bool) -> Scene:
    left, right = Piece(*first, 1, 0), Piece(*second, 1, 2)
    told = f"a {right.words} right of a {left.words}" if turned else f"a {left.words} left of a {right.words}"
    return Scene((left, right), told)


def _above(first: _Sort, second: _Sort, turned: bool) -> Scene:
    upper, lower = Piece(*first, 0, 1), Piece(*second, 2, 1)
    told = f"a {lower.words} below a {upper.words}" if turned else f"a {upper.words} above a {lower.words}"
    return Scene((upper, lower), told)


def _two_and_one(first: _Sort, second: _Sort, turned: bool) -> Scene:
    rows = (2, 0) if turned else (0, 2)
    pair, one = (Piece(*first, rows[0], 0), Piece(*first, rows[0], 2)), Piece(*second, rows[1], 1)
    return Scene((*pair, one), f"two {pair[0].plural}, one {one.words}")


_LAYOUTS: Sequence[Callable[[_Sort, _Sort, bool], Scene]] = (_one, _two_alike, _beside, _above, _two_and_one)


class Scenes(Source):
    """Pictures with captions that come with the package: one to three coloured pieces of clothing on black, such as "a
    red bag left of a shirt" or "two blue shoes, one trouser".

    The pieces are images of the source `fashion_mnist`, in seven kinds and six colours. A caption tells kinds, numbers,
    places and, of three pieces in four, colours. Each picture has one caption. What has been drawn can be checked
    (`caption_agreement`). Networks are given captions as numbers: words and runs of up to three words, hashed
    (`gantricks.data.text`), so a sentence in the same words can be drawn with `gantricks sample RUN --text`.
    """

    class Config(Options):
        image_size: Annotated[int, Field(ge=16, le=128, multiple_of=4, description="side of a picture in pixels")] = 64
        count: Annotated[int, Field(ge=1, le=200_000, description="number of pictures drawn")] = 10_000
        seed: Annotated[
            int, Field(ge=0, le=2**63 - 1, description="which pictures are drawn; apart from the run's seed")
        ] = 0
        text_dim: Annotated[int, Field(ge=8, le=4096, description="numbers that stand for a caption")] = 256

    config: Config

    def describe(self) -> Description:
        """Describe the pictures without drawing any."""
        side = self.config.image_size
        return Description((3, side, side), self.config.count, condition=self.config.text_dim, words=_vocabulary())

    def scenes(self) -> list[Scene]:
        """Return what each picture shows. The same count and seed give the same scenes."""
        draw = np.random.default_rng(self.config.seed)
        return [scene(draw) for _ in range(self.config.count)]

    def load(self, progress: Progress = silent) -> Dataset:
        """Draw the pictures."""
        side, scenes = self.config.image_size, self.scenes()
        half, quarter = side // 2, side // 4
        clothes = FashionMnist(FashionMnist.Config(image_size=max(half, 8))).load(progress)
        assert clothes.classes is not None
        members = {kind: np.flatnonzero(np.isin(clothes.classes, classes)) for kind, classes in KINDS.items()}
        draw = np.random.default_rng((self.config.seed, 1))
        samples = np.zeros((len(scenes), side, side, 3), np.uint8)
        for number, (picture, shown) in enumerate(zip(samples, scenes, strict=True)):
            for piece in shown.pieces:
                cloth = clothes.samples[draw.choice(members[piece.kind])].astype(np.uint16)
                coloured = cloth * np.array(COLOURS[piece.colour], np.uint16) // 255
                top, left = piece.row * quarter, piece.column * quarter
                picture[top : top + half, left : left + half] = coloured
            if (number + 1) % 1000 == 0:
                progress("drawing", number + 1, len(scenes))
        return Dataset(samples, conditions=self.embed([shown.caption for shown in scenes]))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return text.embed(texts, self.config.text_dim)


def _vocabulary() -> tuple[str, ...]:
    told = [Piece(kind, colour, True, 0, 0) for kind in KINDS for colour in COLOURS]
    fixed = "a one two left right of above below"
    return text.vocabulary([fixed, *(piece.words for piece in told), *(piece.plural for piece in told)])
