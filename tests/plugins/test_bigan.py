"""Laws of BiGAN: pairs of samples and latents, an encoder that wants the opposite of D, and no gradient astray."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from gantricks import Batch, Out, Trick, UserError, hookimpl
from gantricks.plugins.bigan import BiGAN, mirrored
from gantricks.testing import CONDITIONAL, MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import close, cross_entropy
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"encoder": {"optimizer": {"name": "adam", "lr": 1e-2}}}, {}),
    "mixing": ({}, MIXING | {"n_critic": 2}),
    "conditional": ({}, CONDITIONAL),
}
REFUSED: dict[str, str] = {
    "conditioning_augmentation": "has no place for another condition",
    "langevin_sampling": "D judges a sample with its latents there",
    "matching_aware": "has no place for another condition",
    "projection_discriminator": "a condition says more than the class",
    "rejection_sampling": "D judges a sample with its latents there",
    "packing": "discriminator_conditioned",
    "relativistic": "bigan needs decision",
    "semi_supervised": "whose latents it would have to know",
    "wasserstein": "bigan needs decision",
}

MISTAKES = {
    "fakes come with what the encoder finds": Mistake(
        old="batch._replace(condition=ctx.fake_latents)",
        new="self._encoded(batch)",
        caught_by=("test_at_the_inverse_d_can_learn_nothing", "trace_law"),
    ),
    "the encoder learns in D's step": Mistake(
        old="""
        with torch.no_grad():
            return self._encoded(batch)
        """,
        new="return self._encoded(batch)",
        caught_by=("test_in_ds_step_the_encoder_is_a_constant", "gradients"),
    ),
    "the encoder learns nothing": Mistake(
        old="ctx.discriminate(self._encoded(ctx.real), True)",
        new="ctx.discriminate(ctx.real, True)",
        caught_by=("test_the_encoder_learns_from_the_opposite_of_ds_verdict_alone", "gradients"),
    ),
    "the encoder wants what D wants": Mistake(
        old="ctx.g_loss(mirrored(out, ctx.undecided))",
        new="ctx.g_loss(out)",
        caught_by=("test_the_encoder_learns_from_the_opposite_of_ds_verdict_alone", "trace_law"),
    ),
    "scores are mirrored at 0 under any objective": Mistake(
        old="2 * undecided - out.logits",
        new="-out.logits",
        caught_by="test_the_encoders_loss_is_that_of_the_objective_for_the_other_side",
    ),
    "latents of reals are those of other images": Mistake(
        old="batch._replace(condition=self.encoder(batch.images).logits)",
        new="batch._replace(condition=self.encoder(batch.images).logits.flip(0))",
        caught_by=("test_at_the_inverse_d_can_learn_nothing", "trace_law"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Fakes are judged with the latents that G was given, reals with the encoder's; its loss wants them to be fake."""
    others = played.calls
    first = played.phases[0]
    encoder = played.game.companions[f"{name}.encoder"].network
    found = functional_call(encoder, played.start[f"{name}.encoder"], (first.real.images,)).logits
    close(first.real.condition, found, "the latents of reals")
    for phase in played.phases:
        if phase.player == "g" or "fake_batch" not in others:
            assert same_bits(phase.fake.condition, phase.fake_latents), "latents of fakes are not those given to G"
        if phase.player == "d" or others.get("adversarial_loss") or others.get("d_input"):
            continue
        alone = [out.logits for shown, out in phase.passes if torch.equal(shown, phase.real.images)]
        losses = [float(cross_entropy(-logits, phase.fake_labels).mean()) for logits in alone]
        assert any(phase.terms[f"{name}.encoder"] == pytest.approx(loss, rel=1e-9) for loss in losses), "its loss"


HOST = TrickHost(reuse_fakes=False).with_trick("bigan")


def of(game) -> Trick:
    return next(planned.trick for planned in game.plan.tricks if planned.name == "bigan")


# ---------------------------------------------------------------- who learns from what


def test_in_ds_step_the_encoder_is_a_constant() -> None:
    game = HOST.game()
    game.step.d_step()
    assert not game.frame.real.condition.requires_grad
    assert all(weight.grad is None for weight in of(game).encoder.parameters())
    assert all(weight.grad.any() for weight in game.discriminator.pairing.parameters())


def test_the_encoder_learns_from_the_opposite_of_ds_verdict_alone() -> None:
    """Its gradient is that of E softplus(D(x, E(x))), with D as its own step has left it."""
    game = HOST.game()
    for _ in range(3):
        game.step.d_step()
        encoder, d, real = copy.deepcopy(of(game).encoder), copy.deepcopy(game.discriminator), game.frame.real
        game.step.g_step()
        loss = softplus(d(real.images, None, encoder(real.images).logits).logits).mean()
        expected = torch.autograd.grad(loss, [*encoder.parameters()])
        for weight, gradient in zip(of(game).encoder.parameters(), expected, strict=True):
            assert weight.grad is not None
            close(weight.grad, gradient, "the encoder's gradient")


