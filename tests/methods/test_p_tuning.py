"""P-Tuning: encoders against PyTorch's, gradients, counts, folding, prompts in a text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from method_cases import backbone_of, begin, from_rows

from spot_jax.data.batches import Batches, BatchShape, evaluation_batches
from spot_jax.data.examples import Examples
from spot_jax.data.multi_prompt import MultiPromptBatches
from spot_jax.data.sources import Shuffled
from spot_jax.data.virtual_tokens import TemplateTokens
from spot_jax.errors import SpotError
from spot_jax.methods.base import StoredPrompt, Task
from spot_jax.methods.p_tuning import ENCODER, PTuning
from spot_jax.methods.prompt_encoder import KINDS, PromptEncoder, bidirectional
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.config import T5Config, parameter_shapes

CONFIG = T5Config(
    vocab_size=64,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
P, PLACE, CUT = 3, 60, 61
# LSTMs take a second each to compile, and PyTorch says already that they are right.
ENCODERS = [
    pytest.param(kind, marks=pytest.mark.slow) if "lstm" in kind else kind for kind in KINDS
]


def random_params():
    rng, flat = np.random.default_rng(0), {}
    for name, shape in parameter_shapes(CONFIG).items():
        scale = shape[0] ** -0.5 if len(shape) > 1 else 1.0
        flat[name] = (rng.normal(size=shape) * scale).astype(np.float32)
    flat["token_embedder/embedding"] *= CONFIG.vocab_size**0.5
    return traverse_util.unflatten_dict(flat, sep="/")


def examples(seed, count=12):
    """A text with a field that is cut, an anchor, a place, an anchor and two places."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        text = rng.integers(3, 60, rng.integers(2, 12)).tolist()
        inputs = [CUT, *text, CUT, 7, PLACE, 8, PLACE, PLACE, 1]
        pairs.append((inputs, rng.integers(3, 60, rng.integers(1, 3)).tolist()))
    return Examples.from_lists(pairs)


def batches(index=0, pack=False, seed=0, rows=4):
    packed = {"packed_inputs_length": 40, "packed_targets_length": 12} if pack else {}
    shape = BatchShape(rows, 9, 2, pack=pack, **packed)
    write = TemplateTokens(CONFIG.vocab_size, P, index, PLACE, CUT)
    return Batches(Shuffled(examples(seed), seed), shape, write=write)


def begun(encoder, seeds=(0,), **options):
    method = PTuning(length=P, encoder=encoder, **options)
    keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
    return begin(method, random_params(), CONFIG, len(seeds), keys)


def table_of(program, trainable):
    """[n * p, d]: prompt i's rows are i * p to (i + 1) * p - 1."""
    count = program.num_prompts
    return program.method.adapt_batch(trainable, {}, CONFIG, {}, count).table


@functools.lru_cache
def compiled(method):
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True))


def value_and_grad(method, *arguments):
    return compiled(method)(*arguments, None)


@pytest.fixture(scope="module")
def mlp():
    """One method for all, as every method compiles its own loss."""
    return begun("mlp")


def close(actual, expected, relative=1e-5):
    for leaf, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        difference = np.abs(np.asarray(leaf) - np.asarray(wanted)).max()
        assert difference <= relative * np.abs(np.asarray(wanted)).max()


def test_the_lstm_and_its_gradients_are_torchs():
    torch = pytest.importorskip("torch")
    steps, read, hidden = 5, 6, 4
    rng = np.random.default_rng(0)
    theirs = torch.nn.LSTM(read, hidden, num_layers=2, bidirectional=True)
    rows = rng.normal(size=(steps, read)).astype(np.float32)
    weights = rng.normal(size=(steps, 2 * hidden)).astype(np.float32)
    names = {"input": "weight_ih", "hidden": "weight_hh"}
    names |= {"input_bias": "bias_ih", "hidden_bias": "bias_hh"}

    def ours(take):
        def cell(layer, way):
            end = f"_l{layer}{'_reverse' if way == 'backward' else ''}"
            arrays = {name: take(getattr(theirs, t + end)) for name, t in names.items()}
            return {k: v.T if v.ndim == 2 else v[None] for k, v in arrays.items()}

        return [{way: cell(i, way) for way in ("forward", "backward")} for i in (0, 1)]

    def out(cells, rows):
        for cell in cells:
            rows = bidirectional(cell, rows)
        return rows

    tensor = torch.tensor(rows, requires_grad=True)
    expected = theirs(tensor)[0]
    (expected * torch.tensor(weights)).sum().backward()
    cells = ours(lambda x: x.detach().numpy())
    close(out(cells, rows), expected.detach().numpy(), 1e-4)
    grads = jax.grad(lambda c, r: jnp.sum(out(c, r) * weights), (0, 1))(cells, rows)
    close(grads[0], ours(lambda x: x.grad.numpy()), 1e-4)
    close(grads[1], tensor.grad.numpy(), 1e-4)


