"""Where a run computes, and in which precision."""

from __future__ import annotations

import pytest
import torch

from gantricks import UserError, device
from gantricks.device import place
from gantricks.plan import make_plan
from gantricks.recipe import load_recipe


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("convolutions", [True, False])
def test_auto_is_bf16_on_a_cpu_for_convolutions_where_the_units_are_there(
    monkeypatch: pytest.MonkeyPatch, units: bool, convolutions: bool
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: units)
    placement = place("cpu", "auto", convolutions=convolutions)
    assert placement.precision == ("bf16" if units and convolutions else "fp32")
    assert placement.dtype == torch.float32


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp64", torch.float64)])
def test_a_precision_that_is_asked_for_is_used(precision: str, dtype: torch.dtype) -> None:
    placement = place("cpu", precision, convolutions=True)
    assert (placement.precision, placement.dtype, placement.autocast) == (precision, dtype, None)


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"recipe\.toml:7: cuda:99 is not there[\s\S]*auto"):
        place("cuda:99", "auto", "recipe.toml:7")


def test_images_by_dcgan_are_convolutions_and_points_by_mlp_are_not() -> None:
    assert make_plan(load_recipe("dcgan")).convolutions
    assert not make_plan(load_recipe("ring_mlp")).convolutions
