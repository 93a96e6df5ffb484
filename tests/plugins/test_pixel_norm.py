"""Laws of pixel norm: mean square 1 at each pixel, the length of a pixel is erased, pixels and samples are alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantricks import Generator, Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.engine.capture import INDUCTOR, CapturedStep
from gantricks.networks.base import mixes_samples
from gantricks.plugins.pixel_norm import Bias, PixelNorm, PixelwiseNorm, pixel_norm
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, samples, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "batch norm": ({}, {"sample": (1, 8, 8), "generator": {"batch_norm": True, "depth": 2}}),
    "conditional": ({"latents": True}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {
    "instance_norm": "replace the same part, generator_batch_norm",
    "virtual_batch_norm": "replace the same part, generator_batch_norm",
}

MISTAKES = {
    "the squares are added and not averaged": Mistake(
        old="wide.square().mean(1, keepdim=True)",
        new="wide.square().sum(1, keepdim=True)",
        caught_by=("test_the_norm_is_the_definition", "trace_law"),
    ),
    "the mean is over the whole map: the norm of a layer, not of a pixel": Mistake(
        old="wide.square().mean(1, keepdim=True)",
        new="wide.square().mean([*range(1, wide.dim())], keepdim=True)",
        caught_by=("test_the_norm_is_the_definition", "trace_law[batch norm]"),
    ),
    "a mean is taken off first": Mistake(
        old="wide.square().mean(1, keepdim=True)",
        new="wide.var(1, correction=0, keepdim=True)",
        caught_by=("test_the_norm_is_the_definition", "trace_law"),
    ),
    "without epsilon a pixel of zeros is not a number": Mistake(
        old="EPSILON",
        new="0",
        inside="pixel_norm",
        caught_by="test_a_pixel_of_zeros_stays_zero_and_has_a_finite_gradient",
    ),
    "batch norm stays": Mistake(
        old="network.set_submodule(place, Bias(norm.bias) if norm.affine else nn.Identity())",
        new="pass",
        caught_by=("test_each_batch_norm_leaves_its_bias", "trace_law[batch norm]"),
    ),
    "the norm comes before the activation": Mistake(
        old="OrderedDict[str, nn.Module](activation=activation, pixel_norm=PixelwiseNorm())",
        new="OrderedDict[str, nn.Module](pixel_norm=PixelwiseNorm(), activation=activation)",
        caught_by=("test_every_hidden_vector_has_a_mean_square_of_one", "trace_law"),
    ),
    "the bias of batch norm is lost": Mistake(
        old="x + self.bias.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))",
        new="x",
        caught_by="trace_law[batch norm]",
    ),
}


def explicit(x: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel: x (B, C, N)."""
    out = np.empty_like(x)
    for sample, pixel in np.ndindex(len(x), x.shape[2]):
        a = x[sample, :, pixel]
        out[sample, :, pixel] = a / np.sqrt((a**2).sum() / len(a) + 1e-8)
    return out


def is_activation(place: str) -> bool:
    return place.startswith("body.") and place.rpartition(".")[2].rstrip("0123456789") == "activation"


@torch.no_grad()
def trace_law(played: Played, name: str) -> None:
    """Each activation of G's body hands on pixels over the root of their mean square; no batch norm is left in G."""
    done = surgery(played, name, "generator")
    places = [place for place in done.before if is_activation(place)]
    assert places
    norms = [place for place, module in done.before.items() if isinstance(module, _BatchNorm)]
    assert done.replaced.keys() == {*places, *norms}
    assert not any(isinstance(module, _BatchNorm) for module in played.game.generator.modules())
    for place in places:
        whole, norm = flows(played, "generator", [done.after[place], done.after[place].pixel_norm])
        assert same_bits(whole.result, norm.result), "something follows the norm"
        x = norm.given.flatten(2) if norm.given.dim() > 2 else norm.given[:, :, None]
        close(norm.result.reshape(x.shape), torch.from_numpy(explicit(x.numpy())), "the normalised pixels")
    for _, x, y in flows(played, "generator", [done.after[place] for place in norms]):
        shift = (y - x).transpose(0, 1).flatten(1)
        assert torch.allclose(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-12)
    biases = [done.after[place].bias for place in norms if done.after[place].bias.requires_grad]
    assert not biases or any(bias.any() for bias in biases), "no bias has learned"
    if played.trick(name).config.latents:
        for call in played.of(name, "latents"):
            z = call.arguments[0].numpy()
            expected = torch.from_numpy(explicit(z[:, :, None])[:, :, 0])
            close(call.result, expected, "latents")


