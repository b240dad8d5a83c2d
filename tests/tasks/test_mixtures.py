"""Rates of SPoT's mixtures against sizes written down here once more."""

import pytest

seqio = pytest.importorskip("seqio")

from tasks import papers_tasks  # noqa: E402, F401
from tasks.papers.catalogue import CATALOGUE  # noqa: E402
from tasks.papers.proportions import mixtures, rates  # noqa: E402

K = 524_288
GLUE = {
    "glue_cola": 8_551,
    "glue_sst2": 67_349,
    "glue_mrpc": 3_668,
    "glue_qqp": 363_846,
    "glue_stsb": 5_749,
    "glue_mnli": 392_702,
    "glue_qnli": 104_743,
    "glue_rte": 2_490,
}
ALL = GLUE | {
    "super_glue_boolq": 9_427,
    "super_glue_cb": 250,
    "super_glue_copa": 400,
    "super_glue_multirc": 27_243,
    "super_glue_record": 138_854,
    "super_glue_wic": 5_428,
    "super_glue_wsc": 259,
    "anli_r1": 16_946,
    "anli_r2": 45_460,
    "anli_r3": 100_459,
    "doc_nli": K,
    "snli": K,
    "cxc": 88_000,
    "cr": 4_000,
    "go_emotions": 43_410,
    "sentiment140": K,
    "yelp_polarity": K,
    "mrqa_squad": 86_588,
    "mrqa_news_qa": 74_160,
    "mrqa_trivia_qa": 61_688,
    "mrqa_search_qa": 117_384,
    "mrqa_hotpot_qa": 72_928,
    "mrqa_natural_questions": 104_071,
    "alpha_nli": 169_654,
    "cosmos_qa": 25_262,
    "hellaswag": 39_905,
    "piqa": 16_113,
    "social_i_qa": 33_410,
    "winogrande": 40_398,
    "wmt_t2t_ende": K,
    "wmt15_enfr": K,
    "wmt16_enro": K,
    "aeslc": 14_436,
    "billsum": 18_949,
    "cnn_dailymail": 287_113,
    "gigaword": K,
    "multi_news": 44_972,
    "newsroom": K,
    "samsum": 14_732,
    "xsum": 203_577,
    "wiki_lingua": 99_020,
    "gem_common_gen": 67_389,
    "gem_dart": 62_659,
    "gem_e2e_nlg": 33_525,
    "gem_schema_guided_dialog": 164_982,
    "gem_web_nlg": 35_426,
    "gem_wiki_auto": 483_801,
    "c4_prefix_lm": K,
}
# Added up by hand.
TOTALS = {"spot_glue": (GLUE, 949_098), "spot_all": (ALL, 9_044_256)}
NUMBERS = {
    "spot_glue": 8,
    "spot_super_glue": 8,
    "spot_nli": 9,  # seven names, of which ANLI is three rounds
    "spot_paraphrase_similarity": 4,
    "spot_sentiment": 5,
    "spot_mrqa": 6,
    "spot_rainbow": 6,
    "spot_translation": 3,
    "spot_summarization": 9,
    "spot_gem": 8,
    "spot_all": 56,
}


@pytest.mark.parametrize("name", TOTALS)
def test_rates_are_proportional_up_to_the_limit(name):
    sizes, total = TOTALS[name]
    assert sum(sizes.values()) == total
    expected = {task: size / total for task, size in sizes.items()}
    assert rates(name) == pytest.approx(expected)
    mixture = seqio.get_mixture_or_task(name)
    actual = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert actual == pytest.approx({task: float(size) for task, size in sizes.items()})


def test_the_families_are_those_of_the_paper():
    assert {name: len(tasks) for name, tasks in mixtures().items()} == NUMBERS
    for name in NUMBERS:
        assert {t.name for t in seqio.get_mixture_or_task(name).tasks} == set(mixtures()[name])


def test_every_set_of_the_catalogue_is_registered_twice():
    registered = seqio.TaskRegistry.names()
    for item in CATALOGUE:
        assert item.name in registered
        assert f"{item.name}_no_prefix" in registered or item.name == "c4_prefix_lm"
