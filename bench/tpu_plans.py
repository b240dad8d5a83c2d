"""Plans of prompt tuning on TPUs, made without one: memory, traffic and operations of a step.

    python -m bench.tpu_plans memory      # bench/results/tpu_plan.json: before and after
    python -m bench.tpu_plans table       # bench/results/tpu_plans.json: shapes and slices
    python -m bench.tpu_plans table --model t5_1_1_xl --topology v5e:2x4

Each case is `spot plan` on gin_configs/runs/prompt_tuning.gin with a prompt of 100, inputs of 412
(512 with the prompt), targets of 16, dropout on, in bfloat16; it needs the extra `tpu`. `memory`
compiles as a run does (`--exact`), which takes minutes of a core; `table` as plans are made. A case
that its file has is kept unless `--again`.
"""

import argparse
import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
MODELS = ("t5_1_1_base", "t5_1_1_large", "t5_1_1_xl", "t5_1_1_xxl")
TOPOLOGIES = ("v5e:1x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x4")
IN_PARTS = {"train.num_microbatches": 2}
INT8 = {"PARAMETER_DTYPE": "int8", "BATCH_SIZE": 8}
# As an earlier version had it: scanned layers without recomputation, or with all of it.
BEFORE = [
    {
        "case": "t5_1_1_base v5e:1x1",
        "settings": "scan, nothing recomputed",
        "temporaries_gib": 13.21,
        "peak_gib": 12.53,
        "operations_over_4nt": 1.20,
    },
    {
        "case": "t5_1_1_xxl v5e:2x4",
        "settings": "scan, layers recomputed",
        "temporaries_gib": 5.40,
        "peak_gib": 7.13,
        "all_reduce_gib": 22.4,
        "operations_over_4nt": 1.46,
    },
]
MEMORY = [
    ("t5_1_1_base", "v5e:1x1", {}),
    ("t5_1_1_xxl", "v5e:2x4", IN_PARTS),
    ("t5_1_1_xxl", "v5e:2x4", {}),
]
TABLE = [
    (model, topology, IN_PARTS if (model, topology) == ("t5_1_1_xxl", "v5e:2x4") else {})
    for model in MODELS
    for topology in TOPOLOGIES
] + [("t5_1_1_xxl", "v5e:1x1", {**INT8, **way}) for way in ({}, IN_PARTS, {"REMAT": True})]


def planned(model: str, topology: str, settings: dict[str, Any], exact: bool) -> dict[str, Any]:
    """Return one case's plan, in GiB."""
    from spot_jax.cli.main import main

    chosen = {
        "MODEL_DIR": "none",
        "INITIAL_CHECKPOINT_PATH": "none",
        "MIXTURE_OR_TASK_NAME": "bundled_sms_spam",
        "TASK_FEATURE_LENGTHS": {"inputs": 412, "targets": 16},
        "EVAL_PERIOD": 0,
        "PARAMETER_DTYPE": "bfloat16",
        **settings,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in chosen.items()]
    place = [f"--model={model}", f"--topology={topology}", "--json"]
    place += ["--exact"] if exact else []
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["plan", "--gin_file=gin_configs/runs/prompt_tuning.gin", *flags, *place])
    (plan,) = json.loads(said.getvalue())
    train = plan["train"] or {}

    def gib(size: float | None) -> float | None:
        return None if size is None else round(size / GIB, 2)

    collectives = {
        k.replace("-", "_") + "_gib": gib(v) for k, v in train.get("collectives", {}).items()
    }
    return {
        "case": f"{model} {topology}",
        "settings": settings,
        "mesh": plan["mesh"],
        "fits": plan["fits"],
        "exact": plan["exact"],
        "weights_gib": gib(plan["weights"]),
        "temporaries_gib": gib(train.get("temporaries")),
        "peak_gib": gib(plan["needed"]),
        **collectives,
        "operations_over_4nt": round(train["operations"] / plan["bound"], 3) if train else None,
        "step_seconds_at_least": round(train["seconds"], 4) if train else None,
        "remedies": plan["remedies"],
        "seconds_to_plan": round(time.monotonic() - began, 1),
    }


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "table"))
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--topology", choices=TOPOLOGIES)
    parser.add_argument("--first", type=int, help="plan this many cases and stop")
    parser.add_argument("--again", action="store_true", help="plan what the file has already")
    args = parser.parse_args()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    path = RESULTS / ("tpu_plan.json" if args.what == "memory" else "tpu_plans.json")
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    record["what"] = (
        "Ahead-of-time compilation for TPUs by `spot plan`: prompt of 100, batch of 32 x 512 "
        "unless BATCH_SIZE says other, targets of 16, dropout 0.1, bfloat16; bytes are a chip's"
    )
    record |= {"jax": jax.__version__, "cores": len(os.sched_getaffinity(0))}
    if args.what == "memory":
        record["before"] = BEFORE
    results: list[dict[str, Any]] = record.setdefault(
        "after" if args.what == "memory" else "plans", []
    )
    planned_now = 0
    for model, topology, settings in MEMORY if args.what == "memory" else TABLE:
        if args.model not in (None, model) or args.topology not in (None, topology):
            continue
        same = [
            each
            for each in results
            if each["case"] == f"{model} {topology}" and each["settings"] == settings
        ]
        if same and not args.again:
            continue
        if args.first is not None and planned_now >= args.first:
            break
        planned_now += 1
        plan = planned(model, topology, settings, args.what == "memory")
        results[:] = [each for each in results if each not in same] + [plan]
        print(json.dumps(plan), flush=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run()
