"""The border to seqio: a task's preprocessing with the backbone's own vocabulary.

What leaves this module is plain arrays, text and `Source`s; seqio and TensorFlow stay behind.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from spot_jax.data import size_checks, verbalizers
from spot_jax.data.example_cache import cached
from spot_jax.data.examples import Examples, Ids
from spot_jax.data.seqio_registry import (
    import_all,
    import_module,
    metric_fns,
    names,
    postprocess,
    require,
    require_split,
    splits,
    tasks_of,
)
from spot_jax.data.seqio_text import TextLines, register_text
from spot_jax.data.sources import Mixture, Shuffled, Source, Stream
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, Vocabulary

__all__ = [
    "Evaluation",
    "import_all",
    "import_module",
    "load_evaluation",
    "load_examples",
    "metric_fns",
    "names",
    "postprocess",
    "register_text",
    "require",
    "splits",
    "target_texts",
    "tasks_of",
    "training_source",
]

FEATURES = ("inputs", "targets")
Fields = dict[str, Any]
Lengths = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A split to be evaluated on.

    Attributes:
        examples: the token ids.
        targets: each example's target as the task's metrics compare it.
        fields: each example's other features, which `postprocess` may need.
    """

    examples: Examples
    targets: list[Any]
    fields: list[Fields]


def load_examples(
    name: str,
    split: str,
    vocabulary: Vocabulary,
    *,
    limit: int | None = None,
    lengths: Lengths | None = None,
    use_cached: bool = False,
) -> Examples:
    """Return the examples of a task or mixture in order, tokenised with `vocabulary`.

    Ids are not cut; eos is appended where the task says so. `lengths` is for tasks whose examples
    depend on the feature lengths, such as those over plain text. A mixture's tasks follow one
    another by name. Raises `SpotError` for an unknown name or split, an empty split, and a target
    outside the task's verbalizers.
    """
    return load_evaluation(
        name, split, vocabulary, limit=limit, lengths=lengths, use_cached=use_cached
    ).examples


def load_evaluation(
    name: str,
    split: str,
    vocabulary: Vocabulary,
    *,
    limit: int | None = None,
    lengths: Lengths | None = None,
    use_cached: bool = False,
) -> Evaluation:
    """Return the examples of a split with their targets as text, as `load_examples` does."""
    pairs, targets, fields = [], [], []
    for task in require_split(name, split):
        read = _read(task, split, vocabulary, limit=limit, lengths=lengths, use_cached=use_cached)
        for inputs, target_ids, text, other in read:
            pairs.append((inputs, target_ids))
            targets.append(task.postprocess_fn(text, example=other, is_target=True))
            fields.append(other)
    if not pairs:
        raise SpotError(
            f"expected examples in split {split!r} of {name}, found none; "
            "check the task's data and filters, or choose another split"
        )
    pairs, targets, fields = pairs[:limit], targets[:limit], fields[:limit]
    return Evaluation(Examples.from_lists(pairs, task=name), targets, fields)


def target_texts(
    name: str, split: str, vocabulary: Vocabulary, *, limit: int | None = None
) -> list[Any]:
    """Return the targets of a split as the task's metrics compare them."""
    return load_evaluation(name, split, vocabulary, limit=limit).targets


def training_source(
    name: str,
    vocabulary: Vocabulary,
    seed: int,
    *,
    split: str = "train",
    lengths: Lengths | None = None,
    maximum_in_memory: int = 2_000_000,
    use_cached: bool = False,
) -> Source:
    """Return an endless source of a task's or mixture's examples, in an order fixed by the seed.

    A task is held in memory and shuffled anew each epoch; one of more than `maximum_in_memory`
    examples, or without an end, is streamed through seqio's own shuffling, and a resumed run then
    skips what it had read. Plain text is tokenised once and cut anew each epoch. A mixture's tasks
    come at seqio's rates.
    """

    def source(number: int, task: seqio.Task) -> Source:
        if isinstance(task.source, TextLines):
            return task.source.token_source(split, vocabulary, lengths, seed + number)
        options = {"lengths": lengths, "use_cached": use_cached}
        return _task_source(task, split, vocabulary, seed + number, maximum_in_memory, options)

    found = require(name)
    tasks = require_split(name, split)
    if not isinstance(found, seqio.Mixture):
        return source(0, tasks[0])
    rates = {task.name: float(found.get_rate(task)) for task in tasks}
    sources = {task.name: source(number, task) for number, task in enumerate(tasks, start=1)}
    return Mixture(sources, rates, seed)


