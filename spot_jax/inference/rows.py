"""Rows of text, each with its own prompt, predicted in few programs and little padding.

Rows whose prompts are virtual tokens alone run together, whatever their labels: their tokens are
ids of one table, their labels a tree each. Other prompts (prefixes, adapters, label decoders) run
each by itself. Within such a group rows are sorted by length and cut into batches of a few shapes,
so that few programs are compiled and a single text is a batch of one.
"""

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.data.batches import InputWriter
from spot_jax.data.examples import cut
from spot_jax.evaluation.evaluate import Search, one_behind, predict, to_host
from spot_jax.evaluation.label_scores import known_labels
from spot_jax.inference.prediction import Prediction
from spot_jax.inference.tuned import Prompt, Tuned
from spot_jax.methods.base import Inference
from spot_jax.t5.label_trees import LabelTrees, label_tree, score_labels, stack_trees
from spot_jax.t5.scoring import label_matrix
from spot_jax.t5.vocabulary import EOS, Vocabulary
from spot_jax.training.run_info import TaskFacts
from spot_jax.training.sharding import BatchPlacement

# Rows of a batch: few numbers, as each is compiled for each width.
ROWS = (1, 8, 64)
SHORTEST = 16
# Nodes of a label tree up to which all labels are scored though only the best is asked for.
FEW_NODES = 32


@dataclasses.dataclass(frozen=True, eq=False)
class ReadyPrompt:
    """A prompt with all that its rows need.

    Attributes:
        prompt: prompt file, or the backbone alone.
        task: facts of its task.
        search: way to predict.
        lengths: lengths of inputs and targets in tokens of text.
        inference: weights and virtual tokens that its rows run with.
        writer: writer of its virtual tokens into a text, as ids from the vocabulary's size.
        labels: labels to choose among; empty for text.
        tree: tokens of the labels; None for text, and for a method that scores labels itself.
        temperature: divisor of the labels' scores before they become probabilities.
        mixes: whether its rows may stand beside those of other prompts.
        scores_all: whether all labels are scored even where only the best is asked for.
    """

    prompt: Prompt
    task: TaskFacts
    search: Search
    lengths: Mapping[str, int]
    inference: Inference
    writer: InputWriter | None
    labels: tuple[str, ...]
    tree: LabelTrees | None
    temperature: float
    mixes: bool
    scores_all: bool = False

    @classmethod
    def of(
        cls,
        tuned: Tuned,
        prompt: Prompt,
        task: TaskFacts,
        search: Search,
        lengths: Mapping[str, int],
        temperature: float = 1.0,
    ) -> "ReadyPrompt":
        """Return a prompt on its backbone.

        Raises:
            SpotError: a prompt that does not fit the backbone, labels alike in their tokens, or
                labels that the method does not know.
        """
        inference = tuned.inference(prompt)
        scorer, labels = inference.scorer, search.labels
        if scorer is not None:
            labels = known_labels(labels, scorer)
        tree = None
        if labels and scorer is None:
            tree = label_tree(label_matrix(tuned.vocabulary, labels))
        return cls(
            prompt,
            task,
            search,
            lengths,
            inference,
            tuned.writer(prompt),
            labels,
            tree,
            temperature,
            scorer is None and inference.params is tuned.backbone.params,
        )

    def among(self, vocabulary: Vocabulary, choices: tuple[str, ...]) -> "ReadyPrompt":
        """Return the prompt for a row that has answers of its own to choose among.

        Raises:
            SpotError: answers alike in their tokens.
        """
        return dataclasses.replace(
            self,
            search=dataclasses.replace(self.search, labels=choices, beams=1),
            labels=choices,
            tree=label_tree(label_matrix(vocabulary, choices)),
            mixes=False,
            scores_all=True,
        )

    def rows(self, vocabulary: Vocabulary, texts: Sequence[str]) -> list["Row"]:
        """Return each text as a row; `SpotError` for one that does not suit the prompt."""
        encoded = vocabulary.encode_all(texts)
        return [self.row(np.array([*ids, EOS], np.int32)) for ids in encoded]

    def row(self, inputs: Int[np.ndarray, " t"]) -> "Row":
        """Return the row of a text's ids, its end included."""
        length, keeps_eos = self.lengths["inputs"], self.task.keeps_eos
        if self.writer is None:
            return Row(self, cut(inputs, length, keeps_eos), len(inputs) > length)
        was_cut = self.writer.text_length(inputs) > length
        return Row(self, self.writer.write(inputs, length, keeps_eos), was_cut)


