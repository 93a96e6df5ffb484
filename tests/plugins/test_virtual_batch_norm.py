"""Laws of virtual batch norm: one fixed reference, forwarded with the live weights, and no sample sees another."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantricks import Trick, UserError, hookimpl
from gantricks.networks.base import Generator, mixes_samples
from gantricks.plugins.virtual_batch_norm import Reference, VirtualBatchNorm, VirtualNorm, virtual_batch_norm
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, gradient_in, per_channel_affine, samples, surgery
from gantricks.testing.record import same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"reference": 6}, {}),
    "conditional": ({"reference": 6}, CONDITIONAL),
}
OVERRIDES = {"": ["tricks.virtual_batch_norm.reference=4"]}
REFUSED: dict[str, str] = {
    "instance_norm": "generator_batch_norm",
}

MISTAKES = {
    "the reference statistics are frozen": Mistake(
        old="return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)",
        new="""
            n = self.reference
            self.frozen = getattr(self, "frozen", x[:n].detach())
            joined = torch.cat([self.frozen, x[n:]])
            return virtual_batch_norm(joined, n, self.weight, self.bias, self.eps)
        """,
        caught_by="test_new_weights_give_new_reference_statistics",
    ),
    "the reference is detached": Mistake(
        old="moment[:n].mean(0, keepdim=True)",
        new="moment[:n].mean(0, keepdim=True).detach()",
        caught_by=("test_gradients_are_those_of_the_definition_through_the_reference_too", "trace_law"),
    ),
    "live statistics are pooled over the batch": Mistake(
        old="moment[n:] + n * of_reference",
        new="moment[n:].mean(0).expand_as(moment[n:]) + n * of_reference",
        caught_by="test_a_row_depends_on_no_other_live_row",
    ),
    "reference and live batch take turns, call by call": Mistake(
        old="return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)",
        new="""
            self.live = not getattr(self, "live", True)
            if self.live:
                return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
            return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)
        """,
        caught_by="test_a_sample_depends_on_its_own_latents_alone",
    ),
    "the square of the mean is mixed, not the second moment": Mistake(
        old="x.mean(2), x.square().mean(2)",
        new="x.mean(2), x.mean(2).square()",
        caught_by="test_each_row_is_normalised_by_the_definition",
    ),
    "variances are mixed, not second moments": Mistake(
        old="mean, square = (_mixed(moment, reference) for moment in _Moments.apply(wide))",
        new="""
            mean, square = _Moments.apply(wide)
            variance = _mixed(square - mean.square(), reference)
            mean = _mixed(mean, reference)
            square = variance + mean.square()
        """,
        caught_by="test_each_row_is_normalised_by_the_definition",
    ),
    "the variance may round to less than 0": Mistake(
        old="(square - mean.square()).clamp(min=0)",
        new="square - mean.square()",
        caught_by="test_constant_features_stay_finite",
    ),
    "statistics in bfloat16": Mistake(
        old="torch.promote_types(x.dtype, torch.float32)",
        new="x.dtype",
        caught_by="test_statistics_of_bfloat16_are_float32",
    ),
    "statistics are those of the whole batch": Mistake(
        old="moment[:n].mean(0, keepdim=True)",
        new="moment.mean(0, keepdim=True)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Where a batch norm was, each sample is normalised with itself and a reference batch that never changes and that
    gradient flows to; no image depends on the others drawn with it.
    """
    n, game = played.trick(name).config.reference, played.game
    done = surgery(played, name, "generator")
    norms = {place: module for place, module in done.before.items() if isinstance(module, _BatchNorm)}
    assert norms, "G had no batch norm"
    assert done.replaced.keys() == norms.keys()
    latents, classes, condition = samples(played, "generator")
    (kept,) = (tensor for key, tensor in played.start["generator"].items() if key.endswith(".latents"))
    (body,) = flows(played, "generator", [game.generator.body])
    assert torch.equal(body.given[:, : game.generator.latent_dim], torch.cat([kept, latents]))
    assert len(kept) == n

    for (layer, x, y), norm in zip(
        flows(played, "generator", [done.after[place] for place in norms]), norms.values(), strict=True
    ):
        maps = x if x.dim() == 4 else x[..., None, None]
        of_reference = _moments(maps[:n])
        expected = [_normalised(maps[:n], *of_reference, norm)]
        for row in maps[n:].split(1):
            mean, square = (
                (own + n * shared) / (n + 1) for own, shared in zip(_moments(row), of_reference, strict=True)
            )
            expected.append(_normalised(row, mean, square, norm))
        close(y, torch.cat(expected).reshape(y.shape), "normalised rows", rtol=1e-7)
        assert gradient_in(lambda rows, layer=layer: layer(rows)[n:].square().sum(), x)[:n].any(), (
            "a detached reference"
        )

    images = []
    for others in (latents[1:], -latents[1:]):
        game.clock.enter("log")  # noise inside G is the same in both passes
        images.append(game.generator(torch.cat([latents[:1], others]), classes, condition))
    close(images[0][0], images[1][0], "an image beside other images")
    assert not torch.equal(images[0][1:], images[1][1:])


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each map, over all samples (B, C, H, W) together: two (C, 1, 1)."""
    return maps.mean((0, 2, 3))[:, None, None], maps.square().mean((0, 2, 3))[:, None, None]


def _normalised(maps: Tensor, mean: Tensor, square: Tensor, norm: Any) -> Tensor:
    return per_channel_affine((maps - mean) / (square - mean**2 + norm.eps).sqrt(), norm)


IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True}, discriminator={"batch_norm": False})
VECTORS = TrickHost(generator={"batch_norm": True})
CONDITIONAL_HOST = IMAGES.but(classes=3, generator={"batch_norm": True, "conditional": True})
HOSTS = pytest.mark.parametrize(
    "host",
    [
        IMAGES,
        VECTORS,
        CONDITIONAL_HOST,
        VECTORS.but(classes=3, generator={"batch_norm": True, "conditional": True}),
    ],
    ids=["dcgan", "mlp", "dcgan-conditional", "mlp-conditional"],
)
SHAPES = [(), (1, 1), (3, 2), (5,)]


def explicit(x: np.ndarray, n: int, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The definition, row by row."""
    flat = x.reshape(*x.shape[:2], -1)
    out = np.empty_like(flat)
    for channel in range(flat.shape[1]):
        of_reference = flat[:n, channel]
        mean_ref, square_ref = of_reference.mean(), (of_reference**2).mean()
        for row in range(len(flat)):
            mean, square = mean_ref, square_ref
            if row >= n:
                mean = (flat[row, channel].mean() + n * mean_ref) / (n + 1)
                square = ((flat[row, channel] ** 2).mean() + n * square_ref) / (n + 1)
            deviation = np.sqrt(square - mean**2 + eps)
            out[row, channel] = (flat[row, channel] - mean) / deviation * weight[channel] + bias[channel]
    return out.reshape(x.shape)


