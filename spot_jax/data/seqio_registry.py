"""Names in seqio's registries: looked up, or refused with the nearest ones."""

import importlib
from collections.abc import Iterable

import seqio
from etils import epath

from spot_jax import shipped
from spot_jax.data.sources import JOIN, unknown_name, unknown_split
from spot_jax.errors import SpotError
from spot_jax.files import fault_text

MAXIMUM = 2**19


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


def set_directories(tfds_data: str | None, caches: Iterable[str]) -> None:
    """Point seqio to prepared TFDS data, and to caches of tasks beside those it knows.

    Args:
        tfds_data: directory of prepared data sets; None leaves seqio's own.
        caches: directories of seqio's offline caches.

    Raises:
        SpotError: a directory that does not exist.
    """
    caches = list(caches)
    for directory in [*([tfds_data] if tfds_data else []), *caches]:
        if not epath.Path(directory).is_dir():
            raise SpotError(f"expected a directory of data at {directory}, found none; check it")
    if tfds_data:
        seqio.set_tfds_data_dir_override(tfds_data)
    seqio.add_global_cache_dirs(caches)


def require(name: str) -> seqio.Task | seqio.Mixture:
    """Return the task or mixture of this name; `SpotError` with the nearest names otherwise.

    Names with a plus between them, `a+b`, are a mixture of all their tasks that need not be
    registered. The tasks that ship are registered first, so that their names are always known; the
    papers' tasks where a name is neither one of those nor a user's own.
    """
    import_all(shipped.TASKS)
    if JOIN in name:
        return _joined(name)
    if name not in _known():
        import_all(shipped.PAPERS_TASKS)
    registered = _known()
    if name not in registered:
        raise unknown_name(name, registered)
    return seqio.get_mixture_or_task(name)


def _joined(name: str) -> seqio.Mixture:
    """Return the mixture of the tasks that several names stand for, each task once."""
    tasks = {task.name: task for part in name.split(JOIN) for task in tasks_of(part)}
    ordered = [tasks[key] for key in sorted(tasks)]
    return seqio.Mixture(name.replace(JOIN, ":"), ordered, default_rate=proportional_rate)


def proportional_rate(task: seqio.Task) -> float:
    """Return a task's rate in an example-proportional mixture: min(n, 2^19) (SPoT section 2.1.3).

    A task without an end, or of unknown size, such as plain text, counts as one of 2^19 examples.
    """
    size = task.num_input_examples("train") if "train" in task.splits else None
    return float(MAXIMUM if size is None else min(size, MAXIMUM))


def import_all(modules: Iterable[str]) -> None:
    """Import modules that register tasks, in order."""
    for module in modules:
        import_module(module)


def names() -> tuple[str, ...]:
    """Return the names of all registered tasks and mixtures, the papers' among them."""
    import_all((*shipped.TASKS, *shipped.PAPERS_TASKS))
    return tuple(sorted(_known()))


def _known() -> set[str]:
    return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def tasks_of(name: str) -> list[seqio.Task]:
    """Return the tasks of a mixture, or the one task, sorted by name."""
    registered = require(name)
    return list(registered.tasks) if isinstance(registered, seqio.Mixture) else [registered]


def splits(name: str) -> tuple[str, ...]:
    """Return the splits of a task, or those that any task of a mixture has."""
    return tuple(dict.fromkeys(split for task in tasks_of(name) for split in _splits_of(task)))


def _splits_of(task: seqio.Task) -> tuple[str, ...]:
    """Return the splits of one task; a source of TFDS looks for its data to name them."""
    try:
        return tuple(task.splits)
    except SpotError:
        raise
    except Exception as error:
        raise SpotError(
            f"the splits of {task.name} cannot be found: {fault_text(error)}; check the task's "
            "data and where they are looked for"
        ) from error


def require_split(name: str, split: str) -> list[seqio.Task]:
    """Return the tasks of `name` that have `split`; `SpotError` when none has."""
    tasks = [task for task in tasks_of(name) if split in _splits_of(task)]
    if not tasks:
        raise unknown_split(name, splits(name), split)
    return tasks
