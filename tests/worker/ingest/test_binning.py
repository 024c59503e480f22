"""From spike times to counts, against numpy's histogram; which trials, aligned to what."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.ingest import rows
from worker.ingest.preprocessing.binning import bin_spikes
from worker.ingest.preprocessing.signals import sample_in_bins
from worker.ingest.problems import RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording
from worker.ingest.spike_columns import SpikeColumns
from worker.ingest.spike_trains import Signal, SpikeTimes, SpikeTrains, TrialTable
from worker.ingest.time_units import in_seconds

SPIKES = [np.sort(np.random.default_rng(seed).uniform(0, 50, 400 * (seed + 1))) for seed in range(4)]


def trains(scale: float = 1.0, **fields: Any) -> SpikeTrains:
    times = SpikeTimes()
    for neuron, spikes_s in enumerate(SPIKES):
        for part in np.array_split(np.random.default_rng(0).permutation(spikes_s), 3):
            times.add(scale * part, neuron)
    return SpikeTrains(times, len(SPIKES), **fields)


def table(**columns: Any) -> TrialTable:
    start_s = np.arange(1.0, 46.0, 5.0)
    return TrialTable(start_s, start_s + 2.5 + 0.1 * np.arange(len(start_s)), columns)


def expected(start_s: np.ndarray, bins: np.ndarray, width_s: float) -> np.ndarray:
    """The counts by numpy's own histogram."""
    counts = np.zeros((len(start_s), int(max(bins)), len(SPIKES)), int)
    for trial, (start, length) in enumerate(zip(start_s, bins, strict=True)):
        edges = start + np.arange(int(length) + 1) * width_s
        for neuron, spikes_s in enumerate(SPIKES):
            inside = spikes_s[spikes_s < edges[-1]]
            counts[trial, : int(length), neuron] = np.histogram(inside, edges)[0]
    return counts


def binned(source: SpikeTrains, **options: Any) -> Recording:
    return bin_spikes(source, ReadOptions(**options))


def rejected(source: SpikeTrains, **options: Any) -> str:
    with pytest.raises(RejectedFile) as caught:
        binned(source, **options)
    (problem,) = caught.value.problems
    assert problem.hint
    return problem.code


@pytest.mark.parametrize("width_s", [0.01, 0.037])
@pytest.mark.parametrize("on_disk", [False, True])
def test_whole_trials_are_ragged(width_s: float, on_disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_disk:
        monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 100)
        monkeypatch.setattr(rows, "BLOCK_BYTES", 3000)
    found = binned(trains(tables={"trials": table(go=[1] * 9)}), bin_width_s=width_s)
    start_s, stop_s = table().start_s, table().stop_s
    bins = np.floor((stop_s - start_s) / width_s + 1e-6)
    np.testing.assert_array_equal(found.trial_length_bins, bins)
    np.testing.assert_array_equal(np.asarray(found.spikes), expected(start_s, bins, width_s))
    np.testing.assert_array_equal(found.trial_start_s, start_s)
    assert found.trial_metadata["go"] == [1] * 9
    assert found.trial_metadata["start_time"] == start_s.tolist()


def test_windows_around_a_column_of_times() -> None:
    go_s = table().start_s + 0.7
    go_s[3] = np.nan
    source = trains(
        tables={"epochs": table(), "trials": table(go_cue=[None if np.isnan(t) else t for t in go_s])}
    )
    found = binned(source, bin_width_s=0.02, trials={"align_to": "go_cue", "window_s": [-0.3, 0.9]})
    kept = np.delete(go_s, 3)
    np.testing.assert_array_equal(np.asarray(found.spikes), expected(kept - 0.3, np.full(8, 60), 0.02))
    assert found.time_zero_s == -0.3
    assert [warning.code for warning in found.warnings] == ["trials_left_out"]
    (choice,) = [one for one in found.understood if one.what == "trials"]
    assert choice.variable == "trials"
    assert choice.alternatives == ("epochs (9 trials)",)


