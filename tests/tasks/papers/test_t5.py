"""Our examples equal those of T5's own code (`pip install --no-deps t5`), field by field."""

import warnings

import numpy as np
import pytest

from spot_jax.data import fields
from tasks import papers_tasks  # noqa: F401
from tasks.papers import samples
from tasks.papers.catalogue import BY_NAME, NO_PREFIX

seqio = pytest.importorskip("seqio")
# Not "t5": a folder of these tests has that name, and an empty package is found in its place.
pytest.importorskip(
    "t5.version", reason="T5's code is not installed: pip install --no-deps t5 babel"
)
import tensorflow as tf  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402

# Two rows of WSC whose pronoun is not where `span2_index` says, or has punctuation to it; T5's code
# knows them by their text.
WSC_ODD = (
    {
        "text": "The boy continued to whip the pony , and eventually the pony threw him over. John "
        'laughed out quite loud. "Good for him," he said. ',
        "span1_text": "John",
        "span1_index": 14,
        "span2_text": "him",
        "span2_index": 21,
    },
    {
        "text": "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put "
        "the magic pebble in an iron safe . Some day they might want to use it , but really for "
        "now, what more could they wish for?",
        "span1_text": "the pebble",
        "span1_index": 15,
        "span2_text": "it",
        "span2_index": 30,
    },
)
MORE = {
    "glue_cola": [{"sentence": "Kept  back.", "label": -1, "idx": 9}],
    "glue_stsb": [
        {"sentence1": "a", "sentence2": "b", "label": score, "idx": number}
        for number, score in enumerate((0.1, 0.5, 1.25, 2.3, 2.9, 3.7, 4.899, 5.0))
    ],
    "super_glue_multirc": [
        {
            "paragraph": "<b>One</b> <i>two</i><br>three",
            "question": "What <b>is</b>?",
            "answer": "x<br>y",
            "label": -1,
            "idx": {"paragraph": 1, "question": 2, "answer": 3},
        }
    ],
    "super_glue_record": [
        {
            "passage": 'Said "no"\n@highlight\nAnd so\n@highlight\nIt was!\n@highlight\nEnd?',
            "query": "@placeholder left.",
            "entities": [],
            "answers": [],
            "idx": {"passage": 0, "query": 1},
        }
    ],
    "super_glue_wsc": [{**row, "label": 1, "idx": 5} for row in WSC_ODD],
}


@pytest.fixture(scope="module")
def theirs():
    """T5's preprocessing by the name of our task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from t5.data import glue_utils, preprocessors
    functions = {"squad": preprocessors.squad}
    for family, builder in (("glue", tfds.text.glue.Glue), ("super_glue", _super_glue())):
        for config in builder.builder_configs.values():
            functions[f"{family}_{config.name}"] = glue_utils.get_glue_text_preprocessor(config)
    functions["super_glue_wsc"] = preprocessors.wsc_simple
    return functions


def _super_glue():
    return tfds.builder_cls("super_glue")


def _datasets(name):
    """Return the sample rows and the awkward ones, each as a dataset with TFDS's types."""
    path, _, version = BY_NAME[name].location.partition(":")
    builder, _, config = path.partition("/")
    features = tfds.builder_cls(builder)(config=config, version=version).info.features
    rows = [*samples.rows(name), *MORE.get(name, [])]
    kept = [{key: row[key] for key in features if key in row} for row in rows]
    return [tf.data.Dataset.from_tensors(_typed(row, features)) for row in kept]


def _typed(row, feature):
    if isinstance(row, dict):
        parts = getattr(feature, "feature", feature)
        return {key: _typed(value, parts[key]) for key, value in row.items()}
    return tf.constant(row, getattr(feature, "tf_dtype", feature.dtype))


def _examples(function, sets):
    return [row for dataset in sets for row in function(dataset).as_numpy_iterator()]


def _same(ours, expected):
    assert set(ours) == set(expected)
    for key, value in expected.items():
        assert np.array_equal(ours[key], value), key


NAMES = [n for n in BY_NAME if n.startswith(("glue_", "super_glue_")) or n == "squad"]


@pytest.mark.parametrize("name", [n for n in NAMES if n != "glue_mnli_mismatched"])
def test_equal_to_t5(name, theirs, no_bucket):
    sets = _datasets(name)
    expected = _examples(theirs[name], sets)
    (write, *_) = seqio.TaskRegistry.get(name).preprocessors
    actual = _examples(write, sets)
    assert len(actual) == len(expected) >= len(sets)
    for ours, their in zip(actual, expected, strict=True):
        if name == "squad":  # T5 has no task's name there: Lester et al.'s form, and ours without
            ours["inputs"] = ours["inputs"].removeprefix(b"squad ")
        # Fields that a template may name go along.
        extra = set(fields.names_in(fields.template_of(name) or "{inputs}")) - set(their)
        _same({key: value for key, value in ours.items() if key not in extra}, their)


@pytest.mark.parametrize("name", ["glue_cola", "super_glue_wsc", "super_glue_record"])
def test_without_the_name_equals_t5_without_its_first_word(name, theirs, no_bucket):
    sets = _datasets(name)
    (write, *_) = seqio.TaskRegistry.get(name + NO_PREFIX).preprocessors
    actual = [row["inputs"] for row in _examples(write, sets)]
    expected = [row["inputs"].split(b" ", 1)[1] for row in _examples(theirs[name], sets)]
    assert actual == expected
