"""Metrics by name, for tables and commands that name them."""

import difflib

from spot_jax.errors import SpotError
from spot_jax.metrics import classification, qa, regression, text
from spot_jax.metrics.pairs import Metric

METRICS: dict[str, Metric] = {
    "accuracy": classification.accuracy,
    "accuracy_without_case": classification.accuracy_without_case,
    "macro_f1": classification.macro_f1,
    "matthews_corrcoef": classification.matthews_corrcoef,
    "precision_at_1": classification.precision_at_1,
    "sequence_accuracy": classification.sequence_accuracy,
    "exact_match": qa.exact_match,
    "squad": qa.squad,
    "trivia_qa": qa.trivia_qa,
    "word_f1": qa.word_f1,
    "pearson_corrcoef": regression.pearson_corrcoef,
    "spearman_corrcoef": regression.spearman_corrcoef,
    "bleu": text.bleu,
    "rouge": text.rouge,
    "rouge_l": text.rouge_l,
}


def by_name(name: str) -> Metric:
    """Return the metric of this name; raise `SpotError` with the nearest names otherwise."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 3) or sorted(METRICS)
        raise SpotError(f"expected a metric ({', '.join(near)}), found {name!r}; choose one")
    return METRICS[name]
