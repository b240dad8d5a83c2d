"""`spot prompts`: a library of prompts, filled, looked at, searched, and traded with others."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from spot_jax.cli.flags import OneLineParser, parser
from spot_jax.errors import SpotError
from spot_jax.files import aligned, as_path

PROBLEMS = 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot prompts --help`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise SpotError(
            f"there is no `spot prompts {verb}`, but {', '.join(VERBS)}; see spot prompts --help"
        )
    return VERBS[verb][0](rest)


def _help() -> str:
    verbs = "\n".join(f"  {verb:9}{line}" for verb, (_, line) in VERBS.items())
    return (
        "usage: spot prompts VERB [...] --library DIR\n\n"
        "A library of prompts: a directory, local or in a bucket (gs://), that many may add to\n"
        "and search at once.\n\n"
        f"{verbs}\n\n"
        "`spot prompts VERB --help` says more about each."
    )


def add(arguments: Sequence[str]) -> int:
    """Run `spot prompts add`."""
    flags = _parser(
        "add",
        "Put a run's prompts into a library: of each the best, with the task embedding that the\n"
        "run kept at its embedding step. Adding the same prompt again changes nothing.",
    )
    flags.add_argument("sources", nargs="+", metavar="RUN_DIR|FILE", help="or a PEFT adapter")
    values = flags.parse_args(arguments)
    library = _opened(values)
    if not all(source.strip() for source in values.sources):
        raise SpotError("a path to add is empty; give a run directory or prompt files")
    from spot_jax.methods.prompt_forms import is_prompt

    for source in values.sources:
        is_run = as_path(source).is_dir() and not is_prompt(source)
        added = library.add_run(source) if is_run else [library.add_file(source)]
        for entry in added:
            _tell_added(entry)
    return 0


def list_(arguments: Sequence[str]) -> int:
    """Run `spot prompts list`."""
    flags = _parser("list", "Show what a library holds, one prompt a line.")
    flags.add_argument(
        "--backbone", metavar="FINGERPRINT", help="only of this one; or its beginning"
    )
    flags.add_argument(
        "--json", action="store_true", help="a JSON object a line instead of a table"
    )
    values = flags.parse_args(arguments)
    library = _opened(values)
    entries = library.entries(backbone=values.backbone)
    if values.json:
        for entry in entries:
            print(json.dumps(vars(entry), ensure_ascii=False))
    elif entries:
        print(_table(entries))
    else:
        of = f" of backbone {values.backbone}" if values.backbone else ""
        print(f"no prompts{of} in {library.directory}")
    return 0


def show(arguments: Sequence[str]) -> int:
    """Run `spot prompts show`."""
    flags = _parser("show", "Show everything that is known of a prompt, its origin too.")
    flags.add_argument("id", metavar="ID", help="or the beginning or the end of one")
    values = flags.parse_args(arguments)
    library = _opened(values)
    entry = library.get(values.id)
    prompt, _ = library.load(entry)
    fields = {**vars(entry), "tuning": prompt.tuning}
    ancestry = fields.pop("ancestry")
    for name, value in fields.items():
        print(f"{name + ':':16}{_plain(value)}".rstrip())
    print("began from:" if ancestry else "began from:     no other prompt")
    for ancestor in ancestry:
        first = {name: ancestor[name] for name in ("task", "step", "seed") if name in ancestor}
        print(f"  {_plain({**first, **ancestor})}")
    return 0


def remove(arguments: Sequence[str]) -> int:
    """Run `spot prompts remove`."""
    flags = _parser("remove", "Delete prompts from a library, damaged ones too.")
    flags.add_argument("ids", nargs="+", metavar="ID", help="or the beginning or the end of one")
    values = flags.parse_args(arguments)
    library = _opened(values)
    for id in values.ids:
        print(f"removed {library.remove(id)}")
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Run `spot prompts verify`."""
    flags = _parser(
        "verify",
        "Read every prompt whole and compare it with the hash in its name. The exit code is 1 if\n"
        "any is damaged.",
    )
    values = flags.parse_args(arguments)
    library = _opened(values)
    problems = library.verify()
    print("\n".join(problems) if problems else f"every prompt in {library.directory} is whole")
    return PROBLEMS if problems else 0


