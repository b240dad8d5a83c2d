"""Adapt one frozen T5 to many tasks with soft prompts; carry what one task learnt to the next.

    import spot_jax as spot

    run = spot.train(
        model_dir="runs/spam",
        backbone=spot.load_backbone("backbones/mini"),
        method=spot.PromptTuning(length=20),
        data=spot.DataSource("bundled_sms_spam", {"inputs": 64, "targets": 8}),
        optimizer=spot.Adafactor(0.3),
        train_steps=50,
    )
    spot.load(run.directory).predict(["text", ...])

Importing this package imports neither JAX nor TensorFlow: each name below is imported from its
module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from spot_jax import shipped
from spot_jax.errors import SpotError, SpotWarning
from spot_jax.version import __version__

if TYPE_CHECKING:
    from spot_jax.data.data_source import DataSource
    from spot_jax.data.examples import Examples
    from spot_jax.data.table.description import Table
    from spot_jax.inference.prediction import Prediction
    from spot_jax.inference.predictor import Predictor, load
    from spot_jax.inference.scores import Score, score
    from spot_jax.inference.tuned import Tuned, open_tuned
    from spot_jax.library.library import Library
    from spot_jax.methods.base import Adapted, Method, Task
    from spot_jax.methods.fastfood import FastfoodTuning
    from spot_jax.methods.ia3 import IA3Tuning
    from spot_jax.methods.lora import LoRATuning
    from spot_jax.methods.model_tuning import ModelTuning
    from spot_jax.methods.p_tuning import PTuning
    from spot_jax.methods.prefix_tuning import PrefixTuning
    from spot_jax.methods.prompt_file import PromptFile
    from spot_jax.methods.prompt_forms import load_prompt
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.methods.prompt_use import PromptUse
    from spot_jax.methods.subspace_finding import SubspaceFinding
    from spot_jax.methods.subspace_tuning import SubspaceTuning
    from spot_jax.methods.y_tuning import YTuning
    from spot_jax.t5.backbone import Backbone, load_backbone
    from spot_jax.t5.config import T5Config
    from spot_jax.training.checkpoints import CheckpointPlan
    from spot_jax.training.config import EvaluationPlan, RandomBackbone, StoredBackbone
    from spot_jax.training.optimizers import (
        Adafactor,
        AdamW,
        Constant,
        RsqrtDecay,
        StepDecay,
        WarmupDecay,
    )
    from spot_jax.training.run import TrainResult, train
    from spot_jax.training.sharding import MeshShape
    from spot_jax.transfer.transfer import transfer
    from spot_jax.transfer.tuning import Tuning

shipped.make_importable()

_HOMES = {
    "data.data_source": ("DataSource",),
    "data.examples": ("Examples",),
    "data.table.description": ("Table",),
    "inference.prediction": ("Prediction",),
    "inference.predictor": ("Predictor", "load"),
    "inference.scores": ("Score", "score"),
    "inference.tuned": ("Tuned", "open_tuned"),
    "library.library": ("Library",),
    "methods.base": ("Adapted", "Method", "Task"),
    "methods.fastfood": ("FastfoodTuning",),
    "methods.ia3": ("IA3Tuning",),
    "methods.lora": ("LoRATuning",),
    "methods.model_tuning": ("ModelTuning",),
    "methods.p_tuning": ("PTuning",),
    "methods.prefix_tuning": ("PrefixTuning",),
    "methods.prompt_file": ("PromptFile",),
    "methods.prompt_forms": ("load_prompt",),
    "methods.prompt_tuning": ("PromptTuning",),
    "methods.prompt_use": ("PromptUse",),
    "methods.subspace_finding": ("SubspaceFinding",),
    "methods.subspace_tuning": ("SubspaceTuning",),
    "methods.y_tuning": ("YTuning",),
    "t5.backbone": ("Backbone", "load_backbone"),
    "t5.config": ("T5Config",),
    "training.checkpoints": ("CheckpointPlan",),
    "training.config": ("EvaluationPlan", "RandomBackbone", "StoredBackbone"),
    "training.optimizers": (
        "Adafactor",
        "AdamW",
        "Constant",
        "RsqrtDecay",
        "StepDecay",
        "WarmupDecay",
    ),
    "training.run": ("TrainResult", "train"),
    "training.sharding": ("MeshShape",),
    "transfer.transfer": ("transfer",),
    "transfer.tuning": ("Tuning",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "SpotError",
    "SpotWarning",
    "__version__",
    "Adafactor",
    "AdamW",
    "Adapted",
    "Backbone",
    "CheckpointPlan",
    "Constant",
    "DataSource",
    "EvaluationPlan",
    "Examples",
    "FastfoodTuning",
    "IA3Tuning",
    "Library",
    "LoRATuning",
    "MeshShape",
    "Method",
    "ModelTuning",
    "PTuning",
    "Prediction",
    "Predictor",
    "PrefixTuning",
    "PromptFile",
    "PromptTuning",
    "PromptUse",
    "RandomBackbone",
    "RsqrtDecay",
    "Score",
    "StepDecay",
    "StoredBackbone",
    "SubspaceFinding",
    "SubspaceTuning",
    "T5Config",
    "Table",
    "Task",
    "TrainResult",
    "Tuned",
    "Tuning",
    "WarmupDecay",
    "YTuning",
    "load",
    "load_backbone",
    "load_prompt",
    "open_tuned",
    "score",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not yet."""
    return sorted({*globals(), *__all__})
