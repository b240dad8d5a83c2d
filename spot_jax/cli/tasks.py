"""`spot tasks`: list what can be trained on."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot tasks --help`."""
    made = parser("tasks", "List the registered tasks and mixtures, one a line.")
    made.add_argument("modules", nargs="*", metavar="MODULE", help="modules that register more")
    given = made.parse_args(arguments)

    from spot_jax.data import seqio_registry

    seqio_registry.import_all(given.modules)
    print("\n".join(seqio_registry.names()))
    return 0
