"""The ways to begin a target's prompt: what `spot transfer --method` and a study's jobs name.

Each strategy turns groups of source prompts into starts. What follows is the same for all of them:
the target is tuned from every start, and the best on validation is chosen (Vu et al. 2022, section
3.3).
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from etils import epath

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.stored import use_of
from spot_jax.transfer.retrieval import Retrieved

Groups = Sequence[Sequence[Retrieved]]


@dataclasses.dataclass(frozen=True)
class Start:
    """A prompt that a target's run begins from.

    Attributes:
        name: name for people.
        file: path of the prompt; None for a run from scratch.
        id: id of the library's entry, if it is an entry's.
        note: remark for the reader; "" for none.
    """

    name: str
    file: str | None = None
    id: str | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a strategy works with.

    Attributes:
        directory: path of a directory to write in; a second start reads what the first one wrote.
        target: name of the target task.
        tune_mixtures: function that tunes a prompt on each mixture, all in one program, and returns
            the files of their final checkpoints.
    """

    directory: epath.Path
    target: str
    tune_mixtures: Callable[[Sequence[str]], Sequence[epath.Path]]


def scratch(context: Context, groups: Groups) -> list[Start]:
    """Return a start of no prompt for each group: what the other strategies compare with."""
    return [Start("scratch") for _ in groups]


def best_of_top_k(context: Context, groups: Groups) -> list[Start]:
    """Return a start for each source prompt.

    With the whole library for a group this is the oracle. Its choice too is made on validation:
    where the paper's oracle is the best score there is, ours is the best that could have been
    chosen.
    """
    return [Start(source.task, source.file, source.id) for group in groups for source in group]


def weighted_average(context: Context, groups: Groups) -> list[Start]:
    """Return a start for each group: the mean of its prompts, weighted by their similarities."""
    starts = []
    for i, group in enumerate(groups):
        path = context.directory / f"average-{i}.safetensors"
        similarities = [source.similarity for source in group]
        files = [source.file for source in group]
        average([source.load() for source in group], similarities, files).save(path)
        shares = zip(weights(similarities), group, strict=True)
        note = f"weights: {', '.join(f'{share:.3f} {source.task}' for share, source in shares)}"
        if max(similarities) <= 0:
            note += " (none is similar to the target)"
        starts.append(Start(f"average of {len(group)}", str(path), note=note))
    return starts


def multitask_mixture(context: Context, groups: Groups) -> list[Start]:
    """Return a start for each group: a prompt tuned on its tasks and the target, mixed.

    Tasks are mixed example-proportionally (of a task at most 2^19 examples count, section 2.1.3);
    the target begins from the final checkpoint.
    """
    names = [
        mixture([*(t for source in group for t in source.tasks or (source.task,)), context.target])
        for group in groups
    ]
    starts = []
    for name, path in zip(names, context.tune_mixtures(names), strict=True):
        tasks = name.split("+")
        note = f"the mixture's tasks: {', '.join(tasks)}"
        starts.append(Start(f"mixture of {len(tasks)}", str(path), note=note))
    return starts


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A way to begin.

    Attributes:
        starts: function from groups of source prompts to starts.
        retrieves: whether it needs a library.
        uses_top_k: whether it takes the k most similar prompts, rather than all.
    """

    starts: Callable[[Context, Groups], list[Start]]
    retrieves: bool = True
    uses_top_k: bool = True


STRATEGIES: dict[str, Strategy] = {
    "scratch": Strategy(scratch, retrieves=False, uses_top_k=False),
    "best_of_top_k": Strategy(best_of_top_k),
    "weighted_average": Strategy(weighted_average),
    "multitask_mixture": Strategy(multitask_mixture),
    "oracle": Strategy(best_of_top_k, uses_top_k=False),
}


def strategy(name: str) -> Strategy:
    """Return the strategy of a name; `SpotError` with all names if there is none."""
    if name not in STRATEGIES:
        raise SpotError(f"there is no transfer method {name!r}, but {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def mixture(tasks: Iterable[str]) -> str:
    """Return the name of the example-proportional mixture of these tasks, each once, in one order.

    Raises:
        SpotError: a file of arrays, which no mixture can hold.
    """
    names = sorted({part for name in tasks for part in loading.constituents(name)})
    for name in names:
        if loading.is_arrays(name):
            raise SpotError(
                f"a multi-task mixture needs seqio tasks, found the file {name}; register it as a "
                "task, or use another method"
            )
    return "+".join(names)


def weights(similarities: Sequence[float]) -> list[float]:
    """Return weights that sum to one, in proportion to the similarities above zero.

    The paper, alpha_r = sim_r / sum_l sim_l, does not say what becomes of a similarity below zero,
    which the formula would turn into a negative weight and, where similarities of both signs
    cancel, into weights without bound. Ours: a prompt that is not similar has weight 0, the others
    share the sum; where none is similar, all have the same. With positive similarities this is the
    paper's formula.
    """
    positive = np.maximum(np.asarray(similarities, np.float64), 0.0)
    if not positive.sum() > 0:
        positive = np.ones_like(positive)
    return (positive / positive.sum()).tolist()


def average(
    prompts: Sequence[PromptFile], similarities: Sequence[float], files: Sequence[str]
) -> PromptFile:
    """Return the prompts' weighted average, which names its parts and weights as its ancestors.

    Args:
        prompts: prompts of one shape [p, d] and one backbone, that are rows and nothing else.
        similarities: similarity of the task embedding of each to the target's.
        files: path of each.

    Raises:
        SpotError: prompts of several shapes, backbones or ways of use, or prompts with tensors
            beside their rows.
    """
    shares = weights(similarities)
    for prompt, file in zip(prompts, files, strict=True):
        if prompt.tensors:
            raise SpotError(
                f"{file} is a prompt of {prompt.method.get('name', 'an unknown method')} with "
                f"tensors beside its rows ({', '.join(sorted(prompt.tensors))}), of which an "
                "average would be no prompt; use best_of_top_k"
            )
    for what, values in (
        ("shapes", {prompt.rows.shape for prompt in prompts}),
        ("backbones", {prompt.backbone[:12] for prompt in prompts if prompt.backbone}),
        ("ways of use", {json.dumps(use_of(prompt), sort_keys=True) for prompt in prompts}),
    ):
        if len(values) > 1:
            raise SpotError(
                f"an average needs prompts of one kind, found {what} "
                f"{', '.join(map(str, sorted(values)))}; search without --force, or give a lower k"
            )
    rows = np.stack([prompt.rows.astype(np.float64) for prompt in prompts])
    table = sum(share * part for share, part in zip(shares, rows, strict=True))
    parts = [
        {**prompt.ancestor(file), "weight": share, "similarity": similarity}
        for prompt, file, share, similarity in zip(
            prompts, files, shares, similarities, strict=True
        )
    ]
    first = prompts[0]
    return PromptFile(
        np.asarray(table, np.float32),
        method={"name": "WeightedAverage", "length": len(first.rows), **use_of(first)},
        backbone=first.backbone,
        vocabulary=first.vocabulary,
        ancestry=(*parts, *(ancestor for prompt in prompts for ancestor in prompt.ancestry)),
        tasks=tuple(sorted({task for p in prompts for task in p.tasks or (p.task,)})),
    )