def test_windows_around_events() -> None:
    events = {"reward": np.array([30.0, 10.0, 20.0])}
    found = binned(trains(events=events), trials={"align_to": "reward", "window_s": [0, 1]}, bin_width_s=0.1)
    np.testing.assert_array_equal(
        np.asarray(found.spikes), expected(np.array([10.0, 20.0, 30.0]), np.full(3, 10), 0.1)
    )
    assert rejected(trains(events=events), trials={"align_to": "reward"}) == "window_needed"


def test_an_event_within_each_trial() -> None:
    events = {"touch": np.array([1.5, 1.6, 12.0, 44.0])}
    source = trains(events=events, tables={"trials": table(number=list(range(9)))})
    found = binned(
        source,
        mapping={"trials": "trials"},
        trials={"align_to": "touch", "window_s": [-0.5, 0.5]},
        bin_width_s=0.1,
    )
    assert found.trial_metadata["number"] == [0, 2, 8]
    np.testing.assert_array_equal(
        np.asarray(found.spikes), expected(np.array([1.0, 11.5, 43.5]), np.full(3, 10), 0.1)
    )


def test_without_trials_it_is_continuous() -> None:
    found = binned(trains(), bin_width_s=0.1)
    assert found.is_continuous
    assert int(np.asarray(found.spikes).sum()) == sum(map(len, SPIKES))
    part = binned(trains(), bin_width_s=0.1, trials={"window_s": [10, 20]})
    np.testing.assert_array_equal(np.asarray(part.spikes), expected(np.array([10.0]), np.array([100]), 0.1))


@pytest.mark.parametrize("overlap", ["keep", "drop", "cut"])
def test_trials_that_share_time(overlap: str) -> None:
    start_s = np.array([4.0, 0.0, 1.0, 8.0])
    source = trains(tables={"trials": TrialTable(start_s, start_s + 2.0, {"name": ["c", "a", "b", "d"]})})
    found = binned(source, bin_width_s=0.1, trials={"overlap": overlap})
    codes = [warning.code for warning in found.warnings]
    names, lengths = found.trial_metadata["name"], found.trial_length_bins.tolist()
    if overlap == "keep":
        assert (codes, names, lengths) == (["trials_overlap"], ["c", "a", "b", "d"], [20] * 4)
    elif overlap == "drop":
        assert (codes, names, lengths) == ([], ["c", "a", "d"], [20] * 3)
    else:
        assert (codes, names, lengths) == ([], ["c", "a", "b", "d"], [20, 10, 20, 20])
    starts = found.trial_start_s
    assert starts is not None
    np.testing.assert_array_equal(np.asarray(found.spikes), expected(starts, np.array(lengths), 0.1))


def test_what_is_not_there_is_told() -> None:
    source = trains(tables={"trials": table(go=["a"] * 9)}, events={"reward": np.array([3.0])})
    assert rejected(source, trials={"align_to": "cue"}) == "align_to_unknown"
    assert rejected(source, mapping={"trials": "blocks"}) == "trials_unknown"
    assert rejected(source, trials={"align_to": "go", "window_s": [0, 1]}) == "align_to_not_times"
    assert rejected(source, trials={"where": {"outcome": "hit"}}) == "metadata_unknown"
    assert rejected(source, trials={"where": {"go": "b"}}) == "no_trials_left"
    assert rejected(source, bin_width_s=1000) == "no_trials_left"
    assert rejected(source, bin_width_s=1e-6, max_expanded_bytes=10**6) == "file_too_large_expanded"
    assert rejected(SpikeTrains(SpikeTimes(), 3)) == "no_spikes"


def test_only_some_trials() -> None:
    source = trains(tables={"trials": table(side=["l", "r", "l"] * 3, effort=[0.1 * k for k in range(9)])})
    found = binned(source, trials={"where": {"side": "l", "effort": {"min": 0.15, "max": 0.65}}})
    assert found.trial_metadata["effort"] == [
        pytest.approx(0.2),
        pytest.approx(0.3),
        pytest.approx(0.5),
        pytest.approx(0.6000000000000001),
    ]


