"""Templates: what is read, what is refused, and the tasks that are made of them."""

import json
from pathlib import Path

import pytest

pytest.importorskip("seqio")

import tasks  # noqa: E402
from spot_jax.data import fields, loading, seqio_tasks, templates, verbalizers  # noqa: E402  # noqa: E402
from spot_jax.data.seqio_templates import add_template_task  # noqa: E402
from spot_jax.data.virtual_tokens import input_writer  # noqa: E402
from spot_jax.errors import SpotError  # noqa: E402
from spot_jax.t5.vocabulary import Vocabulary  # noqa: E402
from tasks.papers import lama_sets  # noqa: E402
from tasks.papers.data_files import VARIABLE  # noqa: E402

NLI = "{premise} Question: {hypothesis} ? <prompt:2> Answer: {target}"
V, M, A = (f"<extra_id_{number}>" for number in (99, 98, 0))
TASK = "bundled_bible_paraphrase"


@pytest.fixture(scope="module")
def small():
    return Vocabulary(Path(tasks.__file__).parent / "mini_spiece.model")


@pytest.mark.parametrize(
    ("text", "form", "cut", "length"),
    [
        (NLI, f"{M} {{premise}} {M} Question: {{hypothesis}} ? {V} {V} Answer: {A}", "premise", 2),
        ("<prompt:1>{a}<prompt:1>{b:cut}.{target}", f"{V}{{a}} {V} {M}{{b}} {M}. {A}", "b", 2),
        (
            "{a} {a} {{x}} ({target}) <prompt:1>",
            f"{M} {{a}} {M} {{a}} {{{{x}}}} ( {A}) {V}",
            "a",
            1,
        ),
        ("{target}, {a} and <prompt:1>?", f"{A}, {M} {{a}} {M} and {V}?", "a", 1),
    ],
)
def test_what_a_template_comes_to(text, form, cut, length):
    template = templates.parse(text)
    assert (template.cut, template.length) == (cut, length)
    assert template.form == form
    assert fields.names_in(template.form) == template.fields
    assert templates.length_of(template.form) == length


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{a} <prompt:1>", r"one \{target\} in a template.* found 0"),
        ("{a} <prompt:1> {target} {target}", r"one \{target\} .* found 2"),
        ("{a} {target}", "expected virtual tokens in a template, found none"),
        ("{a} <prompt:0> {target}", "expected virtual tokens in a template, found none"),
        ("{a} <prompt> {target}", "<prompt:N>, N a whole number"),
        ("{a} <prompt:two> {target}", "<prompt:N>, N a whole number"),
        ("{a} <extra_id_99> {target}", "no sentinels"),
        ("<prompt:1> {target}", "expected a template with a field"),
        ("{a <prompt:1> {target}", "is no template"),
        ("{a:cut} {b:cut} <prompt:1> {target}", "one field to be cut.* found a:cut, b:cut"),
        ("{a} {a:cut} <prompt:1> {target}", "one field to be cut"),
        ("{a:short} <prompt:1> {target}", r"found \{a:short\}"),
        ("{a!r} <prompt:1> {target}", r"found \{a!r\}"),
        ("{a} <prompt:1> {target:cut}", "the target is never cut"),
    ],
)
def test_templates_that_are_refused(text, match):
    with pytest.raises(SpotError, match=match) as caught:
        templates.parse(text)
    assert "\n" not in str(caught.value)


def test_a_bundled_task_in_a_template(small):
    text = "{text2} <prompt:2> means? {text1:cut} <prompt:1> {target}."
    name = add_template_task(TASK, text)
    assert name == add_template_task(TASK, text) != add_template_task(TASK, f"{text}!")
    assert templates.base_of(name) == TASK and templates.base_of(TASK) is None
    assert verbalizers.of(name) == verbalizers.of(TASK)
    templated = seqio_tasks.load_evaluation(name, "test", small, limit=20)
    plain = seqio_tasks.load_evaluation(TASK, "test", small, limit=20)
    assert templated.targets == plain.targets
    write = input_writer(8192, 3, 0, "in_template", small)
    for (inputs, _), row in zip(templated.examples, plain.fields, strict=True):
        first, second = (row[f"text{i}"].decode() for i in (1, 2))
        tokens = write.write(inputs, 500).tolist()
        # The pieces are those that the text has without places and marks.
        whole = small.encode(f"{second} means? {first} {A}.")
        assert [t for t in tokens if t < 8192] == [*whole, 1]
        assert [t for t in tokens if t >= 8192] == [8192, 8193, 8194]
        # `spot infer` writes the same.
        written = fields.write(fields.template_of(name), {"text1": first, "text2": second})
        assert [*small.encode(written), 1] == inputs.tolist()


