"""Laws of VAE-GAN: a divergence in closed form, errors in D's features, and who learns from which term."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn.functional import softplus

from gantricks import Trick
from gantricks.plugins.vae_gan import divergence, drawn, feature_error
from gantricks.testing import CONDITIONAL, MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, cross_entropy, standard_normal, value_at

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"gamma": 0.3, "encoder": {"optimizer": {"name": "adam", "lr": 1e-2}}}, {}),
    "mixing": ({"gamma": {"start": 1.0, "end": 0.5}}, MIXING | {"n_critic": 2}),
    "conditional": ({}, CONDITIONAL),
}
REFUSED: dict[str, str] = {
    "bigan": "an encoder of its own",
    "semi_supervised": "labelled images",
    "triple_gan": "classifier's pairs",
}

MISTAKES = {
    "the encoder learns to fool D": Mistake(
        old="leaf = z.detach().requires_grad_()",
        new="leaf = z",
        caught_by="test_each_player_learns_from_its_own_terms",
    ),
    "the weight of G's features acts on the encoder": Mistake(
        old="(slope * z).sum()",
        new="ctx.value(self.config.gamma) * (slope * z).sum()",
        caught_by="test_each_player_learns_from_its_own_terms",
    ),
    "the encoder does not learn from features": Mistake(
        old="error.detach() + through - through.detach()",
        new="error.detach()",
        caught_by="test_each_player_learns_from_its_own_terms",
    ),
    "G's features have no weight": Mistake(
        old="ctx.value(self.config.gamma) * error",
        new="error",
        caught_by=("test_each_player_learns_from_its_own_terms", "trace_law"),
    ),
    "D never sees reconstructions": Mistake(
        old="ctx.discriminate(again, False)",
        new="ctx.fake_out",
        inside="VAEGAN.d_loss_terms",
        caught_by=("test_d_judges_reconstructions_as_fakes", "trace_law"),
    ),
    "the divergence has the other sign": Mistake(
        old="0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(1).mean()",
        new="-0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(1).mean()",
        caught_by=("test_the_divergence_is_that_of_two_gaussians", "trace_law"),
    ),
    "the divergence is a mean over latents": Mistake(
        old="(mean.square() + torch.expm1(log_variance) - log_variance).sum(1)",
        new="(mean.square() + torch.expm1(log_variance) - log_variance).mean(1)",
        caught_by=("test_the_divergence_is_that_of_two_gaussians", "trace_law"),
    ),
    "the variance for the standard deviation": Mistake(
        old="(0.5 * log_variance).exp()",
        new="log_variance.exp()",
        caught_by="test_draws_have_the_mean_and_the_deviation_of_the_encoder",
    ),
    "the mean is reconstructed in place of a draw": Mistake(
        old="mean + (0.5 * log_variance).exp() * ctx.rng.normal(mean.shape)",
        new="mean",
        caught_by="test_draws_have_the_mean_and_the_deviation_of_the_encoder",
    ),
    "features are of what other tricks make of the images": Mistake(
        old="ctx.discriminator(*again)",
        new="ctx.discriminate(again, False)",
        caught_by="test_features_are_of_the_images_as_they_are",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The terms, from D's passes: the error of features of two passes, reconstructions as fakes, and the divergence of
    the first latents.
    """
    config = played.trick(name).config
    first = played.steps_of("g")[0]
    encoder = played.game.companions[f"{name}.encoder"].network
    state = {key: value.clone() for key, value in played.start[f"{name}.encoder"].items()}
    mean, log_variance = functional_call(encoder, state, (first.real.images,)).logits.chunk(2, 1)
    own = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(own, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
    assert math.isclose(first.terms[f"{name}.prior"], float(expected), rel_tol=1e-9), "the divergence"
    for phase in played.phases:
        others = [out for shown, out in phase.passes if len(shown) == phase.fake.size]
        found = phase.terms[f"{name}.reconstructions"]
        if phase.player == "g":
            error = phase.terms[f"{name}.features"]
            gamma = value_at(played, config.gamma, phase.step)
            assert math.isclose(phase.terms[f"{name}.generator_features"], gamma * error, rel_tol=1e-6), "G's weight"
            reals = [out.features for shown, out in phase.passes if torch.equal(shown, phase.real.images)]
            errors = [float((a - b.features).square().sum(1).mean()) / 2 for a in reals for b in others]
            assert any(math.isclose(error, each, rel_tol=1e-9) for each in errors), "the error of features"
        if played.calls.get("adversarial_loss"):
            continue
        if phase.player == "d":
            real = cross_entropy(phase.real_out.logits, phase.real_labels).mean()
            others = [out for out in others if not torch.equal(out.logits, phase.fake_out.logits)]
            losses = [float(real + cross_entropy(out.logits, phase.fake_labels).mean()) for out in others]
        else:
            losses = [float(cross_entropy(out.logits, phase.fake_labels).mean()) for out in others]
        assert any(math.isclose(found, loss, rel_tol=1e-9) for loss in losses), f"{phase.player}: reconstructions"


# ---------------------------------------------------------------- the formulas


@st.composite
def moments(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    return draw(gs.tensors(shape)), draw(gs.tensors(shape))


@given(moments())
def test_the_divergence_is_that_of_two_gaussians(pair) -> None:
    mean, log_variance = pair
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), standard).sum(1).mean()
    torch.testing.assert_close(divergence(mean, log_variance), expected, rtol=1e-9, atol=1e-12)


