"""A library of prompts: a directory, here or in a bucket, that many may read and add to at once.

    library = Library("gs://team/prompts")
    library.add_run("runs/mnli")
    for match in library.rank(embedding, backbone=fingerprint, top_k=5, exclude=["boolq"]):
        print(match.similarity, match.entry.id)

    LIB/prompts/<id>.safetensors   an entry: the prompt and, with it, its task embedding
    LIB/index/                     derived (`library_index`); may be deleted at any time

An entry's id holds the hash of its file (`library_entry`). Nothing is ever changed in place, so
there is nothing to lock: adding writes a file under a unique name, removing deletes it.
"""

import os
import pathlib
import re
from collections.abc import Collection, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from spot_jax.errors import SpotError
from spot_jax.files import as_path, is_local, write_whole
from spot_jax.library import similarity
from spot_jax.library.entry import SUFFIX, Entry, Stored, decode, encode, is_id
from spot_jax.library.index import Index, LibraryWarning, warn
from spot_jax.library.index_files import list_prompts
from spot_jax.library.ranking import Match, Question, Ranking, rank
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt

__all__ = ["Entry", "Library", "LibraryWarning", "Match", "Ranking"]


class Library:
    """A directory or bucket of prompts, as the module says; the first `add` makes it."""

    def __init__(self, directory: epath.PathLike):
        """Open a library; nothing is read yet.

        Args:
            directory: local path, or URL of a bucket (gs://, s3://).
        """
        self.directory = epath.Path(as_path(directory))
        self._prompts = self.directory / "prompts"
        self._index = Index(self.directory, self._read)

    def add(
        self, prompt: PromptFile, embedding: PromptFile | None = None, tasks: Sequence[str] = ()
    ) -> Entry:
        """Store a prompt; an entry that exists already stays as it is.

        Args:
            prompt: prompt to store, usually a run's best.
            embedding: prompt of the same run at the early step that all of a library share;
                `rank` never returns entries without it.
            tasks: tasks that a mixture consists of; by default what the prompt says, else its task.

        Raises:
            SpotError: not finite, an embedding of another run's kind, or one that is all zero.
        """
        _check(prompt, f"the prompt of {prompt.task or 'an unknown task'}")
        if embedding is not None:
            _check_embedding(prompt, embedding)
        constituents = tuple(tasks) or prompt.tasks or (prompt.task,)
        id, data = encode(prompt, embedding, constituents)
        path = self._path(id)
        if not (path.exists() and path.stat().length == len(data)):
            write_whole(path, data)
        return decode(id, os.fspath(path), data).entry

    def add_run(self, run_dir: str | os.PathLike[str]) -> list[Entry]:
        """Store each prompt of a finished run: the best (without evaluation the last), with its
        task embedding if the run saved one.

        Raises:
            SpotError: no run, one that is not finished, or one that tuned no prompt.
        """
        directory = as_path(run_dir)
        if not (directory / "setup.json").exists():
            raise SpotError(f"no run at {directory}; give the MODEL_DIR of a `spot train`")
        if not (directory / "result.json").exists():
            raise SpotError(
                f"the run in {directory} is not finished; start its `spot train` again, which goes "
                "on, or add one of its files"
            )
        last = {_number(path): path for path in (directory / "prompts").glob("last-*.safetensors")}
        if not last:
            raise SpotError(f"the run in {directory} tuned no prompt; a library holds prompts")
        best = {i: path.parent / f"best-{i}.safetensors" for i, path in last.items()}
        return [self.add_file(best[i] if best[i].exists() else last[i]) for i in sorted(last)]

    def add_file(self, file: str | os.PathLike[str]) -> Entry:
        """Store one prompt file, with the task embedding beside it if it is a run's."""
        path = as_path(file)
        prompt, embedding = load_prompt(path), None
        if re.fullmatch(r"(best|last)-\d+\.safetensors", path.name):
            beside = path.with_name(f"embedding-{_number(path)}.safetensors")
            embedding = load_prompt(beside) if beside.exists() else None
        return self.add(prompt, embedding)

    def entries(self, *, backbone: str | None = None) -> list[Entry]:
        """Return all entries by id; damaged prompts are left out with a `LibraryWarning`.

        Args:
            backbone: fingerprint of a backbone, or its beginning; None for all.

        Raises:
            SpotError: no library.
        """
        self._refresh()
        entries = [e for e in self._index.entries.values() if e.backbone.startswith(backbone or "")]
        whole = []
        for entry in entries:
            if self._is_whole(entry):
                whole.append(entry)
            else:
                warn(f"left out: {entry.path}: damaged or gone; see `spot prompts verify`")
        return whole

    def get(self, id: str) -> Entry:
        """Return the entry of an id, or of the beginning or the end of one.

        Raises:
            SpotError: no library, none or several such entries, or a damaged one.
        """
        return self._stored(self._resolve(id)).entry

    def load(
        self, entry: Entry | str, *, backbone: str | None = None, force: bool = False
    ) -> tuple[PromptFile, PromptFile | None]:
        """Return the prompt and the task embedding of an entry, checked against its hash.

        Args:
            entry: entry, or its id.
            backbone: fingerprint of the backbone it must be for; None to take any.
            force: whether to take a prompt of another backbone all the same.

        Raises:
            SpotError: gone, damaged, or of another backbone.
        """
        stored = self._stored(entry.id if isinstance(entry, Entry) else self._resolve(entry))
        mark = stored.entry.backbone
        if backbone and mark and mark != backbone and not force:
            raise SpotError(
                f"{stored.entry.id} was tuned on another backbone (fingerprint {mark[:12]}, this "
                f"one is {backbone[:12]}); take one of this backbone, or --force it"
            )
        return stored.prompt, stored.embedding

    def remove(self, id: str) -> str:
        """Delete an entry, also a damaged one, and return its id; `SpotError` if there is none
        or several."""
        resolved = self._resolve(id)
        self._path(resolved).unlink(missing_ok=True)
        return resolved

    def verify(self) -> list[str]:
        """Read every file whole and return the problems, a line each; none: all is well.

        What a killed writer left behind is no problem: it has another name and is never read.
        """
        self._require()
        problems = []
        for id in sorted(list_prompts(self._prompts)):
            if not is_id(id):
                problems.append(f"{self._path(id)}: not an entry's name; `spot prompts add` it")
                continue
            try:
                self._read(id)
            except FileNotFoundError:  # removed meanwhile
                continue
            except SpotError as error:
                problems.append(str(error))
        return problems

    def rank(
        self,
        embedding: Float[np.ndarray, "p d"],
        *,
        backbone: str,
        metric: similarity.Metric = "per_token",
        top_k: int | None = None,
        exclude: Collection[str] = (),
        force: bool = False,
    ) -> Ranking:
        """Return the stored prompts whose task embeddings are most like this one.

        Args:
            embedding: prompt of the target at the library's embedding step.
            backbone: fingerprint of the T5 it was tuned on; only prompts of the same are
                ranked, and only those of the same length.
            metric: metric of similarity; see `similarity`.
            top_k: number of prompts; None for all. If there are fewer, all are returned and a note
                says so.
            exclude: tasks, usually the target itself; a prompt that has seen one of them, of any
                size (X_16shot is X), alone or in a mixture or by an ancestor, is left out.
            force: whether to rank prompts of every backbone and length, where widths agree.

        Returns:
            A list of `Match`, best first, with `notes` on what was left out.

        Raises:
            SpotError: no library, an empty one, none of this backbone, nothing left to rank, a
                zero embedding.
        """
        self._refresh()
        question = Question(embedding, backbone, metric, top_k, exclude, force)
        return rank(self._index, os.fspath(self.directory), question, self._is_whole)

    def _path(self, id: str) -> epath.Path:
        return self._prompts / f"{id}{SUFFIX}"

    def _read(self, id: str) -> Stored:
        path = self._path(id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:  # a directory in its place, or not ours to read
            raise SpotError(
                f"{path}: cannot be read ({error.strerror or error}); give it back its rights, or "
                "remove it and add the prompt again"
            ) from error
        return decode(id, os.fspath(path), data)

    def _stored(self, id: str) -> Stored:
        try:
            return self._read(id)
        except FileNotFoundError as error:
            raise SpotError(f"{id} is no longer in the library {self.directory}") from error

    def _is_whole(self, entry: Entry) -> bool:
        # A bucket has whole objects or none, and asking for each would take long.
        if not is_local(self.directory):
            return True
        try:
            return pathlib.Path(entry.path).stat().st_size == entry.size
        except FileNotFoundError:
            return False

    def _require(self) -> None:
        if not self._prompts.exists():
            raise SpotError(
                f"no prompt library at {self.directory}; `spot prompts add RUN_DIR --library "
                f"{self.directory}` makes one"
            )

    def _refresh(self) -> None:
        self._require()
        self._index.refresh()

    def _resolve(self, text: str) -> str:
        self._require()
        ids = list_prompts(self._prompts)
        if text in ids:
            return text
        matching = (
            sorted(id for id in ids if id.startswith(text) or id.endswith(text)) if text else []
        )
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise SpotError(
                f"{text!r} may be any of {len(matching)} entries: {', '.join(matching[:3])}"
                f"{', ...' if matching[3:] else ''}; give more of the id"
            )
        raise SpotError(
            f"no entry {text!r} in {self.directory}; `spot prompts list --library "
            f"{self.directory}` shows what is there"
        )


def _number(path: epath.Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _check(file: PromptFile, name: str) -> None:
    shape = np.shape(file.rows)
    if len(shape) != 2 or 0 in shape:
        raise SpotError(f"{name}: expected [tokens, width], found shape {list(shape)}")
    if not np.all(np.isfinite(file.rows)):
        raise SpotError(f"{name} holds NaN or infinity; add an earlier one")


def _check_embedding(prompt: PromptFile, embedding: PromptFile) -> None:
    name = f"the task embedding of {prompt.task or 'an unknown task'}"
    for what in ("task", "backbone"):
        first, second = getattr(prompt, what), getattr(embedding, what)
        if first and second and first != second:
            raise SpotError(
                f"{name}: its {what} is {second[:40]}, the prompt's {first[:40]}; a prompt and its "
                "embedding come from one run"
            )
    if np.shape(embedding.rows) != np.shape(prompt.rows):
        raise SpotError(
            f"{name} has shape {list(np.shape(embedding.rows))}, the prompt "
            f"{list(np.shape(prompt.rows))}; a prompt and its embedding come from one run"
        )
    if embedding.step < 1:
        raise SpotError(f"{name} must say at which step it was taken, found {embedding.step}")
    for metric in similarity.METRICS:
        similarity.signature(embedding.rows, metric, name=name)
