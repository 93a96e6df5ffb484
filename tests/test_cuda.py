"""What must hold on a GPU; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gantricks.engine import state
from gantricks.engine.capture import CUDA_GRAPH, Capturing
from gantricks.engine.subject import measure
from gantricks.planning.device import place
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, snapshot

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(autouse=True)
def as_runs_compute() -> Iterator[None]:
    """The same convolutions in every run, and products in IEEE."""
    with place("cuda", "fp32").computing():
        yield


IMAGES = TrickHost(sample=(3, 16, 16), device="cuda", batch_size=16, steps=6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_is_bit_identical(precision: str) -> None:
    host = IMAGES.but(precision=precision)
    whole = host.game()
    for _ in range(3):
        whole.advance()
    resumed = host.game()
    state.load(resumed, snapshot(whole), state.counters(whole))
    for game in (whole, resumed):
        for _ in range(3):
            game.advance()
    assert not differences(snapshot(whole), snapshot(resumed))


def test_bf16_computes_in_bf16_and_hands_hooks_fp32() -> None:
    game = IMAGES.but(precision="bf16").game()
    seen = set()
    for module in game.discriminator.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, out: seen.add(out.dtype))
    game.advance()
    assert seen == {torch.bfloat16}
    assert game.frame.logits["real"].dtype == torch.float32
    assert game.non_finite() is None


def test_images_are_channels_last_and_the_step_does_not_wait() -> None:
    game = IMAGES.game()
    assert game.feed.next().images.is_contiguous(memory_format=torch.channels_last)
    game.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        game.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_recorded_run_does_not_notice_that_it_is_measured() -> None:
    host = IMAGES.but(classes=3, count=150, evaluated=140, generator={"conditional": True})
    measured = host.with_metric("frechet_distance", extractor={"name": "classifier", "steps": 2}).but(every=1).game()
    plain = host.game()
    for game in (measured, plain):
        game.play = Capturing(game, CUDA_GRAPH)
    for _ in range(6):
        measured.advance()
        plain.advance()
        assert not differences(snapshot(measured), snapshot(plain))
    assert measured.play.backend == plain.play.backend == CUDA_GRAPH, measured.warnings
    assert measure(measured) == measure(measured)


@pytest.mark.parametrize("tricks", [(), ("soft_labels", "ema"), ("historical_averaging", "instance_noise")])
def test_the_recorded_step_is_the_eager_step(tricks: tuple[str, ...]) -> None:
    host = IMAGES
    for trick in tricks:
        host = host.with_trick(trick)
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, CUDA_GRAPH)
    for _ in range(5):
        eager.advance()
        captured.advance()
    assert captured.play.backend == CUDA_GRAPH, captured.warnings
    a, b = snapshot(eager), snapshot(captured)
    for group in a:
        for name, tensor in a[group].items():
            torch.testing.assert_close(b[group][name], tensor, rtol=1e-4, atol=1e-5)