@given(moments())
def test_the_divergence_is_0_at_the_prior_and_nowhere_below(pair) -> None:
    assert divergence(torch.zeros(3, 2), torch.zeros(3, 2)) == 0
    assert divergence(*pair) >= 0


@given(moments())
def test_the_error_of_features_is_minus_the_logarithm_of_a_gaussian(pair) -> None:
    real, again = pair
    constant = real.shape[1] * math.log(2 * math.pi) / 2
    expected = -Normal(again, 1.0).log_prob(real).sum(1).mean() - constant
    torch.testing.assert_close(feature_error(real, again), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("formula", [divergence, feature_error])
def test_sums_are_taken_in_float32_at_least(formula) -> None:
    first = torch.full((2, 300), 1.0, dtype=torch.bfloat16)
    assert formula(first, torch.zeros_like(first)).dtype == torch.float32
    assert formula(first, torch.zeros_like(first)).item() == 150


def test_draws_have_the_mean_and_the_deviation_of_the_encoder() -> None:
    ctx = TrickHost().with_trick("vae_gan").game().contexts["vae_gan"]
    mean = torch.linspace(-3, 3, 4000).double().reshape(1000, 4)
    log_variance = torch.linspace(2, -2, 4000).double().reshape(1000, 4)
    z = drawn(mean, log_variance, ctx)
    standard_normal((z - mean) / (log_variance / 2).exp(), "the noise")


# ---------------------------------------------------------------- who learns from what


HOST = TrickHost(reuse_fakes=False)


class Fixed:
    """Draws that are the same at every call."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def normal(self, shape: torch.Size) -> Tensor:
        return self.noise


def of(game) -> Trick:
    return next(planned.trick for planned in game.plan.tricks if planned.name == "vae_gan")


def test_each_player_learns_from_its_own_terms() -> None:
    """E from KL + L_feat, G from γ L_feat and both adversarial losses, against the four written out."""
    game = HOST.with_trick("vae_gan", gamma=0.25).game()
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double()
    game.contexts["vae_gan"].rng = Fixed(noise)
    game.step.d_step()
    d, g, encoder = (copy.deepcopy(network) for network in (game.discriminator, game.generator, of(game).encoder))
    x = game.frame.real.images
    before = [weight.grad.clone() for weight in game.discriminator.parameters()]
    game.step.g_step()

    mean, log_variance = encoder(x).logits.chunk(2, 1)
    again = g(mean + (log_variance / 2).exp() * noise)
    out, real = d(again), d(x)
    features = ((real.features - out.features) ** 2).sum(1).mean() / 2
    divergent = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    fooled = softplus(-out.logits).mean() + softplus(-d(g(game.frame.fake_latents)).logits).mean()
    of_encoder = torch.autograd.grad(divergent + features, [*encoder.parameters()], retain_graph=True)
    of_generator = torch.autograd.grad(0.25 * features + fooled, [*g.parameters()])
    for network, expected in ((of(game).encoder, of_encoder), (game.generator, of_generator)):
        for weight, gradient in zip(network.parameters(), expected, strict=True):
            close(weight.grad, gradient, "a gradient", rtol=1e-8)
    for weight, gradient in zip(game.discriminator.parameters(), before, strict=True):
        assert torch.equal(weight.grad, gradient), "D got a gradient in G's step"


def test_d_judges_reconstructions_as_fakes() -> None:
    game = HOST.with_trick("vae_gan").game()
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double()
    game.contexts["vae_gan"].rng = Fixed(noise)
    d, g, encoder = (copy.deepcopy(network) for network in (game.discriminator, game.generator, of(game).encoder))
    game.step.d_step()
    x, fake = game.frame.real.images, game.frame.fake.images
    mean, log_variance = encoder(x).logits.chunk(2, 1)
    again = g(mean + (log_variance / 2).exp() * noise).detach()
    loss = 2 * softplus(-d(x).logits).mean() + softplus(d(fake).logits).mean() + softplus(d(again).logits).mean()
    expected = torch.autograd.grad(loss, [*d.parameters()])
    for weight, gradient in zip(game.discriminator.parameters(), expected, strict=True):
        close(weight.grad, gradient, "D's gradient")
    assert all(weight.grad is None for weight in (*game.generator.parameters(), *of(game).encoder.parameters()))


def test_features_are_of_the_images_as_they_are() -> None:
    """A decoder that returns the image has no error, whatever D is shown of it."""
    game = HOST.with_trick("instance_noise", sigma=0.5).with_trick("vae_gan").game()
    game.step.d_step()
    real = game.frame.real
    trick = of(game)
    trick._made = lambda z, ctx: real.with_images(real.images + 0 * z.sum())
    game.step.g_step()
    values = game.guard.report()[0]["g"]
    assert values["vae_gan.features"] == 0
    assert values["vae_gan.generator_features"] == 0


def test_with_classes_a_reconstruction_is_made_and_judged_as_one_of_the_class_of_its_image() -> None:
    game = TrickHost(**CONDITIONAL).with_trick("vae_gan").game()
    seen = []
    game.step.d_step()
    game.generator.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    game.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    classes = game.frame.real.classes
    game.step.g_step()
    assert sum(torch.equal(given, classes) for given in seen) == 4  # G, the real batch, and the reconstruction twice
