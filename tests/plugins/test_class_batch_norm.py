"""Laws of class batch norm: one normalisation for the whole batch, a scale and a shift for each class."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from gantricks import PassClasses, Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.engine.capture import INDUCTOR, CapturedStep
from gantricks.networks.base import Generator, mixes_samples
from gantricks.plugins.class_batch_norm import ClassNorm, scale_and_shift
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "vectors": (
        {},
        {
            "sample": (2,),
            "classes": 3,
            "generator": {"conditional": True, "batch_norm": True},
            "discriminator": {},
            "n_critic": 2,
        },
    ),
}
NO_BATCH_NORM = "has no batch norm"
REFUSED: dict[str, str] = {
    "pixel_norm": "replace the same part, generator_batch_norm",
    "instance_norm": "generator_batch_norm",
    "path_length": NO_BATCH_NORM,
    "style_mixing": NO_BATCH_NORM,
    "virtual_batch_norm": "generator_batch_norm",
}

MISTAKES = {
    "each class is normalised with statistics of its own": Mistake(
        inside="ClassNorm",
        new="""
        def forward(self, x):
            normal = torch.empty_like(x)
            for number in range(len(self.weight)):
                rows = self.classes.now == number
                if rows.any():
                    normal[rows] = self.norm(x[rows])
            return scale_and_shift(normal, self.classes.now, self.weight, self.bias)
        """,
        caught_by=("test_statistics_are_those_of_all_classes_together", "trace_law"),
    ),
    "samples get the scales of each other's classes": Mistake(
        old="scale_and_shift(self.norm(x), self.classes.now, self.weight, self.bias)",
        new="scale_and_shift(self.norm(x), self.classes.now.flip(0), self.weight, self.bias)",
        caught_by="trace_law",
    ),
    "the norm's own scale stays beside those of the classes": Mistake(
        old="self.norm.affine, self.norm.weight, self.norm.bias = False, None, None",
        new="pass",
        caught_by=("test_with_equal_rows_it_is_batch_norm", "trace_law"),
    ),
    "the norm's start is lost": Mistake(
        old="start.repeat(count, 1)",
        new="torch.ones_like(start).repeat(count, 1)",
        caught_by=("test_the_generator_starts_as_the_one_without_it", "trace_law"),
    ),
    "running statistics are not kept": Mistake(
        old="copy.deepcopy(norm)",
        new="type(norm)(norm.num_features, norm.eps, track_running_stats=False)",
        caught_by="test_with_equal_rows_it_is_batch_norm",
    ),
    "scales are rounded to bfloat16": Mistake(
        old="(x * gamma + beta).to(x.dtype)",
        new="x * gamma.to(x.dtype) + beta.to(x.dtype)",
        caught_by="test_scales_are_not_rounded_to_the_type_of_the_maps",
    ),
    "the shift is scaled too": Mistake(
        old="x * gamma + beta",
        new="(x + beta) * gamma",
        caught_by=("test_each_sample_has_the_scale_and_the_shift_of_its_class",),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Where a batch norm was, maps are normalised over the whole batch and meet γ and β of their sample's class, which
    start as the norm's own for every class.
    """
    done = surgery(played, name, "generator")
    norms = {place: module for place, module in done.before.items() if isinstance(module, _BatchNorm)}
    assert norms, "G had no batch norm"
    new = {place: done.after[place] for place in norms}
    for place, norm in norms.items():
        for part in ("weight", "bias"):
            for row in played.start["generator"][f"{place}.{part}"]:
                assert torch.equal(row, getattr(norm, part)), f"{part} of {place} starts as another"
    for shift in (0, 1):
        classes = (torch.arange(8) + shift) % played.game.generator.classes
        for (layer, x, y), norm in zip(
            flows(played, "generator", new.values(), shift=shift), norms.values(), strict=True
        ):
            maps = x if x.dim() == 4 else x[..., None, None]
            centred = maps - maps.mean((0, 2, 3), keepdim=True)
            normal = centred / (centred.square().mean((0, 2, 3), keepdim=True) + norm.eps).sqrt()
            gamma, beta = (table[classes][..., None, None] for table in (layer.weight, layer.bias))
            close(y, (normal * gamma + beta).reshape(y.shape), "what leaves a norm", rtol=1e-7, atol=1e-10)


