"""Y-Tuning's formula against torch, its counts, how labels begin, and its loss by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import begin

from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.label_decoder import LabelDecoder, cross_entropies, triplet_losses
from spot_jax.methods.stored import inference_of
from spot_jax.methods.y_tuning import LabelLoss, YTuning, label_vectors
from spot_jax.t5.config import T5Config

CONFIG = T5Config(vocab_size=40, emb_dim=8, num_heads=2, head_dim=4, num_encoder_layers=2)
DECODER = LabelDecoder(8, 2, per_label=2, layers=1, heads=2, mlp_dim=12, mixed=3)


def embedding():
    return 3.0 * np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


class Words:
    """A vocabulary: label i is the pieces 3 + i and 10 + i."""

    def encode(self, text):
        number = int(text.split()[1])
        return [3 + number, 10 + number]


def settings(decoder=DECODER, **options):
    fields = {
        name: getattr(decoder, name)
        for name in ("per_label", "layers", "heads", "mlp_dim", "score", "scale", "reduce")
    }
    return YTuning(**{**fields, "features": "mix" if decoder.mixed > 1 else "last", **options})


def method(decoder=DECODER, n=1, dropout=0.0, **options):
    """The program of n runs, its weights as they begin."""
    labels = tuple(f"label {i}" for i in range(decoder.classes))
    config = dataclasses.replace(CONFIG, dropout_rate=dropout)
    params = {"token_embedder": {"embedding": jnp.asarray(embedding())}}
    tasks = [Task(labels=labels, vocabulary=Words()) for _ in range(n)]
    program, weights, frozen = begin(settings(decoder, **options), params, config, tasks)
    assert frozen == {} and program.method.decoder(config, tasks[0]) == decoder
    return program, weights


def keys(seeds):
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


def trained(weights):
    """Weights of which every leaf has a part in the scores."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), weights)


def batch(decoder=DECODER, rows=4, tokens=7, seed=1):
    rng = np.random.default_rng(seed)
    shape = (rows, tokens, decoder.mixed, decoder.width)
    return {
        "features": rng.normal(size=shape).astype(np.float32),
        "feature_lengths": rng.integers(2, tokens + 1, rows).astype(np.int32),
        "label": rng.integers(0, decoder.classes, rows).astype(np.int32),
    }


def torch_loss(torch, decoder, weights, examples, kind, margin):
    """The formulas of docs/y_tuning.md, example by example and head by head."""

    def norm(x, offset):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1 + offset)

    def attention(layer, side, x, read):
        query, key, value = (
            y @ layer[f"{side}_{name}"]
            for y, name in ((x, "query"), (read, "key"), (read, "value"))
        )
        heads, size = [], decoder.width // decoder.heads
        for h in range(decoder.heads):
            here = slice(h * size, (h + 1) * size)
            parts = torch.softmax(query[:, here] @ key[:, here].T / size**0.5, -1)
            heads.append(parts @ value[:, here])
        return torch.cat(heads, -1) @ layer[f"{side}_out"]

    losses = []
    for row in range(len(examples["label"])):
        text = torch.tensor(examples["features"][row, : examples["feature_lengths"][row]])
        if decoder.mixed > 1:
            text = torch.einsum("tld,l->td", text, torch.softmax(weights["mix"][0], 0))
        else:
            text = text[:, 0]
        x = weights["labels"]
        for i in range(decoder.layers):
            layer = weights[f"layer_{i}"]
            y = norm(x, layer["norms"][0])
            x = x + attention(layer, "self", y, y)
            x = x + attention(layer, "cross", norm(x, layer["norms"][1]), text)
            hidden = norm(x, layer["norms"][2]) @ layer["mlp_in"]
            hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
            x = x + hidden @ layer["mlp_out"]
        x = norm(x, weights["norm"][0])
        if decoder.score == "cosine":
            x = x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)
            scale = 1.0 if decoder.scale is None else decoder.scale
        else:
            scale = decoder.width**-0.5 if decoder.scale is None else decoder.scale
        each = (x[1:] @ x[0] * scale).reshape(decoder.classes, decoder.per_label)
        scores = each.max(-1).values if decoder.reduce == "max" else each.mean(-1)
        gold = examples["label"][row]
        if kind == "triplet":
            others = [
                torch.relu(margin - scores[gold] + scores[c])
                for c in range(decoder.classes)
                if c != gold
            ]
            losses.append(sum(others) / decoder.classes)
        else:
            losses.append(-torch.log_softmax(scores, -1)[gold])
    return sum(losses) / len(losses)


