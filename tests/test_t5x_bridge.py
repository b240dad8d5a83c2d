"""`spot_jax.t5x_bridge`: held to T5X's interface as recorded, run on a stand-in, and on T5X itself.

t5x_interface.json says what T5X's scripts call and with what; the stand-in refuses any other call.
"""

import abc
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import flax.core
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
from etils import epath

import spot_jax as spot
from spot_jax.methods import losses
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_forms import is_prompt
from spot_jax.t5 import decoding, scoring
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.build import init_keys
from spot_jax.training.sharding import MeshShape, make_mesh
from tests import tiny_text

ROOT = Path(__file__).parents[1]
FACTS = json.loads((ROOT / "tests" / "t5x_interface.json").read_text())
TASK = "bundled_sms_spam"
P, TEXT, TARGET = 4, 6, 3
HOISTS = "JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS"
ROWS = "encoder/prompt/prompt/prompt"


def signature(name):
    """A signature as it was recorded, such as "params, batch, rng=, **_"."""
    kinds = inspect.Parameter
    parameters = []
    for part in FACTS["parameters"][name].split(", "):
        kind = kinds.VAR_KEYWORD if part.startswith("**") else kinds.POSITIONAL_OR_KEYWORD
        default = None if part.endswith("=") else kinds.empty
        parameters.append(kinds(part.strip("*="), kind, default=default))
    return inspect.Signature(parameters)


def recorded(name):
    """A function that takes what T5X's takes and returns it."""
    return lambda *args, **fields: dict(signature(name).bind(*args, **fields).arguments)


def stand_in():
    """T5X's modules as far as the bridge needs them."""

    def init(self, *args, **fields):
        bound = signature("models.BaseTransformerModel.__init__").bind(*args, **fields)
        self.__dict__.update(bound.arguments)

    def eval_fn(self, params, batch):
        return self.loss_fn(params=params, batch=batch, dropout_rng=None)

    def predict_batch(self, params, batch, rng=None):
        return self.predict_batch_with_aux(params=params, batch=batch, rng=rng)[0]

    members = {name: abc.abstractmethod(lambda self: None) for name in FACTS["abstract"]}
    members |= {"__init__": init, "eval_fn": eval_fn, "predict_batch": predict_batch}
    base = abc.ABCMeta("BaseTransformerModel", (), members)
    converter = types.SimpleNamespace(FEATURE_CONVERTER_CLS=seqio.EncDecFeatureConverter)
    metrics = {name: recorded(f"metrics.{name}") for name in ("AveragePerStep", "Sum", "Time")} | {
        name: types.SimpleNamespace(from_model_output=recorded(f"metrics.{name}.from_model_output"))
        for name in ("TimeRate", "StepsPerTime")
    }
    return {
        "models": types.SimpleNamespace(BaseTransformerModel=base, EncoderDecoderModel=converter),
        "metrics": types.SimpleNamespace(**metrics),
    }


@pytest.fixture
def anew(monkeypatch):
    """Imports the bridge anew, with T5X's modules as they are given, and leaves nothing behind."""
    importlib.import_module("tasks.bundled_tasks")  # or its tasks would be forgotten below
    registry = dict(seqio.TaskRegistry._REGISTRY)

    def load(t5x):
        monkeypatch.setitem(sys.modules, "t5x", t5x)
        monkeypatch.delitem(sys.modules, "spot_jax.t5x_bridge", raising=False)
        return importlib.import_module("spot_jax.t5x_bridge")

    yield load
    sys.modules.pop("spot_jax.t5x_bridge", None)
    seqio.TaskRegistry._REGISTRY.clear()
    seqio.TaskRegistry._REGISTRY.update(registry)


@pytest.fixture
def bridge(anew):
    return anew(types.SimpleNamespace(**stand_in()))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_text.store_backbone(tmp_path_factory.mktemp("tiny") / "backbone")


def backbone(path, dropout=0.0):
    return spot.StoredBackbone(path, dtype="float32", dropout_rate=dropout)


def model_of(bridge, path, method=None, dropout=0.0, **fields):
    fields = {"task": TASK, "partitioner": types.SimpleNamespace(mesh=mesh()), **fields}
    return bridge.PromptedModel(
        backbone(path, dropout), method or spot.PromptTuning(length=P, z_loss=0.0), **fields
    )


def mesh():
    return make_mesh(MeshShape(1, 1))


