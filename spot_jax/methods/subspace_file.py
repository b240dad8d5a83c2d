"""An intrinsic subspace as a file: Proj, Proj_b, and what one needs to use or distrust them."""

import dataclasses
import functools
import hashlib
import os
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from spot_jax.errors import SpotError
from spot_jax.files import as_path, check_version, reading
from spot_jax.files.records import from_plain, read_value
from spot_jax.methods.base import StoredPrompt
from spot_jax.methods.prompt_file import FORMAT, read_tensors, write_tensors
from spot_jax.methods.stored import has_virtual_tokens, virtual_tokens
from spot_jax.methods.subspace import Layer, Layers, SubspaceShape
from spot_jax.t5.backbone import Backbone, flatten, unflatten

KIND = "subspace"


@dataclasses.dataclass(frozen=True, eq=False)
class SubspaceFile:
    """What MSF found (Qin et al. 2021), for IST to tune in and for prompts to go through.

    Attributes:
        shape: shape of both parts: d, variant, prompt length, widths, scale.
        proj: map from prompts to the subspace.
        proj_b: map from the subspace to prompts.
        backbone: fingerprint of the T5 that the prompts were tuned on.
        vocabulary: sha256 of the SentencePiece model, or "".
        tasks: names of those whose prompts it was found from.
        method: hyper-parameters of MSF.
        step: number of updates done.
        seed: seed of the run.
        ancestry: prompts it was found from: task, step and file of each.
    """

    shape: SubspaceShape
    proj: Layer
    proj_b: Layers
    backbone: str = ""
    vocabulary: str = ""
    tasks: tuple[str, ...] = ()
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0
    seed: int = 0
    ancestry: tuple[Mapping[str, Any], ...] = ()

    def save(self, path: epath.Path) -> None:
        """Write the file in one move: a reader never sees half of it."""
        plain = (f.name for f in dataclasses.fields(self) if f.name not in ("proj", "proj_b"))
        fields = {name: getattr(self, name) for name in plain}
        fields["shape"] = dataclasses.asdict(self.shape)
        write_tensors(path, self._tensors, {"format": FORMAT, "kind": KIND, **fields})

    @property
    def _tensors(self) -> dict[str, np.ndarray]:
        tree = {"proj": self.proj, "proj_b": self.proj_b}
        return {name: np.asarray(leaf, np.float32) for name, leaf in flatten(tree)}

    @functools.cached_property
    def mark(self) -> str:
        """Mark of this subspace: 16 hexadecimal digits of Proj_b and the shape."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for name, array in sorted(self._tensors.items()):
            if name.startswith("proj_b/"):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def project(self, prompt: Float[np.ndarray, "p e"]) -> Float[Array, "..."]:
        """Compute Proj: a prompt's place in the subspace, `shape.code`.

        Raises:
            SpotError: a prompt of another shape.
        """
        self.shape.check_prompt(np.shape(prompt))
        return self.shape.project(self.proj, jnp.asarray(prompt, jnp.float32))

    def check(
        self,
        path: str | os.PathLike[str],
        *,
        backbone: str | None = None,
        emb_dim: int | None = None,
        length: int | None = None,
        dim: int | None = None,
    ) -> None:
        """Raise `SpotError` for another backbone or shape than is expected; see `load_subspace`."""
        if backbone and self.backbone and self.backbone != backbone:
            raise SpotError(
                f"{path}: this subspace was found on another backbone (fingerprint "
                f"{self.backbone[:12]}, this one is {backbone[:12]}); load that backbone, or find "
                "a subspace on this one"
            )
        expected = {"emb_dim": emb_dim, "length": length, "dim": dim}
        for name, value in expected.items():
            if value is not None and value != (has := getattr(self.shape, name)):
                raise SpotError(
                    f"{path}: Proj_b of {name} {has} where {name} {value} is expected; take a "
                    f"subspace found with {name} {value}, or ask for {has}"
                )

    def reconstruct(self, prompt: Float[np.ndarray, "p e"]) -> Float[Array, "p e"]:
        """Compute Proj_b(Proj(P)): what is left of a prompt that goes through the subspace."""
        return self.shape.expand(self.proj_b, self.project(prompt))


def load_subspace(
    path: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    emb_dim: int | None = None,
    length: int | None = None,
    dim: int | None = None,
) -> SubspaceFile:
    """Read a subspace file, `prompts/subspace-best-0.safetensors` of an MSF run.

    Args:
        path: path of the file, on a disk or in a bucket.
        backbone: fingerprint that it must have been found on; None to take any.
        emb_dim: width of the backbone that it must fit; None to take any.
        length: number of rows that its prompts must have; None to take any.
        dim: number of dimensions that it must have; None to take any.

    Raises:
        SpotError: no such file, not a subspace, truncated, not finite, of another backbone, or
            its Proj_b is of another shape than what was asked for.
    """
    file = as_path(path)
    if not file.is_file():
        raise SpotError(
            f"no subspace file at {path}; give the prompts/subspace-best-0.safetensors of a run "
            "with SubspaceFinding"
        )
    tensors, fields = read_tensors(file, file.read_bytes(), "a subspace file")
    if fields.pop("kind", "prompt") != KIND:
        raise SpotError(
            f"{path}: not a subspace file but a prompt's; give the "
            "prompts/subspace-best-0.safetensors of a run with SubspaceFinding"
        )
    with reading(path, "take another copy", "not a subspace file of spot-jax, or truncated"):
        check_version(path, fields.pop("format"), FORMAT)
        subspace = _built(path, tensors, fields)
    subspace.check(path, backbone=backbone, emb_dim=emb_dim, length=length, dim=dim)
    return subspace


def _built(
    path: str | os.PathLike[str], tensors: dict[str, np.ndarray], fields: dict[str, Any]
) -> SubspaceFile:
    shape = from_plain(SubspaceShape, fields.pop("shape"), "shape")
    expected = shape.tensor_shapes()
    odd = sorted(
        name
        for name in expected.keys() | tensors.keys()
        if name not in tensors or tensors[name].shape != expected.get(name)
    )
    if odd:
        has = list(tensors[odd[0]].shape) if odd[0] in tensors else "nothing"
        raise SpotError(
            f"{path}: {odd[0]} should be {list(expected.get(odd[0], ()))}, found {has}; the file "
            "is not whole, take another copy"
        )
    if not all(np.all(np.isfinite(array)) for array in tensors.values()):
        raise SpotError(f"{path}: the subspace holds NaN or infinity; take an earlier one")
    kinds = typing.get_type_hints(SubspaceFile)
    fields = {
        name: read_value(kinds[name], value, name)
        for name, value in fields.items()
        if name in kinds and name not in ("proj", "proj_b")
    }
    return SubspaceFile(shape, **unflatten(tensors), **fields)


def check_alike(sources: Sequence[StoredPrompt], backbone: Backbone) -> None:
    """Raise `SpotError` unless prompt files are of one length and width, rows before the text."""
    for path, file in sources:
        if not has_virtual_tokens(file) or virtual_tokens(file)[1] != "before":
            raise SpotError(
                f"{path}: tuned by {file.method.get('name')}, whose prompt is not rows before the "
                "text; give prompts of Prompt Tuning"
            )
        if file.rows.shape[1] != backbone.config.emb_dim:
            raise SpotError(
                f"{path}: a prompt of width {file.rows.shape[1]} cannot go with this backbone of "
                f"width {backbone.config.emb_dim}; give prompts that were tuned on it"
            )
        if len(file.rows) != (first := len(sources[0].file.rows)):
            raise SpotError(
                f"the prompts are of one length, but {sources[0].path} has {first} rows and {path} "
                f"has {len(file.rows)}; leave one of them out"
            )
