"""Sizes found when data is read against the catalogue's, which rates of mixtures go by."""

from tasks.papers.catalogue import BY_NAME, base_of
from tasks.papers.rows_files import ROUNDED


def difference(
    task: str, split: str, rows: int | None = None, examples: int | None = None
) -> str | None:
    """Return a line that says how a split's size differs from the catalogue's; None where not.

    Args:
        task: name of the task; one that is not in the catalogue has nothing to differ from.
        split: name of the split.
        rows: number of rows that its source holds, if known.
        examples: number of examples that its preprocessing makes of them, if known.
    """
    item = BY_NAME.get(base_of(task))
    if item is None or split not in item.sizes:
        return None
    expected, counted, what = item.sizes[split], rows, "rows"
    if examples is not None and split == "train":
        expected, counted, what = item.training_examples or expected, examples, "examples"
    if counted is None or counted == expected:
        return None
    if item.name in ROUNDED and round(counted, -3) == expected:
        return None
    return (
        f"expected {expected:,} {what} in split {split} of {task}, found {counted:,}; "
        "the catalogue's number goes into the rates of mixtures"
    )
