"""A run in a process of its own: `child.py OPTIONS` with `Tiny.train`'s arguments as JSON.

With "kills" it starts itself again and again by fork, kills each at a random moment, and says
what was saved; with "processes" it joins others.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tiny_run import Tiny

from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import AdamW
from spot_jax.training.sharding import MeshShape


def run(options):
    tiny = Tiny(options["backbone"], tuple(options["tasks"]))
    return tiny.train(
        Path(options["directory"]),
        options["steps"],
        backbone=StoredBackbone(tiny.backbone, dropout_rate=options.get("dropout", 0.0)),
        checkpoints=CheckpointPlan(period=options["period"]),
        evaluation=EvaluationPlan(period=options.get("evaluate", 0)),
        mesh=MeshShape(*options.get("mesh", (1, 1))),
        **({"method": ModelTuning(), "optimizer": AdamW(0.01)} if options.get("model") else {}),
    )


def newest(directory):
    steps = [int(p.name) for p in (directory / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


def seen(directory):
    log = directory / "metrics.jsonl"
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def file_number(path):
    return path.stat().st_ino if path.exists() else None


def kill_again_and_again(options):
    """Forks a run, lets it come a few steps further, and kills it without warning."""
    directory, rng = Path(options["directory"]), random.Random(0)
    log = directory / "metrics.jsonl"
    kills = options["kills"]
    part = (options["steps"] - 10) // kills
    for i in range(kills):
        goal = max(newest(directory) + 1, rng.randrange(part * i, part * (i + 1)))
        before = file_number(log)
        child = os.fork()
        if child == 0:
            run(options)
            os._exit(0)
        # A run that goes on writes its log anew, without what it will do again.
        while file_number(log) == before or seen(directory) < goal:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it was killed"
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.03))
        reached = seen(directory)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        print(json.dumps({"killed": killed, "reached": reached, "saved": newest(directory)}))


def main():
    options = json.loads(sys.argv[1])
    if "processes" in options:
        from spot_jax.training import distributed

        assert distributed.start(*options["processes"])
    if "kills" in options:
        kill_again_and_again(options)
    result = run(options)
    print(json.dumps({"step": result.step, "finished": result.finished}))


if __name__ == "__main__":
    main()
