"""A run's own programs, without weights or data: shapes on a mesh, ready to be compiled."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.data_source import DataSource
from spot_jax.data.examples import Examples
from spot_jax.data.multi_prompt import MultiPromptBatches
from spot_jax.data.sources import Shuffled
from spot_jax.data.virtual_tokens import input_writer
from spot_jax.errors import SpotError
from spot_jax.evaluation import evaluate
from spot_jax.methods.base import BaseMethod, Task
from spot_jax.methods.program import Program
from spot_jax.t5.backbone import Backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.int8 import INT8, scale_name, scale_shapes
from spot_jax.t5.model import stack_layers
from spot_jax.t5.target import tracing_for
from spot_jax.training.build import number_of_prompts
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Optimizer, build
from spot_jax.training.sharding import BatchPlacement, MeshShape, tree_shardings
from spot_jax.training.step import init_state, train_step


@dataclasses.dataclass(frozen=True)
class RunShape:
    """What of a run decides its programs.

    Attributes:
        config: shape of the T5, with the run's dtype, dropout, scan and remat.
        parameter_dtype: type of the weights in memory.
        float_dtype: type of what has no integers where `parameter_dtype` is "int8".
        method: method of the run.
        data: lengths and batch size.
        optimizer: optimizer of the run.
        seeds: seeds of the prompts.
        evaluation: plan of the evaluations.
        microbatches: number of parts that a batch is taken in.
    """

    config: T5Config
    parameter_dtype: str
    float_dtype: str
    method: BaseMethod
    data: DataSource
    optimizer: Optimizer
    seeds: tuple[int, ...]
    evaluation: EvaluationPlan
    microbatches: int = 1

    @property
    def lengths(self) -> Mapping[str, int]:
        """Greatest numbers of tokens of text."""
        lengths = self.data.task_feature_lengths
        if lengths is None:
            raise SpotError("a plan reads no data; give TASK_FEATURE_LENGTHS")
        return lengths

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], platform: str, config: T5Config | None = None
    ) -> "RunShape":
        """Return the shape of what `train` is called with.

        Args:
            fields: arguments of `train`.
            platform: platform of the devices, as JAX names it.
            config: shape of the T5 instead of the stored backbone's, which then need not exist.
        """
        backbone, stored = fields["backbone"], "float32"
        if not isinstance(backbone, StoredBackbone):
            raise SpotError("a plan is made for a stored backbone; set INITIAL_CHECKPOINT_PATH")
        if config is None:
            description = backbone.description()
            config, stored = description.config, description.dtype
        config = backbone.suited(platform).of(config)
        seeds = fields.get("seeds", 0)
        method = fields["method"]
        if getattr(method, "init", None) not in (None, "uniform"):
            # How a prompt begins does not change the programs.
            method = dataclasses.replace(method, init="uniform")
        return cls(
            config,
            backbone.parameter_dtype or ("float32" if stored == "mixed" else stored),
            stored if stored == "bfloat16" else "float32",
            method,
            fields["data"],
            fields["optimizer"],
            (seeds,) if isinstance(seeds, int) else tuple(seeds),
            fields.get("evaluation") or EvaluationPlan(),
            int(fields.get("num_microbatches", 1)),
        )


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program that can be compiled.

    Attributes:
        lowered: program as `jax.jit(...).lower` gives it.
        jaxpr: trace of the program.
    """

    lowered: Any
    jaxpr: Any


