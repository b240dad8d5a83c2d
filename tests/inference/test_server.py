"""The service: `predict`'s predictions, prompts mixed in batches, bad requests in one line."""

import asyncio
import dataclasses
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from spot_jax.cli.main import main  # noqa: E402
from spot_jax.inference import rows  # noqa: E402
from spot_jax.inference.batcher import Batcher, Busy  # noqa: E402
from spot_jax.inference.loaded_prompts import LoadedPrompts, UnknownPrompt  # noqa: E402
from spot_jax.inference.predictor import Predictor  # noqa: E402
from spot_jax.inference.rows import (  # noqa: E402
    SharedTable,
    alone_sizes_of,
    predict_rows,
    tree_sizes_of,
)
from spot_jax.inference.server import LARGEST_BODY, app_of  # noqa: E402
from spot_jax.inference.tuned import open_tuned  # noqa: E402
from spot_jax.methods.prompt_file import PromptFile  # noqa: E402
from spot_jax.methods.prompt_forms import load_prompt  # noqa: E402
from spot_jax.methods.prompt_use import PromptUse  # noqa: E402

TEXTS = ["", "what a day", "not again, " * 9, "fine"]
USES = {
    "tweets": PromptUse(
        ("negative", "neutral", "positive"), "text: {text}", lengths={"inputs": 24}
    ),
    "pair": PromptUse(("no", "yes"), "text1: {text1} text2: {text2}", lengths={"inputs": 16}),
    "intent": PromptUse(tuple(f"intent {i}" for i in range(20)), lengths={"inputs": 12}),
    "free": PromptUse(lengths={"inputs": 24, "targets": 3}),
}


@pytest.fixture(scope="module")
def files(world, tmp_path_factory) -> dict[str, str]:
    """Prompts of unlike lengths, labels and templates."""
    directory, rng = tmp_path_factory.mktemp("prompts"), np.random.default_rng(1)
    paths = {}
    for number, (name, use) in enumerate(USES.items()):
        file = load_prompt(world.prompts[0])
        rows = 8 * rng.normal(size=(2 + number, file.rows.shape[1])).astype(np.float32)
        paths[name] = str(directory / f"{name}.safetensors")
        dataclasses.replace(file, prompt=rows, use=use).save(Path(paths[name]))
    return paths


@pytest.fixture
def loaded(world, files) -> LoadedPrompts:
    tuned = open_tuned(backbone=world.backbone)
    prompts = LoadedPrompts(tuned, batch_size=8)
    for name, path in files.items():
        prompts.add_bytes(name, Path(path).read_bytes())
    return prompts


def test_once_compiled_a_text_by_itself_compiles_nothing(loaded):
    vocabulary, program = loaded.tuned.vocabulary, rows._rank.jitted
    program.clear_cache()
    loaded.compile()
    compiled = program._cache_size()
    labelled = [loaded.get(name) for name, use in USES.items() if use.labels]
    # Alike where texts are mixed, unlike where one is by itself.
    assert len({tree_sizes_of(ready) for ready in labelled[:2]}) == 1
    assert len({alone_sizes_of(ready) for ready in labelled[:2]}) == 2
    for ready in labelled:
        (prediction,) = loaded.predict(ready.rows(vocabulary, ["what a day"]))
        assert prediction in ready.labels
    assert compiled and program._cache_size() == compiled


def inputs_of(name: str) -> list:
    if name == "pair":
        return [{"text1": text, "text2": "b"} for text in TEXTS]
    return TEXTS


class Client:
    """Requests to an ASGI application, without a socket."""

    def __init__(self, app):
        self.app = app

    def __call__(self, *requests) -> list[tuple[int, object]]:
        async def all_of_them():
            async with self.app.router.lifespan_context(self.app):
                return await asyncio.gather(*(self._one(*request) for request in requests))

        return asyncio.run(all_of_them())

    async def _one(self, verb, path, body=None, headers=()):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = b"application/json" if not isinstance(body, bytes) else b"application/octet-stream"
        path, _, query = path.partition("?")
        names = {b"host": b"localhost:8000", b"content-type": kind, **dict(headers)}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": verb,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [*names.items()],
            "scheme": "http",
            "server": ("localhost", 8000),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        status, parts = 0, []
        messages = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive():
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        text = b"".join(parts)
        return status, json.loads(text) if text[:1] in (b"{", b"[") else text.decode()