def batch_of(rows=3):
    """Features as T5X has them: no virtual tokens, the texts of unlike lengths."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(3, 8000, (rows, TEXT)).astype(np.int32)
    targets = rng.integers(3, 8000, (rows, TARGET)).astype(np.int32)
    for row in range(rows):
        inputs[row, TEXT - row :] = 0
        targets[row, TARGET - row % 2 :] = 0
    features = {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }
    assert sorted(features) == FACTS["features"]
    return {name: jnp.asarray(array) for name, array in features.items()}


def ours(batch):
    """The same batch as our own data has it, the prompt's ids before each text."""
    text = batch["encoder_input_tokens"]
    ids = np.tile(np.arange(8192, 8192 + P, dtype=np.int32), (len(text), 1))
    tokens = jnp.concatenate([ids, text], axis=1)
    return {**batch, "encoder_input_tokens": tokens}


def initial(model):
    shapes = {name: x.shape for name, x in batch_of().items()}
    return model.get_initial_variables(rng=None, input_shapes=shapes, input_types=None)


def flat(tree):
    return {"/".join(str(k.key) for k in path): x for path, x in jax.tree.leaves_with_path(tree)}


def test_without_t5x_the_bridge_imports_and_says_in_a_line_what_it_needs(anew, path):
    bridge = anew(None)
    with pytest.raises(spot.SpotError) as caught:
        model_of(bridge, path)
    assert "\n" not in str(caught.value)
    assert "needs t5x, which is not installed; install T5X" in str(caught.value)


def test_a_package_that_t5x_lacks_is_the_one_that_is_named(anew, path, monkeypatch):
    t5x = types.ModuleType("t5x")
    t5x.__path__ = []

    def missing(name):
        raise ModuleNotFoundError(f"No module named 'airio' for {name}", name="airio")

    t5x.__getattr__ = missing
    with pytest.raises(spot.SpotError, match="PromptedModel needs airio, which is not installed"):
        model_of(anew(t5x), path)


def test_the_model_has_the_methods_that_t5x_calls(bridge):
    for name, (positional, keywords) in FACTS["calls"].items():
        function = inspect.signature(getattr(bridge.PromptedModel, name))
        function.bind(None, *range(positional), **dict.fromkeys(keywords))
        theirs = signature(f"models.BaseModel.{name}")
        assert [*function.parameters][1:] == [*theirs.parameters], name
    assert bridge.PromptedModel.__abstractmethods__ == frozenset()
    assert bridge.PromptedModel.FEATURE_CONVERTER_CLS is seqio.EncDecFeatureConverter


def test_t5x_s_parameters_are_the_prompt_alone_as_a_run_of_ours_begins_it(bridge, path):
    method = spot.PromptTuning(length=P)
    variables = initial(model_of(bridge, path, method, seed=3))
    assert flat(variables["params"]).keys() == {ROWS}
    rows = flat(variables["params"])[ROWS]
    loaded = spot.load_backbone(path)
    task = spot.Task(TASK, ("ham", "spam"), Vocabulary(loaded.vocabulary_path))
    program = Program.of(method, loaded, [task])
    np.testing.assert_array_equal(rows, program.init(init_keys([3], None), loaded)[0]["prompt"][0])
    assert rows.dtype == jnp.float32
    [(name, axes)] = variables["params_axes"]["encoder"]["prompt"]["prompt"].items()
    assert name == "prompt_axes" and tuple(axes.names) == (None, None)


def test_t5x_reads_the_task_in_the_backbone_s_vocabulary(bridge, path):
    model = model_of(bridge, path)
    text = "Free entry in a weekly competition"
    vocabulary = Vocabulary(tiny_text.VOCABULARY)
    for feature in seqio.get_mixture_or_task(TASK).output_features.values():
        assert feature.vocabulary == model.input_vocabulary == model.output_vocabulary
        assert feature.vocabulary.encode(text) == vocabulary.encode(text)
    with pytest.raises(spot.SpotError, match="bundled_all is a mixture of tasks in another vocab"):
        model_of(bridge, path, task="bundled_all")
    with pytest.raises(spot.SpotError, match="no_such_task"):
        model_of(bridge, path, task="no_such_task")


