"""Translation, summaries, GEM and C4, as TFDS has them.

Sizes are those of https://www.tensorflow.org/datasets/catalog at the version that is named.
Its pages no longer give those of WMT15 and WMT16, so that theirs here are not checked. Both are
over the limit of SPoT's mixtures, so that these do not depend on them.
"""

from typing import Any

from tasks.papers.data_set import DataSet, sizes

_HIDDEN = ("test",)
_ROUGE = ("rouge1", "rouge2", "rougeLsum")
GEM_VERSION = "1.1.0"


def _text(
    name: str, title: str, location: str, rows: dict[str, int], family: str, **fields: Any
) -> DataSet:
    fields.setdefault("families", (family, "all"))
    fields.setdefault("metrics", _ROUGE)
    return DataSet(name, title, "tfds", location, rows, **fields)


_BLEU = ("bleu",)
TRANSLATION = (
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
_ODD: dict[str, dict[str, Any]] = {
    "billsum": {
        "splits": {"validation": "test", "test": "ca_test"},
        "note": "validation is the source's test split, test its Californian bills",
    },
    **dict.fromkeys(("newsroom", "samsum", "xsum"), {"manual": True}),
}
SUMMARIZATION = (
    *(
        _text(
            name,
            title,
            location,
            sizes(*rows),
            "summarization",
            **_ODD.get(name, {}),
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
_NOTES = {
    "xsum": "GEM's cut of XSum; `all` has the whole set",
    "wiki_auto": "the test split is ASSET's",
    "dart": "rows to train on are one a target, others have references",
}
_GENERATED = (
    ("common_gen", "CommonGen", "common_gen", (67_389, 993, 1_497)),
    ("dart", "DART", "dart", (62_659, 2_768, 6_959)),
    ("e2e_nlg", "E2E", "e2e_nlg", (33_525, 4_299, 4_693)),
    ("schema_guided_dialog", "SGD", "schema_guided_dialog", (164_982, 10_000, 10_000)),
    ("web_nlg", "WebNLG", "web_nlg_en", (35_426, 1_667, 1_779)),
    ("wiki_auto", "WikiAuto", "wiki_auto_asset_turk", (483_801, 20_000, 359)),
    ("xsum", "XSum (GEM)", "xsum", (23_206, 1_117, 1_166)),
)
GEM = tuple(
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
        note=_NOTES.get(name, ""),
    )
    for name, title, config, rows in _GENERATED
)

PRETRAINING = (
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
)
