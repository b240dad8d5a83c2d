"""Every task over TFDS reads its set from disk and writes the form that its paper gives."""

import functools
import json
from pathlib import Path

import pytest

from spot_jax.data import fields, verbalizers
from spot_jax.metrics import Outputs
from tasks import papers_tasks  # noqa: F401
from tasks.papers import samples
from tasks.papers.catalogue import BY_NAME, NO_PREFIX

seqio = pytest.importorskip("seqio")
from spot_jax.data import seqio_tasks  # noqa: E402

EXPECTED = json.loads((Path(__file__).parent / "expected_forms.json").read_text("utf-8"))
LABELLED = [item.name for item in BY_NAME.values() if item.source == "tfds" and item.metrics]
# Of sets that are written alike one is read by default.
ALIKE = {
    *(f"glue_{name}" for name in ("sst2", "mrpc", "qqp", "rte", "wnli")),
    *("anli_r2", "anli_r3", "race_high", "wmt15_enfr", "wmt16_enro"),
    *("aeslc", "billsum", "gigaword", "multi_news", "newsroom", "xsum"),
    *(name for name in BY_NAME if name.startswith("mrqa_") and name != "mrqa_trivia_qa"),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in LABELLED]
NO_PREFIXES = {
    "glue_stsb": "stsb ",
    "super_glue_record": "record ",
    "super_glue_wsc": "wsc: ",
    "anli_r2": "anli_r2 ",
    "squad": "squad ",
    "wmt16_enro": "translate English to Romanian: ",
    "samsum": "samsum ",
    "gem_dart": "dart ",
}


@pytest.fixture
def read(tfds_data, tfds_here, vocabulary):
    """The function that returns the texts of a split's examples, and the evaluation."""
    return functools.partial(_read, tfds_data, tfds_here, vocabulary)


def _read(tfds_data, tfds_here, vocabulary, name, split):
    tfds_here(str(tfds_data(name.removesuffix("_ptuning"))))
    evaluation = seqio_tasks.load_evaluation(name, split, vocabulary)
    texts = [
        (row["inputs_pretokenized"].decode(), row["targets_pretokenized"].decode())
        for row in evaluation.fields
    ]
    return texts, evaluation


def test_every_set_of_tfds_is_expected_here():
    assert set(EXPECTED) == set(LABELLED)


@pytest.mark.parametrize("name", SLOW)
def test_form_and_metrics(name, read, vocabulary):
    item = BY_NAME[name]
    split = item.labelled_splits[0]
    texts, evaluation = read(name, split)
    assert tuple(EXPECTED[name]) in texts
    inputs, targets = evaluation.examples[0]
    assert inputs[-1] == 1
    assert vocabulary.decode(targets[:-1].tolist()).split() == texts[0][1].split()

    (metrics,) = evaluation.metrics
    scores = metrics.of_outputs(evaluation.targets, Outputs([target for _, target in texts]))
    assert set(scores) == set(item.metrics)
    perfect = {key: value for key, value in scores.items() if key != "bleu"}
    if item.several:  # classes that no row has count as 0
        del perfect["macro_f1"]
    assert all(value == pytest.approx(100) for value in perfect.values()), scores

    labels = () if item.several else item.labels
    assert (verbalizers.of(name) or ()) == labels
    assert (verbalizers.of(name + NO_PREFIX) or ()) == labels
    assert fields.template_of(name).endswith(fields.template_of(name + NO_PREFIX))


@pytest.mark.parametrize("name", NO_PREFIXES)
def test_without_the_name_of_the_task(name, read):
    split = BY_NAME[name].labelled_splits[0]
    texts, _ = read(name + NO_PREFIX, split)
    inputs, target = EXPECTED[name]
    assert (inputs.removeprefix(NO_PREFIXES[name]), target) in texts


def test_wsc_trains_on_true_pairs_alone_and_is_evaluated_on_all(read):
    _, train = read("super_glue_wsc", "train")
    _, validation = read("super_glue_wsc", "validation")
    assert [target["label"] for target in train.targets] == [True]
    assert sorted(target["label"] for target in validation.targets) == [False, True]


def test_snli_leaves_out_pairs_without_a_label(read):
    assert len(samples.rows("snli")) == 4
    assert len(read("snli", "validation")[0]) == 3


def test_record_scores_a_query_once(read):
    _, evaluation = read("super_glue_record", "validation")
    assert len(evaluation.targets) == 3
    assert {target["group"] for target in evaluation.targets} == {(3, 11), (4, 12)}
    (metric,) = seqio_tasks.metric_fns("super_glue_record")
    right_on_one = ["Millau" if t["group"] == (4, 12) else "nobody" for t in evaluation.targets]
    assert metric(evaluation.targets, right_on_one)["em"] == 50.0


