"""Settings at which tricks are tried: options of the trick, and changes to the smallest host that fits it.

A trick's test file names its settings; the plain one is "":

    SETTINGS: Settings = {
        "": ({"sigma": 0.3}, {}),
        "mixing": ({"sigma": {"start": 0.3, "end": 0.0}}, MIXING | {"n_critic": 2}),
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Settings by name: (options of the trick, arguments of `TrickHost` that differ from the smallest host)."""

MIXING: dict[str, Any] = {
    "sample": (1, 8, 8),
    "discriminator": {"batch_norm": True, "depth": 2},
    "batch_size": 6,
}
"""Images, and a D whose batch norm makes the scores of a pass depend on each other."""

CONDITIONAL: dict[str, Any] = {
    "sample": (1, 8, 8),
    "classes": 3,
    "generator": {"conditional": True, "batch_norm": True},
    "discriminator": {"conditional": True},
}
"""Images of three classes, with both networks conditional."""
