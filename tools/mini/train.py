"""Train `mini` from the arrays of `tools.mini.prepare`, on one accelerator or on a CPU.

    python -m tools.mini.train DATA DEST --seconds 420

Three stages share the time: span corruption; the language model's objective (Lester et al. 2021, section
3.3); and rows with prompts (`tools.mini.rows`) beside the language model's. In all of them the
mean of the encoder's outputs follows the teacher's vector of the text. DEST gets the weights in
bfloat16 (`part0.npz`, `part1.npz`) after each stage, and `report.json`.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import spot_jax
from spot_jax.t5 import model
from spot_jax.t5.config import T5Config
from spot_jax.t5.vocabulary import Vocabulary
from tools.mini import corpus as corpora
from tools.mini import rows
from tools.mini.probe import probe

ROOT = Path(spot_jax.__file__).parents[1]
P, MANY = 20, 100
TEACHER = 384
SHAPE = dict(
    vocab_size=8192, emb_dim=256, num_heads=4, head_dim=64, mlp_dim=512, num_encoder_layers=4,
    num_decoder_layers=2, dropout_rate=0.0, scan_layers=True, attention="plain",
)  # fmt: skip


def decoded(params, config, encoded, inputs, targets, weight):
    """The mean loss over target pieces, and the share of rows whose first piece is right."""
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits = model.decode(params, config, encoded, inputs, shifted, targets)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    mask = (targets > 0) * weight[:, None]
    loss = jnp.sum((log_z - chosen + 1e-4 * log_z**2) * mask) / jnp.maximum(jnp.sum(mask), 1)
    right = (jnp.argmax(logits[:, 0], -1) == targets[:, 0]) * weight
    return loss, jnp.sum(right) / jnp.maximum(jnp.sum(weight), 1)


def following(trainable, encoded, inputs, config, vectors, weight):
    """How far the mean of the encoder's outputs is from the teacher's vector, 1 - cosine."""
    mask = (inputs > 0) & (inputs < config.vocab_size)
    mean = jnp.sum(encoded * mask[..., None], 1) / jnp.maximum(jnp.sum(mask, 1), 1)[:, None]
    guess = mean.astype(jnp.float32) @ trainable["teacher"]
    guess /= jnp.maximum(jnp.linalg.norm(guess, axis=-1, keepdims=True), 1e-6)
    cosine = jnp.sum(guess * vectors.astype(jnp.float32), -1)
    return jnp.sum((1 - cosine) * weight) / jnp.maximum(jnp.sum(weight), 1)


def read_rows(key, frozen, *, marks, sizes):
    """A batch of the reading stages: span corruption, and the language model's rows."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 2)
    inputs, targets, text = jax.vmap(lambda k: rows.corrupted(k, c, 64, 8099))(
        jax.random.split(keys[0], sizes["span"])
    )
    span = {"inputs": inputs, "targets": targets, "vectors": c.vector[text]}
    return {"span": span, "lm": language_rows(keys[1], c, marks, sizes["lm_alone"])}


def language_rows(key, c, marks, count):
    inputs, targets, text, whole = jax.vmap(lambda k: rows.going_on(k, c, marks, 64, 24))(
        jax.random.split(key, count)
    )
    return {"inputs": inputs, "targets": targets, "vectors": c.vector[text], "whole": whole}


def language_loss(trainable, config, batch):
    t5, inputs = trainable["t5"], batch["inputs"]
    encoded = model.encode(t5, config, inputs)
    loss, _ = decoded(t5, config, encoded, inputs, batch["targets"], jnp.ones(len(inputs)))
    weight = 0.3 + 0.7 * batch["whole"]
    return loss, following(trainable, encoded, inputs, config, batch["vectors"], weight)


def reading_loss(trainable, frozen, batch, *, config):
    """Span corruption and the language model's loss, weighed by `batch`."""
    t5, inputs = trainable["t5"], batch["span"]["inputs"]
    encoded = model.encode(t5, config, inputs)
    ones = jnp.ones(len(inputs))
    span, _ = decoded(t5, config, encoded, inputs, batch["span"]["targets"], ones)
    near = following(trainable, encoded, inputs, config, batch["span"]["vectors"], ones)
    lm, near_lm = language_loss(trainable, config, batch["lm"])
    total = batch["weights"][0] * (span + 3 * near) + batch["weights"][1] * (lm + 3 * near_lm)
    return total, {"span": span, "lm": lm, "distance": near}


