"""Data of one's own: a file of rows as a task, without seqio and without TensorFlow.

`Table` says which columns are text and which is the label; `TableTask` is its examples in splits.
"""

from spot_jax.data.table.description import Table, is_table
from spot_jax.data.table.task import (
    TableTask,
    as_test,
    check_unchanged,
    forget,
    open_table,
    restore,
)

__all__ = [
    "Table",
    "TableTask",
    "as_test",
    "check_unchanged",
    "forget",
    "is_table",
    "open_table",
    "restore",
]
