"""An intrinsic subspace as a file: Proj, Proj_b, and what one needs to use or distrust them."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from spot_jax.errors import SpotError
from spot_jax.files import check_version
from spot_jax.methods.prompt_file import FORMAT, read_tensors, write_tensors
from spot_jax.methods.subspace import Layer, Layers, SubspaceShape
from spot_jax.t5.backbone import flatten, unflatten

KIND = "subspace"


@dataclasses.dataclass(frozen=True, eq=False)
class SubspaceFile:
    """What MSF found (Qin et al. 2021), for IST to tune in and for prompts to go through.

    Attributes:
        shape: of both parts: d, variant, prompt length, widths, scale.
        proj: prompt -> subspace.
        proj_b: subspace -> prompt.
        backbone: fingerprint of the T5 that the prompts were tuned on.
        vocabulary: sha256 of the SentencePiece model, or "".
        tasks: those whose prompts it was found from.
        method: MSF's hyper-parameters.
        step: updates done.
        seed: of the run.
        ancestry: the prompts it was found from: task, step and file of each.
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

    def save(self, path: Path) -> None:
        """Writes the file in one move: a reader never sees half of it."""
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
        """What tells this subspace from others: 16 hexadecimal digits of Proj_b and the shape."""
        found = hashlib.sha256(repr(self.shape).encode())
        for name, array in sorted(self._tensors.items()):
            if name.startswith("proj_b/"):
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]

    def project(self, prompt: Float[np.ndarray, "p e"]) -> Float[Array, "..."]:
        """Proj: a prompt's place in the subspace, `shape.code`.

        Raises:
            SpotError: a prompt of another shape.
        """
        self.shape.check_prompt(np.shape(prompt))
        return self.shape.project(self.proj, jnp.asarray(prompt, jnp.float32))

    def reconstruct(self, prompt: Float[np.ndarray, "p e"]) -> Float[Array, "p e"]:
        """Proj_b(Proj(P)): what is left of a prompt that goes through the subspace."""
        return self.shape.expand(self.proj_b, self.project(prompt))


def load_subspace(
    path: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    emb_dim: int | None = None,
    length: int | None = None,
    dim: int | None = None,
) -> SubspaceFile:
    """Reads a subspace file, `prompts/subspace-best-0.safetensors` of an MSF run.

    Args:
        path: the file, on a disk or in a bucket.
        backbone: the fingerprint it must have been found on; None to take any.
        emb_dim: the backbone's width that it must fit; None to take any.
        length: rows that its prompts must have; None to take any.
        dim: the dimensions it must have; None to take any.

    Raises:
        SpotError: no such file, not a subspace, truncated, not finite, of another backbone, or
            its Proj_b is of another shape than what was asked for.
    """
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
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
    check_version(path, fields.pop("format"), FORMAT)
    found = _built(path, tensors, fields)
    if backbone and found.backbone and found.backbone != backbone:
        raise SpotError(
            f"{path}: this subspace was found on another backbone (fingerprint "
            f"{found.backbone[:12]}, this one is {backbone[:12]}); load that backbone, or find a "
            "subspace on this one"
        )
    asked = {"emb_dim": emb_dim, "length": length, "dim": dim}
    for name, wanted in asked.items():
        if wanted is not None and wanted != (has := getattr(found.shape, name)):
            raise SpotError(
                f"{path}: Proj_b of {name} {has} where {name} {wanted} is expected; take a "
                f"subspace found with {name} {wanted}, or ask for {has}"
            )
    return found


def _built(
    path: str | os.PathLike[str], tensors: dict[str, np.ndarray], fields: dict[str, Any]
) -> SubspaceFile:
    shape = SubspaceShape(**fields.pop("shape"))
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
    if not all(np.all(np.isfinite(one)) for one in tensors.values()):
        raise SpotError(f"{path}: the subspace holds NaN or infinity; take an earlier one")
    for name in ("ancestry", "tasks"):
        fields[name] = tuple(fields[name])
    known = {f.name for f in dataclasses.fields(SubspaceFile)}
    own = {name: value for name, value in fields.items() if name in known}
    return SubspaceFile(shape, **unflatten(tensors), **own)
