"""Hints on how to save an array in a form that can be read. Following the hint literally gives the right data.

Each hint is a NumPy expression of the array's name, chosen by the array's values: `astype` alone takes 16 bits modulo
256, and makes black pictures of booleans.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_SLACK = 0.01
"""How far rounding and resizing may move floats beyond their bounds."""

_DEPTHS = (10, 12, 14, 16)
_MOST_NAMES = 1000


@dataclass(frozen=True)
class Values:
    """Facts about an array's numbers: the bounds of the finite ones, None where there are none."""

    low: float | None
    high: float | None
    all_finite: bool = True

    @classmethod
    def of(cls, parts: Iterable[np.ndarray]) -> Values:
        """Collect the facts from the parts of an array of booleans, integers or real numbers."""
        lows, highs, all_finite = [], [], True
        for part in parts:
            finite = part
            if part.dtype.kind == "f":
                mask = np.isfinite(part)
                if not mask.all():
                    all_finite, finite = False, part[mask]
            if finite.size:
                lows.append(finite.min().item())
                highs.append(finite.max().item())
        return cls(min(lows, default=None), max(highs, default=None), all_finite)

    @property
    def within_0_to_1(self) -> bool:
        return self.all_finite and self.low is not None and self.high is not None and self.low >= 0 and self.high <= 1

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "none of these is a finite number"
        odd = "" if self.all_finite else ", beside NaN or infinity"
        return f"these go from {_number(self.low)} to {_number(self.high)}{odd}"


def for_images(source: str, dtype: np.dtype, values: Values) -> str:
    """Return a hint for images that are neither uint8 nor floats within [0, 1].

    `source` is the expression that has `values`: the array's name, or an expression that makes real numbers of it.
    """
    low, high = values.low, values.high
    if low is None or high is None:
        return "make the images again: no value of them is a number"
    if dtype.kind == "b" or (dtype.kind in "iu" and low >= 0 and high <= 1):
        return f"save {source}.astype(numpy.uint8) * 255"
    if dtype.kind in "iu":
        if low >= 0 and high <= 255:
            return f"save {source}.astype(numpy.uint8)"
        if low >= -128 and high <= 127:
            centred = f"save ({source}.astype(numpy.int16) + 128).astype(numpy.uint8)"
            return f"{centred}; where they were bytes once, {source}.astype(numpy.int8).view(numpy.uint8)"
        if low >= 0 and high <= 65535:
            return _of_depth(source, high)
        return f"save {_stretched(source, low, high)}; or choose the bounds of black and white yourself"
    return _for_floats(source, values, low, high)


def _for_floats(source: str, values: Values, low: float, high: float) -> str:
    def clean(black: float, white: float) -> str:
        if values.all_finite:
            return source
        return f"numpy.nan_to_num({source}, nan={black}, posinf={white}, neginf={black})"

    note = "" if values.all_finite else "; NaN becomes black"
    if low >= -_SLACK and high <= 1 + _SLACK:
        within = low >= 0 and high <= 1
        return f"save {clean(0, 1)}{'' if within else '.clip(0, 1)'}{note}"
    if low >= -1 - _SLACK and high <= 1 + _SLACK:
        clipped = "" if low >= -1 and high <= 1 else ".clip(-1, 1)"
        return f"save (({clean(-1, 1)}{clipped} + 1) * 127.5).round().astype(numpy.uint8){note}"
    if (low >= -0.5 and 16 < high <= 255.5) or (low >= -32 and 128 < high <= 288):
        return f"save {clean(0, 255)}.round().clip(0, 255).astype(numpy.uint8){note}"
    if low >= 0 and 255.5 < high <= 65535:
        return f"{_of_depth(clean(0, _shortest(high)), high)}{note}"
    made = _stretched(clean(_shortest(low), _shortest(high)), low, high)
    return f"undo the normalization they went through, or save {made}{note}"


def _of_depth(source: str, high: float) -> str:
    """Return a hint for levels of more than 8 bits. White is the highest level of the smallest bit depth that cameras
    have.
    """
    full = f"numpy.rint({source} / 257).astype(numpy.uint8)"
    depth = next(bits for bits in _DEPTHS if high <= 2**bits - 1)
    if depth == 16:
        return f"save {full}"
    made = f"numpy.interp({source}, (0, {2**depth - 1}), (0, 255)).round().astype(numpy.uint8)"
    return f"save {made}; that is for {depth} bits, where white is {2**depth - 1}; where it is 65535, {full}"


def _stretched(source: str, low: float, high: float) -> str:
    bounds = f"({_number(low)}, {_number(high if high > low else low + 1)})"
    return f"numpy.interp({source}, {bounds}, (0, 255)).round().astype(numpy.uint8)"


def for_labels(source: str, labels: np.ndarray) -> tuple[str, str]:
    """Return what is wrong with labels (N,) that are not class numbers, and a hint. `source` is the expression for
    them.
    """
    numbered = f"numpy.unique({source}, return_inverse=True)[1]"
    kind, found = labels.dtype.kind, labels.dtype
    if kind == "b":
        return f"labels are whole numbers, not {found}", f"save {source}.astype(numpy.int64)"
    if kind in "USMm":
        return f"labels are whole numbers, not {found}", f"number them in order: save {numbered}"
    if kind == "f" and not np.isfinite(labels).all():
        hint = f"leave out what has none: labelled = numpy.isfinite({source}), images[labelled], labels[labelled]"
        return f"labels are whole numbers, not {found}, and some of these are NaN or infinite", hint
    different = len(np.unique(labels))
    if kind == "f" and (labels == np.rint(labels)).all() and labels.min() >= 0 and labels.max() < 65_536:
        return f"labels are whole numbers, not {found}", f"save {source}.astype(numpy.int64)"
    if kind == "f":
        what = f"labels are whole numbers from 0, not {found} with {different:,} different values"
    elif labels.min() < 0:
        what = f"a label is negative: {labels.min()}"
    else:
        what = f"a label is {labels.max()}, which is not a class number"
    if different > _MOST_NAMES and (kind == "f" or different > 65_536):
        return what, "leave the labels out: so many different values are not classes"
    hint = f"number the classes from 0: save {numbered}"
    if labels.min() < 0:
        hint += f"; where {labels.min():g} means that there is no label, leave those images out"
    return what, hint


def for_rows_of_labels(source: str, rows: np.ndarray) -> str:
    """Return a hint for labels (N, K): one-hot rows give a class, rows with several answers do not."""
    if rows.dtype.kind not in "biuf" or not rows.size:
        return "save one label per image, shape (N,)"
    low, high = rows.min(), rows.max()
    hot = rows == high
    if low < high and (hot.sum(axis=1) == 1).all() and (rows[~hot] == low).all():
        return f"one row an image, the class marked: save {source}.argmax(axis=1)"
    if rows.dtype.kind == "f" and low >= 0 and np.allclose(rows.sum(axis=1, dtype=np.float64), 1, atol=1e-2):
        return f"the likeliest class of each: save {source}.argmax(axis=1)"
    if low < high and len(np.unique(rows)) == 2:
        column = f"({source}[:, 0] == {high}).astype(numpy.int64)"
        return f"an image has one class here; choose a column, such as the first: save {column}"
    return "save one label per image, shape (N,): choose a column, or leave the labels out"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int | bool) else f"{value:.9g}"


def _shortest(value: float) -> float:
    return float(f"{value:.9g}")
