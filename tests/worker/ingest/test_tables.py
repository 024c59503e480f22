"""Tables as CSV and Parquet."""

import contextlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worker.ingest.ingest_examples import ExampleFile
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions, read_file
from worker.ingest.recording import Recording
from worker.ingest.sandbox import ParsedFile, parse_in_sandbox
from worker.ingest.spike_trains import SpikeTrains

WIDTH_S = 0.02
COUNTS = np.random.default_rng(0).poisson(0.6, (6, 8, 3)).astype(np.uint8)
COUNTS[0, 0], COUNTS[-1, -1] = 1, 2  # the first and the last bin are seen in every layout

Columns = dict[str, list[Any]]


def long_counts(counts: np.ndarray = COUNTS, first_bin: int = 0) -> Columns:
    """Only rows of counts that are not 0."""
    trial, time_bin, neuron = (index.tolist() for index in np.nonzero(counts))
    return {
        "trial": trial,
        "bin": [number + first_bin for number in time_bin],
        "neuron": neuron,
        "count": counts[trial, time_bin, neuron].tolist(),
    }


def wide_counts(counts: np.ndarray = COUNTS) -> Columns:
    trials, bins, neurons = counts.shape
    places = list(product(range(trials), range(bins)))
    columns: Columns = {"trial": [trial for trial, _ in places], "bin": [number for _, number in places]}
    for neuron in range(neurons):
        columns[f"neuron_{neuron}"] = counts[:, :, neuron].reshape(-1).tolist()
    return columns


def spike_rows(counts: np.ndarray = COUNTS) -> Columns:
    """One row for each spike, in the middle of its bin."""
    long = long_counts(counts)
    repeats = long["count"]
    rows = {name: np.repeat(long[name], repeats) for name in ("trial", "neuron", "bin")}
    return {
        "trial": rows["trial"].tolist(),
        "neuron": rows["neuron"].tolist(),
        "time": np.round((rows["bin"] + 0.5) * WIDTH_S, 4).tolist(),
    }


def text_of(columns: Columns, delimiter: str = ",") -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join(delimiter.join(map(str, row)) for row in [tuple(columns), *rows]) + "\n"


def csv(path: Path, columns: Columns | str, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    text = columns if isinstance(columns, str) else text_of(columns, delimiter)
    path.write_bytes(text.encode(encoding))
    return path


def parquet(path: Path, columns: Columns | pa.Table, **options: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


WRITERS: dict[str, Callable[[Path, Columns], Path]] = {"csv": csv, "parquet": parquet}


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**{"bin_width_s": WIDTH_S, **options}))


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0]


def spikes(recording: Recording) -> np.ndarray:
    return np.asarray(recording.spikes)


def codes(recording: Recording) -> list[str]:
    return [warning.code for warning in recording.warnings]


def lists() -> Columns:
    rows = spike_rows()
    keys = sorted(set(zip(rows["trial"], rows["neuron"], strict=True)))
    times: dict[tuple[int, int], list[float]] = {key: [] for key in keys}
    for trial, neuron, time in zip(*rows.values(), strict=True):
        times[trial, neuron].append(time)
    return {
        "trial": [t for t, _ in keys],
        "neuron": [n for _, n in keys],
        "spike_times": list(times.values()),
    }


_OPTIONS = {"bin_width_s": WIDTH_S}
EXAMPLE_FILES = [
    ExampleFile("csv", lambda path: csv(path, spike_rows()), COUNTS, _OPTIONS),
    ExampleFile("csv", lambda path: csv(path, long_counts(), ";"), COUNTS, _OPTIONS),
    ExampleFile("csv", lambda path: csv(path, wide_counts(), "\t"), COUNTS, _OPTIONS),
    ExampleFile("parquet", lambda path: parquet(path, spike_rows()), COUNTS, _OPTIONS),
    ExampleFile("parquet", lambda path: parquet(path, lists()), COUNTS, _OPTIONS),
    ExampleFile("parquet", lambda path: parquet(path, long_counts()), COUNTS, _OPTIONS),
    ExampleFile("parquet", lambda path: parquet(path, wide_counts()), COUNTS, _OPTIONS),
]


