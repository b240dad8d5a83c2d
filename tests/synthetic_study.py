"""Studies that nobody ran: tasks in families, gains that follow similarity plus noise."""

import dataclasses

import numpy as np

from spot_jax.studies.transfer.results import (
    Curve,
    EmbeddedPrompt,
    Embeddings,
    PromptRecord,
    Score,
    Similarity,
    TransferResults,
)

FAMILIES = ("nli", "sentiment", "qa", "paraphrase", "topic", "commonsense", "grammar")
BACKBONE = "3f" * 32


def _cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.clip(unit @ unit.T, -1, 1).round(4)


@dataclasses.dataclass
class _Runs:
    """Scores, curves and similarities as they come about."""

    random: np.random.Generator
    steps: int
    scores: list[Score] = dataclasses.field(default_factory=list)
    curves: list[Curve] = dataclasses.field(default_factory=list)
    similarities: list[Similarity] = dataclasses.field(default_factory=list)

    def run(self, last: float, **what) -> None:
        last, steps = min(99.5, last + self.random.normal()), self.steps
        noise = self.random.normal(size=steps) * 0.4
        path = 40 + (last - 40) * (1 - np.exp(-4 * (np.arange(steps) + 1) / steps)) + noise
        validation = last + self.random.normal() * 0.7
        self.scores.append(Score(test=last, validation=validation, step=steps * 50, **what))
        at = tuple(range(50, steps * 50 + 1, 50))
        self.curves.append(Curve(steps=at, validation=tuple(path.round(3).tolist()), **what))

    def target(self, target, names, seeds, row, average, per_token) -> None:
        base = float(self.random.uniform(45, 92))
        for seed in range(seeds):
            self.run(base, target=target, seed=seed, method="scratch")
            self.run(base + 2, target=target, seed=seed, method="weighted_average", k=3)
            self.run(base + 2.5, target=target, seed=seed, method="multitask_mixture", k=3)
        for source in names:
            for source_seed in range(seeds):
                i, j = row[source, source_seed], [row[target, seed] for seed in range(seeds)]
                self.similarities += [
                    Similarity(
                        source,
                        target,
                        source_seed,
                        seed,
                        float(average[i, at]),
                        float(per_token[i, at]),
                    )
                    for seed, at in enumerate(j)
                ]
                gain = 10 * average[i, j].mean() - 4 + self.random.normal() * 1.5
                what = {"method": "transfer", "source": source, "source_seed": source_seed}
                self.run(base + float(gain), target=target, seed=source_seed, **what)


def _prompts(embedded, names) -> tuple[PromptRecord, ...]:
    parent = {"task": names[0], "step": 600, "file": "x"}
    return tuple(
        PromptRecord(
            task,
            "source" if task in names else "target",
            seed,
            600,
            f"runs/{task}/prompts/best-{seed}.safetensors",
            f"{task}-s{seed}-0123456789ab",
            () if task in names else ({**parent, "seed": seed},),
            BACKBONE,
            {"accuracy": 71.25},
        )
        for task, seed in embedded
    )


def synthetic_study(
    sources: int, targets: int, seeds: int = 3, *, steps: int = 12
) -> TransferResults:
    """Every part of a study's results, filled; the same sizes give the same numbers."""
    random = np.random.default_rng(sources * 1000 + targets)
    families = FAMILIES[: max(2, min(len(FAMILIES), targets))]

    def names_of(count: int, end: str) -> list[str]:
        kinds = len(families)
        return [f"bundled_{families[i % kinds]}_{i // kinds}{end}" for i in range(count)]

    names, aims = names_of(sources, ""), names_of(targets, "_16shot")
    family = {task: next(f for f in families if f"_{f}_" in task) for task in (*names, *aims)}
    centres = {f: random.normal(size=24) for f in families}
    middle = {t: centres[f] + 0.8 * random.normal(size=24) + 0.6 for t, f in family.items()}
    embedded = [(t, s) for t in family for s in range(seeds)]
    vectors = np.array([middle[t] + 0.5 * random.normal(size=24) for t, _ in embedded])
    average = _cosines(vectors)
    per_token = _cosines(vectors + 0.3 * random.normal(size=vectors.shape))
    row = {name: i for i, name in enumerate(embedded)}
    runs = _Runs(random, steps)
    for target in aims:
        runs.target(target, names, seeds, row, average, per_token)
    return TransferResults(
        title=f"A study of {sources} sources and {targets} targets",
        backbone=BACKBONE,
        metric="accuracy",
        split="test",
        sources=tuple(names),
        targets=tuple(aims),
        seeds=tuple(range(seeds)),
        scores=tuple(runs.scores),
        similarities=tuple(runs.similarities),
        embeddings=Embeddings(
            tuple(EmbeddedPrompt(t, s, "source" if t in names else "target") for t, s in embedded),
            tuple(map(tuple, average.tolist())),
            tuple(map(tuple, per_token.tolist())),
        ),
        curves=tuple(runs.curves),
        majority=dict.fromkeys(aims, 50.0),
        no_prompt=dict.fromkeys(aims, 51.25),
        families=family,
        prompts=_prompts(embedded, names),
        commands=("spot study --gin_file=gin_configs/studies/mini.gin", "spot report runs/study"),
        machine={"cores": 2, "minutes": 31.5},
    )
