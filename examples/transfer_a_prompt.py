"""Begin a target task's prompt from a source task's: SPoT (Vu et al. 2022).

python examples/transfer_a_prompt.py
"""

import sys

import spot_jax as spot

TASKS = {"source": "bundled_vader_movie", "target": "bundled_vader_tweets"}


def main(
    directory: str = "runs/transfer", backbone: str = "backbones/mini", steps: int = 40
) -> None:
    """Tune a prompt on the source, then on the target from it and from scratch."""
    plans = {
        "source": (TASKS["source"], steps, {}),
        "scratch": (TASKS["target"], steps // 4 or 1, {}),
        "from_source": (
            TASKS["target"],
            steps // 4 or 1,
            {"init": "prompt", "prompt": f"{directory}/source/prompts/best-0.safetensors"},
        ),
    }
    for name, (task, count, beginning) in plans.items():
        run = spot.train(
            model_dir=f"{directory}/{name}",
            backbone=spot.load_backbone(backbone),
            method=spot.PromptTuning(length=20, **beginning),
            data=spot.DataSource(task, {"inputs": 24, "targets": 4}),
            optimizer=spot.Adafactor(0.3),
            train_steps=count,
            evaluation=spot.EvaluationPlan(period=count, examples=200),
        )
        print(f"{name}: {run.best[0].score:.1f} on validation after {count} steps on {task}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