@pytest.mark.parametrize(("length", "width"), [(9, 8), (3, 512)])
def test_trained_numbers_are_the_published_sizes(length, width):
    def count(kind):
        shape = PromptEncoder(kind, length, width)
        rows = jnp.zeros((length, width))
        tree = jax.eval_shape(shape.init, jax.random.key(0), rows)
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    def lstm(read, hidden):
        both_layers = (read + hidden + 2) + (2 * hidden + hidden + 2)
        return 2 * 4 * hidden * both_layers

    embedding, linear = length * width, width * width + width
    assert count("identity") == embedding
    assert count("mlp") == embedding + 2 * linear
    assert count("lstm") == embedding + lstm(width, width // 2) + 2 * linear
    wide = 2 * width * width + width + linear
    assert count("lstm_wide") == embedding + lstm(width, width) + wide
    assert lstm(width, width // 2) == 12 * width**2 + 16 * width


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoders_gradient_is_finite_differences(encoder):
    shape, rng = PromptEncoder(encoder, P, 8), np.random.default_rng(0)
    tree = shape.init(jax.random.key(0), jnp.asarray(rng.normal(size=(P, 8)), jnp.float32))
    weights = rng.normal(size=(P, 8))
    ways = jax.tree.map(lambda x: rng.normal(size=x.shape), tree)
    grad = jax.grad(lambda t: jnp.sum(shape(t) * weights.astype(np.float32)))(tree)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), tree)

        def along(t):
            moved = jax.tree.map(lambda x, way: x + t * way, exact, ways)
            return float(jnp.sum(shape(moved) * weights))

        numeric = (along(1e-5) - along(-1e-5)) / 2e-5
    pairs = zip(jax.tree.leaves(grad), jax.tree.leaves(ways), strict=True)
    analytic = sum(np.sum(np.asarray(g, np.float64) * way) for g, way in pairs)
    assert analytic == pytest.approx(numeric, rel=1e-4)


def test_the_loss_reaches_the_encoder_through_the_table_that_is_exported(mlp):
    """What a prompt's gradient is, test_losses has from Google's code."""
    method, trainable, frozen = mlp
    batch = next(batches())
    (loss, _), grad = value_and_grad(method, trainable, frozen, batch)
    assert list(grad) == [ENCODER]
    table, back = jax.vjp(lambda t: table_of(method, t), trainable)
    tasks = from_rows(np.asarray(table))
    plain, prompt, backbone = begin(PromptTuning(P), random_params(), CONFIG, tasks)
    (expected, _), outer = value_and_grad(plain, prompt, backbone, batch)
    close((loss, grad), (expected, back(outer["prompt"][0])[0]))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_exported_table_is_what_training_reads(encoder):
    method, trainable, frozen = begun(encoder, (3, 4))
    table = table_of(method, trainable)
    for i in range(2):
        rows = table[i * P : (i + 1) * P]
        np.testing.assert_allclose(method.file(trainable, frozen, i).rows, rows, atol=1e-6)
        inference = method.infer(trainable, frozen, i)
        np.testing.assert_allclose(inference.table, rows, atol=1e-6)
        assert inference.params == frozen


