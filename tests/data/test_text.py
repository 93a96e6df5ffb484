"""What stands for a text: the same everywhere, near for texts that share words in their order, far for others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.data.text import embed, vocabulary, words

SENTENCES = st.lists(st.sampled_from(["red", "bag", "left", "of", "a", "shirt"]), min_size=1, max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red bag.", ["a", "red", "bag"]),
        ("two  shoes,\tone-trouser", ["two", "shoes", "one", "trouser"]),
        ("ＲＥＤ Straße", ["red", "strasse"]),
        ("…", []),
    ],
)
def test_words_are_letters_and_digits_whatever_is_between(text, expected):
    assert words(text) == expected


def test_the_rows_are_the_signs_of_a_published_hash():
    import hashlib

    (found,) = embed(["bag"], 16)
    runs = ["bag", "< bag", "bag >", "< bag >"]
    signs = [
        [1 if digest >> (7 - i) & 1 else -1 for digest in hashlib.shake_256(run.encode()).digest(2) for i in range(8)]
        for run in runs
    ]
    np.testing.assert_allclose(found, np.sum(signs, 0) / 2, rtol=1e-6)


@given(SENTENCES, st.sampled_from([8, 17, 64]))
def test_what_is_between_words_and_their_case_do_not_count(text, dimension):
    one, other = embed([text, text.upper().replace(" ", " – ") + "!"], dimension)
    assert (one == other).all()


@given(st.lists(SENTENCES, min_size=1, max_size=5))
def test_a_text_is_the_same_beside_any_others(texts):
    together = embed(texts, 32)
    assert together.dtype == np.float32
    assert (together == np.concatenate([embed([text], 32) for text in texts])).all()


def test_numbers_have_mean_0_and_variance_1():
    many = embed([f"{a} {b}" for a in range(40) for b in range(40, 60)], 64)
    assert abs(many.mean()) < 0.05
    assert many.var() == pytest.approx(1, abs=0.05)


def test_order_counts_and_shared_words_bring_near():
    a, same_words, near, far = embed(
        [
            "a red bag left of a blue shirt",
            "a blue shirt left of a red bag",
            "a red bag left of a blue coat",
            "two boots",
        ],
        4096,
    )
    inner = lambda x: float(a @ x) / 4096  # noqa: E731
    assert inner(a) == pytest.approx(1, abs=0.25)
    assert inner(far) < 0.1 < inner(same_words) < 0.9
    assert inner(same_words) < inner(near) < inner(a)


def test_a_text_without_words_is_zero():
    assert not embed(["?!"], 8).any()


def test_the_vocabulary_has_every_word_once():
    assert vocabulary(["A bag", "a Red bag"]) == ("a", "bag", "red")
