"""Laws of the fully connected pair: vectors and images, classes, initial scale."""

from __future__ import annotations

import math

import pytest
import torch
from every_network import initialise_leaves_nothing_unfilled
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks.networks.base import Discriminator, Generator, Shapes, initialise, mixes_samples
from gantricks.networks.mlp import ACTIVATIONS, MLP, Maxout
from gantricks.rng import Clock, Rng

ROLES = ["generator", "discriminator"]


def stream(seed: int = 0, name: str = "net") -> Rng:
    return Rng(seed, name, Clock())


def config_of(role: str, **options):
    kind = MLP.GeneratorConfig if role == "generator" else MLP.DiscriminatorConfig
    return kind(**{"hidden": [12, 9], **options})


def build(role: str, sample=(2,), classes=0, seed=0, latent_dim=5, **options):
    shapes = Shapes(sample, latent_dim, classes)
    with torch.device("meta"):
        network = getattr(MLP, role)(config_of(role, **options), shapes)
    network.to_empty(device="cpu")
    initialise(network, stream(seed, role))
    return network


def pair(**options) -> tuple[Generator, Discriminator]:
    return build("generator", **options), build("discriminator", **options)


SAMPLES = st.tuples(st.integers(1, 9)) | st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


@settings(deadline=None, max_examples=25)
@given(
    SAMPLES,
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([*sorted(ACTIVATIONS), "maxout"]),
    st.booleans(),
)
def test_samples_have_the_shape_of_the_data_and_features_the_last_width(sample, hidden, activation, batch_norm):
    generator, discriminator = pair(sample=sample, hidden=hidden, activation=activation, batch_norm=batch_norm)
    images = generator(stream(1).normal((3, 5)))
    out = discriminator(images)
    assert images.shape == (3, *sample)
    assert out.logits.shape == (3, 1)
    assert out.features.shape == (3, hidden[-1]) == (3, discriminator.feature_dim)
    assert torch.isfinite(out.logits).all()


def test_vectors_are_not_squashed_and_images_are():
    latents = stream(1).normal((4, 5)) * 1e3
    assert build("generator", sample=(2,))(latents).abs().max() > 10
    images = build("generator", sample=(1, 4, 4))(latents)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_pair_computes_alternating_affine_maps_and_activations(activation):
    by_hand = {
        "relu": lambda x: x.clamp(min=0),
        "leaky": lambda x: torch.where(x > 0, x, 0.2 * x),
        "tanh": torch.tanh,
        "softplus": lambda x: torch.log1p(torch.exp(x)),
    }[activation]
    for network in pair(sample=(2, 3, 4), activation=activation):
        network.double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1)  # biases that count
        role = "generator" if isinstance(network, Generator) else "discriminator"
        inputs = stream(2).normal((6, 5) if role == "generator" else (6, 2, 3, 4)).double()
        hidden = inputs.reshape(6, -1)
        for name in ("hidden1", "hidden2"):
            linear = getattr(network.body, name).linear
            hidden = by_hand(hidden @ linear.weight.T + linear.bias)
        last = network.head.linear if role == "generator" else network.head
        expected = hidden @ last.weight.T + last.bias
        if role == "generator":
            torch.testing.assert_close(network(inputs), torch.tanh(expected).reshape(6, 2, 3, 4))
        else:
            torch.testing.assert_close(network(inputs).logits, expected)
            torch.testing.assert_close(network(inputs).features, hidden)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 7))
def test_maxout_is_the_largest_of_each_few_numbers_in_a_row(size, width, pieces):
    x = stream(size).normal((size, width * pieces))
    expected = [[max(row[a * pieces : (a + 1) * pieces].tolist()) for a in range(width)] for row in x]
    assert Maxout(pieces)(x).tolist() == expected


