"""Turns texts into the numbers that networks are given, without learning anything, and finds captions in files.

A text is the set of its words, its pairs and its triples of neighbouring words. Each of these has a row of signs of its
own, taken from a hash of its letters, and the text is their sum (random indexing, Kanerva et al. 2000). Two texts are
near each other as far as they share words in the same order. No meaning is known beyond that: "shoe" is as far from
"boot" as from "bag".
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

_WORD = re.compile(r"\w+")
LONGEST = 3
"""The number of neighbouring words that are read together, at most."""
_BEFORE, _AFTER = "<", ">"


def words(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, in lower case, whatever is between them."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def embed(texts: Sequence[str], dimension: int) -> np.ndarray:
    """Return embeddings of texts, float32 (n, `dimension`).

    An embedding is Σ r(g) / √G over the G runs g of one to three neighbouring words, the ends of the text counting as
    words, where r(g) is ±1 in every place, by the bits of SHAKE-256 of g. So each number has mean 0 and variance 1 over
    texts that share nothing. A text without words is all zeros. The same text has the same embedding everywhere.
    """
    found = np.zeros((len(texts), dimension), np.float32)
    for row, text in zip(found, texts, strict=True):
        runs = _runs(words(text))
        for run in runs:
            row += _signs(run, dimension)
        row /= np.float32(np.sqrt(max(len(runs), 1)))
    return found


def vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """Return all words of the texts, sorted."""
    return tuple(sorted({word for text in set(texts) for word in words(text)}))


def _runs(found: Sequence[str]) -> list[str]:
    if not found:
        return []
    whole = [_BEFORE, *found, _AFTER]
    runs = [" ".join(whole[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(whole) - n + 1)]
    return [run for run in runs if run not in (_BEFORE, _AFTER)]


@functools.lru_cache(maxsize=1 << 16)
def _signs(run: str, dimension: int) -> np.ndarray:
    digest = hashlib.shake_256(run.encode()).digest(-(-dimension // 8))
    return np.unpackbits(np.frombuffer(digest, np.uint8))[:dimension].astype(np.int8) * np.int8(2) - np.int8(1)
