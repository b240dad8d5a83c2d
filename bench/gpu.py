"""Prompt tuning on one GPU: our step and PEFT's, against the card's matrix peak.

    python bench/gpu.py --seconds 150 --output bench/results/gpu.json

T5 1.1 base, large and XL of random bfloat16 weights, P = 100, without dropout; nothing is read or
downloaded. Cases come in waves, the most valuable first; a wave is compiled in parallel, then its
cases are timed one after the other. After every case the output is written whole, so a command
that is killed leaves what it had. A case that fails leaves its error in its place.

Model FLOP utilisation is 4 N T / seconds / peak: `step_operations(...)["matrices"]` of
bench/peers/shapes.py, over the rate of an 8192 x 8192 x 8192 bfloat16 product measured here.
"mfu_with_attention" adds the attention's own products. PEFT runs in a process of its own, which
imports while ours works and touches the GPU only after.

`--tiny` does all of it in small, on any device.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spot_jax.t5.config import T5Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
# cuBLAS alone: searching Triton's tiles for every product would take most of the time there is.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

LONG, SHORT = (512, 16), (128, 8)
PEFT_SHARE = 0.3


class Report:
    """The JSON file, written whole after every case."""

    def __init__(self, path: Path, deadline: float):
        self.path, self.deadline = path, deadline
        self.facts: dict = {}
        self.results: list[dict] = []

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.time()

    def add(self, **entry: Any) -> None:
        self.results.append(entry)
        self.write()
        print(json.dumps(entry)[:300], flush=True)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({**self.facts, "results": self.results}, indent=1) + "\n")
        part.replace(self.path)


def error_of(problem: BaseException) -> str:
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return (
        f"{type(problem).__name__}: {str(problem)[:400]} ({Path(last.filename).name}:{last.lineno})"
    )


class Repeated:
    """A call whose last result is at hand, to be waited for."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments = function, arguments
        self.result: Any = None

    def __call__(self) -> None:
        self.result = self.function(*self.arguments)

    def wait(self) -> None:
        import jax

        jax.block_until_ready(self.result)


def timed(
    call: Callable[[], Any], wait: Callable[[], Any], budget: float = 1.5
) -> tuple[list[float], int]:
    """Return seconds per call in each of 5 groups, after two calls to warm up."""
    call()
    wait()
    begin = time.perf_counter()
    call()
    wait()
    once = time.perf_counter() - begin
    count = max(1, min(200, int(budget / 5 / max(once, 1e-6))))
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        seconds.append((time.perf_counter() - begin) / count)
    return seconds, count


# ------------------------------------------------------------------------------------------ ours


@dataclasses.dataclass(frozen=True)
class StepCase:
    """A training step of ours; `rows` is halved until the program fits."""

    shape: str
    lengths: tuple[int, int]
    rows: int = 32
    attention: str = "auto"
    scan: bool = True
    remat: bool = False
    prompts: int = 1


