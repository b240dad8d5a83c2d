"""Rows that `mini` is trained on, drawn on the device from the corpus.

A row is a prompt, a text and an answer. What stands in the prompt says what is asked of the text:
the labels to choose among, one virtual token each, the mean of its pieces (as a prompt that begins
as class labels has them, Lester et al. 2021, section 3.2), filled up with common pieces; or a
prompt that is trained along, one for each of many tasks. The text alone never says it: the same
text is asked what it is about, how it feels, where it is from, how long it is. Rows without a
prompt continue the text.

The functions are about one row; `tools.mini.batches` maps them over the rows of a batch. `c` is the
corpus everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from tools.mini.corpus import MOST_VALUES, Corpus
from tools.mini.wordings import PAIRS, VARIANTS

EOS, COMMON = 1, 5000
ANSWER = 9
"""Most pieces of an answer, its end included."""
LABELS = 64
"""Most labels of a task with a trained prompt."""
CLEAR = 0.02
"""How much nearer to a text its label has to be than the next, in cosine, to count."""
TOPIC, ATTRIBUTE, PAIR = 0, 1, 2


class Marks(NamedTuple):
    """The pieces of the names of a text's fields, as the sets write them."""

    text: Int[Array, " a"]
    text1: Int[Array, " b"]
    text2: Int[Array, " c"]


class Tasks(NamedTuple):
    """T tasks that have a trained prompt each; see the module.

    Attributes:
        kind: TOPIC, ATTRIBUTE or PAIR, int32 [T].
        about: Number of the attribute, or of the question about two texts, int32 [T].
        keys: Meaning of each label: a phrase, or a value of the attribute, int32 [T, LABELS].
        labels: Phrase that is answered, int32 [T, LABELS].
        size: Number of labels, int32 [T].
    """

    kind: Int[Array, " t"]
    about: Int[Array, " t"]
    keys: Int[Array, "t l"]
    labels: Int[Array, "t l"]
    size: Int[Array, " t"]


def _below(key: Key[Array, ""], bound: Array) -> Int[Array, ""]:
    return jnp.minimum((jax.random.uniform(key) * bound).astype(jnp.int32), bound - 1)


def _sample(key: Key[Array, ""], count: int, valid: Bool[Array, " n"]) -> Int[Array, " c"]:
    """Return `count` different places, the valid ones first, in a random order."""
    order = jax.random.uniform(key, valid.shape) + (~valid)
    return jnp.argsort(order)[:count]


def _topic_labels(key: Key[Array, ""], c: Corpus, width: int) -> Int[Array, " w"]:
    """Return phrases from anywhere, or near to one another as the labels of one field are."""
    keys = jax.random.split(key, 4)
    near = c.phrase_near[_below(keys[0], c.topics)]
    if width <= near.shape[0]:
        close = near[_sample(keys[1], width, jnp.ones(near.shape[0], bool))]
    else:
        close = jnp.resize(near, (width,))
    far = (jax.random.uniform(keys[2], (width,)) * c.topics).astype(jnp.int32)
    return jnp.where(jax.random.bernoulli(keys[3], 0.6), close, far)


def _text_of(key: Key[Array, ""], c: Corpus, phrase: Array) -> Int[Array, ""]:
    """Return a text that a phrase is near to, the nearest most often."""
    u = jax.random.uniform(key)
    return c.texts_of[phrase, (u * u * c.texts_of.shape[1]).astype(jnp.int32)]


def _nearest(c: Corpus, text: Array, labels: Array, size: Array) -> tuple[Array, Array]:
    """Return the place of the label nearest to a text, and by how much it is nearer."""
    scores = jnp.einsum("w,lw->l", c.vector[text], c.phrase_vector[labels]).astype(jnp.float32)
    scores = jnp.where(jnp.arange(len(labels)) < size, scores, -2.0)
    top, place = jax.lax.top_k(scores, 2)
    return place[0], top[0] - top[1]