def import_(arguments: Sequence[str]) -> int:
    """Run `spot prompts import`."""
    flags = _parser(
        "import",
        "Put a prompt from elsewhere into a library: a numpy file as T5X writes it\n"
        "(encoder.prompt.prompt.prompt), a PEFT adapter directory, or our own file. What such a\n"
        "file does not say can be said here.",
    )
    flags.add_argument("source", metavar="FILE|DIR")
    flags.add_argument("--task", metavar="NAME", help="what it was tuned on")
    flags.add_argument("--tasks", metavar="A,B", help="what that consists of, if it is a mixture")
    flags.add_argument("--seed", type=int, metavar="N", help="of its run")
    flags.add_argument("--step", type=int, metavar="N", help="updates done")
    flags.add_argument("--backbone", metavar="DIR", help="the stored backbone it was tuned on")
    flags.add_argument("--embedding", metavar="FILE|DIR", help="the same run's prompt, early on")
    flags.add_argument("--embedding_step", type=int, metavar="N", help="updates done by then")
    flags.add_argument("--force", action="store_true", help="--backbone over what the file says")
    values = flags.parse_args(arguments)
    library = _opened(values)
    from spot_jax.methods.prompt_forms import load_prompt

    prompt = _described(load_prompt(values.source), values, values.step)
    embedding = None
    if values.embedding is not None:
        embedding = _described(load_prompt(values.embedding), values, values.embedding_step)
    tasks = [name.strip() for name in values.tasks.split(",")] if values.tasks else []
    _tell_added(library.add(prompt, embedding, tasks))
    return 0


def export(arguments: Sequence[str]) -> int:
    """Run `spot prompts export`."""
    flags = _parser(
        "export",
        "Write a prompt of a run, a file or a library for others to use: as our file (spot),\n"
        "which with its backbone is enough to predict with, as T5X's numpy file (t5x), or as a\n"
        "directory that PEFT loads onto a T5 (peft).",
    )
    flags.add_argument(
        "source", metavar="RUN_DIR|FILE|ID", help="an ID of --library, or its beginning or end"
    )
    flags.add_argument("dest", metavar="DEST", help="a file to write; for peft a directory")
    flags.add_argument("--form", choices=["spot", "t5x", "peft"], help="default: by DEST's ending")
    flags.add_argument("--base_model", metavar="NAME", default="", help="for peft: the backbone's")
    flags.add_argument("--task", metavar="NAME", help="which, if the run has several")
    flags.add_argument("--which", choices=["best", "last"], default="best", help="prompt of a run")
    flags.add_argument(
        "--calibrate", metavar="SPLIT", help="makes probabilities true on it, such as validation"
    )
    flags.add_argument("--backbone", metavar="DIR", help="for --calibrate: if the run's has moved")
    flags.add_argument("--licence", default="", metavar="NAME", help="such as apache-2.0")
    flags.add_argument("--card", metavar="FILE", help="Markdown; default: what the run knows")
    values = flags.parse_args(arguments)
    endings = {".safetensors": "spot", ".npy": "t5x", ".prompt": "t5x"}
    form = values.form or next((f for end, f in endings.items() if values.dest.endswith(end)), None)
    if form is None:
        raise SpotError(f"{values.dest} has no known ending; say --form spot, t5x or peft")
    from spot_jax.library.exchange import write_prompt

    if values.library:
        library = _opened(values)
        entry = library.get(values.source)
        prompt, _ = library.load(entry)
        name = entry.id
    else:
        from spot_jax.inference.export import exported

        if not as_path(values.source).exists():
            raise SpotError(
                f"no run or file at {values.source}; for an entry of a library add --library DIR"
            )
        card = as_path(values.card).read_text("utf-8") if values.card else None
        prompt = exported(
            values.source,
            task=values.task,
            which=values.which,
            backbone=values.backbone,
            calibrate=values.calibrate,
            licence=values.licence,
            card=card,
        )
        name = values.source
    where = write_prompt(prompt, values.dest, form, base_model=values.base_model)
    print(f"{name} written to {where}")
    return 0


