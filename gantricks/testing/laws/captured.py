"""Laws about capturing the step."""

from __future__ import annotations

import gc
import os
import shutil
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gantricks.engine.capture import INDUCTOR, INTERPRETER, Capturing
from gantricks.testing.case import Case, NotApplicable, law
from gantricks.testing.instruments import (
    Made,
    NoSync,
    OpTrace,
    batches_unseen,
    boundary,
    host_unseen,
    shown,
)
from gantricks.testing.record import differences, snapshot


@law("no-sync", "inside the step no .item(), .cpu(), bool(tensor), .tolist(), and no shape that depends on values")
def _no_sync(case: Case) -> None:
    game = case.with_it.game()
    with game.training(), host_unseen(game):
        for _ in range(3):
            boundary(game)
            with NoSync():
                game.step()
            game.move_to(game.finished + 1)
        if not case.instance.capturable:
            raise NotApplicable("it declares capturable = False")
        boundary(game)
        # the game is not used after this, because the fake step leaves fake gradients behind
        with FakeTensorMode(allow_non_fake_inputs=True):
            game.step()


@law("same-step", "no Python branch or number may change from step to step: it would freeze when the step is captured")
def _same_step(case: Case) -> None:
    if not case.instance.capturable:
        raise NotApplicable("it declares capturable = False")
    game = case.with_it.game()
    firsts: dict[tuple[Any, ...], tuple[int, list[Any]]] = {}
    with game.training():
        game.advance()
        for number in range(2, 6):
            boundary(game)
            trace = OpTrace()
            with host_unseen(game, trace.ops.append), trace:
                game.step()
            game.move_to(game.finished + 1)
            # steps of another structure or variant are captured anew, so they are compared among themselves
            first, ops = firsts.setdefault((game.structure, game.variant), (number, trace.ops))
            for then, now in zip(ops, trace.ops, strict=False):
                assert then == now, f"step {first} runs {then}, step {number} runs {now}"
            assert len(trace.ops) == len(ops), (
                f"step {first} runs {len(ops)} operations, step {number} {len(trace.ops)}"
            )


@law("captured", "decide nothing on the host inside the step, and rebind no tensor that the step reads")
def _captured(case: Case) -> None:
    if not case.instance.capturable:
        raise NotApplicable("it declares capturable = False")
    host = case.with_it
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, INTERPRETER)
    with eager.training(), captured.training():
        for step in range(1, host.steps + 1):
            if not eager.advance():
                break
            captured.advance()
            assert captured.play.backend, captured.warnings[-1].removeprefix("the step is played eagerly: ")
            changed = differences(snapshot(eager), snapshot(captured))
            assert not changed, f"the replayed step {step} differs from the eager one in {changed[:3]}"
        assert eager.scalars() == captured.scalars(), "the replayed steps log other values than the eager ones"


@law("memory", "keep no tensor of a step beyond the next one: what accumulates fills the memory in a long run")
def _memory(case: Case) -> None:
    game = case.with_it.game()
    with game.training(), batches_unseen(game):
        for _ in range(2):
            game.advance()
        with Made() as made:
            game.advance()
        for _ in range(2):
            if not game.advance():
                raise NotApplicable("it stops the run before a step's tensors could go")
    gc.collect()
    kept = [tensor for tensor in (reference() for reference in made.tensors) if tensor is not None]
    assert not kept, f"{len(kept)} tensors made in step 3 are still there two steps later: {shown(kept[0])}"


def compiled_holds(case: Case, steps: int = 3) -> None:
    """Check that the step compiled by inductor equals the eager step: in float64, under SGD, every tensor that moves
    agrees within 1e-9 after each of `steps` steps.

    Compiling takes many seconds, so this is not one of `LAWS`. Raises AssertionError where the steps differ or the step
    cannot be compiled, NotApplicable where the trick declares that it cannot be captured, or this machine has no C++
    compiler.
    """
    if not case.instance.capturable:
        raise NotApplicable("it declares capturable = False")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise NotApplicable("there is no C++ compiler")
    sgd = {"name": "sgd", "lr": 1e-2}  # Adam turns a gradient that is 0 up to rounding into a full update
    host = case.with_it.but(precision="fp64", optimizer=sgd)
    eager, compiled = host.game(), host.game()
    compiled.play = Capturing(compiled, INDUCTOR)
    with eager.training(), compiled.training():
        for step in range(1, steps + 1):
            eager.advance()
            compiled.advance()
            assert compiled.play.backend, compiled.warnings[-1].removeprefix("the step is played eagerly: ")
            here, there = snapshot(eager), snapshot(compiled)
            far = []
            for name in differences(here, there):
                group, _, key = name.partition("/")
                a, b = here[group].get(key), there[group].get(key)
                if a is None or b is None or not torch.allclose(a.double(), b.double(), 1e-9, 1e-9, equal_nan=True):
                    far.append(name)
            assert not far, f"the compiled step {step} differs from the eager one in {far[:5]}"
