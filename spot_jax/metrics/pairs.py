"""What all metrics share: their type, and the refusal of lists that cannot be compared."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from spot_jax.errors import SpotError

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def check(targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Raise `SpotError` for lists that differ in length or are empty."""
    if len(targets) != len(predictions):
        raise SpotError(
            f"expected one prediction a target, found {len(predictions)} predictions for "
            f"{len(targets)} targets; give the predictions of the same examples"
        )
    if len(targets) == 0:
        raise SpotError("expected examples to evaluate, found an empty split; choose another split")


def codes(
    targets: Sequence[Hashable],
    predictions: Sequence[Hashable],
    labels: Sequence[Hashable] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Return both lists as numbers, those of `labels` first.

    scikit-learn refuses lists that mix types, as those of a label and of a text that is none do.
    """
    check(targets, predictions)
    numbers: dict[Hashable, int] = {}
    for label in (*labels, *targets, *predictions):
        numbers.setdefault(label, len(numbers))
    gold = np.array([numbers[target] for target in targets])
    return gold, np.array([numbers[prediction] for prediction in predictions])


def golds_of(target: str | Sequence[str], prediction: Any) -> list[str]:
    """Return one target's gold answers, one or several; `SpotError` when there are none."""
    golds = [target] if isinstance(target, str) else list(target)
    if not golds:
        raise SpotError(
            "expected at least one gold answer for each example, found none for "
            f"prediction {prediction!r}; drop such examples from the split"
        )
    return golds


def mean(values: Sequence[float]) -> float:
    """Return the mean in percent."""
    return 100.0 * float(np.mean(values))


def field(item: Any, key: str) -> Any:
    """Return `item[key]`; `SpotError` where the target has no such key.

    Targets of grouped metrics are `{"value": ..., "group": ...}`, as T5's postprocessors make.
    """
    if not isinstance(item, Mapping) or key not in item:
        raise SpotError(
            f"expected targets with {key!r} for a metric by groups, found {item!r}; "
            "give the task a postprocessor that returns them"
        )
    return item[key]


def value_of(prediction: Any) -> Any:
    """Return a prediction's value: what stands under "value", or the prediction itself."""
    return prediction["value"] if isinstance(prediction, Mapping) else prediction
