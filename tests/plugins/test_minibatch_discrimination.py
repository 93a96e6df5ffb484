"""Laws of minibatch discrimination: the similarity's formula, its derivatives and what they cost, D at the start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from gantricks import Discriminator, Trick, UserError, hookimpl
from gantricks.networks.base import mixes_samples
from gantricks.plugins.minibatch_discrimination import (
    WORKED_AT_ONCE,
    MinibatchDiscrimination,
    Similarity,
    distances,
    initial_scale,
    similarity,
)
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import appended_by
from gantricks.testing.record import same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"kernels": 5, "dim": 3}, {}),
    "conditional": ({"kernels": 5, "dim": 3}, CONDITIONAL),
}
OVERRIDES = {"": ["tricks.minibatch_discrimination.kernels=4"]}
REFUSED: dict[str, str] = {
    "minibatch_stddev": "d_head",
}

MISTAKES = {
    "a sample is compared with itself": Mistake(
        old="s.diagonal(dim1=1, dim2=2).zero_()",
        new="s.diagonal(dim1=1, dim2=2)",
        caught_by=("test_self_is_excluded", "trace_law"),
    ),
    "a unit-normal T saturates o to 0": Mistake(
        old="head.similarity.weight.mul_(initial_scale(head.similarity.project(features)))",
        new="initial_scale(head.similarity.project(features))",
        caught_by="test_similarity_starts_between_its_bounds_on_real_data",
    ),
    "L2 instead of L1": Mistake(
        old="difference.abs_()",
        new="difference.square_()",
        caught_by="test_similarity_is_the_definition",
    ),
    "differences are broadcast, in memory O(B² K C)": Mistake(
        old="o: Tensor = _Similarity.apply(_kernels_first(m))",
        new="""
            m = _kernels_first(m)
            o = torch.exp(-(m[:, :, None] - m[:, None]).abs().sum(3)).sum(2) - 1
        """,
        caught_by="test_memory_grows_with_the_batch_squared_times_kernels_and_not_times_dim",
    ),
    "the second derivative takes the similarities for constants": Mistake(
        old="_pull(_outer_sum(g).mul_(sq), m)",
        new="torch.zeros_like(m)",
        caught_by="test_derivatives_are_those_of_the_definition",
    ),
    "projections are rounded to bfloat16 before they are compared": Mistake(
        old="torch.tensordot(features.to(self.weight.dtype), self.weight, 1)",
        new="torch.tensordot(features, self.weight.to(features.dtype), 1)",
        caught_by="test_distances_are_float32_under_bfloat16",
    ),
    "reals and fakes are one minibatch": Mistake(
        old='{"separate_passes"}',
        new="frozenset()",
        caught_by="test_a_shared_pass_is_refused",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D's head judges concat(f, o), o_k(x_i) = Σ_{j≠i} exp(-‖M_ik - M_jk‖₁) with M = f T, between 0 and B - 1."""
    config = played.trick(name).config

    def appended(f: Tensor, weight: Tensor) -> Tensor:
        m = torch.einsum("ba,akc->bkc", f, weight)
        assert m.shape[1:] == (config.kernels, config.dim)
        near = torch.exp(-(m[:, None] - m[None]).abs().sum(3))  # (B, B, K)
        return sum(near[:, j] * (torch.arange(len(f)) != j)[:, None] for j in range(len(f)))

    o = appended_by(played, name, "head.similarity", lambda f, layer: appended(f, layer.weight))
    assert ((o >= -1e-9) & (o <= len(o) - 1 + 1e-9)).all()


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


def broadcast(m: Tensor) -> Tensor:
    """The definition as autograd can differentiate it; its absolute value, too, has the derivative 0 at 0."""
    return torch.exp(-(m[:, None] - m[None]).abs().sum(3)).sum(1) - 1


