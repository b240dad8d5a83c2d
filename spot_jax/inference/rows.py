"""Rows of text, each with its own prompt, predicted in few programs and little padding.

Rows whose prompts are virtual tokens alone run together, whatever their labels: their tokens are
ids of one table, their labels a tree each. Other prompts (prefixes, adapters, label decoders) run
each by itself. A single text is a batch of one. Short texts with few labels are packed, several in
a row, whatever their prompts; all others are sorted by length and cut into batches. Either comes to
few shapes, so that few programs are compiled.
"""

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
from spot_jax.t5.label_trees import LabelTrees, label_tree, pack_trees, score_labels
from spot_jax.t5.scoring import label_matrix
from spot_jax.t5.target import Jitted
from spot_jax.t5.vocabulary import EOS, Vocabulary
from spot_jax.training.run_info import TaskFacts
from spot_jax.training.sharding import BatchPlacement

# Rows of a batch: few numbers, as each is compiled for each width.
ROWS = (1, 8, 64)
SHORTEST = 16
# Nodes of a label tree up to which all labels are scored though only the best is asked for, and up
# to which texts are packed.
FEW_NODES = 32
# Tokens of a packed row, rows of a packed batch at most, and texts that are packed together: more
# make the search for a row that has room long.
PACKED_WIDTH = 128
_PACKED_ROWS = 16
_PACKED_TEXTS = 256
# Tokens that take about as long as a program takes whatever its size.
_TOKENS_OF_A_CALL = 48


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


class _Batch(NamedTuple):
    """Texts that run at once.

    Attributes:
        texts: numbers of the texts of each row: one, or several where they are packed.
        width: number of tokens of a row.
        size: number of rows, of which the last may be padding.
        packed: whether texts are packed.
    """

    texts: list[list[int]]
    width: int
    size: int
    packed: bool = False


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


def width_of(length: int) -> int:
    """Return the width of the rows of a batch: a power of two, or one and a half of one."""
    whole = max(SHORTEST, power_of_two(length))
    between = whole * 3 // 4
    return between if SHORTEST < length <= between else whole


