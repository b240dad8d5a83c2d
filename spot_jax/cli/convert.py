"""`spot convert`: import a backbone into our stored form."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot convert --help`."""
    made = parser(
        "convert",
        "Import a T5 backbone, tensor by tensor: a T5X checkpoint directory (either form) or a\n"
        "Hugging Face one (safetensors). Local paths and gs:// buckets. The result loads sharded\n"
        "and carries its shape, its fingerprint and its vocabulary.",
    )
    made.add_argument("source", metavar="SOURCE", help="the checkpoint directory")
    made.add_argument("dest", metavar="DEST", help="a directory to make")
    made.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: as stored")
    made.add_argument("--vocabulary", metavar="FILE", help="a SentencePiece model to store with it")
    given = made.parse_args(arguments)

    from spot_jax.t5.importing import MismatchError, convert

    try:
        report = convert(given.source, given.dest, dtype=given.dtype, vocabulary=given.vocabulary)
    except MismatchError as error:
        print(error.report.table())
        raise
    print(report.table())
    size = f"{report.stored_bytes / 2**20:.0f} MiB, {report.dtype}"
    print(f"stored in {given.dest}: {size}, fingerprint {report.fingerprint[:12]}")
    return 0