class Choice(NamedTuple):
    """One row's question.

    Attributes:
        text: Number of the text, int32.
        labels: Phrases to choose among, int32 [W].
        size: Number of labels; the phrases after them are not meant, int32.
        target: Place of the right label, int32.
        weight: Weight of the row in the loss, float32.
    """

    text: Int[Array, ""]
    labels: Int[Array, " w"]
    size: Int[Array, ""]
    target: Int[Array, ""]
    weight: Float[Array, ""]


def topic_choice(key: Key[Array, ""], c: Corpus, width: int, least: int = 2) -> Choice:
    """Ask what a text is about, among `least` to `width` phrases: the nearest by the teacher.

    A text that two labels are about equally near to has no weight.
    """
    keys = jax.random.split(key, 4)
    labels = _topic_labels(keys[0], c, width)
    # Few labels more often than many.
    size = least + (jnp.square(jax.random.uniform(keys[1])) * (width + 1 - least)).astype(jnp.int32)
    text = _text_of(keys[2], c, labels[_below(keys[3], size)])
    target, margin = _nearest(c, text, labels, size)
    return Choice(text, labels, size, target, (margin > CLEAR).astype(jnp.float32))


def attribute_choice(key: Key[Array, ""], c: Corpus, width: int) -> Choice:
    """Ask what a rule, or somebody's label, says of a text, in one of its wordings."""
    keys = jax.random.split(key, 7)
    j = jax.random.categorical(keys[0], jnp.log(c.chance + 1e-9))
    values = c.values[j]
    chosen = _sample(keys[1], width, jnp.arange(MOST_VALUES) < values)
    most = jnp.minimum(values, width)
    size = jnp.where(jax.random.bernoulli(keys[2], 0.6), most, 2 + _below(keys[3], most - 1))
    target = _below(keys[4], size)
    value = chosen[target]
    text = c.members[c.start[j, value] + _below(keys[5], c.count[j, value])]
    variant = jax.random.randint(keys[6], (), 0, VARIANTS)
    return Choice(text, c.names[j, variant, chosen], size, target, jnp.float32(1))


def make_tasks(key: Key[Array, ""], c: Corpus, count: int, pairs: float) -> Tasks:
    """Return `count` new tasks; a share of `pairs` of them is about two texts."""

    def task(key: Key[Array, ""]) -> Tasks:
        keys = jax.random.split(key, 12)
        topics = _topic_labels(keys[0], c, LABELS)
        size = 2 + (jnp.square(jax.random.uniform(keys[1])) * (LABELS - 1)).astype(jnp.int32)
        j = jax.random.categorical(keys[3], jnp.log(c.chance + 1e-9))
        values = _sample(keys[4], LABELS, jnp.arange(MOST_VALUES) < c.values[j])
        few = jnp.minimum(c.values[j], LABELS)
        variant = jax.random.randint(keys[5], (), 0, VARIANTS)
        question = jax.random.randint(keys[6], (), 0, len(PAIRS))
        wording = jax.random.randint(keys[7], (), 0, 3)
        both = jnp.where(
            jax.random.bernoulli(keys[8], 0.5),
            c.pair_names[question, wording],
            c.answers[jax.random.randint(keys[7], (), 0, len(c.answers))],
        )
        both = jnp.pad(both, (0, LABELS - 2))
        u = jax.random.uniform(keys[9])
        kind = jnp.where(
            u < pairs, PAIR, jnp.where(u < pairs + 0.55 * (1 - pairs), TOPIC, ATTRIBUTE)
        )
        other = (jax.random.uniform(keys[10], (LABELS,)) * c.topics).astype(jnp.int32)
        # A verbalizer of other words, which the prompt alone can know.
        natural = jnp.stack([topics, c.names[j, variant, values], both])[kind]
        labels = jnp.where(jax.random.bernoulli(keys[11], 0.2), other, natural)
        return Tasks(
            kind,
            jnp.stack([0, j, question])[kind],
            jnp.stack([topics, values, jnp.arange(LABELS)])[kind],
            labels,
            jnp.stack([size, few, 2])[kind],
        )

    return jax.vmap(task)(jax.random.split(key, count))