def test_maxout_passes_the_gradient_to_the_largest_piece_alone():
    x = torch.tensor([[1.0, 3.0, 2.0, -4.0, -5.0, -6.0]], requires_grad=True)
    Maxout(3)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 0, 1, 0, 0]]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_with_maxout_each_number_is_the_largest_of_as_many_affine_maps(batch_norm):
    for network in pair(activation="maxout", pieces=3, batch_norm=batch_norm):
        network.double().eval()
        role = "generator" if isinstance(network, Generator) else "discriminator"
        hidden = inputs = stream(2).normal((6, 5 if role == "generator" else 2)).double()
        for block, width in ((network.body.hidden1, 12), (network.body.hidden2, 9)):
            assert block.linear.weight.shape == (width * 3, hidden.shape[1])
            maps = block.norm(block.linear(hidden)) if hasattr(block, "norm") else block.linear(hidden)
            hidden = torch.stack([maps[:, piece::3] for piece in range(3)]).max(0).values
        last = network.head.linear if role == "generator" else network.head
        expected = hidden @ last.weight.T + last.bias
        found = network(inputs) if role == "generator" else network(inputs).logits
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("role", ROLES)
def test_pieces_without_maxout_are_refused_and_with_it_heeded(role):
    with pytest.raises(ValidationError, match='pieces does nothing with activation = "relu"'):
        config_of(role, pieces=3)
    assert config_of(role, activation="maxout").pieces == 5
    for wrong in (1, 65):
        with pytest.raises(ValidationError):
            config_of(role, activation="maxout", pieces=wrong)


@pytest.mark.parametrize("role", ROLES)
def test_all_weights_start_with_the_standard_deviation_that_is_asked_for(role):
    network = build(role, sample=(200,), latent_dim=200, hidden=[300, 400], init_std=0.02)
    last = network.head.linear if role == "generator" else network.head
    for linear in (network.body.hidden1.linear, network.body.hidden2.linear, last):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03 if linear.weight.numel() > 400 else 0.15)
        assert not linear.bias.any()


@pytest.mark.parametrize("wrong", [0.0, -0.02, 11.0, float("nan")])
def test_a_standard_deviation_that_is_none_is_refused(wrong):
    with pytest.raises(ValidationError):
        config_of("generator", init_std=wrong)


