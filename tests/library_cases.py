"""Small prompts and libraries of them, for several test files; numpy only."""

import numpy as np

from spot_jax.methods.prompt_file import PromptFile

BACKBONE, OTHER = "a" * 64, "b" * 64


def make_prompt(task="mnli", *, seed=0, step=300, shape=(5, 8), **fields):
    """A prompt file whose numbers follow from its task, seed and step."""
    draw = np.random.default_rng([*task.encode(), abs(seed), step])
    fields = {"backbone": BACKBONE, "metrics": {"accuracy": 50.0}, **fields}
    return PromptFile(
        draw.normal(size=shape).astype(np.float32), task=task, seed=seed, step=step, **fields
    )


def make_pair(task="mnli", *, seed=0, embedding_step=20, **fields):
    """A prompt and its task embedding."""
    return make_prompt(task, seed=seed, **fields), make_prompt(
        task, seed=seed, **{**fields, "step": embedding_step}
    )


def fill(library):
    """Three tasks by two seeds on one backbone."""
    for task in ("mnli", "squad", "sst2"):
        for seed in (0, 1):
            library.add(*make_pair(task, seed=seed))
    return library