def test_rows_of_several_prompts_are_predicted_as_alone(world, loaded, files):
    rows, expected = [], []
    for name, path in files.items():
        predictor = Predictor(open_tuned(backbone=world.backbone, prompts=[path]))
        expected += predictor.predict(inputs_of(name))
        texts = [f"text1: {x['text1']} text2: {x['text2']}" if name == "pair" else x
                 for x in inputs_of(name)]  # fmt: skip
        texts = [f"text: {text}" for text in texts] if name == "tweets" else texts
        rows += loaded.get(name).rows(loaded.tuned.vocabulary, texts)
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = loaded.predict([rows[i] for i in order])
    assert len(set(mixed)) > 6
    for i, prediction in zip(order, mixed, strict=True):
        assert prediction == expected[i]
        np.testing.assert_allclose(
            [*prediction.probabilities.values()], [*expected[i].probabilities.values()], atol=1e-4
        )
    # A table without one of the prompts: its rows run by themselves.
    fewer = SharedTable.of([loaded.get(name) for name in files if name != "tweets"])
    some = predict_rows(loaded.tuned, rows, batch_size=8, shared=fewer)
    assert some == expected


def test_answers_are_those_of_predict(loaded):
    requests, expected = [], []
    for name in USES:
        ready = loaded.get(name)
        predictor = Predictor(dataclasses.replace(loaded.tuned, prompts=(ready.prompt,)))
        for item in [inputs_of(name), *inputs_of(name)]:
            requests.append(("POST", "/predict", {"prompt": name, "inputs": item}))
            answer = predictor.predict(item)
            expected.append(answer if isinstance(answer, list) else [answer])
    client = Client(app_of(loaded))
    for (status, body), predictions in zip(client(*requests), expected, strict=True):
        assert status == 200
        assert [item["prediction"] for item in body["predictions"]] == predictions
        for item, prediction in zip(body["predictions"], predictions, strict=True):
            assert item["probabilities"].keys() == prediction.probabilities.keys()
    ((_, text),) = client(("GET", "/metrics"))
    assert 'spot_texts_total{prompt="pair"} 8.0' in text
    # Fewer rounds than requests, some of several prompts.
    assert float(text.split("spot_round_rows_count ")[1].split()[0]) < len(requests) / 2
    assert 'spot_round_prompts_bucket{le="1.0"}' in text


def test_prompts_are_loaded_and_dropped_while_it_runs(world, loaded, files):
    data = Path(files["tweets"]).read_bytes()
    other = dataclasses.replace(load_prompt(files["tweets"]), backbone="0" * 64)
    other.save(Path(files["tweets"]).with_name("other.safetensors"))
    foreign = Path(files["tweets"]).with_name("other.safetensors").read_bytes()
    client = Client(app_of(loaded))
    ask = ("POST", "/predict", {"prompt": "new", "inputs": "what a day"})
    ((status, body),) = client(ask)
    assert status == 404 and "no prompt 'new'; loaded are free, intent" in body["error"]
    ((status, body),) = client(("POST", "/prompts/new", data))
    assert status == 201 and body["labels"] == ["negative", "neutral", "positive"]
    assert body["fields"] == ["text"]
    new, old = client(ask, ("POST", "/predict", {**ask[2], "prompt": "tweets"}))
    assert new == old and new[0] == 200
    answers = client(
        ("POST", "/prompts/new", data),
        ("POST", "/prompts/new?replace=true", data),
        ("POST", "/prompts/..%2Fetc", data),
        ("POST", "/prompts/bad", foreign),
        ("POST", "/prompts/bad", data[:-9]),
        ("POST", "/prompts/bad", {"path": files["tweets"]}),
        ("GET", "/prompts"),
        ("GET", "/prompts/pair"),
    )
    assert [status for status, _ in answers] == [409, 201, 422, 422, 422, 415, 200, 200]
    assert "another backbone" in answers[3][1]["error"]
    assert [item["name"] for item in answers[6][1]] == ["free", "intent", "new", "pair", "tweets"]
    assert answers[7][1]["fields"] == ["text1", "text2"]
    assert client(("DELETE", "/prompts/new"))[0][0] == 204
    assert [s for s, _ in client(("DELETE", "/prompts/new"), ask)] == [404, 404]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (("POST", "/predict", b"{"), 400, "not JSON"),
        (("POST", "/predict", b"\xff\xfe"), 400, ""),
        (("POST", "/predict", b"[" * 100_000), 400, ""),
        (("POST", "/predict", b" " * (LARGEST_BODY + 1)), 413, "10,000,000 bytes"),
        (("POST", "/predict", [1]), 422, ""),
        (("POST", "/predict", {"prompt": "tweets"}), 422, "inputs: Field required"),
        (("POST", "/predict", {"prompt": "tweets", "inputs": 5}), 422, "inputs"),
        (("POST", "/predict", {"prompt": "tweets", "inputs": ["a"], "x": 1}), 422, "x: "),
        (("POST", "/predict", {"prompt": "tweets", "inputs": ["a"] * 10_001}), 413, "10,001 texts"),
        (("POST", "/predict", {"prompt": "none", "inputs": "a"}), 404, "no prompt 'none'"),
        (("POST", "/predict", {"inputs": "a"}), 404, "no prompt was named"),
        (("POST", "/predict", {"prompt": "pair", "inputs": "a"}), 422, "text1, text2"),
        (("POST", "/predict", {"prompt": "pair", "inputs": {"text1": "a"}}), 422, "field text2"),
        (("POST", "/predict", {"prompt": "tweets", "inputs": {"text": 5}}), 422, "expected text"),
        (("GET", "/predict"), 405, ""),
        (("GET", "/etc/passwd"), 404, ""),
    ],
)
def test_bad_requests_are_refused_in_one_line(loaded, request_, status, message):
    verb, path, *body = request_
    headers = {b"content-type": b"application/json"}
    ((actual, answer),) = Client(app_of(loaded))((verb, path, *(body or [None]), headers.items()))
    assert actual == status and message in answer["error"] and "\n" not in answer["error"]


