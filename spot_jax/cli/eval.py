"""`spot eval`: metrics of a run's prompts, or of prompt files, on a split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spot_jax.cli.inference_flags import how, inference_parser, opened


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot eval --help`."""
    made = inference_parser(
        "eval",
        "Score a run's prompts on a split of their tasks, alone or by majority vote.\n\n"
        "  spot eval RUN_DIR                                      the best prompts, on test\n"
        "  spot eval RUN_DIR --prompt A.safetensors --task NAME   another prompt, another task\n"
        "  spot eval --backbone DIR --prompt FILE --task NAME     without a run directory",
    )
    made.add_argument("--split", default="test", help="default: test")
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    made.add_argument("--task", **many, metavar="NAME", help="default: the prompts'")
    made.add_argument("--prompt", **many, metavar="FILE", help="default: the run's")
    made.add_argument("--ensemble", action="store_true", help="the prompts of a task also vote")
    made.add_argument("--examples", type=int, metavar="N", help="the first N only")
    made.add_argument("--output", metavar="FILE", help="write predictions, a JSON object a line")
    made.add_argument("--json", action="store_true", help="print JSON, not a table")
    given = made.parse_args(arguments)
    options = how(given, "examples")

    from spot_jax.inference.scores import score, write_predictions
    from spot_jax.inference.table import table

    scores = score(
        opened(given, given.prompt),
        split=given.split,
        tasks=given.task,
        ensemble=given.ensemble,
        examples=given.examples,
        **options,
    )
    if given.output:
        write_predictions(Path(given.output), scores)
    print(json.dumps([s.summary() for s in scores], indent=1) if given.json else table(scores))
    return 0
