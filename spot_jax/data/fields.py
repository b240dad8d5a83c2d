"""How the fields of an example are written as text, by task: what `spot infer` writes too.

A template is the text with fields in braces, such as "text1: {text1} text2: {text2}".
"""

import functools
import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from spot_jax.errors import SpotError

_TEMPLATES: dict[str, str | Callable[[], str]] = {}


def register(task: str, template: str | Callable[[], str]) -> None:
    """Name the template of a task's inputs. Registering again replaces it.

    A function is called when the template is asked for; it may read the task's files.
    """
    if isinstance(template, str):
        names_in(template)
    _TEMPLATES[task] = template


def template_of(task: str) -> str | None:
    """Return the template of a task, or None when it has none registered."""
    template = _TEMPLATES.get(task)
    return template() if callable(template) else template


def template_from(names: tuple[str, ...]) -> str:
    """Return the template that writes each field after its name, as T5's tasks do."""
    return " ".join(f"{name}: {{{name}}}" for name in names)


def names_in(template: str) -> tuple[str, ...]:
    """Return the names of a template's fields; `SpotError` when it has none or odd ones.

    A name may have spaces and signs, as columns of a table have, but a letter too.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpotError(f"{template!r} is no template ({error}); write {{field}}") from error
    named = [part for part in parts if part[1] is not None]
    plain = all(re.search(r"[^\W\d_]", str(part[1])) and part[2:] == ("", None) for part in named)
    if not named or not plain:
        raise SpotError(
            f"expected a template with named fields, such as 'text: {{text}}', found {template!r}"
        )
    return tuple(dict.fromkeys(str(part[1]) for part in named))


def write(template: str, row: Mapping[str, Any]) -> str:
    """Return the text of one example; `KeyError` for a field that is missing."""
    parts = _parts(template)
    return "".join([words + ("" if name is None else str(row[name])) for words, name in parts])


@functools.lru_cache(maxsize=64)
def _parts(template: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((words, name) for words, name, _, _ in string.Formatter().parse(template))
