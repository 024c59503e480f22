"""NPZ files as pynapple and SpikeInterface save them: their arrays, written here with numpy alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording

TIMES = np.array([0.005, 0.015, 0.015, 0.025, 1.005, 1.035])
INDEX = np.array([3, 7, 9, 3, 7, 7])


def saved(path: Path, **arrays: Any) -> Path:
    with (path / "file.npz").open("wb") as file:
        np.savez(file, **arrays)
    return path / "file.npz"


def group(path: Path, **changes: Any) -> Path:
    """The arrays of `TsGroup.save`; unit 11 has no spike."""
    arrays: dict[str, Any] = {
        "type": np.array(["TsGroup"]), "t": TIMES, "index": INDEX, "keys": np.array([3, 7, 9, 11]),
        "start": np.array([0.0, 1.0]), "end": np.array([0.03, 1.04]),
        "_metadata": np.array({"region": ["a"]}, dtype=object),
    }  # fmt: skip
    return saved(path, **{name: value for name, value in (arrays | changes).items() if value is not None})


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**options))


def warnings_of(recording: Recording) -> dict[str, Problem]:
    return {one.code: one for one in recording.warnings}


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0]


def test_a_group_of_pynapple_with_two_stretches(tmp_path: Path) -> None:
    recording = read(group(tmp_path, region=np.array(["x", "y", "z", "w"])))
    assert recording.neuron_metadata == {"neuron_id": [3, 7, 9, 11], "region": ["x", "y", "z", "w"]}
    assert recording.trial_length_bins.tolist() == [3, 4]
    expected = np.zeros((2, 4, 4), int)
    expected[0, 0, 0] = expected[0, 1, 1] = expected[0, 1, 2] = expected[0, 2, 0] = 1
    expected[1, 0, 1] = expected[1, 3, 1] = 1
    np.testing.assert_array_equal(recording.spikes, expected)
    found = warnings_of(recording)
    assert set(found) == {"time_support_as_trials", "array_left_out"}
    assert "2 intervals" in found["time_support_as_trials"].message
    assert "pickles are never opened" in found["array_left_out"].message


def test_a_group_of_pynapple_with_one_stretch_is_continuous(tmp_path: Path) -> None:
    path = group(tmp_path, start=np.array([0.0]), end=np.array([2.0]), _metadata=None)
    recording = read(path, chop={"window_s": 0.2, "overlap_s": 0})
    assert recording.windows is not None
    assert int(recording.spikes[:].sum()) == 6
    assert "time_support_as_trials" not in warnings_of(recording)


def test_times_of_pynapple_that_are_whole_numbers_are_seconds(tmp_path: Path) -> None:
    path = group(tmp_path, t=np.array([0, 1, 2, 5, 10, 12]), start=np.array([0, 10]), end=np.array([6, 13]))
    assert read(path, bin_width_s=1.0).trial_length_bins.tolist() == [6, 3]


def test_ts_of_pynapple_is_one_neuron(tmp_path: Path) -> None:
    path = saved(
        tmp_path, type=np.array(["Ts"]), t=np.arange(100) / 10, start=np.array([0.0]), end=np.array([9.9])
    )
    recording = read(path)
    assert recording.spikes.shape[2] == 1
    assert recording.neuron_metadata["neuron_id"] == [0]


@pytest.mark.parametrize("kind", ["IntervalSet", "Tsd", "TsdTensor"])
def test_other_objects_of_pynapple_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    problem = rejected(
        saved(tmp_path, type=np.array([kind]), start=np.array([0.0]), end=np.array([1.0]), t=TIMES, d=TIMES)
    )
    assert problem.code == "spikes_missing"
    assert f"pynapple {kind}" in problem.message
    assert "TsGroup" in problem.hint


def frame(path: Path, counts: np.ndarray, times: np.ndarray, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "type": np.array(["TsdFrame"]), "t": times, "d": counts, "start": np.array([0.0]), "end": np.array([100.0]),
        "columns": np.array(["u3", "u7", "u9"]), "_metadata": np.array({}, dtype=object),
    }  # fmt: skip
    return saved(path, **(arrays | changes))


def test_counts_of_pynapple_are_a_continuous_recording(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (300, 3))
    recording = read(
        frame(tmp_path, counts, 0.01 + 0.02 * np.arange(300)), chop={"window_s": 1.0, "overlap_s": 0}
    )
    np.testing.assert_array_equal(recording.spikes, counts.reshape(6, 50, 3))
    assert recording.bin_width_s == pytest.approx(0.02)
    assert recording.neuron_metadata["neuron_id"] == ["u3", "u7", "u9"]
    assert recording.trial_start_s is not None
    np.testing.assert_allclose(recording.trial_start_s, np.arange(6), atol=1e-9)


def test_counts_of_pynapple_with_two_stretches_are_two_trials(tmp_path: Path) -> None:
    counts = np.arange(21).reshape(7, 3)
    times = np.concatenate([0.05 + 0.1 * np.arange(3), 5.05 + 0.1 * np.arange(4)])
    recording = read(frame(tmp_path, counts, times, start=np.array([0.0, 5.0]), end=np.array([0.3, 5.4])))
    assert recording.trial_length_bins.tolist() == [3, 4]
    np.testing.assert_array_equal(recording.spikes[0, :3], counts[:3])
    np.testing.assert_array_equal(recording.spikes[1], counts[3:])
    assert not recording.spikes[0, 3].any()
    assert recording.trial_start_s is not None
    np.testing.assert_allclose(recording.trial_start_s, [0, 5], atol=1e-9)


def test_frames_of_pynapple_that_are_no_counts(tmp_path: Path) -> None:
    times = 0.1 * np.arange(30)
    assert rejected(frame(tmp_path, np.full((30, 3), 0.5), times)).code == "counts_not_whole"
    uneven = np.where(np.arange(30) == 7, 0.75, times)
    uneven[8:] += 0.4
    assert rejected(frame(tmp_path, np.ones((30, 3)), uneven), bin_width_s=0.1).code == "bins_uneven"


def sorting(path: Path, segments: int = 1, **changes: Any) -> Path:
    """The arrays of SpikeInterface's `NpzSortingExtractor.write_sorting`."""
    arrays: dict[str, Any] = {
        "unit_ids": np.array([2, 5, 8]),
        "num_segment": np.array([segments]),
        "sampling_frequency": np.array([10_000.0]),
    }
    for segment in range(segments):
        arrays[f"spike_indexes_seg{segment}"] = np.arange(0, 100_000, 500) + 50 + segment
        arrays[f"spike_labels_seg{segment}"] = np.where(np.arange(200) % 2, 5, 2)
    return saved(path, **(arrays | changes))


