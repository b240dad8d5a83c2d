"""`spot infer`: predictions for lines of text, JSON or CSV."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from spot_jax.cli.inference_flags import how, inference_parser, opened


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot infer --help`."""
    flags = inference_parser(
        "infer",
        "Predict for each line of a file or of standard input that is not blank. Lines are texts,\n"
        "or JSON objects, or rows of a table whose first names the columns: a task's fields, such\n"
        'as {"text1": "...", "text2": "..."}, or {"inputs": "the whole text"}. Each comes out as\n'
        'a JSON object with "prediction".',
    )
    flags.add_argument("--input", default="-", metavar="FILE", help="default: -, standard input")
    flags.add_argument(
        "--format",
        choices=("auto", "text", "jsonl", "csv", "tsv"),
        default="auto",
        help="of the input; default: by the file's ending, else by whether line 1 is a JSON object",
    )
    flags.add_argument("--prompt", metavar="FILE", help="default: the run's best")
    flags.add_argument("--task", metavar="NAME", help="which, if the run has several")
    flags.add_argument("--labels", metavar="A,B,C", help="choose among these only")
    values = flags.parse_args(arguments)
    options = how(values)
    labels = [] if values.labels is None else [label.strip() for label in values.labels.split(",")]

    with _lines(values.input) as lines:  # before the backbone: a missing file is found at once
        from spot_jax.inference.predictor import ENDINGS, Predictor

        tuned = opened(values, [values.prompt] if values.prompt else [])
        predictor = Predictor(tuned, task=values.task, labels=labels, **options)
        form = values.format
        if form == "auto":
            form = ENDINGS.get(Path(values.input).suffix.lower(), "auto")
        for row in predictor(lines, form):
            print(json.dumps(row, ensure_ascii=False))
    if predictor.truncated_inputs:
        share = f"{predictor.truncated_inputs} of {predictor.examples}"
        print(f"{share} inputs were longer than the lengths allow, and cut", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _lines(path: str) -> Iterator[IO[Any]]:
    if path == "-":
        # As bytes: whatever the locale says, text is UTF-8.
        yield getattr(sys.stdin, "buffer", sys.stdin)
        return
    with Path(path).expanduser().open("rb") as file:
        yield file
