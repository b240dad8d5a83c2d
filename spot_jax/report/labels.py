"""How names and numbers are written for people."""

import math
import os
from collections.abc import Iterable

from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.transfer.method_table import (
    ANY_SOURCE,
    BEST_OF_ANY_K,
    BEST_OF_TOP_K,
    ONE_SOURCE,
    ORACLE,
)
from spot_jax.studies.transfer.results import (
    MAJORITY,
    MULTITASK_MIXTURE,
    SCRATCH,
    TRANSFER,
    WEIGHTED_AVERAGE,
)

METHODS = {
    MAJORITY: "commonest label",
    NO_PROMPT: "no prompt",
    SCRATCH: "from scratch",
    TRANSFER: "from a source",
    ANY_SOURCE: "any source (mean of all)",
    ONE_SOURCE: "one source for all, best on the other targets",
    BEST_OF_ANY_K: "best of any {k} (mean of all choices)",
    BEST_OF_TOP_K: "best of top {k}",
    WEIGHTED_AVERAGE: "weighted average of top {k}",
    MULTITASK_MIXTURE: "multi-task mixture of top {k}",
    ORACLE: "best of all {k} (oracle)",
}
SIMILARITIES = {"average_tokens": "average tokens", "per_token": "per token"}


def method_name(method: str, k: int | None, similarity: str | None = None) -> str:
    """Return a method as a row's label."""
    name = METHODS.get(method, method)
    name = name.replace(" {k}", "") if k is None else name.replace("{k}", str(k))
    return f"{name}, {SIMILARITIES[similarity]}" if similarity else name


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return task names without the beginning that all share ("bundled_sms_spam": "sms_spam")."""
    names = list(dict.fromkeys(names))
    shared = os.path.commonprefix(names) if len(names) > 1 else ""
    cut = shared.rfind("_") + 1
    return {name: name[cut:] for name in names}


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """Return a number with a true minus; an en dash for None or NaN."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if not text.strip("+-0."):  # -0.0 and +0.0
        text = text.lstrip("+-")
    return text.replace("-", "−")


def with_sd(value: float, sd: float, digits: int = 1, *, sign: bool = False) -> str:
    """Return "76.2 (0.1)", or the mean alone."""
    text = number(value, digits, sign=sign)
    return text if math.isnan(sd) or math.isnan(value) else f"{text} ({number(sd, digits)})"


def span(low: float, high: float, digits: int = 1, *, sign: bool = True) -> str:
    """Return an interval, or nothing."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{number(low, digits, sign=sign)} to {number(high, digits, sign=sign)}"


def p_value(p: float) -> str:
    """Return "p = 0.046", "p < 0.001", or nothing."""
    if math.isnan(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def count(n: int, single: str, many: str | None = None) -> str:
    """Return "1 target" or "3 targets", by the number."""
    return f"{n} {single if n == 1 else many or single + 's'}"
