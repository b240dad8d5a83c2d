"""A study: a directory of jobs that any number of processes share, brought to one file of results.

    study = TransferStudy(plan, command="spot study ...")
    study.run(print)                 all of it, or what is left
    study.run_job("source-x", print) one job, for a cluster's scheduler
    study.overview()                 jobs and their states; nothing is run or written

study.json              settings, commands, and what else its kind of study writes down
jobs/JOB/result.json    scores and files of a finished job, with the settings they were made under
jobs/JOB/run/           run of the job (`spot_jax.training.run_directory`)
jobs/JOB/place          where the study was when the job was begun
jobs/JOB/lock           locked by the process that does the job
results.json            what all finished jobs found
compiled/               compiled programs

A job is done when its result is on disk. A kill loses at most what the job under way has done since
its last checkpoint. A study that was begun when jobs were called cells has `cells/` for `jobs/`.
"""

import abc
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from etils import epath

from spot_jax.data.example_cache import examples_cached
from spot_jax.errors import SpotError
from spot_jax.files import aligned, read_versioned, remove_tree, write_object, write_whole
from spot_jax.files.digests import file_digest
from spot_jax.files.records import from_plain, plain
from spot_jax.files.verified import matches
from spot_jax.studies.engine import queue, ray_queue
from spot_jax.studies.engine.compilation_cache import compilation_cache
from spot_jax.studies.engine.job import Job, JobResult
from spot_jax.studies.engine.job_lock import file_lock, holder
from spot_jax.studies.engine.ray_cluster import RayCluster
from spot_jax.studies.engine.results import Results, devices
from spot_jax.training.distributed import by_lead
from spot_jax.training.run_directory import run_path

FORMAT = 2
# Names of format 1.
RENAMED = {"cell": "job", "made": "prompts"}

Log = Callable[[str], None]


class AnyPlan(Protocol):
    """What a study asks of its plan."""

    @property
    def init_by_task(self) -> bool | None:
        """Whether prompts of one seed begin apart; None for as the study has it."""
        ...

    @property
    def path(self) -> epath.Path:
        """Absolute path of the study."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what decides the study's numbers, as one level of JSON."""
        ...


P = TypeVar("P", bound=AnyPlan)
J = TypeVar("J", bound=Job)
R = TypeVar("R", bound=JobResult)


