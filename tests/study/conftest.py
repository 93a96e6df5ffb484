"""Studies whose workers only pretend: no run is trained, so that the rest of a study can be tried in no time."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gantricks.study import Table, ablate, study
from gantricks.study.playing import Figure

WORKER = """
import json, os, sys
from pathlib import Path

played, (values, curves, data) = open(sys.argv[1], "a"), json.loads(sys.argv[2])
for line in sys.stdin:
    task = json.loads(line)
    run, name = Path(task["run"]), f"{task['variant']} {task['seed']}"
    print(name, "floor" * task["floor"], os.getpid(), file=played, flush=True)
    told = values.get(name, values.get(task["variant"], task["seed"]))
    outcome = {"variant": task["variant"], "seed": task["seed"], "status": "done", "value": None, "steps": 6}
    took = 0.5 if task["variant"] == "full" else 0.25
    if told == "crash":
        sys.exit("the worker fell over")
    elif told == "stop":
        os.kill(os.getppid(), 2)
        sys.stdin.read()
        sys.exit(143)
    elif isinstance(told, str):
        outcome |= {"status": told, "reason": "so it was told"}
    else:
        outcome |= {"value": told + 0.01 * task["seed"], "floor": {"d": 0.5} if task["floor"] else None}
        outcome["step_seconds"] = took * (1 + 0.01 * (task["seed"] % 3))
    outcome |= {"session": task["session"], "data": data}
    outcome |= {"curve": curves.get(task["variant"], [])}
    if outcome["status"] in ("done", "diverged"):
        run.mkdir(parents=True, exist_ok=True)
        (run / "result.json").write_text(json.dumps(outcome))
    print(json.dumps({"step": 3}))
    print(json.dumps({"outcome": outcome}), flush=True)
"""

TINY = (
    *("tricks.soft_labels={}", "tricks.ema={}", "train.steps=6"),
    *("generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500", "data.batch_size=16"),
)


class Pretence:
    """Called like `ablate`, or like the function `by`, with what each variant's runs will find, it makes a study in an
    empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "played.txt"
        (folder / "worker.py").write_text(WORKER)
        self.script = folder / "worker.py"
        self.compared = Figure("loss", "d", "lower")

    def __call__(self, values: dict[str, Any] | None = None, **how: Any) -> tuple[Path, Table]:
        import json

        told = json.dumps([values or {}, how.pop("curves", {}), how.pop("data", "these")])
        command = [sys.executable, str(self.script), str(self.log), told]
        overrides = [*TINY, *how.pop("overrides", ())]
        study = how.pop("by", None)
        how = how if study else {"seeds": 3, "design": "paired"} | how
        return (study or ablate)(how.pop("recipe", "ring_mlp"), overrides=overrides, worker=command, **how)

    def played(self) -> list[str]:
        """The runs since the last look, in order."""
        lines = [" ".join(line.split()[:2]) for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return lines


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, Table]]:
    monkeypatch.chdir(tmp_path)
    made = Pretence(tmp_path)
    monkeypatch.setattr(study, "_compared", lambda *given: (made.compared, []))
    return made
