"""A library in a bucket: fsspec's file system in memory stands in for Google's."""

import numpy as np
import pytest
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem
from library_cases import BACKBONE, fill, make_prompt

from spot_jax.library.library import Library
from spot_jax.methods.prompt_forms import load_prompt

TARGET = make_prompt("boolq", step=20).prompt


@pytest.fixture
def bucket(monkeypatch):
    class Bucket(MemoryFileSystem):
        store: dict = {}
        pseudo_dirs = [""]

    files = Bucket(skip_instance_cache=True)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", lambda self, path: files)
    return Bucket.store


def test_a_bucket_is_a_library_like_any_other(bucket, tmp_path):
    library = fill(Library("gs://team/prompts"))
    local = fill(Library(tmp_path))
    expected = local.rank(TARGET, backbone=BACKBONE)
    for reader in (library, Library("gs://team/prompts")):
        ranking = reader.rank(TARGET, backbone=BACKBONE)
        assert [m.entry.id for m in ranking] == [m.entry.id for m in expected]
        assert (
            ranking[0].entry.path == f"gs://team/prompts/prompts/{ranking[0].entry.id}.safetensors"
        )
    np.testing.assert_array_equal(
        load_prompt(ranking[0].entry.path).prompt, local.load(expected[0].entry)[0].prompt
    )
    assert library.verify() == []
    assert len([key for key in bucket if "/index/" in key]) == 3
    assert not [key for key in bucket if key.endswith(".part")]
    gone = library.remove("squad-s1")
    assert gone not in {entry.id for entry in Library("gs://team/prompts").entries()}
    prompt, _ = library.load("squad-s0")
    assert prompt.task == "squad"


def test_a_truncated_object_is_found(bucket):
    library = fill(Library("gs://team/prompts"))
    path = library.directory / "prompts" / f"{library.get('squad-s1').id}.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert len(library.verify()) == 1
