"""Top-k weighted average (Vu et al. 2022, section 3.3): one start, the mean of k prompts.

    prompt = sum_r alpha_r prompt_r,   alpha_r = sim_r / sum_l sim_l

The paper does not say what becomes of a similarity below zero, which its formula would turn into a
negative weight and, where similarities of both signs cancel, into weights without bound. Ours: a
prompt that is not similar (sim <= 0) has weight 0, the others share the sum; if none is similar
there is no average. With positive similarities this is the paper's formula.
"""

import json
from collections.abc import Sequence

import numpy as np

from spot_jax.errors import SpotError
from spot_jax.library.library import Library, Match
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.restored import use_of
from spot_jax.transfer.methods.base import Start, Work


def weights(similarities: Sequence[float]) -> list[float]:
    """Weights that sum to one, in proportion to the similarities above zero.

    Raises:
        SpotError: no similarity is above zero.
    """
    positive = np.maximum(np.asarray(similarities, np.float64), 0.0)
    if not positive.sum() > 0:
        raise SpotError(
            f"none of {len(positive)} prompts is similar to the target (no similarity is above 0), "
            "so they have no weighted average; use best_of_top_k, or scratch"
        )
    return (positive / positive.sum()).tolist()


def average(
    prompts: Sequence[PromptFile], similarities: Sequence[float], files: Sequence[str]
) -> PromptFile:
    """The prompts' weighted average, which names its parts and their weights as its ancestors.

    Args:
        prompts: of one shape [p, d] and one backbone.
        similarities: of their task embeddings to the target's.
        files: where each is.

    Raises:
        SpotError: prompts of several shapes, backbones or ways of use, or none that is similar.
    """
    shares = weights(similarities)
    for what, found in (
        ("shapes", {prompt.prompt.shape for prompt in prompts}),
        ("backbones", {prompt.backbone[:12] for prompt in prompts if prompt.backbone}),
        ("ways of use", {json.dumps(use_of(prompt), sort_keys=True) for prompt in prompts}),
    ):
        if len(found) > 1:
            raise SpotError(
                f"an average needs prompts of one kind, found {what} "
                f"{', '.join(map(str, sorted(found)))}; search without --force, or give a lower k"
            )
    table = sum(
        share * prompt.prompt.astype(np.float64)
        for share, prompt in zip(shares, prompts, strict=True)
    )
    parts = [
        {**prompt.ancestor(file), "weight": share, "similarity": similarity}
        for prompt, file, share, similarity in zip(
            prompts, files, shares, similarities, strict=True
        )
    ]
    first = prompts[0]
    return PromptFile(
        np.asarray(table, np.float32),
        method={"name": "WeightedAverage", "length": len(first.prompt), **use_of(first)},
        backbone=first.backbone,
        vocabulary=first.vocabulary,
        ancestry=(*parts, *(one for prompt in prompts for one in prompt.ancestry)),
        tasks=tuple(sorted({task for one in prompts for task in one.tasks or (one.task,)})),
    )


def weighted_average(matches: Sequence[Match], library: Library) -> PromptFile:
    """The weighted average of what `Library.rank` found."""
    prompts = [library.load(match.entry)[0] for match in matches]
    files = [str(match.entry.path) for match in matches]
    return average(prompts, [match.similarity for match in matches], files)


def starts(work: Work) -> list[Start]:
    """One start, written beside the prompts it is made of."""
    path = work.directory / "average.safetensors"
    found = work.retrieved
    similarities = [one.similarity for one in found]
    average([one.load() for one in found], similarities, [one.file for one in found]).save(path)
    shares = zip(weights(similarities), found, strict=True)
    note = f"weights: {', '.join(f'{share:.3f} {one.task}' for share, one in shares)}"
    return [Start(f"average of {len(found)}", str(path), note=note)]
