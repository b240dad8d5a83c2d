"""A look at a finished model: prompts tuned on the bundled sets, all sets in one program."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from spot_jax.t5 import model
from spot_jax.t5.config import T5Config
from spot_jax.t5.vocabulary import EOS, Vocabulary
from spot_jax.training.optimizers import Adafactor
from tools.mini.corpus import read_text

PROBES = "probes.json"
TRAIN, VALIDATION = 4000, 300
"""Most texts of a set that are tuned on, and that are looked at."""
WIDTH, ROWS, ANSWER = 128, 32, 10
"""Pieces of a row's input, the prompt included; rows a step and set; pieces of a label."""
RATE = 0.3


class Split(NamedTuple):
    """Texts of S sets as rows: a prompt's virtual tokens, the text, the end.

    Attributes:
        tokens: Ids, 0 for padding, int32 [S, N, WIDTH].
        gold: Number of the right label, int32 [S, N].
        real: Whether there is such a row [S, N].
    """

    tokens: Int[np.ndarray, "s n t"]
    gold: Int[np.ndarray, "s n"]
    real: Bool[np.ndarray, "s n"]


class Labels(NamedTuple):
    """Labels of S sets: answers with their end, 0 for padding [S, L, ANSWER], and their number."""

    answers: Int[np.ndarray, "s l a"]
    sizes: Int[np.ndarray, " s"]


