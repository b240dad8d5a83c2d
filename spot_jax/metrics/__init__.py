"""Metrics by the field's names, over scikit-learn, SciPy, rouge-score and sacrebleu.

Every metric is a function `(targets, predictions) -> {name: value}` as seqio expects, with values
from 0 to 100 (correlations from -100 to 100) as in T5's code. Higher is better for all of them.
A metric that needs more than the two lists is made by a function: `f1("duplicate")` is a metric.

A prediction that is no known label, an empty text or a text that is no number is a wrong answer,
never an error: models write such things. Empty lists, lists of unequal length, and targets that
make no sense raise `SpotError`.
"""

from spot_jax.metrics.classification import (
    accuracy,
    accuracy_without_case,
    f1,
    macro_f1,
    macro_f1_of_outputs,
    matthews_corrcoef,
    matthews_corrcoef_of,
    mean_multiclass_f1,
    multilabel_macro_f1,
    precision_at_1,
    sequence_accuracy,
)
from spot_jax.metrics.outputs import OutputMetric, Outputs
from spot_jax.metrics.pairs import Metric
from spot_jax.metrics.qa import (
    exact_match,
    multirc,
    once_a_group,
    record,
    squad,
    trivia_qa,
    word_f1,
    wsc,
)
from spot_jax.metrics.registry import by_name
from spot_jax.metrics.regression import pearson_corrcoef, spearman_corrcoef
from spot_jax.metrics.text import bleu, rouge, rouge_l
from spot_jax.metrics.values import mean_of_metrics, not_numbers, split_numbers

__all__ = [
    "Metric",
    "OutputMetric",
    "Outputs",
    "accuracy",
    "accuracy_without_case",
    "bleu",
    "by_name",
    "exact_match",
    "f1",
    "macro_f1",
    "macro_f1_of_outputs",
    "matthews_corrcoef",
    "matthews_corrcoef_of",
    "mean_multiclass_f1",
    "mean_of_metrics",
    "multilabel_macro_f1",
    "multirc",
    "not_numbers",
    "once_a_group",
    "pearson_corrcoef",
    "precision_at_1",
    "record",
    "rouge",
    "rouge_l",
    "sequence_accuracy",
    "spearman_corrcoef",
    "split_numbers",
    "squad",
    "trivia_qa",
    "word_f1",
    "wsc",
]