CASES = {
    "mix": (DECODER, "triplet"),
    "two layers": (dataclasses.replace(DECODER, layers=2), "triplet"),
    "cosine": (dataclasses.replace(DECODER, score="cosine", reduce="mean", mixed=1), "triplet"),
    # More queries than tokens: attention goes the usual way.
    "many": (LabelDecoder(8, 9, layers=1, heads=4, mlp_dim=6, scale=0.5), "cross_entropy"),
}
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "mix"]


@pytest.mark.parametrize("case", ["mix", *SLOW])
def test_loss_and_gradient_are_torchs(case):
    torch = pytest.importorskip("torch")
    decoder, kind = CASES[case]
    tuning, weights = method(decoder, n=2, loss=kind, margin=0.7)
    weights, parts = trained(weights), [batch(decoder, tokens=40, seed=seed) for seed in (1, 2)]
    both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    grad = jax.jit(jax.value_and_grad(lambda w: tuning.loss(w, {}, both, None), has_aux=True))
    (_, metrics), grads = grad(weights)
    # Each of the two runs by itself.
    for i, part in enumerate(parts):
        leaves = jax.tree.map(lambda x, i=i: torch.tensor(x[i], requires_grad=True), weights)
        expected = torch_loss(torch, decoder, leaves, part, kind, 0.7)
        expected.backward()
        assert abs(float(metrics["loss"][i]) - expected.item()) < 1e-4
        for ours, leaf in zip(jax.tree.leaves(grads), jax.tree.leaves(leaves), strict=True):
            wanted = leaf.grad.numpy()
            assert np.abs(wanted).max() > 1e-5
            np.testing.assert_allclose(ours[i], wanted, rtol=1e-4, atol=1e-5)


def test_padding_and_the_way_attention_is_computed_change_nothing():
    decoder = LabelDecoder(8, 2, layers=1, heads=2, mlp_dim=12)
    tuning, weights = method(decoder)
    weights, shorter = trained(weights), batch(decoder, tokens=5)
    longer = dict(shorter)
    filler = np.full((4, 40, 1, 8), 9.0, np.float32)
    # With 45 tokens queries are few, with 5 they are not.
    longer["features"] = np.concatenate([shorter["features"], filler], axis=1)
    loss = jax.jit(lambda b: tuning.loss(weights, {}, b, None)[0])
    of_shorter, of_longer = loss(shorter), loss(longer)
    np.testing.assert_allclose(of_shorter, of_longer, rtol=1e-5)


@pytest.mark.slow
def test_the_numbers_that_are_trained():
    for decoder in (DECODER, LabelDecoder(8, 5, layers=1, heads=4, mlp_dim=6)):
        _, weights = method(decoder, n=2)
        sizes = sum(leaf.size for leaf in jax.tree.leaves(weights))
        d, f, rows = 8, decoder.mlp_dim, 1 + decoder.classes * decoder.per_label
        formula = rows * d + decoder.layers * (8 * d * d + 2 * d * f + 3 * d) + d
        formula += decoder.mixed if decoder.mixed > 1 else 0
        assert sizes == 2 * decoder.size == 2 * formula


