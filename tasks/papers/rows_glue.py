"""GLUE and SuperGLUE, as TFDS has them.

Sizes are those of https://www.tensorflow.org/datasets/catalog at the version that is named.
ReCoRD's and WSC's `examples` are those of T5's own SuperGLUE mixture (WSC's also in Lester et al.
2021, table 7).
"""

from typing import Any

from tasks.papers.data_set import DataSet, sizes

_TRUE = ("False", "True")
_ENTAILED = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_HIDDEN = ("test",)
_PROMPTS = ("spot", "lester")
_FEW = ("spot", "lester", "ptuning")

GLUE_VERSION = "2.0.0"
SUPER_GLUE_VERSION = "1.0.2"


def _glue(
    name: str, title: str, rows: dict[str, int], *, config: str = "", **fields: Any
) -> DataSet:
    fields.setdefault("families", ("glue", "all"))
    fields.setdefault("unlabelled", _HIDDEN)
    location = f"glue/{config or name}:{GLUE_VERSION}"
    return DataSet(f"glue_{name}", title, "tfds", location, rows, **fields)


GLUE = (
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
        splits={"validation": "validation_mismatched", "test": "test_mismatched"},
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


def _super_glue(name: str, title: str, rows: dict[str, int], **fields: Any) -> DataSet:
    fields.setdefault("families", ("super_glue", "all"))
    fields.setdefault("papers", _FEW)
    location = f"super_glue/{fields.pop('config', name)}:{SUPER_GLUE_VERSION}"
    return DataSet(
        f"super_glue_{name}", title, "tfds", location, rows, unlabelled=_HIDDEN, **fields
    )


SUPER_GLUE = (
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
        metrics=("f1", "exact_match"),
        labels=_TRUE,
        roles=("source",),
        note="one example an answer; `exact_match` counts questions with no answer wrong",
    ),
    _super_glue(
        "record",
        "ReCoRD",
        sizes(100_730, 10_000, 10_000),
        metrics=("em", "f1"),
        roles=("source",),
        examples=138_854,
        papers=_PROMPTS,
        note="one example an answer, each query scored once",
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