def task_choice(key: Key[Array, ""], c: Corpus, tasks: Tasks, t: Array) -> Choice:
    """Ask task `t`, which is about one text, about a text of its."""
    keys = jax.random.split(key, 3)
    size, meaning = tasks.size[t], tasks.keys[t]
    i = _below(keys[0], size)
    near = _text_of(keys[1], c, meaning[i])
    j = tasks.about[t]
    value = jnp.minimum(meaning[i], MOST_VALUES - 1)
    member = c.members[c.start[j, value] + _below(keys[2], c.count[j, value])]
    topic = tasks.kind[t] == TOPIC
    text = jnp.where(topic, near, member)
    phrases = jnp.where(topic, meaning, 0)
    best, margin = _nearest(c, text, phrases, size)
    target = jnp.where(topic, best, i)
    weight = jnp.where(topic, margin > CLEAR, True).astype(jnp.float32)
    return Choice(text, tasks.labels[t], size, target, weight)


def noisy(key: Key[Array, ""], c: Corpus, ids: Int[Array, " t"]) -> Int[Array, " t"]:
    """Put a text in other words: some dropped, some replaced by near ones, neighbours swapped."""
    keys = jax.random.split(key, 5)
    shape = ids.shape
    near = c.piece_near[ids, jax.random.randint(keys[0], shape, 0, 8)]
    strength = jax.random.uniform(keys[4])
    changed = jax.random.bernoulli(keys[1], 0.4 * strength, shape) & (ids > 2) & (near > 2)
    ids = jnp.where(changed, near, ids)
    ids = jnp.where(jax.random.bernoulli(keys[2], 0.35 * strength, shape), 0, ids)
    place = jnp.arange(shape[0]) + jax.random.uniform(keys[3], shape) * 4 * strength
    return compact(ids[jnp.argsort(place)])


def two_texts(
    key: Key[Array, ""], c: Corpus, question: Array, yes: Array, width: int
) -> tuple[Int[Array, " w"], Int[Array, " w"]]:
    """Return the two texts of a question of `PAIRS` whose answer is `yes`, and no otherwise.

    Args:
        key: Random key.
        c: Corpus.
        question: Number of the question.
        yes: Whether the answer is yes.
        width: Most pieces of each text.
    """
    keys = jax.random.split(key, 12)
    q = jax.random.randint(keys[0], (), 0, c.pair.shape[0])
    first = c.pair[q]
    a = c.text[first, :width]
    other = c.near[q, jax.random.randint(keys[1], (), 0, 8)]
    copied = noisy(keys[2], c, c.text[jnp.where(yes, first, other), :width])
    stranger = c.pair[jax.random.randint(keys[3], (), 0, c.pair.shape[0])]
    follows = c.after[first]
    following = c.text[jnp.where(yes & (follows >= 0), follows, c.after[stranger]), :width]
    about, phrase = _text_and_phrase(keys[4:9], c, yes, width)
    # The same draw says where the word stands, in this text or in the stranger.
    b = c.text[stranger]
    piece = jnp.where(yes, _piece_of(keys[9], a), _piece_of(keys[9], b))
    word = jnp.zeros(width, jnp.int32).at[0].set(piece)
    head, kind = _head_and_kind(keys[10:], c, yes, width)
    firsts = jnp.stack([a, a, about, a, head])
    seconds = jnp.stack([copied, following, phrase, word, kind])
    return firsts[question], seconds[question]


