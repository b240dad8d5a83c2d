"""What a prompt predicts for one text."""

from collections.abc import Mapping
from typing import Any


class Prediction(str):
    """A label or a text that a model wrote: itself a string, so it goes wherever one does.

    Attributes:
        probabilities: probability of each label among those that it was chosen from, in their
            order; empty for text that was written freely, and where none were asked for.
    """

    probabilities: Mapping[str, float]

    def __new__(cls, text: str, probabilities: Mapping[str, float] | None = None) -> "Prediction":
        """Make a string with probabilities."""
        prediction = super().__new__(cls, text)
        prediction.probabilities = dict(probabilities or {})
        return prediction

    def __getnewargs__(self) -> Any:
        return str(self), self.probabilities

    @property
    def label(self) -> str:
        """The label, or the text, as a plain string."""
        return str(self)

    @property
    def probability(self) -> float | None:
        """Probability of the label; None where probabilities are unknown."""
        return self.probabilities.get(str(self))

    def __repr__(self) -> str:
        if not self.probabilities:
            return f"Prediction({str(self)!r})"
        shares = ", ".join(f"{label!r}: {p:.4g}" for label, p in self.probabilities.items())
        return f"Prediction({str(self)!r}, {{{shares}}})"
