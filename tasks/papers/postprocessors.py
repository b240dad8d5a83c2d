"""From decoded text to what metrics compare, as T5's postprocessors do.

What a metric needs of an example goes with its target; predictions are texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Example = Mapping[str, Any]
NO_LABEL = "<no label>"


def label(text: str, *, labels: Sequence[str], **_: Any) -> str:
    """Return a label, or one and the same word for everything that is none."""
    return text if text in labels else NO_LABEL


def one_of_all(text: str, example: Example | None = None, is_target: bool = False, **_: Any) -> Any:
    """Return a prediction, or all of the target's `answers`."""
    if not is_target or example is None:
        return text
    return [_text(answer) for answer in example["answers"]] or [text]


def references(text: str, example: Example | None = None, is_target: bool = False, **_: Any) -> Any:
    """Return a prediction, or all of the target's `references`; the target where it has none."""
    if not is_target or example is None:
        return text
    return [_text(answer) for answer in example["references"]] or [text]


def record(text: str, example: Example | None = None, is_target: bool = False, **_: Any) -> Any:
    """Return a prediction, or the answers of a ReCoRD query and which query it is."""
    if not is_target or example is None:
        return text
    group = (int(example["idx/passage"]), int(example["idx/query"]))
    return {"value": one_of_all(text, example, True), "group": group}


def multirc(text: str, example: Example | None = None, is_target: bool = False, **_: Any) -> Any:
    """Return a prediction, or the label of a MultiRC answer and which question it is to."""
    if not is_target or example is None:
        return text
    return {"value": text, "group": int(example["idx/question"])}


def wsc(text: str, example: Example | None = None, is_target: bool = False, **_: Any) -> Any:
    """Return a prediction, or the text that is asked about and whether it is the referent."""
    if not is_target or example is None:
        return text
    return {"label": bool(example["label"]), "referent": text}


def _text(raw: Any) -> str:
    return raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
