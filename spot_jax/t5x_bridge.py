"""Our methods as a model of T5X's, for its trainer, evaluator, partitioner and checkpoints.

    from spot_jax import t5x_bridge

    MODEL = @t5x_bridge.PromptedModel()

in a gin file of T5X's own (`gin_configs/t5x`). T5X's parameters are the trainable tree of one
prompt and nothing else: its optimizer, gradients and checkpoints never see the frozen T5, which
the model holds.

T5X is no dependency of this package: the module imports without it, and `PromptedModel` says in
one line that it is missing.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.linen.partitioning import AxisMetadata
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from spot_jax.data import loading
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.errors import SpotError
from spot_jax.methods.base import Inference, Method, Task
from spot_jax.methods.losses import Batch, Tree
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5 import decoding, scoring
from spot_jax.t5.importing import open_source
from spot_jax.t5.target import tracing_for
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.build import AnyBackbone, init_keys, loaded_on, on_mesh
from spot_jax.training.sharding import MeshShape, make_mesh, path_of

_missing = ""
try:
    import clu.metrics
    from t5x import metrics as t5x_metrics
    from t5x import models
except ModuleNotFoundError as error:
    _missing = error.name or "t5x"

EMBEDDED_BYTES = 2**27
"""Largest T5 that runs without JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS=1 in the environment."""

_Base: Any = object if _missing else models.BaseTransformerModel


class PromptedModel(_Base):
    """One prompt on a frozen T5, as T5X trains, evaluates and infers with a model.

    Attributes:
        program: the method on its backbone, for its task.
        mesh: mesh of T5X's partitioner, on which the frozen T5 lies.
    """

    FEATURE_CONVERTER_CLS = None if _missing else models.EncoderDecoderModel.FEATURE_CONVERTER_CLS

    def __init__(
        self,
        backbone: AnyBackbone,
        method: Method,
        task: str,
        optimizer_def: Any = None,
        partitioner: Any = None,
        seed: int = 0,
    ):
        """Load the backbone and begin the prompt.

        Args:
            backbone: T5 that stays as it is, such as a `StoredBackbone`.
            method: method of spot_jax, with its weights of the loss.
            task: seqio task or mixture, whose vocabulary is exchanged for the backbone's in
                seqio's registry, and whose labels some prompts begin with.
            optimizer_def: optimizer of T5X's, such as its `adafactor.Adafactor`; None to infer.
            partitioner: partitioner of T5X's, of the same settings as that of the run; None for
                a mesh of all devices whose weights are whole on each.
            seed: seed of what the prompt begins with, as SEEDS of `spot train`. T5X's own seed
                draws dropout.

        Raises:
            SpotError: T5X is not installed, a method or task that it cannot run, or a large T5 and
                no JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS=1 in the environment.
        """
        if _missing:
            raise SpotError(
                f"t5x_bridge.PromptedModel needs {_missing}, which is not installed; install T5X "
                "from https://github.com/google-research/t5x with its dependencies, or use spot "
                "train, which needs neither"
            )
        _check_method(method)
        _check_optimizer(optimizer_def)
        self.mesh = make_mesh(MeshShape()) if partitioner is None else partitioner.mesh
        loaded = loaded_on(backbone, self.mesh)
        if loaded.vocabulary_path is None:
            raise SpotError(
                "the backbone has no vocabulary, which T5X's tasks need; convert it with one: "
                "spot convert SOURCE DEST --vocabulary FILE"
            )
        vocabulary = Vocabulary(loaded.vocabulary_path)
        seqio_vocabulary = loading.use_vocabulary(task, vocabulary)
        sources = method.sources(loaded, 1)
        about = Task(
            task, loading.labels_of(task) or (), vocabulary, None if sources is None else sources[0]
        )
        self.program = Program.of(method, loaded, [about])
        trainable, frozen = self.program.init(init_keys([seed], None), loaded)
        self._first = jax.device_get(_as_params(method.part_of(trainable, 0)))
        self._frozen = jax.tree.map(lambda leaf: on_mesh(leaf, self.mesh), frozen)
        _check_hoisting(self._frozen)
        self._marks = loaded.fingerprint, vocabulary.sha256, seed
        self._virtual = VirtualTokens(
            loaded.config.vocab_size, self.program.prompt_length(trainable, frozen)
        )
        super().__init__(None, seqio_vocabulary, seqio_vocabulary, optimizer_def)

    def get_initial_variables(
        self,
        rng: Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return `params`, float32, and the names of their axes: all replicated.

        Args:
            rng: not used; see `seed`.
            input_shapes: shape of each feature of a batch.
            input_types: dtype of each.
        """
        params = jax.tree.map(jnp.asarray, self._first)
        return flax.core.freeze({"params": params, "params_axes": _axes(params)})

    def loss_fn(
        self, params: Tree, batch: Batch, dropout_rng: Array | None
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """Return the method's loss, whose gradient T5X takes in `params`, and T5X's metrics.

        Args:
            params: trainable tree, as `get_initial_variables` names it.
            batch: features of T5X's encoder-decoder models, int32 [b, t] and [b, u].
            dropout_rng: random key; None for no dropout.

        Raises:
            SpotError: packed batches.
        """
        keys = None
        if dropout_rng is not None and self.program.config.dropout_rate > 0:
            keys = _typed(dropout_rng)[None]
        with tracing_for(self.mesh, divided=True):
            loss, values = self.program.loss(
                self._trainable(params), self._frozen, self._with_prompt(batch), keys
            )
        return loss, _t5x_metrics(loss, {k: v[0] for k, v in values.items()}, batch)

    def predict_batch_with_aux(
        self, params: Tree, batch: Batch, rng: Array | None = None
    ) -> tuple[Int[Array, "b u"], dict[str, Array]]:
        """Return greedily written tokens, int32, and their log-likelihoods as `scores` [b].

        Args:
            params: trainable tree.
            batch: features; the targets say no more than the greatest length.
            rng: not used.
        """
        inference, rows = self._inference(params), self._with_prompt(batch)
        tokens = decoding.greedy(
            inference.params,
            self.program.config,
            rows["encoder_input_tokens"],
            max_length=batch["decoder_input_tokens"].shape[1],
            table=inference.table,
        )
        written = {
            **rows,
            "decoder_input_tokens": jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": tokens,
            "decoder_loss_weights": (tokens > 0).astype(jnp.float32),
        }
        return tokens, {"scores": self._log_likelihood(inference, written)}

    def score_batch(
        self, params: Tree, batch: Batch, return_intermediates: bool = False
    ) -> Float[Array, " b"]:
        """Return the log-likelihood of each row's targets; `SpotError` for intermediates."""
        if return_intermediates:
            raise SpotError(
                "t5x_bridge scores targets alone; leave return_intermediates of infer.py out"
            )
        return self._log_likelihood(self._inference(params), self._with_prompt(batch))

    def prompt_file(self, checkpoint: epath.PathLike) -> PromptFile:
        """Return what T5X stored as a file of ours, to be saved, used by `spot` and begun from.

        A checkpoint with rows of virtual tokens needs none: it is itself taken for a prompt.

        Args:
            checkpoint: directory `checkpoint_STEP` that T5X wrote, native or orbax.

        Raises:
            SpotError: no checkpoint, or of another method or other settings.
        """
        source = open_source(checkpoint)
        stored = {**source.tensors, **source.prompts}

        def read(path: Any, leaf: np.ndarray) -> np.ndarray:
            tensor = stored.get(path_of(path))
            if tensor is None or tensor.shape != leaf.shape:
                raise SpotError(
                    f"{checkpoint}: expected {path_of(path)} of shape {list(leaf.shape)}, found "
                    f"{'none' if tensor is None else list(tensor.shape)}; give the checkpoint of "
                    "a run of this method with these settings"
                )
            return tensor.read().astype(np.float32)

        params = jax.tree_util.tree_map_with_path(read, self._first)
        backbone, vocabulary, seed = self._marks
        name = self.program.tasks[0].name
        step = re.search(r"checkpoint_(\d+)$", str(source.path))
        file = self.program.file(
            self._trainable(params),
            self._frozen,
            0,
            backbone=backbone,
            vocabulary=vocabulary,
            task=name,
            tasks=loading.constituents(name),
            step=int(step[1]) if step else 0,
            seed=seed,
        )
        assert file is not None  # every method that `_check_method` lets pass stores one
        return file

    def _compute_logits(self, params: Tree, batch: Batch, dropout_rng: Any = None) -> Array:
        raise NotImplementedError("loss_fn and score_batch, which T5X calls, need none")

    def _trainable(self, params: Tree) -> Tree:
        tree = _from_params(flax.core.unfreeze(params))
        if self.program.method.shares_weights:
            return tree
        return jax.tree.map(lambda leaf: leaf[None], tree)

    def _with_prompt(self, batch: Batch) -> dict[str, Array]:
        if "encoder_segment_ids" in batch:
            raise SpotError(
                "t5x_bridge reads batches of one example a row; set pack = False of "
                "train/utils.DatasetConfig and train_eval/utils.DatasetConfig"
            )
        text = batch["encoder_input_tokens"]
        ids = jnp.broadcast_to(self._virtual.ids, (len(text), self._virtual.length))
        # A row of padding, as at the end of a split, stays one.
        ids = jnp.where(jnp.any(text > 0, axis=1, keepdims=True), ids, 0)
        return {**batch, "encoder_input_tokens": jnp.concatenate([ids, text], axis=1)}

    def _inference(self, params: Tree) -> Inference:
        return self.program.infer(self._trainable(params), self._frozen, 0)

    def _log_likelihood(self, inference: Inference, rows: Batch) -> Float[Array, " b"]:
        return scoring.sequence_log_likelihood(
            inference.params, self.program.config, rows, table=inference.table
        )


def _check_method(method: Any) -> None:
    """Raise `SpotError` for a method whose batches or loss T5X does not have."""
    name = type(method).__name__
    plain = isinstance(method, Method) and type(method).batch_loss is Method.batch_loss
    if not plain or method.chooses or method.tunes_backbone or method.templates:
        raise SpotError(
            f"{name} with these settings needs batches, a template or a loss that T5X does not "
            "have, or tunes the T5 itself; run it with spot train"
        )
    if method.placement != "before" or method.copies > 1:
        raise SpotError(
            f"T5X runs one prompt, before the text; run {name} with these settings with spot train"
        )


def _check_optimizer(optimizer_def: Any) -> None:
    """Raise `SpotError` for rules of factors by axes, which a prompt's axes are none of."""
    if getattr(getattr(optimizer_def, "hyper_params", None), "logical_factor_rules", None):
        raise SpotError(
            "adafactor.Adafactor.logical_factor_rules are of a T5's axes; set it to None, and "
            "factored = False as in gin_configs/t5x/prompted_model.gin"
        )


def _check_hoisting(frozen: Tree) -> None:
    """Raise `SpotError` for a large T5 that JAX would write into its compiled programs.

    The model's functions close over the frozen T5. JAX hands that over as an argument if it is
    told to when it is imported.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen))
    hoists = getattr(jax.config, "jax_use_simplified_jaxpr_constants", False)
    if size > EMBEDDED_BYTES and not hoists:
        raise SpotError(
            f"the {size >> 20} MiB of the frozen T5 would be written into the compiled programs; "
            "set JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS=1 in the environment"
        )


def _as_params(tree: Tree) -> Tree:
    """Return a trainable tree by T5X's names; a prompt's is google-research/prompt-tuning's."""
    if tree.keys() == {"prompt"}:
        return {"encoder": {"prompt": {"prompt": tree}}}
    return tree


def _from_params(params: Tree) -> Tree:
    tree = params.get("encoder", {})
    if params.keys() == {"encoder"} and tree.keys() == {"prompt"}:
        return tree["prompt"]["prompt"]
    return params


def _axes(params: Tree) -> Tree:
    """Return the names of each leaf's axes under `NAME_axes`; None is divided over nothing."""
    flat = {
        (*path[:-1], f"{path[-1]}_axes"): AxisMetadata(names=(None,) * leaf.ndim)
        for path, leaf in flatten_dict(params).items()
    }
    return unflatten_dict(flat)


def _typed(key: Array) -> Array:
    """Return a key of T5X's, which are raw, as a typed one of the same generator."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def _t5x_metrics(loss: Array, values: Mapping[str, Array], batch: Batch) -> dict[str, Any]:
    tokens, rows = values["tokens"], jnp.asarray(batch["decoder_target_tokens"].shape[0])
    per_step, average = t5x_metrics.AveragePerStep, clu.metrics.Average
    return {
        "loss": per_step(total=loss),
        "cross_ent_loss": per_step(total=values["loss"] * tokens),
        "cross_ent_loss_per_nonpadding_target_token": average(
            total=values["loss"] * tokens, count=tokens
        ),
        "accuracy": average(total=values["accuracy"] * tokens, count=tokens),
        "timing/seqs_per_second": t5x_metrics.TimeRate.from_model_output(numerator=rows),
        "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
        "timing/seconds": t5x_metrics.Time(),
        "timing/seqs": t5x_metrics.Sum(rows),
    }
