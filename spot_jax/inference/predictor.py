"""Predictions for lines of text, JSON or CSV, as they come; nothing here needs TensorFlow."""

import codecs
import csv
import difflib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from spot_jax.data.batches import BatchShape, truncated
from spot_jax.data.examples import Example, Examples
from spot_jax.data.fields import names_in, write
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import Search, predict
from spot_jax.evaluation.scored_task import search_of
from spot_jax.inference.tuned import Prompt, Tuned, open_tuned
from spot_jax.t5.vocabulary import EOS
from spot_jax.training.run_info import TaskFacts
from spot_jax.training.sharding import MeshShape

FORMATS = ("auto", "text", "jsonl", "csv", "tsv")
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "text"}
PREDICTION = "prediction"
DEFAULT_LENGTHS = {"inputs": 512, "targets": 32}
DEFAULT_ROWS = 32
# Batches that are predicted before the first of their results is written.
BATCHES_AT_ONCE = 8
SHORTEST = 32


class Predictor:
    """Predicts line after line with one prompt.

    Attributes:
        examples: lines predicted so far.
        truncated_inputs: number of those lines that were cut.
    """

    def __init__(
        self,
        tuned: Tuned,
        *,
        task: str | None = None,
        decoding: str = "auto",
        beams: int = 4,
        labels: Sequence[str] = (),
        batch_size: int | None = None,
        lengths: Mapping[str, int] | None = None,
    ):
        """Choose the prompt, and how it reads a line.

        Args:
            tuned: backbone and prompts; of several for the task the best by validation is taken.
            task: name of the task; needed where a run has several.
            decoding: "rank" among labels, "greedy", "beam", or "auto": rank where there are labels.
            beams: number of beams of "beam".
            labels: labels to choose among, some of the task's; all of them by default.
            batch_size: rows; the run's by default.
            lengths: tokens of text of inputs and targets; the run's by default.

        Raises:
            SpotError: a task that the run does not have, or a label that the task does not have.
        """
        self.tuned = tuned
        self.prompt, self.task = _choose(tuned, task)
        allowed = _labels(self.task, labels)
        setup = tuned.setup
        default_lengths = setup.lengths if setup else DEFAULT_LENGTHS
        self.fixed = bool(setup or (lengths and "inputs" in lengths))
        self.lengths = {**default_lengths, **(lengths or {})}
        self.rows = batch_size or (setup.batch_size if setup else DEFAULT_ROWS)
        name = self.task.name or "this prompt's task"
        if labels and decoding in ("greedy", "beam"):
            raise SpotError(f"labels are for ranking, {decoding} writes freely; leave one out")
        self.search: Search = search_of(
            name, decoding, allowed, beams, max_length=self.lengths["targets"]
        )
        self.inference = tuned.inference(self.prompt)
        self.examples = self.truncated_inputs = 0

    def __call__(
        self, lines: Iterable[str | bytes], form: str = "auto"
    ) -> Iterator[dict[str, Any]]:
        """Yield the fields of each line that is not blank, with its "prediction".

        Args:
            lines: texts, or JSON objects or rows of a table with the task's fields, or with
                "inputs", the whole text. Bytes are UTF-8.
            form: form of the lines, one of `FORMATS`; see `read_rows`.

        Raises:
            SpotError: no line at all, or the number of a line that is malformed or lacks a field.
        """
        rows = read_rows(lines, self.task, form)
        while block := list(itertools.islice(rows, self.rows * BATCHES_AT_ONCE)):
            texts = self._predict([text for _, text in block])
            for (fields, _), prediction in zip(block, texts, strict=True):
                yield {**fields, PREDICTION: prediction}
        if not self.examples:
            raise SpotError("the input has no lines; give one text or JSON object a line")

    # A str is a Sequence[str] too, but the first form comes first, for a type checker as well.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, inputs: str | Mapping[str, str]
    ) -> str: ...

    @overload
    def predict(self, inputs: Sequence[str | Mapping[str, str]]) -> list[str]: ...

    def predict(
        self, inputs: str | Mapping[str, str] | Sequence[str | Mapping[str, str]]
    ) -> str | list[str]:
        """Predict for one input, or for each of several.

        Args:
            inputs: text of a task with one field, or a mapping of the task's fields, or of
                "inputs" to the whole text; or a sequence of such.

        Returns:
            The label or the text written; a list for a sequence.

        Raises:
            SpotError: the number of an input that lacks a field or is no text.
        """
        alone = isinstance(inputs, str | Mapping)
        texts = []
        for number, item in enumerate([inputs] if alone else inputs, start=1):
            if not isinstance(item, str | Mapping):
                raise SpotError(
                    f"input {number}: expected a text or a mapping of fields, found "
                    f"{type(item).__name__}"
                )
            fields = _text_field(item, number, self.task) if isinstance(item, str) else item
            _check_unicode(fields, number)
            texts.append(_written(fields, number, self.task))
        predictions = self._predict(texts) if texts else []
        return predictions[0] if alone else predictions

    def _predict(self, texts: list[str]) -> list[str]:
        tuned, vocabulary = self.tuned, self.tuned.vocabulary
        encoded = vocabulary.encode_all(texts)
        keeps_eos = self.task.keeps_eos
        examples = Examples.from_lists(
            [
                Example(np.array([*ids, EOS], np.int32), np.zeros(0, np.int32), keeps_eos)
                for ids in encoded
            ]
        )
        longest, _ = examples.longest()
        room = self.lengths["inputs"]
        if not self.fixed:
            # Few lengths, each of which is compiled once.
            room = min(room, max(SHORTEST, 1 << (longest - 1).bit_length()))
        shape = BatchShape(self.rows, room, self.lengths["targets"])
        self.examples += len(texts)
        self.truncated_inputs += truncated(examples, shape, tuned.writer(self.prompt))[0]
        batches, place = tuned.batches(examples, shape, self.prompt)
        # Without targets there is no loss.
        features = ("encoder_input_tokens", "row_valid")
        predictions = predict(
            self.inference.params,
            tuned.backbone.config,
            ({name: batch[name] for name in features} for batch in batches),
            vocabulary,
            table=self.inference.table,
            search=self.search,
            scorer=self.inference.scorer,
            place=place,
        )
        return predictions.texts


