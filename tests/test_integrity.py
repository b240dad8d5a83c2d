"""What is loaded is what was written: a flipped bit, a mix-up, a reader's exception, an owner."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spot_jax import files
from spot_jax.errors import SpotError
from spot_jax.files import (
    clear_leftovers,
    is_alive,
    machine_mark,
    read_object,
    reading,
    verified,
    write_object,
    write_whole,
    writer_mark,
)
from spot_jax.files.arrays import read_array
from spot_jax.files.digests import file_digest
from spot_jax.files.locks import sole_owner
from spot_jax.files.verified import is_remembered, matches


def test_an_object_that_was_changed_is_refused_and_told_how_it_is_taken(tmp_path):
    path = tmp_path / "file.json"
    write_object(path, {"n": 1, "x": [0.1, None]})
    assert read_object(path, "restore it") == {"n": 1, "x": [0.1, None]}
    text = path.read_text()
    path.write_text(text.replace('"n": 1', '"n": 2'))
    with pytest.raises(SpotError, match="not what was written.*takes the field 'digest' out"):
        read_object(path, "restore it")
    fields = json.loads(path.read_text())
    del fields["digest"]  # as older versions wrote it
    path.write_text(json.dumps(fields))
    assert read_object(path, "restore it") == {"n": 2, "x": [0.1, None]}
    assert read_object(tmp_path / "none.json", "restore it") is None


@pytest.mark.parametrize(
    "text", [b"", b"[", b"[1]", b"[" * 100_000, b"\xff\xfe{", b'{"a": "\xe9"}']
)
def test_whatever_a_parser_raises_is_one_line_with_file_and_remedy(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(text)
    with pytest.raises(SpotError) as caught:
        read_object(path, "fetch it again")
    message = str(caught.value)
    assert str(path) in message and message.endswith("; fetch it again")
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize(
    "error", [RecursionError(), KeyError("a"), RuntimeError("x" * 10_000), OverflowError("\n")]
)
def test_any_exception_of_a_parser_is_short_and_names_the_file(error):
    with pytest.raises(SpotError) as caught, reading("some/file", "fetch it again"):
        raise error
    assert len(str(caught.value)) < 250 and str(caught.value).startswith("some/file is damaged")


def test_a_mistake_of_ours_is_not_a_damaged_file():
    with pytest.raises(NameError), reading("file", "fetch it again"):
        undefined  # noqa: B018, F821


def test_a_file_that_was_right_is_read_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"content")
    digest, reads = file_digest(path), []

    def counted(path):
        reads.append(path)
        return file_digest(path)

    matches(path, digest, counted)
    assert not is_remembered(path, digest)  # it may change again within its times' precision
    monkeypatch.setattr(verified, "_SETTLED_SECONDS", 0.0)
    assert matches(path, digest, counted) and matches(path, digest, counted)
    assert len(reads) == 2 and is_remembered(path, digest)
    stat = path.stat()
    path.write_bytes(b"another")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy that keeps times does
    assert not matches(path, digest, counted) and len(reads) == 3


def test_what_an_array_s_header_claims_is_not_allocated():
    import io

    content = io.BytesIO()
    np.save(content, np.ones((2, 3), np.float32))
    data = content.getvalue()
    assert read_array(data).shape == (2, 3)
    huge = data.replace(b"(2, 3), }          ", b"(99999999999, 3), }")
    assert huge != data
    with pytest.raises(ValueError, match=r"claims 1,199,999,999,988 bytes.*found 24"):
        read_array(huge)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_goes_and_what_a_living_one_has_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_cleared", set())
    process = dead_process()
    assert is_alive(os.getpid()) and not is_alive(process)
    dead = tmp_path / f".best-0.safetensors.{machine_mark()}.{process}.0123abcd.part"
    dead.write_bytes(b"half")
    whole = tmp_path / f".backbone.{machine_mark()}.{process}.0123abcd.part"
    whole.mkdir()
    (whole / "model").write_bytes(b"half")
    ours = tmp_path / f".file.{writer_mark()}.part"
    other = tmp_path / f".file.elsewhere-123456.{process}.0123abcd.part"
    old = tmp_path / f".file.elsewhere-123456.{process}.4567abcd.part"
    strange = tmp_path / f".file.{process}.part"
    for path in (ours, other, old, strange):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    write_whole(tmp_path / "file", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        "file", ours.name, other.name, strange.name,
    }  # fmt: skip
    clear_leftovers(tmp_path / "none")  # no error


OWNER = """
import sys, time
from spot_jax.files.locks import sole_owner
with sole_owner(sys.argv[1]) as other:
    print(other, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["locks", "leases"])