def _text_and_phrase(
    keys: Key[Array, "5"], c: Corpus, yes: Array, width: int
) -> tuple[Int[Array, " w"], Int[Array, " w"]]:
    """Return a text about a phrase, and the phrase or, where not `yes`, another."""
    phrase = _below(keys[0], c.topics)
    wrong = jnp.where(
        jax.random.bernoulli(keys[1], 0.4),
        c.phrase_near[phrase, jax.random.randint(keys[2], (), 40, c.phrase_near.shape[1])],
        _below(keys[3], c.topics),
    )
    text = c.text[_text_of(keys[4], c, phrase), :width]
    ids = jnp.pad(c.phrase[jnp.where(yes, phrase, wrong)], (0, width - c.phrase.shape[1]))
    return text, ids


def _piece_of(key: Key[Array, ""], ids: Int[Array, " t"]) -> Int[Array, ""]:
    return ids[_below(key, jnp.maximum(jnp.sum(ids > 0), 1))]


def _head_and_kind(
    keys: Key[Array, "2"], c: Corpus, yes: Array, width: int
) -> tuple[Int[Array, " w"], Int[Array, " w"]]:
    """Return a headword, and what it is a kind of or, where not `yes`, what another is."""
    g = jax.random.randint(keys[0], (), 0, c.head.shape[0])
    h = jax.random.randint(keys[1], (), 0, c.head.shape[0])
    head = jnp.pad(c.head[g], (0, width - c.head.shape[1]))
    kind = jnp.pad(c.phrase[c.head_genus[jnp.where(yes, g, h)]], (0, width - c.phrase.shape[1]))
    return head, kind


def compact(ids: Int[Array, " t"]) -> Int[Array, " t"]:
    """Move padding to the end."""
    return ids[jnp.argsort(ids == 0, stable=True)]


def answer(c: Corpus, phrase: Array) -> Int[Array, " a"]:
    """Return a phrase as a target: its pieces and the end."""
    ids = jnp.pad(c.phrase[phrase], (0, ANSWER - c.phrase.shape[1]))
    return ids.at[jnp.sum(ids > 0)].set(EOS)


def row_input(
    key: Key[Array, ""], marks: Marks, slots: Int[Array, " p"], text: Int[Array, " t"], width: int
) -> Int[Array, " w"]:
    """Return a row's input: the prompt's virtual tokens, `text: `, the text, the end."""
    # A task may write its text without a name.
    name = jnp.where(jax.random.bernoulli(key, 0.85), marks.text, 0)
    room = width - len(slots) - len(name) - 1
    ids = jnp.concatenate([slots, name, text[:room], jnp.array([EOS])])
    return compact(jnp.pad(ids, (0, width - len(ids))))


def pair_input(
    marks: Marks, slots: Int[Array, " p"], first: Array, second: Array, width: int
) -> Int[Array, " w"]:
    """Return a row's input of two texts: `text1: ... text2: ...`; its end may be cut off."""
    ids = jnp.concatenate([slots, marks.text1, first, marks.text2, second, jnp.array([EOS])])
    return compact(jnp.pad(ids, (0, max(0, width - len(ids)))))[:width]


def label_slots(
    key: Key[Array, ""], choice: Choice, width: int
) -> tuple[Int[Array, " w"], Int[Array, " w"], Bool[Array, " w"]]:
    """Return the prompt that lists a choice's labels.

    Returns:
        For each place the phrase, a common piece to fill it with instead, and whether it is a
        label's; -1 as the piece for a place that stays empty.
    """
    keys = jax.random.split(key, 3)
    place = jnp.arange(width)
    is_label = place < choice.size
    fill = jax.random.randint(keys[0], (width,), 3, COMMON)
    length = choice.size + _below(keys[1], width + 1 - choice.size)
    length = jnp.where(jax.random.bernoulli(keys[2], 0.6), width, length)
    return choice.labels[:width], jnp.where(place < length, fill, -1), is_label


