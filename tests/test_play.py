"""What a trick may do with the phases of a step: losses as functions, players put back, forms of the step, the end."""

from __future__ import annotations

import pytest
import torch

from gantricks import AdversarialLoss, Trick, TrickError, UserError, hookimpl
from gantricks.engine.capture import INTERPRETER, Capturing
from gantricks.testing import CONDITIONAL, TrickHost
from gantricks.testing.record import differences, same_bits, snapshot


def captured_equals_eager(host: TrickHost, steps: int = 4) -> list[str]:
    """Play a host eagerly and captured, compare them to the bit, and return what was announced."""
    eager, captured = host.game(), host.game()
    announced: list[str] = []
    captured.play = Capturing(captured, INTERPRETER, announced.append)
    for _ in range(steps):
        eager.advance()
        captured.advance()
        assert captured.play.backend, captured.warnings
        assert not differences(snapshot(eager), snapshot(captured))
        assert eager.scalars() == captured.scalars()
    return announced


# ---------------------------------------------------------------- the objective as a function


class Compares(AdversarialLoss):
    """Softplus of differences; a constant added to all outputs changes nothing."""

    undecided = None
    compares = True

    def d_loss(self, real, fake, real_labels, fake_labels, ctx):
        return {"pairs": torch.nn.functional.softplus(fake.logits - real.logits)}

    def g_loss(self, real, fake, labels, ctx):
        return {"pairs": torch.nn.functional.softplus(real.logits - fake.logits)}


class Comparing(Trick):
    @hookimpl
    def adversarial_loss(self):
        return Compares()


class AsksForTheLosses(Trick):
    """Notes the losses of the present scores."""

    @hookimpl
    def on_setup(self, ctx):
        self.losses = {}

    @hookimpl
    def after_d_backward(self, ctx):
        self.losses["d"] = ctx.d_loss(ctx.real_out, ctx.fake_out)
        self.losses["d plain"] = ctx.d_loss(
            ctx.real_out, ctx.fake_out, torch.ones_like(ctx.real_labels), torch.zeros_like(ctx.fake_labels)
        )

    @hookimpl
    def after_g_backward(self, ctx):
        self.losses["g"] = ctx.g_loss(ctx.fake_out)
        self.losses["g to 0"] = ctx.g_loss(ctx.fake_out, torch.zeros_like(ctx.fake_labels))
        out = ctx.fake_out
        self.losses["d in g"] = ctx.d_loss(out, out)


@pytest.mark.parametrize("objective", [None, "least_squares", Comparing])
def test_the_objective_as_a_function_is_the_logged_loss(objective) -> None:
    host = TrickHost()
    for trick in (objective,) if objective else ():
        host = host.with_trick(trick, "objective" if trick is Comparing else None)
    game = host.with_trick(AsksForTheLosses, "asks").game()
    game.advance()
    losses, logged = game.plan.tricks[-1].trick.losses, game.scalars()[0]
    assert float(losses["d"].detach()) == pytest.approx(logged["loss/d"], rel=1e-12)
    assert float(losses["g"].detach()) == pytest.approx(logged["loss/g"], rel=1e-12)
    assert losses["d"].shape == losses["g"].shape == ()


def test_labels_left_out_are_those_of_the_last_d_step() -> None:
    game = TrickHost().with_trick("label_smoothing", real=0.6).with_trick(AsksForTheLosses, "asks").game()
    game.advance()
    losses, out = game.plan.tricks[-1].trick.losses, game.frame.fake_out.logits.double()
    assert losses["d"] != losses["d plain"]
    softplus = torch.nn.functional.softplus
    smoothed = (0.6 * softplus(-out) + 0.4 * softplus(out)).mean() + softplus(out).mean()
    torch.testing.assert_close(losses["d in g"], smoothed)
    torch.testing.assert_close(losses["g to 0"], softplus(out).mean())


class OtherSizes(Trick):
    """Asks for the losses of half a batch, for which no label was drawn."""

    @hookimpl
    def g_loss_terms(self, ctx):
        out = ctx.discriminate(ctx.fake.with_images(ctx.fake.images[:4]), False)
        return {"g": 0.5 * ctx.g_loss(out), "d": 0.25 * ctx.d_loss(out, out)}


def test_samples_without_labels_are_called_what_they_are() -> None:
    played = TrickHost().with_trick("label_smoothing", real=0.6).with_trick(OtherSizes, "other").train(1)
    (phase,) = played.steps_of("g")
    out = phase.passes[-1][1].logits
    softplus = torch.nn.functional.softplus
    assert phase.terms["other.g"] == pytest.approx(0.5 * float(softplus(-out).mean()))
    assert phase.terms["other.d"] == pytest.approx(0.25 * float((softplus(-out) + softplus(out)).mean()))


# ---------------------------------------------------------------- no point between real and fake


