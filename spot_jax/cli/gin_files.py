"""gin files and `--gin.NAME=value` flags, read into one set of bindings that has no order.

This is gin's language with three rules of ours: what the command line says wins; a file wins over
the files it includes; and two files (or two flags) that say different things about one name are a
mistake, not a race. Nothing here imports JAX, so that a misspelt name costs no start-up.
"""

import dataclasses
import difflib
import importlib
import math
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from gin import config_parser

from spot_jax import shipped
from spot_jax.errors import SpotError
from spot_jax.files import absolute, as_path, fault_text, is_local, resolved

INSTALLED = shipped.ROOT
"""Holds the `gin_configs/` that ships, so that `gin_configs/runs/x.gin` works anywhere."""

COMMAND_LINE = "the command line"


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%NAME`; a flag or a file gives NAME its value."""

    name: str

    def __repr__(self) -> str:
        """Write it as gin does."""
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@name` or, called, `@name()`; the name may have scopes: `@small/T5Config()`."""

    name: str
    called: bool

    @property
    def selector(self) -> str:
        """The name without its scopes."""
        return self.name.rsplit("/", 1)[-1]

    def __repr__(self) -> str:
        """Write it as gin does."""
        return f"@{self.name}{'()' if self.called else ''}"


@dataclasses.dataclass(frozen=True)
class Binding:
    """One `scope/selector.parameter = value`; a macro's has the parameter "".

    Attributes:
        scope: scope, "" for none.
        selector: name of the macro or of what is configured.
        parameter: name of the parameter.
        value: plain data, with `Macro` and `Reference` in it.
        where: place of the line, for people.
        included: whether it comes from a file that another file includes.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    where: str
    included: bool = False

    @property
    def key(self) -> str:
        """The left side, as gin writes it."""
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.selector}" + (f".{self.parameter}" if self.parameter else "")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that files and flags say.

    Attributes:
        bindings: bindings of macros and parameters, by their left side.
        imports: modules that the files import, in order.
        files: names of the files that were named, without those that they include.
    """

    bindings: Mapping[str, Binding]
    imports: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def macros(self) -> dict[str, Binding]:
        """The macros that are set, by name."""
        return {key: b for key, b in self.bindings.items() if not b.parameter}

    def of(self, selector: str) -> list[Binding]:
        """Return the bindings of a configurable's parameters, in any scope."""
        return [b for b in self.bindings.values() if b.parameter and b.selector == selector]

    def text(self) -> str:
        """Return everything as one gin file that needs no other: what a run directory keeps."""
        lines = [f"import {module}" for module in self.imports]
        for macros in (True, False):
            lines += [
                f"{key} = {binding.value!r}"
                for key, binding in sorted(self.bindings.items())
                if macros != bool(binding.parameter)
            ]
        return "\n".join(lines) + "\n"


