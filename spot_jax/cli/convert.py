"""`spot convert`: a backbone into our stored form, or out of it."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot convert --help`."""
    flags = parser(
        "convert",
        "Import a T5 backbone, tensor by tensor: a T5X checkpoint directory (either form) or a\n"
        "Hugging Face one (safetensors). Local paths and gs:// buckets. The result loads sharded\n"
        "and carries its shape, its fingerprint and its vocabulary. --to writes one of theirs\n"
        "instead, of a stored backbone or of a run that tuned one.",
    )
    flags.add_argument("source", metavar="SOURCE", help="the checkpoint directory, or a run's")
    flags.add_argument("dest", metavar="DEST", help="a directory to make")
    kinds = ["float32", "bfloat16", "int8"]
    what = "default: as stored; int8: kernels with a scale for each output, for frozen backbones"
    flags.add_argument("--dtype", choices=kinds, help=what)
    flags.add_argument(
        "--vocabulary", metavar="FILE", help="a SentencePiece model to store with it"
    )
    flags.add_argument(
        "--to", choices=["spot", "hf", "t5x"], default="spot", help="hf: for transformers"
    )
    values = flags.parse_args(arguments)

    from spot_jax.t5.importing import MismatchError, convert

    try:
        report = convert(
            values.source,
            values.dest,
            dtype=values.dtype,
            vocabulary=values.vocabulary,
            form=values.to,
        )
    except MismatchError as error:
        print(error.report.table())
        raise
    print(report.table())
    size = f"{report.stored_bytes / 2**20:.0f} MiB, {report.dtype}"
    print(f"stored in {values.dest}: {size}, fingerprint {report.fingerprint[:12]}")
    return 0