def _task_source(
    task: seqio.Task,
    split: str,
    vocabulary: Vocabulary,
    seed: int,
    maximum: int,
    options: dict[str, Any],
) -> Source:
    size = task.num_input_examples(split)
    size_checks.report(task.name, split, rows=size)

    def read() -> Examples | None:
        rows = _read(task, split, vocabulary, limit=maximum + 1, **options)
        pairs = [(inputs, targets) for inputs, targets, _, _ in rows]
        if not pairs:
            raise SpotError(
                f"expected examples in split {split!r} of {task.name}, found none; "
                "check the task's data and filters"
            )
        return Examples.from_lists(pairs, task=task.name) if len(pairs) <= maximum else None

    if size is None or size <= maximum:
        decided_by = sorted((options.get("lengths") or {}).items()), options.get("use_cached")
        found = cached((task.name, split, vocabulary.sha256, maximum, str(decided_by)), read)
        if found is not None:
            size_checks.report(task.name, split, examples=len(found))
            return Shuffled(found, seed)

    def stream() -> Iterator[tuple[Ids, Ids]]:
        read = _read(task, split, vocabulary, shuffle_seed=seed, **options)
        return ((_ids(inputs), _ids(targets)) for inputs, targets, _, _ in read)

    return Stream(stream, name=task.name)


def _ids(tokens: Sequence[int]) -> Ids:
    return np.asarray(tokens, np.int32)


def _read(
    task: seqio.Task,
    split: str,
    vocabulary: Vocabulary,
    *,
    limit: int | None = None,
    lengths: Lengths | None = None,
    use_cached: bool = False,
    shuffle_seed: int | None = None,
) -> Iterator[tuple[Sequence[int], Sequence[int], str, Fields]]:
    """Yield inputs, targets, the target's text and the other features of each example.

    With `shuffle_seed` the split is repeated without end in seqio's shuffled order.
    """
    options = {
        "split": split,
        "sequence_length": lengths,
        "trim_output_features": False,
        "use_cached": use_cached,
        "shuffle": shuffle_seed is not None,
        "seed": shuffle_seed or 0,
        "num_epochs": 1 if shuffle_seed is None else None,
    }
    if use_cached:
        _check_cached(task, vocabulary)
        rows = _by_seqio(task, vocabulary, options)
    elif _ends_in_tokenisation(task):
        rows = _by_us(task, vocabulary, options)
    else:
        rows = _by_seqio(task, vocabulary, options)
    for inputs, targets, text, fields in itertools.islice(rows, limit):
        if "targets_pretokenized" in fields and not text.strip():
            raise SpotError(
                f"expected a target in every example of split {split!r} of {task.name}, found an "
                f"empty one (inputs: {_start(fields)!r}); drop or correct such rows of the data"
            )
        if verbalizers.of(task.name):
            verbalizers.check(task.name, text)
        yield inputs, targets, text, fields


def _start(fields: Fields, length: int = 60) -> str:
    """Return how the text of an example's inputs begins, to find it by."""
    raw = fields.get("inputs_pretokenized", b"")
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return text if len(text) <= length else f"{text[:length]} ..."


