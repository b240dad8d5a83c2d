"""Batches of the rows of `tools.mini.rows`, drawn on the device; each function is one program.

A prompt is a block of a table that is computed for its batch: row `r` of a batch has the virtual
ids from `vocab_size + r * P` on, so rows of several kinds are joined by telling each kind how many
rows (`base`) stand before its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from spot_jax.t5.config import T5Config
from tools.mini import rows
from tools.mini.corpus import Corpus
from tools.mini.wordings import PAIRS

P, MANY = 20, 100
"""Virtual tokens of a prompt; of one that lists many labels."""
SHORT, LONG, WIDE = 64, 128, 136
"""Pieces of a row's input, the prompt included; `WIDE` with a prompt of `MANY`."""
TARGET, PAIR_TEXT = 24, 40
"""Pieces of a continuation; of each of two texts."""
FIRST_SENTINEL = 8099

Batch = dict[str, Any]
Frozen = Mapping[str, Any]
"""`corpus` and `tasks`: what rows are drawn from."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Number of rows of each kind in a step.

    Attributes:
        span, lm_alone: Rows of span corruption, and of the language model, in the reading stages.
        topic, attribute: Rows whose prompt lists topics, or an attribute's values.
        prompted: Rows about one text whose prompt is trained along.
        long: Long rows about one text: so many whose prompt lists labels, as many trained along.
        pairs, listed_pairs: Rows about two texts, by a trained prompt or by one that lists labels.
        many: Rows whose prompt lists up to `MANY` topics.
        lm: Rows of the language model beside those with prompts.
    """

    span: int = 512
    lm_alone: int = 512
    topic: int = 384
    attribute: int = 224
    prompted: int = 512
    long: int = 48
    pairs: int = 96
    listed_pairs: int = 48
    many: int = 24
    lm: int = 320

    def scaled(self, scale: float) -> "Sizes":
        """Return `scale` times as many rows of each kind, at least two."""
        return Sizes(**{k: max(int(n * scale), 2) for k, n in dataclasses.asdict(self).items()})


def makers(marks: rows.Marks, sizes: Sizes, config: T5Config) -> dict[str, Callable]:
    """Return the functions of (key, frozen) that draw the parts of a batch, by name."""
    drawn: dict[str, Any] = {"marks": marks, "sizes": sizes}
    return {
        "reading": functools.partial(read_rows, **drawn),
        "short": functools.partial(short_rows, **drawn, config=config),
        "long": functools.partial(long_rows, **drawn, config=config),
        "many": functools.partial(many_rows, **drawn, config=config),
    }


def assemble(parts: Mapping[str, Batch], key: Key[Array, ""], weights: Float[Array, "2"]) -> Batch:
    """Return one batch of what `makers` drew.

    Args:
        parts: `reading` alone, or `short`, `long` and `many`.
        key: Random key of the loss of rows with prompts.
        weights: Weights of span corruption and of the language model in the reading stages.
    """
    if "reading" in parts:
        return {**parts["reading"], "weights": weights}
    return {"short": parts["short"], "long": parts["long"], **parts["many"], "key": key}


def read_rows(key: Key[Array, ""], frozen: Frozen, marks: rows.Marks, sizes: Sizes) -> Batch:
    """Return a batch of the reading stages: span corruption, and the language model's rows."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 2)
    inputs, targets, text = jax.vmap(lambda k: rows.corrupted(k, c, SHORT, FIRST_SENTINEL))(
        jax.random.split(keys[0], sizes.span)
    )
    span = {"inputs": inputs, "targets": targets, "vectors": c.vector[text]}
    return {"span": span, "lm": language_rows(keys[1], c, marks, sizes.lm_alone)}


def short_rows(
    key: Key[Array, ""], frozen: Frozen, marks: rows.Marks, sizes: Sizes, config: T5Config
) -> Batch:
    """Return rows of 64: choices among topics and attributes' values, and trained prompts'."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 4)
    choices = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        topics(keys[0], c, sizes.topic, P),
        attributes(keys[1], c, sizes.attribute),
    )
    listed = label_rows(keys[2], c, marks, config, choices, P, SHORT)
    base = len(choices.target)
    trained = prompt_rows(keys[3], frozen, marks, config, sizes.prompted, SHORT, base)
    return _join(listed, trained)


