"""Plays steps on a fake accelerator, whose tensors have shapes and no values, and tells what waits for the host.

    python tests/fake_device.py TRICK … TRICK+TRICK+TRICK

The device is PrivateUse1 under FakeTensorMode. It cannot be taken back in a process, so this is a script. It writes a
line of JSON for each trick or set of tricks:

    {"trick": "ema", "steps": 2, "faults": ["a number read on the host: aten._local_scalar_dense.default at ema.py:7"]}

A fault of a step is a tensor of the CPU beside the device's, a value that the host reads, a shape that depends on
values, a draw that is not of a stream, or a number that is copied from the host.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "fake_gpu"
HERE = Path(__file__).parent
OURS = (str(HERE.parent / "gantricks"), str(HERE.parent / "plugins"), str(HERE / "fake_device_faults.py"))

READS = {"aten._local_scalar_dense": 1.0, "aten.is_nonzero": True, "aten.equal": True}
"""What the host reads, and what it is given."""
DATA_DEPENDENT = ("aten.nonzero", "aten.masked_select", "aten._unique", "aten.unique", "aten.repeat_interleave.Tensor")
DRAWS = ("aten.rand", "aten.normal", "aten.bernoulli", "aten.uniform", "aten.native_dropout", "aten.exponential")


AHEAD = ("_order", "_sent")
"""Functions of the feed that copy what they have pinned, for which nothing waits."""


class Watch(TorchDispatchMode):
    """Collects the faults of what runs while it is `on`."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.faults: dict[str, None] = {}

    def fault(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(OURS)]
        if any(frame.name in AHEAD for frame in frames):
            return
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        self.faults[what + place] = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(function)
        for read, value in READS.items():
            if name.startswith(read):
                if self.on:
                    self.fault(f"a number read on the host: {name}")
                return value
        if self.on:
            self._look(name, [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)], args)
        if name.startswith("aten._fused_"):
            return None  # optimizers in place, which would be computed with values for want of a shape function
        return function(*args, **kwargs)

    def _look(self, name: str, given: list[Tensor], args: Any) -> None:
        on_cpu = [tensor for tensor in given if tensor.device.type == "cpu"]
        if on_cpu and not name.startswith("prim.device"):
            self.fault(f"a tensor of the CPU in the step: {name}")
        if name.startswith(DATA_DEPENDENT) or (name.startswith("aten.index") and _masks(args)):
            self.fault(f"a shape that depends on values: {name}")
        if name.startswith(DRAWS):
            self.fault(f"a draw of no stream: {name}")


def _masks(args: Any) -> bool:
    given = pytree.tree_leaves(args[1]) if len(args) > 1 else []
    return any(isinstance(tensor, Tensor) and tensor.dtype == torch.bool for tensor in given)


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def set_up(watch: Watch) -> torch.device:
    """Make the device, and what torch lacks for it: moving modules, numbers made on it, draws."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    nn.Module._apply = _apply  # type: ignore[method-assign,assignment]
    for function in ("tensor", "as_tensor"):
        setattr(torch, function, _made_there(watch, getattr(torch, function)))

    fake_tensor.CONSTANT_NUMEL_LIMIT = 0  # numbers have no values either

    from gantricks import labels, rng

    # which samples have labels depends on values, and is chosen once before the first step
    labels.labelled_subset = lambda classes, count, labels, rng: torch.arange(labels, device=classes.device)
    rng.Generator = lambda device="cpu": torch.Generator()  # type: ignore[misc,assignment]
    for kind in (rng._UNIFORM, rng._NORMAL, rng._INTEGERS, rng._PERMUTATION):
        whole = kind in (rng._INTEGERS, rng._PERMUTATION)
        object.__setattr__(kind, "on_device", _drawn(torch.int64 if whole else None))
    rng._seed_cuda = lambda generator, *place: generator  # type: ignore[assignment]
    return torch.device(NAME, 0)


def _drawn(dtype: torch.dtype | None) -> Callable[..., Tensor]:
    return lambda generator, sizes, high, own, out: (
        torch.zeros(sizes, device=torch.device(NAME, 0), dtype=dtype or own) if out is None else out.zero_()
    )


def _made_there(watch: Watch, made: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor, which cannot make a tensor on this device. In a step it is a copy from the host."""

    def make(data: Any, *, device: Any = None, **given: Any) -> Tensor:
        if device is None or torch.device(device).type != NAME or isinstance(data, Tensor):
            return made(data, **given) if device is None else made(data, device=device, **given)
        if watch.on:
            watch.fault(f"a number copied from the host: {data}")
        example = made(data, **given)
        return torch.zeros(example.shape, dtype=example.dtype, device=device)

    return make


def _apply(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply, which cannot put a parameter of another device in the place of one."""
    for module in self.children() if recurse else ():
        module._apply(function)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                new = function(parameter)
            if new is not parameter:
                self._parameters[name] = nn.Parameter(new.detach(), parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = function(buffer)
    return self


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    watch.on = True
    try:
        yield
    finally:
        watch.on = False


def played(host: Any, device: torch.device, watch: Watch, steps: int = 2) -> list[str]:
    """The faults of the first steps of a host, and of its state."""
    from gantricks.engine import state
    from gantricks.engine.dispatch import notify
    from gantricks.engine.start import start
    from gantricks.planning.device import Placement

    plan = host.plan()
    dataset = plan.source.load()
    placement = Placement(device, torch.float32, None, 1)
    watch.faults.clear()
    with FakeTensorMode(allow_non_fake_inputs=True), watch:
        game = start(plan, dataset, placement, budget=1 << 40)
        for _ in range(steps):
            game.clock.enter("boundary")
            notify(game.hooks.on_boundary)
            with watching(watch):
                game.step()
            game.move_to(game.finished + 1)
        for tensor in state.moving(game):
            if tensor.device != device:
                watch.faults["a tensor that a step changes is on the CPU"] = None
    return [*watch.faults]


def main(wanted: list[str]) -> None:
    watch = Watch()
    device = set_up(watch)
    sys.path[:0] = [str(HERE), str(HERE / "plugins")]
    from fake_device_faults import FOUND
    from trick_files import host_for, trick_files

    from gantricks.testing import TrickHost

    files, faulty = trick_files(), {trick.__name__: trick for trick in FOUND}
    for name in wanted:
        tricks = name.split("+")
        if name in faulty:
            host = TrickHost().with_trick(faulty[name])
        elif len(tricks) == 1:
            host = files[name].case().with_it
        else:
            host = host_for(*(files[trick] for trick in tricks))
            for trick in tricks:
                case = files[trick].case()
                host = host.with_trick(case.trick, trick, **case.options)
        host = host.but(precision="fp32")
        try:
            faults = played(host, device, watch)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in place if frame.filename.startswith(OURS)]
            told = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200} at {', '.join(ours[-2:])}"
            faults = [*watch.faults, told]
        print(json.dumps({"trick": name, "faults": sorted(faults)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
