"""Tasks in P-Tuning's templates: another task's examples, its text written as a template says."""

import functools
import string
from collections.abc import Mapping

import seqio
import tensorflow as tf

from spot_jax.data import fields, templates, verbalizers
from spot_jax.data.seqio_registry import require
from spot_jax.errors import SpotError


def add_template_task(task: str, template: str, name: str | None = None) -> str:
    """Register a task or mixture in a template and returns the new name.

    Nothing is read: a module that registers tasks may call this at its end.

    Args:
        task: a registered task that ends in seqio's tokenising, or a mixture of such tasks.
        template: template of the text (`spot_jax.data.templates`).
        name: name of the new task; by default the old one with a mark of the template.

    Raises:
        SpotError: a template that cannot be read, or has a field that the task's examples lack.
    """
    parsed = templates.parse(template)
    registered = require(task)
    parts = registered.tasks if isinstance(registered, seqio.Mixture) else [registered]
    for part in parts:
        templates.check_fields(parsed, fields_of(part.name), part.name)
    return add_form(task, parsed.form, name)


def fields_of(task: str) -> tuple[str, ...]:
    """Return the fields that a template of a task may have."""
    form = fields.template_of(task)
    names = fields.names_in(form) if form else ()
    return tuple(dict.fromkeys((*names, "inputs")))


def add_form(task: str, form: str, name: str | None = None) -> str:
    """Register a task or mixture in a form that is known to fit; see `add_template_task`."""
    name = name or templates.name_of(task, form)
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        return name
    registered = require(task)
    if isinstance(registered, seqio.Mixture):
        rates = [
            (add_form(part.name, form), functools.partial(_rate, registered, part))
            for part in registered.tasks
        ]
        seqio.MixtureRegistry.add(name, rates)
    else:
        seqio.TaskRegistry.add_provider(name, _with_form(registered, name, form))
        if labels := verbalizers.of(task):
            verbalizers.register(name, labels)
    fields.register(name, form)
    return name


def _rate(mixture: seqio.Mixture, part: seqio.Task, task: seqio.Task) -> float:
    return mixture.get_rate(part)


def _with_form(task: seqio.Task, name: str, form: str) -> seqio.Task:
    steps = list(task.preprocessors)
    if seqio.preprocessors.tokenize not in steps:
        raise SpotError(
            f"{task.name} has no step of seqio.preprocessors.tokenize, before which a template "
            "would be written; register it with one"
        )
    first = steps.index(seqio.preprocessors.tokenize)
    steps.insert(first, functools.partial(write_form, name=task.name, form=form))
    return task.replace(name=name, preprocessors=steps)


def write_form(dataset: tf.data.Dataset, name: str, form: str) -> tf.data.Dataset:
    """Return the examples with `inputs` written in a form; the task's name is for complaints."""
    spec_of = dataset.element_spec
    for field in fields.names_in(form):
        if field not in spec_of or spec_of[field].dtype != tf.string:
            raise SpotError(
                f"examples of {name} have no text {field!r} for the template; they have "
                f"{', '.join(k for k, spec in spec_of.items() if spec.dtype == tf.string)}"
            )
    return dataset.map(lambda row: {**row, "inputs": fill(row, form)}, tf.data.AUTOTUNE)


def fill(row: Mapping[str, tf.Tensor], form: str) -> tf.Tensor:
    """Return a form with a row's fields in it."""
    parts: list[str | tf.Tensor] = []
    for words, name, _, _ in string.Formatter().parse(form):
        parts.append(words)
        if name is not None:
            parts.append(row[name])
    return tf.strings.join(parts)
