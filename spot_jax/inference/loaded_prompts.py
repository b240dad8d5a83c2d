"""The prompts of a service, by name, loaded and dropped while it runs."""

import dataclasses
import re
import threading

from spot_jax.errors import SpotError
from spot_jax.inference.predictor import Predictor
from spot_jax.inference.rows import (
    ReadyPrompt,
    Row,
    SharedTable,
    alone_sizes_of,
    compile_rows,
    power_of_two,
    predict_rows,
    tree_sizes_of,
)
from spot_jax.inference.tuned import Prompt, Tuned, read_on

NAME = re.compile(r"[A-Za-z0-9_.+-]{1,120}")


class UnknownPrompt(SpotError):
    """A name that no loaded prompt has."""


class NameTaken(SpotError):
    """A name that a loaded prompt has already."""


class LoadedPrompts:
    """Prompts behind one backbone; threads may load, drop and use them at once.

    Attributes:
        tuned: backbone and its vocabulary.
        batch_size: number of rows of a batch, at most.
        shared: table of the prompts whose rows run together; replaced as a whole, so whoever holds
            it goes on with what it was.
    """

    def __init__(self, tuned: Tuned, batch_size: int = 64):
        self.tuned, self.batch_size = tuned, batch_size
        self.shared: SharedTable | None = None
        self._prompts: dict[str, ReadyPrompt] = {}
        self._changing = threading.Lock()
        self._room = 1

    def add(self, name: str, prompt: Prompt, *, replace: bool = False) -> ReadyPrompt:
        """Load a prompt under a name.

        Raises:
            NameTaken: a name in use, unless `replace`.
            SpotError: a name that cannot stand in an address, or a prompt that does not fit.
        """
        if not NAME.fullmatch(name):
            raise SpotError(f"expected a name of letters, digits and _.+-, found {name[:40]!r}")
        ready = Predictor(dataclasses.replace(self.tuned, prompts=(prompt,), setup=None)).ready
        with self._changing:
            if name in self._prompts and not replace:
                raise NameTaken(f"a prompt {name} is loaded already; drop it first, or replace it")
            self._set({**self._prompts, name: ready})
        return ready

    def add_bytes(self, name: str, data: bytes, *, replace: bool = False) -> ReadyPrompt:
        """Load a prompt from the bytes of its file; `SpotError` as in `add`, or for no prompt."""
        prompt = read_on(name, self.tuned.backbone, self.tuned.vocabulary, data)
        return self.add(name, prompt, replace=replace)

    def remove(self, name: str) -> None:
        """Drop a prompt; rows of it that wait are still predicted.

        Raises:
            UnknownPrompt: no such name.
        """
        with self._changing:
            self.get(name)
            self._set({n: ready for n, ready in self._prompts.items() if n != name})

    def get(self, name: str | None) -> ReadyPrompt:
        """Return the prompt of a name, or the only one where none is named.

        Raises:
            UnknownPrompt: no such name, or several prompts and no name.
        """
        prompts = self._prompts
        if name is None and len(prompts) == 1:
            return next(iter(prompts.values()))
        if name not in prompts:
            some = ", ".join(sorted(prompts)[:5]) or "none"
            more = ", ..." if len(prompts) > 5 else ""
            asked = "no prompt was named" if name is None else f"no prompt {name[:60]!r}"
            raise UnknownPrompt(f"{asked}; loaded are {some}{more}")
        return prompts[name]

    def all(self) -> dict[str, ReadyPrompt]:
        """Return all prompts by name."""
        return dict(sorted(self._prompts.items()))

    def make_room(self) -> None:
        """Give the shared table room for as many rows again, so that loading compiles nothing."""
        with self._changing:
            if self.shared is not None:
                self._room = power_of_two(2 * len(self.shared.rows))
                self._set(self._prompts)

    def compile(self) -> int:
        """Compile what the loaded prompts need and return the number of batches run for it."""
        groups: dict[object, ReadyPrompt] = {}
        for ready in self._prompts.values():
            key = (
                ready.mixes or id(ready),
                tree_sizes_of(ready),
                alone_sizes_of(ready),
                ready.search.max_length,
                ready.search.beams,
            )
            longest = groups.setdefault(key, ready)
            if _width(ready) > _width(longest):
                groups[key] = ready
        return sum(
            compile_rows(self.tuned, ready, batch_size=self.batch_size, shared=self.shared)
            for ready in groups.values()
        )

    def predict(self, rows: list[Row], *, probabilities: bool = True) -> list:
        """Predict for rows of any of the prompts, in their order."""
        return predict_rows(
            self.tuned,
            rows,
            batch_size=self.batch_size,
            shared=self.shared,
            probabilities=probabilities,
        )

    def _set(self, prompts: dict[str, ReadyPrompt]) -> None:
        self.shared = SharedTable.of(prompts.values(), self._room)
        self._prompts = prompts


def _width(ready: ReadyPrompt) -> int:
    return ready.lengths["inputs"] + (0 if ready.writer is None else ready.writer.room)
