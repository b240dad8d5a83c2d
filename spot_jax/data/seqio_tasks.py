"""The border to seqio: a task's preprocessing with the backbone's own vocabulary.

What leaves this module is plain arrays, text and `Source`s; seqio and TensorFlow stay behind.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from spot_jax.data import seqio_metrics, size_checks, verbalizers
from spot_jax.data.choices import answer_tokens
from spot_jax.data.evaluation_set import EvaluationSet
from spot_jax.data.example_cache import cached
from spot_jax.data.examples import Example, Examples, Ids, cut
from spot_jax.data.seqio_metrics import one_line
from spot_jax.data.seqio_registry import (
    import_all,
    import_module,
    names,
    require,
    require_split,
    set_directories,
    splits,
    tasks_of,
)
from spot_jax.data.seqio_text import TextLines, register_text
from spot_jax.data.shared_examples import (
    Hosts,
    Share,
    SharedExamples,
    by_files,
    dealt,
    shared_examples,
)
from spot_jax.data.sources import Mixture, Shuffled, Source, Stream
from spot_jax.errors import SpotError
from spot_jax.files import slug
from spot_jax.files.digests import digest
from spot_jax.metrics import Metric
from spot_jax.t5.vocabulary import EOS, Vocabulary

__all__ = [
    "Evaluation",
    "has_metrics",
    "import_all",
    "import_module",
    "keeps_eos",
    "load_evaluation",
    "load_examples",
    "metric_fns",
    "names",
    "register_text",
    "require",
    "set_directories",
    "splits",
    "target_texts",
    "tasks_of",
    "training_source",
]

FEATURES = ("inputs", "targets")
# Field of an example with the texts that its answer is chosen among.
CHOICES = "choices"
Fields = dict[str, Any]
Lengths = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Evaluation(EvaluationSet):
    """A split to be evaluated on.

    Attributes:
        fields: features of each example besides its inputs and targets.
    """

    fields: list[Fields]


class Row(NamedTuple):
    """One example as it is read.

    Attributes:
        example: token ids.
        text: target as text.
        fields: other features.
    """

    example: Example
    text: str
    fields: Fields


def has_metrics(name: str) -> bool:
    """Return whether a task has metrics; of a mixture its first task."""
    return seqio_metrics.has_metrics(tasks_of(name)[0])


def keeps_eos(name: str) -> bool:
    """Return whether all tasks of a mixture, or the task, end in seqio's append_eos_after_trim."""
    return all(_keeps_eos(task) for task in tasks_of(name))


def metric_fns(name: str) -> list[Metric]:
    """Return a task's metrics of (targets, predictions); those of a mixture's first task."""
    return seqio_metrics.predict_metrics(tasks_of(name)[0])


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
    rows: slice = slice(None),
) -> Evaluation:
    """Return the examples of a split, read as `load_examples` does, with targets and metrics.

    Targets and predictions are postprocessed with their example, as seqio's evaluator does.

    Args:
        name: name of the task; a mixture has the metrics of its first task.
        split: name of the split.
        vocabulary: vocabulary of the backbone.
        limit: number of examples read; None for all.
        lengths: feature lengths in tokens of text.
        use_cached: whether to read seqio's offline cache.
        rows: slice of the examples read that are returned.
    """
    options: dict[str, Any] = {"limit": limit, "lengths": lengths, "use_cached": use_cached}
    tasks = require_split(name, split)
    read = [(task, row) for task in tasks for row in _read(task, split, vocabulary, **options)]
    read = read[:limit][rows]
    if not read:
        raise SpotError(
            f"expected examples in split {split!r} of {name}, found none; "
            "check the task's data and filters, or choose another split"
        )
    features = [_features(row, lengths) for _, row in read]
    targets = [
        _target(task, split, row, example)
        for (task, row), example in zip(read, features, strict=True)
    ]
    return Evaluation(
        Examples.from_lists([row.example for _, row in read], task=name),
        targets,
        seqio_metrics.bound(_exchanged(tasks[0], vocabulary), features, vocabulary),
        [row.fields for _, row in read],
        choices=_choices(name, [row for _, row in read]),
    )


