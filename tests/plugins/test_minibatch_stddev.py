"""Laws of minibatch standard deviation: the formula group by group, what refuses, what D is at the start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from gantricks import Discriminator, Trick, UserError, hookimpl
from gantricks.networks.base import mixes_samples
from gantricks.plugins.minibatch_stddev import Deviation, MinibatchStddev, deviation
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import appended_by
from gantricks.testing.record import same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"group": 2}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the average goes across groups": Mistake(
        old="(variance + EPSILON).sqrt().mean(1, keepdim=True).repeat(group, 1)",
        new="(variance + EPSILON).sqrt().mean().expand(size, 1)",
        caught_by="test_groups_do_not_see_each_other",
    ),
    "groups are formed in one order and told in another": Mistake(
        old="features.to(torch.promote_types(features.dtype, torch.float32)).reshape(group, -1, width)",
        new="""
            features.to(torch.promote_types(features.dtype, torch.float32)).reshape(-1, group, width).transpose(
                0, 1
            )
        """,
        caught_by="test_deviation_is_the_definition",
    ),
    "epsilon outside the square root: no gradient where samples agree": Mistake(
        old="(variance + EPSILON).sqrt()",
        new="variance.sqrt() + EPSILON",
        caught_by="test_gradients_are_finite_where_samples_coincide",
    ),
    "the deviation is that of a sample": Mistake(
        old="(grouped - grouped.mean(0)).square().mean(0)",
        new="(grouped - grouped.mean(0)).square().sum(0) / (group - 1)",
        caught_by="trace_law",
    ),
}


@torch.no_grad()
def trace_law(played: Played, name: str) -> None:
    """D's head judges concat(f, s), s the features' standard deviation over each sample's group, their mean."""
    group = played.trick(name).config.group

    def appended(f: Tensor, _: nn.Module) -> Tensor:
        count = max(len(f) // group, 1)
        rows = f.numpy()
        deviations = [np.sqrt(rows[i % count :: count].var(0) + 1e-8).mean() for i in range(len(f))]
        return torch.tensor(deviations)[:, None]

    assert (appended_by(played, name, "head.deviation", appended) > 0).all()


VECTORS = TrickHost().with_trick("separate_batches")
IMAGES = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": False}).with_trick("separate_batches")
HOSTS = pytest.mark.parametrize(
    "host",
    [
        VECTORS,
        IMAGES,
        IMAGES.but(sample=(3, 16, 16), discriminator={"batch_norm": True}),
        VECTORS.but(classes=3, generator={"conditional": True}, discriminator={"conditional": True}),
        VECTORS.but(precision="fp32"),
    ],
    ids=["mlp", "dcgan", "dcgan-batch-norm", "mlp-conditional", "mlp-fp32"],
)


def explicit(features: np.ndarray, group: int) -> np.ndarray:
    """The definition, group by group and feature by feature."""
    size, width = features.shape
    groups = size // group
    out = np.zeros((size, 1))
    for g in range(groups):
        members = [i for i in range(size) if i % groups == g]
        assert len(members) == group
        total = 0.0
        for a in range(width):
            values = [features[i, a] for i in members]
            mean = sum(values) / group
            total += math.sqrt(sum((v - mean) ** 2 for v in values) / group + 1e-8)
        out[members] = total / width
    return out


@st.composite
def grouped_features(draw):
    """Features (B, A), and a group that divides B."""
    group, groups, width = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    return draw(gs.tensors((group * groups, width), scale=draw(st.sampled_from([1e-5, 1.0, 50.0])))), group


# ---------------------------------------------------------------- the formula


@given(grouped_features())
def test_deviation_is_the_definition(case):
    features, group = case
    out = deviation(features, group)
    assert out.shape == (len(features), 1)
    np.testing.assert_allclose(out.numpy(), explicit(features.numpy(), group), rtol=1e-12)


@given(grouped_features())
def test_a_group_of_equal_samples_has_the_floor_of_the_square_root(case):
    features, group = case
    groups = len(features) // group
    equal = features[:groups].repeat(group, 1)  # member k of group g is sample k · groups + g
    torch.testing.assert_close(deviation(equal, group), torch.full((len(features), 1), 1e-4, dtype=torch.float64))


@given(grouped_features(), st.randoms(use_true_random=False))
def test_members_of_a_group_share_one_number_whatever_their_order(case, random):
    features, group = case
    groups = len(features) // group
    out = deviation(features, group).reshape(group, groups)
    assert (out == out[:1]).all()
    order = list(range(group))
    random.shuffle(order)
    shuffled = features.reshape(group, groups, -1)[order].reshape(features.shape)
    torch.testing.assert_close(deviation(shuffled, group), deviation(features, group))


@given(grouped_features())
def test_groups_do_not_see_each_other(case):
    features, group = case
    groups = len(features) // group
    if groups == 1:
        return
    other = features.clone().reshape(group, groups, -1)
    other[:, 1:] += torch.arange(group, dtype=torch.float64)[:, None, None]
    a, b = deviation(features, group), deviation(other.reshape(features.shape), group)
    assert torch.equal(a.reshape(group, groups)[:, 0], b.reshape(group, groups)[:, 0])


@given(grouped_features(), gs.tensors((1, 1), scale=3.0))
def test_a_shift_of_all_samples_changes_nothing(case, shift):
    features, group = case
    torch.testing.assert_close(deviation(features + shift, group), deviation(features, group), rtol=1e-6, atol=1e-9)


def test_first_and_second_gradients_check():
    features = torch.randn((6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: deviation(f, 3), features)
    assert torch.autograd.gradgradcheck(lambda f: deviation(f, 3), features)


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_finite_where_samples_coincide(create_graph):
    features = torch.ones((4, 3), requires_grad=True)
    (gradient,) = torch.autograd.grad(deviation(features, 4).sum(), features, create_graph=create_graph)
    assert torch.equal(gradient, torch.zeros_like(features))


def test_statistics_are_float32_under_bfloat16():
    generator = torch.Generator().manual_seed(0)
    # far from 0: in bfloat16 their mean would be off by more than they differ
    features = (torch.randn((8, 6), generator=generator) + 100).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = Deviation(4)(features)
    assert out.dtype == torch.bfloat16
    np.testing.assert_allclose(out[:, 6:].float().numpy(), explicit(features.double().numpy(), 4), rtol=2**-8)
    assert deviation(torch.zeros(4, 2, dtype=torch.bfloat16), 4).dtype == torch.float32
    assert deviation(torch.zeros(4, 2, dtype=torch.float64), 4).dtype == torch.float64


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_batch_smaller_than_the_group_is_one_group(size):
    features = torch.randn((size, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = Deviation(4)(features)
    assert torch.equal(out[:, :5], features)
    np.testing.assert_allclose(out[:, 5:].numpy(), explicit(features.numpy(), size), rtol=1e-12)


def test_a_batch_that_cannot_be_split_says_so():
    with pytest.raises(ValueError, match="batch of 6 cannot be split into groups of 4"):
        Deviation(4)(torch.zeros(6, 2))


# ---------------------------------------------------------------- the surgery


def with_it(host: TrickHost, **options) -> TrickHost:
    return host.with_trick("minibatch_stddev", **options)


@HOSTS
def test_the_head_sees_features_and_their_deviation(host):
    game = with_it(host).game()
    network = game.discriminator
    batch = game.feed.take(torch.arange(8))
    network.head.linear.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    out = network(*batch)
    width = network.feature_dim
    assert out.features.shape == (8, width)
    f = out.features.detach().double().numpy()
    weight = network.head.linear.weight.detach().double().numpy()[0]
    logits = np.concatenate([f, explicit(f, 4)], 1) @ weight + network.head.linear.bias.item()
    if network.projection is not None:
        logits = logits + (network.projection(batch.classes).detach().numpy() * f).sum(1)
    np.testing.assert_allclose(out.logits.detach().double().numpy()[:, 0], logits, rtol=1e-4, atol=1e-5)


@HOSTS
def test_d_judges_at_the_start_as_without_the_trick(host):
    game, plain = with_it(host).game(), host.game()
    batch = game.feed.take(torch.arange(8))
    torch.testing.assert_close(
        game.discriminator(*batch).logits, plain.discriminator(*batch).logits, rtol=1e-5, atol=1e-6
    )


class BiasedHead(Trick):
    """Surgery that leaves D a head with a bias."""

    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        torch.nn.init.constant_(network.head.bias, 3.0)
        return network


def test_the_bias_of_the_head_it_replaces_is_kept():
    assert with_it(VECTORS.with_trick(BiasedHead)).game().discriminator.head.linear.bias.item() == 3


def test_nothing_but_the_head_is_changed():
    host = IMAGES.but(sample=(3, 16, 16), discriminator={"batch_norm": True})
    a, b = snapshot(with_it(host).game()), snapshot(host.game())
    assert set(a["discriminator"]) - set(b["discriminator"]) == {"head.linear.weight", "head.linear.bias"}
    for role in ("discriminator", "generator"):
        for name, tensor in b[role].items():
            if not name.startswith("head."):
                assert same_bits(a[role][name], tensor), name


def test_d_uses_the_deviation_after_the_first_step():
    game = with_it(VECTORS).game()
    assert not game.discriminator.head.linear.weight[:, -1:].any()
    game.advance()
    assert game.discriminator.head.linear.weight[:, -1:].all()


def test_it_mixes_samples_and_tells_a_collapsed_batch():
    game = with_it(VECTORS).game()
    assert mixes_samples(game.discriminator)
    assert not mixes_samples(VECTORS.game().discriminator)
    game.advance()
    x = torch.randn((4, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    among_others, among_twins = game.discriminator(x).logits[0], game.discriminator(x[:1].repeat(4, 1)).logits[0]
    assert not torch.allclose(among_others, among_twins)


def test_reals_and_fakes_never_meet():
    game = with_it(VECTORS).game()
    sizes = []
    game.discriminator.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    game.advance()
    assert sizes == [8, 8, 8]


# ---------------------------------------------------------------- refusals


def test_a_shared_pass_is_refused():
    with pytest.raises(UserError, match="separate_batches"):
        with_it(TrickHost()).plan()


def test_its_sibling_beside_it_is_refused():
    with pytest.raises(UserError, match="d_head"):
        with_it(VECTORS).with_trick("minibatch_discrimination").plan()


@pytest.mark.parametrize(
    ("size", "group", "hint"),
    [(1, 4, "2 samples or more"), (6, 4, "hold 4 or 8"), (9, 4, "hold 8 or 12"), (5, 2, "hold 4 or 6")],
)
def test_batches_that_cannot_be_split_are_refused_with_sizes_that_can(size, group, hint):
    with pytest.raises(UserError, match=hint):
        with_it(VECTORS.but(batch_size=size), group=group).plan()


@pytest.mark.parametrize(("size", "group"), [(2, 4), (3, 4), (4, 4), (12, 4), (6, 3)])
def test_batches_that_can_be_split_or_are_one_group_play(size, group):
    assert with_it(VECTORS.but(batch_size=size), group=group).train(2).game.non_finite() is None


class GradientPenalty(Trick):
    needs = {"input_grad"}

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {}


def test_a_gradient_penalty_is_warned_of():
    (warning,) = with_it(VECTORS).with_trick(GradientPenalty, "r1").plan().warnings
    assert "input_grad" in warning


@pytest.mark.parametrize("wrong", [0, 1, 4097, 2.5])
def test_groups_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        MinibatchStddev.Config(group=wrong)
