"""Random draws of a study's runs: hyper-parameters, and everything else that depends on the number of a run alone.

A draw is a hash of the study's seed and of what is drawn. So run i is the same in a study of 100 runs and of 300, and
one more trick to choose from moves no draw of the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gantricks.planning.recipe import Recipe

RATES = (10**-0.5, 10**0.5)
"""The range of both players' learning rates over those of the recipe, log-uniform: a decade."""
BETAS = (0.0, 0.5, 0.9)
"""β₁ of both players, where their optimizers have one."""
RATIOS = (1, 2, 3)
"""D steps per G step."""

Purpose = Literal["screening", "confirm"]


def uniform(seed: int, *what: str | int) -> float:
    """Return a number, uniform in [0, 1), that depends on the arguments alone, on every machine."""
    digest = hashlib.sha256(json.dumps([seed, *what]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def one_of(options: Sequence[Any], seed: int, *what: str | int) -> Any:
    """Return one of `options`, each with the same probability."""
    return options[int(uniform(seed, *what) * len(options))]


def seed_of(seed: int, purpose: Purpose, number: int) -> int:
    """Return the seed that a run trains with. Those of screening are even and those of confirmation odd, so that a
    confirmation never plays a seed that a screening has played.
    """
    return 2 * int(uniform(seed, purpose, number, "seed") * 2**30) + (purpose == "confirm")


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a run: the factor on both learning rates, β₁ (None where no optimizer has one), and D
    steps per G step.
    """

    rate: float
    beta1: float | None
    ratio: int

    def overrides(self, recipe: Recipe) -> list[str]:
        """Return these settings as overrides of a recipe."""
        found = [f"train.n_critic={self.ratio}"]
        for role in ("generator", "discriminator"):
            optimizer = getattr(recipe, role).keys.optimizer
            # six digits are enough, and a person can read them
            found.append(f"{role}.optimizer.lr={float(f'{optimizer.lr * self.rate:.6g}')!r}")
            if self.beta1 is not None and (betas := getattr(optimizer, "betas", None)):
                found.append(f"{role}.optimizer.betas=[{self.beta1}, {betas[1]}]")
        return found

    @property
    def words(self) -> str:
        beta1 = "" if self.beta1 is None else f", β₁ {self.beta1:g}"
        return f"learning rates × {self.rate:.3g}{beta1}, {self.ratio} D steps per G step"


def has_beta1(recipe: Recipe) -> bool:
    """Return whether a player's optimizer has β₁."""
    players = (recipe.generator, recipe.discriminator)
    return any(hasattr(player.keys.optimizer, "betas") for player in players)


def settings_of(recipe: Recipe, purpose: Purpose, number: int, ratios: Sequence[int] = RATIOS) -> Settings:
    """Draw the hyper-parameters of run or block `number`, of the recipe's seed."""
    low, high = RATES
    at = (recipe.seed, purpose, number)
    return Settings(
        rate=low * (high / low) ** uniform(*at, "rate"),
        beta1=one_of(BETAS, *at, "beta1") if has_beta1(recipe) else None,
        ratio=one_of(ratios, *at, "ratio"),
    )


def inline(value: Any) -> str:
    """Return a value as TOML on one line, as an override has it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {inline(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value, ensure_ascii=False)
