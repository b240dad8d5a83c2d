"""What a task's first examples look like as text and as pieces, and how many would be cut."""

import dataclasses
from collections.abc import Mapping

from spot_jax.data import seqio_registry, seqio_tasks
from spot_jax.data.examples import Ids
from spot_jax.t5.vocabulary import Vocabulary

FEATURES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class Side:
    """One feature of one example: its text, its pieces, and the number of these with eos."""

    text: str
    pieces: tuple[str, ...]

    @property
    def length(self) -> int:
        """The number of pieces, eos included."""
        return len(self.pieces)


@dataclasses.dataclass(frozen=True)
class Shown:
    """The first examples of a split.

    Attributes:
        examples: the first ones, by feature.
        read: number of examples read to count those that are too long.
        longest: number of pieces of the longest, by feature.
        cut: number of examples that are longer than the lengths allow, by feature.
    """

    examples: list[dict[str, Side]]
    read: int
    longest: dict[str, int]
    cut: dict[str, int]


def show(
    name: str,
    split: str,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    *,
    examples: int = 3,
    read: int = 1000,
) -> Shown:
    """Read the first examples of a task's split.

    Args:
        name: name of the task; of a mixture the first task by name comes first.
        split: name of the split.
        vocabulary: vocabulary of the backbone.
        lengths: feature lengths in pieces, eos included.
        examples: number of examples to return.
        read: number of examples to count lengths of.

    Raises:
        SpotError: what reading the task raises.
    """
    evaluation = seqio_tasks.load_evaluation(
        name, split, vocabulary, limit=max(read, examples), lengths=lengths
    )
    counts: dict[str, list[int]] = {feature: [] for feature in FEATURES}
    shown = []
    for number, (pair, fields) in enumerate(
        zip(evaluation.examples, evaluation.fields, strict=True)
    ):
        sides = dict(zip(FEATURES, pair, strict=True))
        for feature, ids in sides.items():
            counts[feature].append(len(ids))
        if number < examples:
            shown.append(
                {
                    feature: Side(
                        _text(fields.get(f"{feature}_pretokenized"), ids, vocabulary),
                        tuple(vocabulary.piece(token) for token in ids),
                    )
                    for feature, ids in sides.items()
                }
            )
    return Shown(
        shown,
        len(evaluation.examples),
        {feature: max(numbers) for feature, numbers in counts.items()},
        {
            feature: sum(number > lengths[feature] for number in numbers)
            for feature, numbers in counts.items()
        },
    )


def _text(raw: object, ids: Ids, vocabulary: Vocabulary) -> str:
    return raw.decode("utf-8") if isinstance(raw, bytes) else vocabulary.decode(ids.tolist())


def parts(name: str) -> list[tuple[str, float]]:
    """Return a mixture's tasks with their shares, largest first; nothing for a task."""
    registered = seqio_registry.require(name)
    tasks = seqio_registry.tasks_of(name)
    if [task.name for task in tasks] == [name]:
        return []
    rates = {task.name: float(registered.get_rate(task)) for task in tasks}
    total = sum(rates.values())
    return sorted(((task, rate / total) for task, rate in rates.items()), key=lambda pair: -pair[1])
