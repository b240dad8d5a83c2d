"""Train `mini` from what `tools.mini.prepare` wrote, on one accelerator or on a CPU.

Three stages share the time: span corruption; the language model's objective (Lester et al. 2021,
section 3.3); and rows with prompts (`tools.mini.rows`) beside the language model's. In all of them
the mean of the encoder's outputs follows the teacher's vector of the text. DEST gets the weights in
bfloat16 (`tools.mini.store`) after each stage, and `report.json`.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.files import write_json
from spot_jax.t5 import model
from spot_jax.t5.config import T5Config
from spot_jax.t5.vocabulary import Vocabulary
from tools.mini import batches, corpus, losses, shape, teacher
from tools.mini.batches import Sizes
from tools.mini.command import check_files, open_destination, parser, run
from tools.mini.probe import PROBES, probe
from tools.mini.rows import Marks
from tools.mini.schedule import ASK, LANGUAGE, SPAN, Schedule, Step
from tools.mini.store import write_parts

ASKING = ("short", "long", "many")
"""Parts of a batch of the last stage."""


class Settings(NamedTuple):
    """What a run computes with, the data aside: configuration, rows, transformation and keys."""

    config: T5Config
    marks: Marks
    sizes: Sizes
    transformation: optax.GradientTransformation
    keys: Key[Array, "8"]


@dataclasses.dataclass
class State:
    """What a run changes: the weights and prompts, their moments, and what rows are drawn from."""

    trainable: losses.Trainable
    moments: Any
    frozen: dict[str, Any]


def flags() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    result = parser("train", __doc__)
    add = result.add_argument
    add("data", type=Path, metavar="DATA", help="DEST of tools.mini.prepare")
    add("destination", type=Path, metavar="DEST", help="directory of the weights and the report")
    add("--seconds", type=float, default=400, help="time, that of reading the data included [400]")
    add("--texts", type=int, help="number of texts, for a trial [all]")
    add("--scale", type=float, default=1.0, help="factor of all numbers of rows a step [1]")
    add("--tasks", type=int, default=1024, help="number of tasks with a trained prompt [1024]")
    add("--renew", type=int, default=250, help="number of steps between new tasks [250]")
    add("--rate", type=float, default=0.012, help="learning rate, a share of the weights [0.012]")
    add(
        "--shares", type=float, nargs=3, default=(0.12, 0.13, 0.75),
        metavar=("SPAN", "LANGUAGE", "ASK"), help="shares of the time by stage [0.12 0.13 0.75]",
    )  # fmt: skip
    add("--seed", type=int, default=0, help="seed of weights and rows [0]")
    add("--probe_steps", type=int, default=150, help="steps of the look at the end, or 0 [150]")
    return result


def check_options(options: argparse.Namespace) -> None:
    """Raise `SpotError` for a number that no run can have, or for paths that do not serve."""
    least = {"seconds": 1, "texts": 64, "tasks": 4, "renew": 1, "probe_steps": 0}
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not value >= bound:
            raise SpotError(f"expected --{name} of at least {bound}, found {value}; raise it")
    for name in ("scale", "rate"):
        value = getattr(options, name)
        if not 0 < value < math.inf:
            raise SpotError(f"expected --{name} above 0, found {value}; raise it")
    if min(options.shares) < 0 or not 0 < sum(options.shares) < math.inf:
        raise SpotError(f"expected three shares, not all 0, in --shares, found {options.shares}")
    probes = (PROBES,) if options.probe_steps else ()
    check_files(options.data, (*corpus.FILES, *probes), corpus.REMEDY)
    open_destination(options.destination)


def settings(options: argparse.Namespace, vocabulary: Vocabulary) -> Settings:
    """Return what a run computes with."""
    on_cpu = jax.default_backend() == "cpu"
    config = shape.config("float32" if on_cpu else "bfloat16")
    names = ("text", "text1", "text2")
    marks = Marks(*(jnp.array(vocabulary.encode(f"{name}:"), jnp.int32) for name in names))
    # Counter-based bits of the device: far less to compile, and to compute, than threefry.
    keys = jax.random.split(jax.random.key(options.seed, impl="rbg"), 8)
    sizes = Sizes().scaled(options.scale)
    return Settings(config, marks, sizes, losses.optimizer(options.rate), keys)


def initial_state(
    chosen: Settings, c: corpus.Corpus, embeddings: Float[np.ndarray, "v d"], tasks: int
) -> State:
    """Return new weights, of which embeddings and logits begin as word vectors; empty tasks."""
    config, keys = chosen.config, chosen.keys
    params = model.init_params(keys[0], config)
    params["token_embedder"]["embedding"] = jnp.asarray(embeddings)
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(
        embeddings.T / np.sqrt(config.emb_dim)
    )
    trainable = {
        "t5": model.stack_layers(params, config),
        "teacher": jax.random.normal(keys[1], (config.emb_dim, teacher.WIDTH)) / 16,
        "prompts": jnp.zeros((tasks, batches.P, config.emb_dim)),
    }
    frozen = {"corpus": c, "tasks": batches.empty_tasks(tasks)}
    return State(trainable, chosen.transformation.init(trainable), frozen)


class Programs:
    """A run's programs, compiled side by side in the background, those of the first stages first.

    Attributes:
        compiled: Programs by name, as far as they have been waited for.
    """

    FIRST = ("reading", "read")

    def __init__(self, chosen: Settings, state: State, say: Callable[[str], None]):
        self.compiled: dict[str, Any] = {}
        programs = _programs(chosen, state)
        order = sorted(programs, key=lambda name: name not in self.FIRST)
        pool = concurrent.futures.ThreadPoolExecutor(len(programs))
        self._waiting = {name: pool.submit(_compile, name, *programs[name], say) for name in order}
        pool.shutdown(wait=False)

    def wait(self, names: Sequence[str]) -> None:
        """Wait for programs by name."""
        self.compiled |= {name: self._waiting[name].result() for name in names}

    def ready(self) -> bool:
        """Return whether all programs can be run, without waiting."""
        if len(self.compiled) == len(self._waiting):
            return True
        if not all(program.done() for program in self._waiting.values()):
            return False
        self.wait(list(self._waiting))
        return True

    def draw(self, step: Step, key: Key[Array, ""], frozen: batches.Frozen) -> batches.Batch:
        """Return the batch of a step."""
        keys = jax.random.split(key, 4)
        if step.stage == ASK:
            pairs = zip(ASKING, keys[:3], strict=True)
            parts = {name: self.compiled[name](k, frozen) for name, k in pairs}
        else:
            parts = {"reading": self.compiled["reading"](key, frozen)}
        weights = jnp.array([step.stage == SPAN, step.stage == LANGUAGE], jnp.float32)
        return batches.assemble(parts, keys[3], weights)


def _programs(chosen: Settings, state: State) -> dict[str, tuple[Any, tuple]]:
    """Return each jitted function with arguments as it will have them."""
    key, frozen, config = chosen.keys[3], state.frozen, chosen.config
    makers = batches.makers(chosen.marks, chosen.sizes, config)
    programs: dict[str, tuple[Any, tuple]] = {
        name: (jax.jit(make), (key, frozen)) for name, make in makers.items()
    }
    trainable = state.trainable
    embedding = trainable["t5"]["token_embedder"]["embedding"]
    again = (key, frozen["tasks"], trainable["prompts"], frozen["corpus"], embedding)
    programs["renew"] = (jax.jit(batches.renew_tasks), (*again, jnp.float32(1)))
    shapes = {name: jax.eval_shape(make, key, frozen) for name, make in makers.items()}
    for name, loss, parts in (
        ("read", losses.reading_loss, ("reading",)),
        ("ask", losses.asking_loss, ASKING),
    ):
        update = losses.updater(functools.partial(loss, config=config), chosen.transformation)
        batch = batches.assemble({n: shapes[n] for n in parts}, key, jnp.zeros(2))
        programs[name] = (update, (trainable, state.moments, frozen, batch, jnp.float32(0)))
    return programs


def _compile(name: str, function: Any, inputs: tuple, say: Callable[[str], None]) -> Any:
    # Shapes alone: the arrays are donated by the first step.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    program = function.lower(*shapes).compile()
    say(f"compiled {name}")
    return program


def renew(state: State, program: Any, step: Step, key: Key[Array, ""]) -> None:
    """Replace some tasks and their prompts, all of them before the first step with prompts."""
    trainable, frozen = state.trainable, state.frozen
    embedding = trainable["t5"]["token_embedder"]["embedding"]
    frozen["tasks"], trainable["prompts"] = program(
        jax.random.fold_in(key, step.asked), frozen["tasks"], trainable["prompts"],
        frozen["corpus"], embedding, jnp.float32(0.15 if step.asked else 1.0),
    )  # fmt: skip


def fit(
    state: State,
    chosen: Settings,
    programs: Programs,
    schedule: Schedule,
    until: float,
    store: Callable[[], None],
    report: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Train until the time is over; `store` is called at the end of each stage but the last.

    Raises `SpotError` where no time is left: reading and compiling took all of it.
    """
    first = time.monotonic()
    if until <= first:
        raise SpotError(
            f"expected more seconds than reading and compiling take, found {first - until:.0f} "
            "too few; raise --seconds"
        )
    while (done := (time.monotonic() - first) / (until - first)) < 1:
        before = schedule.stage
        step = schedule.next(done, programs.ready() if schedule.stage != ASK else True)
        if step.stage != before:
            store()
            say(f"stage {step.stage + 1} begins at step {step.number}")
            report[f"stage {step.stage + 1} at step"] = step.number
        if step.renew:
            renew(state, programs.compiled["renew"], step, chosen.keys[5])
        batch = programs.draw(step, jax.random.fold_in(chosen.keys[4], step.number), state.frozen)
        update = programs.compiled["ask" if step.stage == ASK else "read"]
        state.trainable, state.moments, metrics = update(
            state.trainable, state.moments, state.frozen, batch, jnp.float32(step.rate)
        )
        log(report, schedule.number, time.monotonic() - first, step.rate, metrics, say)
    report["steps"], report["asked"] = schedule.number, schedule.asked


