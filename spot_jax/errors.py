"""The exception that a user's mistake raises, the kind of warning, extras, ranges of numbers."""

import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# Longer than paths are.
_LONG_WORD = re.compile(r"\S{1000,}")


def _cut(word: re.Match[str]) -> str:
    text = word.group()
    return f"{text[:60]}[{len(text) - 80} characters]{text[-20:]}"


class SpotError(Exception):
    """A mistake in what the user gave: one line with what was expected, what was found, what to do.

    The command line prints the message without a traceback and exits with code 2; code that uses
    the library catches it like any exception. A word of the message that is longer than any
    name, such as a damaged file's value, is cut in its middle.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_LONG_WORD.sub(_cut, message))


class SpotWarning(UserWarning):
    """A problem that was worked around and that the user should know of, in one line."""


# The packages that only extras of pyproject.toml bring, as they are imported.
EXTRAS = {
    "seqio": ("seqio", "tensorflow", "tensorflow_datasets"),
    "report": ("altair", "jinja2", "vl_convert"),
    "serve": ("fastapi", "prometheus_client", "starlette", "uvicorn"),
    "ray": ("ray",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}


def missing_extra(error: BaseException) -> SpotError | None:
    """Return the complaint about an extra that a failed import lacks; None for other errors."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        for extra, packages in EXTRAS.items():
            if top in packages:
                return SpotError(
                    f"this needs {top}, which is not installed; pip install 'spot-jax[{extra}]'"
                )
    return None


def require_extra(extra: str, what: str) -> None:
    """Raise `SpotError` if a package of an extra is not installed; `what` it is for begins it."""
    for package in EXTRAS[extra]:
        if importlib.util.find_spec(package) is None:
            raise SpotError(
                f"{what} needs {package}, which is not installed; pip install 'spot-jax[{extra}]'"
            )


class Range(NamedTuple):
    """The numbers that a setting may have, from `low` to `high`.

    Attributes:
        low: least number.
        high: greatest number.
        open: ends that the number must not reach itself: "", "low", "high" or "both".
        whole: whether it is a whole number.
    """

    low: float
    high: float
    open: str = ""
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        below = value < self.high if self.open in ("high", "both") else value <= self.high
        return above and below

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.low:,}" if self.open in ("low", "both") else f"from {self.low:,}"
        if math.isinf(self.high):
            return f"{kind} {low}" + ("" if self.open in ("low", "both") else " on")
        end = "below" if self.open in ("high", "both") else "to"
        return f"{kind} {low} {end} {self.high:,}"


def whole(low: int, high: int) -> Range:
    """Return the range of whole numbers from `low` to `high`."""
    return Range(low, high, whole=True)


COUNT = whole(1, 10**9)
POSITIVE = Range(0, math.inf, "both")
SHARE = Range(0, 1)
SEED = whole(0, 2**32 - 1)


def check_range(name: str, value: Any, allowed: Range) -> None:
    """Raise `SpotError` unless a value is None, a number of a range, or a list of such.

    Args:
        name: name of the setting.
        value: value of the setting.
        allowed: range of its numbers.
    """
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if several and not len(value):
        raise SpotError(f"{name} is {short(value)}; give {allowed}, or a list of at least one")
    for number in value if several else [value]:
        if number is not None and not allowed.holds(number):
            raise SpotError(f"{name} is {short(number)}; give {allowed}")


def check_fields(settings: Any, **ranges: Range) -> None:
    """Raise `SpotError` unless fields of a dataclass are numbers of their ranges, or None."""
    for name, allowed in ranges.items():
        check_range(f"{type(settings).__name__}.{name}", getattr(settings, name), allowed)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise `SpotError` unless a setting is one of the words that it may be."""
    if value not in choices:
        raise SpotError(f"{name} is {short(value)}; choose {', '.join(choices)}")


def short(value: Any) -> str:
    """Return a value as Python writes it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