GIVEN = {"conditional": True, "batch_norm": True}
IMAGES = TrickHost(sample=(1, 8, 8), classes=3, generator={**GIVEN, "depth": 2}, discriminator={"depth": 2})
VECTORS = TrickHost(classes=3, generator=GIVEN)
RESNET = IMAGES.but(generator={**GIVEN, "network": "resnet", "depth": 2})
HOSTS = pytest.mark.parametrize("host", [VECTORS, IMAGES, RESNET], ids=["mlp", "dcgan", "resnet"])
KINDS = {"vectors": (nn.BatchNorm1d, ()), "lines": (nn.BatchNorm1d, (4,)), "maps": (nn.BatchNorm2d, (3, 2))}


def treated(network: nn.Module) -> dict[str, ClassNorm]:
    return {name: m for name, m in network.named_modules() if isinstance(m, ClassNorm)}


def generator_of(host: TrickHost) -> Generator:
    return host.with_trick("class_batch_norm").game().generator


def drawn(host: TrickHost, count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    z = torch.randn((count, host.latent_dim), generator=generator, dtype=torch.float64)
    return z, torch.arange(count) % host.classes


def spread(network: Generator) -> Generator:
    """The network with another scale and shift for each class in every norm."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in treated(network).values():
            for table in (norm.weight, norm.bias):
                table.add_(torch.randn(table.shape, generator=generator, dtype=table.dtype))
    return network


def a_norm(kind: str, draw: Any = None, **options: Any) -> Any:
    make, size = KINDS[kind]
    norm = make(3, **options).double()
    if draw is not None:
        with torch.no_grad():
            norm.weight.copy_(draw(gs.tensors((3,))))
            norm.bias.copy_(draw(gs.tensors((3,))))
    return norm, size


def of_classes(norm: Any, count: int, now: Tensor) -> ClassNorm:
    made = ClassNorm(norm, count, PassClasses(nn.Module()))
    made.classes.now = now
    return made


# ---------------------------------------------------------------- the formula


@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([(), (4,), (3, 2)]), st.data())
def test_each_sample_has_the_scale_and_the_shift_of_its_class(batch, count, size, data):
    x, weight, bias = (data.draw(gs.tensors(shape)) for shape in ((batch, 3, *size), (count, 3), (count, 3)))
    classes = data.draw(gs.rng()).randint(batch, count)
    found = scale_and_shift(x, classes, weight, bias).numpy()
    for row, number in enumerate(classes.tolist()):
        for channel in range(3):
            expected = weight[number, channel].item() * x[row, channel].numpy() + bias[number, channel].item()
            np.testing.assert_allclose(found[row, channel], expected, rtol=0, atol=1e-12)


@given(st.sampled_from(sorted(KINDS)), st.sampled_from([0.1, 0.7, None]), st.data())
def test_with_equal_rows_it_is_batch_norm(kind, momentum, data):
    """In training and in eval mode, with the same running statistics after several batches."""
    norm, size = a_norm(kind, data.draw, momentum=momentum)
    weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()
    plain = deepcopy(norm)
    made = of_classes(norm, 4, torch.tensor([0, 3, 3, 1, 2, 0]))
    for _ in range(3):
        x = data.draw(gs.tensors((6, 3, *size), scale=3.0)) + 1
        expected = batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)
        torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-10)
        plain(x)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(made.norm.get_buffer(name), buffer, rtol=0, atol=0)
    x = data.draw(gs.tensors((6, 3, *size)))
    expected = batch_norm(x, plain.running_mean, plain.running_var, weight, bias, training=False, eps=norm.eps)
    torch.testing.assert_close(made.eval()(x), expected, rtol=0, atol=1e-10)
    assert not made.norm.running_mean.equal(torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_all_classes_together(kind):
    norm, size = a_norm(kind)
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    x = torch.randn((6, 3, *size), generator=generator, dtype=torch.float64)
    x[3:] += 10  # what tells the classes apart must leave the norm
    out = of_classes(norm, 2, classes)(x)
    mean, std = x.transpose(0, 1).flatten(1).mean(1), x.transpose(0, 1).flatten(1).std(1, correction=0)
    expected = (x - mean.reshape(1, 3, *[1] * len(size))) / std.reshape(1, 3, *[1] * len(size))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert (out[3:].mean() - out[:3].mean()) > 1


def test_gradients_reach_the_rows_of_the_classes_that_are_there():
    norm, size = a_norm("maps")
    classes = torch.tensor([4, 1, 1])
    made = of_classes(norm, 5, classes)
    generator = torch.Generator().manual_seed(0)
    x, weights = (torch.randn((3, 3, *size), generator=generator, dtype=torch.float64) for _ in range(2))
    (made(x) * weights).sum().backward()
    normal = batch_norm(x, None, None, training=True)
    for table, per_map in ((made.weight, (weights * normal).sum((2, 3))), (made.bias, weights.sum((2, 3)))):
        expected = np.zeros((5, 3))
        np.add.at(expected, classes.numpy(), per_map.numpy())
        np.testing.assert_allclose(table.grad.numpy(), expected, rtol=0, atol=1e-10)
        assert not table.grad[[0, 2, 3]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_gradients_check(kind):
    norm, size = a_norm(kind, eps=1e-2)
    made = of_classes(norm, 3, torch.tensor([2, 0, 0, 1]))
    x = torch.randn((4, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    made.norm.momentum = 0.0

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return scale_and_shift(made.norm(x), made.classes.now, weight, bias)

    assert torch.autograd.gradcheck(function, (x, made.weight, made.bias))
    assert torch.autograd.gradgradcheck(function, (x, made.weight, made.bias))


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_without_scales_starts_with_1_and_0(affine):
    norm = nn.BatchNorm2d(3, affine=affine)
    made = of_classes(norm, 2, torch.tensor([0]))
    assert same_bits(made.weight, torch.ones(2, 3))
    assert same_bits(made.bias, torch.zeros(2, 3))
    assert norm.affine == affine, "the norm that was there is changed"
    assert [name for name, _ in made.named_parameters()] == ["weight", "bias"]


def test_scales_are_not_rounded_to_the_type_of_the_maps():
    x = torch.linspace(-3, 3, 64).bfloat16().reshape(1, 1, 8, 8)
    weight, bias = torch.tensor([[1.003]]), torch.tensor([[0.0007]])
    out = scale_and_shift(x, torch.tensor([0]), weight, bias)
    assert out.dtype == torch.bfloat16
    assert same_bits(out, (x.float() * 1.003 + 0.0007).bfloat16())


def test_the_memory_layout_is_kept():
    x = torch.randn((3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last)
    made = ClassNorm(nn.BatchNorm2d(4), 2, PassClasses(nn.Module()))
    made.classes.now = torch.tensor([0, 1, 1])
    assert made(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(last), made(x), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- the surgery


@HOSTS
def test_every_batch_norm_is_treated(host):
    network, plain = generator_of(host), host.game().generator
    places = {name: m for name, m in plain.named_modules() if isinstance(m, _BatchNorm)}
    assert places
    assert treated(network).keys() == places.keys()
    for place, norm in treated(network).items():
        assert norm.weight.shape == norm.bias.shape == (3, places[place].num_features)
    assert mixes_samples(network)
    others = {n for n, _ in network.named_parameters() if n.rpartition(".")[0] not in places}
    assert others == {n for n, _ in plain.named_parameters() if n.rpartition(".")[0] not in places}


@HOSTS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_generator_starts_as_the_one_without_it(host, training):
    game, plain = host.with_trick("class_batch_norm").game(), host.game()
    z, classes = drawn(host)
    images = [one.generator.train(training)(z, classes) for one in (game, plain)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-12)


@HOSTS
def test_the_class_matters_through_each_norm_alone(host):
    network = generator_of(host).eval()
    z, classes = drawn(host)
    with torch.no_grad():
        network.embedding.weight.copy_(network.embedding.weight[:1].expand_as(network.embedding.weight))
    z = z[:1].expand(3, -1)
    assert torch.allclose(*network(z, classes[:3])[:2], rtol=0, atol=1e-12)
    for place, norm in treated(network).items():
        for table in (norm.weight, norm.bias):
            with torch.no_grad():
                table[1] += 1
            images = network(z, classes[:3])
            assert not torch.allclose(images[0], images[1], rtol=0, atol=1e-9), place
            torch.testing.assert_close(images[0], images[2], rtol=0, atol=1e-12)
            with torch.no_grad():
                table[1] -= 1


@HOSTS
def test_permuting_latents_and_classes_together_permutes_the_images(host):
    network = spread(generator_of(host))
    z, classes = drawn(host)
    order = torch.tensor([3, 0, 4, 1, 2])
    images = network(z, classes)
    torch.testing.assert_close(network(z[order], classes[order]), images[order], rtol=0, atol=1e-11)
    assert not torch.allclose(network(z[order], classes), images[order], rtol=0, atol=1e-6)


@HOSTS
def test_in_eval_mode_a_sample_is_its_own(host):
    network = spread(host.with_trick("class_batch_norm").train(3).game.generator).eval()
    z, classes = drawn(host)
    images = network(z, classes)
    for row in range(5):
        torch.testing.assert_close(
            network(z[row : row + 1], classes[row : row + 1])[0], images[row], rtol=0, atol=1e-11
        )


@HOSTS
def test_rows_of_classes_part_as_they_learn(host):
    game = host.with_trick("class_batch_norm").train(3).game
    for place, norm in treated(game.generator).items():
        for table in (norm.weight, norm.bias):
            for one, other in ((0, 1), (1, 2), (2, 0)):
                assert not same_bits(table[one], table[other]), place


# ---------------------------------------------------------------- classes find their pass


def test_a_copy_of_the_network_reads_its_own_classes():
    network = spread(generator_of(IMAGES)).eval()
    twin = deepcopy(network)
    z, classes = drawn(IMAGES)
    expected = network(z, classes)

    def interrupt(module: nn.Module, args: tuple) -> None:
        twin(z[:2], classes[1:3])

    network.body[0].register_forward_pre_hook(interrupt)
    assert same_bits(network(z, classes), expected)
    assert same_bits(twin(z, classes), expected)


def test_classes_may_come_by_keyword_and_are_forgotten_after_the_pass():
    network = spread(generator_of(IMAGES)).eval()
    z, classes = drawn(IMAGES)
    assert same_bits(network(z, classes=classes), network(z, classes))
    assert all(norm.classes.now is None for norm in treated(network).values())


def test_an_average_of_the_generator_uses_averaged_scales_and_copied_statistics():
    host = IMAGES.with_trick("class_batch_norm").with_trick("ema", decay=0.5, warmup=False)
    game = host.train(3).game
    shadow = next(planned.trick for planned in game.plan.tricks if planned.name == "ema").averages["generator"].shadow
    live = treated(game.generator)
    for place, norm in treated(shadow).items():
        assert same_bits(norm.norm.running_var, live[place].norm.running_var)
        assert not same_bits(norm.weight, live[place].weight)
        assert norm.classes is not live[place].classes
    assert torch.isfinite(torch.from_numpy(sampling.sample(game, 4, 0))).all()


# ---------------------------------------------------------------- beside other surgery


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("other", "options"),
    [
        ("weight_norm", {"data_init": 20}),
        ("label_injection", {"players": ["generator"]}),
        ("grow", {}),
        ("generator_dropout", {}),
        ("generator_noise", {}),
    ],
)
def test_it_goes_with_other_surgery_in_either_order(other, options, first):
    deep = {**GIVEN, "depth": 3}
    host = IMAGES.but(sample=(1, 16, 16), generator=deep, discriminator={"depth": 3})
    host = host.with_trick(other, **options) if first else host
    host = host.with_trick("class_batch_norm")
    host = host if first else host.with_trick(other, **options)
    game = host.train(6).game
    assert game.non_finite() is None
    assert len(treated(game.generator)) == 3
    norms = [name for name, module in game.generator.named_modules() if isinstance(module, _BatchNorm)]
    assert norms == [f"{place}.norm" for place in treated(game.generator)]


def test_a_start_from_data_leaves_scales_and_statistics_alone():
    host = IMAGES.with_trick("class_batch_norm")
    fitted, plain = (host.with_trick("weight_norm", data_init=n).game().generator for n in (20, 0))
    for a, b in zip(treated(fitted).values(), treated(plain).values(), strict=True):
        for (name, one), (_, other) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
            assert same_bits(one, other), name


class BareNorms(Trick):
    """Surgery that leaves batch norm without scales, in the head too."""

    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        network.body.up1.norm = nn.BatchNorm2d(network.body.up1.norm.num_features, affine=False).double()
        network.head = nn.Sequential(nn.BatchNorm2d(4).double(), network.head)
        return network


def test_norms_of_other_surgery_are_treated_too():
    host = IMAGES.with_trick(BareNorms).with_trick("class_batch_norm")
    game = host.train(2).game
    assert {"head.0", "body.up1.norm"} <= treated(game.generator).keys()
    assert game.non_finite() is None


@pytest.mark.slow
@pytest.mark.parametrize("host", [VECTORS, IMAGES], ids=["mlp", "dcgan"])
def test_the_step_compiles(host):
    game = host.but(precision="fp32").with_trick("class_batch_norm").game()
    CapturedStep(game, INDUCTOR)()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (TrickHost(generator={"batch_norm": True}), "needs classes"),
        (IMAGES.but(generator={"batch_norm": True}), "needs generator_conditional"),
        (IMAGES.but(generator={"conditional": True, "batch_norm": False}), "needs generator_batch_norm"),
        (VECTORS.but(batch_size=1), "more than one sample"),
        (IMAGES.with_trick("class_batch_norm", "other"), "replace the same part, generator_batch_norm"),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_checked(host, reason):
    with pytest.raises(UserError, match=reason):
        host.with_trick("class_batch_norm").plan()


def test_batches_of_one_image_play():
    assert IMAGES.but(batch_size=1).with_trick("class_batch_norm").train(3).game.non_finite() is None