def test_labels_begin_as_their_tokens_the_vocabulary_or_uniform():
    table = embedding()
    unit = table / np.sqrt(np.square(table).mean(axis=1, keepdims=True))
    pieces = ((3, 10), (4,), (5, 6, 7))
    key = jax.random.key(0)
    means = np.stack([table[list(ids)].mean(axis=0) for ids in pieces])
    means /= np.sqrt(np.square(means).mean(axis=1, keepdims=True))

    def rows(kind):
        return np.asarray(jax.jit(lambda k, t: label_vectors(k, t, pieces, 2, kind))(key, table))

    vectors = rows("labels")
    np.testing.assert_allclose(vectors[1::2], means, rtol=1e-4)
    near = np.abs(vectors[2::2] - means).max(axis=1)
    assert ((near > 0.01) & (near < 0.6)).all()
    drawn = rows("vocabulary")
    assert drawn.shape == (7, 8)
    assert all(np.abs(unit - row).max(axis=1).min() < 1e-5 for row in (*drawn, vectors[0]))
    uniform = rows("uniform")
    np.testing.assert_allclose(np.square(uniform).mean(axis=1), 1.0, rtol=1e-5)
    with pytest.raises(SpotError, match="label 1 has no pieces"):
        label_vectors(key, table, ((3,), ()))


def test_the_triplet_loss_by_hand():
    scores = jnp.asarray([[2.0, 1.5, -1.0], [0.0, 0.0, 3.0]])
    gold = jnp.asarray([0, 1])
    # (1 - 2 + 1.5) / 3, and (1 + 1 - 0 + 3) / 3.
    np.testing.assert_allclose(triplet_losses(scores, gold, 1.0), [0.5 / 3, 5 / 3], rtol=1e-6)
    expected = -np.log(np.exp([2.0, 0.0]) / np.exp(scores).sum(axis=1))
    np.testing.assert_allclose(cross_entropies(scores, gold), expected, rtol=1e-5)


@pytest.mark.slow
def test_runs_together_are_those_alone_with_dropout():
    (together, weights), (alone, _) = method(n=2, dropout=0.3), method(dropout=0.3)
    weights, drop = trained(weights), keys([7, 8])
    parts = [batch(seed=seed) for seed in (1, 2)]
    both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    (_, metrics), grads = jax.jit(jax.value_and_grad(together.loss, has_aux=True))(
        weights, {}, both, drop
    )
    step = jax.jit(jax.value_and_grad(alone.loss, has_aux=True))
    for i, part in enumerate(parts):
        part_weights = jax.tree.map(lambda x, i=i: x[i : i + 1], weights)
        (_, expected), expected_grads = step(part_weights, {}, part, drop[i : i + 1])
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name][i], value[0], rtol=1e-5)
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True)
        for actual, wanted in pairs:
            np.testing.assert_allclose(actual[i], wanted[0], rtol=1e-4, atol=1e-6)


def test_a_stored_decoder_scores_as_the_one_in_training():
    tuning, weights = method(DECODER, cache_dtype="float32")
    weights, examples = trained(weights), batch()
    inference = tuning.infer(weights, {}, 0)
    file = tuning.file(weights, {}, 0)
    assert file.prompt is None and file.tensors["labels"].shape == (5, 8)
    loaded = inference_of({}, CONFIG, file)
    assert loaded.params["backbone"] == {}
    assert loaded.scorer == inference.scorer and hash(loaded.scorer) == hash(inference.scorer)
    assert inference.scorer.labels == ("label 0", "label 1")
    score = jax.jit(lambda params: inference.scorer(params, CONFIG, examples))
    np.testing.assert_array_equal(score(loaded.params), score(inference.params))
    with pytest.raises(SpotError, match="width 8 and 3 layers cannot go .* 8 and 2"):
        inference_of({}, dataclasses.replace(CONFIG, num_encoder_layers=1), file)
    short = dataclasses.replace(file, tensors={**file.tensors, "decoder/norm": np.zeros((1, 7))})
    with pytest.raises(SpotError, match="has norm of shape"):
        inference_of({}, CONFIG, short)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": 3}, "cannot be divided over 3 heads"),
        ({"layers": 0}, "layers is at least 1"),
        ({"score": "euclid"}, "'dot' or 'cosine'"),
        ({"reduce": "sum"}, "'max' or 'mean'"),
    ],
)
def test_settings_that_there_are_not(change, says):
    with pytest.raises(SpotError, match=says):
        dataclasses.replace(DECODER, **change)
    with pytest.raises(SpotError, match="'triplet' or 'cross_entropy'"):
        LabelLoss("hinge")
    with pytest.raises(SpotError, match="labels, vocabulary, uniform, prompt; found 'text'"):
        YTuning(init="text")