def differentiated(function, m: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Of o (B, K) = function(m): the gradient of Σ w o by m, and that of Σ v gradient by m and by w."""
    m, w = m.detach().requires_grad_(), w.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((w * function(m)).sum(), m, create_graph=True)
    return gradient.detach(), *torch.autograd.grad((v * gradient).sum(), (m, w))


def waves(*shape: int) -> Tensor:
    """Numbers between -1 and 1, none like another."""
    return torch.cos(torch.arange(math.prod(shape), dtype=torch.float64)).view(shape)


@st.composite
def projections(draw, sizes=st.integers(1, 7)):
    """M: (B, K, C), in some draws whole numbers, of which many tie."""
    shape = (draw(sizes), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    m = draw(gs.tensors(shape, scale=draw(st.sampled_from([0.01, 0.5, 20.0]))))
    return m.round() if draw(st.booleans()) else m


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


def test_similarity_keeps_its_precision_where_samples_are_far_apart():
    far = torch.tensor([0.0, 30.0]).view(2, 1, 1)
    torch.testing.assert_close(similarity(far), torch.full((2, 1), math.exp(-30)), rtol=1e-6, atol=0)


# ---------------------------------------------------------------- the derivatives


@given(projections(sizes=st.integers(2, 6)))
def test_gradient_is_that_of_the_definition(m):
    weights = waves(*m.shape[:2])
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


@given(projections())
def test_derivatives_are_those_of_the_definition(m):
    w, v = waves(*m.shape[:2]), waves(*m.shape).flip(0)
    for ours, expected in zip(differentiated(similarity, m, w, v), differentiated(broadcast, m, w, v), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


def test_second_gradients_check():
    """Gradient penalties differentiate D's gradient, and torch.cdist alone refuses."""
    m = torch.randn((4, 3, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(similarity, m)
    assert torch.autograd.gradgradcheck(similarity, m)


@pytest.mark.parametrize(("size", "kernels"), [(400, 7), (730, 2)], ids=["uneven parts", "one kernel a part"])
def test_what_is_worked_on_in_parts_is_the_same(size, kernels):
    at_once = WORKED_AT_ONCE // size**2
    assert at_once < kernels
    assert kernels % max(at_once, 1) or at_once == 0
    m = torch.randn((size, kernels, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w, v = waves(size, kernels), waves(*m.shape)
    torch.testing.assert_close(similarity(m), broadcast(m), rtol=1e-12, atol=0)
    for ours, expected in zip(differentiated(similarity, m, w, v), differentiated(broadcast, m, w, v), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 4])
def test_all_derivatives_are_zero_where_samples_coincide(size):
    m = torch.randn((1, 3, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(size, 1, 1)
    for derivative in differentiated(similarity, m, waves(size, 3), waves(*m.shape)):
        assert not derivative.any()


def test_a_third_derivative_is_refused():
    m = torch.ones((2, 1, 1), requires_grad=True)
    w = torch.ones((2, 1), requires_grad=True)
    (first,) = torch.autograd.grad((w * similarity(m)).sum(), m, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def penalty(m: Tensor) -> tuple[Tensor, ...]:
    """Similarity with its derivatives in a gradient penalty."""
    w = waves(*m.shape[:2]).to(m.dtype)
    return similarity(m), *differentiated(similarity, m, w, torch.ones_like(m))


@pytest.mark.parametrize(("size", "kernels"), [(1, 2), (5, 3), (600, 3)])
def test_both_derivatives_can_be_traced(size, kernels):
    first, other = torch.randn((2, size, kernels, 2), generator=torch.Generator().manual_seed(0))
    traced = make_fx(penalty)(first)
    for ours, expected in zip(traced(other), penalty(other), strict=True):
        assert same_bits(ours, expected)
    with FakeTensorMode() as fake:
        shapes = [result.shape for result in penalty(fake.from_tensor(first))]
    assert shapes == [result.shape for result in penalty(first)]


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
        assert similarity(layer.project(features)).dtype == torch.float32
    m = np.einsum("ba,akc->bkc", features.double().numpy(), layer.weight.detach().double().numpy())
    assert out.dtype == torch.bfloat16
    np.testing.assert_allclose(out[:, 6:].float().detach().numpy(), explicit(m), rtol=2**-8, atol=1e-4)
    assert similarity(torch.zeros(3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert similarity(torch.zeros(3, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_second_derivatives_under_bfloat16_are_those_of_float64():
    generator = torch.Generator().manual_seed(0)
    weight, features = torch.randn((6, 4, 3), generator=generator), torch.randn((8, 6), generator=generator)

    def penalty_gradient(layer: Similarity, features: Tensor) -> Tensor:
        with torch.no_grad():
            layer.weight.copy_(0.2 * weight)
        features.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=features.dtype == torch.bfloat16):
            o = layer(features)[:, 6:].float()
        (gradient,) = torch.autograd.grad(o.square().sum(), features, create_graph=True)
        (result,) = torch.autograd.grad(gradient.float().square().sum(), layer.weight)
        return result

    exact = penalty_gradient(Similarity(6, 4, 3).double(), features.bfloat16().double())
    ours = penalty_gradient(Similarity(6, 4, 3), features.bfloat16())
    assert ours.dtype == torch.float32
    assert torch.linalg.vector_norm(ours - exact) < 2**-6 * torch.linalg.vector_norm(exact)


class Memory(TorchDispatchMode):
    """How many numbers the operations' results hold: those that are alive now, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.results, self.peak = {}, 0

    @property
    def held(self) -> int:
        self.results = {key: (made, size) for key, (made, size) in self.results.items() if not made.expired()}
        return sum(size for _, size in self.results.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                made = StorageWeakRef(tensor.untyped_storage())
                self.results.setdefault(made.cdata, (made, tensor.untyped_storage().nbytes() // tensor.element_size()))
        self.peak = max(self.peak, self.held)
        return result


@pytest.mark.parametrize(("size", "kernels"), [(64, 6), (190, 20)], ids=["at once", "in parts"])
@pytest.mark.parametrize("create_graph", [False, True], ids=["first", "second"])
def test_memory_grows_with_the_batch_squared_times_kernels_and_not_times_dim(create_graph, size, kernels):
    pairs, dim = size * size * kernels, 40
    working = min(pairs, WORKED_AT_ONCE)
    m = torch.randn((size, kernels, dim), generator=torch.Generator().manual_seed(0), requires_grad=True)
    with Memory() as memory:
        o = similarity(m)
        assert pairs <= memory.held <= pairs + 2 * m.numel()  # the similarities, and hardly more
        (gradient,) = torch.autograd.grad(o.square().sum(), m, create_graph=create_graph)
        if create_graph:
            assert memory.held <= pairs + 3 * m.numel()
            gradient.square().sum().backward()
    bound = pairs + (4 if create_graph else 2) * working + 8 * m.numel()
    assert memory.peak <= bound
    assert 4 * bound < pairs * dim + pairs  # it means something


# ---------------------------------------------------------------- the surgery


@given(projections(sizes=st.integers(2, 7)))
def test_scaled_projections_are_one_apart_on_average(m):
    assume((m != m[:1]).any())
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
    apart = distances(head_of(game).similarity.project(features).transpose(0, 1)).sum() / (16 * 15 * 100)
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
    assert penalised.game.non_finite() is None
    assert not same_bits(head_of(penalised.game).similarity.weight, head_of(plain.game).similarity.weight)


# ---------------------------------------------------------------- refusals


def test_a_batch_of_one_is_refused():
    with pytest.raises(UserError, match=r"no other sample to resemble; let batches hold 2 samples or more"):
        with_it(VECTORS.but(batch_size=1)).plan()
    assert with_it(VECTORS.but(batch_size=2)).train(2).game.non_finite() is None


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
    needs = {"input_grad"}
    provides = frozenset()


def test_another_head_is_refused():
    with pytest.raises(UserError, match="d_head"):
        with_it(VECTORS).with_trick(OtherHead).plan()


def test_semi_supervised_learning_is_refused():
    with pytest.raises(UserError, match="does not work at all"):
        with_it(VECTORS).with_trick(SemiSupervised, "classifier").plan()


def test_a_gradient_penalty_is_warned_of():
    (warning,) = with_it(VECTORS).with_trick(GradientPenalty, "r1").plan().warnings
    assert "input_grad" in warning


@pytest.mark.parametrize("wrong", [{"kernels": 0}, {"kernels": 4097}, {"dim": 0}, {"dim": 257}, {"dim": 1.5}])
def test_sizes_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        MinibatchDiscrimination.Config(**wrong)