def test_a_sorting_of_spikeinterface(tmp_path: Path) -> None:
    recording = read(
        sorting(tmp_path, quality=np.array(["good", "mua", "good"])), chop={"window_s": 1.0, "overlap_s": 0}
    )
    assert recording.neuron_metadata == {"neuron_id": [2, 5, 8], "quality": ["good", "mua", "good"]}
    assert recording.spikes[:].sum(axis=(0, 1)).tolist() == [100, 100, 0]
    assert recording.spikes[0, :, 0].nonzero()[0].tolist() == list(range(0, 100, 10))
    assert warnings_of(recording).keys() <= {"segment_chosen"}
    assert "segment_chosen" not in warnings_of(recording)


def test_segments_of_a_sorting_are_chosen_and_told(tmp_path: Path) -> None:
    longer = {"spike_indexes_seg1": np.arange(400) * 500 + 50, "spike_labels_seg1": np.full(400, 8)}
    path = sorting(tmp_path, 2, **longer)
    first = read(path)
    warning = warnings_of(first)["segment_chosen"]
    assert "2 segments" in warning.message
    assert "spike_indexes_seg0" in warning.message
    assert "spike_indexes_seg1" in warning.hint
    second = read(path, mapping={"spike_times": "spike_indexes_seg1"}, chop={"window_s": 1.0, "overlap_s": 0})
    assert second.spikes[:].sum(axis=(0, 1)).tolist()[:2] == [0, 0]
    assert second.spikes[0, :, 2].sum() == 20
    assert rejected(path, mapping={"spike_times": "spike_indexes_seg7"}).code == "variable_unknown"


def test_a_sorting_whose_arrays_do_not_fit(tmp_path: Path) -> None:
    assert rejected(sorting(tmp_path, spike_labels_seg0=np.zeros(3))).code == "neuron_of_spikes_missing"
    assert rejected(group(tmp_path, index=np.zeros(3))).code == "array_wrong_shape"


def test_arrays_that_only_look_like_a_layout_are_read_as_arrays(tmp_path: Path) -> None:
    spikes = np.random.default_rng(0).poisson(1.0, (6, 5, 3))
    path = saved(
        tmp_path,
        spikes=spikes,
        bin_width_s=0.01,
        type=np.array(["a"] * 6),
        start=np.arange(6),
        end=np.arange(6),
    )
    recording = read(path)
    np.testing.assert_array_equal(recording.spikes, spikes)
    assert recording.trial_metadata["type"] == ["a"] * 6
