"""CUDA where there is no GPU: graphs and streams are emulated (emulated_cuda.py), and steps are played on a fake
accelerator (fake_device.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import together
from emulated_cuda import EmulatedCuda, Races, Stream
from fake_device_faults import FOUND
from trick_files import host_for, trick_files

from gantricks import Trick, hookimpl
from gantricks.engine.capture import CUDA_GRAPH, Capturing
from gantricks.engine.game import Game
from gantricks.planning.contract import acts_on_samples_alone
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, snapshot

FILES = trick_files()
PLAIN = TrickHost(steps=12, precision="fp32")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> EmulatedCuda:
    return EmulatedCuda(monkeypatch)


def captured(host: TrickHost, device: int | None = None) -> Game:
    """A game whose step is recorded as a CUDA graph. Its tensors stay on the CPU."""
    game = host.game()
    if device is not None:
        game.placement = replace(game.placement, device=torch.device("cuda", device))
    game.play = Capturing(game, CUDA_GRAPH)
    return game


def same_as_eager(host: TrickHost, steps: int = 5) -> Game:
    """Play a host eagerly and recorded, and return the recorded game."""
    eager, recorded = host.game(), captured(host)
    for _ in range(steps):
        eager.advance()
        recorded.advance()
    assert not differences(snapshot(eager), snapshot(recorded))
    return recorded


# ---------------------------------------------------------------- every trick


def in_training() -> list[str]:
    return [trick for trick, file in FILES.items() if not acts_on_samples_alone(file.case().instance.__class__)]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("trick", sorted(FILES))
def test_a_recorded_step_with_a_trick_is_the_eager_step(trick: str) -> None:
    case = FILES[trick].case()
    game = same_as_eager(case.with_it)
    if case.instance.capturable:
        assert game.play.backend == CUDA_GRAPH, game.warnings  # type: ignore[attr-defined]


SETS = together(
    sorted(in_training()),
    [frozenset((trick, other)) for trick, file in FILES.items() for other in file.refused],
    10,
)[::10]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("tricks", SETS, ids="+".join)
def test_a_recorded_step_with_many_tricks_is_the_eager_step(tricks: tuple[str, ...]) -> None:
    host = host_for(*(FILES[trick] for trick in tricks))
    for trick in tricks:
        case = FILES[trick].case()
        host = host.with_trick(case.trick, trick, **case.options)
    same_as_eager(host, 4)


# ---------------------------------------------------------------- what is frozen


class HostChoice(Trick):
    """Decides on the host, otherwise in each step."""

    steps = 0

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        HostChoice.steps += 1
        return {"t": ctx.fake_out.logits.mean() * (5.0 if HostChoice.steps % 2 else 0.0)}


def test_a_choice_on_the_host_is_not_frozen_unnoticed(cuda: EmulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostChoice, "steps", 0)
    game = captured(PLAIN.with_trick(HostChoice))
    game.advance()
    (warning,) = game.warnings
    assert "played eagerly: the replayed step differs from the eager one" in warning
    assert game.play.backend is None  # type: ignore[attr-defined]


def test_a_graph_that_changes_nothing_is_refused(cuda: EmulatedCuda) -> None:
    cuda.records = False
    game = same_as_eager(PLAIN)
    assert game.warnings == ["the step is played eagerly: the recorded step changes nothing"]


class Reads(Trick):
    """Waits for the device in the step."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        return {"t": ctx.fake_out.logits.mean() * min(1.0, ctx.fake_out.logits.detach().mean().abs().item() + 1)}


def test_a_step_that_waits_for_the_device_is_played_eagerly(cuda: EmulatedCuda) -> None:
    game = same_as_eager(PLAIN.with_trick(Reads))
    assert "CUDA cannot capture it" in game.warnings[0]


class Hungry(Trick):
    """Runs out of memory where the step is captured."""

    cuda: EmulatedCuda

    @hookimpl
    def before_g_step(self) -> None:
        if self.cuda.capturing:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")


def test_memory_that_runs_out_while_capturing_is_told_as_that(
    cuda: EmulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "cuda", cuda, raising=False)
    game = captured(PLAIN.with_trick(Hungry))
    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        game.advance()
    assert not game.warnings


# ---------------------------------------------------------------- streams


def races(game: Game, cuda: EmulatedCuda, steps: int = 2) -> list[str]:
    with Races(cuda) as watch:
        for _ in range(steps):
            game.advance()
    return watch.found


