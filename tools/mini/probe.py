"""A look at a finished model: prompts tuned on the bundled sets, all sets in one program."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from spot_jax.t5 import model
from spot_jax.training.optimizers import Adafactor
from tools.mini.corpus import read_text

WIDTH, ROWS, ANSWER = 128, 32, 10


def _arrays(path: Path, vocabulary, length: int, size: int):
    sets = json.loads(read_text(path))
    names = list(sets)
    most = max(len(each["labels"]) for each in sets.values())
    n = {"train": 4000, "validation": 300}
    data = {}
    virtual = size + np.arange(length)
    for split, count in n.items():
        tokens = np.zeros((len(names), count, WIDTH), np.int32)
        gold = np.zeros((len(names), count), np.int32)
        real = np.zeros((len(names), count), bool)
        for s, name in enumerate(names):
            labels = sets[name]["labels"]
            rows = sets[name][split][:count]
            pieces = vocabulary.encode_all([text for text, _ in rows])
            for i, (ids, (_, label)) in enumerate(zip(pieces, rows, strict=True)):
                ids = [*virtual, *ids[: WIDTH - length - 1], 1]
                tokens[s, i, : len(ids)] = ids
                gold[s, i], real[s, i] = labels.index(label), True
        data[split] = tokens, gold, real
    answers = np.zeros((len(names), most, ANSWER), np.int32)
    pieces = np.zeros((len(names), most, ANSWER), np.int32)
    for s, name in enumerate(names):
        for i, label in enumerate(sets[name]["labels"]):
            ids = vocabulary.encode(label)[: ANSWER - 1]
            pieces[s, i, : len(ids)] = ids
            answers[s, i, : len(ids) + 1] = [*ids, 1]
    return names, data, answers, pieces, [len(sets[name]["labels"]) for name in names]


def probe(
    path: Path, params, config, vocabulary, steps: int, say: Callable[[str], None], length: int = 20
) -> dict:
    """Accuracy on validation by set: no prompt, class labels as they begin, after `steps`."""
    names, data, answers, pieces, sizes = _arrays(path, vocabulary, length, config.vocab_size)
    answers, sizes_ = jnp.asarray(answers), jnp.asarray(sizes)
    embedding = np.asarray(params["token_embedder"]["embedding"], np.float32)
    random = np.random.default_rng(0)
    prompts = embedding[random.integers(3, 5000, (len(names), length))]
    for s in range(len(names)):
        for i in range(min(length, sizes[s])):
            ids = pieces[s, i][pieces[s, i] > 0]
            prompts[s, i] = embedding[ids].mean(0)
    prompts = jnp.asarray(prompts)

    def log_likelihood(params, encoded, tokens, targets):
        shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        logits = model.decode(params, config, encoded, tokens, shifted, targets)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        return jnp.sum(chosen * (targets > 0), 1)

    def predict(params, prompt, tokens, answers, size):
        encoded = model.encode(params, config, tokens, table=prompt)

        def label(i):
            targets = jnp.broadcast_to(answers[i], (len(tokens), ANSWER))
            return log_likelihood(params, encoded, tokens, targets)

        scores = jax.lax.map(label, jnp.arange(answers.shape[0]))
        scores = jnp.where(jnp.arange(answers.shape[0])[:, None] < size, scores, -jnp.inf)
        return jnp.argmax(scores, 0)

    predict_all = jax.jit(lambda *x: jax.lax.map(lambda y: predict(x[0], *y), x[1:]))
    tokens, gold, real = data["validation"]

    def accuracy(prompts, tokens):
        chosen = np.asarray(predict_all(params, prompts, jnp.asarray(tokens), answers, sizes_))
        return [float(100 * np.mean((chosen == gold)[s][real[s]])) for s in range(len(names))]

    bare = np.zeros_like(tokens)
    bare[..., : WIDTH - length] = tokens[..., length:]
    train_tokens, train_gold, train_real = data["train"]
    index = np.stack(
        [random.integers(0, r.sum(), (steps, ROWS)) for r in train_real], axis=1
    )  # fmt: skip
    optimizer = Adafactor(0.3).transformation(0.3)

    def loss(prompt, params, tokens, targets):
        encoded = model.encode(params, config, tokens, table=prompt)
        return -jnp.sum(log_likelihood(params, encoded, tokens, targets)) / jnp.sum(targets > 0)

    @jax.jit
    def tune(prompts, params, train_tokens, train_gold, index):
        def update_all(state, chosen):
            def each(prompt, moments, tokens, targets):
                value, gradient = jax.value_and_grad(loss)(prompt, params, tokens, targets)
                update, moments = optimizer.update(gradient, moments, prompt)
                return prompt + update, moments, value

            batch = jax.vmap(lambda t, i: t[i])(train_tokens, chosen)
            labels = jax.vmap(lambda g, i, a: a[g[i]])(train_gold, chosen, answers)
            prompts, moments, values = jax.vmap(each)(*state, batch, labels)
            return (prompts, moments), values

        moments = jax.vmap(optimizer.init)(prompts)
        (prompts, _), values = jax.lax.scan(update_all, (prompts, moments), index)
        return prompts, values

    result = {
        "sets": names,
        "no prompt": accuracy(prompts, bare),
        "class labels": accuracy(prompts, tokens),
    }
    counts = [np.bincount(g[r]).max() / r.sum() for g, r in zip(gold, real, strict=True)]
    result["commonest label"] = [float(100 * x) for x in counts]
    say("probe: no prompt and class labels")
    tuned, values = tune(
        prompts, params, jnp.asarray(train_tokens), jnp.asarray(train_gold), jnp.asarray(index)
    )
    result[f"prompt of {length}, {steps} steps"] = accuracy(tuned, tokens)
    result["loss"] = [
        [round(float(x), 3) for x in v] for v in np.asarray(values)[:: max(steps // 8, 1)]
    ]
    for row in [r for r in result if r not in ("sets", "loss")]:
        say(
            f"{row:28s}"
            + " ".join(f"{x:5.1f}" for x in result[row])
            + f"  mean {np.mean(result[row]):.1f}"
        )
    return result
