"""Few ordered sets in which every pair of names stands in both orders."""

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
