"""Data by name, for a run: files without seqio, everything else through it.

`FILE.csv?text=A,B&label=C`, and JSON lines, Parquet and so on, are rows of one's own
(`spot_jax.data.table`). `FILE.npz` is what `Examples.save` wrote; `{split}` in a file's name stands
for the split. `FILE.npy:span_corruption` and `FILE.npy:prefix_lm` are flat tokens of text with an
objective. Any other name is a seqio task or mixture. Only the last imports seqio and TensorFlow.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from spot_jax import shipped
from spot_jax.data import fields, templates, verbalizers
from spot_jax.data.denoising import TokenSource, objective
from spot_jax.data.evaluation_set import EvaluationSet
from spot_jax.data.example_cache import cached
from spot_jax.data.examples import Examples
from spot_jax.data.shared_examples import Hosts
from spot_jax.data.sources import JOIN, Mixture, Shuffled, Source, mixing_rates, unknown_name
from spot_jax.data.table import description, task
from spot_jax.data.text_tokens import load_tokens
from spot_jax.errors import SpotError
from spot_jax.files import input_path
from spot_jax.metrics import Metric, accuracy
from spot_jax.t5.vocabulary import Vocabulary

Lengths = Mapping[str, int]
LARGEST = 2**19
"""Size that a task without an end counts as in a mixture (SPoT section 2.1.3)."""
ALL = slice(None)


def is_arrays(name: str) -> bool:
    """Return whether `name` is a file of arrays, which needs no seqio."""
    return name.endswith(".npz") or ".npy:" in name


def is_table(name: str) -> bool:
    """Return whether `name` is a file of rows, which needs no seqio either."""
    return task.is_registered(name) or (description.is_table(name) and not _with_tables(name))


def _with_tables(name: str) -> list[str]:
    """The parts of a mixture `a+b` that has a file of rows among them; none for other names."""
    parts = _parts(name)
    if len(parts) == 1 or task.is_registered(name) or description.exists(name):
        return []
    return parts if any(map(is_table, parts)) else []


def constituents(name: str) -> tuple[str, ...]:
    """Return the tasks that a mixture consists of, mixtures within it too; of a task itself."""
    if is_arrays(name) or is_table(name):
        return (name,)
    if parts := _with_tables(name):
        return tuple(dict.fromkeys(each for part in parts for each in constituents(part)))
    return tuple(task.name for task in _seqio().tasks_of(name))


def with_split(name: str, split: str) -> tuple[str, ...]:
    """Return the tasks of a mixture that have a split; `SpotError` if none has."""
    if parts := _with_tables(name):
        tables = [part for part in parts if is_table(part)]
        having = [part for part in tables if task.open_table(part).splits.get(split)]
        others = JOIN.join(part for part in parts if part not in tables)
        return (*having, *(with_split(others, split) if others else ()))
    return tuple(task.name for task in _seqio().require_split(name, split))


def has_metrics(name: str) -> bool:
    """Return whether predictions on `name` are scored; text without labels has only a loss."""
    if is_arrays(name):
        return name.endswith(".npz")
    return is_table(name) or _seqio().has_metrics(name)


def metric_fns(name: str) -> list[Metric]:
    """Return the metrics of (targets, predictions), both as the task's postprocessor makes them.

    Metrics that take scores or auxiliary values are not among them. Arrays are compared as text.
    """
    if is_table(name):
        return task.open_table(name).metrics
    return [accuracy] if is_arrays(name) else _seqio().metric_fns(name)


def load_examples(
    name: str,
    split: str,
    vocabulary: Vocabulary | None,
    *,
    limit: int | None = None,
    lengths: Lengths | None = None,
) -> Examples:
    """Return the examples of a split in order; see `seqio_tasks.load_examples` for tasks.

    Of endless text in arrays the first `limit` examples are taken.
    """
    if name.endswith(".npz"):
        examples = Examples.load(_path(name, split))
        return examples if limit is None else examples.first(limit)
    if is_arrays(name):
        if limit is None:
            raise SpotError(f"expected a number of examples to take from {name}; give a limit")
        source = training_source(name, vocabulary, 0, split=split, lengths=lengths)
        return Examples.from_lists([source.next() for _ in range(limit)], task=name)
    needed = _needed(vocabulary, name)
    if is_table(name):
        return task.open_table(name).examples(split, needed, limit)
    return _seqio().load_examples(name, split, needed, limit=limit, lengths=lengths)


def load_evaluation(
    name: str,
    split: str,
    vocabulary: Vocabulary | None,
    *,
    limit: int | None = None,
    lengths: Lengths | None = None,
    rows: slice = ALL,
    use_cached: bool = False,
) -> EvaluationSet:
    """Return what predictions on a split are compared with, and by what.

    Args:
        name: name of the task.
        split: name of the split.
        vocabulary: vocabulary of the backbone.
        limit: number of examples read; None for all.
        lengths: feature lengths in tokens of text, for tasks whose examples depend on them.
        rows: slice of the examples read that are evaluated on.
        use_cached: whether seqio's offline cache is read, of a task by name.
    """
    needed = _needed(vocabulary, name)
    if is_table(name):
        table = task.open_table(name)
        pairs = list(table.examples(split, needed, limit))[rows]
        golds = [item.gold for item in table.items(split)[:limit][rows]]
        return EvaluationSet(Examples.from_lists(pairs, task=name), golds, table.metrics)
    if not is_arrays(name):
        return _seqio().load_evaluation(
            name, split, needed, limit=limit, lengths=lengths, rows=rows, use_cached=use_cached
        )
    every = load_examples(name, split, vocabulary, limit=limit)
    examples = every if rows == ALL else Examples.from_lists(list(every)[rows], task=every.task)
    targets = [needed.decode(ids.tolist()) for _, ids in examples]
    return EvaluationSet(examples, targets, [accuracy])


def training_source(
    name: str,
    vocabulary: Vocabulary | None,
    seed: int,
    *,
    split: str = "train",
    lengths: Lengths | None = None,
    use_cached: bool = False,
    hosts: Hosts | None = None,
) -> Source:
    """Return an endless source of a split; see `seqio_tasks.training_source` for tasks."""
    if name.endswith(".npz"):
        return Shuffled(Examples.load(_path(name, split)), seed)
    if is_arrays(name):
        path, _, kind = _path(name, split).rpartition(":")
        if not lengths:
            raise SpotError(f"expected feature lengths to cut {name} by, found none; give them")
        needed = _needed(vocabulary, name)
        text_objective = objective(kind, needed.size, lengths.get("targets"))
        return TokenSource(load_tokens(path, needed), text_objective, lengths["inputs"], seed)
    if is_table(name):
        table, needed = task.open_table(name), _needed(vocabulary, name)
        key = (table.table, table.sha256, split, needed.sha256)
        examples = cached(key, lambda: table.examples(split, needed))
        assert examples is not None
        return Shuffled(examples, seed)
    if parts := _with_tables(name):
        options: Any = {"split": split, "lengths": lengths, "use_cached": use_cached}
        options["hosts"] = hosts
        sources = {
            part: training_source(part, vocabulary, seed + number, **options)
            for number, part in enumerate(sorted(parts), start=1)
        }
        sizes = {
            part: len(source.examples) if isinstance(source, Shuffled) else LARGEST
            for part, source in sources.items()
        }
        return Mixture(sources, mixing_rates(sizes), seed)
    return _seqio().training_source(
        name,
        _needed(vocabulary, name),
        seed,
        split=split,
        lengths=lengths,
        use_cached=use_cached,
        hosts=hosts,
    )


def _path(name: str, split: str) -> str:
    if "{split}" not in name and split != "train":
        raise SpotError(
            f"expected {{split}} in the file name {name} to read split {split!r}, found a file for "
            "training only; name the files NAME-{split}.npz"
        )
    return name.replace("{split}", split)


def _needed(vocabulary: Vocabulary | None, name: str) -> Vocabulary:
    if vocabulary is None:
        raise SpotError(
            f"expected a backbone with a vocabulary to read {name}, found one without; "
            "give the vocabulary's path or tokenised arrays (.npz)"
        )
    return vocabulary


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what TensorFlow's C++ says while it is imported off the terminal.

    It looks for GPUs, which only JAX uses here, and no setting stops it from telling.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    error_output = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
        sys.modules["tensorflow"].config.set_visible_devices([], "GPU")
        # seqio warns of every task that is not cached, which ours never are.
        logging.getLogger("absl").setLevel(logging.ERROR)
    finally:
        os.dup2(error_output, 2)
        os.close(error_output)
        os.close(nothing)


def _seqio() -> ModuleType:
    try:
        with _quiet():
            from spot_jax.data import seqio_tasks
    except ImportError as error:
        raise SpotError(
            f"expected seqio and tensorflow to read tasks by name, found {error}; pip install "
            "'spot-jax[seqio]', or give a file of your own (.csv) or arrays (.npz)"
        ) from error
    return seqio_tasks


def import_modules(modules: Iterable[str]) -> None:
    """Import the Python modules that register tasks; `SpotError` for one that cannot be."""
    _seqio().import_all(modules)


def use_vocabulary(name: str, vocabulary: Vocabulary) -> Any:
    """Give a task in seqio's registry the backbone's vocabulary, and return that as seqio's.

    Raises:
        SpotError: no task or mixture of seqio's, or a mixture in another vocabulary.
    """
    if is_arrays(name) or is_table(name) or _with_tables(name):
        raise SpotError(f"{name} is no task of seqio's; register one, or run it with spot train")
    _seqio().require(name)
    return _seqio().use_vocabulary(name, vocabulary)


def set_directories(tfds_data: str | None, caches: Iterable[str]) -> None:
    """Point seqio to prepared TFDS data, and to caches of tasks beside those it knows.

    Raises:
        SpotError: a local directory that does not exist.
    """
    _seqio().set_directories(tfds_data, caches)


def check_names(
    names: Iterable[str], modules: Sequence[str] = (), text_directory: str | None = None
) -> None:
    """Refuse text that is not there, and names that nothing registers, before seqio is imported.

    That import takes seconds. Only where no module is named and seqio is not imported yet can a
    name be no other than those that ship; other names are found out when they are looked up.

    Args:
        names: names of tasks, mixtures and files.
        modules: names of modules that will register tasks.
        text_directory: directory of plain text, for tasks over it.

    Raises:
        SpotError: no such directory, or an unknown name, with the nearest ones.
    """
    if text_directory is not None:
        place = input_path(text_directory, "the text (TEXT_DIRECTORY)")
        if not place.is_dir():
            raise SpotError(f"{text_directory}: a file; give a directory of text (TEXT_DIRECTORY)")
    if modules or text_directory is not None or "seqio" in sys.modules:
        return
    shipping = shipped.NAMES.read_text("utf-8").split()
    for name in names:
        for part in [] if is_arrays(name) or is_table(name) else _parts(name):
            if not (is_arrays(part) or is_table(part) or part in shipping):
                raise unknown_name(part, shipping)


def register_text(directory: str) -> None:
    """Register `span_corruption` and `prefix_lm` over the plain text in a directory."""
    _seqio().register_text(directory)


def labels_of(name: str) -> tuple[str, ...] | None:
    """Return the label words of a task, or None where none are registered."""
    if is_arrays(name):
        return None
    if is_table(name):
        return task.labels_of(name) or None
    if _with_tables(name):
        return None
    _seqio().require(name)  # what ships registers its labels with its tasks
    return verbalizers.of(name)


def template_of(name: str) -> str | None:
    """Return the template of a task's inputs (`spot_jax.data.fields`), or None where unknown."""
    if is_arrays(name):
        return None
    if is_table(name):
        return task.template_of(name)
    if parts := _with_tables(name):
        forms = {template_of(part) for part in parts}
        return forms.pop() if len(forms) == 1 else None
    _seqio().require(name)
    forms = {fields.template_of(part) for part in _parts(name)}
    return forms.pop() if len(forms) == 1 else None


