"""What is gathered for mini: nothing of held-out texts, no label of the sets that ship."""

import json
import lzma

import numpy as np
import pytest
from mini_cases import HELD, MOVIE, use_small_sets, write_set, write_sources

from spot_jax.errors import SpotError
from tools.mini import corpus, labelling, prepare, sources
from tools.mini.command import run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mini")
    flags = write_sources(directory)
    with pytest.MonkeyPatch.context() as patch:
        use_small_sets(patch)
        prepare.main([*flags, str(directory / "dest")])
    return directory


def test_every_source_and_attribute_is_read_back(prepared):
    read = corpus.read_prepared(prepared / "dest")
    assert set(read.sources) == set(sources.SOURCES)
    assert len(read.texts) == len(read.sources) > 1000
    assert {"genus", "tone", "kind", "asks for", "domain"} <= read.values.keys()
    table = read.table["tone"]
    for text, value in zip(read.texts, table, strict=True):
        if value >= 0 and " awful " in text:
            assert read.values["tone"][value] == "negative"
    assert (table >= 0).sum() > 100


def test_held_out_texts_and_words_do_not_get_in(prepared):
    read = corpus.read_prepared(prepared / "dest")
    # The whole line goes, also what stands before the text; so says the set itself.
    assert not any("retired whales" in text for text in read.texts)
    assert HELD in (prepared / "texts" / "brown.txt").read_text()
    entry = [i for i, text in enumerate(read.texts) if text.startswith("zogword")]
    assert len(entry) == 1 and read.table["genus"][entry[0]] == -1
    others = [i for i, s in enumerate(read.sources) if s == "wordnet_glosses" and i != entry[0]]
    assert (read.table["genus"][others] >= 0).all()


def test_reviews_that_are_in_the_bundled_set_are_left_out(prepared):
    read = corpus.read_prepared(prepared / "dest")
    pairs = list(zip(read.sources, read.texts, strict=True))
    assert not any(MOVIE[:30] in text for source, text in pairs if source == "rotten_tomatoes")
    # As a training text of the bundled set it may be read, without its label.
    assert any(MOVIE[:30] in text for source, text in pairs if source == "bundled")
    with lzma.open(prepared / "sets" / "rotten_tomatoes.jsonl.xz", "rt") as file:
        assert MOVIE in file.read()


def test_labels_of_bundled_sets_are_never_read(prepared, tmp_path, monkeypatch):
    use_small_sets(monkeypatch, labels=False)
    monkeypatch.setattr(prepare, "write_probes", lambda path: None)
    flags = ("texts", "sets", "teacher", "vader")
    named = [part for name in flags for part in (f"--{name}", str(prepared / name))]
    prepare.main([*named, str(tmp_path)])
    for name in ("phrases.txt", "values.json"):
        assert (tmp_path / name).read_text() == (prepared / "dest" / name).read_text()
        assert "zzlabel" not in (tmp_path / name).read_text()
    texts = [corpus.read_text(at / "texts.tsv") for at in (tmp_path, prepared / "dest")]
    assert texts[0] == texts[1] and "zzlabel" not in texts[0]
    bundled = np.array(corpus.read_prepared(tmp_path).sources) == "bundled"
    table = corpus.read_prepared(tmp_path).table
    # Rules say how long a text is and whether it has digits; nobody says more.
    assert {name for name, column in table.items() if (column[bundled] >= 0).any()} == {
        "digits", "length",
    }  # fmt: skip


def test_bundled_labels_of_several_words_are_no_phrases():
    texts = [sources.Text("trec", i, "old copper bridge, old copper bridge", {}) for i in range(30)]
    assert "old copper bridge" in labelling.phrases(texts, set())
    assert "old copper bridge" not in labelling.phrases(texts, {"old copper bridge"})


def test_dictionary_entries_say_what_a_word_is():
    text, labels = sources.read_gcide("Ale, n. [AS. ealu.] (Bot.) A fermented liquor made of malt.")
    assert text == "ale: a fermented liquor made of malt."
    assert labels == {"part of speech": "noun", "domain": "plants", "genus": "liquor"}
    assert sources.read_foldoc("<language, old> A thing.") == ("A thing.", {"field": "language"})
    assert sources.read_wordnet("ale: a beer of malt", {"ale"})[1] == {}
    assert sources.read_wordnet("ale: a beer of malt", set())[1] == {"genus": "beer"}


