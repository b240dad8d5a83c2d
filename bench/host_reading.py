"""What one of several hosts reads and holds of a task, and how long a packed batch takes.

    python -m bench.host_reading [--output bench/results/host_reading.json]

A task over lines of text in 16 files is read, tokenised and drawn for one epoch, packed, by one
process, and by four that read together (`spot_jax.data.shared_examples`). Of the first, and of one
of the four, it is written down how many bytes the process read (`rchar` of /proc/self/io: the
text, and with several hosts the tokens of its own rows), by how much its memory grew at the peak,
and a digest of what it drew, which for one of four is that of its rows in the whole.

Then batches of packed rows without prompt are timed, in processor seconds: for all rows, and for
those of one of 32 hosts. Other work may share the machine, so the least of several times counts.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
FILES, EXAMPLES, HOSTS = 16, 120_000, 4
ROWS, LENGTHS = 64, {"inputs": 256, "targets": 16}
WORDS = ["the", "film", "was", "a", "good", "one", "but", "some", "of", "it", "had", "no", "plot"]


def write_text(directory: Path, examples: int) -> None:
    """Write lines of 20 to 300 words, a target after a tab, to files of unequal sizes."""
    draw = np.random.default_rng(0)
    bounds = np.linspace(0, examples, FILES + 1)[1:-1] + draw.integers(-20, 20, FILES - 1)
    parts = np.split(np.arange(examples), bounds.astype(int))
    for i, numbers in enumerate(parts):
        with (directory / f"part-{i:02}.txt").open("w") as file:
            for number in numbers:
                words = draw.choice(WORDS, int(np.clip(draw.gamma(2, 55), 20, 300)))
                file.write(f"{' '.join(words)}\t{number}\n")


def register(directory: Path, examples: int) -> str:
    """Register the task."""
    import seqio
    import tensorflow as tf

    from tasks.t5_features import OUTPUT_FEATURES

    def pair(line: Any) -> dict[str, Any]:
        sides = tf.strings.split(line, "\t")
        return {"inputs": sides[0], "targets": sides[1]}

    seqio.TaskRegistry.add(
        "lines",
        source=seqio.TextLineDataSource(
            {"train": str(directory / "part-*.txt")}, num_input_examples={"train": examples}
        ),
        preprocessors=[
            lambda dataset: dataset.map(pair),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features=OUTPUT_FEATURES,
    )
    return "lines"


def status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def bytes_read() -> int:
    """Return how many bytes this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def draw_an_epoch(
    text: Path, tokens: Path, examples: int, index: int, count: int, barrier: Any, results: Any
) -> None:
    """Read as one of some hosts, draw an epoch, and report what that took."""
    import xxhash
    from etils import epath

    from spot_jax.data.batches import Batches, BatchShape
    from spot_jax.data.loading import training_source
    from spot_jax.data.shared_examples import Hosts
    from spot_jax.data.virtual_tokens import VirtualTokens
    from spot_jax.t5.vocabulary import Vocabulary

    vocabulary = Vocabulary(ROOT / "tasks/mini_spiece.model")
    name = register(text, examples)
    hosts = None
    if count > 1:
        hosts = Hosts(index, count, epath.Path(tokens), lambda words: barrier.wait())
    # What TensorFlow takes for itself when it first reads anything is no host's share.
    import tensorflow as tf

    list(tf.data.Dataset.range(9).map(lambda x: x + 1).as_numpy_iterator())
    memory, read, began = status("VmRSS"), bytes_read(), time.process_time()
    source = training_source(name, vocabulary, 0, lengths=LENGTHS, hosts=hosts)
    tokenised = bytes_read()
    shape = BatchShape(ROWS, **{f"{side}_length": n for side, n in LENGTHS.items()}, pack=True)
    part = ROWS // count
    rows = slice(index * part, (index + 1) * part)
    batches = Batches(source, shape, write=VirtualTokens(vocabulary.size, 20), host_rows=rows)
    digests = [xxhash.xxh3_128() for _ in range(HOSTS)]
    while batches.examples < examples:
        batch = next(batches)
        for number, rows_of in enumerate(digests[: HOSTS // count]):
            each = slice(number * ROWS // HOSTS, (number + 1) * ROWS // HOSTS)
            for feature in sorted(batch):
                rows_of.update(np.ascontiguousarray(batch[feature][each]).tobytes())
    results[index] = {
        "bytes_read": bytes_read() - read,
        "of_the_text": tokenised - read,
        "peak_memory": status("VmHWM") - memory,
        "processor_seconds": round(time.process_time() - began, 1),
        "digests": [each.hexdigest() for each in digests[: HOSTS // count]],
    }


def read(text: Path, tokens: Path, examples: int, count: int) -> list[dict]:
    """Return what each of some hosts reports."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Manager().dict()
    processes = [
        context.Process(
            target=draw_an_epoch, args=(text, tokens, examples, i, count, barrier, results)
        )
        for i in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [results[i] for i in range(count)]


def reading(examples: int) -> dict:
    with tempfile.TemporaryDirectory() as work:
        text = Path(work) / "text"
        text.mkdir()
        write_text(text, examples)
        size = sum(path.stat().st_size for path in text.iterdir())
        (alone,) = read(text, Path(work) / "tokens", examples, 1)
        each = read(text, Path(work) / "tokens", examples, HOSTS)
    same = [host["digests"][0] for host in each] == alone["digests"]
    for host in (alone, *each):
        del host["digests"]
    return {
        "examples": examples,
        "files": FILES,
        "bytes_of_the_text": size,
        "one_process": alone,
        f"each_of_{HOSTS}_hosts": each,
        "share_of_the_text": max(round(h["of_the_text"] / alone["of_the_text"], 3) for h in each),
        "share_with_tokens": max(round(h["bytes_read"] / alone["bytes_read"], 3) for h in each),
        "share_of_memory": max(round(h["peak_memory"] / alone["peak_memory"], 3) for h in each),
        "same_rows": same,
    }


def packing() -> list[dict]:
    from spot_jax.data.batches import Batches, BatchShape
    from spot_jax.data.examples import Examples
    from spot_jax.data.sources import Shuffled

    draw = np.random.default_rng(0)
    sizes = np.clip(draw.gamma(2, 55, 40_000).astype(int), 4, 512)
    examples = Examples.from_lists(
        [
            (draw.integers(3, 32_000, n), draw.integers(3, 32_000, draw.integers(2, 9)))
            for n in sizes
        ]
    )
    results = []
    for rows in (32, 128, 512, 2048):
        shape = BatchShape(rows, 512, 16, True, 512, 62)
        times: dict[str, list[float]] = {"all_rows": [], "one_of_32_hosts": []}
        for name, host_rows in (("all_rows", None), ("one_of_32_hosts", slice(0, rows // 32))):
            batches = Batches(Shuffled(examples, 0), shape, host_rows=host_rows)
            for _ in range(12):
                began = time.process_time()
                next(batches)
                times[name].append((time.process_time() - began) * 1e3)
        results.append(
            {
                "rows": rows,
                "examples": round(batches.examples / 12),
                **{f"{name}_ms": round(min(each), 1) for name, each in times.items()},
                **{f"{n}_median_ms": round(statistics.median(t), 1) for n, t in times.items()},
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="bench/results/host_reading.json")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    arguments = parser.parse_args()
    result = {
        "what": "one of four hosts' reading against one process's; time of packed batches",
        "machine": platform.machine(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "packing": packing(),
        "reading": reading(arguments.examples),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
