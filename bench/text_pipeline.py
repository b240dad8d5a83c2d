"""Examples a second of each text pipeline on one core, and what a `base` model takes.

    python bench/text_pipeline.py [--output FILE] [--rows 6000] [NAME ...]

Each task of the catalogue reads rows of its source's structure whose text has a realistic number of
words (`WORDS`), and goes the whole way: the task's own preprocessing in TensorFlow, tokenising with
T5's vocabulary, and padded batches with 100 virtual tokens. What counts is CPU time over all
threads, so the figures are of one core wherever they ran.

The demand is an estimate: multiply-adds of prompt tuning on T5 1.1 base (forward, and backward to
the activations only, as the weights are frozen) on a TPU v3-8 (8 cores, 4 chips of 123 bfloat16
TFLOP/s each: cloud.google.com/tpu/docs/v3) at 40% of its peak. Few runs reach that.
"""

import argparse
import functools
import json
import platform
import random
import time
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.seqio_tasks import load_examples
from spot_jax.data.sources import Shuffled
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.t5.vocabulary import load_vocabulary
from tasks import papers_tasks  # noqa: F401
from tasks.bundled.reading import rows
from tasks.papers.catalogue import BY_NAME, CATALOGUE
from tasks.papers.sample_tensors import tensors
from tasks.t5_features import VOCABULARY

# Words of the field that holds most of a row's text: our round figures for the training splits.
WORDS = {
    "glue_cola": ("sentence", 8),
    "glue_sst2": ("sentence", 10),
    "glue_mrpc": ("sentence1", 30),
    "glue_qqp": ("question1", 15),
    "glue_stsb": ("sentence1", 15),
    "glue_mnli": ("premise", 25),
    "glue_mnli_mismatched": ("premise", 25),
    "glue_qnli": ("sentence", 30),
    "glue_rte": ("sentence1", 50),
    "glue_wnli": ("sentence1", 20),
    "super_glue_boolq": ("passage", 110),
    "super_glue_cb": ("premise", 60),
    "super_glue_copa": ("premise", 8),
    "super_glue_multirc": ("paragraph", 270),
    "super_glue_record": ("passage", 200),
    "super_glue_rte": ("premise", 50),
    "super_glue_wic": ("sentence1", 10),
    "super_glue_wsc": (None, 0),
    "doc_nli": ("premise", 350),
    "snli": ("premise", 14),
    "squad": ("context", 120),
    "drop": ("passage", 220),
    "cosmos_qa": ("context", 70),
    "hellaswag": ("context", 40),
    "piqa": ("sol1", 20),
    "winogrande": ("sentence", 20),
    "go_emotions": ("comment_text", 13),
    "sentiment140": ("text", 13),
    "yelp_polarity": ("text", 135),
    "wmt_t2t_ende": ("en", 25),
    "wmt15_enfr": ("en", 28),
    "wmt16_enro": ("en", 25),
    "aeslc": ("email_body", 75),
    "billsum": ("text", 1400),
    "cnn_dailymail": ("article", 750),
    "gigaword": ("document", 30),
    "multi_news": ("document", 1800),
    "newsroom": ("text", 650),
    "samsum": ("dialogue", 95),
    "xsum": ("document", 400),
    "wiki_lingua": ("source", 390),
    "gem_common_gen": ("target", 10),
    "gem_dart": ("target", 20),
    "gem_e2e_nlg": ("target", 22),
    "gem_schema_guided_dialog": ("prompt", 12),
    "gem_web_nlg": ("target", 22),
    "gem_wiki_auto": ("source", 25),
    "gem_xsum": ("document", 400),
    "cxc": ("sentence1", 11),
    "cr": ("sentence", 20),
    "alpha_nli": ("obs1", 10),
    "social_i_qa": ("context", 15),
    "c4_prefix_lm": ("text", 360),
}
MRQA = {"news_qa": 500, "trivia_qa": 700, "search_qa": 700, "hotpot_qa": 170, "race": 300}
LENGTHS = (64, 128, 256, 512)
PROMPT, TARGETS, BATCH = 100, 62, 32
EMBEDDINGS = 32128
PEAK, USED = 4 * 123e12, 0.4


def words_of(name: str) -> tuple[str | None, int]:
    """Return the field to lengthen and its number of words."""
    if name in WORDS:
        return WORDS[name]
    if name.startswith("mrqa_"):
        return "context", MRQA.get(name.removeprefix("mrqa_"), 150)
    if name.startswith("race_"):
        return "article", 300 if name == "race_high" else 200
    return "context", 55  # ANLI


