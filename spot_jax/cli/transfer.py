"""`spot transfer`: a target task from the prompts of a library, by one of several methods."""

import argparse
from collections.abc import Sequence

from spot_jax.cli.flags import gin_flags, parser

# Each flag is short for a macro of the run file, so that there is one place for values.
MACROS = {
    "method": "METHOD",
    "library": "LIBRARY",
    "target": "MIXTURE_OR_TASK_NAME",
    "top_k": "TOP_K",
    "metric": "METRIC",
    "embedding": "EMBEDDING",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot transfer --help`."""
    command = parser(
        "transfer",
        "Retrieve source prompts for a target task, tune the target from them, choose on\n"
        "validation, report on test. The same command again goes on where it stopped, and shows\n"
        "a finished transfer's results.",
        settings=True,
    )
    _add_flags(command.add_argument_group("what to transfer; short for --gin.METHOD and so on"))
    flags, settings = gin_flags(command, arguments, "spot_transfer")
    for flag, macro in MACROS.items():
        value = getattr(flags, flag)
        if value is not None:
            settings["flags"].append((f"--{flag}={value}", f"{macro} = {value!r}"))

    from spot_jax.cli.configurables import configured

    transfer, fields, text = configured("transfer", **settings)

    from spot_jax.transfer.result import lines

    result = transfer(operative_config=text, **fields)
    print("\n".join(lines(result)))
    return 0


def _add_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method", metavar="NAME", help="scratch, best_of_top_k, weighted_average, "
        "multitask_mixture or oracle"
    )  # fmt: skip
    group.add_argument("--library", metavar="DIR", help="of source prompts; see spot prompts")
    group.add_argument("--target", metavar="TASK", help="the task or mixture to tune a prompt for")
    group.add_argument("--top_k", type=int, metavar="K", help="how many prompts to retrieve")
    group.add_argument("--metric", metavar="NAME", help="per_token or average_tokens")
    group.add_argument("--embedding", metavar="FILE", help="the target's; default: tuned here")
