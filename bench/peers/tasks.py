"""Real tasks, evaluation included: our packed batches against PEFT with dynamic padding.

Both sides have a T5 of `mini`'s shape in float32, the same tokenised examples of nine sets that
ship, P = 20, about 32 examples an update, and write the labels of the same validation examples as
often. Ours is what a run does, examples packed in rows. Theirs pads a batch to its longest text, as
transformers' collator does, in a bare loop (their `Trainer` does more beside), and evaluates by
`generate`.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.shapes import PROMPT, SHAPES

ROOT = Path(__file__).parents[2]
MINI = ROOT / "backbones" / "mini"
LENGTH, EXAMPLES = 20, 32
# Lengths of inputs and targets in tokens of text.
SETS = {
    "banking77": (48, 12),
    "clinc150": (32, 8),
    "sms_spam": (64, 4),
    "vader_movie": (64, 4),
    "vader_tweets": (48, 12),
    "vader_amazon": (64, 4),
    "wordnet_hypernym": (32, 8),
    "wordnet_supersense": (48, 12),
    "sotu_party": (96, 8),
}
# Tokens of a packed row: five texts of most sets, so that little of it stays empty.
PACKED = 256
Pair = tuple[np.ndarray, np.ndarray]
Side = Callable[[], int]
"""What does some updates and one evaluation, and returns the number of examples trained on."""


def ours(name: str, updates: int, validation: int, directory: Path) -> tuple[Side, list[Pair]]:
    """Return our side, and its validation examples as tokens."""
    import jax

    from spot_jax.data.data_source import DataSource
    from spot_jax.data.examples import Examples
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training.build import RunParts
    from spot_jax.training.config import EvaluationPlan, StoredBackbone
    from spot_jax.training.optimizers import Adafactor
    from spot_jax.training.sharding import MeshShape, make_mesh
    from spot_jax.training.step import train_step
    from spot_jax.training.validation import Validation

    inputs, targets = SETS[name]
    task = _task(name, directory)
    lengths = {"inputs": inputs, "targets": targets}
    train: Examples = training_examples(task)
    first = train.first(500)
    mean, target = (
        float(np.mean([min(len(pair[side]), most) for pair in first]))
        for side, most in enumerate((inputs, targets))
    )
    a_row = PACKED / (LENGTH + mean)
    packed = {"inputs": PACKED, "targets": max(targets, math.ceil(1.25 * target * a_row))}
    data = DataSource(
        task, lengths, batch_size=round(EXAMPLES / a_row), pack=True, packed_lengths=packed
    )
    source = StoredBackbone(str(MINI), dtype="float32", parameter_dtype="float32", dropout_rate=0.0)
    mesh = make_mesh(MeshShape(1, 1))
    method = PromptTuning(LENGTH, init="sampled_vocabulary")
    parts = RunParts.make(source, method, data, Adafactor(learning_rate=0.3), 0, mesh)
    plan = EvaluationPlan(period=1, examples=validation, batch_size=EXAMPLES, decoding="greedy")
    evaluation = Validation(parts, data, plan)
    state, frozen = parts.first_state()
    step = train_step(parts.program, parts.tx, dropout=False)
    holder = [state]

    def side() -> int:
        before = parts.batches.examples
        metrics: Any = None
        for _ in range(updates):
            batch = parts.placement(next(parts.batches))
            holder[0], metrics = step(holder[0], frozen, batch)
        jax.block_until_ready(metrics)
        evaluation(holder[0].trainable, frozen)
        return parts.batches.examples - before

    (scored,) = evaluation.tasks[parts.names[0]]
    return side, [(text, target) for text, target in scored.examples]


def _task(name: str, directory: Path) -> str:
    """Return the name of a set as a file of rows, which is written to `directory`."""
    from spot_jax.cli.demo import rows_file
    from tasks.bundled.sets import SETS as BUNDLED

    text = ",".join(BUNDLED[name].fields)
    return f"{rows_file(directory, name)}?text={text}&label=label&split=split"


def training_examples(task: str) -> Any:
    """Return a file's tokenised examples of training."""
    from spot_jax.data.loading import load_examples
    from spot_jax.t5.vocabulary import Vocabulary

    return load_examples(task, "train", Vocabulary(MINI / "vocabulary.model"))


