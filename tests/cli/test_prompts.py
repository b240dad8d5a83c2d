"""`spot prompts`: what it says, what it refuses, and that it changes what it should."""

import json
from pathlib import Path

import numpy as np
import pytest
from library_cases import BACKBONE, OTHER, fill, make_pair, make_prompt

from spot_jax.cli import prompts
from spot_jax.cli.main import main
from spot_jax.library.library import Library
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.stored import read_description
from spot_jax.t5.vocabulary import Vocabulary

MINI = Path(__file__).parents[2] / "backbones" / "mini"


@pytest.fixture
def root(tmp_path):
    return str(fill(Library(tmp_path / "library")).directory)


@pytest.fixture
def spot(capsys):
    """Runs `spot prompts`; gives the exit code, what it said, and its complaints."""

    def run(*arguments):
        code = main(["prompts", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("verb", prompts.VERBS)
def test_each_verb_is_in_the_help(verb, spot):
    assert f"  {verb} " in spot("--help")[1] and f"  {verb} " in spot()[1]


@pytest.mark.parametrize("verb", prompts.VERBS)
def test_help_of_each_verb(verb, spot):
    code, out, _ = spot(verb, "--help")
    assert code == 0 and f"usage: spot prompts {verb}" in out and "--library" in out


@pytest.mark.parametrize("arguments", [["list"], ["verify"], ["show", "x"], ["add", "x"]])
def test_a_library_must_be_named(arguments, spot):
    code, _, err = spot(*arguments)
    assert code == 2 and "--library DIR" in err and err.count("\n") == 1


def test_an_unknown_verb_and_no_library(spot, tmp_path):
    code, _, err = spot("lsit")
    assert code == 2 and "no `spot prompts lsit`, but add, list" in err
    code, _, err = spot("list", "--library", tmp_path / "none")
    assert code == 2 and "no prompt library at" in err and err.count("\n") == 1


def test_add_a_file_of_a_run(spot, tmp_path):
    prompt, embedding = make_pair("mnli", metrics={"accuracy": 81.5, "score": 81.5})
    prompt.save(tmp_path / "best-0.safetensors")
    command = ["add", tmp_path / "best-0.safetensors", "--library", tmp_path / "library"]
    code, out, err = spot(*command)
    assert code == 0 and "step 300, score 81.50\n" in out and "no task embedding" in err
    embedding.save(tmp_path / "embedding-0.safetensors")
    code, out, err = spot(*command)
    assert code == 0 and "score 81.50, embedding of step 20\n" in out and not err
    code, _, err = spot("add", tmp_path, "--library", tmp_path / "library")
    assert code == 2 and "no run at" in err


def test_list_is_a_table(spot, root):
    code, out, _ = spot("list", "--library", root)
    head, *rows = out.splitlines()
    assert code == 0 and len(rows) == 6
    assert " ".join(head.split()) == "id task seed step embedding score tokens backbone"
    assert rows[1].split()[1:] == ["mnli", "1", "300", "20", "5", BACKBONE[:12]]
    assert len({row.index(BACKBONE[:12]) for row in rows}) == 1
    _, out, _ = spot("list", "--library", root, "--json")
    assert [json.loads(line)["task"] for line in out.splitlines()][:3] == ["mnli", "mnli", "squad"]
    code, out, _ = spot("list", "--library", root, "--backbone", OTHER)
    assert code == 0 and out.startswith("no prompts of backbone bbbb")


def test_show_tells_the_origin(spot, root):
    ancestor = {"task": "c4", "step": 100, "seed": 1, "file": "runs/c4/best-0.safetensors"}
    Library(root).add(make_prompt("rte", ancestry=(ancestor,), metrics={"accuracy": 1 / 3}))
    code, out, _ = spot("show", "rte", "--library", root)
    assert code == 0 and "began from:\n  task c4, step 100, seed 1, file runs/c4" in out
    assert "metrics:        accuracy 0.333333\n" in out and f"backbone:       {BACKBONE}" in out
    assert "no other prompt" in spot("show", "squad-s0", "--library", root)[1]
    code, _, err = spot("show", "squad", "--library", root)
    assert code == 2 and "'squad' may be any of 2" in err


def test_verify_list_and_remove_a_damaged_prompt(spot, root):
    assert spot("verify", "--library", root)[:2] == (0, f"every prompt in {root} is whole\n")
    victim = next(Path(root, "prompts").glob("sst2-s0*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    code, out, _ = spot("verify", "--library", root)
    assert code == 1 and victim.name in out and out.count("\n") == 1
    code, out, err = spot("list", "--library", root)
    assert code == 0 and "sst2-s0" not in out
    assert err.startswith("spot: warning: left out: ") and err.count("\n") == 1
    code, out, _ = spot("remove", "sst2-s0", "squad-s1", "--library", root)
    assert code == 0 and out.startswith(f"removed {victim.stem}\nremoved squad-s1-")
    assert spot("verify", "--library", root)[0] == 0
    assert len(Library(root).entries()) == 4


def test_import_says_what_the_file_does_not(spot, tmp_path, root):
    description = read_description(MINI)
    width = description.config.emb_dim
    array = np.random.default_rng(0).normal(size=(4, width)).astype("f")
    source = tmp_path / "encoder.prompt.prompt.prompt"
    with source.open("wb") as file:
        np.save(file, array)
    says = ["--task", "sst2", "--seed", 7, "--step", 30_000, "--backbone", MINI]
    early = ["--embedding", source, "--embedding_step", 10_000]
    code, out, _ = spot("import", source, "--library", root, *says, *early)
    assert code == 0 and "step 30000, embedding of step 10000" in out
    entry = Library(root).get("sst2-s7")
    assert entry.backbone == description.fingerprint and (entry.length, entry.width) == (4, width)
    assert entry.vocabulary == description.vocabulary_sha256

    # What is known is not overruled but by force.
    make_prompt("rte", shape=(4, width)).save(tmp_path / "rte.safetensors")
    command = ["import", tmp_path / "rte.safetensors", "--library", root, "--backbone", MINI]
    code, _, err = spot(*command)
    assert code == 2 and "another backbone" in err and "--force" in err
    assert spot(*command, "--force")[0] == 0
    make_prompt("rte").save(tmp_path / "rte.safetensors")
    code, _, err = spot(*command, "--force")
    assert code == 2 and "a prompt of width 8 cannot be of" in err


@pytest.mark.parametrize("dest", ["p.safetensors", "p.npy"])
def test_export_by_the_ending(spot, root, tmp_path, dest):
    code, out, _ = spot("export", "squad-s1", tmp_path / dest, "--library", root)
    assert code == 0 and str(tmp_path / dest) in out
    np.testing.assert_array_equal(
        load_prompt(tmp_path / dest).prompt, make_prompt("squad", seed=1).prompt
    )


def test_export_and_import_an_adapter(spot, root, tmp_path):
    code, _, err = spot("export", "squad-s1", tmp_path / "a", "--library", root)
    assert code == 2 and "--form spot, t5x or peft" in err
    command = ["export", "squad-s1", tmp_path / "a", "--library", root, "--form", "peft"]
    assert spot(*command, "--base_model", "google/t5-v1_1-base")[0] == 0
    other = tmp_path / "other"
    assert spot("import", tmp_path / "a", "--library", other)[0] == 0
    [entry] = Library(other).entries()
    assert (entry.task, entry.seed, entry.backbone) == ("squad", 1, BACKBONE)


def test_words_are_those_that_a_prompts_rows_are_nearest_to(spot, tmp_path):
    """Rows that are embeddings find themselves first; the table is that of the backbone."""
    backbone = load_backbone(MINI)
    vocabulary = Vocabulary(backbone.vocabulary_path)
    ids = [vocabulary.encode(word)[0] for word in ("good", "bad", "water")]
    rows = 3 * np.asarray(backbone.params["token_embedder"]["embedding"], np.float32)[ids]
    file = tmp_path / "words.safetensors"
    PromptFile(rows, {"name": "PromptTuning"}, backbone.fingerprint, task="t").save(file)
    code, out, err = spot("words", file, "--backbone", MINI, "--top_k", 2)
    assert code == 0 and not err
    head, *lines = out.splitlines()
    assert head.split() == ["row", "nearest", "pieces,", "by", "cosine"] and len(lines) == 3
    for i, (token, line) in enumerate(zip(ids, lines, strict=True)):
        assert line.split()[:3] == [str(i), vocabulary.piece(token), "1.00,"]
    code, out, _ = spot("words", file, "--backbone", MINI, "--json")
    (row, *_) = json.loads(out)
    assert row["pieces"][0] == vocabulary.piece(ids[0]) and len(row["pieces"]) == 5
    assert row["cosines"] == sorted(row["cosines"], reverse=True)
    # Rows that are no embeddings, and another backbone's.
    prefix = tmp_path / "prefix.safetensors"
    PromptFile(rows, {"name": "PrefixTuning"}, backbone.fingerprint).save(prefix)
    code, _, err = spot("words", prefix, "--backbone", MINI)
    assert code == 2 and "expected rows of virtual tokens" in err and err.count("\n") == 1
    other = tmp_path / "other.safetensors"
    PromptFile(rows, {"name": "PromptTuning"}, OTHER).save(other)
    code, _, err = spot("words", other, "--backbone", MINI)
    assert code == 2 and "backbone" in err and err.count("\n") == 1
