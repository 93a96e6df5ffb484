"""Games of two weights, played by the engine: what a trick does to the eigenvalues of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gantricks.context import Context
from gantricks.engine import state
from gantricks.engine.game import Game
from gantricks.hooks import hookimpl
from gantricks.networks.base import Discriminator, Generator
from gantricks.records import Batch
from gantricks.testing.host import TrickHost, name_of
from gantricks.testing.record import snapshot
from gantricks.trick import Setting, Trick

Map = Callable[[Tensor], Tensor]


def _itself(weight: Tensor) -> Tensor:
    return weight


@dataclass(frozen=True)
class TwoWeights:
    """A GAN of two weights, played by the engine in float64: G has one, x, and D has one, y.

    G makes the point `point(x)` whatever its latents are. All reals are 0. D scores a point p as `slope(y)` p +
    `level`; a `level` of 0.5 fits least_squares, whose targets are 0 and 1. With x and y themselves it is the Dirac-GAN
    (Mescheder et al. 2018, §2). Under wasserstein it is a bilinear game: D goes down y x and G goes down -y x.

    Both players take plain gradient steps of size `rate`. As in a recipe D moves first, `n_critic` times, and G answers
    the D that has moved. With `simultaneous` both learn from the weights before the step. The objective is a trick like
    any other; without one it is the default.
    """

    rate: float = 0.1
    simultaneous: bool = False
    n_critic: int = 1
    batch_size: int = 2
    level: float = 0.0
    point: Map = _itself
    slope: Map = _itself
    tricks: tuple[tuple[str, str | type[Trick], Mapping[str, Any]], ...] = ()

    def with_trick(self, trick: str | type[Trick], name: str | None = None, **options: Any) -> TwoWeights:
        """Return this game with one more trick, by name or by class, as the instance `name`."""
        return replace(self, tricks=(*self.tricks, (name or name_of(trick), trick, options)))

    def but(self, **changes: Any) -> TwoWeights:
        """Return this game with other settings."""
        return replace(self, **changes)

    def host(self, start: tuple[float, float] = (1.0, 1.0)) -> TrickHost:
        """Return the tiny run that plays this game from the weights (x, y) = `start`."""
        first: tuple[tuple[str, str | type[Trick], Mapping[str, Any]], ...] = (("players", _players(self, start), {}),)
        if self.simultaneous:
            first += (("simultaneous", Simultaneous, {}),)
        return TrickHost(
            sample=(1,),
            count=max(40, self.batch_size),
            batch_size=self.batch_size,
            steps=100_000,
            n_critic=self.n_critic,
            optimizer={"name": "sgd", "lr": self.rate},
            tricks=first + self.tricks,
        )

    def states(self, start: tuple[float, float] = (1.0, 1.0), steps: int = 100) -> dict[str, Tensor]:
        """Return the numbers of the game before the first step and after each, by name, (steps + 1,) each.

        These are "x", "y", and what optimizers and tricks remember in the weights' type: averages, last updates.
        Counters are left out.
        """
        game = self.host(start).game()
        seen = [_read(game)]
        with game.training():
            for _ in range(steps):
                game.advance()
                seen.append(_read(game))
        return dict(zip(_numbers(game), torch.stack(seen, 1), strict=True))

    def path(self, start: tuple[float, float] = (1.0, 1.0), steps: int = 100) -> Tensor:
        """Return the weights (x, y) before the first step and after each: (steps + 1, 2)."""
        states = self.states(start, steps)
        return torch.stack([states["x"], states["y"]], 1)

    def matrix(self, at: tuple[float, float] = (0.0, 0.0), steps: int = 1, after: int = 0) -> Tensor:
        """Return the derivative of what some steps make of the game's numbers, (N, N), in the order of `states`.

        It is taken by differences of fourth order around the state that the game has when it started at `at` and has
        played `after` steps: a fixed point as a rule, where its eigenvalues tell whether players nearby come closer.
        Draws are those of that step. Where only x and y are remembered it is 2 by 2.
        """
        game = self.host(at).game()
        width = 1e-3
        with game.training():
            for _ in range(after):
                game.advance()
            saved, counters, here = snapshot(game), state.counters(game), _read(game)

            def played(change: Tensor) -> Tensor:
                state.load(game, saved, counters)
                for number, value in zip(_numbers(game).values(), here + change, strict=True):
                    number.fill_(value)
                for _ in range(steps):
                    game.advance()
                return _read(game)

            columns = []
            for direction in width * torch.eye(len(here), dtype=here.dtype):
                near, far = (played(times * direction) - played(-times * direction) for times in (1, 2))
                columns.append((8 * near - far) / (12 * width))
        return torch.stack(columns, 1)


class Simultaneous(Trick):
    """Both players move at once: G learns against the D from before the step."""

    def problems(self, setting: Setting) -> list[str]:
        return [] if setting.n_critic == 1 else ["both players move at once, and n_critic must be 1"]

    @hookimpl
    def play(self, ctx: Context) -> None:
        weights: list[Tensor] = [*ctx.discriminator.parameters()]
        before = [weight.detach().clone() for weight in weights]
        ctx.d_step(0)
        after = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
        ctx.g_step()
        with torch.no_grad():
            torch._foreach_copy_(weights, after)


class _Point(nn.Module):
    """Latents (B, Z) to the point of x, (B, 1)."""

    def __init__(self, x: float, point: Map) -> None:
        super().__init__()
        self.x, self.point = nn.Parameter(torch.tensor([[x]], dtype=torch.float64)), point

    def forward(self, latents: Tensor) -> Tensor:
        return self.point(self.x).expand(len(latents), 1)


class _Slope(nn.Module):
    """Points p (B, 1) to their scores (B, 1), in proportion to p but for a constant."""

    def __init__(self, y: float, slope: Map, level: float) -> None:
        super().__init__()
        self.y, self.slope, self.level = nn.Parameter(torch.tensor([[y]], dtype=torch.float64)), slope, level

    def forward(self, points: Tensor) -> Tensor:
        return self.slope(self.y) * points + self.level


def _players(game: TwoWeights, start: tuple[float, float]) -> type[Trick]:
    class Players(Trick):
        """The two players at their start, and reals that are all 0."""

        @hookimpl
        def transform_generator(self, network: Generator) -> Generator:
            network.body, network.head = nn.Sequential(_Point(start[0], game.point)), nn.Identity()
            return network

        @hookimpl
        def transform_discriminator(self, network: Discriminator) -> Discriminator:
            network.body, network.head = nn.Sequential(nn.Identity()), _Slope(start[1], game.slope, game.level)
            return network

        @hookimpl
        def real_batch(self, batch: Batch) -> Batch:
            return batch.with_images(torch.zeros_like(batch.images))

    return Players


def _numbers(game: Game) -> dict[str, Tensor]:
    """Return the numbers of the game, 0-dim, each in the memory where it lives."""
    (x,), (y,) = game.generator.parameters(), game.discriminator.parameters()
    found = {"x": x.detach(), "y": y.detach()}
    for group, tensors in state.tensors(game).items():
        if group not in ("generator", "discriminator"):
            # counters are float32, and an optimizer's settings are not what it remembers
            remembered = {name: tensor for name, tensor in tensors.items() if not name.startswith("group.")}
            found |= {f"{group}/{name}": tensor for name, tensor in remembered.items() if tensor.dtype == x.dtype}
    single = {name: tensor for name, tensor in found.items() if tensor.numel() == 1}
    several = {name: tensor for name, tensor in found.items() if tensor.numel() > 1}
    return {name: tensor.view(()) for name, tensor in single.items()} | {
        f"{name}.{place}": number for name, tensor in several.items() for place, number in enumerate(tensor.view(-1))
    }


def _read(game: Game) -> Tensor:
    """Return copies of the numbers of the game, (N,)."""
    return torch.stack([*_numbers(game).values()])
