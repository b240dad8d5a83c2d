"""Peak memory of importing and loading a `base`-sized T5, as a multiple of the result's bytes.

    python bench/convert_memory.py [--output bench/results/convert_memory.json]

Writes a random Hugging Face directory (T5 1.1 base, 248M parameters, float32) to a temporary
directory and measures each step in a separate process: the peak resident set less what the
process held after its imports. Needs about 3.5 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS, WIDTH, JOINED, HIDDEN, VOCAB = 12, 768, 768, 2048, 32128
CONFIG = {
    "model_type": "t5",
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "d_kv": 64,
    "d_ff": HIDDEN,
    "num_layers": LAYERS,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
ROOT = Path(__file__).parents[1]


def write_checkpoint(directory: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {}

    def add(name: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = rng.standard_normal(shape, np.float32)

    add("shared", VOCAB, WIDTH)
    add("lm_head", VOCAB, WIDTH)
    for side, kinds in (("encoder", ["Self"]), ("decoder", ["Self", "EncDec"])):
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        add(bias, 32, CONFIG["num_heads"])
        for i in range(LAYERS):
            for j, kind in enumerate(kinds):
                part = f"{side}.block.{i}.layer.{j}"
                add(f"{part}.layer_norm", WIDTH)
                for name in "qkv":
                    add(f"{part}.{kind}Attention.{name}", JOINED, WIDTH)
                add(f"{part}.{kind}Attention.o", WIDTH, JOINED)
            part = f"{side}.block.{i}.layer.{len(kinds)}"
            add(f"{part}.layer_norm", WIDTH)
            for name in ("wi_0", "wi_1"):
                add(f"{part}.DenseReluDense.{name}", HIDDEN, WIDTH)
            add(f"{part}.DenseReluDense.wo", WIDTH, HIDDEN)
        add(f"{side}.final_layer_norm", WIDTH)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, directory / "model.safetensors")


def memory_bytes(field: str) -> int:
    """Read a field of Linux's /proc/self/status; getrusage's peak would be the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def measure(step: str, source: str, dest: str, dtype: str) -> dict:
    """Run one step and measure its peak above what the imports took; called in the child."""
    import jax

    from spot_jax.t5.backbone import load_backbone, stored_bytes
    from spot_jax.t5.importing import convert

    jax.numpy.zeros(1).block_until_ready()
    before, start = memory_bytes("VmRSS:"), time.perf_counter()
    if step == "convert":
        config = convert(source, dest, dtype=dtype).config
    else:
        backbone = load_backbone(source, dtype=dtype)
        jax.block_until_ready(backbone.params)
        config = backbone.config
    seconds, above = time.perf_counter() - start, memory_bytes("VmHWM:") - before
    result = stored_bytes(config, dtype)
    return {
        "step": step,
        "dtype": dtype,
        "result_bytes": result,
        "baseline_bytes": before,
        "peak_above_baseline_bytes": above,
        "ratio": round(above / result, 3),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=str(ROOT / "bench/results/convert_memory.json"))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source, stored = Path(folder) / "hf", Path(folder) / "stored"
        write_checkpoint(source)
        steps = [
            ("convert", source, stored, "float32"),
            ("convert", source, Path(folder) / "half", "bfloat16"),
            ("load", stored, "", "float32"),
            ("load", stored, "", "bfloat16"),
        ]
        rows = []
        for step in steps:
            command = [sys.executable, __file__, "--child", *map(str, step)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, text=True)
            rows.append(json.loads(out.stdout.splitlines()[-1]))
            print(rows[-1])
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"model": CONFIG, "steps": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
