"""Predictions, loss and metrics on a split, alone, on a mesh, and by several prompts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spot_jax.errors import SpotError
from spot_jax.evaluation import evaluate as module
from spot_jax.evaluation.ensemble import ensemble_predictions, evaluate_ensemble
from spot_jax.evaluation.evaluate import Search, evaluate, predict
from spot_jax.metrics import accuracy, macro_f1
from spot_jax.t5.config import T5Config
from spot_jax.t5.decoding import beam_search, greedy
from spot_jax.t5.model import init_params
from spot_jax.t5.scoring import sequence_log_likelihood

CONFIG = T5Config(
    vocab_size=30,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
LABELS = ("good", "bad", "so so")
MEMBERS, ROWS = 3, 2


class Letters:
    """A vocabulary of letters: a is 3."""

    def encode(self, text):
        return [ord(letter) - 94 for letter in text if letter != " "]

    def decode(self, ids):
        ids = list(ids)
        ids = ids[: ids.index(1)] if 1 in ids else ids
        return "".join(chr(i + 94) if i > 2 else "?" for i in ids if i)


@functools.cache
def model():
    table = 3.0 * jax.random.normal(jax.random.key(5), (MEMBERS * ROWS, CONFIG.emb_dim))
    return init_params(jax.random.key(1), CONFIG), table


@functools.cache
def split(size=8):
    """Eleven examples in batches of eight, the last filled with rows of padding."""
    rng = np.random.default_rng(0)
    texts = rng.integers(3, CONFIG.vocab_size, (11, 5)).astype(np.int32)
    targets = [LABELS[i] for i in rng.integers(0, 3, 11)]
    whole = {
        "encoder_input_tokens": np.zeros((16, ROWS + 5), np.int32),
        "decoder_target_tokens": np.zeros((16, 6), np.int32),
        "row_valid": np.arange(16) < 11,
    }
    whole["encoder_input_tokens"][:11, :ROWS] = CONFIG.vocab_size + np.arange(ROWS)
    whole["encoder_input_tokens"][:11, ROWS:] = texts
    for row, target in enumerate(targets):
        ids = [*Letters().encode(target), 1]
        whole["decoder_target_tokens"][row, : len(ids)] = ids
    decoder = whole["decoder_target_tokens"]
    whole["decoder_input_tokens"] = np.pad(decoder[:, :-1], ((0, 0), (1, 0)))
    whole["decoder_loss_weights"] = (decoder > 0).astype(np.float32)
    batches = [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, 16, size)]
    return whole, batches, targets


def test_ranking_and_loss_are_those_of_the_whole_split():
    (params, table), (whole, batches, targets) = model(), split()
    evaluation = evaluate(
        *(params, CONFIG, batches, Letters(), targets, [accuracy, macro_f1]),
        table=table,
        search=Search(labels=LABELS),
    )
    real = {name: array[:11] for name, array in whole.items()}
    scores = []
    for label in LABELS:
        ids = np.array([*Letters().encode(label), 1], np.int32)
        target = np.tile(ids, (11, 1))
        batch = {
            **real,
            "decoder_target_tokens": target,
            "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
            "decoder_loss_weights": np.ones(target.shape, np.float32),
        }
        scores.append(score(params, CONFIG, batch, table=table))
    expected = [LABELS[i] for i in np.argmax(scores, axis=0)]
    assert evaluation.predictions == expected and len(set(expected)) > 1
    right = sum(a == b for a, b in zip(expected, targets, strict=True))
    assert evaluation.metrics["accuracy"] == pytest.approx(100 * right / 11)
    assert set(evaluation.metrics) == {"accuracy", "macro_f1"}
    total = -float(score(params, CONFIG, real, table=table).sum())
    assert evaluation.loss == pytest.approx(total / real["decoder_loss_weights"].sum(), rel=1e-5)


@pytest.mark.parametrize("search", [Search(labels=LABELS), Search()], ids=["ranked", "written"])
def test_rows_in_another_order_are_put_back(search):
    (params, table), (whole, batches, _) = model(), split()
    order = np.random.default_rng(1).permutation(16)
    shuffled = {name: array[order] for name, array in whole.items()} | {"row_number": order}
    turned = [{name: array[i : i + 8] for name, array in shuffled.items()} for i in (0, 8)]
    options = {"table": table, "search": search, "with_aux": True}
    expected = predict(params, CONFIG, batches, Letters(), **options)
    actual = predict(params, CONFIG, turned, Letters(), **options)
    assert actual.texts == expected.texts and len(set(expected.texts)) > 1
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(actual.aux["scores"], expected.aux["scores"], rtol=1e-5)
    assert actual.loss == pytest.approx(expected.loss, rel=1e-5)


score = jax.jit(sequence_log_likelihood, static_argnums=1)


@pytest.mark.parametrize("beams", [1, 3])
def test_written_text_is_that_of_the_search(beams):
    (params, table), (whole, batches, _) = model(), split()
    inputs = whole["encoder_input_tokens"]
    search = Search(beams=beams, max_length=4)
    texts = predict(params, CONFIG, batches, Letters(), table=table, search=search).texts
    if beams == 1:
        tokens = jax.jit(greedy, static_argnames=("config", "max_length"))(
            params, CONFIG, inputs, table=table, max_length=4
        )
    else:
        names = ("config", "max_length", "beams")
        tokens = jax.jit(beam_search, static_argnames=names)(
            params, CONFIG, inputs, table=table, max_length=4, beams=beams
        )[0][:, 0]
    assert texts == [Letters().decode(row) for row in tokens[:11].tolist()]
    assert len(set(texts)) > 1


def test_a_second_evaluation_compiles_nothing():
    (params, table), (_, batches, _) = model(), split()
    module._predict_batch.jitted.clear_cache()
    for scale in (1.0, 2.0):
        predict(
            *(params, CONFIG, batches, Letters()),
            table=scale * table,
            search=Search(labels=LABELS),
        )
    assert module._predict_batch.jitted._cache_size() == 1


def test_a_mesh_predicts_the_same():
    (params, table), (_, batches, targets) = model(), split()
    mesh = Mesh(np.array(jax.devices()).reshape(8, 1), ("data", "model"), (AxisType.Auto,) * 2)
    rows, same = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    arguments = (CONFIG, batches, Letters(), targets, [accuracy])
    search = Search(labels=LABELS)
    alone = evaluate(params, *arguments, table=table, search=search)
    meshed = evaluate(
        jax.device_put(params, same),
        *arguments,
        table=jax.device_put(table, same),
        search=search,
        place=lambda batch: jax.device_put(batch, rows),
    )
    assert meshed.predictions == alone.predictions
    assert meshed.loss == pytest.approx(alone.loss, rel=1e-5)


@pytest.mark.slow
def test_an_ensemble_holds_what_each_prompt_gives_alone():
    (params, table), (_, batches, targets) = model(), split()
    arguments = (params, CONFIG, batches, Letters(), targets, [accuracy])
    search = Search(labels=LABELS)
    together = evaluate_ensemble(*arguments, table=table, members=MEMBERS, search=search)
    alone = [
        evaluate(*arguments, table=prompt, search=search)
        for prompt in table.reshape(MEMBERS, ROWS, -1)
    ]
    assert together.member_predictions == [result.predictions for result in alone]
    assert together.members == [result.metrics for result in alone]
    assert together.loss == pytest.approx(np.mean([result.loss for result in alone]), rel=1e-5)
    assert together.predictions == ensemble_predictions([result.predictions for result in alone])
    assert together.metrics == accuracy(targets, together.predictions)
    assert len({tuple(texts) for texts in together.member_predictions}) == MEMBERS


def test_votes():
    assert ensemble_predictions([["a", "a"], ["b", "b"], ["b", "c"]]) == ["b", "a"]
    assert ensemble_predictions([["c", "d"]]) == ["c", "d"]
    with pytest.raises(SpotError, match="same examples"):
        ensemble_predictions([["a"], ["a", "b"]])
    with pytest.raises(SpotError, match="found none"):
        ensemble_predictions([])


def test_mistakes_are_told_in_one_line():
    (params, table), (_, batches, targets) = model(), split()

    def run(labels=LABELS, targets=targets, metrics=(accuracy,), batches=batches):
        search = Search(labels=labels)
        evaluate(
            *(params, CONFIG, batches, Letters(), targets, metrics), table=table, search=search
        )

    with pytest.raises(SpotError, match="found 'goood'.*nearest: 'good'"):
        run(targets=["goood"])
    with pytest.raises(SpotError, match="'so so' and 'soso'"):
        run(labels=(*LABELS, "soso"))
    with pytest.raises(SpotError, match="11 predictions for 10 targets"):
        run(targets=targets[:10])
    with pytest.raises(SpotError, match="two 'accuracy'"):
        run(metrics=[accuracy, accuracy])
    with pytest.raises(SpotError, match="6 rows"):
        evaluate_ensemble(
            *(params, CONFIG, batches, Letters(), targets, [accuracy]), table=table, members=4
        )


@pytest.mark.slow
def test_bfloat16_activations_and_no_prompt():
    (params, _), (_, batches, _) = model(), split()
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    plain = [
        {**batch, "encoder_input_tokens": batch["encoder_input_tokens"][:, ROWS:]}
        for batch in batches
    ]
    rounded = predict(params, config, plain, Letters(), search=Search(labels=LABELS))
    exact = predict(params, CONFIG, plain, Letters(), search=Search(labels=LABELS))
    assert len(rounded.texts) == 11
    assert jnp.allclose(rounded.loss, exact.loss, rtol=0.05)
