"""Metrics of written text: ROUGE and BLEU by the field's packages, imported when first used."""

import functools
from collections.abc import Sequence
from typing import Any

from spot_jax.metrics.pairs import check, golds_of, mean

Golds = str | Sequence[str]
ROUGE = ("rouge1", "rouge2", "rougeLsum")


def rouge(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute ROUGE-1, -2 and -Lsum by rouge-score: F-measures, the best reference's of several.

    A line is a sentence to ROUGE-Lsum, and so is what " . " ends, as in T5's code. T5 prints the
    median of bootstrapped means; this is the mean itself.
    """
    lines = [[_lines(gold) for gold in golds_of(t, p)] for t, p in _pairs(targets, predictions)]
    return _rouge(ROUGE, lines, [_lines(text) for text in predictions])


def rouge_l(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute ROUGE-L's F-measure over whole texts, the best reference's (CrossFit's "Rouge-L")."""
    golds = [golds_of(target, text) for target, text in _pairs(targets, predictions)]
    return _rouge(("rougeL",), golds, predictions)


def bleu(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute corpus BLEU by sacrebleu with its "intl" tokeniser, as in T5's code.

    Args:
        targets: a reference or several, for each example; their numbers may differ.
        predictions: one text for each example.
    """
    import sacrebleu

    golds = [golds_of(target, text) for target, text in _pairs(targets, predictions)]
    width = max(map(len, golds))
    # sacrebleu wants a list a reference number, with None where an example has fewer.
    streams: Any = [
        [references[i] if i < len(references) else None for references in golds]
        for i in range(width)
    ]
    score = sacrebleu.corpus_bleu(list(predictions), streams, tokenize="intl")
    return {"bleu": float(score.score)}


def _pairs(targets: Sequence[Golds], predictions: Sequence[str]) -> list[tuple[Golds, str]]:
    check(targets, predictions)
    return list(zip(targets, predictions, strict=True))


def _lines(text: str) -> str:
    return text.replace(" . ", " .\n")


@functools.cache
def _scorer(kinds: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds))


def _rouge(
    kinds: tuple[str, ...], golds: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    scorer = _scorer(kinds)
    best: dict[str, list[float]] = {kind: [] for kind in kinds}
    for references, prediction in zip(golds, predictions, strict=True):
        scores = [scorer.score(gold, prediction) for gold in references]
        for kind in kinds:
            best[kind].append(max(score[kind].fmeasure for score in scores))
    return {kind: mean(values) for kind, values in best.items()}