@st.composite
def inputs(draw, live=st.integers(1, 5), reference=st.integers(2, 6)):
    """Input (N + B, C, ...), N, weight (C,), bias (C,)."""
    n, channels = draw(reference), draw(st.integers(1, 3))
    x = draw(gs.tensors((n + draw(live), channels, *draw(st.sampled_from(SHAPES))), scale=3.0)) + 1
    return x, n, draw(gs.tensors((channels,))), draw(gs.tensors((channels,)))


# ---------------------------------------------------------------- the formula


@given(inputs())
def test_each_row_is_normalised_by_the_definition(given_):
    x, n, weight, bias = given_
    out = virtual_batch_norm(x, n, weight, bias)
    np.testing.assert_allclose(out.numpy(), explicit(x.numpy(), n, weight.numpy(), bias.numpy()), rtol=0, atol=1e-9)


@given(inputs())
def test_the_reference_batch_leaves_as_from_plain_batch_norm(given_):
    x, n, weight, bias = given_
    out = virtual_batch_norm(x, n, weight, bias)[:n]
    plain = nn.functional.batch_norm(x[:n], None, None, weight, bias, training=True)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-9)


@given(inputs(live=st.integers(2, 5)), st.randoms(use_true_random=False))
def test_a_row_depends_on_no_other_live_row(given_, random):
    x, n, weight, bias = given_
    kept = random.randrange(n, len(x))
    other = x + 5
    other[:n], other[kept] = x[:n], x[kept]
    a, b = virtual_batch_norm(x, n, weight, bias), virtual_batch_norm(other, n, weight, bias)
    assert same_bits(a[kept], b[kept])
    assert same_bits(a[:n], b[:n])


