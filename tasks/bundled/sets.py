"""The sets that ship: their fields, labels and metrics."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class BundledSet:
    """One set of labelled texts.

    Attributes:
        family: the kind of task, which names its mixture.
        fields: the texts of an example, in the order in which they are written.
        grouped_by: the texts that must not be on two sides of a split.
        metrics: names in `spot_jax.metrics`.
    """

    name: str
    family: str
    fields: tuple[str, ...]
    grouped_by: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    @property
    def labels(self) -> tuple[str, ...]:
        """The label words, sorted: what a model has to answer."""
        return tuple(_described()[self.name]["labels"])

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples by split."""
        return dict(_described()[self.name]["examples"])


@functools.cache
def _described() -> dict[str, dict[str, Any]]:
    return json.loads((HERE / "sets.json").read_text(encoding="utf-8"))


ONE, TWO = ("text",), ("text1", "text2")
BINARY = ("accuracy", "macro_f1", "matthews_corrcoef")

SETS: dict[str, BundledSet] = {
    item.name: item
    for item in (
        BundledSet("vader_tweets", "sentiment", ONE, ONE),
        BundledSet("vader_amazon", "sentiment", ONE, ONE),
        BundledSet("vader_movie", "sentiment", ONE, ONE),
        BundledSet("clinc150", "intent", ONE, ONE),
        BundledSet("banking77", "intent", ONE, ONE),
        BundledSet("sotu_party", "style", ONE, ONE, BINARY),
        BundledSet("sms_spam", "spam", ONE, ONE, BINARY),
        # The second text is a name, which many passages share.
        BundledSet("gap_coref", "pair", TWO, ("text1",), BINARY),
        BundledSet("bible_paraphrase", "pair", TWO, TWO, BINARY),
        # The second text is the broader word, which is shared like a label.
        BundledSet("wordnet_hypernym", "pair", TWO, ("text1",), BINARY),
        BundledSet("wordnet_supersense", "lexical", ONE, ONE),
    )
}
