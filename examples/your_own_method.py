"""A method of your own in one file: IA3 (Liu et al. 2022), learnt scales inside a frozen T5.

    python examples/your_own_method.py                        # from Python
    PYTHONPATH=examples spot train --gin_file=examples/your_own_method.gin \
        --gin.MODEL_DIR="'runs/ia3_gin'"                      # from gin
    spot eval runs/ia3_gin --module your_own_method           # its files, read back
"""

import dataclasses
import re
import sys

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

import spot_jax as spot

# Keys and values of every attention, and the hidden units of every feed-forward layer.
SCALED = re.compile(r".*/(?:\w*attention/(?:key|value)|mlp/wo)/kernel")


@dataclasses.dataclass(frozen=True)
class IA3(spot.Method):
    """Scales of keys, values and hidden units, which begin at 1."""

    def start(self, key, backbone, task):
        """Return a scale for every kernel: of what it yields, or of the hidden units it reads."""
        scales = {}
        for path, kernel in flatten_dict(backbone.params, sep="/").items():
            if SCALED.fullmatch(path):
                inputs, outputs = kernel.shape
                scales[path] = jnp.ones((inputs, 1) if "/wo/" in path else (1, outputs))
        return unflatten_dict(scales, sep="/")

    def adapt(self, trainable, frozen, config):
        """Return the T5 with its kernels scaled."""
        params = flatten_dict(frozen, sep="/")
        for path, scale in flatten_dict(trainable, sep="/").items():
            params[path] = (params[path] * scale).astype(params[path].dtype)
        return spot.Adapted(params=unflatten_dict(params, sep="/"))


def main(directory: str = "runs/ia3", backbone: str = "backbones/mini", steps: int = 40) -> None:
    """Tune IA3 on a bundled task, and use what was tuned."""
    run = spot.train(
        model_dir=directory,
        backbone=spot.load_backbone(backbone),
        method=IA3(),
        data=spot.DataSource("bundled_vader_tweets", {"inputs": 24, "targets": 4}),
        optimizer=spot.AdamW(1e-2),
        train_steps=steps,
        evaluation=spot.EvaluationPlan(period=max(steps // 2, 1), examples=200),
    )
    print(spot.load(run.directory).predict(["what a lovely day", "not again ..."]))


if __name__ == "__main__":
    main(*sys.argv[1:3])
