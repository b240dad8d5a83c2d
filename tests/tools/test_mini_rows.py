"""Rows say what they should: the answer is right, and the prompt is the row's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mini_cases import (
    CONFIG,
    MARKS,
    SIZES,
    TOPICS,
    VALUES,
    fake_corpus,
    fake_table,
    keys,
    phrase_of,
    random_key,
)  # fmt: skip

from tools.mini import batches, rows
from tools.mini.corpus import MOST_VALUES

DIFFERENT, NEXT, ABOUT, CONTAINS, KIND_OF = range(5)
FIRST_VIRTUAL = CONFIG.vocab_size


@pytest.fixture(scope="module")
def c():
    return fake_corpus()


@pytest.fixture(scope="module")
def tasks(c):
    make = jax.jit(rows.make_tasks, static_argnums=(2, 3))
    halves = make(random_key(3), c, 12, 0.0), make(random_key(4), c, 4, 1.0)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *halves)


def mapped(function, *arguments):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(*arguments))


def nearest_label(c, text, labels, size):
    scores = np.asarray(c.phrase_vector)[labels[:size]] @ np.asarray(c.vector)[text]
    order = np.sort(scores)
    return scores, order[-1] - order[-2]


def named_value(c, phrase):
    """The attribute, the wording and the value that a phrase of the fake corpus names."""
    j, variant, value = np.argwhere(np.asarray(c.names) == phrase)[0]
    return j, variant, value


def test_the_answer_about_a_topic_is_the_nearest_label(c):
    choices = mapped(lambda k: rows.topic_choice(k, c, 20), keys(64))
    for text, labels, size, target, weight in zip(*choices, strict=True):
        scores, margin = nearest_label(c, text, labels, size)
        assert 2 <= size <= 20 and target < size and (labels[:size] < TOPICS).all()
        assert scores[target] == pytest.approx(scores.max(), abs=1e-6)
        assert weight == (margin > rows.CLEAR) or margin == pytest.approx(rows.CLEAR, abs=1e-6)
    # Few labels are commoner than many, and both happen.
    assert choices.size.min() < 5 and choices.size.max() > 12


def test_the_answer_about_an_attribute_is_its_value(c):
    table = fake_table()
    choices = mapped(lambda k: rows.attribute_choice(k, c, 20), keys(64))
    asked = set()
    for text, labels, size, target, weight in zip(*choices, strict=True):
        named = [named_value(c, phrase) for phrase in labels[:size]]
        j, variant, value = named[target]
        assert table[str(j)][text] == value and weight == 1
        assert {n[:2] for n in named} == {(j, variant)} and len({n[2] for n in named}) == size
        asked.add(int(j))
    assert asked == set(range(len(VALUES)))


@pytest.mark.slow
def test_tasks_are_answered_by_what_their_labels_mean(c, tasks):
    table = fake_table()
    each = jax.tree.map(np.asarray, tasks)
    assert set(each.kind[:12]) == {rows.TOPIC, rows.ATTRIBUTE} and set(each.kind[12:]) == {
        rows.PAIR
    }
    which = np.arange(96) % 12
    choices = mapped(lambda k, t: rows.task_choice(k, c, tasks, t), keys(96), which)
    for t, text, labels, size, target, weight in zip(which, *choices, strict=True):
        assert (labels == each.labels[t]).all() and target < size == each.size[t]
        if each.kind[t] == rows.TOPIC:
            scores, margin = nearest_label(c, text, each.keys[t], size)
            assert scores[target] == pytest.approx(scores.max(), abs=1e-6)
            assert weight == (margin > rows.CLEAR) or abs(margin - rows.CLEAR) < 1e-6
        else:
            assert table[str(each.about[t])][text] == each.keys[t, target] < MOST_VALUES


def filled_in(inputs, target):
    """The text of a corrupted input, each sentinel replaced by its span in the target."""
    spans, sentinel = {}, None
    for piece in target[: list(target).index(rows.EOS)]:
        if piece > 8000:
            sentinel = spans.setdefault(int(piece), [])
        else:
            sentinel.append(int(piece))
    text = []
    for piece in inputs[: list(inputs).index(rows.EOS)]:
        text += spans.pop(int(piece)) if piece > 8000 else [int(piece)]
    assert not spans
    return text


def test_a_corrupted_text_is_whole_with_its_target_filled_in(c):
    corrupt = lambda k: rows.corrupted(k, c, 64, batches.FIRST_SENTINEL)  # noqa: E731
    lost = 0
    for inputs, target, text in zip(*mapped(corrupt, keys(48)), strict=True):
        ids = np.asarray(c.text)[text, :63]
        assert filled_in(inputs, target) == list(ids[ids > 0])
        lost += (target > 8000).any()
    assert lost > 40  # of texts of under five pieces nothing is lost


def test_a_row_without_a_prompt_continues_its_text(c):
    drawn_rows = mapped(lambda k: rows.continuation(k, c, MARKS, 64, 24), keys(64))
    text, after = np.asarray(c.text), np.asarray(c.after)
    for inputs, target, number, whole in zip(*drawn_rows, strict=True):
        assert inputs.max() < FIRST_VIRTUAL and (target == rows.EOS).sum() <= 1
        seen = [p for p in inputs[: list(inputs).index(rows.EOS)] if p not in (5, 6)]
        going_on = list(target[(target > rows.EOS)])
        ids = list(text[number][text[number] > 0])
        assert seen == ids[: len(seen)]
        rest = text[after[number]] if whole else np.array(ids[len(seen) :])
        assert going_on == list(rest[rest > 0][:24])
    assert 0 < drawn_rows[3].sum() < 64


@pytest.fixture(scope="module")
def two_texts(c):
    """Two texts a draw, by question and answer; one program draws all of them."""
    count = 24
    question, yes, _ = (a.ravel() for a in np.indices((5, 2, count)))
    drawn = mapped(
        lambda k, q, y: rows.two_texts(k, c, q, y, 40), keys(len(yes)), question, yes > 0
    )
    pairs = list(zip(*drawn, strict=True))
    return {(q, bool(y)): pairs[(2 * q + y) * count :][:count] for q in range(5) for y in range(2)}


def text_number(ids):
    return (int(ids[0]) - 10) // 100


def phrase_at(ids):
    return int((ids[0] - 7100) * 30 + ids[1] - 7200)


def holds(c, question, first, second):
    """Whether what a question asks is so of two texts; None where the corpus does not say."""
    if question == KIND_OF:
        return int(c.head_genus[int(first[0]) - 7400]) == phrase_at(second)
    number = text_number(first)
    if question == DIFFERENT:
        numbers = (second[(second >= 10) & (second < 7010)] - 10) // 100
        return bool(np.mean(numbers == number) > 0.5) if len(numbers) > 5 else None
    if question == NEXT:
        after = int(c.after[number])
        return bool((second == np.asarray(c.text)[after, :40]).all()) if after >= 0 else None
    if question == ABOUT:
        return number in np.asarray(c.texts_of)[phrase_at(second)]
    return bool(second[0] in np.asarray(c.text)[number])


@pytest.mark.parametrize("question", [DIFFERENT, NEXT, CONTAINS, KIND_OF])
def test_two_texts_are_as_their_question_is_answered(c, two_texts, question):
    right = {
        yes: [holds(c, question, *pair) for pair in two_texts[question, yes]]
        for yes in (True, False)
    }
    decided = {yes: [x for x in answers if x is not None] for yes, answers in right.items()}
    # By chance a stranger is the text itself, rarely.
    assert len(decided[True]) > 5 and np.mean(decided[False]) < 0.3
    assert all(decided[True]) if question != DIFFERENT else np.mean(decided[True]) > 0.8


def test_a_text_is_about_its_phrase(c, two_texts):
    assert all(holds(c, ABOUT, *pair) for pair in two_texts[ABOUT, True])


def drawn(name, c, tasks):
    make = batches.makers(MARKS, SIZES, CONFIG)[name]
    return jax.tree.map(np.asarray, jax.jit(make)(random_key(), {"corpus": c, "tasks": tasks}))


def check_prompts(batch, c, tasks, width=batches.P):
    """Virtual ids are of the row's own block, and answers are labels of the row's own prompt."""
    phrases, fill, is_label = batch["slots"]
    listed = len(phrases)
    for r, (inputs, target) in enumerate(zip(batch["inputs"], batch["targets"], strict=True)):
        virtual = inputs[inputs >= FIRST_VIRTUAL] - FIRST_VIRTUAL
        assert len(virtual) and (virtual // width == r).all()
        if r < listed:
            present = is_label[r] | (fill[r] >= 0)
            assert (virtual % width == np.flatnonzero(present)).all()
            assert phrase_of(target) in phrases[r][is_label[r]]
        else:
            t = batch["which"][r - listed]
            assert (virtual % width == np.arange(width)).all()
            assert phrase_of(target) in tasks.labels[t, : tasks.size[t]]


def test_joined_rows_have_ids_of_their_own():
    present = np.array([[True, True, False], [False, True, True]])
    first, last = batches._virtual(CONFIG, present, 0), batches._virtual(CONFIG, present, 5)
    assert (np.asarray(first) - FIRST_VIRTUAL)[present].tolist() == [0, 1, 4, 5]
    assert (np.asarray(last) - FIRST_VIRTUAL)[present].tolist() == [15, 16, 19, 20]
    assert not np.asarray(last)[~present].any()


@pytest.mark.slow
def test_virtual_ids_point_at_their_own_row_in_short_batches(c, tasks):
    batch = drawn("short", c, tasks)
    assert len(batch["inputs"]) == 12 and len(batch["which"]) == 4
    check_prompts(batch, c, tasks)


@pytest.mark.slow
def test_virtual_ids_point_at_their_own_row_in_long_batches(c, tasks):
    batch = drawn("long", c, tasks)
    assert len(batch["inputs"]) == 16 and len(batch["which"]) == 8
    check_prompts(batch, c, tasks)


@pytest.mark.slow
def test_virtual_ids_point_at_their_own_row_in_wide_batches(c, tasks):
    batch = drawn("many", c, tasks)
    check_prompts(batch["many"], c, tasks, batches.MANY)
    assert (batch["many"]["slots"][2].sum(1) > batches.P).all()
    assert batch["lm"]["inputs"].max() < FIRST_VIRTUAL


@pytest.mark.slow
def test_rows_of_the_reading_stages_have_no_prompt(c, tasks):
    batch = drawn("reading", c, tasks)
    for part in ("span", "lm"):
        assert batch[part]["inputs"].max() < FIRST_VIRTUAL
        assert batch[part]["vectors"].shape == (4, 384)


@pytest.mark.slow
def test_listed_pairs_answer_yes_in_the_words_of_their_question(c):
    draw = functools.partial(
        batches.label_pairs, c=c, marks=MARKS, config=CONFIG, count=96, total=128
    )
    batch = jax.tree.map(np.asarray, jax.jit(draw)(random_key(5)))
    names = np.asarray(c.pair_names)
    seen, strangers = set(), []
    for inputs, target, labels in zip(
        batch["inputs"], batch["targets"], batch["slots"][0], strict=True
    ):
        question, wording, yes = np.argwhere(names == phrase_of(target))[0]
        assert set(labels[:2]) == set(names[question, wording])
        real = inputs[(inputs > 0) & (inputs < FIRST_VIRTUAL)]
        marks = [i for i in range(len(real) - 2) if list(real[i : i + 3]) == [5, 8, 6]]
        first, second = real[3 : marks[0]], real[marks[0] + 3 :]
        if yes and question in (ABOUT, CONTAINS, KIND_OF):
            assert holds(c, question, first, second)
        if not yes and question == KIND_OF:
            strangers.append(not holds(c, question, first, second))
        seen.add((int(question), int(yes)))
    assert len(seen) == 10 and np.mean(strangers) > 0.5


@pytest.mark.slow
def test_new_prompts_begin_as_their_tasks_labels(c):
    embedding = jax.random.normal(random_key(1), (CONFIG.vocab_size, 16))
    renew = jax.jit(batches.renew_tasks)
    empty, zeros = batches.empty_tasks(16), jnp.zeros((16, batches.P, 16))
    tasks, prompts = renew(random_key(2), empty, zeros, c, embedding, jnp.float32(1))
    assert (tasks.kind[:12] != rows.PAIR).all() and (tasks.kind[12:] == rows.PAIR).all()
    assert (np.abs(np.asarray(prompts)).sum((1, 2)) > 0).all()
    mean = np.asarray(embedding)[np.asarray(c.phrase)[np.asarray(tasks.labels[:, 0]), :2]].mean(1)
    distance = np.abs(np.asarray(prompts[:, 0]) - mean).mean(1)
    assert 0 < (distance < 0.4).sum() < 16  # others begin as common pieces
    later, same = renew(random_key(9), tasks, prompts, c, embedding, jnp.float32(0))
    assert (same == prompts).all() and all(map(np.array_equal, later, tasks))
