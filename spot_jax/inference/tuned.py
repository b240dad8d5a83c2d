"""A backbone and the prompts to run it with, from a run directory or from files."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from spot_jax.data import loading
from spot_jax.data.batches import Batch, BatchShape, InputWriter, evaluation_batches
from spot_jax.data.examples import Examples
from spot_jax.data.virtual_tokens import input_writer
from spot_jax.errors import SpotError
from spot_jax.files import as_path, fault_text, read_object, reading
from spot_jax.methods.base import Inference
from spot_jax.methods.prompt_file import PromptFile, parse_prompt
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_use import PromptUse
from spot_jax.methods.stored import ensemble_of, inference_of, virtual_tokens
from spot_jax.metrics import mean_of_metrics
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.int8 import INT8
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.config import StoredBackbone
from spot_jax.training.run_info import RunSetup, TaskFacts, read_setup
from spot_jax.training.sharding import BatchPlacement, MeshShape, make_mesh, replicated

Path_ = str | os.PathLike[str]
OURS = ("spot_jax", "tasks")
"""Packages whose modules a run may name, as they are ours."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt file that was read; without a file, the backbone alone.

    Attributes:
        name: name of the prompt in results.
        file: contents of the file.
    """

    name: str
    file: PromptFile | None = None

    @property
    def length(self) -> int:
        """Virtual tokens, P."""
        return 0 if self.file is None else virtual_tokens(self.file)[0]

    @property
    def placement(self) -> str:
        """Where they stand."""
        return "before" if self.file is None else virtual_tokens(self.file)[1]

    @property
    def task(self) -> str:
        """The task it was tuned on, "" if unknown (T5X's files do not say)."""
        return self.file.task if self.file is not None and self.file.backbone else ""

    @property
    def use(self) -> PromptUse:
        """What its file says of its use; all defaults where it says nothing."""
        return PromptUse() if self.file is None else self.file.use

    @property
    def facts(self) -> TaskFacts:
        """What its file says of its task."""
        use = self.use
        return TaskFacts(self.task, use.labels, use.template or self.form, use.keeps_eos)

    @property
    def form(self) -> str | None:
        """How its task's fields are written around its virtual tokens, where the file says so."""
        return None if self.file is None else self.file.method.get("form")

    @property
    def score(self) -> float:
        """The validation score it was stored with; minus infinity if unknown."""
        metrics = {} if self.file is None else dict(self.file.metrics)
        metrics.pop("loss", None)
        return metrics.get("score", mean_of_metrics(metrics) if metrics else float("-inf"))


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Everything that predictions need, on the mesh.

    Attributes:
        backbone: the model.
        vocabulary: vocabulary of the model.
        mesh: devices that the model lies on.
        prompts: prompts to run the model with; at least one, which may be no prompt at all.
        setup: facts about the run that was opened, if it was one.
        from_run: whether the prompts are those of the run.
        allow_modules: whether modules that the run names may be imported.
    """

    backbone: Backbone
    vocabulary: Vocabulary
    mesh: Mesh
    prompts: tuple[Prompt, ...]
    setup: RunSetup | None = None
    from_run: bool = False
    allow_modules: bool = False

    def inference(self, prompt: Prompt) -> Inference:
        """Return what predictions with a prompt run with; the bare backbone without a file."""
        if prompt.file is None:
            return Inference(self.backbone.params)
        return inference_of(self.backbone.params, self.backbone.config, prompt.file)

    def ensemble(self, prompts: Sequence[Prompt], examples: int) -> Inference:
        """Return what several prompts run with at once.

        A batch has `examples` rows times prompts.

        Raises:
            SpotError: prompts without a file.
        """
        files = [prompt.file for prompt in prompts if prompt.file is not None]
        if not files:
            raise SpotError(
                "an ensemble is of prompts, the backbone alone has none; add --prompt FILE"
            )
        backbone = self.backbone
        inference = ensemble_of(backbone.params, backbone.config, files, examples)
        if inference.table is None:
            return inference
        return inference._replace(table=jax.device_put(inference.table, replicated(self.mesh)))

    def register_tasks(self) -> None:
        """Make the prompts' tasks readable by name, those of a run's modules and templates too.

        Raises:
            SpotError: a run that names modules, without leave to import them.
        """
        setup = self.setup
        if setup is not None:
            loading.restore_tables(setup.tables)
            if setup.modules:
                _check_trust(setup.modules, self.allow_modules)
                loading.import_modules(setup.modules)
            if setup.text_directory:
                loading.register_text(setup.text_directory)
            for facts in setup.tasks:
                loading.again_in_template(facts.name, facts.template)
        for prompt in self.prompts:
            loading.again_in_template(prompt.task, prompt.form)

    def writer(self, prompt: Prompt) -> InputWriter | None:
        """Return what writes a prompt's virtual tokens into inputs, as the table's only prompt."""
        size, placement = self.backbone.config.vocab_size, prompt.placement
        return input_writer(size, prompt.length, placement=placement, vocabulary=self.vocabulary)

    def batches(
        self,
        examples: Examples,
        shape: BatchShape,
        prompt: Prompt,
        members: int = 1,
        candidates: np.ndarray | None = None,
    ) -> tuple[Iterator[Batch], Callable[..., dict[str, jax.Array]]]:
        """Return padded batches with a prompt's virtual tokens, and a function that places them.

        Args:
            examples: tokens of the examples.
            shape: rows and lengths in tokens of text.
            prompt: prompt of the virtual tokens; any of those that are stacked in one table.
            members: number of times that each row will be repeated.
            candidates: tokens of each example's choices; None without.
        """
        write = self.writer(prompt)
        rows = BatchPlacement(self.mesh, shape.batch_size).host_rows
        batches = evaluation_batches(examples, shape, write, host_rows=rows, candidates=candidates)
        return batches, BatchPlacement(self.mesh, shape.batch_size * members)


def _check_trust(modules: Sequence[str], allowed: bool) -> None:
    """Raise `SpotError` for a module whose code would run because a run's directory names it."""
    for module in modules:
        ours = module.split(".")[0] in OURS
        if not (allowed or ours or module in sys.modules):
            raise SpotError(
                f"the run names the Python module {module}, whose code would run; name it "
                f"yourself (--module {module}), or add --allow_modules_of_run if you trust whoever "
                "made the run"
            )


def open_tuned(
    run_dir: Path_ | None = None,
    *,
    backbone: Path_ | None = None,
    prompts: Sequence[Path_] = (),
    which: str = "best",
    mesh: MeshShape | None = None,
    allow_modules: bool = False,
) -> Tuned:
    """Load a backbone and prompts.

    Args:
        run_dir: run directory of `train`: its prompts on its backbone, or the weights it tuned.
        backbone: path of a stored backbone, without a run or instead of the run's where that has
            moved.
        prompts: paths of prompt files, instead of the run's.
        which: "best" by validation (the last ones where nothing was evaluated), or "last".
        mesh: arrangement of devices; one device by default.
        allow_modules: whether Python modules that the run names are imported where its tasks are
            read, which runs their code; what is imported already, and ours, needs no leave.

    Raises:
        SpotError: no run, no prompt in it yet, no backbone, or a prompt of another backbone.
    """
    if run_dir is None and backbone is None:
        raise SpotError("expected a run directory, or --backbone DIR with --prompt FILE")
    setup = None if run_dir is None else read_setup(run_dir)
    from_run = setup is not None and not prompts
    if from_run:
        prompts = run_prompts(as_path(run_dir or ""), setup, which)
    where = backbone or _run_backbone(as_path(run_dir or ""), setup)
    built = make_mesh(mesh or MeshShape(data=1, model=1))
    loaded = _load(str(where), setup, built)
    if loaded.vocabulary_path is None:
        raise SpotError(f"the backbone {where} has no vocabulary; convert it with one")
    vocabulary = Vocabulary(loaded.vocabulary_path)
    read = tuple(read_on(path, loaded, vocabulary) for path in prompts)
    if from_run and setup is not None:
        _check_of_run(read, setup)
    some = read or (Prompt("no prompt"),)
    return Tuned(loaded, vocabulary, built, some, setup, from_run, allow_modules)


def _check_of_run(prompts: Sequence[Prompt], setup: RunSetup) -> None:
    """Raise `SpotError` for a file in a run's prompts that says another task than the run."""
    for prompt, facts in zip(prompts, setup.tasks, strict=False):
        if prompt.task not in ("", facts.name):
            raise SpotError(
                f"{prompt.name}: a prompt of {prompt.task}, but the run's is of {facts.name}; "
                "restore the run's own, or give this one with --prompt FILE"
            )


def run_prompts(directory: epath.Path, setup: RunSetup | None, which: str) -> list[epath.Path]:
    """Return the paths of a run's prompts; none where it tunes the weights.

    Raises:
        SpotError: another `which` than "best" and "last", or a run without its prompts yet.
    """
    if which not in ("best", "last"):
        raise SpotError(f"expected 'best' or 'last', found {which!r}")
    if setup is None or (setup.tunes_backbone and not setup.prompt_length):
        return []
    paths = []
    for i in range(len(setup.tasks)):
        best, last = (directory / "prompts" / f"{w}-{i}.safetensors" for w in ("best", "last"))
        path = best if which == "best" and best.exists() else last
        if setup.tunes_backbone and best.exists():
            path = best  # the only one whose weights are stored
        if which == "best" and path == last and last.exists():
            _check_none_best(directory, i)
        if not path.exists():
            other = "; --which best has one already" if best.exists() else ""
            raise SpotError(
                f"the run in {directory} is not finished and has no {which} prompt {i} yet{other}; "
                "start its `spot train` again, which goes on, or give --prompt FILE"
            )
        paths.append(path)
    return paths


def _check_none_best(directory: epath.Path, i: int) -> None:
    """Raise `SpotError` if a finished run had a best prompt i, whose file is gone."""
    path = directory / "result.json"
    result = read_object(path, "remove it, or start the run's `spot train` again") or {}
    with reading(path, "remove it, or start the run's `spot train` again"):
        if result and int(result["best"][i]["step"]) >= 0:
            raise SpotError(
                f"{directory / 'prompts'}: best-{i}.safetensors is gone, which was the best by "
                "validation; restore it, or take the last one with --which last"
            )


def _run_backbone(directory: epath.Path, setup: RunSetup | None) -> Path_:
    if setup is not None and setup.tunes_backbone:
        if not (directory / "backbone" / "backbone.json").exists():
            raise SpotError(
                f"the run in {directory} tunes the weights and is not finished, so it has none "
                "yet; start its `spot train` again, which goes on"
            )
        return directory / "backbone"
    path = None if setup is None else setup.backbone
    if path is None:
        raise SpotError(
            f"the run in {directory} had random weights, which are not stored; give --backbone DIR"
        )
    if not (as_path(path) / "backbone.json").exists():
        raise SpotError(
            f"the backbone of {directory} is no longer at {path}; give its place: --backbone DIR"
        )
    return path


def _load(path: str, setup: RunSetup | None, mesh: Mesh) -> Backbone:
    source = StoredBackbone(path, "float32", dropout_rate=0.0, scan_layers=False, remat=False)
    if setup is not None:
        # Weights that a run tuned are stored as they were in memory.
        stored = None if setup.tunes_backbone else setup.parameter_dtype
        source = dataclasses.replace(source, dtype=setup.dtype, parameter_dtype=stored)
    if jax.default_backend() == "cpu" and source.parameter_dtype is None:
        # A CPU would convert narrower weights again for every batch, which takes as long as a text.
        # Stored integers stay what they were tuned with: they are for what has too little memory.
        if source.description().dtype == INT8:
            return source.load(mesh)
        source = dataclasses.replace(source, parameter_dtype=source.dtype)
    return source.load(mesh)


def read_on(
    path: Path_, backbone: Backbone, vocabulary: Vocabulary, data: bytes | None = None
) -> Prompt:
    """Return a prompt that is known to fit a backbone.

    Args:
        path: path of the file, which names the prompt.
        backbone: backbone to use it on.
        vocabulary: vocabulary of the backbone.
        data: bytes of the file; None to read them.

    Raises:
        SpotError: no prompt file, or one of another backbone, vocabulary or unknown method.
    """
    if data is None:
        file = load_prompt(path, backbone=backbone.fingerprint)
    else:
        file = parse_prompt(data, path, backbone=backbone.fingerprint)
    if file.vocabulary not in ("", vocabulary.sha256):
        raise SpotError(
            f"{path}: this prompt was tuned with another vocabulary (sha256 "
            f"{file.vocabulary[:12]}, the backbone's is {vocabulary.sha256[:12]}); load the "
            "backbone with the vocabulary it was converted with"
        )
    try:
        inference_of(backbone.params, backbone.config, file)
    except SpotError as error:
        raise SpotError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Of files without a digest alone: those of earlier versions and of others.
        raise SpotError(
            f"{path}: damaged, or of a method that writes other files ({fault_text(error)}); take "
            "another copy"
        ) from error
    return Prompt(os.fspath(path), file)
