"""A batch in parts: the step of the whole batch, whatever the loss divides by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.subspace_finding import SubspaceFinding
from spot_jax.training.build import RunParts
from spot_jax.training.config import StoredBackbone
from spot_jax.training.optimizers import AdamW
from spot_jax.training.sharding import MeshShape, make_mesh
from spot_jax.training.step import _parts, check_divisible_loss, gradient_function


@pytest.mark.parametrize("pack", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("per_token", "count"), [pytest.param(False, 1, marks=pytest.mark.slow), (True, 2)]
)
def test_the_gradient_of_parts_is_the_whole_batchs(tiny, pack, per_token, count):
    """To 1e-6 of the largest number: float32 sums in another order, with dropout and without."""
    packed = {"pack": True, "packed_lengths": {"inputs": 32, "targets": 6}} if pack else {}
    parts = RunParts.make(
        StoredBackbone(tiny.backbone, dropout_rate=0.1),
        PromptTuning(4, "sampled_vocabulary", per_token=per_token),
        tiny.data(**packed),
        AdamW(),
        list(range(count)),
        make_mesh(MeshShape(1, 1)),
    )
    batch = {name: jnp.asarray(x) for name, x in next(parts.batches).items()}
    for keys in (None, jax.vmap(jax.random.key)(jnp.arange(count))):
        results = []
        for microbatches in (1, 4):
            gradients = jax.jit(gradient_function(parts.program, microbatches))
            results.append(gradients(*parts.trees, batch, keys))
        for whole, summed in zip(*map(jax.tree.leaves, results), strict=True):
            assert np.max(np.abs(whole - summed)) <= 1e-6 * np.max(np.abs(whole))


@pytest.mark.parametrize("pack", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("per_token", "count"), [pytest.param(False, 1, marks=pytest.mark.slow), (True, 2)]
)
def test_steps_in_parts_are_those_of_whole_batches(tiny, tmp_path, pack, per_token, count):
    """To 1e-5: an optimizer divides by small gradients, which lets their last digits show."""
    packed = {"pack": True, "packed_lengths": {"inputs": 32, "targets": 6}} if pack else {}
    options = {
        "data": tiny.data(**packed),
        "method": PromptTuning(4, "sampled_vocabulary", per_token=per_token),
        # Its update is not of the gradient's direction alone, so that its size counts too.
        "optimizer": AdamW(0.1, weight_decay=0.0, max_norm=0.5),
        "seeds": list(range(count)),
    }
    whole = tiny.train(tmp_path / "whole", 3, **options)
    parts = tiny.train(tmp_path / "parts", 3, **options, num_microbatches=4)
    for a, b in zip(whole.prompts, parts.prompts, strict=True):
        np.testing.assert_allclose(load_prompt(a).rows, load_prompt(b).rows, atol=1e-5)


def test_parts_hold_every_row_once_and_as_many_of_each_prompt():
    rows = np.arange(12)
    batch = {"encoder_input_tokens": jnp.asarray(rows[:, None]), "row_prompt": rows // 6}
    parts = jax.tree.map(np.asarray, _parts(batch, 2, 3))
    assert parts["encoder_input_tokens"].shape == (3, 4, 1)
    assert sorted(parts["encoder_input_tokens"].ravel()) == list(rows)
    for part in range(3):
        prompts = parts["row_prompt"][part].tolist()
        assert prompts == [0, 0, 1, 1]
        numbers = parts["encoder_input_tokens"][part, :, 0] % 6
        np.testing.assert_array_equal(parts["row_number"][part], numbers)


def test_what_cannot_be_parted_is_refused(tiny, tmp_path):
    with pytest.raises(SpotError, match="num_microbatches is 3, but a batch has 8 rows"):
        tiny.train(tmp_path / "run", 1, num_microbatches=3)
    with pytest.raises(SpotError, match="the loss of SubspaceFinding is of a whole batch"):
        check_divisible_loss(SubspaceFinding(["a", "b"], dim=3), 2)
