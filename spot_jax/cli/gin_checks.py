"""What can be wrong with settings, found before anything is built: names, parameters, values.

The checks on names need no import of what is configured; those on parameters import it, but start
no JAX backend.
"""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from spot_jax.cli.gin_files import COMMAND_LINE, REQUIRED, Binding, Macro, Settings, parts
from spot_jax.errors import SpotError

EXAMPLES = {
    "MIXTURE_OR_TASK_NAME": "'bundled_sms_spam'",
    "MIXTURE_OR_TASK_MODULE": "'tasks.bundled_tasks'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 256, 'targets': 16}",
    "TRAIN_STEPS": "2000",
    "MODEL_DIR": "'runs/first'",
    "INITIAL_CHECKPOINT_PATH": "'backbones/t5_1_1_lm100k_small'",
    "BATCH_SIZE": "32",
    "EVAL_PERIOD": "500",
    "DROPOUT_RATE": "0.1",
    "USE_CACHED_TASKS": "False",
    "PROMPT_LENGTH": "100",
    "LEARNING_RATE": "0.3",
    "SEEDS": "[0, 1, 2]",
    "SOURCE_PROMPT": "'runs/source/best.safetensors'",
    "LIBRARY": "'library'",
    "METHOD": "'best_of_top_k'",
    "TEMPLATE": "'{text} <prompt:3> {target}'",
    "TOP_K": "3",
    "EMBEDDING_STEP": "10000",
    "MESH": "'1x8'",
    "PACK": "True",
}
"""A value one might give each macro; shown when it is missing."""


T5X_NAMES = {
    "RANDOM_SEED": "SEEDS",
    "PROMPT_FILE": "SOURCE_PROMPT, with PROMPT_INIT='prompt'",
    "CLASS_LABELS": "PROMPT_INIT='class_labels', which takes the task's labels",
    "num_partitions": "MESH, such as '*x2' for two partitions",
    "PjitPartitioner": "MESH, such as '*x2' for two partitions",
    "partitioning.PjitPartitioner": "MESH, such as '*x2' for two partitions",
    "EVAL_STEPS": "EVAL_EXAMPLES",
    "CHECKPOINT_PERIOD": "EVAL_PERIOD",
    "EVALUATOR_NUM_EXAMPLES": "EVAL_EXAMPLES",
    "SHUFFLE_TRAIN_EXAMPLES": "always on, and no setting,",
    "LOSS_NORMALIZING_FACTOR": "per_token of the method, such as PromptTuning.per_token",
    "Z_LOSS": "z_loss of the method, such as PromptTuning.z_loss",
    "LABEL_SMOOTHING": "label_smoothing of the method, such as PromptTuning.label_smoothing",
    "PRETRAINED_MODEL_PATH": "INITIAL_CHECKPOINT_PATH, a directory that `spot convert` wrote",
    "utils.DatasetConfig": "DataSource",
    "DatasetConfig": "DataSource",
    "utils.SaveCheckpointConfig": "CheckpointPlan",
    "SaveCheckpointConfig": "CheckpointPlan",
    "utils.RestoreCheckpointConfig": "INITIAL_CHECKPOINT_PATH; a run goes on by itself",
    "RestoreCheckpointConfig": "INITIAL_CHECKPOINT_PATH; a run goes on by itself",
    "trainer.Trainer": "train, such as train.num_microbatches",
    "Trainer": "train, such as train.num_microbatches",
    "adafactor.Adafactor": "Adafactor",
    "utils.create_learning_rate_scheduler": "Adafactor.schedule, such as @WarmupDecay()",
    "create_learning_rate_scheduler": "Adafactor.schedule, such as @WarmupDecay()",
    "train_script.train": "train",
    "prompts.from_class_labels": "PromptTuning.init = 'class_labels'",
    "prompts.from_array": "PromptTuning.init = 'prompt', with PromptTuning.prompt",
}
"""Names here of what T5X's gin files call otherwise."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?`, or nothing if no name is near."""
    if name in T5X_NAMES:
        return f"; T5X's {name} is {T5X_NAMES[name]} here"
    lower = {item.lower(): item for item in sorted(names)}
    near = difflib.get_close_matches(name.lower(), lower, 2, cutoff=0.5)
    return f"; did you mean {' or '.join(lower[item] for item in near)}?" if near else ""


def _place(settings: Settings) -> str:
    return ", ".join(settings.files) or COMMAND_LINE


def reached(settings: Settings, root: str) -> tuple[set[str], set[str]]:
    """Return the configurables and the macros that `root` uses, directly or by way of others."""
    configurables, macros = {root}, set[str]()
    todo = list(settings.of(root))
    while todo:
        for part in parts(todo.pop().value):
            if isinstance(part, Macro):
                if part.name not in macros and part.name in settings.macros:
                    todo.append(settings.macros[part.name])
                macros.add(part.name)
            elif part.selector not in configurables:
                configurables.add(part.selector)
                todo += settings.of(part.selector)
    return configurables, macros - {REQUIRED.name}


