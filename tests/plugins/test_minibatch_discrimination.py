"""Laws of minibatch discrimination: the similarity's formula and bounds, what it costs, what D is at the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gantricks import Discriminator, Trick, UserError, hookimpl
from gantricks.networks.base import mixes_samples
from gantricks.plugins.minibatch_discrimination import (
    MinibatchDiscrimination,
    Similarity,
    distances,
    initial_scale,
    similarity,
)
from gantricks.testing import TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.host import same_bits, snapshot

VECTORS = TrickHost().with_trick("separate_batches")
IMAGES = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": False}).with_trick("separate_batches")
HOSTS = pytest.mark.parametrize(
    "host",
    [
        VECTORS,
        IMAGES,
        IMAGES.but(sample=(3, 16, 16), discriminator={"batch_norm": True}),
        VECTORS.but(classes=3, generator={"conditional": True}, discriminator={"conditional": True}),
        VECTORS.but(sample=(1, 8, 8), precision="fp32"),
    ],
    ids=["mlp", "dcgan", "dcgan-batch-norm", "mlp-conditional", "dcgan-fp32"],
)


def explicit(m: np.ndarray, include_self: bool = False) -> np.ndarray:
    """The definition, pair by pair."""
    out = np.zeros(m.shape[:2])
    for i in range(len(m)):
        for j in range(len(m)):
            if i != j or include_self:
                out[i] += np.exp(-np.abs(m[i] - m[j]).sum(1))
    return out


@st.composite
def projections(draw, sizes=st.integers(1, 7)):
    """M: (B, K, C)."""
    shape = (draw(sizes), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    return draw(gs.tensors(shape, scale=draw(st.sampled_from([0.01, 0.5, 20.0]))))


# ---------------------------------------------------------------- the formula


@given(projections())
def test_similarity_is_the_definition(m):
    np.testing.assert_allclose(similarity(m).numpy(), explicit(m.numpy()), rtol=0, atol=1e-12)


@given(projections())
def test_self_is_excluded(m):
    np.testing.assert_allclose(
        explicit(m.numpy(), include_self=True) - similarity(m).numpy(), np.ones(m.shape[:2]), rtol=0, atol=1e-12
    )


@given(projections(), st.sampled_from([torch.float32, torch.float64]))
def test_similarity_is_between_0_and_the_number_of_others(m, dtype):
    o = similarity(m.to(dtype))
    assert (o >= 0).all()
    assert (o <= len(m) - 1).all()


@given(projections())
def test_identical_rows_count_every_other_sample(m):
    same = m[:1].expand_as(m)
    assert torch.equal(similarity(same), torch.full(m.shape[:2], len(m) - 1, dtype=m.dtype))


@given(projections(sizes=st.just(1)))
def test_a_batch_of_one_has_no_similarity(m):
    assert torch.equal(similarity(m), torch.zeros_like(m[..., 0]))


@given(projections(), st.randoms(use_true_random=False))
def test_permuting_samples_permutes_what_leaves(m, random):
    order = list(range(len(m)))
    random.shuffle(order)
    torch.testing.assert_close(similarity(m)[order], similarity(m[order]), rtol=0, atol=1e-12)


@given(projections(), gs.tensors((1, 1, 1), scale=3.0))
def test_a_shift_of_all_projections_changes_nothing(m, shift):
    torch.testing.assert_close(similarity(m + shift), similarity(m), rtol=0, atol=1e-10)


@given(projections(sizes=st.integers(2, 6)))
def test_gradient_is_that_of_the_definition(m):
    weights = torch.cos(torch.arange(m.shape[0] * m.shape[1], dtype=torch.float64)).view(m.shape[:2])
    m.requires_grad_()
    (weights * similarity(m)).sum().backward()
    values, w = m.detach().numpy(), weights.numpy()
    expected = np.zeros(values.shape)
    for i in range(len(values)):
        for j in range(len(values)):
            difference = values[i] - values[j]
            near = np.exp(-np.abs(difference).sum(1))
            expected[i] -= ((w[i] + w[j]) * near)[:, None] * np.sign(difference) * (i != j)
    np.testing.assert_allclose(m.grad.numpy(), expected, rtol=0, atol=1e-10)


def test_second_gradients_check():
    """Gradient penalties differentiate D's gradient, and torch.cdist alone refuses."""
    m = torch.randn((4, 3, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(similarity, m)
    assert torch.autograd.gradgradcheck(similarity, m)


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_gradient_is_zero_and_finite_where_samples_coincide(create_graph):
    m = torch.randn((1, 3, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1)
    m.requires_grad_()
    (gradient,) = torch.autograd.grad(similarity(m).sum(), m, create_graph=create_graph)
    assert torch.equal(gradient, torch.zeros_like(m))


@given(projections(sizes=st.integers(2, 6)))
def test_both_ways_to_the_gradient_agree(m):
    m.requires_grad_()
    weights = torch.cos(torch.arange(m.shape[0] * m.shape[1], dtype=torch.float64)).view(m.shape[:2])
    once, twice = (
        torch.autograd.grad((weights * similarity(m)).sum(), m, create_graph=create)[0] for create in (False, True)
    )
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- precision and memory


def test_distances_are_float32_under_bfloat16():
    generator = torch.Generator().manual_seed(0)
    layer = Similarity(6, 4, 3)
    with torch.no_grad():
        layer.weight.copy_(0.1 * torch.randn((6, 4, 3), generator=generator))
    # far from 0 and close to each other: bfloat16 would call many of these projections the same
    features = (torch.randn((8, 6), generator=generator) + 40).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(features)
        assert distances(layer.project(features)).dtype == torch.float32
    m = np.einsum("ba,akc->bkc", features.double().numpy(), layer.weight.detach().double().numpy())
    assert out.dtype == torch.bfloat16
    np.testing.assert_allclose(out[:, 6:].float().detach().numpy(), explicit(m), rtol=2**-8, atol=1e-4)
    assert similarity(torch.zeros(3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert similarity(torch.zeros(3, 2, 2, dtype=torch.float64)).dtype == torch.float64


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns, in numbers."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_memory_grows_with_the_batch_squared_times_kernels_and_not_times_dim():
    size, kernels, dim = 64, 6, 40
    m = torch.randn((size, kernels, dim), generator=torch.Generator().manual_seed(0), requires_grad=True)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with Largest() as seen:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = similarity(m).sum()
        loss.backward()
    pairs = size * size * kernels
    assert seen.largest <= max(pairs, m.numel())
    assert sum(kept) <= 2 * pairs + 2 * m.numel()
    assert pairs * dim > 5 * (2 * pairs + 2 * m.numel())  # the bounds above mean something


# ---------------------------------------------------------------- the surgery


@given(projections(sizes=st.integers(2, 7)))
def test_scaled_projections_are_one_apart_on_average(m):
    scaled = (m * initial_scale(m)).numpy()
    pairs = [np.abs(scaled[i] - scaled[j]).sum(1) for i in range(len(m)) for j in range(len(m)) if i != j]
    assert np.mean(pairs) == pytest.approx(1)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_collapsed_features_leave_the_scale_alone(rows):
    assert initial_scale(torch.ones(rows, 3, 2)).item() == 1


def head_of(game) -> nn.Sequential:
    return game.discriminator.head


def with_it(host: TrickHost, **options) -> TrickHost:
    return host.with_trick("minibatch_discrimination", **options)


@HOSTS
def test_similarity_starts_between_its_bounds_on_real_data(host):
    game = with_it(host).game()
    batch = game.feed.take(torch.arange(16))
    features = game.discriminator(*batch).features
    o = head_of(game).similarity(features)[:, features.shape[1] :]
    assert o.shape == (16, 100)
    assert 0.1 * 15 < o.mean() < 0.9 * 15
    # a unit-normal T, which is what the scale corrects, is nowhere near: its pairs are not 1 apart
    apart = distances(head_of(game).similarity.project(features)).sum() / (16 * 15 * 100)
    assert 0.5 < apart < 2


@HOSTS
def test_the_head_sees_features_and_similarities(host):
    game = with_it(host, kernels=7, dim=2).game()
    network = game.discriminator
    batch = game.feed.take(torch.arange(6))
    network.head.linear.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    out = network(*batch)
    width = network.feature_dim
    assert out.features.shape == (6, width)
    assert network.head.linear.in_features == width + 7
    f, t = out.features.detach().double().numpy(), network.head.similarity.weight.detach().double().numpy()
    o = explicit(np.einsum("ba,akc->bkc", f, t))
    weight = network.head.linear.weight.detach().double().numpy()[0]
    logits = np.concatenate([f, o], 1) @ weight + network.head.linear.bias.item()
    if network.projection is not None:
        logits = logits + (network.projection(batch.classes).detach().numpy() * f).sum(1)
    np.testing.assert_allclose(out.logits.detach().double().numpy()[:, 0], logits, rtol=1e-4, atol=1e-4)


@HOSTS
def test_d_judges_at_the_start_as_without_the_trick(host):
    game, plain = with_it(host).game(), host.game()
    batch = game.feed.take(torch.arange(6))
    torch.testing.assert_close(
        game.discriminator(*batch).logits, plain.discriminator(*batch).logits, rtol=1e-5, atol=1e-6
    )


def test_calibration_leaves_the_network_as_it_was():
    host = IMAGES.but(sample=(3, 16, 16), discriminator={"batch_norm": True})
    a, b = snapshot(with_it(host).game()), snapshot(host.game())
    for role in ("discriminator", "generator"):
        for name, tensor in b[role].items():
            if not name.startswith("head."):
                assert same_bits(a[role][name], tensor), name


def test_d_uses_the_similarities_after_the_first_step():
    game = with_it(VECTORS, kernels=3, dim=2).game()
    start = head_of(game).similarity.weight.detach().clone()
    assert not head_of(game).linear.weight[:, -3:].any()
    game.advance()
    assert head_of(game).linear.weight[:, -3:].all()
    game.advance()
    assert (head_of(game).similarity.weight != start).any()


def test_it_mixes_samples_and_is_told_apart_by_its_batch():
    game = with_it(VECTORS).game()
    assert mixes_samples(game.discriminator)
    assert not mixes_samples(VECTORS.game().discriminator)
    game.advance()
    x = torch.randn((4, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone, among_twins = game.discriminator(x).logits[0], game.discriminator(x[:1].repeat(4, 1)).logits[0]
    assert not torch.allclose(alone, among_twins)


def test_reals_and_fakes_never_meet():
    game = with_it(VECTORS).game()
    sizes = []
    game.discriminator.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    game.advance()
    assert sizes == [8, 8, 8]


def test_a_run_with_batches_of_one_stays_finite():
    played = with_it(VECTORS.but(batch_size=1)).train(3)
    assert played.game.fault() is None


class Penalty(Trick):
    """A gradient penalty on reals."""

    needs = {"input_grad"}

    @hookimpl
    def d_loss_terms(self, ctx) -> dict[str, Tensor]:
        inputs = ctx.real_in.images
        (gradient,) = torch.autograd.grad(ctx.real_out.logits.sum(), inputs, create_graph=True)
        return {"penalty": gradient.square().sum()}


def test_a_gradient_penalty_can_be_taken_through_it():
    host = with_it(VECTORS, kernels=3, dim=2)
    penalised, plain = host.with_trick(Penalty).train(3), host.train(3)
    assert penalised.game.fault() is None
    assert not same_bits(head_of(penalised.game).similarity.weight, head_of(plain.game).similarity.weight)


# ---------------------------------------------------------------- refusals


def test_a_shared_pass_is_refused():
    with pytest.raises(UserError, match="separate_batches"):
        TrickHost().with_trick("minibatch_discrimination").plan()


class OtherHead(Trick):
    replaces = {"d_head"}

    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        return network


class SemiSupervised(Trick):
    provides = {"semi_supervised"}

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {}


class GradientPenalty(SemiSupervised):
    provides = {"gradient_penalty"}


def test_another_head_is_refused():
    with pytest.raises(UserError, match="d_head"):
        with_it(VECTORS).with_trick(OtherHead).plan()


def test_semi_supervised_learning_is_refused():
    with pytest.raises(UserError, match="does not work at all"):
        with_it(VECTORS).with_trick(SemiSupervised, "classifier").plan()


def test_a_gradient_penalty_is_warned_of():
    (warning,) = with_it(VECTORS).with_trick(GradientPenalty, "r1").plan().warnings
    assert "gradient_penalty" in warning


@pytest.mark.parametrize("wrong", [{"kernels": 0}, {"kernels": 4097}, {"dim": 0}, {"dim": 257}, {"dim": 1.5}])
def test_sizes_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        MinibatchDiscrimination.Config(**wrong)