def test_the_backbone_is_frozen_or_all_of_it_is_tuned(mlp):
    method, trainable, frozen = mlp
    params = random_params()
    assert set(trainable) == {ENCODER} and set(frozen) == set(params)
    jax.tree.map(np.testing.assert_array_equal, frozen, params)
    method, trainable, frozen = begun("mlp", tune_backbone=True)
    batch = next(batches())
    assert frozen == {} and set(trainable) == {ENCODER, *params} and method.method.tunes_backbone
    grad, _ = jax.eval_shape(jax.grad(method.loss, has_aux=True), trainable, {}, batch, None)
    assert jax.tree.map(jnp.shape, grad) == jax.tree.map(jnp.shape, trainable)
    assert set(method.infer(trainable, frozen, 0).params) == set(params)
    with pytest.raises(SpotError, match="tunes one prompt a run, found 2"):
        begun("mlp", (0, 1), tune_backbone=True)


def test_packed_equals_unpacked_with_virtual_tokens_inside_the_text(mlp):
    method, trainable, frozen = mlp
    packed = batches(pack=True)
    batch = next(packed)
    assert batch["encoder_segment_ids"].max(axis=1).min() >= 2
    tokens = batch["encoder_input_tokens"]
    assert np.isin([7, 8], tokens).all() and not np.isin([PLACE, CUT], tokens).any()
    together = value_and_grad(method, trainable, frozen, batch)
    source, shape = Shuffled(examples(0), 0), BatchShape(4, 9, 2)
    pairs = Examples.from_lists([source.next() for _ in range(packed.examples)])
    parts = [
        value_and_grad(
            method, trainable, frozen, {k: v for k, v in unpacked.items() if k != "row_valid"}
        )
        for unpacked in evaluation_batches(pairs, shape, packed.write)
    ]
    assert len(parts) > 1
    close(together[0][0], sum(loss for (loss, _), _ in parts))
    close(together[1], jax.tree.map(lambda *grads: sum(grads), *(grad for _, grad in parts)), 1e-4)


def test_several_prompts_are_each_as_alone(mlp):
    seeds = (0, 1, 2)
    method, trainable, frozen = begun("mlp", seeds)
    together = MultiPromptBatches([batches(i, seed=seed) for i, seed in enumerate(seeds)])
    (_, metrics), grad = value_and_grad(method, trainable, frozen, next(together))
    for i, seed in enumerate(seeds):
        alone = begun("mlp", (seed,))[1]
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y[0]), trainable, alone)
        (_, alone_metrics), expected = value_and_grad(
            mlp[0], alone, mlp[2], next(batches(seed=seed))
        )
        close(jax.tree.map(lambda x, i=i: x[i : i + 1], grad), expected)
        close(metrics["loss"][i], alone_metrics["loss"][0])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_encoder_is_kept_beside_and_gone_on_with(encoder, tmp_path):
    method, trainable, frozen = begun(encoder, (0, 5))
    file = method.file(trainable, frozen, 1, backbone="mark")
    others = method.companions(trainable, frozen, 1, file)
    assert set(others) == (set() if encoder == "identity" else {"encoder"})
    for name, stored in {"prompt": file, **others}.items():
        stored.save(tmp_path / name)
        source = StoredPrompt(name, load_prompt(tmp_path / name, backbone="mark"))
        keys = jax.random.split(jax.random.key(9), 1)
        tasks = [Task(source=source)]
        again, tree, _ = begin(PTuning(length=P), random_params(), CONFIG, tasks, keys)
        assert again.method.encoder == (encoder if name == "encoder" else "identity")
        np.testing.assert_allclose(again.file(tree, frozen, 0).rows, file.rows, atol=1e-6)
        if name == "encoder":
            mine = jax.tree.map(lambda x: x[1:], trainable)
            jax.tree.map(np.testing.assert_array_equal, tree, mine)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(SpotError, match="encoder is 'gru'; choose lstm, lstm_wide, mlp, identity"):
        begun("gru")
    with pytest.raises(SpotError, match="PTuning.length is 0; give a whole number from 1"):
        PTuning(length=0).resolve(backbone_of({}, CONFIG), [Task()])
    with pytest.raises(SpotError, match="9 is odd"):
        PromptEncoder("lstm", P, 9)
    method, trainable, frozen = begun("mlp")
    file = method.file(trainable, frozen, 0)
    (encoder,) = method.companions(trainable, frozen, 0, file).values()
    with pytest.raises(SpotError, match=r"tokens of shape \[3, 8\] where \[4, 8\] belongs"):
        tasks = [Task(source=StoredPrompt("encoder", encoder))]
        begin(PTuning(length=4), random_params(), CONFIG, tasks)