def _virtual(config, present, base):
    """Ids of each row's own virtual tokens, 0 where a place is empty."""
    count, width = present.shape
    ids = config.vocab_size + base * width + jnp.arange(count * width).reshape(count, width)
    return jnp.where(present, ids, 0)


def _targets(c, labels, target):
    label = jnp.take_along_axis(labels, target[:, None], 1)[:, 0]
    return jax.vmap(lambda p: rows.answer(c, p))(label)


def listed(key, c, marks, config, choices, width, total):
    """Rows whose prompt lists the labels; they stand first in their batch."""
    keys = jax.random.split(key, 2)
    count = len(choices.target)
    slots = jax.vmap(lambda k, x: rows.label_slots(k, x, width))(
        jax.random.split(keys[0], count), choices
    )
    ids = _virtual(config, slots[2] | (slots[1] >= 0), 0)
    inputs = jax.vmap(lambda k, s, t: rows.written(k, marks, s, c.text[t], total))(
        jax.random.split(keys[1], count), ids, choices.text
    )
    targets = _targets(c, choices.labels, choices.target)
    return {"inputs": inputs, "slots": slots, "targets": targets, "weight": choices.weight}


def listed_pairs(key, c, marks, config, count, total):
    """Rows about two texts whose prompt lists the question's own words; first in their batch."""
    keys = jax.random.split(key, 6)
    question = jax.random.randint(keys[0], (count,), 0, len(corpora.PAIRS))
    yes = jax.random.bernoulli(keys[1], 0.5, (count,))
    wording = jax.random.randint(keys[2], (count,), 0, 3)
    names = c.pair_names[question, wording]
    turned = jax.random.bernoulli(keys[3], 0.5, (count,))
    labels = jnp.where(turned[:, None], names[:, ::-1], names)
    target = jnp.where(turned, ~yes, yes).astype(jnp.int32)
    labels = jnp.pad(labels, ((0, 0), (0, P - 2)))
    ones = jnp.ones(count)
    choices = rows.Choice(question, labels, jnp.full(count, 2), target, ones)
    slots = jax.vmap(lambda k, x: rows.label_slots(k, x, P))(
        jax.random.split(keys[4], count), choices
    )
    ids = _virtual(config, slots[2] | (slots[1] >= 0), 0)
    first, second = jax.vmap(lambda k, q, y: rows.two_texts(k, c, q, y, 40))(
        jax.random.split(keys[5], count), question, yes
    )
    inputs = jax.vmap(lambda s, a, b: rows.written_pair(marks, s, a, b, total))(ids, first, second)
    return {
        "inputs": inputs,
        "slots": slots,
        "targets": _targets(c, labels, target),
        "weight": ones,
    }


def prompted(key, c, tasks, marks, config, count, total, two, base):
    """Rows whose prompt is trained along, about one text or two, after `base` others."""
    keys = jax.random.split(key, 5)
    # Three quarters of the tasks are about one text, the rest about two.
    half = tasks.kind.shape[0] // 4 * 3
    low, high = (half, tasks.kind.shape[0]) if two else (0, half)
    which = jax.random.randint(keys[0], (count,), low, high)
    ids = _virtual(config, jnp.ones((count, P), bool), base)
    each = jax.random.split(keys[1], count)
    if two:
        yes = jax.random.bernoulli(keys[2], 0.5, (count,))
        first, second = jax.vmap(lambda k, t, y: rows.two_texts(k, c, tasks.about[t], y, 40))(
            each, which, yes
        )
        inputs = jax.vmap(lambda s, a, b: rows.written_pair(marks, s, a, b, total))(
            ids, first, second
        )
        target, weight = yes.astype(jnp.int32), jnp.ones(count)
    else:
        choices = jax.vmap(lambda k, t: rows.task_choice(k, c, tasks, t))(each, which)
        inputs = jax.vmap(lambda k, s, t: rows.written(k, marks, s, c.text[t], total))(
            jax.random.split(keys[3], count), ids, choices.text
        )
        target, weight = choices.target, choices.weight
    targets = _targets(c, tasks.labels[which], target)
    return {"inputs": inputs, "which": which, "targets": targets, "weight": weight}


def _joined(*parts):
    names = {name for part in parts for name in part}
    return {
        name: jax.tree.map(lambda *x: jnp.concatenate(x), *[p[name] for p in parts if name in p])
        for name in names
    }


def _topics(key, c, count, width, least=2):
    return jax.vmap(lambda k: rows.topic_choice(k, c, width, least))(jax.random.split(key, count))