def keeps_eos(name: str) -> bool:
    """Return whether a task's text keeps its end of sequence where it is cut."""
    if is_table(name) or _with_tables(name):
        return True
    return not is_arrays(name) and _seqio().keeps_eos(name)


def in_template(name: str, template: str) -> str:
    """Register what `name` stands for in a template of P-Tuning's and return the new name.

    Raises:
        SpotError: what `seqio_templates.add_template_task` refuses, and arrays, which hold no text.
    """
    if is_arrays(name):
        raise SpotError(f"{name} is tokens already, no template can be written around them")
    if is_table(name):
        return _table_in_form(name, _checked_form(name, template))
    _seqio()
    from spot_jax.data.seqio_templates import add_template_task

    return JOIN.join(add_template_task(part, template) for part in _parts(name))


def again_in_template(name: str, form: str | None) -> None:
    """Register a name of `in_template` anew, in a process that only has its form."""
    if is_table(name):
        return
    whole = templates.base_of(name)
    if form and whole and is_table(whole):
        _table_in_form(whole, form)
        return
    for part in _parts(name):
        base = templates.base_of(part)
        if form and base:
            _seqio()
            from spot_jax.data.seqio_templates import add_form

            add_form(base, form, part)


def _checked_form(name: str, template: str) -> str:
    """The form of a template of P-Tuning's, whose fields are columns of a file."""
    parsed, table = templates.parse(template), task.open_table(name)
    templates.check_fields(parsed, (*table.columns, "inputs"), table.table.file)
    return parsed.form


def _table_in_form(name: str, form: str) -> str:
    """Register a file of rows whose text is written in a form, and return its name."""
    table = task.open_table(name).table
    template = form.replace("{inputs}", table.template) if "inputs" not in table.text else form
    in_form = templates.name_of(name, form)
    if not task.is_registered(in_form):
        task.register(in_form, dataclasses.replace(table, template=template))
    return in_form


def table_facts(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what a run keeps of each file of rows among its tasks, by name."""
    parts = dict.fromkeys(part for name in names for part in constituents(name))
    return {part: task.open_table(part).facts() for part in parts if is_table(part)}


def restore_tables(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Let names stand for the files that a run was trained on; see `task.restore`."""
    for name, each in facts.items():
        task.restore(name, each)


def _parts(name: str) -> list[str]:
    return name.split(JOIN)