def mesh_of(devices: Sequence[Any], shape: MeshShape) -> Mesh:
    """Return the mesh over all devices of a slice; `SpotError` if the shape does not fill it."""
    count = len(devices)
    data = count // shape.model if shape.data is None else shape.data
    if data * shape.model != count:
        raise SpotError(f"a mesh of {data}x{shape.model} does not fill {count} chips")
    return Mesh(
        np.asarray(devices).reshape(data, shape.model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


class Programs:
    """The programs of a run on a mesh.

    Attributes:
        weights: bytes of the frozen weights a chip.
        state: bytes of what is trained and of the optimizer's moments a chip.
    """

    def __init__(self, run: RunShape, mesh: Mesh):
        """Trace the run's trees; nothing is compiled or computed.

        Raises:
            SpotError: a mesh that does not divide an axis or the batch, or a method that needs
                values, not shapes, to begin.
        """
        self.run, self.mesh = run, mesh
        method, data = run.method, run.data
        if getattr(method, "chooses", False):
            raise SpotError(
                f"no plan can be made with {type(method).__name__}.choice_loss, as the answers to "
                "choose among are in the data; plan without it, and count a pass of the decoder "
                "for each answer"
            )
        count = number_of_prompts(method, data, run.optimizer, run.seeds)
        names = [*data.names] * (count if len(data.names) == 1 else 1)
        backbone = Backbone(run.config, self._parameters(), "", None)
        tasks = [Task(name, (), None, None) for name in names]
        try:
            self.program = Program.of(method, backbone, tasks)
            keys = jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.zeros(count, jnp.uint32)))
            trees = jax.eval_shape(self._begin, keys, backbone.params)
        except (TypeError, jax.errors.JAXTypeError) as error:
            reason = str(error).splitlines()[0]
            raise SpotError(
                f"no plan can be made for {type(method).__name__}: {reason[:200]}; plan another "
                "method on this backbone"
            ) from error
        self.tx = build(run.optimizer, self.program.num_trained)
        state = jax.eval_shape(lambda t, k: init_state(t, self.tx, k), trees[0], keys)
        self.state_shapes = self._placed(state)
        self.frozen_shapes = self._placed(trees[1])
        self.length = self.program.prompt_length(*trees)
        self.count = count
        self.weights = _bytes_a_chip(self.frozen_shapes)
        self.state = _bytes_a_chip((self.state_shapes.trainable, self.state_shapes.opt_state))

    def _parameters(self) -> Any:
        shapes = parameter_shapes(self.run.config)
        int8 = self.run.parameter_dtype == INT8
        rest = self.run.float_dtype if int8 else self.run.parameter_dtype
        dtypes = {name: INT8 if int8 and scale_name(name) else rest for name in shapes}
        if int8:
            shapes |= scale_shapes(shapes)
        params = unflatten(
            {k: jax.ShapeDtypeStruct(s, dtypes.get(k, "float32")) for k, s in shapes.items()}
        )
        if self.run.config.scan_layers:
            return jax.eval_shape(lambda p: stack_layers(p, self.run.config), params)
        return params

    def _begin(self, keys: Any, params: Any) -> Any:
        return self.program.init(keys, Backbone(self.run.config, params, "", None))

    def _placed(self, tree: Any) -> Any:
        shardings = tree_shardings(self.mesh, tree)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings,
        )

    def train(self) -> Lowered:
        """Return the step of training."""
        dropout = self.run.config.dropout_rate > 0
        step: Any = train_step(self.program, self.tx, dropout, self.run.microbatches, self.mesh)
        arguments = self.state_shapes, self.frozen_shapes, self._batch()
        traced = step.trace(*arguments)
        return Lowered(traced.lower(lowering_platforms=(self._platform,)), traced.jaxpr.jaxpr)

    def evaluate(self) -> Lowered:
        """Return the prediction of a batch in greedy decoding, loss included."""
        shape = self.run.evaluation.batch_size or self.run.data.batch_size
        state = self.state_shapes
        inference = jax.eval_shape(
            lambda t, f: self.program.infer(t, f, 0)._replace(scorer=None),
            state.trainable,
            self.frozen_shapes,
        )
        params = self._placed(inference.params)
        table = None if inference.table is None else self._placed(inference.table)
        batch = self._batch(shape, padded=True)
        batch["row_valid"] = self._rows(np.ones(shape, bool))
        search = evaluate.Search(max_length=self.run.lengths["targets"])
        compiled: Any = evaluate._predict_batch

        def predict(params: Any, table: Any, batch: Any) -> Any:
            # A function of its own: a trace for other devices must not be taken for one for these.
            with tracing_for(self.mesh, divided=False):
                return compiled.__wrapped__(
                    params,
                    table,
                    batch,
                    None,
                    config=self.run.config,
                    search=search,
                    with_aux=False,
                )

        traced = jax.jit(predict).trace(params, table, batch)
        return Lowered(traced.lower(lowering_platforms=(self._platform,)), traced.jaxpr.jaxpr)

    @property
    def _platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    def _batch(self, rows: int | None = None, *, padded: bool = False) -> dict[str, Any]:
        data, lengths = self.run.data, self.run.lengths
        packed = {} if padded else data.packed_lengths or {}
        shape = BatchShape(
            rows or data.batch_size,
            lengths["inputs"],
            lengths["targets"],
            data.pack and not padded,
            packed.get("inputs"),
            packed.get("targets"),
        )
        examples = Examples.from_lists([([2, 1], [2, 1])])
        vocab_size, placement = self.run.config.vocab_size, self.run.method.placement
        number = 1 if padded else self.count
        each = [
            Batches(
                Shuffled(examples, 0),
                shape,
                write=input_writer(vocab_size, self.length, i, placement, None),
            )
            for i in range(number)
        ]
        batch = next(each[0] if number == 1 else MultiPromptBatches(each))
        if padded:
            features = evaluate._features(batch)
            batch = {name: features[name] for name in features if name != "row_valid"}
        return {name: self._rows(array) for name, array in batch.items()}

    def _rows(self, array: np.ndarray) -> jax.ShapeDtypeStruct:
        sharding = BatchPlacement(self.mesh, len(array)).sharding(array.ndim)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _bytes_a_chip(tree: Any) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
