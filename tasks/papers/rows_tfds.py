"""The papers' data sets that TFDS has.

Sizes are those of https://www.tensorflow.org/datasets/catalog at the version that is named.
`examples`, where rows are not examples: ReCoRD's and WSC's are those of T5's own SuperGLUE mixture
(WSC's also in Lester et al. 2021, table 7); RACE's are its questions (Lai et al. 2017, table 2).
"""

from tasks.papers.data_set import DataSet, sizes

_TRUE = ("False", "True")
_ENTAILED = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_HIDDEN = ("test",)
_ANSWERS = ("em", "f1")
_ROUGE = ("rouge1", "rouge2", "rougeLsum")
_PROMPTS = ("spot", "lester")
_FEW = ("spot", "lester", "ptuning")

GLUE_VERSION = "2.0.0"
SUPER_GLUE_VERSION = "1.0.2"
GEM_VERSION = "1.1.0"
MRQA_VERSION = "1.0.0"


def _glue(name: str, title: str, rows: dict[str, int], *, config: str = "", **fields) -> DataSet:
    fields.setdefault("families", ("glue", "all"))
    fields.setdefault("unlabelled", _HIDDEN)
    location = f"glue/{config or name}:{GLUE_VERSION}"
    return DataSet(f"glue_{name}", title, "tfds", location, rows, **fields)


_MISMATCHED = {"validation": "validation_mismatched", "test": "test_mismatched"}
_GLUE = (
    _glue(
        "cola",
        "CoLA",
        sizes(8_551, 1_043, 1_063),
        metrics=("matthews_corrcoef",),
        labels=("unacceptable", "acceptable"),
        roles=("target",),
    ),
    _glue(
        "sst2",
        "SST-2",
        sizes(67_349, 872, 1_821),
        labels=("negative", "positive"),
        families=("glue", "sentiment", "all"),
        roles=("source",),
        papers=_PROMPTS,
    ),
    _glue(
        "mrpc",
        "MRPC",
        sizes(3_668, 408, 1_725),
        metrics=("f1", "accuracy"),
        labels=("not_equivalent", "equivalent"),
        families=("glue", "paraphrase_similarity", "all"),
        roles=("target", "shift"),
        unlabelled=(),
        papers=_PROMPTS,
    ),
    _glue(
        "qqp",
        "QQP",
        sizes(363_846, 40_430, 390_965),
        metrics=("f1", "accuracy"),
        labels=("not_duplicate", "duplicate"),
        families=("glue", "paraphrase_similarity", "all"),
        roles=("source", "shift"),
        papers=_PROMPTS,
        note="version 1.0.0, which the papers used, has 363,849 rows to train on",
    ),
    _glue(
        "stsb",
        "STS-B",
        sizes(5_749, 1_500, 1_379),
        metrics=("pearson_corrcoef", "spearman_corrcoef"),
        families=("glue", "paraphrase_similarity", "all"),
        roles=("target",),
        note="the target is the score, rounded to 0.2",
    ),
    _glue(
        "mnli",
        "MNLI",
        sizes(392_702, 9_815, 9_796),
        labels=_NLI,
        families=("glue", "nli", "all"),
        roles=("source",),
        splits={"validation": "validation_matched", "test": "test_matched"},
    ),
    _glue(
        "mnli_mismatched",
        "MNLI, mismatched",
        sizes(None, 9_832, 9_847),
        config="mnli",
        labels=_NLI,
        families=(),
        splits=_MISMATCHED,
        note="to evaluate on only",
    ),
    _glue(
        "qnli",
        "QNLI",
        sizes(104_743, 5_463, 5_463),
        labels=_ENTAILED,
        families=("glue", "nli", "all"),
        roles=("source",),
    ),
    _glue(
        "rte",
        "RTE",
        sizes(2_490, 277, 3_000),
        labels=_ENTAILED,
        families=("glue", "nli", "all"),
        roles=("target",),
        papers=_PROMPTS,
    ),
    _glue(
        "wnli",
        "WNLI",
        sizes(635, 71, 146),
        labels=("not_entailment", "entailment"),
        families=(),
        note="left out of the papers' GLUE",
    ),
)


def _super_glue(name: str, title: str, rows: dict[str, int], **fields) -> DataSet:
    fields.setdefault("families", ("super_glue", "all"))
    fields.setdefault("papers", _FEW)
    location = f"super_glue/{fields.pop('config', name)}:{SUPER_GLUE_VERSION}"
    return DataSet(
        f"super_glue_{name}", title, "tfds", location, rows, unlabelled=_HIDDEN, **fields
    )