class ReadsTheMiddle(Trick):
    @hookimpl
    def after_d_step(self, ctx):
        ctx.undecided  # noqa: B018


def test_an_objective_of_differences_has_no_middle() -> None:
    with pytest.raises(TrickError, match="has no point between real and fake; declare needs"):
        TrickHost().with_trick(Comparing, "compares").with_trick(ReadsTheMiddle, "reads").train(1)


@pytest.mark.parametrize(
    ("trick", "options"), [("balance_gate", {}), ("label_flipping", {"mode": "burst", "trigger": "accuracy"})]
)
def test_what_asks_how_often_d_is_right_is_refused_beside_it(trick, options) -> None:
    with pytest.raises(UserError, match=f"{trick} needs decision"):
        TrickHost().with_trick(Comparing, "compares").with_trick(trick, **options).plan()


# ---------------------------------------------------------------- latents and inputs


class Regenerates(Trick):
    """Compares fakes with what G makes of their latents, and D's inputs with what `d_input` makes of the batches."""

    @hookimpl
    def after_d_backward(self, ctx):
        with torch.no_grad():
            assert same_bits(ctx.generator(ctx.fake_latents, ctx.fake.classes), ctx.fake.images)
        assert same_bits(ctx.d_input(ctx.real, True).images, 1 + ctx.real.images)
        assert same_bits(ctx.real_in.images, 1 + ctx.real.images)

    @hookimpl
    def d_input(self, batch, is_real):
        return batch.with_images(batch.images + 1)

    @hookimpl
    def after_g_backward(self, ctx):
        assert same_bits(ctx.generator(ctx.fake_latents, ctx.fake.classes), ctx.fake.images)


@pytest.mark.parametrize("reuse", [True, False])
def test_the_latents_of_the_fakes_are_at_hand(reuse) -> None:
    host = TrickHost(**CONDITIONAL, reuse_fakes=reuse).with_trick("spherical_latents").with_trick(Regenerates, "again")
    host.train(2)


def test_latents_are_read_once_they_are_drawn() -> None:
    class Early(Trick):
        @hookimpl
        def before_d_step(self, ctx):
            ctx.fake_latents  # noqa: B018

    with pytest.raises(TrickError, match=r"ctx\.fake_latents does not exist at this point of phase 'd'"):
        TrickHost().with_trick(Early, "early").train(1)


# ---------------------------------------------------------------- phases in another order


class LooksAhead(Trick):
    """G learns against the D of `ahead` further D steps, which are taken back."""

    class Config(Trick.Config):
        ahead: int = 2

    @hookimpl
    def play(self, ctx):
        ctx.d_step(0)
        with ctx.restoring("d"):
            for number in range(1, 1 + self.config.ahead):
                ctx.d_step(number)
            ctx.g_step()


@pytest.mark.parametrize("optimizer", [{"name": "adam"}, {"name": "sgd", "momentum": 0.9}])
def test_a_player_is_put_back_whole(optimizer) -> None:
    batch_norm = {"batch_norm": True, "depth": 2}
    host = TrickHost(sample=(1, 8, 8), discriminator=batch_norm, optimizer=optimizer)
    games = [host.with_trick(LooksAhead, "ahead", ahead=ahead).game() for ahead in (0, 2)]
    for game in games:
        game.advance()
    plain, ahead = map(snapshot, games)
    changed = {name.partition("/")[0] for name in differences(plain, ahead)}
    assert changed == {
        "generator",
        "generator_optimizer",
    }
    captured_equals_eager(host.with_trick(LooksAhead, "ahead"))


class OneByOne(Trick):
    """The order that is the default, from a trick."""

    @hookimpl
    def play(self, ctx):
        assert ctx.optimizer("d") is ctx._game.players["d"].optimizer
        for critic in range(ctx.n_critic):
            ctx.d_step(critic, share_fakes=critic == ctx.n_critic - 1)
        ctx.g_step(0)


def test_the_default_order_can_be_played_by_a_trick() -> None:
    host = TrickHost(n_critic=2)
    plain, played = host.game(), host.with_trick(OneByOne, "order").game()
    for _ in range(3):
        plain.advance()
        played.advance()
    assert not differences(snapshot(plain), snapshot(played))


class TwoGSteps(Trick):
    @hookimpl
    def play(self, ctx):
        ctx.d_step(0)
        ctx.g_step(0)
        ctx.g_step(1)


def test_g_steps_of_other_numbers_draw_otherwise() -> None:
    first, second = (phase.fake.images for phase in TrickHost().with_trick(TwoGSteps, "two").train(1).steps_of("g"))
    assert not (first == second).any()


# ---------------------------------------------------------------- forms of the step