def test_a_body_of_another_type_is_refused(loaded):
    form = {b"content-type": b"application/x-www-form-urlencoded"}
    ask = {"prompt": "tweets", "inputs": "a"}
    ((status, answer),) = Client(app_of(loaded))(("POST", "/predict", ask, form.items()))
    assert status == 415 and "Content-Type: application/json" in answer["error"]


def test_a_token_and_the_host_are_asked_for(loaded):
    client = Client(app_of(loaded, token="a secret of sixteen"))
    right, wrong = (
        {b"authorization": f"Bearer {t}".encode()} for t in ("a secret of sixteen", "b")
    )
    answers = client(
        ("GET", "/prompts"),
        ("GET", "/prompts", None, wrong.items()),
        ("GET", "/prompts", None, right.items()),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
    )
    assert [status for status, _ in answers] == [401, 401, 200, 200, 401]
    client = Client(app_of(loaded, check_host=True))
    other = {b"host": b"evil.example:8000"}
    loopback = {b"host": b"[::1]:8000"}
    answers = client(("GET", "/prompts", None, other.items()), ("GET", "/prompts"))
    assert [status for status, _ in answers] == [403, 200]
    assert client(("GET", "/prompts", None, loopback.items()))[0][0] == 200


def test_its_pages(loaded):
    schema, page, health = Client(app_of(loaded))(
        ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/healthz")
    )
    assert {"/predict", "/prompts", "/prompts/{name}", "/healthz"} <= schema[1]["paths"].keys()
    assert "POST /predict" in page[1] and "http://" not in page[1] and "https://" not in page[1]
    assert health == (200, {"status": "ok", "prompts": 4})


def test_what_waits_is_predicted_before_the_end_and_a_dropped_prompt_too(loaded):
    batcher = Batcher(loaded, max_wait=0.05)
    ready = loaded.get("tweets")
    rows = ready.rows(loaded.tuned.vocabulary, TEXTS * 10)
    expected = loaded.predict(rows)
    futures = [batcher.submit(rows) for _ in range(3)]
    loaded.remove("tweets")
    with pytest.raises(UnknownPrompt):
        loaded.get("tweets")
    batcher.close()
    assert [future.result(0) for future in futures] == [expected] * 3
    with pytest.raises(Busy, match="stopping"):
        batcher.submit(rows)


def test_a_request_of_many_rows_takes_turns_and_too_many_are_refused(loaded, monkeypatch):
    started, go = threading.Event(), threading.Event()
    rounds = []
    predict = loaded.predict

    def slow(rows, **options):
        started.set()
        go.wait(30)
        rounds.append(len(rows))
        return predict(rows, **options)

    monkeypatch.setattr(loaded, "predict", slow)
    batcher = Batcher(loaded, max_wait=0, max_rows=100)
    rows = loaded.get("tweets").rows(loaded.tuned.vocabulary, ["a"] * 50)
    long, done = batcher.submit(rows), []
    long.add_done_callback(lambda _: done.append("long"))
    assert started.wait(30)
    short = batcher.submit(rows[:2])
    short.add_done_callback(lambda _: done.append("short"))
    gone = batcher.submit(rows[:1])
    assert gone.cancel()
    with pytest.raises(Busy, match="wait already"):
        batcher.submit(rows * 2)
    go.set()
    assert len(long.result(60)) == 50 and len(short.result(60)) == 2
    batcher.close()
    assert done == ["short", "long"] and sum(rounds) == 52 and batcher.waiting == 0


