"""Runs of P-Tuning: resumed, several at once, gone on from an encoder, with the backbone tuned."""

import dataclasses

import jax
import numpy as np
import pytest
from method_cases import backbone_of, program_on

import spot_jax as spot
from spot_jax.data.data_source import DataSource
from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.p_tuning import PTuning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training import loop
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import AdamW

P = 2
RECIPE = PTuning(length=P, encoder="mlp")


@pytest.fixture(scope="module")
def run(worded, tmp_path_factory):
    """Trains in a directory of its own on texts with two places, and returns that."""
    directory = tmp_path_factory.mktemp("p_tuning")
    vocabulary = Vocabulary(load_backbone(worded.backbone).vocabulary_path)
    place, cut = vocabulary.sentinel(99), vocabulary.sentinel(98)
    for split in ("train", "validation"):
        rng = np.random.default_rng(0)
        texts = [rng.integers(3, 99, rng.integers(3, 9)).tolist() for _ in range(16)]
        pairs = [([place, cut, *text, cut, 7, place, 1], [text[0], 1]) for text in texts]
        Examples.from_lists(pairs).save(directory / f"task-{split}.npz")

    def train(name, steps, recipe=RECIPE, lengths=None, **options):
        task = str(directory / "task-{split}.npz")
        data = DataSource(task, lengths or {"inputs": 9, "targets": 2}, batch_size=8)
        options = {"optimizer": AdamW(0.01), "checkpoints": CheckpointPlan(2), **options}
        worded.train(directory / name, steps, method=recipe, data=data, **options)
        return directory / name

    return train


def prompts(directory, kinds=("last", "encoder-last")):
    """The tensors of all files of a run."""
    files = [load_prompt(p) for k in kinds for p in sorted(directory.glob(f"prompts/{k}-[0-9].*"))]
    return [{"prompt": file.prompt, **file.tensors} for file in files]


@pytest.mark.slow
def test_resumed_is_uninterrupted_and_several_are_each_as_alone(run, worded, monkeypatch):
    frozen, fit = [], loop.fit

    def watched(state, tree, *rest):
        frozen.append(tree)
        return fit(state, tree, *rest)

    monkeypatch.setattr("spot_jax.training.run.fit", watched)
    whole = prompts(run("whole", 4, seeds=[0, 1]))
    run("parts", 2, seeds=[0, 1])
    assert len(whole) == 4
    for tensors, others in zip(whole, prompts(run("parts", 4, seeds=[0, 1])), strict=True):
        assert tensors.keys() == others.keys()
        assert all(np.array_equal(tensors[name], others[name]) for name in tensors)
    for tensors, others in zip(whole[1::2], prompts(run("alone", 4, seeds=1)), strict=True):
        for name in tensors:
            np.testing.assert_allclose(tensors[name], others[name], atol=1e-5)
    # All of the encoder moved, nothing of the backbone did.
    untrained = prompts(run("begun", 1, seeds=1))[1]
    assert untrained.keys() == whole[3].keys() and len(untrained) == 6
    assert all(np.abs(untrained[name] - whole[3][name]).max() > 1e-3 for name in untrained)
    stored = load_backbone(worded.backbone).params
    jax.tree.map(np.testing.assert_array_equal, frozen[0], stored)


@pytest.mark.slow
def test_a_tuned_backbone_is_kept_with_its_prompt(run, worded):
    recipe = dataclasses.replace(RECIPE, tune_backbone=True)
    directory = run("joint", 2, recipe, evaluation=EvaluationPlan(period=1))
    # The best weights are stored, and of prompts only those that are on them.
    assert not list(directory.glob("prompts/*last*"))
    file = load_prompt(directory / "prompts" / "best-0.safetensors")
    assert file.backbone == load_backbone(directory / "backbone").fingerprint
    assert file.backbone != load_backbone(worded.backbone).fingerprint
    (scored,) = score(open_tuned(directory), split="validation")
    assert scored.loss == pytest.approx(file.metrics["loss"], rel=1e-5)
    with pytest.raises(SpotError, match="tuned on another backbone"):
        open_tuned(backbone=worded.backbone, prompts=[directory / "prompts/best-0.safetensors"])