def probe(
    path: Path,
    params: Mapping[str, Any],
    config: T5Config,
    vocabulary: Vocabulary,
    steps: int,
    say: Callable[[str], None],
    length: int = 20,
) -> dict[str, Any]:
    """Return accuracy on validation by set: no prompt, class labels as they begin, after `steps`.

    Args:
        path: File that `tools.mini.prepare` wrote.
        params: Weights, stacked.
        config: Configuration of the model.
        vocabulary: Vocabulary of the model.
        steps: Number of steps of tuning.
        say: Function that reports progress, a line at a time.
        length: Number of virtual tokens of a prompt.
    """
    sets = json.loads(read_text(path))
    labels = read_labels(sets, vocabulary)
    train = read_split(sets, "train", TRAIN, vocabulary, config, length)
    validation = read_split(sets, "validation", VALIDATION, vocabulary, config, length)
    random = np.random.default_rng(0)
    prompts = first_prompts(random, params, labels, length)
    scored = jax.jit(functools.partial(predictions, config=config))

    def accuracy(prompts: Array, tokens: np.ndarray) -> list[float]:
        chosen = np.asarray(scored(params, prompts, jnp.asarray(tokens), *map(jnp.asarray, labels)))
        right = (chosen == validation.gold) & validation.real
        return [float(x) for x in 100 * right.sum(1) / validation.real.sum(1)]

    bare = np.zeros_like(validation.tokens)
    bare[..., : WIDTH - length] = validation.tokens[..., length:]
    rows = [random.integers(0, real.sum(), (steps, ROWS)) for real in train.real]
    result: dict[str, Any] = {
        "sets": list(sets),
        "no prompt": accuracy(prompts, bare),
        "class labels": accuracy(prompts, validation.tokens),
        "commonest label": commonest(validation),
    }
    say("probe: no prompt and class labels")
    tuned, losses = tune(
        prompts, params, jnp.asarray(train.tokens), jnp.asarray(train.gold),
        jnp.asarray(labels.answers), jnp.asarray(np.stack(rows, axis=1)), config=config,
    )  # fmt: skip
    result[f"prompt of {length}, {steps} steps"] = accuracy(tuned, validation.tokens)
    every = max(steps // 8, 1)
    result["loss"] = [[round(float(x), 3) for x in step] for step in np.asarray(losses)[::every]]
    for row in [name for name in result if name not in ("sets", "loss")]:
        numbers = " ".join(f"{x:5.1f}" for x in result[row])
        say(f"{row:28s}{numbers}  mean {np.mean(result[row]):.1f}")
    return result


def read_labels(sets: Mapping[str, Any], vocabulary: Vocabulary) -> Labels:
    """Return the labels of the sets as answers."""
    names = [each["labels"] for each in sets.values()]
    answers = np.zeros((len(names), max(map(len, names)), ANSWER), np.int32)
    for s, each in enumerate(names):
        for i, label in enumerate(each):
            ids = [*vocabulary.encode(label)[: ANSWER - 1], EOS]
            answers[s, i, : len(ids)] = ids
    return Labels(answers, np.array([len(each) for each in names], np.int32))


def read_split(
    sets: Mapping[str, Any], split: str, count: int, vocabulary: Vocabulary, config: T5Config,
    length: int,
) -> Split:  # fmt: skip
    """Return the first `count` texts of a split of each set, behind a prompt of `length`."""
    shape = len(sets), count
    tokens = np.zeros((*shape, WIDTH), np.int32)
    gold, real = np.zeros(shape, np.int32), np.zeros(shape, bool)
    virtual = config.vocab_size + np.arange(length)
    for s, each in enumerate(sets.values()):
        rows = each[split][:count]
        pieces = vocabulary.encode_all([text for text, _ in rows])
        for i, (ids, (_, label)) in enumerate(zip(pieces, rows, strict=True)):
            row = [*virtual, *ids[: WIDTH - length - 1], EOS]
            tokens[s, i, : len(row)] = row
            gold[s, i], real[s, i] = each["labels"].index(label), True
    return Split(tokens, gold, real)


def commonest(split: Split) -> list[float]:
    """Return the share in per cent of the commonest label of each set."""
    pairs = zip(split.gold, split.real, strict=True)
    return [float(100 * np.bincount(gold[real]).max() / real.sum()) for gold, real in pairs]


def first_prompts(
    random: np.random.Generator, params: Mapping[str, Any], labels: Labels, length: int
) -> Float[Array, "s p d"]:
    """Return prompts that begin as class labels, then as common pieces, one for each set."""
    embedding = np.asarray(params["token_embedder"]["embedding"], np.float32)
    prompts = embedding[random.integers(3, 5000, (len(labels.sizes), length))]
    for s, size in enumerate(labels.sizes):
        for i in range(min(length, size)):
            ids = labels.answers[s, i]
            prompts[s, i] = embedding[ids[ids > EOS]].mean(0)
    return jnp.asarray(prompts)


def log_likelihood(
    params: Mapping[str, Any], config: T5Config, encoded: Float[Array, "b t d"],
    tokens: Int[Array, "b t"], targets: Int[Array, "b a"],
) -> Float[Array, " b"]:  # fmt: skip
    """Return the log likelihood of each row's target."""
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits = model.decode(params, config, encoded, tokens, shifted, targets)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return jnp.sum(chosen * (targets > 0), 1)


def predictions(
    params: Mapping[str, Any], prompts: Float[Array, "s p d"], tokens: Int[Array, "s n t"],
    answers: Int[Array, "s l a"], sizes: Int[Array, " s"], *, config: T5Config,
) -> Int[Array, "s n"]:  # fmt: skip
    """Return the likeliest label of each text, by number."""

    def of_set(each: tuple[Array, Array, Array, Array]) -> Array:
        prompt, tokens, answers, size = each
        encoded = model.encode(params, config, tokens, table=prompt)

        def of_label(answer: Array) -> Array:
            targets = jnp.broadcast_to(answer, (len(tokens), ANSWER))
            return log_likelihood(params, config, encoded, tokens, targets)

        scores = jax.lax.map(of_label, answers)
        return jnp.argmax(
            jnp.where(jnp.arange(len(answers))[:, None] < size, scores, -jnp.inf), axis=0
        )

    return jax.lax.map(of_set, (prompts, tokens, answers, sizes))


@functools.partial(jax.jit, static_argnames="config")
def tune(
    prompts: Float[Array, "s p d"], params: Mapping[str, Any], tokens: Int[Array, "s n t"],
    gold: Int[Array, "s n"], answers: Int[Array, "s l a"], rows: Int[Array, "i s b"],
    *, config: T5Config,
) -> tuple[Float[Array, "s p d"], Float[Array, "i s"]]:  # fmt: skip
    """Return the prompts after a step for each of `rows`, and the losses; the model stays."""
    optimizer = Adafactor(RATE).transformation(RATE)

    def loss(prompt: Array, tokens: Array, targets: Array) -> Array:
        encoded = model.encode(params, config, tokens, table=prompt)
        total = jnp.sum(log_likelihood(params, config, encoded, tokens, targets))
        return -total / jnp.sum(targets > 0)

    def update(prompt: Array, moments: Any, tokens: Array, targets: Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(prompt, tokens, targets)
        step, moments = optimizer.update(gradient, moments, prompt)
        return optax.apply_updates(prompt, step), moments, value

    def update_all(state: tuple[Array, Any], chosen: Array) -> tuple[tuple[Array, Any], Array]:
        batch = jax.vmap(lambda t, i: t[i])(tokens, chosen)
        targets = jax.vmap(lambda g, i, a: a[g[i]])(gold, chosen, answers)
        prompts, moments, values = jax.vmap(update)(*state, batch, targets)
        return (prompts, moments), values

    moments = jax.vmap(optimizer.init)(prompts)
    (prompts, _), losses = jax.lax.scan(update_all, (prompts, moments), rows)
    return prompts, losses
