"""The captured step: it is the eager step, it is captured anew where it must be, and what cannot be is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks import Trick, UserError, hookimpl
from gantricks.engine import capture, compilation
from gantricks.engine.capture import COMPILING_PAYS, CUDA_GRAPH, INDUCTOR, INTERPRETER, Capturing, backend
from gantricks.engine.feed import StaticBatches
from gantricks.planning.device import Placement, place
from gantricks.planning.plan import make_plan
from gantricks.planning.validation import load_recipe
from gantricks.rng import Clock, Rng, StaticDraws
from gantricks.runs.api import resume, train
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, same_bits, snapshot

IMAGES = {"sample": (1, 8, 8), "generator": {"batch_norm": True}, "discriminator": {"batch_norm": True, "depth": 2}}


# ---------------------------------------------------------------- draws and batches that stay where they are

KINDS = {
    "uniform": lambda rng: rng.uniform((2, 3)),
    "normal": lambda rng: rng.normal(4),
    "randint": lambda rng: rng.randint(5, 7),
    "permutation": lambda rng: rng.permutation(6),
    "bernoulli": lambda rng: rng.bernoulli((3,), 0.4),
}


@given(st.lists(st.tuples(st.sampled_from(["d", "g"]), st.sampled_from(sorted(KINDS))), min_size=1, max_size=8))
@settings(max_examples=30)
def test_static_draws_hold_the_draws_of_every_step_in_the_tensors_of_the_first(script):
    def play(rng: Rng, clock: Clock) -> list[torch.Tensor]:
        out = []
        for phase, kind in script:
            clock.enter(phase)
            out.append(KINDS[kind](rng))
        return out

    free, clock = Clock(), Clock()
    loose, static = Rng(3, "x", free), Rng(3, "x", clock)
    clock.static = draws = StaticDraws()
    first = play(static, clock)
    assert len(draws) == len(script)
    for step in range(3):
        free.step = clock.step = step
        draws.fill(step)
        draws.rewind()
        again = play(static, clock)
        assert all(same_bits(a, b) for a, b in zip(again, play(loose, free), strict=True))
        kept = [a.data_ptr() == b.data_ptr() for a, b in zip(first, again, strict=True)]
        assert all(stays for stays, (_, kind) in zip(kept, script, strict=True) if kind != "bernoulli")


def test_a_step_that_draws_otherwise_than_the_recorded_one_is_noticed():
    clock = Clock()
    rng = Rng(0, "x", clock)
    clock.static = StaticDraws()
    rng.normal(3)
    clock.static.rewind()
    with pytest.raises(ValueError, match="'x' is drawn from in one step and not in another"):
        rng.normal(4)


def test_static_batches_hold_those_of_every_step_in_the_tensors_of_the_first():
    recorded, free = (
        TrickHost(sample=(1, 8, 8), classes=3, condition=2).game().feed,
        TrickHost(sample=(1, 8, 8), classes=3, condition=2).game().feed,
    )
    recorded.static = StaticBatches()
    first = [recorded.static.next(recorded) for _ in range(2)]
    recorded.cursor = 0
    for _ in range(4):
        recorded.static.fill(recorded)
        recorded.static.rewind()
        for raw, classes, condition in first:
            batch, expected = recorded.next(), free.next()
            assert same_bits(batch.images, expected.images)
            assert same_bits(batch.classes, expected.classes)
            assert same_bits(batch.condition, expected.condition)
            assert batch.classes is classes
            assert batch.condition is condition
            assert raw.dtype == torch.uint8
    assert recorded.cursor == free.cursor


# ---------------------------------------------------------------- the traced step (each trick's is a law: "captured")


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
@pytest.mark.parametrize("optimizer", [{"name": "adam"}, {"name": "adamw"}, {"name": "sgd", "momentum": 0.5}])
def test_the_replayed_step_is_the_eager_step_to_the_bit(precision, optimizer):
    host = TrickHost(**IMAGES, precision=precision, n_critic=2, optimizer=optimizer)
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, INTERPRETER)
    for _ in range(4):
        eager.advance()
        captured.advance()
        assert eager.scalars() == captured.scalars()
    assert captured.play.backend == INTERPRETER
    assert not differences(snapshot(eager), snapshot(captured))
    assert eager.feed.cursor == captured.feed.cursor
    for name in ("real", "fake_in", "fake_out", "fake_labels"):
        for a, b in zip(getattr(eager.frame, name), getattr(captured.frame, name), strict=True):
            assert a is b is None or same_bits(a, b)


def test_a_step_of_another_structure_is_captured_anew():
    host = TrickHost(steps=9).with_trick("batch_size_schedule", start=4, end=8).with_trick("n_critic_schedule", end=2)
    eager, captured = host.game(), host.game()
    announced: list[str] = []
    captured.play = Capturing(captured, INTERPRETER, announced.append)
    for _ in range(9):
        eager.advance()
        captured.advance()
    assert not differences(snapshot(eager), snapshot(captured))
    assert len(announced) == 3


class _PoisonLate(Trick):
    """Not finite from step 3 on."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros(())

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"x": torch.where(self.count > 1, torch.inf, 0.0).to(ctx.dtype)}

    @hookimpl
    def after_g_step(self):
        self.count.add_(1)

    def tensors(self):
        return {"count": self.count}


