"""The direct call of fused kernels: torch's own step to the bit, or not taken."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.engine.optimizers import build, direct_update
from gantricks.optimizer_options import Adam, AdamW
from gantricks.testing import strategies as gs
from gantricks.testing.record import same_bits


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), (2, 2, 2))]


@given(
    st.sampled_from([Adam(lr=0.01), AdamW(lr=0.02, weight_decay=0.1), Adam(betas=(0.0, 0.9), weight_decay=0.01)]),
    st.lists(st.tuples(gs.tensors((26,), dtype=torch.float32), st.booleans(), st.booleans()), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_direct_update_is_torchs_step_to_the_bit(config, script, tensor_rate):
    pairs = []
    for _ in range(2):
        parameters = weights()
        optimizer = build(config, parameters)
        if tensor_rate:
            optimizer.param_groups[0]["lr"] = torch.tensor(config.lr)
        optimizer.found_inf = torch.zeros(())
        pairs.append((parameters, optimizer))
    (ours, mine), (theirs, torchs) = pairs
    step = direct_update(mine)
    for values, held, without in script:
        parts = [values[:12].reshape(3, 4), values[12:17], values[17:25].reshape(2, 2, 2)]
        for parameters in (ours, theirs):
            for number, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
                parameter.grad = None if without and number == 1 else part.clone()
        mine.found_inf.fill_(held)
        torchs.found_inf.fill_(held)
        step(mine.found_inf)
        torchs.step()
        for a, b in zip(ours, theirs, strict=True):
            assert same_bits(a, b)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                assert same_bits(mine.state[a][key], torchs.state[b][key])


class Own(torch.optim.Adam):
    """It might do something else in its step."""


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD(weights(), lr=0.1, fused=True),
        torch.optim.Adam(weights()),
        torch.optim.Adam(weights(), fused=True),  # its state is not there yet
        Own(weights(), fused=True),
        torch.optim.RMSprop(weights()),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_other_optimizers_step_by_themselves(optimizer):
    assert direct_update(optimizer) is None


@pytest.mark.parametrize("option", ["amsgrad", "maximize"])
def test_options_that_the_kernel_is_not_told_of_are_left_to_torch(option):
    optimizer = build(Adam(), weights())
    assert direct_update(optimizer) is not None
    changed = copy.deepcopy(optimizer)
    changed.param_groups[0][option] = True
    assert direct_update(changed) is None


def test_a_step_that_was_wrapped_is_called():
    wrapped, hooked = build(Adam(), weights()), build(Adam(), weights())
    torch.optim.lr_scheduler.ConstantLR(wrapped)
    hooked.register_step_pre_hook(lambda *_: None)
    assert direct_update(wrapped) is None
    assert direct_update(hooked) is None