VECTORS = TrickHost()
IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True, "depth": 2})
NETWORKS = {
    "mlp": VECTORS,
    "mlp-maxout-batch-norm": VECTORS.but(generator={"activation": "maxout", "batch_norm": True}),
    "dcgan": IMAGES.but(generator={"batch_norm": False, "depth": 2}),
    "dcgan-batch-norm": IMAGES,
    "resnet": IMAGES.but(generator={"network": "resnet", "batch_norm": True, "depth": 2}),
    "r3": IMAGES.but(generator={"network": "r3", "depth": 2}),
    "style": IMAGES.but(generator={"network": "style", "style_dim": 4, "mapping_layers": 2, "depth": 2}),
}
HOSTS = pytest.mark.parametrize("host", NETWORKS.values(), ids=NETWORKS)


def norms_of(network: nn.Module) -> dict[str, PixelwiseNorm]:
    return {name: module for name, module in network.named_modules() if isinstance(module, PixelwiseNorm)}


@st.composite
def maps(draw, scales=(1e-3, 1.0, 1e3)):
    """Maps (B, C), (B, C, L) or (B, C, H, W) in float64."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 6)), *draw(st.lists(st.integers(1, 4), max_size=2))
    return draw(gs.tensors(shape, scale=draw(st.sampled_from(scales))))


# ---------------------------------------------------------------- the formula


@given(maps())
def test_the_norm_is_the_definition(x):
    expected = explicit(x.reshape(*x.shape[:2], -1).numpy()).reshape(x.shape)
    np.testing.assert_allclose(pixel_norm(x).numpy(), expected, rtol=1e-12)


@given(maps(scales=(1.0, 1e3)))
def test_every_pixel_has_a_mean_square_of_one_up_to_epsilon(x):
    square = x.square().mean(1)
    torch.testing.assert_close(pixel_norm(x).square().mean(1), square / (square + 1e-8))
    assert (pixel_norm(x).square().mean(1) <= 1).all()


@given(maps(scales=(1e2, 1e4)), st.floats(0.5, 1e3))
def test_the_length_of_a_pixel_is_erased_and_its_direction_kept(x, factor):
    x = x + x.sign()  # no pixel near 0, where epsilon counts
    torch.testing.assert_close(pixel_norm(factor * x), pixel_norm(x), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(pixel_norm(-x), -pixel_norm(x))


@given(maps(), st.data())
def test_pixels_and_samples_are_alone(x, data):
    index = tuple(data.draw(st.integers(0, n - 1)) for n in (len(x), *x.shape[2:]))
    where = (index[0], slice(None), *index[1:])
    other = 3 * x.flip(0) + 1
    other[where] = x[where]
    torch.testing.assert_close(pixel_norm(other)[where], pixel_norm(x)[where], rtol=1e-12, atol=0)


@given(maps(), st.randoms(use_true_random=False))
def test_no_map_is_special(x, random):
    order = list(range(x.shape[1]))
    random.shuffle(order)
    torch.testing.assert_close(pixel_norm(x[:, order]), pixel_norm(x)[:, order])


def test_a_pixel_of_zeros_stays_zero_and_has_a_finite_gradient():
    x = torch.zeros((2, 3, 2, 2), dtype=torch.float64, requires_grad=True)
    out = pixel_norm(x)
    assert not out.detach().any()
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_gradients_check_and_can_be_differentiated():
    x = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pixel_norm, (x,))
    assert torch.autograd.gradgradcheck(pixel_norm, (x,))


@pytest.mark.parametrize("autocast", [False, True])
def test_sums_of_narrow_types_are_wider(autocast):
    x = 100 * torch.randn((2, 512, 3, 3), generator=torch.Generator().manual_seed(0))
    for narrow in (x.bfloat16(), x.half()):  # the squares are beyond what float16 can hold
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = pixel_norm(narrow)
        assert out.dtype == narrow.dtype
        torch.testing.assert_close(out.double(), pixel_norm(narrow.double()), rtol=2**-8, atol=1e-6)


# ---------------------------------------------------------------- in the generator


@HOSTS
def test_every_hidden_vector_has_a_mean_square_of_one(host):
    played, plain = host.with_trick("pixel_norm").train(2), host.game().generator
    activations = [name for name, _ in plain.named_modules() if is_activation(name)]
    assert activations
    network = played.game.generator
    assert [*norms_of(network)] == [f"{name}.pixel_norm" for name in activations]
    for training in (True, False):
        for flow in flows(played, "generator", [network.get_submodule(name) for name in activations], training):
            square = flow.result.detach().square().mean(1)
            assert square.max() == pytest.approx(1, rel=1e-3)
            # a pixel all of whose units are off stays at 0
            assert ((square - 1).abs().lt(1e-3) | square.lt(1e-3)).double().mean() > 0.95


@HOSTS
def test_no_weight_is_added_or_changed_at_the_start_and_d_is_left_alone(host):
    game, plain = host.with_trick("pixel_norm").game(), host.game()
    before = {name: value for name, value in plain.generator.named_parameters() if not name.endswith("norm.weight")}
    after = dict(game.generator.named_parameters())
    assert after.keys() == before.keys()
    assert all(same_bits(value, before[name]) for name, value in after.items())
    assert not norms_of(game.discriminator)


@pytest.mark.parametrize("host", [NETWORKS[n] for n in ("mlp-maxout-batch-norm", "dcgan-batch-norm", "resnet")])
def test_each_batch_norm_leaves_its_bias(host):
    game, plain = host.with_trick("pixel_norm").game(), host.game()
    norms = {name: module for name, module in plain.generator.named_modules() if isinstance(module, _BatchNorm)}
    assert norms
    for name in norms:
        left = game.generator.get_submodule(name)
        assert isinstance(left, Bias)
        assert left.bias.requires_grad
    assert not mixes_samples(game.generator)
    assert host.but(batch_size=1).with_trick("pixel_norm").train(3).game.non_finite() is None


@given(st.sampled_from([(2, 3), (2, 3, 4), (2, 3, 4, 5)]), st.data())
def test_the_bias_is_one_number_for_each_map(shape, data):
    x, bias = data.draw(gs.tensors(shape)), data.draw(gs.tensors((3,)))
    out = Bias(nn.Parameter(bias))(x).detach()
    for channel in range(3):
        torch.testing.assert_close(out[:, channel], x[:, channel] + bias[channel])


@HOSTS
def test_a_sample_is_made_alone(host):
    played = host.with_trick("pixel_norm").train(2)
    network, (z, *_) = played.game.generator.eval(), samples(played, "generator")
    other = z + 1
    other[2] = z[2]
    torch.testing.assert_close(network(other)[2], network(z)[2], rtol=0, atol=1e-12)


@HOSTS
def test_it_plays_in_bfloat16(host):
    assert host.but(precision="bf16").with_trick("pixel_norm").train(3).game.non_finite() is None


@pytest.mark.parametrize("latents", [False, True])
def test_latents_are_normalised_where_wanted_in_training_and_in_sampling(latents):
    played = IMAGES.with_trick("pixel_norm", latents=latents).train(2)
    given = []
    handle = played.game.generator.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    sampling.sample(played.game, 5, seed=0)
    handle.remove()
    given += [phase.fake_latents for phase in played.phases]
    for z in given:
        unit = torch.ones(len(z), dtype=z.dtype)
        assert torch.allclose(z.square().mean(1), unit, rtol=0, atol=1e-5) == latents


def test_beside_latents_on_a_sphere_those_that_are_normalised_are_refused():
    host = VECTORS.with_trick("spherical_latents")
    host.with_trick("pixel_norm").plan()
    with pytest.raises(UserError, match="replace the same part, latent_distribution"):
        host.with_trick("pixel_norm", latents=True).plan()


@pytest.mark.slow
@pytest.mark.parametrize("host", [IMAGES, NETWORKS["resnet"]], ids=["dcgan", "resnet"])
def test_the_step_compiles(host):
    CapturedStep(host.but(precision="fp32").with_trick("pixel_norm", latents=True).game(), INDUCTOR)()


# ---------------------------------------------------------------- what is refused


class Linear(Trick):
    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        network.body = nn.Sequential(nn.Sequential(nn.Linear(4, 8).double()))
        with torch.no_grad():
            network.body[0][0].weight.fill_(1)
        return network


def test_a_generator_without_activations_is_refused():
    with pytest.raises(UserError, match="no activation in its body"):
        VECTORS.with_trick(Linear).with_trick("pixel_norm").game()


def test_twice_is_refused():
    with pytest.raises(UserError, match="replace the same part"):
        VECTORS.with_trick("pixel_norm").with_trick("pixel_norm", "again").plan()


def test_options_out_of_bounds_are_refused():
    with pytest.raises(ValidationError):
        PixelNorm.Config(latents="both")
