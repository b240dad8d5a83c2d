"""What `mini` learns from, as arrays on the device: texts, phrases, and which goes with which."""

import json
import lzma
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.t5.vocabulary import Vocabulary
from tools.mini import teacher

TEXT, PHRASE, HEAD = 104, 8, 6
NEIGHBOURS, TEXTS_OF = 128, 192
MOST_VALUES = 150
# Other names of an attribute's values: a question can be asked in several words.
NAMES = {
    "tone": (
        ("negative", "neutral", "positive"),
        ("bad", "plain", "good"),
        ("unhappy", "calm", "happy"),
        ("complaint", "report", "praise"),
        ("awful", "ordinary", "great"),
    ),
    "verdict": (("negative", "positive"), ("bad", "good"), ("terrible", "great")),
    "seriousness": (("not sarcastic", "sarcastic"), ("serious", "joke"), ("real", "satire")),
    "question": (("statement", "question"), ("says", "asks")),
    "digits": (("no number", "number"), ("words", "figures")),
    "length": (("short", "medium", "long"), ("brief", "middle", "lengthy")),
    "person": (("first person", "second person", "third person"), ("me", "you", "them")),
    "strength": (("mild", "strong"), ("weak", "intense")),
    "asks for": (
        ("abbreviation", "description", "entity", "human", "location", "number"),
        ("letters", "explanation", "thing", "person", "place", "amount"),
    ),
}
ORDER = {
    "tone": ("negative", "neutral", "positive"),
    "verdict": ("negative", "positive"),
    "seriousness": ("not sarcastic", "sarcastic"),
    "question": ("statement", "question"),
    "digits": ("no number", "number"),
    "length": ("short", "medium", "long"),
    "person": ("first person", "second person", "third person"),
    "strength": ("mild", "strong"),
    "asks for": ("abbreviation", "description", "entity", "human", "location", "number"),
}
VARIANTS = 5
WEIGHTS = {
    "tone": 6.0, "kind": 3.0, "verdict": 2.0, "seriousness": 2.0, "asks for": 2.0,
    "asks exactly for": 2.0, "tool": 2.0, "newsgroup": 2.0, "answers topic": 2.0, "genus": 4.0,
    "domain": 2.0, "field": 1.0, "newsgroup family": 1.0, "person": 1.5, "question word": 0.7,
    "question": 1.0, "digits": 1.0, "length": 1.0, "strength": 1.5, "part of speech": 1.0,
}  # fmt: skip
# What is asked of two texts, no first and yes second, in the words of its own question.
PAIRS = (
    (("different", "same"), ("other words", "copy"), ("another text", "same text")),
    (("unrelated", "next"), ("elsewhere", "continued"), ("break", "follows")),
    (("not about", "about"), ("off topic", "on topic"), ("irrelevant", "relevant")),
    (("absent", "contains"), ("missing", "present"), ("without", "with")),
    (("not a kind", "a kind of"), ("something else", "example of"), ("no member", "member")),
)
ANSWERS = (("no", "yes"), ("false", "true"), ("wrong", "right"), ("not", "is"))


