"""Scenes: pictures that show what their captions say, the same each time."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.data.scenes import COLOURS, KINDS, Scenes, scene
from gantricks.data.text import embed, words


def scenes(**options):
    return Scenes(Scenes.Config(**{"image_size": 32, "count": 60, **options}))


def at(picture, piece):
    quarter = len(picture) // 4
    top, left = piece.row * quarter, piece.column * quarter
    return picture[top : top + 2 * quarter, left : left + 2 * quarter]


@pytest.mark.parametrize("side", [16, 32, 64])
def test_each_piece_is_where_it_belongs_in_its_colour_and_nothing_else_is_there(side):
    source = scenes(image_size=side)
    samples, shown = source.load().samples, source.scenes()
    assert samples.shape == (60, side, side, 3)
    for picture, one in zip(samples, shown, strict=True):
        rest = picture.copy()
        for piece in one.pieces:
            seen = at(picture, piece).reshape(-1, 3).astype(float)
            colour = np.array(COLOURS[piece.colour], float)
            bright = seen[seen.max(1) > 50]
            assert seen.any()
            np.testing.assert_allclose(
                bright / bright.max(1, keepdims=True), np.tile(colour / colour.max(), (len(bright), 1)), atol=0.05
            )
            at(rest, piece)[:] = 0
        assert not rest.any()


@given(st.integers(0, 10**6))
def test_the_caption_tells_kinds_numbers_and_places(seed):
    one = scene(np.random.default_rng(seed))
    assert all(piece.kind in KINDS and piece.colour in COLOURS for piece in one.pieces)
    sorts = dict.fromkeys((piece.kind, piece.colour) for piece in one.pieces)
    for kind, _ in sorts:
        assert kind in one.caption
    for piece in one.pieces:
        assert (piece.colour in one.caption) or not piece.told
    if found := re.search(r"(left|right) of a|above a|below a", one.caption):
        first, second = (
            next(piece for piece in one.pieces if piece.words == words_)
            for words_ in (one.caption[: found.start()].removeprefix("a ").strip(), one.caption[found.end() :].strip())
        )
        order = {"left": first.column < second.column, "right": first.column > second.column}
        order |= {"above": first.row < second.row, "below": first.row > second.row}
        same_words = first.words == second.words
        assert same_words or order[found.group().split()[0]]
    else:
        number = {"a": 1, "two": 2}[one.caption.split()[0]] + (", one " in one.caption)
        assert len(one.pieces) == number


def test_the_same_options_give_the_same_pictures_and_another_seed_others():
    first, again, other = scenes().load(), scenes().load(), scenes(seed=1).load()
    assert (first.samples == again.samples).all()
    assert (first.conditions == again.conditions).all()
    assert (first.conditions != other.conditions).any()
    few = scenes(count=10).load()
    assert (first.samples[:10] == few.samples).all()


def test_conditions_stand_for_the_captions_and_every_word_is_known():
    source = scenes(text_dim=40, count=400)
    described, dataset = source.describe(), source.load()
    assert described.condition == dataset.conditions.shape[1] == 40
    assert described.shape == (3, 32, 32)
    captions = [one.caption for one in source.scenes()]
    assert (dataset.conditions == embed(captions, 40)).all()
    assert (source.embed(captions[:3]) == dataset.conditions[:3]).all()
    assert {word for caption in captions for word in words(caption)} <= {*described.words}


def test_every_layout_kind_and_colour_occurs_and_a_quarter_of_the_colours_is_not_told():
    shown = scenes(count=2000).scenes()
    pieces = [piece for one in shown for piece in one.pieces]
    assert {piece.kind for piece in pieces} == {*KINDS}
    assert {piece.colour for piece in pieces} == {*COLOURS}
    assert np.mean([piece.told for piece in pieces]) == pytest.approx(0.75, abs=0.04)
    assert {re.sub(r"(a|one) (\w+ )?\w+$", "", re.sub(r"^(a|two) (\w+ )?\w+", r"\1", c.caption)) for c in shown} >= {
        "a",
        "two",
        "two, ",
    }
