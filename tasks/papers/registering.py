"""Puts tasks and mixtures into seqio's registries: our features, labels, no name taken twice."""

from collections.abc import Callable, Sequence
from typing import Any

import seqio

from spot_jax.data import fields, verbalizers
from spot_jax.metrics import Metric
from tasks.t5_features import OUTPUT_FEATURES


def add_task(
    name: str,
    source: seqio.DataSource,
    preprocessors: Sequence[Callable[..., Any]],
    metric_fns: Sequence[Metric],
    *,
    labels: Sequence[str] | Callable[[], Sequence[str]] = (),
    postprocess_fn: Callable[..., Any] | None = None,
    template: str | Callable[[], str] | None = None,
) -> str:
    """Register a task and return its name; a name that is taken stays what it is.

    Args:
        name: name of the task.
        source: source of raw examples.
        preprocessors: steps to text in `inputs` and `targets`; tokenising and eos are added.
        metric_fns: metrics of (targets, predictions).
        labels: label words to rank, if the target is one of them; or a function that finds them.
        postprocess_fn: function from text to what metrics compare; the text itself by default.
        template: template by which `spot infer` writes a row's fields (`spot_jax.data.fields`).
    """
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        return name
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            *preprocessors,
            seqio.preprocessors.tokenize,
            # Where seqio's cache command (seqio_cache_tasks) ends.
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=OUTPUT_FEATURES,
        postprocess_fn=postprocess_fn,
        metric_fns=list(metric_fns),
    )
    if labels:
        verbalizers.register(name, labels)
    if template:
        fields.register(name, template)
    return name


def add_mixture(name: str, tasks: Sequence[str], rate: Callable[[seqio.Task], float]) -> str:
    """Register a mixture and return its name; a name that is taken stays what it is."""
    taken = name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names()
    if not taken:
        seqio.MixtureRegistry.add(name, list(tasks), default_rate=rate)
    return name