def test_a_client_that_asks_alone_waits_for_nobody(loaded, monkeypatch):
    monkeypatch.setattr(loaded, "predict", lambda rows, **options: ["done"] * len(rows))
    rows = loaded.get("tweets").rows(loaded.tuned.vocabulary, ["a"])
    batcher = Batcher(loaded, max_wait=0.001)
    batcher.submit(rows).result(30)
    batcher.max_wait = 600.0
    assert batcher.submit(rows).result(30) == ["done"]
    # Nor is a full batch kept waiting.
    batcher._comes_alone = False
    futures = [batcher.submit(rows) for _ in range(loaded.batch_size)]
    assert [future.result(30) for future in futures] == [["done"]] * loaded.batch_size
    batcher.close()


def test_an_error_in_the_model_is_its_requests_alone(loaded, monkeypatch):
    rows = loaded.get("tweets").rows(loaded.tuned.vocabulary, TEXTS)
    batcher = Batcher(loaded, max_wait=0)
    with monkeypatch.context() as patch:
        patch.setattr(loaded, "predict", lambda rows, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batcher.submit(rows).result(30)
    assert len(batcher.submit(rows).result(30)) == len(rows)
    batcher.close()


def test_the_command_s_mistakes(world, files, tmp_path, capsys, monkeypatch):
    def complaint(*arguments):
        code = main(["serve", "--backbone", world.backbone, "--port", "0", *arguments])
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and err.startswith("spot: ") and err.count("\n") == 1, err
        return err

    assert "needs a token" in complaint("--host", "0.0.0.0")
    (tmp_path / "token").write_text("short\n")
    assert "at least 16" in complaint("--token_file", str(tmp_path / "token"))
    PromptFile(np.ones((2, 16), np.float32), backbone="0" * 64).save(tmp_path / "o.safetensors")
    assert "another backbone" in complaint("--prompts", str(tmp_path / "o.safetensors"))
    assert "no prompt file" in complaint("--prompts", str(tmp_path / "none.safetensors"))
    assert "holds no prompt of" in complaint("--prompts", str(tmp_path))
    same = [files["pair"], files["pair"]]
    assert "a prompt pair is loaded already" in complaint("--prompts", *same)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "cannot listen on 127.0.0.1:" + port in complaint("--port", port)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'spot-jax[serve]'" in complaint()


@pytest.mark.slow
def test_a_server_that_is_stopped_answers_what_it_accepted(world, files):
    command = [sys.executable, "-m", "spot_jax.cli.main", "serve", "--cold", "--port", "0"]
    command += ["--backbone", world.backbone, "--prompts", *files.values(), world.run]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as server:
        line = server.stdout.readline()
        assert "5 prompts on http://127.0.0.1:" in line
        port = int(line.split(":")[2].split(",")[0])
        # In a process of its own, as tests may open no socket.
        clients = subprocess.Popen(
            [sys.executable, __file__, str(port)], stdout=subprocess.PIPE, text=True
        )
        assert clients.stdout.readline() == "begun\n"
        time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        answers = json.loads(clients.communicate(timeout=120)[0])
        assert answers.get("200", 0) >= 16, answers
        log = server.communicate(timeout=60)[1]
    assert server.returncode == 0, log
    # Whatever the server took was answered; the others met a closed door.
    assert f"stopped; {answers['200']} requests answered" in log


def _clients(port: int, count: int = 16) -> None:
    """Ask from several threads until the server is gone; print how many answers were of a kind."""
    answers: dict[str, int] = {}
    lock, begun = threading.Lock(), threading.Barrier(count + 1)

    def ask(number: int) -> None:
        is_first = True
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
            try:
                connection.connect()
            except ConnectionError:
                kind = "refused"
            else:
                body = json.dumps({"prompt": "tweets", "inputs": f"text {number}"})
                try:
                    kind = {"Content-Type": "application/json"}
                    connection.request("POST", "/predict", body, kind)
                    response = connection.getresponse()
                    response.read()
                    kind = str(response.status)
                except (ConnectionError, http.client.HTTPException) as error:
                    kind = f"lost: {error!r}"
            with lock:
                answers[kind] = answers.get(kind, 0) + 1
            if is_first:
                begun.wait()
                is_first = False
            if kind != "200":
                return

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    begun.wait()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    _clients(int(sys.argv[1]))
