"""The methods by name, in the order of the table."""

import dataclasses
from collections.abc import Callable

from bench.methods.baselines import majority, svm
from bench.methods.models import model_tuning, multitask
from bench.methods.others import intrinsic, p_tuning, prefix, prompt_file, y_tuning
from bench.methods.prompts import Candidate, Way, tuned
from bench.methods.results import Cell, Results, done
from bench.methods.tasks import TASKS, Bench, Task
from spot_jax.training.config import PromptTuningRecipe

LENGTHS = (10, 20)
RATES = (0.1, 0.3, 1.0)
STEPS = 40


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: as the page has it.
        cell: does it on a task; `Results` has what other methods came to.
        needs: the cells (task, method) that it begins from.
    """

    title: str
    cell: Callable[[Bench, Task, Results], Cell]
    needs: Callable[[Task], tuple[tuple[str, str], ...]] = lambda task: ()


def _prompt_tuning(bench: Bench, task: Task, results: Results) -> Cell:
    found = {f"P = {length}": Candidate(PromptTuningRecipe(length), length) for length in LENGTHS}
    return tuned(bench, task, "prompt_tuning", Way(found, RATES, STEPS))


def _spot(bench: Bench, task: Task, results: Results) -> Cell:
    """As from scratch, but from the source's best prompt of the length that was best here."""
    own = done(results, task.name, "prompt_tuning")
    recipe, rate = own.chosen["recipe"], own.chosen["rate"]
    file = str(bench.directory / prompt_file(results, task.source, recipe))
    length = int(recipe.split()[-1])
    begun = Candidate(PromptTuningRecipe(length, "prompt", prompt=file), length)
    cell = tuned(bench, task, "spot", Way({recipe: begun}, (rate,), STEPS))
    return dataclasses.replace(cell, chosen={**cell.chosen, "source": task.source})


def _seen_prompts(task: Task) -> tuple[tuple[str, str], ...]:
    """What a subspace is found from."""
    return tuple((name, "prompt_tuning") for name, one in TASKS.items() if one.seen)


METHODS = {
    "majority": Method("commonest label", lambda bench, task, results: majority(bench, task)),
    "svm": Method("TF-IDF, linear SVM", lambda bench, task, results: svm(bench, task)),
    "model_tuning": Method("model tuning", lambda bench, task, results: model_tuning(bench, task)),
    "multitask_model_tuning": Method(
        "multi-task, then model tuning", lambda bench, task, results: multitask(bench, task)
    ),
    "prompt_tuning": Method("prompt tuning", _prompt_tuning),
    "spot": Method(
        "prompt tuning from a source prompt (SPoT)",
        _spot,
        lambda task: ((task.name, "prompt_tuning"), (task.source, "prompt_tuning")),
    ),
    "p_tuning": Method("P-Tuning", p_tuning),
    "prefix": Method("prefix tuning (P-Tuning v2)", prefix),
    "ist_5": Method(
        "intrinsic prompt tuning, d = 5",
        lambda bench, task, results: intrinsic(bench, task, results, 5),
        _seen_prompts,
    ),
    "ist_50": Method(
        "intrinsic prompt tuning, d = 50",
        lambda bench, task, results: intrinsic(bench, task, results, 50),
        _seen_prompts,
    ),
    "y_tuning": Method("Y-Tuning", y_tuning),
}


def order(methods: list[str], tasks: list[str]) -> list[tuple[str, str]]:
    """The cells (task, method) to do, each after those it needs, which are added."""
    planned: dict[tuple[str, str], None] = {}

    def add(task: str, method: str) -> None:
        for need in METHODS[method].needs(TASKS[task]):
            add(*need)
        planned.setdefault((task, method))

    for method in (name for name in METHODS if name in methods):
        for task in tasks:
            add(task, method)
    return list(planned)
