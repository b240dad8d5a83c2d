"""Predictions one by one, over HTTP, and beside PEFT's adapters: `python -m bench.serving`.

On backbones/mini, prompts of sampled vocabulary, texts of the bundled sets; each part's two sides
run in turn, so that whatever else the machine does falls on both. Parts, in order:

* single: one text with `load(...).predict`, in turn with the same program alone (the bound) and
  with a batch that is padded to 100 rows, as it once was; and again and again by itself.
* service: `spot serve` in a process of its own, clients in another. 64 clients at once against one
  request at a time, in turn; every answer compared with `predict`; then SIGTERM while they ask. And
  the model without HTTP, text by text against 64 at once, which is the most that batching can give.
* peers: 1,000 texts of 8 prompts, 4 tokens written for each, in mixed batches, against PEFT's
  `generate` with one adapter after the other. Needs the `reference` extra; left out without.

Results go to bench/results/serving.json.
"""

import argparse
import asyncio
import collections
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.turns import in_turn

ROOT = Path(__file__).parents[1]
MINI = ROOT / "backbones" / "mini"
SETS = {
    "vader_tweets": ("negative", "neutral", "positive"),
    "sms_spam": ("ham", "spam"),
    "vader_movie": ("negative", "positive"),
}
LENGTHS = {"inputs": 64, "targets": 8}
TURNS = 5
PARTS = ("single", "service", "peers")


def texts_of(count: int) -> list[str]:
    """Return texts of unlike lengths from the bundled sets."""
    from tasks.bundled.reading import rows

    each = [[row["text"] for row in rows(name, "validation")] for name in SETS]
    texts = [text for group in zip(*each, strict=False) for text in group]
    return [texts[i % len(texts)] for i in range(count)]


def write_prompts(directory: Path, count: int, length: int) -> dict[str, Path]:
    """Write prompts whose rows are embeddings of sampled pieces, with labels and templates."""
    from spot_jax.methods.prompt_file import PromptFile
    from spot_jax.methods.prompt_use import PromptUse
    from spot_jax.t5.backbone import load_backbone

    backbone = load_backbone(MINI)
    table = np.asarray(backbone.params["token_embedder"]["embedding"], np.float32)
    paths = {}
    for number in range(count):
        drawn = np.random.default_rng(number).integers(3, 5000, length)
        labels = list(SETS.values())[number % len(SETS)]
        use = PromptUse(labels, "text: {text}", lengths=LENGTHS, decoding="rank")
        path = directory / f"prompt{number}.safetensors"
        PromptFile(table[drawn], backbone=backbone.fingerprint, use=use).save(path)
        paths[path.stem] = path
    return paths


def medians(calls: dict[str, Any], repeats: int) -> dict[str, float]:
    """Return each call's median seconds, all called in turn."""
    seconds = in_turn(calls, repeats)
    return {name: statistics.median(values) for name, values in seconds.items()}


def single(directory: Path, length: int, repeats: int) -> dict[str, Any]:
    """Measure one text, warm."""
    import jax

    import spot_jax as spot
    from spot_jax.data.batches import BatchShape
    from spot_jax.data.examples import Examples
    from spot_jax.evaluation.evaluate import predict
    from spot_jax.t5.label_trees import LabelTrees, score_labels
    from spot_jax.t5.target import Jitted

    path = write_prompts(directory, 1, length)["prompt0"]
    predictor = spot.load(path, backbone=MINI)
    text = "my order never came, and nobody answers"
    tuned, ready = predictor.tuned, predictor.ready
    config, inference = tuned.backbone.config, ready.inference
    row = ready.rows(tuned.vocabulary, [f"text: {text}"])[0]
    bare = Jitted(
        lambda params, table, ids, trees: score_labels(params, config, ids, trees, table=table)
    )
    arguments = inference.params, inference.table, row.ids[None], LabelTrees(*ready.tree)
    shape = BatchShape(100, LENGTHS["inputs"], LENGTHS["targets"])
    examples = Examples.from_lists([(row.ids[length:], [])])

    def padded() -> None:
        batches, place = tuned.batches(examples, shape, predictor.prompt)
        names = ("encoder_input_tokens", "row_valid")
        predict(
            inference.params,
            config,
            ({name: batch[name] for name in names} for batch in batches),
            tuned.vocabulary,
            table=inference.table,
            search=predictor.search,
            place=place,
        )

    calls = {
        "predict": lambda: predictor.predict(text),
        "bound": lambda: jax.block_until_ready(bare(*arguments)),
    }
    # The long one seldom, before and after the others.
    seconds = medians({"padded_to_100": padded}, 2) | medians(calls, repeats)
    # One text after the other, with nothing between; what other work on the machine takes is in the
    # seconds, not in the processor's.
    wall, cpu = [], []
    for _ in range(repeats):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        predictor.predict(text)
        cpu.append(time.process_time() - cpu_begin)
        wall.append(time.perf_counter() - begin)
    return {
        "part": "single",
        "prompt_length": length,
        "seconds": seconds | {"predict_again": statistics.median(wall)},
        "cpu_seconds": {"predict": statistics.median(cpu), "fastest": min(cpu)},
    }


