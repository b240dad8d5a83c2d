"""Names in seqio's registries: found, refused with the nearest ones, and where they come from."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import seqio

from spot_jax.errors import SpotError

OURS = ("tasks.bundled_tasks",)


def import_module(name: str) -> None:
    """Import a module that registers tasks; `SpotError` when it cannot be imported."""
    try:
        importlib.import_module(name)
    except SpotError:
        raise
    except Exception as error:
        line = str(error).split("\n")[0]
        raise SpotError(
            f"expected a module {name} that registers tasks, found {type(error).__name__}: {line}; "
            "check the name, PYTHONPATH and what the module needs"
        ) from error


def require(name: str) -> seqio.Task | seqio.Mixture:
    """Return the task or mixture of this name; `SpotError` with the nearest names otherwise.

    The tasks that ship are registered first, so that their names are always known.
    """
    import_all(OURS)
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), 4, cutoff=0.5)
        raise SpotError(
            f"expected a registered task or mixture, found {name!r} (nearest: "
            f"{', '.join(near) or 'none of the ' + str(len(known))}); "
            "correct the name or import the module that registers it"
        )
    return seqio.get_mixture_or_task(name)


def import_all(modules: Iterable[str]) -> None:
    """Import modules that register tasks, in order."""
    for module in modules:
        import_module(module)


def names() -> tuple[str, ...]:
    """Return the names of all registered tasks and mixtures."""
    import_all(OURS)
    return tuple(sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}))


def tasks_of(name: str) -> list[seqio.Task]:
    """Return the tasks of a mixture, or the one task, sorted by name."""
    found = require(name)
    return list(found.tasks) if isinstance(found, seqio.Mixture) else [found]


def splits(name: str) -> tuple[str, ...]:
    """Return the splits of a task, or those that any task of a mixture has."""
    return tuple(require(name).splits)


def require_split(name: str, split: str) -> list[seqio.Task]:
    """Return the tasks of `name` that have `split`; `SpotError` when none has."""
    tasks = [task for task in tasks_of(name) if split in task.splits]
    if not tasks:
        raise SpotError(
            f"expected a split of {name} ({', '.join(splits(name))}), found {split!r}; "
            "choose one of them"
        )
    return tasks


def metric_fns(name: str) -> list[Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]]:
    """Return a task's metrics of (targets, predictions); those of a mixture's first task."""
    return list(tasks_of(name)[0].predict_metric_fns)


def postprocess(
    name: str, text: str, fields: dict[str, Any] | None = None, *, is_target: bool = False
) -> Any:
    """Return a decoded text in the form that the task's metrics compare."""
    return tasks_of(name)[0].postprocess_fn(text, example=fields or {}, is_target=is_target)
