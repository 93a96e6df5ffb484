"""Builds a game: contexts and hooks, networks and surgery, players, the tensors of the tricks.

The order is part of the contract: networks, the tricks' surgery, optimizers, `on_setup`. Saved state is copied into
these tensors afterwards, in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gantricks.data.base import Dataset
from gantricks.data.stand_in import stand_in
from gantricks.engine.building import lay_out, settle
from gantricks.engine.context import TrickContext
from gantricks.engine.dispatch import choose, fold, freeze, gather, notify
from gantricks.engine.game import Game
from gantricks.engine.players import ROLES, Player
from gantricks.engine.sampling import draw_latents
from gantricks.engine.step import Rules, Step
from gantricks.errors import Problem, TrickError, UserError
from gantricks.losses import AdversarialLoss, NonSaturating
from gantricks.networks.base import Discriminator, initialise, mixes_samples
from gantricks.planning.device import Placement, place
from gantricks.planning.plan import Plan
from gantricks.records import Companion
from gantricks.rng import Rng


def start(plan: Plan, dataset: Dataset, placement: Placement, budget: int | None = None) -> Game:
    """Build the game of a plan before its first step. `budget` is the largest number of bytes of data to keep on the
    device.
    """
    game = assemble(plan, dataset, placement, budget)
    build(game)
    return game


def assemble(plan: Plan, dataset: Dataset, placement: Placement, budget: int | None = None) -> Game:
    """Build a game with its hooks, but without the parts that hooks can change."""
    game = Game(plan, dataset, placement, budget)
    game.contexts = {
        planned.name: TrickContext(game, planned.name, game.stream(f"tricks/{planned.name}")) for planned in plan.tricks
    }
    game.hooks = freeze(plan.tricks, game.contexts)
    return game


def build(game: Game) -> None:
    """Build the rest of the game, in the order of the contract."""
    build_networks(game, lambda role: game.stream(f"initialise/{role}"))
    game.players = _players(game)
    game.step = game.play = _step(game)
    game.schedules.prepare(option for planned in game.plan.tricks for _, option in planned.trick.config)
    game.move_to(0)
    game.clock.enter("setup")
    notify(game.hooks.on_setup)
    game.schedules.move_to(0)  # drop values that were computed before the tensors of the tricks existed
    game.trick_tensors = {
        f"{planned.name}/{name}": tensor
        for planned in game.plan.tricks
        for name, tensor in planned.trick.tensors().items()
    }
    game.guard.watch(_unmasked(game))
    if trained := {name: weights for name, weights in _trained(game) if weights}:
        game.guard.watch_weights(trained)


def build_networks(game: Game, stream: Callable[[str], Rng]) -> None:
    """Build both networks, initialised from `stream(role)`, apply the tricks' surgery, and take up their companions.

    Raises UserError where a trick refuses a network, at the line of the recipe that names the trick.
    """
    plan = game.plan
    stem: Any = choose(game.hooks.d_stem, plan.shapes.sample)
    behind = replace(plan.shapes, sample=stem.shape) if stem else plan.shapes
    for role, given in (("generator", plan.shapes), ("discriminator", behind)):
        network = lay_out(game, role, given)
        if isinstance(network, Discriminator):
            network.shape, network.stem, network.group = plan.shapes.sample, stem, plan.group
            if plan.any_trick("provides", "discriminator_conditional"):
                network.conditional, network.classes = True, plan.shapes.classes
            if stem:
                stem.to_empty(device=game.placement.device).to(game.placement.dtype)
        initialise(network, stream(role))
        setattr(game, role, network.train())
    for role, transform in (
        ("generator", game.hooks.transform_generator),
        ("discriminator", game.hooks.transform_discriminator),
    ):
        with _placing(plan):
            network = fold(transform, getattr(game, role))
        settle(network, game.placement, game.feed.is_images)
        setattr(game, role, network)
    with _placing(plan):
        game.companions = gather(game.hooks.companions)
    for name, companion in game.companions.items():
        if not isinstance(companion, Companion):
            raise TrickError(f"{name.partition('.')[0]}: companions returned {companion!r:.100} and not a Companion")
        settle(companion.network, game.placement, game.feed.is_images)


@contextmanager
def _placing(plan: Plan) -> Iterator[None]:
    try:
        yield
    except UserError as refusal:
        raise UserError(*(_placed(plan, problem) for problem in refusal.problems)) from refusal


def _placed(plan: Plan, problem: Problem) -> Problem:
    """Place a problem of `tricks.<name>` at the line of the recipe that names the trick."""
    for planned in plan.tricks:
        if problem.where == f"tricks.{planned.name}" and planned.place:
            place = plan.recipe.places.about(problem.what, ("tricks", planned.name))
            return replace(problem, where=f"{place}: {problem.where}")
    return problem


def _players(game: Game) -> dict[str, Player]:
    from gantricks.engine import optimizers  # takes half a second to import torch's optimizers, and `check` needs none

    gates = {"d": game.hooks.d_gate, "g": game.hooks.g_gate}
    held = {phase: torch.zeros_like(game.guard.flag) if gated else game.guard.flag for phase, gated in gates.items()}
    plain = {
        name: Companion(getattr(game, role), getattr(game.plan.recipe, role).keys.optimizer, name)  # type: ignore[arg-type]
        for name, role in ROLES.items()
    }
    players = {}
    for name, companion in (plain | game.companions).items():
        network, phase = companion.network, companion.learns_in
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = optimizers.build(companion.optimizer, parameters)
        game.learns_in[name] = phase
        optimizer = fold(game.hooks.transform_optimizer, optimizer, name)
        players[name] = Player(name, phase, network, optimizer, parameters, held[phase])
    return players


def _step(game: Game) -> Step:
    train, hooks = game.plan.recipe.train, game.hooks
    loss: AdversarialLoss = NonSaturating()
    loss_ctx = TrickContext(game, "core", game.stream("core"))
    for provide, ctx in hooks.adversarial_loss:
        loss, loss_ctx = provide(ctx), ctx
    latents = partial(draw_latents, game, latent_rng=game.stream("latents"), class_rng=game.stream("classes"))
    rules = Rules(
        reuse_fakes=train.reuse_fakes,
        separate=game.plan.any_trick("provides", "separate_passes"),
        mixes=mixes_samples(game.discriminator),
        input_grad=game.plan.any_trick("needs", "input_grad"),
        compares=getattr(loss, "compares", False),
    )
    return Step(
        hooks, game.frame, game.clock, game.feed, game.guard, game.players["d"], game.players["g"],
        tuple(game.players[name] for name in game.companions), latents, loss, loss_ctx, rules, train.n_critic,
    )  # fmt: skip


def _unmasked(game: Game) -> Iterable[Tensor]:
    """The tensors whose updates nothing but the guard can undo after a non-finite value."""
    safe = {planned.name for planned in game.plan.tricks if planned.trick.fault_safe}
    watched = [tensor for name, tensor in game.trick_tensors.items() if name.partition("/")[0] not in safe]
    for player in game.players.values():
        watched += list(player.network.buffers())
    return {id(tensor): tensor for tensor in watched}.values()


def _trained(game: Game) -> Iterable[tuple[str, list[Tensor]]]:
    """The weights that each trick trains itself."""
    for planned in game.plan.tricks:
        tensors = planned.trick.tensors().values()
        yield planned.name, [tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf]


# ---------------------------------------------------------------- trying surgery without training

LARGE = 1 << 22
"""The number of weights from which `check` draws equal rows in place of every weight, and uses smaller batches, to save
time.
"""


class _Repeating(Rng):
    """Random draws whose rows are all the same. They are fast, and enough to try surgery."""

    def fork(self, name: str) -> Rng:
        return self

    def anew(self, name: str) -> Rng:
        return self

    def normal(self, shape: int | Sequence[int]) -> Tensor:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        return super().normal(sizes[-1:]).expand(sizes)


def try_surgery(plan: Plan) -> None:
    """Build the networks on the CPU and apply the tricks' surgery to them, beside a few made-up samples.

    Raises UserError with what the first trick refuses.
    """
    most, large = 64, sum(plan.parameters().values()) >= LARGE
    if large:
        part = plan.recipe.data
        most = min(part.keys.batch_size, max(4, 2 * plan.group))
        keys = part.keys.model_copy(update={"batch_size": most})
        plan = replace(plan, recipe=replace(plan.recipe, data=replace(part, keys=keys)))
    few = replace(plan.description, count=min(plan.description.count, most))
    game = assemble(plan, stand_in(few), place("cpu", "fp32"), budget=0)
    kind = _Repeating if large else Rng
    placement = game.placement
    build_networks(
        game, lambda role: kind(game.seed, f"initialise/{role}", game.clock, placement.device, placement.dtype)
    )
