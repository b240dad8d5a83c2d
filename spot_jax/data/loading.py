"""Data by name, for a run: arrays in files without seqio, everything else through it.

`FILE.npz` is what `Examples.save` wrote; `{split}` in the name stands for the split.
`FILE.npy:span_corruption` and `FILE.npy:prefix_lm` are flat tokens of text with an objective. Any
other name is a seqio task or mixture. Only the last imports seqio and TensorFlow.
"""

from collections.abc import Mapping
from types import ModuleType

from spot_jax.data.denoising import TokenSource, objective
from spot_jax.data.examples import Examples
from spot_jax.data.sources import Shuffled, Source
from spot_jax.data.text_tokens import load_tokens
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary

Lengths = Mapping[str, int]


def is_arrays(name: str) -> bool:
    """Return whether `name` is a file of arrays, which needs no seqio."""
    return name.endswith(".npz") or ".npy:" in name


def load_examples(
    name: str, split: str, vocabulary: Vocabulary | None, *, limit: int | None = None
) -> Examples:
    """Return the examples of a split in order; see `seqio_tasks.load_examples` for tasks."""
    if name.endswith(".npz"):
        examples = Examples.load(_npz_path(name, split))
        return examples if limit is None else examples.first(limit)
    if is_arrays(name):
        raise SpotError(
            f"expected examples to evaluate on, found the endless text {name}; give a .npz file"
        )
    return _seqio().load_examples(name, split, _needed(vocabulary, name), limit=limit)


def training_source(
    name: str,
    vocabulary: Vocabulary | None,
    seed: int,
    *,
    split: str = "train",
    lengths: Lengths | None = None,
) -> Source:
    """Return an endless source of a split; see `seqio_tasks.training_source` for tasks."""
    if name.endswith(".npz"):
        return Shuffled(Examples.load(_npz_path(name, split)), seed)
    if is_arrays(name):
        path, _, kind = name.rpartition(":")
        if not lengths:
            raise SpotError(f"expected feature lengths to cut {name} by, found none; give them")
        made = objective(kind, _needed(vocabulary, name).size, lengths.get("targets"))
        return TokenSource(load_tokens(path), made, lengths["inputs"], seed)
    return _seqio().training_source(
        name, _needed(vocabulary, name), seed, split=split, lengths=lengths
    )


def _npz_path(name: str, split: str) -> str:
    if "{split}" not in name and split != "train":
        raise SpotError(
            f"expected {{split}} in the file name {name} to read split {split!r}, found a file for "
            "training only; name the files NAME-{split}.npz"
        )
    return name.replace("{split}", split)


def _needed(vocabulary: Vocabulary | None, name: str) -> Vocabulary:
    if vocabulary is None:
        raise SpotError(
            f"expected a backbone with a vocabulary to read {name}, found one without; "
            "give the vocabulary's path or tokenised arrays (.npz)"
        )
    return vocabulary


def _seqio() -> ModuleType:
    try:
        from spot_jax.data import seqio_tasks
    except ImportError as error:
        raise SpotError(
            f"expected seqio and tensorflow to read tasks by name, found {error}; "
            "install them with `pip install seqio`, or give arrays (.npz)"
        ) from error
    return seqio_tasks