def flops(inputs: int, targets: int) -> float:
    """Count the floating-point operations of one example's step of prompt tuning on T5 1.1 base."""
    width, hidden, layers, vocabulary = 768, 2048, 12, 32128
    encoder = layers * (4 * width**2 + 3 * width * hidden)
    decoder = layers * (8 * width**2 + 3 * width * hidden)
    matrices = 2 * (encoder * inputs + (decoder + width * vocabulary) * targets)
    scores = 4 * width * layers * (inputs**2 + targets**2 + inputs * targets)
    # Backward to the activations: once more through frozen matrices, twice through the scores.
    return 2 * matrices + 3 * scores


@functools.cache
def lexicon() -> list[str]:
    """Return the words of real text, each as often as it occurs."""
    return [word for row in rows("sotu_party", "train")[:2000] for word in row["text"].split()]


def source(name: str, count: int) -> seqio.FunctionDataSource:
    """Return rows as the set's own source yields them, each with other words."""
    sample = tensors(name)
    field, size = words_of(name)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(lexicon(), k=max(1, size))) for _ in range(count)]

    def dataset(
        split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> tf.data.Dataset:
        same = tf.data.Dataset.from_tensors(sample).repeat(count)
        if field is None:
            return same
        paired = tf.data.Dataset.zip((same, tf.data.Dataset.from_tensor_slices(texts)))
        longer = paired.map(
            lambda row, text: {**row, field: tf.strings.join([row[field], text], " ")}
        )
        return longer.cache()

    return seqio.FunctionDataSource(dataset, splits=("train",), num_input_examples={"train": count})


def register(name: str, count: int) -> str:
    """Register the task over synthetic rows and return its name."""
    task = seqio.TaskRegistry.get(name)
    bench_name = f"bench_{name}"
    if bench_name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(bench_name)
    seqio.TaskRegistry.add(
        bench_name,
        source=source(name, count),
        preprocessors=list(task.preprocessors),
        output_features=task.output_features,
    )
    return bench_name


def measure(name: str, count: int) -> dict:
    vocabulary = load_vocabulary(VOCABULARY.sentencepiece_model_file)
    lengths = {"inputs": 512, "targets": TARGETS}
    load_examples(register(name, 16), "train", vocabulary, lengths=lengths)
    task = register(name, count)
    began = time.process_time()
    examples = load_examples(task, "train", vocabulary, lengths=lengths, limit=4 * count)
    read = time.process_time() - began
    sizes = [len(inputs) for inputs, _ in examples]
    length = next((n for n in LENGTHS if n >= np.percentile(sizes, 95)), LENGTHS[-1])
    shape = BatchShape(BATCH, length, TARGETS)
    batches = Batches(Shuffled(examples, 0), shape, write=VirtualTokens(EMBEDDINGS, PROMPT))
    began = time.process_time()
    for _ in range(max(1, len(examples) // BATCH)):
        next(batches)
    batched = (time.process_time() - began) / (max(1, len(examples) // BATCH) * BATCH)
    each = read / len(examples) + batched
    demand = PEAK * USED / flops(length + PROMPT, TARGETS)
    return {
        "task": name,
        "words": words_of(name)[1],
        "examples": len(examples),
        "mean_pieces": round(float(np.mean(sizes)), 1),
        "row_length": length,
        "read_examples_per_core_second": round(len(examples) / read),
        "batched_examples_per_core_second": round(1 / batched),
        "examples_per_core_second": round(1 / each),
        "base_model_takes": round(demand),
        "cores_to_stream": round(demand * each, 2),
        "seconds_to_hold_in_memory": held(name, read / len(examples)),
    }


def held(name: str, each: float) -> float | None:
    """Return one core's seconds to read the training split into memory; None where streamed."""
    size = BY_NAME[name].training_examples
    return None if size is None or size > 2_000_000 else round(size * each, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", default="bench/results/text_pipeline.json")
    parser.add_argument("--rows", type=int, default=6000)
    arguments = parser.parse_args()
    names = arguments.names or [item.name for item in CATALOGUE if "train" in item.sizes]
    for name in names:
        field = words_of(name)[0]
        assert field is None or field in tensors(name), f"{name} has no field {field}"
    results = []
    for name in names:
        # Enough rows for the time that making a pipeline takes not to count; long texts need fewer.
        rows_of = min(arguments.rows, max(1500, 600_000 // max(1, words_of(name)[1])))
        results.append(measure(name, rows_of))
        print(json.dumps(results[-1]), flush=True)
    held_all = [row["seconds_to_hold_in_memory"] or 0.0 for row in results]
    result = {
        "machine": f"one core of {platform.machine()}",
        "prompt": PROMPT,
        "targets": TARGETS,
        "estimate": {"device": "TPU v3-8", "peak_flops": PEAK, "share_of_peak": USED},
        "tasks": results,
        "need_more_than_a_core": [row["task"] for row in results if row["cores_to_stream"] > 1],
        "seconds_to_hold_all_in_memory": round(sum(held_all)),
    }
    path = Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
