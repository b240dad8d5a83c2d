"""What a text's own words say: attributes by rule, and phrases that texts can be about."""

import collections
import importlib.util
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spot_jax.errors import SpotError
from tools.mini.corpus import MOST_VALUES
from tools.mini.sources import Text

KINDS = {
    "anarchism_faq": "politics",
    "austen": "novel",
    "bible_asv": "scripture",
    "bible_bbe": "scripture",
    "brown": "press",
    "debian_descriptions": "software",
    "foldoc": "computing dictionary",
    "fortunes": "joke",
    "gcide": "dictionary",
    "linux_doc": "kernel manual",
    "python_doc": "programming manual",
    "shakespeare": "drama",
    "sotu": "speech",
    "wordnet_glosses": "definition",
    "newsgroups20_raw": "discussion",
    "yahoo_answers": "advice",
    "stackoverflow": "coding question",
    "trec": "trivia",
    "sarcasm_headlines": "headline",
    "rotten_tomatoes": "review",
}
"""Value of the attribute `kind` by source."""
TONED = {
    "anarchism_faq", "austen", "brown", "fortunes", "newsgroups20_raw", "yahoo_answers",
    "sarcasm_headlines", "rotten_tomatoes", "shakespeare", "sotu",
}  # fmt: skip
"""Sources whose texts are asked how they feel."""
STOP = {
    "a", "an", "the", "of", "to", "in", "on", "at", "by", "for", "with", "from", "and", "or",
    "but", "if", "is", "are", "was", "were", "be", "been", "am", "do", "does", "did", "have",
    "has", "had", "i", "you", "he", "she", "it", "we", "they", "me", "my", "your", "his", "her",
    "its", "our", "their", "this", "that", "these", "those", "as", "not", "no", "so", "than",
    "then", "there", "here", "what", "which", "who", "whom", "when", "where", "why", "how", "can",
    "could", "will", "would", "shall", "should", "may", "might", "must", "about", "into", "over",
    "under", "up", "down", "out", "off", "just", "very", "too", "also", "more", "most", "some",
    "any", "all", "each", "every", "other", "such", "only", "own", "same", "s", "t", "don", "now",
    "one", "two", "im", "get", "got", "go",
}  # fmt: skip
WORD = re.compile(r"[a-z][a-z'-]+")
DICTIONARIES = ("gcide", "wordnet_glosses")
WITHOUT_PHRASES = ("linux_doc", "python_doc", "debian_descriptions", "bible_asv", "bible_bbe")
QUESTIONS = ("trec", "stackoverflow", "yahoo_answers", "bundled")
LEAST_TEXTS = 20
"""Fewest texts of an attribute's value."""


def tones(texts: Sequence[Text], vader: Path) -> Float[np.ndarray, " n"]:
    """Return VADER's compound value, -1 to 1, of the texts of `TONED`; NaN elsewhere.

    Args:
        texts: Texts.
        vader: Directory of the package vaderSentiment, as `vader_module` takes it.
    """
    spec = importlib.util.spec_from_file_location("vader_sentiment", vader_module(vader))
    if spec is None or spec.loader is None:
        raise SpotError(f"expected Python in {vader_module(vader)}, found none")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    analyse = module.SentimentIntensityAnalyzer().polarity_scores
    return np.array(
        [analyse(t.text)["compound"] if t.source in TONED else np.nan for t in texts], np.float32
    )


def vader_module(directory: Path) -> Path:
    """Return the module of VADER in the directory that holds its package, or raise `SpotError`."""
    path = directory / "vaderSentiment" / "vaderSentiment.py"
    if not path.is_file():
        raise SpotError(
            f"expected {path}, found none; unpack vaderSentiment 3.3.2 (PyPI) in {directory}"
        )
    return path


def by_rule(text: Text, tone: float) -> dict[str, str]:
    """Return a text's labels by attribute: by rule, and those that it came with."""
    labels = dict(text.labels)
    if text.source in KINDS:
        labels["kind"] = KINDS[text.source]
    words = text.text.lower().split()
    labels["length"] = "short" if len(words) < 10 else "long" if len(words) > 18 else "medium"
    labels["digits"] = "number" if re.search(r"\d", text.text) else "no number"
    if text.source not in (*DICTIONARIES, "foldoc", "bundled"):
        labels["question"] = "question" if "?" in text.text else "statement"
        if person := _person({word.strip(".,!?;:\"'()") for word in words}):
            labels["person"] = person
        if words[0] in ("who", "what", "when", "where", "why", "how", "which"):
            labels["question word"] = words[0]
    return labels | _feeling(tone)