@pytest.mark.slow
def test_nothing_left_of_the_text_is_found_before_training(run):
    with pytest.raises(SpotError, match="nothing is left of the field that is cut in 16 of 16"):
        run("short", 2, lengths={"inputs": 2, "targets": 2})
    with pytest.raises(
        SpotError, match="with 3 places for virtual tokens.* found 2; give the task"
    ):
        run("odd", 2, PTuning(length=3, encoder="mlp"))


def build(count=1, **fields):
    backbone = backbone_of({}, T5Config(vocab_size=64, emb_dim=8))
    return program_on(PTuning(**fields), backbone, count)


def about(program, i):
    return program.method.describe(config=program.config, tasks=program.tasks, i=i)


def test_what_the_settings_come_to():
    two, three = ("{text} <prompt:2> {target}", "<prompt:3> {text} {target}")
    program = build(2, template=two)
    assert (program.method.length, program.num_prompts) == (2, 2)
    assert about(program, 0)["form"] == about(program, 1)["form"]
    assert about(program, 1)["form"].startswith("<extra_id_98> {text}")
    assert PTuning(template=[two, two], prompt="x").copies == 2
    assert "form" not in about(build(length=4), 0)
    for match, fields in {
        "as many virtual tokens each, found .2, 3.": {"template": [two, three]},
        "needs a template, or the number of places": {},
        "the template has 2 virtual tokens, PTuning.length is 3": {"template": two, "length": 3},
        "unknown initialisation 'uniform'": {"template": two, "init": "uniform"},
        "init 'prompt' needs a prompt file": {"template": two, "init": "prompt"},
        "tunes one prompt a run, found 2": {"template": two, "tune_backbone": True},
    }.items():
        with pytest.raises(SpotError, match=match):
            build(2 if "tune_backbone" in fields else 1, **fields)


@pytest.mark.slow
def test_both_kinds_of_file_are_gone_on_with(run, tmp_path):
    directory = run("whole", 4, seeds=[0, 1])
    files = [str(directory / f"prompts/{kind}-0.safetensors") for kind in ("encoder-last", "last")]
    mark = load_prompt(files[0]).backbone
    backbone = backbone_of({}, T5Config(vocab_size=64, emb_dim=16))
    backbone.fingerprint = mark
    kinds = []
    for path in files:
        program = program_on(PTuning(length=P, init="prompt", prompt=path), backbone)
        kinds.append(program.method.encoder)
        assert program.tasks[0].source.file.ancestor(path)["step"] == 4
    assert kinds == ["mlp", "identity"]
    with pytest.raises(SpotError, match="one kind of encoder .* found .'identity', 'mlp'."):
        program_on(PTuning(length=P, init="prompt", prompt=files), backbone, 2)
    PromptFile(np.zeros((P, 16), np.float32)).save(tmp_path / "plain.safetensors")
    plain = str(tmp_path / "plain.safetensors")
    program = program_on(PTuning(length=P, init="prompt", prompt=plain), backbone)
    assert program.method.encoder == "identity"


@pytest.mark.slow
def test_rows_of_the_shipped_settings_are_distinct_after_600_steps(tmp_path):
    """AdamW at 1e-4 on `mini`, as p_tuning.gin has it."""
    result = spot.train(
        model_dir=str(tmp_path / "run"),
        backbone=StoredBackbone("backbones/mini", dropout_rate=0.0),
        method=PTuning("<prompt:10> {text:cut} <prompt:10> {target}"),
        data=DataSource("bundled_vader_movie", {"inputs": 32, "targets": 8}, batch_size=8),
        optimizer=AdamW(1e-4, b2=0.999, weight_decay=0.0),
        train_steps=600,
        evaluation=EvaluationPlan(period=0),
        progress=False,
    )
    values = np.linalg.svd(load_prompt(result.prompts[0]).rows, compute_uv=False)
    shares = values / values.sum()  # effective rank as Roy & Vetterli 2007 have it
    assert np.exp(-np.sum(shares * np.log(shares + 1e-12))) > 5
