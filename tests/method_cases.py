"""Methods at work on a backbone in memory, as tests of their functions need them."""

import types
from collections.abc import Sequence

import jax
import numpy as np

from spot_jax.methods.base import BaseMethod, StoredPrompt, Task
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.config import T5Config


def from_rows(*prompts, **fields) -> list[Task]:
    """Tasks whose prompts begin from rows."""
    files = [PromptFile(np.asarray(rows, np.float32), **fields) for rows in prompts]
    return [Task(source=StoredPrompt(f"prompt-{i}", file)) for i, file in enumerate(files)]


def backbone_of(params, config: T5Config):
    """What methods look at of a backbone."""
    return types.SimpleNamespace(params=params, config=config, fingerprint="mark")


def begin(method: BaseMethod, params, config: T5Config, tasks: Sequence[Task] | int = 1, keys=None):
    """A program, its trainable tree and its frozen tree; keys of seeds 0, 1, ... by default."""
    tasks = [Task() for _ in range(tasks)] if isinstance(tasks, int) else tasks
    backbone = backbone_of(params, config)
    program = Program.of(method, backbone, tasks)
    if keys is None:
        keys = jax.random.split(jax.random.key(0), len(tasks))
    return program, *program.init(keys, backbone)


def program_on(method: BaseMethod, backbone, count: int = 1, **fields) -> Program:
    """The program of a method that reads its own stored prompts; `fields` are the tasks'."""
    sources = method.sources(backbone, count) or [None] * count
    tasks = [Task(source=source, **fields) for source in sources]
    return Program.of(method, backbone, tasks)
