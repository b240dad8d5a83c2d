"""FewGLUE: 32 training examples of each SuperGLUE set, and as many more to choose by (dev32).

The training examples are Schick & Schütze's (2021, PET), the others P-Tuning's (Liu et al. 2021,
FewGLUE_32dev of its code). Both lie as they are published, lines of SuperGLUE's own JSON, with
SuperGLUE's validation split to be reported on:

    $SPOT_DATA_DIR/fewglue/BoolQ/{train,dev32,val}.jsonl

Nothing here imports seqio or TensorFlow.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from spot_jax.errors import SpotError
from tasks.papers.data_files import data_directory, lines

DIRECTORY = "fewglue"
STEMS = {"train": "train", "validation": "dev32", "test": "val"}
"""Stem of each split's file: dev32 chooses, SuperGLUE's validation reports."""
PREFIX = "fewglue_"
Row = dict[str, Any]


def _numbered(fields: tuple[str, ...], labels: tuple[Any, ...]) -> Callable[[Row], Iterator[Row]]:
    def rows(line: Row) -> Iterator[Row]:
        yield {**{name: str(line[name]) for name in fields}, "label": labels.index(line["label"])}

    return rows


def _multirc(line: Row) -> Iterator[Row]:
    passage = line["passage"]
    for question in passage["questions"]:
        for answer in question["answers"]:
            yield {
                "paragraph": str(passage["text"]),
                "question": str(question["question"]),
                "answer": str(answer["text"]),
                "label": int(answer["label"]),
                "idx": {"question": int(question["idx"])},
            }


def _wsc(line: Row) -> Iterator[Row]:
    target = line["target"]
    yield {
        "text": str(line["text"]),
        "span1_text": str(target["span1_text"]),
        "span2_text": str(target["span2_text"]),
        "span2_index": int(target["span2_index"]),
        "label": int(bool(line["label"])),
    }


# Directory and reader of each set; labels are numbered as TFDS numbers them.
SETS: Mapping[str, tuple[str, Callable[[Row], Iterator[Row]]]] = {
    "boolq": ("BoolQ", _numbered(("passage", "question"), (False, True))),
    "cb": (
        "CB",
        _numbered(("premise", "hypothesis"), ("entailment", "contradiction", "neutral")),
    ),
    "copa": ("COPA", _numbered(("premise", "choice1", "choice2", "question"), (0, 1))),
    "multirc": ("MultiRC", _multirc),
    "rte": ("RTE", _numbered(("premise", "hypothesis"), ("entailment", "not_entailment"))),
    "wic": ("WiC", _numbered(("word", "sentence1", "sentence2"), (False, True))),
    "wsc": ("WSC", _wsc),
}


def path_of(name: str, split: str) -> epath.Path:
    """Return the file of a split of a set, "boolq" for one; `SpotError` without SPOT_DATA_DIR."""
    return data_directory() / DIRECTORY / SETS[name][0] / f"{STEMS[split]}.jsonl"


def read(name: str, split: str) -> list[Row]:
    """Return the rows of a split, with the fields and label numbers that TFDS gives them.

    Raises:
        SpotError: an absent file, or a line that is no row of the set, with its number.
    """
    path = path_of(name, split)
    if not path.exists():
        raise SpotError(
            f"expected {path}, found no such file; put FewGLUE's train.jsonl, P-Tuning's "
            f"dev32.jsonl and SuperGLUE's val.jsonl there"
        )
    rows: list[Row] = []
    for number, line in lines(path):
        try:
            rows += SETS[name][1](json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise SpotError(
                f"{path}:{number}: expected a labelled row of SuperGLUE's {SETS[name][0]} in JSON, "
                f"found {line[:40]!r} ({type(error).__name__}: {error}); fetch the file again"
            ) from error
    if not rows:
        raise SpotError(f"expected examples in {path}, found none; fetch the file again")
    return rows