@pytest.mark.parametrize("example", EXAMPLE_FILES, ids=lambda example: example.format)
def test_every_layout_gives_its_counts(example: ExampleFile, tmp_path: Path) -> None:
    path = example.write(tmp_path / "f")
    found = read(path, **example.options)
    np.testing.assert_array_equal(spikes(found), example.expected)
    assert found.source_format == example.format
    assert found.trial_metadata["trial_id"] == list(range(6))
    assert any(one.what in ("spikes", "count", "time") for one in found.understood)
    assert not found.warnings


class TestDialects:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", " ", "   ", ", "])
    def test_delimiters(self, delimiter: str, tmp_path: Path) -> None:
        np.testing.assert_array_equal(spikes(read(csv(tmp_path / "f", spike_rows(), delimiter))), COUNTS)

    @pytest.mark.parametrize("ending", ["\r\n", "\r"])
    def test_ends_of_lines(self, ending: str, tmp_path: Path) -> None:
        text = text_of(long_counts()).replace("\n", ending)
        np.testing.assert_array_equal(spikes(read(csv(tmp_path / "f", text))), COUNTS)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
    def test_encodings(self, encoding: str, tmp_path: Path) -> None:
        columns = long_counts()
        columns["Größe"] = [f"groß {trial}" for trial in columns["trial"]]
        found = read(csv(tmp_path / "f", columns, encoding=encoding))
        assert found.trial_metadata["Größe"] == [f"groß {trial}" for trial in range(6)]

    def test_latin_1_that_begins_late_in_the_file(self, tmp_path: Path) -> None:
        columns = {"neuron": ["a"] * 300_000 + ["ü"], "time": [0.5] * 300_001}
        trains = read_file(csv(tmp_path / "f", columns, encoding="latin-1"), ReadOptions())
        assert trains.neuron_metadata["neuron_id"] == ["a", "ü"]

    def test_comments_and_empty_lines(self, tmp_path: Path) -> None:
        lines = text_of(long_counts()).splitlines()
        text = "\n".join(
            ["# recorded today", "", lines[0], "  # an aside", *lines[1:5], "", "#x,y", *lines[5:]]
        )
        np.testing.assert_array_equal(spikes(read(csv(tmp_path / "f", text))), COUNTS)

    def test_a_header_in_a_comment_as_numpy_saves_it(self, tmp_path: Path) -> None:
        columns = long_counts()
        np.savetxt(tmp_path / "f", np.array(list(columns.values())).T, header=" ".join(columns))
        np.testing.assert_array_equal(spikes(read(tmp_path / "f")), COUNTS)

    def test_text_in_quotes(self, tmp_path: Path) -> None:
        columns = long_counts()
        columns['"the condition"'] = ['"left, far ""out"""' for _ in columns["trial"]]
        found = read(csv(tmp_path / "f", columns))
        assert found.trial_metadata["the condition"] == ['left, far "out"'] * 6

    def test_the_column_of_row_numbers_that_pandas_writes(self, tmp_path: Path) -> None:
        columns = {"": list(range(48)), **wide_counts()}
        found = read(csv(tmp_path / "f", columns))
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert codes(found) == ["column_left_out"]

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("trial;time;neuron\n1;0,5;3\n", "decimal_comma"),
            ('trial,time,neuron\n1,"0,5",3\n', "decimal_comma"),
            ("trial,time,neuron\n" + "1,0.5,3\n" * 30 + '1,"0,5",3\n', "decimal_comma"),
            ("trial,time,neuron\n1,0,5,3\n", "rows_uneven"),
            ("trial,time,neuron\n" + "1,0.5,3\n" * 30 + "1,0.5\n", "rows_uneven"),
            ("trial,time,neuron\n" + "1,0.5,3\n" * 30 + "1,early,3\n", "cell_not_a_number"),
            ("1,2,3\n4,5,6\n", "header_missing"),
            ("trial,time,time\n1,0.5,3\n", "columns_repeated"),
            ("trial,time,neuron\n" + "1,0.5,3\n" * 140_000 + "\0", "text_has_nul"),
            ("trial,time,neuron\n1,0.5,3\n" + "9" * (3 * 2**20), "line_too_long"),
            (",".join(f"n{i}" for i in range(20_001)) + "\n" + ",".join(["1"] * 20_001), "too_many_columns"),
        ],
    )
    def test_what_cannot_be_read_is_told(self, text: str, code: str, tmp_path: Path) -> None:
        problem = rejected(csv(tmp_path / "f", text))
        assert problem.code == code
        assert problem.hint

    def test_the_hint_at_a_decimal_comma_shows_the_point(self, tmp_path: Path) -> None:
        assert "0.5" in rejected(csv(tmp_path / "f", "trial;time;neuron\n1;0,5;3\n")).hint

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"trial,bin,neuron\n",
            b"Dear all,\nthe neurons, in trial 5, fired.\nYours, me\n",
            b"Spikes were sorted by hand.\nEach trial, each neuron, was looked at 2 times.\n",
            b"trial,time,neuron\n1,0.5,\x003\n",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}\n1,2,3\n",
            b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Length 3>>\n",
            b'{"spikes": [1, 2, 3],\n "trials": 4}\n',
            bytes(range(256)) * 10,
        ],
    )
    def test_what_is_no_table_is_not_recognised(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(content)
        assert not READERS["csv"].recognises(tmp_path / "f.csv")
        assert not READERS["parquet"].recognises(tmp_path / "f.csv")

    def test_long_cells_take_no_time(self, tmp_path: Path) -> None:
        path = csv(tmp_path / "f", "trial,neuron,time\n" + ",".join(["1" * 100_000 + "x"] * 3) + "\n")
        READERS["csv"].recognises(path)

    def test_a_table_is_recognised_by_its_content(self, tmp_path: Path) -> None:
        assert READERS["csv"].recognises(csv(tmp_path / "f.h5", "trial,bin,neuron\n1,2,3\n"))
        assert READERS["csv"].recognises(csv(tmp_path / "g", "a;b\nx;1.5\ny;2\n"))


@pytest.mark.parametrize("file_format", sorted(WRITERS))
class TestSpikes:
    def test_metadata_of_trials_and_neurons(self, file_format: str, tmp_path: Path) -> None:
        columns = spike_rows()
        columns["side"] = ["left" if trial % 2 else "right" for trial in columns["trial"]]
        columns["area"] = [f"area {neuron}" for neuron in columns["neuron"]]
        columns["amplitude"] = np.linspace(1, 2, len(columns["trial"])).tolist()
        found = read(WRITERS[file_format](tmp_path / "f", columns))
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert found.trial_metadata["side"] == ["right", "left"] * 3
        assert found.neuron_metadata["area"] == ["area 0", "area 1", "area 2"]
        (warning,) = found.warnings
        assert (warning.code, warning.pointer) == ("column_left_out", "/amplitude")
        assert any("side" in note for note in found.notes)

    def test_trials_between_others_are_empty_if_the_request_says_so(
        self, file_format: str, tmp_path: Path
    ) -> None:
        columns = spike_rows()
        kept = [row for row, trial in enumerate(columns["trial"]) if trial != 2]
        columns = {name: [values[row] for row in kept] for name, values in columns.items()}
        columns["side"] = [f"side {trial}" for trial in columns["trial"]]
        path = WRITERS[file_format](tmp_path / "f", columns)
        np.testing.assert_array_equal(spikes(read(path)), np.delete(COUNTS, 2, axis=0))
        found = read(path, trials={"ids": [0, 5]})
        assert not spikes(found)[2].any()
        assert found.trial_metadata["side"] == ["side 0", "side 1", None, "side 3", "side 4", "side 5"]

    def test_without_trials_it_is_one_recording(self, file_format: str, tmp_path: Path) -> None:
        columns = {"unit": ["b", "a", "b", "b"], "spike_time_ms": [100, 2900, 2901, 2950]}
        found = read(WRITERS[file_format](tmp_path / "f", columns), chop={"window_s": 0.98, "overlap_s": 0})
        assert spikes(found).sum(axis=(0, 1)).tolist() == [1, 3]
        assert len(spikes(found)) == 3
        assert found.neuron_metadata["neuron_id"] == ["a", "b"]

    def test_units_of_times(self, file_format: str, tmp_path: Path) -> None:
        columns = spike_rows()
        ticks = [round(time * 1000) for time in columns.pop("time")]
        for name in ("time_ms", "Time (ms)", "spike times [ms]"):
            found = read(WRITERS[file_format](tmp_path / "f", {**columns, name: ticks}))
            np.testing.assert_array_equal(spikes(found), COUNTS)
        path = WRITERS[file_format](tmp_path / "f", {**columns, "time": ticks})
        assert rejected(path).code == "time_unit_unclear"
        np.testing.assert_array_equal(spikes(read(path, time_unit="ms")), COUNTS)
        found = read(path, time_unit="samples", sampling_rate_hz=1000)
        np.testing.assert_array_equal(spikes(found), COUNTS)

    def test_the_mapping_goes_before_names(self, file_format: str, tmp_path: Path) -> None:
        rows = spike_rows()
        columns = {
            "trial": [9] * len(rows["trial"]),
            "e": rows["trial"],
            "who": rows["neuron"],
            "when": rows["time"],
        }
        path = WRITERS[file_format](tmp_path / "f", columns)
        found = read(path, mapping={"trial": "e", "neuron": "who", "time": "when"})
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert {one.how for one in found.understood if one.what in ("trial", "neuron", "time")} == {
            "given in the mapping"
        }
        problem = rejected(path, mapping={"neuron": "nobody"})
        assert problem.code == "variable_unknown"
        assert "who" in problem.message

    def test_times_that_go_on_through_trials(self, file_format: str, tmp_path: Path) -> None:
        columns = spike_rows(np.tile(COUNTS, (1, 1, 4)))
        columns["time"] = [
            time + 10 * trial for trial, time in zip(columns["trial"], columns["time"], strict=True)
        ]
        assert rejected(WRITERS[file_format](tmp_path / "f", columns)).code == "trial_times_go_on"

    def test_rows_without_labels_or_times(self, file_format: str, tmp_path: Path) -> None:
        nothing: Any = "" if file_format == "csv" else None
        columns = spike_rows()
        columns["trial"] += [nothing, 1, 2]
        columns["neuron"] += [1, nothing, 2]
        columns["time"] += [0.03, 0.03, nothing]
        found = read(WRITERS[file_format](tmp_path / "f", columns))
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert set(codes(found)) == {"rows_without_label", "spikes_without_time"}


@pytest.mark.parametrize("file_format", sorted(WRITERS))
class TestLongCounts:
    def test_bins_from_1_and_rows_in_any_order(self, file_format: str, tmp_path: Path) -> None:
        columns = long_counts(first_bin=1)
        order = np.random.default_rng(1).permutation(len(columns["bin"]))
        shuffled = {name: np.array(values)[order].tolist() for name, values in columns.items()}
        found = read(WRITERS[file_format](tmp_path / "f", shuffled))
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert any("counted from 1" in note for note in found.notes)

    def test_a_row_that_comes_twice(self, file_format: str, tmp_path: Path) -> None:
        columns = long_counts()
        columns = {name: [*values, values[0]] for name, values in columns.items()}
        problem = rejected(WRITERS[file_format](tmp_path / "f", columns))
        assert problem.code == "rows_repeated"
        assert "trial 0, bin 0" in problem.message

    def test_complete_rows_tell_how_long_trials_are(self, file_format: str, tmp_path: Path) -> None:
        rows = [(t, b, n) for t, b, n in np.ndindex(6, 8, 3) if b < 5 + t % 3 + (t == 5)]
        columns = {name: [row[axis] for row in rows] for axis, name in enumerate(("trial", "bin", "neuron"))}
        columns["count"] = [int(COUNTS[row]) for row in rows]
        found = read(WRITERS[file_format](tmp_path / "f", columns))
        assert found.trial_length_bins.tolist() == [5, 6, 7, 5, 6, 8]

    def test_times_in_place_of_bins(self, file_format: str, tmp_path: Path) -> None:
        columns = long_counts()
        columns["time"] = [round(number * WIDTH_S - 0.1, 4) for number in columns.pop("bin")]
        found = read(WRITERS[file_format](tmp_path / "f", columns), bin_width_s=None)
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert found.bin_width_s == WIDTH_S
        assert found.time_zero_s == pytest.approx(-0.1)
        assert codes(found) == ["bin_width_derived"]
        columns["time"][7] += 0.4 * WIDTH_S
        assert rejected(WRITERS[file_format](tmp_path / "f", columns)).code == "bins_uneven"

    @pytest.mark.parametrize(
        ("count", "code"),
        [
            (1.5, "counts_not_whole"),
            (-1, "counts_negative"),
            (1e6, "counts_too_large"),
            (np.nan, "counts_not_finite"),
        ],
    )
    def test_counts_that_are_none(self, file_format: str, count: float, code: str, tmp_path: Path) -> None:
        columns = long_counts()
        columns["count"] = [float(value) for value in columns["count"]]
        columns["count"][4] = count
        problem = rejected(WRITERS[file_format](tmp_path / "f", columns))
        assert problem.code == code
        assert "row 5" in problem.message

    def test_giants_are_refused_before_they_are_made(self, file_format: str, tmp_path: Path) -> None:
        columns = {"trial": [0, 1], "bin": [0, 2**50], "neuron": [0, 1], "count": [1, 1]}
        assert rejected(WRITERS[file_format](tmp_path / "f", columns)).code == "file_too_large_expanded"

    def test_without_counts_or_times(self, file_format: str, tmp_path: Path) -> None:
        columns = long_counts()
        del columns["count"]
        assert rejected(WRITERS[file_format](tmp_path / "f", columns)).code == "spikes_missing"

    def test_split_and_width_in_columns(self, file_format: str, tmp_path: Path) -> None:
        columns = long_counts()
        columns["split"] = [("train", "valid", "test")[trial % 3] for trial in columns["trial"]]
        columns["bin_width_s"] = [0.04] * len(columns["trial"])
        found = read(WRITERS[file_format](tmp_path / "f", columns), bin_width_s=None)
        assert found.split.tolist() == [0, 1, -1] * 2
        assert found.bin_width_s == 0.04


@pytest.mark.parametrize("file_format", sorted(WRITERS))
class TestWideCounts:
    def test_metadata_and_behaviour(self, file_format: str, tmp_path: Path) -> None:
        columns = wide_counts()
        columns["angle"] = [45 * trial for trial in columns["trial"]]
        columns["cue"] = [f"cue {trial}" for trial in columns["trial"]]
        columns["speed"] = np.linspace(0, 1, 48).round(4).tolist()
        path = WRITERS[file_format](tmp_path / "f", columns)
        found = read(path)
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert found.trial_metadata["angle"] == [45 * trial for trial in range(6)]
        assert found.trial_metadata["cue"] == [f"cue {trial}" for trial in range(6)]
        np.testing.assert_allclose(
            np.asarray(found.behaviour["speed"]).reshape(-1), columns["speed"], rtol=1e-6
        )
        without = read(path, mapping={"behaviour": [], "trial_metadata": ["cue"]})
        assert not without.behaviour
        assert set(without.trial_metadata) == {"trial_id", "cue"}
        assert codes(without) == ["column_left_out"] * 2

    def test_neurons_without_names_are_told_by_their_values(self, file_format: str, tmp_path: Path) -> None:
        columns = wide_counts()
        for name, neuron in (("ann", 0), ("bob", 1), ("cyd", 2)):
            columns[name] = columns.pop(f"neuron_{neuron}")
        columns |= {
            "silent": [0] * 48,
            "target": [1 + t % 2 for t in columns["trial"]],
            "x": [-0.5, 2.0] * 24,
        }
        columns["steps"] = list(range(48))
        found = read(WRITERS[file_format](tmp_path / "f", columns), mapping={"behaviour": ["x", "steps"]})
        assert found.neuron_metadata["neuron_id"] == ["ann", "bob", "cyd", "silent"]
        np.testing.assert_array_equal(spikes(found)[:, :, :3], COUNTS)
        assert found.trial_metadata["target"] == [1, 2] * 3
        assert set(found.behaviour) == {"x", "steps"}

    def test_trials_end_with_their_last_row(self, file_format: str, tmp_path: Path) -> None:
        columns = wide_counts()
        keep = [row for row in range(48) if columns["bin"][row] < 5 or columns["trial"][row] > 2]
        columns = {name: [values[row] for row in keep] for name, values in columns.items()}
        found = read(WRITERS[file_format](tmp_path / "f", columns))
        assert found.trial_length_bins.tolist() == [5, 5, 5, 8, 8, 8]
        assert not spikes(found)[:3, 5:].any()

    def test_a_gap_is_told(self, file_format: str, tmp_path: Path) -> None:
        columns = {name: values[:3] + values[4:] for name, values in wide_counts().items()}
        assert codes(read(WRITERS[file_format](tmp_path / "f", columns))) == ["bins_missing"]

    @pytest.mark.parametrize("clock", ["bin", "time"])
    def test_a_clock_that_goes_on_from_trial_to_trial(
        self, file_format: str, clock: str, tmp_path: Path
    ) -> None:
        columns = wide_counts()
        bins = [
            number + 20 * trial for trial, number in zip(columns["trial"], columns.pop("bin"), strict=True)
        ]
        columns[clock] = bins if clock == "bin" else [round(number * WIDTH_S, 4) for number in bins]
        found = read(WRITERS[file_format](tmp_path / "f", columns))
        np.testing.assert_array_equal(spikes(found), COUNTS)
        if clock == "time":
            assert found.trial_start_s is not None
            np.testing.assert_allclose(found.trial_start_s, 20 * WIDTH_S * np.arange(6))

    @pytest.mark.parametrize("clock", [None, "bin", "time"])
    def test_without_trials_it_is_one_recording(
        self, file_format: str, clock: str | None, tmp_path: Path
    ) -> None:
        columns = wide_counts()
        del columns["trial"], columns["bin"]
        if clock is not None:
            columns[clock] = list(range(48)) if clock == "bin" else [round(n * WIDTH_S, 4) for n in range(48)]
        found = read_file(WRITERS[file_format](tmp_path / "f", columns), ReadOptions(bin_width_s=WIDTH_S))
        assert isinstance(found, Recording)
        assert found.is_continuous
        np.testing.assert_array_equal(spikes(found), COUNTS.reshape(1, 48, 3))

    def test_trials_without_bins_are_not_binned(self, file_format: str, tmp_path: Path) -> None:
        columns = {"trial": [0, 1, 2], "neuron_0": [3, 4, 5], "neuron_1": [1, 2, 0]}
        problem = rejected(WRITERS[file_format](tmp_path / "f", columns))
        assert problem.code == "table_not_binned"
        assert "mapping.bin" in problem.hint

    def test_no_column_of_counts(self, file_format: str, tmp_path: Path) -> None:
        columns = {"trial": [0, 0, 1, 1], "bin": [0, 1, 0, 1], "x": [0.5, 1.5, 2.5, -1.0]}
        assert rejected(WRITERS[file_format](tmp_path / "f", columns)).code == "spikes_missing"


class TestParquet:
    def test_text_where_numbers_are_expected(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "f", {"neuron": [1, 2], "time": ["soon", "late"]})
        assert rejected(path).code == "cell_not_a_number"

    def test_a_list_for_each_neuron(self, tmp_path: Path) -> None:
        columns = {"times": [[0.01, 0.05], [], [0.39, 0.03]], "depth": [10.0, 20.0, 30.0]}
        found = read_file(parquet(tmp_path / "f", columns), ReadOptions())
        assert isinstance(found, SpikeTrains)
        assert [found.times_of(neuron).tolist() for neuron in range(3)] == [[0.01, 0.05], [], [0.03, 0.39]]
        assert found.neuron_metadata["depth"] == [10, 20, 30]

    def test_categories_and_small_types(self, tmp_path: Path) -> None:
        columns = spike_rows()
        table = pa.table(
            {
                "trial": pa.array([f"t{trial}" for trial in columns["trial"]]).dictionary_encode(),
                "neuron": pa.array(columns["neuron"], pa.int8()),
                "time": pa.array(columns["time"], pa.float32()),
                "good": pa.array([trial > 2 for trial in columns["trial"]]),
                "blob": pa.array([b"x"] * len(columns["trial"])),
            }
        )
        found = read(parquet(tmp_path / "f", table, row_group_size=7))
        np.testing.assert_array_equal(spikes(found), COUNTS)
        assert found.trial_metadata["good"] == [False] * 3 + [True] * 3
        assert found.trial_metadata["trial_id"] == [f"t{trial}" for trial in range(6)]
        assert [warning.pointer for warning in found.warnings] == ["/blob"]

    def test_a_bomb_is_refused_before_it_goes_off(self, tmp_path: Path) -> None:
        ones = np.ones(2_000_000)
        path = parquet(tmp_path / "f", {"neuron": ones.astype(int), "time": ones}, compression="zstd")
        assert path.stat().st_size < 100_000
        assert rejected(path, max_expanded_bytes=10**6).code == "file_too_large_expanded"

    def test_a_column_with_a_point_in_its_name_counts_too(self, tmp_path: Path) -> None:
        columns = {"unit.id": np.ones(2_000_000, int), "a": np.ones(2_000_000)}
        mapping = {"neuron": "unit.id", "time": "a"}
        path = parquet(tmp_path / "f", pa.table(columns), compression="zstd")
        assert rejected(path, mapping=mapping, max_expanded_bytes=3 * 10**6).code == "file_too_large_expanded"
        assert read_file(path, ReadOptions(mapping=mapping)).neurons == 1

    def test_encrypted_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"PARE" + bytes(100) + b"PARE")
        assert rejected(tmp_path / "f").code == "file_encrypted"

    def test_too_many_columns(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "f", {f"n{number}": [1] for number in range(20_001)})
        assert rejected(path).code == "too_many_columns"


