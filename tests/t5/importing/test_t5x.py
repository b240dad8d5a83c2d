"""T5X's checkpoints as Google's code wrote them, and what happens to broken ones."""

import json
import shutil
from pathlib import Path

import flax.serialization
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.t5.backbone import flatten, load_backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.importing import MismatchError, convert, open_source

FORMS = {
    "minimal": "ckpt_minimal/checkpoint_2",
    "flaxformer": "ckpt_flaxformer/checkpoint_2",
    "prompt": "ckpt_prompt/checkpoint_5",
    "orbax": "ckpt_prompt_orbax/checkpoint_5",
}
CONFIG = T5Config(
    vocab_size=128,
    emb_dim=32,
    num_heads=4,
    head_dim=6,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
QUERY = "target.encoder.layers_0.attention.query.kernel"


def arrays(source, dest, **options):
    report = convert(source, dest, **options)
    loaded = load_backbone(dest)
    assert loaded.fingerprint == report.fingerprint
    return {name: np.asarray(leaf) for name, leaf in flatten(loaded.params)}, report, loaded


@pytest.fixture
def minimal(golden, tmp_path):
    """Return a copy of the minimal network's checkpoint that a test may break."""
    return shutil.copytree(golden / FORMS["minimal"], tmp_path / "checkpoint_2")


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "stored"


def refused(source, dest, match, **options):
    with pytest.raises(SpotError, match=match) as caught:
        convert(source, dest, **options)
    assert "\n" not in str(caught.value)
    assert not dest.exists()
    assert not any(p.name.startswith(".") for p in dest.parent.iterdir())
    return caught.value


def test_every_form_holds_the_same_backbone(golden, tmp_path):
    # The prompt was tuned on a frozen model, so all four hold the same numbers, bit for bit.
    results = {n: arrays(golden / p, tmp_path / n) for n, p in FORMS.items()}
    expected, first, _ = results["minimal"]
    names = json.loads((golden / "names.json").read_text())["params"]
    assert {n: [list(a.shape), str(a.dtype)] for n, a in expected.items()} == names
    for name, (parameters, report, loaded) in results.items():
        assert loaded.config == CONFIG, name
        assert report.fingerprint == first.fingerprint, name
        for path, array in expected.items():
            np.testing.assert_array_equal(parameters[path], array, f"{name} {path}")


def test_a_known_value(golden, dest):
    # Read by tensorstore with the spec that the checkpoint itself states.
    import tensorstore

    parameters, _, _ = arrays(golden / FORMS["flaxformer"], dest)
    path = golden / FORMS["flaxformer"] / QUERY
    array = tensorstore.open({"driver": "zarr", "kvstore": f"file://{path}/"}).result()
    np.testing.assert_array_equal(
        parameters["encoder/layers_0/attention/query/kernel"], array.read().result()
    )


def test_bfloat16_is_the_rounded_checkpoint(golden, tmp_path):
    full, report, _ = arrays(golden / FORMS["minimal"], tmp_path / "full")
    rounded, short, _ = arrays(golden / "ckpt_minimal_bf16", tmp_path / "short")
    cast, _, _ = arrays(golden / FORMS["minimal"], tmp_path / "cast", dtype="bfloat16")
    wide, _, _ = arrays(golden / "ckpt_minimal_bf16", tmp_path / "wide", dtype="float32")
    assert short.dtype == "bfloat16" and short.fingerprint == report.fingerprint
    for name, array in full.items():
        expected = array.astype(rounded[name].dtype)
        assert str(expected.dtype) == "bfloat16"
        np.testing.assert_array_equal(rounded[name], expected)
        np.testing.assert_array_equal(cast[name], expected)
        assert wide[name].dtype == np.float32
        np.testing.assert_array_equal(wide[name], expected.astype(np.float32))


def test_prompts_and_optimizer_state_are_listed_but_not_imported(golden, dest):
    _, report, _ = arrays(golden / FORMS["prompt"], dest)
    assert "encoder/prompt/prompt/prompt" in report.ignored
    assert "state/param_states/encoder/prompt/prompt/prompt/v" in report.ignored
    assert len(report.matched) == 52 and report.fits
    lines = report.table().splitlines()
    assert "52 matched, 0 missing, 0 left over, 0 of another shape" in lines[0]
    assert any(
        line.split() == ["matched", "encoder/encoder_norm/scale", "[32]", "float32"]
        for line in lines
    )
    assert any(line.split() == ["ignored", "encoder/prompt/prompt/prompt"] for line in lines)


def test_the_newest_of_several(golden, tmp_path, dest):
    for step in (9, 100, 20):
        form = "minimal" if step == 100 else "flaxformer"
        shutil.copytree(golden / FORMS[form], tmp_path / "run" / f"checkpoint_{step}")
    shutil.rmtree(tmp_path / "run" / "checkpoint_9" / QUERY)
    report = convert(tmp_path / "run", dest)
    assert any("newest of 3" in note and "checkpoint_100" in note for note in report.notes)


def test_older_writers(minimal, golden, tmp_path):
    """Google's released files: gfile, dtype among the metadata, norm scales in the index."""
    index = minimal / "checkpoint"
    state = flax.serialization.msgpack_restore(index.read_bytes())
    inline = 0

    def rewrite(node):
        nonlocal inline
        for key, leaf in list(node.items()):
            if not isinstance(leaf, dict):
                continue
            if "driver" not in leaf:
                rewrite(leaf)
                continue
            name = leaf["kvstore"]["path"].rstrip("/")
            if key == "scale":
                node[key] = np.frombuffer(stored[name], np.float32)
                shutil.rmtree(minimal / name)
                inline += 1
                continue
            leaf["metadata"]["dtype"] = "<f4"
            del leaf["dtype"]
            leaf["kvstore"] = {"driver": "gfile", "path": name}
            zarray = minimal / name / ".zarray"
            metadata = json.loads(zarray.read_text())
            del metadata["dimension_separator"]
            zarray.write_text(json.dumps(metadata))

    expected, _, _ = arrays(golden / FORMS["minimal"], tmp_path / "expected")
    stored = {
        f"target.{n.replace('/', '.')}": a.tobytes() for n, a in expected.items() if a.ndim == 1
    }
    rewrite(state["optimizer"]["target"])
    assert inline == 12
    index.write_bytes(flax.serialization.msgpack_serialize(state))
    parameters, _, _ = arrays(minimal, tmp_path / "stored")
    for name, array in expected.items():
        np.testing.assert_array_equal(parameters[name], array, name)


def test_stored_form_can_be_cast_and_copied(golden, tmp_path):
    once, first, _ = arrays(golden / FORMS["minimal"], tmp_path / "once")
    again, report, _ = arrays(tmp_path / "once", tmp_path / "again", dtype="bfloat16")
    assert report.kind == "stored backbone" and report.fingerprint == first.fingerprint
    for name, array in once.items():
        np.testing.assert_array_equal(again[name], array.astype(again[name].dtype))


# --- Broken and unfit checkpoints


def test_a_missing_chunk_is_no_zeros(minimal, dest):
    (minimal / QUERY / "0.0").unlink()
    refused(minimal, dest, r"encoder\.layers_0\.attention\.query\.kernel cannot be read")


def test_a_truncated_chunk(minimal, dest):
    chunk = minimal / QUERY / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    refused(minimal, dest, r"attention\.query\.kernel cannot be read .*0\.0")


def test_a_missing_array(minimal, dest):
    shutil.rmtree(minimal / QUERY)
    refused(minimal, dest, r"attention\.query\.kernel cannot be read")


def test_a_truncated_index(minimal, dest):
    index = minimal / "checkpoint"
    index.write_bytes(index.read_bytes()[:1000])
    refused(minimal, dest, "checkpoint: truncated, or not a T5X")


@pytest.mark.parametrize("victim", ["_METADATA", "manifest.ocdbt", "ocdbt.process_0/d"])
def test_a_broken_orbax_checkpoint(golden, tmp_path, dest, victim):
    copy = shutil.copytree(golden / FORMS["orbax"], tmp_path / "checkpoint_5")
    path = copy / "state" / victim
    if path.is_dir():
        path = max(path.iterdir(), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(copy, dest, str(copy))


def edit_index(directory, change):
    index = directory / "checkpoint"
    state = flax.serialization.msgpack_restore(index.read_bytes())
    change(state["optimizer"]["target"])
    index.write_bytes(flax.serialization.msgpack_serialize(state))


def test_a_missing_tensor(minimal, dest):
    edit_index(minimal, lambda target: target["decoder"]["layers_1"]["mlp"].pop("wo"))
    error = refused(minimal, dest, r"1 missing, 0 left over.*decoder/layers_1/mlp/wo/kernel is mis")
    assert isinstance(error, MismatchError)
    assert error.report.missing == [("decoder/layers_1/mlp/wo/kernel", (64, 32))]
    assert error.report.table().splitlines()[1].split()[0] == "missing"


def test_a_tensor_that_shapes_are_read_from(minimal, dest):
    edit_index(minimal, lambda target: target["encoder"].pop("relpos_bias"))
    refused(minimal, dest, "encoder/relpos_bias/rel_embedding is missing")


def test_a_left_over_tensor(minimal, dest):
    extra = {"scale": np.ones(3, np.float32)}
    edit_index(minimal, lambda target: target["encoder"].update(adapter=extra))
    error = refused(minimal, dest, "0 missing, 1 left over.*encoder/adapter/scale belongs to no")
    assert error.report.left_over == [("encoder/adapter/scale", (3,))]


def test_another_size_than_told(minimal, dest):
    bigger = T5Config(**(CONFIG.__dict__ | {"mlp_dim": 65}))
    error = refused(minimal, dest, r"has shape \[32, 64\], expected \[32, 65\]", config=bigger)
    assert len(error.report.wrong_shape) == 12
    deeper = T5Config(**(CONFIG.__dict__ | {"num_encoder_layers": 3}))
    error = refused(minimal, dest, "encoder/layers_2/.* is missing", config=deeper)
    assert {name.split("/")[1] for name, _ in error.report.missing} == {"layers_2"}


def test_stacked_layers_are_named_as_such(minimal, dest):
    def stack(target):
        target["encoder"]["encoder"] = target["encoder"].pop("layers_0")

    edit_index(minimal, stack)
    refused(minimal, dest, "its layers are stacked")


def test_not_a_checkpoint(golden, tmp_path, dest):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("nothing")
    forms = "expected a T5X checkpoint_STEP .* Hugging Face .* stored backbone"
    refused(other, dest, f"not a checkpoint; {forms}")
    refused(other / "notes.txt", dest, f"is a file; {forms}")
    forms = "give the place of a T5X checkpoint_STEP .* Hugging Face"
    refused(tmp_path / "nowhere", dest, f"does not exist; {forms}")


def test_nothing_is_overwritten(golden, dest):
    dest.mkdir()
    (dest / "mine").write_text("kept")
    with pytest.raises(SpotError, match="exists and is not empty"):
        convert(golden / FORMS["minimal"], dest)
    assert [p.name for p in dest.iterdir()] == ["mine"]


def test_another_vocabulary(golden, dest):
    vocabulary = Path(__file__).parents[3] / "tasks" / "t5_spiece.model"
    refused(golden / FORMS["minimal"], dest, "32000 pieces .* only 128 rows",
            vocabulary=vocabulary)  # fmt: skip
    bad = golden / "names.json"
    refused(golden / FORMS["minimal"], dest, "not a SentencePiece model", vocabulary=bad)


def test_listing_reads_no_array(golden):
    source = open_source(golden / FORMS["orbax"])
    assert source.tensors["token_embedder/embedding"].shape == (128, 32)
