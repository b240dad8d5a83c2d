"""Predictions for the rows of a file: its columns, a prediction and its probability."""

from typing import Any

from spot_jax.data.fields import names_in
from spot_jax.data.table.reading import Rows
from spot_jax.errors import SpotError
from spot_jax.inference.predictor import PREDICTION, Predictor

PROBABILITY = "probability"
ROWS_AT_ONCE = 4096


def predict_file(
    predictor: Predictor, rows: Rows, name: str
) -> tuple[list[str], list[dict[str, Any]], int]:
    """Return the columns, the rows with their predictions, and the number of rows without text.

    Args:
        predictor: predictor whose task says which columns are read.
        rows: rows of the file. One without any text has no prediction.
        name: name of the file, for errors.

    Raises:
        SpotError: a column that the task reads and the file lacks, or one of ours in the file.
    """
    task = predictor.task
    read = names_in(task.template) if task.template else ("inputs",)
    if "inputs" in rows.columns and "inputs" not in read:
        read = ("inputs",)
    for column in read:
        if column not in rows.columns:
            raise SpotError(
                f"{name} has no column {column!r}, which {task.name or 'the prompt'} reads; it has "
                f"{', '.join(rows.columns)}"
            )
    for column in (PREDICTION, PROBABILITY):
        if column in rows.columns:
            raise SpotError(
                f"{name} has a column {column!r} of its own, which ours would replace; rename it"
            )
    has_text = [any(row[column].strip() for column in read) for row in rows.rows]
    inputs = [
        {column: row[column] for column in read}
        for row, whether in zip(rows.rows, has_text, strict=True)
        if whether
    ]
    predictions: list[Any] = []
    for start in range(0, len(inputs), ROWS_AT_ONCE):
        predictions += predictor.predict(inputs[start : start + ROWS_AT_ONCE])
    following = iter(predictions)
    probable = any(getattr(text, PROBABILITY, None) is not None for text in predictions)
    results = []
    for row, whether in zip(rows.rows, has_text, strict=True):
        prediction = next(following) if whether else None
        result: dict[str, Any] = {
            **row,
            PREDICTION: None if prediction is None else str(prediction),
        }
        if probable:
            share = getattr(prediction, PROBABILITY, None)
            result[PROBABILITY] = None if share is None else round(share, 4)
        results.append(result)
    names = [*rows.columns, PREDICTION, *([PROBABILITY] if probable else [])]
    return names, results, has_text.count(False)
