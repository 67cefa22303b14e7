"""Numbers of things in words."""

import pytest

from common.words import count, counts, duration, in_words


@pytest.mark.parametrize(("number", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2000, "2,000 epochs")])
def test_a_number_of_things(number, said):
    assert count(number, "epoch") == said


@pytest.mark.parametrize(("value", "said"), [(1, "1 epoch"), (20, "20 epochs"), ("x", "epochs x")])
def test_a_field_that_counts_epochs(value, said):
    assert in_words("epochs", value, {}) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e-7, "rate 1e-7"),
        (7.94e-5, "rate 7.94e-5"),
        (2.5e-12, "rate 2.5e-12"),
        (-1e-5, "rate -1e-5"),
        (0.001, "rate 0.001"),
        (0.0, "rate 0"),
        (25_000.0, "rate 25,000"),
    ],
)
def test_a_number_is_written_as_a_person_does(value, said):
    assert in_words("rate", value, {}) == said
    assert float(said.removeprefix("rate ").replace(",", "")) == value


def test_how_many_of_each_kind():
    assert counts({"holds": 2, "fails": 1, "undecided": 0, "not tested": 3}) == "2 hold, 1 fails, 3 not tested"
    assert counts({"completed": 1, "failed": 2}) == "1 completed, 2 failed"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said
