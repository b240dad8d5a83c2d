"""`spot prompts search`: the prompts of a library that are most like a task."""

import json
from collections.abc import Sequence

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot prompts search --help`."""
    flags = parser(
        "prompts search",
        "Rank a library's prompts by how like their task embeddings are to a task's. The task's\n"
        "embedding is tuned as the library's were, and kept for the next search.",
    )
    flags.add_argument("--library", required=True, metavar="DIR", help="a directory or a bucket")
    flags.add_argument("--task", metavar="NAME", help="the target task or mixture")
    flags.add_argument("--backbone", metavar="DIR", help="to tune the task's embedding on")
    flags.add_argument("--embedding", metavar="FILE", help="the task's embedding, already tuned")
    flags.add_argument("--top_k", type=int, default=5, metavar="K", help="default: 5")
    flags.add_argument("--metric", default="per_token", metavar="NAME", help="or average_tokens")
    flags.add_argument("--force", action="store_true", help="also other backbones and lengths")
    flags.add_argument(
        "--output_dir", metavar="DIR", help="of the run; default: runs/embeddings/.."
    )
    flags.add_argument("--json", action="store_true", help="print JSON, not a table")
    how = flags.add_argument_group("how the embedding is tuned; default: as the library's were")
    how.add_argument("--embedding_step", type=int, metavar="N")
    how.add_argument("--length", type=int, metavar="N", help="virtual tokens")
    how.add_argument("--init", metavar="NAME", help="class_labels, sampled_vocabulary or uniform")
    how.add_argument("--batch_size", type=int, metavar="N")
    how.add_argument("--inputs_length", type=int, metavar="N", help="tokens of text, end included")
    how.add_argument("--targets_length", type=int, metavar="N")
    how.add_argument("--learning_rate", type=float, metavar="RATE")
    how.add_argument("--seed", type=int, default=0, metavar="N")
    how.add_argument("--module", action="append", default=[], metavar="NAME", help="has the task")
    how.add_argument("--text_directory", metavar="DIR", help="of prefix_lm")
    values = flags.parse_args(list(arguments))

    from spot_jax.transfer.search import EmbeddingSettings, search

    tuned = {
        name: getattr(values, name)
        for name in EmbeddingSettings.__dataclass_fields__
        if name != "modules"
    }
    result = search(
        values.library,
        task=values.task,
        backbone=values.backbone,
        embedding=values.embedding,
        top_k=values.top_k,
        metric=values.metric,
        force=values.force,
        settings=EmbeddingSettings(**tuned, modules=tuple(values.module)),
        output_dir=values.output_dir,
    )
    print(json.dumps(result.summary(), indent=1) if values.json else "\n".join(result.lines()))
    return 0
