"""Predictions for lines of text, JSON or CSV, as they come; nothing here needs TensorFlow."""

import codecs
import copy
import csv
import dataclasses
import difflib
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

from spot_jax.data.fields import names_in, write
from spot_jax.errors import SpotError, short
from spot_jax.evaluation.evaluate import Search
from spot_jax.evaluation.scored_task import load_task, search_of
from spot_jax.files import parse_json
from spot_jax.inference.calibration import temperature_of
from spot_jax.inference.prediction import Prediction
from spot_jax.inference.rows import ReadyPrompt, predict_rows
from spot_jax.inference.tuned import Prompt, Tuned, open_tuned
from spot_jax.methods.prompt_forms import is_prompt
from spot_jax.training.run_info import RunSetup, TaskFacts
from spot_jax.training.sharding import MeshShape

FORMATS = ("auto", "text", "jsonl", "csv", "tsv")
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "text"}
PREDICTION = "prediction"
CHOICES = "choices"
"""Field of a row with answers of its own, as in tasks whose examples have such a field."""
DEFAULT_LENGTHS = {"inputs": 512, "targets": 32}
DEFAULT_ROWS = 32
# Batches that are predicted before the first of their results is written.
BATCHES_AT_ONCE = 8


class DataFrame(Protocol):
    """A table of pandas; those of polars and Arrow are taken as well."""

    columns: Any