class Row(NamedTuple):
    """A text as ids, with its prompt's virtual tokens.

    Attributes:
        prompt: prompt to predict with.
        ids: ids of the encoder; those of virtual tokens count from 0 of the prompt's own table.
        was_cut: whether the text was longer than the prompt allows.
    """

    prompt: ReadyPrompt
    ids: Int[np.ndarray, " t"]
    was_cut: bool


class SharedTable(NamedTuple):
    """Virtual tokens of many prompts in one table, which never changes: adding makes another.

    Attributes:
        rows: virtual tokens, of which some may be unused.
        first: number of each prompt's first row.
    """

    rows: Float[Array, "r d"]
    first: Mapping[ReadyPrompt, int]

    @classmethod
    def of(cls, prompts: Iterable[ReadyPrompt], room: int = 1) -> "SharedTable | None":
        """Return the table of all prompts that mix, with a power of two of rows, at least `room`.

        None where no prompt does.
        """
        tables = {p: p.inference.table for p in prompts if p.mixes}
        arrays = [np.asarray(table) for table in tables.values() if table is not None]
        if not arrays:
            return None
        first, start = {}, 0
        for prompt, table in tables.items():
            first[prompt] = start
            start += 0 if table is None else table.shape[0]
        rows = np.zeros((power_of_two(max(start, room)), arrays[0].shape[1]), np.float32)
        rows[:start] = np.concatenate(arrays)
        return cls(jnp.asarray(rows), first)


class _Group(NamedTuple):
    """What rows of one program share beside the shape of their batch."""

    params: Any
    table: Any
    search: Search
    labels: tuple[str, ...]
    scorer: Any
    mode: str
    tree_sizes: tuple[int, int]


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


def width_of(length: int) -> int:
    """Return the width of the rows of a batch: a power of two, or one and a half of one."""
    whole = max(SHORTEST, power_of_two(length))
    between = whole * 3 // 4
    return between if SHORTEST < length <= between else whole


