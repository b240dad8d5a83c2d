"""LAMA-TREx as P-Tuning reads it: 41 relations, their templates and files (Liu et al. 2021, 3.1).

The files are those that P-Tuning's authors packed (AutoPrompt's cut of T-REx), under `lama`:

    $SPOT_DATA_DIR/lama/single_relations/P17.jsonl         one line: relation, template, label
    $SPOT_DATA_DIR/lama/fact-retrieval/original/P17/{train,dev,test}.jsonl
                                                           sub_label and obj_label a line

A template is text with [X] for the subject and [Y] for the object. `lama/vocabulary.txt` may hold
the words that answers are restricted to, one a line. Nothing here imports seqio or TensorFlow.
"""

import functools

from etils import epath

from spot_jax.errors import SpotError
from tasks.papers.data_files import data_directory, json_object, lines

DIRECTORY = "lama"
STEMS = {"train": "train", "validation": "dev", "test": "test"}
RELATIONS = tuple(
    f"P{number}"
    for number in (17, 19, 20, 27, 30, 31, 36, 37, 39, 47, 101, 103, 106, 108, 127, 131, 136, 138)
    + (140, 159, 176, 178, 190, 264, 276, 279, 361, 364, 407, 413, 449, 463, 495, 527, 530, 740)
    + (937, 1001, 1303, 1376, 1412)
)


def name_of(relation: str) -> str:
    """Return the task's name."""
    return f"lama_{relation}"


def template_path(relation: str) -> epath.Path:
    """Return where a relation's template lies; `SpotError` when SPOT_DATA_DIR is unset."""
    return data_directory() / DIRECTORY / "single_relations" / f"{relation}.jsonl"


def path_of(relation: str, split: str) -> epath.Path:
    """Return where a relation's facts lie; `SpotError` when SPOT_DATA_DIR is unset."""
    folder = data_directory() / DIRECTORY / "fact-retrieval" / "original" / relation
    return folder / f"{STEMS[split]}.jsonl"


def template_of(relation: str) -> str:
    """Return a relation's template, with [X] and [Y]; `SpotError` with file and line otherwise."""
    path = _there(template_path(relation))
    for number, line in lines(path):
        template = json_object(path, number, line, ("template",))["template"]
        for place in ("[X]", "[Y]"):
            if template.count(place) != 1:
                raise SpotError(
                    f"{path}:{number}: expected a template with one [X] and one [Y], found "
                    f"{template!r}"
                )
        return template
    raise SpotError(f"expected a line with a template in {path}, found none")


def read(relation: str, split: str) -> list[tuple[str, str]]:
    """Return (subject, object) of each fact; `SpotError` with file and line for a broken one."""
    return _facts(path_of(relation, split))


def _facts(path: epath.Path) -> list[tuple[str, str]]:
    _there(path)
    rows = []
    for number, line in lines(path):
        row = json_object(path, number, line, ("sub_label", "obj_label"))
        if not row["obj_label"].strip():
            raise SpotError(f"{path}:{number}: expected 'obj_label', found an empty target")
        rows.append((row["sub_label"], row["obj_label"]))
    if not rows:
        raise SpotError(f"expected facts in {path}, found none")
    return rows


def answers(relation: str) -> tuple[str, ...]:
    """Return the words that a relation's answers are restricted to, in order.

    Those of `lama/vocabulary.txt`, the paper's way, whose facts have no other objects; without
    that file the objects of the relation's own facts, which is an easier choice.
    """
    allowed = vocabulary_path()
    if allowed.exists():
        return _words(str(allowed))
    return _objects(*(str(path_of(relation, split)) for split in STEMS))


def restricted(relation: str, split: str) -> list[tuple[str, str]]:
    """Return the facts whose object is among a relation's answers."""
    allowed = set(answers(relation))
    rows = [row for row in read(relation, split) if row[1] in allowed]
    if not rows:
        raise SpotError(
            f"expected facts with objects of {vocabulary_path()} in {path_of(relation, split)}, "
            "found none; write one word a line as the facts have it"
        )
    return rows


def vocabulary_path() -> epath.Path:
    """Return where the allowed words may lie; `SpotError` when SPOT_DATA_DIR is unset."""
    return data_directory() / DIRECTORY / "vocabulary.txt"


@functools.cache
def _words(path: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for _, line in lines(epath.Path(path))))


@functools.cache
def _objects(*paths: str) -> tuple[str, ...]:
    return tuple(sorted({row[1] for path in paths for row in _facts(epath.Path(path))}))


def _there(path: epath.Path) -> epath.Path:
    if not path.exists():
        raise SpotError(
            f"expected {path}, found no such file; put the data that P-Tuning's authors packed "
            f"there, its data/LAMA under the name {DIRECTORY}/"
        )
    return path
