"""What `mini` learns from, as arrays on the device: texts, phrases, and which goes with which."""

import json
import lzma
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import UNK, Vocabulary
from tools.mini import teacher, wordings
from tools.mini.command import check_files
from tools.mini.vectors import centred, nearest, word_vectors

TEXT, PHRASE, HEAD = 104, 8, 6
"""Most pieces of a text, of a phrase and of a headword."""
NEIGHBOURS, TEXTS_OF = 128, 192
MOST_VALUES = 150
PIECES = 8000
FILES = (
    "texts.tsv", "phrases.txt", "values.json", "attributes.npz", "teacher.npz",
    "teacher_tokenizer.json",
)  # fmt: skip
"""What `tools.mini.prepare` writes and `read` needs."""
REMEDY = "run tools.mini.prepare, whose DEST this is"


class Corpus(NamedTuple):
    """Arrays, all on the device; N texts, M phrases, J attributes, V pieces.

    Attributes:
        text: Pieces, 0 for padding, int32 [N, TEXT].
        vector: Teacher's vectors less their mean, length 1, bfloat16 (float32 on a CPU) [N, 384].
        after: Next segment of the same paragraph, -1 for none, int32 [N].
        pair, near: Texts that pairs begin with, int32 [Q], and their nearest texts [Q, 8].
        phrase: Pieces, int32 [M, PHRASE].
        phrase_vector: As `vector`, [M, 384].
        texts_of: Texts nearest to each phrase, int32 [M, TEXTS_OF].
        phrase_near: Topics nearest to each phrase, a topic itself first, int32 [M, NEIGHBOURS].
        topics: Number of phrases that are topics; the rest are names of attributes' values.
        members, start, count: Texts by attribute and value: `members[start[j, v] + i]`.
        names: Phrase that names a value, int32 [J, VARIANTS, MOST_VALUES].
        values: Number of values of each attribute, int32 [J].
        chance: Share of the questions that are about each attribute, float32 [J].
        head, head_genus: Words [G, HEAD] and the phrase of what each is a kind of [G].
        pair_names: Phrases of no and yes by question and wording, int32 [5, 3, 2].
        answers: Phrases of no and yes for any question, int32 [4, 2].
        piece_near: Eight near pieces of each piece, int32 [V, 8].
    """

    text: Int[Array, "n t"]
    vector: Float[Array, "n w"]
    after: Int[Array, " n"]
    pair: Int[Array, " q"]
    near: Int[Array, "q 8"]
    phrase: Int[Array, "m p"]
    phrase_vector: Float[Array, "m w"]
    texts_of: Int[Array, "m k"]
    phrase_near: Int[Array, "m k"]
    topics: Int[Array, ""]
    members: Int[Array, " a"]
    start: Int[Array, "j v"]
    count: Int[Array, "j v"]  # type: ignore[assignment]
    names: Int[Array, "j k v"]
    values: Int[Array, " j"]
    chance: Float[Array, " j"]
    head: Int[Array, "g h"]
    head_genus: Int[Array, " g"]
    pair_names: Int[Array, "5 3 2"]
    answers: Int[Array, "4 2"]
    piece_near: Int[Array, "v 8"]


class Prepared(NamedTuple):
    """The files of `tools.mini.prepare` that say something of the texts.

    Attributes:
        sources, paragraphs, texts: Columns of `texts.tsv`, a text a place.
        topics: Phrases that texts can be about.
        values: Names of each attribute's values, by attribute.
        table: Number of each text's value by attribute, -1 for none, int16 [N].
    """

    sources: Sequence[str]
    paragraphs: Sequence[str]
    texts: Sequence[str]
    topics: list[str]
    values: dict[str, list[str]]
    table: dict[str, np.ndarray]


class Vectors(NamedTuple):
    """The teacher's vectors, float16, of texts, of phrases and of the vocabulary's pieces."""

    texts: Float[np.ndarray, "n w"]
    phrases: Float[np.ndarray, "m w"]
    pieces: Float[np.ndarray, "p w"]


class Phrases:
    """A numbered list of phrases that grows by those that are asked for."""

    def __init__(self, phrases: Sequence[str]):
        self.texts = list(phrases)
        self._number = {phrase: i for i, phrase in enumerate(self.texts)}

    def number(self, text: str) -> int:
        """Return the number of a phrase, a new one for a new phrase."""
        if text not in self._number:
            self._number[text] = len(self.texts)
            self.texts.append(text)
        return self._number[text]


