"""`spot eval`: metrics of a run's prompts, or of prompt files, on a split."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spot_jax.cli.flags import add_seqio_flags, use_seqio_flags
from spot_jax.cli.inference_flags import how, inference_parser, opened
from spot_jax.errors import SpotError
from spot_jax.files import check_output

if TYPE_CHECKING:
    from spot_jax.inference.tuned import Tuned


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot eval --help`."""
    flags = inference_parser(
        "eval",
        "Score a run's prompts on a split of their tasks, alone or by majority vote.\n\n"
        "  spot eval RUN_DIR                                      the best prompts, on test\n"
        "  spot eval RUN_DIR --prompt A.safetensors --task NAME   another prompt, another task\n"
        "  spot eval --backbone DIR --prompt FILE --task NAME     without a run directory",
    )
    flags.add_argument("--split", default="test", help="default: test")
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    flags.add_argument("--task", **many, metavar="NAME", help="default: the prompts'")
    flags.add_argument("--data", metavar="FILE", help="all rows of a file like the run's, as test")
    flags.add_argument("--prompt", **many, metavar="FILE", help="default: the run's")
    flags.add_argument("--ensemble", action="store_true", help="the prompts of a task also vote")
    flags.add_argument("--examples", type=int, metavar="N", help="the first N only")
    flags.add_argument("--output", metavar="FILE", help="write predictions, a JSON object a line")
    flags.add_argument("--json", action="store_true", help="print JSON, not a table")
    add_seqio_flags(flags)
    values = flags.parse_args(arguments)
    options = how(values, "examples")
    if not all(name.strip() for name in values.task):
        raise SpotError("--task is empty; give the name of a task (`spot tasks list`)")
    if values.output:
        check_output(values.output)

    from spot_jax.inference.scores import score, write_predictions
    from spot_jax.inference.table import table

    tuned = opened(values, values.prompt)
    if values.data is not None:
        tuned = _with_data(tuned, values.data)
    use_seqio_flags(values)
    scores = score(
        tuned,
        split=values.split,
        tasks=values.task,
        ensemble=values.ensemble,
        examples=values.examples,
        **options,
    )
    if values.output:
        write_predictions(values.output, scores)
    print(json.dumps([s.summary() for s in scores], indent=1) if values.json else table(scores))
    return 0


def _with_data(tuned: "Tuned", file: str) -> "Tuned":
    """Put another file in the place of the one that a run was trained on; all its rows are test."""
    from spot_jax.data.table import as_test

    setup = tuned.setup
    if setup is None or len(setup.tables) != 1:
        raise SpotError("--data is for a run that was trained on one file of rows; use --task NAME")
    tables = {name: as_test(facts, file) for name, facts in setup.tables.items()}
    return dataclasses.replace(tuned, setup=dataclasses.replace(setup, tables=tables))
