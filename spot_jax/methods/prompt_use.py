"""What a prompt file says of its use: enough, with the backbone, to predict with it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from spot_jax.errors import SpotError

DECODINGS = ("auto", "rank", "greedy", "beam")


@dataclasses.dataclass(frozen=True)
class PromptUse:
    """How texts become a prompt's inputs and its outputs predictions.

    Attributes:
        labels: verbalizers; empty for text that is written freely.
        template: text with a task's fields in braces (`spot_jax.data.fields`); None if unknown.
        keeps_eos: whether text that is cut keeps its end of sequence.
        lengths: lengths of inputs and targets in tokens of text; empty if unknown.
        decoding: way to predict: "auto", "rank", "greedy" or "beam".
        beams: number of beams of "beam".
        temperature: divisor of the labels' log-likelihoods in their probabilities.
        licence: SPDX identifier of the prompt's licence, or "".
        card: Markdown for people, with front matter as hubs read it, or "".
    """

    labels: tuple[str, ...] = ()
    template: str | None = None
    keeps_eos: bool = False
    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    decoding: str = "auto"
    beams: int = 4
    temperature: float = 1.0
    licence: str = ""
    card: str = ""

    def fields(self) -> dict[str, Any]:
        """Return what differs from the defaults, in JSON's types."""
        default = PromptUse()
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if v != getattr(default, k)}

    @classmethod
    def read(cls, fields: Any) -> "PromptUse":
        """Return the inverse of `fields`; ValueError for anything else, as files come from afar."""
        if not isinstance(fields, Mapping):
            raise ValueError(f"the use is no object but {type(fields).__name__}")
        names = {f.name for f in dataclasses.fields(cls)}
        use = cls(**{k: v for k, v in fields.items() if k in names})
        checks = {
            "labels": _is_list_of_text(use.labels),
            "template": use.template is None or isinstance(use.template, str),
            "keeps_eos": isinstance(use.keeps_eos, bool),
            "lengths": _are_lengths(use.lengths),
            "decoding": use.decoding in DECODINGS,
            "beams": type(use.beams) is int and 0 < use.beams <= 1000,
            "temperature": type(use.temperature) in (int, float) and 1e-3 < use.temperature < 1e3,
            "licence": isinstance(use.licence, str),
            "card": isinstance(use.card, str),
        }
        for name, is_right in checks.items():
            if not is_right:
                raise ValueError(f"{name} is {str(getattr(use, name))[:40]!r}")
        return dataclasses.replace(use, labels=tuple(use.labels), lengths=dict(use.lengths))


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(x, str) for x in value)


def _are_lengths(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        name in ("inputs", "targets") and type(n) is int and 0 < n <= 1_000_000
        for name, n in value.items()
    )


def check_licence(licence: str) -> None:
    """Raise `SpotError` for what cannot be an SPDX identifier, such as a sentence."""
    if not licence or not all(c.isalnum() or c in ".+-" for c in licence):
        raise SpotError(
            f"expected a licence's short name, such as apache-2.0 or cc-by-4.0, found {licence!r}"
        )
