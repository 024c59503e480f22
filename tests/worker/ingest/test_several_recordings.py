"""Several recordings in one file: joined by splits or by a list, refused, or one of them; their spikes are never behaviour."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from domain.dataset_options import DatasetOptions
from tests.worker.ingest.array_files import WRITE_ARRAYS
from tests.worker.ingest.matlab_files import codes, read, save_v5, save_v7, save_v73, structs
from worker.ingest.problems import RejectedFile
from worker.ingest.readers.split_layout import SPLIT_WORDS, part_of, parts_given

RANDOM = np.random.default_rng(9)
COUNTS = RANDOM.poisson(0.5, (18, 12, 5)).astype(np.uint8)
VALID = np.arange(0, 18, 3)
TRAIN = np.setdiff1d(np.arange(18), VALID)
WIDTH = {"bin_width_s": 0.02}
every_format = pytest.mark.parametrize("file_format", sorted(WRITE_ARRAYS))


def left_out(found: Any) -> dict[str, str]:
    return {w.pointer: w.message for w in found.warnings if w.code == "array_left_out"}


@every_format
class TestArrays:
    @staticmethod
    def write(tmp_path: Path, file_format: str, arrays: dict[str, Any]) -> Path:
        return WRITE_ARRAYS[file_format](tmp_path / "f", arrays)

    @pytest.mark.parametrize(
        "names",
        [
            ("train_{}", "valid_{}"),
            ("{}_train", "{}_val"),
            ("training_{}", "validation_{}"),
            ("train.{}", "valid.{}"),
        ],
    )
    @pytest.mark.parametrize("spikes", ["spikes", "data", "my_counts"])
    def test_names_with_a_split(
        self, names: tuple[str, str], spikes: str, file_format: str, tmp_path: Path
    ) -> None:
        if "." in names[0] and file_format == "npz":
            names = (names[0].replace(".", "/"), names[1].replace(".", "/"))
        arrays: dict[str, Any] = {"depth": np.arange(5.0)}
        for name, rows in zip(names, (TRAIN, VALID), strict=True):
            beside = {spikes: COUNTS[rows], "rt": rows * 0.5, "hand": np.ones((len(rows), 12, 2)) * len(rows)}
            arrays |= {name.format(key): value for key, value in beside.items()}
        found = read(self.write(tmp_path, file_format, arrays), **WIDTH)
        order = np.concatenate([TRAIN, VALID])
        np.testing.assert_array_equal(found.spikes, COUNTS[order])
        np.testing.assert_array_equal(found.split, [0] * 12 + [1] * 6)
        assert found.trial_metadata["rt"] == (order * 0.5).tolist()
        if found.source_format != "lfads_hdf5":
            assert len(set(found.trial_metadata["source"][:12])) == 1
            assert found.trial_metadata["source"][0] != found.trial_metadata["source"][12]
        assert (found.behaviour["hand"][:12] == 12).all()
        assert (found.behaviour["hand"][12:] == 6).all()
        assert found.neuron_metadata["depth"] == [0.0, 1, 2, 3, 4]
        assert sum(one.what == "spikes" for one in found.understood) == 2
        assert codes(found) == []

    @pytest.mark.parametrize("shape", [(-1,), (1, -1), (-1, 1), (1, -1, 1)])
    @pytest.mark.parametrize("base", [0, 1])
    @pytest.mark.parametrize("dtype", [np.int32, np.float64, np.uint8])
    def test_indices_give_the_original_order(
        self, shape: tuple[int, ...], base: int, dtype: Any, file_format: str, tmp_path: Path
    ) -> None:
        arrays = {
            "train_data": COUNTS[TRAIN],
            "valid_data": COUNTS[VALID],
            "train_rt": TRAIN,
            "valid_rt": VALID,
        }
        arrays |= {
            "train_inds": (TRAIN + base).reshape(shape).astype(dtype),
            "valid_inds": (VALID + base).reshape(-1).astype(dtype),
        }
        found = read(self.write(tmp_path, file_format, arrays), **WIDTH)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        np.testing.assert_array_equal(found.split, np.isin(np.arange(18), VALID).astype(int))
        assert found.trial_metadata["rt"] == list(range(18))
        assert codes(found) == []

    @pytest.mark.parametrize("base", [0, 1])
    @pytest.mark.parametrize("name", ["{}_inds", "{}_idx", "{}_trials"])
    def test_indices_beside_one_array_are_its_split(
        self, base: int, name: str, file_format: str, tmp_path: Path
    ) -> None:
        arrays = {name.format("train"): TRAIN[None] + base, name.format("valid"): (VALID + base) * 1.0}
        found = read(self.write(tmp_path, file_format, {"spikes": COUNTS, **arrays}), **WIDTH)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        np.testing.assert_array_equal(found.split, np.isin(np.arange(18), VALID).astype(int))
        assert (found.trial_metadata, found.behaviour) == ({}, {})
        assert codes(found) == []

    def test_indices_that_do_not_name_all_trials_are_left_out(self, file_format: str, tmp_path: Path) -> None:
        arrays = {"train_inds": TRAIN + 1, "valid_inds": VALID[:5]}  # 5 values, as there are neurons
        found = read(self.write(tmp_path, file_format, {"spikes": COUNTS, **arrays}), **WIDTH)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert (found.split == -1).all()
        assert set(left_out(found)) == {"/train_inds", "/valid_inds"}
        assert set(found.neuron_metadata) <= {"index_in_file"}

    def test_masks_give_the_original_order(self, file_format: str, tmp_path: Path) -> None:
        arrays = {"train_data": COUNTS[TRAIN], "valid_data": COUNTS[VALID]}
        arrays |= {
            "train_inds": np.isin(np.arange(18), TRAIN),
            "valid_inds": np.isin(np.arange(18), VALID)[None],
        }
        np.testing.assert_array_equal(read(self.write(tmp_path, file_format, arrays), **WIDTH).spikes, COUNTS)

    @pytest.mark.parametrize(
        "wrong", ["repeated", "negative", "fraction", "short", "nan", "mixed_base", "absent"]
    )
    def test_indices_that_are_wrong_are_told(self, wrong: str, file_format: str, tmp_path: Path) -> None:
        train, valid = TRAIN.astype(float), VALID.astype(float)
        if wrong == "repeated":
            train[0] = train[1]
        elif wrong == "negative":
            train[0] = -1
        elif wrong == "fraction":
            train[0] += 0.5
        elif wrong == "short":
            train = train[:-1]
        elif wrong == "nan":
            train[0] = np.nan
        elif wrong == "mixed_base":
            valid += 1
        arrays = {"train_data": COUNTS[TRAIN], "valid_data": COUNTS[VALID], "train_inds": train}
        arrays |= {} if wrong == "absent" else {"valid_inds": valid}
        found = read(self.write(tmp_path, file_format, arrays), **WIDTH)
        np.testing.assert_array_equal(found.spikes, COUNTS[np.concatenate([TRAIN, VALID])])
        assert "original_order_unclear" in codes(found)
        assert {"/train_inds"} <= set(left_out(found)) <= {"/train_inds", "/valid_inds"}

    def test_axes_in_the_order_of_matlab(self, file_format: str, tmp_path: Path) -> None:
        arrays = {
            "train_data": COUNTS[TRAIN].transpose(2, 1, 0),
            "valid_data": COUNTS[VALID].transpose(2, 1, 0),
            "train_speed": np.repeat(TRAIN[None], 12, 0) * 1.5,
            "valid_speed": np.repeat(VALID[None], 12, 0) * 1.5,
            "unit_id": np.arange(5),
        }
        found = read(self.write(tmp_path, file_format, arrays), **WIDTH)
        order = np.concatenate([TRAIN, VALID])
        np.testing.assert_array_equal(found.spikes, COUNTS[order])
        np.testing.assert_array_equal(found.behaviour["speed"][:, 0, 0], order * 1.5)
        assert found.neuron_metadata["unit_id"] == list(range(5))
        assert codes(found) == []

    @pytest.mark.parametrize("order", ["neuron bin trial", "bin trial neuron", "trial neuron bin"])
    def test_the_axis_in_which_splits_differ_is_that_of_trials(
        self, order: str, file_format: str, tmp_path: Path
    ) -> None:
        axes = order.split()
        turn = [["trial", "bin", "neuron"].index(axis) for axis in axes]
        arrays = {
            "train_data": COUNTS[TRAIN].transpose(turn),
            "valid_data": COUNTS[VALID].transpose(turn),
            "depth": np.arange(5.0),
        }
        found = read(self.write(tmp_path, file_format, arrays), **WIDTH)
        np.testing.assert_array_equal(found.spikes, COUNTS[np.concatenate([TRAIN, VALID])])
        np.testing.assert_array_equal(found.split, [0] * 12 + [1] * 6)
        assert found.neuron_metadata["depth"] == list(range(5))
        (guess,) = found.warnings
        assert guess.code == "axes_guessed"
        other = json.dumps([{"bin": "neuron", "neuron": "bin"}.get(axis, axis) for axis in axes])
        assert other in guess.hint

    def test_recordings_of_a_list_may_lack_neurons(self, file_format: str, tmp_path: Path) -> None:
        arrays = {"a_spikes": COUNTS[TRAIN], "b_spikes": COUNTS[TRAIN][:, :, :4]}
        path = self.write(tmp_path, file_format, arrays)
        with pytest.raises(RejectedFile) as caught:
            read(path, **WIDTH, mapping={"spikes": ["a_spikes", "b_spikes"]})
        assert caught.value.problems[0].code == "splits_differ"

    def test_neurons_that_differ(self, file_format: str, tmp_path: Path) -> None:
        arrays = {"train_spikes": COUNTS[TRAIN], "valid_spikes": COUNTS[VALID][:, :, :4]}
        path = self.write(tmp_path, file_format, arrays)
        with pytest.raises(RejectedFile) as caught:
            read(path, **WIDTH)
        assert caught.value.problems[0].code == "splits_differ"
        assert "mapping.spikes" in caught.value.problems[0].hint
        found = read(path, **WIDTH, mapping={"spikes": "train_spikes"})
        np.testing.assert_array_equal(found.spikes, COUNTS[TRAIN])
        assert set(left_out(found)) == {"/valid_spikes"}

    def test_one_of_two_takes_nothing_of_the_other(self, file_format: str, tmp_path: Path) -> None:
        half = {"train_spikes": COUNTS[:9], "valid_spikes": COUNTS[9:]}
        arrays = half | {"train_rt": np.arange(9), "valid_rt": np.arange(9) + 9}
        found = read(self.write(tmp_path, file_format, arrays), **WIDTH, mapping={"spikes": "valid_spikes"})
        np.testing.assert_array_equal(found.spikes, COUNTS[9:])
        assert found.trial_metadata == {"valid_rt": list(range(9, 18))}
        assert found.behaviour == {}
        assert set(left_out(found)) == {"/train_spikes", "/train_rt"}

    @pytest.mark.parametrize("other", ["other_counts", "raster", "spikes2", "z"])
    def test_counts_beside_spikes_are_no_behaviour(
        self, other: str, file_format: str, tmp_path: Path
    ) -> None:
        arrays = {"spikes": COUNTS[:9], other: COUNTS[9:].astype(np.float64)}
        path = self.write(tmp_path, file_format, arrays)
        found = read(path, **WIDTH)
        assert found.behaviour == {}
        assert "second recording" in left_out(found)[f"/{other}"]
        found = read(path, **WIDTH, mapping={"behaviour": [other]})
        np.testing.assert_array_equal(found.behaviour[other], COUNTS[9:].astype(np.float32))

    def test_a_list_joins_in_its_order(self, file_format: str, tmp_path: Path) -> None:
        names = ("block1_spikes", "block2_spikes")
        arrays = {
            names[0]: COUNTS[:7],
            names[1]: COUNTS[7:],
            "block1_rt": np.arange(7),
            "block2_rt": np.arange(7, 18),
        }
        path = self.write(tmp_path, file_format, arrays)
        for order in (names, names[::-1]):
            found = read(path, **WIDTH, mapping={"spikes": list(order)})
            rows = np.arange(18) if order == names else np.r_[7:18, 0:7]
            np.testing.assert_array_equal(found.spikes, COUNTS[rows])
            assert found.trial_metadata["rt"] == rows.tolist()
            assert found.trial_metadata["source"] == [names[int(row >= 7)] for row in rows]
            assert (found.split == -1).all()
            assert codes(found) == []
        with pytest.raises(RejectedFile) as caught:
            read(path, **WIDTH)
        assert caught.value.problems[0].code == "spikes_ambiguous"
        with pytest.raises(RejectedFile) as caught:
            read(path, **WIDTH, mapping={"spikes": ["block1_spikes", "never"]})
        assert caught.value.problems[0].code == "variable_unknown"

    def test_one_name_in_two_places_is_asked(self, file_format: str, tmp_path: Path) -> None:
        join = "/" if file_format in ("npz", "hdf5") else "."
        arrays = {f"a{join}spikes": COUNTS[:9], f"b{join}spikes": COUNTS[9:], f"b{join}rt": np.arange(9)}
        path = self.write(tmp_path, file_format, arrays)
        with pytest.raises(RejectedFile) as caught:
            read(path, **WIDTH)
        problem = caught.value.problems[0]
        assert problem.code == "spikes_ambiguous"
        assert f'["a{join}spikes", "b{join}spikes"]' in problem.hint
        found = read(path, **WIDTH, mapping={"spikes": f"a{join}spikes"})
        np.testing.assert_array_equal(found.spikes, COUNTS[:9])
        assert found.trial_metadata == {}
        assert found.behaviour == {}
        assert set(left_out(found)) == {f"/b{join}spikes", f"/b{join}rt"}


@pytest.mark.parametrize("shape", [(1, -1), (-1, 1), (-1,)])
@pytest.mark.parametrize("base", [0, 1])
def test_lfads_indices_as_matlab_writes_them(shape: tuple[int, ...], base: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        for name, rows in (("train", TRAIN), ("valid", VALID)):
            file[f"{name}_data"], file[f"{name}_inds"] = COUNTS[rows], (rows + float(base)).reshape(shape)
    found = read(tmp_path / "f", **WIDTH)
    assert found.source_format == "lfads_hdf5"
    np.testing.assert_array_equal(found.spikes, COUNTS)
    np.testing.assert_array_equal(found.split, np.isin(np.arange(18), VALID).astype(int))
    assert codes(found) == []


def test_nlb_indices_as_matlab_writes_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        for name, rows in (("train", TRAIN), ("eval", VALID)):
            file[f"{name}_spikes_heldin"], file[f"{name}_inds"] = COUNTS[rows], rows[None] + 1
    found = read(tmp_path / "f", **WIDTH)
    assert found.source_format == "nlb_hdf5"
    np.testing.assert_array_equal(found.spikes, COUNTS)


every_version = pytest.mark.parametrize("write", [save_v5, save_v7, save_v73])


def trials(rows: np.ndarray, lengths: np.ndarray, turned: bool = True) -> np.ndarray:
    made = []
    for row, length in zip(rows, lengths, strict=True):
        counts = COUNTS[row, :length]
        hand = np.full((length, 2), float(row))
        made.append({"trialId": float(row), "spikes": counts.T if turned else counts, "hand": hand})
    return structs(made)


@every_version
class TestStructsOfCounts:
    RAGGED = np.r_[12, 9, np.full(16, 12)]

    def test_splits_in_their_names(self, write: Any, tmp_path: Path) -> None:
        lengths = self.RAGGED
        made = {
            "train_trial": trials(np.arange(12), lengths[:12]),
            "test_trial": trials(np.arange(12, 18), lengths[12:]),
        }
        found = read(write(tmp_path / "f", made), **WIDTH)
        expected = COUNTS * (np.arange(12)[None, :, None] < lengths[:, None, None])
        np.testing.assert_array_equal(found.spikes, expected)
        np.testing.assert_array_equal(found.trial_length_bins, lengths)
        np.testing.assert_array_equal(found.split, [0] * 12 + [-1] * 6)
        assert found.trial_metadata["trialId"] == list(range(18))
        assert set(found.trial_metadata["source"]) == {"train_trial.spikes", "test_trial.spikes"}
        assert list(found.behaviour) == ["hand"]
        np.testing.assert_array_equal(found.behaviour["hand"][:, 0, 0], np.arange(18))

    def test_the_guess_of_bins_is_told(self, write: Any, tmp_path: Path) -> None:
        full = np.full(18, 12)
        made = {"train": trials(TRAIN, full[:12]), "valid": trials(VALID, full[:6])}
        for made_of in made.values():
            assert made_of.dtype.names == ("trialId", "spikes", "hand")
        found = read(write(tmp_path / "f", made), **WIDTH)
        np.testing.assert_array_equal(found.spikes, COUNTS[np.concatenate([TRAIN, VALID])])
        np.testing.assert_array_equal(found.split, [0] * 12 + [1] * 6)
        assert codes(found) == ["axes_guessed"]

    def test_no_split_is_asked_and_a_list_joins(self, write: Any, tmp_path: Path) -> None:
        full = np.full(18, 12)
        path = write(
            tmp_path / "f", {"a": trials(np.arange(9), full[:9]), "b": trials(np.arange(9, 18), full[:9])}
        )
        with pytest.raises(RejectedFile) as caught:
            read(path, **WIDTH)
        assert caught.value.problems[0].code == "spikes_ambiguous"
        axes = ["neuron", "bin"]
        found = read(path, **WIDTH, mapping={"spikes": ["b.spikes", "a.spikes"], "axes": axes})
        np.testing.assert_array_equal(found.spikes, COUNTS[np.r_[9:18, 0:9]])
        assert found.trial_metadata["trialId"] == [*range(9, 18), *range(9)]
        assert codes(found) == []
        found = read(path, **WIDTH, mapping={"spikes": "b.spikes", "axes": axes})
        np.testing.assert_array_equal(found.spikes, COUNTS[9:])
        assert list(found.behaviour) == ["hand"]
        assert found.trial_metadata == {"trialId": list(range(9, 18))}
        np.testing.assert_array_equal(found.behaviour["hand"][:, 0, 0], np.arange(9, 18))
        assert set(left_out(found)) == {"/a.spikes", "/a.trialId", "/a.hand"}


@every_version
def test_a_second_recording_of_spike_times_is_told(write: Any, tmp_path: Path) -> None:
    def of(rows: range) -> np.ndarray:
        made = [{"spike_times": np.linspace(0.1, 0.9, 3 + row % 4), "rt": float(row)} for row in rows]
        return structs(made)

    path = write(tmp_path / "f", {"a_trial": of(range(6)), "b_trial": of(range(6, 12))})
    found = read(path, bin_width_s=0.1)
    assert found.trial_metadata["rt"] == [0, 1, 2, 3, 4, 5]
    assert set(left_out(found)) == {"/b_trial.spike_times", "/b_trial.rt"}
    assert "second recording" in left_out(found)["/b_trial.spike_times"]
    found = read(path, bin_width_s=0.1, mapping={"spike_times": "b_trial.spike_times"})
    assert found.trial_metadata["rt"] == [6, 7, 8, 9, 10, 11]


def test_options_that_mean_the_same_are_equal() -> None:
    one = DatasetOptions.model_validate({"mapping": {"spikes": ["a"]}})
    assert one.canonical() == DatasetOptions.model_validate({"mapping": {"spikes": "a"}}).canonical()
    two = DatasetOptions.model_validate({"mapping": {"spikes": ["a", "b"]}})
    assert two.canonical() == {"mapping": {"spikes": ["a", "b"]}}
    for wrong in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="spikes"):
            DatasetOptions.model_validate({"mapping": {"spikes": wrong}})


def test_words_of_names() -> None:
    parts = {
        "train_data": ("train", "data"),
        "trainData": ("train", "Data"),
        "counts_val": ("valid", "counts"),
        "test/spikes": ("test", "spikes"),
        "train": ("train", ""),
        "a.validation.x": ("valid", "a.x"),
        "train_trial.spikes": ("train", "trial.spikes"),
        "train_reach time": ("train", "reach time"),
        "train_last_test": ("train", "last_test"),
    }
    assert {name: part_of(name, SPLIT_WORDS) for name in parts} == parts
    for name in ("trial", "strain_data", "value", "my_train_data", "contest", "_"):
        assert part_of(name, SPLIT_WORDS) is None
    layout = parts_given(["s_train.x", "s_valid.x"])
    assert (layout.splits, list(layout.spikes)) == ({"train": 0, "valid": 1}, ["train", "valid"])
    assert parts_given(["x", "a.b"]).words == {}
