"""How long it takes to begin, and how much memory: imports, commands, the first step, and what peers take to import.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --rounds 21 --python lightning=venvs/lightning/bin/python

Every figure is a fresh process, from its start to its end, whose files the system has in its cache; all take turns
(A B C, A B C …). Printed are the median of the seconds, their middle half, and the median of the most memory that the
process held. The first step is that of the main job: everything from an empty process to the end of the first G step,
data, networks and optimizers included. An interpreter that does nothing is the ground that all stand on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from common import arguments, begin, write
from peers import PACKAGES

COMMAND = "import sys; from gantricks.cli import main; sys.exit(main())"
FIRST_STEP = """
from gantricks.planning.device import place
from gantricks.engine.start import start
from gantricks.planning.plan import make_plan
from gantricks.planning.validation import load_recipe
plan = make_plan(load_recipe("{recipe}"))
start(plan, plan.source.load(), place("cpu", "fp32")).advance()
"""
OURS = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import torch": ["-c", "import torch"],
    "import gantricks": ["-c", "import gantricks"],
    "gantricks --help": ["-c", COMMAND, "--help"],
    "gantricks tricks": ["-c", COMMAND, "tricks"],
    "gantricks recipes": ["-c", COMMAND, "recipes"],
    "gantricks check": ["-c", COMMAND, "check", "dcgan_soft_labels"],
    "first step": ["-c", FIRST_STEP.format(recipe="dcgan_soft_labels")],
    "first step (MLP)": ["-c", FIRST_STEP.format(recipe="ring_mlp")],
}


LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
complaint = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start
print(json.dumps([os.waitstatus_to_exitcode(status), complaint, seconds, usage.ru_maxrss]))
"""


def run(command: list[str]) -> tuple[float, float]:
    """(seconds, MiB) of a process. Raises RuntimeError with its last line where it fails."""
    # by way of a small process: to the system, the memory of the one that starts it is the first of its own
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *command]
    status, complaint, seconds, peak = json.loads(subprocess.run(launcher, capture_output=True, check=True).stdout)
    if status:
        lines = complaint.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {status}")
    return seconds, peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--python", metavar="PEER=PATH", action="append", default=[], help="the Python that has a peer")
    parsed = parser.parse_args()
    head = begin(parsed)
    pythons = dict(given.split("=", 1) for given in parsed.python)
    commands = {name: [sys.executable, *words] for name, words in OURS.items()}
    for peer, (module, _) in PACKAGES.items():
        if peer != "lightning-logging":
            commands[f"import {module}"] = [pythons.get(peer, sys.executable), "-c", f"import {module}"]
    os.environ["OMP_NUM_THREADS"] = str(parsed.threads)

    results: dict[str, Any] = {}
    for name, command in list(commands.items()):
        try:
            run(command)  # brings its files into the system's cache
        except RuntimeError as reason:
            print(f"  {name:22} passed over: {reason}", flush=True)
            results[name] = {"passed_over": str(reason)}
            del commands[name]
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(parsed.rounds):
        for name, command in commands.items():
            measured[name].append(run(command))
    print(f"  {'':22} {'seconds':>8}  middle half    most memory")
    for name, pairs in measured.items():
        seconds = sorted(pair[0] for pair in pairs)
        quarter = len(seconds) // 4
        figures = results[name] = {
            "seconds": statistics.median(seconds),
            "seconds_low": seconds[quarter],
            "seconds_high": seconds[-1 - quarter],
            "peak_mib": statistics.median(pair[1] for pair in pairs),
        }
        print(
            f"  {name:22} {figures['seconds']:8.3f}  {figures['seconds_low']:.3f}–{figures['seconds_high']:.3f}  "
            f"{figures['peak_mib']:8.0f} MiB",
            flush=True,
        )
    write(parsed.out, head, results)


if __name__ == "__main__":
    main()
