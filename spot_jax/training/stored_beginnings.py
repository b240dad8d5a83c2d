"""What the recipes share whose prompts may begin from stored ones."""

from collections.abc import Sequence
from typing import ClassVar

from spot_jax.errors import SpotError
from spot_jax.methods.prompt_file import PromptFile, load_prompt
from spot_jax.t5.backbone import Backbone


class StoredBeginnings:
    """Of a recipe whose `init` may be "prompt", which begins from the files in `prompt`."""

    init: str
    # A file, or one for each prompt of the run.
    prompt: str | Sequence[str] | None
    # What the files are, for complaints.
    file_kind: ClassVar[str] = "a prompt file"

    @property
    def tunes_backbone(self) -> bool:
        """Prompts are stored, not a T5."""
        return False

    @property
    def files(self) -> list[str]:
        """What `prompt` names."""
        if self.prompt is None:
            return []
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def copies(self) -> int:
        """How many prompts the recipe itself names; 1 where it names none."""
        return max(1, len(self.files))

    def sources(self, backbone: Backbone, count: int) -> list[tuple[str, PromptFile]] | None:
        """The files to begin from, one a prompt; None if prompts begin otherwise."""
        if self.init != "prompt":
            return None
        if not self.files:
            gin_name = type(self).__name__.removesuffix("Recipe")
            raise SpotError(f"init 'prompt' needs {self.file_kind}; set {gin_name}.prompt")
        paths = self.files * count if len(self.files) == 1 else self.files
        return [(path, load_prompt(path, backbone=backbone.fingerprint)) for path in paths]
