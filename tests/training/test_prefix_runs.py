"""Runs of prefix-tuning: together and alone, stopped and gone on, on meshes, from the shell."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from etils import epath
from tiny_run import CONFIG, VOCABULARY, store

import spot_jax as spot
from spot_jax.cli.main import main
from spot_jax.data.data_source import DataSource
from spot_jax.errors import SpotError
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.prefix_classifier import PrefixClassifier
from spot_jax.methods.prefix_tuning import PrefixTuning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.prefix import prefix_shape
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor, AdamW
from spot_jax.training.run_directory import run_path
from spot_jax.training.sharding import MeshShape

DIRECT = PrefixTuning(length=3)
MLP = PrefixTuning(length=3, init="normal", hidden=5)
# Of both vectors and matrices: decay must not tell them apart by how many prefixes there are.
DECAYED = AdamW(0.01, weight_decay=0.1)


def losses(directory):
    return np.array([line["train/loss"] for line in read_metrics(directory)])


def prefix(directory, name="last-0"):
    return load_prompt(directory / "prompts" / f"{name}.safetensors")


PACKED = {"batch_size": 4, "pack": True, "packed_lengths": {"inputs": 20, "targets": 6}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "optimizer", "dropout", "rows"),
    [
        (MLP, DECAYED, 0.0, {"batch_size": 4}),
        (MLP, DECAYED, 0.1, PACKED),
        (DIRECT, Adafactor(0.3), 0.1, PACKED),
    ],
)
def test_prefixes_go_their_way_alone_together_and_in_parts(
    method, optimizer, dropout, rows, tiny, tmp_path, monkeypatch
):
    loads, load = [], StoredBackbone.load

    def loading(self, mesh):
        backbone = load(self, mesh)
        loads.append(
            (backbone.params, jax.tree.map(lambda x: np.array(x, copy=True), backbone.params))
        )
        return backbone

    monkeypatch.setattr(StoredBackbone, "load", loading)
    options = {
        "method": method,
        "backbone": StoredBackbone(tiny.backbone, dropout_rate=dropout),
        "checkpoints": CheckpointPlan(period=3, embedding_step=2),
    }
    rates = [optimizer.learning_rate, optimizer.learning_rate / 2]
    tiny.train(
        tmp_path / "together",
        5,
        data=tiny.data(tiny.tasks, **rows),
        optimizer=dataclasses.replace(optimizer, learning_rate=rates),
        seeds=[10, 11],
        **options,
    )
    options |= {
        "data": tiny.data(tiny.tasks[1], **rows),
        "optimizer": dataclasses.replace(optimizer, learning_rate=rates[1]),
        "seeds": 11,
    }
    tiny.train(tmp_path / "alone", 5, **options)
    tiny.train(tmp_path / "parts", 4, **options)
    tiny.train(tmp_path / "parts", 5, **options)
    # The second of two is what it is alone.
    together, alone = (losses(tmp_path / name) for name in ("together", "alone"))
    np.testing.assert_allclose(together[:, 1], alone, rtol=1e-4)
    second, expected = prefix(tmp_path / "together", "last-1"), prefix(tmp_path / "alone")
    assert second.prompt.shape == prefix_shape(CONFIG, 3, ("encoder", "decoder"))
    np.testing.assert_allclose(second.prompt, expected.prompt, rtol=1e-4, atol=1e-5)
    assert np.abs(prefix(tmp_path / "together").prompt - second.prompt).max() > 1e-3
    # A run that stopped and went on is the same bit for bit, with all that is kept of it.
    np.testing.assert_array_equal(alone, losses(tmp_path / "parts"))
    kept = [p.name for p in sorted((tmp_path / "alone" / "prompts").iterdir())]
    mlps = ["reparameterisation-embedding-0", "reparameterisation-last-0"]
    assert kept == [f"{n}.safetensors" for n in ("embedding-0", "last-0", *mlps * (method is MLP))]
    for name in kept:
        in_one, in_parts = (prefix(tmp_path / part, name[:-12]) for part in ("alone", "parts"))
        np.testing.assert_array_equal(in_one.prompt, in_parts.prompt)
        jax.tree.map(np.testing.assert_array_equal, in_one.tensors, in_parts.tensors)
    for live, before in loads:
        jax.tree.map(np.testing.assert_array_equal, live, before)


@pytest.mark.slow
def test_training_goes_on_from_the_mlp_that_was_kept(tiny, tmp_path):
    still = {"optimizer": Adafactor(1e-30, weight_decay=0.0)}
    first = tiny.train(tmp_path / "first", 2, method=MLP)
    kept = first.directory / "prompts" / "reparameterisation-last-0.safetensors"
    for name, begun in (
        ("mlp", dataclasses.replace(MLP, init="prompt", prompt=str(kept))),
        ("rows", dataclasses.replace(DIRECT, init="prompt", prompt=str(kept))),
    ):
        on = tiny.train(tmp_path / name, 1, method=begun, **still)
        assert prefix(on.directory).ancestry[0]["file"] == str(kept)
        np.testing.assert_array_equal(prefix(on.directory).prompt, prefix(first.directory).prompt)
    beside = prefix(tmp_path / "mlp", "reparameterisation-last-0").tensors
    assert beside.keys() == prefix(first.directory, "reparameterisation-last-0").tensors.keys()
    with pytest.raises(SpotError, match="of hidden 5 cannot be the beginning of one of hidden 6"):
        method = dataclasses.replace(MLP, init="prompt", prompt=str(kept), hidden=6)
        tiny.train(tmp_path / "other", 1, method=method)


@pytest.mark.slow
@pytest.mark.parametrize("method", [DIRECT, MLP])
def test_every_mesh_and_scanned_layers_give_the_same_losses(method, tiny, tmp_path):
    expected = losses(tiny.train(tmp_path / "one", 8, method=method).directory)
    for shape in ((8, 1), (1, 8), (2, 4)):
        directory = tmp_path / f"{shape}"
        tiny.train(directory, 8, method=method, mesh=MeshShape(*shape))
        np.testing.assert_allclose(losses(directory), expected, rtol=1e-5)
    scanned = StoredBackbone(tiny.backbone, dropout_rate=0.0, scan_layers=True, remat=True)
    for shape in ((1, 1), (2, 4)):
        directory = tmp_path / f"scanned{shape}"
        tiny.train(directory, 8, method=method, backbone=scanned, mesh=MeshShape(*shape))
        np.testing.assert_allclose(losses(directory), expected, rtol=1e-5)
    assert len(set(expected.tolist())) == 8


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    """Files to begin from: a prefix, one with its MLP, and a soft prompt."""
    directory = tmp_path_factory.mktemp("stored")
    mark = load_backbone(tiny.backbone).fingerprint
    rows = np.zeros(prefix_shape(CONFIG, 3, ("encoder", "decoder")), np.float32)
    method = {"name": "PrefixTuning", "length": 3, "places": ["encoder", "decoder"]}
    files = {
        "prefix": (rows, method),
        "soft": (np.zeros((4, CONFIG.emb_dim), np.float32), {"name": "PromptTuning"}),
    }
    for name, (prompt, described) in files.items():
        PromptFile(prompt, method=described, backbone=mark).save(directory / f"{name}.safetensors")
    other = PromptFile(rows, method=method, backbone="0" * 64)
    other.save(directory / "other.safetensors")
    return {p.stem: str(p) for p in directory.iterdir()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"init": "normla"},
            "unknown prefix initialisation 'normla'; expected sampled_vocabulary,",
        ),
        ({"init": "text", "text": "x"}, "init 'text' needs the backbone's vocabulary"),
        ({"init": "prompt"}, "init 'prompt' needs a prefix's file; set PrefixTuning.prompt"),
        ({"hidden": 5}, "no MLP can be made to yield; set PrefixTuning.init = 'normal'"),
        ({"places": ("encoder", "deocder")}, "each once; found 'encoder', 'deocder'"),
        ({"length": 0}, "a prefix has at least 1 key a layer, not 0"),
        ({"prompt": "prefix", "length": 4}, "a prefix of length 3 cannot be .* of length 4; set"),
        ({"prompt": "prefix", "places": ("encoder", "cross")}, "a prefix of places .* 'decoder'"),
        ({"prompt": "prefix", "hidden": 5}, "a prefix without its MLP cannot go on"),
        ({"prompt": "soft"}, "expected a prefix, found a prompt of PromptTuning"),
        ({"prompt": "other"}, "tuned on another backbone"),
    ],
)
def test_what_a_prefix_cannot_begin_from_is_one_line(settings, message, stored, tiny, tmp_path):
    if settings.get("prompt"):
        settings = {**settings, "init": "prompt", "prompt": stored[settings["prompt"]]}
    with pytest.raises(SpotError, match=message) as caught:
        method = PrefixTuning(**{"length": 3, **settings})
        tiny.train(tmp_path, 1, method=method)
    assert "\n" not in str(caught.value)


def test_a_prefix_is_no_beginning_for_virtual_tokens(stored, tiny, tmp_path):
    method = PromptTuning(length=12, init="prompt", prompt=stored["prefix"])
    with pytest.raises(SpotError, match="found a prompt of PrefixTuning, which is none"):
        tiny.train(tmp_path, 1, method=method)


@pytest.mark.slow
def test_the_commands_train_score_vote_and_predict(tmp_path, capsys, monkeypatch):
    config = dataclasses.replace(CONFIG, vocab_size=8192, num_heads=2)
    backbone = store(tmp_path / "backbone", config, vocabulary=epath.Path(VOCABULARY))
    run = tmp_path / "run"
    command = [
        "train",
        "--gin_file=gin_configs/runs/prefix_tuning.gin",
        f"--gin.MODEL_DIR='{run}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
        "--gin.MIXTURE_OR_TASK_NAME='bundled_vader_tweets'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 4}",
        "--gin.TRAIN_STEPS=2",
        "--gin.EVAL_PERIOD=1",
        "--gin.PREFIX_LENGTH=3",
        "--gin.SEEDS=[0, 1]",
    ]
    assert main(command) == 0
    best = json.loads((run / "result.json").read_text())["best"]
    capsys.readouterr()

    def scored(*arguments):
        assert main(["eval", *arguments, "--split", "validation", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    shown = ["--examples", "300"]
    alone = scored(str(run), *shown)
    assert [row["score"] for row in alone] == [row["score"] for row in best]
    first, second, vote = scored(str(run), "--ensemble", *shown)
    assert [first["score"], second["score"]] == [row["score"] for row in alone]
    assert vote["prompt"] == "vote of 2"
    # A file on its own, without the run.
    file = str(run_path(str(run)) / "prompts" / "best-0.safetensors")
    lengths = ["--inputs_length", "24", "--targets_length", "4"]
    (by_file,) = scored("--prompt", file, "--backbone", backbone, *shown, *lengths)
    assert by_file["score"] == alone[0]["score"]
    monkeypatch.setattr("sys.stdin", io.StringIO("what a day\nnot again ...\n"))
    assert main(["infer", "--prompt", file, "--backbone", backbone, "--decoding", "greedy"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["inputs"] for row in rows] == ["what a day", "not again ..."]
    # On another backbone it is refused in one line.
    other = store(tmp_path / "other", config, seed=1, vocabulary=epath.Path(VOCABULARY))
    assert main(["infer", "--prompt", file, "--backbone", other]) == 2
    assert "tuned on another backbone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_classification_head_is_tuned_scored_and_predicts(worded, tmp_path):
    result = worded.train(
        tmp_path / "run",
        4,
        method=PrefixClassifier(3, "normal"),
        data=DataSource("bundled_vader_movie_16shot", {"inputs": 16, "targets": 4}, batch_size=8),
        optimizer=AdamW(0.05),
        seeds=[0, 1],
        evaluation=EvaluationPlan(period=2, examples=16, batch_size=8),
    )
    scores = score(open_tuned(result.directory), split="validation", examples=16)
    assert [s.score for s in scores] == [best.score for best in result.best]
    prediction = spot.load(result.directory).predict({"text": "what a film"})
    assert set(prediction.probabilities) == {"negative", "neutral", "positive"}