def test_multirc_is_grouped_by_question(read):
    _, evaluation = read("super_glue_multirc", "validation")
    (metric,) = seqio_tasks.metric_fns("super_glue_multirc")
    # Question 7 has an answer that is wrong and is said to be right; question 8 is all right.
    assert metric(evaluation.targets, ["True"] * 3)["exact_match"] == 50.0


def test_race_has_an_example_a_question(read):
    texts, _ = read("race_middle", "validation")
    assert sorted(target for _, target in texts) == ["A", "B"]


def test_drop_and_gem_are_scored_against_all_answers(read):
    assert read("drop", "validation")[1].targets == [["15", "15", "fifteen"]]
    assert len(read("gem_common_gen", "validation")[1].targets[0]) == 2
    # DART's training rows have no references: the target is the one there is.
    (target,) = read("gem_dart", "train")[1].targets
    assert target == [EXPECTED["gem_dart"][1]]


def test_c4_is_cut_into_two_halves(vocabulary, tfds_data, tfds_here):
    tfds_here(str(tfds_data("c4_prefix_lm")))
    examples = seqio_tasks.load_examples(
        "c4_prefix_lm", "train", vocabulary, lengths={"inputs": 32, "targets": 32}
    )
    text = " ".join(row["text"] for row in samples.rows("c4_prefix_lm"))
    inputs, targets = examples[0]
    assert len(inputs) <= 32 and len(targets) <= 33
    assert vocabulary.decode(inputs.tolist()) in text
    assert vocabulary.decode(targets.tolist()) in text


PATTERNS = {
    "boolq": (
        "<extra_id_98> Lighthouse of Skerra -- The lighthouse was lit by gas until 1931. "
        "<extra_id_98> . <extra_id_99> "
        "Question: was the lighthouse of skerra ever lit by gas ? Answer: <extra_id_0> .",
        "Yes",
    ),
    "cb": (
        "<extra_id_98> Did she think that the road was closed? <extra_id_98> the road was closed ? "
        "<extra_id_99> answer: <extra_id_0>",
        "Maybe",
    ),
    "copa": (
        "the oven was cold or the baker fell asleep ? <extra_id_98> The bread was burnt "
        "<extra_id_98> because <extra_id_99> <extra_id_0> .",
        "the baker fell asleep",
    ),
    "multirc": (
        "<extra_id_98> Sent 1: Ida planted an oak. Sent 2: Her brother planted two elms.  "
        "<extra_id_98> . Question: Who planted trees? ? Is it Her mother ? <extra_id_99> "
        "<extra_id_0> .",
        "No",
    ),
    "rte": (
        "<extra_id_98> Mara Lindt leads the orchestra. <extra_id_98> Question: Mara Lindt plays "
        "the oboe ? <extra_id_99> Answer: <extra_id_0> .",
        "No",
    ),
    "wic": (
        "<extra_id_98> They sat on the bank of the river. <extra_id_98> The bank lent them money. "
        "<extra_id_99> *bank *? <extra_id_0>",
        "No",
    ),
    "wsc": (
        "<extra_id_98> Olga thanked Ruth because *she* had lent her the tent. <extra_id_98> "
        "<extra_id_99> pronoun '* she *' refers to <extra_id_0>.",
        "Ruth",
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_p_tuning_patterns(name, read, vocabulary):
    task = f"super_glue_{name}_ptuning"
    texts, evaluation = read(task, "train")
    assert PATTERNS[name] in texts
    for inputs, _ in evaluation.examples:
        assert list(inputs).count(vocabulary.sentinel(99)) == 1
        assert list(inputs).count(vocabulary.sentinel(0)) == 1
    (score, *_) = seqio_tasks.metric_fns(task)
    assert set(score(evaluation.targets, [target for _, target in texts]).values()) == {100.0}
    if name == "copa":
        assert evaluation.choices[1] == ("the oven was cold", "the baker fell asleep")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LABELLED, *(name + NO_PREFIX for name in LABELLED)])
def test_all_splits(name, tfds_data, tfds_here):
    """Through seqio's own tokenising, every split, with the name of the task and without."""
    tfds_here(str(tfds_data(name)))
    item = BY_NAME[name.removesuffix(NO_PREFIX)]
    task = seqio.TaskRegistry.get(name)
    assert set(task.splits) == set(item.labelled_splits)
    inputs, target = EXPECTED[item.name]
    for split in task.splits:
        rows = task.get_dataset({"inputs": 512, "targets": 512}, split, shuffle=False)
        pairs = [
            (row["inputs_pretokenized"].decode(), row["targets_pretokenized"].decode())
            for row in rows.as_numpy_iterator()
        ]
        ends = [text for text, wanted in pairs if inputs.endswith(text) and wanted == target]
        assert ends and (name == item.name) == (inputs in ends)