def test_a_spike_on_an_edge_is_in_the_bin_that_begins_there() -> None:
    times = SpikeTimes()
    times.add(np.arange(30) / 10, 0)  # 0.3 / 0.1 is 2.9999999999999996
    source = SpikeTrains(times, 1, tables={"trials": TrialTable(np.array([0.0, 1.5]), np.array([1.5, 3.0]))})
    assert np.asarray(binned(source, bin_width_s=0.1).spikes).tolist() == [[[1]] * 15] * 2


@settings(max_examples=60, deadline=None)
@given(
    spikes=st.lists(
        st.tuples(st.floats(-2, 3, width=32), st.sampled_from([3, 7, 20]), st.integers(1, 6)),
        min_size=1,
        max_size=60,
    ),
    width_s=st.sampled_from([0.05, 0.1, 0.25]),
)
def test_spikes_that_come_by_trial(spikes: list[tuple[float, int, int]], width_s: float) -> None:
    columns = SpikeColumns(by_trial=True)
    spikes = [(0.0, 3, 1), *spikes]  # without any in the window they are refused
    times_s, neurons, trial = (np.array(column) for column in zip(*spikes, strict=True))
    for part in np.array_split(np.arange(len(spikes)), 3):
        columns.add(times_s[part].astype(float), neurons[part], trial[part])
    options = ReadOptions(bin_width_s=width_s, trials={"window_s": [-1, 2], "ids": [1, 6]})
    found = bin_spikes(columns.finish("x", options), options)
    labels = found.neuron_metadata["neuron_id"]
    assert labels == sorted(set(neurons.tolist()))
    assert found.spikes.shape == (6, round(3 / width_s), len(labels))
    for (number, label), counts in np.ndenumerate(np.asarray(found.spikes).sum(axis=1)):
        mine = times_s[(trial == number + 1) & (neurons == labels[label])]
        assert counts == int(((mine >= -1 - 1e-7) & (mine < 2 - 1e-7)).sum())


def test_units_of_time() -> None:
    whole = np.array([0, 3000, 60000])
    with pytest.raises(RejectedFile, match="samples or milliseconds"):
        in_seconds(whole, ReadOptions(), "ts")
    with pytest.raises(RejectedFile, match="sampling rate is unknown"):
        in_seconds(whole, ReadOptions(time_unit="samples"), "ts")
    samples = ReadOptions(time_unit="samples", sampling_rate_hz=30000)
    np.testing.assert_allclose(in_seconds(whole, samples, "ts"), [0, 0.1, 2])
    np.testing.assert_allclose(in_seconds(whole, ReadOptions(time_unit="ms"), "ts"), [0, 3, 60])
    with pytest.raises(RejectedFile, match="does not hold numbers"):
        in_seconds(np.array(["a"]), ReadOptions(), "ts")


class TestSignals:
    def test_faster_than_the_bins_it_is_averaged(self) -> None:
        values = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
        values[105] = np.nan
        signal = Signal(values, start_s=2.0, rate_hz=100.0)
        found = sample_in_bins(signal, 2.5, 20, 0.05)
        means = np.nanmean(values[50:150].reshape(20, 5, 2), axis=1)
        np.testing.assert_allclose(found, means, rtol=1e-4, atol=1e-5)
        given_times = Signal(values, times_s=2.0 + np.arange(1000) / 100)
        np.testing.assert_allclose(sample_in_bins(given_times, 2.495, 20, 0.05), means, rtol=1e-4, atol=1e-5)

    def test_slower_it_is_interpolated(self) -> None:
        signal = Signal(np.arange(11, dtype=np.float32)[:, None], start_s=0.0, rate_hz=1.0)
        found = sample_in_bins(signal, 2.0, 30, 0.1)[:, 0]
        np.testing.assert_allclose(found, 2.05 + 0.1 * np.arange(30), rtol=1e-5)

    def test_outside_there_is_nothing(self) -> None:
        signal = Signal(np.ones((100, 1), np.float32), start_s=0.0, rate_hz=100.0)
        found = sample_in_bins(signal, 0.9, 4, 0.05)[:, 0]
        assert np.isfinite(found[:2]).all()
        assert np.isnan(found[2:]).all()
        assert np.isnan(sample_in_bins(signal, 50.0, 4, 0.05)).all()

    def test_angles_are_not_averaged(self) -> None:
        turning = (np.arange(1000) * 0.05 % (2 * np.pi)).astype(np.float32)[:, None]
        found = sample_in_bins(Signal(turning, rate_hz=100.0, unit="radians"), 0.0, 100, 0.1)
        assert np.isin(found, turning).all()


