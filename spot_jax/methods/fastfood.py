"""Tuning all weights within a random subspace: the other baseline of Qin et al. (2021).

    theta = theta_0 + Fastfood(v),   v in R^d tuned from zero (Aghajanyan et al. 2021)

Fastfood (Le et al. 2013) is a random projection that is never held as a D x d matrix. For a tensor
of D numbers, with L the next power of two, H Hadamard's matrix of +-1, B random signs, Pi a random
permutation and G standard normal numbers on a diagonal:

    Fastfood(v) = first D of  H G Pi H B [v; 0]  /  (sqrt(L sum G^2) sqrt(D / L))

Every tensor of the backbone has draws of its own. Nothing of them is stored with v: they are drawn
again from the seed.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import SEED, SpotError, check_fields, whole
from spot_jax.methods.base import Adapted, Inference, Method, Task
from spot_jax.methods.losses import Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.int8 import has_int8, refusal
from spot_jax.t5.model import stack_layers

Draws = dict[str, dict[str, Array]]
DRAWS = "fastfood"
_FACTOR = 128


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below `number`."""
    return 1 << max(number - 1, 0).bit_length()


def hadamard(x: Float[Array, "... m"]) -> Float[Array, "... m"]:
    """Compute H x, H Hadamard's (Sylvester's) matrix of +-1, m a power of two, in m log m steps."""
    size, done = x.shape[-1], 1
    while done < size:
        factor = min(_FACTOR, size // done)
        parts = x.reshape(*x.shape[:-1], -1, factor, done)
        mixed = jnp.einsum("ij,...ajb->...aib", _matrix(factor), parts, precision="highest")
        x, done = mixed.reshape(x.shape), done * factor
    return x


def _matrix(size: int) -> np.ndarray:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def draw(random: np.random.Generator, dim: int, size: int) -> dict[str, np.ndarray]:
    """Draw one tensor's random numbers.

    Only the first d of H's columns meet anything but zeros, and they repeat from row to row with
    a period of m, the next power of two: the first product is m numbers, and Pi says which of
    them stands where.

    Args:
        random: generator of the tensor.
        dim: number of dimensions, d.
        size: number of the tensor's elements, D.

    Returns:
        `signs` float32 [m], `index` int16 or int32 [L] below m, `gauss` float32 [L] with the
        divisor in it.
    """
    rows = power_of_two(size)
    columns = min(power_of_two(dim), rows)
    signs = random.integers(0, 2, columns, np.int8)
    places = random.permutation(rows) % columns
    gauss = random.standard_normal(rows, np.float32)
    # The two roots of the formula in one: L cancels.
    divisor = np.sqrt(size * np.sum(np.square(gauss, dtype=np.float64)))
    return {
        "signs": np.float32(2) * signs - 1,
        "index": places.astype(np.int16 if columns <= 2**15 else np.int32),
        "gauss": gauss / np.float32(divisor),
    }


def project(
    vector: Float[Array, " d"], draws: Mapping[str, Array], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Compute Fastfood(v) in a tensor's shape; of v as many numbers as L if it has more."""
    columns = draws["signs"].shape[0]
    head = vector[:columns]
    padded = jnp.pad(head, (0, columns - head.shape[0]))
    mixed = hadamard(draws["signs"] * padded)[draws["index"]]
    return hadamard(draws["gauss"] * mixed)[: math.prod(shape)].reshape(shape)


def _groups(config: T5Config) -> dict[tuple[int, ...], list[str]]:
    """Return the backbone's tensors by shape: one program serves all that are alike."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, shape in sorted(parameter_shapes(config).items()):
        groups.setdefault(shape, []).append(name)
    return groups


def draw_all(config: T5Config, dim: int, seed: int) -> Draws:
    """Draw for every tensor, stacked over those of one shape, whose name they are under.

    By NumPy, on the host: a permutation of 30 million is a sort to JAX. Six bytes for each of L.
    """
    groups = {}
    for shape, names in _groups(config).items():
        each = [
            draw(np.random.default_rng((seed, zlib.crc32(name.encode()))), dim, math.prod(shape))
            for name in names
        ]
        groups["x".join(map(str, shape))] = {
            kind: jnp.asarray(np.stack([drawn[kind] for drawn in each])) for kind in each[0]
        }
    return groups


@functools.partial(jax.jit, static_argnums=3)
def moved(params: Tree, vector: Float[Array, " d"], draws: Draws, config: T5Config) -> Tree:
    """Compute theta_0 + Fastfood(v), float32, in the layout of `params`."""
    steps: dict[str, Array] = {}
    for shape, names in _groups(config).items():
        of_one = functools.partial(project, vector, shape=shape)
        stacked = jax.vmap(of_one)(draws["x".join(map(str, shape))])
        steps |= {name: stacked[i] for i, name in enumerate(names)}
    tree = unflatten(steps)
    if config.scan_layers:
        tree = stack_layers(tree, config)
    return jax.tree.map(lambda base, step: base.astype(jnp.float32) + step, params, tree)


@dataclasses.dataclass(frozen=True)
class FastfoodTuning(Method):
    """One vector of d numbers that moves all weights of the backbone; one task a run, no prompt.

    What is stored is d numbers and a seed: predictions compute the weights from them again.

    Attributes:
        dim: number of dimensions, d; 100 in the released script.
        seed: seed of the random projection; the run's own seeds have no part in it.
        z_loss: weight of the squared log normaliser; none in the released code.
    """

    extras: ClassVar[tuple[str, ...]] = (DRAWS,)

    dim: int = 100
    seed: int = 0
    z_loss: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim < 1:
            raise SpotError(f"a subspace has at least 1 dimension, found {self.dim}")
        check_fields(self, dim=whole(1, 10**7), seed=SEED)

    @property
    def changes_kernels(self) -> bool:
        """True: all weights move."""
        return True

    @property
    def shares_weights(self) -> bool:
        """True: every other vector would need the weights once more."""
        return True

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings; `SpotError` for several vectors."""
        if len(tasks) != 1:
            raise SpotError(
                f"Fastfood moves all weights and tunes one vector a run, {len(tasks)} were asked "
                "for; give each task and seed a run of its own"
            )
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"vector": zeros [d]}, which is the backbone as it is."""
        return {"vector": jnp.zeros(self.dim)}

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Tree]:
        """Return the backbone and the draws."""
        return {**backbone.params, DRAWS: draw_all(backbone.config, self.dim, self.seed)}

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the moved weights."""
        params = self.backbone_of(frozen)
        return Adapted(params=moved(params, trainable["vector"], frozen[DRAWS], config))

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[None, Mapping[str, Array]]:
        """Return the vector, and a few draws by which a NumPy that draws others is recognised."""
        return None, {"vector": trainable["vector"], "draws": _sample(frozen[DRAWS])}

    @classmethod
    def read(cls, file: PromptFile, params: Tree, config: T5Config) -> Inference:
        """Return the weights that a file's vector stands for.

        Raises:
            SpotError: the draws are not those that the vector was tuned with.
        """
        if has_int8(params):
            raise SpotError(refusal(cls.__name__))
        vector = jnp.asarray(file.tensors["vector"])
        draws = draw_all(config, vector.shape[0], file.method["seed"])
        expected = file.tensors.get("draws", np.zeros(len(draws)))
        if not np.allclose(_sample(draws), expected, rtol=1e-4, atol=0.0):
            raise SpotError(
                "this vector was tuned with another random projection than this NumPy draws from "
                f"seed {file.method['seed']}; use the versions of its run (environment.json)"
            )
        return Inference(moved(params, vector, draws, config))


def _sample(draws: Draws) -> Float[Array, " k"]:
    return jnp.stack([drawn["gauss"][0, 0] for _, drawn in sorted(draws.items())])
