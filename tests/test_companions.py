"""Further players: an encoder that learns with G, a judge that learns with D, and all that the core does for them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from pydantic import Field
from torch import nn

import gantricks
from gantricks import Adam, Companion, OptimizerOptions, Options, Trick, TrickError, UserError, hookimpl
from gantricks.catalogue.registry import Registry
from gantricks.engine import state
from gantricks.engine.capture import INTERPRETER, Capturing
from gantricks.engine.players import Player
from gantricks.engine.subject import GameSubject
from gantricks.testing import TrickHost, trick_suite
from gantricks.testing.record import differences, same_bits, snapshot


class PlayerOptions(Options):
    optimizer: OptimizerOptions = Adam(lr=1e-2)


class Encoded(Trick):
    """An encoder learns to find the latents of G's fakes; a judge learns to score reals as 1 in D's step."""

    class Config(Trick.Config):
        encoder: Annotated[PlayerOptions, Field(description="what trains the encoder")] = PlayerOptions()
        weight: Annotated[float, Field(description="weight of the encoder's loss")] = 1.0

    @hookimpl
    def companions(self, ctx):
        self.encoder = ctx.build_network("discriminator", "encoder")
        dim = ctx.latent_dim
        self.encoder.head = ctx.build("encoder.head", lambda: nn.Linear(self.encoder.feature_dim, dim), self.encoder)
        self.judge = ctx.build_network("discriminator", "judge")
        return {
            "encoder": Companion(self.encoder, self.config.encoder.optimizer),
            "judge": Companion(self.judge, Adam(lr=1e-2), learns_in="d"),
        }

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"judged": (self.judge(ctx.real_in.images.detach()).logits - 1).square().mean()}

    @hookimpl
    def g_loss_terms(self, ctx):
        found = self.encoder(ctx.fake.images).logits
        return {"found": self.config.weight * (found - ctx.fake_latents).square().mean()}


HOST = TrickHost()
WITH = HOST.with_trick(Encoded, "encoded")

test_the_suite = trick_suite(
    Encoded, beside=["gradient_clipping", "historical_averaging", "lr_decay", "balance_gate", "ema"]
)


# ---------------------------------------------------------------- they learn


def test_a_companion_learns_in_its_players_step_from_that_players_terms() -> None:
    """Against the two losses written out, each with an Adam of its own."""
    game = WITH.game()
    trick = game.plan.tricks[0].trick
    encoder, judge = copy.deepcopy(trick.encoder), copy.deepcopy(trick.judge)
    adams = [torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.999)) for network in (encoder, judge)]
    fed = []
    step = game.step.update

    def update(player, *rest):
        fed.append((player.name, game.frame.real_in, game.frame.fake, game.frame.fake_latents))
        step(player, *rest)

    game.step.update = update
    for _ in range(3):
        fed.clear()
        game.advance()
        (_, real, _, _), (_, _, fake, latents) = fed
        losses = (
            (encoder(fake.images.detach()).logits - latents).square().mean(),
            (judge(real.images.detach()).logits - 1).square().mean(),
        )
        for adam, loss in zip(adams, losses, strict=True):
            adam.zero_grad()
            loss.backward()
            adam.step()
    for mine, theirs in ((encoder, trick.encoder), (judge, trick.judge)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_players_learn_from_a_companions_loss_too_where_it_depends_on_them() -> None:
    games = [HOST.with_trick(Encoded, "encoded", weight=weight).game() for weight in (0.0, 1.0)]
    for game in games:
        game.advance()
    changed = differences(*map(snapshot, games))
    assert any(name.startswith("generator/") for name in changed)
    assert not any(name.startswith("discriminator/") for name in changed)


def test_their_weights_follow_from_the_seed_and_nothing_else_moves() -> None:
    first, second, other = WITH.game(), WITH.game(), WITH.but(seed=1).game()
    assert not differences(snapshot(first), snapshot(second))
    assert any(name.startswith("encoded.encoder/") for name in differences(snapshot(first), snapshot(other)))
    encoder, judge = (first.companions[f"encoded.{name}"].network for name in ("encoder", "judge"))
    first_of = [next(iter(network.parameters())) for network in (encoder, judge, first.discriminator)]
    assert len({tuple(weight.flatten().tolist()) for weight in first_of}) == 3
    plain = snapshot(HOST.game())
    assert all(same_bits(plain[group][name], t) for group in plain for name, t in snapshot(first)[group].items())


# ---------------------------------------------------------------- saved, restored, captured, guarded, gated, logged


def test_all_of_a_companion_is_in_a_checkpoint_and_is_restored() -> None:
    game = WITH.game()
    for _ in range(2):
        game.advance()
    saved = {name: {key: t.clone() for key, t in group.items()} for name, group in state.tensors(game).items()}
    numbers = copy.deepcopy(state.counters(game))
    assert saved.keys() >= {"encoded.encoder", "encoded.encoder_optimizer", "encoded.judge"}
    assert numbers["optimizers"].keys() == {"d", "g", "encoded.encoder", "encoded.judge"}
    resumed = WITH.game()
    state.load(resumed, saved, numbers)
    for _ in range(2):
        game.advance()
        resumed.advance()
    assert not differences(snapshot(game), snapshot(resumed))


def test_a_snapshot_of_a_trick_holds_the_companions() -> None:
    class Keeps(Trick):
        @hookimpl
        def on_boundary(self, ctx):
            if ctx.step == 2:
                ctx.snapshot()
            if ctx.step == 4:
                ctx.restore()

    game, early = WITH.with_trick(Keeps, "keeps").game(), WITH.game()
    for _ in range(4):
        game.advance()
    game.clock.enter("boundary")
    game.hooks.on_boundary[0][0](game.contexts["keeps"])
    for _ in range(2):
        early.advance()
    now, then = snapshot(game), snapshot(early)
    assert not [name for name in differences(now, then) if not name.startswith("kept")]


def test_a_captured_step_moves_them_as_an_eager_one() -> None:
    eager, captured = WITH.game(), WITH.game()
    captured.play = Capturing(captured, INTERPRETER)
    for _ in range(3):
        eager.advance()
        captured.advance()
    assert captured.play.backend, captured.warnings
    assert not differences(snapshot(eager), snapshot(captured))
    assert eager.scalars() == captured.scalars()


class Poison(Trick):
    class Config(Trick.Config):
        at: int = 2
        phase: Literal["d", "g"] = "g"

    @hookimpl
    def companions(self, ctx):
        self.weight = nn.Parameter(torch.ones((), dtype=ctx.dtype))
        network = nn.Module()
        network.weight = self.weight
        return {"poisoned": Companion(network, Adam(), self.config.phase)}

    @hookimpl
    def d_loss_terms(self, ctx):
        return self._term(ctx, "d")

    @hookimpl
    def g_loss_terms(self, ctx):
        return self._term(ctx, "g")

    def _term(self, ctx, phase):
        if phase != self.config.phase:
            return {}
        # the term is finite and its gradient is not: sqrt at 0
        bad = ctx._game.finished == self.config.at
        return {"root": (self.weight * (0.0 if bad else 1.0)).sqrt()}


@pytest.mark.parametrize("phase", ["d", "g"])
def test_a_companions_gradient_that_is_not_finite_stops_the_run_and_is_told_by_name(phase) -> None:
    host = WITH.with_trick(Poison, "poison", phase=phase)
    game = host.game()
    for _ in range(5):
        game.advance()
    fault = game.non_finite()
    assert (fault.player, fault.step) == (phase, 3)
    assert [fault.in_words(name) for name in fault.names] == ["the norm of poison.poisoned's gradient"]
    healthy = host.game()
    for _ in range(2):
        healthy.advance()
    if phase == "d":
        assert not differences(snapshot(game), snapshot(healthy))
    else:  # D's step came first
        late = {name.partition("/")[0] for name in differences(snapshot(game), snapshot(healthy))}
        assert late == {"discriminator", "discriminator_optimizer", "encoded.judge", "encoded.judge_optimizer"}


class Shut(Trick):
    class Config(Trick.Config):
        player: Literal["d", "g"] = "g"

    @hookimpl
    def d_gate(self, open):
        return open * (self.config.player != "d")

    @hookimpl
    def g_gate(self, open):
        return open * (self.config.player != "g")


@pytest.mark.parametrize(("player", "held", "moving"), [("g", "encoder", "judge"), ("d", "judge", "encoder")])
def test_a_companion_waits_where_its_players_gate_is_closed(player, held, moving) -> None:
    game = WITH.with_trick(Shut, "shut", player=player).game()
    before = snapshot(game)
    game.advance()
    moved = {name.partition("/")[0] for name in differences(before, snapshot(game))}
    assert f"encoded.{moving}" in moved
    assert not {f"encoded.{held}", f"encoded.{held}_optimizer"} & moved


def test_norms_and_rates_of_companions_are_logged() -> None:
    logged = WITH.train(1).scalars[0]
    for name in ("encoded.encoder", "encoded.judge"):
        assert logged[f"gradient_norm/{name}"] > 0
        assert logged[f"learning_rate/{name}"] == 1e-2
    assert logged["loss/g"] == pytest.approx(logged["loss/g.adversarial"] + logged["loss/g.encoded.found"])


# ---------------------------------------------------------------- other tricks


def test_a_companion_is_clipped_by_its_own_length() -> None:
    game = WITH.with_trick("gradient_clipping", max_norm=1e-3).game()
    game.advance()
    for player in game.players.values():
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in player.parameters]))
        assert float(norm) == pytest.approx(1e-3)
    logged = game.scalars()[0]
    assert logged["gradient_clipping/norm_encoded.encoder"] > 1e-3


def test_a_companion_is_averaged_and_the_average_is_what_metrics_ask() -> None:
    game = WITH.with_trick("ema", decay=0.5, warmup=False).game()
    start = [p.detach().clone() for p in game.companions["encoded.encoder"].network.parameters()]
    game.advance()
    now = game.companions["encoded.encoder"].network
    asked = GameSubject(game, 4, 0).companion("encoded.encoder")
    for a, before, after in zip(asked.parameters(), start, now.parameters(), strict=True):
        torch.testing.assert_close(a, (before + after) / 2)
    judge = GameSubject(game, 4, 0).companion("encoded.judge")  # learns with D, which is not averaged
    assert all(map(same_bits, judge.parameters(), game.companions["encoded.judge"].network.parameters()))


def test_what_metrics_ask_is_apart_from_what_is_trained() -> None:
    game = WITH.game()
    before = snapshot(game)
    asked = GameSubject(game, 4, 0).companion("encoded.encoder")
    assert not any(module.training for module in asked.modules())
    assert all(module.training for module in game.companions["encoded.encoder"].network.modules())
    with torch.no_grad():
        next(iter(asked.parameters())).zero_()
    assert not differences(before, snapshot(game))
    with pytest.raises(UserError, match=r"no companion 'encoder'\n +it has: encoded\.encoder, encoded\.judge"):
        GameSubject(game, 4, 0).companion("encoder")


def test_rates_of_companions_fall_with_their_players() -> None:
    played = WITH.but(steps=5).with_trick("lr_decay", gamma=0.1, players=["generator"]).train(5)
    assert played.scalars[-1]["learning_rate/encoded.encoder"] == pytest.approx(1e-3)
    assert played.scalars[-1]["learning_rate/encoded.judge"] == 1e-2


# ---------------------------------------------------------------- a run on the disk

PLUGIN = '''
"""An encoder."""

from gantricks import Adam, Companion, OptimizerOptions, Options, Trick, hookimpl
from torch import nn


class EncoderOptions(Options):
    optimizer: OptimizerOptions = Adam()


class Encode(Trick):
    """Encode: an encoder learns the latents of the fakes."""

    class Config(Trick.Config):
        encoder: EncoderOptions = EncoderOptions()

    @hookimpl
    def companions(self, ctx):
        encoder = self.encoder = ctx.build_network("discriminator", "encoder")
        encoder.head = ctx.build("encoder.head", lambda: nn.Linear(encoder.feature_dim, ctx.latent_dim), like=encoder)
        return {"encoder": Companion(encoder, self.config.encoder.optimizer)}

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"found": (self.encoder(ctx.fake.images).logits - ctx.fake_latents).square().mean()}
'''

RECIPE = """
name = "encoded"
[data]
source = "ring"
batch_size = 8
[generator]
network = "mlp"
latent_dim = 2
hidden = [8]
[discriminator]
network = "mlp"
hidden = [8]
[train]
steps = 4
log_every = 1
checkpoint_every = 2
sample_every = 4
device = "cpu"
[tricks.encode]
[tricks.encode.encoder.optimizer]
name = "sgd"
lr = 0.05
momentum = 0.5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> tuple[Path, Path]:
    plugin, path = tmp_path / "encode.py", tmp_path / "encoded.toml"
    plugin.write_text(PLUGIN)
    path.write_text(RECIPE)
    return path, plugin