def check_macros(settings: Settings, root: str) -> None:
    """Raise `SpotError` for a macro set and not used, used and not set, or required and missing.

    A default of an included file may lose its use, where another file sets what it was for; what
    is set on the command line may not.
    """
    used = {
        part.name
        for binding in settings.bindings.values()
        for part in parts(binding.value)
        if isinstance(part, Macro)
    } - {REQUIRED.name}
    for name, binding in settings.macros.items():
        if name not in used and not binding.included:
            raise SpotError(
                f"{name} is set ({binding.where}) but nothing in {_place(settings)} uses it"
                + nearest(name, used)
            )
    needed = reached(settings, root)[1]
    for name, binding in settings.macros.items():
        if binding.where == COMMAND_LINE and name not in needed:
            raise SpotError(
                f"{name} is set on the command line, but nothing that {root} uses in "
                f"{_place(settings)} takes it; leave it out"
            )
    unset = sorted(needed - settings.macros.keys())
    missing = [name for name in needed & settings.macros.keys() if _is_required(settings, name)]
    if unset and not missing:
        raise SpotError(
            f"%{unset[0]} is used in {_place(settings)} but never set"
            + nearest(unset[0], settings.macros)
        )
    _refuse_missing(settings, sorted(missing))


def _is_required(settings: Settings, name: str) -> bool:
    return settings.macros[name].value == REQUIRED


def _refuse_missing(settings: Settings, names: list[str]) -> None:
    if names:
        flags = " ".join(f'--gin.{name}="{EXAMPLES.get(name, "...")}"' for name in names)
        raise SpotError(
            f"{_place(settings)} leaves {', '.join(names)} to you; for example add {flags}"
        )


def check_configurables(settings: Settings, root: str, existing: Iterable[str]) -> None:
    """Raise `SpotError` for an unknown configurable, or a flag for one that is not used.

    Args:
        settings: settings of files and flags.
        root: configurable that a command calls.
        existing: names of all configurables.
    """
    existing = set(existing)
    if not settings.of(root):
        raise SpotError(f"{_place(settings)} says nothing about {root}; see gin_configs/runs/")
    use = reached(settings, root)[0]
    for binding in settings.bindings.values():
        names = [binding.selector] if binding.parameter else []
        names += [part.selector for part in parts(binding.value) if not isinstance(part, Macro)]
        for name in names:
            if name not in existing:
                raise SpotError(
                    f"there is nothing called {name} to configure ({binding.where})"
                    + nearest(name, existing)
                )
        if binding.parameter and binding.where == COMMAND_LINE and binding.selector not in use:
            raise SpotError(
                f"{binding.key} is set on the command line, but {root} does not use "
                f"{binding.selector} here; it uses {', '.join(sorted(use - {root})) or 'no others'}"
            )


def check_parameters(
    settings: Settings, root: str, targets: Mapping[str, Callable[..., object]]
) -> None:
    """Raise `SpotError` for a parameter that does not exist, has a wrong value, or is missing.

    Args:
        settings: settings whose other checks have passed.
        root: configurable that a command calls.
        targets: all configurables that are used, by name.
    """
    missing: list[str] = []
    for name in sorted(reached(settings, root)[0]):
        parameters = inspect.signature(targets[name]).parameters
        hints = _hints(targets[name])
        bound = {binding.parameter: binding for binding in settings.of(name)}
        for binding in bound.values():
            _check_parameter(binding, parameters)
            _check_value(settings, binding, hints.get(binding.parameter, Any))
        missing += [binding.key for binding in bound.values() if binding.value == REQUIRED]
        missing += [
            f"{name}.{parameter.name}"
            for parameter in parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and parameter.name not in bound
        ]
    _refuse_missing(settings, missing)


def _check_parameter(binding: Binding, parameters: Mapping[str, inspect.Parameter]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    if binding.parameter not in parameters:
        raise SpotError(
            f"{binding.selector} has no parameter {binding.parameter} ({binding.where})"
            + nearest(binding.parameter, parameters)
        )


def _check_value(settings: Settings, binding: Binding, hint: Any) -> None:
    value = binding.value
    while isinstance(value, Macro) and value.name in settings.macros:
        binding, value = settings.macros[value.name], settings.macros[value.name].value
    if not any(parts(value)) and not fits(value, hint):
        raise SpotError(
            f"{binding.key} is {value!r} ({binding.where}), but {_written(hint)} is expected; "
            f"for example {EXAMPLES.get(binding.key, 'a value of that type')}"
        )


def _hints(target: Callable[..., object]) -> Mapping[str, Any]:
    what = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(what)
    except NameError:  # a name that only type checkers see
        return {}


def _written(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("collections.abc.", "")


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value can be what a hint says; true if the hint is none of Python's.

    An int is a float, and a list is any sequence; True is no number.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in typing.get_args(hint))
    if hint in (int, float, str, bool, type(None)):
        if isinstance(value, bool):
            return hint is bool
        return isinstance(value, (int, float) if hint is float else hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Sequence, list, tuple):
        each = inner[0] if inner else Any
        return isinstance(value, list | tuple) and all(fits(item, each) for item in value)
    if origin in (Mapping, dict):
        of_key, of_item = inner or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(key, of_key) and fits(item, of_item) for key, item in value.items()
        )
    # A dataclass or a protocol: a reference makes those, so plain data is none.
    return hint is Any or not inspect.isclass(hint) or isinstance(value, hint)
