"""2,000 damaged files of every form: refused in one line, harmless, and nothing else in our own.

python tests/test_fuzz.py 2000      # prints the counts, and what should not be
"""

import collections
import dataclasses
import json
import shutil
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spot_jax.errors import SpotError

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))

from fuzz_mutations import MUTATIONS  # noqa: E402

SEED = 15


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of files.

    Attributes:
        name: name of the form.
        write: function that writes its files into a new directory.
        read: function from the directory to all that was read, in a form that compares.
        ours: whether it is ours, so that nothing else may be read than was written.
        files: pattern of the files that are damaged.
        weight: share of the mutations, among the others'.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    ours: bool = True
    files: str = "**/*"
    weight: int = 4


def comparable(value: Any) -> Any:
    """Arrays as their bytes, dataclasses as their fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value).__name__, comparable(fields)
    if isinstance(value, dict):
        return {str(key): comparable(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    if hasattr(value, "dtype"):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    return repr(value)


def prompt_form() -> Form:
    from library_cases import make_prompt

    from spot_jax.methods.prompt_forms import load_prompt

    def write(directory: Path) -> None:
        tensors = {"encoder": np.arange(6, dtype=np.float32).reshape(2, 3)}
        ancestry = ({"task": "a", "step": 3, "seed": 0, "file": "x"},)
        prompt = make_prompt(tensors=tensors, method={"name": "PromptTuning"}, ancestry=ancestry)
        prompt.save(directory / "prompt.safetensors")

    return Form("prompt file", write, lambda d: load_prompt(d / "prompt.safetensors"), weight=8)


def subspace_form() -> Form:
    import jax

    from spot_jax.methods.subspace import SubspaceShape
    from spot_jax.methods.subspace_file import SubspaceFile, load_subspace

    shape = SubspaceShape(dim=3, length=4, emb_dim=5, width=7)

    def write(directory: Path) -> None:
        from spot_jax.t5.backbone import unflatten

        draw = np.random.default_rng(0)
        tensors = {n: draw.normal(size=s).astype("f4") for n, s in shape.tensor_shapes().items()}
        tree = unflatten(tensors)
        SubspaceFile(shape, tree["proj"], tree["proj_b"], tasks=("a", "b"), step=7).save(
            directory / "subspace.safetensors"
        )

    def read(directory: Path) -> Any:
        file = load_subspace(directory / "subspace.safetensors")
        return vars(file) | {"proj": jax.tree.map(np.asarray, file.proj)}

    return Form("subspace file", write, read)


def backbone_form(*, old: bool = False) -> Form:
    from tiny_text import store_backbone

    from spot_jax.t5.backbone import flatten, load_backbone
    from spot_jax.t5.vocabulary import Vocabulary

    def write(directory: Path) -> None:
        store_backbone(directory / "b")
        if old:  # as it was written before there were digests
            path = directory / "b" / "backbone.json"
            data = json.loads(path.read_text())
            del data["digest"]
            for entry in data["files"].values():
                del entry["digest"]
            path.write_text(json.dumps(data))

    def read(directory: Path) -> Any:
        backbone = load_backbone(directory / "b")
        vocabulary = Vocabulary(backbone.vocabulary_path or "")
        fields = (backbone.config, backbone.fingerprint, vocabulary.sha256)
        return fields if old else (*fields, backbone.source), dict(flatten(backbone.params))

    return Form("stored backbone" + " without digests" * old, write, read, weight=2 if old else 8)


def library_form() -> Form:
    from library_cases import BACKBONE, fill, make_prompt

    from spot_jax.library.library import Library

    target = make_prompt("boolq").rows

    def write(directory: Path) -> None:
        library = fill(Library(directory / "library"))
        for metric in ("per_token", "average_tokens"):
            library.rank(target, backbone=BACKBONE, metric=metric)

    def read(directory: Path) -> Any:
        library = Library(directory / "library")
        entries = library.entries()
        if len(entries) < 6:
            raise SpotError(f"{directory}: left out with a warning")
        ranks = [
            [
                (match.entry.id, match.similarity)
                for match in library.rank(target, backbone=BACKBONE)
            ]
        ]
        loaded = [library.load(entry) for entry in entries]
        return [{**vars(e), "path": ""} for e in entries], ranks, loaded

    return Form("library", write, read, weight=8)


def run_form() -> Form:
    from spot_jax.training.run_directory import check_same_run
    from spot_jax.training.run_info import RunSetup, TaskFacts, read_setup

    description = {
        "backbone": "ab", "seeds": [0], "lengths": {"inputs": 8}, "dropout_rate": 0.1,
        "method": "PromptTuning", "method_settings": {"length": 5}, "vocabulary": "cd",
    }  # fmt: skip
    setup = RunSetup(
        "b", "float32", None, "PromptTuning", 5, (TaskFacts("t", ("a", "b"), "x"),),
        {"inputs": 8, "targets": 2}, 4, "accuracy", ("my_tasks",),
    )  # fmt: skip

    def write(directory: Path) -> None:
        check_same_run(directory, description)
        setup.save(directory)

    def read(directory: Path) -> Any:
        check_same_run(directory, description)
        # Another place of the backbone is no other content: prompts hold its fingerprint.
        return dataclasses.replace(read_setup(directory), backbone="", text_directory="")

    return Form("run files", write, read, weight=8)


def checkpoint_form() -> Form:
    import jax
    import jax.numpy as jnp

    from spot_jax.training.checkpoints import CheckpointPlan, Checkpoints
    from spot_jax.training.optimizers import Adafactor, build
    from spot_jax.training.step import init_state

    prompt = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32))
    keys = jax.random.split(jax.random.key(5), 1)
    state = init_state({"prompt": prompt}, build(Adafactor(), 1), keys)
    data = {"batches": {"epoch": 2, "index": 7}, "best": [], "last": []}

    def write(directory: Path) -> None:
        saved = Checkpoints(directory / "checkpoints", CheckpointPlan(1))
        saved.save(state, data)
        saved.close()

    def read(directory: Path) -> Any:
        saved = Checkpoints(directory / "checkpoints", CheckpointPlan(1))
        try:
            if saved.newest() is None:
                raise SpotError(f"{directory}: no whole step, which starts anew")
            back, place = saved.restore(state)
        finally:
            saved.close()
        return jax.tree.leaves((back.step, back.trainable, back.opt_state)), place

    return Form("checkpoint", write, read, weight=3)


def study_form() -> Form:
    from synthetic_study import synthetic_study

    from spot_jax.studies.transfer.results import TransferResults

    def write(directory: Path) -> None:
        synthetic_study(3, 2, seeds=1, steps=2).write(directory)

    return Form("study results", write, TransferResults.read)


def feature_form() -> Form:
    from data_cases import Table, feature_examples

    from spot_jax.data.feature_cache import FeatureStore

    def store(directory: Path, rebuild: bool) -> Any:
        store = FeatureStore(
            directory, Table(), shard_bytes=2048, notify=lambda text: None, rebuild=rebuild
        )
        features = store.of("task", "train", feature_examples(count=40), 6)
        return [np.array(features[i]) for i in range(len(features))]

    return Form("feature cache", lambda d: store(d, True), lambda d: store(d, False), weight=6)


def examples_form() -> Form:
    from spot_jax.data.examples import Examples

    def write(directory: Path) -> None:
        pairs = [([3, 4, 5 + i, 1], [6 + i % 2, 1]) for i in range(30)]
        Examples.from_lists(pairs).save(directory / "task-train.npz")

    return Form("examples", write, lambda d: Examples.load(d / "task-train.npz"))


def adapter_form() -> Form:
    from library_cases import make_prompt

    from spot_jax.methods.peft import read_adapter, write_adapter

    return Form(
        "PEFT adapter", lambda d: write_adapter(d / "a", make_prompt()),
        lambda d: read_adapter(d / "a"), ours=False,
    )  # fmt: skip


def numpy_form() -> Form:
    from spot_jax.methods.prompt_forms import load_prompt

    def write(directory: Path) -> None:
        np.save(directory / "prompt.npy", np.ones((3, 4), np.float32))

    return Form("T5X prompt", write, lambda d: load_prompt(d / "prompt.npy"), ours=False)


def vocabulary_form() -> Form:
    from spot_jax.t5.vocabulary import Vocabulary

    def write(directory: Path) -> None:
        shutil.copy(HERE.parent / "tasks" / "mini_spiece.model", directory / "spiece.model")

    def read(directory: Path) -> Any:
        vocabulary = Vocabulary(directory / "spiece.model")
        return vocabulary.size, vocabulary.encode("a film that is a joy")

    return Form("vocabulary", write, read, ours=False, weight=1)


def imported_form(name: str, archive: Path, member: str, weight: int) -> Form:
    from spot_jax.t5.backbone import flatten, load_backbone
    from spot_jax.t5.importing import convert

    def write(directory: Path) -> None:
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if f"/{member}/" in f"/{m.name}/"]
            tar.extractall(directory, members, filter="data")
        (directory / member).rename(directory / "source")

    def read(directory: Path) -> Any:
        source, dest = directory / "source", directory / "dest"
        shutil.rmtree(dest, ignore_errors=True)
        try:
            convert(source, dest)
            backbone = load_backbone(dest)
        finally:
            shutil.rmtree(dest, ignore_errors=True)
        return backbone.config, dict(flatten(backbone.params))

    return Form(name, write, read, ours=False, files="source/**/*", weight=weight)


FORMS: tuple[Callable[[], Form], ...] = (
    *(prompt_form, subspace_form, backbone_form, lambda: backbone_form(old=True), library_form),
    *(run_form, checkpoint_form, study_form, feature_form, examples_form, adapter_form),
    *(numpy_form, vocabulary_form),
    lambda: imported_form(
        "Hugging Face", HERE / "t5/importing/hf_fixtures/hf.tar.xz", "t5_1_1_sharded", 3
    ),
    lambda: imported_form("T5X", HERE / "golden/golden.tar.xz", "ckpt_minimal", 2),
    lambda: imported_form("Orbax", HERE / "golden/golden.tar.xz", "ckpt_prompt_orbax", 2),
)


def outcome_of(form: Form, directory: Path, whole: Any) -> tuple[str, str]:
    """What comes of reading a damaged form: the kind, and what was said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = comparable(form.read(directory))
        except SpotError as error:
            line = str(error)
            bad = "\n" in line or len(line) > 1500
            return ("foreign exception" if bad else "refused"), line[:2000]
        except Exception:
            return "foreign exception", traceback.format_exc()
    return ("harmless", "") if content == whole else ("other content", "")