def owner_file(request, tmp_path, monkeypatch):
    """A file that this process owns by a lock, or where there are none by a lease."""
    if request.param == "leases":
        from spot_jax.files import locks

        def none(*arguments, **options):
            raise locks.NoLocksError("no locks")

        monkeypatch.setattr(locks, "file_lock", none)
        monkeypatch.setattr(locks, "_SETTLED_SECONDS", 0.02)
    return tmp_path / ".owner"


def test_a_second_owner_is_refused_with_the_name_of_the_first(owner_file):
    with sole_owner(owner_file) as other:
        assert other is None
        with sole_owner(owner_file) as second:
            assert second is not None and f"process {os.getpid()} on " in second
        with sole_owner(owner_file) as third:
            assert third is not None
    with sole_owner(owner_file) as later:
        assert later is None


def test_the_lease_of_a_process_that_was_killed_or_renews_no_more_is_taken_over(
    tmp_path, monkeypatch
):
    from spot_jax.files import locks

    monkeypatch.setattr(locks, "_SETTLED_SECONDS", 0.02)
    path = tmp_path / ".owner"
    with locks._lease(path):
        fields = json.loads(path.read_text())
    assert not path.exists()
    dead = {**fields, "process": dead_process()}
    stale = {**fields, "machine": "elsewhere", "renewed": time.time() - locks.STALE_SECONDS - 1}
    fresh = {**stale, "renewed": time.time()}
    for left, free in ((dead, True), (stale, True), (fresh, False)):
        path.write_text(json.dumps(left))
        with locks._lease(path) as other:
            assert (other is None) == free
    path.write_text("{")  # cut short
    with locks._lease(path) as other:
        assert other is None


def test_a_killed_owner_s_lock_is_free(tmp_path):
    path = tmp_path / ".owner"
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "None\n"
    with sole_owner(path) as other:
        assert other is not None and f"process {process.pid} on " in other
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with sole_owner(path) as other:
        assert other is None


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_a_prompt_file_is_found(tmp_path):
    from spot_jax.methods.prompt_file import PromptFile
    from spot_jax.methods.prompt_forms import load_prompt

    whole = tmp_path / "whole.safetensors"
    prompt = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    PromptFile(prompt, {"name": "PromptTuning"}, "ab", task="t", metrics={"score": 50.0}).save(
        whole
    )
    stored = load_prompt(whole)
    path = tmp_path / "prompt.safetensors"
    for bit in range(0, 8 * whole.stat().st_size, 7):
        shutil.copyfile(whole, path)
        flip(path, bit)
        try:
            read = load_prompt(path)
        except SpotError as error:
            assert str(path) in str(error)
            continue
        # A bit of the digest's own name, or of the spaces around the header: nothing else.
        assert vars(read) | {"prompt": 0} == vars(stored) | {"prompt": 0}
        np.testing.assert_array_equal(read.rows, stored.rows)


def test_a_stored_backbone_s_configuration_is_bound_to_its_weights(tmp_path):
    from spot_jax.shipped import BACKBONE
    from spot_jax.t5.backbone import load_backbone

    mini = tmp_path / "mini"
    shutil.copytree(BACKBONE, mini)
    path = mini / "backbone.json"
    data = json.loads(path.read_text())
    data["config"]["layer_norm_epsilon"] = 0.5
    path.write_text(json.dumps(data))
    with pytest.raises(SpotError, match=r"backbone.json.*not what was written"):
        load_backbone(mini)
    del data["digest"]  # as it was before there were digests
    for entry in data["files"].values():
        del entry["digest"]
    path.write_text(json.dumps(data))
    with pytest.raises(SpotError, match="are not those of its fingerprint"):
        load_backbone(mini)
    data["config"]["layer_norm_epsilon"] = 1e-6
    path.write_text(json.dumps(data))
    load_backbone(mini)
    weights = mini / "model-00001-of-00001.safetensors"
    flip(weights, 8 * 10_000_000)
    with pytest.raises(SpotError, match="contents were changed"):
        load_backbone(mini)
    del data["config"]["vocab_size"]
    path.write_text(json.dumps(data))
    with pytest.raises(SpotError, match="lacks 'vocab_size'"):
        load_backbone(mini)


