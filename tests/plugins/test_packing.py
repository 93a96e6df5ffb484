"""Laws of packing: what meets in a pack and what does not, the first layer by hand, what refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from gantricks import Batch, Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.engine.step import score_jointly
from gantricks.networks.base import mixes_samples
from gantricks.plugins.packing import Pack, Packing, pack
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import flows, rows_in
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"m": 2}, {}),
    "mixing": ({"m": 2}, MIXING | {"n_critic": 2}),
    "resnet": ({"m": 2}, {"sample": (3, 8, 8), "discriminator": {"network": "resnet", "channels": 4}}),
}
REFUSED: dict[str, str] = {
    "auxiliary_classifier": "packing does not go with class_logits",
    "label_injection": "packing does not go with discriminator_conditional",
    "semi_supervised": "packing does not go with class_logits",
}

MISTAKES = {
    "the members of a pack lie a part of the batch apart, and a joint pass packs reals with fakes": Mistake(
        old="samples.reshape(size // m, m * channels, *rest)",
        new="samples.unflatten(0, (m, -1)).transpose(0, 1).flatten(1, 2)",
        caught_by="test_reals_and_fakes_never_share_a_pack",
    ),
    "a D that tells classes passes, and one class stands for the whole pack": Mistake(
        old='"class_logits"',
        new='"a_class_for_each"',
        caught_by="test_a_d_that_tells_classes_is_refused",
    ),
    "a pack holds samples from both ends of the batch": Mistake(
        old="samples.reshape(size // m, m * channels, *rest)",
        new="samples.unflatten(0, (m, -1)).movedim(0, 1).flatten(1, 2)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D says one thing of each m consecutive samples, all real or all fake, side by side on the channels."""
    m, network = played.trick(name).config.m, played.game.discriminator
    ((_, x, y),) = flows(played, "discriminator", [network.stem])
    for number, together in enumerate(y):
        members = [x[number * m + member] for member in range(m)]
        assert torch.equal(together, torch.cat(members)), f"pack {number} is not of samples {number * m} and after"
    for phase in played.phases:
        assert len(phase.fake_out.logits) == len(phase.fake_out.features) == len(phase.fake_labels)
        assert len(phase.fake_labels) * m == phase.fake_in.size
        if phase.player == "d":
            assert len(phase.real_out.logits) * m == len(phase.real_labels) * m == phase.real_in.size
            for shown, said in phase.passes:
                assert len(said.logits) * m == len(shown)
                for batch in (phase.real_in, phase.fake_in):
                    of_batch = rows_in(shown, batch.images).reshape(-1, m)
                    assert torch.equal(of_batch.any(1), of_batch.all(1)), "a pack of reals and fakes"


VECTORS = TrickHost(batch_size=12)
IMAGES = TrickHost(sample=(3, 8, 8), batch_size=12)
RESNET = IMAGES.but(discriminator={"network": "resnet", "channels": 4})
DENSENET = IMAGES.but(discriminator={"network": "densenet", "channels": 4})
NETWORKS = pytest.mark.parametrize(
    "host", [VECTORS, IMAGES, RESNET, DENSENET], ids=["mlp", "dcgan", "resnet", "densenet"]
)
PACKS = pytest.mark.parametrize("m", [2, 3])


def packed(host: TrickHost, m: int = 2) -> TrickHost:
    return host.with_trick("packing", m=m)


def noise(count: int, host: TrickHost, seed: int = 0) -> Tensor:
    return torch.randn((count, *host.sample), generator=torch.Generator().manual_seed(seed)).double()


# ---------------------------------------------------------------- the formula


@st.composite
def samples_and_m(draw):
    m, packs = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    shape = draw(st.sampled_from([(2,), (1, 3, 2), (3, 2, 4)]))
    return draw(gs.tensors((m * packs, *shape))), m


