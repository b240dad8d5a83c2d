"""Searching a large prompt library: 100,000 prompts of 100 x 768 by the per-token metric.

    python bench/search.py [--output bench/results/search.json]
    chrt -f 10 python bench/search.py     # on a machine that does other work, before that work

The library is made of its index: 100,000 random signatures, as the index holds them, and an empty
file for each prompt. The prompts themselves would take 61 GB (with task embeddings) and a search
opens none of them; what is measured is what `Library.rank` does, a check of the directory and the
sizes of the files that it returns included. The bound is a bare matrix-vector product of the same
size, timed in turn with the searches. Another part adds one real prompt to a library of 10,000.
Needs about 1 GB of memory and 0.5 GB of disk.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from spot_jax.library import similarity
from spot_jax.library.entry import SUFFIX, Entry, entry_fields
from spot_jax.library.index_files import write_lines, write_signatures
from spot_jax.library.library import Library
from spot_jax.library.ranking import Ranking
from spot_jax.methods.prompt_file import PromptFile

ROOT = Path(__file__).parents[1]
LENGTH, WIDTH, TOP_K, ROUNDS, WARM_UP = 100, 768, 10, 101, 5
BACKBONE = "a" * 64
TASKS = 500


def make_library(root: Path, entries: int, rng: np.random.Generator) -> None:
    """Write the index of a library, and its prompts as empty files."""
    (root / "prompts").mkdir(parents=True)
    rows = []
    for i in range(entries):
        task = f"task{i % TASKS}"
        id = f"{task}-s{i}-{i:012x}"
        (root / "prompts" / f"{id}{SUFFIX}").touch()
        entry = Entry(
            id=id, path="", task=task, tasks=(task,), seed=i, length=LENGTH, width=WIDTH,
            backbone=BACKBONE, vocabulary="", step=262_144, embedding_step=10_000,
            method={"name": "PromptTuning", "length": LENGTH}, metrics={"score": 50.0},
            ancestry=(), size=0,
        )  # fmt: skip
        rows.append(entry_fields(entry))
    rows.sort(key=lambda row: row["id"])
    write_lines(root / "index" / "entries.jsonl", rows)
    signatures = rng.standard_normal((entries, WIDTH), np.float32)
    signatures *= 0.4 / np.linalg.norm(signatures, axis=1, keepdims=True)
    for metric in similarity.METRICS:
        path = root / "index" / f"{BACKBONE[:12]}-{WIDTH}-{metric}{SUFFIX}"
        write_signatures(path, [row["id"] for row in rows], signatures)
    # The index trusts a directory that has not changed for two seconds.
    os.utime(root / "prompts", (time.time() - 60,) * 2)


def milliseconds(times: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * t for t in times)
    return {
        "median": round(statistics.median(ordered), 2),
        "p10": round(ordered[len(ordered) // 10], 2),
        "p90": round(ordered[len(ordered) * 9 // 10], 2),
        "least": round(ordered[0], 2),
    }


def measure_search(root: Path, entries: int) -> dict:
    rng = np.random.default_rng(0)
    make_library(root, entries, rng)
    target = rng.standard_normal((LENGTH, WIDTH), np.float32)
    start = time.perf_counter()
    library = Library(root)

    def search() -> Ranking:
        return library.rank(target, backbone=BACKBONE, top_k=TOP_K, exclude=["task7"])

    before = resident_bytes()
    matches = search()
    first = time.perf_counter() - start
    after = resident_bytes()
    assert len(matches) == TOP_K and all(match.entry.task != "task7" for match in matches)
    table = library._index.group((BACKBONE, WIDTH), "per_token").signatures
    vector = similarity.signature(target).astype(np.float32)
    searches, bounds, cpu = [], [], []
    for i in range(ROUNDS + WARM_UP):
        used = time.process_time()
        marks = [time.perf_counter()]
        search()
        marks.append(time.perf_counter())
        used = time.process_time() - used
        table @ vector
        marks.append(time.perf_counter())
        if i >= WARM_UP:
            searches.append(marks[1] - marks[0])
            bounds.append(marks[2] - marks[1])
            cpu.append(used)
    ratios = [a / b for a, b in zip(searches, bounds, strict=True)]
    return {
        "entries": entries,
        "prompt": [LENGTH, WIDTH],
        "metric": "per_token",
        "top_k": TOP_K,
        "rounds": ROUNDS,
        "search_ms": milliseconds(searches),
        "search_cpu_ms_of_all_threads": milliseconds(cpu),
        "matrix_vector_product_ms": milliseconds(bounds),
        "search_over_product_median_of_pairs": round(statistics.median(ratios), 3),
        "first_search_of_a_process_s": round(first, 2),
        "signatures_bytes": table.nbytes,
        "signatures_bytes_an_entry": table.nbytes // entries,
        "resident_bytes_of_library": after - before,
        "index_bytes_on_disk": {p.name: p.stat().st_size for p in (root / "index").iterdir()},
        "signatures": "random; the prompts are empty files, which a search does not open",
    }


def measure_adding_one(root: Path, entries: int) -> dict:
    rng = np.random.default_rng(1)
    make_library(root, entries, rng)
    reads = []
    original = Library._read
    Library._read = lambda self, id: reads.append(id) or original(self, id)  # type: ignore
    library = Library(root)
    target = rng.standard_normal((LENGTH, WIDTH), np.float32)
    library.rank(target, backbone=BACKBONE, top_k=TOP_K)
    prompt = PromptFile(target, task="new", step=262_144, backbone=BACKBONE)
    embedding = PromptFile(target, task="new", step=10_000, backbone=BACKBONE)
    start = time.perf_counter()
    added = library.add(prompt, embedding)
    done = time.perf_counter()
    matches = library.rank(target, backbone=BACKBONE, top_k=TOP_K)
    end = time.perf_counter()
    Library._read = original
    assert matches[0].entry == added
    return {
        "entries": entries,
        "add_ms": round(1000 * (done - start), 1),
        "next_search_with_index_update_ms": round(1000 * (end - done), 1),
        "prompts_read": len(reads),
    }


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=str(ROOT / "bench/results/search.json"))
    parser.add_argument("--entries", type=int, default=100_000)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "machine": {
                "platform": platform.platform(),
                "cores": len(os.sched_getaffinity(0)),
                "numpy": np.__version__,
                "load_average_at_start": round(load, 1),
                "scheduled": "first" if os.sched_getscheduler(0) == os.SCHED_FIFO else "as others",
            },
            "search": measure_search(Path(folder) / "large", arguments.entries),
            "adding_one": measure_adding_one(Path(folder) / "small", arguments.entries // 10),
        }
    print(json.dumps(result, indent=1))
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
