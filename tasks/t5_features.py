"""The output features of our tasks: T5's own vocabulary, which ships, eos on both sides.

A run replaces the vocabulary by its backbone's.
"""

from pathlib import Path

import seqio

VOCABULARY = seqio.SentencePieceVocabulary(
    str(Path(__file__).parent / "t5_spiece.model"), extra_ids=100
)
OUTPUT_FEATURES = {
    "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
    "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
}
