"""`spot serve`: predictions of many prompts over HTTP, one backbone behind them."""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot_jax.cli.flags import import_named, parser
from spot_jax.errors import SpotError, require_extra

if TYPE_CHECKING:
    from spot_jax.inference.tuned import Prompt, Tuned


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot serve --help`."""
    values = _flags(arguments)
    token = _token(values)
    require_extra("serve", "spot serve")
    import uvicorn

    from spot_jax.inference.server import app_of

    listening = _socket(values.host, values.port)  # before the backbone: a taken port is seen soon
    with listening:
        import_named(values.module, "--module")

        from spot_jax.cli.values import mesh
        from spot_jax.inference.loaded_prompts import LoadedPrompts
        from spot_jax.inference.tuned import open_tuned

        tuned = open_tuned(backbone=values.backbone, mesh=mesh(values.mesh))
        prompts = LoadedPrompts(tuned, values.batch_size)
        for name, prompt in _prompts(values.prompts, tuned):
            prompts.add(name, prompt)
            if not prompt.use.lengths:
                print(
                    f"{name} does not say its labels or lengths, and writes freely; export it from "
                    "its run",
                    file=sys.stderr,
                )
        prompts.make_room()
        if not values.cold:
            begin = time.monotonic()
            print("compiling; --cold starts without ...", file=sys.stderr, flush=True)
            batches = prompts.compile()
            seconds = time.monotonic() - begin
            print(f"compiled for {batches} shapes in {seconds:.0f} s", file=sys.stderr)
        app = app_of(
            prompts,
            token=token,
            max_wait=values.max_wait / 1000,
            check_host=not token,
        )
        count, (host, port) = len(prompts.all()), listening.getsockname()[:2]
        print(f"{count} prompts on http://{host}:{port}, help at /docs", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, backlog=2048)
        _until_stopped(uvicorn.Server(config), listening)
        print(f"stopped; {app.state.metrics.answered} requests answered", file=sys.stderr)
    return 0


def _until_stopped(server: Any, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; both are the ordinary end, after what was accepted."""
    # uvicorn sends itself the signal again at the end, when it has put these back.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    flags = parser(
        "serve",
        "Answer requests for predictions, those of different prompts in one batch. Prompts are\n"
        "files, run directories, or directories of such files: a library. More can be loaded\n"
        "while it runs. SIGTERM and Ctrl-C end it when what was accepted is answered.",
    )
    flags.add_argument("--backbone", required=True, metavar="DIR", help="a stored backbone")
    flags.add_argument("--prompts", nargs="*", default=[], metavar="PATH")
    flags.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    flags.add_argument("--port", type=int, default=8000, help="default: 8000; 0 for any free one")
    flags.add_argument(
        "--token_file",
        metavar="FILE",
        help="its first line is a token that requests must bear; or set SPOT_TOKEN",
    )
    flags.add_argument("--batch_size", type=int, default=64, metavar="N", help="default: 64")
    flags.add_argument(
        "--max_wait", type=float, default=2.0, metavar="MS", help="for others to join a batch"
    )
    flags.add_argument("--cold", action="store_true", help="compile at requests, not at the start")
    flags.add_argument("--mesh", default="1x1", metavar="DATAxMODEL", help="default: one device")
    flags.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="defines methods of your own"
    )
    values = flags.parse_args(arguments)
    if values.batch_size < 1:
        raise SpotError(f"--batch_size is at least 1, found {values.batch_size}")
    if not 0 <= values.port < 65536:
        raise SpotError(f"--port is 0 to 65535, found {values.port}")
    if not 0 <= values.max_wait <= 1000:
        raise SpotError(f"--max_wait is 0 to 1000 milliseconds, found {values.max_wait}")
    return values


def _token(values: argparse.Namespace) -> str:
    """The token that requests must bear; without one nothing but loopback is listened on."""
    token = os.environ.get("SPOT_TOKEN", "")
    if values.token_file:
        lines = Path(values.token_file).expanduser().read_text(encoding="utf-8").splitlines()
        token = lines[0].strip() if lines else ""
        if not token:
            raise SpotError(f"{values.token_file} has no token in its first line")
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable()):
        raise SpotError("a token has at least 16 printable ASCII characters")
    if not token and values.host not in ("127.0.0.1", "localhost", "::1"):
        raise SpotError(
            f"--host {values.host} is open to others, which needs a token: --token_file FILE, or "
            "SPOT_TOKEN"
        )
    return token


def _socket(host: str, port: int) -> socket.socket:
    """A socket on the port; `SpotError` for one that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise SpotError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another with "
            "--port or --host"
        ) from error
    return listening


def _prompts(paths: Sequence[str], tuned: "Tuned") -> Iterator[tuple[str, "Prompt"]]:
    """Each prompt of files, runs and directories under a name."""
    import dataclasses

    from spot_jax.files import slug
    from spot_jax.inference.export import prompts_of_run
    from spot_jax.inference.tuned import read_on
    from spot_jax.methods.prompt_forms import is_prompt

    for path in map(Path, paths):
        path = path.expanduser()
        if (path / "setup.json").exists():
            for name, file, at in prompts_of_run(path):
                prompt = read_on(at, tuned.backbone, tuned.vocabulary)
                yield slug(name), dataclasses.replace(prompt, file=file)
        elif path.is_dir() and not is_prompt(path):
            yield from _directory(path, tuned)
        else:
            yield slug(path.stem), read_on(path, tuned.backbone, tuned.vocabulary)


def _directory(path: Path, tuned: "Tuned") -> Iterator[tuple[str, "Prompt"]]:
    """The prompts of a library, or of a directory of files; those of other backbones are told."""
    from spot_jax.files import slug
    from spot_jax.inference.tuned import read_on
    from spot_jax.methods.prompt_forms import load_prompt

    inner = path / "prompts"
    files = sorted((inner if inner.is_dir() else path).glob("*.safetensors"))
    others = 0
    for file in files:
        # A library serves several backbones; a file that is named alone must be of this one.
        if load_prompt(file).backbone not in ("", tuned.backbone.fingerprint):
            others += 1
            continue
        yield slug(file.stem), read_on(file, tuned.backbone, tuned.vocabulary)
    if others == len(files):
        raise SpotError(
            f"{path} holds no prompt of this backbone ({tuned.backbone.fingerprint[:12]}); give "
            "another directory"
        )
    if others:
        print(f"{path}: left out {others} prompts of other backbones", file=sys.stderr)
