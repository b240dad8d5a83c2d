"""P-Tuning (Liu et al. 2021) as plain data: templates, encoders, and how they begin."""

import dataclasses
from collections.abc import Sequence

from spot_jax.data.templates import parse
from spot_jax.errors import SpotError
from spot_jax.methods.base import Method
from spot_jax.methods.p_tuning import NormalInit, PTuning, StoredEncoder, stored_start
from spot_jax.methods.prompt_tuning import ArrayInit, Initialiser, SampledVocabularyInit
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.stored_beginnings import StoredBeginnings

INITS: dict[str, Initialiser] = {
    "normal": NormalInit(),
    "sampled_vocabulary": SampledVocabularyInit(),
}


@dataclasses.dataclass(frozen=True)
class PTuningRecipe(StoredBeginnings):
    """Virtual tokens in a template, from a prompt encoder.

    Attributes:
        template: how the task's text is written (`spot_jax.data.templates`), or one for each
            prompt of the run; None for tasks that have places themselves, such as
            `super_glue_rte_ptuning`.
        length: P, the places in the text; needed without a template.
        encoder: "lstm" (LAMA's size), "lstm_wide" (SuperGLUE's), "mlp" or "identity".
        init: of the encoder's embeddings: "normal" as in the authors' code, "sampled_vocabulary";
            or "prompt", which goes on from a stored file.
        prompt: for "prompt": a file, or one for each prompt of the run. Of a file with an encoder
            (`prompts/encoder-best-0.safetensors`) the encoder goes on; any other prompt begins as
            it is, with the encoder "identity". Either way `encoder` here plays no part.
        tune_backbone: tune the T5 jointly, as the paper does for SuperGLUE.
        z_loss: 1e-4 in T5X.
        per_token: average the loss over target tokens; T5X sums.
    """

    template: str | Sequence[str] | None = None
    length: int | None = None
    encoder: str = "lstm"
    init: str = "normal"
    prompt: str | Sequence[str] | None = None
    tune_backbone: bool = False
    z_loss: float = 1e-4
    per_token: bool = False

    @property
    def templates(self) -> list[str]:
        """One for all prompts or one a prompt; none where the tasks have places themselves."""
        if self.template is None:
            return []
        return [self.template] if isinstance(self.template, str) else list(self.template)

    @property
    def copies(self) -> int:
        """How many prompts the recipe itself names."""
        return max(1, len(self.templates), len(self.files))

    @property
    def tunes_backbone(self) -> bool:
        """Whether a tuned T5 is stored too."""
        return self.tune_backbone

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method for as many prompts as `labels` has entries.

        Raises:
            SpotError: templates of different lengths, no length, an unknown `init` or encoder, or
                files that do not go together.
        """
        count = len(labels)
        parsed = [parse(text) for text in self.templates]
        encoder, starts = self._starts(backbone, count)
        forms = tuple(one.form for one in parsed) * (count if len(parsed) == 1 else 1)
        return PTuning(
            backbone.config,
            self._length({one.length for one in parsed}),
            encoder,
            starts,
            forms=forms,
            tune_backbone=self.tune_backbone,
            z_loss=self.z_loss,
            per_token=self.per_token,
        )

    def _length(self, found: set[int]) -> int:
        if len(found) > 1:
            raise SpotError(
                f"expected templates with as many virtual tokens each, found {sorted(found)}; "
                "prompts of one run have one length"
            )
        if not found and self.length is None:
            raise SpotError(
                "P-Tuning needs a template, or the number of places that the task's text has; add "
                "--gin.TEMPLATE=\"'{text} <prompt:3> {target}'\" or set PTuning.length"
            )
        length = found.pop() if found else self.length
        if self.length not in (None, length):
            raise SpotError(
                f"the template has {length} virtual tokens, PTuning.length is {self.length}; leave "
                "the length out"
            )
        return length or 0

    def _starts(
        self, backbone: Backbone, count: int
    ) -> tuple[str, list[Initialiser | StoredEncoder]]:
        files = self.sources(backbone, count)
        if files is None:
            if self.init not in INITS:
                raise SpotError(
                    f"unknown initialisation {self.init!r} of the prompt encoder; expected "
                    f"{', '.join(INITS)} or prompt"
                )
            return self.encoder, [INITS[self.init]] * count
        kinds, starts = set(), list[Initialiser | StoredEncoder]()
        for _, file in files:
            kind, stored = stored_start(file)
            kinds.add(kind)
            starts.append(stored or ArrayInit(file.prompt))
        if len(kinds) > 1:
            raise SpotError(
                f"expected files of one kind of encoder to go on from, found {sorted(kinds)}; "
                "give those of one kind, or a run for each"
            )
        return kinds.pop(), starts
