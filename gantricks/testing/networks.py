"""The laws that every pair of architectures obeys, as one pytest test: for your networks as for ours."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gantricks.networks.base import Discriminator, Generator, Network, Shapes, initialise, mixes_samples
from gantricks.options import Options
from gantricks.rng import Clock, Rng
from gantricks.testing.case import NotApplicable

LATENT_DIM, CLASSES, CONDITION, COUNT = 5, 3, 4, 4
"""The sizes that networks are tried with: of latents, of classes, of conditions, and samples in a batch."""

GIVEN = ("conditional", "conditioned")


@dataclass(frozen=True)
class NetworkCase:
    """One role of a network, at some options.

    `role` is "generator" or "discriminator", `sample` the shape of a sample.
    """

    network: type[Network]
    role: str
    sample: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.role

    def but(self, **options: Any) -> NetworkCase:
        """Return this case with other options."""
        return replace(self, options={**self.options, **options})

    @property
    def config(self) -> Options:
        kind = getattr(self.network, f"{self.role.capitalize()}Config")
        config: Options = kind(**self.options)
        return config

    @property
    def takes(self) -> set[str]:
        """Which of "conditional" and "conditioned" this network can be."""
        return {key for key in GIVEN if key in type(self.config).model_fields}

    def shapes(self, sample: tuple[int, ...] | None = None, classes: int = CLASSES) -> Shapes:
        return Shapes(sample or self.sample, LATENT_DIM, classes, CONDITION)

    def laid_out(self, shapes: Shapes | None = None) -> Any:
        """Return the network without numbers."""
        with torch.device("meta"):
            return getattr(self.network, self.role)(self.config, shapes or self.shapes())

    def built(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Return the network with its first weights, in training mode."""
        network = self.laid_out().to_empty(device="cpu")
        initialise(network, Rng(seed, "network", Clock()))
        return network.to(dtype)

    def inputs(
        self, network: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return a batch that the network is called with: latents or samples, classes, conditions."""
        rng = Rng(seed, "inputs", Clock())
        shape = (LATENT_DIM,) if self.role == "generator" else self.sample
        first = rng.normal((COUNT, *shape)).to(dtype)
        classes = torch.arange(COUNT) % CLASSES if getattr(network, "conditional", False) else None
        condition = rng.normal((COUNT, CONDITION)).to(dtype) if getattr(network, "conditioned", False) else None
        return first, classes, condition

    def result(self, network: nn.Module, *given: Tensor | None) -> Tensor:
        """Return what the network says of a batch: images, or logits."""
        out = network(*given)
        found: Tensor = out if self.role == "generator" else out.logits
        return found


@dataclass(frozen=True)
class NetworkLaw:
    """A law of networks. `check(case)` raises AssertionError where it is broken, and NotApplicable where it says
    nothing.
    """

    id: str
    hint: str
    check: Callable[[NetworkCase], None]

    def __str__(self) -> str:
        return self.id


NETWORK_LAWS: dict[str, NetworkLaw] = {}
"""Every law of networks, by id."""


def _law(identity: str, hint: str) -> Callable[[Callable[[NetworkCase], None]], Callable[[NetworkCase], None]]:
    def add(check: Callable[[NetworkCase], None]) -> Callable[[NetworkCase], None]:
        NETWORK_LAWS[identity] = NetworkLaw(identity, hint, check)
        return check

    return add


def network_suite(
    network: type[Network],
    sample: tuple[int, ...],
    generator: Mapping[str, Any] | None = None,
    discriminator: Mapping[str, Any] | None = None,
) -> Callable[..., None]:
    """A pytest test with one case per law and role: `test_my_network = network_suite(MyNetwork, (3, 16, 16))`.

    `sample` is the shape of the samples that it is built for, `generator` and `discriminator` are options that make it
    small. Each law is also checked with the network conditional and conditioned, where it can be.
    """
    import pytest

    given = {"generator": generator or {}, "discriminator": discriminator or {}}
    cases = [
        (law, NetworkCase(network, role, sample, given[role]))
        for role in given
        if getattr(network, f"{role.capitalize()}Config") is not None
        for law in NETWORK_LAWS.values()
    ]

    @pytest.mark.parametrize(("law", "case"), cases, ids=[f"{case}-{law}" for law, case in cases])
    def suite(law: NetworkLaw, case: NetworkCase) -> None:
        try:
            law.check(case)
        except NotApplicable as reason:
            pytest.skip(str(reason))
        except AssertionError as broken:
            raise AssertionError(f"{broken}\nhint: {law.hint}") from broken

    return suite


def _forms(case: NetworkCase) -> Iterator[NetworkCase]:
    """Yield the case plain, conditional and conditioned, as far as the network can be."""
    plain = case.but(**dict.fromkeys(case.takes, False))
    yield plain
    for key in sorted(case.takes):
        yield plain.but(**{key: True})


# ---------------------------------------------------------------- building


@_law("options", "give every option a description: Annotated[int, Field(ge=1, description=…)]")
def _options(case: NetworkCase) -> None:
    for name, option in type(case.config).model_fields.items():
        assert option.description, f"the option {name} has no description"


@_law("layout", "only lay modules out in the builder; numbers are drawn by `initialise`")
def _layout(case: NetworkCase) -> None:
    for form in _forms(case):
        before = torch.get_rng_state()
        network = form.laid_out()
        assert torch.equal(before, torch.get_rng_state()), "the builder draws from torch's global generator"
        for name, tensor in network.state_dict().items():
            assert tensor.is_meta, f"{name} was made on another device than the one that is asked for"


@_law("start", "fill every parameter and buffer: a module that holds others than torch's needs `initialise(rng)`")
def _start(case: NetworkCase) -> None:
    for form in _forms(case):
        found = []
        for seed in (0, 0, 1):
            network = form.laid_out().to_empty(device="cpu")
            with torch.no_grad():
                for tensor in (*network.parameters(), *network.buffers()):
                    tensor.fill_(float("nan") if tensor.is_floating_point() else -7)
            initialise(network, Rng(seed, "network", Clock()))
            found.append(network.state_dict())
        first, again, other = found
        for name, tensor in first.items():
            assert torch.isfinite(tensor).all(), f"{name} is not filled"
            assert torch.equal(tensor, again[name]), f"{name} differs under one seed"
        assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items()), "every seed starts alike"


@_law("form", "return a Generator with `body` and `head`, or a Discriminator with `body`, `head` and `feature_dim`")
def _form(case: NetworkCase) -> None:
    for form in _forms(case):
        network = form.built().eval()
        first, classes, condition = form.inputs(network)
        kind = Generator if case.role == "generator" else Discriminator
        assert isinstance(network, kind), f"the {case.role} is a {type(network).__name__}"
        assert network.shape == case.sample, f"shape is {network.shape} and not {case.sample}"
        if isinstance(network, Generator):
            assert network.latent_dim == LATENT_DIM
            made = network(first, classes, condition)
            assert made.shape == (COUNT, *case.sample), f"images have the shape {tuple(made.shape)}"
            continue
        out = network(first, classes, condition)
        assert out.logits.shape == (COUNT, 1), f"logits have the shape {tuple(out.logits.shape)}"
        assert out.features.shape == (COUNT, network.feature_dim), f"features: {tuple(out.features.shape)}"
        torch.testing.assert_close(network.body(first), out.features, msg="features are not what `body` returns")


@_law("precision", "keep the type of the input: constants follow x.dtype, and nothing is computed in a fixed type")
def _precision(case: NetworkCase) -> None:
    for form in _forms(case):
        network = form.built(dtype=torch.float64)
        try:
            made = form.result(network, *form.inputs(network, dtype=torch.float64))
        except RuntimeError as error:
            raise AssertionError(f"a pass in float64 fails: {error}") from error
        assert made.dtype == torch.float64, f"float64 comes out as {made.dtype}"
        assert made.isfinite().all()


# ---------------------------------------------------------------- numbers


@_law("gradients", "use every parameter in the forward pass, and keep its gradient finite")
def _gradients(case: NetworkCase) -> None:
    for form in _forms(case):
        network = form.built(dtype=torch.float64)
        form.result(network, *form.inputs(network, dtype=torch.float64)).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        assert any(parameter.grad.any() for parameter in network.parameters()), "all gradients are 0"


@_law("alone", "judge each sample by itself in training, or say `mixes_samples = True` on the module that does not")
def _alone(case: NetworkCase) -> None:
    for form in _forms(case):
        network = form.built(dtype=torch.float64)
        given = form.inputs(network, dtype=torch.float64)
        others = form.inputs(network, seed=1, dtype=torch.float64)
        mixed = tuple(
            None if one is None or other is None else torch.cat([one[:1], other[1:]])
            for one, other in zip(given, others, strict=True)
        )
        # what is drawn in the network depends on the draw alone
        whole, changed = (form.result(copy.deepcopy(network), *batch)[0] for batch in (given, mixed))
        same = torch.allclose(whole, changed, rtol=1e-9, atol=1e-12)
        assert same or mixes_samples(network), "a result depends on the others of its batch, and no module says so"


@_law("eval", "in eval mode, return the same for the same input, whatever is beside it, and change nothing")
def _eval(case: NetworkCase) -> None:
    for form in _forms(case):
        network = form.built(dtype=torch.float64).eval()
        given = form.inputs(network, dtype=torch.float64)
        before = copy.deepcopy(network.state_dict())
        whole, again = (form.result(network, *given) for _ in range(2))
        assert torch.equal(whole, again), "two passes in eval mode differ"
        part = form.result(network, *(None if one is None else one[:2] for one in given))
        assert torch.allclose(whole[:2], part, rtol=1e-9, atol=1e-12), "a result depends on the others in eval mode"
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, before[name]), f"a pass in eval mode changes {name}"


@_law("described", "use the class where `conditional` is true, the condition where `conditioned` is, and neither else")
def _described(case: NetworkCase) -> None:
    for form in _forms(case):
        network = form.built(dtype=torch.float64).eval()
        first, classes, condition = form.inputs(network, dtype=torch.float64)
        first = first[:1].expand(COUNT, *first.shape[1:])
        for key, part in (("conditional", classes), ("conditioned", condition)):
            wanted = bool(form.options.get(key))
            assert getattr(network, key) == wanted, f"{key} is {getattr(network, key)} and the option is {wanted}"
            if part is not None:
                made = form.result(network, first, classes, condition)
                assert not torch.equal(made[0], made[1]), f"the result is the same whatever the network is told ({key})"


@_law("layout-in-memory", "give the same numbers in the channels-last format")
def _channels_last(case: NetworkCase) -> None:
    if len(case.sample) != 3:
        raise NotApplicable("vectors have one format")
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = case.built(dtype=torch.float64).to(memory_format=memory_format)
        first, *given = case.inputs(network, dtype=torch.float64)
        assert first is not None
        first = first.contiguous(memory_format=memory_format) if first.dim() == 4 else first
        found.append(case.result(network, first, *given))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- what it says of itself


@_law("capabilities", "tell in `capabilities` what the network is: conditional, conditioned, batch_norm, convolutions")
def _capabilities(case: NetworkCase) -> None:
    for form in _forms(case):
        network, able = form.built(), form.network.capabilities(form.role, form.config, form.shapes())
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        truth = {"batch_norm": norms, **{key: getattr(network, key) for key in GIVEN}}
        for name, true in truth.items():
            assert (name in able) == true, f"{name} is {'not ' * (name not in able)}among its capabilities"
        if any(isinstance(module, nn.modules.conv._ConvNd) for module in network.body.modules()):
            assert "convolutions" in able or "styles" in able, "convolutions is not among its capabilities"


@_law("maps", "return in `maps` the sizes of the maps between blocks, from the image to the smallest")
def _maps(case: NetworkCase) -> None:
    told = case.network.maps(case.role, case.config, case.shapes())
    if not told:
        raise NotApplicable("it tells of no maps")
    assert told[0] == case.sample[1:], f"the first map is {told[0]}, and the image {case.sample[1:]}"
    assert all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(told)), f"{told} does not get smaller"
    network, seen = case.built(), set[tuple[int, ...]]()

    def note(module: nn.Module, given: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.dim() == 4:
            seen.add(tuple(out.shape[2:]))

    for module in network.modules():
        module.register_forward_hook(note)
    network(*case.inputs(network))
    missing = [size for size in told[1:] if size not in seen]
    assert not missing, f"no map has the size {missing[0]}"


@_law("problems", "return a sentence from `problems` for every shape that the builder cannot fit")
def _problems(case: NetworkCase) -> None:
    for sample, classes in itertools.product(((1,), (2,), (1, 1, 1), (1, 2, 9), (3, 9, 7), (1, 33, 20)), (0, CLASSES)):
        for form in _forms(case):
            shapes = Shapes(sample, LATENT_DIM, classes, CONDITION if classes else 0)
            told = form.network.problems(form.role, form.config, shapes)
            assert all(isinstance(sentence, str) and sentence for sentence in told), "problems are sentences"
            if told:
                continue
            try:
                network = form.laid_out(shapes).to_empty(device="cpu").eval()
                initialise(network, Rng(0, "network", Clock()))
                first = torch.zeros(2, *((LATENT_DIM,) if form.role == "generator" else sample))
                which = torch.zeros(2, dtype=torch.int64) if network.conditional else None
                condition = torch.zeros(2, shapes.condition) if network.conditioned else None
                form.result(network, first, which, condition)
            except Exception as error:  # whatever a builder raises is a problem that was not told
                raise AssertionError(f"samples of shape {sample} are not refused, and fail: {error}") from error
    if not case.takes:
        return
    for key in case.takes:
        lacking = Shapes(case.sample, LATENT_DIM)
        told = case.network.problems(case.role, case.but(**{key: True}).config, lacking)
        assert told, f"{key} = true without such data is not refused"