def test_spike_times_and_trials_in_an_npz(tmp_path: Path) -> None:
    times_s = np.concatenate(SPIKES)
    neurons = np.repeat([5, 6, 8, 9], [len(spikes) for spikes in SPIKES])
    start_s = np.arange(1.0, 46.0, 5.0)
    arrays = {
        "trial_start": start_s,
        "trial_stop": start_s + 3,
        "outcome": np.array(["hit", "miss", "hit"] * 3),
    }
    np.savez(
        tmp_path / "f.npz", spike_times=times_s, spike_clusters=neurons, cue_times=start_s + 0.5, **arrays
    )
    options = ReadOptions(
        bin_width_s=0.1,
        trials={"align_to": "cue_times", "window_s": [0, 1], "where": {"outcome": "hit"}},
    )
    found = read_recording(tmp_path / "f.npz", options)
    hits = start_s[[0, 2, 3, 5, 6, 8]] + 0.5
    np.testing.assert_array_equal(np.asarray(found.spikes), expected(hits, np.full(6, 10), 0.1))
    assert found.neuron_metadata["neuron_id"] == [5, 6, 8, 9]


@pytest.mark.parametrize(
    ("options", "pointer"),
    [({}, "/time_unit"), ({"time_unit": "s"}, "/bin_width_s")],
)
def test_too_many_counts_say_how_they_come_about_and_what_helps(
    options: dict[str, Any], pointer: str
) -> None:
    """Times in milliseconds that are read as seconds: 9 trials of up to 3300 s, in bins of 10 ms."""
    start_s = 1000 * np.arange(1.0, 46.0, 5.0)
    stop_s = start_s + 2500 + 100 * np.arange(9)
    source = trains(1000.0, tables={"trials": TrialTable(start_s, stop_s)})
    with pytest.raises(RejectedFile) as caught:
        binned(source, max_expanded_bytes=10**6, **options)
    (problem,) = caught.value.problems
    assert (problem.code, problem.pointer) == ("file_too_large_expanded", pointer)
    said = "in bins of 0.01 s would be 9 trials × 330000 bins × 4 neurons (the longest trial lasts 3300 s; there are 4000 spikes)"
    assert said in problem.message
    assert ("time_unit `ms`" in problem.hint) == (not options)
    for option in ("bin_width_s", "trials.window_s", "fewer neurons"):
        assert option in problem.hint


def by_trial(**columns: Any) -> SpikeTrains:
    """10 trials of 1 s; a neuron fires every 10 ms in trial 0, and 20 times as rarely in the others."""
    source = SpikeColumns(by_trial=True)
    for trial in range(10):
        times_s = np.arange(0.005, 1.0, 0.01 if trial == 0 else 0.2)
        source.add(times_s, np.zeros(len(times_s), int), np.full(len(times_s), trial))
    return source.finish("x", ReadOptions(**ALIGNED), {name: list(of) for name, of in columns.items()})


ALIGNED: dict[str, Any] = {"bin_width_s": 0.1, "trials": {"align_to": "go", "window_s": [-0.5, 1.0]}}