def test_blocks_are_sequences_of_named_layers_that_surgery_can_walk():
    generator, discriminator = pair(sample=(1, 4, 4), batch_norm=True)
    assert [name for name, _ in generator.body.named_children()] == ["hidden1", "hidden2"]
    assert [name for name, _ in discriminator.body.named_children()] == ["flatten", "hidden1", "hidden2"]
    for network in (generator, discriminator):
        assert [name for name, _ in network.body.hidden2.named_children()] == ["linear", "norm", "activation"]
    assert [name for name, _ in generator.head.named_children()] == ["linear", "unflatten", "activation"]
    assert [name for name, _ in build("generator").head.named_children()] == ["linear"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_mixes_samples_exactly_with_batch_norm_and_then_layers_have_no_bias(role, batch_norm):
    network = build(role, batch_norm=batch_norm)
    assert mixes_samples(network) == batch_norm
    first_norm = batch_norm and role == "generator"
    for block, norm in ((network.body.hidden1, first_norm), (network.body.hidden2, batch_norm)):
        assert hasattr(block, "norm") == norm
        assert (block.linear.bias is None) == norm
    assert MLP.capabilities(role, config_of(role, batch_norm=batch_norm), Shapes((2,), 5, 3)) == (
        {"batch_norm"} if batch_norm else set()
    )


def test_a_discriminator_of_one_hidden_layer_has_no_batch_norm_and_says_so():
    options = {"hidden": [8], "batch_norm": True}
    assert not mixes_samples(build("discriminator", **options))
    assert MLP.capabilities("discriminator", config_of("discriminator", **options), Shapes((2,), 5, 3)) == set()


def test_a_discriminator_with_batch_norm_still_sees_the_mean_of_a_batch():
    network = build("discriminator", batch_norm=True)
    images = stream(1).normal((8, 2))
    assert not torch.allclose(network(images).logits, network(images + 1).logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("role", ROLES)
def test_meta_construction_leaves_the_global_random_state_alone(role):
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = getattr(MLP, role)(config_of(role, conditional=True, batch_norm=True), Shapes((2,), 5, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


@pytest.mark.parametrize("role", ROLES)
def test_initialise_fills_every_tensor_of_a_network_built_on_meta(role):
    with torch.device("meta"):
        network = getattr(MLP, role)(config_of(role, conditional=True, batch_norm=True), Shapes((2,), 5, 4))
    initialise_leaves_nothing_unfilled(network)


@pytest.mark.parametrize("role", ROLES)
def test_hidden_weights_start_at_he_scale_and_output_weights_at_half_its_variance(role):
    network = build(role, sample=(200,), latent_dim=200, hidden=[300, 400])
    first, second = network.body.hidden1.linear, network.body.hidden2.linear
    assert first.weight.var().item() == pytest.approx(2 / 200, rel=0.05)
    assert second.weight.var().item() == pytest.approx(2 / 300, rel=0.05)
    last = network.head.linear if role == "generator" else network.head
    assert last.weight.var().item() == pytest.approx(1 / 400, rel=0.05 if role == "generator" else 0.2)


@settings(max_examples=10)
@given(st.floats(0.01, 2))
def test_init_std_is_the_scale_of_every_weight_and_the_numbers_are_those_drawn_without_it(std):
    for role in ROLES:
        scaled, plain = (build(role, hidden=[40, 30], **options) for options in ({"init_std": std}, {}))
        for name, weight in scaled.named_parameters():
            if name.endswith("weight"):
                ratio = weight / plain.get_parameter(name)
                torch.testing.assert_close(
                    ratio, torch.full_like(ratio, ratio.detach().flatten()[0].item()), rtol=1e-4, atol=0
                )
                # a standard deviation of n numbers is itself off by 1/√(2n) of it, more or less
                assert weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * weight.numel()))


def test_a_sigmoid_at_the_output_fills_the_range_of_images():
    generator, plain = build("generator", sample=(1, 3, 3), output="sigmoid"), build("generator", sample=(1, 3, 3))
    z = stream().normal((4, 5))
    before = generator.head.linear(generator.body(z)).view(4, 1, 3, 3)
    torch.testing.assert_close(generator(z), 2 * torch.sigmoid(before) - 1)
    torch.testing.assert_close(plain(z), torch.tanh(before))
    assert list(generator.state_dict()) == list(plain.state_dict())


def test_in_unit_range_d_is_shown_zeros_where_pixels_are_black():
    network, plain = build("discriminator", sample=(1, 3, 3), unit_range=True), build("discriminator", sample=(1, 3, 3))
    images = torch.tanh(stream().normal((4, 1, 3, 3)))
    assert torch.equal(network.body[:2](-torch.ones_like(images)), torch.zeros(4, 9))
    torch.testing.assert_close(network(images).logits, plain((images + 1) / 2).logits)
    assert list(network.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("width", [16, 512])
def test_the_signal_neither_fades_nor_grows_with_depth(width):
    network = build("discriminator", sample=(width,), hidden=[width] * 12)
    with torch.no_grad():
        features = network(stream(3).normal((256, width))).features
    assert 0.05 < features.square().mean() < 20


@pytest.mark.parametrize("role", ROLES)
def test_a_deeper_network_starts_with_the_same_values_in_the_layers_both_have(role):
    shallow, deep = build(role, hidden=[8, 8]), build(role, hidden=[8, 8, 8])
    for name, tensor in shallow.state_dict().items():
        assert torch.equal(tensor, deep.state_dict()[name]), name


def test_the_class_changes_what_a_conditional_generator_makes():
    generator = build("generator", conditional=True, classes=4, embedding_dim=3)
    samples = generator(stream(3).normal((1, 5)).repeat(4, 1), torch.arange(4))
    assert samples.unique(dim=0).shape[0] == 4
    assert generator.body.hidden1.linear.in_features == 5 + 3


def test_the_class_changes_a_conditional_discriminators_logit_by_the_projection_alone():
    network = build("discriminator", conditional=True, classes=4).double()
    out = network(stream(3).normal((1, 2)).double().repeat(4, 1), torch.arange(4))
    plain = torch.einsum("ba,a->b", out.features, network.head.weight[0]) + network.head.bias
    projected = torch.einsum("ka,ka->k", network.projection.weight, out.features)
    torch.testing.assert_close(out.logits[:, 0], plain + projected)
    assert out.logits.unique().numel() == 4


def test_channels_last_images_give_the_numbers_of_contiguous_ones():
    network = build("discriminator", sample=(3, 6, 5))
    images = stream(4).normal((4, 3, 6, 5))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(channels_last).logits, network(images).logits)


@pytest.mark.parametrize("sample", [(1,), (2,), (1, 5, 4), (4, 3, 6)])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_finite_gradient(sample, batch_norm, dtype):
    generator, discriminator = pair(sample=sample, batch_norm=batch_norm, conditional=True, classes=3)
    generator.to(dtype), discriminator.to(dtype)
    classes = torch.arange(12) % 3
    out = discriminator(generator(stream(5).normal((12, 5)).to(dtype), classes), classes)
    assert out.logits.dtype == dtype
    torch.nn.functional.softplus(-out.logits).mean().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_a_batch_of_one_works_without_batch_norm_and_in_evaluation_with_it():
    for batch_norm in (False, True):
        generator, discriminator = pair(batch_norm=batch_norm)
        if batch_norm:
            generator.eval(), discriminator.eval()
        out = discriminator(generator(stream(6).normal((1, 5))))
        assert out.logits.shape == (1, 1)
        assert torch.isfinite(out.logits).all()


@pytest.mark.parametrize("role", ROLES)
def test_conditional_without_classes_is_told_in_one_sentence_that_says_what_to_write(role):
    config = config_of(role, conditional=True)
    (problem,) = MLP.problems(role, config, Shapes((2,), 5))
    assert "conditional = true" in problem
    assert "conditional = false" in problem
    assert MLP.problems(role, config, Shapes((2,), 5, 3)) == []
    assert "conditional" in MLP.capabilities(role, config, Shapes((2,), 5, 3))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sample", [(1,), (2,), (1, 1, 1), (3, 17, 40)])
def test_any_data_fits(role, sample):
    assert MLP.problems(role, config_of(role), Shapes(sample, 5)) == []


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "options",
    [
        {"hidden": []},
        {"hidden": [0]},
        {"hidden": [8193]},
        {"hidden": [4] * 17},
        {"activation": "gelu"},
        {"widths": [3]},
    ],
)
def test_options_out_of_bounds_are_refused(role, options):
    with pytest.raises(ValidationError):
        config_of(role, **options)


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described(role):
    for name, field in type(config_of(role)).model_fields.items():
        assert field.description, name


def test_activations_offered_are_those_that_exist():
    schema = MLP.GeneratorConfig.model_json_schema()
    assert set(schema["properties"]["activation"]["enum"]) == {*ACTIVATIONS, "maxout"}
    assert all(isinstance(make(), nn.Module) for make in ACTIVATIONS.values())


def test_without_a_gain_batch_norm_learns_a_bias_alone():
    for network in pair(batch_norm=True, batch_norm_gain=False, hidden=(5, 5)):
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm1d)]
        assert norms
        for norm in norms:
            assert torch.equal(norm.weight, torch.ones_like(norm.weight))
            assert not norm.weight.requires_grad
            assert norm.bias.requires_grad


def test_a_gain_without_batch_norm_is_a_mistake():
    with pytest.raises(ValueError, match="batch_norm_gain does nothing"):
        build("generator", batch_norm_gain=False)