def test_segments_join_sentences_and_cut_long_ones():
    assert list(sources.segments("One two three. Four five. Six seven.", 5)) == [
        "One two three. Four five.", "Six seven.",
    ]  # fmt: skip
    assert list(sources.segments("one two three four", 3)) == ["one two three"]


def test_attributes_of_one_value_are_refused():
    labels = [{"tone": "good"}] * 30 + [{"tone": "bad"}] * 3
    with pytest.raises(SpotError, match="two or more values of 'tone' that 20 texts have"):
        labelling.attributes(labels)
    values, table = labelling.attributes(labels, least=2)
    assert values == {"tone": ["good", "bad"]} and table["tone"].sum() == 3


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"text": "a", "label": "x"}] * 3, "two or more labels"),
        ([{"text": "a", "label": "x"}, {"text": "b"}], "text and label in line 2"),
        ([["a", "x"]], "damaged file after 0 lines"),
        ([], "two or more labels"),
    ],
)
def test_labelled_sets_that_teach_nothing_are_refused(items, message, tmp_path):
    write_set(tmp_path / "trec.jsonl.xz", items)
    with pytest.raises(SpotError, match=message):
        sources.read_rows(tmp_path / "trec.jsonl.xz")


def complaint(capsys, monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["prepare", *map(str, arguments)])
    assert run("prepare", prepare.main) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tools.mini.prepare: ")
    return lines[0]


def test_bad_paths_are_one_line(prepared, tmp_path, capsys, monkeypatch):
    flags = {name: prepared / name for name in ("texts", "sets", "teacher", "vader")}

    def said(destination=tmp_path / "dest", **changes):
        named = [part for k, v in (flags | changes).items() for part in (f"--{k}", v)]
        return complaint(capsys, monkeypatch, [*named, destination])

    assert "anarchism_faq.txt" in said(texts=prepared / "sets")
    assert "newsgroups20_raw.jsonl.xz" in said(sets=prepared / "texts")
    assert "model.safetensors, tokenizer.json" in said(teacher=prepared / "texts")
    assert "vaderSentiment.py" in said(vader=prepared / "texts")
    assert "directory at" in said(texts=tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "directory to write to" in said(tmp_path / "file")
    assert "required: --sets" in complaint(
        capsys, monkeypatch, ["--texts", "a", "--teacher", "b", "--vader", "c", "d"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("genus"), "expected the attribute 'genus'"),
        (lambda v: v.update(tone=["neutral"]), "2 to 150 values of 'tone'"),
        (lambda v: v.update(colour=["red", "blue"]), "'colour' .*found none"),
    ],
)
def test_prepared_files_must_fit_together(prepared, tmp_path, change, message):
    for path in (prepared / "dest").iterdir():
        (tmp_path / path.name).symlink_to(path)
    values = json.loads((tmp_path / "values.json").read_text())
    change(values)
    (tmp_path / "values.json").unlink()
    (tmp_path / "values.json").write_text(json.dumps(values))
    with pytest.raises(SpotError, match=message):
        corpus.read_prepared(tmp_path)


def test_an_attribute_whose_texts_all_have_one_value_is_refused(prepared, tmp_path):
    for path in (prepared / "dest").iterdir():
        (tmp_path / path.name).symlink_to(path)
    with np.load(prepared / "dest" / "attributes.npz") as stored:
        table = {name: stored[name] for name in stored.files}
    (tmp_path / "attributes.npz").unlink()
    np.savez(tmp_path / "attributes.npz", **table | {"tone": np.zeros_like(table["tone"])})
    with pytest.raises(SpotError, match="'tone' among the texts"):
        corpus.read_prepared(tmp_path)


def test_texts_without_a_piece_of_the_vocabulary_are_refused():
    corpus.check_pieces([[2, 7], [9]], ["a b", "c"])
    for unknown in ([2, 2], []):
        with pytest.raises(SpotError, match="text 2, found 'xx'"):
            corpus.check_pieces([[9], unknown], ["a", "xx"])
