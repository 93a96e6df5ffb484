import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# trace_laws is no test module: it is imported by its name, and its assertions are to speak like those of the tests
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("trace_laws")

# tiny networks: a second thread costs more than it brings
torch.set_num_threads(1)

# on CI the same examples at every run: what passes once passes again
settings.register_profile(
    "gantricks",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("gantricks")


REFUSED = pytest.StashKey[dict[tuple[str, str], str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REFUSED] = {}


@pytest.fixture
def refused_pairs(pytestconfig: pytest.Config) -> dict[tuple[str, str], str]:
    """Pairs of tricks that `check` was seen to refuse, and its words: what a test writes here is printed at the end."""
    return pytestconfig.stash[REFUSED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    refused = config.stash[REFUSED]
    if refused:
        terminalreporter.section(f"{len(refused)} pairs of tricks are refused")
        for (first, second), words in sorted(refused.items()):
            terminalreporter.write_line(f"{first} + {second}: {words}")