_SUPER_GLUE = (
    _super_glue("boolq", "BoolQ", sizes(9_427, 3_270, 3_245), labels=_TRUE, roles=("target",)),
    _super_glue(
        "cb",
        "CB",
        sizes(250, 56, 250),
        metrics=("mean_3class_f1", "accuracy"),
        labels=("entailment", "contradiction", "neutral"),
        families=("super_glue", "nli", "all"),
        roles=("target",),
    ),
    _super_glue(
        "copa",
        "COPA",
        sizes(400, 100, 500),
        labels=("choice1", "choice2"),
        roles=("target",),
    ),
    _super_glue(
        "multirc",
        "MultiRC",
        sizes(27_243, 4_848, 9_693),
        metrics=("f1a", "em"),
        labels=_TRUE,
        roles=("source",),
        note="one example an answer; `em` counts questions whose answers are all right",
    ),
    _super_glue(
        "record",
        "ReCoRD",
        sizes(100_730, 10_000, 10_000),
        metrics=_ANSWERS,
        roles=("source",),
        examples=138_854,
        papers=_PROMPTS,
        note="one example an answer, each query scored once; rows without an answer are left out",
    ),
    _super_glue(
        "rte",
        "RTE",
        sizes(2_490, 277, 3_000),
        labels=_ENTAILED,
        families=("super_glue",),
        note="GLUE's RTE with other field names; `all` has it once",
    ),
    _super_glue("wic", "WiC", sizes(5_428, 638, 1_400), labels=_TRUE, roles=("target",)),
    _super_glue(
        "wsc",
        "WSC",
        sizes(554, 104, 146),
        config="wsc.fixed",
        roles=("target",),
        examples=259,
        note="the target is what the pronoun stands for; trained on the true pairs only",
    ),
)

