"""What the SPoT paper published (Vu et al. 2022, arXiv 2110.07904v2), as a study's results.

`spot2022.json` says where each number comes from. `paper_results` is what our analysis starts
from; `printed` is what the paper's own analysis came to, to compare with.
"""

import dataclasses
import json
import math
from importlib import resources
from typing import Any

from spot_jax.studies.transfer.results import (
    SCRATCH,
    TRANSFER,
    EmbeddedPrompt,
    Embeddings,
    Score,
    Similarity,
    TransferResults,
)

FILE = "spot2022.json"


@dataclasses.dataclass(frozen=True)
class PrintedMethod:
    """A row of the paper's table 3: (mean, standard deviation); NaN where it prints none."""

    method: str
    similarity: str | None
    k: int | None
    absolute: tuple[float, float]
    relative: tuple[float, float]
    score: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Printed:
    """Values that a paper's own analysis printed.

    Attributes:
        paper: name of the paper.
        methods: rows of table 3.
        relative: values of table 7: relative error reduction by (source, target), the 30 above 10%.
        correlations: values of figure 8: (r, p) by target, over 48 source prompts.
    """

    paper: str
    methods: tuple[PrintedMethod, ...]
    relative: dict[tuple[str, str], float]
    correlations: dict[str, tuple[float, float]]


def paper_results() -> TransferResults:
    """Return the paper's transfer study: means over three runs, 16 sources, 10 targets."""
    data = _load()
    names, alike = data["similarity"]["names"], data["similarity"]["average_tokens"]
    place = {name: i for i, name in enumerate(names)}
    sources, targets = data["sources"], data["targets"]
    scores = [
        Score(
            target,
            SCRATCH if row == SCRATCH else TRANSFER,
            scored[0],
            source=None if row == SCRATCH else row,
            sd=scored[1],
        )
        for row, by_target in data["scores"].items()
        for target, scored in by_target.items()
    ]
    origin = data["provenance"]
    return TransferResults(
        title="SPoT, Vu et al. 2022: the transfer study",
        backbone="T5 1.1 base, LM-adapted",
        metric="score (mean of the task's metrics)",
        split="validation, where the paper also chose its checkpoints and sources",
        sources=tuple(sources),
        targets=tuple(targets),
        scores=tuple(scores),
        similarities=tuple(
            Similarity(s, t, average_tokens=alike[place[s]][place[t]])
            for s in sources
            for t in targets
        ),
        embeddings=Embeddings(
            tuple(EmbeddedPrompt(n, role="source" if n in sources else "target") for n in names),
            average_tokens=tuple(tuple(row) for row in alike),
        ),
        families=data["families"],
        commands=("spot study --from_paper --output_dir DIR",),
        notes=(
            f"Data: {origin['paper']}.",
            f"Scores: {origin['scores']}.",
            f"Similarities: {origin['similarity']}.",
            f"Families: {origin['families']}.",
            "Means over three runs are all that was published: a source is one prompt here where "
            "the paper has three (16 where it has 48), runs cannot be told apart, and there is no "
            "second split to report on.",
        ),
    )


def printed() -> Printed:
    """Return the paper's tables 3 and 7 and figure 8, as printed."""
    data = _load()
    tables = data["printed"]
    return Printed(
        data["provenance"]["paper"],
        tuple(
            PrintedMethod(
                row["method"],
                row["similarity"],
                row["k"],
                *(_pair(row[name]) for name in ("absolute", "relative", "score")),
            )
            for row in tables["table_3"]
        ),
        {(source, target): value for source, target, value in tables["table_7"]},
        {target: (r, p) for target, (r, p) in tables["figure_8"].items()},
    )


def _pair(value: list[float] | None) -> tuple[float, float]:
    return (math.nan, math.nan) if value is None else (value[0], value[1])


def _load() -> dict[str, Any]:
    return json.loads(resources.files(__name__).joinpath(FILE).read_text(encoding="utf-8"))
