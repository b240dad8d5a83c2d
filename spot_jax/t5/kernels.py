"""What a method adds to a T5's matrix products: low-rank terms, and scales of inputs and outputs.

LoRA (Hu et al. 2021) and IA3 (Liu et al. 2022) train it. `with_additions` puts it into the tree as
leaves beside the kernels W, which `spot_jax.t5.layers.Dense` reads where they are:

    y = output_scale * ((input_scale * x) W + ((input_scale * x) low_rank_in) low_rank_out)

Whatever runs on that tree, training, ranking, decoding, has the addition. No matrix of W's size is
held or differentiated, and each row of a batch may have an addition of its own.

A kernel is named by its path in a tree of stacked layers, without the word "kernel", such as
`encoder/layers/attention/query`; an addition has a leading axis of that side's layers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array

from spot_jax.errors import SpotError
from spot_jax.split import merge
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.model import Params

Shape = tuple[int, int, int]
_KERNEL = re.compile(r"(encoder|decoder)/layers_0/(.+)/kernel")


def kernel_shapes(config: T5Config, targets: Sequence[str]) -> dict[str, Shape]:
    """Return path and [layers, inputs, outputs] of every kernel of these names, in both stacks.

    Args:
        config: shape of the model.
        targets: last names of the kernels: query, key, value, out, wo, and wi or wi_0 and wi_1.

    Raises:
        SpotError: no name, or one that this T5 has not.
    """
    shapes: dict[str, Shape] = {}
    for name, shape in parameter_shapes(config).items():
        if match := _KERNEL.fullmatch(name):
            side, rest = match.groups()
            layers = config.num_encoder_layers if side == "encoder" else config.num_decoder_layers
            shapes[f"{side}/layers/{rest}"] = (layers, shape[0], shape[1])
    names = sorted({_last(path) for path in shapes})
    missing = [target for target in targets if target not in names]
    if missing or not targets:
        what = f"kernels called {', '.join(map(repr, missing))}" if missing else "no kernel"
        raise SpotError(f"expected some of this T5's kernels, {', '.join(names)}; found {what}")
    return {path: shape for path, shape in shapes.items() if _last(path) in targets}


def with_additions(
    params: Params, config: T5Config, additions: Mapping[str, Mapping[str, Array]]
) -> dict[str, Any]:
    """Return the tree with additions in it.

    Args:
        params: parameter tree of the model, stacked if `config.scan_layers`.
        config: shape of the model.
        additions: leaves by path of the kernel: `low_rank_in` [n, layers, inputs, r] and
            `low_rank_out` [n, layers, r, outputs], or scales [n, layers, inputs or outputs]; n is
            1 for what all rows of a batch share, or the number of rows, each with its own.
    """
    leaves: dict[tuple[str, ...], Array] = {}
    for path, arrays in additions.items():
        side, _, *rest = path.split("/")
        for name, array in arrays.items():
            if config.scan_layers:
                leaves[side, "layers", *rest, name] = jnp.moveaxis(array, 1, 0)
                continue
            for i in range(array.shape[1]):
                leaves[side, f"layers_{i}", *rest, name] = array[:, i]
    return merge(traverse_util.unflatten_dict(leaves), params)


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]
