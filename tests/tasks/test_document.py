"""docs/tasks.md is what the registry says."""

import pytest

pytest.importorskip("seqio")

from tasks.papers import document  # noqa: E402
from tasks.papers.catalogue import CATALOGUE  # noqa: E402

OLD = "run python -m tasks.papers.document"


def test_tables_and_some_forms_of_the_page_are_up_to_date():
    text = document.PAGE.read_text(encoding="utf-8")
    begin, end = text.index("## Forms"), text.index("## Caching")
    forms = text[begin:end]
    assert text == document.page(forms[:-1]), OLD
    assert all(f"\n{item.name}" in forms and f"| `{item.name}` |" in text for item in CATALOGUE)
    for name in ("cr", "glue_stsb", "super_glue_wsc", "super_glue_cb_ptuning", "c4_prefix_lm"):
        assert f"\n{document.form(name)}\n" in forms, OLD


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert document.PAGE.read_text(encoding="utf-8") == document.page(), OLD