@pytest.mark.parametrize("backend", [INTERPRETER, INDUCTOR])
def test_a_fault_stops_a_captured_run_where_it_stops_an_eager_one(backend):
    host = TrickHost().with_trick(_PoisonLate, "poison").with_trick("ema", decay=0.5)
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, backend)
    for _ in range(5):
        eager.advance()
        captured.advance()
    assert captured.play.backend == backend, captured.warnings
    assert eager.non_finite() == captured.non_finite()
    assert eager.non_finite().step == 3
    if backend == INTERPRETER:
        assert not differences(snapshot(eager), snapshot(captured))
    for tensors in snapshot(captured).values():
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


# ---------------------------------------------------------------- what cannot be captured


class Unfused(Trick):
    """An optimizer that counts on the host."""

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        return torch.optim.Adam([p for group in optimizer.param_groups for p in group["params"]])


class OwnMomentum(torch.optim.Optimizer):
    """Momentum that grows with the steps, which it counts on the device: what a user may write."""

    def __init__(self, parameters, lr=0.01):
        super().__init__(list(parameters), {"lr": lr})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"step": torch.zeros((), dtype=p.dtype), "mean": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"].add_(1)
                state["mean"].lerp_(p.grad, 1 / state["step"])
                p.sub_(group["lr"] * state["mean"])


class Own(Trick):
    """An optimizer of the user's, all of whose state is tensors."""

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        return OwnMomentum(p for group in optimizer.param_groups for p in group["params"])


class Declares(Trick):
    """It says so."""

    capturable = False

    @hookimpl
    def d_labels(self, labels):
        return labels * 0.9


class Frozen(Trick):
    """A host number that changes from step to step."""

    @hookimpl
    def on_boundary(self, ctx):
        self.strength = 0.1 * ctx.step

    @hookimpl
    def d_labels(self, labels):
        if not hasattr(self, "calls"):
            self.calls = 0
        self.calls += 1
        return labels - 0.01 * self.calls


class Looks(Trick):
    """The host waits for a value."""

    @hookimpl
    def d_labels(self, labels):
        return labels * (0.9 if labels.mean().item() > 0.5 else 0.8)


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (Unfused, "it cannot be traced"),
        (Declares, "the trick trick declares that it cannot be captured"),
        (Frozen, "the replayed step differs from the eager one"),
        (Looks, "it cannot be traced"),
    ],
)
def test_what_cannot_be_captured_is_named_and_played_eagerly(trick, reason):
    host = TrickHost().with_trick(trick, "trick")
    eager, game = host.game(), host.game()
    game.play = Capturing(game, INTERPRETER)
    game.advance()
    assert game.play.backend is None
    assert reason in game.warnings[0]
    assert game.warnings[0].startswith("the step is played eagerly: ")
    if trick is not Frozen:  # its host counter has seen the rehearsal
        eager.advance()
        assert not differences(snapshot(eager), snapshot(game))


def test_an_own_optimizer_whose_state_is_tensors_is_captured_and_held_by_the_guard():
    host = TrickHost().with_trick(Own, "own").with_trick(_PoisonLate, "poison")
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, INTERPRETER)
    for _ in range(5):
        eager.advance()
        captured.advance()
        assert not differences(snapshot(eager), snapshot(captured))
    assert captured.play.backend == INTERPRETER, captured.warnings
    assert captured.non_finite() == eager.non_finite()
    assert captured.non_finite().step == 3
    assert all(state["step"] == 2 for state in captured.players["g"].optimizer.state.values())