def load(
    path: str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | None = None,
    which: str = "best",
    mesh: MeshShape | None = None,
    **options: Any,
) -> Predictor:
    """Load what was tuned, to predict with: `load(run.directory).predict([...])`.

    Args:
        path: run directory of `train`, or path of one prompt file.
        backbone: directory of the stored backbone; needed for a prompt file, and for a run whose
            backbone has moved.
        which: "best" by validation, or "last", of a run's prompts.
        mesh: arrangement of devices; one device by default.
        **options: arguments of `Predictor`, such as `task`, `decoding` or `labels`.

    Raises:
        SpotError: nothing at the path, or what was tuned does not fit the backbone.
    """
    alone = Path(path).expanduser().is_file()
    if alone and backbone is None:
        raise SpotError(
            f"{os.fspath(path)} is a prompt file, which needs its backbone; add backbone=DIR"
        )
    tuned = open_tuned(
        None if alone else path,
        backbone=backbone,
        prompts=[path] if alone else (),
        which=which,
        mesh=mesh,
    )
    return Predictor(tuned, **options)


def read_rows(
    lines: Iterable[str | bytes], task: TaskFacts, form: str = "auto"
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each line's fields and its text as the task writes it.

    Args:
        lines: lines with their ends or without; blank ones are left out.
        task: facts about the task.
        form: "text", a text a line; "jsonl", a JSON object a line; "csv" or "tsv", a table whose
            first row names its columns; "auto": JSON where the first line is a JSON object, else
            text.

    Raises:
        SpotError: a line that is not UTF-8 or not of the form, one that lacks a field of the task
            or has a field "prediction", or a first line that might be JSON or text.
    """
    if form not in FORMATS:
        raise SpotError(f"expected format {', '.join(FORMATS)}, found {form!r}")
    numbered = _decoded(lines)
    if form in ("csv", "tsv"):
        rows = _table_rows(numbered, "," if form == "csv" else "\t")
    else:
        rows = _line_rows(numbered, task, form)
    for number, fields in rows:
        if PREDICTION in fields:
            raise SpotError(
                f"line {number} has a field {PREDICTION!r} of its own, which ours would replace; "
                "rename it"
            )
        _check_unicode(fields, number)
        yield fields, _written(fields, number, task)


def _decoded(lines: Iterable[str | bytes]) -> Iterator[tuple[int, str]]:
    """Return the lines as text, without a byte-order mark, with their numbers."""
    for number, line in enumerate(lines, start=1):
        if isinstance(line, bytes):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise SpotError("expected text in UTF-8, found UTF-16; convert it")
            try:
                line = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise SpotError(
                    f"line {number}: expected text in UTF-8, found byte "
                    f"0x{line[error.start]:02x} at place {error.start}; convert it"
                ) from error
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def _line_rows(
    lines: Iterator[tuple[int, str]], task: TaskFacts, form: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in lines:
        line = raw.strip("\r\n")
        if not line.strip():
            continue
        if form == "auto":
            form = _form_of(line, number)
        yield number, _object(line, number) if form == "jsonl" else _text_field(line, number, task)


def _form_of(line: str, number: int) -> str:
    if not line.lstrip().startswith("{"):
        return "text"
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpotError(
            f"line {number} begins as JSON does and is none ({error}); correct it, or add "
            "--format text where lines are texts"
        ) from error
    return "jsonl"


def _table_rows(
    lines: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader((line for _, line in lines), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SpotError(
                    f"line {reader.line_num}: expected {len(reader.fieldnames or ())} fields as "
                    f"in the first line, found {'more' if None in row else 'fewer'}"
                )
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise SpotError(f"line {reader.line_num} is no row of a table: {error}") from error


def _check_unicode(fields: Mapping[str, Any], number: int) -> None:
    for name, value in fields.items():
        try:
            f"{name}{value if isinstance(value, str) else ''}".encode()
        except UnicodeEncodeError as error:
            raise SpotError(
                f"line {number}: the field {name!a} holds half a surrogate pair, "
                f"{error.object[error.start]!a}, which no text has; correct it"
            ) from error


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpotError(
            f"line {number} is not JSON: {error}; correct it, or add --format text where lines "
            "are texts"
        ) from error
    if not isinstance(value, dict):
        raise SpotError(f"line {number}: expected a JSON object, found {type(value).__name__}")
    return value


def _text_field(line: str, number: int, task: TaskFacts) -> dict[str, Any]:
    names = names_in(task.template) if task.template else ("inputs",)
    if len(names) > 1:
        raise SpotError(
            f"line {number}: {task.name} has the fields {', '.join(names)}; give a JSON object "
            "with them a line, or a table (--format csv)"
        )
    return {names[0]: line}


def _written(fields: Mapping[str, Any], number: int, task: TaskFacts) -> str:
    names = names_in(task.template) if task.template else ("inputs",)
    if "inputs" in fields and "inputs" not in names:
        names, template = ("inputs",), "{inputs}"
    else:
        template = task.template or "{inputs}"
    for name in names:
        if name not in fields:
            present = ", ".join(fields) or "none"
            more = "" if names == ("inputs",) else ' (or "inputs" with the whole text)'
            raise SpotError(
                f"line {number} lacks the field {name}; expected {', '.join(names)}{more}, "
                f"found {present}"
            )
        if not isinstance(fields[name], str):
            kind = type(fields[name]).__name__
            raise SpotError(f"line {number}: expected text in the field {name}, found {kind}")
    return write(template, fields)


def _choose(tuned: Tuned, task: str | None) -> tuple[Prompt, TaskFacts]:
    """Return the prompt to predict with and its task."""
    setup = tuned.setup
    facts_of = {} if setup is None else {facts.name: facts for facts in setup.tasks}
    if task is not None and facts_of and task not in facts_of:
        near = difflib.get_close_matches(task, facts_of, 3, cutoff=0.0)
        raise SpotError(
            f"the run has no task {task!r} (nearest: {', '.join(near)}); name one of its own"
        )
    if task is None:
        # A file of elsewhere says which task it is for.
        named = {prompt.task for prompt in tuned.prompts} & facts_of.keys()
        names = sorted(named or facts_of)
        if len(names) > 1:
            raise SpotError(f"the run has {len(names)} tasks, {', '.join(names)}; add --task NAME")
        task = names[0] if names else tuned.prompts[0].task
    prompts = tuned.prompts
    if tuned.from_run and setup is not None and not setup.tunes_backbone:
        pairs = zip(prompts, setup.tasks, strict=True)
        prompts = tuple(prompt for prompt, facts in pairs if facts.name == task)
    chosen = max(prompts, key=lambda prompt: prompt.score)
    return chosen, facts_of.get(task) or TaskFacts(task, template=chosen.form)


def _labels(task: TaskFacts, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels to choose among: those given, which must be the task's if it has any."""
    for label in labels if task.labels else ():
        if label not in task.labels:
            near = difflib.get_close_matches(label, task.labels, 3) or list(task.labels[:3])
            raise SpotError(
                f"{label!r} is none of the {len(task.labels)} labels of {task.name} (nearest: "
                f"{', '.join(near)}); give some of those, or leave them out for all"
            )
    if len(labels) == 1 or len(set(labels)) < len(labels):
        raise SpotError(f"expected at least two different labels, found {', '.join(labels)}")
    return tuple(labels) or task.labels
