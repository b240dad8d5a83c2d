"""The settings of a run file for `--help`: name, type, default and a line each.

All is read from source, nothing of the library is imported, so that help comes at once.
"""

import ast
import dataclasses
import functools
import importlib.util
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spot_jax.cli import gin_files
from spot_jax.cli.configurables import CONFIGURABLES
from spot_jax.cli.gin_checks import reached
from spot_jax.cli.gin_files import REQUIRED, Macro, Settings, parts

NO_SETTINGS = {("train", "operative_config"), ("transfer", "operative_config")}
"""Parameters that the command itself fills in."""
WIDTH = 98
INDENT = 6


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter of a configurable.

    Attributes:
        kind: type as the source writes it; "" where it has none.
        default: default as the source writes it; None where a value is required.
        words: description.
    """

    kind: str
    default: str | None
    words: str


def settings_help(root: str, files: Sequence[str], search_paths: Sequence[str] = ()) -> str:
    """Return a page with the settings of run files, the macros first.

    Args:
        root: configurable that the command calls, such as "train".
        files: names of gin files.
        search_paths: directories to find files in.

    Raises:
        SpotError: what `gin_files.read` refuses.
    """
    settings = gin_files.read(files, (), search_paths)
    selectors, macros = reached(settings, root)
    parameters = {name: parameters_of(name) for name in sorted(selectors)}
    lines = [f"settings of {', '.join(files)}, as --gin.NAME=VALUE:"]
    for name, binding in settings.macros.items():
        if name in macros:
            lines += _entry(name, binding.value, _of_macro(name, settings, parameters))
    lines.append("further settings, by the name of what they belong to:")
    for name, each in parameters.items():
        bound = {binding.parameter: binding.value for binding in settings.of(name)}
        for parameter, setting in each.items():
            if (name, parameter) in NO_SETTINGS:
                continue
            value = bound.get(parameter)
            if parameter not in bound or not any(parts(value)):
                default = repr(value) if parameter in bound else setting.default
                shown = dataclasses.replace(setting, default=default)
                lines += _entry(f"{name}.{parameter}", None, shown, is_macro=False)
    return "\n".join(lines)


def _of_macro(
    name: str, settings: Settings, parameters: Mapping[str, Mapping[str, Setting]]
) -> Setting | None:
    """The parameter that a macro stands for; None where that is not known."""
    for binding in settings.bindings.values():
        if binding.parameter and binding.value == Macro(name):
            setting = parameters.get(binding.selector, {}).get(binding.parameter)
            if setting is not None:
                return setting
    return None


def _entry(name: str, value: object, setting: Setting | None, is_macro: bool = True) -> list[str]:
    default = repr(value) if is_macro else setting and setting.default
    is_required = value == REQUIRED or default in (None, repr(REQUIRED))
    kind = f"  ({setting.kind})" if setting and setting.kind else ""
    head = f"  {name}{'' if is_required else f' = {default}'}{kind}"
    lines = [head + ("  required" if is_required else "")]
    if setting and setting.words:
        space = " " * INDENT
        lines += textwrap.wrap(setting.words, WIDTH, initial_indent=space, subsequent_indent=space)
    return lines


def parameters_of(name: str) -> dict[str, Setting]:
    """Return the parameters of a configurable; none of what a user's module registers."""
    node = _source_of(name)
    if node is None:
        return {}
    words = dict(_described(ast.get_docstring(node) or ""))
    fields: dict[str, tuple[ast.expr | None, ast.expr | None]]
    if isinstance(node, ast.ClassDef):
        fields = {
            item.target.id: (item.annotation, item.value)
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        }
    else:
        fields = dict(_arguments(node.args))
    return {
        parameter: Setting(
            "" if annotation is None else ast.unparse(annotation),
            None if value is None else _default(value),
            words.get(parameter, ""),
        )
        for parameter, (annotation, value) in fields.items()
    }


def _arguments(
    arguments: ast.arguments,
) -> Iterator[tuple[str, tuple[ast.expr | None, ast.expr | None]]]:
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(plain, defaults, strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in pairs:
        yield argument.arg, (argument.annotation, default)


def _default(value: ast.expr) -> str:
    """A default for people; of `field(default=x)` the x."""
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
    return ast.unparse(value)


def _source_of(name: str) -> ast.ClassDef | ast.FunctionDef | None:
    if name in CONFIGURABLES:
        module, _, attribute = CONFIGURABLES[name].partition(":")
        return _tree(_path_of(module)).get(attribute)
    methods = _path_of("spot_jax.methods").parent
    for path in sorted(methods.glob("*.py")):
        if name in _tree(path):
            return _tree(path)[name]
    return None


def _path_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin)


@functools.cache
def _tree(path: Path) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return {node.name: node for node in nodes}


def _described(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and descriptions of the parts "Args" and "Attributes" of a docstring."""
    for part in re.findall(r"^(?:Args|Attributes):\n((?:    .*(?:\n|$)|\n)+)", text, re.MULTILINE):
        for names, words in re.findall(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", part, re.MULTILINE):
            for name in names.split(", "):
                yield name, " ".join(words.split())
