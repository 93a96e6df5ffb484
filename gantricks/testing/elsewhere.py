"""Plays the same tiny runs in another Python process, where hashes differ.

One process is started on first use, and serves all further calls. Requests and answers are lines of JSON. Classes and
functions are sent as the names under which they can be imported.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantricks.engine.game import Tensors

PATIENCE = 300
"""The number of seconds to wait for an answer. The first one includes the time to import torch."""

_INSIDE = "GANTRICKS_ELSEWHERE"


class CannotGoThere(Exception):
    """Raised when the other process cannot play this run. The message is the reason."""


def digests(state: Mapping[str, Tensors], samples: Tensor, scalars: list[dict[str, float]]) -> dict[str, str]:
    """Return a hash of each tensor, of the samples and of the scalars of a run, by name."""
    found = {f"{group}/{name}": _digest(t) for group, named in state.items() for name, t in named.items()}
    logged = json.dumps([sorted(line.items()) for line in scalars])
    return found | {"the samples": _digest(samples), "the logged values": hashlib.sha256(logged.encode()).hexdigest()}


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    facts = f"{tuple(plain.shape)} {plain.dtype}".encode()
    return hashlib.sha256(facts + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def play_elsewhere(host: Any) -> dict[str, str]:
    """Play this host's run in the other process and return its digests.

    Raises CannotGoThere where the run cannot be sent there, AssertionError where it fails there.
    """
    global _other
    if _INSIDE in os.environ:
        raise CannotGoThere("this is the other process already")
    told = {"kind": _written(type(host)), "fields": {f.name: _written(getattr(host, f.name)) for f in fields(host)}}
    line = json.dumps(told | {"threads": torch.get_num_threads(), "path": [e or os.getcwd() for e in sys.path]})
    if _other is None:
        _other = _Other()
    answer = _other.ask(line)
    if "cannot" in answer:
        raise CannotGoThere(answer["cannot"])
    assert "failed" not in answer, f"in another process it fails: {answer.get('failed')}"
    found: dict[str, str] = answer["digests"]
    return found


class _Other:
    """The other process, and a queue of its answers."""

    def __init__(self) -> None:
        seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gantricks.testing.elsewhere"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
                _INSIDE: "1",
            },
        )
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self.end)

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def ask(self, line: str) -> dict[str, Any]:
        global _other
        try:
            assert self.process.stdin
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=PATIENCE)
        except (OSError, queue.Empty):
            answer = ""
        if not answer:
            self.end()
            _other = None
            raise CannotGoThere("the other process ended, or did not answer in time")
        found: dict[str, Any] = json.loads(answer)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


_other: _Other | None = None


# ---------------------------------------------------------------- requests and answers


def _written(value: Any) -> Any:
    """Return a value as JSON. A class or function is written as the place of its definition."""
    if isinstance(value, type) or inspect.isfunction(value):
        return {"import": _address(value)}
    if isinstance(value, Mapping):
        return {"map": [[key, _written(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_written(item) for item in value]}
    if hasattr(value, "model_dump"):
        return _written(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, int | float | str | type(None)):
        return value
    raise CannotGoThere(f"an option is a {type(value).__name__}, which cannot be told to another process")


def _address(thing: Any) -> list[str]:
    where = f"{thing.__name__} is defined where another process cannot import it"
    if "<" in thing.__qualname__:
        raise CannotGoThere(f"{where}: within a function; define it in a module")
    module = sys.modules.get(thing.__module__)
    if module is None or not getattr(module, "__file__", None) or not Path(str(module.__file__)).is_file():
        raise CannotGoThere(f"{where}: it comes from no file")
    return [thing.__module__, thing.__qualname__, str(Path(str(module.__file__)).absolute())]


def _read(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    if "import" in told:
        return _imported(*told["import"])
    if "map" in told:
        return {key: _read(item) for key, item in told["map"]}
    return tuple(_read(item) for item in told["list"])


def _imported(name: str, attribute: str, file: str) -> Any:
    module = None
    if name != "__main__":  # __main__ is this file in the other process
        try:
            module = importlib.import_module(name)
        except ImportError:
            module = None
    if module is None or str(Path(str(module.__file__)).absolute()) != file:
        alias = name if name != "__main__" else "gantricks_elsewhere_main"
        module = sys.modules.get(alias)
        if module is None or str(module.__file__) != file:
            spec = importlib.util.spec_from_file_location(alias, file)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[alias] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _answer(line: str) -> dict[str, Any]:
    from gantricks.testing.case import samples_of

    told = json.loads(line)
    torch.set_num_threads(told["threads"])
    sys.path[:] = told["path"]
    importlib.invalidate_caches()
    try:
        host = _read(told["kind"])(**{name: _read(value) for name, value in told["fields"].items()})
    except Exception as fault:
        return {"cannot": f"another process cannot import it: {type(fault).__name__}: {fault}"}
    try:
        played = host.train()
        return {"digests": digests(played.state, samples_of(played.game), played.scalars)}
    except Exception as fault:
        return {"failed": f"{type(fault).__name__}: {fault}"}


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of a trick must not mix with the answers
    for line in sys.stdin:
        answers.write(json.dumps(_answer(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