class TwiceEach(Trick):
    """Two D steps and two G steps in one step; each leaves what it was played with."""

    @hookimpl
    def on_setup(self, ctx):
        self.seen = torch.zeros(4, 8, dtype=ctx.dtype)
        self.noise = torch.zeros(4, 2, dtype=ctx.dtype)

    def tensors(self):
        return {"seen": self.seen, "noise": self.noise}

    @hookimpl
    def play(self, ctx):
        ctx.d_step(0)
        ctx.g_step()
        ctx.d_step(1)
        ctx.g_step()

    @hookimpl
    def after_g_step(self, ctx):
        self._note(ctx)

    @hookimpl
    def after_d_step(self, ctx):
        self._note(ctx)

    def _note(self, ctx):
        self.seen.copy_(torch.cat([self.seen[1:], ctx.fake.images.detach().flatten()[None, :8]]))
        self.noise.copy_(torch.cat([self.noise[1:], ctx.rng.fork("noise").uniform(2)[None]]))


@pytest.mark.parametrize("backend", [None, INTERPRETER])
def test_phases_that_are_played_twice_in_a_step_draw_anew_each_time(backend):
    game = TrickHost().with_trick(TwiceEach, "twice").game()
    game.play = Capturing(game, backend)
    rows = []
    for _ in range(3):
        game.advance()
        trick = game.plan.tricks[0].trick
        assert len(trick.noise.unique(dim=0)) == 4
        assert len(trick.seen.unique(dim=0)) == 4
        rows.append(trick.noise.clone())
    assert game.play.backend == backend, game.warnings
    assert len(torch.cat(rows).unique(dim=0)) == 12


def test_two_g_steps_in_one_play_are_captured_as_they_are_played():
    host = TrickHost().with_trick(TwiceEach, "twice")
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, INTERPRETER)
    for _ in range(3):
        eager.advance()
        captured.advance()
    assert not differences(snapshot(eager), snapshot(captured))


