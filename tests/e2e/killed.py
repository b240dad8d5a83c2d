"""Work that is killed again and again: `killed.py DIRECTORY KIND KILLS SEED`.

A kind of work is done once undisturbed. Then it is begun by fork in another directory and killed
without warning at a random moment, until there were as many kills as are asked for; what a start
ended before it was killed is compared with the undisturbed work and begun anew. A last start goes
on to the end. Nothing of JAX runs in the process that forks.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from library_cases import make_pair
from study_cases import make_world, write_task
from tiny_text import VOCABULARY

from spot_jax.cli.main import main as spot
from spot_jax.data.data_source import DataSource
from spot_jax.data.examples import Examples
from spot_jax.data.feature_cache import FeatureStore
from spot_jax.library.library import Library
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.studies.transfer.study import TransferStudy
from spot_jax.t5.backbone import Backbone, load_backbone, save_backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.run import train
from spot_jax.training.run_info import read_setup

PROMPTS_OF_JOBS = "study/jobs/*/run/prompts/*.safetensors"
LEFTOVERS = (".part", "-tmp", ".tmp", ".new")


class Kind(NamedTuple):
    """A kind of work.

    Attributes:
        do: function from the shared directory and one of its own that does it, or goes on.
        check: function from the latter that raises if anything in it is not as it should be.
        content: function from it to what was made, in a form that compares.
    """

    do: Callable[[Path, Path], Any]
    check: Callable[[Path], Any]
    content: Callable[[Path], Any]


def files(directory: Path, pattern: str = "**/*") -> dict[str, str]:
    paths = [path for path in directory.glob(pattern) if path.is_file()]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return {
        str(path.relative_to(directory)): digest
        for path, digest in sorted(zip(paths, digests, strict=True))
    }


def do_train(shared: Path, directory: Path) -> None:
    train(
        model_dir=str(directory / "run"),
        backbone=StoredBackbone(str(shared / "world/backbone"), dropout_rate=0.1),
        method=PromptTuning(length=4),
        data=DataSource(str(shared / "a-{split}.npz"), {"inputs": 8, "targets": 2}, batch_size=8),
        optimizer=Adafactor(0.3),
        train_steps=120,
        evaluation=EvaluationPlan(period=15, decoding="greedy"),
        checkpoints=CheckpointPlan(period=10, embedding_step=20),
        progress=False,
    )


def check_run(directory: Path) -> None:
    if (directory / "run/setup.json").exists():
        read_setup(directory / "run")
    for path in (directory / "run").glob("**/*.json"):
        if "checkpoints" not in path.parts:
            json.loads(path.read_bytes())
    for path in (directory / "run/prompts").glob("*.safetensors"):
        load_prompt(path)


def run_content(directory: Path) -> Any:
    log = [(row["step"], row.get("train/loss")) for row in read_metrics(directory / "run")]
    steps = sorted(path.name for path in (directory / "run/checkpoints").iterdir())
    return files(directory / "run/prompts"), log, steps


def do_add(shared: Path, directory: Path) -> None:
    library = ["--library", str(directory / "library")]
    prompts = map(str, sorted(shared.glob("prompts/*/best-0.*")))
    assert spot(["prompts", "add", *prompts, *library]) == 0
    for metric in ("per_token", "average_tokens"):
        Library(directory / "library").rank(
            make_pair("boolq")[1].rows, backbone="a" * 64, metric=metric
        )


def check_library(directory: Path) -> None:
    if (directory / "library/prompts").exists():
        assert Library(directory / "library").verify() == []


def do_convert(shared: Path, directory: Path) -> None:
    if not (directory / "backbone").exists():
        assert spot(["convert", str(shared / "large"), str(directory / "backbone")]) == 0


def check_converted(directory: Path) -> None:
    if (directory / "backbone").exists():
        load_backbone(directory / "backbone")


def do_features(shared: Path, directory: Path) -> None:
    from spot_jax.data.cached_features import T5Features

    encoder = T5Features(load_backbone(shared / "world/backbone"), "mix")
    store = FeatureStore(directory / "features", encoder, shard_bytes=16384, progress=False)
    store.of("task", "train", Examples.load(shared / "long.npz"), 16)


def check_features(directory: Path) -> None:
    for path in directory.glob("features/*/*.json"):
        json.loads(path.read_bytes())


def do_study(shared: Path, directory: Path) -> None:
    plan = make_world(shared / "world", new=False).plan(directory / "study", weighted_average=(2,))
    TransferStudy(plan).run(lambda line: None, progress=False)


def check_study(directory: Path) -> None:
    for path in directory.glob("study/**/prompts/*.safetensors"):
        load_prompt(path)
    for path in directory.glob("study/jobs/*/result.json"):
        json.loads(path.read_bytes())


def study_content(directory: Path) -> Any:
    text = (directory / "study/results.json").read_text().replace(str(directory), "OWN")
    fields = json.loads(text)
    del fields["machine"]["seconds"], fields["digest"]
    # Not their bytes: a prompt's ancestors are named by their place.
    prompts = {}
    for path in sorted(directory.glob(PROMPTS_OF_JOBS)):
        file = load_prompt(path)
        content = file.rows.tobytes(), file.task, file.seed, file.step, dict(file.metrics)
        prompts[str(path.relative_to(directory))] = content
    return fields, prompts


KINDS = {
    "train": Kind(do_train, check_run, run_content),
    "add": Kind(do_add, check_library, lambda directory: files(directory / "library")),
    "convert": Kind(do_convert, check_converted, lambda directory: files(directory / "backbone")),
    "features": Kind(do_features, check_features, lambda directory: files(directory / "features")),
    "study": Kind(do_study, check_study, study_content),
}


def make_shared(shared: Path) -> None:
    """Write what the kinds of work begin from."""
    make_world(shared / "world")
    write_task(shared, "a", 0)
    draw = np.random.default_rng(0)
    texts = [draw.integers(3, 8000, draw.integers(8, 17)).tolist() for _ in range(1500)]
    Examples.from_lists([([*text, 1], [5, 1]) for text in texts]).save(shared / "long.npz")
    for number in range(60):
        prompt, embedding = make_pair(f"task{number % 20}", seed=number // 20)
        prompt.save(shared / f"prompts/{number:02}/best-0.safetensors")
        embedding.save(shared / f"prompts/{number:02}/embedding-0.safetensors")
    config = T5Config(
        vocab_size=8192, emb_dim=256, num_heads=4, head_dim=64, mlp_dim=512,
        num_encoder_layers=6, num_decoder_layers=6,
    )  # fmt: skip
    shapes = parameter_shapes(config)
    leaves = {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_backbone(shared / "large", Backbone(config, unflatten(leaves), "", VOCABULARY))


def begin(do: Callable[[Path, Path], Any], shared: Path, directory: Path) -> int:
    """Begin work in a process of its own; return its number."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with open(os.devnull, "w") as null:  # noqa: PTH123
                os.dup2(null.fileno(), 1)
            do(shared, directory)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return process