_NLI_SETS = (
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


def _mrqa(name: str, title: str, rows: dict[str, int], **fields) -> DataSet:
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
_MRQA = (
    *(
        _mrqa(name, title, sizes(train, validation), families=("mrqa", "all"))
        for name, title, train, validation in _TRAINED
    ),
    *(
        _mrqa(name, title, sizes(None, None, test), roles=("shift",), papers=("lester",))
        for name, title, test in _SHIFTED
    ),
)

_RAINBOW = (
    DataSet(
        "cosmos_qa",
        "CosmosQA",
        "tfds",
        "cosmos_qa:1.0.0",
        sizes(25_262, 2_985, 6_963),
        families=("rainbow", "all"),
        labels=("0", "1", "2", "3"),
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
        labels=("0", "1", "2", "3"),
        roles=("source",),
        unlabelled=_HIDDEN,
    ),
    DataSet(
        "piqa",
        "PIQA",
        "tfds",
        "piqa:1.0.0",
        sizes(16_113, 1_838, 3_084),
        families=("rainbow", "all"),
        labels=("0", "1"),
        unlabelled=_HIDDEN,
    ),
    DataSet(
        "winogrande",
        "WinoGrande",
        "tfds",
        "winogrande:1.2.0",
        sizes(40_398, 1_267, 1_767),
        families=("rainbow", "all"),
        labels=("1", "2"),
        roles=("source",),
        splits={"train": "train_xl"},
        unlabelled=_HIDDEN,
    ),
)

EMOTIONS = tuple(
    "admiration amusement anger annoyance approval caring confusion curiosity desire disappointment"
    " disapproval disgust embarrassment excitement fear gratitude grief joy love nervousness"
    " optimism pride realization relief remorse sadness surprise neutral".split()
)
_AS_TEST = {"validation": "test"}
_SENTIMENT = (
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


def _text(name: str, title: str, location: str, rows: dict[str, int], family: str, **fields):
    fields.setdefault("families", (family, "all"))
    fields.setdefault("metrics", _ROUGE)
    return DataSet(name, title, "tfds", location, rows, **fields)


_BLEU = ("bleu",)
_TRANSLATION = (
    _text(
        "wmt_t2t_ende",
        "WMT EnDe",
        "wmt_t2t_translate/de-en:1.0.0",
        sizes(4_592_289, 3_000, 3_003),
        "translation",
        metrics=_BLEU,
    ),
    _text(
        "wmt15_enfr",
        "WMT EnFr",
        "wmt15_translate/fr-en:1.0.0",
        sizes(40_853_137, 4_503, 1_500),
        "translation",
        metrics=_BLEU,
    ),
    _text(
        "wmt16_enro",
        "WMT EnRo",
        "wmt16_translate/ro-en:1.0.0",
        sizes(610_320, 1_999, 1_999),
        "translation",
        metrics=_BLEU,
    ),
)
_SUMMARIES = (
    ("aeslc", "Aeslc", "aeslc:1.0.0", (14_436, 1_960, 1_906)),
    ("billsum", "BillSum", "billsum:3.0.0", (18_949, 3_269, 1_237)),
    ("cnn_dailymail", "CNN/Dailymail", "cnn_dailymail:3.4.0", (287_113, 13_368, 11_490)),
    ("gigaword", "Gigaword", "gigaword:1.2.0", (3_803_957, 189_651, 1_951)),
    ("multi_news", "MultiNews", "multi_news:2.1.0", (44_972, 5_622, 5_622)),
    ("newsroom", "Newsroom", "newsroom:1.0.0", (995_041, 108_837, 108_862)),
    ("samsum", "SAMSum", "samsum:1.0.0", (14_732, 818, 819)),
    ("xsum", "XSum", "xsum:1.1.0", (203_577, 11_305, 11_301)),
)
_BILLS = {"splits": {"validation": "test", "test": "ca_test"}}
_SUMMARIZATION = (
    *(
        _text(
            name,
            title,
            location,
            sizes(*rows),
            "summarization",
            **(_BILLS if name == "billsum" else {}),
        )
        for name, title, location, rows in _SUMMARIES
    ),
    _text(
        "wiki_lingua",
        "WikiLingua",
        f"gem/wiki_lingua_english_en:{GEM_VERSION}",
        sizes(99_020, 13_823, 28_614),
        "summarization",
        families=("summarization", "gem", "all"),
        note="the English part, as GEM cuts it",
    ),
)
_GENERATED = (
    ("common_gen", "CommonGen", "common_gen", (67_389, 993, 1_497)),
    ("dart", "DART", "dart", (62_659, 2_768, 6_959)),
    ("e2e_nlg", "E2E", "e2e_nlg", (33_525, 4_299, 4_693)),
    ("schema_guided_dialog", "SGD", "schema_guided_dialog", (164_982, 10_000, 10_000)),
    ("web_nlg", "WebNLG", "web_nlg_en", (35_426, 1_667, 1_779)),
    ("wiki_auto", "WikiAuto", "wiki_auto_asset_turk", (483_801, 20_000, 359)),
    ("xsum", "XSum (GEM)", "xsum", (23_206, 1_117, 1_166)),
)
_GEM = tuple(
    _text(
        f"gem_{name}",
        title,
        f"gem/{config}:{GEM_VERSION}",
        sizes(*rows),
        "gem",
        metrics=(*_ROUGE, "bleu"),
        splits={"test": "test_asset"} if name == "wiki_auto" else {},
        families=("gem",) if name == "xsum" else ("gem", "all"),
        unlabelled=_HIDDEN if name == "common_gen" else (),
        note="GEM's cut of XSum; `all` has the whole set" if name == "xsum" else "",
    )
    for name, title, config, rows in _GENERATED
)

_OTHERS = (
    DataSet(
        "c4_prefix_lm",
        "C4",
        "tfds",
        "c4/en:3.1.0",
        sizes(364_868_892, 364_608),
        families=("all",),
        metrics=(),
        roles=("source",),
        also=("3.0.1", "2.3.1", "2.3.0", "2.2.1", "2.2.0"),
        note="text cut in two, of which the second half is the target; scored by the loss",
    ),
    DataSet(
        "squad",
        "SQuAD",
        "tfds",
        "squad/v1.1:3.0.0",
        sizes(87_599, 10_570),
        metrics=_ANSWERS,
        roles=("source", "shift"),
        papers=_PROMPTS,
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

TFDS_SETS: tuple[DataSet, ...] = (
    *_GLUE,
    *_SUPER_GLUE,
    *_NLI_SETS,
    *_MRQA,
    *_RAINBOW,
    *_SENTIMENT,
    *_TRANSLATION,
    *_SUMMARIZATION,
    *_GEM,
    *_OTHERS,
)
