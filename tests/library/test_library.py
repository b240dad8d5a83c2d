"""A library's life: added to, read, searched, damaged, by one process."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from library_cases import BACKBONE, OTHER, fill, make_pair, make_prompt
from shape_checking import wrong_shapes

from spot_jax.errors import SpotError
from spot_jax.library import similarity
from spot_jax.library.library import Library, LibraryWarning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path / "library")


@pytest.fixture
def filled(library):
    return fill(library)


TARGET = make_prompt("boolq", step=20)


def fields_of(file):
    return {
        f.name: getattr(file, f.name)
        for f in dataclasses.fields(file)
        if f.name not in ("prompt", "tensors")
    }


def ranked(library, **options):
    return library.rank(TARGET.prompt, **{"backbone": BACKBONE, **options})


def files(library):
    return sorted(Path(library.directory, "prompts").iterdir())


def test_everything_comes_back(library):
    prompt, embedding = make_pair(
        "mnli",
        seed=3,
        vocabulary="cd" * 32,
        method={"name": "PromptTuning", "length": 5},
        metrics={"accuracy": 0.1 + 0.2, "f1": 1.0},
        ancestry=({"task": "c4", "step": 100, "seed": 1, "file": "a.safetensors"},),
        tasks=("mnli",),
        tensors={"vector": np.arange(3, dtype=np.float32)},
    )
    entry = library.add(prompt, embedding)
    assert entry.id.startswith("mnli-s3-") and len(entry.id) == len("mnli-s3-") + 12
    for actual, expected in zip(library.load(entry), (prompt, embedding), strict=True):
        np.testing.assert_array_equal(actual.prompt, expected.prompt)
        assert fields_of(actual) == fields_of(expected)
    for actual in (library.load(entry)[0], load_prompt(entry.path)):
        assert list(actual.tensors) == ["vector"]
        np.testing.assert_array_equal(actual.tensors["vector"], [0, 1, 2])
    assert (entry.step, entry.embedding_step, entry.length, entry.width) == (300, 20, 5, 8)
    # Another process sees the same entry, and it is a prompt file like any other.
    assert Library(library.directory).entries() == [entry] == library.entries()
    np.testing.assert_array_equal(load_prompt(entry.path).prompt, prompt.prompt)


def test_adding_twice_is_adding_once(library):
    prompt, embedding = make_pair()
    first = library.add(prompt, embedding)
    before = files(library)[0].stat().st_mtime_ns
    assert library.add(prompt, embedding) == first
    assert [path.stat().st_mtime_ns for path in files(library)] == [before]
    # Another embedding is another entry.
    assert library.add(prompt).id != first.id
    assert len(library.entries()) == 2


def test_adding_mends_what_was_cut_short(library):
    prompt, embedding = make_pair()
    entry = library.add(prompt, embedding)
    whole = Path(entry.path).read_bytes()
    Path(entry.path).write_bytes(whole[:-8])
    library.add(prompt, embedding)
    assert Path(entry.path).read_bytes() == whole


def test_get_by_the_beginning_or_the_end_of_an_id(filled):
    entry = filled.entries()[0]
    assert filled.get(entry.id) == filled.get(entry.id[:8]) == filled.get(entry.id[-12:]) == entry
    with pytest.raises(SpotError, match="'mnli' may be any of 2 entries: mnli-s0-"):
        filled.get("mnli")
    for nothing in ("rte", ""):
        with pytest.raises(SpotError, match="no entry .* shows what is there"):
            filled.get(nothing)


def test_remove(filled):
    ranked(filled)
    gone = filled.get("squad-s1").id
    assert filled.remove("squad-s1") == gone
    assert gone not in {entry.id for entry in filled.entries()}
    assert gone not in {match.entry.id for match in ranked(filled)}
    with pytest.raises(SpotError, match="no entry"):
        filled.get(gone)


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_rank_is_the_paper_s_order(filled, metric):
    reckon = getattr(similarity, metric)
    expected = sorted(
        ((reckon(TARGET.prompt, filled.load(e)[1].prompt), e.id) for e in filled.entries()),
        reverse=True,
    )
    ranking = ranked(filled, metric=metric)
    assert [match.entry.id for match in ranking] == [id for _, id in expected]
    np.testing.assert_allclose([m.similarity for m in ranking], [s for s, _ in expected], atol=1e-6)
    assert ranking.notes == []
    for top_k in range(1, 7):
        assert ranked(filled, metric=metric, top_k=top_k) == ranking[:top_k]


def test_equals_come_by_their_ids(library):
    prompt, embedding = make_pair()
    added = [library.add(prompt_of, embedding) for prompt_of in map(with_metric(prompt), range(9))]
    by_id = sorted(entry.id for entry in added)
    assert [match.entry.id for match in ranked(library)] == by_id
    assert [match.entry.id for match in ranked(library, top_k=4)] == by_id[:4]


def with_metric(prompt):
    return lambda value: dataclasses.replace(prompt, metrics={"accuracy": value})


def test_top_k_beyond_the_library_gives_all_and_says_so(filled):
    ranking = ranked(filled, top_k=20)
    assert len(ranking) == 6
    assert ranking.notes == ["only 6 to rank, fewer than top_k = 20: all are given"]
    with pytest.raises(SpotError, match="top_k of 1 or more, found 0"):
        ranked(filled, top_k=0)


def test_what_has_seen_the_target_is_left_out_and_said_so(library):
    def add(task, **fields):
        return library.add(*make_pair(task, **fields)).id

    clean = [add("squad"), add("boolq_like")]
    add("boolq")
    add("boolq_16shot")
    add("a_mixture", tasks=("squad", "boolq_32shot"))
    add("rte", ancestry=({"task": "boolq", "step": 1, "seed": 0, "file": "b.safetensors"},))
    add("cb", ancestry=({"task": "mixed", "tasks": ["squad", "boolq"]},))
    for name in ("boolq", "boolq_16shot"):
        ranking = ranked(library, exclude=[name])
        assert {match.entry.id for match in ranking} == set(clean)
        assert len(ranking.notes) == 1 and "left out: 5 that have seen boolq" in ranking.notes[0]
    assert len(ranked(library)) == 7
    with pytest.raises(SpotError, match="nothing in .* is left to rank .*that have seen"):
        ranked(library, exclude=["boolq", "squad", "boolq_like"])


def test_several_backbones_are_searched_one_at_a_time(filled):
    filled.add(*make_pair("rte", backbone=OTHER))
    filled.add(*make_pair("npy", backbone=""))
    assert len(ranked(filled)) == 6
    note = "left out: 2 of other backbones (bbbbbbbbbbbb: 1, unknown: 1)"
    assert ranked(filled).notes == [note]
    assert [m.entry.task for m in ranked(filled, backbone=OTHER)] == ["rte"]
    assert [entry.task for entry in filled.entries(backbone=OTHER[:6])] == ["rte"]
    with pytest.raises(SpotError, match="no prompt .* backbone cccccccccccc .*bbbb.*--force"):
        ranked(filled, backbone="c" * 64)
    forced = ranked(filled, backbone="c" * 64, force=True)
    assert len(forced) == 8
    assert [m.similarity for m in forced] == sorted((m.similarity for m in forced), reverse=True)


def test_a_width_that_no_prompt_has(filled):
    with pytest.raises(SpotError, match="width 9, but on aaaaaaaaaaaa of width 8") as caught:
        filled.rank(np.ones((5, 9), "f"), backbone=BACKBONE, force=True)
    assert "--force" not in str(caught.value)


def test_several_lengths(filled):
    filled.add(*make_pair("rte", shape=(3, 8)))
    note = "left out: 1 of other lengths than 5 tokens (3: 1); --force ranks them too"
    assert len(ranked(filled)) == 6 and ranked(filled).notes == [note]
    assert len(ranked(filled, force=True)) == 7
    assert [m.entry.task for m in filled.rank(np.ones((3, 8)), backbone=BACKBONE)] == ["rte"]
    with pytest.raises(SpotError, match="left to rank .*other lengths than 2 tokens .3: 1, 5: 6."):
        filled.rank(np.ones((2, 8)), backbone=BACKBONE)


def test_no_task_embedding_or_several_steps(filled, tmp_path):
    filled.add(make_prompt("rte"))
    assert ranked(filled).notes == ["left out: 1 without a task embedding"]
    filled.add(*make_pair("late", embedding_step=50))
    assert "several steps (20: 6, 50: 1)" in ranked(filled).notes[-1]
    other = Library(tmp_path / "without")
    other.add(make_prompt("rte"))
    with pytest.raises(SpotError, match="none of the 1 prompts .* has a task embedding"):
        ranked(other)


def test_no_library_and_an_empty_one(library):
    for ask in (library.entries, library.verify, lambda: ranked(library)):
        with pytest.raises(SpotError, match="no prompt library at .*library.* makes one"):
            ask()
    library.remove(library.add(*make_pair()).id)
    assert library.entries() == library.verify() == []
    with pytest.raises(SpotError, match="is empty; fill it: spot prompts add RUN_DIR"):
        ranked(library)


def test_a_prompt_of_another_backbone_is_refused_unless_forced(filled):
    entry = filled.entries()[0]
    assert filled.load(entry, backbone=BACKBONE)[0].task == entry.task
    with pytest.raises(SpotError, match="another backbone .*bbbbbbbbbbbb.*--force"):
        filled.load(entry, backbone=OTHER)
    filled.load(entry, backbone=OTHER, force=True)


@pytest.mark.parametrize(
    ("embedding", "match"),
    [
        (make_prompt("rte", step=20), "its task is rte, the prompt's mnli"),
        (make_prompt(step=20, backbone=OTHER), "its backbone is bbbb"),
        (make_prompt(step=20, shape=(4, 8)), r"shape \[4, 8\], the prompt \[5, 8\]"),
        (make_prompt(step=0), "at which step it was taken"),
        (PromptFile(np.zeros((5, 8), "f"), task="mnli", step=20), "mnli is all zero"),
    ],
)
def test_embeddings_that_do_not_belong(library, embedding, match):
    with pytest.raises(SpotError, match=match):
        library.add(make_prompt(), embedding)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_prompts_that_are_none(library, value):
    with pytest.raises(SpotError, match="NaN or infinity"):
        library.add(PromptFile(np.full((5, 8), value, np.float32)))


@wrong_shapes
def test_prompts_of_another_shape_are_refused(library):
    with pytest.raises(SpotError, match=r"found shape \[8\]"):
        library.add(PromptFile(np.ones(8, np.float32)))


def test_a_zero_target_is_named(filled):
    with pytest.raises(SpotError, match="the target's embedding is all zero"):
        filled.rank(np.zeros((5, 8), "f"), backbone=BACKBONE)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_truncated_prompt_is_found_by_verify_and_skipped_with_a_warning(filled, indexed):
    if indexed:
        ranked(filled)
    before = [match.entry for match in ranked(Library(filled.directory))]
    if not indexed:
        shutil.rmtree(filled.directory / "index")
    victim = before.pop(0)
    path = Path(victim.path)
    path.write_bytes(path.read_bytes()[:-8])
    for reader in (filled, Library(filled.directory)):
        with pytest.warns(LibraryWarning, match=f"left out: .*{victim.id}"):
            ranking = ranked(reader, top_k=5)
        assert [match.entry for match in ranking] == before
    with pytest.warns(LibraryWarning, match=f"left out: .*{victim.id}"):
        assert len(Library(filled.directory).entries()) == 5
    [problem] = filled.verify()
    assert victim.id in problem and "damaged or cut short" in problem and "\n" not in problem
    with pytest.raises(SpotError, match="damaged or cut short"):
        filled.load(victim)
    filled.remove(victim.id)
    assert filled.verify() == []


def test_a_changed_byte_is_found_by_verify(filled):
    path = files(filled)[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert len(filled.verify()) == 1
    with pytest.raises(SpotError, match="damaged"):
        filled.load(path.stem)


def test_strangers_in_the_directory(filled):
    prompts = Path(filled.directory, "prompts")
    (prompts / "notes.txt").write_text("not a prompt")
    (prompts / f".{files(filled)[0].name}.77.part").write_bytes(b"half of")
    assert filled.verify() == [] and len(filled.entries()) == 6
    make_prompt().save(prompts / "mine.safetensors")
    [problem] = filled.verify()
    assert "mine.safetensors: not an entry's name" in problem


def test_a_library_may_be_moved(filled, tmp_path):
    before = ranked(filled)
    moved = Library(shutil.move(filled.directory, tmp_path / "elsewhere"))
    assert [m.entry.id for m in ranked(moved)] == [m.entry.id for m in before]
    moved.load(ranked(moved)[0].entry)


def run_directory(path, which, *, finished=True):
    (path / "prompts").mkdir(parents=True)
    (path / "setup.json").write_text("{}")
    if finished:
        (path / "result.json").write_text(json.dumps({}))
    for name in which:
        step = {"best": 200, "last": 300, "embedding": 20}[name.partition("-")[0]]
        seed = int(name.partition("-")[2])
        make_prompt("mnli", seed=seed, step=step).save(path / "prompts" / f"{name}.safetensors")
    return path


def test_a_run_is_added_by_its_best_prompts_with_their_embeddings(library, tmp_path):
    written = ["best-0", "last-0", "embedding-0", "last-1", *(f"last-{i}" for i in range(2, 11))]
    run = run_directory(tmp_path / "run", written)
    entries = library.add_run(run)
    assert [entry.seed for entry in entries] == list(range(11))
    assert [(e.step, e.embedding_step) for e in entries[:2]] == [(200, 20), (300, 0)]
    again = library.add_file(run / "prompts" / "best-0.safetensors")
    assert again == entries[0] and len(library.entries()) == 11


def test_runs_that_cannot_be_added(library, tmp_path):
    with pytest.raises(SpotError, match="no run at"):
        library.add_run(tmp_path / "none")
    with pytest.raises(SpotError, match="is not finished"):
        library.add_run(run_directory(tmp_path / "half", ["best-0"], finished=False))
    with pytest.raises(SpotError, match="tuned no prompt"):
        library.add_run(run_directory(tmp_path / "model", []))


@pytest.mark.parametrize(
    ("source", "target", "same"),
    [
        ("glue_rte", "super_glue_rte", True),
        ("mrqa_squad", "squad_16shot_s2", True),
        ("glue_rte_no_prefix", "crossfit_superglue_rte_s13", True),
        ("glue_mnli", "snli", False),
        ("race_high", "race_middle", False),
        ("my_task", "my_task_16_shots", True),
        ("crossfit_anli", "crossfit_anli_s87", True),
    ],
)
def test_a_source_of_the_target_s_data_is_left_out_whatever_it_is_called(
    source, target, same, tmp_path
):
    library = Library(tmp_path / "library")
    for task in (source, "banking"):
        library.add(*make_pair(task))
    target_prompt = make_prompt(target).rows
    ranking = library.rank(target_prompt, backbone=BACKBONE, exclude=[target])
    tasks = {match.entry.task for match in ranking}
    assert tasks == ({"banking"} if same else {"banking", source})