def end_of(process: int) -> int:
    """Wait for a process; return 0 for work that is done, else what ended it."""
    return os.waitpid(process, 0)[1]


def main() -> None:
    work, name, kills, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    kind, rng = KINDS[name], random.Random(seed)
    shared, whole, killed = work / "shared", work / f"{name}-whole", work / f"{name}-killed"
    if not shared.exists():
        assert end_of(begin(lambda shared, directory: make_shared(shared), shared, killed)) == 0
    # Twice: the second time tells how long it takes where nothing has to be compiled.
    for _ in range(2):
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        start = time.monotonic()
        assert end_of(begin(kind.do, shared, whole)) == 0
        seconds = time.monotonic() - start
    expected, done, finished, left = kind.content(whole), 0, 0, 0
    killed.mkdir()
    while done < kills:
        process = begin(kind.do, shared, killed)
        time.sleep(rng.uniform(0.0, 0.9 * seconds))
        os.kill(process, signal.SIGKILL)
        if end_of(process) == signal.SIGKILL:
            done += 1
            left += any(path.name.endswith(LEFTOVERS) for path in killed.glob("**/*"))
            assert end_of(begin(lambda _, directory: kind.check(directory), shared, killed)) == 0
        else:
            finished += 1
            assert kind.content(killed) == expected
            shutil.rmtree(killed)
            killed.mkdir()
    assert end_of(begin(kind.do, shared, killed)) == 0
    rest = [str(p.relative_to(killed)) for p in killed.glob("**/*") if p.name.endswith(LEFTOVERS)]
    same = kind.content(killed) == expected
    print(
        json.dumps(
            {"kills": done, "finished": finished, "left": left, "same": same, "rest": rest,
             "seconds": round(seconds, 2)}
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
