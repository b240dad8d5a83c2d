"""The words that answer a classification task, by task: what rank classification chooses among."""

import difflib
from collections.abc import Callable, Iterable

from spot_jax.errors import SpotError

_LABELS: dict[str, tuple[str, ...] | Callable[[], Iterable[str]]] = {}


def register(task: str, labels: Iterable[str] | Callable[[], Iterable[str]]) -> None:
    """Name the label words of a task; the order is kept. Registering again replaces them.

    A function is called whenever they are asked for; it may read the task's files.
    """
    _LABELS[task] = labels if callable(labels) else _checked(task, labels)


def _checked(task: str, labels: Iterable[str]) -> tuple[str, ...]:
    words = tuple(labels)
    if len(words) < 2 or len(set(words)) < len(words):
        raise SpotError(
            f"expected at least two different labels for {task}, found {list(words)}; "
            "give each label once"
        )
    return words


def of(task: str) -> tuple[str, ...] | None:
    """Return the label words of a task, or None when it has none registered."""
    labels = _LABELS.get(task)
    return _checked(task, labels()) if callable(labels) else labels


def check(task: str, target: str) -> None:
    """Raise `SpotError` when `target` is not among the labels of `task`, if it has any."""
    labels = of(task)
    if labels is None or target in labels:
        return
    near = difflib.get_close_matches(target, labels, 3) or list(labels[:5])
    more = " ..." if len(near) < len(labels) else ""
    raise SpotError(
        f"expected one of the {len(labels)} labels of {task}, found {target!r} (nearest: "
        f"{', '.join(near)}{more}); correct the data or register the label"
    )
