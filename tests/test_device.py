"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gantricks import UserError
from gantricks.planning import device
from gantricks.planning.device import out_of_memory, place
from gantricks.planning.plan import make_plan
from gantricks.planning.validation import load_recipe


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("convolutions", [True, False])
def test_auto_is_bf16_on_a_cpu_for_convolutions_where_the_units_are_there(
    monkeypatch: pytest.MonkeyPatch, units: bool, convolutions: bool
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: units)
    placement = place("cpu", "auto", convolutions=convolutions)
    assert placement.precision == ("bf16" if units and convolutions else "fp32")
    assert placement.dtype == torch.float32


@pytest.mark.parametrize(
    ("has", "faster"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),  # a virtual machine without AMX
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "arm64", "bf16": True}, False),
    ],
)
def test_a_cpu_has_bf16_where_it_is_faster_than_fp32(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], faster: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert device.cpu_has_bf16() is faster


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


# ---------------------------------------------------------------- threads


def test_a_small_step_is_computed_with_one_thread_and_others_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    threads = {
        name: place("cpu", "fp32", multiply_adds=make_plan(load_recipe(*recipe)).multiply_adds).threads
        for name, recipe in {
            "ring": ("ring_mlp", []),
            "grid": ("grid_mlp", []),
            "wide": ("grid_mlp", ["discriminator.hidden=[2048,2048]"]),
            "large batches": ("grid_mlp", ["data.batch_size=4096"]),
            "images": ("dcgan", []),
        }.items()
    }
    assert threads == {"ring": 1, "grid": 1, "wide": 16, "large batches": 16, "images": 16}


def test_what_the_user_says_in_the_environment_is_done() -> None:
    asked = "from gantricks.planning.device import threads_for; print(threads_for(1))"
    said = {"OMP_NUM_THREADS": "2"}
    answer = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, env={**os.environ, **said}
    )
    assert answer.stdout.strip() == "2"


def test_threads_are_those_of_the_placement_for_as_long_as_it_computes() -> None:
    before = torch.get_num_threads()
    placement = device.Placement(torch.device("cpu"), torch.float32, None, threads=before + 1)
    with placement.computing():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert f"{before + 1} threads" in str(placement)


def test_no_multiply_adds_are_known_where_a_weight_is_used_many_times() -> None:
    assert make_plan(load_recipe("dcgan")).multiply_adds is None
    assert make_plan(load_recipe("ring_mlp", ["data.batch_size=10"])).multiply_adds == 10 * max(
        make_plan(load_recipe("ring_mlp")).parameters().values()
    )


# ---------------------------------------------------------------- GPUs and memory


def settings() -> dict[str, object]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "threads": torch.get_num_threads(),
        "products in TF32": products.allow_tf32,
        "convolutions in TF32": convolutions.allow_tf32,
        "deterministic": convolutions.deterministic,
        "benchmark": convolutions.benchmark,
    }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """Pretends that there is a GPU of this compute capability."""

    def there(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(device, "_device", lambda wanted, where: torch.device("cuda", 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "some GPU")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda chosen: capability)

    return there


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp64"])
def test_fp32_is_ieee_tf32_is_asked_for_and_all_settings_are_undone(gpu: Any, precision: str) -> None:
    gpu((9, 0))
    before = settings()
    placement = place("cuda", precision)
    assert settings() == before
    with placement.computing():
        inside = settings()
        assert inside["products in TF32"] == inside["convolutions in TF32"] == (precision == "tf32")
        assert inside["deterministic"]
        assert not inside["benchmark"]
    assert settings() == before
    with pytest.raises(KeyError), placement.computing():
        raise KeyError
    assert settings() == before
    assert str(placement) == f"cuda:0 (some GPU), {precision}"


@pytest.mark.parametrize(("capability", "precision"), [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16")])
def test_auto_on_a_gpu_is_bf16_where_the_hardware_has_it(gpu: Any, capability: Any, precision: str) -> None:
    gpu(capability)  # a V100, a T4, an A100
    assert place("cuda", "auto", convolutions=True).precision == precision
    assert place("cuda", "auto", convolutions=False).precision == "fp32"


def test_tf32_is_refused_where_it_does_not_exist(gpu: Any) -> None:
    with pytest.raises(UserError, match=r"recipe\.toml:7: cpu has no TF32[\s\S]*fp32"):
        place("cpu", "tf32", "recipe.toml:7")
    gpu((7, 5))
    with pytest.raises(UserError, match="cuda:0 has no TF32"):
        place("cuda", "tf32")


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total …"), "2.00 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes."), "800 bytes"),
        (MemoryError("Unable to allocate 1.00 TiB for an array with shape (9,)"), "1.00 TiB"),
        (MemoryError(), ""),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("tried to allocate 5 blocks"), None),
    ],
)
def test_a_lack_of_memory_is_known_from_other_faults(error: Exception, asked: str | None) -> None:
    assert out_of_memory(error) == asked


def test_a_real_lack_of_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58)
    assert out_of_memory(caught.value)