@given(inputs(live=st.integers(2, 5)), st.randoms(use_true_random=False))
def test_permuting_live_rows_permutes_what_leaves(given_, random):
    x, n, weight, bias = given_
    order = list(range(n, len(x)))
    random.shuffle(order)
    rows = torch.tensor([*range(n), *order])
    a, b = virtual_batch_norm(x, n, weight, bias)[rows], virtual_batch_norm(x[rows], n, weight, bias)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_reference_is_all_that_counts(shape):
    generator = torch.Generator().manual_seed(4)
    reference, live = (torch.randn((rows, 2, *shape), generator=generator, dtype=torch.float64) for rows in (10, 3))
    dims = [0, *range(2, live.dim())]
    mean, var = reference.mean(dims, keepdim=True), reference.var(dims, correction=0, keepdim=True)
    pure = (live - mean) / (var + 1e-5).sqrt()
    errors = []
    for repeats in (10, 1000):
        x = torch.cat([*[reference] * repeats, live])
        out = virtual_batch_norm(x, 10 * repeats, *torch.tensor([[1.0, 1], [0, 0]], dtype=torch.float64))
        errors.append((out[-3:] - pure).abs().max().item())
    assert errors[1] < 2e-3
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.3)  # it falls as 1 / N


@given(inputs(live=st.just(1)))
def test_a_batch_of_one_works(given_):
    x, n, weight, bias = given_
    assert torch.isfinite(virtual_batch_norm(x, n, weight, bias)).all()


@settings(deadline=None, max_examples=25)
@given(inputs(live=st.integers(1, 2), reference=st.integers(2, 3)))
def test_gradients_are_those_of_the_definition_through_the_reference_too(given_):
    x, n, weight, bias = given_
    w = torch.cos(torch.arange(x.numel(), dtype=torch.float64)).view(x.shape)

    def loss(values: np.ndarray) -> float:
        return float((explicit(values, n, weight.numpy(), bias.numpy(), eps=1e-2) * w.numpy())[n:].sum())

    x.requires_grad_()
    (virtual_batch_norm(x, n, weight, bias, eps=1e-2) * w)[n:].sum().backward()
    numeric = np.zeros(x.shape)
    values = x.detach().numpy().copy()
    for place in np.ndindex(*x.shape):
        step = 1e-5
        values[place] += step
        above = loss(values)
        values[place] -= 2 * step
        numeric[place] = (above - loss(values)) / (2 * step)
        values[place] += step
    np.testing.assert_allclose(x.grad.numpy(), numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_second_gradients_check(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5, 2, *shape), generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: virtual_batch_norm(a[0], 3, *a[1:], eps=1e-2), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *a: virtual_batch_norm(a[0], 3, *a[1:], eps=1e-2), (x, weight, bias))


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_features_stay_finite(shape):
    x = torch.full((6, 2, *shape), 1000.1, dtype=torch.float32, requires_grad=True)  # E[x²] - μ² rounds below 0
    out = virtual_batch_norm(x, 4, torch.ones(2), torch.zeros(2))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    big = torch.linspace(3000.0, 3000.001, 12, dtype=torch.float32).view(6, 2, *[1] * len(shape)).expand(6, 2, *shape)
    assert torch.isfinite(virtual_batch_norm(big, 4, torch.ones(2), torch.zeros(2))).all()


def test_statistics_of_bfloat16_are_float32():
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn((12, 3, 4, 4), generator=generator) + 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = virtual_batch_norm(x, 8, torch.ones(3), torch.zeros(3))
    assert out.dtype == torch.bfloat16
    expected = explicit(x.double().numpy(), 8, np.ones(3), np.zeros(3))
    # half a unit in the last place of what leaves, and no more
    assert np.all(np.abs(out.double().numpy() - expected) <= np.abs(expected) * 2**-8 + 1e-5)