def theirs(name: str, updates: int, validation: list[Pair], train: Any) -> Side:
    """Return PEFT's side."""
    import torch

    from bench.peers import theirs as peft
    from spot_jax.t5.stored import read_description

    inputs, targets = SETS[name]
    config = read_description(MINI).config
    model = peft.model(config, "cpu", torch.float32, LENGTH)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.3)
    order = np.random.default_rng(0)

    def batches() -> Iterator[tuple[Any, Any]]:
        while True:
            numbers = order.permutation(len(every))
            for start in range(0, len(numbers) - EXAMPLES + 1, EXAMPLES):
                some = [every[i] for i in numbers[start : start + EXAMPLES]]
                yield (
                    peft.padded([text[:inputs] for text, _ in some]),
                    peft.padded([target[:targets] for _, target in some], -100),
                )

    every = list(train)
    stream = batches()

    def side() -> int:
        model.train()
        for _ in range(updates):
            text, labels = next(stream)
            loss = model(input_ids=text, attention_mask=(text > 0).long(), labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        longest = max(len(target) for _, target in validation)
        for start in range(0, len(validation), EXAMPLES):
            some = [text[:inputs] for text, _ in validation[start : start + EXAMPLES]]
            peft.write_padded(model, peft.padded(some), longest)
        return updates * EXAMPLES

    return side


def encoder_tokens(name: str) -> dict[str, float]:
    """Return the encoder's tokens for an example of a set, its prompt included.

    "needed" are those of the text and the prompt alone, which is what packing comes near to;
    "peft" are those of batches that are padded to their longest text.
    """
    inputs, _ = SETS[name]
    with tempfile.TemporaryDirectory() as directory:
        every = list(training_examples(_task(name, Path(directory))))
    lengths = np.array([min(len(text), inputs) for text, _ in every])
    mixed = np.random.default_rng(0).permutation(lengths)
    batches = mixed[: len(mixed) // EXAMPLES * EXAMPLES].reshape(-1, EXAMPLES)
    return {
        "needed": float(lengths.mean()) + LENGTH,
        "peft": float(batches.max(axis=1).mean()) + LENGTH,
    }


def prompts_tokens() -> dict[str, float]:
    """Return the encoder's tokens for an example of `many_prompts`: needed, and padded in turn."""
    inputs, _ = SETS["banking77"]
    needed = encoder_tokens("banking77")["needed"] - LENGTH
    return {"needed": needed + PROMPT, "padded": float(inputs + PROMPT)}


def measure(name: str, updates: int, validation: int, repeats: int) -> dict[str, list[float]]:
    """Return both sides' seconds for a thousand examples of one set, run in turn."""
    with tempfile.TemporaryDirectory() as directory:
        our_side, examples = ours(name, updates, validation, Path(directory))
        train = training_examples(_task(name, Path(directory)))
        sides = {"ours": our_side, "peft": theirs(name, updates, examples, train)}
        for side in sides.values():
            side()
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(repeats):
            for key, side in sides.items():
                begin = time.perf_counter()
                count = side()
                seconds[key].append(1000 * (time.perf_counter() - begin) / count)
    return seconds


def many_prompts(repeats: int, prompts: int = 8) -> dict[str, list[float]]:
    """Return seconds for a thousand examples of prompts in one program, and one after the other.

    T5 1.1 small of random weights, P = 100, banking77, 8 examples a prompt and step: packed in rows
    together, padded to 48 tokens of text one after the other, and packed one after the other.
    """
    import jax

    from spot_jax.data.data_source import DataSource
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training.build import RunParts
    from spot_jax.training.config import RandomBackbone
    from spot_jax.training.optimizers import Adafactor
    from spot_jax.training.sharding import MeshShape, make_mesh
    from spot_jax.training.step import train_step

    name, rows = "banking77", 4
    inputs, targets = SETS[name]
    backbone = RandomBackbone(SHAPES["small"], vocabulary=str(MINI / "vocabulary.model"))
    mesh = make_mesh(MeshShape(1, 1))

    def steps(task: str, seeds: list[int], pack: bool, count: int) -> Side:
        lengths = {"inputs": inputs, "targets": targets}
        packed = {"inputs": PACKED, "targets": 2 * targets} if pack else None
        data = DataSource(
            task, lengths, batch_size=rows if pack else 8, pack=pack, packed_lengths=packed
        )
        method = PromptTuning(PROMPT, init="sampled_vocabulary")
        parts = RunParts.make(backbone, method, data, Adafactor(learning_rate=0.3), seeds, mesh)
        state, frozen = parts.first_state()
        step = train_step(parts.program, parts.tx, dropout=False)
        holder = [state]

        def side() -> int:
            before = parts.batches.examples
            for _ in range(count):
                batch = parts.placement(next(parts.batches))
                holder[0], metrics = step(holder[0], frozen, batch)
                jax.block_until_ready(metrics)
            return parts.batches.examples - before

        return side

    with tempfile.TemporaryDirectory() as directory:
        task = _task(name, Path(directory))
        sides = {
            "together": steps(task, list(range(prompts)), True, 1),
            "in_turn": steps(task, [0], False, prompts),
            "in_turn_packed": steps(task, [0], True, prompts),
        }
        for side in sides.values():
            side()
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(repeats):
            for key, side in sides.items():
                begin = time.perf_counter()
                count = side()
                seconds[key].append(1000 * (time.perf_counter() - begin) / count)
    return seconds


def product_rates(tokens: list[int]) -> dict[str, float]:
    """Return GFLOP/s of T5 small's widest matrix product in the encoder, by number of tokens."""
    import jax
    import jax.numpy as jnp

    kernel = jax.random.normal(jax.random.key(0), (512, 1024), jnp.float32)
    product = jax.jit(jnp.matmul)
    rates = {}
    for count in tokens:
        x = jax.random.normal(jax.random.key(1), (count, 512), jnp.float32)
        product(x, kernel).block_until_ready()
        seconds = []
        for _ in range(30):
            begin = time.perf_counter()
            product(x, kernel).block_until_ready()
            seconds.append(time.perf_counter() - begin)
        rates[str(count)] = 2e-9 * count * 512 * 1024 / float(np.median(seconds))
    return rates
