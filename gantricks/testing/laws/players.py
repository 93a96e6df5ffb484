"""Laws about the two players: what each phase may change, and the gradients that each player gets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from gantricks.engine import sampling
from gantricks.engine.dispatch import fold
from gantricks.engine.game import Game, Tensors
from gantricks.engine.players import Player
from gantricks.errors import UserError
from gantricks.planning.contract import hooks_of
from gantricks.testing.case import Case, NotApplicable, law
from gantricks.testing.host_numbers import held_by
from gantricks.testing.instruments import SecondPass, Shut
from gantricks.testing.record import differences, same_bits, snapshot, watch_phases


@law("other-player", "change only the player of ctx.phase: weights, gradients, optimizer state, modes")
def _other_player(case: Case) -> None:
    game = case.with_it.but(reuse_fakes=False).game()

    def others(phase: str) -> list[Player]:
        return [player for player in game.players.values() if player.phase != phase]

    def before(phase: str) -> Any:
        gradients = {
            f"{player.role}/{name}": p.grad if p.grad is None else p.grad.clone()
            for player in others(phase)
            for name, p in player.network.named_parameters()
        }
        return snapshot(game), gradients, _taking_part(game), _in_eval_mode(game)

    def after(phase: str, seen: Any) -> None:
        start, gradients, taking_part, resting = seen
        optimizers = tuple(f"{player.role}_optimizer/" for player in others(phase))
        moved = [n for n in differences(start, snapshot(game)) if n in gradients or n.startswith(optimizers)]
        assert not moved, f"the {phase} step moved {moved}"
        assert _taking_part(game) == taking_part, f"the {phase} step left weights frozen, or thawed some"
        left = [name for name in _in_eval_mode(game) if name not in resting]
        assert not left, f"the {phase} step left {left[0]} in eval mode"
        for player in others(phase):
            for name, parameter in player.network.named_parameters():
                told = f"the {phase} step touched gradients of the {player.role}"
                assert _same_gradient(gradients[f"{player.role}/{name}"], parameter.grad), told

    watch_phases(game, before, after)
    with game.training():
        for _ in range(3):
            game.advance()


@law("gradients", "detach what the other player made, cut no path to the one that learns, avoid 0/0 and log 0")
def _gradients(case: Case) -> None:
    game = case.with_it.but(reuse_fakes=False).game()

    def before(phase: str) -> None:
        for player in game.players.values():
            for parameter in player.parameters:
                parameter.grad = None

    def after(phase: str, _: Any) -> None:
        for player in game.players.values():
            gradients = [parameter.grad for parameter in player.parameters]
            if player.phase == phase:
                missing = [g for g in gradients if g is None or not torch.isfinite(g).all()]
                assert not missing, f"some of {player.name}'s weights have no finite gradient"
                assert any(bool(g.any()) for g in gradients if g is not None), f"{player.name} has only zero gradients"
            else:
                assert all(g is None for g in gradients), f"the {phase} step gave {player.name} gradients"

    watch_phases(game, before, after)
    with game.training():
        for _ in range(2):
            game.advance()


@law("learns", "step the optimizer of a network of your own, or freeze its weights with requires_grad_(False)")
def _learns(case: Case) -> None:
    game = case.with_it.game()
    (trick,) = [planned.trick for planned in game.plan.tricks if planned.name == case.name]
    for player in game.players.values():
        held = {id(p) for group in player.optimizer.param_groups for p in group["params"]}
        stray = [n for n, p in player.network.named_parameters() if p.requires_grad and id(p) not in held]
        assert not stray, f"no optimizer has {player.name.upper()}'s weights {stray[:3]}: add them in transform_… hooks"
    players = {id(p) for player in game.players.values() for p in player.network.parameters()}
    own: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in trick.tensors().items():
        own[id(tensor)] = name, tensor
    for network in held_by(trick, nn.Module):
        own |= {id(p): (f"{type(network).__name__}.{name}", p) for name, p in network.named_parameters()}
    for optimizer in held_by(trick, torch.optim.Optimizer):
        for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            own.setdefault(id(parameter), (f"weight {number} of its {type(optimizer).__name__}", parameter))
    learning = [(name, t, t.detach().clone()) for i, (name, t) in own.items() if t.requires_grad and i not in players]
    asked = [(hook, network, [p.detach().clone() for p in network.parameters()]) for hook, network in _asked_for(game)]
    if not learning and not asked:
        raise NotApplicable("it has no weights of its own that learn or are asked")
    with game.training():
        for _ in range(4):
            game.advance()
    for hook, _, start in asked:
        now = [p.detach() for name, network in _asked_for(game) if name == hook for p in network.parameters()]
        assert len(now) != len(start) or not all(map(same_bits, now, start)), (
            f"in 4 steps the network that {hook} returns has not moved: it does not follow the one that is trained"
        )
    still = [name for name, tensor, start in learning if same_bits(tensor, start)]
    assert not still, f"in 4 steps these weights of its own never moved: {still[:3]}"


def _asked_for(game: Game) -> list[tuple[str, nn.Module]]:
    """Return the networks for sampling and evaluation, where they are not the trained ones."""
    with sampling.aside(game, 0):
        sampled = fold(game.hooks.sampling_generator, game.generator)
        evaluated = fold(game.hooks.evaluation_discriminator, game.discriminator)
    live = {game.generator, game.discriminator}
    asked = (("sampling_generator", sampled), ("evaluation_discriminator", evaluated))
    return [(hook, network) for hook, network in asked if network not in live]


@law("second-pass", "change no buffer in place that a forward pass has used before its backward: clone it for use")
def _second_pass(case: Case) -> None:
    try:
        played = case.with_it.with_trick(SecondPass, "second_pass").train(2)
    except UserError as refusal:
        raise NotApplicable(f"it is refused beside a second pass: {refusal}") from refusal
    except RuntimeError as broken:
        if "modified by an inplace operation" not in str(broken):
            raise
        raise AssertionError(
            "a second forward pass changes in place what the first one's backward needs: penalties and "
            "consistency terms cannot work beside it"
        ) from broken
    assert played.game.non_finite() is None, "with a second pass through each network, values are not finite"


@law("gates", "move what follows a player by ctx.updated: where a gate is closed, the player has not moved")
def _gates(case: Case) -> None:
    if not {"after_d_step", "after_g_step", "after_d_backward", "after_g_backward"} & set(hooks_of(case.trick)):
        raise NotApplicable("it does nothing after an update")
    opened, closed = 3, 4
    game = case.with_it.with_trick(Shut, "shut", at=opened + 1).game()
    followers = _copies_of_weights(game, case.name)
    shut = False

    def weights(phase: str) -> Tensors:
        learners = [player for player in game.players.values() if player.phase == phase]
        return {
            f"{player.name}/{name}": p.detach().clone()
            for player in learners
            for name, p in player.network.named_parameters()
        }

    def unmoved(phase: str, before: Tensors) -> None:
        if shut:
            moved = differences({"": before}, {"": weights(phase)})
            assert not moved, f"{phase.upper()}'s gate is closed, and its weights moved: {moved[:3]}"

    watch_phases(game, weights, unmoved)
    moves: Counter[str] = Counter()
    with game.training():
        for _ in range(opened):
            game.advance()
        shut = True
        for _ in range(closed):
            before = {name: tensor.detach().clone() for name, tensor in followers.items()}
            game.advance()
            moves.update(name for name, tensor in followers.items() if not same_bits(before[name], tensor))
    restless = [name for name, count in moves.items() if count == closed]
    assert not restless, f"no player is updated, and what follows their weights moves in every step: {restless[:3]}"


def _copies_of_weights(game: Game, trick: str) -> Tensors:
    """Return the tensors of a trick that start as copies of a player's weights."""
    weights = [p.detach() for player in game.players.values() for p in player.network.parameters()]
    weights = [weight for weight in weights if weight.numel() > 1 and bool((weight != weight.flatten()[0]).any())]
    return {
        name: tensor
        for name, tensor in game.trick_tensors.items()
        if name.partition("/")[0] == trick and any(same_bits(tensor.detach(), weight) for weight in weights)
    }


def _in_eval_mode(game: Game) -> list[str]:
    """Return the modules in eval mode, "<player>" or "<player>.<name>". A trick may keep some there for good."""
    return [
        f"{player.role}.{name}".removesuffix(".")
        for player in game.players.values()
        for name, module in player.network.named_modules()
        if not module.training
    ]


def _taking_part(game: Game) -> list[bool]:
    return [p.requires_grad for player in game.players.values() for p in player.network.parameters()]


def _same_gradient(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return same_bits(a, b)
