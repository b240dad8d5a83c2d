"""The loss over answers to choose among, against ranking's scores and formulas."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.data.choices import ChoiceWriter, answer_tokens
from spot_jax.data.examples import Example
from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.losses import choice_loss
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.subspace_finding import SubspaceFinding
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import init_params
from spot_jax.t5.scoring import rank_candidates
from spot_jax.training.step import gradient_function

CONFIG = T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
RNG = np.random.default_rng(0)
# Four rows of two or three answers of one to three tokens.
CANDIDATES = np.zeros((4, 3, 3), np.int32)
for row, lengths in zip(CANDIDATES, [(1, 2, 0), (3, 1, 2), (2, 2, 0), (1, 3, 3)], strict=True):
    for answer, length in zip(row, lengths, strict=True):
        answer[:length] = [*RNG.integers(2, 32, length - 1), 1] if length else []
RIGHT = np.array([1, 0, 0, 2], np.int32)
TARGETS = CANDIDATES[np.arange(4), RIGHT]
BATCH = {
    "encoder_input_tokens": RNG.integers(2, 32, (4, 5)).astype(np.int32),
    "decoder_input_tokens": np.pad(TARGETS[:, :-1], ((0, 0), (1, 0))),
    "decoder_target_tokens": TARGETS,
    "decoder_loss_weights": (TARGETS > 0).astype(np.float32),
    "candidate_tokens": CANDIDATES,
    "candidate_target": RIGHT,
}


@pytest.fixture(scope="module")
def params():
    return init_params(jax.random.key(0), CONFIG)


@pytest.mark.parametrize("kind", ["cross_entropy", "hinge"])
def test_it_is_the_formula_over_rankings_scores(params, kind):
    options = {"normalise": kind == "hinge"}
    ranked = jax.jit(lambda p: rank_candidates(p, CONFIG, tokens, CANDIDATES, **options))
    tokens = jnp.asarray(BATCH["encoder_input_tokens"])
    scores = np.asarray(ranked(params), np.float64)
    expected, hits = [], 0
    for row, right in zip(scores, RIGHT, strict=True):
        finite = np.isfinite(row)
        hits += int(row.argmax() == right)
        if kind == "cross_entropy":
            expected.append(np.log(np.exp(row[finite]).sum()) - row[right])
            continue
        wrong = [row[c] for c in range(3) if finite[c] and c != right]
        expected.append(sum(max(0.0, 0.4 + score - row[right]) for score in wrong))
    loss, metrics = choice_loss(params, CONFIG, BATCH, None, kind=kind, margin=0.4)
    assert float(loss) == pytest.approx(sum(expected), rel=1e-5)
    assert float(metrics["loss"][0]) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(metrics["accuracy"][0]) == hits / 4
    if kind == "hinge":
        assert 0 < sum(value == 0 for value in expected) < 4 or max(expected) > 0


@pytest.mark.slow
def test_parts_and_several_prompts_have_the_gradient_of_each_alone(params):
    backbone = Backbone(CONFIG, params, "", None)
    method = PromptTuning(2, "uniform", choice_loss="hinge", margin=3.0)
    batch = dict(BATCH)
    prompts = np.tile(np.arange(CONFIG.vocab_size, CONFIG.vocab_size + 2), (4, 1))
    batch["encoder_input_tokens"] = np.concatenate([prompts, batch["encoder_input_tokens"]], axis=1)

    def run(tasks, batch, parts, keep=slice(None)):
        program = Program.of(method, backbone, [Task(str(i)) for i in range(tasks)])
        keys = jax.random.split(jax.random.key(5), 2)[keep]
        trees = program.init(keys, backbone)
        return jax.jit(gradient_function(program, parts))(*trees, batch, None)

    loss, metrics, whole = run(1, batch, 1, slice(0, 1))
    summed = run(1, batch, 2, slice(0, 1))
    np.testing.assert_allclose(summed[2]["prompt"], whole["prompt"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(summed[1]["loss"], metrics["loss"], rtol=1e-5)
    assert np.abs(whole["prompt"]).max() > 0
    twice = {name: np.concatenate([x, x]) for name, x in batch.items()}
    twice["row_prompt"] = np.repeat(np.arange(2, dtype=np.int32), 4)
    twice["row_number"] = np.tile(np.arange(4, dtype=np.int32), 2)
    second = twice["encoder_input_tokens"]
    second[4:][second[4:] >= CONFIG.vocab_size] += 2
    together = run(2, twice, 1)
    np.testing.assert_allclose(together[2]["prompt"][0], whole["prompt"][0], rtol=1e-4, atol=1e-6)


def test_answers_stand_in_batches_with_the_right_ones_number():
    vocabulary = types.SimpleNamespace(encode=lambda text: [int(x) for x in text.split()])
    answers = answer_tokens(vocabulary, ["5 6", "7"])
    np.testing.assert_array_equal(answers, [[5, 6, 1], [7, 1, 0]])
    pair = Example(np.array([3, 1], np.int32), np.array([7, 1], np.int32), choices=answers)
    features = ChoiceWriter((3, 4)).features([pair])
    assert features["candidate_tokens"].shape == (1, 3, 4)
    assert features["candidate_target"].tolist() == [1]
    assert ChoiceWriter((2, 3), answers).features([pair])["candidate_target"].tolist() == [1]
    for odd in ([7, 8, 1], [7, 1, 5, 6]):
        strange = Example(np.array([3, 1], np.int32), np.array(odd, np.int32), choices=answers)
        with pytest.raises(SpotError, match="none of them; correct the task's labels or choices"):
            ChoiceWriter((3, 3)).features([strange])


def test_a_loss_that_cannot_be_is_one_line():
    with pytest.raises(SpotError, match="PromptTuning.choice_loss is 'max'"):
        _ = PromptTuning(2, choice_loss="max").chooses
    with pytest.raises(SpotError, match="SubspaceFinding has a loss of its own"):
        _ = dataclasses.replace(SubspaceFinding(["a", "b"], 2), choice_loss="hinge").chooses