@given(samples_and_m())
def test_pack_is_the_definition(case):
    samples, m = case
    out = pack(samples, m)
    channels = samples.shape[1]
    assert out.shape == (len(samples) // m, m * channels, *samples.shape[2:])
    assert Pack(m, tuple(samples.shape[1:])).shape == tuple(out.shape[1:])
    for j in range(len(out)):
        for i in range(m):
            for c in range(channels):
                assert torch.equal(out[j, i * channels + c], samples[j * m + i, c])


@given(samples_and_m(), st.randoms(use_true_random=False))
def test_the_order_of_the_members_is_the_order_of_the_inputs_and_nothing_else(case, random):
    samples, m = case
    order = list(range(m))
    random.shuffle(order)
    members = samples.unflatten(0, (-1, m))
    shuffled = pack(members[:, order].flatten(0, 1), m)
    expected = pack(samples, m).unflatten(1, (m, -1))[:, order].flatten(1, 2)
    assert torch.equal(shuffled, expected)


@given(samples_and_m())
def test_packing_loses_nothing_and_adds_nothing(case):
    samples, m = case
    out = pack(samples, m)
    assert torch.equal(out.unflatten(1, (m, -1)).flatten(0, 1), samples)
    assert torch.equal(pack(samples, 1), samples)


def test_images_in_the_layout_of_channels_last_are_packed_alike():
    samples = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    assert torch.equal(pack(samples.contiguous(memory_format=torch.channels_last), 2), pack(samples, 2))


def test_samples_that_fill_no_pack_are_refused():
    with pytest.raises(ValueError, match="7 samples cannot be packed in packs of 2"):
        pack(torch.zeros(7, 2), 2)


# ---------------------------------------------------------------- what D says of a pack


@PACKS
def test_the_first_layer_reads_all_members_of_a_pack_by_hand(m):
    network = packed(VECTORS, m).game().discriminator
    x = noise(12, VECTORS)
    weight, bias = (t.detach().numpy() for t in network.body.hidden1.linear.parameters())
    assert weight.shape[1] == 2 * m
    hidden = []
    network.body.hidden1.linear.register_forward_hook(lambda layer, given, out: hidden.append(out.detach().numpy()))
    out = network(x)
    by_hand = np.zeros((12 // m, len(bias)))
    for group in range(12 // m):
        for member in range(m):
            columns = weight[:, 2 * member : 2 * member + 2]
            by_hand[group] += columns @ x[group * m + member].numpy()
        by_hand[group] += bias
    np.testing.assert_allclose(hidden[0], by_hand, rtol=1e-12, atol=1e-14)
    assert out.logits.shape == (12 // m, 1)
    assert out.features.shape == (12 // m, network.feature_dim)


@PACKS
def test_the_first_convolution_reads_the_channels_of_all_members_by_hand(m):
    network = packed(IMAGES, m).game().discriminator
    x = noise(12, IMAGES)
    conv = network.body.down1.conv
    maps = []
    conv.register_forward_hook(lambda layer, given, out: maps.append(out))
    network(x)
    parts = []
    for member in range(m):
        columns = conv.weight[:, 3 * member : 3 * member + 3]
        parts.append(nn.functional.conv2d(x[member::m], columns, None, conv.stride, conv.padding))
    torch.testing.assert_close(maps[0], sum(parts) + conv.bias[:, None, None])


@NETWORKS
@PACKS
def test_what_d_says_of_a_pack_depends_on_its_members_and_on_no_other_sample(host, m):
    network = packed(host, m).game().discriminator
    x = noise(12, host)
    x.requires_grad_()
    out = network(x)
    for group in range(12 // m):
        (gradient,) = torch.autograd.grad(out.logits[group, 0], x, retain_graph=True)
        reached = gradient.flatten(1).abs().sum(1) > 0
        assert reached.tolist() == [sample // m == group for sample in range(12)]
    other = noise(12, host, seed=1)
    other[:m] = x[:m].detach()
    for mine, theirs in zip(out.split(1)[0][:2], network(other).split(1)[0][:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@NETWORKS
@PACKS
def test_packs_in_another_order_are_judged_alike_in_that_order(host, m):
    network = packed(host, m).game().discriminator
    x = noise(12, host)
    order = torch.randperm(12 // m, generator=torch.Generator().manual_seed(3))
    shuffled = x.unflatten(0, (-1, m))[order].flatten(0, 1)
    out, again = network(x), network(shuffled)
    torch.testing.assert_close(again.logits, out.logits[order], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(again.features, out.features[order], rtol=1e-10, atol=1e-12)


def test_the_order_of_members_matters():
    """A D that could not tell it would be blind to half of what packs differ in."""
    network = packed(VECTORS).game().discriminator
    x = noise(2, VECTORS)
    assert not torch.allclose(network(x).logits, network(x.flip(0)).logits)


def test_packs_alone_do_not_make_d_one_that_mixes_a_batch():
    assert not mixes_samples(packed(VECTORS).game().discriminator)


# ---------------------------------------------------------------- one provenance


@PACKS
@pytest.mark.parametrize("separate", [False, True], ids=["joint", "separate"])
def test_reals_and_fakes_never_share_a_pack(m, separate):
    host = packed(VECTORS, m)
    host = host.with_trick("separate_batches") if separate else host
    played = host.train(2)
    for phase in played.steps_of("d"):
        network = packed(VECTORS, m).game().discriminator
        network.load_state_dict(phase.before)
        for batch, out in ((phase.real_in, phase.real_out), (phase.fake_in, phase.fake_out)):
            torch.testing.assert_close(network(batch.images).logits, out.logits, rtol=1e-10, atol=1e-12)
            assert out.logits.shape == (12 // m, 1)
            assert out.features.shape[0] == 12 // m


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 3]))
@settings(max_examples=15)
def test_a_joint_pass_over_batches_of_two_sizes_splits_between_packs(reals, fakes, m):
    network = packed(VECTORS, m).game().discriminator
    real, fake = Batch(noise(reals * m, VECTORS)), Batch(noise(fakes * m, VECTORS, seed=1))
    of_reals, of_fakes = score_jointly(network, real, fake)
    torch.testing.assert_close(of_reals.logits, network(real.images).logits)
    torch.testing.assert_close(of_fakes.logits, network(fake.images).logits)


def test_each_judgement_has_one_target_and_one_assignment():
    played = packed(VECTORS, 3).with_trick("label_flipping", p=0.5).with_trick("soft_labels").train(3)
    for hook in ("d_assignment", "d_labels"):
        assert {call.result.shape for name in ("label_flipping", "soft_labels") for call in played.calls[hook]} == {
            torch.Size([4, 1])
        }, hook
    for phase in played.phases:
        assert phase.fake.size == phase.real.size == 12
        assert phase.fake_labels.shape == (4, 1)


@PACKS
def test_the_gradient_of_g_reaches_every_member_of_every_pack(m):
    game = packed(VECTORS.but(discriminator={"activation": "tanh"}), m).game()  # no unit is dead
    game.step.d_step()
    fakes = []

    def keep(network, given, out):
        out.retain_grad()
        fakes.append(out)

    game.generator.register_forward_hook(keep)
    game.step.g_step()
    (made,) = fakes
    assert (made.grad.abs().sum(1) > 0).all()


def test_in_the_d_step_fakes_are_detached_and_in_the_g_step_d_gets_no_gradient():
    game = packed(IMAGES).game()
    game.step.d_step()
    assert all(weight.grad is None for weight in game.generator.parameters())
    for weight in game.discriminator.parameters():
        assert weight.grad.abs().sum() > 0
        weight.grad = None
    game.step.g_step()
    assert all(weight.grad is None for weight in game.discriminator.parameters())
    assert any(weight.grad.any() for weight in game.generator.parameters())


def test_feature_matching_matches_the_means_of_packs():
    played = packed(VECTORS).with_trick("feature_matching").train(2)
    for phase in played.steps_of("g"):
        gap = phase.real_out.features.mean(0) - phase.fake_out.features.mean(0)
        assert phase.real_out.features.shape[0] == 6
        assert phase.terms["feature_matching.distance"] == pytest.approx(gap.square().mean().item())


def test_batch_norm_in_d_sees_packs_of_both_kinds_in_the_g_step_too():
    host = packed(IMAGES.but(sample=(1, 8, 8), discriminator={"batch_norm": True, "depth": 2}))
    for phase in host.train(2).phases:
        (shown, said), *_ = phase.passes
        assert shown.shape[0] == 24
        assert said.logits.shape[0] == 12


# ---------------------------------------------------------------- the network that is widened


@NETWORKS
@PACKS
def test_all_layers_but_those_that_read_the_image_start_as_without_it(host, m):
    game, plain = packed(host, m).game(), host.game()
    wide = {name: t.shape for name, t in game.discriminator.state_dict().items()}
    before = snapshot(plain)
    changed = set(differences(snapshot(game), before, besides=("discriminator_optimizer",)))
    widened = {f"discriminator/{name}" for name, t in before["discriminator"].items() if wide[name] != t.shape}
    assert changed == widened
    assert wide.keys() == before["discriminator"].keys()
    assert len(widened) == (2 if host is RESNET else 1)
    for name in widened:
        shape, of_plain = wide[name.partition("/")[2]], before["discriminator"][name.partition("/")[2]].shape
        assert shape == (of_plain[0], m * of_plain[1], *of_plain[2:])


@pytest.mark.parametrize(("options", "variance"), [({}, 2 / (3 * 200)), ({"init_std": 0.02}, 0.02**2)])
def test_the_wide_layer_starts_by_the_networks_own_rule_for_so_many_inputs(options, variance):
    host = VECTORS.but(sample=(200,), discriminator={"hidden": [300], **options})
    linear = packed(host, 3).game().discriminator.body.hidden1.linear
    assert linear.weight.shape == (300, 600)
    assert linear.weight.var().item() == pytest.approx(variance, rel=0.05)
    assert not linear.bias.any()


@pytest.mark.parametrize("host", [VECTORS, IMAGES, RESNET], ids=["mlp", "dcgan", "resnet"])
def test_a_pack_of_one_is_a_run_without_packing_bit_for_bit(host):
    one, plain = packed(host, 1).train(), host.train()
    assert not differences(one.state, plain.state)
    assert one.scalars == plain.scalars
    for phase, other in zip(one.phases, plain.phases, strict=True):
        assert same_bits(phase.fake_out.logits, other.fake_out.logits)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("trick", "options"),
    [("weight_norm", {}), ("minibatch_discrimination", {"kernels": 3, "dim": 2}), ("minibatch_stddev", {"group": 2})],
)
def test_other_surgery_finds_the_wide_network_wherever_it_stands(trick, options, first):
    host = VECTORS.with_trick("separate_batches")
    host = host.with_trick("packing", m=3) if first else host
    host = host.with_trick(trick, **options)
    host = host if first else host.with_trick("packing", m=3)
    played = host.train(2)
    assert played.game.discriminator.body.hidden1.linear.weight.shape[1] == 6
    assert played.game.non_finite() is None


def test_growing_networks_pack_all_along():
    host = TrickHost(sample=(1, 8, 8), generator={"depth": 2}, discriminator={"depth": 2}, steps=6)
    played = packed(host).with_trick("grow", until=0.6).train()
    assert played.game.non_finite() is None
    entering = [p for n, p in played.game.discriminator.named_parameters() if n.endswith("from_image.conv.weight")]
    assert {weight.shape[1] for weight in entering} == {2}


# ---------------------------------------------------------------- what refuses


def refusal(host: TrickHost) -> str:
    with pytest.raises(UserError) as caught:
        host.plan()
    return str(caught.value)


@pytest.mark.parametrize(
    ("size", "m", "hint"),
    [
        (7, 2, "let batches hold 6 or 8, or write an m that divides it"),
        (1, 2, "let batches hold 2, or"),
        (3, 32, "let batches hold 32, or"),
        (40, 3, "let batches hold 39, or"),
        (35, 32, "let batches hold 32, or"),
    ],
)
def test_batches_that_cannot_be_split_are_refused_with_sizes_that_can(size, m, hint):
    told = refusal(packed(VECTORS.but(batch_size=size), m))
    assert f"a batch of {size} cannot be split into packs of {m}" in told
    assert hint in told


def test_every_size_that_batches_will_have_is_looked_at():
    host = packed(VECTORS, 4).with_trick("batch_size_schedule", start=6, end=10)
    told = refusal(host)
    assert "a batch of 6 cannot be split into packs of 4" in told
    assert "a batch of 10 cannot be split into packs of 4" in told
    packed(VECTORS.but(batch_size=7), 4).with_trick("batch_size_schedule", start=4, end=8).plan()


@pytest.mark.parametrize("network", ["mlp", "dcgan"])
def test_a_d_that_is_given_classes_is_refused_and_a_conditional_g_is_not(network):
    host = TrickHost(sample=(2,) if network == "mlp" else (1, 8, 8), classes=3, generator={"conditional": True})
    assert packed(host).train(2).game.non_finite() is None
    told = refusal(packed(host.but(discriminator={"conditional": True})))
    assert "discriminator_conditional" in told
    assert "conditional = false" in told


class TellsClasses(Trick):
    provides = {"class_logits"}

    @hookimpl
    def before_d_step(self) -> None: ...


@pytest.mark.parametrize("trick", ["auxiliary_classifier", TellsClasses])
def test_a_d_that_tells_classes_is_refused(trick):
    host = TrickHost(classes=3, generator={"conditional": True}).with_trick(trick)
    assert "D would tell one class of a pack" in refusal(packed(host))


def test_two_packings_are_refused():
    assert "d_stem" in refusal(packed(VECTORS).with_trick("packing", "again", m=3))


@pytest.mark.parametrize(
    ("trick", "size", "m", "told"),
    [
        ("minibatch_discrimination", 4, 4, "let batches hold 8 samples or more"),
        ("minibatch_stddev", 3, 3, "let batches hold 6 samples or more"),
        ("minibatch_stddev", 12, 2, "a batch of 12 cannot be split into groups of 8; let batches hold 8 or 16"),
    ],
)
def test_tricks_that_compare_samples_count_packs(trick, size, m, told):
    host = packed(VECTORS.but(batch_size=size), m).with_trick("separate_batches").with_trick(trick)
    assert told in refusal(host)


class Penalty(Trick):
    needs = {"input_grad"}

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {}


def test_a_gradient_penalty_is_warned_of():
    (warning,) = packed(VECTORS).with_trick(Penalty, "r1").plan().warnings
    assert "input_grad" in warning


@pytest.mark.parametrize("wrong", [0, 33, -1, 1.5, True])
def test_packs_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        Packing.Config.model_validate({"m": wrong}, strict=True)


def test_d_in_eval_mode_and_samples_are_those_of_whole_packs():
    game = packed(VECTORS).game()
    game.advance()
    assert sampling.sample(game, 5, seed=0).shape == (5, 2)
    network = game.discriminator.eval()
    x = noise(4, VECTORS)
    assert same_bits(network(x).logits, network(x).logits)
