"""The contract of readers of named arrays, and what is particular to each."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.worker.ingest.ingest_examples import example_recording, write_hdf5, write_lfads_hdf5, write_npz
from worker.ingest.problems import RejectedFile
from worker.ingest.quality_control.checks import examine
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions
from worker.ingest.recording import Recording

WRITERS = {"npz": write_npz, "lfads_hdf5": write_lfads_hdf5, "hdf5": write_hdf5}


def assert_same(found: Recording, expected: Recording) -> None:
    assert found.bin_width_s == pytest.approx(expected.bin_width_s)
    np.testing.assert_array_equal(found.spikes, expected.spikes)
    assert found.spikes.dtype == expected.spikes.dtype
    np.testing.assert_array_equal(found.trial_length_bins, expected.trial_length_bins)
    np.testing.assert_array_equal(found.split, expected.split)
    assert (found.trial_length_bins.dtype, found.split.dtype) == (np.int64, np.int8)
    assert found.trial_metadata == expected.trial_metadata
    assert set(found.behaviour) == set(expected.behaviour)
    for name, array in expected.behaviour.items():
        np.testing.assert_array_equal(found.behaviour[name], array)
        assert found.behaviour[name].dtype == np.float32
    assert (found.true_rates_hz is None) == (expected.true_rates_hz is None)
    if expected.true_rates_hz is not None:
        np.testing.assert_allclose(found.true_rates_hz, expected.true_rates_hz)
    np.testing.assert_array_equal(found.external_inputs, expected.external_inputs)


@pytest.mark.parametrize("file_format", sorted(WRITERS))
class TestReadersOfArrays:
    """What each reader of named arrays must keep, whatever its format."""

    def test_gives_back_what_was_written(self, file_format: str, tmp_path: Path) -> None:
        expected = example_recording()
        path = WRITERS[file_format](tmp_path / "file.npz", expected)
        found = READERS[file_format].read(path, ReadOptions())
        assert_same(found, expected)
        assert found.source_format == file_format
        assert not found.warnings
        assert found.notes or found.understood

    def test_survives_saving_and_loading(self, file_format: str, tmp_path: Path) -> None:
        expected = example_recording()
        path = WRITERS[file_format](tmp_path / "file.npz", expected)
        read_recording(path, ReadOptions()).save(tmp_path / "saved")
        loaded = Recording.load(tmp_path / "saved")
        assert_same(loaded, expected)
        assert examine(loaded).total_spikes == int(expected.spikes.sum())

    def test_recognises_by_content_and_not_by_name(self, file_format: str, tmp_path: Path) -> None:
        path = WRITERS[file_format](tmp_path / "file.npz", example_recording()).rename(tmp_path / "odd.name")
        assert next(name for name, reader in READERS.items() if reader.recognises(path)) == file_format
        assert read_recording(path, ReadOptions()).source_format == file_format
        (tmp_path / "text.h5").write_text("trial,bin,neuron\n")
        assert not READERS[file_format].recognises(tmp_path / "text.h5")

    def test_the_bin_width_of_the_upload_goes_first(self, file_format: str, tmp_path: Path) -> None:
        path = WRITERS[file_format](tmp_path / "file.npz", example_recording(), bin_width_s=0.04)
        found = read_recording(path, ReadOptions(bin_width_s=0.05))
        assert found.bin_width_s == 0.05
        assert [warning.code for warning in found.warnings] == ["bin_width_overridden"]

    def test_a_bin_width_is_needed(self, file_format: str, tmp_path: Path) -> None:
        bare = example_recording()
        bare.true_rates_hz = None
        path = WRITERS[file_format](tmp_path / "file.npz", bare, bin_width_s=None)
        with pytest.raises(RejectedFile) as caught:
            read_recording(path, ReadOptions())
        assert caught.value.problems[0].code == "bin_width_missing"
        assert "0.010 for 10 ms" in caught.value.problems[0].hint
        assert read_recording(path, ReadOptions(bin_width_s=0.02)).bin_width_s == 0.02

    def test_a_time_axis_tells_the_bin_width(self, file_format: str, tmp_path: Path) -> None:
        recording = example_recording()
        path = WRITERS[file_format](
            tmp_path / "f.npz", recording, bin_width_s=None, time_s=np.arange(20) * 0.05 - 0.3
        )
        found = read_recording(path, ReadOptions())
        assert found.bin_width_s == pytest.approx(0.05)
        assert [warning.code for warning in found.warnings] == ["bin_width_derived"]
        path = WRITERS[file_format](tmp_path / "f.npz", recording, time_s=np.arange(20) * 50.0)
        assert [warning.code for warning in read_recording(path, ReadOptions()).warnings] == [
            "time_axis_disagrees"
        ]

    def test_true_rates_in_hz_tell_the_bin_width(self, file_format: str, tmp_path: Path) -> None:
        recording = example_recording(trials=60, bins=40)
        path = WRITERS[file_format](tmp_path / "file.npz", recording, bin_width_s=None)
        found = read_recording(path, ReadOptions())
        assert found.bin_width_s == 0.05
        assert "bin_width_derived" in [warning.code for warning in found.warnings]

    def test_refuses_more_bytes_than_allowed(self, file_format: str, tmp_path: Path) -> None:
        path = WRITERS[file_format](tmp_path / "file.npz", example_recording())
        with pytest.raises(RejectedFile) as caught:
            read_recording(path, ReadOptions(max_expanded_bytes=10_000))
        assert caught.value.problems[0].code == "file_too_large_expanded"

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file_is_called_damaged(self, file_format: str, share: float, tmp_path: Path) -> None:
        path = WRITERS[file_format](tmp_path / "file.npz", example_recording())
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(RejectedFile) as caught:
            read_recording(path, ReadOptions())
        assert caught.value.problems[0].code == "file_damaged"

    def test_nothing_is_dropped_silently(self, file_format: str, tmp_path: Path) -> None:
        recording = example_recording()
        path = WRITERS[file_format](tmp_path / "file.npz", recording, weights=np.zeros((3, 5)))
        (warning,) = read_recording(path, ReadOptions()).warnings
        assert warning.code == "array_left_out"
        assert "`weights`, of shape (3, 5)" in warning.message

    def test_counts_above_255_take_uint16(self, file_format: str, tmp_path: Path) -> None:
        recording = example_recording()
        recording.true_rates_hz = None
        recording.spikes = recording.spikes.astype(np.uint16)
        recording.spikes[-1, 0, 0] = 300
        path = WRITERS[file_format](tmp_path / "file.npz", recording)
        assert_same(read_recording(path, ReadOptions()), recording)


class TestNpz:
    @pytest.mark.parametrize("dtype", ["f4", ">i2", "bool", "u8", "f2"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_any_type_and_order_of_counts(self, dtype: str, order: str, tmp_path: Path) -> None:
        recording = example_recording()
        recording.spikes = np.minimum(recording.spikes, 1)
        path = write_npz(
            tmp_path / "f.npz", recording, spikes=np.asarray(recording.spikes, dtype=dtype, order=order)
        )
        np.testing.assert_array_equal(read_recording(path, ReadOptions()).spikes, recording.spikes)

    def test_only_spikes(self, tmp_path: Path) -> None:
        path = tmp_path / "f.npz"
        np.savez(path, spikes=np.ones((4, 5, 2), int), dt=0.01)
        found = read_recording(path, ReadOptions())
        assert found.bin_width_s == 0.01
        assert (found.trial_length_bins == 5).all()
        assert (found.split == -1).all()

    def test_a_width_in_milliseconds_by_its_name(self, tmp_path: Path) -> None:
        path = write_npz(tmp_path / "f.npz", example_recording(), bin_width_s=None, bin_width_ms=50)
        assert read_recording(path, ReadOptions()).bin_width_s == pytest.approx(0.05)

    def test_behaviour_without_components(self, tmp_path: Path) -> None:
        recording = example_recording()
        path = write_npz(tmp_path / "f.npz", recording, speed=recording.behaviour["position"][:, :, 0])
        np.testing.assert_array_equal(
            read_recording(path, ReadOptions()).behaviour["speed"], recording.behaviour["position"][:, :, :1]
        )

    @pytest.mark.parametrize("unit", ["hz", "counts", "neither"])
    def test_true_rates_in_an_unknown_unit(self, unit: str, tmp_path: Path) -> None:
        recording = example_recording(trials=40)
        assert recording.true_rates_hz is not None
        scale = {"hz": 1.0, "counts": recording.bin_width_s, "neither": 1000.0}[unit]
        path = write_npz(
            tmp_path / "f.npz", recording, true_rates_hz=None, true_rates=recording.true_rates_hz * scale
        )
        found = read_recording(path, ReadOptions())
        if unit == "neither":
            assert found.true_rates_hz is None
            assert [warning.code for warning in found.warnings] == ["true_rates_unit_unclear"]
        else:
            np.testing.assert_allclose(found.true_rates_hz, recording.true_rates_hz, rtol=1e-5)
            assert not found.warnings

    def test_numbers_for_the_split(self, tmp_path: Path) -> None:
        recording = example_recording()
        path = write_npz(tmp_path / "f.npz", recording, split=recording.split)
        np.testing.assert_array_equal(read_recording(path, ReadOptions()).split, recording.split)

    def test_a_name_that_is_a_path_is_left_out(self, tmp_path: Path) -> None:
        path = write_npz(tmp_path / "f.npz", example_recording(), **{"../../etc/x": np.zeros(12)})
        found = read_recording(path, ReadOptions())
        assert "../../etc/x" not in found.trial_metadata
        assert [warning.code for warning in found.warnings] == ["array_left_out"]


class TestLfadsHdf5:
    def test_trials_without_indices_come_split_by_split(self, tmp_path: Path) -> None:
        recording = example_recording()
        no_indices = {f"{split}_inds": None for split in ("train", "valid", "test")}
        found = read_recording(write_lfads_hdf5(tmp_path / "f.h5", recording, **no_indices), ReadOptions())
        order = np.concatenate([np.flatnonzero(recording.split == code) for code in (0, 1, -1)])
        np.testing.assert_array_equal(found.spikes, recording.spikes[order])
        np.testing.assert_array_equal(found.split, recording.split[order])

    def test_indices_with_gaps_still_give_the_order(self, tmp_path: Path) -> None:
        recording = example_recording()
        gapped = np.arange(12) * 10 + 1
        indices = {
            f"{name}_inds": gapped[recording.split == code]
            for code, name in ((0, "train"), (1, "valid"), (-1, "test"))
        }
        found = read_recording(write_lfads_hdf5(tmp_path / "f.h5", recording, **indices), ReadOptions())
        assert_same(found, recording)

    def test_indices_that_repeat_are_not_used(self, tmp_path: Path) -> None:
        recording = example_recording()
        path = write_lfads_hdf5(
            tmp_path / "f.h5", recording, train_inds=np.zeros(int((recording.split == 0).sum()))
        )
        assert "original_order_unclear" in [w.code for w in read_recording(path, ReadOptions()).warnings]

    def test_reconstructed_data_with_more_neurons_hold_everything(self, tmp_path: Path) -> None:
        recording = example_recording()
        path = write_lfads_hdf5(tmp_path / "f.h5", recording)
        with h5py.File(path, "a") as file:
            for split in ("train", "valid"):
                file.move(f"{split}_data", f"{split}_recon_data")
                file[f"{split}_encod_data"] = file[f"{split}_recon_data"][:, :15, :5]
            file.move("test_data", "test_encod_data")
        found = read_recording(path, ReadOptions())
        assert_same(found, recording)
        assert {warning.code for warning in found.warnings} == {"held_out_used_as_input", "array_left_out"}
        left_out = [one.pointer for one in found.warnings if one.code == "array_left_out"]
        assert left_out == ["/train_encod_data", "/valid_encod_data"]

    def test_test_trials_of_another_shape_are_left_out(self, tmp_path: Path) -> None:
        recording = example_recording()
        path = write_lfads_hdf5(tmp_path / "f.h5", recording, test_data=np.zeros((2, 20, 3)))
        found = read_recording(path, ReadOptions())
        np.testing.assert_array_equal(found.spikes, recording.spikes[recording.split >= 0])
        assert "test_trials_left_out" in [warning.code for warning in found.warnings]

    def test_behaviour_missing_in_one_split(self, tmp_path: Path) -> None:
        recording = example_recording()
        found = read_recording(
            write_lfads_hdf5(tmp_path / "f.h5", recording, test_position=None, test_direction=None),
            ReadOptions(),
        )
        assert np.isnan(found.behaviour["position"][recording.split == -1]).all()
        assert found.trial_metadata["direction"][4] is None
        assert [w.code for w in found.warnings] == ["array_missing_in_split"] * 2

    def test_true_rates_that_one_split_lacks_are_left_out(self, tmp_path: Path) -> None:
        path = write_lfads_hdf5(tmp_path / "f.h5", example_recording(), test_truth=None)
        found = read_recording(path, ReadOptions())
        assert found.true_rates_hz is None
        assert "no true rates for test trials" in found.warnings[0].message

    def test_without_validation_trials_a_warning(self, tmp_path: Path) -> None:
        path = tmp_path / "f.h5"
        with h5py.File(path, "w") as file:
            file["train_data"] = np.ones((5, 4, 3))
            file.attrs["dt"] = 0.02
        found = read_recording(path, ReadOptions())
        assert found.bin_width_s == 0.02
        assert (found.split == 0).all()
        assert [warning.code for warning in found.warnings] == ["split_without_validation"]

    def test_data_sets_in_groups_are_named(self, tmp_path: Path) -> None:
        path = write_lfads_hdf5(tmp_path / "f.h5", example_recording(), **{"session/notes": np.zeros(3)})
        (warning,) = read_recording(path, ReadOptions()).warnings
        assert "session/notes" in warning.message

    def test_many_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.ingest.rows.BLOCK_BYTES", 2000)
        recording = example_recording(trials=50)
        assert_same(read_recording(write_lfads_hdf5(tmp_path / "f.h5", recording), ReadOptions()), recording)
        assert_same(read_recording(write_npz(tmp_path / "f.npz", recording), ReadOptions()), recording)


def write_ragged(file: h5py.File, name: str, rows: int) -> None:
    """Write values of variable length, which are not read."""
    ragged = file.create_dataset(name, (rows,), h5py.vlen_dtype(np.int32))
    for row in range(rows):
        ragged[row] = np.arange(row % 3)


@pytest.mark.parametrize("layout", ["hdf5", "lfads", "npz", "damaged npz"])
def test_one_unreadable_column_is_left_out(layout: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    spikes, path = random.poisson(1.0, (20, 10, 4)).astype(np.uint8), tmp_path / "f"
    words, target = ["left", "right"] * 10, np.arange(20) % 3
    if layout == "hdf5":
        with h5py.File(path, "w") as file:
            file["spikes"], file["bin_width_s"], file["target"] = spikes, 0.01, target
            write_ragged(file, "words", 20)
    elif layout == "lfads":
        with h5py.File(path, "w") as file:
            file["train_data"], file["valid_data"] = spikes[:15], spikes[15:]
            write_ragged(file, "train_words", 15)
            write_ragged(file, "valid_words", 5)
            file["train_target"], file["valid_target"] = target[:15], target[15:]
    else:
        with path.open("wb") as whole:
            np.savez(whole, spikes=spikes, bin_width_s=0.01, target=target, words=np.array(words, "S5"))
        if layout == "npz":
            with path.open("wb") as whole:
                np.savez(
                    whole, spikes=spikes, bin_width_s=0.01, target=target, words=np.array([*words[1:], None])
                )
        else:
            data = path.read_bytes()
            place = data.rindex(b"left\0right")
            path.write_bytes(data[:place] + b"L" + data[place + 1 :])  # its checksum is wrong
    found = read_recording(path, ReadOptions(bin_width_s=0.01))
    np.testing.assert_array_equal(found.spikes, spikes)
    assert found.trial_metadata["target"] == target.tolist()
    assert "words" not in found.trial_metadata
    left = [one for one in found.warnings if one.code == "array_left_out"]
    assert left
    assert all("words" in one.message for one in left)