class _Values(config_parser.ParserDelegate):
    """Builds plain records, so that files are read without knowing what they configure."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def parts(value: Any) -> Iterator[Macro | Reference]:
    """Yield the macros and references anywhere in a value."""
    if isinstance(value, Macro | Reference):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from parts(key)
            yield from parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from parts(item)


def find(name: str, search_paths: Iterable[str | Path]) -> epath.Path:
    """Return the file of this name: as it is, below a search path, or among the installed ones."""
    roots = [epath.Path(), *map(as_path, search_paths), epath.Path(INSTALLED)]
    candidates = [root / name for root in roots] if is_local(name) else [as_path(name)]
    for path in candidates:
        if path.is_file():
            return path
    if not is_local(name):
        raise SpotError(f"there is no gin file {name}; check the path and your rights")
    looked = ", ".join(dict.fromkeys(str(absolute(root)) for root in roots))
    nearby = {near for root in roots for near in _near(root, name)}
    near = difflib.get_close_matches(name, sorted(nearby), 3, cutoff=0.5)
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    raise SpotError(f"there is no gin file {name}, looked for in {looked}{hint}")


def _near(root: epath.Path, name: str) -> list[str]:
    """Return gin files that a misspelt name might have meant: its directory's and gin_configs'."""
    folders = [(root / name).parent, *sorted((root / "gin_configs").glob("*"))]
    paths = [path for folder in folders if folder.is_dir() for path in folder.glob("*.gin")]
    return [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]


def read(
    files: Sequence[str],
    flags: Sequence[tuple[str, str]] = (),
    search_paths: Sequence[str] = (),
) -> Settings:
    """Read files with their includes, then the flags over them.

    Args:
        files: names of gin files, for `find`.
        flags: a pair for each flag: what the user typed, and the gin text of it.
        search_paths: directories to find files in.

    Raises:
        SpotError: no such file, a line that is not gin, two values for one name.
    """
    imports: list[str] = []
    bindings: dict[str, Binding] = {}
    for name in files:
        _join(bindings, _read_file(name, search_paths, imports, ()), "files")
    overrides: dict[str, Binding] = {}
    for typed, text in flags:
        direct, includes = _parse(text, typed, imports)
        if includes:
            raise SpotError(f"{typed}: give a file to read with --gin_file, not include")
        _join(overrides, direct, "flags")
    for key, binding in overrides.items():
        bindings[key] = dataclasses.replace(binding, where=COMMAND_LINE)
    return Settings(bindings, tuple(dict.fromkeys(imports)), tuple(files))


def _read_file(
    name: str, search_paths: Sequence[str], imports: list[str], within: tuple[epath.Path, ...]
) -> dict[str, Binding]:
    # What a file includes may stand beside it.
    beside = [path.parent for path in within[-1:]]
    path = find(name, [*search_paths, *beside])
    if resolved(path) in within:
        raise SpotError(f"gin file {path} includes itself by way of {within[-1]}")
    try:
        text = path.read_bytes().decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise SpotError(f"gin file {path} is not text in UTF-8: {error.reason}") from error
    direct, includes = _parse(text, str(path), imports)
    bindings: dict[str, Binding] = {}
    for include in includes:
        below = _read_file(include, search_paths, imports, (*within, resolved(path)))
        # What this file says about a name settles whatever its includes say.
        below = {
            key: dataclasses.replace(binding, included=True)
            for key, binding in below.items()
            if key not in direct
        }
        _join(bindings, below, "included files")
    return bindings | direct


def _join(into: dict[str, Binding], more: Mapping[str, Binding], what: str) -> None:
    for key, new in more.items():
        old = into.setdefault(key, new)
        if repr(old.value) != repr(new.value):
            raise SpotError(
                f"two {what} disagree about {key}: {old.value!r} ({old.where}) and "
                f'{new.value!r} ({new.where}); decide with one --gin.{key}="..."'
            )


def _parse(text: str, where: str, imports: list[str]) -> tuple[dict[str, Binding], list[str]]:
    """Return one text's bindings and the files it includes; append its imports to `imports`."""
    bindings: dict[str, Binding] = {}
    includes: list[str] = []
    try:
        for statement in config_parser.ConfigParser(text, _Values()):
            if isinstance(statement, config_parser.ImportStatement):
                imports.append(_importable(statement, where))
            elif isinstance(statement, config_parser.IncludeStatement):
                includes.append(statement.filename)
            elif isinstance(statement, config_parser.BindingStatement):
                scope, selector, parameter, value, place = statement
                line = where if where.startswith("--") else f"{where}:{place.line_num}"
                if not _is_finite(value):
                    raise SpotError(f"{line}: {value!r} is no number to compute with; give another")
                new = Binding(scope, selector, parameter, value, line)
                _join(bindings, {new.key: new}, "lines" if line != where else "flags")
    except (RecursionError, MemoryError) as error:
        raise SpotError(f"{where} has too many brackets within one another") from error
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        raise SpotError(_syntax(error, text, where)) from error
    return bindings, includes


def _is_finite(value: Any) -> bool:
    """Return whether every number in a value is finite: 1e400 is none that a float can hold."""
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _importable(statement: config_parser.ImportStatement, where: str) -> str:
    if statement.module.startswith("__gin__") or statement.is_from or statement.alias:
        raise SpotError(
            f"{where}: '{statement.format()}' belongs to T5X's own gin files, which name T5X's "
            "Python; start from gin_configs/runs/ (the macros have the same names)"
        )
    return statement.module


def import_modules(settings: Settings) -> None:
    """Import what the files import: modules that register configurables of the user's own."""
    for module in settings.imports:
        try:
            importlib.import_module(module)
        except SpotError:
            raise
        except Exception as error:
            raise SpotError(
                f"a gin file says 'import {module}', but: {type(error).__name__}: "
                f"{fault_text(error)}; check the module and PYTHONPATH"
            ) from error


def _syntax(error: Exception, text: str, where: str) -> str:
    reason = str(error.args[0] if error.args else error).split("\n")[0].rstrip(".")
    if where.startswith("--"):
        value = text.partition("=")[2].strip()
        hint = ""
        if value and all(character.isalnum() or character in "_./:- " for character in value):
            name = text.partition("=")[0].strip()
            hint = f"; text needs quotes that the shell leaves: --gin.{name}=\"'{value}'\""
        return f"{where} is not a Python value{hint or f': {reason}'}"
    place = error.args[1] if isinstance(error, SyntaxError) and len(error.args) > 1 else None
    if place is None:
        return f"{where} ends inside a bracket or a quoted text: {reason}"
    return f"{where}:{place[1]} is not gin: {reason}, in: {str(place[3]).strip()}"
