"""Network swap: for a few steps now and then, one player is what it was some time ago, and the other plays it.

The state of both networks is kept every `keep_every` steps, the last `capacity` of them. Every `swap_every` steps one
player, D and G in turn, is put back to a random one of its kept states for `length` steps. Then the present state
returns, optimizer included.

Samples are drawn from the present G and classes are asked of the present D, also during a swap. Moving averages do not
take the past in, nor do they take in its batch norm statistics. `away_d` and `away_g` tell in the log who is away.
Losses of those steps are of the past player.

The cost is `capacity` + 1 copies of both networks, and no computation within a step. Beside growing the trick is
refused: a past state of a smaller network is no state of the grown one.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gantricks import Context, Discriminator, Generator, Trick, hookimpl

N = TypeVar("N", Generator, Discriminator)
PLAYERS = ("d", "g")


@torch.no_grad()
def copy_(to: list[Tensor], tensors: list[Tensor]) -> None:
    """Make each tensor of `to` equal to its counterpart in `tensors`, in place."""
    torch._foreach_copy_(to, tensors)


def due(step: int, every: int, length: int) -> tuple[bool, bool, int]:
    """Whether a swap begins before this step, whether one ends, and the number of swaps so far, host numbers.

    Swap n begins when n · `every` steps are done and ends `length` steps later.
    """
    swaps, since = divmod(step, every)
    return swaps > 0 and since == 0, swaps > 0 and since == length, swaps


class NetworkSwap(Trick):
    """Network swap: now and then a past state of D or of G steps in for a few steps, and the other plays against it.

    Players that only ever meet the present opponent can go round in circles, each forgetting what worked against an
    earlier one. The past player is not updated: its opponent learns against it. Then the present one returns, bit for
    bit. The trick is for networks what experience replay is for samples.

    When it hurts: each swap holds one player's learning for `length` steps, and a past state from long ago teaches
    little.

    Source: GAN hacks list, point 8.
    """

    conflicts = {"grow": "a past state of a smaller network is no state of the grown one"}

    fault_safe = True
    replaces = {"present_players"}
    trial = {"keep_every": 1, "capacity": 2, "swap_every": 2, "length": 1}
    strengths = {"length": (2, 5, 20)}

    class Config(Trick.Config):
        keep_every: Annotated[int, Field(ge=1, le=1_000_000, description="steps from one kept state to the next")] = 250
        capacity: Annotated[int, Field(ge=1, le=100, description="number of past states kept of each player")] = 4
        swap_every: Annotated[int, Field(ge=2, le=1_000_000, description="steps from one swap to the next")] = 500
        length: Annotated[int, Field(ge=1, le=100_000, description="steps that a swap lasts")] = 5

        @model_validator(mode="after")
        def _the_present_returns(self) -> Any:
            if self.length >= self.swap_every:
                raise ValueError(
                    f"swaps of {self.length} steps every {self.swap_every} leave no step with both present; "
                    f"write a length below {self.swap_every}"
                )
            return self

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        networks = {"d": ctx.discriminator, "g": ctx.generator}
        self.names = {player: [*network.state_dict()] for player, network in networks.items()}
        self.live = {player: [*network.state_dict().values()] for player, network in networks.items()}
        self.present = {player: [tensor.clone() for tensor in live] for player, live in self.live.items()}
        # a list of capacity states, not a tensor with a row for each: a state keeps its memory layout
        self.past = {
            p: [[t.clone() for t in live] for _ in range(self.config.capacity)] for p, live in self.live.items()
        }
        self.away = {player: torch.zeros((), device=ctx.device) for player in PLAYERS}

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        begins, ends, swaps = due(ctx.step, self.config.swap_every, self.config.length)
        keeps, past = divmod(ctx.step, self.config.keep_every)
        keep = keeps > 0 and past == 0
        if not (begins or ends or keep) or not ctx.healthy:
            return
        player = PLAYERS[(swaps - 1) % 2]
        if ends and self.away[player]:
            copy_(self.live[player], self.present[player])
            self.away[player].zero_()
        kept = min(keeps - keep, self.config.capacity)  # the state kept now is the present one
        if begins and kept and not self.away[player]:
            copy_(self.present[player], self.live[player])
            copy_(self.live[player], self.past[player][int(ctx.rng.randint(1, kept))])
            self.away[player].fill_(1)
        if keep:
            for each in PLAYERS:
                state = self.present if self.away[each] else self.live
                copy_(self.past[each][(keeps - 1) % self.config.capacity], state[each])

    @hookimpl
    def d_gate(self, open: Tensor) -> Tensor:
        return open * (1 - self.away["d"])

    @hookimpl
    def g_gate(self, open: Tensor) -> Tensor:
        return open * (1 - self.away["g"])

    @hookimpl
    def sampling_generator(self, network: Generator, ctx: Context) -> Generator:
        return self._own("g", network) if network is ctx.generator else network

    @hookimpl
    def evaluation_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        return self._own("d", network) if network is ctx.discriminator else network

    def _own(self, player: str, network: N) -> N:
        """The player's own network: `network` itself, unless a past state stands in for it."""
        if not self.away[player]:
            return network
        present: N = copy.deepcopy(network)
        copy_([*present.state_dict().values()], self.present[player])
        return present

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {f"away_{player}": away for player, away in self.away.items()}

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"{player}.away": away for player, away in self.away.items()}
        for player in PLAYERS:
            states = {"present": self.present[player]}
            states |= {f"past.{number}": state for number, state in enumerate(self.past[player])}
            for which, state in states.items():
                tensors |= {f"{player}.{which}.{n}": t for n, t in zip(self.names[player], state, strict=True)}
        return tensors
