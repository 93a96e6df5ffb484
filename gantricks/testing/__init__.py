"""The kit for testing a trick: alone in a tiny run, against the laws that every trick obeys, with random inputs.

    from gantricks.testing import TrickHost, strategies as gs

    @given(gs.labels(), gs.rng())
    def test_targets_stay_in_their_interval(labels, rng): ...

    def test_alone():
        calls = TrickHost().with_trick("my_trick", low=0.7).train(steps=5).calls["d_labels"]

It discovers nothing that it was not told of. pytest and hypothesis come with the extra `gantricks[test]`.
"""

from __future__ import annotations

from gantricks.testing.games import TwoWeights
from gantricks.testing.host import TrickHost
from gantricks.testing.laws import LAWS, Case, Law, NotApplicable, compiled_holds
from gantricks.testing.mistakes import Mistake, mistake_suite
from gantricks.testing.networks import NETWORK_LAWS, NetworkCase, NetworkLaw, network_suite
from gantricks.testing.record import Call, Phase, Played
from gantricks.testing.settings import CONDITIONAL, MIXING, Settings
from gantricks.testing.suite import Outcome, pair_holds, run_suite, set_holds, trick_suite

__all__ = [
    "CONDITIONAL",
    "LAWS",
    "MIXING",
    "NETWORK_LAWS",
    "Call",
    "Case",
    "Law",
    "Mistake",
    "NetworkCase",
    "NetworkLaw",
    "NotApplicable",
    "Outcome",
    "Phase",
    "Played",
    "Settings",
    "TrickHost",
    "TwoWeights",
    "compiled_holds",
    "mistake_suite",
    "network_suite",
    "pair_holds",
    "run_suite",
    "set_holds",
    "trick_suite",
]