def test_pairs_of_reals_teach_the_generator_nothing() -> None:
    class Silent(BiGAN):
        @hookimpl
        def g_loss_terms(self, ctx):
            return {name: term.detach() for name, term in super().g_loss_terms(ctx).items()}

    with_it, without = HOST.game(), TrickHost(reuse_fakes=False).with_trick(Silent, "bigan").game()
    for game in (with_it, without):
        game.step.d_step()
        game.step.g_step()
    pairs = zip(with_it.generator.parameters(), without.generator.parameters(), strict=True)
    assert all(same_bits(a.grad, b.grad) for a, b in pairs)
    assert all(weight.grad is None for weight in of(without).encoder.parameters())


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        (None, lambda s: -torch.log1p(-torch.sigmoid(s))),
        ("minimax", lambda s: torch.log(torch.sigmoid(s))),
        ("least_squares", lambda s: s**2 / 2),
        ("hinge", lambda s: s),
    ],
)
def test_the_encoders_loss_is_that_of_the_objective_for_the_other_side(objective, loss) -> None:
    """G's loss of a score, with 1 - D(x) in the place of D(x); for least squares the target is 0 in place of 1."""
    host = HOST.with_trick(objective) if objective else HOST
    played = host.train(3)
    for phase in played.steps_of("g"):
        (logits,) = [out.logits for shown, out in phase.passes if torch.equal(shown, phase.real.images)]
        assert phase.terms["bigan.encoder"] == pytest.approx(float(loss(logits).mean()), rel=1e-9)


def test_mirrored_scores_are_as_far_on_the_other_side_and_features_stay() -> None:
    out = Out(torch.tensor([[0.25], [2.0]]), torch.ones(2, 3))
    assert mirrored(out, 0.5).logits.tolist() == [[0.75], [-1.0]]
    assert mirrored(out, 0.5).features is out.features


def test_the_encoder_has_an_optimizer_of_its_own() -> None:
    host = TrickHost().with_trick("bigan", encoder={"optimizer": {"name": "sgd", "lr": 0.5}})
    game = host.game()
    before = [weight.detach().clone() for weight in of(game).encoder.parameters()]
    game.advance()
    for start, weight in zip(before, of(game).encoder.parameters(), strict=True):
        close(weight.detach(), start - 0.5 * weight.grad, "a step of SGD")


# ---------------------------------------------------------------- the game


class Linear(nn.Module):
    """An encoder E(x) = x M."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, images: Tensor) -> Out:
        return Out(images @ self.matrix, images)


def pairs(encoder: nn.Module, reals: Tensor, fakes: Tensor, latents: Tensor) -> tuple[Batch, Batch]:
    """What D judges where the trick has this encoder, and G has made `fakes` of `latents`."""
    game = TrickHost(latent_dim=latents.shape[1], sample=(reals.shape[1],)).with_trick("bigan").game()
    trick = of(game)
    trick.encoder = encoder
    return trick.real_batch(Batch(reals)), trick.generated_batch(Batch(fakes), SimpleNamespace(fake_latents=latents))


@pytest.mark.parametrize("inverse", [True, False])
def test_at_the_inverse_d_can_learn_nothing(inverse) -> None:
    """Data G(z) of a linear G, and E = G⁻¹: both kinds of pairs are the same, so D(x, z) = 1/2 is best for any D. With
    another E it is not.
    """
    game = TrickHost(latent_dim=2).with_trick("bigan").game()
    mix = torch.tensor([[2.0, 1.0], [0.5, -1.0]]).double()
    z = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)).double()
    real, fake = pairs(Linear(torch.linalg.inv(mix) if inverse else mix), z @ mix, z @ mix, z)
    nn.init.zeros_(game.discriminator.head.weight)
    nn.init.zeros_(game.discriminator.head.bias)
    outs = [game.discriminator(*batch) for batch in (real, fake)]
    loss = game.contexts["bigan"].d_loss(*outs)
    assert loss.item() == pytest.approx(2 * math.log(2))
    loss.backward()
    gradient = game.discriminator.head.weight.grad
    assert bool(gradient.abs().max() < 1e-12) is inverse


@pytest.mark.parametrize("zeros", [1, 2, 4, 7])
def test_the_best_d_is_the_ratio_of_the_densities_of_pairs(zeros) -> None:
    """Data and latents of two points, E(x) = x, G(z) = z: D* = p / (p + 1/2) at (0, 0), where p is the share of 0."""
    reals = torch.tensor([[0.0]] * zeros + [[1.0]] * (8 - zeros)).double()
    latents = torch.tensor([[0.0], [1.0]] * 4).double()
    real, fake = pairs(Linear(torch.eye(1).double()), reals, latents, latents)
    p = torch.tensor([zeros / 8, 0, 0, 1 - zeros / 8]).double()
    q = torch.tensor([0.5, 0, 0, 0.5]).double()
    best = (p.clamp(min=1e-300) / (p + q).clamp(min=1e-300)).logit().requires_grad_()

    def out(batch: Batch) -> Out:
        return Out(best[(2 * batch.images + batch.condition).long()], batch.images)

    ctx = TrickHost(latent_dim=1, sample=(1,)).with_trick("bigan").game().contexts["bigan"]
    (gradient,) = torch.autograd.grad(ctx.d_loss(out(real), out(fake)), best)
    close(gradient[[0, 3]], torch.zeros(2).double(), "the gradient at the best D")
    assert (best[0] == 0).item() is (zeros == 4)


# ---------------------------------------------------------------- what is refused


def test_networks_that_are_given_conditions_are_refused() -> None:
    given = {"generator": {"conditioned": True}, "discriminator": {"conditioned": True}}
    with pytest.raises(UserError, match="has no place for another condition"):
        TrickHost(condition=3, **given).with_trick("bigan").plan()


def test_an_objective_without_a_middle_is_refused() -> None:
    class Differences(Trick):
        @hookimpl
        def adversarial_loss(self):
            raise AssertionError

    with pytest.raises(UserError, match="bigan needs decision"):
        HOST.with_trick(Differences).plan()
