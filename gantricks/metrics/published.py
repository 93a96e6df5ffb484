"""Hints for users who ask for a metric by its name in papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INCEPTION = {
    "fid": ("FID", "frechet_distance"),
    "frechet_inception_distance": ("FID", "frechet_distance"),
    "kid": ("KID", "kernel_distance"),
    "kernel_inception_distance": ("KID", "kernel_distance"),
    "mmd": ("KID", "kernel_distance"),
    "is": ("the Inception Score", "classifier_score"),
    "inception": ("the Inception Score", "classifier_score"),
    "inception_score": ("the Inception Score", "classifier_score"),
}


def advice(name: str, cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which metric of `cards` a published name or the name of a figure means, and what it needs; "" for other
    names.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain in _INCEPTION:
        title, metric = _INCEPTION[plain]
        return (
            f'{title} is the metric {metric} with the extractor "inception", which reads a file of weights: '
            f'--metric {metric} --set \'evaluate.{metric}.extractor={{name="inception",weights="FILE"}}\'; '
            f"with its default extractor {metric} compares runs on the same data alone"
        )
    for metric, card in cards.items():
        if plain in card["figures"]:
            extractor = card["options"].get("properties", {}).get("extractor")
            needs = f', whose extractor is "{extractor["default"]}" unless another is set' if extractor else ""
            return f"{plain} is a figure of the metric {metric}{needs}: write {metric}"
    return ""