class Corpus(NamedTuple):
    """Arrays, all on the device; N texts, M phrases, J attributes, V pieces.

    Attributes:
        text: pieces, 0 for padding, int32 [N, TEXT].
        vector: teacher's vectors less their mean, length 1, bfloat16 [N, 384].
        after: the next segment of the same paragraph, -1 for none, int32 [N].
        pair, near: texts that pairs begin with, int32 [Q], and their nearest texts [Q, 8].
        phrase: pieces, int32 [M, PHRASE].
        phrase_vector: as `vector`, [M, 384].
        texts_of: of each phrase the texts nearest to it, int32 [M, TEXTS_OF].
        phrase_near: of each phrase the nearest phrases, itself first, int32 [M, NEIGHBOURS].
        topics: how many of the phrases are topics; the rest are names of attributes' values.
        members, start, count: texts by attribute and value: `members[start[j, v] + i]`.
        names: the phrase that names a value, int32 [J, VARIANTS, MOST_VALUES].
        values: how many values an attribute has, int32 [J].
        chance: how often each attribute is asked, float32 [J].
        head, head_genus: words [G, HEAD] and the phrase of what each is a kind of [G].
        pair_names: phrases of no and yes, int32 [5, 3, 2]; `answers` [4, 2] for any question.
        piece_near: of each piece eight near ones, int32 [V, 8].
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
    count: Int[Array, "j v"]
    names: Int[Array, "j k v"]
    values: Int[Array, " j"]
    chance: Float[Array, " j"]
    head: Int[Array, "g h"]
    head_genus: Int[Array, " g"]
    pair_names: Int[Array, "5 3 2"]
    answers: Int[Array, "4 2"]
    piece_near: Int[Array, "v 8"]


def read_text(path: Path) -> str:
    """Return the text of a file, or of the same file compressed."""
    if path.is_file():
        return path.read_text(encoding="utf-8")
    with lzma.open(f"{path}.xz", "rt", encoding="utf-8") as file:
        return file.read()


def padded(lists: list[list[int]], width: int) -> np.ndarray:
    table = np.zeros((len(lists), width), np.int32)
    for row, ids in zip(table, lists, strict=True):
        row[: min(len(ids), width)] = ids[:width]
    return table


def centred(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32) - mean
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def nearest(queries: Array, keys: Array, count: int, block: int) -> Int[np.ndarray, "q k"]:
    """Of each query `count` near keys, the nearest first: the best of each block of keys.

    The keys stand in an order of their own, so nearly all of the nearest are in blocks of their own.
    """
    order = np.random.default_rng(0).permutation(len(keys))
    blocks = len(keys) // block
    order = order[: blocks * block]
    shuffled = keys[order].reshape(blocks, block, -1)

    @jax.jit
    def best(part: Array, shuffled: Array) -> Array:
        scores = jnp.einsum("qw,nbw->qnb", part, shuffled, preferred_element_type=jnp.float32)
        top, which = jnp.max(scores, -1), jnp.argmax(scores, -1)
        best = jax.lax.top_k(top, min(count, blocks))[1]
        return jnp.take_along_axis(which, best, 1) + best * block

    rows = max(1, min(len(queries), 2**28 // len(keys)))
    parts = []
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        short = rows - len(part)
        part = jnp.pad(part, ((0, short), (0, 0))) if short else part
        parts.append((best(part, shuffled), rows - short))
    places = np.concatenate([np.asarray(x)[:n] for x, n in parts])
    result = order[places]
    if result.shape[1] < count:
        result = np.pad(result, ((0, 0), (0, count - result.shape[1])), mode="wrap")
    return result.astype(np.int32)


def word_vectors(vectors: np.ndarray, pieces: int, rows: int, width: int) -> np.ndarray:
    """Embeddings from the teacher's vectors of the pieces: principal components, RMS 1 a row."""
    random = np.random.default_rng(0)
    usual = vectors[3:pieces].astype(np.float64)
    usual -= usual.mean(0)
    _, _, right = np.linalg.svd(usual, full_matrices=False)
    turn, _ = np.linalg.qr(random.normal(size=(width, width)))
    table = random.normal(size=(rows, width))
    projected = usual @ right[:width].T @ turn
    table[3:pieces] = projected / np.sqrt(np.mean(projected**2, 1, keepdims=True) + 1e-12)
    return table.astype(np.float32)