@pytest.mark.slow
def test_each_of_200_flipped_bits_of_a_backbone_of_100_mb_is_found(tmp_path):
    from spot_jax.t5.backbone import (
        Backbone,
        fingerprint,
        load_backbone,
        parameter_shapes,
        save_backbone,
        unflatten,
    )
    from spot_jax.t5.config import T5Config

    random = np.random.default_rng(15)
    config = T5Config(
        vocab_size=8192, emb_dim=512, num_heads=8, head_dim=64, mlp_dim=1024,
        num_encoder_layers=4, num_decoder_layers=3,
    )  # fmt: skip
    shapes = parameter_shapes(config)
    params = unflatten(
        {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    )
    save_backbone(tmp_path / "b", Backbone(config, params, fingerprint(config, params)))
    (path,) = (tmp_path / "b").glob("*.safetensors")
    size = path.stat().st_size
    assert size > 100e6
    load_backbone(tmp_path / "b")
    refused = 0
    with path.open("r+b") as file:
        for bit in random.integers(0, 8 * size, 200):
            place = int(bit) // 8
            file.seek(place)
            byte = file.read(1)[0]
            for value in (byte ^ 1 << int(bit) % 8, byte):
                file.seek(place)
                file.write(bytes([value]))
                file.flush()
                if value != byte:
                    try:
                        load_backbone(tmp_path / "b")
                    except SpotError as error:
                        refused += "\n" not in str(error) and str(path) in str(error)
    assert refused == 200
    load_backbone(tmp_path / "b")


def test_a_run_directory_that_another_start_has_is_refused_before_anything_is_read(tmp_path):
    from spot_jax.data.data_source import DataSource
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training.config import StoredBackbone
    from spot_jax.training.optimizers import Adafactor
    from spot_jax.training.run import train

    run = tmp_path / "run"
    run.mkdir()
    options = {
        "model_dir": str(run),
        "backbone": StoredBackbone(str(tmp_path / "none")),
        "method": PromptTuning(length=2),
        "data": DataSource("task", {"inputs": 8, "targets": 2}),
        "optimizer": Adafactor(),
        "train_steps": 1,
    }
    with sole_owner(run / ".owner"):
        refused = rf"in use by another start \(process {os.getpid()} on .*choose another MODEL_DIR"
        with pytest.raises(SpotError, match=refused):
            train(**options)
    left = run / f".best-0.safetensors.{machine_mark()}.{dead_process()}.0123abcd.part"
    left.write_bytes(b"half")
    with pytest.raises(SpotError, match="no stored backbone there"):
        train(**options)
    assert {path.name for path in run.iterdir()} == {".owner"}


COMMAND = """
import sys, time
from spot_jax.cli import main as module
import spot_jax.cli.tasks as verb

def slow(arguments):
    print("started", flush=True)
    time.sleep(60)

verb.main = slow
sys.exit(module.main(["tasks"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_at_any_time_is_one_line_and_one_exit_code(name):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(getattr(signal, name))
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == f"spot: stopped by {name}; the same command goes on from what is saved\n"


def test_a_damaged_side_file_does_not_block_a_run(tmp_path):
    from spot_jax.errors import SpotWarning
    from spot_jax.training.metrics_log import MetricsLog, read_metrics
    from spot_jax.training.run_directory import write_environment

    write_environment(tmp_path)
    path = tmp_path / "environment.json"
    path.write_text(path.read_text()[:50])
    with pytest.warns(SpotWarning, match="put aside as environment.damaged.json"):
        write_environment(tmp_path)
    assert len(json.loads(path.read_text())) == 1
    assert (tmp_path / "environment.damaged.json").stat().st_size == 50
    lines = ['{"step": 1, "a": 2}', '{"a": 1}', "[1]", '{"step": null}', '{"step": 2}', '{"st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    MetricsLog(tmp_path).truncate_after(1)
    assert (tmp_path / "metrics.jsonl").read_text() == lines[0] + "\n"


def test_weights_that_are_not_numbers_are_not_converted(tmp_path):
    from tiny_text import store_backbone

    from spot_jax.t5.importing import convert
    from spot_jax.t5.tensor_files import TensorFile

    store_backbone(tmp_path / "b")
    (path,) = (tmp_path / "b").glob("*.safetensors")
    file = TensorFile(path)
    name = "decoder/decoder_norm/scale"
    data = np.fromfile(path, np.uint8)
    file.view(name, data)[3] = np.nan
    data.tofile(path)
    description = json.loads((tmp_path / "b" / "backbone.json").read_text())
    for entry in description["files"].values():
        del entry["digest"]
    description["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    del description["digest"]
    (tmp_path / "b" / "backbone.json").write_text(json.dumps(description))
    with pytest.raises(SpotError, match=f"{name} holds NaN or infinity"):
        convert(tmp_path / "b", tmp_path / "converted")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_a_git_lfs_pointer_is_named_whatever_is_read(tmp_path):
    from spot_jax.data.examples import Examples
    from spot_jax.methods.prompt_forms import load_prompt
    from spot_jax.t5.backbone import load_backbone
    from spot_jax.t5.vocabulary import Vocabulary

    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"
    for name, read in {
        "p.safetensors": load_prompt,
        "e.npz": Examples.load,
        "spiece.model": Vocabulary,
        "backbone.json": lambda path: load_backbone(path.parent),
    }.items():
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(SpotError, match=f"{name}: a Git LFS pointer, .*: git lfs pull$"):
            read(tmp_path / name)


def test_a_field_that_an_object_has_twice_is_damage(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"n": 1, "m": 2, "n": 3}')
    with pytest.raises(SpotError, match="it has the field 'n' twice"):
        read_object(path, "restore it")


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary_sha256": "ab"},
        {"vocabulary_sha256": None},
        {"dtype": 8},
        {"source": None},
        {"fingerprint": ["a"]},
    ],
)
def test_what_contradicts_itself_in_an_old_backbone_is_refused(change, tmp_path):
    from tiny_text import store_backbone

    from spot_jax.t5.backbone import load_backbone

    store_backbone(tmp_path / "b")
    path = tmp_path / "b" / "backbone.json"
    fields = {**json.loads(path.read_text()), **change}
    del fields["digest"]  # as it was before there were digests
    path.write_text(json.dumps(fields))
    with pytest.raises(SpotError, match=r"backbone\.json"):
        load_backbone(tmp_path / "b")


@pytest.mark.parametrize("field", ["method", "backbone", "task", "step", "seed", "metrics"])
def test_a_prompt_file_without_a_digest_has_all_fields_that_were_ever_written(field, tmp_path):
    from library_cases import make_prompt

    from spot_jax.methods.prompt_file import tensor_bytes
    from spot_jax.methods.prompt_forms import load_prompt

    prompt = make_prompt()
    fields = {"format": 2, "method": {}, "backbone": "", "task": "", "step": 1, "seed": 0}
    fields["metrics"] = {}
    path = tmp_path / "p.safetensors"
    path.write_bytes(tensor_bytes({"prompt": prompt.rows}, {"spot_jax": json.dumps(fields)}))
    assert load_prompt(path).step == 1
    del fields[field]
    path.write_bytes(tensor_bytes({"prompt": prompt.rows}, {"spot_jax": json.dumps(fields)}))
    with pytest.raises(SpotError, match=f"it lacks '{field}'"):
        load_prompt(path)


def test_a_flipped_bit_anywhere_in_an_adapter_that_we_wrote_is_found(tmp_path):
    from library_cases import make_prompt

    from spot_jax.methods.peft import WEIGHTS, read_adapter, write_adapter

    write_adapter(tmp_path / "a", make_prompt())
    path, stored = tmp_path / "a" / WEIGHTS, read_adapter(tmp_path / "a")
    whole, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 37):
        flip(path, bit)
        try:
            read = read_adapter(tmp_path / "a")
        except SpotError as error:
            refused += 1
            assert str(path) in str(error)
        else:  # a bit of the digest's own name, or of the spaces around the header
            assert vars(read) | {"prompt": 0} == vars(stored) | {"prompt": 0}
            np.testing.assert_array_equal(read.rows, stored.rows)
        path.write_bytes(whole)
    assert refused > 100
