"""Which split a choice is made on, and which split, never seen by it, the result is reported on.

The paper takes the best of several prompts on the data that it reports (Vu et al. 2022, section
3.3), which flatters. Here the choice is made on validation and reported on test. Where a task has
no test split with answers, as GLUE has none, validation is halved: every other example chooses,
the others report.
"""

import dataclasses
from collections.abc import Mapping

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.t5.vocabulary import Vocabulary

AUTO = "auto"
LOOKED_AT = 200


@dataclasses.dataclass(frozen=True)
class Splits:
    """The two splits of a result.

    Attributes:
        choosing: split by whose scores checkpoints and prompts are chosen.
        reporting: split on which the score of the chosen prompt is the result.
        note: remark for the reader; "" for none.
    """

    choosing: str
    reporting: str
    note: str = ""


def splits_of(
    task: str,
    vocabulary: Vocabulary,
    *,
    lengths: Mapping[str, int],
    choosing: str = "validation",
    reporting: str = AUTO,
) -> Splits:
    """Return the splits for a task.

    Args:
        task: name of the task.
        vocabulary: vocabulary of the backbone; reading a task needs it.
        lengths: feature lengths, which examples made of text depend on.
        choosing: split that chooses.
        reporting: split that reports, also the one that chooses, as in the paper; "auto": test
            where it has answers, else half of `choosing`.
    """
    if reporting != AUTO:
        same = "chosen and reported on the same examples, as in the paper: the score flatters"
        return Splits(choosing, reporting, same if reporting == choosing else "")
    reasons = (_unfit(name, vocabulary, lengths) for name in loading.constituents(task))
    reason = next(filter(None, reasons), "")
    if not reason:
        return Splits(choosing, "test")
    note = f"{task} has no test split to report on ({reason}): {choosing} is halved instead"
    return Splits(f"{choosing}[::2]", f"{choosing}[1::2]", note)


def _unfit(task: str, vocabulary: Vocabulary, lengths: Mapping[str, int]) -> str:
    """Why `test` cannot be reported on; "" if it can."""
    try:
        scored = load_task(task, "test", vocabulary, lengths=lengths, limit=LOOKED_AT)
    except SpotError as error:
        return str(error).split(";")[0]
    # Data sets whose answers are held back have one filler for all of them.
    answers = {str(target) for target in scored.targets}
    if len(scored.targets) > 1 and len(answers) == 1:
        return f"all of its answers are {answers.pop()!r}"
    return ""
