"""A study's jobs: pieces of work that processes do one after another or side by side.

A job says what it is about (kind, task, prompts), never how it is done: that is the plan's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

NO_PROMPT = "no_prompt"
"""Kind of the jobs that score the bare backbone on a task, and name of that row everywhere."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: name of its directory, and for `--job`.
        kind: kind of work, one of its study's.
        parts: prompts of the job, in order; dataclasses.
        needs: names of the jobs that have to be done before.
    """

    name: str
    kind: str
    parts: tuple[Any, ...]
    needs: tuple[str, ...] = ()

    @property
    def tasks_about(self) -> tuple[str, ...] | None:
        """Tasks whose own settings decide its result; None for all of the study's."""
        return None


@dataclasses.dataclass(frozen=True)
class PromptResult:
    """Scores of one prompt of a finished job; paths are relative to the study's directory.

    Attributes:
        test: score on the test split; None for prompts that are not scored there.
        file: path of the prompt; "" where there is none.
        validation: score by which the checkpoint was chosen; None without a choice.
        step: number of updates of the checkpoint; None for what no run wrote.
        metrics: all metrics on the test split.
        majority: score of always answering the test split's most common label; None for a task
            without labels.
    """

    test: float | None = None
    file: str = ""
    validation: float | None = None
    step: int | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    majority: float | None = None


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a finished job leaves.

    Attributes:
        job: name of the job.
        prompts: results in the order of the job's parts.
        seconds: time that the start which finished the job took.
        devices: devices of that start ("8 x TPU v5 lite"); "" in files of before this was written.
    """

    job: str
    prompts: tuple[PromptResult, ...]
    seconds: float = 0.0
    devices: str = ""
