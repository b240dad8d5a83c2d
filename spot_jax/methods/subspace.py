"""The auto-encoder of prompts of Intrinsic Prompt Tuning (Qin et al. 2021): Proj and Proj_b.

Proj takes a prompt of D = P * emb_dim numbers to d of them, Proj_b takes d numbers back to a
prompt. The paper's Proj is linear; its Proj_b is linear, tanh, linear. What Proj_b yields for all
of R^d is the subspace that tasks are tuned in.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError

VARIANTS = ("paper", "per_token")
Layer = dict[str, Array]
Layers = dict[str, Layer]


@dataclasses.dataclass(frozen=True)
class SubspaceShape:
    """What fixes Proj and Proj_b.

    Attributes:
        dim: number of dimensions, d; from 3 to 250 in the paper's figures.
        length: number of rows of a prompt, P; 100 in the paper.
        emb_dim: width of a row, the backbone's.
        width: hidden width of Proj_b; 768 in the released code, whatever the backbone.
        variant: "paper": one vector of d numbers a prompt. "per_token" (a variant of the released
            code): one of d numbers a row, every row through the same layers, so that a prompt is
            P * d numbers.
        scale: number that prompts are divided by before Proj and multiplied by after Proj_b. 1
            in the paper. Ours, because T5 has no norm on its embeddings: its prompts grow to tens,
            far from what freshly initialised layers yield.
    """

    dim: int
    length: int
    emb_dim: int
    width: int = 768
    variant: str = "paper"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise SpotError(
                f"unknown variant {self.variant!r} of the subspace; expected "
                f"{' or '.join(VARIANTS)}"
            )
        what = "a prompt's row" if self.variant == "per_token" else "a prompt"
        if not 1 <= self.dim <= self.features:
            raise SpotError(
                f"a subspace of {self.dim} dimensions was asked for, but {what} has "
                f"{self.features} numbers; choose a dimension from 1 to {self.features}"
            )
        if self.width < 1 or not (self.scale > 0 and math.isfinite(self.scale)):
            raise SpotError(
                f"the hidden width is at least 1 and the scale above 0, found {self.width} and "
                f"{self.scale}"
            )

    @property
    def features(self) -> int:
        """Number of what Proj reads at once: a whole prompt's numbers, or a row's."""
        return self.emb_dim * (1 if self.variant == "per_token" else self.length)

    @property
    def code(self) -> tuple[int, ...]:
        """Shape of a prompt's place in the subspace: (d,), or (P, d) by the token."""
        return (self.length, self.dim) if self.variant == "per_token" else (self.dim,)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every array of Proj and Proj_b by its path."""
        d, width, features = self.dim, self.width, self.features
        return {
            "proj/kernel": (features, d),
            "proj/bias": (d,),
            "proj_b/hidden/kernel": (d, width),
            "proj_b/hidden/bias": (width,),
            "proj_b/prompt/kernel": (width, features),
            "proj_b/prompt/bias": (features,),
        }

    def check_prompt(self, shape: tuple[int, ...]) -> None:
        """Raise `SpotError` for a prompt of another shape than [length, emb_dim]."""
        if shape != (self.length, self.emb_dim):
            raise SpotError(
                f"the subspace is of prompts of shape {[self.length, self.emb_dim]}, found one of "
                f"{list(shape)}; take a prompt of that length and backbone"
            )

    def init_proj(self, key: Key[Array, ""]) -> Layer:
        """Draw Proj with fresh weights: {"kernel": [features, d], "bias": [d]}."""
        return _layer(key, self.features, self.dim)

    def init_proj_b(self, key: Key[Array, ""]) -> Layers:
        """Draw Proj_b with fresh weights: the layers `hidden` [d, width] and `prompt`."""
        first, second = jax.random.split(key)
        return {
            "hidden": _layer(first, self.dim, self.width),
            "prompt": _layer(second, self.width, self.features),
        }

    def project(self, proj: Layer, prompts: Float[Array, "*n p e"]) -> Float[Array, "..."]:
        """Compute Proj: prompts' places in the subspace, [*n, *code]."""
        scaled = prompts / self.scale
        if self.variant == "paper":
            scaled = scaled.reshape(*prompts.shape[:-2], self.features)
        return _apply(proj, scaled)

    def expand(self, proj_b: Layers, codes: Float[Array, "..."]) -> Float[Array, "*n p e"]:
        """Compute Proj_b: the prompts at places [*n, *code] of the subspace."""
        batch = codes.shape[: codes.ndim - len(self.code)]
        wide = _apply(proj_b["prompt"], jnp.tanh(_apply(proj_b["hidden"], codes)))
        return self.scale * wide.reshape(*batch, self.length, self.emb_dim)


def _layer(key: Key[Array, ""], rows: int, columns: int) -> Layer:
    """Begin a linear layer as torch does: weights and bias uniform in +-1 / sqrt(inputs)."""
    first, second = jax.random.split(key)
    bound = rows**-0.5
    return {
        "kernel": jax.random.uniform(first, (rows, columns), jnp.float32, -bound, bound),
        "bias": jax.random.uniform(second, (columns,), jnp.float32, -bound, bound),
    }


def _apply(layer: Layer, x: Float[Array, "..."]) -> Float[Array, "..."]:
    bias = layer["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    # Full float32 where matrix units would round to bfloat16: these sums make the prompt itself.
    return jnp.matmul(x, layer["kernel"], precision="highest") + bias