def long_rows(
    key: Key[Array, ""], frozen: Frozen, marks: rows.Marks, sizes: Sizes, config: T5Config
) -> Batch:
    """Return rows of 128: long texts and pairs of texts."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 5)
    listed_pairs = label_pairs(keys[0], c, marks, config, sizes.listed_pairs, LONG)
    base = sizes.listed_pairs
    choices = attributes(keys[2], c, sizes.long)
    listed = label_rows(keys[1], c, marks, config, choices, P, LONG, base)
    base += sizes.long
    trained = prompt_rows(keys[3], frozen, marks, config, sizes.long, LONG, base)
    base += sizes.long
    pairs = prompt_pairs(keys[4], frozen, marks, config, sizes.pairs, LONG, base)
    return _join(listed_pairs, listed, trained, pairs)


def many_rows(
    key: Key[Array, ""], frozen: Frozen, marks: rows.Marks, sizes: Sizes, config: T5Config
) -> Batch:
    """Return rows whose prompt lists up to a hundred labels, and the language model's rows."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 3)
    choices = topics(keys[0], c, sizes.many, MANY, P + 1)
    many = label_rows(keys[1], c, marks, config, choices, MANY, WIDE)
    return {"many": many, "lm": language_rows(keys[2], c, marks, sizes.lm)}


def language_rows(key: Key[Array, ""], c: Corpus, marks: rows.Marks, count: int) -> Batch:
    """Return rows without a prompt, which continue a text."""
    inputs, targets, text, whole = jax.vmap(
        lambda k: rows.continuation(k, c, marks, SHORT, TARGET)
    )(jax.random.split(key, count))
    return {"inputs": inputs, "targets": targets, "vectors": c.vector[text], "whole": whole}


def topics(key: Key[Array, ""], c: Corpus, count: int, width: int, least: int = 2) -> rows.Choice:
    """Return `count` questions of what a text is about."""
    return jax.vmap(lambda k: rows.topic_choice(k, c, width, least))(jax.random.split(key, count))


def attributes(key: Key[Array, ""], c: Corpus, count: int) -> rows.Choice:
    """Return `count` questions of an attribute's value."""
    return jax.vmap(lambda k: rows.attribute_choice(k, c, P))(jax.random.split(key, count))


def label_rows(
    key: Key[Array, ""], c: Corpus, marks: rows.Marks, config: T5Config,
    choices: rows.Choice, width: int, total: int, base: int = 0,
) -> Batch:  # fmt: skip
    """Return rows of `total` pieces, after `base` others, whose prompt of `width` lists labels."""
    keys = jax.random.split(key, 2)
    slots, ids = _listed(keys[0], config, choices, width, base)
    inputs = jax.vmap(lambda k, s, t: rows.row_input(k, marks, s, c.text[t], total))(
        jax.random.split(keys[1], len(ids)), ids, choices.text
    )
    targets = _targets(c, choices.labels, choices.target)
    return {"inputs": inputs, "slots": slots, "targets": targets, "weight": choices.weight}


def label_pairs(
    key: Key[Array, ""], c: Corpus, marks: rows.Marks, config: T5Config, count: int, total: int
) -> Batch:
    """Return rows about two texts whose prompt lists the question's words; first in their batch."""
    keys = jax.random.split(key, 6)
    question = jax.random.randint(keys[0], (count,), 0, len(PAIRS))
    yes = jax.random.bernoulli(keys[1], 0.5, (count,))
    wording = jax.random.randint(keys[2], (count,), 0, len(PAIRS[0]))
    names = c.pair_names[question, wording]
    turned = jax.random.bernoulli(keys[3], 0.5, (count,))
    labels = jnp.where(turned[:, None], names[:, ::-1], names)
    target = jnp.where(turned, ~yes, yes).astype(jnp.int32)
    labels = jnp.pad(labels, ((0, 0), (0, P - 2)))
    weight = jnp.ones(count)
    choices = rows.Choice(question, labels, jnp.full(count, 2), target, weight)
    slots, ids = _listed(keys[4], config, choices, P, 0)
    inputs = _pair_inputs(keys[5], c, marks, question, yes, ids, total)
    targets = _targets(c, labels, target)
    return {"inputs": inputs, "slots": slots, "targets": targets, "weight": weight}


def prompt_rows(
    key: Key[Array, ""], frozen: Frozen, marks: rows.Marks, config: T5Config,
    count: int, total: int, base: int,
) -> Batch:  # fmt: skip
    """Return rows about one text whose prompt is trained along, after `base` others."""
    c, tasks = frozen["corpus"], frozen["tasks"]
    keys = jax.random.split(key, 5)
    which = jax.random.randint(keys[0], (count,), 0, single_tasks(len(tasks.kind)))
    ids = _virtual(config, jnp.ones((count, P), bool), base)
    choices = jax.vmap(lambda k, t: rows.task_choice(k, c, tasks, t))(
        jax.random.split(keys[1], count), which
    )
    inputs = jax.vmap(lambda k, s, t: rows.row_input(k, marks, s, c.text[t], total))(
        jax.random.split(keys[3], count), ids, choices.text
    )
    targets = _targets(c, tasks.labels[which], choices.target)
    return {"inputs": inputs, "which": which, "targets": targets, "weight": choices.weight}