class Ours:
    def __init__(self, report: Report, tiny: bool):
        import jax

        self.jax, self.report, self.tiny = jax, report, tiny
        self.device = jax.devices()[0]
        self.dtype = "float32" if tiny else "bfloat16"
        self.weights: dict = {}
        self.peak = None
        self.profiled: list[StepCase] = []

    def shape(self, name: str) -> "T5Config":
        from bench.peers.shapes import SHAPES

        return SHAPES["tiny" if self.tiny else name]

    def config(self, case: StepCase) -> "T5Config":
        return dataclasses.replace(
            self.shape(case.shape), dtype=self.dtype, scan_layers=case.scan,
            remat=case.remat, attention=case.attention,
        )  # fmt: skip

    def params(self, name: str, scan: bool) -> Any:
        """Return weights on the device, where those of one shape are held at a time."""
        from bench.peers.ours import weights

        if (name, scan) not in self.weights:
            self.weights.clear()
            config = dataclasses.replace(self.shape(name), dtype=self.dtype, scan_layers=scan)
            self.weights[name, scan] = self.jax.block_until_ready(weights(config, self.dtype))
        return self.weights[name, scan]

    def measure_peak(self) -> None:
        jnp, jax = self.jax.numpy, self.jax
        size = 256 if self.tiny else 8192
        keys = jax.random.split(jax.random.key(0), 2)
        a, b = (jax.random.normal(key, (size, size), self.dtype) for key in keys)
        product = jax.jit(lambda a, b: jnp.matmul(a, b))
        call = Repeated(product, a, b)
        seconds, _ = timed(call, call.wait, 1.0)
        self.peak = 2 * size**3 / statistics.median(seconds)
        n = (1 << 20) if self.tiny else (1 << 30)
        x = jnp.ones(n, self.dtype)
        call = Repeated(jax.jit(lambda x: x + 1), x)
        seconds, _ = timed(call, call.wait, 0.5)
        rate = 2 * x.nbytes / statistics.median(seconds)
        self.report.add(case="peak", matrix_flops=self.peak, copy_bytes_a_second=rate)

    def compile_step(self, case: StepCase) -> tuple[Any, ...]:
        """Compile with the largest number of rows, halved from the case's, whose plan fits."""
        from bench.peers.ours import compiled_step, features, weights
        from bench.peers.shapes import arrays

        begin = time.perf_counter()
        config = self.config(case)
        limit = (self.device.memory_stats() or {}).get("bytes_limit", 1 << 62)
        rows = min(case.rows, 8) if self.tiny else case.rows
        lengths = (24, 4) if self.tiny else case.lengths
        params = self.jax.eval_shape(lambda: weights(config, self.dtype))
        while True:
            batch = features(config, arrays(config, rows, *lengths), case.prompts)
            step, state = compiled_step(config, params, batch, case.prompts)
            plan = step.memory_analysis()
            planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes
            if planned < 0.9 * limit or rows == 1:
                break
            rows //= 2
        return step, state, batch, rows, lengths, planned, time.perf_counter() - begin

    def run_step(self, case: StepCase, program: tuple[Any, ...]) -> float:
        from bench.peers.shapes import step_operations

        step, state, batch, rows, lengths, planned, compile_seconds = program
        params = self.params(case.shape, case.scan)
        batch = self.jax.device_put(batch)
        holder = [state, None]

        def call() -> None:
            holder[0], holder[1] = step(holder[0], params, batch)

        seconds, count = timed(call, lambda: self.jax.block_until_ready(holder[1]))
        median = statistics.median(seconds)
        need = step_operations(self.config(case), rows, *lengths)
        rate = self.peak or float("nan")
        self.report.add(
            case="step", side="ours", **dataclasses.asdict(case) | {"rows": rows},
            tokens=rows * (100 + lengths[0]), seconds=median, fastest=min(seconds), calls=5 * count,
            mfu=need["matrices"] / median / rate,
            mfu_with_attention=sum(need.values()) / median / rate,
            planned_bytes=planned, compile_seconds=compile_seconds,
            loss=float(holder[1]["loss"][0]), finite=bool(holder[1]["finite"]),
        )  # fmt: skip
        if case in self.profiled:
            self.profile(lambda: (call(), self.jax.block_until_ready(holder[1])), case)
        return median

    def profile(self, call: Callable[[], Any], case: StepCase) -> None:
        """Report the kernels that take most of one step's time, in milliseconds."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                with self.jax.profiler.trace(folder):
                    call()
                (path,) = Path(folder).rglob("*.xplane.pb")
                planes = self.jax.profiler.ProfileData.from_file(str(path)).planes
                total: collections.Counter = collections.Counter()
                calls: collections.Counter = collections.Counter()
                for plane in planes:
                    for line in plane.lines if "/device:GPU" in plane.name else ():
                        for event in line.events if line.name.startswith("Stream") else ():
                            total[event.name] += event.duration_ns / 1e6
                            calls[event.name] += 1
            top = [[name[:120], round(ms, 3), calls[name]] for name, ms in total.most_common(60)]
            self.report.add(case="profile", side="ours", **dataclasses.asdict(case),
                            kernels_milliseconds=sum(total.values()), kernels=top)  # fmt: skip
        except Exception as problem:
            self.report.add(case="profile", side="ours", error=error_of(problem))

    def steps(self, cases: list[StepCase], spare: float) -> dict[StepCase, float]:
        """Compile all in parallel, then time each; skip what the deadline leaves no room for."""
        if self.report.left() < spare:
            for case in cases:
                self.report.add(
                    case="step", side="ours", **dataclasses.asdict(case), skipped="time"
                )
            return {}
        seconds = {}
        pool = concurrent.futures.ThreadPoolExecutor(8)
        programs = {case: pool.submit(self.compile_step, case) for case in dict.fromkeys(cases)}
        concurrent.futures.wait(programs.values(), timeout=max(1.0, 0.7 * self.report.left()))
        for case in list(programs):
            # Whatever else still compiles would slow it a little; it is timed all the same.
            program = programs.pop(case)
            try:
                if not program.done():
                    raise TimeoutError("not compiled in time")
                seconds[case] = self.run_step(case, program.result())
            except Exception as problem:
                self.report.add(
                    case="step", side="ours", **dataclasses.asdict(case), error=error_of(problem)
                )
        pool.shutdown(wait=False, cancel_futures=True)
        return seconds

    def attention_alone(self) -> None:
        """Time one encoder layer's attention at XL, 512: forward, and with its backward pass."""
        jax, jnp = self.jax, self.jax.numpy
        from spot_jax.t5.attention import Visibility, attend, prepare
        from spot_jax.t5.layers import RelativePositionBias

        config = dataclasses.replace(self.shape("xl"), dtype=self.dtype)
        rows, length = (2, 70) if self.tiny else (32, 612)
        shape = (rows, length, config.num_heads, config.head_dim)
        keys = jax.random.split(jax.random.key(0), 5)
        qkv = [jax.random.normal(key, shape, self.dtype) for key in keys[:3]]
        scale = jnp.asarray(config.head_dim**-0.5, self.dtype)
        table = {"params": {"rel_embedding": jax.random.normal(keys[3], (config.num_heads, 32))}}
        segments = jnp.ones((rows, length), jnp.int32).at[:, -4:].set(0)
        weight = jax.random.normal(keys[4], shape, self.dtype)

        def run(form: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
            visibility = Visibility(segments, segments)

            def output(query: Any, key: Any, value: Any) -> Any:
                bias = RelativePositionBias(config, True).apply(table, length, length)
                bias = prepare(bias, visibility, form)
                return attend(query * scale, key, value, bias, visibility, form)

            def loss(*arguments: Any) -> Any:
                return jnp.sum((output(*arguments) * weight)[:, :-4].astype(jnp.float32))

            return jax.jit(output), jax.jit(jax.grad(loss, (0, 1, 2)))

        forms = ("plain", "triton") if self.tiny else ("plain", "cudnn", "triton")
        reference = None
        for form in forms:
            if self.report.left() < 5:
                return
            try:
                programs = [f.lower(*qkv).compile() for f in run(form)]
                outputs = [programs[0](*qkv)[:, :-4], *programs[1](*qkv)]
                reference = reference or outputs
                errors = [
                    float(jnp.linalg.norm((x - y).astype(jnp.float32)) /
                          jnp.linalg.norm(y.astype(jnp.float32)))
                    for x, y in zip(outputs, reference, strict=True)
                ]  # fmt: skip
                del outputs
                entry = {}
                for name, program in zip(("forward", "gradient"), programs, strict=True):
                    call = Repeated(program, *qkv)
                    seconds, _ = timed(call, call.wait, 0.3)
                    entry[f"{name}_seconds"] = statistics.median(seconds)
                    plan = program.memory_analysis()
                    entry[f"{name}_temporary_bytes"] = plan.temp_size_in_bytes
                self.report.add(case="attention", form=form, rows=rows, length=length,
                                difference_from_plain=errors, **entry)  # fmt: skip
            except Exception as problem:
                self.report.add(case="attention", form=form, error=error_of(problem))

    def greedy(self, name: str, rows: int) -> None:
        jnp = self.jax.numpy
        from bench.peers.ours import features, write
        from bench.peers.shapes import PROMPT, arrays

        config = dataclasses.replace(self.shape(name), dtype=self.dtype, scan_layers=True)
        lengths, length = ((24, 4), 4) if self.tiny else (SHORT, 32)
        rows = 2 if self.tiny else rows
        try:
            batch = features(config, arrays(config, rows, *lengths))
            tokens = jnp.asarray(batch["encoder_input_tokens"])
            params = self.params(name, True)
            prompt = jnp.zeros((PROMPT, config.emb_dim), jnp.float32)
            call = Repeated(write, params, config, tokens, prompt, length)
            seconds, _ = timed(call, call.wait, 1.0)
            median = statistics.median(seconds)
            self.report.add(case="greedy", side="ours", shape=name, rows=rows, length=length,
                            seconds=median, tokens_a_second=rows * length / median)  # fmt: skip
        except Exception as problem:
            self.report.add(case="greedy", side="ours", shape=name, error=error_of(problem))

    def all(self) -> None:
        self.measure_peak()
        gpu = self.jax.default_backend() in ("gpu", "cuda")
        fused = ("cudnn", "triton") if gpu else ("plain", "triton")
        first = [StepCase("xl", LONG, attention=form) for form in fused]
        self.profiled = list(first)
        first += [StepCase("xl", SHORT)]
        times = self.steps(first, 10)
        timed_forms = {case.attention: t for case, t in times.items() if case.lengths == LONG}
        best = min(timed_forms, key=timed_forms.get) if timed_forms else "plain"
        self.report.facts["fastest_attention"] = best
        self.steps([StepCase("base", LONG, attention=form) for form in (*fused, "plain")]
                   + [StepCase("base", SHORT, attention=best)], 10)  # fmt: skip
        self.attention_alone()
        eight = StepCase("base", SHORT, rows=64, attention=best, prompts=8)
        self.steps([eight, StepCase("base", SHORT, rows=8, attention=best)], 10)
        self.greedy("base", 32)
        self.steps([StepCase("large", LONG, attention=best),
                    StepCase("large", SHORT, attention=best)], 12)  # fmt: skip
        self.steps([StepCase("xl", LONG, attention=best, remat=True),
                    StepCase("xl", LONG, attention="plain", rows=16),
                    StepCase("xl", SHORT, attention=best, rows=128)], 15)  # fmt: skip
        self.greedy("xl", 32)
        self.steps([StepCase("base", LONG, attention=best, scan=False)], 20)
        stats = self.device.memory_stats() or {}
        self.report.add(case="memory", side="ours", peak_bytes=stats.get("peak_bytes_in_use"))


def ours(report: Report, tiny: bool) -> None:
    import jax

    report.facts.update(
        device=jax.devices()[0].device_kind, platform=jax.default_backend(),
        jax=jax.__version__, xla_flags=os.environ.get("XLA_FLAGS", ""), tiny=tiny,
    )  # fmt: skip
    Ours(report, tiny).all()


# ------------------------------------------------------------------------------------------ PEFT


def peft(report: Report, tiny: bool) -> None:
    import peft as package
    import torch
    import transformers

    from bench.peers import theirs
    from bench.peers.shapes import SHAPES, arrays, step_operations

    # Written when our side has left the GPU.
    peak = float(sys.stdin.readline() or "nan")
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    report.facts.update(torch=torch.__version__, transformers=transformers.__version__,
                        peft=package.__version__)  # fmt: skip

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    plan = [("base", LONG), ("base", SHORT), ("xl", LONG), ("xl", SHORT), ("large", LONG)]
    last, tuned = None, None
    for name, lengths in plan:
        if report.left() < 3:
            report.add(case="step", side="peft", shape=name, lengths=lengths, skipped="time")
            continue
        config = SHAPES["tiny" if tiny else name]
        rows, lengths = (2, (24, 4)) if tiny else (32, lengths)
        try:
            if name != last:
                tuned = None
                if cuda:
                    torch.cuda.empty_cache()
                tuned, last = theirs.model(config, device, dtype), name
            while True:
                try:
                    if cuda:
                        torch.cuda.reset_peak_memory_stats()
                    step = theirs.Step(tuned, arrays(config, rows, *lengths), device)
                    seconds, count = timed(step, wait, 1.0)
                    break
                except torch.OutOfMemoryError:
                    step = None
                    torch.cuda.empty_cache()
                    if rows == 1:
                        raise
                    rows //= 2
            median = statistics.median(seconds)
            need = step_operations(config, rows, *lengths)
            report.add(
                case="step", side="peft", shape=name, lengths=lengths, rows=rows, seconds=median,
                fastest=min(seconds), calls=5 * count, mfu=need["matrices"] / median / peak,
                mfu_with_attention=sum(need.values()) / median / peak,
                peak_bytes=torch.cuda.max_memory_allocated() if cuda else None,
                loss=float(step()),
            )  # fmt: skip
            if name == "base" and lengths != LONG and report.left() > 8:
                length = 4 if tiny else 32
                batch = arrays(config, rows, *lengths)
                seconds, _ = timed(lambda c=tuned, b=batch, n=length: theirs.write(c, b, device, n),
                                   wait, 1.0)  # fmt: skip
                median = statistics.median(seconds)
                report.add(case="greedy", side="peft", shape=name, rows=rows, length=length,
                           seconds=median, tokens_a_second=rows * length / median)  # fmt: skip
        except Exception as problem:
            report.add(case="step", side="peft", shape=name, lengths=lengths,
                       error=error_of(problem))  # fmt: skip


# ---------------------------------------------------------------------------------- both in turn


def both(arguments: argparse.Namespace) -> None:
    """Run ours, then PEFT, each in a separate process, and join what they wrote."""
    end = time.time() + arguments.seconds
    parts = {side: arguments.output.with_suffix(f".{side}.json") for side in ("ours", "peft")}
    until = {"ours": end - PEFT_SHARE * arguments.seconds, "peft": end}
    for path in parts.values():
        path.unlink(missing_ok=True)

    def join() -> dict:
        joined: dict = {"script": "bench/gpu.py", "seconds": arguments.seconds, "results": []}
        for path in parts.values():
            if path.exists():
                part = json.loads(path.read_text())
                joined["results"] += part.pop("results")
                joined.update(part)
        arguments.output.write_text(json.dumps(joined, indent=1) + "\n")
        return joined

    def start(side: str) -> subprocess.Popen:
        command = [sys.executable, __file__, "--side", side, "--output", str(parts[side])]
        command += ["--until", str(until[side]), *(["--tiny"] if arguments.tiny else [])]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    def wait(process: subprocess.Popen, side: str) -> None:
        while process.poll() is None and time.time() < until[side] + 3:
            time.sleep(0.5)
            join()
        if process.poll() is None:
            process.kill()
        process.wait()

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    ours_side = start("ours")
    # Only torch's import goes on beside ours; at tiny size there is nothing to gain from it.
    peft_side = None if arguments.tiny or arguments.no_peft else start("peft")
    wait(ours_side, "ours")
    if not arguments.no_peft:
        peft_side = peft_side or start("peft")
        peak = [x["matrix_flops"] for x in join()["results"] if x["case"] == "peak"]
        try:
            peft_side.stdin.write(f"{peak[0] if peak else 'nan'}\n".encode())
            peft_side.stdin.flush()
        except BrokenPipeError:
            pass
        wait(peft_side, "peft")
    joined = join()
    for path in parts.values():
        path.unlink(missing_ok=True)
    print(json.dumps(summary(joined), indent=1))


def summary(joined: dict) -> list:
    """Return one short line per case."""
    names = "case side shape lengths rows form attention remat scan prompts seconds mfu"
    names += " forward_seconds gradient_seconds tokens_a_second error skipped"

    def line(entry: dict) -> str:
        shown = [(name, entry[name]) for name in names.split() if name in entry]
        return " ".join(f"{n}={x:.4g}" if isinstance(x, float) else f"{n}={x}" for n, x in shown)

    return [line(entry) for entry in joined["results"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "gpu.json")
    parser.add_argument("--seconds", type=float, default=150.0, help="for everything")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, any device")
    parser.add_argument("--no-peft", action="store_true", help="our side only")
    parser.add_argument("--side", choices=("ours", "peft"), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is None:
        both(arguments)
        return
    report = Report(arguments.output, arguments.until)
    try:
        {"ours": ours, "peft": peft}[arguments.side](report, arguments.tiny)
    except Exception as problem:
        report.add(case=arguments.side, error=error_of(problem))
    # Compilations under way would be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