def test_the_whole_text_and_mixtures_and_joined_names(small):
    text = "{inputs} <prompt:1> {target}"
    name = loading.in_template("bundled_pair", text)
    parts = loading.constituents(name)
    assert {templates.base_of(part) for part in parts} == set(loading.constituents("bundled_pair"))
    joined = loading.in_template(f"{TASK}+bundled_sms_spam", text)
    assert {templates.base_of(part) for part in joined.split("+")} == {TASK, "bundled_sms_spam"}
    assert loading.template_of(joined) == f"{M} {{inputs}} {M} {V} {A}"
    examples = seqio_tasks.load_examples(name, "test", small, limit=2)
    assert all(small.sentinel(99) in inputs for inputs, _ in examples)


def test_a_task_in_a_template_is_found_again_by_name_and_form():
    form = templates.parse("{text1} again <prompt:1> {target}").form
    name = templates.name_of(TASK, form)
    with pytest.raises(SpotError, match="registered task or mixture"):
        loading.labels_of(name)
    loading.again_in_template(name, form)
    assert loading.labels_of(name) and loading.template_of(name) == form
    loading.again_in_template("not_in_a_template", form)  # a user's own module has that


@pytest.mark.parametrize(
    ("task", "text", "match"),
    [
        (TASK, "{text3} <prompt:1> {target}", "no field 'text3' .*text1, text2, inputs, did you"),
        (TASK, "{label} <prompt:1> {target}", "no field 'label'"),
        ("bundled_pair", "{text} <prompt:1> {target}", "no field 'text'"),
        ("a.npz", "{text} <prompt:1> {target}", "tokens already"),
    ],
)
def test_a_field_that_the_task_lacks(task, text, match):
    with pytest.raises(SpotError, match=match) as caught:
        loading.in_template(task, text)
    assert "\n" not in str(caught.value)


@pytest.fixture
def relation(tmp_path, monkeypatch):
    """Facts of one relation, and how its task is read."""
    folder = tmp_path / "lama"
    facts = {
        "train": ["Rome Italy", "Lyon France"],
        "dev": ["Nice France"],
        "test": ["Bonn Germany"],
    }
    for stem, rows in facts.items():
        path = folder / "fact-retrieval" / "original" / "P19" / f"{stem}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = [row.split() for row in rows]
        lines = [json.dumps({"sub_label": a, "obj_label": b}) for a, b in pairs]
        path.write_text("\n".join(lines) + "\n")
    (folder / "single_relations").mkdir()
    template = json.dumps({"template": "[X] was born in [Y] ."})
    (folder / "single_relations" / "P19.jsonl").write_text(template + "\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return folder


def test_lama_in_the_papers_template_with_restricted_answers(relation, small):
    name = "lama_P19_ptuning"
    evaluation = seqio_tasks.load_evaluation(name, "train", small)
    texts = [row["inputs_pretokenized"].decode() for row in evaluation.fields]
    assert texts[0] == f"{V} {V} {V} {M} Rome {M} was born in {V} {V} {V} {A} {V} {V} {V} ."
    assert evaluation.targets == ["Italy", "France"]
    assert loading.labels_of(name) == ("France", "Germany", "Italy")
    assert fields.write(loading.template_of(name), {"subject": "Rome"}) == texts[0]
    assert (
        fields.write(loading.template_of("lama_P19"), {"subject": "Rome"})
        == f"Rome was born in {A} ."
    )
    # A vocabulary of the user's decides what is an answer, and which facts there are.
    (relation / "vocabulary.txt").write_text("Italy\nFrance\nSpain\n")
    assert loading.labels_of(name) == ("Italy", "France", "Spain")
    assert lama_sets.restricted("P19", "train") == [("Rome", "Italy"), ("Lyon", "France")]
    with pytest.raises(SpotError, match="facts with objects of .*vocabulary.txt"):
        lama_sets.restricted("P19", "test")