class Predictor:
    """Predicts with one prompt; threads may share it.

    Attributes:
        tuned: backbone and prompts.
        prompt: prompt that predicts.
        task: facts of its task, which say what a text means to it.
        examples: number of examples predicted so far.
        truncated_inputs: number of them that were cut.
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
        temperature: float | None = None,
    ):
        """Choose the prompt, and what a line means to it.

        Args:
            tuned: backbone and prompts; of several prompts for the task the one of the best
                validation score is taken.
            task: name of the task, where a run has several.
            decoding: "rank" among labels, "greedy", "beam", or "auto": rank where there are labels.
            beams: number of beams of "beam".
            labels: labels to choose among; the task's by default, of which they must be some.
            batch_size: number of rows; the run's by default.
            lengths: lengths of inputs and targets in tokens of text; the run's by default, or
                the prompt file's.
            temperature: divisor of the labels' log-likelihoods in their probabilities, the
                prompt file's by default; see `calibrated`.

        Raises:
            SpotError: a task that the run does not have, or a label that the task does not have.
        """
        self.tuned = tuned
        by_place = tuned.from_run and tuned.setup is not None and not tuned.setup.tunes_backbone
        self.prompt, self.task = choose(tuned.prompts, tuned.setup, task, by_place=by_place)
        allowed = _labels(self.task, labels)
        setup, use = tuned.setup, self.prompt.use
        usual = setup.lengths if setup else {**DEFAULT_LENGTHS, **use.lengths}
        self.lengths = {**usual, **(lengths or {})}
        self.rows = batch_size or (setup.batch_size if setup else DEFAULT_ROWS)
        name = self.task.name or "this prompt's task"
        self._takes_choices = decoding == "auto" and not allowed
        if decoding == "auto" and not labels:
            decoding, beams = use.decoding, use.beams
        if labels and decoding in ("greedy", "beam"):
            raise SpotError(f"labels are for ranking, {decoding} writes freely; leave one out")
        self.search: Search = search_of(
            name, decoding, allowed, beams, max_length=self.lengths["targets"]
        )
        self.ready = ReadyPrompt.of(
            tuned,
            self.prompt,
            self.task,
            self.search,
            self.lengths,
            use.temperature if temperature is None else temperature,
        )
        self.examples = self.truncated_inputs = 0
        self._counting = threading.Lock()

    def __call__(
        self, lines: Iterable[str | bytes], form: str = "auto"
    ) -> Iterator[dict[str, Any]]:
        """Yield the fields of each line that is not blank, with its "prediction".

        Args:
            lines: texts, or JSON objects or rows of a table with the task's fields, or with
                "inputs", the whole text, and perhaps "choices". Bytes are UTF-8.
            form: form of the lines, one of `FORMATS`; see `read_rows`.

        Raises:
            SpotError: no line at all, or the number of a line that is malformed or lacks a field.
        """
        rows = read_rows(lines, self.task, form)
        empty = True
        while block := list(itertools.islice(rows, self.rows * BATCHES_AT_ONCE)):
            empty = False
            predictions = self._predict(
                [text for _, text in block],
                self._choices([fields for fields, _ in block], "line of the input"),
                probabilities=False,
            )
            for (fields, _), prediction in zip(block, predictions, strict=True):
                yield {**fields, PREDICTION: prediction.label}
        if empty:
            raise SpotError("the input has no lines; give one text or JSON object a line")

    # A str is a Sequence[str] too, but the first form comes first, for a type checker as well.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        inputs: str | Mapping[str, Any],
        *,
        batch_size: int | None = None,
        probabilities: bool = True,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        inputs: Iterable[str | Mapping[str, Any]] | DataFrame,
        *,
        batch_size: int | None = None,
        probabilities: bool = True,
    ) -> list[Prediction]: ...

    def predict(
        self,
        inputs: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | DataFrame,
        *,
        batch_size: int | None = None,
        probabilities: bool = True,
    ) -> Prediction | list[Prediction]:
        """Predict for one input, or for each of several, in their order.

        Args:
            inputs: text of a task with one field, or a mapping of the task's fields, or of
                "inputs" to the whole text; or several of such; or a data frame (pandas, polars,
                Arrow) with these as columns. For a task without labels a field "choices" has the
                texts that the answer is chosen among.
            batch_size: number of rows that run at once, at most; the run's by default.
            probabilities: whether predictions of labels hold each label's probability. Without
                them many labels take less time.

        Returns:
            The label or the text written, with probabilities; a list for several inputs.

        Raises:
            SpotError: the number of an input that lacks a field or is no text.
        """
        if batch_size is not None and batch_size < 1:
            raise SpotError(f"expected batch_size to be at least 1, found {batch_size}")
        alone = isinstance(inputs, str | Mapping)
        several: Any = [inputs] if alone else inputs
        several = list(_records(several))
        texts = texts_of(several, self.task)
        choices = self._choices(several, "input")
        predictions = self._predict(texts, choices, batch_size, probabilities)
        return predictions[0] if alone else predictions

    def calibrated(
        self,
        inputs: Iterable[str | Mapping[str, Any]] | DataFrame,
        targets: Sequence[str],
    ) -> "Predictor":
        """Return the same predictor with probabilities at the temperature that suits examples.

        Args:
            inputs: examples that were not trained on, as `predict` takes them.
            targets: label of each.

        Raises:
            SpotError: fewer than ten examples, or a target that is none of the labels.
        """
        return self._at(self._with_temperature(1.0)._predict(texts_of(inputs, self.task)), targets)

    def calibrated_on(self, split: str = "validation") -> "Predictor":
        """Return the same predictor, calibrated on a split of its task, which is read by name.

        Raises:
            SpotError: a task that is not registered, or as `calibrated`.
        """
        tuned = self.tuned
        tuned.register_tasks()
        task = load_task(
            self.task.name, split, tuned.vocabulary, lengths=self.lengths, decoding="greedy"
        )
        plain = self._with_temperature(1.0)
        rows = [plain.ready.row(inputs) for inputs, _ in task.examples]
        return self._at(predict_rows(tuned, rows, batch_size=self.rows), task.targets)

    def _choices(self, items: Sequence[Any], what: str) -> list[tuple[str, ...]]:
        """Return each input's own answers to choose among; empty where it has none."""
        if not self._takes_choices or self.ready.inference.scorer is not None:
            return []
        return [choices_of(item, f"{what} {n}") for n, item in enumerate(items, start=1)]

    def _at(self, predictions: Sequence[Prediction], targets: Sequence[Any]) -> "Predictor":
        return self._with_temperature(temperature_of(predictions, targets))

    def _with_temperature(self, temperature: float) -> "Predictor":
        other = copy.copy(self)
        other.ready = dataclasses.replace(self.ready, temperature=temperature)
        other.examples = other.truncated_inputs = 0
        other._counting = threading.Lock()
        return other

    def _predict(
        self,
        texts: Sequence[str],
        choices: Sequence[tuple[str, ...]] = (),
        batch_size: int | None = None,
        probabilities: bool = True,
    ) -> list[Prediction]:
        vocabulary = self.tuned.vocabulary
        rows = self.ready.rows(vocabulary, texts)
        for number, answers in enumerate(choices):
            if answers:
                prompt = self.ready.among(vocabulary, answers)
                rows[number] = rows[number]._replace(prompt=prompt)
        with self._counting:
            self.examples += len(rows)
            self.truncated_inputs += sum(row.was_cut for row in rows)
        return predict_rows(
            self.tuned, rows, batch_size=batch_size or self.rows, probabilities=probabilities
        )