def clients(port: int, jobs: list[dict], count: int) -> list[dict]:
    """Post every job over `count` connections that stay open; answers in the order of the jobs.

    One thread writes and reads bytes, as clients share the cores with the service: requests are
    written out before the first is sent, answers parsed after the last has come.
    """
    requests = [_request(port, job) for job in jobs]
    raw: list[tuple[bytes, bytes, float]] = [(b"HTTP/1.1 unsent", b"{}", 0.0)] * len(jobs)
    numbers = iter(range(len(jobs)))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            begin = time.perf_counter()
            try:
                writer.write(requests[number])
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r")[0])
                body = await reader.readexactly(length)
            except (OSError, EOFError) as error:
                raw[number] = f"HTTP/1.1 {type(error).__name__}".encode(), b"{}", 0.0
                return
            raw[number] = head, body, time.perf_counter() - begin
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(count)), return_exceptions=True)

    asyncio.run(all_of_them())
    answers = []
    for head, body, seconds in raw:
        status = head.split(b" ")[1].split(b"\r")[0].decode()
        predictions = json.loads(body).get("predictions")
        answers.append({"status": status, "seconds": seconds, "predictions": predictions})
    return answers


def _request(port: int, job: dict) -> bytes:
    body = json.dumps(job).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


def client_process(port: int, jobs: list[dict], count: int) -> subprocess.Popen:
    """Start the clients in a process of their own."""
    command = [sys.executable, "-m", "bench.serving", "--port", str(port), "--clients", str(count)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes)
    assert process.stdin is not None
    process.stdin.write(json.dumps(jobs) + "\n")
    process.stdin.flush()
    return process


def ask(port: int, jobs: list[dict], count: int) -> tuple[list[dict], float]:
    """Return the answers, and the seconds between the first question and the last answer."""
    answers = json.loads(client_process(port, jobs, count).communicate()[0])
    return answers["answers"], answers["seconds"]