def single_width(length: int) -> int:
    """Return the width of a batch of one: up to an eighth more than the length, or 8."""
    step = max(8, power_of_two(length) // 8)
    return max(SHORTEST, -(-length // step) * step)


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


def packed_sizes(rows: int, largest: int) -> list[int]:
    """Return powers of two, of rows of packed batches that hold all of `rows`."""
    sizes = []
    while rows > 0:
        size = power_of_two(min(rows, largest))
        if size > largest or size - rows > size // 8:
            size //= 2
        sizes.append(size)
        rows -= size
    return sizes


def pack(
    lengths: Sequence[int], nodes: Sequence[int], width: int, most_nodes: int
) -> list[list[int]]:
    """Return the numbers of the texts of each packed row: the longest first, where it still fits.

    Args:
        lengths: tokens of each text, at most `width`.
        nodes: nodes of each text's label tree, at most `most_nodes`.
        width: number of tokens of a row.
        most_nodes: number of nodes of a row.
    """
    packed: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        length, count = lengths[number], nodes[number]
        for row, (tokens, more) in enumerate(room):
            if length <= tokens and count <= more:
                packed[row].append(number)
                room[row] = tokens - length, more - count
                break
        else:
            packed.append([number])
            room.append((width - length, most_nodes - count))
    return packed


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
        (batch, group, _launch(tuned, group, rows, batch, shared))
        for group, numbers in groups.values()
        for batch in _batches(tuned, group, rows, numbers, batch_size)
    )
    for batch, group, output in one_behind(launched):
        for number, prediction in _read(group, rows, batch, output):
            results[number] = prediction
    return results


def compile_rows(
    tuned: Tuned, prompt: ReadyPrompt, *, batch_size: int, shared: SharedTable | None = None
) -> int:
    """Run a batch of every shape that texts of a prompt come to; return their number.

    Arguments as of `predict_rows`.
    """
    group = _group_of(prompt, shared, True)
    room = 0 if prompt.writer is None else prompt.writer.room
    shortest, longest = room + 2, prompt.lengths["inputs"] + room
    row = Row(prompt, np.full(shortest, 3, np.int32), False)
    packs, multiple = _packs(tuned, group), tuned.mesh.shape["data"]
    lengths = range(shortest, longest + 1)
    sizes = {-(-min(size, batch_size) // multiple) * multiple for size in ROWS}
    alone = [n for n in lengths if n > PACKED_WIDTH or not packs]
    shapes = {(width_of(n), size) for n in alone for size in sizes}
    if packs:
        shapes |= {(single_width(n), 1) for n in lengths}
    batches = [_Batch([[0]] * size, width, size) for width, size in sorted(shapes)]
    if packs and shortest <= PACKED_WIDTH:
        powers = range(_packed_rows(batch_size).bit_length())
        batches += [_Batch([[0]] * 2**i, PACKED_WIDTH, 2**i, True) for i in powers]
    for batch in batches:
        for _ in _read(group, [row], batch, _launch(tuned, group, [row], batch, shared)):
            pass
    return len(batches)


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


def alone_sizes_of(prompt: ReadyPrompt) -> tuple[int, int]:
    """Return the nodes and tokens of a label that a tree is padded to where a text is by itself."""
    if prompt.tree is None:
        return 0, 0
    _, labels, length = prompt.tree.targets.shape
    return max(4, power_of_two(max(_nodes(prompt), labels))), power_of_two(length)


def _packs(tuned: Tuned, group: _Group) -> bool:
    """Whether texts of a group may share a row: nothing but their tokens belongs to them alone."""
    plain = group.params is tuned.backbone.params and tuned.mesh.size == 1
    return plain and group.mode == "rank" and group.tree_sizes[0] <= FEW_NODES


def _packed_rows(batch_size: int) -> int:
    """Return the rows of a packed batch at most, a power of two."""
    return 1 << (min(batch_size, _PACKED_ROWS).bit_length() - 1)


def _batches(
    tuned: Tuned, group: _Group, rows: Sequence[Row], numbers: list[int], batch_size: int
) -> list[_Batch]:
    """Return batches of a group's rows: packed, or of like lengths, whichever is less."""
    alone = _by_length(tuned, rows, numbers, batch_size)
    if not _packs(tuned, group):
        return alone
    if len(numbers) == 1:
        return [_Batch([numbers], single_width(len(rows[numbers[0]].ids)), 1)]
    short = [number for number in numbers if len(rows[number].ids) <= PACKED_WIDTH]
    long = [number for number in numbers if len(rows[number].ids) > PACKED_WIDTH]
    packed = _by_length(tuned, rows, long, batch_size) + _packed(group, rows, short, batch_size)
    return min(alone, packed, key=_cost)


def _cost(batches: Sequence[_Batch]) -> int:
    return sum(batch.width * batch.size + _TOKENS_OF_A_CALL for batch in batches)


def _packed(
    group: _Group, rows: Sequence[Row], numbers: list[int], batch_size: int
) -> list[_Batch]:
    packed: list[list[int]] = []
    for start in range(0, len(numbers), _PACKED_TEXTS):
        some = numbers[start : start + _PACKED_TEXTS]
        lengths = [len(rows[number].ids) for number in some]
        nodes = [_nodes(rows[number].prompt) for number in some]
        places = pack(lengths, nodes, PACKED_WIDTH, _packed_nodes(group))
        packed += [[some[place] for place in row] for row in places]
    batches, start = [], 0
    for size in packed_sizes(len(packed), _packed_rows(batch_size)):
        batches.append(_Batch(packed[start : start + size], PACKED_WIDTH, size, True))
        start += size
    return batches


def _by_length(
    tuned: Tuned, rows: Sequence[Row], numbers: list[int], batch_size: int
) -> list[_Batch]:
    """Return batches of rows of like lengths, one text a row."""
    widths: dict[int, list[int]] = {}
    for number in numbers:
        widths.setdefault(width_of(len(rows[number].ids)), []).append(number)
    batches = []
    for width, same in sorted(widths.items()):
        start = 0
        for size in batch_sizes(len(same), batch_size, tuned.mesh.shape["data"]):
            some = same[start : start + size]
            batches.append(_Batch([[number] for number in some], width, size))
            start += size
    return batches


def _launch(
    tuned: Tuned,
    group: _Group,
    rows: Sequence[Row],
    batch: _Batch,
    shared: SharedTable | None,
) -> Any:
    """Start a batch on the device; text is waited for, as it is read token by token."""
    config, size = tuned.backbone.config, batch.size
    tokens = np.zeros((size, batch.width), np.int32)
    segments = np.zeros_like(tokens)
    for row, numbers in enumerate(batch.texts):
        start = 0
        for segment, number in enumerate(numbers, start=1):
            ids = rows[number].ids
            if shared is not None and group.table is shared.rows:
                first = shared.first[rows[number].prompt]
                ids = np.where(ids >= config.vocab_size, ids + first, ids)
            here = slice(start, start := start + len(ids))
            tokens[row, here], segments[row, here] = ids, segment
    valid = np.arange(size) < len(batch.texts)
    arrays: dict[str, Any] = {"encoder_input_tokens": tokens, "row_valid": valid}
    if group.mode in ("write", "choose"):
        place = BatchPlacement(tuned.mesh, size)
        host = {name: array[place.host_rows] for name, array in arrays.items()}
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
        arrays = _placed(tuned, arrays)
        return _score(group.params, arrays, config=config, scorer=group.scorer)
    if batch.packed:
        arrays["encoder_segment_ids"] = segments
    arrays |= _trees_of(group, rows, batch)._asdict()
    return _rank(group.params, group.table, _placed(tuned, arrays), config=config)


def _packed_nodes(group: _Group) -> int:
    """Return the nodes of a packed row: a few small trees, or one and a half of the largest."""
    return group.tree_sizes[0] * 3 // 2


def _nodes(prompt: ReadyPrompt) -> int:
    return 0 if prompt.tree is None else prompt.tree.tokens.shape[1]


def _trees_of(group: _Group, rows: Sequence[Row], batch: _Batch) -> LabelTrees:
    """Return the trees of a batch's texts; labels are no more than nodes."""
    trees: list[list[LabelTrees]] = [[] for _ in range(batch.size)]
    for row, numbers in zip(trees, batch.texts, strict=False):
        row += [tree for n in numbers if (tree := rows[n].prompt.tree) is not None]
    nodes, length = group.tree_sizes
    if batch.packed:
        nodes = _packed_nodes(group)
    elif batch.size == 1:
        nodes, length = alone_sizes_of(rows[batch.texts[0][0]].prompt)
    return pack_trees(trees, nodes, nodes, length)


def _placed(tuned: Tuned, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if tuned.mesh.size == 1:
        return dict(batch)  # what is compiled takes it from the host
    place = BatchPlacement(tuned.mesh, len(batch["row_valid"]))
    return place({name: array[place.host_rows] for name, array in batch.items()})


@functools.partial(Jitted, static_argnames=("config",))
def _rank(params: Any, table: Any, batch: dict[str, Any], *, config: Any) -> Float[Array, "b c"]:
    trees = LabelTrees(*(batch[name] for name in LabelTrees._fields))
    tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    return score_labels(params, config, tokens, trees, table=table, segment_ids=segments)


@functools.partial(Jitted, static_argnames=("config", "scorer"))
def _score(params: Any, batch: dict[str, Any], *, config: Any, scorer: Any) -> Float[Array, "b c"]:
    return scorer(params, config, batch)


def _read(
    group: _Group, rows: Sequence[Row], batch: _Batch, output: Any
) -> Iterator[tuple[int, Prediction]]:
    """Yield the number of each text of a batch with its prediction."""
    if isinstance(output, list):
        for (number,), text in zip(batch.texts, output, strict=False):
            yield number, Prediction(text)
        return
    for numbers, scores in zip(batch.texts, to_host(output), strict=False):
        start = 0
        for number in numbers:
            prompt = rows[number].prompt
            yield number, _chosen(prompt, scores[start:])
            start += len(prompt.labels)


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