def damaged(content: bytes, path: Path) -> None:
    """A file reads or is refused, whatever it holds."""
    path.write_bytes(content)
    with contextlib.suppress(RejectedFile):
        assert isinstance(read(path), Recording)


class TestDamage:
    @pytest.mark.parametrize("example", EXAMPLE_FILES, ids=lambda example: example.format)
    def test_bytes_that_changed_or_are_missing(self, example: ExampleFile, tmp_path: Path) -> None:
        content = example.write(tmp_path / "f").read_bytes()
        random = np.random.default_rng(0)
        for trial in range(40):
            mutated = bytearray(content if trial % 4 else content[: int(random.integers(len(content)))])
            for _ in range(int(random.integers(1, 6)) if mutated else 0):
                mutated[int(random.integers(len(mutated)))] = int(random.integers(256))
            damaged(bytes(mutated), tmp_path / "g")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rows=st.lists(
            st.lists(
                st.sampled_from(["0", "1", "-3", "2.5", "1e300", "", "a", "nan", '"', "1,5", "#"]),
                min_size=1,
                max_size=5,
            ),
            max_size=6,
        )
    )
    def test_any_cells(self, rows: list[list[str]], tmp_path: Path) -> None:
        text = "\n".join(",".join(row) for row in [["trial", "bin", "neuron", "count"], *rows])
        damaged(text.encode(), tmp_path / "f")

    def test_a_lone_parquet_magic(self, tmp_path: Path) -> None:
        for content in (b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 20 + b"PAR1"):
            (tmp_path / "f").write_bytes(content)
            assert rejected(tmp_path / "f").code == "file_damaged"


