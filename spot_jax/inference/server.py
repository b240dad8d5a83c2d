"""An HTTP service over loaded prompts: FastAPI's routes, and a gate before them.

Requests name prompts, never paths of this machine's disk: a prompt that is loaded while the service
runs comes as the bytes of its file. Every error is a JSON object with one line, {"error": "..."}.
"""

import asyncio
import contextlib
import hmac
import html
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import prometheus_client as prometheus
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from spot_jax.data.fields import names_in
from spot_jax.errors import SpotError
from spot_jax.inference.batcher import Batcher, Busy
from spot_jax.inference.loaded_prompts import LoadedPrompts, NameTaken, UnknownPrompt
from spot_jax.inference.predictor import texts_of
from spot_jax.inference.rows import ReadyPrompt
from spot_jax.version import __version__

LARGEST_BODY = 10_000_000
MOST_TEXTS = 10_000
# Texts of a request up to which they are made rows without leaving the event loop.
FEW_TEXTS = 64
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class PredictRequest(BaseModel):
    """Texts for a prompt."""

    model_config = ConfigDict(extra="forbid")
    prompt: str | None = Field(None, description="name of the prompt; not needed where one is")
    inputs: str | dict[str, Any] | list[str | dict[str, Any]] = Field(
        description="a text, an object of the task's fields, or a list of such"
    )
    probabilities: bool = Field(True, description="whether labels get their probabilities")


class PredictionItem(BaseModel):
    """What one text was predicted as."""

    prediction: str = Field(description="label, or text that was written")
    probabilities: dict[str, float] = Field(description="probability by label; empty for text")


class PredictResponse(BaseModel):
    """Predictions, one an input and in their order."""

    predictions: list[PredictionItem]


class PromptItem(BaseModel):
    """A loaded prompt."""

    name: str
    task: str
    method: str
    decoding: str
    labels: list[str]
    fields: list[str] = Field(description="fields of its task's examples")
    lengths: dict[str, int] = Field(description="tokens of text after which inputs are cut")
    metrics: dict[str, float]
    licence: str
    card: str


class Problem(BaseModel):
    """What is wrong, in one line."""

    error: str


class Metrics:
    """What Prometheus reads.

    Attributes:
        answered: number of requests that were answered, whatever the answer was.
    """

    def __init__(self, prompts: LoadedPrompts):
        self.answered = 0
        registry = self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "spot_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.texts = prometheus.Counter("spot_texts", "Texts", ["prompt"], registry=registry)
        self.seconds = prometheus.Histogram(
            "spot_request_seconds", "Time from a request to its answer", registry=registry
        )
        self.rows = prometheus.Histogram(
            "spot_round_rows",
            "Rows that ran together",
            buckets=[2**i for i in range(11)],
            registry=registry,
        )
        self.mixed = prometheus.Histogram(
            "spot_round_prompts",
            "Prompts whose rows ran together",
            buckets=[2**i for i in range(8)],
            registry=registry,
        )
        self.model = prometheus.Counter(
            "spot_model_seconds", "Time in the model", registry=registry
        )
        self.cut = prometheus.Counter(
            "spot_texts_cut", "Texts longer than their prompt allows", registry=registry
        )
        self.waiting = prometheus.Gauge("spot_waiting_texts", "Texts waiting", registry=registry)
        self.loaded = prometheus.Gauge("spot_prompts", "Prompts loaded", registry=registry)
        self.loaded.set_function(lambda: len(prompts.all()))

    def observe(self, rows: int, prompts: int, seconds: float) -> None:
        """Note a round of the batcher."""
        self.rows.observe(rows)
        self.mixed.observe(prompts)
        self.model.inc(seconds)


