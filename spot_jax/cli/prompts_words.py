"""`spot prompts words`: the words that a prompt's rows are nearest to."""

import json
from collections.abc import Sequence

from spot_jax.cli.flags import parser
from spot_jax.errors import SpotError
from spot_jax.files import aligned


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot prompts words --help`."""
    flags = parser(
        "prompts words",
        "Show for each row of a prompt the pieces of the vocabulary whose embeddings have the\n"
        "largest cosines with it (Lester et al. 2021, section 7).",
    )
    flags.add_argument("source", metavar="FILE|ID", help="an ID of --library")
    flags.add_argument("--library", metavar="DIR", help="a directory, or a bucket's gs://...")
    flags.add_argument("--backbone", required=True, metavar="DIR", help="that it was tuned on")
    flags.add_argument("--top_k", type=int, default=5, metavar="K", help="default: 5")
    flags.add_argument("--json", action="store_true", help="print JSON, not a table")
    values = flags.parse_args(list(arguments))

    from spot_jax.t5.stored import read_description

    description = read_description(values.backbone)

    import numpy as np

    from spot_jax.library.library import Library
    from spot_jax.library.nearest_words import nearest_words
    from spot_jax.methods.prompt_forms import load_prompt
    from spot_jax.methods.stored import check_virtual
    from spot_jax.t5.backbone import load_backbone
    from spot_jax.t5.vocabulary import load_vocabulary

    file = values.source
    if values.library:
        file = Library(values.library).get(file).path
    prompt = load_prompt(file, backbone=description.fingerprint)
    check_virtual(str(file), prompt)
    backbone = load_backbone(values.backbone)
    if backbone.vocabulary_path is None:
        raise SpotError(
            f"{values.backbone} has no vocabulary, so its pieces have no names; make it again with "
            "`spot convert --vocabulary`"
        )
    vocabulary = load_vocabulary(backbone.vocabulary_path)
    table = np.asarray(backbone.params["token_embedder"]["embedding"], np.float32)
    near = nearest_words(prompt.rows, table[: vocabulary.pieces], values.top_k)
    words = [[vocabulary.piece(token) for token in ids] for ids in near.ids.tolist()]
    if values.json:
        pairs = zip(words, near.cosines.round(4).tolist(), strict=True)
        rows = [{"row": i, "pieces": w, "cosines": c} for i, (w, c) in enumerate(pairs)]
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    lines = [["row", "nearest pieces, by cosine"]]
    for i, (pieces, cosines) in enumerate(zip(words, near.cosines, strict=True)):
        text = ", ".join(f"{p} {c:.2f}" for p, c in zip(pieces, cosines, strict=True))
        lines.append([str(i), text])
    print("\n".join(aligned(lines, left=(1,))))
    return 0