class TestWindowsOfTrialsGivenByTrial:
    def test_a_window_has_its_own_trial_only(self) -> None:
        source = by_trial(go=[0.2] * 5 + [0.6] * 5)
        found = bin_spikes(source, ReadOptions(**ALIGNED))
        spikes, missing = np.asarray(found.spikes)[:, :, 0], np.asarray(found.missing)[:, :, 0]
        # Of 15 bins from 0.5 s before the go cue on, the trial has those from 0 to 1 s.
        assert found.trial_length_bins.tolist() == [13] * 5 + [9] * 5
        assert missing.sum(axis=1).tolist() == [3] * 5 + [0] * 5
        assert missing[0].tolist() == [1] * 3 + [0] * 10
        assert spikes[0].tolist() == [0] * 3 + [10] * 10
        assert spikes.sum(axis=1).tolist() == [100] + [5] * 4 + [4] * 5
        warning = next(one for one in found.warnings if one.code == "window_beyond_trials")
        assert "10 of 10 trials at its end and in 5 at its beginning" in warning.message

    def test_trials_last_as_long_as_the_file_says(self) -> None:
        source = by_trial(go=[0.2] * 10, duration_s=[1.0] * 5 + [1.2] * 5)
        found = bin_spikes(source, ReadOptions(**ALIGNED))
        assert found.trial_length_bins.tolist() == [13] * 5 + [15] * 5
        whole = bin_spikes(
            by_trial(start_time=[5.0] * 10, stop_time=[6.0] * 5 + [6.3] * 5), ReadOptions(bin_width_s=0.1)
        )
        assert whole.trial_length_bins.tolist() == [10] * 5 + [13] * 5
        assert any("as long as" in note for note in whole.notes)

    @pytest.mark.parametrize(
        ("name", "options"), [("duration_ms", {}), ("duration", {"trial_time_unit": "ms"})]
    )
    def test_durations_in_milliseconds(self, name: str, options: dict[str, Any]) -> None:
        source = by_trial(go=[0.2] * 10, **{name: [1000.0] * 5 + [1200.0] * 5})
        aligned = {"trials": {"window_s": [0.0, 1.5]}}
        found = bin_spikes(source, ReadOptions(bin_width_s=0.1, **aligned, **options))
        assert found.trial_length_bins.tolist() == [10] * 5 + [12] * 5

    @pytest.mark.parametrize("durations", [[1000.0] * 10, [0.5] * 10, ["long"] * 10])
    def test_durations_that_do_not_fit_are_not_believed(self, durations: list[Any]) -> None:
        found = bin_spikes(by_trial(duration=durations), ReadOptions(bin_width_s=0.1))
        assert found.trial_length_bins.tolist() == [10] * 10

    def test_a_window_longer_than_all_trials(self) -> None:
        options = ReadOptions(bin_width_s=0.1, trials={"window_s": [-0.5, 2.0]})
        source = SpikeColumns(by_trial=True)
        times_s = np.arange(0.005, 1.0, 0.01)
        for trial in range(3):
            source.add(times_s, np.zeros(100, int), np.full(100, trial))
        found = bin_spikes(source.finish("x", options), options)
        assert found.trial_length_bins.tolist() == [15] * 3
        assert np.asarray(found.missing)[:, :, 0].sum(axis=1).tolist() == [5] * 3
        assert np.asarray(found.spikes).sum() == 300

    def test_a_window_outside_of_its_trial_is_left_out(self) -> None:
        source = by_trial(go=[0.2] * 9 + [3.0])
        found = bin_spikes(
            source, ReadOptions(bin_width_s=0.1, trials={"align_to": "go", "window_s": [-0.1, 0.5]})
        )
        assert len(found.trial_length_bins) == 9
        assert any(one.code == "trials_left_out" for one in found.warnings)


def observed(**fields: Any) -> SpikeTrains:
    """Two neurons at 10 Hz from 0 to 20 s, with 20 trials of 1 s."""
    times = SpikeTimes()
    for neuron in range(2):
        times.add(np.arange(0.05, 20, 0.1), neuron)
    start_s = np.arange(20.0)
    return SpikeTrains(times, 2, tables={"trials": TrialTable(start_s, start_s + 1)}, **fields)


