"""C4 with the prefix language modelling objective, SPoT's one source without labels."""

import functools

import seqio

from spot_jax.data.seqio_text import make_examples
from tasks.papers.catalogue import BY_NAME
from tasks.papers.tfds_source import TfdsSource
from tasks.t5_features import OUTPUT_FEATURES

if "c4_prefix_lm" not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
        "c4_prefix_lm",
        source=TfdsSource(BY_NAME["c4_prefix_lm"]),
        preprocessors=[functools.partial(make_examples, objective_name="prefix_lm")],
        output_features=OUTPUT_FEATURES,
    )
