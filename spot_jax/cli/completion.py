"""`spot completion SHELL`: a script by which a shell completes commands, flags, tasks and paths.

The script holds all words, read from the commands' own parsers, so that no key press starts Python.
"""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from spot_jax.cli.flags import parser, parser_of
from spot_jax.cli.main import VERBS
from spot_jax.shipped import NAMES

# What the words of a group of commands are called in its module.
GROUPS = {"prompts": "VERBS", "intrinsic": "VERBS", "tasks": "ACTIONS", "data": "ACTIONS"}
TASK_FLAGS = ("--task", "--target")
TASK_COMMANDS = ("tasks show", "tasks check")
PATHS = ("FILE", "DIR", "DIRS", "PATH")
# Shared by all verbs, for pods and clusters: complete they would stand before what is wanted.
RARE = ("--coordinator_address", "--process_count", "--process_index", "--process_id")


class Flag(NamedTuple):
    """A flag of a command.

    Attributes:
        name: name with the dashes.
        takes: kind of its value: "nothing", "path", "task", "words A B" or "other".
        help: line for people.
    """

    name: str
    takes: str
    help: str


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot completion --help`."""
    flags = parser(
        "completion",
        "Print a script that completes commands, flags, tasks and paths. For good:\n\n"
        "  bash  echo 'eval \"$(spot completion bash)\"' >> ~/.bashrc\n"
        "  zsh   echo 'eval \"$(spot completion zsh)\"' >> ~/.zshrc\n"
        "  fish  spot completion fish > ~/.config/fish/completions/spot.fish",
    )
    flags.add_argument("shell", choices=list(SHELLS), metavar="SHELL", help=", ".join(SHELLS))
    print(SHELLS[flags.parse_args(arguments).shell](), end="")
    return 0


def commands() -> dict[str, list[Flag]]:
    """Return the flags of every command, by its words after `spot`."""
    flags = {}
    for verb in VERBS:
        module = importlib.import_module(f"spot_jax.cli.{verb}")
        if verb not in ("prompts", "intrinsic"):
            flags[verb] = list(_flags(parser_of(module.main)))
        for word in _group(verb):
            flags[f"{verb} {word}"] = list(_flags(parser_of(module.main, [word])))
    return flags


def _group(verb: str) -> list[str]:
    if verb not in GROUPS:
        return []
    return list(getattr(importlib.import_module(f"spot_jax.cli.{verb}"), GROUPS[verb]))


def _flags(command: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in command._actions:
        for name in action.option_strings:
            if name.startswith("--") and name not in RARE:
                line = "" if action.help in (None, argparse.SUPPRESS) else str(action.help)
                yield Flag(name, _takes(name, action), line)


def _takes(name: str, action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.nargs == 0:
        return "nothing"
    if action.choices is not None:
        return " ".join(["words", *map(str, action.choices)])
    if name in TASK_FLAGS:
        return "task"
    if name in ("--gin_file", "--gin_search_paths") or metavar in PATHS:
        return "path"
    return "other"


def _bash() -> str:
    table = commands()
    groups = {verb: words for verb in VERBS if (words := _group(verb))}
    value_lines = [
        f"    {shlex.quote(f'{command} {flag.name}')}) kind={shlex.quote(flag.takes)} ;;"
        for command, flags in table.items()
        for flag in flags
        if flag.takes not in ("nothing", "other")
    ]
    other = [
        shlex.quote(f"{command} {flag.name}")
        for command, flags in table.items()
        for flag in flags
        if flag.takes == "other"
    ]
    flag_lines = [
        f"    {shlex.quote(command)}) flags={shlex.quote(' '.join(flag.name for flag in flags))} ;;"
        for command, flags in table.items()
    ]
    group_lines = [
        f"    {verb}) group={shlex.quote(' '.join(words))} ;;" for verb, words in groups.items()
    ]
    parts = {
        "VERBS": shlex.quote(" ".join(VERBS)),
        "GROUPS": "\n".join(group_lines),
        "FLAGS": "\n".join(flag_lines),
        "VALUES": "\n".join(value_lines),
        "OTHERS": " | ".join(other),
        "TASK_COMMANDS": " | ".join(f"'{words}'" for words in TASK_COMMANDS),
        "NAMES": shlex.quote(str(NAMES)),
    }
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], BASH)


def _zsh() -> str:
    return (
        "autoload -Uz compinit bashcompinit\n(( $+functions[compdef] )) || compinit\n"
        f"bashcompinit\n{_bash()}"
    )


def _fish() -> str:
    lines = ["complete -c spot -f", "complete -c spot -n 'not __fish_use_subcommand' -F"]
    for verb, line in VERBS.items():
        lines.append(_fish_line("__fish_use_subcommand", a=verb, d=line))
        words = _group(verb)
        before = f"__fish_seen_subcommand_from {verb}"
        if words:
            without = f"{before}; and not __fish_seen_subcommand_from {' '.join(words)}"
            lines.append(_fish_line(without, a=" ".join(words)))
    names = f"(cat {shlex.quote(str(NAMES))})"
    for command, flags in commands().items():
        verb, _, word = command.partition(" ")
        condition = f"__fish_seen_subcommand_from {verb}"
        if word:
            condition += f"; and __fish_seen_subcommand_from {word}"
        if command in TASK_COMMANDS:
            lines.append(_fish_line(condition, a=names))
        for flag in flags:
            fields: dict[str, Any] = {"l": flag.name[2:], "d": flag.help}
            if flag.takes.startswith("words "):
                fields["a"] = flag.takes.removeprefix("words ")
            if flag.takes == "task":
                fields["a"] = names
            line = _fish_line(condition, **fields)
            exact = flag.takes == "task" or flag.takes.startswith("words ")
            more = {"nothing": "", "path": " -r -F"}.get(flag.takes, " -x" if exact else " -r")
            lines.append(line + more)
    return "\n".join(lines) + "\n"


def _fish_line(condition: str, **fields: str) -> str:
    quoted = {k: v.replace("\\", "\\\\").replace("'", "\\'") for k, v in fields.items() if v}
    text = "".join(f" -{name} '{value}'" for name, value in quoted.items())
    return f"complete -c spot -n '{condition}'{text}"


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}

# For bash 3.2 (macOS) too, without the package bash-completion. A value may follow its flag after
# a space or "=", which bash, unlike zsh, makes a word.
BASH = r"""
_spot() {
  COMPREPLY=()
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" before=""
  local group="" flags="" kind="" flag="" command="${COMP_WORDS[1]}"
  if [ "$COMP_CWORD" -le 1 ]; then
    COMPREPLY=( $(compgen -W @VERBS@ -- "$cur") )
    return
  fi
  case "$command" in
@GROUPS@
  esac
  case " $group " in
    *" ${COMP_WORDS[2]} "*)
      if [ "$COMP_CWORD" -gt 2 ] && [ -n "$group" ]; then
        command="$command ${COMP_WORDS[2]}"
        group=""
      fi ;;
  esac
  if [ "$COMP_CWORD" -gt 2 ]; then group=""; fi
  case "$command" in
@FLAGS@
  esac
  case "$cur" in
    =) flag="$prev"; cur="" ;;
    --*=*) flag="${cur%%=*}"; before="$flag="; cur="${cur#*=}" ;;
    *)
      if [ "$prev" = "=" ]; then
        flag="${COMP_WORDS[COMP_CWORD-2]}"
      else
        case "$prev" in --*) flag="$prev" ;; esac
      fi ;;
  esac
  case "$command $flag" in
@VALUES@
    @OTHERS@) return ;;
  esac
  if [ -z "$kind" ]; then
    case "$cur" in
      -*) COMPREPLY=( $(compgen -W "$flags" -- "$cur") ); return ;;
    esac
    if [ -n "$group" ]; then
      COMPREPLY=( $(compgen -W "$group" -- "$cur") )
      return
    fi
    kind=path
    case "$command" in
      @TASK_COMMANDS@) kind=task ;;
    esac
  fi
  case "$kind" in
    words*) COMPREPLY=( $(compgen -P "$before" -W "${kind#words }" -- "$cur") ) ;;
    task) COMPREPLY=( $(compgen -P "$before" -W "$(cat @NAMES@ 2>/dev/null)" -- "$cur") ) ;;
    path)
      local file IFS=$'\n'
      if [ -n "$before" ]; then  # zsh's compgen would look for files named --flag=...
        for file in "$cur"*; do
          if [ -e "$file" ]; then COMPREPLY+=( "$before$file" ); fi
        done
      else
        for file in $(compgen -f -- "$cur"); do COMPREPLY+=( "$file" ); done
      fi
      compopt -o filenames 2>/dev/null ;;
  esac
}
complete -F _spot spot
"""
BASH = BASH.lstrip("\n")