TRICKY = PLAIN.but(sample=(1, 8, 8), n_critic=2).with_trick("ema").with_trick("instance_noise")


def test_no_memory_is_used_by_two_streams_at_once(cuda: EmulatedCuda) -> None:
    assert races(captured(TRICKY), cuda) == []
    assert len(cuda.streams) > 2


@pytest.mark.parametrize("deaf", ["the side stream", "the current stream"])
def test_a_wait_that_is_missing_is_noticed(cuda: EmulatedCuda, monkeypatch: pytest.MonkeyPatch, deaf: str) -> None:
    wait = Stream.wait_stream

    def waits(stream: Stream, other: Stream) -> None:
        if len(cuda.captures) or (stream in cuda.default) != (deaf == "the current stream"):
            wait(stream, other)

    monkeypatch.setattr(Stream, "wait_stream", waits)
    assert races(captured(TRICKY), cuda)


def test_everything_is_recorded_and_replayed_on_the_device_of_the_run(cuda: EmulatedCuda) -> None:
    game = captured(PLAIN, device=1)
    for _ in range(3):
        game.advance()
    assert game.play.backend == CUDA_GRAPH  # type: ignore[attr-defined]
    assert [(each["device"], each["pool"][0]) for each in cuda.captures] == [(1, 1)]
    assert {stream.device for stream in cuda.streams[2:]} == {1}
    assert cuda.device == 0


# ---------------------------------------------------------------- memory


def test_steps_of_all_structures_share_their_memory_and_the_old_ones_are_gone(cuda: EmulatedCuda) -> None:
    host = PLAIN.with_trick("batch_size_schedule", start=4, end=8).with_trick("n_critic_schedule", end=2)
    same_as_eager(host, 12)
    assert len(cuda.captures) == 3
    assert cuda.pools == 1
    assert len({each["pool"] for each in cuda.captures}) == 1
    assert [each["alive"] for each in cuda.captures] == [1, 1, 1]  # the one that is about to be recorded


def test_steps_of_several_variants_share_their_memory(cuda: EmulatedCuda) -> None:
    game = same_as_eager(PLAIN.with_trick("r1", every=2), 6)
    assert game.play.backend == CUDA_GRAPH  # type: ignore[attr-defined]
    assert [each["alive"] for each in cuda.captures] == [1, 2]
    assert len({each["pool"] for each in cuda.captures}) == 1


def test_other_threads_may_pin_memory_while_a_step_is_captured(cuda: EmulatedCuda) -> None:
    captured(PLAIN).advance()
    assert {each["mode"] for each in cuda.captures} == {"thread_local"}


# ---------------------------------------------------------------- what a step asks of the host


def faults(names: list[str]) -> dict[str, list[str]]:
    """What the fake accelerator finds in steps with these tricks, or sets of tricks."""
    script = Path(__file__).parent / "fake_device.py"
    played = subprocess.run([sys.executable, str(script), *names], capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stderr[-2000:]
    lines = map(json.loads, played.stdout.splitlines())
    return {line["trick"]: line["faults"] for line in lines}


AT_ONCE = 20
EVERY = [*sorted(FILES), *("+".join(chosen) for chosen in SETS)]


@pytest.mark.parametrize("start", range(0, len(EVERY), AT_ONCE))
def test_a_step_asks_nothing_of_the_host(start: int) -> None:
    names = EVERY[start : start + AT_ONCE]
    assert faults(names) == {name: [] for name in names}


def test_a_trick_that_waits_for_the_host_is_found() -> None:
    found = faults([trick.__name__ for trick in FOUND])
    assert len(found) == len(FOUND)
    for trick, words in FOUND.items():
        assert any(words in fault and "fake_device_faults.py" in fault for fault in found[trick.__name__]), found


# ---------------------------------------------------------------- the first hour on a GPU

HOUR = Path(__file__).parents[1] / "benchmarks" / "first_gpu_hour.py"


@pytest.mark.slow
@pytest.mark.parametrize("part", [2, 3, 4, 7])
def test_the_script_of_the_first_hour_works(part: int, tmp_path: Path) -> None:
    words = [sys.executable, str(HOUR), "--device", "cpu", "--few", "--part", str(part), "--out", "hour.json"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "hour.json").read_text())[f"part {part}"]["found"]
    assert found
    assert "error" not in str(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_script_of_the_first_hour_says_that_there_is_no_gpu() -> None:
    ran = subprocess.run([sys.executable, str(HOUR), "--part", "1"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "there is no CUDA device here" in ran.stderr
