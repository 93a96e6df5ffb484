"""The step, against the same mathematics written out by hand in float64."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from gantricks import Trick, TrickError, hookimpl
from gantricks.engine import sampling, state
from gantricks.engine.capture import INTERPRETER, Capturing
from gantricks.engine.dispatch import Hooks
from gantricks.engine.game import Game
from gantricks.engine.start import assemble, build
from gantricks.planning.device import place
from gantricks.rng import Clock, Rng
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, same_bits, snapshot

STEPS = 4


def latents(game: Game, step: int, phase: str, critic: int = 0) -> torch.Tensor:
    clock = Clock()
    clock.step = step
    clock.enter(phase, critic)
    rng = Rng(game.seed, "latents", clock, dtype=torch.float64)
    return rng.normal((game.feed.batch_size, game.generator.latent_dim))


def by_hand(game: Game, n_critic: int, reuse: bool, joint: bool) -> tuple[nn.Module, nn.Module]:
    """The loop as the papers have it: losses, two backwards, two Adams."""
    g, d = copy.deepcopy(game.generator), copy.deepcopy(game.discriminator)
    g_adam = torch.optim.Adam(g.parameters(), lr=1e-2, betas=(0.5, 0.999))
    d_adam = torch.optim.Adam(d.parameters(), lr=1e-2, betas=(0.5, 0.999))
    size, position = game.feed.batch_size, 0
    one, zero = torch.ones(size, 1).double(), torch.zeros(size, 1).double()

    def judge(real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if joint:
            return d(torch.cat([real, fake])).logits.split(size)
        return d(real).logits, d(fake).logits

    for step in range(STEPS):
        for critic in range(n_critic):
            real = game.feed.take(game.feed._indices(position, size)).images
            position += size
            fake = g(latents(game, step, "d", critic))
            on_real, on_fake = judge(real, fake.detach())
            d_adam.zero_grad()
            (bce(on_real, one) + bce(on_fake, zero)).backward()
            d_adam.step()
        if not reuse:
            fake = g(latents(game, step, "g"))
        g_adam.zero_grad()
        bce(judge(real, fake)[1] if joint else d(fake).logits, one).backward()
        g_adam.step()
    return g, d


class Separate(Trick):
    provides = {"separate_passes"}

    @hookimpl
    def d_scores(self, real, fake, ctx):
        return ctx.discriminator(*real), ctx.discriminator(*fake)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("n_critic", [1, 3])
@pytest.mark.parametrize("network", ["mlp", "dcgan", "dcgan with batch norm in D"])
@pytest.mark.parametrize("joint", [True, False])
def test_the_step_is_the_loop_written_by_hand(network: str, n_critic: int, reuse: bool, joint: bool) -> None:
    host = TrickHost(
        sample=(2,) if network == "mlp" else (1, 8, 8),
        n_critic=n_critic,
        reuse_fakes=reuse,
        discriminator={"batch_norm": True} if "norm" in network else {},
    )
    game = (host if joint else host.with_trick(Separate)).game()
    g, d = by_hand(game, n_critic, reuse, joint)
    for _ in range(STEPS):
        game.advance()
    for ours, theirs in ((game.generator, g), (game.discriminator, d)):
        for (name, tensor), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            if "running_" in name or "num_batches" in name:
                continue  # by hand, the G step's reals are scored once more
            torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-11, msg=name)


def test_the_g_step_pays_for_no_weight_gradient_of_d() -> None:
    game = TrickHost(reuse_fakes=False).game()
    game.step.d_step()
    before = [p.grad.clone() for p in game.players["d"].parameters]
    game.step.g_step()
    for parameter, gradient in zip(game.players["d"].parameters, before, strict=True):
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad


def test_a_fakes_g_score_is_its_d_score_when_d_mixes_samples() -> None:
    """The trap of joint batches: a fakes-only G step would score the same fakes differently."""
    host = TrickHost(sample=(1, 16, 16), discriminator={"batch_norm": True}, optimizer={"name": "sgd", "lr": 1e-9})
    scored = {}

    class Watch(Trick):
        @hookimpl
        def after_d_step(self, ctx):
            scored["d"] = ctx.fake_out.logits.detach().clone()

        @hookimpl
        def after_g_step(self, ctx):
            scored["g"] = ctx.fake_out.logits.detach().clone()
            scored["alone"] = ctx.discriminator(*ctx.fake_in).logits.detach()

    host.with_trick(Watch).train(1)
    torch.testing.assert_close(scored["g"], scored["d"], rtol=1e-6, atol=1e-6)
    assert (scored["alone"] - scored["d"]).abs().max() > 1e-4


def test_reals_scored_in_the_g_step_carry_no_gradient_and_are_scored_once() -> None:
    passes = []

    class Reads(Trick):
        forwards = {"d": 1}

        @hookimpl
        def g_loss_terms(self, ctx):
            first, second = ctx.real_out, ctx.real_out
            passes.append((first is second, first.logits.requires_grad))
            return {}

    TrickHost().with_trick(Reads).train(2)
    assert passes == [(True, False)] * 2


def test_inputs_are_leaves_with_gradient_where_a_trick_needs_it() -> None:
    class Penalty(Trick):
        needs = {"input_grad"}

        @hookimpl
        def d_loss_terms(self, ctx):
            (slope,) = torch.autograd.grad(ctx.real_out.logits.sum(), ctx.real_in.images, create_graph=True)
            return {"r1": 0.5 * slope.square().flatten(1).sum(1).mean()}

    played = TrickHost().with_trick(Penalty).train(2)
    assert played.scalars[-1]["loss/d.penalty.r1"] > 0
    plain = TrickHost().train(2)
    assert differences(played.state, plain.state)


def test_a_play_may_order_the_phases_otherwise() -> None:
    order = []

    class TwoForOne(Trick):
        @hookimpl
        def play(self, ctx):
            ctx.d_step(0)
            ctx.d_step(1)
            ctx.g_step()

        @hookimpl
        def after_d_step(self, ctx):
            order.append("d")

        @hookimpl
        def after_g_step(self, ctx):
            order.append("g")

    played = TrickHost().with_trick(TwoForOne).train(2)
    assert order == ["d", "d", "g"] * 2
    same = TrickHost(n_critic=2, reuse_fakes=False).train(2)
    assert not differences(played.state, same.state)


def test_a_trick_can_stop_the_run_between_steps() -> None:
    class Stops(Trick):
        @hookimpl
        def on_boundary(self, ctx):
            if ctx.step == 3:
                ctx.stop("enough")

    game = TrickHost().with_trick(Stops).game()
    while game.advance():
        pass
    assert game.finished == 3
    assert game.stop_reason == "stops: enough"


def test_conditional_players_see_the_classes_of_their_images() -> None:
    host = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True}, discriminator={"conditional": True})
    seen = []

    class Watch(Trick):
        @hookimpl
        def d_input(self, batch, is_real, ctx):
            seen.append((is_real, batch.classes.clone()))
            return batch

    game = host.with_trick(Watch).train(3).game
    reals = torch.cat([classes for is_real, classes in seen if is_real])
    indices = game.feed._indices(0, len(reals))
    assert torch.equal(reals, game.feed.take(indices).classes)
    fakes = torch.cat([classes for is_real, classes in seen if not is_real])
    assert set(fakes.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.5}, {"name": "adamw"}, {"name": "sgd"}])
def test_every_optimizer_resumes_bit_identically(optimizer: dict) -> None:
    host = TrickHost(optimizer=optimizer | {"lr": 1e-2})
    whole = host.game()
    for _ in range(3):
        whole.advance()
    tensors, counters = snapshot(whole), state.counters(whole)
    resumed = host.game()
    state.load(resumed, tensors, counters)
    for game in (whole, resumed):
        game.advance()
        game.advance()
    assert not differences(snapshot(whole), snapshot(resumed))


def test_a_fault_moves_nothing_under_an_optimizer_that_does_not_know_of_it() -> None:
    class Unfused(Trick):
        @hookimpl
        def transform_optimizer(self, optimizer, player, ctx):
            return torch.optim.RMSprop(optimizer.param_groups[0]["params"], lr=1e-2)

    class Follows(Trick):
        """Copies a weight of D after each step, and leaves masking to the flag."""

        fault_safe = True

        @hookimpl
        def on_setup(self, ctx):
            self.twin = next(ctx.discriminator.parameters()).detach().clone()

        def tensors(self):
            return {"twin": self.twin}

        @hookimpl
        def after_d_step(self, ctx):
            self.twin.lerp_(next(ctx.discriminator.parameters()).detach(), ctx.healthy.double())

    class Poison(Trick):
        @hookimpl
        def d_loss_terms(self, ctx):
            return {
                "bad": ctx.real.images.sum() * ctx.value(float("inf")) if ctx._game.finished == 2 else ctx.value(0.0)
            }

    host = TrickHost().with_trick(Unfused).with_trick(Follows)
    healthy, faulty = host.train(2), host.with_trick(Poison).train(4)
    assert faulty.game.non_finite().step == 3
    state = faulty.state
    assert not differences(healthy.state, state, besides=("generator_optimizer", "discriminator_optimizer"))


def test_the_terms_of_a_loss_keep_their_names() -> None:
    from gantricks import TrickError

    class Fickle(Trick):
        steps = 0

        @hookimpl
        def d_loss_terms(self, ctx):
            self.steps += 1
            return {f"term{self.steps}": ctx.value(0.0)}

    with pytest.raises(TrickError, match=r"fickle\.term1 and are now .*fickle\.term2"):
        TrickHost().with_trick(Fickle).train(2)


def test_an_optimizer_that_makes_its_state_late_resumes_bit_identically() -> None:
    class Late(Trick):
        @hookimpl
        def transform_optimizer(self, optimizer, player, ctx):
            return torch.optim.RMSprop(optimizer.param_groups[0]["params"], lr=1e-2)

    host = TrickHost().with_trick(Late)
    whole, resumed = host.game(), host.game()
    for _ in range(3):
        whole.advance()
    state.load(resumed, snapshot(whole), state.counters(whole))
    for game in (whole, resumed):
        game.advance()
    assert not differences(snapshot(whole), snapshot(resumed))


def test_tensor_learning_rates_and_the_batch_size_are_part_of_the_state() -> None:
    class Halves(Trick):
        @hookimpl
        def transform_optimizer(self, optimizer, player, ctx):
            self.rates = [*getattr(self, "rates", []), torch.tensor(0.01)]
            optimizer.param_groups[0]["lr"] = self.rates[-1]
            return optimizer

        @hookimpl
        def on_boundary(self, ctx):
            if ctx.step == 2:
                ctx.set_batch_size(5)
                for rate in self.rates:
                    rate.mul_(0.5)

    host = TrickHost().with_trick(Halves)
    whole, resumed = host.game(), host.game()
    for _ in range(4):
        whole.advance()
    state.load(resumed, snapshot(whole), state.counters(whole))
    for game in (whole, resumed):
        game.advance()
    assert not differences(snapshot(whole), snapshot(resumed))
    assert resumed.feed.cursor == 2 * 8 + 3 * 5


D_STEP = [
    "before_d_step",
    "real_batch",
    "latents",
    "generated_batch",
    "fake_batch",
    "d_input",
    "d_input",
    "d_scores",
    "d_assignment",
    "d_labels",
]
D_STEP += ["d_assignment", "d_labels", "d_loss_terms", "after_d_backward", "d_gate", "after_d_step"]
G_STEP = ["before_g_step", "d_input", "g_scores", "g_labels", "g_loss_terms", "after_g_backward", "g_gate"]
G_STEP += ["after_g_step", "after_step"]


class Everywhere(Trick):
    """Every hook of the step, each doing nothing."""

    @hookimpl
    def latents(self, z):
        return z

    @hookimpl
    def real_batch(self, batch):
        return batch

    @hookimpl
    def generated_batch(self, batch):
        return batch

    @hookimpl
    def fake_batch(self, batch):
        return batch

    @hookimpl
    def d_input(self, batch):
        return batch

    @hookimpl
    def d_assignment(self, is_real):
        return is_real

    @hookimpl
    def d_labels(self, labels):
        return labels

    @hookimpl
    def g_labels(self, labels):
        return labels

    @hookimpl
    def d_loss_terms(self):
        return {}

    @hookimpl
    def g_loss_terms(self):
        return {}

    @hookimpl
    def before_d_step(self): ...

    @hookimpl
    def after_d_backward(self): ...

    @hookimpl
    def after_d_step(self): ...

    @hookimpl
    def before_g_step(self): ...

    @hookimpl
    def after_g_backward(self): ...

    @hookimpl
    def after_g_step(self): ...

    @hookimpl
    def after_step(self): ...

    @hookimpl
    def d_gate(self, open):
        return open

    @hookimpl
    def g_gate(self, open):
        return open

    @hookimpl
    def d_scores(self, real, fake, ctx):
        return ctx.discriminator(*real), ctx.discriminator(*fake)

    @hookimpl
    def g_scores(self): ...


def test_every_hook_of_the_step_runs_once_where_the_contract_says() -> None:
    called: list[str] = []

    def noting(hook, function):
        return lambda *arguments: (called.append(hook), function(*arguments))[1]

    plan = TrickHost().with_trick(Everywhere).plan()
    game = assemble(plan, plan.source.load(), place("cpu", "fp64"))
    hooks = {hook: tuple((noting(hook, f), ctx) for f, ctx in there) for hook, there in vars(game.hooks).items()}
    game.hooks = Hooks(**hooks)
    build(game)
    game.advance()
    assert called == D_STEP + G_STEP


def test_state_that_moves_after_a_step_is_put_back_after_a_fault() -> None:
    class Counts(Trick):
        @hookimpl
        def on_setup(self, ctx):
            self.counts = {name: torch.zeros(()) for name in ("before_d", "after_d", "before_g", "after_g")}

        def tensors(self):
            return self.counts

        @hookimpl
        def before_d_step(self, ctx):
            self.counts["before_d"].add_(1)

        @hookimpl
        def after_d_step(self, ctx):
            self.counts["after_d"].add_(1)

        @hookimpl
        def before_g_step(self, ctx):
            self.counts["before_g"].add_(1)

        @hookimpl
        def after_g_step(self, ctx):
            self.counts["after_g"].add_(1)

    class Poison(Trick):
        @hookimpl
        def d_loss_terms(self, ctx):
            return {"bad": ctx.value(float("nan") if ctx._game.finished == 2 else 0.0)}

    played = TrickHost().with_trick(Counts).with_trick(Poison).train(5)
    assert {name: float(count) for name, count in played.state["tricks"].items()} == {
        f"counts/{name}": 2.0 for name in ("before_d", "after_d", "before_g", "after_g")
    }


def test_samples_of_one_seed_are_the_same_at_every_step_when_a_trick_draws_latents() -> None:
    class Shifts(Trick):
        @hookimpl
        def latents(self, z, ctx):
            return z + ctx.rng.normal(z.shape)

    game = TrickHost(optimizer={"name": "sgd", "lr": 1e-9}).with_trick(Shifts).game()
    first, other = sampling.sample(game, 4, seed=0), sampling.sample(game, 4, seed=1)
    game.advance()
    assert abs(sampling.sample(game, 4, seed=0) - first).max() < 1e-6
    assert abs(first - other).max() > 1e-3


class Gate(Trick):
    """Closed for one player in every other step; what it follows moves with the player."""

    class Config(Trick.Config):
        player: str = "d"

    @hookimpl
    def on_setup(self, ctx):
        self.steps, self.followed = torch.zeros(()), torch.zeros(())

    @hookimpl
    def d_gate(self, open):
        return open * (self.steps % 2) if self.config.player == "d" else open

    @hookimpl
    def g_gate(self, open):
        return open * (self.steps % 2) if self.config.player == "g" else open

    @hookimpl
    def after_d_step(self, ctx):
        self.followed.add_(ctx.updated if self.config.player == "d" else 0)

    @hookimpl
    def after_g_step(self, ctx):
        self.followed.add_(ctx.updated if self.config.player == "g" else 0)
        self.steps.add_(1)

    def tensors(self):
        return {"steps": self.steps, "followed": self.followed}


class Unfused(Trick):
    """Optimizers that know of no mask."""

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        return torch.optim.Adam([p for group in optimizer.param_groups for p in group["params"]], lr=0.01)


@pytest.mark.parametrize("player", ["d", "g"])
@pytest.mark.parametrize("fused", [True, False])
def test_behind_a_closed_gate_a_player_and_its_optimizer_stay_and_the_other_moves(player: str, fused: bool) -> None:
    host = TrickHost() if fused else TrickHost().with_trick(Unfused, "unfused")
    game = host.with_trick(Gate, "gate", player=player).game()
    roles = {"d": "discriminator", "g": "generator"}
    game.advance()
    game.advance()
    for step in range(2, 8):
        before = snapshot(game)
        game.advance()
        for name, role in roles.items():
            moved = [n for n in differences(before, snapshot(game)) if n.startswith((f"{role}/", f"{role}_optimizer/"))]
            assert bool(moved) == (name != player or step % 2 == 1)
    assert game.plan.tricks[-1].trick.followed == 4
    assert game.non_finite() is None


def test_gates_are_asked_in_turn_and_one_that_is_closed_is_enough() -> None:
    host = TrickHost().with_trick(Gate, "first").with_trick(Gate, "second")
    game = host.game()
    first, second = (planned.trick for planned in game.plan.tricks)
    second.steps.fill_(1)
    start = {n: t.clone() for n, t in game.discriminator.state_dict().items()}
    for _ in range(4):
        game.advance()
    assert all(same_bits(start[n], t) for n, t in game.discriminator.state_dict().items())
    assert first.followed == 0


def test_weights_that_take_part_later_are_taken_up_where_the_trick_says_so() -> None:
    """G's head rests until step 3 and is trained from then on; a resumed run stands where it stood."""

    class Rests(Trick):
        @hookimpl
        def on_setup(self, ctx):
            self.joined = torch.zeros(())
            self.stand(ctx)

        @hookimpl
        def on_boundary(self, ctx):
            if ctx.step == 3:
                self.joined.fill_(1)
                self.stand(ctx)

        @hookimpl
        def on_load(self, ctx):
            self.stand(ctx)

        def stand(self, ctx):
            ctx.generator.head.requires_grad_(bool(self.joined))
            ctx.restructured()

        def tensors(self):
            return {"joined": self.joined}

    host = TrickHost().with_trick(Rests, "rests")
    game = host.game()
    moved, states = [], []
    for _ in range(6):
        before = snapshot(game)
        game.advance()
        moved.append(any("generator/head" in name for name in differences(before, snapshot(game))))
        states.append((snapshot(game), state.counters(game)))
    assert moved == [False] * 3 + [True] * 3
    for tensors, counters in states:
        resumed = host.game()
        state.load(resumed, tensors, counters)
        while resumed.finished < 6:
            resumed.advance()
        assert not differences(snapshot(resumed), states[-1][0])


