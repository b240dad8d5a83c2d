"""Whole runs: prompts together and alone, what stays frozen, what is saved, what is compiled."""

import dataclasses
import functools
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_run import CONFIG, store

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.evaluation import evaluate
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.config import parameter_shapes
from spot_jax.training import run as run_module
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor


def prompt(result, i):
    return load_prompt(result.directory / "prompts" / f"last-{i}.safetensors").prompt


def trained_together_and_alone(tiny, directory, count, steps, *, dropout=0.0, different=2, **data):
    """Prompts trained in one program beside the same ones each in a run of its own."""
    names = [tiny.tasks[i % 2] for i in range(count)]
    seeds = list(range(10, 10 + count))
    rates = [0.3 / (1 + i % different) for i in range(count)]
    backbone = StoredBackbone(tiny.backbone, dropout_rate=dropout)
    together = tiny.train(
        directory / "together",
        steps,
        backbone=backbone,
        data=tiny.data(names, batch_size=4, **data),
        optimizer=Adafactor(tuple(rates)),
        seeds=seeds,
    )
    logged = np.array([line["train/loss"] for line in read_metrics(together.directory)])
    assert logged.shape == (steps, count)
    for i in range(count):
        alone = tiny.train(
            directory / f"alone-{i}",
            steps,
            backbone=backbone,
            data=tiny.data(names[i], batch_size=4, **data),
            optimizer=Adafactor(rates[i]),
            seeds=seeds[i],
        )
        expected = prompt(alone, 0)
        actual = prompt(together, i)
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        print(f"prompt {i}: {difference:.1e} relative")
        assert difference < 1e-4
        alone_losses = [line["train/loss"] for line in read_metrics(alone.directory)]
        np.testing.assert_allclose(logged[:, i], alone_losses, rtol=1e-4)
    prompts = [prompt(together, i) for i in range(count)]
    assert all(np.abs(prompts[0] - other).max() > 0.1 for other in prompts[1:])


def test_prompts_trained_together_go_as_alone(tiny, tmp_path):
    packed = {"pack": True, "packed_lengths": {"inputs": 30, "targets": 6}}
    trained_together_and_alone(tiny, tmp_path, 2, 10, dropout=0.1, **packed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dropout", "pack"), [(0.0, False), (0.1, False), (0.0, True)], ids=["plain", "dropout", "pack"]
)
def test_eight_prompts_trained_together_for_fifty_steps_go_as_alone(dropout, pack, tiny, tmp_path):
    packed = {"pack": True, "packed_lengths": {"inputs": 30, "targets": 6}} if pack else {}
    # A learning rate is a constant of the program: each that differs is one more to compile.
    different = 8 if not (dropout or pack) else 2
    trained_together_and_alone(
        tiny, tmp_path, 8, 50, dropout=dropout, different=different, **packed
    )


def test_the_frozen_model_stays_and_one_step_is_compiled(tiny, tmp_path, monkeypatch):
    loads, steps = [], []
    load, train_step = StoredBackbone.load, run_module.train_step

    def loading(self, mesh):
        backbone = load(self, mesh)
        loads.append(
            (backbone.params, jax.tree.map(lambda x: np.array(x, copy=True), backbone.params))
        )
        return backbone

    def stepping(*args):
        steps.append(train_step(*args))
        return steps[-1]

    monkeypatch.setattr(StoredBackbone, "load", loading)
    monkeypatch.setattr(run_module, "train_step", stepping)
    tiny.train(tmp_path, 60, checkpoints=CheckpointPlan(period=25))
    tiny.train(tmp_path, 100, checkpoints=CheckpointPlan(period=25))
    assert len(read_metrics(tmp_path)) == 100
    for live, before in loads:
        jax.tree.map(np.testing.assert_array_equal, live, before)
    # Once a start, the restored state being placed as the first one was.
    assert [step._cache_size() for step in steps] == [1, 1]


def test_a_step_returns_nothing_frozen(tiny, tmp_path, monkeypatch):
    seen = []

    def fit(state, frozen, step_function, batches, place, *rest):
        batch = place(next(batches))
        out = step_function.step.eval_shape(state, frozen, batch)
        seen.append((jax.tree.map(lambda x: x.shape, (state, frozen)), out))
        raise SpotError("enough")

    monkeypatch.setattr(run_module, "fit", fit)
    with pytest.raises(SpotError, match="enough"):
        tiny.train(tmp_path, 5)
    (state, frozen), (new, metrics) = seen[0]
    assert jax.tree.map(lambda x: x.shape, new) == state
    assert jax.tree.leaves(new.trainable)[0].shape == (1, 4, 16)
    sizes = [int(np.prod(leaf.shape)) for leaf in jax.tree.leaves((new, metrics))]
    assert max(sizes) == 4 * 16
    shapes = jax.tree.leaves(frozen, is_leaf=lambda x: isinstance(x, tuple))
    assert sorted(shapes) == sorted(parameter_shapes(CONFIG).values())


