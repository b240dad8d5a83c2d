import pytest

from spot_jax.data.data_source import check_lengths
from spot_jax.errors import SpotError


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({}, "lacks 'inputs'"),
        ({"inputs": 8}, "lacks 'targets'; give both"),
        ({"inputs": 8, "targets": 2, "labels": 3}, "has 'labels', which no task has"),
        ({"inputs": "16", "targets": 2}, r"\['inputs'\] to be a whole number.*found '16'"),
        ({"inputs": 8, "targets": 16.0}, r"\['targets'\] to be a whole number.*found 16.0"),
        ({"inputs": True, "targets": 2}, "found True"),
        ({"inputs": 0, "targets": 2}, "from 1 to 1,000,000, found 0"),
        ({"inputs": 10**9, "targets": 2}, "found 1000000000"),
        ("inputs", "expected TASK_FEATURE_LENGTHS such as {'inputs': 256, 'targets': 16}"),
    ],
)
def test_lengths_that_are_refused(lengths, message):
    with pytest.raises(SpotError, match=message):
        check_lengths(lengths)


def test_lengths_are_whole_numbers_of_inputs_and_targets():
    check_lengths({"inputs": 1, "targets": 1_000_000})
