"""Prefix-tuning and P-Tuning v2 as plain data: how prefixes begin, where they stand."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from spot_jax.errors import SpotError
from spot_jax.methods.base import Method
from spot_jax.methods.prefix_tuning import (
    Initialiser,
    MLPInit,
    NormalInit,
    PrefixTuning,
    WordsInit,
    stored_start,
)
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.prefix import check_places
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.stored_beginnings import StoredBeginnings

INITS = "sampled_vocabulary, class_labels, text, normal or prompt"


@dataclasses.dataclass(frozen=True)
class PrefixTuningRecipe(StoredBeginnings):
    """Keys and values before every layer's attention (Li & Liang 2021; P-Tuning v2).

    Attributes:
        length: P, keys a layer. 5 to 100 in prefix-tuning, 8 to 224 in P-Tuning v2's scripts; below
            20 for simple classification.
        init: what the frozen model computes for words (Li & Liang, section 5.3): the pieces of
            "class_labels" or of "text", filled up with "sampled_vocabulary", or that alone;
            "normal"; or "prompt", a stored prefix.
        text: for "text".
        prompt: for "prompt": a prefix's file, or one for each prefix of the run.
        scale: standard deviation of "normal"; 1 is P-Tuning v2's, in its code.
        places: of "encoder" and "decoder", their self-attention, and "cross", the decoder's
            attention to the encoder's output.
        hidden: train an MLP with so many hidden units whose output is the prefix (Li & Liang,
            section 4.3: 512 or 800); it begins by "normal" or from a stored "prompt". None to
            train the prefix itself, P-Tuning v2's default.
        width: of the MLP's input; None for the backbone's.
        z_loss: 1e-4 in T5X.
        per_token: average the loss over target tokens; T5X sums.
    """

    length: int = 20
    init: str = "sampled_vocabulary"
    text: str | None = None
    prompt: str | Sequence[str] | None = None
    scale: float = 1.0
    places: Sequence[str] = ("encoder", "decoder")
    hidden: int | None = None
    width: int | None = None
    z_loss: float = 1e-4
    per_token: bool = False
    file_kind: ClassVar[str] = "a prefix's file"

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method for as many prefixes as `labels` has entries.

        Args:
            backbone: the frozen model.
            vocabulary: turns labels and text into pieces.
            labels: each prefix's class labels, None where its task has none.

        Raises:
            SpotError: an unknown `init` or place, what they need is missing, or a stored prefix of
                another shape.
        """
        check_places(self.places)
        files = self.sources(backbone, len(labels))
        inits: list[Initialiser]
        if files is not None:
            inits = [self._stored(backbone, path, file) for path, file in files]
        else:
            inits = [self._initialiser(vocabulary, own) for own in labels]
        return PrefixTuning(
            backbone.config,
            self.length,
            tuple(self.places),
            tuple(inits),
            z_loss=self.z_loss,
            per_token=self.per_token,
        )

    def _stored(self, backbone: Backbone, path: str, file: PromptFile) -> Initialiser:
        try:
            start = stored_start(backbone.config, file, mlp=self.hidden is not None)
        except SpotError as error:
            raise SpotError(f"{path}: {error}") from error
        own = {"length": self.length, "places": list(self.places)}
        found = {name: file.method[name] for name in own}
        if self.hidden is not None:
            own |= {"hidden": self.hidden, "width": self.width or backbone.config.emb_dim}
            found |= dict(zip(("width", "hidden"), start.mlp_shape, strict=True))
        for name, value in found.items():
            if own[name] != value:
                raise SpotError(
                    f"{path}: a prefix of {name} {value} cannot be the beginning of one of {name} "
                    f"{own[name]}; set PrefixTuning.{name} to it, or take another prefix"
                )
        return start

    def _initialiser(
        self, vocabulary: Vocabulary | None, labels: Sequence[str] | None
    ) -> Initialiser:
        if self.init == "normal":
            if self.hidden is not None:
                return MLPInit(self.hidden, self.width)
            return NormalInit(self.scale)
        if self.init not in ("class_labels", "text", "sampled_vocabulary"):
            raise SpotError(f"unknown prefix initialisation {self.init!r}; expected {INITS}")
        if self.hidden is not None:
            raise SpotError(
                f"init {self.init!r} gives keys and values, which no MLP can be made to yield; set "
                "PrefixTuning.init = 'normal', or PrefixTuning.hidden = None"
            )
        if self.init == "sampled_vocabulary" or (self.init == "class_labels" and not labels):
            return WordsInit()
        texts = [self.text or ""] if self.init == "text" else list(labels or ())
        if vocabulary is None:
            raise SpotError(
                f"init {self.init!r} needs the backbone's vocabulary, which it lacks; "
                "use 'sampled_vocabulary', or convert the backbone with its vocabulary"
            )
        ids = tuple(piece for text in texts for piece in vocabulary.encode(text))
        if not ids:
            raise SpotError("the text that should initialise the prefix is empty; give it words")
        return WordsInit(ids)
