"""Pre-training tasks over any directory of plain text: `span_corruption` and `prefix_lm`."""

import functools
import logging
import os

import seqio

from spot_jax.data.denoising import OBJECTIVES
from spot_jax.data.seqio_text import TextLines, make_examples
from spot_jax.data.text_tokens import read_directory
from tasks.t5_features import OUTPUT_FEATURES


def register(directory: str | os.PathLike[str], *, prefix: str = "") -> tuple[str, ...]:
    """Register `{prefix}span_corruption` and `{prefix}prefix_lm` over the text in `directory`.

    The directory holds `.txt` files in UTF-8, one paragraph a line; 1% of the lines, chosen by
    their hash, are the validation split. Files in another encoding are left out and logged.
    Registering again replaces the tasks. Returns the two names; raises `SpotError` when there is
    no text.
    """
    skipped = read_directory(directory).skipped
    if skipped:
        logging.getLogger(__name__).warning(
            "%d files in %s are not UTF-8 and are left out", len(skipped), directory
        )
    names = tuple(prefix + objective for objective in OBJECTIVES)
    for name, objective in zip(names, OBJECTIVES, strict=True):
        if name in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            source=TextLines(os.fspath(directory), objective),
            preprocessors=[functools.partial(make_examples, objective_name=objective)],
            output_features=OUTPUT_FEATURES,
        )
    return names