def _attributes(key, c, count):
    return jax.vmap(lambda k: rows.attribute_choice(k, c, P))(jax.random.split(key, count))


def short_rows(key, frozen, *, marks, sizes, config):
    """Rows of 64: choices among topics and among attributes' values, and trained prompts'."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 4)
    choices = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        _topics(keys[0], c, sizes["topic"], P),
        _attributes(keys[1], c, sizes["attribute"]),
    )
    first = listed(keys[2], c, marks, config, choices, P, 64)
    base, count = len(choices.target), sizes["prompted"]
    rest = prompted(keys[3], c, frozen["tasks"], marks, config, count, 64, False, base)
    return _joined(first, rest)


def long_rows(key, frozen, *, marks, sizes, config):
    """Rows of 128: long texts and pairs of texts."""
    c, tasks = frozen["corpus"], frozen["tasks"]
    keys = jax.random.split(key, 5)
    pairs = listed_pairs(keys[0], c, marks, config, sizes["listed_pairs"], 128)
    base = sizes["listed_pairs"]
    single = listed(keys[1], c, marks, config, _attributes(keys[2], c, sizes["long"]), P, 128)
    shift = base * P
    single["inputs"] = jnp.where(
        single["inputs"] >= config.vocab_size, single["inputs"] + shift, single["inputs"]
    )
    base += sizes["long"]
    two = prompted(keys[3], c, tasks, marks, config, sizes["long"], 128, False, base)
    base += sizes["long"]
    both = prompted(keys[4], c, tasks, marks, config, sizes["pairs"], 128, True, base)
    return _joined(pairs, single, two, both)


def many_rows(key, frozen, *, marks, sizes, config):
    """Rows whose prompt lists up to a hundred labels, and the language model's rows."""
    c = frozen["corpus"]
    keys = jax.random.split(key, 3)
    choices = _topics(keys[0], c, sizes["many"], MANY, P + 1)
    many = listed(keys[1], c, marks, config, choices, MANY, 136)
    return {"many": many, "lm": language_rows(keys[2], c, marks, sizes["lm"])}


def _prompted_loss(trainable, frozen, config, batch, key):
    t5 = trainable["t5"]
    embedding = t5["token_embedder"]["embedding"]
    vectors = rows.slot_vectors(key, embedding, frozen["corpus"], batch["slots"])
    if "which" in batch:
        vectors = jnp.concatenate([vectors, trainable["prompts"][batch["which"]]])
    table = vectors.reshape(-1, vectors.shape[-1])
    encoded = model.encode(t5, config, batch["inputs"], table=table)
    return decoded(t5, config, encoded, batch["inputs"], batch["targets"], batch["weight"])


def asking_loss(trainable, frozen, batch, *, config):
    """Rows with prompts, short and long, and the language model's beside them."""
    keys = jax.random.split(batch["key"], 3)
    losses, total = {}, jnp.float32(0)
    weights = (("short", 1.0), ("long", 0.6), ("many", 0.2))
    for k, (name, weight) in zip(keys, weights, strict=True):
        loss, right = _prompted_loss(trainable, frozen, config, batch[name], k)
        losses |= {name: loss, f"{name}_right": right}
        total += weight * loss
    lm, near = language_loss(trainable, config, batch["lm"])
    return total + 0.15 * lm + near, losses | {"lm": lm, "distance": near}


def optimizer(scale):
    """Adam whose step is a share of each parameter's root mean square; prompts' twice as large."""

    def adam(factor):
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(b1=0.9, b2=0.99),
            optax.scale_by_param_block_rms(1e-3),
            optax.scale(-factor),
        )

    label = lambda tree: {name: name for name in tree}  # noqa: E731
    return optax.multi_transform(
        {"t5": adam(scale), "teacher": adam(scale), "prompts": adam(3 * scale)}, label
    )


def stepper(loss, transformation):
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trainable, moments, frozen, batch, rate):
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
            trainable, frozen, batch
        )
        update, moments = transformation.update(gradient, moments, trainable)
        update = jax.tree.map(lambda u: rate * u, update)
        return optax.apply_updates(trainable, update), moments, metrics

    return step