def prompt_pairs(
    key: Key[Array, ""], frozen: Frozen, marks: rows.Marks, config: T5Config,
    count: int, total: int, base: int,
) -> Batch:  # fmt: skip
    """Return rows about two texts whose prompt is trained along, after `base` others."""
    c, tasks = frozen["corpus"], frozen["tasks"]
    keys = jax.random.split(key, 5)
    first, end = single_tasks(len(tasks.kind)), len(tasks.kind)
    which = jax.random.randint(keys[0], (count,), first, end)
    ids = _virtual(config, jnp.ones((count, P), bool), base)
    yes = jax.random.bernoulli(keys[2], 0.5, (count,))
    inputs = _pair_inputs(keys[1], c, marks, tasks.about[which], yes, ids, total)
    targets = _targets(c, tasks.labels[which], yes.astype(jnp.int32))
    return {"inputs": inputs, "which": which, "targets": targets, "weight": jnp.ones(count)}


def single_tasks(count: int) -> int:
    """Return how many of the tasks are about one text; they stand before those about two."""
    return count // 4 * 3


def empty_tasks(count: int) -> rows.Tasks:
    """Return tasks that mean nothing yet."""
    labels = jnp.zeros((count, rows.LABELS), jnp.int32)
    numbers = jnp.zeros(count, jnp.int32)
    return rows.Tasks(numbers, numbers, labels, labels, numbers)


def renew_tasks(
    key: Key[Array, ""],
    tasks: rows.Tasks,
    prompts: Float[Array, "t p d"],
    c: Corpus,
    embedding: Float[Array, "v d"],
    share: Float[Array, ""],
) -> tuple[rows.Tasks, Float[Array, "t p d"]]:
    """Replace a share of the tasks and their prompts, so that there are always young prompts."""
    count = len(tasks.kind)
    keys = jax.random.split(key, 6)
    single = rows.make_tasks(keys[0], c, single_tasks(count), 0.0)
    double = rows.make_tasks(keys[1], c, count - single_tasks(count), 1.0)
    fresh = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), single, double)
    new = jax.random.bernoulli(keys[2], share, (count,))
    tasks = jax.tree.map(
        lambda a, b: jnp.where(new.reshape(-1, *[1] * (a.ndim - 1)), a, b), fresh, tasks
    )
    # Most begin as class labels, the others as common pieces.
    place = jnp.arange(P)[None]
    fill = jax.random.randint(keys[3], (count, P), 3, rows.COMMON)
    begin = jax.random.bernoulli(keys[4], 0.6, (count, 1))
    slots = (fresh.labels[:, :P], fill, begin & (place < fresh.size[:, None]))
    vectors = rows.slot_vectors(keys[5], embedding, c, slots)
    return tasks, jnp.where(new[:, None, None], vectors, prompts)


def _virtual(config: T5Config, present: Bool[Array, "b p"], base: int) -> Int[Array, "b p"]:
    """Return ids of each row's own virtual tokens, 0 where a place is empty."""
    count, width = present.shape
    ids = config.vocab_size + base * width + jnp.arange(count * width).reshape(count, width)
    return jnp.where(present, ids, 0)


def _listed(
    key: Key[Array, ""], config: T5Config, choices: rows.Choice, width: int, base: int
) -> tuple[tuple[Array, Array, Array], Int[Array, "b p"]]:
    """Return the prompts that list the choices' labels, and their virtual ids."""
    slots = jax.vmap(lambda k, x: rows.label_slots(k, x, width))(
        jax.random.split(key, len(choices.target)), choices
    )
    _, fill, is_label = slots
    return slots, _virtual(config, is_label | (fill >= 0), base)


def _pair_inputs(
    key: Key[Array, ""], c: Corpus, marks: rows.Marks,
    question: Array, yes: Array, ids: Array, total: int,
) -> Int[Array, "b t"]:  # fmt: skip
    first, second = jax.vmap(lambda k, q, y: rows.two_texts(k, c, q, y, PAIR_TEXT))(
        jax.random.split(key, len(yes)), question, yes
    )
    return jax.vmap(lambda s, a, b: rows.pair_input(marks, s, a, b, total))(ids, first, second)


def _targets(c: Corpus, labels: Int[Array, "b l"], target: Int[Array, " b"]) -> Int[Array, "b a"]:
    label = jnp.take_along_axis(labels, target[:, None], 1)[:, 0]
    return jax.vmap(lambda phrase: rows.answer(c, phrase))(label)


def _join(*parts: Batch) -> Batch:
    """Concatenate each of the arrays over the parts that have it."""
    names = {name for part in parts for name in part}
    return {
        name: jax.tree.map(lambda *x: jnp.concatenate(x), *[p[name] for p in parts if name in p])
        for name in names
    }
