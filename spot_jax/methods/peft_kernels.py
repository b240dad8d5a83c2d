"""LoRA and IA3 in Hugging Face PEFT's terms: names of a T5's matrices, tensors and settings.

PEFT keeps LoRA's A as [r, inputs] and B as [outputs, r], and IA3's scales as [outputs, 1] or, where
they scale a feed-forward matrix's inputs, [1, inputs], each under its module's name. Ours are
stacked over layers (`spot_jax.methods.lora`, `spot_jax.methods.ia3`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from spot_jax.errors import SpotError
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.importing.hf import ATTENTION_KERNELS, MLP_KERNELS, MODULES

Tensors = Mapping[str, np.ndarray]

KINDS = {"LORA": "LoRATuning", "IA3": "IA3Tuning"}
# Ours of all layers are one stack.
_MODULES = {ours.replace("_{}", ""): theirs for ours, theirs in MODULES.items()}
_KERNELS = ATTENTION_KERNELS | MLP_KERNELS
_LEAVES = {"lora_A.weight": "a", "lora_B.weight": "b", "ia3_l": "scale"}
_PREFIX = "base_model.model."
# Settings with which an adapter is more than its tensors, or is no such update.
_VARIANTS = (
    *("use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "modules_to_save"),
    *("rank_pattern", "alpha_pattern", "layer_replication", "trainable_token_indices"),
)


def read_kernels(path: str, config: Mapping[str, Any], tensors: Tensors) -> PromptFile:
    """Return the prompt file of an adapter of LoRA or IA3.

    Args:
        path: path of the adapter, for errors.
        config: content of its description.
        tensors: tensors by PEFT's names.

    Raises:
        SpotError: a variant such as DoRA, tensors of no T5, of other shapes than the description
            says, or of some layers or attentions only.
    """
    variants = [name for name in _VARIANTS if config.get(name)]
    if config.get("bias", "none") != "none":
        variants.append("bias")
    if variants:
        raise SpotError(
            f"{path}: an adapter with {' and '.join(variants)}, which cannot be read; merge it "
            "into its T5 with PEFT and convert that, or train one without"
        )
    lora = config.get("peft_type") == "LORA"
    leaves: dict[str, np.ndarray] = {}
    scaled_inputs = set()
    for name, arrays in _by_leaf(path, tensors).items():
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1 or name.endswith("/scale") == lora or arrays[0].ndim != 2:
            raise SpotError(f"{path}: {name} of shapes {sorted(shapes)}; fetch the adapter again")
        if name.endswith("/scale") and arrays[0].shape[0] == 1:
            scaled_inputs.add(name.split("/")[-2])
        leaves[name] = np.stack([x.reshape(-1) if not lora else x.T for x in arrays])
    targets = _targets(path, leaves)
    method: dict[str, Any]
    if not lora:
        outputs = [name for name in targets if name not in scaled_inputs]
        method = {"outputs": outputs, "inputs": sorted(scaled_inputs)}
    else:
        rank = int(config.get("r") or 0)
        ranks = {x.shape[2 if name.endswith("/a") else 1] for name, x in leaves.items()}
        if ranks != {rank}:
            raise SpotError(
                f"{path}: expected rank {rank} by its description, found {sorted(ranks)}; fetch "
                "the adapter again"
            )
        # PEFT's own default; rank-stabilised LoRA divides by the root of the rank.
        alpha = float(config.get("lora_alpha", 8))
        alpha *= float(rank) ** 0.5 if config.get("use_rslora") else 1.0
        method = {"rank": rank, "alpha": alpha, "targets": targets}
    name = KINDS[str(config["peft_type"])]
    return PromptFile(None, method={"name": name, **method}, tensors=leaves)


def write_kernels(prompt: PromptFile) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the tensors of an adapter; a base model is left to the caller."""
    method, tensors = prompt.method, {}
    inputs = list(method.get("inputs", ()))
    names = {leaf: suffix for suffix, leaf in _LEAVES.items()}
    for path, stacked in prompt.tensors.items():
        module, kernel, leaf = path.rsplit("/", 2)
        for i, array in enumerate(stacked):
            if leaf == "scale":
                array = array[None] if kernel in inputs else array[:, None]
            else:
                array = array.T
            name = f"{_MODULES[module].format(i)}.{_KERNELS[kernel]}.{names[leaf]}"
            tensors[_PREFIX + name] = np.ascontiguousarray(array, np.float32)
    if method["name"] == KINDS["LORA"]:
        config = {
            "peft_type": "LORA",
            "r": method["rank"],
            "lora_alpha": method["alpha"],
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": [_KERNELS[name] for name in method["targets"]],
        }
    else:
        config = {
            "peft_type": "IA3",
            "target_modules": [_KERNELS[name] for name in (*method["outputs"], *inputs)],
            "feedforward_modules": [_KERNELS[name] for name in inputs],
        }
    return {"inference_mode": True, "task_type": "SEQ_2_SEQ_LM", **config}, tensors


def _by_leaf(path: str, tensors: Tensors) -> dict[str, list[np.ndarray]]:
    """Return each leaf's arrays by our name, in the order of the layers."""
    modules = {theirs: ours for ours, theirs in _MODULES.items()}
    kernels = {theirs: ours for ours, theirs in _KERNELS.items()}
    suffixes = "|".join(map(re.escape, _LEAVES))
    pattern = re.compile(rf"{re.escape(_PREFIX)}(.+\.block\.)(\d+)(\..+)\.(\w+)\.({suffixes})")
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, array in tensors.items():
        match = pattern.fullmatch(name)
        module = modules.get(f"{match[1]}{{}}{match[3]}") if match else None
        if match is None or module is None or match[4] not in kernels:
            raise SpotError(f"{path}: the tensor {name} is of no T5's matrix; give one for a T5")
        leaf = f"{module}/{kernels[match[4]]}/{_LEAVES[match[5]]}"
        layers.setdefault(leaf, {})[int(match[2])] = array
    for leaf, by_layer in layers.items():
        if sorted(by_layer) != list(range(len(by_layer))):
            raise SpotError(
                f"{path}: expected {leaf} in every layer, found it in {sorted(by_layer)}; merge "
                "the adapter into its T5 with PEFT and convert that"
            )
    return {leaf: [by_layer[i] for i in sorted(by_layer)] for leaf, by_layer in layers.items()}


def _targets(path: str, leaves: Iterable[str]) -> list[str]:
    """Return the names of the matrices; `SpotError` unless each is in all places that have it."""
    places: dict[str, set[str]] = {}
    for leaf in leaves:
        module, kernel, _ = leaf.rsplit("/", 2)
        places.setdefault(kernel, set()).add(module)
    for kernel, modules in places.items():
        kind = "attention" if kernel in ("query", "key", "value", "out") else "mlp"
        missing = sorted({module for module in _MODULES if module.endswith(kind)} - modules)
        if missing:
            raise SpotError(
                f"{path}: expected {kernel} in {', '.join(missing)} too; merge the adapter into "
                "its T5 with PEFT and convert that"
            )
    if not places:
        raise SpotError(f"{path}: has no tensor of LoRA or IA3; fetch the adapter again")
    return [kernel for kernel in _KERNELS if kernel in places]