def log(
    report: dict[str, Any], number: int, seconds: float, rate: float,
    metrics: Mapping[str, Array], say: Callable[[str], None],
) -> None:  # fmt: skip
    """Report every 200th step (on a CPU every tenth), and wait for every 20th."""
    if number % (200 if jax.default_backend() != "cpu" else 10) == 0:
        values = {name: round(float(value), 3) for name, value in metrics.items()}
        report["log"].append({"step": number, "seconds": seconds, **values})
        say(f"step {number} rate {rate:.2f} {values}")
    elif number % 20 == 0:
        # Else steps would be sent long after the time is over.
        jax.block_until_ready(metrics)


def main(arguments: Sequence[str]) -> None:
    """Run `python -m tools.mini.train`."""
    options = flags().parse_args(arguments)
    check_options(options)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    vocabulary = Vocabulary(shape.VOCABULARY)
    chosen = settings(options, vocabulary)
    config = chosen.config
    table = (config.vocab_size, config.emb_dim)
    c, embeddings = corpus.read(options.data, vocabulary, table, options.texts, say)
    jax.block_until_ready(c)
    device = jax.devices()[0].device_kind
    say(f"{device}: {len(c.text):,} texts, {len(c.phrase):,} phrases")
    state = initial_state(chosen, c, embeddings, options.tasks)
    report: dict[str, Any] = {
        "device": device, "texts": len(c.text), "phrases": len(c.phrase),
        "rows a step": dataclasses.asdict(chosen.sizes), "log": [],
    }  # fmt: skip

    def store() -> None:
        write_parts(options.destination, state.trainable["t5"], config)
        write_json(options.destination / "report.json", report)

    programs = Programs(chosen, state, say)
    programs.wait(Programs.FIRST)
    schedule = Schedule(tuple(options.shares), options.renew)
    fit(state, chosen, programs, schedule, began + options.seconds, store, report, say)
    store()
    say(f"trained {schedule.number} steps")
    if options.probe_steps:
        t5 = state.trainable["t5"]
        report["probe"] = probe(
            options.data / PROBES, t5, config, vocabulary, options.probe_steps, say
        )
        write_json(options.destination / "report.json", report)


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    sys.exit(run("train", main))
