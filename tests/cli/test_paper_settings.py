"""The values that papers print, and their authors' code sets, against what run files come to.

A wrong number in a run file is an experiment that is not the paper's, so each is written down here
a second time, from the source, as the objects have it that the file makes.
"""

import math

import pytest

from spot_jax.cli import gin_files
from spot_jax.cli.configurables import configured
from spot_jax.training.optimizers import Constant

GIVEN = {
    "MODEL_DIR": "'runs/x'",
    "STUDY_DIR": "'runs/x'",
    "INITIAL_CHECKPOINT_PATH": "'backbones/mini'",
    "MIXTURE_OR_TASK_NAME": "'bundled_sms_spam'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 8, 'targets': 4}",
    "SOURCE_PROMPT": "'p'",
    "PROMPTS": "['p', 'q']",
    "SUBSPACE": "'s'",
    "TEMPLATE": "'{text} <prompt:2> {target}'",
}
LESTER = {  # Lester et al. 2021, section 3; the rest of Adafactor and z-loss from T5X's files
    "train_steps": 30_000,
    "data.batch_size": 32,
    "data.pack": False,
    "backbone.dropout_rate": 0.1,
    "method.length": 100,
    "method.init": "class_labels",
    "method.z_loss": 1e-4,
    "method.label_smoothing": 0.0,
    "evaluation.period": 1000,
    "optimizer.learning_rate": 0.3,
    "optimizer.schedule": Constant(),
    "optimizer.weight_decay": 1e-5,
    "optimizer.decay_rate": 0.8,
    "optimizer.clipping_threshold": 1.0,
    "optimizer.parameter_scale": False,
    "optimizer.factored": False,
}
SPOT = {  # Vu et al. 2022, sections 2.1.4 and 3, appendix C
    **{key: LESTER[key] for key in LESTER if key.startswith("optimizer.")},
    "data.batch_size": 32,
    "backbone.dropout_rate": 0.1,
    "method.length": 100,
    "evaluation.period": 500,
}
WHOLE = {  # Lester et al. 2021, section 3.1: 2^16 tokens in examples of 512; T5X's Adafactor
    "optimizer.learning_rate": 0.001,
    "optimizer.parameter_scale": True,
    "optimizer.factored": True,
    "optimizer.weight_decay": 0.0,
    "backbone.dropout_rate": 0.1,
}
IPT = {  # Intrinsic Prompt Tuning's released scripts
    "optimizer.weight_decay": 0.0,
    "optimizer.b2": 0.999,
    "optimizer.max_norm": 0.1,
    "method.label_smoothing": 0.1,
    "method.z_loss": 0.0,
    "backbone.dropout_rate": 0.1,
}


def v2(steps, batch, rate, length):
    """A task of P-Tuning v2's scripts; they have no warm-up, and standard normal prefixes."""
    return {
        "train_steps": steps,
        "data.batch_size": batch,
        "optimizer.learning_rate": rate,
        "optimizer.schedule.warmup_steps": 0,
        "optimizer.schedule.steps": steps,
        "method.length": length,
        "method.init": "normal",
        "method.hidden": None,
        "method.places": ("encoder",),
        "method.scale": 1.0,
        "backbone.dropout_rate": 0.1,
        "data.task_feature_lengths.inputs": 128,
    }


