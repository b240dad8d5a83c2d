"""The one table of what gin can configure, and the step from settings to a call.

Library modules know nothing of gin. A name here is what gin files write; the path beside it is
imported only when a run uses the name.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin

from spot_jax.cli import gin_checks, gin_files
from spot_jax.cli.gin_files import Settings
from spot_jax.errors import SpotError

CONFIGURABLES = {
    # What `spot train` calls; `spot eval` and `spot infer` read the run directory instead.
    "train": "spot_jax.training.run:train",
    # What `spot transfer` calls.
    "transfer": "spot_jax.transfer.transfer:transfer",
    "Tuning": "spot_jax.transfer.tuning:Tuning",
    # What `spot study` calls.
    "study": "spot_jax.studies.transfer.plan:TransferPlan",
    "Stage": "spot_jax.studies.engine.plan:Stage",
    # What `spot intrinsic` calls.
    "intrinsic": "spot_jax.studies.subspace.plan:SubspacePlan",
    # The backbone.
    "StoredBackbone": "spot_jax.training.config:StoredBackbone",
    "RandomBackbone": "spot_jax.training.config:RandomBackbone",
    "T5Config": "spot_jax.t5.config:T5Config",
    # Optimizers and learning rates.
    "Adafactor": "spot_jax.training.optimizers:Adafactor",
    "AdamW": "spot_jax.training.optimizers:AdamW",
    "Constant": "spot_jax.training.optimizers:Constant",
    "WarmupDecay": "spot_jax.training.optimizers:WarmupDecay",
    "RsqrtDecay": "spot_jax.training.optimizers:RsqrtDecay",
    "StepDecay": "spot_jax.training.optimizers:StepDecay",
    # Data, evaluation, checkpoints, devices.
    "DataSource": "spot_jax.data.data_source:DataSource",
    "EvaluationPlan": "spot_jax.training.config:EvaluationPlan",
    "CheckpointPlan": "spot_jax.training.checkpoints:CheckpointPlan",
    "mesh": "spot_jax.cli.values:mesh",
    "modules": "spot_jax.cli.values:modules",
    "shipped": "spot_jax.cli.values:shipped",
}


def target(name: str) -> Callable[..., Any]:
    """Return what a name stands for: of the table, a method, or what a user's module registered."""
    if name not in CONFIGURABLES:
        return _methods().get(name) or gin.get_configurable(name)
    module, _, attribute = CONFIGURABLES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _methods() -> Mapping[str, Callable[..., Any]]:
    # Only now, as it imports JAX and misspelt macros should show before.
    from spot_jax.methods.base import methods

    return methods()


def configured(
    root: str,
    files: Sequence[str],
    flags: Sequence[tuple[str, str]] = (),
    search_paths: Sequence[str] = (),
) -> tuple[Callable[..., Any], dict[str, Any], str]:
    """Return what a command calls, its arguments, and the configuration as one text.

    Args:
        root: name of a command in the table, such as "train".
        files: see `gin_files.read`.
        flags: see `gin_files.read`.
        search_paths: see `gin_files.read`.

    Raises:
        SpotError: anything that `gin_files` and `gin_checks` refuse, before a JAX backend starts.
    """
    settings = gin_files.read(files, flags, search_paths)
    gin_checks.check_macros(settings, root)
    gin.clear_config()
    gin_files.import_modules(settings)
    ours = {*CONFIGURABLES, *_methods()}
    registered = {name for name in _selectors(settings) - ours if _registered(name)}
    gin_checks.check_configurables(settings, root, ours | registered)
    used = gin_checks.reached(settings, root)[0]
    targets = {name: target(name) for name in used}
    gin_checks.check_parameters(settings, root, targets)
    return targets[root], _arguments(settings, root, targets), settings.text()


def _selectors(settings: Settings) -> set[str]:
    names = {binding.selector for binding in settings.bindings.values() if binding.parameter}
    for binding in settings.bindings.values():
        references = gin_files.parts(binding.value)
        names |= {part.selector for part in references if isinstance(part, gin_files.Reference)}
    return names


def _registered(name: str) -> bool:
    try:
        gin.get_configurable(name)
    except ValueError:
        return False
    return True


def _arguments(
    settings: Settings, root: str, targets: dict[str, Callable[..., Any]]
) -> dict[str, Any]:
    """Return the root's arguments, made by gin; the root itself is left to the caller."""
    for name, what in targets.items():
        # Registering again is an error to gin, so what an earlier call registered stays, unless a
        # user's module has been imported anew.
        ours = name in CONFIGURABLES or name in _methods()
        if ours and _registered_with_gin.get(name) is not what:
            with gin.config.interactive_mode():
                gin.external_configurable(what, name=name, module="spot")
            _registered_with_gin[name] = what
    used, macros = gin_checks.reached(settings, root)
    used_bindings = {
        key: binding
        for key, binding in settings.bindings.items()
        if (binding.selector in used if binding.parameter else key in macros)
    }
    gin.parse_config(Settings(used_bindings).text())
    try:
        return gin.get_bindings(root)
    except (TypeError, ValueError) as error:
        line = str(error).strip().split("\n")[0]
        raise SpotError(f"{', '.join(settings.files)} does not fit together: {line}") from error


_registered_with_gin: dict[str, Callable[..., Any]] = {}
