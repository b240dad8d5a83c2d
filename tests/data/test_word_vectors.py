import numpy as np
import pytest

from spot_jax.data.word_vectors import load_word_vectors, word_vectors
from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config
from spot_jax.training.config import RandomBackbone
from spot_jax.training.sharding import MeshShape, make_mesh

ROWS, WIDTH = 8192, 8


def two_topics(paragraphs: int = 3000) -> np.ndarray:
    """Paragraphs of six tokens from 10..19 or from 20..29, never mixed, an end after each."""
    rng = np.random.default_rng(0)
    lines = rng.integers(0, 10, (paragraphs, 6)) + 10 * rng.integers(1, 3, (paragraphs, 1))
    return np.column_stack([lines, np.ones(paragraphs, int)]).ravel().astype(np.uint16)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return word_vectors(two_topics(), 64, WIDTH)


def test_pieces_of_one_topic_are_near(vectors):
    unit = vectors[10:30] / np.linalg.norm(vectors[10:30], axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.kron(np.eye(2), np.ones((10, 10))).astype(bool)
    np.fill_diagonal(cosine, np.nan)
    assert np.nanmin(cosine[same]) > np.nanmax(cosine[~same])


def test_scale_and_unseen_pieces(vectors):
    np.testing.assert_allclose(np.mean(vectors[10:30] ** 2, axis=1), 1, rtol=1e-5)
    assert vectors.dtype == np.float32
    assert np.isnan(vectors[40:]).all()
    assert np.isfinite(vectors[10:30]).all()


def test_same_again(vectors):
    assert word_vectors(two_topics(), 64, WIDTH).tobytes() == vectors.tobytes()


def test_bad_input(tmp_path):
    with pytest.raises(SpotError, match="outside an embedding of 20 rows"):
        word_vectors(two_topics(20), 20, 4)
    with pytest.raises(SpotError, match="too few for vectors of width 32"):
        word_vectors(two_topics(), 64, 32)
    with pytest.raises(SpotError, match=r"expected word vectors at .*nowhere"):
        load_word_vectors(tmp_path / "nowhere.npy", 4, 2)
    np.save(tmp_path / "wide.npy", np.zeros((4, 3), np.float32))
    with pytest.raises(SpotError, match=r"shape \[4, 2\].*found float32 of \[4, 3\]"):
        load_word_vectors(tmp_path / "wide.npy", 4, 2)


@pytest.mark.slow
def test_a_random_backbone_begins_with_them(tmp_path):
    vectors = np.full((ROWS, WIDTH), np.nan, np.float32)
    vectors[5:9] = np.arange(4 * WIDTH).reshape(4, WIDTH)
    np.save(tmp_path / "vectors.npy", vectors)
    config = T5Config(
        vocab_size=ROWS, emb_dim=WIDTH, num_heads=1, head_dim=4, mlp_dim=8,
        num_encoder_layers=1, num_decoder_layers=1, logits_via_embedding=False,
    )  # fmt: skip
    mesh = make_mesh(MeshShape(data=1, model=1))
    plain = RandomBackbone(config, "tasks/mini_spiece.model")
    without = plain.load(mesh)
    begun = RandomBackbone(
        config, "tasks/mini_spiece.model", word_vectors=str(tmp_path / "vectors.npy")
    ).load(mesh)
    embedding = np.asarray(begun.params["token_embedder"]["embedding"])
    logits = np.asarray(begun.params["decoder"]["logits_dense"]["kernel"])
    np.testing.assert_array_equal(embedding[5:9], vectors[5:9])
    np.testing.assert_allclose(logits[:, 5:9], vectors[5:9].T / np.sqrt(WIDTH), rtol=1e-6)
    other = np.asarray(without.params["token_embedder"]["embedding"])
    np.testing.assert_array_equal(embedding[9:], other[9:])
