"""Why a run does not learn, from what lies in its directory: findings, each with what to do."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.files import read_object
from spot_jax.t5.vocabulary import UNK, Vocabulary
from spot_jax.training.config import StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.run_info import RunSetup, read_setup

CUT = 0.05
"""Share of examples whose text may be cut."""
FEWEST_REPORTS = 10
LONG_LABEL = 6  # pieces


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that may keep a run from learning.

    Attributes:
        seen: sentence with the numbers that were seen.
        remedy: advice on what to do.
    """

    seen: str
    remedy: str


def examine(run_dir: str | Path) -> list[Finding]:
    """Return the findings of a run, the gravest first; none where nothing is odd.

    Raises:
        SpotError: no run there, or one that has not reported yet.
    """
    directory = Path(run_dir).expanduser()
    setup = read_setup(directory)
    loading.restore_tables(setup.tables)
    reports = _reports(directory)
    losses = _series(reports, "train/loss")
    if len(losses) < 2:
        raise SpotError(
            f"the run in {directory} has reported {len(losses)} steps so far; wait for more"
        )
    return [
        *_of_numbers(reports, losses),
        *_of_scores(setup, reports),
        *_of_losses(losses),
        *_of_lengths(reports, setup, directory),
        *_of_labels(setup),
    ]


def _reports(directory: Path) -> list[dict[str, Any]]:
    if not (directory / "metrics.jsonl").exists():
        raise SpotError(f"the run in {directory} has reported nothing yet; start its `spot train`")
    return read_metrics(directory)


def _series(reports: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """The values of a metric by step; of several prompts their mean."""
    values = []
    for report in reports:
        value = report.get(name)
        if isinstance(value, list):
            value = statistics.fmean(float(item) for item in value)
        if value is not None:
            values.append((int(report["step"]), float(value)))
    return values


def _of_numbers(
    reports: Sequence[Mapping[str, Any]], losses: Sequence[tuple[int, float]]
) -> Iterator[Finding]:
    norms = [value for _, value in _series(reports, "train/grad_norm")]
    if norms and max(norms) == 0.0:
        yield Finding(
            "the gradient is 0 in all steps",
            "nothing is trained: check the method, and that targets are not empty",
        )
    odd = [step for step, value in losses if not math.isfinite(value)]
    if odd:
        yield Finding(f"the loss is no number from step {odd[0]}", "divide LEARNING_RATE by ten")


def _of_losses(losses: Sequence[tuple[int, float]]) -> Iterator[Finding]:
    values = [value for _, value in losses if math.isfinite(value)]
    if len(values) < FEWEST_REPORTS:
        return
    tenth = max(2, len(values) // 10)
    first, last = statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:])
    before = statistics.fmean(values[-2 * tenth : -tenth])
    if last > 1.05 * first:
        yield Finding(
            f"the loss rose from {first:.3g} to {last:.3g}", "divide LEARNING_RATE by three or ten"
        )
    elif last > 0.95 * first:
        yield Finding(
            f"the loss has not fallen ({first:.3g} at first, {last:.3g} at the end)",
            "multiply LEARNING_RATE by three, or look at the data with spot data check",
        )
    elif last < 0.9 * before:
        yield Finding(
            f"the loss was still falling at the end (from {before:.3g} to {last:.3g})",
            "raise TRAIN_STEPS and choose another MODEL_DIR, or the same to go on",
        )


def _of_scores(setup: RunSetup, reports: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    scores = _series(reports, "validation/accuracy")
    if not scores:
        return
    best_step, best = max(scores, key=lambda pair: pair[1])
    majority = [_majority(name) for name in (facts.name for facts in setup.tasks)]
    common = [share for share in majority if share is not None]
    if common and best <= max(common) + 2:
        yield Finding(
            f"validation accuracy is {best:.1f}, always answering the commonest label gives "
            f"{max(common):.1f}",
            "raise TRAIN_STEPS, compare learning rates (--tune), or train more of the model: "
            "--method prefix_tuning, then model_tuning",
        )
    last_step, last = scores[-1]
    if len(scores) > 2 and best_step < last_step / 2 and last < best - 2:
        yield Finding(
            f"accuracy was {best:.1f} at step {best_step}, the best, {last:.1f} at {last_step}",
            "lower TRAIN_STEPS or LEARNING_RATE, or raise DROPOUT_RATE; the best step is used",
        )


def _majority(task: str) -> float | None:
    """The accuracy of the commonest label of a file of rows on validation, from 0 to 100."""
    if not loading.is_table(task) or not loading.labels_of(task):
        return None
    from spot_jax.data.table import open_table

    try:
        golds = [item.gold for item in open_table(task).items("validation")]
    except SpotError:  # the file is no longer there
        return None
    return 100 * collections.Counter(golds).most_common(1)[0][1] / len(golds)


def _of_lengths(
    reports: Sequence[Mapping[str, Any]], setup: RunSetup, directory: Path
) -> Iterator[Finding]:
    path = directory / "result.json"
    if not path.exists():
        return
    result = read_object(path, "start the run's `spot train` again, which writes it anew") or {}
    for side in ("inputs", "targets"):
        cut, examples = result.get(f"truncated_{side}", 0), result.get("examples", 0)
        if examples and cut > CUT * examples:
            yield Finding(
                f"{100 * cut / examples:.0f}% of {side} were longer than {setup.lengths[side]} "
                "tokens, and cut",
                "raise TASK_FEATURE_LENGTHS; spot data check says how long texts are",
            )


def _of_labels(setup: RunSetup) -> Iterator[Finding]:
    labels = sorted({label for facts in setup.tasks for label in facts.labels})
    vocabulary = _vocabulary(setup)
    if not labels or vocabulary is None:
        return
    encoded = dict(zip(labels, vocabulary.encode_all(labels), strict=True))
    unknown = [label for label, ids in encoded.items() if UNK in ids]
    if unknown:
        yield Finding(
            f"the vocabulary lacks letters of the labels {', '.join(unknown[:5])}",
            "write them with other letters",
        )
    long = [label for label, ids in encoded.items() if len(ids) > LONG_LABEL]
    if long:
        yield Finding(
            f"labels of more than {LONG_LABEL} pieces: {', '.join(long[:5])}",
            "a short word for each is learnt sooner",
        )


def _vocabulary(setup: RunSetup) -> Vocabulary | None:
    try:
        return None if setup.backbone is None else StoredBackbone(setup.backbone).vocabulary()
    except SpotError:  # the backbone has moved
        return None
