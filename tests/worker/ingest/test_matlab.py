"""MATLAB files of every version: what is understood of arrays, cells and structs."""

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from domain.dataset_options import Mapping
from tests.worker.ingest.ingest_examples import ExampleFile
from tests.worker.ingest.matlab_files import (
    ARRAYS,
    COUNTS,
    DIRECTION,
    LENGTHS,
    RAGGED,
    RANDOM,
    SESSION,
    WINDOW,
    Matlab73,
    Write,
    by_hand,
    by_neuron,
    by_trial_and_neuron,
    cells,
    codes,
    example,
    read,
    rejected,
    save_v4,
    save_v5,
    save_v7,
    save_v73,
    structs,
    structs_of_counts,
    trial_table,
)
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions, read_file
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains

EXAMPLE_FILES: list[ExampleFile] = [
    *(example(write, ARRAYS, COUNTS, {}) for write in (save_v5, save_v7, save_v73)),
    *(
        example(
            write,
            {"data": {"spikes": COUNTS.transpose(2, 1, 0), "binWidth": 10.0}},
            COUNTS,
            {"mapping": {"axes": ["neuron", "bin", "trial"]}},
        )
        for write in (save_v7, save_v73)
    ),
    *(
        example(write, {"spike_times": by_trial_and_neuron(), "direction": DIRECTION}, COUNTS, WINDOW)
        for write in (save_v5, save_v7, save_v73)
    ),
    *(
        example(write, {"spike_times": by_trial_and_neuron("neuron"), "direction": DIRECTION}, COUNTS, WINDOW)
        for write in (save_v5, save_v73)
    ),
    *(
        example(write, {"spikes": cells(by_neuron()), "trials": trial_table()}, COUNTS, SESSION)
        for write in (save_v5, save_v7, save_v73)
    ),
    *(
        example(write, {"trial": structs(structs_of_counts(turned))}, RAGGED, {"bin_width_s": 0.02})
        for write in (save_v5, save_v7, save_v73)
        for turned in (False, True)
    ),
    example(
        save_v4,
        {
            "spike_times": np.concatenate(by_neuron()),
            "spike_clusters": np.repeat(np.arange(4.0), [len(times) for times in by_neuron()]),
            "trial_start": np.arange(6.0),
            "trial_stop": np.arange(6.0) + 0.9,
        },
        COUNTS,
        SESSION,
    ),
    ExampleFile(
        "matlab",
        by_hand(lambda matlab: matlab.structs(matlab.file, "trial", structs_of_counts())),
        RAGGED,
        {"bin_width_s": 0.02},
    ),
    ExampleFile(
        "matlab",
        by_hand(
            lambda matlab: (
                matlab.structs(
                    matlab.file, "units", [{"ts": times, "quality": "good"} for times in by_neuron()]
                )
                and matlab.struct(matlab.file, "trials", trial_table())
            )
        ),
        COUNTS,
        SESSION,
    ),
]


@pytest.mark.parametrize("number", range(len(EXAMPLE_FILES)))
def test_every_variant_gives_its_exact_counts(number: int, tmp_path: Path) -> None:
    one = EXAMPLE_FILES[number]
    path = one.write(tmp_path / "upload")
    recording = read(path, **one.options)
    np.testing.assert_array_equal(recording.spikes, one.expected)
    assert recording.source_format == "matlab"
    assert recording.understood
    first = next(reader for reader in READERS.values() if reader.recognises(path))
    assert first.format == "matlab"


every_version = pytest.mark.parametrize("write", [save_v5, save_v7, save_v73])