def test_loss_and_gradient_are_those_of_our_own_step(bridge, path):
    model, batch = model_of(bridge, path), batch_of()
    params = initial(model)["params"]
    (loss, metrics), grads = jax.jit(jax.value_and_grad(model.loss_fn, has_aux=True))(
        params, batch, None
    )
    loaded = spot.load_backbone(path)

    def expected(rows):
        return losses.seq2seq_loss(
            loaded.params, tiny_text.CONFIG, ours(batch), None, table=rows, z_loss=0.0
        )

    rows = flat(params)[ROWS]
    (right, values), gradient = jax.value_and_grad(expected, has_aux=True)(rows)
    np.testing.assert_allclose(loss, right, rtol=1e-6)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(flat(grads)[ROWS], gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"]["total"], right, rtol=1e-6)
    np.testing.assert_allclose(metrics["cross_ent_loss"]["total"], right, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].compute(), values["accuracy"][0], rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"].count, 8)
    np.testing.assert_allclose(model.eval_fn(params, batch)[0], right, rtol=1e-6)


@pytest.mark.slow
def test_dropout_is_drawn_by_t5x_s_key_raw_or_typed(bridge, path):
    model, batch = model_of(bridge, path, dropout=0.3), batch_of()
    params = initial(model)["params"]
    without, raw, same, typed, other = (
        float(model.loss_fn(params, batch, key)[0])
        for key in (
            *(None, jax.random.PRNGKey(1), jax.random.PRNGKey(1)),
            *(jax.random.key(1), jax.random.PRNGKey(2)),
        )
    )
    assert raw == same == typed and len({without, raw, other}) == 3
    keys = jax.random.key(1)[None]
    program = model.program
    right = program.loss({"prompt": flat(params)[ROWS][None]}, model._frozen, ours(batch), keys)
    np.testing.assert_allclose(raw, right[0], rtol=1e-6)


def test_predictions_are_our_decoder_s_and_scores_are_their_log_likelihoods(bridge, path):
    model, batch = model_of(bridge, path), batch_of()
    params = initial(model)["params"]
    tokens, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
    loaded, rows = spot.load_backbone(path), flat(params)[ROWS]
    right = decoding.greedy(
        loaded.params,
        tiny_text.CONFIG,
        ours(batch)["encoder_input_tokens"],
        max_length=TARGET,
        table=rows,
    )
    np.testing.assert_array_equal(tokens, right)
    np.testing.assert_array_equal(model.predict_batch(params, batch, jax.random.key(0)), right)
    assert len(np.unique(tokens)) > 1
    written = {
        **batch,
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": (tokens > 0).astype(jnp.float32),
    }
    scores = model.score_batch(params, written)
    np.testing.assert_allclose(aux["scores"], scores, rtol=1e-5)
    likelihood = scoring.sequence_log_likelihood(
        loaded.params, tiny_text.CONFIG, ours(batch), table=rows
    )
    np.testing.assert_allclose(model.score_batch(params, batch), likelihood, rtol=1e-6)
    # The loss without z-loss is a sum of just these.
    np.testing.assert_allclose(-likelihood.sum(), model.loss_fn(params, batch, None)[0], rtol=1e-5)
    with pytest.raises(spot.SpotError, match="return_intermediates"):
        model.score_batch(params, batch, return_intermediates=True)


@pytest.mark.slow
def test_rows_of_padding_write_nothing(bridge, path):
    model, batch = model_of(bridge, path), batch_of()
    params = initial(model)["params"]
    padded = {name: jnp.pad(x, ((0, 2), (0, 0))) for name, x in batch.items()}
    tokens = model.predict_batch(params, padded)
    np.testing.assert_array_equal(tokens[:3], model.predict_batch(params, batch))
    np.testing.assert_array_equal(tokens[3:], 0)
    np.testing.assert_allclose(
        model.loss_fn(params, padded, None)[0], model.loss_fn(params, batch, None)[0], rtol=1e-6
    )


def test_a_large_t5_is_not_written_into_programs(bridge, path, monkeypatch):
    monkeypatch.setattr(bridge, "EMBEDDED_BYTES", 2**20)
    with pytest.raises(spot.SpotError, match=r"the 1 MiB .* JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS=1"):
        model_of(bridge, path)


PROGRAM = """
import sys, types
import jax
from tests import test_t5x_bridge as here
sys.modules["t5x"] = types.SimpleNamespace(**here.stand_in())
from spot_jax import t5x_bridge
t5x_bridge.EMBEDDED_BYTES = 0
model, batch = here.model_of(t5x_bridge, sys.argv[1]), here.batch_of()
step = jax.jit(jax.grad(lambda params: model.loss_fn(params, batch, None)[0]))
print(len(step.lower(here.initial(model)["params"]).as_text()))
"""


@pytest.mark.slow
def test_the_frozen_t5_is_an_argument_where_jax_is_told_so(path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, HOISTS: "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # The embedding alone would be a megabyte of digits.
    assert int(done.stdout) < 200_000


@pytest.mark.slow
def test_a_method_of_weights_runs_and_comes_back_as_a_file(bridge, path, tmp_path):
    method = spot.LoRATuning(rank=2)
    model, batch = model_of(bridge, path, method), batch_of()
    params = initial(model)["params"]
    names = flat(params).keys()
    assert names and all("lora" in name or "/a" in name or "/b" in name for name in names)
    moved = jax.tree.map(lambda x: x + 0.1, params)
    assert model.loss_fn(moved, batch, None)[0] != model.loss_fn(params, batch, None)[0]
    checkpoint = store_checkpoint(tmp_path / "checkpoint_7", moved)
    place = epath.Path(tmp_path / "lora.safetensors")
    model.prompt_file(checkpoint).save(place)
    file = spot.load_prompt(place)
    loaded = spot.load_backbone(path)
    assert (file.step, file.task, file.backbone) == (7, TASK, loaded.fingerprint)
    inference = spot.LoRATuning.read(file, loaded.params, tiny_text.CONFIG)
    np.testing.assert_allclose(
        scoring.sequence_log_likelihood(inference.params, tiny_text.CONFIG, batch),
        model.score_batch(moved, batch),
        rtol=1e-5,
    )
    assert not is_prompt(checkpoint)
    other = model_of(bridge, path, spot.LoRATuning(rank=3))
    with pytest.raises(spot.SpotError, match=r"checkpoint_7: expected .* shape .*3\], found .*2\]"):
        other.prompt_file(checkpoint)


def test_a_checkpoint_with_rows_is_a_prompt_as_it_is(bridge, path, tmp_path):
    model = model_of(bridge, path)
    params = initial(model)["params"]
    checkpoint = store_checkpoint(tmp_path / "checkpoint_7", params)
    file = spot.load_prompt(checkpoint)
    assert is_prompt(checkpoint) and file.step == 7
    np.testing.assert_array_equal(file.rows, flat(params)[ROWS])
    # With the model it also says what it was tuned for.
    described = model.prompt_file(checkpoint)
    np.testing.assert_array_equal(described.rows, file.rows)
    assert (described.task, described.method["name"]) == (TASK, "PromptTuning")


def store_checkpoint(directory, params):
    """A checkpoint as T5X's own form has it where arrays are small."""
    directory.mkdir()
    target = jax.device_get(flax.core.unfreeze(params))
    content = {"version": 3, "optimizer": {"target": target, "state": {"step": 7}}}
    (directory / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(content))
    return directory


@pytest.mark.parametrize(
    ("method", "line"),
    [
        (spot.ModelTuning(), "ModelTuning .* run it with spot train"),
        (spot.PTuning(length=P, template="{text} <prompt:4> {target}"), "PTuning .* a template"),
        (spot.PromptTuning(length=P, choice_loss="hinge"), "PromptTuning .* spot train"),
        (spot.YTuning(), "YTuning .* run it with spot train"),
        (spot.PromptTuning(init="prompt", prompt=["a", "b"]), "T5X runs one prompt"),
    ],
)
def test_what_t5x_cannot_run_is_refused(bridge, path, method, line):
    with pytest.raises(spot.SpotError, match=line):
        model_of(bridge, path, method)


def test_packed_batches_and_rules_of_factors_are_refused(bridge, path):
    model, batch = model_of(bridge, path), batch_of()
    packed = {**batch, "encoder_segment_ids": batch["encoder_input_tokens"]}
    with pytest.raises(spot.SpotError, match="set pack = False of train/utils.DatasetConfig"):
        model.loss_fn(initial(model)["params"], packed, None)
    rules = types.SimpleNamespace(logical_factor_rules={"embed": 1})
    with pytest.raises(spot.SpotError, match="logical_factor_rules"):
        model_of(bridge, path, optimizer_def=types.SimpleNamespace(hyper_params=rules))


def test_the_gin_file_sets_what_the_model_takes(bridge):
    text = (ROOT / "gin_configs" / "t5x" / "prompted_model.gin").read_text()
    takers = {
        "t5x_bridge.PromptedModel": bridge.PromptedModel.__init__,
        "spot_jax.StoredBackbone": spot.StoredBackbone,
        "spot_jax.PromptTuning": spot.PromptTuning,
    }
    for name, taker in takers.items():
        block = re.search(rf"^{re.escape(name)}:\n((?:  .+\n)+)", text, re.MULTILINE)[1]
        fields = {line.split("=")[0].strip() for line in block.splitlines()}
        assert fields and fields <= inspect.signature(taker).parameters.keys(), name


WITH_T5X = f"""
import inspect, json, sys
import jax, jax.numpy as jnp, numpy as np
import spot_jax as spot
from spot_jax.t5x_bridge import PromptedModel
from spot_jax.training.optimizers import build
from spot_jax.training.step import init_state, train_step
from t5x import metrics, models, partitioning, utils

def form(function):
    marks = {{inspect.Parameter.VAR_KEYWORD: "**"}}
    every = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return ", ".join(
        marks.get(p.kind, "") + p.name + ("" if p.default is p.empty else "=") for p in every
    )

facts = json.load(open("tests/t5x_interface.json"))
for name, parameters in facts["parameters"].items():
    thing = {{"models": models, "metrics": metrics}}
    for part in name.split("."):
        thing = thing[part] if isinstance(thing, dict) else getattr(thing, part)
    assert form(thing) == parameters, name
assert sorted(models.BaseTransformerModel.__abstractmethods__) == facts["abstract"]

partitioner = partitioning.PjitPartitioner(
    num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
)
model = PromptedModel(
    spot.StoredBackbone(sys.argv[1], dtype="float32", dropout_rate=0.0),
    spot.PromptTuning(length={P}), "{TASK}", partitioner=partitioner,
)
data = utils.DatasetConfig(
    "{TASK}", {{"inputs": 32, "targets": 8}}, "train", 8, True, 42, use_cached=False, pack=False
)
batches = utils.get_dataset(data, 0, 1, model.FEATURE_CONVERTER_CLS).as_numpy_iterator()
rows = model.get_initial_variables(None, {{}})["params"]["encoder"]["prompt"]["prompt"]["prompt"]
tx = build(spot.Adafactor(0.3), 1, False)
state = init_state({{"prompt": rows[None]}}, tx, jax.random.split(jax.random.key(0), 1))
step = train_step(model.program, tx, dropout=False)
for _ in range(2):
    batch = {{name: jnp.asarray(x) for name, x in next(batches).items()}}
    state, _ = step(state, model._frozen, model._with_prompt(batch))
ours, theirs = state.trainable["prompt"][0], spot.load_prompt(sys.argv[2]).rows
print(json.dumps([float(jnp.abs(ours - rows).max()), float(jnp.abs(ours - theirs).max())]))
"""

OF_THE_TEST = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils
train/utils.DatasetConfig.seed = 42
train_script.train.train_eval_dataset_cfg = None
train_script.train.infer_eval_dataset_cfg = None
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("t5x") is None, reason="T5X is not installed")
def test_t5x_s_own_trainer_gets_the_prompt_of_our_own_steps(path, tmp_path):
    (tmp_path / "own.gin").write_text(OF_THE_TEST)
    settings = {
        "MODEL_DIR": str(tmp_path / "run"),
        "INITIAL_CHECKPOINT_PATH": path,
        "MIXTURE_OR_TASK_NAME": TASK,
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 8},
        **{"PROMPT_LENGTH": P, "TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "BATCH_SIZE": 8},
        **{"DROPOUT_RATE": 0.0, "RANDOM_SEED": 0},
    }
    files = ("gin_configs/t5x/t5x_prompt_tuning.gin", str(tmp_path / "own.gin"))
    flags = [f"--gin_file={file}" for file in files]
    flags += [f"--gin.{name}={value!r}" for name, value in settings.items()]

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **{"JAX_NUM_CPU_DEVICES": "1", HOISTS: "1"}},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    python("-m", "t5x.train", *flags)
    checkpoint = tmp_path / "run" / "checkpoint_2"
    stored = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert stored < 100_000  # the T5 is ten times that
    assert spot.load_prompt(checkpoint).step == 2
    moved, apart = json.loads(python("-c", WITH_T5X, path, str(checkpoint)).splitlines()[-1])
    assert moved > 0.1 and apart < 1e-5