def app_of(
    prompts: LoadedPrompts,
    *,
    token: str = "",
    max_wait: float = 0.002,
    check_host: bool = False,
) -> FastAPI:
    """Return the service as an ASGI application; its lifespan runs the batches.

    Args:
        prompts: prompts to serve.
        token: secret that every request but for its health must bear; "" for none.
        max_wait: seconds that a first request waits for others to share its batch.
        check_host: whether requests must be addressed to this machine's loopback, which keeps web
            pages out that a browser here has open.
    """
    metrics = Metrics(prompts)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(prompts, max_wait=max_wait, observe=metrics.observe)
        metrics.waiting.set_function(lambda: batcher.waiting)
        app.state.batcher = batcher
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="spot-jax",
        version=__version__,
        summary="Predictions of soft prompts behind one T5.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = metrics
    app.add_middleware(_Gate, token=token, metrics=metrics, check_host=check_host)
    _add_errors(app)
    _add_predictions(app, prompts, metrics)
    _add_prompts(app, prompts)
    _add_pages(app, prompts, metrics)
    return app


def _add_predictions(app: FastAPI, prompts: LoadedPrompts, metrics: Metrics) -> None:
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 404, 413, 415, 422, 503)
    }

    @app.post("/predict", response_model=PredictResponse, responses=problems)
    async def predict(request: PredictRequest) -> Response:
        """Predict for a text, or for each of several: rows of all requests share batches."""
        alone = isinstance(request.inputs, str | dict)
        inputs = [request.inputs] if isinstance(request.inputs, str | dict) else request.inputs
        if len(inputs) > MOST_TEXTS:
            raise HTTPException(
                413, f"{len(inputs):,} texts, of at most {MOST_TEXTS:,}; send several requests"
            )
        ready = prompts.get(request.prompt)

        def rows_of() -> list:
            texts = texts_of(inputs, ready.task)
            return ready.rows(prompts.tuned.vocabulary, texts)

        few = alone or len(inputs) <= FEW_TEXTS
        rows = rows_of() if few else await asyncio.to_thread(rows_of)
        batcher: Batcher = app.state.batcher
        future = batcher.submit(rows, probabilities=request.probabilities)
        predictions = await asyncio.wrap_future(future)
        metrics.texts.labels(request.prompt or "").inc(len(rows))
        metrics.cut.inc(sum(row.was_cut for row in rows))
        items = [{"prediction": p.label, "probabilities": p.probabilities} for p in predictions]
        return Response(
            json.dumps({"predictions": items}, ensure_ascii=False), media_type="application/json"
        )


def _add_prompts(app: FastAPI, prompts: LoadedPrompts) -> None:
    @app.get("/prompts", response_model=list[PromptItem])
    async def list_prompts() -> list[dict[str, Any]]:
        """List the loaded prompts."""
        return [_described(name, ready) for name, ready in prompts.all().items()]

    @app.get("/prompts/{name}", response_model=PromptItem, responses={404: {"model": Problem}})
    async def show_prompt(name: str) -> dict[str, Any]:
        """Show one prompt."""
        return _described(name, prompts.get(name))

    body = {"content": {"application/octet-stream": {"schema": {"format": "binary"}}}}

    @app.post(
        "/prompts/{name}",
        status_code=201,
        response_model=PromptItem,
        responses={s: {"model": Problem} for s in (409, 413, 415, 422)},
        openapi_extra={"requestBody": {"required": True, **body}},
    )
    async def load_prompt(name: str, request: Request, replace: bool = False) -> dict[str, Any]:
        """Load a prompt: the body is its file."""
        # No web page can send this type without asking, and nobody answers.
        if request.headers.get("content-type", "") != "application/octet-stream":
            raise HTTPException(
                415, "send the file's bytes with Content-Type: application/octet-stream"
            )
        data = await request.body()
        ready = await asyncio.to_thread(prompts.add_bytes, name, data, replace=replace)
        return _described(name, ready)

    @app.delete("/prompts/{name}", status_code=204, responses={404: {"model": Problem}})
    async def drop_prompt(name: str) -> Response:
        """Drop a prompt; what was accepted before is still predicted."""
        prompts.remove(name)
        return Response(status_code=204)


def _described(name: str, ready: ReadyPrompt) -> dict[str, Any]:
    file, search = ready.prompt.file, ready.search
    use = ready.prompt.use
    return {
        "name": name,
        "task": ready.task.name,
        "method": str(file.method.get("name", "")) if file else "",
        "decoding": "rank" if ready.labels else "greedy" if search.beams == 1 else "beam",
        "labels": list(ready.labels),
        "fields": list(names_in(ready.task.template)) if ready.task.template else ["inputs"],
        "lengths": dict(ready.lengths),
        "metrics": dict(file.metrics) if file else {},
        "licence": use.licence,
        "card": use.card,
    }


