"""What `spot tasks check` finds: whether a task's data is on this machine and as it should be."""

import dataclasses
from collections.abc import Callable, Iterable

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import load_vocabulary
from tasks.bundled import reading
from tasks.papers import crossfit_sets, data_files, fewglue_sets, lama_sets, sizes
from tasks.papers.catalogue import BY_NAME, base_of
from tasks.papers.data_files import VARIABLE
from tasks.papers.proportions import mixtures
from tasks.papers.rows_files import LAYOUTS


@dataclasses.dataclass(frozen=True)
class Finding:
    """Problems of one task on this machine.

    Attributes:
        name: name of the task.
        problems: lines that each say what is wrong and what to do; none when all is well.
        expects: place where its data belongs, in a line.
    """

    name: str
    problems: tuple[str, ...]
    expects: str


def check(name: str) -> list[Finding]:
    """Return what was found of a task, or of each task of a mixture.

    Every line of a set in files is read. Raises `SpotError` for a name that nothing has.
    """
    if name in mixtures():
        return [finding for task in mixtures()[name] for finding in check(task)]
    base = base_of(name)
    few = crossfit_sets.find(name)
    relation = name.removeprefix("lama_").removesuffix("_ptuning")
    if base in LAYOUTS:
        return [_of_files(name, base)]
    if base in BY_NAME:
        # Only now: this imports TensorFlow.
        loading.import_modules(())
        from tasks.papers.tfds_source import problems

        return [Finding(name, tuple(problems(BY_NAME[base])), f"TFDS: {BY_NAME[base].location}")]
    if few is not None:
        return [_of_crossfit(name, *few)]
    if name.startswith("lama_") and relation in lama_sets.RELATIONS:
        return [_of_lama(name, relation)]
    few_glue = base.removeprefix(fewglue_sets.PREFIX)
    if base != few_glue and few_glue in fewglue_sets.SETS:
        return [_of_fewglue(name, few_glue)]
    base_name = name.removeprefix("bundled_")
    if name != base_name and reading.whole(base_name) in reading.SETS:
        problems_ = _of_splits(reading.SPLITS, lambda split: reading.rows(base_name, split))
        return [Finding(name, problems_, "in the package")]
    return _of_registered(name)


def _of_splits(splits: Iterable[str], read: Callable[[str], object]) -> tuple[str, ...]:
    """Read each split; return what was wrong or what `read` complains of, each line once."""
    lines = []
    for split in splits:
        try:
            problem = read(split)
        except SpotError as error:
            problem = str(error)
        if isinstance(problem, str):
            lines.append(problem)
    return tuple(dict.fromkeys(lines))


def _of_files(name: str, base: str) -> Finding:
    layout = LAYOUTS[base]

    def read(split: str) -> str | None:
        return sizes.difference(name, split, examples=len(data_files.read(layout, split)))

    return Finding(name, _of_splits(layout.splits, read), f"${VARIABLE}/{layout.describe()}")


def _of_crossfit(name: str, task: crossfit_sets.FewShotTask, sample: int) -> Finding:
    problems = _of_splits(
        crossfit_sets.STEMS, lambda split: crossfit_sets.read(task, sample, split)
    )
    path = f"crossfit/{task.title}/{task.title}_{task.k}_{sample}_{{train,dev,test}}.tsv"
    return Finding(name, problems, f"${VARIABLE}/{path}: input, tab, answer, tab, another answer")


def _of_fewglue(name: str, base: str) -> Finding:
    problems = _of_splits(fewglue_sets.STEMS, lambda split: fewglue_sets.read(base, split))
    folder = f"${VARIABLE}/{fewglue_sets.DIRECTORY}/{fewglue_sets.SETS[base][0]}"
    return Finding(name, problems, f"{folder}/{{train,dev32,val}}.jsonl: SuperGLUE's own JSON")


def _of_lama(name: str, relation: str) -> Finding:
    def read(split: str) -> None:
        lama_sets.template_of(relation)
        lama_sets.read(relation, split)

    folder = f"${VARIABLE}/{lama_sets.DIRECTORY}"
    return Finding(
        name,
        _of_splits(lama_sets.STEMS, read),
        f"{folder}/single_relations/{relation}.jsonl with template; {folder}/fact-retrieval/"
        f"original/{relation}/{{train,dev,test}}.jsonl with sub_label, obj_label",
    )


def _of_registered(name: str) -> list[Finding]:
    """Check a user's own task by reading its first examples; of a mixture every task."""
    loading.import_modules(())
    from spot_jax.data import seqio_registry
    from tasks.t5_features import VOCABULARY

    tasks = [task.name for task in seqio_registry.tasks_of(name)]
    if tasks != [name]:
        return [result for task in tasks for result in check(task)]
    vocabulary = load_vocabulary(VOCABULARY.sentencepiece_model_file)
    lengths = {"inputs": 512, "targets": 114}

    def read(split: str) -> None:
        loading.load_examples(name, split, vocabulary, limit=1, lengths=lengths)

    result = _of_splits(seqio_registry.splits(name), read)
    return [Finding(name, result, "what its source reads")]
