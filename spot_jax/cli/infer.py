"""`spot infer`: predictions for lines of text, JSON or CSV, or for the rows of a file."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import IO, Any

from spot_jax.cli.inference_flags import how, inference_parser, opened
from spot_jax.errors import SpotError
from spot_jax.files import as_path


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot infer --help`."""
    flags = inference_parser(
        "infer",
        "Predict for each line of a file or of standard input that is not blank. Lines are texts,\n"
        "or JSON objects, or rows of a table whose first names the columns: a task's fields, such\n"
        'as {"text1": "...", "text2": "..."}, or {"inputs": "the whole text"}. Each comes out as\n'
        'a JSON object with "prediction". With --output a file of rows comes out as it went in,\n'
        "with a column for the prediction and one for its probability:\n\n"
        "  spot infer RUN_DIR --input new.csv --output predicted.csv",
    )
    flags.add_argument("--input", default="-", metavar="FILE", help="default: -, standard input")
    flags.add_argument(
        "--format",
        choices=("auto", "text", "jsonl", "csv", "tsv"),
        default="auto",
        help="of the input; default: by the file's ending, else by whether line 1 is a JSON object",
    )
    flags.add_argument(
        "--output", metavar="FILE", help=".csv, .tsv, .jsonl or .parquet; default: standard output"
    )
    flags.add_argument("--columns", metavar="A,B,C", help="names, of a file whose line 1 has none")
    flags.add_argument("--encoding", metavar="NAME", help="of a file of rows; default: UTF-8")
    flags.add_argument("--prompt", metavar="FILE", help="default: the run's best")
    flags.add_argument("--task", metavar="NAME", help="which, if the run has several")
    flags.add_argument("--labels", metavar="A,B,C", help="choose among these only")
    values = flags.parse_args(arguments)
    options = how(values)
    labels = [] if values.labels is None else [label.strip() for label in values.labels.split(",")]

    if values.output or PurePath(values.input).suffix.lower() in (".parquet", ".arrow", ".feather"):
        return _predict_rows(values, labels, options)
    with _lines(values.input) as lines:  # before the backbone: a missing file is found at once
        from spot_jax.inference.predictor import ENDINGS, Predictor

        tuned = opened(values, [values.prompt] if values.prompt else [])
        predictor = Predictor(tuned, task=values.task, labels=labels, **options)
        form = values.format
        if form == "auto":
            form = ENDINGS.get(PurePath(values.input).suffix.lower(), "auto")
        for row in predictor(lines, form):
            print(json.dumps(row, ensure_ascii=False))
    _say_what_was_cut(predictor)
    return 0


def _say_what_was_cut(predictor: Any) -> None:
    if predictor.truncated_inputs:
        share = f"{predictor.truncated_inputs} of {predictor.examples}"
        print(f"{share} inputs were longer than the lengths allow, and cut", file=sys.stderr)


def _predict_rows(values: argparse.Namespace, labels: list[str], options: dict[str, Any]) -> int:
    """Predict for a file of rows; it and the output's ending are checked before the backbone."""
    from spot_jax.data.table.reading import read_rows
    from spot_jax.data.table.writing import check_output, write_rows

    if values.output:
        check_output(values.output)
    if values.input == "-":
        raise SpotError("--output is for a file of rows: add --input FILE, or leave --output out")
    columns = [name.strip() for name in (values.columns or "").split(",") if name.strip()]
    rows = read_rows(values.input, columns=columns, encoding=values.encoding or "")

    from spot_jax.inference.file_rows import predict_file
    from spot_jax.inference.predictor import Predictor

    tuned = opened(values, [values.prompt] if values.prompt else [])
    predictor = Predictor(tuned, task=values.task, labels=labels, **options)
    names, predicted, without_text = predict_file(predictor, rows, values.input)
    if values.output:
        write_rows(values.output, names, predicted)
        print(f"{len(predicted):,} rows in {values.output}")
    else:
        for row in predicted:
            print(json.dumps(row, ensure_ascii=False))
    _say_what_was_cut(predictor)
    if without_text:
        print(f"{without_text} rows have no text, and so no prediction", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _lines(path: str) -> Iterator[IO[Any]]:
    if path == "-":
        # As bytes: whatever the locale says, text is UTF-8.
        yield getattr(sys.stdin, "buffer", sys.stdin)
        return
    with as_path(path).open("rb") as file:
        yield file