def _add_pages(app: FastAPI, prompts: LoadedPrompts, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        """Say that the service answers."""
        return {"status": "ok", "prompts": len(prompts.all())}

    @app.get("/metrics", include_in_schema=False)
    async def metrics_text() -> Response:
        text = prometheus.generate_latest(metrics.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi()))


def _add_errors(app: FastAPI) -> None:
    statuses: list[tuple[type[SpotError], int]] = [
        (UnknownPrompt, 404),
        (NameTaken, 409),
        (Busy, 503),
        (SpotError, 422),
    ]

    @app.exception_handler(SpotError)
    async def refuse(_: Request, error: Exception) -> Response:
        status = next(status for kind, status in statuses if isinstance(error, kind))
        return _problem(status, str(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _problem(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", "")
            return _problem(400, f"the body is not JSON ({reason}); send a JSON object")
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return _problem(422, f"{place or 'the body'}: {first['msg']}; see /docs")


def _problem(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    line = " ".join(message.split())
    return JSONResponse({"error": line}, status, headers=headers)


class _Gate:
    """Lets in requests of limited size that bear the token, and counts all."""

    def __init__(self, app: Any, *, token: str, metrics: Metrics, check_host: bool):
        self.app, self.metrics = app, metrics
        self.expected = f"Bearer {token}".encode() if token else b""
        self.check_host = check_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), 500

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            body = b"" if refusal else await _body(receive)
            if body is None:
                refusal = _problem(413, f"the body has more than {LARGEST_BODY:,} bytes; send less")
            if refusal:
                await refusal(scope, receive, counted)
            else:
                await self.app(scope, _replay(body or b"", receive), counted)
        finally:
            first = "/" + scope["path"].strip("/").split("/")[0]
            paths = ("/predict", "/prompts", "/healthz", "/metrics", "/docs", "/openapi.json")
            self.metrics.requests.labels(first if first in paths else "other", status).inc()
            self.metrics.answered += 1
            self.metrics.seconds.observe(time.monotonic() - begin)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if self.check_host:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[1 : host.find("]")] if host.startswith("[") else host.split(":")[0]
            if name not in LOOPBACK:
                return _problem(403, "without a token only this machine's own name is answered")
        if self.expected and scope["path"] != "/healthz":
            sent = headers.get(b"authorization", b"")
            if not hmac.compare_digest(sent, self.expected):
                return _problem(401, "send the token: Authorization: Bearer TOKEN")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if (
            scope["method"] == "POST"
            and scope["path"] == "/predict"
            and kind != b"application/json"
        ):
            return _problem(415, "send a JSON object with Content-Type: application/json")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            return _problem(
                413, f"the body has {int(length):,} bytes, of at most {LARGEST_BODY:,}; send less"
            )
        return None


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None for one that is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _page(schema: dict[str, Any]) -> str:
    """The OpenAPI document as a page that needs no network."""
    parts = [
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<title>spot-jax</title><style>:root{color-scheme:light dark}body{font:16px sans-serif;"
        "max-width:50em;margin:2em auto;padding:0 1em}pre{overflow:auto}</style>",
        "<h1>spot-jax</h1><p>As a file: <a href='openapi.json'>openapi.json</a></p>",
    ]
    for path, verbs in schema["paths"].items():
        for verb, about in verbs.items():
            parts.append(f"<h2><code>{verb.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(about.get('description', ''))}</p>")
            for title, content in (
                ("Body", about.get("requestBody")),
                ("Parameters", about.get("parameters")),
                ("Answers", about.get("responses")),
            ):
                if content:
                    text = html.escape(json.dumps(content, indent=1))
                    parts.append(f"<details><summary>{title}</summary><pre>{text}</pre></details>")
    schemas = html.escape(json.dumps(schema.get("components", {}).get("schemas", {}), indent=1))
    parts.append(f"<h2>Schemas</h2><pre>{schemas}</pre>")
    return "\n".join(parts)