def read_text(path: Path) -> str:
    """Return the text of a file, or of the same file compressed."""
    if path.is_file():
        return path.read_text(encoding="utf-8")
    with lzma.open(f"{path}.xz", "rt", encoding="utf-8") as file:
        return file.read()


def padded(lists: Sequence[Sequence[int]], width: int) -> Int[np.ndarray, "n w"]:
    """Return the lists as rows, cut at `width` or filled up with 0, int32."""
    table = np.zeros((len(lists), width), np.int32)
    for row, ids in zip(table, lists, strict=True):
        row[: min(len(ids), width)] = ids[:width]
    return table


def read(
    directory: Path,
    vocabulary: Vocabulary,
    shape: tuple[int, int],
    most: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Corpus, Float[np.ndarray, "v d"]]:
    """Return the corpus, and first embeddings of `shape`.

    Raises `SpotError` for files that are missing or do not fit together, for another vocabulary
    than mini's, and for texts of which the vocabulary knows no piece.

    Args:
        directory: Directory that `tools.mini.prepare` wrote.
        vocabulary: mini's vocabulary.
        shape: Rows and width of the embedding table.
        most: Number of texts, for a trial; None for all.
        say: Function that reports progress, a line at a time.
    """
    check_files(directory, FILES, REMEDY)
    if vocabulary.pieces != PIECES:
        raise SpotError(
            f"expected a vocabulary of {PIECES} pieces, found {vocabulary.pieces} in "
            f"{vocabulary.path}; use tasks/mini_spiece.model"
        )
    tensors = teacher.read(directory / "teacher.npz")
    prepared = read_prepared(directory, most)
    phrases = Phrases(prepared.topics)
    arrays = question_arrays(prepared, phrases, trial=most is not None)
    say(f"{len(prepared.texts):,} texts, {len(phrases.texts):,} phrases")
    pieces, vectors = read_words(
        prepared.texts, phrases.texts, vocabulary, tensors, directory / FILES[-1], say
    )
    arrays |= text_arrays(prepared, padded(pieces, TEXT), vectors)
    heads, genus = headwords(prepared, arrays["names"])
    arrays |= {
        "phrase": padded(vocabulary.encode_all(phrases.texts), PHRASE),
        "head": padded(vocabulary.encode_all(heads), HEAD),
        "head_genus": genus,
        "piece_near": near_pieces(_on_device(_around_mean(vectors.pieces)), shape[0]),
    }
    embeddings = word_vectors(vectors.pieces, vocabulary.pieces, *shape)
    return Corpus(**{name: jnp.asarray(array) for name, array in arrays.items()}), embeddings


def question_arrays(prepared: Prepared, phrases: Phrases, *, trial: bool) -> dict[str, Any]:
    """Return the fields of `Corpus` that say what can be asked; names join `phrases`.

    In a trial, attributes that few texts have are not asked.
    """
    values, table = prepared.values, prepared.table
    names = value_names(values, phrases)
    pairs = [[[phrases.number(w) for w in two] for two in three] for three in wordings.PAIRS]
    answers = [[phrases.number(w) for w in two] for two in wordings.ANSWERS]
    members, start, count = members_by_value(values, table)
    return {
        "topics": np.int32(len(prepared.topics)),
        "names": names,
        "pair_names": np.array(pairs, np.int32),
        "answers": np.array(answers, np.int32),
        "members": members,
        "start": start,
        "count": count,
        "values": np.array([len(each) for each in values.values()], np.int32),
        "chance": chances(table, trial=trial),
    }


