"""The job specification and the split of trials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from store.specification import JobSpecification, Range, split_trials


def test_only_the_data_set_must_be_given() -> None:
    specification = JobSpecification(dataset_id="dat_1")
    assert specification.training.sv_rate == 0.2
    assert isinstance(specification.space.learning_rate, Range)
    assert JobSpecification.model_validate(specification.model_dump(mode="json")) == specification


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"cd_rate": {"low": 0.6, "high": 0.1}}, "low is 0.6 and high is 0.1"),
        ({"learning_rate": {"low": 0, "high": 0.1, "scale": "log"}}, "must begin above 0"),
        ({"cd_rate": 1.5}, "1.5 is outside 0 … 0.95"),
        ({"dropout": {"low": -0.1, "high": 0.5}}, "-0.1 is outside"),
        ({"dropout_rate": 0.1}, "Extra inputs are not permitted"),
        ({"learning_rate": float("nan")}, "finite"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(space: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpecification.model_validate({"dataset_id": "dat_1", "space": space})


splits = st.lists(st.sampled_from([None, "train", "valid", "test"]), min_size=3, max_size=60)


@given(splits, st.floats(0.01, 0.9), st.integers(0, 1000))
def test_a_split_is_a_partition_that_keeps_what_was_given(
    given_splits: list[str | None], fraction: float, seed: int
) -> None:
    split = split_trials(given_splits, fraction, seed)
    assert split == split_trials(given_splits, fraction, seed)
    usable = [one for one in split if one != "test"]
    for before, after in zip(given_splits, split, strict=True):
        assert (before == "test") == (after == "test")
        if "valid" in given_splits:
            assert (after == "valid") == (before == "valid")
    if usable and "valid" not in given_splits:
        assert usable.count("valid") == min(len(usable), max(1, round(fraction * len(usable))))


def test_other_seeds_draw_other_validation_trials() -> None:
    assert split_trials([None] * 50, 0.2, 0) != split_trials([None] * 50, 0.2, 1)