def test_what_changes_the_players_is_refused_within_a_step() -> None:
    class Late(Trick):
        @hookimpl
        def after_d_step(self, ctx):
            ctx.restructured()

    with pytest.raises(TrickError, match=r"ctx\.restructured acts on the host"):
        TrickHost().with_trick(Late, "late").train(1)


@pytest.mark.parametrize("player", ["D", "G"])
def test_a_loss_without_gradient_is_told_with_its_terms(player):
    class Vanished(Trick):
        """Wrong: the graph is cut."""

        @hookimpl
        def d_input(self, batch, ctx):
            if player == "D":
                ctx.discriminator.requires_grad_(False)
            return batch

        @hookimpl
        def g_objective(self, ctx):
            return {"vanished": ctx.fake_out.logits.detach().mean()}

    with pytest.raises(TrickError, match=rf"no term of {player}'s loss has a gradient \("):
        TrickHost().with_trick(Vanished, "trick").train(1)


class GFirst(Trick):
    """G steps before D does, and is asked for D's scores of reals."""

    @hookimpl
    def on_setup(self, ctx):
        self.seen = torch.zeros((), dtype=ctx.dtype)

    def tensors(self):
        return {"seen": self.seen}

    @hookimpl
    def play(self, ctx):
        ctx.g_step()
        ctx.d_step(0)

    @hookimpl
    def after_g_step(self, ctx):
        self.seen.copy_(ctx.real_out.logits.mean())


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("backend", [None, INTERPRETER])
def test_a_g_step_that_comes_first_has_a_real_batch_of_its_own(mixes, backend):
    images = {"sample": (1, 8, 8), "discriminator": {"batch_norm": mixes, "depth": 2}}
    game = TrickHost(**images).with_trick(GFirst, "first").game()
    game.play = Capturing(game, backend)
    for step in range(3):
        game.advance()
        assert game.feed.cursor == (step + 1) * 2 * game.feed.batch_size
    assert game.play.backend == backend, game.warnings
    assert game.plan.tricks[0].trick.seen != 0