def test_float64_is_not_narrowed():
    x = torch.randn((5, 1, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = virtual_batch_norm(x, 3, torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    np.testing.assert_allclose(out.numpy(), explicit(x.numpy(), 3, np.ones(1), np.zeros(1)), rtol=0, atol=1e-13)


def test_the_memory_layout_is_kept():
    x = torch.randn((5, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last)
    out = virtual_batch_norm(last, 3, torch.ones(4), torch.zeros(4))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, virtual_batch_norm(x, 3, torch.ones(4), torch.zeros(4)))


# ---------------------------------------------------------------- the surgery


def generator_of(host: TrickHost, reference: int = 5, **options) -> Generator:
    return host.with_trick("virtual_batch_norm", reference=reference, **options).game().generator


def reference_of(network: nn.Module) -> Reference:
    (found,) = (module for module in network.modules() if isinstance(module, Reference))
    return found


def drawn(host: TrickHost, count: int = 4) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(9)
    z = torch.randn((count, host.latent_dim), generator=generator, dtype=torch.float64)
    return z, torch.arange(count) % 3 if host.classes else None


@HOSTS
def test_every_batch_norm_is_replaced_and_its_affine_kept(host):
    network, plain = generator_of(host), host.game().generator
    assert not mixes_samples(network)
    norms = {n: m for n, m in plain.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert norms
    for name, norm in norms.items():
        replaced = network.get_submodule(name)
        assert isinstance(replaced, VirtualNorm)
        assert same_bits(replaced.weight, norm.weight)
        assert same_bits(replaced.bias, norm.bias)
    of_plain = {name for name, _ in plain.named_parameters()}
    assert {name for name, _ in network.named_parameters()} == of_plain


@HOSTS
def test_the_generator_is_plain_batch_norm_on_its_reference(host):
    """Every layer, on the reference batch, does what batch norm in training would do on that batch."""
    network, plain = generator_of(host), host.game().generator
    reference = reference_of(network)
    expected = plain.body(plain.inputs(reference.latents, reference.classes))
    seen = []
    reference.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(*drawn(host))
    torch.testing.assert_close(seen[0][:5], expected, rtol=0, atol=1e-9)


@HOSTS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_sample_depends_on_its_own_latents_alone(host, training):
    network = generator_of(host).train(training)
    z, classes = drawn(host)
    images = network(z, classes)
    assert images.shape == (4, *host.sample)
    other = z + 1
    other[2] = z[2]
    assert same_bits(images[2], network(other, classes)[2])
    for row in range(4):  # and on the size of its batch only through rounding
        alone = network(z[row : row + 1], None if classes is None else classes[row : row + 1])
        torch.testing.assert_close(alone[0], images[row], rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    permuted = network(z[order], None if classes is None else classes[order])
    torch.testing.assert_close(permuted, images[order], rtol=0, atol=1e-12)


@HOSTS
def test_eval_computes_what_training_does(host):
    network = generator_of(host)
    z, classes = drawn(host)
    assert same_bits(network.train()(z, classes), network.eval()(z, classes))


def test_classes_may_come_by_keyword():
    network = generator_of(CONDITIONAL_HOST)
    z, classes = drawn(CONDITIONAL_HOST)
    assert same_bits(network(z, classes=classes), network(latents=z, classes=classes))
    assert same_bits(network(z, classes=classes), network(z, classes))


def test_new_weights_give_new_reference_statistics():
    host = IMAGES.with_trick("virtual_batch_norm", reference=5)
    game = host.game()
    plain = IMAGES.game().generator
    leaves = []
    reference = reference_of(game.generator)
    reference.register_forward_pre_hook(lambda module, args: leaves.append(args[0][:5].detach()))
    z, _ = drawn(IMAGES)
    game.generator(z)
    for _ in range(3):
        game.advance()
        game.generator(z)
        plain.load_state_dict(game.generator.state_dict(), strict=False)
        torch.testing.assert_close(leaves[-1], plain.body(reference.latents), rtol=0, atol=1e-9)
    assert not torch.allclose(leaves[0], leaves[-1])


def test_gradient_flows_through_the_reference():
    for network in (generator_of(IMAGES), generator_of(VECTORS)):
        seen = []
        first = next(m for m in network.modules() if isinstance(m, nn.Linear))

        def watch(module: nn.Module, args: tuple, out: Tensor, seen: list = seen) -> None:
            out.register_hook(seen.append)

        first.register_forward_hook(watch)
        for _ in range(2):
            network(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).sum().backward()
        for gradient in seen:
            assert gradient.shape[0] == 5 + 3
            assert (gradient[:5] != 0).any(1).all()
        assert len(seen) == 2


def test_the_reference_is_the_same_throughout_a_run_and_saved_with_it():
    host = CONDITIONAL_HOST.with_trick("virtual_batch_norm", reference=7)
    game = host.game()
    at_start = {k: v for k, v in snapshot(game)["generator"].items() if "virtual_batch_norm" in k}
    assert {k: tuple(v.shape) for k, v in at_start.items()} == {
        "body.virtual_batch_norm_reference.latents": (7, 4),
        "body.virtual_batch_norm_reference.classes": (7,),
    }
    for _ in range(3):
        game.advance()
    for name, value in at_start.items():
        assert same_bits(value, snapshot(game)["generator"][name])
    other = host.but(seed=5).game()
    z, classes = drawn(CONDITIONAL_HOST)
    assert not same_bits(other.generator(z, classes), game.generator(z, classes))
    other.generator.load_state_dict(game.generator.state_dict())
    assert same_bits(other.generator(z, classes), game.generator(z, classes))


def test_a_copy_uses_its_own_weights_and_reference():
    network = generator_of(CONDITIONAL_HOST)
    z, classes = drawn(CONDITIONAL_HOST)
    copy = deepcopy(network)
    assert same_bits(copy(z, classes), network(z, classes))
    before = network(z, classes)
    with torch.no_grad():
        copy.embedding.weight.add_(1)
        for parameter in copy.body.parameters():
            parameter.mul_(1.5)
        reference_of(copy).latents.add_(1)
    assert same_bits(network(z, classes), before)
    explicit_copy = generator_of(CONDITIONAL_HOST)
    explicit_copy.load_state_dict(copy.state_dict())
    assert same_bits(copy(z, classes), explicit_copy(z, classes))
    assert not same_bits(copy(z, classes), before)


class Halved(Trick):
    """Latents in [-½, ½], as another prior would have them."""

    @hookimpl
    def latents(self, z: Tensor) -> Tensor:
        return z.clamp(-0.5, 0.5)


class Rebuilt(Trick):
    """Surgery that makes a new body of the old parts."""

    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        parts = OrderedDict(network.body.named_children())
        network.body = nn.Sequential(OrderedDict(first=nn.Identity(), **parts, last=nn.Identity()))
        return network


@pytest.mark.parametrize("order", [(Halved, "virtual_batch_norm"), ("virtual_batch_norm", Halved)])
def test_the_reference_is_drawn_as_training_draws_latents(order):
    plain = reference_of(VECTORS.with_trick("virtual_batch_norm").game().generator).latents
    assert plain.abs().max() > 0.5
    game = VECTORS.with_trick(order[0]).with_trick(order[1]).game()
    assert same_bits(reference_of(game.generator).latents, plain.clamp(-0.5, 0.5))


class ClassesInLayers(Trick):
    """Surgery that hands the classes of each pass to its layers, as labels at several layers need them."""

    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        def hand_over(module: nn.Module, args: tuple) -> None:
            self.classes = args[1]

        def meet(module: nn.Module, args: tuple) -> None:
            assert len(args[0]) == len(self.classes)

        network.register_forward_pre_hook(hand_over)
        network.body[0].register_forward_pre_hook(meet)
        return network


@pytest.mark.parametrize("order", [(ClassesInLayers, "virtual_batch_norm"), ("virtual_batch_norm", ClassesInLayers)])
def test_layers_that_are_handed_the_classes_get_those_of_the_reference(order):
    CONDITIONAL_HOST.with_trick(order[0]).with_trick(order[1]).train(2)


def test_surgery_after_it_does_not_lose_the_reference():
    host = IMAGES.with_trick("virtual_batch_norm", reference=5)
    z, _ = drawn(IMAGES)
    assert same_bits(host.with_trick(Rebuilt).game().generator(z), host.game().generator(z))


def test_a_run_with_batches_of_one_stays_finite():
    for host in (IMAGES, VECTORS):
        played = host.but(batch_size=1).with_trick("virtual_batch_norm", reference=4).train(3)
        assert played.game.non_finite() is None


# ---------------------------------------------------------------- refusals


def test_a_generator_without_batch_norm_is_refused():
    with pytest.raises(UserError, match="generator_batch_norm"):
        TrickHost(generator={"batch_norm": False}).with_trick("virtual_batch_norm").plan()


def test_a_second_one_is_refused():
    with pytest.raises(UserError, match="replace the same part"):
        VECTORS.with_trick("virtual_batch_norm").with_trick("virtual_batch_norm", "again").plan()


class NormInHead(Trick):
    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        network.head = nn.Sequential(nn.BatchNorm1d(8), network.head)
        return network


def test_batch_norm_that_it_cannot_replace_is_refused():
    with pytest.raises(UserError, match="cannot replace"):
        VECTORS.with_trick(NormInHead).with_trick("virtual_batch_norm").game()


@pytest.mark.parametrize("wrong", [0, 1, 4097, 2.5])
def test_reference_sizes_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        VirtualBatchNorm.Config(reference=wrong)