def card(arguments: Sequence[str]) -> int:
    """Run `spot prompts card`."""
    flags = _parser(
        "card",
        "Print a prompt's card, Markdown with front matter as hubs read it: its README.md.",
    )
    flags.add_argument("source", metavar="FILE|ID", help="an ID of --library")
    values = flags.parse_args(arguments)
    from spot_jax.inference.export import card_of
    from spot_jax.methods.prompt_forms import load_prompt

    if values.library:
        prompt, _ = _opened(values).load(values.source)
    else:
        prompt = load_prompt(values.source)
    print(prompt.use.card or card_of(prompt), end="")
    return 0


def search(arguments: Sequence[str]) -> int:
    """Run `spot prompts search`."""
    from spot_jax.cli.prompts_search import main as run

    return run(arguments)


def words(arguments: Sequence[str]) -> int:
    """Run `spot prompts words`."""
    from spot_jax.cli.prompts_words import main as run

    return run(arguments)


VERBS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "add": (add, "put a run's prompts into a library"),
    "list": (list_, "what is there, and on which backbone"),
    "show": (show, "all about one prompt: scores, tuning, what it began from"),
    "search": (search, "the prompts whose tasks are most like a target's"),
    "remove": (remove, "delete prompts"),
    "verify": (verify, "find damaged prompts"),
    "import": (import_, "take in a prompt of T5X, a PEFT adapter, or our file"),
    "export": (export, "write a prompt of a run or a library in one of these forms"),
    "card": (card, "what a prompt file says of itself, for people and hubs"),
    "words": (words, "the words that a prompt's rows are nearest to"),
}


def _parser(verb: str, description: str) -> OneLineParser:
    flags = parser(f"prompts {verb}", description)
    flags.add_argument("--library", metavar="DIR", help="a directory, or a bucket's gs://...")
    return flags


def _opened(values: argparse.Namespace) -> Any:
    """Return the library that was named."""
    if not values.library:
        raise SpotError("say which library: --library DIR (a directory, or gs://...)")
    from spot_jax.library.library import Library

    return Library(values.library)


def _tell_added(entry: Any) -> None:
    score = entry.metrics.get("score")
    facts = [f"step {entry.step}", *([f"score {score:.2f}"] if score is not None else [])]
    if entry.embedding_step:
        facts.append(f"embedding of step {entry.embedding_step}")
    print(f"{entry.id}: {', '.join(facts)}")
    if not entry.embedding_step:
        print(
            f"{entry.id} has no task embedding, so that no search finds it; a run keeps one at "
            "its embedding step",
            file=sys.stderr,
        )


def _described(prompt: Any, values: argparse.Namespace, step: int | None) -> Any:
    """Return an imported prompt with what the user says of it."""
    import dataclasses

    fields = {"task": values.task, "seed": values.seed, "step": step}
    if values.backbone is not None:
        from spot_jax.t5.stored import read_description

        ours = read_description(values.backbone)
        if prompt.backbone not in ("", ours.fingerprint) and not values.force:
            raise SpotError(
                f"{values.source} was tuned on another backbone (fingerprint "
                f"{prompt.backbone[:12]}, {values.backbone} is {ours.fingerprint[:12]}); leave out "
                "--backbone, or --force it"
            )
        width = ours.config.emb_dim
        if prompt.prompt.shape[1] != width:
            raise SpotError(
                f"{values.source}: a prompt of width {prompt.prompt.shape[1]} cannot be of "
                f"{values.backbone}, of width {width}"
            )
        fields |= {"backbone": ours.fingerprint, "vocabulary": ours.vocabulary_sha256}
    return dataclasses.replace(prompt, **{k: v for k, v in fields.items() if v is not None})


def _table(entries: Sequence[Any]) -> str:
    rows = [["id", "task", "seed", "step", "embedding", "score", "tokens", "backbone"]]
    for e in entries:
        score = e.metrics.get("score")
        rows.append(
            [e.id, e.task, str(e.seed), str(e.step), str(e.embedding_step or "none")]
            + ["" if score is None else f"{score:.2f}", str(e.length), e.backbone[:12] or "unknown"]
        )
    return "\n".join(aligned(rows, left=(0, 1, 7)))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
