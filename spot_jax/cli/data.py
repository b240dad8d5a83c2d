"""`spot data`: what a file of one's own holds, before anything is trained on it."""

from collections.abc import Callable, Sequence

from spot_jax.cli.flags import parser
from spot_jax.cli.table_flags import add_table_flags, table_of
from spot_jax.errors import SpotError


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot data --help`."""
    if arguments and arguments[0] in ACTIONS:
        return ACTIONS[arguments[0]](list(arguments[1:]))
    flags = parser(
        "data",
        "Look at a file of your own: CSV, TSV, JSON lines, Parquet, Arrow, a saved `datasets`\n"
        "directory.\n\n"
        "  spot data check FILE   columns, labels, what is missing or twice, splits and lengths",
    )
    flags.add_argument("action", choices=list(ACTIONS), metavar="check", help="what to do")
    flags.parse_args(arguments)
    raise SpotError("spot data check needs a file: spot data check tickets.csv")


def _check(arguments: list[str]) -> int:
    flags = parser(
        "data check",
        "What a file holds and how `spot train --data FILE` would read it: columns, labels, rows\n"
        "that are left out or come twice, splits, and how many texts would be cut.",
    )
    flags.add_argument("file", metavar="FILE", help="a file, or FILE?text=A,B&label=C")
    add_table_flags(flags)
    flags.add_argument(
        "--backbone", metavar="DIR", default="backbones/mini", help="whose tokens; default: mini"
    )
    flags.add_argument("--inputs_length", type=int, metavar="N", help="default: what suits")
    values = flags.parse_args(arguments)

    from spot_jax.cli.values import shipped
    from spot_jax.data.table import forget, open_table
    from spot_jax.data.table.lengths import measure
    from spot_jax.data.table.summary import summary
    from spot_jax.training.config import StoredBackbone

    table = table_of(values.file, values)
    forget([table.name])
    task = open_table(table.name)
    lengths = measure(task, StoredBackbone(shipped(values.backbone)).vocabulary())
    chosen = lengths.suited()
    if values.inputs_length:
        chosen["inputs"] = values.inputs_length
    print("\n".join(summary(task, lengths, chosen)))
    return 0


ACTIONS: dict[str, Callable[[list[str]], int]] = {"check": _check}