def _choices(name: str, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Each example's field `choices`; none where the task has no such field, or only some have."""
    if not all(CHOICES in row.fields for row in rows):
        return []
    choices = []
    for row in rows:
        texts = tuple(bytes(raw).decode("utf-8", "replace") for raw in row.fields[CHOICES])
        if len({*texts}) < 2 or row.text not in texts:
            raise SpotError(
                f"expected choices of {name} that differ and have the target {row.text[:60]!r} "
                f"among them, found {', '.join(map(repr, texts[:4])) or 'none'}; correct the data, "
                f"or leave the field {CHOICES!r} out"
            )
        choices.append(texts)
    return choices


def _choice_tokens(
    task: seqio.Task, rows: Sequence[Row], vocabulary: Vocabulary
) -> np.ndarray | None:
    """Return tokens [n, c, u] of the answers that each example has of its own; None without."""
    tokens = [answer_tokens(vocabulary, texts) for texts in _choices(task.name, rows)]
    if not tokens:
        return None
    shape = [max(each.shape[axis] for each in tokens) for axis in (0, 1)]
    joined = np.zeros((len(tokens), *shape), np.int32)
    for whole, each in zip(joined, tokens, strict=True):
        whole[: each.shape[0], : each.shape[1]] = each
    return joined


def _features(row: Row, lengths: Lengths | None) -> Fields:
    """Return the features of an example as seqio's evaluator hands them to a postprocessor."""
    ids = dict(zip(FEATURES, row.example, strict=True))
    if lengths:
        keeps_eos = row.example.keeps_eos
        ids = {name: cut(ids[name], lengths.get(name, len(ids[name])), keeps_eos) for name in ids}
    return {**row.fields, **ids}


def _target(task: seqio.Task, split: str, row: Row, example: Fields) -> Any:
    try:
        return task.postprocess_fn(row.text, example=example, is_target=True)
    except Exception as error:
        raise SpotError(
            f"the postprocessor of {task.name} failed on target {row.text[:60]!r} of split "
            f"{split!r}: {one_line(error)}; correct it, or the data"
        ) from error


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
    hosts: Hosts | None = None,
) -> Source:
    """Return an endless source of a task's or mixture's examples, in an order fixed by the seed.

    A task is held in memory and shuffled anew each epoch; one of more than `maximum_in_memory`
    examples, or without an end, is streamed through seqio's own shuffling, and a resumed run then
    skips what it had read. Plain text is tokenised once and cut anew each epoch. A mixture's tasks
    come at seqio's rates.

    With `hosts` a task that would be held in memory is read and tokenised in shares instead, one a
    host (`spot_jax.data.shared_examples`); its order stays the same.
    """

    def source(number: int, task: seqio.Task) -> Source:
        if isinstance(task.source, TextLines):
            return task.source.token_source(split, vocabulary, lengths, seed + number)
        options = {"lengths": lengths, "use_cached": use_cached}
        return _task_source(
            task, split, vocabulary, seed + number, maximum_in_memory, options, hosts
        )

    registered = require(name)
    tasks = require_split(name, split)
    if not isinstance(registered, seqio.Mixture):
        return source(0, tasks[0])
    rates = {task.name: _rate(registered, task) for task in tasks}
    sources = {task.name: source(number, task) for number, task in enumerate(tasks, start=1)}
    return Mixture(sources, rates, seed)


def _rate(mixture: seqio.Mixture, task: seqio.Task) -> float:
    try:
        return float(mixture.get_rate(task))
    except Exception as error:
        raise SpotError(
            f"the rate of {task.name} in {mixture.name} cannot be computed: {one_line(error)}; "
            "give the task's source its number of examples, or the mixture a number as rate"
        ) from error


def _size(task: seqio.Task, split: str) -> int | None:
    try:
        return task.num_input_examples(split)
    except SpotError:
        raise
    except Exception as error:
        raise _unreadable(task, split, error) from error


