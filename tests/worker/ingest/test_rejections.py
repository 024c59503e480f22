"""Each reason to reject a file, or to warn, with a message that says what to do."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.worker.ingest.ingest_examples import example_recording, write_npz
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.quality_control.checks import Report, examine
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        examine(read_recording(path, ReadOptions(**options)))
    for problem in caught.value.problems:
        assert problem.hint
    return caught.value.problems[0]


def report_of(path: Path) -> Report:
    return examine(read_recording(path, ReadOptions()))


def warnings_of(path: Path) -> dict[str, str]:
    return {warning.code: warning.message for warning in report_of(path).warnings}


def plain(tmp_path: Path, **changes: Any) -> Path:
    """An unremarkable file: full trials, no split, no rates."""
    recording = example_recording()
    recording.true_rates_hz = recording.external_inputs = None
    recording.trial_metadata, recording.behaviour = {}, {}
    spikes = np.random.default_rng(1).poisson(0.6, (12, 20, 7)) * np.array([1, 1, 2, 3, 4, 5, 9])
    arrays = {"spikes": spikes, "trial_length_bins": None, "split": None} | changes
    return write_npz(tmp_path / "plain.npz", recording, **arrays)


def counts(tmp_path: Path) -> np.ndarray:
    with np.load(plain(tmp_path)) as arrays:
        return arrays["spikes"].astype(float)


def test_an_unremarkable_file_has_no_warnings(tmp_path: Path) -> None:
    report = report_of(plain(tmp_path))
    assert report.warnings == []
    assert report.shape == {"trials": 12, "bins": 20, "neurons": 7}
    assert report.duration_s == pytest.approx(12 * 20 * 0.05)
    assert report.mean_rate_hz == pytest.approx(counts(tmp_path).mean() / 0.05, rel=1e-3)
    assert report.rate_quartiles_hz[0] <= report.rate_quartiles_hz[2] <= report.rate_quartiles_hz[4]
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["total_spikes"] == counts(tmp_path).sum()


def test_the_report_of_ragged_trials_counts_recorded_time(tmp_path: Path) -> None:
    recording = example_recording()
    report = report_of(write_npz(tmp_path / "f.npz", recording))
    assert report.trial_length_bins["ragged"]
    assert report.trial_length_bins["min"] == recording.trial_length_bins.min()
    assert report.duration_s == pytest.approx(recording.trial_length_bins.sum() * 0.05)
    assert report.split == {"train": 8, "valid": 2, "not_given": 2, "gap": 0}
    assert report.external_inputs == 1
    assert report.has_true_rates
    assert report.behaviour["position"] == [12, 20, 2]


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        (
            np.nan,
            "counts_not_finite",
            "1 spike counts are NaN or infinite, the first at trial 3, bin 4, neuron 5",
        ),
        (np.inf, "counts_not_finite", "trial 3, bin 4, neuron 5 of `spikes`"),
        (-1, "counts_negative", "the first at trial 3, bin 4, neuron 5 of `spikes` (counted from 0): -1"),
        (0.5, "counts_not_whole", "1 spike counts are not whole numbers"),
        (65536, "counts_too_large", "above 65535"),
    ],
)
def test_counts_that_are_none(value: float, code: str, said: str, tmp_path: Path) -> None:
    spikes = counts(tmp_path)
    spikes[3, 4, 5] = value
    problem = rejected(plain(tmp_path, spikes=spikes))
    assert (problem.code, problem.pointer) == (code, "/spikes")
    assert said in problem.message


def test_rates_instead_of_counts(tmp_path: Path) -> None:
    problem = rejected(plain(tmp_path, spikes=counts(tmp_path) / 0.05 + 0.1))
    assert problem.code == "counts_not_whole"
    assert "look like rates in Hz, or smoothed" in problem.hint


def test_every_kind_of_fault_is_told_at_once(tmp_path: Path) -> None:
    spikes = counts(tmp_path)
    spikes[0, 0, 0], spikes[5, 0, 0], spikes[6, 0, 0] = np.nan, -2, 0.25
    with pytest.raises(RejectedFile) as caught:
        read_recording(plain(tmp_path, spikes=spikes), ReadOptions())
    codes = {problem.code for problem in caught.value.problems}
    assert codes == {"counts_not_finite", "counts_negative", "counts_not_whole"}


def test_a_bin_width_in_milliseconds(tmp_path: Path) -> None:
    problem = rejected(plain(tmp_path), bin_width_s=20)
    assert problem.message == "bin_width_s is 20: did you mean 0.020 s?"
    assert problem.pointer == "/bin_width_s"


@pytest.mark.parametrize("width_s", [0.0, -0.01, float("nan"), float("inf")])
def test_a_bin_width_that_is_none(width_s: float, tmp_path: Path) -> None:
    assert rejected(plain(tmp_path, bin_width_s=width_s)).code == "bin_width_invalid"


def test_an_odd_bin_width_is_a_warning(tmp_path: Path) -> None:
    assert warnings_of(plain(tmp_path, bin_width_s=2.0))["bin_width_large"].endswith("did you mean 0.002 s?")
    assert {"bin_width_small", "mean_rate_implausible"} <= set(warnings_of(plain(tmp_path, bin_width_s=5e-5)))


def test_two_bin_widths(tmp_path: Path) -> None:
    assert rejected(plain(tmp_path, dt=0.01)).code == "bin_width_contradictory"


@pytest.mark.parametrize("shape", [(1, 5, 3), (5, 1, 3), (5, 5, 0), (0, 5, 3)])
def test_too_little(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert rejected(plain(tmp_path, spikes=np.ones(shape, np.uint8))).code == "recording_too_small"


def test_no_spikes_at_all(tmp_path: Path) -> None:
    assert rejected(plain(tmp_path, spikes=np.zeros((3, 4, 5)))).code == "no_spikes"


@pytest.mark.parametrize("shape", [(300,), (3, 4, 5, 6)])
def test_one_axis_or_four(shape: tuple[int, ...], tmp_path: Path) -> None:
    problem = rejected(plain(tmp_path, spikes=np.zeros(shape)))
    assert problem.code == "spikes_wrong_axes"
    assert str(shape) in problem.message
    assert "neurons last" in problem.hint


def test_text_for_spikes(tmp_path: Path) -> None:
    assert rejected(plain(tmp_path, spikes=np.full((3, 4, 5), "x"))).code == "spikes_not_numbers"


def test_spikes_under_another_name(tmp_path: Path) -> None:
    problem = rejected(plain(tmp_path, spikes=None, smoothed=np.full((3, 4, 5), 0.5)))
    assert problem.code == "spikes_missing"
    assert "smoothed (3, 4, 5)" in problem.message
    assert "Is it smoothed?" in problem.hint


def test_spikes_after_the_end(tmp_path: Path) -> None:
    spikes = np.ones((4, 5, 2), int)
    spikes[[0, 2], 3:] = 0
    problem = rejected(plain(tmp_path, spikes=spikes, trial_length_bins=[3, 4, 3, 5]))
    assert problem.code == "spikes_past_trial_end"
    assert problem.message.endswith("trials 1.")


@pytest.mark.parametrize("lengths", [[0, 5, 5, 5], [5, 5, 6, 5], [5, 5, 2.5, 5], [5, 5, np.nan, 5]])
def test_lengths_that_are_none(lengths: list[float], tmp_path: Path) -> None:
    problem = rejected(plain(tmp_path, spikes=np.ones((4, 5, 2)), trial_length_bins=lengths))
    assert problem.code == "trial_length_invalid"


def test_lengths_of_another_axis(tmp_path: Path) -> None:
    path = plain(tmp_path, trial_length_bins=np.full(7, 20))
    found = read_recording(path, ReadOptions())
    assert found.spikes.shape == (7, 20, 12)  # the lengths say which axis is that of trials
    problem = rejected(path, mapping={"axes": ["trial", "bin", "neuron"]})
    assert problem.code == "array_wrong_shape"
    assert 'give mapping.axes: ["neuron", "bin", "trial"]' in problem.hint


def test_a_split_that_is_none(tmp_path: Path) -> None:
    problem = rejected(plain(tmp_path, split=["train"] * 11 + ["held"]))
    assert problem.code == "split_not_understood"
    assert "'held' at trial 11" in problem.message
    assert rejected(plain(tmp_path, split=[7] * 12)).code == "split_not_understood"
    assert rejected(plain(tmp_path, split=[1j] * 12)).code == "split_not_understood"
    assert rejected(plain(tmp_path, split=["valid"] * 12)).code == "split_without_training"


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_true_rates_that_are_none(value: float, tmp_path: Path) -> None:
    rates = counts(tmp_path) / 0.05
    rates[0, 0, 0] = value
    assert rejected(plain(tmp_path, true_rates_hz=rates)).code == "true_rates_invalid"
    assert rejected(plain(tmp_path, true_rates_hz=rates[:, :-1])).code == "array_wrong_shape"


def test_gaps_in_inputs_and_behaviour(tmp_path: Path) -> None:
    signal = np.zeros((12, 20, 2))
    signal[4, 3:6, 1] = np.nan
    assert rejected(plain(tmp_path, external_inputs=signal)).code == "external_inputs_not_finite"
    assert "in 3 bins" in warnings_of(plain(tmp_path, hand=signal))["behaviour_has_gaps"]


def test_silent_empty_and_duplicate(tmp_path: Path) -> None:
    spikes = counts(tmp_path)
    spikes[:, :, 2] = spikes[:, :, 5] = 0
    spikes[7] = 0
    spikes[:, :, 6] = spikes[:, :, 1]
    report = report_of(plain(tmp_path, spikes=spikes))
    assert report.silent_neurons == [2, 5]
    assert report.empty_trials == [7]
    assert report.duplicate_neurons == [[1, 6]]
    assert {"silent_neurons", "empty_trials", "duplicate_neurons"} <= {w.code for w in report.warnings}


def test_transposed_axes(tmp_path: Path) -> None:
    spikes = np.random.default_rng(0).poisson([[[0.1, 0.2, 2, 5, 0.4]]], (40, 30, 5))
    assert "axes_maybe_swapped" not in warnings_of(plain(tmp_path, spikes=spikes))
    bins_last = warnings_of(plain(tmp_path, spikes=spikes.transpose(0, 2, 1)))["axes_maybe_swapped"]
    assert "more across bins than across neurons" in bins_last
    trials_last = warnings_of(plain(tmp_path, spikes=spikes.transpose(2, 1, 0)))["axes_maybe_swapped"]
    assert "more across trials than across neurons" in trials_last


def test_an_implausible_rate(tmp_path: Path) -> None:
    assert "implausibly high" in warnings_of(plain(tmp_path, bin_width_s=0.001))["mean_rate_implausible"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"trial,spikes\n", "text, but no table"),
        (b"Monday: two hours.\nNo spikes.\n", "its first line is 'Monday: two hours.'"),
        (b"day,note\nMonday,long\n", "text with the columns day, note, but no rows of numbers"),
        (b"\x01\x02\x03", "unknown"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x93NUMPY\x01\x00", "a single numpy array"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
    ],
)
def test_other_formats_are_named(content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    problem = rejected(tmp_path / "file")
    assert problem.code == "format_not_recognised"
    assert found in problem.message


def test_a_format_that_is_asked_for(tmp_path: Path) -> None:
    assert rejected(plain(tmp_path), format="nwb").code == "format_not_recognised"
    assert "not lfads_hdf5" in rejected(plain(tmp_path), format="lfads_hdf5").message


def problems_of(path: Path, **options: Any) -> dict[str, str]:
    with pytest.raises(RejectedFile) as rejection:
        read_recording(path, ReadOptions(**options))
    return {problem.code: problem.message for problem in rejection.value.problems}


TRIALS_OF_TABLE = "trial,split,neuron_0,neuron_1,neuron_2\n" + "".join(
    f"{trial},{'train' if trial else 'held'},1,0,2\n" for trial in range(6)
)


def test_a_table_without_bins_and_without_a_bin_width_says_both(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TRIALS_OF_TABLE)
    assert set(problems_of(path)) == {"table_not_binned", "bin_width_missing"}
    assert set(problems_of(path, bin_width_s=0.01)) == {"table_not_binned"}
    path.write_text("trial,neuron,count\n" + "0,1,2\n1,1,3\n" * 3)
    assert set(problems_of(path)) == {"table_not_binned", "bin_width_missing"}


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_errors_of_one_table_come_together(format: str, tmp_path: Path) -> None:
    """Counts of two columns, the split, and the bin width are each wrong."""
    rows = [
        {
            "trial": trial,
            "bin": place,
            "split": "held" if trial == 2 else "train",
            "neuron_0": -1,
            "neuron_1": 0.5,
        }
        for trial in range(4)
        for place in range(5)
    ]
    path = tmp_path / f"table.{format}"
    table = pa.Table.from_pylist(rows)
    pyarrow.csv.write_csv(table, path) if format == "csv" else pyarrow.parquet.write_table(table, path)
    found = problems_of(path)
    assert set(found) == {"counts_negative", "counts_not_whole", "split_not_understood", "bin_width_missing"}
    assert "'held' at trial 2" in found["split_not_understood"]


def test_columns_of_the_mapping_that_are_not_there_come_together(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TRIALS_OF_TABLE)
    with pytest.raises(RejectedFile) as rejection:
        read_recording(
            path, ReadOptions(mapping={"trial": "a", "bin": "b", "behaviour": ["c"], "bin_width": "d"})
        )  # type: ignore[arg-type]
    pointers = [problem.pointer for problem in rejection.value.problems]
    assert pointers == ["/mapping/trial", "/mapping/bin", "/mapping/behaviour", "/mapping/bin_width"]


@pytest.mark.parametrize("format", ["npz", "hdf5"])
def test_errors_of_one_file_of_arrays_come_together(format: str, tmp_path: Path) -> None:
    spikes = np.ones((6, 5, 3))
    spikes[2, 1, 0], spikes[3, 0, 0] = -1, 0.5
    arrays = {"spikes": spikes, "trial_length_bins": np.full(6, 9), "split": np.array([b"held"] * 6)}
    path = tmp_path / "file"
    if format == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    else:
        with h5py.File(path, "w") as hdf5:
            for name, array in arrays.items():
                hdf5[name] = array
    expected = {
        "counts_negative",
        "counts_not_whole",
        "trial_length_invalid",
        "split_not_understood",
        "bin_width_missing",
    }
    assert set(problems_of(path)) == expected
    assert set(problems_of(path, bin_width_s=0.01)) == expected - {"bin_width_missing"}


def test_wrong_lengths_and_a_missing_bin_width_come_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", spikes=np.ones((6, 5, 3)), split=np.zeros(7))
    assert set(problems_of(tmp_path / "a.npz")) == {"array_wrong_shape", "bin_width_missing"}


def test_a_bin_width_that_true_rates_would_tell_is_not_missing(tmp_path: Path) -> None:
    spikes = counts(tmp_path).astype(float)
    rates = spikes.mean() / 0.01 * np.ones_like(spikes)
    spikes[0, 0, 0] = -1
    np.savez(tmp_path / "a.npz", spikes=spikes, true_rates=rates)
    assert set(problems_of(tmp_path / "a.npz")) == {"counts_negative"}


def test_options_that_do_not_fit_come_together(tmp_path: Path) -> None:
    options = {
        "rebin_s": 0.12, "chop": {"window_s": 0.01, "overlap_s": 0},
        "trials": {"where": {"a": 1, "b": 2}}, "neurons": {"where": {"c": 3}},
        "split": {"kind": "condition", "condition": "d"},
    }  # fmt: skip
    with pytest.raises(RejectedFile) as rejection:
        read_recording(plain(tmp_path), ReadOptions(**options))  # type: ignore[arg-type]
    assert [(problem.code, problem.pointer) for problem in rejection.value.problems] == [
        ("metadata_unknown", "/trials/where/a"), ("metadata_unknown", "/trials/where/b"),
        ("rebin_not_a_multiple", "/rebin_s"), ("metadata_unknown", "/neurons/where/c"),
        ("metadata_unknown", "/split/condition"), ("window_too_short", "/chop/window_s"),
    ]  # fmt: skip