def service(directory: Path, prompts: int, requests: int, count: int) -> dict[str, Any]:
    """Measure the service."""
    import spot_jax as spot

    paths = write_prompts(directory, prompts, 20)
    command = [sys.executable, "-m", "spot_jax.cli.main", "serve", "--port", "0"]
    command += ["--backbone", str(MINI), "--prompts", *map(str, paths.values())]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit(server.stderr.read())
        port = int(line.split(":")[2].split(",")[0])
        names = list(paths)
        jobs = [
            {"prompt": names[i * 7 % prompts], "inputs": text}
            for i, text in enumerate(texts_of(requests))
        ]
        ask(port, jobs[:200], count)
        # One at a time between parts of the many, as other work on the machine comes and goes.
        size, few = -(-requests // TURNS), jobs[: max(requests // 50, 10)]
        answers, seconds, alone, cpu = [], 0.0, 0.0, 0.0
        rounds: collections.Counter[str] = collections.Counter()
        for start in range(0, requests, size):
            alone += ask(port, few, 1)[1]
            before, cpu_before = _metrics(port), _cpu_seconds(server.pid)
            part, took = ask(port, jobs[start : start + size], count)
            answers, seconds = answers + part, seconds + took
            cpu += _cpu_seconds(server.pid) - cpu_before
            rounds.update(_metrics(port) - before)
        sent = _metrics(port)["answered"] + 1  # and the metrics' own request
        asking = client_process(port, jobs, count)
        time.sleep(min(1.0, seconds / 4))
        server.send_signal(signal.SIGTERM)
        last = json.loads(asking.communicate()[0])["answers"]
        log = server.communicate()[1]
    statuses = collections.Counter(answer["status"] for answer in last)
    accepted = int(log.split("stopped; ")[1].split()[0]) - int(sent)
    predictors = {name: spot.load(path, backbone=MINI) for name, path in paths.items()}
    expected: list[str] = [""] * requests
    for name, predictor in predictors.items():
        mine = [i for i, job in enumerate(jobs) if job["prompt"] == name]
        for i, label in zip(
            mine, predictor.predict([jobs[i]["inputs"] for i in mine]), strict=True
        ):
            expected[i] = label.label
    got = [answer["predictions"][0]["prediction"] for answer in answers]
    times = sorted(answer["seconds"] for answer in answers)
    rates = {"one_at_a_time": len(few) * TURNS / alone, "together": requests / seconds}
    return {
        "part": "service",
        "prompts": prompts,
        "requests": requests,
        "clients": count,
        "answered": sum(answer["status"] == "200" for answer in answers),
        "equal_to_predict": sum(a == b for a, b in zip(got, expected, strict=True)),
        "requests_per_second": rates,
        "ratio": rates["together"] / rates["one_at_a_time"],
        "latency": {f"p{p}": times[int(len(times) * p / 100)] for p in (50, 95, 99)},
        "rounds": {
            "count": rounds["count"],
            "rows": rounds["rows"] / rounds["count"],
            "prompts": rounds["prompts"] / rounds["count"],
        },
        "cores_of_the_server": cpu / seconds,
        "model_share": rounds["model_seconds"] / seconds,
        "model_alone": model_alone(predictors, jobs[: 8 * count], count),
        "stopped": {
            "answers": statuses["200"],
            "accepted": accepted,
            "lost": accepted - statuses["200"],
        },
    }


def model_alone(predictors: dict[str, Any], jobs: list[dict], count: int) -> dict[str, Any]:
    """Measure what the model does without HTTP: texts a second, one by one and `count` at once."""
    from spot_jax.inference.loaded_prompts import LoadedPrompts

    loaded = LoadedPrompts(next(iter(predictors.values())).tuned, count)
    for name, predictor in predictors.items():
        loaded.add(name, predictor.prompt)
    vocabulary = loaded.tuned.vocabulary
    rows = [
        loaded.get(job["prompt"]).rows(vocabulary, [f"text: {job['inputs']}"])[0] for job in jobs
    ]
    blocks = [rows[i : i + count] for i in range(0, len(rows), count)]
    few = rows[:: len(rows) // 16][:16]
    calls = {
        "one_by_one": lambda: [loaded.predict([row]) for row in few],
        "together": lambda: [loaded.predict(block) for block in blocks],
    }
    seconds = medians(calls, 5)
    rates = {
        "one_by_one": len(few) / seconds["one_by_one"],
        "together": len(rows) / seconds["together"],
    }
    return {"texts_per_second": rates, "ratio": rates["together"] / rates["one_by_one"]}


def _cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _metrics(port: int) -> collections.Counter[str]:
    """Return the sums that the service has counted so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    values: dict[str, float] = {}
    for line in connection.getresponse().read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name.split("{")[0]] = values.get(name.split("{")[0], 0.0) + float(value)
    return collections.Counter(
        count=values["spot_round_rows_count"],
        rows=values["spot_round_rows_sum"],
        prompts=values["spot_round_prompts_sum"],
        model_seconds=values["spot_model_seconds_total"],
        answered=values.get("spot_requests_total", 0.0),
    )


def peers(directory: Path, prompts: int, texts: int, repeats: int) -> dict[str, Any] | None:
    """Measure mixed batches against PEFT's adapters in turn; None without PEFT."""
    try:
        import torch
        from peft import PromptTuningConfig

        from bench.peers import theirs
    except ImportError:
        return None
    import dataclasses

    from spot_jax.inference.loaded_prompts import LoadedPrompts
    from spot_jax.inference.tuned import Prompt, open_tuned
    from spot_jax.methods.prompt_forms import load_prompt
    from spot_jax.methods.prompt_use import PromptUse

    length, written = 100, 4
    use = PromptUse(lengths={"inputs": 64, "targets": written}, decoding="greedy")
    loaded = LoadedPrompts(open_tuned(backbone=MINI))
    for name, path in write_prompts(directory, prompts, length).items():
        loaded.add(name, Prompt(name, dataclasses.replace(load_prompt(path), use=use)))
    names = list(loaded.all())
    lines, vocabulary = texts_of(texts), loaded.tuned.vocabulary
    rows = [loaded.get(names[i % prompts]).rows(vocabulary, [t])[0] for i, t in enumerate(lines)]

    config = loaded.tuned.backbone.config
    tuned = theirs.model(config, "cpu", torch.float32).eval()
    for name in names:
        tuned.add_adapter(
            name,
            PromptTuningConfig(
                task_type="SEQ_2_SEQ_LM", num_virtual_tokens=length, num_transformer_submodules=1
            ),
        )

    # Of every adapter: texts of like lengths, padded to their longest.
    batches = []
    for number in range(prompts):
        ids = sorted((row.ids[length:] for row in rows[number::prompts]), key=len)
        batches.append([theirs.padded(ids[i : i + 64]) for i in range(0, len(ids), 64)])

    def in_adapters() -> None:
        for name, mine in zip(names, batches, strict=True):
            tuned.set_adapter(name)
            for batch in mine:
                theirs.write_padded(tuned, batch, written)

    calls = {"mixed": lambda: loaded.predict(rows), "peft_in_turn": in_adapters}
    seconds = medians(calls, repeats)
    rates = {name: texts / value for name, value in seconds.items()}
    return {
        "part": "peers",
        "prompts": prompts,
        "texts": texts,
        "texts_per_second": rates,
        "ratio": rates["mixed"] / rates["peft_in_turn"],
        # The encoder's for a text with its prompt: what equal work could gain by their ratio.
        "tokens": {
            "needed": sum(len(row.ids) for row in rows) / texts,
            "peft": length + sum(batch.numel() for mine in batches for batch in mine) / texts,
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("bench.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--texts", type=int, default=1000, help="of the part peers")
    parser.add_argument("--port", type=int, help="asks, as a process of clients")
    parser.add_argument("--output", default=str(ROOT / "bench" / "results" / "serving.json"))
    values = parser.parse_args(arguments)
    if values.port:
        jobs = json.loads(sys.stdin.readline())
        begin = time.perf_counter()
        answers = clients(values.port, jobs, values.clients)
        seconds = time.perf_counter() - begin
        print(json.dumps({"answers": answers, "seconds": seconds}))
        return
    from bench.record import write

    # Parts that are left out keep the figures that they have.
    kept: list[dict] = []
    if Path(values.output).exists():
        kept = json.loads(Path(values.output).read_text())["results"]
        kept = [entry for entry in kept if entry["part"] not in values.parts]
    results: list[dict] = []
    with tempfile.TemporaryDirectory() as directory:
        for part in values.parts:
            if part == "single":
                results += [single(Path(directory), n, values.repeats) for n in (20, 100)]
            elif part == "service":
                numbers = values.prompts, values.requests, values.clients
                results.append(service(Path(directory), *numbers))
            elif (result := peers(Path(directory), 8, values.texts, 3)) is not None:
                results.append(result)
            print(json.dumps(results[-1:], indent=1), flush=True)
            every = sorted(kept + results, key=lambda entry: PARTS.index(entry["part"]))
            write(values.output, "predictions one by one, over HTTP, beside PEFT", MINI, every)


if __name__ == "__main__":
    main()