def renewed(key, tasks, prompts, c, embedding, share):
    """Some tasks and their prompts parts anew, so that young prompts are always among them."""
    count = len(tasks.kind)
    keys = jax.random.split(key, 6)
    single = rows.make_tasks(keys[0], c, count // 4 * 3, 0.0)
    double = rows.make_tasks(keys[1], c, count - count // 4 * 3, 1.0)
    fresh = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), single, double)
    new = jax.random.bernoulli(keys[2], share, (count,))
    tasks = jax.tree.map(
        lambda a, b: jnp.where(new.reshape(-1, *[1] * (a.ndim - 1)), a, b), fresh, tasks
    )
    # Half begin as class labels, half as common pieces.
    place = jnp.arange(P)
    fill = jax.random.randint(keys[3], (count, P), 3, rows.COMMON)
    begin = jax.random.bernoulli(keys[4], 0.6, (count, 1))
    slots = (fresh.labels[:, :P], fill, begin & (place < fresh.size[:, None]))
    vectors = rows.slot_vectors(keys[5], embedding, c, slots)
    return tasks, jnp.where(new[:, None, None], vectors, prompts)


def store(directory: Path, params, config, report) -> None:
    """Write the weights, bfloat16 as bits, in two files, and the report."""
    flat = {
        "/".join(k.key for k in path): np.asarray(leaf.astype(jnp.bfloat16)).view(np.uint16)
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.unstack_layers(params, config))
    }
    parts: list[dict] = [{}, {}]
    for name in flat:
        parts["embedd" in name].update({name: flat[name]})
    for i, part in enumerate(parts):
        np.savez(directory / f"part{i}.npz", **part)
    (directory / "report.json").write_text(json.dumps(report, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--seconds", type=float, default=400, help="reading the data included")
    parser.add_argument("--texts", type=int, default=None)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of rows")
    parser.add_argument("--tasks", type=int, default=1024)
    parser.add_argument("--renew", type=int, default=250, help="steps between new tasks")
    parser.add_argument("--rate", type=float, default=0.012)
    parser.add_argument("--shares", type=float, nargs=3, default=(0.12, 0.13, 0.75))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe_steps", type=int, default=150)
    arguments = parser.parse_args()
    arguments.destination.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    on_cpu = jax.default_backend() == "cpu"
    config = T5Config(**SHAPE, dtype="float32" if on_cpu else "bfloat16")
    vocabulary = Vocabulary(ROOT / "tasks" / "mini_spiece.model")
    c, embeddings, phrases = corpora.read(
        arguments.data, vocabulary, (config.vocab_size, config.emb_dim), arguments.texts
    )
    jax.block_until_ready(c)
    say(f"{jax.devices()[0].device_kind}: {len(c.text):,} texts, {len(c.phrase):,} phrases")
    marks = rows.Marks(
        *(
            jnp.array(vocabulary.encode(f"{name}:"), jnp.int32)
            for name in ("text", "text1", "text2")
        )
    )
    # Counter-based bits of the device: far less to compile, and to compute, than threefry.
    key = jax.random.key(arguments.seed, impl="rbg")
    keys = jax.random.split(key, 8)
    params = model.init_params(keys[0], config)
    params["token_embedder"]["embedding"] = jnp.asarray(embeddings)
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(
        embeddings.T / np.sqrt(config.emb_dim)
    )
    trainable = {
        "t5": model.stack_layers(params, config),
        "teacher": jax.random.normal(keys[1], (config.emb_dim, TEACHER)) / 16,
        "prompts": jnp.zeros((arguments.tasks, P, config.emb_dim)),
    }
    tasks = rows.Tasks(*(
        jnp.zeros(s, jnp.int32) for s in [arguments.tasks, arguments.tasks, (arguments.tasks, rows.LABELS),
        (arguments.tasks, rows.LABELS), arguments.tasks]
    ))  # fmt: skip
    transformation = optimizer(arguments.rate)
    moments = transformation.init(trainable)
    base = dict(span=512, lm_alone=512, topic=384, attribute=224, prompted=512, long=48, pairs=96,
                listed_pairs=48, many=24, lm=320)  # fmt: skip
    sizes = {name: max(int(n * arguments.scale), 2) for name, n in base.items()}
    frozen = {"corpus": c, "tasks": tasks}
    makers = {
        "reading": functools.partial(read_rows, marks=marks, sizes=sizes),
        **{
            name: functools.partial(make, marks=marks, sizes=sizes, config=config)
            for name, make in (("short", short_rows), ("long", long_rows), ("many", many_rows))
        },
    }

    def batch_of(parts: dict, key, weights) -> dict:
        if "reading" in parts:
            return {**parts["reading"], "weights": weights}
        return {"short": parts["short"], "long": parts["long"], **parts["many"], "key": key}

    shapes = {n: jax.eval_shape(make, keys[3], frozen) for n, make in makers.items()}
    weights = jnp.zeros(2, jnp.float32)
    embedding = trainable["t5"]["token_embedder"]["embedding"]
    again = (keys[2], tasks, trainable["prompts"], c, embedding, jnp.float32(1))
    programs = {name: (jax.jit(make), (keys[3], frozen)) for name, make in makers.items()}
    programs["renew"] = (jax.jit(renewed), again)
    for name, loss in (("read", reading_loss), ("ask", asking_loss)):
        step = stepper(functools.partial(loss, config=config), transformation)
        parts = {k: v for k, v in shapes.items() if (k == "reading") == (name == "read")}
        batch = batch_of(parts, keys[3], weights)
        programs[name] = (step, (trainable, moments, frozen, batch, jnp.float32(0)))
    # The first stages need two of the programs; the others are compiled while those run.
    pool = concurrent.futures.ThreadPoolExecutor(len(programs))

    def compile_(name: str):
        function, inputs = programs[name]
        # Shapes alone: the arrays are arguments away by the first step.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
        program = function.lower(*shapes).compile()
        say(f"compiled {name}")
        return program

    order = sorted(programs, key=lambda name: not name.startswith("read"))
    waiting = {name: pool.submit(compile_, name) for name in order}
    compiled = {name: waiting[name].result() for name in ("reading", "read")}
    pending = [name for name in order if name not in compiled]

    report: dict = {
        "device": jax.devices()[0].device_kind, "texts": len(c.text), "phrases": len(c.phrase),
        "rows a step": sizes, "log": [],
    }  # fmt: skip
    first = time.monotonic()
    until = began + arguments.seconds
    reading_until = (arguments.shares[0] + arguments.shares[1]) / sum(arguments.shares)
    stage, number, asked = 0, 0, 0
    asking_from = 1.0
    while True:
        done = (time.monotonic() - first) / (until - first)
        if done >= 1:
            break
        now = 0 if done < arguments.shares[0] / sum(arguments.shares) else 1
        if stage == 2:
            now = 2
        elif done >= reading_until and all(waiting[name].done() for name in pending):
            compiled |= {name: waiting[name].result() for name in pending}
            now, asking_from = 2, done
        if now != stage:
            store(arguments.destination, trainable["t5"], config, report)
            stage = now
            say(f"stage {stage + 1} begins at step {number}")
            report[f"stage {stage + 1} at step"] = number
        # Up in the first hundredth, down at the end; the reading stages keep the full rate.
        rate = min(1.0, (number + 1) / 200)
        if stage == 2:
            part = (done - asking_from) / (1 - asking_from)
            rate *= min(1.0, (asked + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * part)))
        if stage == 2:
            if asked % arguments.renew == 0 and done < 0.85:
                embedding = trainable["t5"]["token_embedder"]["embedding"]
                frozen["tasks"], trainable["prompts"] = compiled["renew"](
                    jax.random.fold_in(keys[5], asked), frozen["tasks"], trainable["prompts"], c,
                    embedding, jnp.float32(0.15 if asked else 1.0),
                )  # fmt: skip
            asked += 1
        key = jax.random.fold_in(keys[4], number)
        each = jax.random.split(key, 4)
        if stage == 2:
            parts = {n: compiled[n](k, frozen) for n, k in zip(("short", "long", "many"), each)}
        else:
            parts = {"reading": compiled["reading"](key, frozen)}
        weights = jnp.array([stage == 0, stage == 1], jnp.float32)
        batch = batch_of(parts, each[3], weights)
        name = "ask" if stage == 2 else "read"
        trainable, moments, metrics = compiled[name](
            trainable, moments, frozen, batch, jnp.float32(rate)
        )
        number += 1
        if number % (200 if not on_cpu else 10) == 0:
            shown = {k: round(float(v), 3) for k, v in metrics.items()}
            report["log"].append({"step": number, "seconds": time.monotonic() - first, **shown})
            say(f"step {number} rate {rate:.2f} {shown}")
        elif number % 20 == 0:
            jax.block_until_ready(metrics)
    report["steps"], report["asked"] = number, asked
    store(arguments.destination, trainable["t5"], config, report)
    say(f"trained {number} steps")
    if arguments.probe_steps:
        report["probe"] = probe(
            arguments.data / "probes.json",
            trainable["t5"],
            config,
            vocabulary,
            arguments.probe_steps,
            say,
        )
        (arguments.destination / "report.json").write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    sys.exit(main())
