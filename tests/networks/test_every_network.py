"""Laws of every convolutional network that ships: construction, batch norm, classes, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from every_network import FAMILIES, initialise_leaves_nothing_unfilled, stream
from pydantic import ValidationError

from gantricks.networks.base import Shapes, mixes_samples

EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
CASES = [(family, role) for family in FAMILIES.values() for role in family.roles]
EACH_ROLE = pytest.mark.parametrize(("family", "role"), CASES, ids=[f"{family.name}-{role}" for family, role in CASES])
VARIANTS = [(family, options) for family in FAMILIES.values() for options in family.variants]
BATCH_NORM = pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])


def played(family, images, classes, memory_format=torch.contiguous_format, **options):
    """The networks of a family, the images that its G makes, those given where it has none, and what D says of them."""
    sample, count = tuple(images.shape[1:]), int(classes.max()) + 1
    discriminator = family.build("discriminator", sample=sample, classes=count, **options)
    networks = [discriminator.to(images.dtype, memory_format=memory_format)]
    if "generator" in family.roles:
        shared = {name: value for name, value in options.items() if name != "pool"}
        generator = family.build("generator", sample=sample, classes=count, **shared)
        networks.append(generator.to(images.dtype, memory_format=memory_format))
        images = generator(stream(5).normal((len(images), 5)).to(images.dtype), classes)
        images = images.contiguous(memory_format=memory_format)
    return networks, images, discriminator(images, classes)


# ---------------------------------------------------------------- construction


@EACH_ROLE
def test_meta_construction_leaves_the_global_random_state_alone(family, role):
    before = torch.get_rng_state()
    network = family.on_meta(role, sample=(3, 20, 31), classes=4, conditional=True)
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


@EACH_ROLE
def test_initialise_fills_every_tensor_of_a_network_built_on_meta(family, role):
    network = family.on_meta(role, sample=(3, 32, 32), classes=4, conditional=True, batch_norm=True)
    initialise_leaves_nothing_unfilled(network)


# ---------------------------------------------------------------- batch norm


@EACH_ROLE
@BATCH_NORM
def test_mixes_samples_exactly_with_batch_norm_and_says_so(family, role, batch_norm):
    assert mixes_samples(family.build(role, batch_norm=batch_norm)) == batch_norm
    able = family.network.capabilities(role, family.config(role, batch_norm=batch_norm), Shapes(family.sample, 5))
    assert ("batch_norm" in able) == batch_norm


@EACH
def test_a_discriminator_of_one_block_has_no_batch_norm_and_says_so(family):
    options = {"depth": 1, "batch_norm": True}
    assert not mixes_samples(family.build("discriminator", **options))
    config = family.config("discriminator", **options)
    assert "batch_norm" not in family.network.capabilities("discriminator", config, Shapes(family.sample, 5))


@EACH
def test_without_batch_norm_a_sample_is_judged_and_made_alone(family):
    images = stream(7).normal((3, *family.sample))
    if "generator" in family.roles:
        generator, latents = family.build("generator", batch_norm=False), stream(7).normal((3, 5))
        images = generator(latents)
        torch.testing.assert_close(images[:1], generator(latents[:1]))
    discriminator = family.build("discriminator", batch_norm=False)
    torch.testing.assert_close(discriminator(images).logits[:1], discriminator(images[:1]).logits)


# ---------------------------------------------------------------- classes


@EACH
@BATCH_NORM
def test_the_class_changes_what_a_conditional_network_makes_and_says(family, batch_norm):
    options = {"conditional": True, "classes": 4, "batch_norm": batch_norm}
    images = stream(3).normal((1, *family.sample))
    if "generator" in family.roles:
        generator = family.build("generator", embedding_dim=6, **options).eval()
        images = generator(stream(3).normal((1, 5)).repeat(4, 1), torch.arange(4))
        assert images.abs().max() <= 1
        for other in range(1, 4):
            assert not torch.allclose(images[0], images[other], rtol=0, atol=1e-7)
    discriminator = family.build("discriminator", **options).eval()
    logits = discriminator(images[:1].repeat(4, 1, 1, 1), torch.arange(4)).logits
    assert logits.unique().numel() == 4


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(("family", "options"), VARIANTS, ids=[f"{family.name} {given}" for family, given in VARIANTS])
@pytest.mark.parametrize("channels", [1, 3, 4])
@BATCH_NORM
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_finite_gradient(family, options, channels, batch_norm, dtype):
    images = stream(5).normal((4, channels, 17, 24)).to(dtype)
    options = {"channels": 8, **options, "batch_norm": batch_norm, "conditional": True}
    networks, images, out = played(family, images, torch.tensor([0, 1, 2, 0]), **options)
    assert images.dtype == out.logits.dtype == dtype
    torch.nn.functional.softplus(-out.logits).mean().backward()
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("family", "options"), VARIANTS, ids=[f"{family.name} {given}" for family, given in VARIANTS])
def test_channels_last_gives_the_numbers_of_the_contiguous_format(family, options):
    found = []
    classes = torch.tensor([0, 1, 2, 0])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        images = stream(4).normal((4, 3, 21, 16)).contiguous(memory_format=memory_format)
        networks, images, out = played(family, images, classes, memory_format, conditional=True, **options)
        out.logits.sum().backward()
        gradients = [parameter.grad for network in networks for parameter in network.parameters()]
        found.append([images, out.logits, out.features, *gradients])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- what is refused


@EACH_ROLE
@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ((2,), {}, ["needs images", "vectors of 2 numbers", 'network = "mlp"']),
        ((3, 2, 40), {}, ["2x40", "3 pixels"]),
        ((3, 32, 20), {"depth": 5}, ["depth = 5", "32x20", "depth = 4"]),
        ((3, 32, 32), {"conditional": True}, ["conditional = true", "classes", "conditional = false"]),
    ],
    ids=["vectors", "tiny", "too deep", "no classes"],
)
def test_each_misfit_is_told_in_one_sentence_that_says_what_to_write(family, role, sample, options, words):
    (problem,) = family.network.problems(role, family.config(role, **options), Shapes(sample, 5))
    if sample == (2,):
        assert f"{family.name} needs images" in problem
    for word in words:
        assert word in problem


@EACH_ROLE
def test_options_out_of_bounds_are_refused(family, role):
    for wrong in family.wrong:
        with pytest.raises(ValidationError):
            family.config(role, **wrong)


@EACH_ROLE
def test_every_option_is_described(family, role):
    for name, field in type(family.config(role)).model_fields.items():
        assert field.description, name
