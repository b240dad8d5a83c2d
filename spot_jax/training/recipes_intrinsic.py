"""Intrinsic Prompt Tuning (Qin et al. 2021) as plain data: MSF, IST and its two baselines."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from spot_jax.errors import SpotError
from spot_jax.methods.base import Method
from spot_jax.methods.fastfood import FastfoodTuning
from spot_jax.methods.intrinsic_ist import SubspaceTuning
from spot_jax.methods.intrinsic_msf import FEWEST, SubspaceFinding
from spot_jax.methods.prompt_file import PromptFile, load_prompt
from spot_jax.methods.restored import virtual_tokens
from spot_jax.methods.subspace import Layers, SubspaceShape
from spot_jax.methods.subspace_file import SubspaceFile, load_subspace
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.stored_beginnings import StoredBeginnings

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class SubspaceFindingRecipe:
    """MSF: a subspace from the stored prompts of many tasks.

    A run of it has one task for each prompt, in the same order, and `DataSource.batch_size` rows
    of each task in a batch. It writes each task's reconstructed prompt, and the subspace as
    `prompts/subspace-best-0.safetensors`, best by the mean of the tasks' validation scores.

    Attributes:
        prompts: the stored prompts' files, one a task; all of one length and of this backbone.
        dim: d of the subspace.
        alpha: weight of the reconstruction. 200 beside a summed loss in the released code, which
            `methods.intrinsic_msf.alpha_of_mean` converts: 200 / (64 examples x target tokens).
        variant: "paper", or "per_token"; see `methods.subspace`.
        width: hidden width of Proj_b; 768 in the released code.
        scale: what prompts are divided by before Proj; "rms" for the root mean square of the
            stored prompts, which T5's large prompts need; 1.0 is the paper's.
        per_token: average each task's loss over target tokens, then over tasks; False sums as the
            released code does, and alpha = 200 goes with that.
        z_loss: none in the released code.
        label_smoothing: 0.1 in the released code.
    """

    prompts: Sequence[str]
    dim: int
    alpha: float = 1.0
    variant: str = "paper"
    width: int = 768
    scale: float | str = "rms"
    per_token: bool = True
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    tunes_backbone: ClassVar[bool] = False

    @property
    def copies(self) -> int:
        """The stored prompts' number."""
        return len(self._paths)

    @property
    def _paths(self) -> list[str]:
        return [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)

    def sources(self, backbone: Backbone, count: int) -> list[tuple[str, PromptFile]]:
        """The stored prompts.

        Raises:
            SpotError: too few, of different lengths, of another backbone, or files of methods
                whose prompt is not rows before the text.
        """
        if len(self._paths) < FEWEST:
            raise SpotError(
                f"a subspace is found from the prompts of at least {FEWEST} tasks, found "
                f"{len(self._paths)}; give more files in SubspaceFinding.prompts"
            )
        mark = backbone.fingerprint
        return _alike([(path, load_prompt(path, backbone=mark)) for path in self._paths], backbone)

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method, its lanes in the order of the prompts."""
        files = self.sources(backbone, len(labels))
        prompts = np.stack([file.prompt for _, file in files])
        scale = float(np.sqrt(np.mean(np.square(prompts)))) if self.scale == "rms" else self.scale
        if isinstance(scale, str):
            raise SpotError(f"the scale is a number or 'rms', found {scale!r}")
        _, length, emb_dim = prompts.shape
        return SubspaceFinding(
            backbone.config,
            prompts,
            SubspaceShape(self.dim, length, emb_dim, self.width, self.variant, scale),
            files=tuple(file.ancestor(path) for path, file in files),
            alpha=self.alpha,
            per_token=self.per_token,
            z_loss=self.z_loss,
            label_smoothing=self.label_smoothing,
        )


@dataclasses.dataclass(frozen=True)
class SubspaceTuningRecipe(StoredBeginnings):
    """IST: one vector of d numbers a prompt, in a subspace that stays as it is.

    Attributes:
        subspace: the file that MSF wrote, or "random" for the baseline: a Proj_b with fresh
            weights.
        dim: d; needed for "random", otherwise what the file must have if given.
        length: P; 100 for "random" if not given, otherwise what the file must have if given.
        variant: of "random".
        width: of "random".
        scale: of "random"; a number, for example the root mean square of tuned prompts.
        subspace_seed: of "random"; the same for all prompts of a run.
        init: "normal", or "prompt": V = Proj(P), the place of a stored prompt in the subspace, or
            its own vector if it was tuned in this very subspace.
        std: of "normal"; 0.02 in the released code.
        prompt: for "prompt": a prompt file, or one for each prompt of the run.
        z_loss: none in the released code.
        per_token: average the loss over target tokens; the released code sums.
        label_smoothing: 0.1 in the released code.
    """

    subspace: str
    dim: int | None = None
    length: int | None = None
    variant: str = "paper"
    width: int = 768
    scale: float = 1.0
    subspace_seed: int = 0
    init: str = "normal"
    std: float = 0.02
    prompt: str | Sequence[str] | None = None
    z_loss: float = 0.0
    per_token: bool = False
    label_smoothing: float = 0.0

    def sources(self, backbone: Backbone, count: int) -> list[tuple[str, PromptFile]] | None:
        """See `StoredBeginnings`; the files hold prompts of Prompt Tuning, all of one length."""
        if self.init not in ("normal", "prompt"):
            raise SpotError(
                f"unknown beginning {self.init!r} of a vector; expected normal or prompt"
            )
        files = super().sources(backbone, count)
        return files and _alike(files, backbone)

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method for as many prompts as `labels` has entries.

        Raises:
            SpotError: no such subspace, or one of another shape or backbone.
        """
        shape, proj_b, file = self._subspace(backbone)
        files = self.sources(backbone, len(labels))
        starts: list[np.ndarray | None] = [None] * len(labels)
        if files is not None:
            starts = [_start(file, *one) for one in files]
        return SubspaceTuning(
            backbone.config,
            shape,
            proj_b,
            tuple(starts),
            std=self.std,
            origin=self._origin(file),
            z_loss=self.z_loss,
            per_token=self.per_token,
            label_smoothing=self.label_smoothing,
        )

    def _subspace(self, backbone: Backbone) -> tuple[SubspaceShape, Layers, SubspaceFile | None]:
        width = backbone.config.emb_dim
        if self.subspace != RANDOM:
            found = load_subspace(
                self.subspace,
                backbone=backbone.fingerprint,
                emb_dim=width,
                length=self.length,
                dim=self.dim,
            )
            return found.shape, found.proj_b, found
        if self.dim is None:
            raise SpotError("a random subspace needs its dimension; set SubspaceTuning.dim")
        length = 100 if self.length is None else self.length
        shape = SubspaceShape(self.dim, length, width, self.width, self.variant, self.scale)
        return shape, shape.init_proj_b(jax.random.key(self.subspace_seed)), None

    def _origin(self, file: SubspaceFile | None) -> dict[str, Any]:
        if file is None:
            return {"random": self.subspace_seed}
        return {"mark": file.mark, "file": self.subspace, "step": file.step, "tasks": file.tasks}