def slot_vectors(
    key: Key[Array, ""],
    embedding: Float[Array, "v d"],
    c: Corpus,
    slots: tuple[Array, Array, Array],
) -> Float[Array, "b p d"]:
    """Return the virtual tokens of `label_slots`: the mean of a label's pieces, or a piece.

    Noise is added, of another strength in each row, as tuned prompts are no means of pieces.
    """
    phrases, fill, is_label = slots
    ids = c.phrase[phrases]
    real = (ids > 0)[..., None].astype(jnp.bfloat16)
    vectors = embedding.astype(jnp.bfloat16)[ids] * real
    mean = jnp.sum(vectors, -2) / jnp.maximum(jnp.sum(real, -2), 1)
    other = embedding.astype(jnp.bfloat16)[jnp.maximum(fill, 0)]
    table = jnp.where(is_label[..., None], mean, other).astype(jnp.float32)
    keys = jax.random.split(key, 2)
    scale = 0.3 * jax.random.uniform(keys[0], (table.shape[0], 1, 1)) ** 2
    return table + scale * jax.random.normal(keys[1], table.shape)


def continuation(
    key: Key[Array, ""], c: Corpus, marks: Marks, width: int, room: int
) -> tuple[Array, Array, Array, Array]:
    """Return a row without a prompt: part of a text and its rest, or all and the segment after it.

    Returns:
        The input, the target, the text's number, and 1 where the whole text is read.
    """
    keys = jax.random.split(key, 4)
    i = jax.random.randint(keys[0], (), 0, c.text.shape[0])
    ids = c.text[i]
    follows = c.after[i]
    length = jnp.sum(ids > 0)
    whole = jax.random.bernoulli(keys[1], 0.5) & (follows >= 0)
    cut = jnp.clip(_below(keys[2], jnp.maximum(length - 2, 1)) + 2, 2, width - 8)
    place = jnp.arange(len(ids))
    seen = jnp.where(whole, ids, jnp.where(place < cut, ids, 0))
    rest = jnp.where(whole, c.text[follows], jnp.roll(ids, -cut) * (place < length - cut))
    target = jnp.zeros(room, jnp.int32).at[:].set(rest[:room])
    end = jnp.sum(target > 0)
    target = jnp.where((jnp.arange(room) == end), EOS, target)
    name = jnp.where(jax.random.bernoulli(keys[3], 0.6), marks.text, 0)
    inputs = jnp.concatenate([name, seen[: width - len(name) - 1], jnp.array([EOS])])
    return compact(inputs), target, i, whole.astype(jnp.float32)


def corrupted(
    key: Key[Array, ""], c: Corpus, width: int, sentinel: int
) -> tuple[Array, Array, Array]:
    """Corrupt spans (Raffel et al. 2020, section 3.1.4): three pieces in each sixteen are gone.

    Returns:
        The input, with a sentinel in place of each span, counted down from `sentinel`; the target,
        the sentinels with their spans and the end; and the text's number.
    """
    spans, length = width // 16, 3
    keys = jax.random.split(key, 2)
    i = jax.random.randint(keys[0], (), 0, c.text.shape[0])
    ids = c.text[i, : width - 1]
    start = jax.random.randint(keys[1], (spans,), 0, 16 - length) + 16 * jnp.arange(spans)
    real = ids[jnp.minimum(start + length - 1, len(ids) - 1)] > 0
    start = jnp.where(real, start, width)
    place = jnp.arange(len(ids))[:, None]
    inside = (place > start[None]) & (place < start[None] + length)
    first = place == start[None]
    number = sentinel - jnp.arange(spans)
    inputs = jnp.where(
        first.any(1), jnp.sum(first * number[None], 1), jnp.where(inside.any(1), 0, ids)
    )
    taken = jnp.minimum(start[:, None] + jnp.arange(length)[None], len(ids) - 1)
    parts = jnp.concatenate([number[:, None], ids[taken]], 1) * real[:, None]
    target = jnp.concatenate([parts.reshape(-1), jnp.array([EOS])])
    inputs = jnp.concatenate([inputs, jnp.array([EOS])])
    return compact(inputs), compact(target), i
