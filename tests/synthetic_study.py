"""Studies that nobody ran: tasks in families, gains that follow similarity plus noise."""

import numpy as np

from spot_jax.transfer.results import (
    Curve,
    EmbeddedPrompt,
    Embeddings,
    PromptRecord,
    Score,
    Similarity,
    StudyResults,
)

FAMILIES = ("nli", "sentiment", "qa", "paraphrase", "topic", "commonsense", "grammar")


def _cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.clip(unit @ unit.T, -1, 1).round(4)


def synthetic_study(sources: int, targets: int, seeds: int = 3, *, steps: int = 12) -> StudyResults:
    """Every part of a study's results, filled; the same sizes give the same numbers."""
    random = np.random.default_rng(sources * 1000 + targets)
    families = FAMILIES[: max(2, min(len(FAMILIES), targets))]
    names = [f"bundled_{families[i % len(families)]}_{i // len(families)}" for i in range(sources)]
    aims = [
        f"bundled_{families[i % len(families)]}_{i // len(families)}_16shot" for i in range(targets)
    ]
    tasks = [*names, *aims]
    family = {task: next(f for f in families if f"_{f}_" in task) for task in tasks}
    centres = {f: random.normal(size=24) for f in families}
    middle = {t: centres[family[t]] + 0.8 * random.normal(size=24) + 0.6 for t in tasks}
    embedded = [(t, s) for t in tasks for s in range(seeds)]
    vectors = np.array([middle[t] + 0.5 * random.normal(size=24) for t, _ in embedded])
    average, per_token = (
        _cosines(vectors),
        _cosines(vectors + 0.3 * random.normal(size=vectors.shape)),
    )
    row = {name: i for i, name in enumerate(embedded)}
    scores, similarities, curves = [], [], []
    for target in aims:
        base = float(random.uniform(45, 92))

        def run(seed, gain, target=target, base=base, **what):
            last = min(99.5, base + gain + random.normal())
            at = (np.arange(steps) + 1) / steps
            path = 40 + (last - 40) * (1 - np.exp(-4 * at)) + random.normal(size=steps) * 0.4
            named = {"target": target, "seed": seed, **what}
            scores.append(
                Score(test=last, validation=last + random.normal() * 0.7, step=steps * 50, **named)
            )
            curves.append(
                Curve(
                    steps=tuple(range(50, steps * 50 + 1, 50)),
                    validation=tuple(path.round(3).tolist()),
                    **named,
                )
            )

        for seed in range(seeds):
            run(seed, 0.0, method="scratch")
            run(seed, 2.0, method="weighted_average", k=3)
            run(seed, 2.5, method="multitask_mixture", k=3)
        for source in names:
            for own in range(seeds):
                for seed in range(seeds):
                    i, j = row[source, own], row[target, seed]
                    similarities.append(
                        Similarity(
                            source, target, own, seed, float(average[i, j]), float(per_token[i, j])
                        )
                    )
                alike = float(
                    np.mean([average[row[source, own], row[target, s]] for s in range(seeds)])
                )
                run(
                    own,
                    10 * alike - 4 + random.normal() * 1.5,
                    method="transfer",
                    source=source,
                    source_seed=own,
                )
    prompts = [
        PromptRecord(
            t,
            "source" if t in names else "target",
            s,
            600,
            f"runs/{t}/prompts/best-{s}.safetensors",
            f"{t}-s{s}-0123456789ab",
            () if t in names else ({"task": names[0], "step": 600, "seed": s, "file": "x"},),
            "3f" * 32,
            {"accuracy": 71.25},
        )
        for t, s in embedded
    ]
    return StudyResults(
        title=f"A study of {sources} sources and {targets} targets",
        backbone="3f" * 32,
        metric="accuracy",
        split="test",
        sources=tuple(names),
        targets=tuple(aims),
        seeds=tuple(range(seeds)),
        scores=tuple(scores),
        similarities=tuple(similarities),
        embeddings=Embeddings(
            tuple(EmbeddedPrompt(t, s, "source" if t in names else "target") for t, s in embedded),
            tuple(map(tuple, average.tolist())),
            tuple(map(tuple, per_token.tolist())),
        ),
        curves=tuple(curves),
        majority=dict.fromkeys(aims, 50.0),
        families=family,
        prompts=tuple(prompts),
        commands=("spot study --gin_file=gin_configs/studies/mini.gin", "spot report runs/study"),
        machine={"cores": 2, "minutes": 31.5},
    )
