"""Wider bins, windows, splits, choices; and windows merged back into what they were cut from."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.dataset_options import ChopOptions, NeuronOptions, SplitOptions
from domain.windows import window_weights
from tests.worker.ingest.ingest_examples import example_recording
from worker.ingest import rows
from worker.ingest.preprocessing.chopping import chop, rebin
from worker.ingest.preprocessing.selection import select_neurons, select_trials
from worker.ingest.preprocessing.splits import apply_split
from worker.ingest.problems import RejectedFile
from worker.ingest.recording import Recording


@pytest.fixture(params=[False, True], ids=["in memory", "on disk"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 50)
        monkeypatch.setattr(rows, "BLOCK_BYTES", 1000)


def continuous(bins: int, neurons: int = 3, seed: int = 0) -> Recording:
    random = np.random.default_rng(seed)
    return Recording(
        spikes=random.integers(0, 5, (1, bins, neurons)).astype(np.uint8),
        bin_width_s=0.01,
        trial_length_bins=np.array([bins], np.int64),
        split=np.array([-1], np.int8),
        behaviour={"speed": random.normal(size=(1, bins, 2)).astype(np.float32)},
        trial_start_s=np.array([7.0]),
        is_continuous=True,
    )


def code_of(action: Any) -> str:
    with pytest.raises(RejectedFile) as caught:
        action()
    assert caught.value.problems[0].hint
    return caught.value.problems[0].code


@pytest.mark.usefixtures("anywhere")
class TestRebin:
    def test_counts_are_summed_and_the_rest_averaged(self) -> None:
        recording = example_recording()
        before = example_recording()
        rebin(recording, 0.15)
        assert recording.bin_width_s == pytest.approx(0.15)
        np.testing.assert_array_equal(recording.trial_length_bins, before.trial_length_bins // 3)
        assert before.true_rates_hz is not None
        for trial, length in enumerate(recording.trial_length_bins):
            inside = slice(0, 3 * length)
            sums = before.spikes[trial, inside].reshape(length, 3, -1).sum(1)
            np.testing.assert_array_equal(np.asarray(recording.spikes)[trial, :length], sums)
            assert not np.asarray(recording.spikes)[trial, length:].any()
            position = before.behaviour["position"][trial, inside].reshape(length, 3, -1).mean(1)
            found = np.asarray(recording.behaviour["position"])[trial]
            np.testing.assert_allclose(found[:length], position, rtol=1e-5)
            assert np.isnan(found[length:]).all()
            true = before.true_rates_hz[trial, inside].reshape(length, 3, -1).mean(1)
            np.testing.assert_allclose(np.asarray(recording.true_rates_hz)[trial, :length], true, rtol=1e-5)

    def test_sums_above_255(self) -> None:
        recording = continuous(40)
        recording.spikes = np.full((1, 40, 3), 100, np.uint8)
        rebin(recording, 0.1)
        assert np.asarray(recording.spikes).tolist() == [[[1000] * 3] * 4]

    def test_widths_that_do_not_fit(self) -> None:
        assert code_of(lambda: rebin(example_recording(), 0.12)) == "rebin_not_a_multiple"
        assert code_of(lambda: rebin(example_recording(), 0.01)) == "rebin_not_a_multiple"
        assert code_of(lambda: rebin(example_recording(), 5.0)) == "no_trials_left"

    def test_trials_shorter_than_a_bin_go(self) -> None:
        recording = example_recording()
        recording.trial_length_bins[2] = 1
        rebin(recording, 0.1)
        assert len(recording.trial_length_bins) == len(recording.spikes) == 11


@pytest.mark.usefixtures("anywhere")
class TestChop:
    def test_windows_cover_every_bin(self) -> None:
        recording, before = continuous(1234), continuous(1234)
        chop(recording, ChopOptions(window_s=1.0, overlap_s=0.25))
        assert recording.spikes.shape == (17, 100, 3)
        windows = recording.windows
        assert windows is not None
        assert windows.first_bin.tolist() == [*range(0, 1126, 75), 1134]
        for window, first in enumerate(windows.first_bin):
            part = slice(first, first + 100)
            np.testing.assert_array_equal(np.asarray(recording.spikes)[window], before.spikes[0, part])
            speed = np.asarray(recording.behaviour["speed"])[window]
            np.testing.assert_array_equal(speed, before.behaviour["speed"][0, part])
        starts = recording.trial_start_s
        assert starts is not None
        np.testing.assert_allclose(starts, 7.0 + 0.01 * windows.first_bin)

    def test_long_trials_and_short_ones(self) -> None:
        recording, before = example_recording(), example_recording()
        chop(recording, ChopOptions(window_s=0.6, overlap_s=0.0))  # 12 bins; trials have 10 to 20
        windows = recording.windows
        assert windows is not None
        lengths = before.trial_length_bins
        assert np.bincount(windows.segment).tolist() == [1 if length <= 12 else 2 for length in lengths]
        assert recording.trial_metadata["direction"] == [
            before.trial_metadata["direction"][s] for s in windows.segment
        ]
        covered = [set() for _ in lengths]
        for trial, (segment, first) in enumerate(zip(windows.segment, windows.first_bin, strict=True)):
            length = recording.trial_length_bins[trial]
            np.testing.assert_array_equal(
                np.asarray(recording.spikes)[trial, :length], before.spikes[segment, first : first + length]
            )
            assert not np.asarray(recording.spikes)[trial, length:].any()
            covered[segment] |= set(range(first, first + length))
        assert [len(bins) for bins in covered] == lengths.tolist()

    def test_what_was_inferred_is_merged(self) -> None:
        recording = continuous(1234)
        whole = np.asarray(recording.behaviour["speed"])[0].copy()
        chop(recording, ChopOptions(window_s=1.0, overlap_s=0.25))
        assert recording.windows is not None
        merged = np.concatenate(
            list(recording.windows.merge(recording.behaviour["speed"], recording.trial_length_bins))
        )
        np.testing.assert_allclose(merged, whole, rtol=1e-5, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    bins=st.lists(st.integers(2, 300), min_size=1, max_size=4),
    window=st.integers(2, 60),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 9),
)
def test_merging_undoes_chopping(bins: list[int], window: int, share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    signal = random.normal(size=(len(bins), max(bins), 2)).astype(np.float32)
    recording = Recording(
        spikes=np.ones((len(bins), max(bins), 1), np.uint8),
        bin_width_s=0.01,
        trial_length_bins=np.array(bins, np.int64),
        split=np.full(len(bins), -1, np.int8),
        behaviour={"x": signal},
    )
    chop(recording, ChopOptions(window_s=window * 0.01, overlap_s=window * 0.01 * share))
    assert recording.windows is not None
    merged = np.concatenate(
        list(recording.windows.merge(recording.behaviour["x"], recording.trial_length_bins))
    )
    whole = np.concatenate([stretch[:length] for stretch, length in zip(signal, bins, strict=True)])
    np.testing.assert_allclose(merged, whole, rtol=1e-4, atol=1e-5)


def test_weights_of_two_windows_add_up_to_one() -> None:
    one, next_one = window_weights(20, 0, 6), window_weights(20, 6, 0)
    np.testing.assert_allclose(one[-6:] + next_one[:6], 1.0)
    assert (one > 0).all()
    assert (np.diff(next_one[:7]) > 0).all()


def test_bins_without_a_value_are_filled_by_the_window_before() -> None:
    recording = continuous(200)
    chop(recording, ChopOptions(window_s=0.5, overlap_s=0.1))
    assert recording.windows is not None
    values = np.array(recording.behaviour["speed"])
    whole = continuous(200).behaviour["speed"][0]
    values[:, :5] = np.nan  # before the generator begins
    merged = np.concatenate(list(recording.windows.merge(values, recording.trial_length_bins)))
    assert np.isnan(merged[:5]).all()
    np.testing.assert_allclose(merged[5:], whole[5:], rtol=1e-5, atol=1e-6)


class TestSplits:
    @staticmethod
    def conditions(trials: int = 100) -> Recording:
        recording = example_recording(trials=trials)
        recording.split[:] = -1
        recording.trial_metadata["condition"] = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
        return recording

    def test_what_the_file_says_stays(self) -> None:
        recording = example_recording()
        apply_split(recording, SplitOptions())
        np.testing.assert_array_equal(recording.split, example_recording().split)

    def test_without_one_each_job_draws(self) -> None:
        recording = self.conditions()
        apply_split(recording, SplitOptions())
        assert (recording.split == -1).all()

    @pytest.mark.parametrize("seed", range(5))
    def test_equal_shares_of_conditions(self, seed: int) -> None:
        recording = self.conditions()
        apply_split(
            recording, SplitOptions(kind="condition", valid_fraction=0.2, test_fraction=0.1, seed=seed)
        )
        names = np.array(recording.trial_metadata["condition"])
        for name, valid, test in (("a", 12, 6), ("b", 6, 3), ("c", 2, 1)):
            assert abs((recording.split[names == name] == 1).sum() - valid) <= 1
            assert abs((recording.split[names == name] == -1).sum() - test) <= 1
        assert ((recording.split == 1).sum(), (recording.split == -1).sum()) == (20, 10)

    @pytest.mark.parametrize("given", [None, "condition"])
    def test_conditions_of_another_name_are_found(self, given: str | None) -> None:
        recording = self.conditions()
        recording.trial_metadata["direction"] = recording.trial_metadata.pop("condition")
        apply_split(recording, SplitOptions(kind="condition", valid_fraction=0.2, condition=given))
        valid = np.array(recording.trial_metadata["direction"])[recording.split == 1].tolist()
        assert [valid.count(name) for name in "abc"] == [12, 6, 2]
        assert "drawn in equal shares of each `direction`" in recording.notes[-1]

    def test_the_seed_decides(self) -> None:
        splits = []
        for seed in (0, 0, 1):
            recording = self.conditions()
            apply_split(recording, SplitOptions(kind="trial", seed=seed))
            splits.append(recording.split)
        np.testing.assert_array_equal(splits[0], splits[1])
        assert (splits[0] != splits[2]).any()
        assert (splits[0] == 1).sum() == 20

    def test_blocks_of_time(self) -> None:
        recording = self.conditions()
        recording.trial_start_s = np.random.default_rng(0).permutation(100).astype(float)
        apply_split(recording, SplitOptions(kind="time", valid_fraction=0.2, test_fraction=0.1))
        in_time = recording.split[np.argsort(recording.trial_start_s)]
        assert in_time.tolist() == [0] * 35 + [1] * 20 + [0] * 35 + [-1] * 10

    @settings(max_examples=50, deadline=None)
    @given(
        overlap=st.floats(0, 0.5),
        kind=st.sampled_from(["given", "time", "trial"]),
        bins=st.integers(900, 3000),
    )
    def test_windows_in_training_and_validation_share_no_bin(
        self, overlap: float, kind: str, bins: int
    ) -> None:
        recording = continuous(bins)
        chop(recording, ChopOptions(window_s=1.0, overlap_s=overlap))
        apply_split(recording, SplitOptions.model_validate({"kind": kind, "test_fraction": 0.1}))
        windows = recording.windows
        assert windows is not None
        used = {}
        for code in (0, 1):
            chosen = recording.split == code
            assert chosen.any()
            used[code] = {
                b
                for first in windows.first_bin[chosen]
                for b in range(first, first + windows.segment_bins[0])
                if b < first + 100
            }
        assert not used[0] & used[1]

    def test_windows_of_many_trials_are_drawn_by_trial(self) -> None:
        recording = example_recording(trials=30)
        recording.split[:] = -1
        chop(recording, ChopOptions(window_s=0.3, overlap_s=0.1))
        apply_split(recording, SplitOptions())
        assert recording.windows is not None
        of_segment = [set(recording.split[recording.windows.segment == s].tolist()) for s in range(30)]
        assert all(len(codes) == 1 for codes in of_segment)
        assert sum(codes == {1} for codes in of_segment) == 6

    def test_what_cannot_be_split(self) -> None:
        recording = self.conditions()
        missing = SplitOptions(kind="condition", condition="side")
        assert code_of(lambda: apply_split(recording, missing)) == "metadata_unknown"
        recording.trial_metadata = {"trial_id": list(range(100))}
        assert code_of(lambda: apply_split(recording, SplitOptions(kind="condition"))) == "metadata_unknown"
        short = continuous(100)
        chop(short, ChopOptions(window_s=1.0))
        assert code_of(lambda: apply_split(short, SplitOptions())) == "split_leaves_none"


@pytest.mark.usefixtures("anywhere")
def test_neurons_that_fire_too_rarely_go() -> None:
    recording, before = example_recording(), example_recording()
    recording.neuron_metadata = {"area": ["M1", "M1", "PMd", "PMd", "M1", "PMd", "M1"]}
    seconds = before.trial_length_bins.sum() * 0.05
    rates_hz = before.spikes.sum((0, 1)) / seconds
    cut_hz = float(np.sort(rates_hz)[2]) + 1e-9
    options = NeuronOptions.model_validate({"minimum_rate_hz": cut_hz, "where": {"area": ["M1"]}})
    select_neurons(recording, options)
    kept = [n for n in range(7) if rates_hz[n] >= cut_hz and n in (0, 1, 4, 6)]
    np.testing.assert_array_equal(np.asarray(recording.spikes), before.spikes[:, :, kept])
    assert before.true_rates_hz is not None
    np.testing.assert_array_equal(np.asarray(recording.true_rates_hz), before.true_rates_hz[:, :, kept])
    assert recording.neuron_metadata == {"index_in_file": kept, "area": ["M1"] * len(kept)}
    assert code_of(lambda: select_neurons(recording, NeuronOptions(minimum_rate_hz=1e5))) == "no_neurons_left"
    nowhere = NeuronOptions.model_validate({"where": {"area": "V1"}})
    assert code_of(lambda: select_neurons(recording, nowhere)) == "no_neurons_left"


@pytest.mark.usefixtures("anywhere")
def test_chosen_trials_keep_all_that_belongs_to_them() -> None:
    recording, before = example_recording(), example_recording()
    kept = before.split != 0
    select_trials(recording, kept)
    np.testing.assert_array_equal(np.asarray(recording.spikes), before.spikes[kept])
    np.testing.assert_array_equal(
        np.asarray(recording.behaviour["position"]), before.behaviour["position"][kept]
    )
    np.testing.assert_array_equal(recording.trial_length_bins, before.trial_length_bins[kept])
    assert recording.trial_metadata["target"] == [
        t for t, k in zip(before.trial_metadata["target"], kept, strict=True) if k
    ]


def with_gap(trials: int = 4, bins: int = 12) -> Recording:
    """Counts of 1 throughout but for bins 4 to 6 of trial 1 and neuron 2, which are missing."""
    recording = example_recording(trials=trials, bins=bins)
    recording.trial_length_bins = np.full(trials, bins)
    missing = np.zeros(recording.spikes.shape, np.uint8)
    missing[1, 4:7, 2] = 1
    recording.spikes = np.where(missing, 0, 1).astype(np.uint8)
    recording.missing = missing
    return recording


class TestMissing:
    def test_a_wider_bin_is_missing_if_any_of_its_bins_is(self) -> None:
        recording = with_gap()
        rebin(recording, recording.bin_width_s * 3)
        missing = np.asarray(recording.missing)
        assert np.argwhere(missing).tolist() == [[1, 1, 2], [1, 2, 2]]
        assert np.asarray(recording.spikes)[1, :, 2].tolist() == [3, 0, 0, 3]

    def test_it_is_cut_and_chosen_with_the_spikes(self, tmp_path: Any) -> None:
        recording = with_gap()
        recording.save(tmp_path)
        np.testing.assert_array_equal(np.asarray(Recording.load(tmp_path).missing), recording.missing)
        chop(recording, ChopOptions(window_s=6 * recording.bin_width_s, overlap_s=0))
        assert np.argwhere(np.asarray(recording.missing)).tolist() == [[2, 4, 2], [2, 5, 2], [3, 0, 2]]
        select_trials(recording, np.arange(8) != 2)
        assert np.argwhere(np.asarray(recording.missing)).tolist() == [[2, 0, 2]]
        assert recording.windows is not None
        assert recording.windows.first_bin.tolist() == [0, 6, 6, 0, 6, 0, 6]

    def test_rates_are_over_observed_time(self) -> None:
        recording = with_gap()
        rate_hz = 1 / recording.bin_width_s
        select_neurons(recording, NeuronOptions(minimum_rate_hz=0.99 * rate_hz))
        assert recording.spikes.shape[2] > 2
        assert recording.missing is not None
        recording.missing[:, :, 1] = recording.inside_trials()
        recording.spikes[:, :, 1] = 0
        select_neurons(recording, NeuronOptions())
        assert [one.code for one in recording.warnings] == ["neurons_not_observed"]
        assert 1 not in recording.neuron_metadata["index_in_file"]


def test_windows_that_were_left_out_leave_a_gap() -> None:
    recording = continuous(100)
    spikes = np.asarray(recording.spikes)[0].astype(np.float32)
    chop(recording, ChopOptions(window_s=20 * recording.bin_width_s, overlap_s=4 * recording.bin_width_s))
    first = recording.windows.first_bin if recording.windows else np.zeros(0)
    select_trials(recording, (first != 0) & (first != 32))
    assert recording.windows is not None
    latents = np.asarray(recording.spikes).astype(np.float32)
    merged = np.concatenate(list(recording.windows.merge(latents, recording.trial_length_bins)))
    gap = np.r_[0:16, 36:48]
    assert np.isnan(merged[gap]).all()
    rest = np.setdiff1d(np.arange(100), gap)
    np.testing.assert_allclose(merged[rest], spikes[rest])


def test_shared_bins_count_once() -> None:
    recording = continuous(100)
    chop(recording, ChopOptions(window_s=20 * recording.bin_width_s, overlap_s=4 * recording.bin_width_s))
    assert recording.counted_bins().sum() == 100
    assert recording.trial_length_bins.sum() > 100
