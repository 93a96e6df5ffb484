"""gantricks: GAN training in which every trick is a plugin.

Public names are imported on first use, so that `import gantricks` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gantricks.augmentations import (
        cut_out,
        flip_images,
        rotate_images,
        scale_contrast,
        scale_saturation,
        shift_brightness,
        translate_images,
    )
    from gantricks.catalogue.evidence import evidence
    from gantricks.catalogue.registry import Registry
    from gantricks.context import Context
    from gantricks.data.base import Dataset, Description, Source
    from gantricks.errors import Problem, TrickError, UserError
    from gantricks.hooks import hookimpl
    from gantricks.labels import label_problems, labelled_subset, positions
    from gantricks.latents import slerp
    from gantricks.loggers.base import Logger
    from gantricks.losses import AdversarialLoss
    from gantricks.metrics.base import EvaluationFacts, Measurement, Metric, Subject
    from gantricks.metrics.extractors.base import Extractor
    from gantricks.metrics.features import ExtractorChoice
    from gantricks.networks.base import (
        Discriminator,
        Generator,
        Network,
        Pairing,
        PassClasses,
        Shapes,
        StyleGenerator,
        SummedLayers,
        TwoStageGenerator,
        block_shapes,
        fan_in,
        initialise,
        refuse_computed_weights,
        weighted_layers,
    )
    from gantricks.networks.noise import LayerNoise
    from gantricks.optimizer_options import SGD, Adam, AdamW, OptimizerOptions
    from gantricks.options import Interval, Options, Players, Probability, Schedule, Scheduled
    from gantricks.planning.recipe import Recipe
    from gantricks.planning.validation import load_recipe
    from gantricks.records import Batch, Companion, Latents, Out, Sampler
    from gantricks.rng import Rng
    from gantricks.runs.api import load_generator, resume, sample, train
    from gantricks.runs.evaluation import Evaluated, evaluate
    from gantricks.slopes import slope_distances, squared_slopes
    from gantricks.trick import Setting, Trick

_HOME = {
    "Adam": "optimizer_options",
    "AdamW": "optimizer_options",
    "AdversarialLoss": "losses",
    "Batch": "records",
    "Companion": "records",
    "Context": "context",
    "Discriminator": "networks.base",
    "Evaluated": "runs.evaluation",
    "EvaluationFacts": "metrics.base",
    "Shapes": "networks.base",
    "ExtractorChoice": "metrics.features",
    "Extractor": "metrics.extractors.base",
    "Source": "data.base",
    "Description": "data.base",
    "Dataset": "data.base",
    "Generator": "networks.base",
    "Interval": "options",
    "Latents": "records",
    "LayerNoise": "networks.noise",
    "Logger": "loggers.base",
    "Measurement": "metrics.base",
    "Metric": "metrics.base",
    "Network": "networks.base",
    "OptimizerOptions": "optimizer_options",
    "Options": "options",
    "Out": "records",
    "PassClasses": "networks.base",
    "Players": "options",
    "Probability": "options",
    "Problem": "errors",
    "Recipe": "planning.recipe",
    "Registry": "catalogue.registry",
    "Rng": "rng",
    "SGD": "optimizer_options",
    "Sampler": "records",
    "Schedule": "options",
    "Scheduled": "options",
    "Setting": "trick",
    "Subject": "metrics.base",
    "StyleGenerator": "networks.base",
    "SummedLayers": "networks.base",
    "Trick": "trick",
    "TrickError": "errors",
    "TwoStageGenerator": "networks.base",
    "UserError": "errors",
    "block_shapes": "networks.base",
    "cut_out": "augmentations",
    "evaluate": "runs.evaluation",
    "evidence": "catalogue.evidence",
    "fan_in": "networks.base",
    "flip_images": "augmentations",
    "hookimpl": "hooks",
    "initialise": "networks.base",
    "load_generator": "runs.api",
    "label_problems": "labels",
    "labelled_subset": "labels",
    "refuse_computed_weights": "networks.base",
    "weighted_layers": "networks.base",
    "load_recipe": "planning.validation",
    "Pairing": "networks.base",
    "positions": "labels",
    "resume": "runs.api",
    "rotate_images": "augmentations",
    "sample": "runs.api",
    "scale_contrast": "augmentations",
    "scale_saturation": "augmentations",
    "shift_brightness": "augmentations",
    "slerp": "latents",
    "slope_distances": "slopes",
    "squared_slopes": "slopes",
    "train": "runs.api",
    "translate_images": "augmentations",
}

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdversarialLoss",
    "Batch",
    "Companion",
    "Context",
    "Dataset",
    "Description",
    "Discriminator",
    "Evaluated",
    "EvaluationFacts",
    "Extractor",
    "ExtractorChoice",
    "Generator",
    "Interval",
    "Latents",
    "LayerNoise",
    "Logger",
    "Measurement",
    "Metric",
    "Network",
    "OptimizerOptions",
    "Options",
    "Out",
    "Pairing",
    "PassClasses",
    "Players",
    "Probability",
    "Problem",
    "Recipe",
    "Registry",
    "Rng",
    "Sampler",
    "Schedule",
    "Scheduled",
    "Setting",
    "Shapes",
    "Source",
    "StyleGenerator",
    "Subject",
    "SummedLayers",
    "Trick",
    "TrickError",
    "TwoStageGenerator",
    "UserError",
    "block_shapes",
    "cut_out",
    "evaluate",
    "evidence",
    "fan_in",
    "flip_images",
    "hookimpl",
    "initialise",
    "label_problems",
    "labelled_subset",
    "load_generator",
    "load_recipe",
    "positions",
    "refuse_computed_weights",
    "resume",
    "rotate_images",
    "sample",
    "scale_contrast",
    "scale_saturation",
    "shift_brightness",
    "slerp",
    "slope_distances",
    "squared_slopes",
    "train",
    "translate_images",
    "weighted_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gantricks' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gantricks.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
