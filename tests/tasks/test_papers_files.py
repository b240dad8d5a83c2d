"""Tasks over files: whole pipelines on small directories. Imports TensorFlow."""

import hashlib
import json

import pytest

seqio = pytest.importorskip("seqio")

from spot_jax.cli.main import main  # noqa: E402
from spot_jax.data import seqio_registry, seqio_tasks, size_checks, verbalizers  # noqa: E402  # noqa: E402
from spot_jax.errors import SpotError  # noqa: E402
from spot_jax.t5.vocabulary import Vocabulary  # noqa: E402
from tasks import papers_tasks  # noqa: E402, F401
from tasks.papers import crossfit, crossfit_sets, data_files, lama_sets, sizes  # noqa: E402
from tasks.papers.rows_files import FILE_SETS, LAYOUTS  # noqa: E402
from tasks.t5_features import VOCABULARY  # noqa: E402

ROWS = {
    "cxc": {"sentence1": "A man rides.", "sentence2": "A rider.", "score": "4.11"},
    "cr": {"sentence": "it works .", "label": "positive"},
    "alpha_nli": {"obs1": "A", "obs2": "B", "hyp1": "C", "hyp2": "D", "label": 1},
    "social_i_qa": {
        "context": "Ann ran.",
        "question": "Why?",
        "answerA": "late",
        "answerB": "bored",
        "answerC": "cold",
        "label": 3,
    },
}
FORMS = {
    "cxc": ("cxc sentence1: A man rides. sentence2: A rider.", "4.2"),
    "cr": ("cr sentence: it works .", "positive"),
    "alpha_nli": (
        "alpha_nli observation1: A observation2: B hypothesis1: C hypothesis2: D",
        "hypothesis1",
    ),
    "social_i_qa": (
        "social_i_qa context: Ann ran. question: Why? answerA: late answerB: bored answerC: cold",
        "answerC",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data directory with one example of everything that is read from files."""
    root = tmp_path_factory.mktemp("data")
    for name, row in ROWS.items():
        for split in LAYOUTS[name].splits:
            put(root / name / f"{split}.jsonl", json.dumps(row) + "\n")
    for task in crossfit_sets.gym().tasks.values():
        for sample in crossfit_sets.gym().samples:
            for stem in ("train", "dev", "test"):
                path = root / "crossfit" / task.title / f"{task.title}_{task.k}_{sample}_{stem}.tsv"
                put(path, f"text of {sample}\tone\nmore\tone\ttwo\n")
    for relation in lama_sets.RELATIONS:
        put(root / f"lama/single_relations/{relation}.jsonl", '{"template": "[Y] has [X] ."}\n')
        for stem in ("train", "dev", "test"):
            path = root / f"lama/fact-retrieval/original/{relation}/{stem}.jsonl"
            put(path, '{"sub_label": "Rome \\\\1 [Y]", "obj_label": "Italy"}\n')
    return root


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(autouse=True)
def _data(folder, monkeypatch):
    monkeypatch.setenv(data_files.VARIABLE, str(folder))


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(VOCABULARY.sentencepiece_model_file)


def texts(name, split, vocabulary):
    evaluation = seqio_tasks.load_evaluation(name, split, vocabulary)
    return [vocabulary.decode(ids) for ids, _ in evaluation.examples], evaluation.targets


@pytest.mark.parametrize("item", FILE_SETS, ids=lambda item: item.name)
def test_every_set_has_its_form_with_the_name_and_without(item, vocabulary):
    inputs, target = FORMS[item.name]
    for split in ("train", "validation"):
        assert texts(item.name, split, vocabulary) == ([inputs], [target])
        bare = texts(f"{item.name}_no_prefix", split, vocabulary)
        assert bare == ([inputs.removeprefix(f"{item.name} ")], [target])
    assert verbalizers.of(item.name) == (item.labels or None)
    fn = seqio.get_mixture_or_task(item.name).predict_metric_fns
    scored = {key for metric in fn for key in metric([target] * 2, [target] * 2)}
    assert scored == set(item.metrics)


def test_the_papers_tasks_are_imported_for_their_names_only(monkeypatch):
    asked = []
    monkeypatch.setattr(seqio_registry, "import_module", asked.append)
    seqio_registry.require("bundled_sms_spam")
    seqio_registry.require("alpha_nli")  # is registered here
    assert asked == ["tasks.bundled_tasks"] * 2
    with pytest.raises(SpotError, match="alpha_nli"):
        seqio_registry.require("alpha_nlj")
    assert asked[2:] == ["tasks.bundled_tasks", "tasks.papers_tasks"]


def test_every_crossfit_task_is_read_in_five_samples(vocabulary):
    tasks = crossfit_sets.gym().tasks.values()
    assert len(tasks) == 120
    names = {task.sampled(sample) for task in tasks for sample in crossfit_sets.gym().samples}
    assert len(names) == 600
    assert names <= set(seqio.TaskRegistry.names())
    for name in ("crossfit_glue_cola_s13", "crossfit_xsum"):
        inputs, targets = texts(name, "validation", vocabulary)
        title = "glue-cola" if "cola" in name else "xsum"
        sample = 13 if name.endswith("s13") else 100
        assert inputs == [f"[{title}] text of {sample}", f"[{title}] more"]
        assert targets == [["one"], ["one", "two"]]


@pytest.mark.slow
def test_every_crossfit_task_and_relation_goes_through_its_whole_pipeline(vocabulary):
    for task in crossfit_sets.gym().tasks.values():
        inputs, targets = texts(task.name, "train", vocabulary)
        assert inputs == [f"[{task.title}] text of 100", f"[{task.title}] more"]
        assert targets == [["one"], ["one", "two"]]
    for relation in lama_sets.RELATIONS:
        inputs, targets = texts(lama_sets.name_of(relation), "test", vocabulary)
        assert len(inputs) == len(targets) == 1
        assert "Rome" in inputs[0]


def test_every_crossfit_task_writes_and_scores_an_example():
    for task in crossfit_sets.gym().tasks.values():
        registered = seqio.get_mixture_or_task(task.name)
        rows = crossfit_sets.read(task, 100, "test")
        (metric,) = registered.predict_metric_fns
        example = {"answers": [answer.encode() for answer in rows[1][1]]}
        target = registered.postprocess_fn("one", example=example, is_target=True)
        assert target == ["one", "two"]
        assert len(metric([target, ["two"]], ["one", "two"])) == 1
    assert set(crossfit.METRICS) == {t.metric for t in crossfit_sets.gym().tasks.values()}


# Number and SHA-256 of the sorted names, from the splits of the released code (db07de81).
SPLITS = {
    "random train": (100, "ad120981ecce146f"),
    "random test": (20, "baee67a7c0251a00"),
    "cls train": (35, "55ad166148113237"),
    "cls test_in": (8, "6e30848b4607c2e7"),
    "cls test_out_noncls": (76, "a67865b075c3ba4e"),
    "non_cls train": (35, "23e59f096768bc21"),
    "non_cls test_in": (41, "e8eee06c2399a2c8"),
    "non_cls test_out_cls": (43, "602cc11e9df673d5"),
    "random_20 train": (20, "f75cdb095aa41cc0"),
    "random_40 train": (40, "5c8ac5871711c71b"),
    "random_60 train": (60, "a02e604007606d07"),
    "random_80 train": (80, "44f42fc07def94f5"),
    "random_20_new train": (20, "0716a584d17cb5d5"),
    "random_20_new_2 train": (20, "fef2a1cd44ab47e9"),
    "random_60_new train": (60, "b762df1c422be1a3"),
    "random_60_new_2 train": (60, "09a22179b1cf1321"),
}


def test_crossfit_splits_hold_the_sets_of_the_released_code():
    def mark(names):
        text = "\n".join(sorted(names))
        return len(names), hashlib.sha256(text.encode()).hexdigest()[:16]

    gym = crossfit_sets.gym()
    assert mark(gym.tasks) == (120, "b873fb5298714d11")
    marks = {
        f"{a} {b}": mark(names) for a, parts in gym.splits.items() for b, names in parts.items()
    }
    assert marks == SPLITS
    for name, titles in {
        f"{a}_{b}": t for a, p in gym.splits.items() for b, t in p.items()
    }.items():
        mixed = {task.name for task in seqio.get_mixture_or_task(f"crossfit_{name}").tasks}
        assert mixed == {gym.tasks[title].name for title in titles}


def test_crossfit_mixtures_are_those_of_the_paper():
    splits = crossfit_sets.gym().splits
    train = set(splits["random"]["train"])
    assert len(train) == 100 and len(splits["random"]["test"]) == 20
    assert not train & set(splits["random"]["test"])
    assert {len(splits[name]["train"]) for name in ("cls", "non_cls")} == {35}
    mixture = seqio.get_mixture_or_task("crossfit_random_train")
    assert len(mixture.tasks) == 100
    assert {mixture.get_rate(task) for task in mixture.tasks} == {2.0}


def test_broken_crossfit_files_are_refused_with_file_and_line(tmp_path, monkeypatch):
    monkeypatch.setenv(data_files.VARIABLE, str(tmp_path))
    task = crossfit_sets.gym().tasks["race-high"]
    with pytest.raises(SpotError, match=r"race-high/race-high_32_13_dev.tsv, .*_build_gym"):
        crossfit_sets.read(task, 13, "validation")
    path = crossfit_sets.path_of(task, 13, "validation")
    put(path, "a\tb\nno tab here\n")
    with pytest.raises(SpotError, match=r"13_dev.tsv:2: .*found no tab"):
        crossfit_sets.read(task, 13, "validation")
    put(path, "a\t \n")
    with pytest.raises(SpotError, match=r"13_dev.tsv:1: .*empty target"):
        crossfit_sets.read(task, 13, "validation")


def test_lama_fills_the_subject_in_and_leaves_a_gap(vocabulary):
    assert len(set(lama_sets.RELATIONS)) == 41
    evaluation = seqio_tasks.load_evaluation("lama_P1412", "validation", vocabulary)
    assert evaluation.fields[0]["inputs_pretokenized"] == b"<extra_id_0> has Rome \\1 [Y] ."
    assert evaluation.examples[0][0][0] == vocabulary.sentinel(0)
    assert evaluation.targets == ["Italy"]
    assert len(seqio.get_mixture_or_task("lama").tasks) == 41


def test_broken_lama_files_are_refused_with_file_and_line(tmp_path, monkeypatch):
    monkeypatch.setenv(data_files.VARIABLE, str(tmp_path))
    with pytest.raises(SpotError, match="single_relations/P17.jsonl, found no such file"):
        lama_sets.template_of("P17")
    put(lama_sets.template_path("P17"), '{"template": "[X] is"}\n')
    with pytest.raises(SpotError, match=r"P17.jsonl:1: .*one \[X\] and one \[Y\]"):
        lama_sets.template_of("P17")
    put(lama_sets.path_of("P17", "test"), '{"sub_label": "x", "obj_label": ""}\n')
    with pytest.raises(SpotError, match=r"test.jsonl:1: .*empty target"):
        lama_sets.read("P17", "test")
    put(lama_sets.path_of("P17", "test"), '{"sub_label": "x"}\n')
    with pytest.raises(SpotError, match=r"test.jsonl:1: expected column 'obj_label'"):
        lama_sets.read("P17", "test")


def test_a_label_outside_the_set_stops_a_run_that_reads_it(tmp_path, monkeypatch, vocabulary):
    monkeypatch.setenv(data_files.VARIABLE, str(tmp_path))
    put(tmp_path / "cr/train.jsonl", json.dumps({**ROWS["cr"], "label": "neutral"}) + "\n")
    with pytest.raises(SpotError, match=r"train.jsonl:1: .*'neutral'"):
        seqio_tasks.training_source("cr", vocabulary, 0)


def test_sizes_that_differ_are_told_once(vocabulary, caplog):
    size_checks._warn.cache_clear()
    for _ in range(2):
        seqio_tasks.training_source("alpha_nli", vocabulary, 0)
    (record,) = caplog.records
    assert "expected 169,654 examples in split train of alpha_nli, found 1;" in record.message
    assert sizes.difference("cr", "train", examples=3_775) is None  # 4,000, to the thousand
    assert sizes.difference("cr", "train", examples=2_900)
    assert sizes.difference("unknown", "train", examples=1) is None


def test_spots_study_lists_the_papers_prompts_without_any_data(tmp_path, capsys):
    """48 source prompts, 30 from scratch, 480 transfers, 120 averages, 120 mixtures, 10 without."""
    settings = {"STUDY_DIR": str(tmp_path / "study"), "INITIAL_CHECKPOINT_PATH": "backbones/mini"}
    flags = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    assert main(["study", "--gin_file=gin_configs/studies/spot_paper.gin", "--jobs", *flags]) == 0
    _, *jobs, last = capsys.readouterr().out.splitlines()
    assert sum(int(line.split()[-1]) for line in jobs) == 48 + 30 + 480 + 120 + 120 + 10
    assert last == f"0 of {len(jobs)} done" and not (tmp_path / "study").exists()