def batch_sizes(rows: int, largest: int, multiple: int = 1) -> list[int]:
    """Return numbers of rows, few different ones, of batches that hold all of `rows`.

    Args:
        rows: number of rows.
        largest: number of rows that a batch has at most.
        multiple: divisor of each batch's rows.
    """
    largest = max(largest, multiple)
    steps = sorted({min(size, largest) for size in ROWS} | {largest})
    steps = sorted({-(-size // multiple) * multiple for size in steps})
    sizes = []
    while rows > 0:
        below = max((size for size in steps if size <= rows), default=steps[0])
        above = min((size for size in steps if size >= rows), default=steps[-1])
        # Little padding in one batch is better than several batches.
        size = above if rows > above // 2 else below
        sizes.append(size)
        rows -= size
    return sizes


def predict_rows(
    tuned: Tuned,
    rows: Sequence[Row],
    *,
    batch_size: int,
    shared: SharedTable | None = None,
    probabilities: bool = True,
) -> list[Prediction]:
    """Predict for every row, in their order.

    Args:
        tuned: backbone and its vocabulary.
        rows: rows of any prompts.
        batch_size: number of rows that a batch has at most.
        shared: table of prompts whose rows may mix; a prompt that is not in it runs by itself.
        probabilities: whether labels get their probabilities, for which all must be scored.
    """
    groups: dict[Hashable, tuple[_Group, list[int]]] = {}
    for number, row in enumerate(rows):
        group = _group_of(row.prompt, shared, probabilities)
        key = (*(id(x) for x in group[:2]), *group[2:])
        groups.setdefault(key, (group, []))[1].append(number)
    results: list[Prediction] = [Prediction("")] * len(rows)
    launched = (
        (batch, group, _launch(tuned, group, [rows[n] for n in batch], width, size, shared))
        for group, numbers in groups.values()
        for batch, width, size in _batches(tuned, rows, numbers, batch_size)
    )
    for numbers, group, output in one_behind(launched):
        predictions = _read(group, [rows[n] for n in numbers], output)
        for number, prediction in zip(numbers, predictions, strict=True):
            results[number] = prediction
    return results


def _group_of(prompt: ReadyPrompt, shared: SharedTable | None, probabilities: bool) -> _Group:
    inference, labels = prompt.inference, prompt.labels
    table = inference.table
    if prompt.mixes and shared is not None and prompt in shared.first:
        table = shared.rows
    search, sizes = prompt.search, tree_sizes_of(prompt)
    if inference.scorer is not None:
        mode = "score"
    elif labels and (probabilities or prompt.scores_all or sizes[0] <= FEW_NODES):
        # The tree says the rest; rows with one of many nodes would slow down the others.
        mode, search, labels = "rank", Search(), ()
    else:
        mode, sizes = "choose" if labels else "write", (0, 0)
    return _Group(inference.params, table, search, labels, inference.scorer, mode, sizes)


def tree_sizes_of(prompt: ReadyPrompt) -> tuple[int, int]:
    """Return the nodes and tokens of a label that a prompt's tree is padded to: few sizes."""
    if prompt.tree is None:
        return 0, 0
    nodes, (_, _, length) = prompt.tree.tokens.shape[1], prompt.tree.targets.shape
    padded = 8
    while padded < nodes:
        padded *= 4
    return padded, max(8, power_of_two(length))


def _batches(
    tuned: Tuned, rows: Sequence[Row], numbers: list[int], batch_size: int
) -> Iterator[tuple[list[int], int, int]]:
    """Yield the numbers of rows of like lengths, the width of their batch and its rows."""
    widths: dict[int, list[int]] = {}
    for number in numbers:
        widths.setdefault(width_of(len(rows[number].ids)), []).append(number)
    for width, same in sorted(widths.items()):
        start = 0
        for size in batch_sizes(len(same), batch_size, tuned.mesh.shape["data"]):
            yield same[start : start + size], width, size
            start += size


def _launch(
    tuned: Tuned,
    group: _Group,
    rows: list[Row],
    width: int,
    size: int,
    shared: SharedTable | None,
) -> Any:
    """Start a batch on the device; text is waited for, as it is read token by token."""
    config = tuned.backbone.config
    tokens = np.zeros((size, width), np.int32)
    for number, row in enumerate(rows):
        ids = row.ids
        if shared is not None and group.table is shared.rows:
            ids = np.where(ids >= config.vocab_size, ids + shared.first[row.prompt], ids)
        tokens[number, : len(ids)] = ids
    valid = np.arange(size) < len(rows)
    batch: dict[str, Any] = {"encoder_input_tokens": tokens, "row_valid": valid}
    if group.mode in ("write", "choose"):
        place = BatchPlacement(tuned.mesh, size)
        host = {name: array[place.host_rows] for name, array in batch.items()}
        return predict(
            group.params,
            config,
            [host],
            tuned.vocabulary,
            table=group.table,
            search=group.search,
            place=place,
        ).texts
    if group.scorer is not None:
        batch = _placed(tuned, batch)
        return _score(group.params, batch, config=config, scorer=group.scorer)
    batch |= _trees_of(group, rows, size)._asdict()
    return _rank(group.params, group.table, _placed(tuned, batch), config=config)


def _trees_of(group: _Group, rows: list[Row], size: int) -> LabelTrees:
    """Return the trees of a batch's rows; labels are no more than nodes."""
    trees = [row.prompt.tree for row in rows if row.prompt.tree is not None]
    trees += [trees[0]] * (size - len(rows))
    nodes, length = group.tree_sizes
    return stack_trees(trees, nodes, nodes, length)


def _placed(tuned: Tuned, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if tuned.mesh.size == 1:
        return dict(batch)  # what is compiled takes it from the host
    place = BatchPlacement(tuned.mesh, len(batch["row_valid"]))
    return place({name: array[place.host_rows] for name, array in batch.items()})


@functools.partial(jax.jit, static_argnames=("config",))
def _rank(params: Any, table: Any, batch: dict[str, Any], *, config: Any) -> Float[Array, "b c"]:
    trees = LabelTrees(*(batch[name] for name in LabelTrees._fields))
    return score_labels(params, config, batch["encoder_input_tokens"], trees, table=table)


@functools.partial(jax.jit, static_argnames=("config", "scorer"))
def _score(params: Any, batch: dict[str, Any], *, config: Any, scorer: Any) -> Float[Array, "b c"]:
    return scorer(params, config, batch)


def _read(group: _Group, rows: list[Row], output: Any) -> list[Prediction]:
    if isinstance(output, list):
        return [Prediction(text) for text in output]
    scores = to_host(output)
    return [_chosen(row.prompt, values) for row, values in zip(rows, scores, strict=False)]


def _chosen(prompt: ReadyPrompt, scores: Float[np.ndarray, " c"]) -> Prediction:
    labels, scorer = prompt.labels, prompt.inference.scorer
    if scorer is not None:
        scores = scores[[scorer.labels.index(label) for label in labels]]
    values = np.asarray(scores[: len(labels)], np.float64)
    if prompt.search.normalise and prompt.tree is not None:
        values = values / np.count_nonzero(prompt.tree.targets[0], axis=1)
    shares = np.exp((values - values.max()) / prompt.temperature)
    shares /= shares.sum()
    best = labels[int(values.argmax())]
    return Prediction(best, dict(zip(labels, map(float, shares), strict=True)))