@dataclasses.dataclass(frozen=True)
class FastfoodTuningRecipe:
    """The baseline of a random subspace of all the backbone's weights; one task a run.

    What is stored is d numbers and a seed: `spot eval` and `spot infer` compute the weights from
    them again.

    Attributes:
        dim: d; 100 in the released script.
        seed: of the random projection; the run's own seeds have no part in it.
        z_loss: none in the released code.
        per_token: average the loss over target tokens; the released code sums.
        label_smoothing: 0.1 in the released code.
    """

    dim: int = 100
    seed: int = 0
    z_loss: float = 0.0
    per_token: bool = False
    label_smoothing: float = 0.0
    copies: ClassVar[int] = 1
    tunes_backbone: ClassVar[bool] = False

    def sources(self, backbone: Backbone, count: int) -> None:
        """The vector begins at zero: at the backbone as it is."""
        return

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method; one run tunes one vector."""
        if len(labels) != 1:
            raise SpotError(
                f"Fastfood moves all weights and tunes one vector a run, {len(labels)} were asked "
                "for; give each task and seed a run of its own"
            )
        return FastfoodTuning(
            backbone.config,
            self.dim,
            self.seed,
            self.z_loss,
            self.per_token,
            self.label_smoothing,
        )


def _start(subspace: SubspaceFile | None, path: str, file: PromptFile) -> np.ndarray:
    """A stored prompt's place in the subspace."""
    if subspace is None:
        raise SpotError(
            "a random subspace has no Proj, so that no stored prompt has a place in it; set "
            "SubspaceTuning.init = 'normal', or give a subspace file"
        )
    if file.method.get("subspace", {}).get("mark") == subspace.mark and "vector" in file.tensors:
        return file.tensors["vector"]
    try:
        return np.asarray(subspace.project(file.prompt))
    except SpotError as error:
        raise SpotError(f"{path}: {error}") from error


def _alike(files: list[tuple[str, PromptFile]], backbone: Backbone) -> list[tuple[str, PromptFile]]:
    """Prompt files, checked to be of one shape, rows before the text."""
    for path, file in files:
        if virtual_tokens(file) != (len(file.prompt), "before"):
            raise SpotError(
                f"{path}: tuned by {file.method.get('name')}, whose prompt is not rows before the "
                "text; give prompts of Prompt Tuning"
            )
        if file.prompt.shape[1] != backbone.config.emb_dim:
            raise SpotError(
                f"{path}: a prompt of width {file.prompt.shape[1]} cannot go with this backbone of "
                f"width {backbone.config.emb_dim}; give prompts that were tuned on it"
            )
        if len(file.prompt) != (first := len(files[0][1].prompt)):
            raise SpotError(
                f"the prompts are of one length, but {files[0][0]} has {first} rows and {path} has "
                f"{len(file.prompt)}; leave one of them out"
            )
    return files
