"""Writes docs/api.md from the docstrings of what `import spot_jax as spot` offers.

python tools/api_page.py            # write the page
python tools/api_page.py --check    # 1 if the page is not what the docstrings say
"""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import spot_jax as spot

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
GROUPS = {
    "Runs": ("train", "TrainResult", "EvaluationPlan", "CheckpointPlan", "MeshShape"),
    "Backbones": ("load_backbone", "Backbone", "StoredBackbone", "RandomBackbone", "T5Config"),
    "Methods": (
        *("PromptTuning", "PTuning", "PrefixTuning", "SubspaceFinding", "SubspaceTuning"),
        *("FastfoodTuning", "YTuning", "LoRATuning", "IA3Tuning", "ModelTuning"),
    ),
    "Methods of your own": ("Method", "Adapted", "Task"),
    "Data": ("DataSource", "Table", "Examples"),
    "Optimizers": ("Adafactor", "AdamW", "Constant", "WarmupDecay", "RsqrtDecay", "StepDecay"),
    "Predictions and scores": (
        *("load", "Predictor", "Prediction", "open_tuned", "Tuned", "score", "Score"),
    ),
    "Prompts and transfer": (
        *("load_prompt", "PromptFile", "PromptUse", "Library", "transfer", "Tuning"),
    ),
    "Errors": ("SpotError", "SpotWarning"),
}
# Functions that a user of a class calls, or writes.
SHOWN = {
    "Method": ("start", "freeze", "adapt", "adapt_batch"),
    "Predictor": ("predict", "calibrated", "calibrated_on", "__call__"),
    "Library": ("add", "rank", "entries", "load"),
    "Examples": ("from_lists", "save", "load"),
    "PromptFile": ("save",),
    "StoredBackbone": ("vocabulary",),
}


def signature(name: str, thing: Any) -> str:
    """Return a call as one writes it: parameters and their defaults, without types."""
    parts = []
    star = False
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        default = parameter.default
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or mark == "*"
        text = f"{mark}{parameter.name}"
        if default is not parameter.empty:
            shown = "..." if str(default) == "<factory>" else repr(default)
            text += f"={shown}"
        parts.append(text)
    return f"{name}({', '.join(parts)})"


def entry(name: str) -> str:
    """Return one name's section of the page."""
    thing = getattr(spot, name)
    is_error = inspect.isclass(thing) and issubclass(thing, Exception)
    head = name if is_error else signature(name, thing)
    lines = [f"### `spot.{name}`", "", "```", head, "```", "", _text(thing)]
    for function in SHOWN.get(name, ()):
        member = getattr(thing, function)
        call = signature(function, member)
        lines += ["", f"**`{name}.{call}`**", "", _text(member)]
    return "\n".join(lines)


def _text(thing: Any) -> str:
    """Return a docstring with its sections as Markdown."""
    text = inspect.getdoc(thing) or ""
    if dataclasses.is_dataclass(thing) and text.startswith(f"{thing.__name__}("):
        return ""  # what `dataclasses` writes where there is no docstring
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if line in ("Args:", "Attributes:", "Returns:", "Raises:"):
            section = line.removesuffix(":")
            lines += [f"*{section}*", ""]
        elif section in ("Args", "Attributes", "Raises") and line.startswith("    "):
            field = line[4:]
            if field.startswith(" "):
                lines[-1] += f" {field.strip()}"
            else:
                name, _, words = field.partition(": ")
                lines.append(f"- `{name}`: {words}")
        else:
            lines.append(line.strip() if section == "Returns" else line)
    return "\n".join(lines).rstrip()


def page() -> str:
    """Return the whole page; an error if a public name has no place on it."""
    names = [name for group in GROUPS.values() for name in group]
    missing = set(spot.__all__) - {"__version__", *names}
    if missing:
        raise SystemExit(f"tools/api_page.py has no group for {', '.join(sorted(missing))}")
    parts = [
        "# API reference",
        "",
        "Made from the docstrings by `python tools/api_page.py`; `import spot_jax as spot`.",
        "",
    ]
    for title, group in GROUPS.items():
        parts += [f"## {title}", "", *(f"{entry(name)}\n" for name in group)]
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print("docs/api.md is not what the docstrings say; run python tools/api_page.py")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