def _ends_in_tokenisation(task: seqio.Task) -> bool:
    """Return whether the task's last steps are seqio's plain tokenising and appending of eos."""
    ends = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)
    steps = _steps(task)
    plain = len(steps) >= 2 and steps[-2] is seqio.preprocessors.tokenize and steps[-1] in ends
    return plain and all(type(task.output_features.get(f)) is seqio.Feature for f in FEATURES)


def _steps(task: seqio.Task) -> list[Any]:
    """Return the task's steps but for the mark of where seqio's cache would be made."""
    return [s for s in task.preprocessors if not isinstance(s, seqio.CacheDatasetPlaceholder)]


def _by_us(
    task: seqio.Task, vocabulary: Vocabulary, options: dict[str, Any]
) -> Iterator[tuple[list[int], list[int], str, Fields]]:
    """Read text through seqio and tokenise it here: the same ids, several times faster."""
    text = seqio.Feature(seqio.PassThroughVocabulary(0), add_eos=False, dtype=tf.string, rank=0)
    untokenised = task.replace(
        preprocessors=_steps(task)[:-2],
        output_features=dict.fromkeys(FEATURES, text),
    )
    rows = _rows(untokenised.get_dataset(**options))
    ends = [[EOS] if task.output_features[feature].add_eos else [] for feature in FEATURES]
    while block := list(itertools.islice(rows, 4096)):
        sides = [[row[feature].decode("utf-8") for row in block] for feature in FEATURES]
        inputs, targets = (vocabulary.encode_all(side) for side in sides)
        for row, ids, target_ids, target in zip(block, inputs, targets, sides[1], strict=True):
            fields = {key: value for key, value in row.items() if key not in FEATURES}
            fields |= {f"{feature}_pretokenized": row[feature] for feature in FEATURES}
            yield ids + ends[0], target_ids + ends[1], target, fields


def _rows(dataset: tf.data.Dataset) -> Iterator[Fields]:
    """Yield the examples as numpy, fetched many at a time where their shapes allow it."""
    if not all(spec.shape.is_fully_defined() for spec in dataset.element_spec.values()):
        yield from dataset.as_numpy_iterator()
        return
    for block in dataset.batch(1024).as_numpy_iterator():
        for number in range(len(block["targets"])):
            yield {key: values[number] for key, values in block.items()}


def _by_seqio(
    task: seqio.Task, vocabulary: Vocabulary, options: dict[str, Any]
) -> Iterator[tuple[Any, Any, str, Fields]]:
    """Read through the whole of the task's pipeline, its features' vocabularies exchanged."""
    ours = seqio.SentencePieceVocabulary(str(vocabulary.path), extra_ids=vocabulary.extra_ids)
    exchanged = task.replace(
        output_features={
            name: dataclasses.replace(feature, vocabulary=ours)
            for name, feature in task.output_features.items()
        }
    )
    for row in exchanged.get_dataset(**options).as_numpy_iterator():
        fields = {key: value for key, value in row.items() if key not in FEATURES}
        raw = row.get("targets_pretokenized")
        text = raw.decode("utf-8") if isinstance(raw, bytes) else vocabulary.decode(row["targets"])
        yield row.get("inputs", []), row["targets"], text, fields


def _check_cached(task: seqio.Task, vocabulary: Vocabulary) -> None:
    """Raise `SpotError` when a task has no cache or one of another vocabulary."""
    if task.cache_dir is None:
        raise SpotError(
            f"expected {task.name} in seqio's cache, found nothing there; add the cache's "
            "directory with seqio.add_global_cache_dirs or leave use_cached out"
        )
    ours = seqio.SentencePieceVocabulary(str(vocabulary.path), extra_ids=vocabulary.extra_ids)
    theirs = task.output_features["targets"].vocabulary
    if not isinstance(theirs, seqio.SentencePieceVocabulary) or theirs.sp_model != ours.sp_model:
        raise SpotError(
            f"expected the cache of {task.name} in the backbone's vocabulary {vocabulary.path}, "
            f"found it in {theirs}; leave use_cached out"
        )