def read(directory: Path, vocabulary: Vocabulary, shape: tuple[int, int], most: int | None = None):
    """Return the corpus, and first embeddings of `shape`.

    Args:
        directory: what `tools.mini.prepare` wrote.
        vocabulary: mini's.
        shape: rows and width of the embedding table.
        most: texts, for a trial; None for all.
    """
    lines = [line.split("\t") for line in read_text(directory / "texts.tsv").splitlines()]
    keep = np.arange(len(lines))
    if most:
        keep = np.sort(np.random.default_rng(0).permutation(len(lines))[:most])
        lines = [lines[i] for i in keep]
    sources, paragraphs, texts = zip(*lines, strict=True)
    topics = (directory / "phrases.txt").read_text(encoding="utf-8").splitlines()
    if most:
        topics = topics[:: max(1, 400_000 // most)]
    values = json.loads((directory / "values.json").read_text())
    phrases = list(topics)
    number = {phrase: i for i, phrase in enumerate(phrases)}

    def phrase_id(text: str) -> int:
        if text not in number:
            number[text] = len(phrases)
            phrases.append(text)
        return number[text]

    attributes = list(values)
    names = np.zeros((len(attributes), VARIANTS, MOST_VALUES), np.int32)
    for j, name in enumerate(attributes):
        variants = NAMES.get(name) or (tuple(values[name]),)
        for k in range(VARIANTS):
            variant = variants[k % len(variants)]
            for v, value in enumerate(values[name]):
                which = ORDER[name].index(value) if name in ORDER else v
                names[j, k, v] = phrase_id(variant[which])
    pair_names = np.array([[[phrase_id(w) for w in two] for two in three] for three in PAIRS])
    answers = np.array([[phrase_id(w) for w in two] for two in ANSWERS])

    table = np.load(directory / "attributes.npz")
    table = {name: table[name][keep] for name in attributes}
    start = np.zeros((len(attributes), MOST_VALUES), np.int32)
    count = np.zeros_like(start)
    members: list[np.ndarray] = []
    total = 0
    for j, name in enumerate(attributes):
        for v in range(len(values[name])):
            which = np.flatnonzero(table[name] == v)
            which = which if len(which) else np.zeros(1, np.int64)
            start[j, v], count[j, v] = total, len(which)
            members.append(which)
            total += len(which)

    began = time.monotonic()
    print(f"{len(texts):,} texts, {len(phrases):,} phrases", flush=True)
    pieces: list[list[list[int]]] = []
    reading = threading.Thread(
        target=lambda: pieces.append(vocabulary.encode_all(texts, threads=16))
    )
    reading.start()
    tensors = teacher.read(directory / "teacher.npz")
    tokenizer = directory / "teacher_tokenizer.json"
    marks = [vocabulary.piece(i).replace("▁", "") or "," for i in range(8000)]
    everything = teacher.tokenise(tokenizer, [*texts, *phrases, *marks])
    reading.join()
    print(f"tokens {time.monotonic() - began:.1f} s", flush=True)
    vector = teacher.vectors(tensors, everything)
    print(f"teacher {time.monotonic() - began:.1f} s", flush=True)
    text_vector, rest = vector[: len(texts)], vector[len(texts) :]
    phrase_vector, piece_vector = rest[: len(phrases)], rest[len(phrases) :]
    device = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    text_vector = jnp.asarray(centred(text_vector, text_vector.astype(np.float32).mean(0)), device)
    mean = phrase_vector[: len(topics)].astype(np.float32).mean(0)
    phrase_vector = jnp.asarray(centred(phrase_vector, mean), device)

    text_tokens = padded(pieces[0], TEXT)
    n = len(texts)
    after = np.full(n, -1, np.int32)
    same = (np.array(sources[:-1]) == np.array(sources[1:])) & (
        np.array(paragraphs[:-1]) == np.array(paragraphs[1:])
    )
    after[:-1][same] = np.arange(1, n)[same]
    random = np.random.default_rng(1)
    long_enough = np.flatnonzero((text_tokens > 0).sum(1) >= 8)
    pair = random.permutation(long_enough)[:100_000].astype(np.int32)
    near = nearest(text_vector[pair], text_vector, 9, max(1, min(1024, n // 64)))
    # A text is no neighbour of itself.
    near = np.where(near[:, :8] == pair[:, None], near[:, 8:], near[:, :8])
    block = max(1, min(1024, n // 256))
    genus = attributes.index("genus")
    heads = np.flatnonzero(table["genus"] >= 0)
    heads = heads if len(heads) else np.zeros(1, np.int64)
    words = [texts[i].partition(":")[0] for i in heads]
    piece_near = np.zeros((shape[0], 8), np.int32)
    piece_unit = jnp.asarray(centred(piece_vector, piece_vector.astype(np.float32).mean(0)), device)
    piece_near[:8000] = np.clip(nearest(piece_unit, piece_unit, 9, 64)[:, 1:], 3, None)
    chance = np.array([WEIGHTS.get(name, 1.0) for name in attributes], np.float32)
    if most:
        chance *= np.array([(table[name] >= 0).sum() > 50 for name in attributes])
    corpus = Corpus(
        text=text_tokens,
        vector=text_vector,
        after=after,
        pair=pair,
        near=near,
        phrase=padded(vocabulary.encode_all(phrases), PHRASE),
        phrase_vector=phrase_vector,
        texts_of=nearest(phrase_vector, text_vector, TEXTS_OF, block),
        phrase_near=nearest(
            phrase_vector, phrase_vector[: len(topics)], NEIGHBOURS, max(1, len(topics) // 600)
        ),
        topics=np.int32(len(topics)),
        members=np.concatenate(members).astype(np.int32),
        start=start,
        count=count,
        names=names,
        values=np.array([len(values[name]) for name in attributes], np.int32),
        chance=chance / chance.sum(),
        head=padded(vocabulary.encode_all(words), HEAD),
        head_genus=names[genus, 0, np.maximum(table["genus"][heads], 0)],
        pair_names=pair_names.astype(np.int32),
        answers=answers.astype(np.int32),
        piece_near=piece_near,
    )
    embeddings = word_vectors(piece_vector, 8000, *shape)
    return jax.tree.map(jnp.asarray, corpus), embeddings, phrases