class TestBlocks:
    @pytest.mark.parametrize("file_format", sorted(WRITERS))
    @pytest.mark.parametrize(
        "columns", [long_counts(), wide_counts(), spike_rows()], ids=["long", "wide", "spikes"]
    )
    def test_many_blocks(
        self, file_format: str, columns: Columns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.ingest.readers.tables.csv_table._BLOCK_BYTES", 120)
        monkeypatch.setattr("worker.ingest.readers.tables.parquet_table._MOST_ROWS", 5)
        monkeypatch.setattr("worker.ingest.readers.tables.rows_on_disk.BLOCK_BYTES", 200)
        monkeypatch.setattr("worker.ingest.rows.BLOCK_BYTES", 200)
        monkeypatch.setattr("worker.ingest.rows.IN_MEMORY_BYTES", 50)
        np.testing.assert_array_equal(spikes(read(WRITERS[file_format](tmp_path / "f", columns))), COUNTS)

    @pytest.mark.parametrize("file_format", sorted(WRITERS))
    def test_within_the_limits_of_the_sandbox(self, file_format: str, tmp_path: Path) -> None:
        path = WRITERS[file_format](tmp_path / "f", wide_counts())
        found = parse_in_sandbox(path, tmp_path / "out", ReadOptions(bin_width_s=WIDTH_S))
        assert isinstance(found, ParsedFile)
        np.testing.assert_array_equal(np.asarray(found.recording().spikes), COUNTS)
