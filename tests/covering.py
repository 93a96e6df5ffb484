"""Few sets of names in which every pair stands together, or stands in both orders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations


def orders(names: Sequence[str], apart: Collection[frozenset[str]], size: int) -> list[tuple[str, ...]]:
    """Return tuples of at most `size` names such that, of any two names that are not `apart`, each comes before the
    other in some tuple. No tuple holds two that are apart.

    Greedy: a tuple begins with the first pair that is still missing, and is extended by the name, at the place, that
    adds the most missing pairs. The result is a function of the arguments.
    """
    missing = {
        pair: None
        for first, second in combinations(names, 2)
        if frozenset((first, second)) not in apart
        for pair in ((first, second), (second, first))
    }
    found = []
    while missing:
        chosen = list(next(iter(missing)))
        while len(chosen) < size:
            best, gain = chosen, 0
            for name in names:
                if name in chosen or any(frozenset((name, other)) in apart for other in chosen):
                    continue
                for place in range(len(chosen) + 1):
                    new = sum((other, name) in missing for other in chosen[:place])
                    new += sum((name, other) in missing for other in chosen[place:])
                    if new > gain:
                        best, gain = [*chosen[:place], name, *chosen[place:]], new
            if not gain:
                break
            chosen = best
        for pair in combinations(chosen, 2):
            missing.pop(pair, None)
        found.append(tuple(chosen))
    return found


def together(names: Sequence[str], apart: Collection[frozenset[str]], size: int) -> list[tuple[str, ...]]:
    """Return tuples of at most `size` names such that any two names that are not `apart` are in some tuple. No tuple
    holds two that are apart.

    Greedy, like `orders`.
    """
    missing = {frozenset(pair): None for pair in combinations(names, 2) if frozenset(pair) not in apart}
    found = []
    while missing:
        chosen = sorted(next(iter(missing)), key=names.index)
        while len(chosen) < size:
            fitting = [
                name
                for name in names
                if name not in chosen and not any(frozenset((name, other)) in apart for other in chosen)
            ]
            gains = {name: sum(frozenset((name, other)) in missing for other in chosen) for name in fitting}
            best = max(fitting, key=gains.__getitem__, default=None)
            if best is None or not gains[best]:
                break
            chosen.append(best)
        for pair in combinations(chosen, 2):
            missing.pop(frozenset(pair), None)
        found.append(tuple(chosen))
    return found