class TestTimesThatWereNotObserved:
    def test_invalid_times_are_masked(self) -> None:
        found = binned(observed(invalid_s=np.array([[3.5, 5.0], [4.0, 5.25]])), bin_width_s=0.1)
        missing = np.asarray(found.missing)
        assert missing[:, :, 0].sum(axis=1).tolist() == [0, 0, 0, 5, 10, 3] + [0] * 14  # 5.2 … 5.3 overlaps
        assert (missing[:, :, 0] == missing[:, :, 1]).all()
        assert np.asarray(found.spikes)[:, :, 0].sum(axis=1).tolist() == [10, 10, 10, 5, 0, 7] + [10] * 14
        assert [i for i, yes in enumerate(found.trial_metadata["in_invalid_times"]) if yes] == [3, 4, 5]

    def test_they_are_kept_if_asked_for(self) -> None:
        found = binned(
            observed(invalid_s=np.array([[3.5, 5.0]])), bin_width_s=0.1, trials={"unobserved": "keep"}
        )
        assert found.missing is None
        assert np.asarray(found.spikes).sum() == 400
        assert found.trial_metadata["in_invalid_times"][2:5] == [False, True, True]

    def test_a_trial_is_marked_by_its_window(self) -> None:
        options = {"trials": {"align_to": "start_time", "window_s": [0.0, 0.5]}}
        found = binned(observed(invalid_s=np.array([[3.6, 4.0]])), bin_width_s=0.1, **options)
        assert not any(found.trial_metadata["in_invalid_times"])

    def test_units_are_observed_in_their_own_intervals(self) -> None:
        always, part = np.array([[0.0, 20.0]]), np.array([[2.0, 6.05], [6.05, 15.5]])
        found = binned(observed(observed_s=[always, part]), bin_width_s=0.1)
        missing = np.asarray(found.missing).sum(axis=1)
        assert missing[:, 0].tolist() == [0] * 20
        assert missing[:, 1].tolist() == [10, 10] + [0] * 13 + [5] + [10] * 4
        assert np.asarray(found.spikes)[:, :, 1].sum() == 135
        warning = next(one for one in found.warnings if one.code == "units_not_observed")
        assert "1 (6.5 s)" in warning.message

    def test_intervals_that_contradict_the_spikes_are_not_used(self) -> None:
        found = binned(
            observed(observed_s=[np.array([[0.0, 20.0]]), np.array([[0.0, 0.02]])]), bin_width_s=0.1
        )
        assert found.missing is None
        assert [one.code for one in found.warnings] == ["observation_contradicted"]


@pytest.mark.parametrize("kind", ["npz", "csv", "mat", "mat on the clock of the session"])
def test_a_window_has_its_own_trial_only_in_every_format(kind: str, tmp_path: Path) -> None:
    """10 trials of 1 s, fired in every 10 ms by one neuron, and twice as rarely by the other."""
    path, go = tmp_path / "f", np.array([0.2] * 5 + [0.6] * 5)
    times_s = [np.arange(0.005, 1.0, step) for step in (0.01, 0.02)]
    trial = np.repeat(np.arange(10), 150)
    time = np.tile(np.concatenate(times_s), 10)
    neuron = np.tile(np.repeat([0, 1], [100, 50]), 10)
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, spike_times=time, trial=trial, neuron=neuron, go_time=go)
    elif kind == "csv":
        rows = zip(trial, neuron, time, go[trial], strict=True)
        path.write_text(
            "trial,neuron,time,go_time\n" + "".join(f"{a},{b},{c:.6f},{d}\n" for a, b, c, d in rows)
        )
    else:
        cells, start_s = np.empty((10, 2), object), np.arange(10) * 1.0
        offset_s = start_s if "clock" in kind else np.zeros(10)
        for place in np.ndindex(10, 2):
            cells[place] = times_s[place[1]][:, None] + offset_s[place[0]]
        beside = (
            {"start_time": start_s[:, None], "stop_time": start_s[:, None] + 1} if "clock" in kind else {}
        )
        scipy.io.savemat(
            path, {"spike_times": cells, "go_time": (go + offset_s)[:, None], **beside}, appendmat=False
        )
    options = {"bin_width_s": 0.1, "trials": {"align_to": "go_time", "window_s": [-0.5, 1.0]}}
    found = read_recording(path, ReadOptions(**options))
    assert found.trial_length_bins.tolist() == [13] * 5 + [9] * 5
    assert np.asarray(found.missing)[:, :, 0].sum(axis=1).tolist() == [3] * 5 + [0] * 5
    spikes = np.asarray(found.spikes).sum(axis=1)
    assert spikes.tolist() == [[100, 50]] * 5 + [[90, 45]] * 5
    assert "window_beyond_trials" in [one.code for one in found.warnings]