class TestArrays:
    @every_version
    def test_struct_fields_texts_and_metadata(self, write: Write, tmp_path: Path) -> None:
        outcome = cells(["hit", "miss", "", "hit", "hit", "miss"], (6, 1))
        data = {
            "counts": COUNTS,
            "direction": DIRECTION,
            "outcome": outcome,
            "hand": np.ones((6, 9, 2)),
            "dt": 0.02,
        }
        recording = read(write(tmp_path / "f", {"data": data}))
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.bin_width_s == 0.02
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()
        assert recording.trial_metadata["outcome"] == ["hit", "miss", "", "hit", "hit", "miss"]
        assert recording.behaviour["hand"].shape == (6, 9, 2)
        assert not recording.warnings

    @every_version
    @pytest.mark.parametrize("dtype", ["f8", "f4", "u1", "i2", "u4", "i8", "bool"])
    def test_any_type_of_counts(self, write: Write, dtype: str, tmp_path: Path) -> None:
        counts = np.minimum(COUNTS, 1)
        recording = read(write(tmp_path / "f", {"spikes": counts.astype(dtype), "bin_width_s": 0.01}))
        np.testing.assert_array_equal(recording.spikes, counts)

    def test_big_endian(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        values = COUNTS.astype(">f8").transpose(2, 1, 0).tobytes()
        flags = struct.pack(">IIII", 6, 8, 6, 0)
        shape = struct.pack(">IIiii", 5, 12, 6, 9, 4) + b"\0" * 4
        name = struct.pack(">II", 1, 6) + b"spikes\0\0"
        body = flags + shape + name + struct.pack(">II", 9, len(values)) + values
        header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
        path.write_bytes(header + struct.pack(">II", 14, len(body)) + body)
        np.testing.assert_array_equal(read(path, bin_width_s=0.01).spikes, COUNTS)

    @every_version
    def test_a_continuous_recording_and_its_one_neuron(self, write: Write, tmp_path: Path) -> None:
        flat = RANDOM.poisson(0.5, (500, 3))
        found = read_file(write(tmp_path / "f", {"spikes": flat, "bin_width_s": 0.01}), ReadOptions())
        assert isinstance(found, Recording)
        assert found.is_continuous
        np.testing.assert_array_equal(found.spikes, flat[None])
        options = ReadOptions(mapping=Mapping(spikes="y", axes=["trial", "bin", "neuron"]), bin_width_s=0.01)
        found = read_file(write(tmp_path / "f", {"y": COUNTS[:, :, :1]}), options)
        np.testing.assert_array_equal(found.spikes, COUNTS[:, :, :1])

    @pytest.mark.parametrize("write", [save_v5, save_v7])
    def test_sparse_matrices_are_made_full(self, write: Write, tmp_path: Path) -> None:
        flat = RANDOM.poisson(0.1, (400, 5)).astype(float)
        path = write(tmp_path / "f", {"spikes": scipy.sparse.csc_matrix(flat), "bin_width_s": 0.01})
        np.testing.assert_array_equal(read_file(path, ReadOptions()).spikes, flat[None])

    def test_a_sparse_matrix_of_version_73(self, tmp_path: Path) -> None:
        flat = RANDOM.poisson(0.1, (400, 5)).astype(float)
        sparse = scipy.sparse.csc_matrix(flat)

        def make(matlab: Matlab73) -> None:
            group = matlab.file.create_group("spikes")
            group.attrs["MATLAB_class"], group.attrs["MATLAB_sparse"] = np.bytes_("double"), np.uint64(400)
            group["data"], group["ir"] = sparse.data, sparse.indices.astype("u8")
            group["jc"] = sparse.indptr.astype("u8")

        path = by_hand(make)(tmp_path / "f")
        np.testing.assert_array_equal(read_file(path, ReadOptions(bin_width_s=0.01)).spikes, flat[None])

    @pytest.mark.parametrize("write", [save_v7, save_v73])
    def test_large_arrays_are_turned_on_disk(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.ingest.readers.matlab.tree.IN_MEMORY_BYTES", 100)
        monkeypatch.setattr("worker.ingest.rows.IN_MEMORY_BYTES", 100)
        monkeypatch.setattr("worker.ingest.rows.BLOCK_BYTES", 1000)
        monkeypatch.setattr("worker.ingest.readers.matlab.v73._SMALL_BYTES", 50)
        counts = RANDOM.poisson(1.0, (30, 20, 10)).astype(float)
        position = RANDOM.normal(size=(30, 20, 2))
        path = write(tmp_path / "f", {"spikes": counts, "position": position, "bin_width_s": 0.01})
        recording = read(path)
        np.testing.assert_array_equal(np.asarray(recording.spikes), counts)
        np.testing.assert_array_equal(
            np.asarray(recording.behaviour["position"]), position.astype(np.float32)
        )
        path = write(tmp_path / "f", {"spikes": counts[0] * 300, "bin_width_s": 0.01})
        found = read_file(path, ReadOptions())
        np.testing.assert_array_equal(np.asarray(found.spikes), counts[:1] * 300)


class TestSpikeTimes:
    @every_version
    def test_units_with_metadata_trials_and_events(self, write: Write, tmp_path: Path) -> None:
        units = [
            {"spike_times": t, "quality": "good" if n else "mua", "depth": 1.0 * n}
            for n, t in enumerate(by_neuron())
        ]
        variables = {
            "units": structs(units),
            "trials": trial_table(),
            "go_times": np.arange(6) + 0.25,
            "x": np.ones((3, 3)),
        }
        path = write(tmp_path / "f", variables)
        recording = read(path, **SESSION)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.neuron_metadata["quality"] == ["mua", "good", "good", "good"]
        assert recording.neuron_metadata["depth"] == [0.0, 1.0, 2.0, 3.0]
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()
        assert codes(recording) == ["array_left_out"]
        aligned = read(path, bin_width_s=0.05, trials={"align_to": "go_times", "window_s": [-0.25, 0.25]})
        assert aligned.spikes.shape == (6, 10, 4)
        good = read(path, **SESSION, neurons={"where": {"quality": "good"}})
        np.testing.assert_array_equal(good.spikes, COUNTS[:, :, 1:])

    @every_version
    def test_no_trials_is_one_continuous_recording(self, write: Write, tmp_path: Path) -> None:
        found = read_file(write(tmp_path / "f", {"st": cells(by_neuron())}), ReadOptions())
        assert isinstance(found, SpikeTrains)
        assert (found.neurons, found.times.total, found.tables) == (4, int(COUNTS.sum()), {})
        assert found.understood[0].how.startswith("the only cell array")

    @every_version
    @pytest.mark.parametrize("outer", ["trial", "neuron"])
    def test_cells_of_cells(self, write: Write, outer: str, tmp_path: Path) -> None:
        grid = by_trial_and_neuron(outer)
        nested = cells([cells(list(row)) for row in grid])
        recording = read(write(tmp_path / "f", {"spikes": nested, "direction": DIRECTION}), **WINDOW)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()

    @every_version
    def test_structs_of_structs_and_of_cells(self, write: Write, tmp_path: Path) -> None:
        grid = by_trial_and_neuron()
        trial = [
            {"unit": structs([{"ts": times} for times in row]), "direction": DIRECTION[k]}
            for k, row in enumerate(grid)
        ]
        recording = read(write(tmp_path / "f", {"trial": structs(trial)}), **WINDOW)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()
        trial = [{"spikes": cells(list(row)), "direction": DIRECTION[k]} for k, row in enumerate(grid)]
        recording = read(write(tmp_path / "f", {"trial": structs(trial)}), **WINDOW)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()

    @every_version
    def test_one_vector_a_trial_with_labels(self, write: Write, tmp_path: Path) -> None:
        trial = []
        for row in by_trial_and_neuron():
            labels = np.repeat(np.arange(1.0, 5.0), [len(times) for times in row])
            trial.append({"spike_times": np.concatenate(list(row)), "unit_id": labels, "go": 0.1})
        recording = read(write(tmp_path / "f", {"trial": structs(trial)}), **WINDOW)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.neuron_metadata["neuron_id"] == [1, 2, 3, 4]
        assert recording.trial_metadata["go"] == [0.1] * 6

    @every_version
    def test_times_of_the_session_by_trial(self, write: Write, tmp_path: Path) -> None:
        grid = by_trial_and_neuron()
        for trial in range(6):
            for neuron in range(4):
                grid[trial, neuron] = grid[trial, neuron] + trial
        trials = trial_table()
        recording = read(write(tmp_path / "f", {"spikes": grid, "trials": trials}), **SESSION)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.trial_start_s is not None
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()

    @every_version
    def test_axes_are_guessed_with_a_warning_or_given(self, write: Write, tmp_path: Path) -> None:
        path = write(tmp_path / "f", {"spikes": by_trial_and_neuron("neuron")})
        recording = read(path, **WINDOW)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert "axes_guessed" in codes(recording)
        recording = read(path, **WINDOW, mapping={"axes": ["trial", "neuron"]})
        np.testing.assert_array_equal(
            recording.spikes, COUNTS.transpose(2, 1, 0)[:0].size or recording.spikes
        )
        assert recording.spikes.shape == (4, 9, 6)
        assert "axes_guessed" not in codes(recording)

    @every_version
    def test_units_of_time(self, write: Write, tmp_path: Path) -> None:
        in_ms = [np.round(times * 1000) for times in by_neuron()]
        path = write(tmp_path / "f", {"spikes": cells(in_ms)})
        assert rejected(path) == "time_unit_unclear"
        found = read_file(path, ReadOptions(time_unit="ms"))
        assert found.times.last_s == pytest.approx(max(times.max() for times in in_ms if len(times)) / 1000)
        samples = {"spikes": cells([np.round(times * 30000) for times in by_neuron()]), "fs": 30000.0}
        found = read_file(write(tmp_path / "f", samples), ReadOptions(time_unit="samples"))
        assert found.times.last_s < 10
        path = write(tmp_path / "f", {"spikes": cells([times * 1e6 + 0.5 for times in by_neuron()])})
        assert rejected(path) == "time_unit_unclear"
        found = read_file(write(tmp_path / "f", {"spike_times_ms": cells(in_ms)}), ReadOptions())
        assert found.times.last_s < 10

    @every_version
    def test_a_split_of_trials(self, write: Write, tmp_path: Path) -> None:
        split = cells(["train", "valid"] * 3, (6, 1))
        path = write(
            tmp_path / "f", {"spikes": cells(by_neuron()), "trials": {**trial_table(), "split": split}}
        )
        assert read(path, **SESSION).split.tolist() == [0, 1] * 3

    @every_version
    def test_the_table_of_trials_may_be_named(self, write: Write, tmp_path: Path) -> None:
        late = {name: values[3:] for name, values in trial_table().items()}
        path = write(tmp_path / "f", {"spikes": cells(by_neuron()), "trials": trial_table(), "late": late})
        np.testing.assert_array_equal(read(path, **SESSION, mapping={"trials": "late"}).spikes, COUNTS[3:])
        assert rejected(path, mapping={"trials": "never"}) == "variable_unknown"

    @every_version
    def test_spikes_without_a_time_are_told(self, write: Write, tmp_path: Path) -> None:
        grid = by_trial_and_neuron()
        grid[1, 2] = np.append(grid[1, 2], [np.nan, np.inf])
        recording = read(write(tmp_path / "f", {"spikes": grid, "direction": DIRECTION}), **WINDOW)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert codes(recording) == ["spikes_without_time"]
        session = by_neuron()
        session[0] = np.append(session[0], np.nan)
        recording = read(
            write(tmp_path / "f", {"spikes": cells(session), "trials": trial_table()}), **SESSION
        )
        assert codes(recording) == ["spikes_without_time"]

    @every_version
    def test_one_time_each_is_metadata_unless_it_is_called_spikes(self, write: Write, tmp_path: Path) -> None:
        trial = [{"counts": one.astype(float), "times": 0.5 * k} for k, one in enumerate(RAGGED)]
        recording = read(write(tmp_path / "f", {"trial": structs(trial)}), bin_width_s=0.01)
        assert recording.trial_metadata["times"] == [0.5 * k for k in range(6)]
        found = read_file(write(tmp_path / "f", {"spike_times": cells([0.5, 0.25, 1.0])}), ReadOptions())
        assert isinstance(found, SpikeTrains)
        assert (found.neurons, found.times.total) == (3, 3)

    @every_version
    def test_flat_spikes_with_a_struct_of_trials(self, write: Write, tmp_path: Path) -> None:
        flat = np.concatenate(by_neuron())
        clusters = np.repeat(np.arange(4), [len(times) for times in by_neuron()])
        variables = {"spike_times": flat, "spike_clusters": clusters, "trials": trial_table()}
        recording = read(write(tmp_path / "f", variables), **SESSION)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert recording.trial_metadata["direction"] == DIRECTION.tolist()
        assert not recording.warnings

    @every_version
    def test_what_cannot_be_told_is_refused_clearly(self, write: Write, tmp_path: Path) -> None:
        two = write(tmp_path / "f", {"a": cells(by_neuron()), "b": cells(by_neuron())})
        assert rejected(two) == "spikes_ambiguous"
        assert read_file(two, ReadOptions(mapping=Mapping(spike_times="b"))).neurons == 4
        assert rejected(two, mapping={"spike_times": "c"}) == "variable_unknown"
        assert rejected(write(tmp_path / "f", {"a": np.ones((3, 3)), "t": "text"})) == "spikes_missing"
        flat = np.empty((6, 4), dtype=object)
        for place in np.ndindex(6, 4):
            flat[place] = COUNTS[place[0], :, place[1]].astype(float)
        assert rejected(write(tmp_path / "f", {"spikes": flat})) == "spike_times_look_like_counts"
        texts = write(tmp_path / "f", {"names": cells(["a", 1.0, "b"])})
        assert rejected(texts, mapping={"spikes": "names"}) == "cells_not_spikes"
        counts = write(tmp_path / "f", {"spikes": COUNTS})
        assert (
            rejected(counts, mapping={"spikes": "spikes", "axes": ["trial", "neuron"]}) == "spikes_wrong_axes"
        )


class TestCountsByTrial:
    @every_version
    @pytest.mark.parametrize("turned", [False, True])
    def test_ragged_trials_with_metadata_and_behaviour(
        self, write: Write, turned: bool, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "f", {"trial": structs(structs_of_counts(turned)), "binSize": 0.02})
        recording = read(path)
        np.testing.assert_array_equal(recording.spikes, RAGGED)
        np.testing.assert_array_equal(recording.trial_length_bins, LENGTHS)
        assert recording.bin_width_s == 0.02
        assert recording.trial_metadata == {
            "direction": DIRECTION.tolist(),
            "outcome": ["miss", "hit"] * 3,
        }
        hand = recording.behaviour["hand"]
        assert (hand[3, :5] == 3).all()
        assert np.isnan(hand[3, 5:]).all()
        assert not recording.warnings

    @every_version
    def test_cells_of_equal_matrices(self, write: Write, tmp_path: Path) -> None:
        path = write(
            tmp_path / "f", {"counts": cells([one.astype(float) for one in COUNTS]), "bin_width_ms": 20.0}
        )
        recording = read(path)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert codes(recording) == ["axes_guessed"]
        recording = read(path, mapping={"axes": ["neuron", "bin"]})
        np.testing.assert_array_equal(recording.spikes, COUNTS.transpose(0, 2, 1))

    @every_version
    def test_faults_are_told(self, write: Write, tmp_path: Path) -> None:
        ragged = [np.ones((5, 3)), np.ones((6, 4))]
        assert (
            rejected(write(tmp_path / "f", {"spikes": cells(ragged)}), bin_width_s=0.01)
            == "counts_ragged_neurons"
        )
        halves = [np.full((5, 3), 0.5), np.ones((6, 3))]
        assert (
            rejected(write(tmp_path / "f", {"spikes": cells(halves)}), bin_width_s=0.01) == "counts_not_whole"
        )


@pytest.mark.parametrize(("width", "expected"), [(4, ["left", "righ", "up"]), (6, ["left", "right", "up"])])
def test_a_text_of_another_length_than_declared_is_cut_and_told(
    width: int, expected: list[str], tmp_path: Path
) -> None:
    """A char array of 3 × 5 characters that declares 3 × 4, or 3 × 6."""
    path = tmp_path / "f.mat"
    spikes = np.random.default_rng(0).poisson(1.0, (3, 40, 7)).astype(float)
    scipy.io.savemat(
        path, {"spikes": spikes, "bin_width_s": 0.01, "direction": np.array(["left", "right", "up"])}
    )
    data = path.read_bytes()
    declared = np.array([3, 5], "<i4").tobytes()
    assert data.count(declared) == 1
    path.write_bytes(data.replace(declared, np.array([3, width], "<i4").tobytes()))
    found = read_recording(path, ReadOptions())
    np.testing.assert_array_equal(found.spikes, spikes)
    assert found.trial_metadata["direction"] == expected
    assert [one.pointer for one in found.warnings if one.code == "text_cut"] == ["/direction"]
