"""The rows that do nothing: no prompt, and the commonest label."""

from collections.abc import Mapping, Sequence

MODULES = ("tasks.bundled_tasks",)


def untuned(
    backbone: str, tasks: Sequence[str], lengths: Mapping[str, int], decoding: str, examples: int
) -> dict[str, dict[str, float]]:
    """Return {task: {"no_prompt": ..., "majority": ...}}: test accuracy without any tuning.

    Args:
        backbone: path of a stored backbone.
        tasks: names of bundled sets.
        lengths: numbers of tokens of "inputs" and "targets".
        decoding: way to predict, as in `EvaluationPlan`.
        examples: greatest number of examples that are scored.
    """
    from spot_jax.data import loading
    from spot_jax.inference.scores import score
    from spot_jax.inference.tuned import open_tuned

    loading.import_modules(MODULES)
    scores = score(
        open_tuned(backbone=backbone),
        split="test",
        tasks=[f"bundled_{task}" for task in tasks],
        decoding=decoding,
        batch_size=100,
        lengths={side: lengths[side] for side in ("inputs", "targets")},
        examples=examples,
    )
    return {
        task: {
            "no_prompt": round(scored.metrics["accuracy"], 2),
            "majority": round(scored.majority or 0.0, 2),
        }
        for task, scored in zip(tasks, scores, strict=True)
    }
