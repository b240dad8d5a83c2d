"""The plan of a run on a slice: memory, time, cost and traffic, from its compiled programs."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from spot_jax.errors import SpotError
from spot_jax.files import aligned
from spot_jax.planning.chips import CHIPS, GIB, Chip, Slice, open_slice, parse
from spot_jax.planning.cost import collectives, operations
from spot_jax.planning.programs import Lowered, Programs, RunShape, mesh_of
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.int8 import INT8
from spot_jax.training.sharding import MeshShape

# A program compiled with little effort needs a few percent more memory than one compiled with the
# effort of a run: up to here a plan that does not fit is made again with all of it.
_CLOSE = 1.1


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One program on one slice.

    Attributes:
        arguments: bytes a chip of weights, state and batch.
        temporaries: bytes a chip of activations and all else that comes and goes.
        peak: largest number of bytes a chip at once.
        operations: operations of the whole program over all chips.
        collectives: bytes a chip by kind of collective.
        seconds: lower bound of the time of one run.
        compile_seconds: time that compiling took here.
    """

    arguments: int
    temporaries: int
    peak: int
    operations: float
    collectives: Mapping[str, float]
    seconds: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs and costs on a slice.

    Attributes:
        topology: name of the slice.
        chips: number of chips.
        mesh: arrangement, "DATAxMODEL".
        fits: whether the programs fit into a chip's memory; None where that is unknown.
        exact: whether the programs were compiled as a run compiles them; else with little effort,
            in about a third of the time: what they need is then some percent too much.
        memory: bytes of a chip that a program may use; None where that is unknown.
        needed: bytes a chip that the largest program needs; None if the compiler does not say.
        weights: bytes a chip of frozen weights.
        state: bytes a chip of what is trained and of the optimizer's moments.
        train: plan of the step of training; None if it does not fit.
        evaluation: plan of a batch's evaluation; None without evaluations or if it does not fit.
        bound: operations of a step that any method with frozen weights needs, 4 N T.
        steps: number of the run's steps.
        evaluation_batches: number of evaluated batches in the run; None if the examples are not
            limited, so that their number is unknown.
        hours: time of the run, evaluations counted in; a lower bound.
        chip_hours: hours of all chips.
        dollars: price of these; None where there is no list price.
        remedies: changes that would make it fit, a phrase each.
        constants: numbers of the chip that times come from, with their source.
    """

    topology: str
    chips: int
    mesh: str
    fits: bool | None
    exact: bool
    memory: float | None
    needed: int | None
    weights: int
    state: int
    train: ProgramPlan | None
    evaluation: ProgramPlan | None
    bound: float
    steps: int
    evaluation_batches: int | None
    hours: float | None
    chip_hours: float | None
    dollars: float | None
    remedies: tuple[str, ...]
    constants: Mapping[str, Any]


def plan(
    fields: Mapping[str, Any],
    topology: str,
    *,
    config: T5Config | None = None,
    mesh: MeshShape | None = None,
    chip: Mapping[str, Any] | None = None,
    exact: bool = False,
) -> Plan:
    """Compile a run's programs for a slice and say what they need.

    Args:
        fields: arguments that `train` would be called with.
        topology: name of the slice, such as "v5e:2x4", or "here" for this machine's devices.
        config: shape of the T5 where the stored backbone is not here.
        mesh: arrangement of the chips; None for the run's own where it fills the slice, else all
            chips to the weights.
        chip: fields of `Chip` that are other than in the table.
        exact: whether to compile with a run's own effort even where little is enough.

    Raises:
        SpotError: no such slice, a mesh that is none, or a method without a plan.
    """
    place = open_slice(topology)
    run = RunShape.of(fields, place.devices[0].platform, config)
    place = dataclasses.replace(place, chip=dataclasses.replace(place.chip, **(chip or {})))
    shape = mesh or _mesh_for(fields.get("mesh"), len(place.devices))
    programs = Programs(run, mesh_of(place.devices, shape))
    bound = _bound(run.config, run.data, programs.length, programs.count)
    steps, batches = int(fields["train_steps"]), _evaluation_batches(fields)
    wanted = [programs.train, *([programs.evaluate] if run.evaluation.period else [])]
    compiled: list[tuple[ProgramPlan | None, int | None]] = [(None, programs.weights)]
    # Compilers of other platforms have no such choice.
    exact = exact or place.devices[0].platform != "tpu"
    if programs.weights + programs.state <= place.chip.memory:
        lowered = [program() for program in wanted]
        compiled = _compile_all(lowered, place, exact)
        if not exact and any(
            place.chip.memory < size <= _CLOSE * place.chip.memory for _, size in compiled if size
        ):
            compiled, exact = _compile_all(lowered, place, True), True
    else:
        exact = True  # nothing is compiled
    results = [result for result, _ in compiled]
    needed = [size for _, size in compiled if size]
    train, evaluation = [*results, None][:2]
    memory = place.chip.memory if math.isfinite(place.chip.memory) else None
    whole = all(results)
    fits = None if memory is None else whole and max(needed) <= memory
    hours = None
    if whole and train is not None and math.isfinite(train.seconds):
        evaluated = (batches or 0) * (evaluation.seconds if evaluation else 0.0)
        hours = (steps * train.seconds + evaluated) / 3600
    chip_hours = None if hours is None else hours * len(place.devices)
    price = place.chip.price
    return Plan(
        topology,
        len(place.devices),
        f"{len(place.devices) // shape.model}x{shape.model}",
        fits,
        exact,
        memory,
        max(needed, default=None),
        programs.weights,
        programs.state,
        train,
        evaluation,
        bound,
        steps,
        batches,
        hours,
        chip_hours,
        None if chip_hours is None or price is None else chip_hours * price,
        () if fits is not False else _remedies(programs, memory, max(needed, default=None)),
        dataclasses.asdict(dataclasses.replace(place.chip, slices=())),
    )


def cheapest(
    fields: Mapping[str, Any],
    generations: Sequence[str],
    *,
    config: T5Config | None = None,
    chip: Mapping[str, Any] | None = None,
    exact: bool = False,
) -> list[Plan]:
    """Return a plan for the smallest slice of each generation that fits, cheapest first.

    Slices whose chips cannot hold the weights are passed over without compiling.
    """
    for name in generations:
        if name not in CHIPS:
            raise SpotError(f"there are plans for {', '.join(CHIPS)}, found {name!r}")
    run = RunShape.of(fields, "tpu", config)
    size = {INT8: 1, "bfloat16": 2}.get(run.parameter_dtype, 4)
    weights = size * sum(math.prod(s) for s in parameter_shapes(run.config).values())
    plans = []
    for name in generations:
        for shape in CHIPS[name].slices:
            topology = f"{name}:{shape}"
            if weights / parse(topology)[1] > CHIPS[name].memory:
                continue
            try:
                result = plan(fields, topology, config=config, chip=chip, exact=exact)
            except SpotError as error:
                if "divided" not in str(error):
                    raise
                continue
            if result.fits:
                plans.append(result)
                break
    return sorted(plans, key=lambda p: (p.dollars is None, p.dollars))


def table(plans: Sequence[Plan]) -> str:
    """Return plans as lines for people."""
    head = ["topology", "mesh", "fits", "GiB a chip", "of", "weights", "temporaries", "x 4NT"]
    rows = [[*head, "step s", "hours", "chip-hours", "$"]]
    for each in plans:
        train = each.train
        rows.append(
            [
                each.topology,
                each.mesh,
                {True: "yes", False: "no", None: "?"}[each.fits],
                _gib(each.needed),
                _gib(each.memory),
                _gib(each.weights),
                _gib(None if train is None else train.temporaries),
                "" if train is None else f"{train.operations / each.bound:.2f}",
                "" if train is None or math.isnan(train.seconds) else f"{train.seconds:.3f}",
                "" if each.hours is None else f"{each.hours:.1f}",
                "" if each.chip_hours is None else f"{each.chip_hours:.0f}",
                "" if each.dollars is None else f"{each.dollars:,.0f}",
            ]
        )
    lines = aligned(rows, left=(0, 1, 2))
    for each in plans:
        lines += _remarks(each)
    return "\n".join(dict.fromkeys(lines))


def _remarks(each: Plan) -> list[str]:
    lines = []
    if each.fits is False and each.needed and each.memory:
        short = (each.needed - each.memory) / GIB
        lines.append(
            f"{each.topology} lacks {short:.1f} GiB a chip; try {', or '.join(each.remedies)}"
        )
    if each.train is not None and each.train.collectives:
        traffic = ", ".join(
            f"{kind} {size / GIB:.2f} GiB" for kind, size in sorted(each.train.collectives.items())
        )
        lines.append(f"{each.topology} sends a step, to each chip: {traffic}")
    if each.evaluation is not None and each.evaluation_batches is None:
        lines.append(
            "evaluations are not in the hours: set EvaluationPlan.examples to say of how many "
            "examples they are"
        )
    if not each.exact:
        lines.append(
            "compiled with little effort: memory is some percent too high; --exact says it exactly"
        )
    if each.hours is not None:
        lines.append("times are lower bounds: arithmetic or memory, whichever is longer, and links")
    return lines


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"


def _mesh_for(shape: MeshShape | None, chips: int) -> MeshShape:
    if shape is not None:
        data = chips // shape.model if shape.data is None else shape.data
        if data * shape.model == chips:
            return MeshShape(data, shape.model)
    return MeshShape(1, chips)


def _bound(config: T5Config, data: Any, prompt: int, count: int) -> float:
    """The operations of a step, 4 N T: forwards, and backwards to the activations alone.

    N is the number of weights that a token is multiplied with, T the number of tokens.
    """
    rows = data.batch_size * count
    encoder = decoder = cross = 0
    for name, shape in parameter_shapes(config).items():
        size = math.prod(shape) if name.endswith("kernel") else 0
        if name.startswith("encoder/"):
            encoder += size
        elif re.search(r"encoder_decoder_attention/(key|value)/", name):
            cross += size
        else:
            decoder += size
    if config.logits_via_embedding:
        decoder += config.vocab_size * config.emb_dim
    inputs = data.task_feature_lengths["inputs"] + prompt
    targets = data.task_feature_lengths["targets"]
    return 4.0 * rows * ((encoder + cross) * inputs + decoder * targets)


def _evaluation_batches(fields: Mapping[str, Any]) -> int | None:
    evaluation = fields.get("evaluation")
    if evaluation is None or not evaluation.period:
        return 0
    if evaluation.examples is None:
        return None
    rows = evaluation.batch_size or fields["data"].batch_size
    times = math.ceil(fields["train_steps"] / evaluation.period)
    return times * math.ceil(evaluation.examples / rows)


def _compile_all(
    lowered: Sequence[Lowered], place: Slice, exact: bool
) -> list[tuple[ProgramPlan | None, int | None]]:
    """Return `_compiled` of each program; they are compiled side by side."""
    with _effort(exact), ThreadPoolExecutor(len(lowered)) as pool:
        return list(pool.map(lambda each: _compiled(each, place), lowered))


@contextlib.contextmanager
def _effort(exact: bool) -> Iterator[None]:
    """Within, let TPU's compiler look less long for the fastest program, unless `exact`."""
    name = "jax_exec_time_optimization_effort"
    before = getattr(jax.config, name)
    if not exact:
        jax.config.update(name, -1.0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _compiled(lowered: Lowered, place: Slice) -> tuple[ProgramPlan | None, int | None]:
    """The plan of a program and its peak; of one that does not fit only the latter."""
    began = time.monotonic()
    try:
        compiled = lowered.lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, _used(str(error))
    seconds = time.monotonic() - began
    memory = compiled.memory_analysis()
    peak = _peak(memory)
    count = operations(lowered.jaxpr)
    traffic = collectives(compiled.as_text())
    bound = _seconds(place.chip, len(place.devices), count, memory, traffic)
    return (
        ProgramPlan(
            memory.argument_size_in_bytes,
            memory.temp_size_in_bytes,
            peak,
            count,
            traffic,
            bound,
            round(seconds, 1),
        ),
        peak,
    )


def _peak(memory: Any) -> int:
    whole = memory.argument_size_in_bytes + memory.output_size_in_bytes
    whole += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    return int(getattr(memory, "peak_memory_in_bytes", 0) or whole)


def _used(message: str) -> int | None:
    """Return the bytes that TPU's compiler says the program needs; None if it does not say.

    One of its two ways to say so calls them temporaries, though the arguments are among them.
    """
    for pattern in (r"Used ([\d.]+)([KMG]) of", r"temporaries \(([\d.]+)([KMG])\) exceeds"):
        if match := re.search(pattern, message):
            return int(float(match[1]) * 1024 ** (" KMG".index(match[2])))
    return None


def _seconds(
    chip: Chip, chips: int, count: float, memory: Any, traffic: Mapping[str, float]
) -> float:
    """A roofline: arithmetic or memory, whichever takes longer, and what the chips send."""
    arithmetic = count / (chips * chip.flops)
    # Arguments are read forwards and backwards, temporaries written and read.
    touched = 2 * (memory.argument_size_in_bytes + memory.temp_size_in_bytes)
    # A ring sends an all-reduce's bytes twice.
    sent = sum(size * (2 if kind == "all-reduce" else 1) for kind, size in traffic.items())
    return max(arithmetic, touched / chip.bandwidth) + sent / chip.interconnect


def _remedies(programs: Programs, memory: float | None, needed: int | None) -> tuple[str, ...]:
    """What would make a run fit, a phrase each; int8 weights only where they alone are enough."""
    run, mesh, chips = programs.run, programs.mesh, programs.mesh.size
    remedies = []
    if run.parameter_dtype == INT8 and run.config.dtype != "bfloat16":
        remedies.append("DTYPE = 'bfloat16'")
    elif run.config.dtype != "bfloat16" or run.parameter_dtype not in ("bfloat16", INT8):
        remedies.append("DTYPE and PARAMETER_DTYPE = 'bfloat16'")
    if not run.config.remat:
        remedies.append("SCAN_LAYERS = True and REMAT = 'light'")
    if memory and needed and needed - _saved_by_int8(programs) <= memory:
        remedies.append("PARAMETER_DTYPE = 'int8'")
    if mesh.shape["model"] < chips:
        remedies.append(f"MESH = '1x{chips}'")
    if run.data.batch_size % (2 * run.microbatches) == 0:
        remedies.append(f"train.num_microbatches = {2 * run.microbatches}")
    remedies.append(f"BATCH_SIZE = {max(run.data.batch_size // 2, 1)}")
    return (*remedies, "a larger slice")


def _saved_by_int8(programs: Programs) -> int:
    """Bytes a chip that int8 kernels would save; 0 where they are so, or cannot be."""
    run = programs.run
    if run.parameter_dtype == INT8 or run.method.tunes_backbone:
        return 0
    try:
        smaller = Programs(dataclasses.replace(run, parameter_dtype=INT8), programs.mesh)
    except SpotError:
        return 0  # a method that changes kernels
    return programs.weights - smaller.weights