# ---------------------------------------------------------------- start and end


class _Counts(Trick):
    """Writes down when it is told that a run is built, starts, finishes and ends."""

    class Config(Trick.Config):
        fails: bool = False

    @hookimpl
    def on_setup(self, ctx):
        self.told = ["setup"]

    @hookimpl
    def on_run_start(self, ctx):
        if self.config.fails:
            raise RuntimeError("it does not start")
        self.told.append("start")

    @hookimpl
    def on_finish(self, ctx):
        self.told.append("finish")

    @hookimpl
    def on_run_end(self, ctx):
        assert ctx.phase == "boundary"
        self.told.append("end")


def test_sampling_and_evaluating_build_a_run_and_start_none():
    game = TrickHost().with_trick(_Counts, "counts").game()
    sampling.sample(game, 3, 0), sampling.evaluated_discriminator(game)
    assert game.plan.tricks[0].trick.told == ["setup"]


@pytest.mark.parametrize("fault", [None, RuntimeError, KeyboardInterrupt])
def test_start_and_end_come_in_pairs_however_training_ends(fault):
    game = TrickHost().with_trick(_Counts, "counts").game()
    with contextlib.suppress(*[fault] if fault else []), game.training():
        game.advance()
        if fault:
            raise fault
        game.finish()
    assert game.plan.tricks[0].trick.told == ["setup", "start", *([] if fault else ["finish"]), "end"]


def test_where_a_start_fails_those_before_it_are_ended_and_it_is_not():
    game = TrickHost().with_trick(_Counts, "first").with_trick(_Counts, "second", fails=True).game()
    with pytest.raises(RuntimeError, match="does not start"), game.training():
        raise AssertionError("unreachable")
    assert [planned.trick.told for planned in game.plan.tricks] == [["setup", "start", "end"], ["setup"]]


class Reads(Trick):
    """Reads the progress of the run and the data in the step."""

    @hookimpl
    def on_setup(self, ctx):
        self.elapsed = []
        self.names = ctx.metrics
        with pytest.raises(AttributeError):
            ctx.data.batch_size = 3

    @hookimpl
    def before_d_step(self, ctx):
        self.elapsed.append(ctx.elapsed.clone())
        assert (ctx.data.count, ctx.data.batch_size, ctx.data.classes, ctx.data.is_images) == (40, 8, 0, False)


def test_a_trick_reads_the_progress_as_a_tensor_and_the_data_but_changes_neither() -> None:
    played = TrickHost(steps=5).with_trick(Reads).train()
    trick = played.trick("reads")
    assert [float(elapsed) for elapsed in trick.elapsed] == [0, 0.25, 0.5, 0.75, 1]
    assert trick.names == ()
