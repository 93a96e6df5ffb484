"""Laws about state: resuming, repeating, and updates in place."""

from __future__ import annotations

from typing import Any

import torch

from gantricks.engine import state
from gantricks.engine.game import Game, Tensors
from gantricks.testing.case import Case, NotApplicable, law, samples_of
from gantricks.testing.elsewhere import CannotGoThere, digests, play_elsewhere
from gantricks.testing.host import TrickHost
from gantricks.testing.host_numbers import HostNumber, host_numbers
from gantricks.testing.instruments import NoSync, boundary, host_unseen
from gantricks.testing.laws.first import told
from gantricks.testing.record import differences, same_bits, snapshot


@law("resume", "declare every mutable tensor in tensors(), allocated in on_setup; keep no other state")
def _resume(case: Case) -> None:
    host = case.with_it
    before_any = _shared_numbers(case, host)
    whole = host.game()
    saved = []
    with whole.training():
        for _ in range(host.steps):
            if not whole.advance():
                break
            saved.append((snapshot(whole), state.counters(whole), samples_of(whole), _numbers(whole, case.name)))
        logged = whole.scalars()[0]
    if not saved:
        raise NotApplicable("it stops the run before the first step")
    suspects = {path for path, value in before_any.items() if saved[-1][3].get(path, value) != value}
    for tensors, counters, samples, _ in saved[:-1]:
        resumed = host.game()
        state.load(resumed, tensors, counters)
        assert same_bits(samples_of(resumed), samples), f"loaded at step {counters['step']}, it samples differently"
        with resumed.training():
            while resumed.finished < len(saved) and resumed.advance():
                if resumed.finished == counters["step"] + 1:
                    there, here = saved[counters["step"]][3], _numbers(resumed, case.name)
                    suspects |= {path for path, value in here.items() if there.get(path, value) != value}
        changed = differences(snapshot(resumed), saved[-1][0])
        assert not changed, f"resumed at step {counters['step']}, these differ: {changed[:5]}"
        assert resumed.scalars()[0] == logged, f"resumed at step {counters['step']}, the logged values differ"
    for path in sorted(suspects):
        middle = saved[len(saved) // 2]
        _number_is_idle(case, host, path, *middle[:2])


LATE_NUMBERS = (0, 1, 2, 99, 100, 499, 500, 999, 1000, 9999, 10_000, 10**6)
"""Values of a host number late in a run. They detect a number that has an effect when it reaches a round value."""


def _number_is_idle(
    case: Case, host: TrickHost, path: str, tensors: dict[str, Tensors], counters: dict[str, Any]
) -> None:
    """Check that a host number, which a resumed run does not have, has no effect on it, whatever its value."""

    def played(value: float | None) -> tuple[Any, ...]:
        game = host.game()
        state.load(game, tensors, counters)
        with game.training():
            number = _places(game, case.name).get(path)
            if number is None:  # the number is created in the first step
                game.advance()
                number = _places(game, case.name).get(path)
            if number is None:
                return ()
            try:
                if value is not None:
                    number.set(value)
                for _ in range(2):
                    game.advance()
                return number.value, snapshot(game), samples_of(game)
            finally:
                number.restore()

    undisturbed = played(None)
    if not undisturbed:
        return
    number = undisturbed[0]
    for value in (not number,) if isinstance(number, bool) else LATE_NUMBERS:
        try:
            _, state_then, samples_then = played(value)
        except Exception:
            continue
        idle = not differences(state_then, undisturbed[1]) and same_bits(samples_then, undisturbed[2])
        assert idle, (
            f"the run depends on {path}, which a resumed run does not have: at {value} it goes on otherwise; make it a "
            "tensor, named in tensors()"
        )


def _places(game: Game, name: str) -> dict[str, HostNumber]:
    (trick,) = [planned.trick for planned in game.plan.tricks if planned.name == name]
    return host_numbers(game, trick)


def _numbers(game: Game, name: str) -> dict[str, float]:
    return {path: number.value for path, number in _places(game, name).items()}


def _shared_numbers(case: Case, host: TrickHost) -> dict[str, float]:
    """Return the numbers on the class and in the module, which all runs of a process share."""
    return {path: value for path, value in _numbers(host.game(), case.name).items() if not path.startswith("self.")}


@law(
    "late",
    "let what changes in the course of a run follow from tensors() or from ctx.step, never from what was seen before",
    presumes=("plays", "resume"),
)
def _late(case: Case) -> None:
    host = case.with_it.but(steps=LAST)
    whole = host.game()
    with whole.training():
        if not _pass_by(whole, LATE):
            return  # the trick has stopped the run
        tensors, counters = snapshot(whole), state.counters(whole)
        resumed = host.game()
        state.load(resumed, tensors, counters)
        with resumed.training():
            for _ in range(2):
                assert whole.advance() == resumed.advance(), f"loaded at step {LATE}, it stops the run otherwise"
        changed = differences(snapshot(whole), snapshot(resumed))
        assert not changed, f"resumed at step {LATE} of {LAST}, these differ two steps later: {changed[:3]}"
        assert same_bits(samples_of(whole), samples_of(resumed)), f"resumed at step {LATE}, it samples differently"
        boundary(whole)
        with host_unseen(whole), NoSync():
            whole.step()
        whole.move_to(whole.finished + 1)
        if not _pass_by(whole, LAST - 1) or not whole.advance():
            return
        whole.finish()
    fault = whole.non_finite()
    assert fault is None, f"late in a run, in step {fault.step}, {told(fault)} is not finite"


LATE, LAST = 150, 200
"""A step late in a run, and the last step."""


def _pass_by(game: Game, until: int) -> bool:
    """Advance to a step: host hooks between steps are called for each step, but only every 50th step is played. Returns
    False where a trick has stopped the run.
    """
    for step in range(game.finished, until):
        if step % 50 == 0:
            if not game.advance():
                return False
            continue
        boundary(game)
        if game.stop_reason:
            return False
        game.move_to(step + 1)
    return True


@law("in-place", "update state in place (copy_, add_, lerp_ …): a rebound tensor is lost to checkpoints and capture")
def _in_place(case: Case) -> None:
    game = case.with_it.game()
    (trick,) = [planned.trick for planned in game.plan.tricks if planned.name == case.name]
    declared = {name: (tensor, tensor.data_ptr()) for name, tensor in trick.tensors().items()}
    with game.training():
        for _ in range(3):
            game.advance()
    now = trick.tensors()
    assert now.keys() == declared.keys(), "tensors() names other tensors than at the start"
    for name, (tensor, pointer) in declared.items():
        assert now[name] is tensor, f"{name} was rebound"
        assert tensor.data_ptr() == pointer, f"{name}'s memory was replaced"
        assert tensor.dim() or tensor.dtype == torch.float32 or not tensor.is_floating_point(), (
            f"{name} is a scalar and not float32"
        )


@law("seed", "draw from ctx.rng only, and keep nothing on the class or the module")
def _seed(case: Case) -> None:
    first, second = case.whole, case.with_it.train()
    changed = differences(first.state, second.state)
    assert not changed, f"two runs with one seed differ in {changed[:3]}"
    assert first.played.scalars == second.scalars, "the logged values differ"


@law(
    "process",
    "iterate over lists and dicts, never over a set, and seed nothing by hash() or id()",
    presumes=("plays", "seed"),
)
def _process(case: Case) -> None:
    try:
        elsewhere = play_elsewhere(case.with_it)
    except CannotGoThere as reason:
        raise NotApplicable(str(reason)) from reason
    here = digests(case.whole.state, case.whole.samples, case.whole.played.scalars)
    changed = sorted(name for name in here.keys() | elsewhere.keys() if here.get(name) != elsewhere.get(name))
    assert not changed, f"in another process, with other hashes, the run differs in {changed[:3]}"
