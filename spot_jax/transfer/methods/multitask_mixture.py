"""Top-k multi-task mixture (Vu et al. 2022, section 3.3): a source prompt made for the target.

A prompt is tuned on the source tasks of the k most similar prompts and on the target itself,
mixed example-proportionally (of a task at most 2^19 examples count, section 2.1.3); the target
begins from its final checkpoint.
"""

from collections.abc import Iterable

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.transfer.methods.base import Start, Work


def mixture(tasks: Iterable[str]) -> str:
    """The name of the example-proportional mixture of these tasks, each once, in one order.

    Raises:
        SpotError: a file of arrays, which no mixture can hold.
    """
    each = sorted({one for name in tasks for one in loading.constituents(name)})
    for name in each:
        if loading.is_arrays(name):
            raise SpotError(
                f"a multi-task mixture needs seqio tasks, found the file {name}; register it as a "
                "task, or use another method"
            )
    return "+".join(each)


def starts(work: Work) -> list[Start]:
    """Tunes the mixture's prompt in `directory`/mixture; one start, its final checkpoint."""
    sources = [task for one in work.retrieved for task in one.tasks or (one.task,)]
    name = mixture([*sources, work.tuning.target])
    path = work.tuning.tune_source(work.directory / "mixture", name, work.progress)
    names = name.split("+")
    note = f"the mixture's tasks: {', '.join(names)}"
    return [Start(f"mixture of {len(names)}", str(path), note=note)]
