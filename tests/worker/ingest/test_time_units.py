"""Units of spike times and of the times of trials, and times that go back, in every format."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pynwb
import pytest

from tests.worker.ingest.acquisition_files import write_nex
from tests.worker.ingest.flat_files import ARRAYS, TABLES, codes, flat_spikes, read, write_flat
from tests.worker.ingest.matlab_files import save_v5, save_v73
from tests.worker.ingest.test_nwb import new_file, save
from tests.worker.ingest.test_phy import folder, pack
from worker.ingest import rows
from worker.ingest.problems import RejectedFile
from worker.ingest.time_units import is_time, unit_of

FLAT = (*ARRAYS, *TABLES)
TRIALS = 12
GO_MS = 21.0 + 4.5 * np.arange(TRIALS) + 0.25
"""No spike is on an edge of the windows around these times."""


@pytest.mark.parametrize(
    ("name", "unit", "of_times"),
    [
        ("time", None, True),
        ("timestamps", None, True),
        ("time_ms", "ms", True),
        ("Time (ms)", "ms", True),
        ("spike times [us]", "us", True),
        ("goCueMs", "ms", True),
        ("go_cue_s", "s", True),
        ("tms", "ms", True),
        ("spiketimesms", "ms", True),
        ("trials.go_time", None, True),
        ("group/stim_onset", None, True),
        ("time_of_go", None, True),
        ("gotime", None, True),
        ("spike_samples", "samples", False),
        ("condition", None, False),
        ("n_times", None, False),
        ("time_bin", None, False),
        ("times_rewarded", None, False),
        ("s", None, False),
    ],
)
def test_what_a_name_says(name: str, unit: str | None, of_times: bool) -> None:
    assert unit_of(name) == unit
    assert is_time(name) == of_times


def aligned(path: Path, **options: Any) -> np.ndarray:
    found = read(path, **options)
    assert "trials_overlap" not in codes(found)
    return np.asarray(found.spikes)[:, :, 0].sum(axis=1)


def since(go_s: np.ndarray, window_s: tuple[float, float]) -> np.ndarray:
    """Spikes of neuron 3 of each trial of `flat_spikes` in a window around a time of each trial."""
    counts = []
    for trial, zero_s in enumerate(go_s):
        times_s = 0.01 * np.arange(trial + 1) + 0.005 - zero_s
        counts.append(int(((times_s >= window_s[0]) & (times_s < window_s[1])).sum()))
    return np.array(counts)


@pytest.mark.parametrize("file_format", FLAT)
@pytest.mark.parametrize(
    ("name", "scale", "options"),
    [
        ("go", 1e-3, {}),
        ("go_ms", 1.0, {}),
        ("go_us", 1e3, {}),
        ("go", 1.0, {"trial_time_unit": "ms"}),
        ("go_time", 1e3, {"trial_time_unit": "us"}),
        ("go", 1.0, {"time_unit": "ms", "spike_time_unit": "s"}),
        ("go", 30.0, {"trial_time_unit": "samples", "sampling_rate_hz": 30_000}),
    ],
)
def test_trials_are_aligned_to_a_column_in_its_unit(
    file_format: str, name: str, scale: float, options: dict[str, Any], tmp_path: Path
) -> None:
    path = write_flat(file_format, tmp_path / "f", flat_spikes(range(TRIALS)), {name: GO_MS * scale})
    trials = {"align_to": name, "window_s": [-0.02, 0.03]}
    found = aligned(path, trials=trials, **options)
    np.testing.assert_array_equal(found, since(GO_MS / 1000, (-0.02, 0.03)))


@pytest.mark.parametrize("file_format", FLAT)
def test_one_unit_for_all_times(file_format: str, tmp_path: Path) -> None:
    spikes = flat_spikes(range(TRIALS), step_s=10.0)
    of_trials = {"go_time": GO_MS, "rt_ms": GO_MS + 200.5, "n_times": np.arange(TRIALS) + 3}
    path = write_flat(file_format, tmp_path / "f", spikes, of_trials)
    trials = {"align_to": "go_time", "window_s": [-0.02, 0.03]}
    found = read(path, time_unit="ms", trials=trials)
    counts = np.asarray(found.spikes)[:, :, 0].sum(axis=1)
    np.testing.assert_array_equal(counts, since(GO_MS / 1000, (-0.02, 0.03)))
    np.testing.assert_allclose(found.trial_metadata["go_time"], GO_MS / 1000)
    np.testing.assert_allclose(found.trial_metadata["rt_ms"], GO_MS + 200.5)
    assert found.trial_metadata["n_times"] == [number + 3 for number in range(TRIALS)]
    (note,) = [note for note in found.notes if "converted from ms" in note]
    assert "go_time" in note
    assert "rt_ms" not in note


@pytest.mark.parametrize("file_format", FLAT)
def test_whole_numbers_without_a_unit_are_asked_about(file_format: str, tmp_path: Path) -> None:
    path = write_flat(file_format, tmp_path / "f", flat_spikes(range(TRIALS)), {"go": GO_MS * 100})
    trials = {"align_to": "go", "window_s": [-0.5, 0.5]}
    with pytest.raises(RejectedFile, match="time_unit_unclear"):
        read(path, trials=trials)
    words = {"go": np.array(["a"] * TRIALS)}
    path = write_flat(file_format, tmp_path / "f", flat_spikes(range(TRIALS)), words)
    with pytest.raises(RejectedFile, match="align_to_not_times"):
        read(path, trials=trials)


@pytest.mark.parametrize("file_format", FLAT)
def test_a_column_in_ms_that_is_read_as_seconds_is_refused(file_format: str, tmp_path: Path) -> None:
    path = write_flat(file_format, tmp_path / "f", flat_spikes(range(TRIALS)), {"go": GO_MS + 0.5})
    with pytest.raises(RejectedFile) as caught:
        read(path, trials={"align_to": "go", "window_s": [-0.02, 0.03]})
    problem, *_ = caught.value.problems
    assert problem.code == "trials_outside_spikes"
    assert 'trial_time_unit: "ms"' in problem.hint


START_S = 2.5 * np.arange(39)
"""39 trials of 2 s, and spikes of 3 neurons at 10 Hz over 100 s."""
SPIKES_S = np.arange(0.05, 100, 0.1)

Write = Callable[[Path, float, float], Path]


def in_nwb(path: Path, spike_scale: float, trial_scale: float) -> Path:
    file: pynwb.NWBFile = new_file()
    for _ in range(3):
        file.add_unit(spike_times=SPIKES_S * spike_scale)
    for start_s in START_S:
        file.add_trial(start_time=start_s * trial_scale, stop_time=(start_s + 2) * trial_scale)
    return save(file, path.with_suffix(".nwb"))


def in_arrays(file_format: str) -> Write:
    def write(path: Path, spike_scale: float, trial_scale: float) -> Path:
        spikes = {
            "spike_times": np.tile(SPIKES_S, 3) * spike_scale,
            "neuron": np.repeat([1, 2, 3], len(SPIKES_S)),
        }
        trials = {"trial_start": START_S * trial_scale, "trial_stop": (START_S + 2) * trial_scale}
        return write_flat(file_format, path, spikes, trials)

    return write


def in_cells(path: Path, spike_scale: float, trial_scale: float) -> Path:
    cells = np.empty((3, 1), object)
    for unit in range(3):
        cells[unit, 0] = SPIKES_S * spike_scale
    trials = {"start": START_S * trial_scale, "stop": (START_S + 2) * trial_scale}
    return save_v73(path, {"spikes": cells, "trials": trials})


def in_phy(path: Path, spike_scale: float, trial_scale: float) -> Path:
    samples = np.repeat(np.round(SPIKES_S * 1000 * spike_scale), 3).astype(np.uint64)
    clusters = np.tile(np.array([2, 7, 9], np.int32), len(SPIKES_S))
    text = "start,stop\n" + "".join(f"{s * trial_scale},{(s + 2) * trial_scale}\n" for s in START_S)
    changes = {"params__py": "sample_rate = 1000.\n", "trials__csv": text}
    return pack(path, folder(spike_times__npy=samples, spike_clusters__npy=clusters, **changes))


WITH_TRIALS: dict[str, Write] = {
    "nwb": in_nwb,
    **{name: in_arrays(name) for name in ARRAYS},
    "matlab_cells": in_cells,
    "phy": in_phy,
}


def rates_hz(path: Path, **options: Any) -> np.ndarray:
    counts = np.asarray(read(path, **options).spikes)
    assert counts.shape == (39, 200, 3)
    return counts.sum(axis=1) / 2


@pytest.mark.parametrize("where", WITH_TRIALS)
class TestSpikesAndTrials:
    def test_in_one_unit(self, where: str, tmp_path: Path) -> None:
        path = WITH_TRIALS[where](tmp_path / "f", 1, 1)
        np.testing.assert_array_equal(rates_hz(path), 10)
        assert not {"time_units_disagree", "times_go_back"} & set(codes(read(path)))

    def test_spikes_in_ms_beside_trials_in_s(self, where: str, tmp_path: Path) -> None:
        path = WITH_TRIALS[where](tmp_path / "f", 1000.0001, 1)
        (warning,) = [one for one in read(path).warnings if one.code == "time_units_disagree"]
        assert 'spike_time_unit: "ms"' in warning.hint
        unit: dict[str, Any] = {"spike_time_unit": "ms"}
        if where == "phy":
            unit = {"spike_time_unit": "samples", "sampling_rate_hz": 1e6}
        np.testing.assert_array_equal(rates_hz(path, **unit), 10)

    def test_trials_in_ms_beside_spikes_in_s(self, where: str, tmp_path: Path) -> None:
        path = WITH_TRIALS[where](tmp_path / "f", 1, 1000.0)
        (warning,) = [
            one for one in read(path, bin_width_s=1.0).warnings if one.code == "time_units_disagree"
        ]
        assert 'trial_time_unit: "ms"' in warning.hint
        np.testing.assert_array_equal(rates_hz(path, trial_time_unit="ms"), 10)

    def test_no_trial_has_a_spike(self, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.worker.ingest.test_time_units.START_S", START_S + 5000)
        with pytest.raises(RejectedFile, match="trials_outside_spikes"):
            read(WITH_TRIALS[where](tmp_path / "f", 1, 1))


def in_columns(file_format: str) -> Callable[[Path, list[np.ndarray]], Path]:
    """Neurons one after another, in arrays or rows."""

    def write(path: Path, times_s: list[np.ndarray]) -> Path:
        neurons = np.repeat(np.arange(len(times_s)), [len(times) for times in times_s])
        return write_flat(file_format, path, {"spike_times": np.concatenate(times_s), "neuron": neurons}, {})

    return write


def cells_of_neurons(path: Path, times_s: list[np.ndarray]) -> Path:
    cells = np.empty((len(times_s), 1), object)
    cells[:, 0] = times_s
    return save_v5(path, {"spikes": cells})


def units_of_nwb(path: Path, times_s: list[np.ndarray]) -> Path:
    file: pynwb.NWBFile = new_file()
    for times in times_s:
        file.add_unit(spike_times=times)
    return save(file, path.with_suffix(".nwb"))


def clusters_of_phy(path: Path, times_s: list[np.ndarray]) -> Path:
    samples = np.round(np.concatenate(times_s) * 30_000).astype(np.uint64)
    clusters = np.repeat(np.arange(len(times_s), dtype=np.int32), [len(times) for times in times_s])
    files = folder(spike_times__npy=samples, spike_clusters__npy=clusters, trials__csv=None)
    return pack(path, files | {"cluster_group.tsv": "cluster_id\tgroup\n0\tgood\n"})


def units_of_neo(path: Path, times_s: list[np.ndarray]) -> Path:
    return write_nex(path, {f"unit{number}": times.tolist() for number, times in enumerate(times_s)})


CONTINUOUS: dict[str, Callable[[Path, list[np.ndarray]], Path]] = {
    **{name: in_columns(name) for name in FLAT},
    "matlab_cells": cells_of_neurons,
    "nwb": units_of_nwb,
    "phy": clusters_of_phy,
    "neo": units_of_neo,
}
RANDOM = np.random.default_rng(0)
RISING = [np.sort(RANDOM.uniform(0, 60, 300)) for _ in range(3)]
AGAIN = [np.concatenate([times, np.sort(RANDOM.uniform(0, 60, 200))]) for times in RISING]


@pytest.mark.parametrize("small_blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("where", CONTINUOUS)
class TestTimesThatGoBack:
    def test_a_clock_that_starts_again(
        self, where: str, small_blocks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if small_blocks:
            monkeypatch.setattr(rows, "BLOCK_BYTES", 1000)
            monkeypatch.setattr("worker.ingest.readers.tables.csv_table._BLOCK_BYTES", 1000)
            monkeypatch.setattr("worker.ingest.readers.tables.parquet_table._MOST_ROWS", 50)
        found = read(CONTINUOUS[where](tmp_path / "f", AGAIN))
        (warning,) = [one for one in found.warnings if one.code == "times_go_back"]
        assert "3 times, in 3 of 3 neurons" in warning.message
        largest_s = max(first[-1] - again[300] for first, again in zip(RISING, AGAIN, strict=True))
        said = re.search(r"by ([\d.]+) s at most", warning.message)
        assert said is not None
        assert float(said[1]) == pytest.approx(largest_s, rel=1e-3)

    def test_neurons_one_after_another_are_no_such_clock(
        self, where: str, small_blocks: bool, tmp_path: Path
    ) -> None:
        found = read(CONTINUOUS[where](tmp_path / "f", RISING))
        assert "times_go_back" not in codes(found)
        assert not any("go back" in note for note in found.notes)

    def test_no_order_is_noted_and_sorted(self, where: str, small_blocks: bool, tmp_path: Path) -> None:
        shuffled = [np.random.default_rng(1).permutation(times) for times in RISING]
        found = read(CONTINUOUS[where](tmp_path / "f", shuffled))
        assert "times_go_back" not in codes(found)
        assert any("were sorted" in note for note in found.notes)
        ordered = read(CONTINUOUS[where](tmp_path / "g", RISING))
        np.testing.assert_array_equal(np.asarray(found.spikes), np.asarray(ordered.spikes))


def test_times_that_begin_anew_in_each_trial_are_no_such_clock(tmp_path: Path) -> None:
    found = read(write_flat("npz", tmp_path / "f", flat_spikes(range(TRIALS)), {}))
    assert codes(found) == []
    spikes = flat_spikes(range(TRIALS))
    del spikes["trial"]
    found = read(write_flat("npz", tmp_path / "f", spikes, {}), chop={"window_s": 0.05, "overlap_s": 0})
    (warning,) = [one for one in found.warnings if one.code == "times_go_back"]
    assert "mapping.trial" in warning.hint
