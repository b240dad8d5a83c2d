"""Which tasks are of the same data: what leaks from one to another whatever they are called.

A task's name says its data set but for what is added to it: the number of shots and the sample,
the form of the text. Where two names are of one set the catalogue says so. Sets that share their
text in part (SQuAD in MRQA has other splits than SQuAD) count as one, because a prompt that was
tuned on one of them has seen examples of the other.
"""

import functools
import re

# Each group is one set; the first name stands for it.
SAME: tuple[tuple[str, ...], ...] = (
    ("super_glue_rte", "glue_rte", "crossfit_glue_rte", "crossfit_superglue_rte"),
    ("glue_mnli", "glue_mnli_mismatched", "crossfit_glue_mnli"),
    ("glue_cola", "crossfit_glue_cola"),
    ("glue_sst2", "crossfit_glue_sst2"),
    ("glue_qqp", "crossfit_glue_qqp"),
    ("glue_mrpc", "crossfit_glue_mrpc"),
    ("glue_qnli", "crossfit_glue_qnli"),
    # WNLI is made of the Winograd schemas of WSC.
    ("super_glue_wsc", "glue_wnli", "crossfit_superglue_wsc", "crossfit_glue_wnli"),
    ("super_glue_boolq", "crossfit_boolq"),
    ("super_glue_cb", "crossfit_superglue_cb"),
    ("super_glue_copa", "crossfit_superglue_copa"),
    ("super_glue_multirc", "crossfit_superglue_multirc"),
    ("super_glue_record", "crossfit_superglue_record"),
    ("super_glue_wic", "crossfit_superglue_wic"),
    ("squad", "mrqa_squad", "crossfit_squad_no_context", "crossfit_squad_with_context"),
    ("drop", "mrqa_drop"),
    ("race_high", "crossfit_race_high"),
    ("race_middle", "crossfit_race_middle"),
    ("mrqa_search_qa", "crossfit_search_qa"),
    ("mrqa_hotpot_qa", "crossfit_kilt_hotpotqa", "crossfit_hotpot_qa"),
    ("mrqa_natural_questions", "crossfit_kilt_nq"),
    ("cosmos_qa", "crossfit_cosmos_qa"),
    ("hellaswag", "crossfit_hellaswag"),
    ("piqa", "crossfit_piqa"),
    ("winogrande", "crossfit_wino_grande"),
    ("social_i_qa", "crossfit_social_i_qa"),
    ("alpha_nli", "crossfit_art"),
    ("yelp_polarity", "crossfit_yelp_polarity"),
    ("aeslc", "crossfit_aeslc"),
    ("gigaword", "crossfit_gigaword"),
    ("multi_news", "crossfit_multi_news"),
    ("samsum", "crossfit_samsum"),
    ("xsum", "gem_xsum", "crossfit_xsum"),
    ("gem_common_gen", "crossfit_common_gen"),
    ("gem_e2e_nlg", "crossfit_e2e_nlg_cleaned"),
    ("bundled_sms_spam", "crossfit_sms_spam"),
)
_FIRST = {name: group[0] for group in SAME for name in group}
# Of a few shots and which of the samples; a sample of CrossFit; T5's text without the task's name.
_SIZE = re.compile(r"_\d+_?shots?(_s\d+)?$")
_SAMPLE = re.compile(r"^(crossfit_.+)_s\d+$")
_FORM = re.compile(r"_(no_prefix|pattern|ptuning)$")


@functools.lru_cache(maxsize=4096)
def data_set(task: str) -> str:
    """Return the name of a task's data set: `super_glue_rte` of `glue_rte_16shot_s2`."""
    name = _SIZE.sub("", task)
    name = _SAMPLE.sub(r"\1", name)
    name = _FORM.sub("", name)
    return _FIRST.get(name, name)