def test_a_saved_step_holds_the_state_alone_and_is_small(tmp_path, tiny):
    # The width of `base` and a prompt of 100; depth does not matter to what is saved.
    wide = dataclasses.replace(CONFIG, emb_dim=768, mlp_dim=64, num_heads=2)
    backbone = StoredBackbone(store(tmp_path / "wide", wide), dropout_rate=0.0)
    method = PromptTuning(length=100, init="sampled_vocabulary")
    result = tiny.train(tmp_path / "run", 2, backbone=backbone, method=method)
    step = result.directory / "checkpoints" / "2"
    size = sum(file.stat().st_size for file in step.rglob("*") if file.is_file())
    print(f"a saved step has {size} bytes")
    assert size < 1_000_000
    assert {p.name for p in step.iterdir() if p.is_dir()} == {"state", "data"}
    tree = ocp.StandardCheckpointer().metadata(step / "state").item_metadata.tree
    leaves = {
        ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert set(tree) == {"step", "trainable", "opt_state", "keys"}
    assert leaves["trainable.prompt"] == (1, 100, 768)
    # The prompt, its second moment, and numbers: nothing as large as a layer's kernel.
    large = sorted(name for name, shape in leaves.items() if np.prod(shape) > 100)
    assert len(large) == 2
    assert large[1] == "trainable.prompt"


def test_evaluations_are_compiled_once(worded, tmp_path, monkeypatch):
    sizes = []

    def counting(function, *args, **kwargs):
        returned = function(*args, **kwargs)
        sizes.append(function.jitted._cache_size())
        return returned

    counted = functools.partial(counting, evaluate._predict_batch)
    monkeypatch.setattr(evaluate, "_predict_batch", counted)
    result = worded.train(
        tmp_path,
        6,
        data=worded.data(worded.tasks, batch_size=4),
        evaluation=EvaluationPlan(period=2, batch_size=8),
    )
    # Three evaluations of two prompts, three batches each, the last filled up: one program.
    assert len(sizes) == 3 * 2 * 3
    assert len(set(sizes)) == 1
    assert [best.step in (2, 4, 6) for best in result.best] == [True, True]
    assert [path.name for path in result.prompts] == ["best-0.safetensors", "best-1.safetensors"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seeds": [1, 2, 3], "optimizer": Adafactor((0.1, 0.2))}, "2 learning rates for 3"),
        ({"steps": 0}, "TRAIN_STEPS is at least 1"),
        ({"lengths": {"inputs": 9}}, "TASK_FEATURE_LENGTHS lacks 'targets'"),
        ({"checkpoints": CheckpointPlan(period=0)}, "at least 1, found 0"),
        ({"method": PromptTuning(init="prompt")}, "needs a prompt file"),
        ({"method": PromptTuning(init="text", text="a")}, "needs the backbone's vocabulary"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(options, match, tiny, tmp_path):
    options = dict(options)
    lengths = options.pop("lengths", tiny.data().task_feature_lengths)
    with pytest.raises(SpotError, match=match) as caught:
        options["data"] = dataclasses.replace(tiny.data(), task_feature_lengths=lengths)
        tiny.train(tmp_path, options.pop("steps", 5), **options)
    assert "\n" not in str(caught.value)


def test_a_prompt_begins_from_a_file_and_names_its_ancestors(tiny, tmp_path):
    first = tiny.train(tmp_path / "first", 3, seeds=4)
    path = str(first.prompts[0])
    method = PromptTuning(length=4, init="prompt", prompt=path)
    frozen_rate = Adafactor(1e-30, weight_decay=0.0)
    second = tiny.train(tmp_path / "second", 1, method=method, optimizer=frozen_rate)
    file = load_prompt(second.prompts[0])
    np.testing.assert_array_equal(file.prompt, load_prompt(path).prompt)
    origin = {"task": tiny.tasks[0], "step": 3, "seed": 4, "file": path}
    assert file.ancestry == (origin,)
    result = json.loads((second.directory / "result.json").read_text())
    assert result["step"] == 1


def test_metrics_that_are_no_numbers_leave_the_last_prompt_chosen(
    worded, tmp_path, monkeypatch, caplog
):
    nan = float("nan")
    values = iter([{"auc": nan}] * 3)
    monkeypatch.setattr(loading, "accuracy", lambda targets, predictions: next(values))
    plans = {"evaluation": EvaluationPlan(period=1, examples=4)}
    result = worded.train(tmp_path / "nan", 3, **plans)
    assert [best.step for best in result.best] == [3]
    assert "auc is nan" in caplog.text
    chosen, last = (load_prompt(result.prompts[0].with_name(f"{w}-0.safetensors")) for w in
                    ("best", "last"))  # fmt: skip
    np.testing.assert_array_equal(chosen.prompt, last.prompt)
    # A number, once there is one, is chosen before and after those that are none.
    values = iter([{"auc": nan}, {"auc": 3.0}, {"auc": nan}])
    result = worded.train(tmp_path / "once", 3, **plans)
    assert [(best.step, best.score) for best in result.best] == [(2, 3.0)]
    assert load_prompt(result.prompts[0]).metrics["score"] == 3.0