def text_arrays(
    prepared: Prepared, text: Int[np.ndarray, "n t"], vectors: Vectors
) -> dict[str, Any]:
    """Return the fields of `Corpus` about texts, and about what is near to texts and phrases."""
    topics = len(prepared.topics)
    vector = _on_device(_around_mean(vectors.texts))
    mean = vectors.phrases[:topics].astype(np.float32).mean(0)
    phrase_vector = _on_device(centred(vectors.phrases, mean))
    pair, near = near_texts(text, vector)
    block = max(1, min(1024, len(text) // 256))
    return {
        "text": text,
        "vector": vector,
        "after": next_segments(prepared),
        "pair": pair,
        "near": near,
        "phrase_vector": phrase_vector,
        "texts_of": nearest(phrase_vector, vector, TEXTS_OF, block),
        "phrase_near": near_topics(phrase_vector, topics),
    }


def _on_device(vectors: Float[np.ndarray, "n w"]) -> Float[Array, "n w"]:
    # A CPU has no fast bfloat16.
    return jnp.asarray(vectors, jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def _around_mean(vectors: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "n w"]:
    return centred(vectors, vectors.astype(np.float32).mean(0))


def read_prepared(directory: Path, most: int | None = None) -> Prepared:
    """Return what `tools.mini.prepare` wrote of the texts; with `most`, of a sample of them.

    Raises `SpotError` where the files do not fit together, and for an attribute of which all texts
    have one value, or more values than `MOST_VALUES`.
    """
    lines = [line.split("\t") for line in read_text(directory / "texts.tsv").splitlines()]
    for number, line in enumerate(lines, start=1):
        if len(line) != 3:
            raise SpotError(
                f"expected source, paragraph and text in line {number} of "
                f"{directory / 'texts.tsv'}, found {len(line)} columns; {REMEDY}"
            )
    values = json.loads((directory / "values.json").read_text(encoding="utf-8"))
    with np.load(directory / "attributes.npz") as stored:
        table = {name: stored[name] for name in values if name in stored.files}
    _check_attributes(directory, values, table, len(lines))
    keep = np.arange(len(lines))
    topics = (directory / "phrases.txt").read_text(encoding="utf-8").splitlines()
    if most:
        keep = np.sort(np.random.default_rng(0).permutation(len(lines))[:most])
        lines = [lines[i] for i in keep]
        topics = topics[:: max(1, 400_000 // most)]
    sources, paragraphs, texts = zip(*lines, strict=True)
    table = {name: column[keep] for name, column in table.items()}
    return Prepared(sources, paragraphs, texts, topics, values, table)


def _check_attributes(
    directory: Path, values: dict[str, list[str]], table: dict[str, np.ndarray], count: int
) -> None:
    if "genus" not in values:
        raise SpotError(
            f"expected the attribute 'genus' in {directory / 'values.json'}, found none; {REMEDY}"
        )
    for name, names in values.items():
        if name not in table or len(table[name]) != count:
            size = f"{len(table[name]):,}" if name in table else "none"
            raise SpotError(
                f"expected {count:,} values of {name!r} in {directory / 'attributes.npz'}, one a "
                f"text, found {size}; {REMEDY}"
            )
        labels = np.unique(table[name][table[name] >= 0])
        if not 2 <= len(names) <= MOST_VALUES or len(labels) < 2 or labels[-1] >= len(names):
            raise SpotError(
                f"expected 2 to {MOST_VALUES} values of {name!r} among the texts of {directory}, "
                f"found {len(labels)} of {len(names)} names; leave the attribute out"
            )


def value_names(values: dict[str, list[str]], phrases: Phrases) -> Int[np.ndarray, "j k v"]:
    """Return the phrase that names each value of each attribute in each wording."""
    names = np.zeros((len(values), wordings.VARIANTS, MOST_VALUES), np.int32)
    for j, (attribute, each) in enumerate(values.items()):
        for variant in range(wordings.VARIANTS):
            for v, value in enumerate(each):
                names[j, variant, v] = phrases.number(wordings.name(attribute, variant, value))
    return names


def members_by_value(
    values: dict[str, list[str]], table: dict[str, np.ndarray]
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, "j v"], Int[np.ndarray, "j v"]]:
    """Return the texts by attribute and value, where each value's begin, and how many they are."""
    start = np.zeros((len(values), MOST_VALUES), np.int32)
    count = np.zeros_like(start)
    members: list[np.ndarray] = []
    total = 0
    for j, name in enumerate(values):
        for v in range(len(values[name])):
            texts = np.flatnonzero(table[name] == v)
            # A trial's sample may lack a value, which then has a text that is wrong.
            texts = texts if len(texts) else np.zeros(1, np.int64)
            start[j, v], count[j, v] = total, len(texts)
            members.append(texts)
            total += len(texts)
    return np.concatenate(members).astype(np.int32), start, count


def read_words(
    texts: Sequence[str],
    phrases: Sequence[str],
    vocabulary: Vocabulary,
    tensors: dict[str, np.ndarray],
    tokenizer: Path,
    say: Callable[[str], None],
) -> tuple[list[list[int]], Vectors]:
    """Return the texts' pieces, and the teacher's vectors; both vocabularies read at once."""
    began = time.monotonic()
    pieces: list[list[list[int]]] = []
    reading = threading.Thread(
        target=lambda: pieces.append(vocabulary.encode_all(texts, threads=16))
    )
    reading.start()
    marks = [vocabulary.piece(i).replace("▁", "") or "," for i in range(vocabulary.pieces)]
    ids = teacher.tokenise(tokenizer, [*texts, *phrases, *marks])
    reading.join()
    check_pieces(pieces[0], texts)
    say(f"tokens {time.monotonic() - began:.1f} s")
    vector = teacher.vectors(tensors, ids)
    say(f"teacher {time.monotonic() - began:.1f} s")
    end = len(texts) + len(phrases)
    return pieces[0], Vectors(vector[: len(texts)], vector[len(texts) : end], vector[end:])


def check_pieces(pieces: Sequence[Sequence[int]], texts: Sequence[str]) -> None:
    """Raise `SpotError` for a text of which the vocabulary knows no piece."""
    for number, (ids, text) in enumerate(zip(pieces, texts, strict=True), start=1):
        if max(ids, default=UNK) <= UNK:
            raise SpotError(
                f"expected words that the vocabulary knows in text {number}, found "
                f"{text[:40]!r}; leave the text out"
            )


def next_segments(prepared: Prepared) -> Int[np.ndarray, " n"]:
    """Return the number of the text that goes on with each text, -1 for none."""
    sources, paragraphs = np.array(prepared.sources), np.array(prepared.paragraphs)
    count = len(sources)
    after = np.full(count, -1, np.int32)
    same = (sources[:-1] == sources[1:]) & (paragraphs[:-1] == paragraphs[1:])
    after[:-1][same] = np.arange(1, count)[same]
    return after


def near_texts(
    text: Int[np.ndarray, "n t"], vector: Float[Array, "n w"]
) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, "q 8"]]:
    """Return texts of at least eight pieces, 100,000 at most, and eight near texts of each."""
    long_enough = np.flatnonzero((text > 0).sum(1) >= 8)
    pair = np.random.default_rng(1).permutation(long_enough)[:100_000].astype(np.int32)
    if not len(pair):
        raise SpotError("expected texts of eight pieces and more, found none; prepare longer texts")
    near = nearest(vector[pair], vector, 9, max(1, min(1024, len(text) // 64)))
    # A text is no neighbour of itself.
    return pair, np.where(near[:, :8] == pair[:, None], near[:, 8:], near[:, :8])


def near_topics(vector: Float[Array, "m w"], topics: int) -> Int[np.ndarray, "m k"]:
    """Return of each phrase the nearest topics, which are the first phrases."""
    return nearest(vector, vector[:topics], NEIGHBOURS, max(1, topics // 600))


def near_pieces(vector: Float[Array, "p w"], rows: int) -> Int[np.ndarray, "v 8"]:
    """Return eight near pieces of each piece, 0 for rows of the embedding table without a piece."""
    table = np.zeros((rows, 8), np.int32)
    table[: len(vector)] = np.clip(nearest(vector, vector, 9, 64)[:, 1:], 3, None)
    return table


def headwords(
    prepared: Prepared, names: Int[np.ndarray, "j k v"]
) -> tuple[list[str], Int[np.ndarray, " g"]]:
    """Return words that a dictionary says are a kind of something, and the phrase of each kind."""
    genus = prepared.table["genus"]
    texts = np.flatnonzero(genus >= 0)
    texts = texts if len(texts) else np.zeros(1, np.int64)
    words = [prepared.texts[int(i)].partition(":")[0] for i in texts]
    attribute = list(prepared.values).index("genus")
    return words, names[attribute, 0, np.maximum(genus[texts], 0)]


def chances(table: dict[str, Any], *, trial: bool) -> Float[np.ndarray, " j"]:
    """Return the share of the questions that are about each attribute, float32.

    In a trial, attributes that fewer than 51 texts have are not asked.
    """
    chance = np.array([wordings.WEIGHTS.get(name, 1.0) for name in table], np.float32)
    if trial:
        chance *= np.array([(column >= 0).sum() > 50 for column in table.values()])
    if not chance.sum():
        raise SpotError(
            "expected an attribute of more than 50 texts, found none; try more texts (--texts)"
        )
    return chance / chance.sum()
