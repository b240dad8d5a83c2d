"""`spot infer`: predictions for lines of text or JSON."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from spot_jax.cli.inference_flags import how, inference_parser, opened
from spot_jax.errors import SpotError


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot infer --help`."""
    made = inference_parser(
        "infer",
        "Predict for each line of a file or of standard input that is not blank. Lines are texts,\n"
        "or, if the first begins with {, JSON objects: a task's fields, such as\n"
        '{"text1": "...", "text2": "..."}, or {"inputs": "the whole text"}. Each comes out as a\n'
        'JSON object with "prediction".',
    )
    made.add_argument("--input", default="-", metavar="FILE", help="default: -, standard input")
    made.add_argument("--prompt", metavar="FILE", help="default: the run's best")
    made.add_argument("--task", metavar="NAME", help="which, if the run has several")
    made.add_argument("--labels", metavar="A,B,C", help="choose among these only")
    given = made.parse_args(arguments)
    options = how(given)
    labels = [] if given.labels is None else [label.strip() for label in given.labels.split(",")]

    with _lines(given.input) as lines:  # before the backbone: a missing file is found at once
        from spot_jax.inference.lines import Predictor

        tuned = opened(given, [given.prompt] if given.prompt else [])
        predictor = Predictor(tuned, task=given.task, labels=labels, **options)
        for row in predictor(lines):
            print(json.dumps(row, ensure_ascii=False))
    if predictor.truncated_inputs:
        share = f"{predictor.truncated_inputs} of {predictor.examples}"
        print(f"{share} inputs were longer than the lengths allow, and cut", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _lines(path: str) -> Iterator[IO[str]]:
    try:
        if path == "-":
            yield sys.stdin
            return
        with Path(path).expanduser().open(encoding="utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        raise SpotError(f"{path} is not text in UTF-8 ({error.reason}); convert it") from error
