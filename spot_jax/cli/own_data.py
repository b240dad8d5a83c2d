"""`spot train --data FILE`: a run file, with what it leaves open filled in from the file's rows."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spot_jax.cli.flags import OneLineParser
from spot_jax.cli.table_flags import add_table_flags, table_of, typed
from spot_jax.errors import SpotError

METHODS = ("prompt_tuning", "prefix_tuning", "model_tuning")
# Run files whose settings were found on `mini`, for backbones as narrow as that.
FOR_SMALL = {name: f"{name}_mini" for name in ("prompt_tuning", "model_tuning")}
CONFIG = "config.gin"
RATES = (0.1, 0.3, 1.0, 3.0)
"""Learning rates of `--tune`, in units of the run file's."""


def add_data_flags(command: OneLineParser) -> None:
    """Add the flags of `spot train --data`."""
    group = command.add_argument_group("data of your own, in the place of a run file")
    group.add_argument(
        "--data",
        metavar="FILE",
        help="CSV, TSV, JSON lines, Parquet, Arrow or a datasets directory",
    )
    add_table_flags(group)
    group.add_argument("--backbone", metavar="DIR", help="short for INITIAL_CHECKPOINT_PATH")
    group.add_argument(
        "--model_dir",
        metavar="DIR",
        help="short for MODEL_DIR; alone it goes on with the run there",
    )
    group.add_argument("--method", choices=METHODS, help="default: prompt_tuning")
    group.add_argument(
        "--tune",
        action="store_true",
        help="tune at several learning rates in one program; the best on validation predicts",
    )


def fill(values: argparse.Namespace, settings: dict[str, Any]) -> Iterator[str]:
    """Fill a run's settings in from a file of rows, and yield lines that say what was found.

    What the user typed stays, and so does what a run file of the user's says; all else suits the
    file and the backbone.

    Args:
        values: flags of the command.
        settings: arguments of `configurables.configured`, which are changed.
    """
    from spot_jax.cli import gin_checks, gin_files
    from spot_jax.cli.values import shipped

    if values.data is None:
        _without_data(values, settings)
        return
    table = table_of(values.data, values)
    backbone = values.backbone
    typed_macros = gin_files.read([], settings["flags"]).macros
    if backbone is None and "INITIAL_CHECKPOINT_PATH" in typed_macros:
        backbone = str(typed_macros["INITIAL_CHECKPOINT_PATH"].value)
    if backbone is None:
        raise SpotError("a run needs a backbone: add --backbone backbones/mini, or your own")
    if values.model_dir is None and "MODEL_DIR" not in typed_macros:
        raise SpotError("a run needs a directory: add --model_dir runs/NAME")
    backbone = shipped(backbone)

    from spot_jax.data.table import forget, open_table
    from spot_jax.data.table.lengths import measure
    from spot_jax.data.table.summary import summary
    from spot_jax.training.config import StoredBackbone
    from spot_jax.training.suited import SMALL_WIDTH, suited

    stored = StoredBackbone(backbone)
    forget([table.name])
    task = open_table(table.name)
    lengths = measure(task, stored.vocabulary())
    yield from summary(task, lengths)
    config = stored.description().config
    advice = suited(task, lengths, config)
    fixed: dict[str, Any] = {
        "MIXTURE_OR_TASK_NAME": table.name,
        "INITIAL_CHECKPOINT_PATH": backbone,
    }
    if values.model_dir is not None:
        fixed["MODEL_DIR"] = values.model_dir
    chosen = dict(advice.macros)
    if settings["files"]:
        required = gin_files.read(settings["files"], [], settings["search_paths"]).macros
        open_ones = {n for n, b in required.items() if b.value == gin_files.REQUIRED}
        chosen = {name: value for name, value in chosen.items() if name in open_ones}
    else:
        method = values.method or METHODS[0]
        if config.emb_dim < SMALL_WIDTH:
            method = FOR_SMALL.get(method, method)
        settings["files"] = [f"gin_configs/runs/{method}.gin"]
    read = gin_files.read(settings["files"], [], settings["search_paths"])
    taken = gin_checks.reached(read, "train")[1]
    macros = {name: binding for name, binding in read.macros.items() if name in taken}
    if values.tune:
        chosen["LEARNING_RATE"] = _rates(macros, settings["files"])
    chosen = {n: v for n, v in chosen.items() if n in macros and n not in typed_macros}
    for name, value in {**fixed, **chosen}.items():
        if name not in typed_macros:
            settings["flags"].append((f"--data={values.data}", f"{name} = {value!r}"))
    yield f"run       {', '.join(settings['files'])}, and chosen for it:"
    for name, value in chosen.items():
        reason = advice.reasons.get(name)
        yield f"          {name} = {value!r}{f'  # {reason}' if reason else ''}"


def _rates(macros: Mapping[str, Any], files: Sequence[str]) -> list[float]:
    """The learning rates of `--tune`: the run file's and others around it."""
    rate = macros["LEARNING_RATE"].value if "LEARNING_RATE" in macros else None
    several = "PROMPT_LENGTH" in macros or "PREFIX_LENGTH" in macros
    if not several or not isinstance(rate, int | float):
        raise SpotError(
            f"--tune compares prompts at several learning rates, which {', '.join(files)} does not "
            "take; leave it out"
        )
    return [float(f"{rate * factor:.2g}") for factor in RATES]


def _without_data(values: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Take the run file that a run directory keeps, or the flags as short forms of macros."""
    if typed(values):
        raise SpotError(f"--{typed(values)[0]} is of a file of your own; add --data FILE")
    if values.method is not None or values.tune:
        flag = "tune" if values.method is None else "method"
        raise SpotError(f"--{flag} is for --data FILE; a run file says it itself: --gin_file=FILE")
    if not settings["files"] and values.model_dir is not None:
        config = Path(values.model_dir).expanduser() / CONFIG
        if not config.exists():
            raise SpotError(
                f"there is no run in {values.model_dir} to go on with; add --data FILE or "
                "--gin_file=FILE"
            )
        settings["files"] = [str(config)]
    short = {"MODEL_DIR": values.model_dir, "INITIAL_CHECKPOINT_PATH": values.backbone}
    for name, value in short.items():
        if value is not None:
            flag = "model_dir" if name == "MODEL_DIR" else "backbone"
            settings["flags"].append((f"--{flag}={value}", f"{name} = {value!r}"))
