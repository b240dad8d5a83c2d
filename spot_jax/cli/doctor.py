"""`spot doctor`: why a run does not learn, and what to do."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot doctor --help`."""
    flags = parser(
        "doctor",
        "Look for reasons why a run does not learn: its losses, gradients and scores beside those\n"
        "of the commonest label, lengths, labels that the vocabulary splits badly; each with what\n"
        "to do.",
    )
    flags.add_argument("run_dir", metavar="RUN_DIR", help="a MODEL_DIR of spot train")
    values = flags.parse_args(arguments)

    from spot_jax.inference.doctor import examine

    findings = examine(values.run_dir)
    for finding in findings:
        print(f"{finding.seen}\n    {finding.remedy}")
    if not findings:
        print("nothing odd: the loss fell, and nothing was cut")
    return 0