class Study(abc.ABC, Generic[P, J, R]):
    """A study's directory and its plan, checked against each other.

    Attributes:
        plan: plan of the study.
        path: absolute path of the directory.
        record: content of study.json.
        jobs: jobs of the plan, those that others need first.
        asked: those of them that are to be done now.
    """

    command: ClassVar[str]
    """Command that does such studies, for messages."""
    result_type: ClassVar[type]
    """Dataclass of a job's result."""
    init_by_task: ClassVar[bool] = False
    """Whether prompts of one seed begin apart unless the plan says otherwise."""
    products: ClassVar[tuple[str, ...]] = ("run",)
    """Names of what a job makes in its directory beside its result."""

    def __init__(self, plan: P, command: str = "", *, look: bool = False):
        """Open a study: begun, continued, or grown.

        Args:
            plan: plan of the study.
            command: command to keep among those that made the study.
            look: whether to write nothing and check no task.

        Raises:
            SpotError: a plan that cannot be done, a directory that cannot be written or that holds
                another study, or results that were made under other settings.
        """
        self.plan, self._results = plan, dict[str, R]()
        if look:
            self.path = plan.path
            self._open(command)
            return
        self.check()
        self.path = run_path(plan.path)
        with file_lock(self.path / ".lock", wait=True):
            self._open(command)
            write_object(self.path / "study.json", self.record)

    # What a kind of study says.

    @abc.abstractmethod
    def plan_jobs(self) -> Sequence[J]:
        """Return the jobs of the plan and the record, those that others need first."""

    @abc.abstractmethod
    def amount(self, job: J) -> float:
        """Return how much there is to do in a job, in whatever unit."""

    @abc.abstractmethod
    def steps(self, job: J) -> str:
        """Return the number of updates of a job, for people."""

    @abc.abstractmethod
    def do(self, job: J, progress: bool | None) -> R:
        """Do a job, or what an earlier start left of it, and return its result."""

    @abc.abstractmethod
    def assemble(self) -> Results:
        """Return the results of all finished jobs."""

    def check(self) -> None:
        """Raise `SpotError` for what can be seen to be wrong before anything is written."""

    def grow(self, record: dict[str, Any], *, new: bool) -> None:
        """Add to the record what the plan adds; `SpotError` for what it takes away."""

    def upgrade(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a result of any format as those of the newest."""
        if "job" in fields:
            return fields
        return {RENAMED.get(name, name): value for name, value in fields.items()}

    def tidy(self, job: J) -> None:
        """Remove what a job needs no longer once its result is written."""

    # The directory.

    def _open(self, command: str) -> None:
        path = self.path / "study.json"
        settings = json.loads(json.dumps(self.plan.settings()))
        record = read_versioned(path, FORMAT, _record, "restore it, or choose another STUDY_DIR")
        new = record is None
        if record is None:
            self._check_unrecorded()
            record = {"format": FORMAT, "settings": {}, "commands": [], "bound": True}
            by_task = self.plan.init_by_task
            record["init_by_task"] = self.init_by_task if by_task is None else by_task
        else:
            check_settings(f"{self.path} holds a study", record["settings"], settings)
            self._check_init(record)
        self.grow(record, new=new)
        record["settings"] |= settings
        if command and command not in record["commands"]:
            record["commands"].append(command)
        self.record = record
        self.jobs = self.asked = tuple(self.plan_jobs())
        for job in self.jobs:
            self.result(job)

    def _check_init(self, record: Mapping[str, Any]) -> None:
        wanted, began = self.plan.init_by_task, record["init_by_task"]
        if wanted is not None and wanted != began:
            raise SpotError(
                f"{self.path} holds a study with init_by_task = {began}, this one has {wanted}; "
                "choose another STUDY_DIR, or the same settings"
            )

    def _check_unrecorded(self) -> None:
        """Raise `SpotError` if results are there and nothing says what they were made under."""
        for path in sorted(self.path.glob("*/*/result.json")):
            fields = read_versioned(path, FORMAT, dict, "remove it") or {}
            if "about" not in fields:
                raise SpotError(
                    f"{self.path} has results but no study.json, so nothing says under which "
                    "settings they were made; restore it, or choose another STUDY_DIR"
                )

    @property
    def by_task(self) -> bool:
        """Whether prompts of one seed begin apart, by their tasks' names."""
        return bool(self.record["init_by_task"])

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands that made the study so far."""
        return tuple(self.record["commands"])

    def job(self, name: str) -> J:
        """Return the job of a name; `SpotError` if there is none."""
        for job in self.jobs:
            if job.name == name:
                return job
        raise SpotError(f"the study has no job {name!r}; `{self.command} --jobs` lists its jobs")

    def directory(self, job: Job | str) -> epath.Path:
        """Return the directory of a job."""
        folder = "cells" if (self.path / "cells").exists() else "jobs"
        return self.path / folder / (job if isinstance(job, str) else job.name)

    def lock_file(self, job: Job) -> epath.Path:
        """Return the file that a process locks while it does a job."""
        return self.directory(job) / "lock"

    def begin(self, job: Job) -> None:
        """Clear away what was begun before the study was moved: runs name prompts by path."""
        by_lead(lambda: self._clear_moved(job))

    def _clear_moved(self, job: Job) -> None:
        place = self.directory(job) / "place"
        if place.exists() and place.read_bytes() != str(self.path).encode():
            for name in self.products:
                remove_tree(self.directory(job) / name)
        write_whole(place, str(self.path))

    # Results.

    def is_done(self, job: Job | str) -> bool:
        """Return whether a job has a result."""
        return (self.directory(job) / "result.json").exists()

    def result(self, job: J | str) -> R | None:
        """Return the result of a job; None if it is not done.

        Raises:
            SpotError: a result that is damaged, lacks a prompt or its file, or was made under
                other settings than the plan's.
        """
        job = self.job(job) if isinstance(job, str) else job
        if job.name not in self._results:
            path = self.directory(job) / "result.json"
            remedy = "remove it, and the job is done again"
            result = read_versioned(path, FORMAT, lambda fields: self._read(job, fields), remedy)
            if result is None:
                return None
            self._results[job.name] = result
        return self._results[job.name]

    def needed(self, job: J | str) -> R:
        """Return the result of a job that is done because others wait for it."""
        result = self.result(job)
        if result is None:
            raise AssertionError(f"{job} is needed and not done")
        return result

    def done(self) -> Iterator[tuple[J, R]]:
        """Yield finished jobs with their results, in the order of `jobs`."""
        for job in self.jobs:
            result = self.result(job)
            if result is not None:
                yield job, result

    def save(self, job: J, result: R) -> None:
        """Write the result of a job, which makes it done, in one move."""
        files = (prompt.file for prompt in result.prompts if prompt.file)
        digests = {file: file_digest(self.path / file) for file in files if self._is_file(file)}
        about = {"about": self.about(job), "files": digests}
        fields = {"format": FORMAT, **plain(result), **about}
        write_object(self.directory(job) / "result.json", fields)

    def _is_file(self, name: str) -> bool:
        return (self.path / name).is_file()

    def about(self, job: J) -> dict[str, Any]:
        """Return everything that decides the result of a job, in JSON's types.

        Settings of a task (`task X.inputs`) count where the job is about that task.
        """
        tasks = job.tasks_about
        settings = {
            key: value
            for key, value in self.plan.settings().items()
            if tasks is None
            or not key.startswith("task ")
            or key.removeprefix("task ").rpartition(".")[0] in tasks
        }
        about = {
            "init_by_task": self.by_task,
            "parts": [dataclasses.asdict(part) for part in job.parts],
            "settings": settings,
        }
        return json.loads(json.dumps(about))

    def _read(self, job: J, fields: dict[str, Any]) -> R:
        where = f"the result of {job.name} in {self.path}"
        about, files = fields.pop("about", None), fields.pop("files", {})
        try:
            result: R = from_plain(self.result_type, self.upgrade(fields), where)
        except SpotError as error:
            raise ValueError(error) from error
        if len(result.prompts) != len(job.parts):
            raise ValueError(f"it has {len(result.prompts)} of {len(job.parts)} prompts")
        lost = [p.file for p in result.prompts if p.file and not (self.path / p.file).exists()]
        if lost:
            raise ValueError(f"its prompt {lost[0]} is gone")
        changed = [file for file, digest in files.items() if not matches(self.path / file, digest)]
        if changed:
            raise ValueError(f"its prompt {changed[0]} is not the one that was scored")
        if result.job != job.name:
            raise ValueError(f"it is of the job {result.job}")
        if about is None and self.record.get("bound"):
            raise ValueError("it does not say under which settings it was made")
        if about is not None:
            ours = self.about(job)
            check_settings(where, about.pop("settings"), ours.pop("settings"))
            check_settings(where, about, ours)
        return result

    # The queue.

    def waits_for(self, job: J) -> list[str]:
        """Return the names of the jobs that have to be done before."""
        return [name for name in job.needs if not self.is_done(name)]

    def state(self, job: J) -> str:
        """Return in words: done, running (where), ready, or waiting (for how many)."""
        if self.is_done(job):
            return "done"
        if process := holder(self.lock_file(job)):
            return f"running: {process}"
        waiting = self.waits_for(job)
        return f"waits for {len(waiting)}" if waiting else "ready"

    def overview(self) -> list[str]:
        """Return a line for each job, with its state and prompts; then how many are done."""
        rows = [["job", "state", "prompts"]]
        rows += [[job.name, self.state(job), str(len(job.parts))] for job in self.jobs]
        done = sum(map(self.is_done, self.jobs))
        return [*aligned(rows, left=(0, 1)), f"{done} of {len(self.jobs)} done{self.time_left()}"]

    def time_left(self, at_once: int = 1) -> str:
        """Estimate the time left from the jobs so far; "" before the first, or after the last.

        Args:
            at_once: number of jobs that are done side by side.
        """
        seconds = amount = left = 0.0
        for job in self.asked:
            result = self.result(job)
            if result is None:
                left += self.amount(job)
            else:
                seconds, amount = seconds + result.seconds, amount + self.amount(job)
        if not (seconds and left):
            return ""
        return f", about {time_text(seconds / amount * left / at_once)} left"

    def run(
        self,
        log: Log,
        *,
        wanted: Callable[[J], bool] = lambda job: True,
        progress: bool | None = None,
        on: RayCluster | None = None,
    ) -> Results:
        """Do what is left, together with whoever else is at it, and write the results.

        Args:
            log: function called with a line on each job.
            wanted: test of whether to do a job; what it needs is done with it.
            progress: whether each run shows a progress bar; None for where stderr is a terminal.
            on: cluster whose workers do the jobs; None for this process.

        Raises:
            SpotError: a job that failed, by name; the results of the others are written.
            Stopped: by a signal; the same command goes on.
        """
        names = {job.name for job in self.jobs if wanted(job)}
        for job in reversed(self.jobs):  # those that others need come first
            names |= set(job.needs) if job.name in names else set()
        jobs = self.asked = tuple(job for job in self.jobs if job.name in names)
        done = sum(map(self.is_done, jobs))
        before = f", {done} jobs done" if done else ""
        prompts = sum(len(job.parts) for job in jobs)
        log(f"{self.path}: {len(jobs)} jobs, {prompts} prompts{before}")
        try:
            if on is not None:
                ray_queue.run_all(self, jobs, on, log)
            else:
                with self.caches():
                    queue.run_all(self, jobs, lambda job: self._do(job, log, progress), log)
        except BaseException:
            if any(map(self.is_done, self.jobs)):
                self.finish()
            raise
        return self.finish()

    def run_job(self, name: str, log: Log, *, progress: bool | None = None) -> None:
        """Do one job; nothing if it is done.

        Raises:
            SpotError: no such job, one whose needs are not done, or one that another process does.
            Stopped: by a signal; the same command goes on.
        """
        with self.caches():
            queue.run_one(self, self.job(name), lambda job: self._do(job, log, progress), log)

    def so_far(self) -> Results:
        """Write the results of the jobs that are done, and run none.

        Raises:
            SpotError: nothing of the study is done.
        """
        if not any(map(self.is_done, self.jobs)):
            raise SpotError(
                f"nothing of a study is done in {self.path}; run `{self.command}` without"
            )
        return self.finish()

    def finish(self) -> Results:
        """Write results.json from all jobs that are done."""
        with file_lock(self.path / ".lock", wait=True):
            results = self.assemble()
            results.write(self.path)
        return results

    def _do(self, job: J, log: Log, progress: bool | None) -> None:
        done = sum(map(self.is_done, self.asked))
        prompts = "1 prompt" if len(job.parts) == 1 else f"{len(job.parts)} prompts"
        log(f"[{done + 1}/{len(self.asked)}] {job.name}: {prompts}, {self.steps(job)} steps")
        result = self.work(job, progress)
        log(f"    {self.scores(result)}{self.time_left()}")

    @contextlib.contextmanager
    def caches(self) -> Iterator[None]:
        """Keep compiled programs and examples for the jobs that are done while the block runs."""
        with compilation_cache(self.path / "compiled"), examples_cached():
            yield

    def work(self, job: J, progress: bool | None = None) -> R:
        """Do a job, write its result and return it; a complaint says which job it is about."""
        with _named(job):
            self.begin(job)
            result = dataclasses.replace(self.do(job, progress), devices=devices())
            self.save(job, result)
            self.tidy(job)
        return result

    def scores(self, result: R) -> str:
        """Return what a job found and how long it took, for people."""
        tests = [p.validation if p.test is None else p.test for p in result.prompts]
        split = "validation" if all(p.test is None for p in result.prompts) else "test"
        scores = " ".join("-" if score is None else f"{score:.1f}" for score in tests[:9])
        more = " ..." if tests[9:] else ""
        return f"{split} {scores}{more} in {time_text(result.seconds)}"


def check_settings(where: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise `SpotError` if settings differ; those of a task (`task X.inputs`) may be new."""
    odd = [key for key in theirs if key in ours and _plain(theirs[key]) != _plain(ours[key])]
    # A task that is new brings settings of its own; a setting that is gone is a change.
    odd += [key for key in theirs if key not in ours and not key.startswith("task ")]
    odd += [key for key in ours if key not in theirs and not key.startswith("task ")]
    if odd:
        more = f" (and {', '.join(odd[1:4])}{', ...' if odd[4:] else ''})" if odd[1:] else ""
        raise SpotError(
            f"{where} with {odd[0]} = {_short(theirs.get(odd[0]))}, this one has "
            f"{_short(ours.get(odd[0]))}{more}; what is done would not belong to it: choose "
            "another STUDY_DIR, or the same settings"
        )


def time_text(seconds: float) -> str:
    """Return "40 s", "12 min" or "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _record(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a study.json of any format that is understood, as the newest."""
    needed = {"settings": dict(fields["settings"]), "commands": list(fields["commands"])}
    return {"format": FORMAT, "bound": False, "init_by_task": False, **fields, **needed}


def _plain(value: Any) -> Any:
    """Return a setting as it compares: methods had other names once, and no smoothing."""
    if isinstance(value, dict) and str(value.get("type")).endswith("Recipe"):
        return {"label_smoothing": 0.0, **value, "type": value["type"].removesuffix("Recipe")}
    return value


@contextlib.contextmanager
def _named(job: Job) -> Iterator[None]:
    """Within, a complaint says which job it is about."""
    try:
        yield
    except SpotError as error:
        raise SpotError(f"job {job.name}: {error}") from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
