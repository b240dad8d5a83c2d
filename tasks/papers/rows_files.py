"""The papers' data sets that TFDS lacks, read from files (`tasks.papers.data_files`).

Sizes: SPoT prints CxC's and CR's rounded to a thousand (Vu et al. 2022, table 2), and says nothing
of their other splits; the two of RAINBOW are those of their papers (Bhagavatula et al. 2020, Sap et
al. 2019).
"""

from tasks.papers.data_files import Layout
from tasks.papers.data_set import DataSet, sizes

ROUNDED = ("cxc", "cr")
_ROUNDED = "SPoT prints the size as thousands only, and mixing goes by it"

FILE_SETS: tuple[DataSet, ...] = (
    DataSet(
        "cxc",
        "CxC",
        "files",
        "cxc",
        sizes(88_000),
        families=("paraphrase_similarity", "all"),
        metrics=("pearson_corrcoef", "spearman_corrcoef"),
        roles=("source",),
        note=f"pairs of captions (STS); the target is the score, rounded to 0.2; {_ROUNDED}",
    ),
    DataSet(
        "cr",
        "CR",
        "files",
        "cr",
        sizes(4_000),
        families=("sentiment", "all"),
        labels=("negative", "positive"),
        roles=("target",),
        note=f"customer reviews (Hu and Liu 2004); {_ROUNDED}",
    ),
    DataSet(
        "alpha_nli",
        "alphaNLI",
        "files",
        "alpha_nli",
        sizes(169_654, 1_532, 3_059),
        families=("rainbow", "all"),
        labels=("hypothesis1", "hypothesis2"),
        unlabelled=("test",),
    ),
    DataSet(
        "social_i_qa",
        "SocialIQa",
        "files",
        "social_i_qa",
        sizes(33_410, 1_954, 2_224),
        families=("rainbow", "all"),
        labels=("answerA", "answerB", "answerC"),
        unlabelled=("test",),
    ),
)

_TWO = ("train", "validation")
LAYOUTS = {
    "cxc": Layout("cxc", ("sentence1", "sentence2"), "score", bounds=(0.0, 5.0), splits=_TWO),
    "cr": Layout("cr", ("sentence",), "label", labels=("negative", "positive"), splits=_TWO),
    "alpha_nli": Layout(
        "alpha_nli",
        ("obs1", "obs2", "hyp1", "hyp2"),
        "label",
        labels=("1", "2"),
        splits=_TWO,
    ),
    "social_i_qa": Layout(
        "social_i_qa",
        ("context", "question", "answerA", "answerB", "answerC"),
        "label",
        labels=("1", "2", "3"),
        splits=_TWO,
    ),
}
"""The columns are those of the sets' own JSON lines, with the label of its own file among them."""