class ForksInAHook(Trick):
    """A stream of its own for each of two calls in one hook."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels - 0.1 * ctx.rng.fork("a").uniform(labels.shape) - 0.1 * ctx.rng.fork("a").uniform(labels.shape)


def test_a_fork_inside_a_hook_is_captured():
    host = TrickHost().with_trick(ForksInAHook, "forks")
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, INTERPRETER)
    for _ in range(3):
        eager.advance()
        captured.advance()
    assert captured.play.backend == INTERPRETER, captured.warnings
    assert not differences(snapshot(eager), snapshot(captured))


def test_a_run_does_not_change_its_way_in_the_middle():
    game = TrickHost(steps=9).with_trick("batch_size_schedule", start=4, end=8, at=0.6).game()
    game.play = Capturing(game, INTERPRETER)
    game.advance()
    game.plan.tricks[0].trick.capturable = False
    for _ in range(4):
        game.advance()
    with pytest.raises(UserError, match="cannot be captured anew") as refused:
        game.advance()
    assert refused.value.problems[0].hint == 'play such a run eagerly: capture = "off"'


# ---------------------------------------------------------------- which runs are captured

CPU, FP64 = place("cpu", "fp32"), place("cpu", "fp64")


def plan(steps: int, capture: str = "auto"):
    made = TrickHost(steps=steps).plan()
    train = made.recipe.train.model_copy(update={"capture": capture})
    object.__setattr__(made.recipe, "train", train)
    return made


def test_a_run_on_the_cpu_is_compiled_when_it_is_long_enough_or_the_recipe_says_so():
    long = COMPILING_PAYS["vectors"]
    assert backend(plan(long), CPU) == INDUCTOR
    assert backend(plan(long - 1), CPU) is None
    assert backend(plan(long, "off"), CPU) is None
    assert backend(plan(10, "on"), CPU) == INDUCTOR
    assert backend(plan(long), FP64) is None


@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
@pytest.mark.parametrize("host", [TrickHost(), TrickHost(**IMAGES)], ids=["vectors", "convolutions"])
def test_every_precision_has_a_way_to_be_played(host, wanted):
    for precision in ("fp32", "bf16", "fp64"):
        made = host.but(steps=10**6).plan()
        object.__setattr__(made.recipe, "train", made.recipe.train.model_copy(update={"capture": wanted}))
        chosen = backend(made, place("cpu", precision))
        assert chosen == {"on": INDUCTOR, "off": None}.get(wanted, None if precision == "fp64" else INDUCTOR)


def test_a_compiled_step_that_moves_otherwise_than_the_eager_one_is_not_used(monkeypatch):
    """Whatever the compiler does wrong: here it forgets how far D has moved."""

    def wrong(graph, live):
        def run(inputs):
            kept = inputs[which].clone()
            values = graph(*inputs)
            inputs[which].copy_(kept)
            return values

        which = next(i for i, t in enumerate(live) if t.data_ptr() == weight.data_ptr())
        return run

    monkeypatch.setattr(capture, "compiled", wrong)
    host = TrickHost()
    game, eager = host.game(), host.game()
    weight = next(game.discriminator.parameters())
    game.play = Capturing(game, INDUCTOR)
    game.advance()
    eager.advance()
    assert game.play.backend is None
    (told,) = game.warnings
    assert "the compiled step differs from the eager one in the discriminator" in told
    assert not differences(snapshot(eager), snapshot(game))


def test_a_run_on_a_gpu_is_captured_unless_the_recipe_says_not():
    gpu = Placement(torch.device("cuda", 0), torch.float32, None)
    assert backend(plan(10), gpu) == CUDA_GRAPH
    assert backend(plan(10, "off"), gpu) is None


# ---------------------------------------------------------------- compiled


COMPILED = {
    "mlp": TrickHost(),
    "sgd": TrickHost(optimizer={"name": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adamw and lr_decay": TrickHost(optimizer={"name": "adamw", "lr": 0.01}).with_trick("lr_decay"),
    "dcgan": TrickHost(**IMAGES)
    .with_trick("soft_labels")
    .with_trick("instance_noise", sigma=0.1)
    .with_trick("ema", decay=0.9)
    .with_trick("historical_averaging", strength=0.1)
    .with_trick("experience_replay", capacity=12),
    "separate": TrickHost(**IMAGES)
    .with_trick("separate_batches")
    .with_trick("minibatch_discrimination", kernels=4, dim=2)
    .with_trick("virtual_batch_norm", reference=4)
    .with_trick("balance_gate", generator=0.3, window=2),
}


@pytest.mark.parametrize("name", COMPILED)
def test_whatever_works_on_lists_of_tensors_is_fused_with_the_rest(name, monkeypatch):
    from torch._inductor import decomposition, lowering

    graphs = []
    monkeypatch.setattr(capture, "compiled", lambda graph, _: graphs.append(graph) or (lambda live: graph(*live)))
    capture.CapturedStep(COMPILED[name].game(), INDUCTOR)
    compilation._write_out(graphs[0])
    lists = {node.target for node in graphs[0].graph.nodes if "_foreach" in str(node.target)}
    known = lowering.lowerings.keys() | decomposition.decompositions.keys()
    for operation in lists:
        name, overload = str(operation).removeprefix("aten.").split(".")
        functional = getattr(getattr(torch.ops.aten, name.removesuffix("_")), overload)
        assert functional in known, f"{operation} would be played tensor by tensor, apart from the compiled step"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_step_is_the_eager_step_to_rounding(name):
    host = COMPILED[name]
    eager, compiled = host.game(), host.game()
    compiled.play = Capturing(compiled, INDUCTOR)
    for _ in range(6):
        eager.advance()
        compiled.advance()
    assert compiled.play.backend == INDUCTOR, compiled.warnings
    a, b = snapshot(eager), snapshot(compiled)
    for group in a:
        for key, tensor in a[group].items():
            tolerance = 1e-9 if tensor.dtype == torch.float64 else 1e-5
            torch.testing.assert_close(b[group][key], tensor, rtol=tolerance, atol=tolerance, msg=f"{group}/{key}")


@pytest.mark.slow
def test_a_compiled_run_is_repeated_and_resumed_to_the_bit(tmp_path: Path):
    wanted = [
        "train.capture=on",
        "train.steps=8",
        "train.checkpoint_every=4",
        "train.log_every=2",
        "train.sample_every=4",
    ]
    runs = [train("grid_mlp", overrides=wanted, run_dir=tmp_path / name).run for name in ("one", "two")]
    cut = tmp_path / "cut"
    shutil.copytree(runs[0], cut)
    shutil.rmtree(cut / "checkpoints" / "000008")
    resume(cut)

    def files(run: Path) -> dict[str, bytes]:
        kept = [*run.glob("checkpoints/000008/*"), run / "metrics.jsonl", *run.glob("samples/*.png")]
        return {str(path.relative_to(run)): path.read_bytes() for path in kept}

    assert len(files(runs[0])) >= 6
    assert files(runs[0]) == files(runs[1]) == files(cut)
    assert json.loads((runs[0] / "manifest.json").read_text())["capture"] == INDUCTOR


def test_fp64_is_compiled_only_where_that_is_asked_for():
    for recipe in ("dcgan", "ring_mlp"):
        for wanted, found in (("auto", None), ("on", INDUCTOR), ("off", None)):
            plan = make_plan(load_recipe(recipe, [f"train.capture={wanted}", "train.steps=1000000"]))
            assert backend(plan, place("cpu", "fp64")) == found