class Lazy(Trick):
    """A penalty on D's weights in every third step, and three times as strong there."""

    class Config(Trick.Config):
        every: int = 3

    @hookimpl
    def on_boundary(self, ctx):
        ctx.set_variant("due", ctx.step % self.config.every == 0)

    @hookimpl
    def d_loss_terms(self, ctx):
        if not ctx.variant("due"):
            return {"size": torch.zeros((), dtype=ctx.dtype)}
        return {"size": self.config.every * sum(p.square().sum() for p in ctx.discriminator.parameters())}


def test_a_step_is_captured_once_for_each_form_and_the_forms_take_turns() -> None:
    announced = captured_equals_eager(TrickHost().with_trick(Lazy, "lazy"), steps=7)
    assert len(announced) == 2
    logged = [scalars["loss/d.lazy.size"] > 0 for scalars in TrickHost().with_trick(Lazy, "lazy").train(7).scalars]
    assert logged == [True, False, False] * 2 + [True]


def test_a_new_structure_forgets_the_forms_of_the_old_one() -> None:
    host = TrickHost(steps=6).with_trick(Lazy, "lazy", every=2).with_trick("batch_size_schedule", start=4, end=8)
    game = host.game()
    game.play = Capturing(game, INTERPRETER)
    sizes = set()
    for _ in range(6):
        game.advance()
        sizes.add(game.feed.batch_size)
        assert len(game.play._captured) <= 2
    assert len(sizes) > 1


def test_a_form_is_chosen_between_steps_and_before_it_is_read() -> None:
    class Inside(Trick):
        @hookimpl
        def before_d_step(self, ctx):
            ctx.set_variant("due", True)

    class Unset(Trick):
        @hookimpl
        def before_d_step(self, ctx):
            ctx.variant("due")

    with pytest.raises(TrickError, match=r"ctx\.set_variant acts on the host"):
        TrickHost().with_trick(Inside, "inside").train(1)
    with pytest.raises(TrickError, match=r"unset: ctx\.variant\('due'\) is read before ctx\.set_variant"):
        TrickHost().with_trick(Unset, "unset").train(1)


# ---------------------------------------------------------------- the end of a step


class Pulls(Trick):
    """After each step, both players' weights are halved, and the steps counted."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros(())

    def tensors(self):
        return {"count": self.count}

    @hookimpl
    def after_step(self, ctx):
        self.count.add_(1)
        with torch.no_grad():
            for network in (ctx.generator, ctx.discriminator):
                for weight in network.parameters():
                    weight.mul_(1 - 0.5 * ctx.healthy)


class Poison(Trick):
    @hookimpl
    def d_loss_terms(self, ctx):
        return {"bad": ctx.value(float("nan") if ctx._game.finished == 2 else 0.0)}


def test_both_players_may_be_changed_at_the_end_of_a_step() -> None:
    host = TrickHost(optimizer={"name": "sgd", "lr": 0.1})
    played = host.with_trick(Pulls, "pulls").train(2)
    for player in "dg":
        first, second = played.steps_of(player)
        for name, weight in first.after.items():
            assert same_bits(second.before[name], 0.5 * weight)
    captured_equals_eager(host.with_trick(Pulls, "pulls"))


def test_what_the_end_of_a_step_changes_is_put_back_after_a_fault() -> None:
    game = TrickHost().with_trick(Pulls, "pulls").with_trick(Poison, "poison").game()
    game.advance()
    game.advance()
    before = snapshot(game)
    game.advance()
    assert not differences(before, snapshot(game))
    assert game.plan.tricks[0].trick.count == 2


# ---------------------------------------------------------------- an optimizer that can be told to wait


class Signs(torch.optim.Optimizer):
    """Moves each weight by lr against the sign of its gradient, and counts its updates."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01})
        self.calls = 0
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["updates"] = torch.zeros(())

    @torch.no_grad()
    def step_unless(self, held):
        self.calls += 1
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(0.01 * (1 - held) * parameter.grad.sign())
            self.state[parameter]["updates"].add_(1 - held)


class Own(Trick):
    @hookimpl
    def transform_optimizer(self, optimizer, player):
        return Signs([p for group in optimizer.param_groups for p in group["params"]]) if player == "d" else optimizer


class Shut(Trick):
    @hookimpl
    def d_gate(self, open):
        return open * 0


def test_an_optimizer_with_a_way_to_wait_is_used_as_it_is() -> None:
    game = TrickHost().with_trick(Own, "own").game()
    before = snapshot(game)
    game.advance()
    assert {name.partition("/")[0] for name in differences(before, snapshot(game))} >= {"discriminator"}
    assert game.players["d"].optimizer.calls == 1
    captured_equals_eager(TrickHost().with_trick(Own, "own"))
    shut = TrickHost().with_trick(Own, "own").with_trick(Shut, "shut").game()
    before = snapshot(shut)
    shut.advance()
    assert not {n for n in differences(before, snapshot(shut)) if n.startswith("discriminator")}
