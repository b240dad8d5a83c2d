"""Prompt Tuning (Lester, Al-Rfou & Constant 2021): a soft prompt before the input of a frozen T5.

The prompt is P rows in front of the embedded encoder input; the decoder is untouched and nothing
else is trained (§2). The rows are virtual tokens: the data side writes their ids, here they are
initialised (§3.2) and looked up.
"""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Array, Key

from spot_jax.errors import SpotError, check_fields
from spot_jax.methods import initialisation
from spot_jax.methods.base import TOKENS, Adapted, Method, StoredPrompt, Task
from spot_jax.methods.losses import Tree
from spot_jax.methods.stored import check_virtual
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

# Lester's words for tasks that write free text (footnote 7), by a part of the task's name.
CLASS_WORDS = {
    "super_glue_record": ("commonsense", "reasoning", "reading", "comprehension"),
    "super_glue_wsc": ("commonsense", "pronoun", "resolution"),
}
INITS = ("class_labels", "sampled_vocabulary", "uniform", "text", "prompt")


@dataclasses.dataclass(frozen=True)
class PromptTuning(Method):
    """P rows before the input of one frozen T5.

    Attributes:
        length: number of rows, P; 1 to 150 in the paper, 100 by default.
        init: "class_labels" (the paper's default; sampled vocabulary where a task has no labels,
            and the paper's words for ReCoRD and WSC), "sampled_vocabulary", "uniform", "text", or
            "prompt".
        text: words whose embeddings "text" takes.
        prompt: path of the file that "prompt" begins from, or one for each prompt of the run.
        class_words: words that "class_labels" takes instead of the tasks' labels.
    """

    length: int = 100
    init: str = "class_labels"
    text: str | None = None
    prompt: str | Sequence[str] | None = None
    class_words: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.class_words, str):
            raise SpotError(
                f"PromptTuning.class_words is a list of words, found the text {self.class_words!r}"
            )
        if self.length < 1:
            raise SpotError(f"a prompt has at least 1 virtual token, not {self.length}")
        check_fields(self, length=TOKENS)
        if self.init not in INITS:
            raise SpotError(
                f"unknown prompt initialisation {self.init!r}; expected {', '.join(INITS[:-1])} "
                f"or {INITS[-1]}"
            )

    def sources(self, backbone: Backbone, count: int) -> list[StoredPrompt] | None:
        """Read the files to begin from; `SpotError` unless they hold rows of virtual tokens."""
        stored = super().sources(backbone, count)
        for source in stored or ():
            check_virtual(*source)
        return stored

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"prompt": [p, d]}."""
        table = backbone.params["token_embedder"]["embedding"]
        if task.source is not None:
            return {"prompt": initialisation.stored(task.source, table, self.length)}
        if self.init == "uniform":
            return {"prompt": initialisation.uniform(key, table, self.length)}
        if self.init == "text":
            ids = task.pieces(self.text or "", self.init)
            return {"prompt": initialisation.text(key, table, self.length, ids)}
        words = self._words(task) if self.init == "class_labels" else ()
        if words:
            labels = [task.pieces(word, self.init) for word in words]
            return {"prompt": initialisation.class_labels(key, table, self.length, labels)}
        return {"prompt": initialisation.sampled_vocabulary(key, table, self.length)}

    def _words(self, task: Task) -> Sequence[str]:
        if self.class_words or task.labels:
            return self.class_words or task.labels
        return next((words for name, words in CLASS_WORDS.items() if name in task.name), ())

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the prompt as rows of virtual tokens."""
        return Adapted(table=trainable["prompt"])