def _person(words: set[str]) -> str | None:
    if words & {"i", "my", "me", "i'm"}:
        return "first person"
    if words & {"you", "your"}:
        return "second person"
    if words & {"he", "she", "his", "her", "they", "their", "him"}:
        return "third person"
    return None


def _feeling(tone: float) -> dict[str, str]:
    labels: dict[str, str] = {}
    if not np.isfinite(tone):
        return labels
    if tone < -0.35:
        labels["tone"] = "negative"
    elif tone > 0.35:
        labels["tone"] = "positive"
    elif abs(tone) < 0.05:
        labels["tone"] = "neutral"
    if abs(tone) > 0.65:
        labels["strength"] = "strong"
    elif 0.1 < abs(tone) < 0.4:
        labels["strength"] = "mild"
    return labels


def phrases(texts: Sequence[Text], banned: set[str]) -> list[str]:
    """Return words and short phrases that texts can be about: headwords, runs of content words.

    Args:
        texts: All texts.
        banned: Phrases that must not be among them.
    """
    words: collections.Counter[str] = collections.Counter()
    for text in texts:
        words.update(WORD.findall(text.text.lower()))
    heads = _headwords(texts)
    runs = _runs(texts)
    single = [w for w, n in words.most_common(9000) if n >= 25 and w not in STOP and len(w) > 2]
    common = [h for h, n in heads.items() if all(words[w] >= 4 for w in h.split())]
    common.sort(key=lambda h: -min(words[w] for w in h.split()))
    often = [r for r, n in runs.most_common(40_000) if all(words[w] >= 5 for w in r.split())]
    chosen = dict.fromkeys([*single[:7000], *common[:14_000], *often[:24_000]])
    return [phrase for phrase in chosen if phrase not in banned and len(phrase) < 45]


def _headwords(texts: Sequence[Text]) -> collections.Counter[str]:
    heads: collections.Counter[str] = collections.Counter()
    for text in texts:
        if text.source in DICTIONARIES:
            head = text.text.partition(":")[0].lower()
            if 1 <= len(head.split()) <= 3 and re.fullmatch(r"[a-z][a-z -]+", head):
                heads[head] += 1
    return heads


def _runs(texts: Sequence[Text]) -> collections.Counter[str]:
    """Count runs of two to five content words; random ones of questions count a fifth."""
    runs: collections.Counter[str] = collections.Counter()
    for text in texts:
        if text.source in (*DICTIONARIES, *WITHOUT_PHRASES):
            continue
        run: list[str] = []
        for word in [*re.findall(r"[a-z'-]+|[^a-z' -]", text.text.lower()), "."]:
            if re.fullmatch(WORD, word) and word not in STOP:
                run.append(word)
                continue
            if 2 <= len(run) <= 5:
                runs[" ".join(run)] += 1
            run = []
        content = [w for w in WORD.findall(text.text.lower()) if w not in STOP]
        if text.source in QUESTIONS and len(content) > 2:
            start = random.Random(text.text).randrange(max(len(content) - 3, 1))
            size = random.Random(text.text[::-1]).randint(2, 5)
            runs[" ".join(content[start : start + size])] += 0.2  # type: ignore[assignment]
    return runs


def attributes(
    labels: Sequence[dict[str, str]], most: int = MOST_VALUES, least: int = LEAST_TEXTS
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Return the names of each attribute's values, and each text's value by number.

    Raises `SpotError` for an attribute with fewer than two values that `least` texts have.

    Args:
        labels: Labels of each text by attribute.
        most: Most values of an attribute, the commonest.
        least: Fewest texts of a value.

    Returns:
        Names of values by attribute; and by attribute int16 [N], -1 where a text has no value.
    """
    names = sorted({name for each in labels for name in each})
    values, table = {}, {}
    for name in names:
        counts = collections.Counter(each[name] for each in labels if name in each)
        common = [value for value, count in counts.most_common(most) if count >= least]
        if len(common) < 2:
            raise SpotError(
                f"expected two or more values of {name!r} that {least} texts have, found "
                f"{common}; give more texts of the sources that it is about"
            )
        number = {value: i for i, value in enumerate(common)}
        values[name] = common
        table[name] = np.array([number.get(each.get(name, ""), -1) for each in labels], np.int16)
    return values, table
