"""The methods by name, in the order of the table."""

import dataclasses
import functools
from collections.abc import Callable

from bench.methods.baselines import majority, no_prompt, svm
from bench.methods.models import model_tuning, multitask
from bench.methods.others import (
    FOUND_FROM,
    Y_LOSSES,
    ia3,
    intrinsic,
    lora,
    p_tuning,
    prefix,
    prompt_file,
    prompt_way,
    y_tuning,
)
from bench.methods.prompts import Candidate, tuned
from bench.methods.results import Cell, MethodResults
from bench.methods.tasks import SETTINGS_FROM, TASKS, Bench, Task
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.studies.engine.job import NO_PROMPT


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: as the page has it.
        cell: does it on a task; `Results` has what other methods came to.
        needs: cells (task, method) that it begins from.
        seeded: whether there is chance in it, so that it is done with every seed.
        from_prompts: whether it begins from the prompts of those cells.
    """

    title: str
    cell: Callable[[Bench, Task, MethodResults], Cell]
    needs: Callable[[Task], tuple[tuple[str, str], ...]] = lambda task: ()
    seeded: bool = True
    from_prompts: bool = False


def _prompt_tuning(bench: Bench, task: Task, results: MethodResults) -> Cell:
    length = task.virtual_tokens
    candidates = {f"P = {length}": Candidate(PromptTuning(length), length)}
    way = prompt_way(bench, task, candidates, bench.rates)
    return tuned(bench, task, "prompt_tuning", way, results)


def _spot(bench: Bench, task: Task, results: MethodResults) -> Cell:
    """As from scratch, but from the source's prompt."""
    scratch = results.done(task.name, "prompt_tuning")
    recipe, rate = scratch.chosen["recipe"], scratch.chosen["rate"]
    file = str(bench.directory / prompt_file(results, task.source, recipe))
    length = task.virtual_tokens
    begun = Candidate(PromptTuning(length, "prompt", prompt=file), length)
    cell = tuned(bench, task, "spot", prompt_way(bench, task, {recipe: begun}, (rate,)))
    return dataclasses.replace(cell, chosen={**cell.chosen, "source": task.source})


def _settings(method: str) -> Callable[[Task], tuple[tuple[str, str], ...]]:
    """Return what a method with a grid begins from: its cell of the set where that is run."""
    return lambda task: () if task.name == SETTINGS_FROM else ((SETTINGS_FROM, method),)


def _prompts(task: Task) -> tuple[tuple[str, str], ...]:
    """Return the jobs that a subspace is found from."""
    return tuple((name, "prompt_tuning") for name in FOUND_FROM)


METHODS = {
    "majority": Method(
        "commonest label", lambda bench, task, results: majority(bench, task), seeded=False
    ),
    NO_PROMPT: Method(
        "no prompt", lambda bench, task, results: no_prompt(bench, task), seeded=False
    ),
    "svm": Method(
        "TF-IDF, linear SVM", lambda bench, task, results: svm(bench, task), seeded=False
    ),
    "model_tuning": Method("model tuning", lambda bench, task, results: model_tuning(bench, task)),
    "multitask_model_tuning": Method(
        "multi-task, then model tuning", lambda bench, task, results: multitask(bench, task)
    ),
    "prompt_tuning": Method("prompt tuning", _prompt_tuning, _settings("prompt_tuning")),
    "spot": Method(
        "prompt tuning from a source prompt (SPoT)",
        _spot,
        lambda task: ((task.name, "prompt_tuning"), (task.source, "prompt_tuning")),
        from_prompts=True,
    ),
    "p_tuning": Method("P-Tuning", p_tuning, _settings("p_tuning")),
    "prefix": Method("prefix tuning (P-Tuning v2)", prefix, _settings("prefix")),
    "lora": Method("LoRA", lora, _settings("lora")),
    "ia3": Method("IA3", ia3, _settings("ia3")),
    **{
        f"ist_{dim}": Method(
            f"intrinsic prompt tuning, d = {dim}",
            functools.partial(intrinsic, dim=dim),
            _prompts,
            from_prompts=True,
        )
        for dim in (5, 50)
    },
    **{
        f"y_tuning_{loss}": Method(
            f"Y-Tuning, {title}",
            functools.partial(y_tuning, loss=loss),
            _settings(f"y_tuning_{loss}"),
        )
        for loss, title in Y_LOSSES.items()
    },
}


def order(methods: list[str], tasks: list[str]) -> list[tuple[str, str]]:
    """Return the cells (task, method) to do, each after those it needs, which are added."""
    planned: dict[tuple[str, str], None] = {}

    def add(task: str, method: str) -> None:
        for need in METHODS[method].needs(TASKS[task]):
            add(*need)
        planned.setdefault((task, method))

    for method in (name for name in METHODS if name in methods):
        for task in tasks:
            add(task, method)
    return list(planned)
