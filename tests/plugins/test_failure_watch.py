"""Laws of the failure watch: each symptom is told when it is there and only then, and training does not notice."""

from __future__ import annotations

import math
import statistics
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Trick, hookimpl, resume, train
from gantricks.engine import sampling
from gantricks.plugins.failure_watch import SERIES, SYMPTOMS, FailureWatch, falling_share, mean_distance, symptoms
from gantricks.runs.reporter import Reporter
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"window": 4, "gradient_norm": 0.01}, {}),
    "conditional": ({"window": 4, "samples": 3}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "looking at samples moves batch norm's statistics": Mistake(
        old="network.eval()",
        new="network.train()",
        caught_by="test_training_and_samples_do_not_notice",
    ),
    "it warns at every log": Mistake(
        old="not self.silence[position]",
        new="True",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """It warns exactly when the logs show a symptom, once per window; the distance logged is that of G's samples."""
    game, trick = played.game, played.trick(name)
    logs = [call.arguments[0] for call in played.of(name, "on_log")]
    assert logs == played.scalars
    count = min(trick.config.samples, game.feed.count)
    reals = game.feed.take(torch.tensor([i * game.feed.count // count for i in range(count)])).images
    real_distance = _mean_distance(reals)
    expected: list[str] = []
    last: dict[str, int] = {}
    for number in range(len(logs)):
        for symptom in _symptoms(logs[: number + 1], trick.config, name, real_distance):
            if number - last.get(symptom, -math.inf) >= trick.config.window:
                last[symptom] = number
                expected.append(symptom)
    own = f"{name}: "
    warned = [sentence.removeprefix(own) for sentence in game.warnings if sentence.startswith(own)]
    same = len(warned) == len(expected) and all(map(str.startswith, warned, expected))
    assert same, f"it warned {warned}, the logs show {expected}"

    game.clock.enter("log")  # what is drawn inside G is then what was drawn for the last log
    assert game.generator.training
    distance = _mean_distance(game.generator.eval()(*trick.given))
    game.generator.train()
    assert math.isclose(logs[-1][f"{name}/sample_distance"], distance, rel_tol=1e-9)


def _mean_distance(images: Tensor) -> float:
    """Of all pairs of different ones."""
    rows = images.flatten(1)
    distances = (rows[:, None] - rows[None]).square().sum(2).sqrt()
    return float(distances.sum()) / (len(rows) * (len(rows) - 1))


def _symptoms(logs: list[dict[str, float]], config: Any, name: str, real_distance: float) -> list[str]:
    """How the sentences begin that are due after these logs."""
    found = [
        f"the norm of {player}'s gradient"
        for player in "DG"
        if logs[-1][f"gradient_norm/{player.lower()}"] > config.gradient_norm
    ]
    if len(logs) < config.window:
        return found
    d_loss, g_loss, distance = (
        [log[key] for log in logs[-config.window :]] for key in ("loss/d", "loss/g", f"{name}/sample_distance")
    )
    half = config.window // 2
    early, late = statistics.pvariance(d_loss[:half]), statistics.pvariance(d_loss[-half:])
    pairs = list(combinations(g_loss, 2))
    due = {
        "D's loss has been below": max(map(abs, d_loss)) < config.d_loss,
        "the variance of D's loss": 0 < config.variance_growth * early < late,
        "G's loss has fallen": sum(b < a for a, b in pairs) >= config.falling * len(pairs),
        "samples are": max(distance) < config.distance * real_distance,
    }
    return found + [sentence for sentence, is_due in due.items() if is_due]


LIMITS = FailureWatch.Config(window=8)


def healthy(**changed: object) -> np.ndarray:
    """A window of logs of a game in good health, with some of its rows replaced."""
    rows = {
        "loss/d": 1.2 + 0.1 * np.resize([1, -1, -1, 1], 8),
        "loss/g": 0.8 + 0.1 * np.resize([1, -1], 8),
        "gradient_norm/d": np.full(8, 2.0),
        "gradient_norm/g": np.full(8, 1.0),
        "sample_distance": np.full(8, 9.0),
    }
    for name, row in changed.items():
        rows[{"d": "loss/d", "g": "loss/g"}.get(name, name)] = np.asarray(row, dtype=float)
    return np.stack([rows[name] for name in SERIES])


def found(history: np.ndarray, limits: FailureWatch.Config = LIMITS, real: float = 10.0) -> set[str]:
    return set(symptoms(history, limits, real))


# ---------------------------------------------------------------- the formulas


@given(st.integers(2, 6).flatmap(lambda n: gs.tensors((n, 2, 3))))
def test_the_distance_is_the_mean_over_all_pairs(samples):
    rows = samples.numpy().reshape(len(samples), -1)
    expected = np.mean([math.sqrt(sum((a - b) ** 2)) for a, b in combinations(rows, 2)])
    assert mean_distance(samples).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_distance_of_equal_samples_is_0_and_of_a_single_one_not_a_number():
    assert mean_distance(torch.ones(5, 1, 2, 2)) == 0
    assert mean_distance(torch.ones(1, 1, 2, 2)).isnan()


@pytest.mark.parametrize(
    ("dtype", "measured"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_distance_is_measured_in_float32_at_least(dtype, measured):
    assert mean_distance(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)).dtype == measured


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12))
def test_the_falling_share_counts_the_pairs_whose_later_value_is_lower(series):
    expected = np.mean([b < a for a, b in combinations(series, 2)])
    assert falling_share(np.array(series, dtype=float)) == pytest.approx(expected)


# ---------------------------------------------------------------- the symptoms


def test_a_healthy_game_has_none():
    assert not found(healthy())


@given(st.integers(0, 10_000))
def test_noise_alone_is_no_failure(seed):
    draw = np.random.default_rng(seed)
    limits = FailureWatch.Config(window=64)
    noise = draw.uniform(0.5, 1.5, (5, 64)) * np.array([[1], [1], [10], [10], [9]])
    assert not found(noise, limits)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_d_loss_that_stays_near_0_is_told(sign):
    steady = 0.004 + 0.001 * np.resize([1, -1], 8)
    assert found(healthy(d=sign * steady)) == {"d_wins"}


@pytest.mark.parametrize("d", [np.full(8, -1.5), np.full(8, 0.01), [0.0] * 7 + [0.02], [0.02] + [0.0] * 7])
def test_a_d_loss_that_is_not_near_0_throughout_is_not_told(d):
    assert "d_wins" not in found(healthy(d=d))


@pytest.mark.parametrize("player", ["d", "g"])
def test_a_long_gradient_is_told_at_once_and_of_the_right_player(player):
    name = f"gradient_norm/{player}"
    history = healthy(**{name: [1.0] * 7 + [100.5]})
    history[:, :5] = np.nan  # the window is not full yet
    told = symptoms(history, LIMITS, 10.0)
    assert set(told) == {f"{player}_gradient"}
    assert f"{player.upper()}'s gradient is 100" in told[f"{player}_gradient"]
    assert not found(healthy(**{name: [500.0] * 7 + [100.0]}))


@given(st.floats(1.01, 9.9), st.floats(-1, 1))
def test_the_variance_of_d_is_told_when_it_has_grown_past_its_factor(growth, level):
    quiet, pattern = 0.1, np.array([1, -1, 1, -1])
    for factor, told in ((10 * 1.01, True), (growth, False), (1 / growth, False)):
        d = 5 + level + quiet * np.concatenate([pattern, math.sqrt(factor) * pattern])
        assert ("d_unsteady" in found(healthy(d=d))) == told


def test_a_g_loss_that_falls_steadily_is_told_in_spite_of_a_little_noise():
    falling = np.linspace(2, 1, 8)
    assert found(healthy(g=falling)) == {"g_falls"}
    one_back = falling[[0, 1, 3, 2, 4, 5, 6, 7]]
    assert found(healthy(g=one_back)) == {"g_falls"}
    assert not found(healthy(g=one_back), FailureWatch.Config(window=8, falling=1.0))
    assert not found(healthy(g=falling[::-1]))
    assert not found(healthy(g=np.full(8, 1.0)))


def test_samples_that_stay_too_close_to_each_other_are_told():
    assert found(healthy(sample_distance=np.full(8, 0.99))) == {"collapse"}
    assert not found(healthy(sample_distance=np.full(8, 1.0)))
    assert not found(healthy(sample_distance=[0.0] * 7 + [1.5]))
    assert not found(healthy(sample_distance=np.full(8, 0.99)), real=math.nan)
    assert not found(healthy(sample_distance=np.zeros(8)), real=0.0)


def test_nothing_but_gradients_is_judged_before_the_window_is_full():
    history = healthy(d=np.zeros(8), g=np.linspace(2, 1, 8), sample_distance=np.zeros(8))
    assert found(history) == {"d_wins", "g_falls", "collapse"}
    history[:, 0] = np.nan
    assert not found(history)
    long = np.tile(np.linspace(2, 1, 64), (5, 1))
    assert found(long, FailureWatch.Config(window=64)) == {"g_falls"}
    long[:, 0] = np.nan
    assert not found(long, FailureWatch.Config(window=64))


def test_thresholds_of_0_switch_off():
    limits = FailureWatch.Config(window=8, d_loss=0, distance=0)
    assert not found(healthy(d=np.zeros(8), sample_distance=np.zeros(8)), limits)


# ---------------------------------------------------------------- in a run


def watch(game) -> FailureWatch:
    (trick,) = (planned.trick for planned in game.plan.tricks if isinstance(planned.trick, FailureWatch))
    return trick


@pytest.mark.parametrize("options", [{}, {"window": 4, "samples": 5, "gradient_norm": 1e-3, "distance": 1.0}])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_training_and_samples_do_not_notice(options, batch_norm):
    plain = TrickHost(sample=(1, 8, 8), n_critic=2, generator={"batch_norm": batch_norm})
    for host in (plain, plain.with_trick("generator_dropout").with_trick("spherical_latents")):
        watched, unwatched = host.with_trick("failure_watch", **options).train(), host.train()
        assert not differences(watched.state, unwatched.state, besides=("tricks",))
        assert np.array_equal(sampling.sample(watched.game, 5, seed=1), sampling.sample(unwatched.game, 5, seed=1))
        assert watched.game.generator.training
        for seen, logged in zip(watched.scalars, unwatched.scalars, strict=True):
            assert {name: seen[name] for name in logged} == logged


def test_the_history_holds_the_logged_values_the_newest_last():
    played = TrickHost(steps=6).with_trick("failure_watch", name="w", window=4).train()
    names = [*SERIES[:-1], "w/sample_distance"]
    expected = [[scalars[name] for scalars in played.scalars[-4:]] for name in names]
    assert np.array_equal(watch(played.game).history.numpy(), expected)
    short = TrickHost(steps=3).with_trick("failure_watch", window=4).train()
    assert watch(short.game).history[:, 0].isnan().all()
    assert not watch(short.game).history[:, 1:].isnan().any()


def test_the_logged_distance_is_that_of_one_fixed_batch_in_eval_mode():
    game = TrickHost(sample=(1, 8, 8)).with_trick("failure_watch", samples=7).game()
    latents = watch(game).given.z.clone()
    assert latents.shape == (7, game.generator.latent_dim)
    for _ in range(3):
        game.advance()
        logged = game.scalars()[0]["failure_watch/sample_distance"]
        network = game.generator.eval()
        with torch.no_grad():
            assert logged == mean_distance(network(latents)).item()
        network.train()


def test_the_real_distance_is_over_the_whole_of_sorted_data():
    game = TrickHost(count=40).with_trick("failure_watch", samples=4).game()
    reals = game.feed.take(torch.tensor([0, 10, 20, 30])).images
    assert watch(game).real_distance == mean_distance(reals).item()


def test_each_symptom_is_told_once_per_window():
    host = TrickHost(steps=11).with_trick("failure_watch", window=4, gradient_norm=1e-9, distance=0, falling=1.0)
    game, told = host.game(), {}
    for step in range(1, 12):
        game.advance()
        game.scalars()
        told[step] = [warning for warning in game.warnings if "G's gradient" in warning]
        game.warnings.clear()
    assert [step for step, warnings in told.items() if warnings] == [1, 5, 9]
    assert all(warning.startswith("failure_watch: ") for warnings in told.values() for warning in warnings)


def test_no_warning_and_no_history_after_a_fault():
    class Breaks(Trick):
        """Makes G's loss infinite."""

        @hookimpl
        def g_loss_terms(self, ctx):
            return {"bad": ctx.fake.images.sum() * math.inf}

    played = TrickHost().with_trick(Breaks).with_trick("failure_watch", gradient_norm=1e-9).train(3)
    assert played.game.non_finite() is not None
    assert not played.game.warnings
    assert watch(played.game).history.isnan().all()


RECIPE = """
name = "watched"
[data]
source = "ring"
batch_size = 8
[generator]
network = "mlp"
hidden = [8]
[discriminator]
network = "mlp"
hidden = [8]
[train]
steps = 12
log_every = 2
sample_every = 12
checkpoint_every = 3
precision = "fp32"
device = "cpu"
[tricks.failure_watch]
window = 4
gradient_norm = 1e-9
distance = 0
"""


class Told(Reporter):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def warn(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_a_run_tells_its_reporter_and_a_resumed_one_tells_the_rest(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    whole, rest = Told(), Told()
    run = train(tmp_path / "recipe.toml", run_dir=tmp_path / "run", reporter=whole).run
    gradients = [sentence for sentence in whole.sentences if "gradient is" in sentence]
    assert [sentence.partition(" is ")[0] for sentence in gradients] == [
        f"step {step}: failure_watch: the norm of {player}'s gradient" for step in (2, 10) for player in "DG"
    ]
    resume(run, step=6, reporter=rest)
    assert rest.sentences == [s for s in whole.sentences if int(s.split(":")[0].removeprefix("step ")) > 6]


def test_every_symptom_has_a_place_in_the_state():
    told = symptoms(
        healthy(
            **{"gradient_norm/d": [200] * 8, "gradient_norm/g": [200] * 8, "sample_distance": [0] * 8},
            d=[1e-5, 0, 1e-5, 0, 9e-3, 0, 9e-3, 0],
            g=range(8, 0, -1),
        ),
        LIMITS,
        10.0,
    )
    assert sorted(told) == sorted(SYMPTOMS)
