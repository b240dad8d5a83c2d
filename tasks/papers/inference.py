"""ANLI, DocNLI and SNLI, in the forms that SPoT's authors published: the hypothesis comes first."""

from tasks.papers.labelled import add

_CONTEXT = ("hypothesis", "context")
_PREMISE = ("hypothesis", "premise")

for _round in (1, 2, 3):
    add(f"anli_r{_round}", _CONTEXT)
add("doc_nli", _PREMISE)
# Pairs without the annotators' agreement have the label -1, in every split.
_agreed = dict.fromkeys(("train", "validation", "test"), lambda row: row["label"] >= 0)
add("snli", _PREMISE, keep=_agreed)
