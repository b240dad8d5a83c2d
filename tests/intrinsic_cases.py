"""Results of a study of subspaces that was never run."""

from spot_jax.studies.subspace.jobs import (
    DIFF_IST,
    SAME_IST,
    TEST_IST,
    TEST_MSF,
    TRAIN_MSF,
)
from spot_jax.studies.subspace.results import (
    MODEL_TUNING,
    PROMPT_TUNING,
    RANDOM,
    Reference,
    Score,
    SubspaceResults,
)

TRAIN, TEST = ("t_a", "t_b"), {"like": ("t_c",), "unlike": ("t_d",)}
OTHER = {"t_a": "t_a_s2", "t_b": "t_b_s2"}
# Without a subspace, seeds 0 and 1.
PROMPTS = {"t_a": (80.0, 90.0), "t_b": (50.0, 50.0), "t_c": (40.0, 40.0), "t_d": (60.0, 60.0)}
PROMPTS |= {"t_a_s2": (70.0, 70.0), "t_b_s2": (40.0, 40.0)}


def references() -> list[Reference]:
    tuned = [
        Reference(task, PROMPT_TUNING, value, seed, validation=value, step=4)
        for task, values in PROMPTS.items()
        for seed, value in enumerate(values)
    ]
    return tuned + [Reference(task, MODEL_TUNING, 100.0, 0) for task in PROMPTS]


def scores(dimensions=(1, 5, 50)) -> list[Score]:
    """A share of prompt tuning that grows with d and is smaller on held-out tasks."""
    points = []
    for d in dimensions:
        share = d / (d + 1)
        for seed in (0, 1):
            for setting, tasks in (
                (TRAIN_MSF, TRAIN),
                (SAME_IST, TRAIN),
                (DIFF_IST, OTHER.values()),
            ):
                for task in tasks:
                    value = share * sum(PROMPTS[task]) / 2
                    points.append(Score(setting, task, "train", value, d, tasks=2, seed=seed))
            for category, (task,) in TEST.items():
                value = 0.8 * share * PROMPTS[task][0] + seed
                for setting in (TEST_MSF, TEST_IST):
                    points.append(Score(setting, task, category, value, d, tasks=2, seed=seed))
                points.append(Score(TEST_IST, task, category, 20.0, d, RANDOM, seed=seed))
                if d == 5:
                    part = Score(TEST_IST, task, category, value / 2, d, tasks=1, draw=0, seed=seed)
                    points.append(part)
    return points


def results(**options) -> SubspaceResults:
    defaults = {
        "title": "Subspaces <of> nothing",
        "train_tasks": TRAIN,
        "test_tasks": TEST,
        "scores": tuple(scores()),
        "references": tuple(references()),
        "dimensions": (1, 5, 50),
        "seeds": (0, 1),
        "other_tasks": OTHER,
        "subsets": (("t_a",),),
        "majority": dict.fromkeys(PROMPTS, 20.0),
        "trained": {"prompt_tuning": 2560, "subspace 5": 2_000_000},
        "commands": ("spot intrinsic ist --gin_file=x.gin",),
        "machine": {"cores": 2},
    }
    return SubspaceResults(**{**defaults, **options})
