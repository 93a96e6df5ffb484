import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# what tests share is imported by name, and so are the test files of tricks; assertions speak there as they do in tests
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "plugins"), str(HERE / "networks"), str(HERE)]
pytest.register_assert_rewrite("every_network", "slopes", "gantricks.testing.measure")

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


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: every process imports torch, and beyond eight that costs more than it brings."""
    return min(os.cpu_count() or 1, 8)


REFUSED = "refused pair"


@pytest.fixture
def refused_pair(record_property: Callable[[str, object], None]) -> Callable[[str, str, str], None]:
    """Takes down a pair of tricks that `check` was seen to refuse, and its words; they are printed at the end."""
    return lambda first, second, words: record_property(REFUSED, [first, second, words])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # properties come back from every process that ran tests
    reports = [report for group in terminalreporter.stats.values() for report in group]
    properties = [found for report in reports for found in getattr(report, "user_properties", ())]
    refused = {
        (first, second): words for first, second, words in (value for name, value in properties if name == REFUSED)
    }
    if refused:
        terminalreporter.section(f"{len(refused)} pairs of tricks are refused")
        for (first, second), words in sorted(refused.items()):
            terminalreporter.write_line(f"{first} + {second}: {words}")
