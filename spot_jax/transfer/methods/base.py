"""What every transfer method is given, and what it gives back."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from spot_jax.transfer.retrieval import Retrieved
from spot_jax.transfer.tuning import Tuning


@dataclasses.dataclass(frozen=True)
class Start:
    """A prompt that a target's run begins from.

    Attributes:
        name: for people.
        file: of the prompt; None for a run from scratch.
        id: of the library's entry, if it is one's.
        note: what the reader should know of it; "" for nothing.
    """

    name: str
    file: str | None = None
    id: str | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a method works with.

    Attributes:
        directory: where it may write; a second start finds there what the first one wrote.
        tuning: of all runs.
        retrieved: source prompts, the most similar first; empty for methods without.
        progress: a progress bar; None for one where stderr is a terminal.
    """

    directory: Path
    tuning: Tuning
    retrieved: Sequence[Retrieved] = ()
    progress: bool | None = None


@dataclasses.dataclass(frozen=True)
class TransferMethod:
    """A method.

    Attributes:
        starts: which prompts the target is tuned from; may itself tune (mixtures).
        retrieves: whether it needs a library.
        uses_top_k: whether it takes the k most similar prompts, or all there are.
    """

    starts: Callable[[Work], list[Start]]
    retrieves: bool = True
    uses_top_k: bool = True
