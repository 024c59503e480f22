"""Folds and the parts that choose a penalty: trials that belong together are on one side."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.scores.ridge import divide, divide_in_folds
from tests.domain.test_split_groups import divides, recordings, shares
from worker.ingest.preprocessing.splits import split_groups
from worker.ingest.recording import Recording


@settings(deadline=None)
@given(recordings(), st.integers(2, 6), st.integers(0, 3))
def test_no_fold_and_no_part_has_shared_bins_on_two_sides(found: Recording, folds: int, seed: int) -> None:
    groups = split_groups(found)
    assume(len(groups) >= folds)
    divisions = divide_in_folds(groups, folds, seed)
    tested = np.array([one.part == one.parts for one in divisions])
    assert (tested.sum(0) == 1).all(), "every trial is tested once"
    for one in divisions:
        is_tested = one.part == one.parts
        assert not shares(groups, one.is_fitted, is_tested)
        assert (is_tested | one.is_fitted).sum() + one.left_out == len(groups)
        if groups.stay_whole(folds):
            assert not divides(groups, one.is_fitted, is_tested)
            assert one.left_out == 0
        for part in range(one.parts):
            others = (one.part >= 0) & (one.part < one.parts) & (one.part != part)
            assert not shares(groups, one.part == part, others)


@settings(deadline=None)
@given(recordings(), st.lists(st.sampled_from(["train", "valid", "gap"]), min_size=60, max_size=60))
def test_a_given_split_fits_no_trial_that_shares_bins_with_a_tested_one(
    found: Recording, given_split: list[str]
) -> None:
    groups = split_groups(found)
    split = np.array([given_split[trial % 60] for trial in range(len(groups))])
    division = divide(split == "train", split == "valid", groups, folds=5, seed=0)
    assert ((division.part == division.parts) == (split == "valid")).all()
    assert (split[division.is_fitted] == "train").all()
    assert not shares(groups, division.is_fitted, split == "valid")
