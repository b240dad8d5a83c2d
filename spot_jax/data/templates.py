"""P-Tuning's templates: fields, places of virtual tokens, and words that stay as anchors.

    {premise:cut} Question: {hypothesis} ? <prompt:3> Answer: {target}

`{field}` is a field of the task's examples; `{inputs}` is the whole text as the task itself writes
it. `<prompt:3>` is a place of three virtual tokens, anywhere and as often as wanted. `{target}` is
where the answer belongs, once. Where an example is too long only the field marked `:cut` loses its
end; without a mark it is the first field. Doubled braces are braces.

A form is what becomes of a template: T5's sentinels stand for the answer (`<extra_id_0>`), for each
virtual token (`<extra_id_99>`), and on both sides of the field that is cut (`<extra_id_98>`).
"""

import dataclasses
import difflib
import hashlib
import re
import string
from collections.abc import Iterable

from spot_jax.data.virtual_tokens import CUT, PLACE
from spot_jax.errors import SpotError

ANSWER = "<extra_id_0>"
VIRTUAL = f"<extra_id_{PLACE}>"
MARK = f"<extra_id_{CUT}>"
TARGET = "target"
EXAMPLE = "{text} Question: ... ? <prompt:3> Answer: {target}"

MOST_PLACES = 100_000
_PROMPT = re.compile(r"<prompt:(\d+)>")
_JOINT = "_template_"


@dataclasses.dataclass(frozen=True)
class Template:
    """A template that was read.

    Attributes:
        text: template as it was written.
        form: text with sentinels, fields in braces; `spot_jax.data.fields` writes it.
        fields: names of the fields, each once, in order.
        cut: the field that loses its end where an example is too long.
        length: number of virtual tokens, P.
    """

    text: str
    form: str
    fields: tuple[str, ...]
    cut: str
    length: int


def parse(text: str) -> Template:
    """Read a template.

    Raises:
        SpotError: malformed braces or places, no field, no virtual token, no target or two, two
            fields to cut.
    """
    parts = _parts(text)
    names = [value for kind, value in parts if kind == "field"]
    fields = tuple(dict.fromkeys(name.removesuffix(":cut") for name in names))
    if not fields:
        raise SpotError(f"expected a template with a field, such as {EXAMPLE!r}, found {text!r}")
    targets = sum(kind == TARGET for kind, _ in parts)
    if targets != 1:
        raise SpotError(
            f"expected one {{target}} in a template, the answer's place, found {targets} in "
            f"{text!r}; write it as in {EXAMPLE!r}"
        )
    length = sum(int(value) for kind, value in parts if kind == "prompt")
    if not length:
        raise SpotError(
            f"expected virtual tokens in a template, found none in {text!r}; put <prompt:3> "
            "wherever three should stand"
        )
    marked = [name for name in names if name.endswith(":cut")]
    if len(marked) > 1 or (marked and names.count(marked[0].removesuffix(":cut"))):
        raise SpotError(
            f"expected one field to be cut, once in the template, found {', '.join(marked)} in "
            f"{text!r}; mark one with :cut"
        )
    cut = (marked or names)[0]
    return Template(text, _form(parts, cut), fields, cut.removesuffix(":cut"), length)


def _parts(text: str) -> list[tuple[str, str]]:
    """Return pairs of a kind (words, field, target, prompt) and a value."""
    parts: list[tuple[str, str]] = []
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise SpotError(
            f"{text!r} is no template ({error}); fields are written {{name}}"
        ) from error
    for words, name, spec, conversion in parsed:
        # Words and numbers of places by turns.
        for number, piece in enumerate(_PROMPT.split(words)):
            parts.append(("prompt" if number % 2 else "words", piece))
        if name is None:
            continue
        if not name.isidentifier() or spec not in ("", "cut") or conversion:
            raise SpotError(
                f"expected fields such as {{premise}} or {{premise:cut}} in a template, found "
                f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}} "
                f"in {text!r}"
            )
        if name == TARGET and spec:
            raise SpotError(f"the target is never cut, found {{target:cut}} in {text!r}")
        parts.append((TARGET, "") if name == TARGET else ("field", f"{name}:{spec}".rstrip(":")))
    places = sum(int(piece[:9]) for kind, piece in parts if kind == "prompt")
    if places > MOST_PLACES:
        raise SpotError(
            f"expected at most {MOST_PLACES:,} virtual tokens in a template, found {places:,}"
        )
    for kind, piece in parts:
        if kind == "words" and re.search(r"<prompt|<extra_id_", piece):
            raise SpotError(
                f"expected virtual tokens as <prompt:N>, N a whole number, and no sentinels in a "
                f"template, found {piece.strip()!r}"
            )
    return parts


def _form(parts: list[tuple[str, str]], cut: str) -> str:
    """Return the template with sentinels.

    The vocabulary's piece of a sentinel begins with the space before it, so one is always there;
    of a field between marks the space before it moves behind the first mark, so that the field has
    the pieces that it would have without them.
    """
    form = ""

    def sentinel(name: str) -> str:
        return f"{form.rstrip(' ')}{' ' if form.strip(' ') else ''}{name}"

    for kind, value in parts:
        if kind == "words":
            form += value.replace("{", "{{").replace("}", "}}")
        elif kind == TARGET:
            form = sentinel(ANSWER)
        elif kind == "prompt":
            for _ in range(int(value)):
                form = sentinel(VIRTUAL)
        elif value == cut:
            space = " " if not form or form.endswith(" ") else ""
            form = f"{sentinel(MARK)}{space}{{{value.removesuffix(':cut')}}} {MARK}"
            cut = ""  # a field that comes again is written whole
        else:
            form += f"{{{value.removesuffix(':cut')}}}"
    return form


def length_of(form: str) -> int:
    """Return the number of virtual tokens in a form."""
    return form.count(VIRTUAL)


def check_fields(template: Template, names: Iterable[str], task: str) -> None:
    """Raise `SpotError` for a field that a task's examples lack."""
    names = list(names)
    for name in template.fields:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise SpotError(
                f"{task} has no field {name!r} for the template {template.text!r}; it has "
                f"{', '.join(names)}{f', did you mean {near[0]}?' if near else ''}"
            )


def name_of(task: str, form: str) -> str:
    """Return the name of a task in a form: it differs with the form."""
    return f"{task}{_JOINT}{hashlib.sha256(form.encode()).hexdigest()[:8]}"


def base_of(name: str) -> str | None:
    """Return the task that was given a template, by the name of `name_of`; None for others."""
    base, joint, digest = name.rpartition(_JOINT)
    return base if joint and re.fullmatch(r"[0-9a-f]{8}", digest) else None