def fuzz(count: int, seed: int, work: Path) -> tuple[dict[str, collections.Counter], list[str]]:
    """Damage `count` files.

    Returns:
        Counts of outcomes by form, and what should not be, a text each.
    """
    forms = [make() for make in FORMS]
    total = sum(form.weight for form in forms)
    counts, wrong = {}, []
    for number, form in enumerate(forms):
        draw = np.random.default_rng([seed, number])
        whole_directory = work / f"{number}-whole"
        whole_directory.mkdir()
        form.write(whole_directory)
        whole = comparable(form.read(whole_directory))
        files = sorted(p for p in whole_directory.glob(form.files) if p.is_file())
        counts[form.name] = counter = collections.Counter()
        directory = work / f"{number}"
        for attempt in range(max(1, round(count * form.weight / total))):
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(whole_directory, directory)
            path = directory / files[int(draw.integers(len(files)))].relative_to(whole_directory)
            mutation = MUTATIONS[int(draw.integers(len(MUTATIONS)))]
            before = path.read_bytes()
            after = mutation(before, draw)
            path.write_bytes(after)
            kind, text = outcome_of(form, directory, whole)
            counter[kind] += 1
            if kind == "foreign exception" or (kind == "other content" and form.ours):
                place = path.relative_to(directory)
                wrong.append(
                    f"{form.name} {attempt}: {mutation.__name__} of {place}: {kind}\n{text}"
                )
                if len(sys.argv) > 2:
                    shutil.copytree(directory, Path(sys.argv[2]) / f"{number}-{attempt}")
    return counts, wrong


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_2000_damaged_files_are_refused_in_one_line_or_harmless(tmp_path):
    counts, wrong = fuzz(2000, SEED, tmp_path)
    assert sum(sum(counter.values()) for counter in counts.values()) >= 1990
    assert all(counter["refused"] for counter in counts.values())
    assert wrong == []


@pytest.mark.parametrize("make", [prompt_form, run_form])
def test_damaged_files_of_two_forms(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "FORMS", (make,))
    counts, wrong = fuzz(40, SEED, tmp_path)
    assert wrong == [] and all(counter["refused"] > 10 for counter in counts.values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        counts, wrong = fuzz(int(sys.argv[1]), SEED, Path(work))
    for text in wrong:
        print(text)
    for name, counter in counts.items():
        print(f"{name:32} {dict(counter)}")
    print(sum(counts.values(), collections.Counter()), len(wrong), "wrong")