def load(
    path: str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | None = None,
    which: str = "best",
    mesh: MeshShape | None = None,
    calibrate: str | None = None,
    **options: Any,
) -> Predictor:
    """Load what was tuned, to predict with: `load(run.directory).predict([...])`.

    Args:
        path: run directory of `train`, or path of one prompt (`load_prompt`).
        backbone: directory of the stored backbone; needed for a prompt file, and for a run whose
            backbone has moved.
        which: "best" by validation, or "last", of a run's prompts.
        mesh: arrangement of devices; one device by default.
        calibrate: split of the task, such as "validation", on which probabilities are calibrated.
        **options: arguments of `Predictor`, such as `task`, `decoding` or `labels`.

    Raises:
        SpotError: nothing at the path, or what was tuned does not fit the backbone.
    """
    alone = is_prompt(path)
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
    predictor = Predictor(tuned, **options)
    return predictor if calibrate is None else predictor.calibrated_on(calibrate)


def choices_of(item: Any, place: str) -> tuple[str, ...]:
    """Return the texts in an input's field `choices`, a list or one in JSON; empty without it.

    Raises:
        SpotError: fewer than two texts, or two that are the same.
    """
    value = item.get(CHOICES) if isinstance(item, Mapping) else None
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            value = ()
    texts = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len({*map(str, texts)}) < max(2, len(texts)) or not all(isinstance(t, str) for t in texts):
        raise SpotError(
            f"{place}: expected two different texts or more in the field {CHOICES!r}, found "
            f"{short(item[CHOICES])}; give a list of them, or leave the field out to have an "
            "answer written"
        )
    return texts


def texts_of(inputs: Iterable[str | Mapping[str, Any]] | DataFrame, task: TaskFacts) -> list[str]:
    """Return each input as its task writes it.

    Args:
        inputs: texts or mappings of fields, or a data frame, as `Predictor.predict` takes them.
        task: facts of the task.

    Raises:
        SpotError: the number of an input that lacks a field or is no text.
    """
    texts = []
    for number, item in enumerate(_records(inputs), start=1):
        place = f"input {number}"
        if not isinstance(item, str | Mapping):
            raise SpotError(
                f"{place}: expected a text or a mapping of fields, found {type(item).__name__}"
            )
        fields = _text_field(item, place, task) if isinstance(item, str) else item
        _check_unicode(fields, place)
        texts.append(_written(fields, place, task))
    return texts