def _task_source(
    task: seqio.Task,
    split: str,
    vocabulary: Vocabulary,
    seed: int,
    maximum: int,
    options: dict[str, Any],
    hosts: Hosts | None,
) -> Source:
    size = _size(task, split)
    size_checks.report(task.name, split, rows=size)

    def read() -> Examples | None:
        pairs, choosing = [], []
        for row in _read(task, split, vocabulary, limit=maximum + 1, **options):
            # Text is not kept: it takes several times the room of the tokens.
            pairs.append(row.example)
            if CHOICES in row.fields:
                choosing.append(row)
        if not pairs:
            raise SpotError(
                f"expected examples in split {split!r} of {task.name}, found none; "
                "check the task's data and filters"
            )
        if len(pairs) > maximum:
            return None
        examples = Examples.from_lists(pairs, task=task.name)
        every = len(choosing) == len(pairs)
        choices = _choice_tokens(task, choosing, vocabulary) if every else None
        return dataclasses.replace(examples, choices=choices)

    if size is None or size <= maximum:
        decided_by = sorted((options.get("lengths") or {}).items()), options.get("use_cached")
        key = (task.name, split, vocabulary.sha256, maximum, str(decided_by))
        examples: Examples | SharedExamples | None
        if hosts is None:
            examples = cached(key, read)
        else:
            examples = _shared(task, split, vocabulary, hosts, maximum, options, digest(str(key)))
        if examples is not None:
            size_checks.report(task.name, split, examples=len(examples))
            return Shuffled(examples, seed)

    def stream() -> Iterator[Example]:
        rows = _read(task, split, vocabulary, shuffle_seed=seed, **options)
        return (row.example for row in rows)

    return Stream(stream, name=task.name)


def _shared(
    task: seqio.Task,
    split: str,
    vocabulary: Vocabulary,
    hosts: Hosts,
    maximum: int,
    options: dict[str, Any],
    mark: str,
) -> SharedExamples | None:
    """Return a split's examples in shares, by its files where each host has some.

    The order of examples of several files is known where each of their rows is one example.
    Otherwise every host reads all text, and tokenises each so many-th example.
    """
    directory = hosts.directory / f"{slug(task.name)[:60]}-{slug(split)[:20]}-{mark[:12]}"

    def dealt_out() -> Share:
        each = seqio.ShardInfo(hosts.index, hosts.count)
        rows = _read(task, split, vocabulary, examples_of=each, **options)
        return Share((row.example for row in rows), {})

    ways: list[Any] = [(dealt_out, lambda facts: dealt([each["count"] for each in facts]))]
    source = task._get_cached_source(split) if options.get("use_cached") else task.source
    files = len(_shards(source, split)) if _interleaving(source) else 0
    if files >= hosts.count:
        ways.insert(
            0,
            (
                lambda: _share_of_files(task, split, vocabulary, hosts, files, options),
                lambda facts: _order_of_files(facts, source, source.num_input_examples(split)),
            ),
        )
    return shared_examples(hosts, directory, ways, f"{task.name}, split {split!r}", maximum)


def _shards(source: seqio.DataSource, split: str) -> Sequence[str]:
    try:
        return source.list_shards(split)
    except SpotError:
        raise
    except Exception:  # what is wrong with the data is said where it is read
        return ()


def _share_of_files(
    task: seqio.Task,
    split: str,
    vocabulary: Vocabulary,
    hosts: Hosts,
    files: int,
    options: dict[str, Any],
) -> Share:
    counts: dict[str, int] = {}

    def examples() -> Iterator[Example]:
        for file in range(hosts.index, files, hosts.count):
            counts[str(file)] = 0
            each = seqio.ShardInfo(file, files)
            for row in _read(task, split, vocabulary, files_of=each, **options):
                counts[str(file)] += 1
                yield row.example

    return Share(examples(), counts)


def _interleaving(source: seqio.DataSource) -> tuple[int, int] | None:
    """Return of how many files a source reads in turn, and how many rows of each at a time.

    None for a source that is not known to read files.
    """
    if isinstance(source, seqio.FileDataSource):
        return source._cycle_length, source._block_length
    if isinstance(source, seqio.TfdsDataSource):
        # As TFDS has it: a data set that keeps the order of its rows is read file by file.
        ordered = source.tfds_dataset.builder.info.disable_shuffling
        return (1 if ordered else 16), 16
    return None


