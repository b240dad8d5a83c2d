"""What a run is trained on, as plain data."""

import dataclasses
from collections.abc import Mapping, Sequence

from spot_jax.data.table.description import Table
from spot_jax.errors import SpotError, check_fields, short, whole

SIDES = ("inputs", "targets")
LONGEST = 1_000_000
EXAMPLE = "{'inputs': 256, 'targets': 16}"
ROWS = whole(1, 1_000_000)
"""Range of the number of rows of a batch."""


def check_lengths(lengths: Mapping[str, int], name: str = "TASK_FEATURE_LENGTHS") -> None:
    """Raise `SpotError` unless lengths are whole numbers of inputs and targets and no others.

    Args:
        lengths: lengths in tokens by feature.
        name: name of the setting.
    """
    if not isinstance(lengths, Mapping):
        raise SpotError(f"expected {name} such as {EXAMPLE}, found {lengths!r}")
    for side in SIDES:
        if side not in lengths:
            raise SpotError(f"{name} lacks {side!r}; give both, such as {EXAMPLE}")
    for side, length in lengths.items():
        if side not in SIDES:
            raise SpotError(f"{name} has {side!r}, which no task has; give {EXAMPLE}")
        if not isinstance(length, int) or isinstance(length, bool) or not 0 < length <= LONGEST:
            raise SpotError(
                f"expected {name}[{side!r}] to be a whole number from 1 to {LONGEST:,}, found "
                f"{length!r}"
            )


@dataclasses.dataclass(frozen=True)
class DataSource:
    """What is trained on.

    Attributes:
        mixture_or_task_name: name of a seqio task or mixture, a `Table` or the path of a file of
            rows or arrays (`spot_jax.data.loading` says which); a list gives each prompt of the
            run one.
        task_feature_lengths: {"inputs": ..., "targets": ...} in tokens of text, end included; the
            prompt's room is added. None for a file of rows: they are found from its texts.
        batch_size: number of rows a step, for each prompt.
        split: split of training.
        pack: whether several examples share a row.
        packed_lengths: whole lengths of rows when packing, prompts included; None for one
            example's.
        modules: names of Python modules that register tasks.
        text_directory: path of plain text for `span_corruption` and `prefix_lm`.
        use_cached_tasks: whether seqio's offline cache is read.
    """

    mixture_or_task_name: str | Table | Sequence[str | Table]
    task_feature_lengths: Mapping[str, int] | None = None
    batch_size: int = 32
    split: str = "train"
    pack: bool = False
    packed_lengths: Mapping[str, int] | None = None
    modules: Sequence[str] = ()
    text_directory: str | None = None
    use_cached_tasks: bool = False

    def __post_init__(self) -> None:
        names = self.names
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise SpotError(
                "expected the name of a task or mixture, or a list of such, found "
                f"{short(self.mixture_or_task_name)}; `spot tasks list` shows them"
            )
        if self.task_feature_lengths is not None:
            check_lengths(self.task_feature_lengths)
        if self.packed_lengths is not None:
            check_lengths(self.packed_lengths, "PACKED_LENGTHS")
        check_fields(self, batch_size=ROWS)

    @property
    def names(self) -> list[str]:
        """Names as a list."""
        named = self.mixture_or_task_name
        each = [named] if isinstance(named, str | Table) else (named or ())
        return [item.name if isinstance(item, Table) else item for item in each]

    @property
    def lengths(self) -> Mapping[str, int]:
        """Feature lengths; `SpotError` where they are not known yet."""
        if self.task_feature_lengths is None:
            raise SpotError(
                f"expected TASK_FEATURE_LENGTHS for {', '.join(self.names)}, found none; give "
                f"{EXAMPLE}"
            )
        return self.task_feature_lengths