def _records(inputs: Any) -> Iterable[Any]:
    """The rows of a data frame as mappings; anything else as it is."""
    for name in ("to_dicts", "to_pylist"):  # polars; Arrow
        if hasattr(inputs, name):
            return getattr(inputs, name)()
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):  # pandas
        return inputs.to_dict("records")
    if not isinstance(inputs, Iterable):
        raise SpotError(
            f"expected a text, a mapping of fields, several of them or a data frame, found "
            f"{type(inputs).__name__}"
        )
    return inputs


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
        _check_unicode(fields, f"line {number}")
        yield fields, _written(fields, f"line {number}", task)


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
        if "\0" in line:
            raise SpotError(
                f"line {number} holds a NUL, which no text has; convert the file to UTF-8, or "
                "correct it"
            )
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
        if form == "jsonl":
            yield number, _object(line, number)
        else:
            yield number, _text_field(line, f"line {number}", task)


def _form_of(line: str, number: int) -> str:
    if not line.lstrip().startswith("{"):
        return "text"
    try:
        parse_json(line)
    except ValueError as error:
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


def _check_unicode(fields: Mapping[str, Any], place: str) -> None:
    for name, value in fields.items():
        try:
            f"{name}{value if isinstance(value, str) else ''}".encode()
        except UnicodeEncodeError as error:
            raise SpotError(
                f"{place}: the field {name!a} holds half a surrogate pair, "
                f"{error.object[error.start]!a}, which no text has; correct it"
            ) from error


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise SpotError(
            f"line {number} is not JSON: {error}; correct it, or add --format text where lines "
            "are texts"
        ) from error
    if not isinstance(value, dict):
        raise SpotError(f"line {number}: expected a JSON object, found {type(value).__name__}")
    return value


def _text_field(line: str, place: str, task: TaskFacts) -> dict[str, Any]:
    names = names_in(task.template) if task.template else ("inputs",)
    if len(names) > 1:
        raise SpotError(
            f"{place}: {task.name} has the fields {', '.join(names)}; give a JSON object "
            "with them a line, or a table (--format csv)"
        )
    return {names[0]: line}


def _written(fields: Mapping[str, Any], place: str, task: TaskFacts) -> str:
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
                f"{place} lacks the field {name}; expected {', '.join(names)}{more}, "
                f"found {present}"
            )
        if not isinstance(fields[name], str):
            kind = type(fields[name]).__name__
            raise SpotError(f"{place}: expected text in the field {name}, found {kind}")
    return write(template, fields)


def choose(
    prompts: Sequence[Prompt], setup: RunSetup | None, task: str | None, *, by_place: bool = True
) -> tuple[Prompt, TaskFacts]:
    """Return the prompt to predict with, the best of a task's by validation, and its task.

    Args:
        prompts: prompts to choose from.
        setup: setup of the run, if there is one.
        task: name of the task; None for the only one.
        by_place: whether the prompts are those of the run, in the order of its tasks.

    Raises:
        SpotError: a task that the run lacks, or several and none named.
    """
    facts_of = {} if setup is None else {facts.name: facts for facts in setup.tasks}
    if task is not None and facts_of and task not in facts_of:
        near = difflib.get_close_matches(task, facts_of, 3, cutoff=0.0)
        raise SpotError(
            f"the run has no task {task!r} (nearest: {', '.join(near)}); name one of its own"
        )
    if task is None:
        # A file of elsewhere says which task it is for.
        named = {prompt.task for prompt in prompts} & facts_of.keys()
        names = sorted(named or facts_of)
        if len(names) > 1:
            raise SpotError(f"the run has {len(names)} tasks, {', '.join(names)}; add --task NAME")
        task = names[0] if names else prompts[0].task
    if by_place and setup is not None:
        pairs = zip(prompts, setup.tasks, strict=True)
        prompts = [prompt for prompt, facts in pairs if facts.name == task]
    chosen = max(prompts, key=lambda prompt: prompt.score)
    return chosen, facts_of.get(task) or dataclasses.replace(chosen.facts, name=task)


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