def test_a_run_with_a_companion_is_resumed_to_the_bit(recipe, tmp_path: Path) -> None:
    path, plugin = recipe
    runs = []
    for steps in ([4], [2, 4]):
        run = tmp_path / f"run{len(steps)}"
        for number, until in enumerate(steps):
            if number:
                gantricks.resume(run, steps=until, plugins=[plugin])
            else:
                schedule = [f"train.steps={until}", "train.schedule_steps=4"]
                gantricks.train(path, run_dir=run, overrides=schedule, plugins=[plugin])
        runs.append(run)
    whole, resumed = (run / "checkpoints" / "000004" for run in runs)
    names = {file.name for file in whole.iterdir()}
    assert {"encode.encoder.safetensors", "encode.encoder_optimizer.safetensors"} <= names
    for name in names - {"state.json"}:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    line = json.loads((runs[0] / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["learning_rate/encode.encoder"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('tricks.encode.encoder.optimizer.name="adan"', "tricks.encode.encoder.optimizer"),
        ("tricks.encode.encoder.optimizer.rate=1", "rate"),
        ("tricks.encode.encoder.rate=1", "rate"),
    ],
)
def test_wrong_options_of_a_companion_are_told_where_they_stand(recipe, wrong: str, told: str) -> None:
    path, plugin = recipe
    with pytest.raises(UserError) as refusal:
        gantricks.load_recipe(path, overrides=[wrong], registry=Registry([plugin]))
    assert any(told in str(problem) for problem in refusal.value.problems)


def test_what_is_no_companion_is_refused_with_the_tricks_name() -> None:
    class Bare(Trick):
        @hookimpl
        def companions(self, ctx):
            return {"encoder": nn.Linear(2, 2)}

    with pytest.raises(TrickError, match="bare: companions returned Linear"):
        TrickHost().with_trick(Bare, "bare").game()


# ---------------------------------------------------------------- mistakes that these tests catch


def forget_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = state.tensors
    monkeypatch.setattr(
        state, "tensors", lambda game: {k: v for k, v in whole(game).items() if k != "encoded.encoder_optimizer"}
    )


def never_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of companions pile up from step to step."""
    made = Player.__post_init__

    def without_weights(self: Player) -> None:
        made(self)
        if self.name not in "dg":
            self.parameters = []

    monkeypatch.setattr(Player, "__post_init__", without_weights)


def ungated(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Player.__post_init__

    def free(self: Player) -> None:
        if self.name not in "dg":
            self.held = torch.zeros_like(self.held)
        made(self)

    monkeypatch.setattr(Player, "__post_init__", free)


@pytest.mark.parametrize(
    ("mistake", "caught_by"),
    [
        (forget_optimizer, test_all_of_a_companion_is_in_a_checkpoint_and_is_restored),
        (never_clear, test_a_companion_learns_in_its_players_step_from_that_players_terms),
        (ungated, lambda: test_a_companion_waits_where_its_players_gate_is_closed("g", "encoder", "judge")),
    ],
)
def test_a_mistake_of_the_core_is_caught(mistake, caught_by, monkeypatch) -> None:
    mistake(monkeypatch)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        caught_by()
