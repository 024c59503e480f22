"""Trials that belong together: no split and no fold has them, or bins that they share, on two sides."""

from contextlib import suppress

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from domain.dataset_options import ChopOptions, SplitOptions
from domain.job_specification import Training, split_trials
from domain.split_groups import SplitGroups, draw_split
from worker.ingest.preprocessing.chopping import chop
from worker.ingest.preprocessing.selection import select_trials
from worker.ingest.preprocessing.splits import apply_split, given_split, split_groups
from worker.ingest.problems import RejectedFile
from worker.ingest.recording import Recording

WIDTH_S = 0.01


def shares(groups: SplitGroups, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Say, pair by pair, whether a trial of one side shares bins with a trial of the other."""
    end = groups.first_bin + groups.bins
    return any(
        groups.group[a] == groups.group[b]
        and min(end[a], end[b]) - max(groups.first_bin[a], groups.first_bin[b]) > 0.002
        for a in np.flatnonzero(one)
        for b in np.flatnonzero(other)
    )


def divides(groups: SplitGroups, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    return bool(set(groups.group[one].tolist()) & set(groups.group[other].tolist()))


def recording(starts_bins: list[float], lengths: list[int], *, has_times: bool = True) -> Recording:
    trials, bins = len(lengths), max(lengths)
    return Recording(
        spikes=np.ones((trials, bins, 2), np.uint8),
        bin_width_s=WIDTH_S,
        trial_length_bins=np.array(lengths, np.int64),
        split=np.full(trials, -1, np.int8),
        trial_start_s=np.array(starts_bins) * WIDTH_S if has_times else None,
    )


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Trials that may overlap in time, perhaps cut into windows, of which some may have been left out."""
    lengths = draw(st.lists(st.integers(2, 40), min_size=1, max_size=14))
    steps = draw(st.lists(st.floats(0, 60), min_size=len(lengths), max_size=len(lengths)))
    found = recording(np.cumsum(steps).tolist(), lengths, has_times=draw(st.booleans()))
    if draw(st.booleans()):
        overlap_s = draw(st.sampled_from([0.0, 0.01, 0.02]))
        chop(found, ChopOptions(window_s=draw(st.sampled_from([0.05, 0.1])), overlap_s=overlap_s))
    kept = np.array(draw(st.lists(st.booleans(), min_size=len(found.split), max_size=len(found.split))))
    assume(kept.any())
    select_trials(found, kept)
    return found


def held_out_apart(groups: SplitGroups, split: NDArray[np.str_]) -> None:
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not shares(groups, split == one, split == other), (one, other)
        if groups.stay_whole(5):
            assert not divides(groups, split == one, split == other), (one, other)


@given(recordings(), st.sampled_from([0.0, 0.2]), st.integers(0, 5))
def test_no_split_of_a_job_has_shared_bins_on_two_sides(
    found: Recording, test_fraction: float, seed: int
) -> None:
    groups = split_groups(found)
    training = Training(test_fraction=test_fraction, evaluation_seed=seed)
    split = np.array(split_trials([None] * len(groups), groups, training))
    held_out_apart(groups, split)
    if groups.stay_whole(5):
        assert "gap" not in split


@given(recordings(), st.sampled_from(["given", "trial", "time"]), st.sampled_from([0.0, 0.2]))
def test_no_split_of_a_data_set_has_shared_bins_on_two_sides(
    found: Recording, kind: str, test_fraction: float
) -> None:
    groups = split_groups(found)
    with suppress(RejectedFile):  # too few trials: nothing is written then
        apply_split(found, SplitOptions.model_validate({"kind": kind, "test_fraction": test_fraction}))
    drawn = given_split(found)
    if drawn[0] is not None:
        held_out_apart(groups, np.array(drawn))
    # A job draws what the data set does not have, beside what it has.
    split = np.array(split_trials(drawn, groups, Training(test_fraction=0.25)))
    held_out_apart(groups, split)
    if drawn[0] is not None:
        assert ((split == "valid") == (np.array(drawn) == "valid")).all()


@given(recordings(), st.integers(2, 6), st.integers(0, 5))
def test_parts_are_whole_groups_or_blocks_of_time(found: Recording, number: int, seed: int) -> None:
    groups = split_groups(found)
    part = groups.parts(number, np.random.default_rng(seed))
    assert set(part.tolist()) <= set(range(number))
    for one in range(number):
        others = (part != one) & ~groups.sharing(part == one)
        assert not shares(groups, part == one, others)
        if groups.stay_whole(number):
            assert not divides(groups, part == one, part != one)
        else:
            assert part[groups.in_time()].tolist() == sorted(part)


def test_trials_that_share_time_are_one_group() -> None:
    found = recording([0, 9, 30, 18.5, 49.9995, 60], [10, 10, 20, 5, 10, 10])
    groups = split_groups(found)
    assert groups.group.tolist() == [0, 0, 1, 0, 2, 3]  # 49.9995: rounding, no shared bin
    np.testing.assert_allclose(groups.first_bin, [0, 9, 0, 18.5, 0, 0.0], atol=1e-9)
    assert groups.sharing(np.arange(6) == 1).tolist() == [True, False, False, True, False, False]


def test_windows_of_overlapping_trials_are_one_group() -> None:
    found = recording([0, 15, 100], [20, 20, 20])
    chop(found, ChopOptions(window_s=0.1, overlap_s=0.0))
    groups = split_groups(found)
    assert groups.group.tolist() == [0, 0, 0, 0, 1, 1]
    assert groups.sharing(np.arange(6) == 1).tolist() == [False, False, True, False, False, False]


def test_trials_without_times_of_their_own_stand_alone() -> None:
    assert split_groups(recording([0, 0, 0], [5, 5, 5], has_times=False)).number == 3
    chopped = recording([0, 0, 0], [10, 10, 10], has_times=False)
    chop(chopped, ChopOptions(window_s=0.05, overlap_s=0.0))
    assert split_groups(chopped).group.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_continuous_recording_has_gaps_around_test_blocks() -> None:
    found = recording([0], [1000])
    chop(found, ChopOptions(window_s=0.2, overlap_s=0.05))
    groups = split_groups(found)
    split = draw_split([None] * 67, groups, {"valid": 0.2, "test": 0.1}, np.random.default_rng(0))
    expected = [*["train"] * 22, "gap", *["valid"] * 13, "gap", *["train"] * 22, "gap", *["test"] * 7]
    assert split == expected


def test_a_long_chain_of_trials_is_split_by_time() -> None:
    found = recording([8.0 * trial for trial in range(20)] + [500.0, 600, 700, 800, 900, 1000], [10] * 26)
    groups = split_groups(found)
    assert groups.number == 7
    assert not groups.stay_whole(5)
    split = np.array(split_trials([None] * 26, groups, Training()))
    assert (split == "valid").sum() == 5
    assert (split == "gap").sum() == 2
    held_out_apart(groups, split)


def test_a_split_of_the_file_that_divides_trials_is_kept_and_told() -> None:
    found = recording([0, 8, 30, 38, 60, 90], [10] * 6)
    found.split = np.array([0, 1, 0, 0, 0, 1], np.int8)
    apply_split(found, SplitOptions())
    assert found.split.tolist() == [0, 1, 0, 0, 0, 1]
    (warning,) = found.warnings
    assert warning.code == "split_divides_trials"
    assert "2 trials are windows of one trial" in warning.message
    assert "1 training trials share bins" in warning.message
    whole = recording([0, 8, 30, 38, 60, 90], [10] * 6)
    whole.split = np.array([1, 1, 0, 0, 0, 1], np.int8)
    apply_split(whole, SplitOptions())
    assert whole.warnings == []