def _order_of_files(
    facts: Sequence[Mapping[str, Any]], source: seqio.DataSource, rows: int | None
) -> np.ndarray | None:
    """Return the place among the shares of each example; None where rows are not examples."""
    counts = {int(name): count for each in facts for name, count in each["files"].items()}
    interleaving = _interleaving(source)
    if interleaving is None or sum(counts.values()) != rows:
        return None
    sizes = tf.constant([counts[file] for file in sorted(counts)], tf.int64)

    def numbers(file: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(sizes[file]).map(lambda number: (file, number))

    cycle, block = interleaving
    order = tf.data.Dataset.range(len(counts)).interleave(
        numbers, cycle, block, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    parts = list(order.batch(65536).as_numpy_iterator())
    file, number = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return by_files(facts, file, number)


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
    files_of: seqio.ShardInfo | None = None,
    examples_of: seqio.ShardInfo | None = None,
) -> Iterator[Row]:
    """Yield the examples of a split; `SpotError` for whatever goes wrong while they are read.

    With `shuffle_seed` the split is repeated without end in seqio's shuffled order. With `files_of`
    a part of its files is read, with `examples_of` each so many-th example.
    """
    options = {
        "split": split,
        "sequence_length": lengths,
        "trim_output_features": False,
        "use_cached": use_cached,
        "shuffle": shuffle_seed is not None,
        "seed": shuffle_seed or 0,
        "num_epochs": 1 if shuffle_seed is None else None,
        "shard_info": files_of,
    }
    if use_cached:
        _check_cached(task, vocabulary)
        rows = _by_seqio(task, vocabulary, options, examples_of)
    elif _ends_in_tokenisation(task):
        rows = _by_us(task, vocabulary, options, examples_of)
    else:
        rows = _by_seqio(task, vocabulary, options, examples_of)
    number = 0
    try:
        for row in itertools.islice(rows, limit):
            _check_target(task, split, row)
            number += 1
            yield row
    except SpotError:
        raise
    except Exception as error:
        raise _unreadable(task, split, error, number) from error


def _check_target(task: seqio.Task, split: str, row: Row) -> None:
    if "targets_pretokenized" in row.fields and not row.text.strip():
        raise SpotError(
            f"expected a target in every example of split {split!r} of {task.name}, found an "
            f"empty one (inputs: {_start(row.fields)!r}); drop or correct such rows of the data"
        )
    if verbalizers.of(task.name):
        verbalizers.check(task.name, row.text)


def _unreadable(
    task: seqio.Task, split: str, error: Exception, examples: int | None = None
) -> SpotError:
    """Return what to say of an error of the task's own source or steps."""
    where = "" if examples is None else f" after {examples:,} examples"
    return SpotError(
        f"split {split!r} of {task.name} cannot be read{where}: {one_line(error)}; correct the "
        "task's data, or its source and preprocessors"
    )


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


def _keeps_eos(task: seqio.Task) -> bool:
    """Return whether the task's last step cuts its features and appends eos after that.

    The cut is made where batches are, which know the lengths, so that it is counted.
    """
    return _steps(task)[-1:] == [seqio.preprocessors.append_eos_after_trim]


def _by_us(
    task: seqio.Task,
    vocabulary: Vocabulary,
    options: dict[str, Any],
    part: seqio.ShardInfo | None,
) -> Iterator[Row]:
    """Read text through seqio and tokenise it here: the same ids, several times faster."""
    text = seqio.Feature(seqio.PassThroughVocabulary(0), add_eos=False, dtype=tf.string, rank=0)
    untokenised = task.replace(
        preprocessors=_steps(task)[:-2],
        output_features=dict.fromkeys(FEATURES, text),
    )
    rows = _rows(_part_of(untokenised.get_dataset(**options), part))
    keeps_eos = _keeps_eos(task)
    ends = [[EOS] if task.output_features[feature].add_eos else [] for feature in FEATURES]
    while block := list(itertools.islice(rows, 4096)):
        texts = [[_decoded(row[f], f, task, options) for row in block] for f in FEATURES]
        inputs, targets = (vocabulary.encode_all(side) for side in texts)
        for row, ids, target_ids, target in zip(block, inputs, targets, texts[1], strict=True):
            fields = {key: value for key, value in row.items() if key not in FEATURES}
            fields |= {f"{feature}_pretokenized": row[feature] for feature in FEATURES}
            example = Example(_ids(ids + ends[0]), _ids(target_ids + ends[1]), keeps_eos)
            yield Row(example, target, fields)


def _decoded(raw: bytes, feature: str, task: seqio.Task, options: Mapping[str, Any]) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        start = raw[:60].decode("utf-8", "replace")
        raise SpotError(
            f"expected UTF-8 in {feature!r} of split {options['split']!r} of {task.name}, found "
            f"byte 0x{raw[error.start]:02x} at place {error.start} of {start!r}; convert the data"
        ) from error


def _rows(dataset: tf.data.Dataset) -> Iterator[Fields]:
    """Yield the examples as numpy, fetched many at a time where their shapes allow it."""
    if not all(spec.shape.is_fully_defined() for spec in dataset.element_spec.values()):
        yield from dataset.as_numpy_iterator()
        return
    for block in dataset.batch(1024).as_numpy_iterator():
        for number in range(len(block["targets"])):
            yield {key: values[number] for key, values in block.items()}


def _part_of(dataset: tf.data.Dataset, part: seqio.ShardInfo | None) -> tf.data.Dataset:
    return dataset if part is None else dataset.shard(part.num_shards, part.index)


def _by_seqio(
    task: seqio.Task,
    vocabulary: Vocabulary,
    options: dict[str, Any],
    part: seqio.ShardInfo | None,
) -> Iterator[Row]:
    """Read through the whole of the task's pipeline, its features' vocabularies exchanged."""
    exchanged, keeps_eos = _exchanged(task, vocabulary), _keeps_eos(task)
    if keeps_eos:
        after_trim = seqio.preprocessors.append_eos_after_trim
        steps = [s for s in task.preprocessors if s is not after_trim]
        exchanged = exchanged.replace(preprocessors=[*steps, seqio.preprocessors.append_eos])
    for row in _part_of(exchanged.get_dataset(**options), part).as_numpy_iterator():
        fields = {key: value for key, value in row.items() if key not in FEATURES}
        raw = row.get("targets_pretokenized")
        if isinstance(raw, bytes):
            text = _decoded(raw, "targets", task, options)
        else:
            text = vocabulary.decode(row["targets"])
        example = Example(_ids(row.get("inputs", [])), _ids(row["targets"]), keeps_eos)
        yield Row(example, text, fields)


def _exchanged(task: seqio.Task, vocabulary: Vocabulary) -> seqio.Task:
    """Return the task with the backbone's vocabulary in the place of its features' own."""
    ours = seqio.SentencePieceVocabulary(str(vocabulary.path), extra_ids=vocabulary.extra_ids)
    return task.replace(
        output_features={
            name: dataclasses.replace(feature, vocabulary=ours)
            for name, feature in task.output_features.items()
        }
    )


def use_vocabulary(name: str, vocabulary: Vocabulary) -> seqio.Vocabulary:
    """Give a task in seqio's registry the backbone's vocabulary, for code that reads it there.

    Returns the vocabulary as seqio's.

    Raises:
        SpotError: a mixture of tasks in another vocabulary: it holds its tasks, not their names.
    """
    ours = seqio.SentencePieceVocabulary(str(vocabulary.path), extra_ids=vocabulary.extra_ids)
    if all(f.vocabulary == ours for task in tasks_of(name) for f in task.output_features.values()):
        return ours
    if name not in seqio.TaskRegistry.names():
        raise SpotError(
            f"{name} is a mixture of tasks in another vocabulary than the backbone's "
            f"{vocabulary.path}; register its tasks with that one"
        )
    exchanged = _exchanged(seqio.TaskRegistry.get(name), vocabulary)
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, exchanged)
    return ours


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