RUNS = {
    "prompt_tuning": LESTER,
    "spot_source": {
        **SPOT,
        "train_steps": 2**18,
        "method.init": "sampled_vocabulary",
        "checkpoints.embedding_step": 10_000,
    },
    "spot_target": {**SPOT, "train_steps": 100_000, "method.init": "prompt"},
    "spot_transfer": {
        **{f"tuning.{key}": value for key, value in SPOT.items()},
        "tuning.train_steps": 100_000,
        "tuning.source_steps": 2**18,
        "tuning.checkpoints.embedding_step": 10_000,
        "tuning.method.init": "class_labels",
        "tuning.source_init": "sampled_vocabulary",
    },
    "model_tuning": {**WHOLE, "data.batch_size": 2**16 // 512},
    "multitask_model_tuning": {**WHOLE, "data.batch_size": 2**20 // 512, "train_steps": 2**18},
    # P-Tuning's code for LAMA; 100 epochs of about 1,000 facts, an evaluation each.
    "p_tuning_lama": {
        "optimizer.learning_rate": 1e-5,
        "optimizer.weight_decay": 5e-4,
        "optimizer.b2": 0.999,
        "data.batch_size": 8,
        "train_steps": 100 * 1000 // 8,
        "evaluation.period": 1000 // 8,
        "method.length": 9,
        "method.encoder": "lstm",
        "method.tune_backbone": False,
    },
    # One point of the paper's grid; for RTE 20 epochs of 2,490 examples, 5% of them warm-up.
    "p_tuning_superglue": {
        "optimizer.learning_rate": 3e-5,
        "optimizer.schedule.warmup_steps": 0.05 * 1560,
        "data.batch_size": 32,
        "data.task_feature_lengths.inputs": 256,
        "method.length": 1,
        "method.encoder": "lstm_wide",
        "method.tune_backbone": True,
    },
    "p_tuning_fewglue": {
        "optimizer.learning_rate": 1e-5,
        "optimizer.weight_decay": 0.1,
        "optimizer.max_norm": 1.0,
        "data.batch_size": 16,
        "evaluation.period": 20,
        "evaluation.patience": 10,
        "method.length": 1,
        "method.encoder": "lstm_wide",
        "method.tune_backbone": True,
        "method.choice_loss": "cross_entropy",
    },
    "p_tuning_v2_boolq": v2(100 * 9427 / 32, 32, 7e-3, 8),
    "p_tuning_v2_copa": v2(120 * 400 / 16, 16, 9e-3, 8),
    "p_tuning_v2_rte": v2(100 * 2490 / 32, 32, 5e-3, 128),
    "p_tuning_v2_wic": v2(50 * 5428 / 32, 32, 1e-2, 8),
    "p_tuning_v2_wsc": v2(10 * 259 / 16, 16, 1e-2, 8),
    "intrinsic_msf": {
        **IPT,
        "train_steps": 100_000,
        "optimizer.learning_rate": 3e-5,
        "optimizer.schedule.warmup_steps": 6_000,
        "evaluation.period": 5000,
        "method.alpha": 200.0,
        "method.per_token": False,
        "method.scale": 1.0,
        "method.width": 768,
    },
    "intrinsic_ist": {
        **IPT,
        "train_steps": 100_000,
        "optimizer.learning_rate": 1e-5,
        "optimizer.schedule.warmup_steps": 6_000,
        "data.batch_size": 4,
        "evaluation.period": 1000,
    },
    "ia3": {  # T-Few's (Liu et al. 2022, section 3.3)
        "train_steps": 1000,
        "data.batch_size": 8,
        "optimizer.learning_rate": 3e-3,
        "optimizer.schedule.warmup_steps": 60,
        "method.init": "ones",
    },
    "lora": {  # Hu et al. 2021, section 5.1 and table 9
        "method.targets": ("query", "value"),
        "method.rank": 8,
        "optimizer.learning_rate": 5e-4,
    },
    "fastfood": {
        **IPT,
        "train_steps": 30_000,
        "optimizer.learning_rate": 1e-5,
        "optimizer.schedule.warmup_steps": 3_000,
        "data.batch_size": 4,
        "method.dim": 100,
    },
}
STUDIES = {
    ("study", "spot_paper"): {
        "seeds": [0, 1, 2],
        "prompt_length": 100,
        "embedding_step": 10_000,
        "weighted_average": [3, 6, 9, 12],
        "multitask_mixture": [3, 6, 9, 12],
        "backbone.dropout_rate": 0.1,
        "source.steps": 2**18,
        "source.init": "sampled_vocabulary",
        "target.steps": 100_000,
        "target.init": "class_labels",
        "target.period": 500,
        **{
            f"{stage}.{key}": value
            for stage in ("source", "target")
            for key, value in [
                ("batch_size", 32),
                *((key, SPOT[key]) for key in SPOT if key.startswith("optimizer.")),
            ]
        },
    },
    ("intrinsic", "intrinsic_paper"): {
        "train_tasks": ["crossfit_random_train"],
        "test_tasks.test": ["crossfit_random_test"],
        "prompt_length": 100,
        "lengths.inputs": 512 - 100,
        "lengths.targets": 64,
        "backbone.dropout_rate": 0.1,
        "decoding": "beam",
        "msf_settings.alpha": 200.0,
        "msf_settings.label_smoothing": 0.1,
        "ist_settings.label_smoothing": 0.1,
        "prompt.steps": 100_000,
        "prompt.period": 1000,
        "prompt.optimizer.schedule.warmup_steps": 10_000,
        "msf.steps": 100_000,
        "msf.period": 5000,
        "msf.optimizer.learning_rate": 3e-5,
        "ist.steps": 100_000,
        "ist.batch_size": 4,
        "ist.optimizer.learning_rate": 1e-5,
        "fastfood.steps": 30_000,
        "fastfood.batch_size": 4,
        "fastfood.optimizer.learning_rate": 1e-5,
        "fastfood.optimizer.schedule.warmup_steps": 3000,
        "ist.optimizer.max_norm": 0.1,
        "ist.optimizer.weight_decay": 0.0,
    },
}


def settings_of(verb, file):
    macros = gin_files.read([file]).macros.items()
    required = [name for name, binding in macros if binding.value == gin_files.REQUIRED]
    flags = [(f"--gin.{name}={GIVEN[name]}", f"{name} = {GIVEN[name]}") for name in required]
    return configured(verb, [file], flags)[1]


def at(fields, path):
    """What stands at a dotted path of fields, attributes and keys."""
    for name in path.split("."):
        fields = fields[name] if isinstance(fields, dict) else getattr(fields, name)
    return fields


def check(fields, values):
    for path, value in values.items():
        ours = at(fields, path)
        if isinstance(value, float) and not isinstance(ours, tuple | str):
            near = path.endswith("steps")  # epochs end within a batch
            assert math.isclose(ours, value, rel_tol=1e-9, abs_tol=0.5 * near), (path, ours)
        else:
            assert ours == value, path


@pytest.mark.parametrize("name", RUNS)
def test_a_run_file_has_the_values_of_its_paper(name):
    verb = "transfer" if name == "spot_transfer" else "train"
    check(settings_of(verb, f"gin_configs/runs/{name}.gin"), RUNS[name])


@pytest.mark.parametrize(("verb", "name"), STUDIES)
def test_a_study_has_the_values_of_its_paper(verb, name):
    fields = settings_of(verb, f"gin_configs/studies/{name}.gin")
    check(fields, STUDIES[verb, name])
    if name == "spot_paper":  # Vu et al. 2022, table 2
        assert (len(fields["sources"]), len(fields["targets"])) == (16, 10)


def test_a_value_that_differs_is_found():
    fields = settings_of("train", "gin_configs/runs/prompt_tuning.gin")
    for path, other in (("optimizer.learning_rate", 0.31), ("method.length", 99)):
        with pytest.raises(AssertionError):
            check(fields, {path: other})
