"""The teacher, its quantised tensors, and the neighbours that its vectors name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mini_cases import fake_tokenise, random_bert, unit

from spot_jax.errors import SpotError
from tools.mini import teacher
from tools.mini.vectors import nearest, word_vectors

HEADS = 4


def reference(t, ids, layers, heads):
    """BERT in numpy, a text at a time, without padding."""

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    def dense(name, x):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def gelu(x):
        from scipy.special import erf

        return x * 0.5 * (1 + erf(x / np.sqrt(2)))

    x = t["embeddings.word_embeddings.weight"][ids]
    x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("embeddings.LayerNorm", x + t["embeddings.token_type_embeddings.weight"][0])
    size = x.shape[1] // heads
    for i in range(layers):
        at = f"encoder.layer.{i}"
        q, k, v = (dense(f"{at}.attention.self.{n}", x) for n in ("query", "key", "value"))
        parts = []
        for head in range(heads):
            s = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, s] @ k[:, s].T / np.sqrt(size))
            parts.append(scores / scores.sum(-1, keepdims=True) @ v[:, s])
        y = dense(f"{at}.attention.output.dense", np.concatenate(parts, -1))
        x = norm(f"{at}.attention.output.LayerNorm", x + y)
        y = dense(f"{at}.output.dense", gelu(dense(f"{at}.intermediate.dense", x)))
        x = norm(f"{at}.output.LayerNorm", x + y)
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_the_teacher_is_bert():
    tensors = random_bert(layers=2, width=32, words=50, inner=48)
    texts = [[3, 9, 41], [7, 7, 2, 30, 12]]
    ids = np.zeros((2, 6), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    on_device = jax.tree.map(jnp.asarray, tensors)
    encode = jax.jit(teacher.encode, static_argnames=("layers", "heads"))
    vectors = encode(on_device, ids, layers=2, heads=HEADS)
    for vector, text in zip(vectors, texts, strict=True):
        assert vector == pytest.approx(reference(tensors, text, 2, HEADS), abs=2e-5)


def test_quantised_tensors_are_near_and_small():
    tensors = random_bert()
    stored = teacher.quantise(tensors)
    dequantised = teacher.dequantise(stored)
    assert dequantised.keys() == tensors.keys()
    for name, tensor in tensors.items():
        flat, other = tensor.ravel(), dequantised[name].ravel()
        cosine = flat @ other / np.linalg.norm(flat) / max(np.linalg.norm(other), 1e-9)
        assert cosine > 0.999, name
    before, after = (sum(t.nbytes for t in each.values()) for each in (tensors, stored))
    assert after < 0.3 * before


def test_quantised_vectors_are_within_a_hundredth():
    tensors = random_bert(layers=2, width=384, words=300)
    near = teacher.dequantise(teacher.quantise(tensors))
    text = [5, 70, 200, 33]
    cosine = reference(tensors, text, 2, 12) @ reference(near, text, 2, 12)
    assert 1 - cosine < 0.01


def test_nearest_is_exact_with_blocks_of_one():
    random_ = np.random.default_rng(0)
    queries, keys = unit(random_, 7), unit(random_, 40)
    expected = np.argsort(-(queries @ keys.T), axis=1)[:, :5]
    assert (nearest(queries, keys, 5, 1) == expected).all()


def test_nearest_in_blocks_is_the_best_of_each():
    random_ = np.random.default_rng(0)
    keys = unit(random_, 64)
    chosen = nearest(keys, keys, 8, 4)
    assert (chosen[:, 0] == np.arange(64)).all()  # each is nearest to itself
    assert all(len(set(row)) == 8 for row in chosen)
    # More than there are blocks: they repeat.
    assert nearest(keys[:1], keys, 20, 4).shape == (1, 20)


def test_word_vectors_keep_what_is_near():
    vectors = unit(np.random.default_rng(0), 60)
    vectors[10] = vectors[20] + 0.01
    table = word_vectors(vectors, 60, 70, 16)
    assert table.shape == (70, 16) and np.sqrt((table[3:60] ** 2).mean(1)) == pytest.approx(1)
    distance = np.linalg.norm(table[3:60] - table[20], axis=1)
    assert sorted(np.argsort(distance)[:2] + 3) == [10, 20]


@pytest.mark.parametrize(
    ("pieces", "rows", "width", "message"),
    [(61, 70, 16, "of 61 pieces"), (60, 50, 16, "table of 50"), (60, 70, 400, "400, found 384")],
)
def test_word_vectors_of_another_model_are_refused(pieces, rows, width, message):
    with pytest.raises(SpotError, match=message):
        word_vectors(unit(np.random.default_rng(0), 60), pieces, rows, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layer.3.output.dense.bias"), "1 of 101 tensors missing"),
        (lambda t: t.clear(), "101 of 101"),
        (lambda t: t.update(random_bert(layers=7, inner=8)), "found more"),
        (lambda t: t.update(random_bert(width=36, words=9, inner=8)), "384 .*found 36"),
    ],
)
def test_another_teacher_is_refused(change, message, tmp_path):
    tensors = random_bert(words=9, inner=8)
    change(tensors)
    path = tmp_path / "teacher.npz"
    np.savez(path, **teacher.quantise(tensors))
    with pytest.raises(SpotError, match=message):
        teacher.read(path)


def test_a_damaged_teacher_is_refused(tmp_path):
    (tmp_path / "teacher.npz").write_bytes(b"PK nothing")
    with pytest.raises(SpotError, match="damaged"):
        teacher.read(tmp_path / "teacher.npz")


def test_another_tokenizer_is_refused():
    with pytest.raises(SpotError, match="below 9"):
        teacher.vectors(random_bert(layers=0, words=9), fake_tokenise(None, ["some words here"]))
