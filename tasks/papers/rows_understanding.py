"""Inference, questions, common sense and sentiment: what TFDS has of them beyond GLUE.

Sizes are those of https://www.tensorflow.org/datasets/catalog at the version that is named; those
of RACE are in Lai et al. 2017, table 2, and those of MRQA also in Fisch et al. 2019, table 1.
"""

from typing import Any

from tasks.papers.data_set import DataSet, sizes

_NLI = ("entailment", "neutral", "contradiction")
_HIDDEN = ("test",)
_ANSWERS = ("em", "f1")
_AS_TEST = {"validation": "test"}

MRQA_VERSION = "1.0.0"

NLI = (
    *(
        DataSet(
            f"anli_r{number}",
            f"ANLI, round {number}",
            "tfds",
            f"anli/r{number}:0.1.0",
            rows,
            families=("nli", "all"),
            labels=_NLI,
        )
        for number, rows in enumerate(
            (
                sizes(16_946, 1_000, 1_000),
                sizes(45_460, 1_000, 1_000),
                sizes(100_459, 1_200, 1_200),
            ),
            start=1,
        )
    ),
    DataSet(
        "doc_nli",
        "DocNLI",
        "tfds",
        "doc_nli:1.0.0",
        sizes(942_314, 234_258, 267_086),
        families=("nli", "all"),
        labels=("not_entailment", "entailment"),
        roles=("source",),
    ),
    DataSet(
        "snli",
        "SNLI",
        "tfds",
        "snli:1.1.0",
        sizes(550_152, 10_000, 10_000),
        families=("nli", "all"),
        labels=_NLI,
        examples=549_367,
        note="pairs that the annotators did not agree on are left out",
    ),
)


def _mrqa(name: str, title: str, rows: dict[str, int], **fields: Any) -> DataSet:
    location = f"mrqa/{name}:{MRQA_VERSION}"
    return DataSet(f"mrqa_{name}", title, "tfds", location, rows, metrics=_ANSWERS, **fields)


_TRAINED = (
    ("squad", "SQuAD (MRQA)", 86_588, 10_507),
    ("news_qa", "NewsQA", 74_160, 4_212),
    ("trivia_qa", "TriviaQA", 61_688, 7_785),
    ("search_qa", "SearchQA", 117_384, 16_980),
    ("hotpot_qa", "HotpotQA", 72_928, 5_901),
    ("natural_questions", "NaturalQuestions", 104_071, 12_836),
)
_SHIFTED = (
    ("textbook_qa", "TextbookQA", 1_503),
    ("bio_asq", "BioASQ", 1_504),
    ("race", "RACE (MRQA)", 674),
    ("relation_extraction", "RelationExtraction", 2_948),
    ("duo_rc", "DuoRC", 1_501),
    ("drop", "DROP (MRQA)", 1_503),
)
MRQA = (
    *(
        _mrqa(name, title, sizes(train, validation), families=("mrqa", "all"))
        for name, title, train, validation in _TRAINED
    ),
    *(
        _mrqa(name, title, sizes(None, None, test), roles=("shift",), papers=("lester",))
        for name, title, test in _SHIFTED
    ),
)

RAINBOW = (
    DataSet(
        "cosmos_qa",
        "CosmosQA",
        "tfds",
        "cosmos_qa:1.0.0",
        sizes(25_262, 2_985, 6_963),
        families=("rainbow", "all"),
        labels=("answer0", "answer1", "answer2", "answer3"),
        roles=("source",),
        unlabelled=_HIDDEN,
    ),
    DataSet(
        "hellaswag",
        "HellaSWAG",
        "tfds",
        "hellaswag:1.1.0",
        sizes(39_905, 10_042, 10_003),
        families=("rainbow", "all"),
        labels=("ending0", "ending1", "ending2", "ending3"),
        roles=("source",),
        unlabelled=_HIDDEN,
    ),
    DataSet(
        "piqa",
        "PIQA",
        "tfds",
        "piqa:1.0.0",
        sizes(16_113, 1_838),
        families=("rainbow", "all"),
        labels=("sol1", "sol2"),
    ),
    DataSet(
        "winogrande",
        "WinoGrande",
        "tfds",
        "winogrande:1.2.0",
        sizes(40_398, 1_267, 1_767),
        families=("rainbow", "all"),
        labels=("option1", "option2"),
        roles=("source",),
        splits={"train": "train_xl"},
        unlabelled=_HIDDEN,
    ),
)

EMOTIONS = (
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
)
SENTIMENT = (
    DataSet(
        "go_emotions",
        "GoEmotions",
        "tfds",
        "goemotions:0.1.0",
        sizes(43_410, 5_426, 5_427),
        families=("sentiment", "all"),
        metrics=("macro_f1", "accuracy"),
        labels=EMOTIONS,
        several=True,
        note="the target lists an example's emotions in the order of the labels",
    ),
    DataSet(
        "sentiment140",
        "Sentiment140",
        "tfds",
        "sentiment140:1.0.0",
        sizes(1_600_000, 498),
        families=("sentiment", "all"),
        labels=("negative", "neutral", "positive"),
        splits=_AS_TEST,
        note="the validation split is the source's test split; no neutral text to train on",
    ),
    DataSet(
        "yelp_polarity",
        "Yelp-2",
        "tfds",
        "yelp_polarity_reviews:0.2.0",
        sizes(560_000, 38_000),
        families=("sentiment", "all"),
        labels=("negative", "positive"),
        roles=("source",),
        splits=_AS_TEST,
        note="the validation split is the source's test split",
    ),
)

QUESTIONS = (
    DataSet(
        "squad",
        "SQuAD",
        "tfds",
        "squad/v1.1:3.0.0",
        sizes(87_599, 10_570),
        metrics=_ANSWERS,
        roles=("source", "shift"),
        papers=("spot", "lester"),
    ),
    DataSet(
        "drop",
        "DROP",
        "tfds",
        "drop:2.0.0",
        sizes(77_409, 9_536),
        metrics=_ANSWERS,
        roles=("source",),
        splits={"validation": "dev"},
    ),
    *(
        DataSet(
            f"race_{level}",
            f"RACE, {level} school",
            "tfds",
            f"race/{level}:2.0.0",
            rows,
            labels=("A", "B", "C", "D"),
            roles=("source",) if level == "middle" else (),
            examples=questions,
            splits={"validation": "dev"},
            note="rows are passages, examples their questions; SPoT's size, 25K, is that of the "
            "middle-school part",
        )
        for level, rows, questions in (
            ("middle", sizes(6_409, 368, 362), 25_421),
            ("high", sizes(18_728, 1_021, 1_045), 62_445),
        )
    ),
)
