"""Readings that would be wrong without a word: units beside counts, merged neurons, clocks of trials, overlaps that are none."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from worker.ingest.problems import RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording

ARRAYS = ("npz", "hdf5", "matlab")


def write(path: Path, layout: str, **arrays: Any) -> Path:
    if layout == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    elif layout == "hdf5":
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    elif layout == "matlab":
        with path.open("wb") as file:
            scipy.io.savemat(file, arrays)
    elif layout == "csv":
        pd.DataFrame(arrays).to_csv(path, index=False)
    else:
        pd.DataFrame(arrays).to_parquet(path)
    return path


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**options))


def codes(found: Recording) -> list[str]:
    return [one.code for one in found.warnings]


def by_trial(**more: Any) -> dict[str, Any]:
    """12 trials of 1 s, with 4 neurons that fire 5 times each in every trial."""
    times = np.tile(np.arange(20) * 0.05 + 0.01, 12)
    return {
        "spike_times": times,
        "trial": np.repeat(np.arange(12), 20),
        "neuron": np.tile(np.arange(20) % 4, 12),
        **more,
    }


@pytest.mark.parametrize("layout", ARRAYS)
@pytest.mark.parametrize(
    ("times", "options", "width_s"),
    [
        (np.arange(30.0), {"time_unit": "ms"}, 0.001),
        (np.arange(30), {"time_unit": "ms"}, 0.001),
        (np.arange(30.0) * 20, {"trial_time_unit": "ms"}, 0.02),
        (np.arange(30.0) * 0.02, {}, 0.02),
    ],
)
def test_the_times_of_bins_obey_the_unit(
    layout: str, times: Any, options: dict[str, Any], width_s: float, tmp_path: Path
) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (20, 30, 7)).astype(np.uint8)
    path = write(tmp_path / "f", layout, spikes=counts, time=times, go_time=np.arange(20) * 10.0 + 200)
    found = read(path, **options)
    assert found.bin_width_s == pytest.approx(width_s)
    go_s = (np.arange(20) * 10.0 + 200) * (1e-3 if options else 1)
    assert found.trial_metadata["go_time"] == pytest.approx(go_s.tolist())
    assert any("go_time" in note for note in found.notes) == bool(options)


@pytest.mark.parametrize("overlap", ["keep", "drop", "cut"])
@pytest.mark.parametrize("layout", ["npz", "csv"])
def test_windows_of_spikes_by_trial_share_nothing(layout: str, overlap: str, tmp_path: Path) -> None:
    go = np.full(12, 0.5)
    columns = by_trial(go=go) if layout == "npz" else by_trial(go=np.repeat(go, 20))
    path = write(tmp_path / "f", layout, **columns)
    found = read(path, trials={"align_to": "go", "window_s": [-5, 5], "overlap": overlap})
    assert np.asarray(found.spikes).sum(axis=(1, 2)).tolist() == [20] * 12
    assert "trials_overlap" not in codes(found)


def session(**more: Any) -> dict[str, Any]:
    """12 trials of 2 s, one every 10 s, with a burst of the only neuron at the go cue, 0.5 to 1.05 s after the start."""
    start_s = np.arange(12) * 10.0
    go_s = 0.5 + 0.05 * np.arange(12)
    times = np.sort(
        np.concatenate([start + go + np.arange(10) * 0.01 for start, go in zip(start_s, go_s, strict=True)])
    )
    return {
        "spike_times": times, "neuron": np.zeros(len(times), int), "trial_start": start_s, "trial_stop": start_s + 2,
        "go": go_s, **more,
    }  # fmt: skip


@pytest.mark.parametrize("layout", ARRAYS)
def test_a_column_that_counts_from_each_trials_start(layout: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f", layout, **session())
    trials = {"align_to": "go", "window_s": [0.0, 0.1]}
    found = read(path, trials=trials)
    assert np.asarray(found.spikes).sum(axis=(1, 2)).tolist() == [10] * 12
    warning = next(one for one in found.warnings if one.code == "align_to_clock_guessed")
    assert '"trial" (as it was read) or "session"' in warning.hint
    told = read(path, trials={**trials, "align_to_clock": "trial"})
    assert np.asarray(told.spikes).sum(axis=(1, 2)).tolist() == [10] * 12
    assert codes(told) == []
    other = read(path, trials={**trials, "align_to_clock": "session"})
    assert np.asarray(other.spikes).sum(axis=(1, 2)).tolist() != [10] * 12


@pytest.mark.parametrize("layout", ARRAYS)
def test_a_column_of_times_of_the_session(layout: str, tmp_path: Path) -> None:
    columns = session()
    path = write(tmp_path / "f", layout, **{**columns, "go": columns["go"] + columns["trial_start"]})
    found = read(path, trials={"align_to": "go", "window_s": [0.0, 0.1]})
    assert np.asarray(found.spikes).sum(axis=(1, 2)).tolist() == [10] * 12
    assert codes(found) == []


@pytest.mark.parametrize("layout", [*ARRAYS, "csv", "parquet"])
def test_units_that_are_numbered_within_electrodes(layout: str, tmp_path: Path) -> None:
    columns = by_trial()
    neuron = columns.pop("neuron")
    path = write(tmp_path / "f", layout, **columns, electrode=neuron % 2, unit=neuron // 2)
    found = read(path)
    assert found.spikes.shape[2] == 2
    warning = next(one for one in found.warnings if one.code == "neurons_merged")
    assert "several neurons became one" in warning.message
    assert "mapping.neuron" in warning.hint
    path = write(tmp_path / "g", layout, **columns, electrode=neuron // 2, unit=neuron)
    assert "neurons_merged" not in codes(read(path, mapping={"neuron": "unit"}))


@pytest.mark.parametrize("layout", ARRAYS)
def test_a_sampling_rate_that_is_not_the_files(layout: str, tmp_path: Path) -> None:
    columns = session()
    samples = {**columns, "spike_times": np.rint(columns["spike_times"] * 3e4).astype(int), "fs": 30000.0}
    path = write(tmp_path / "f", layout, **samples)
    units = {"spike_time_unit": "samples", "trial_time_unit": "s"}
    assert "sampling_rate_overridden" not in codes(read(path, **units))
    found = read(path, **units, sampling_rate_hz=20000)
    warning = next(one for one in found.warnings if one.code == "sampling_rate_overridden")
    assert "20000" in warning.message
    assert "30000" in warning.message


def test_a_rejection_brings_the_warnings_that_may_explain_it(tmp_path: Path) -> None:
    times = np.tile(np.arange(60) * 0.01, 20)
    path = write(tmp_path / "f", "npz", spike_times=times, neuron=np.tile(np.arange(60) % 4, 20))
    with pytest.raises(RejectedFile) as caught:
        read(path)
    found = [one.code for one in caught.value.problems]
    assert found[0] == "split_leaves_none"
    assert "times_go_back" in found


@pytest.mark.parametrize("layout", ARRAYS)
@pytest.mark.parametrize(
    ("name", "per_s", "options"),
    [
        ("spike_times_us", 1e6, {}),
        ("spike_times_samples", 3e4, {"sampling_rate_hz": 3e4}),
        ("spike_time", 1, {}),
    ],
)
def test_other_names_of_spike_times(
    layout: str, name: str, per_s: float, options: dict[str, Any], tmp_path: Path
) -> None:
    columns = by_trial()
    times_s = columns.pop("spike_times")
    found = read(write(tmp_path / "f", layout, **columns, **{name: times_s * per_s}), **options)
    assert found.spikes.shape == (12, 97, 4)
    assert int(np.asarray(found.spikes).sum()) == 240


@pytest.mark.parametrize("layout", ARRAYS)
@pytest.mark.parametrize("name", ["bin_width", "binWidth", "bin_size"])
@pytest.mark.parametrize(("value", "told"), [(0.02, "in s"), (20, "in ms")])
def test_a_bin_width_whose_name_has_no_unit(
    layout: str, name: str, value: float, told: str, tmp_path: Path
) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (20, 30, 7)).astype(np.uint8)
    found = read(write(tmp_path / "f", layout, spikes=counts, **{name: value}))
    assert found.bin_width_s == pytest.approx(0.02)
    assert any(f"`{name}`, {value:g}, was read as a bin width {told}" in note for note in found.notes)
