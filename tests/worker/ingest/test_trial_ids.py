"""Which value belongs to which trial, where each spike names its trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from domain.dataset_options import DatasetOptions
from tests.worker.ingest.flat_files import (
    ARRAYS,
    TABLES,
    codes,
    flat_spikes,
    read,
    spikes_of_neuron_3,
    write_flat,
    write_table,
)
from tests.worker.ingest.matlab_files import cells, save_v5, save_v73
from worker.ingest.problems import RejectedFile
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID
from worker.ingest.trial_ids import find_trials

IDS = {
    "from 0": list(range(12)),
    "from 1": list(range(1, 13)),
    "from 101": list(range(101, 113)),
    "with a gap": [*range(1, 6), *range(9, 16)],
    "negative": list(range(-3, 9)),
    "far apart": [3, 1000, 10**9, *range(10**9 + 5, 10**9 + 14)],
    "texts": ["late", *(f"t{number}" for number in range(2, 13))],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("file_format", [*ARRAYS, *TABLES])
def test_as_many_values_as_ids_belong_to_them_in_order(
    file_format: str, ids: list[Any], tmp_path: Path
) -> None:
    of_trials = {"label": np.arange(1, 13), "word": np.array([f"w{number}" for number in range(1, 13)])}
    found = read(write_flat(file_format, tmp_path / "f", flat_spikes(ids), of_trials))
    assert found.trial_metadata["label"] == spikes_of_neuron_3(found) == list(range(1, 13))
    assert found.trial_metadata["word"] == [f"w{number}" for number in range(1, 13)]
    assert found.trial_metadata["trial_id"] == ids
    assert set(codes(found)) <= ({"trial_ids_ambiguous"} if ids == IDS["texts"] else set())


@pytest.mark.parametrize("file_format", [*ARRAYS, *TABLES])
def test_silent_trials_between_others_are_no_trials_unless_the_request_says_so(
    file_format: str, tmp_path: Path
) -> None:
    path = write_flat(file_format, tmp_path / "f", flat_spikes([1, 2, 5, 6]), {"label": np.arange(1, 5)})
    found = read(path)
    assert found.trial_metadata["trial_id"] == [1, 2, 5, 6]
    (note,) = [note for note in found.notes if "trials.ids" in note]
    assert "ids 3, 4" in note
    whole = read(path, trials={"ids": [1, 7]})
    assert whole.trial_metadata["trial_id"] == list(range(1, 8))
    assert spikes_of_neuron_3(whole) == [1, 2, 0, 0, 3, 4, 0]
    if file_format in TABLES:
        assert whole.trial_metadata["label"] == [1, 2, None, None, 3, 4, None]
    else:
        assert "label" not in whole.trial_metadata
        (warning,) = [one for one in whole.warnings if one.code == "array_left_out"]
        assert "4 values" in warning.message
        assert "7 trials" in warning.message
    with pytest.raises(RejectedFile, match="trial_ids_outside"):
        read(path, trials={"ids": [1, 2]})


@pytest.mark.parametrize("file_format", ARRAYS)
class TestValuesForSilentTrials:
    def test_one_value_for_each_number_in_the_range(self, file_format: str, tmp_path: Path) -> None:
        of_trials = {"label": np.arange(3, 10)}
        path = write_flat(file_format, tmp_path / "f", flat_spikes([3, 4, 6, 9]), of_trials)
        found = read(path)
        assert found.trial_metadata["trial_id"] == list(range(3, 10))
        assert found.trial_metadata["label"] == list(range(3, 10))
        assert spikes_of_neuron_3(found) == [1, 2, 0, 3, 0, 0, 4]

    def test_two_readings_are_told(self, file_format: str, tmp_path: Path) -> None:
        path = write_flat(file_format, tmp_path / "f", flat_spikes(range(1, 10)), {"label": np.arange(10)})
        found = read(path)
        assert found.trial_metadata["trial_id"] == list(range(1, 11))
        assert spikes_of_neuron_3(found) == [*range(1, 10), 0]
        (warning,) = [one for one in found.warnings if one.code == "trial_ids_ambiguous"]
        assert "trials.ids: [0, 9]" in warning.hint
        other = read(path, trials={"ids": [0, 9]})
        assert other.trial_metadata["label"] == other.trial_metadata["trial_id"] == list(range(10))
        assert spikes_of_neuron_3(other) == [0, *range(1, 10)]
        assert "trial_ids_ambiguous" not in codes(other)

    def test_the_files_own_ids_tell_by_value(self, file_format: str, tmp_path: Path) -> None:
        of_trials = {"trial_ids": np.array([5, 4, 3, 2, 1, 0]), "label": np.arange(6) * 10}
        path = write_flat(file_format, tmp_path / "f", flat_spikes([2, 3, 5]), of_trials)
        found = read(path)
        assert found.trial_metadata["trial_id"] == [5, 4, 3, 2, 1, 0]
        assert found.trial_metadata["label"] == [0, 10, 20, 30, 40, 50]
        assert spikes_of_neuron_3(found) == [3, 0, 2, 1, 0, 0]
        assert codes(found) == []

    def test_spikes_of_no_trial_of_the_file(self, file_format: str, tmp_path: Path) -> None:
        of_trials = {"trial_id": np.arange(1, 8), "label": np.arange(1, 8)}
        path = write_flat(file_format, tmp_path / "f", flat_spikes([-1, 1, 2, 4]), of_trials)
        found = read(path)
        assert found.trial_metadata["label"] == [*range(1, 8), None]
        assert found.trial_metadata["trial_id"] == [*range(1, 8), -1]
        assert spikes_of_neuron_3(found) == [2, 3, 0, 4, 0, 0, 0, 1]
        assert codes(found)[0] == "trial_ids_ambiguous"

    def test_values_that_fit_nothing_are_left_out(self, file_format: str, tmp_path: Path) -> None:
        of_trials = {
            "label": np.arange(1, 10),
            "cue": np.arange(7.0),
            "few": np.arange(4.0),
            "depth": [1.5, 2.5],
        }
        path = write_flat(file_format, tmp_path / "f", flat_spikes(range(1, 10)), of_trials)
        found = read(path)
        assert set(found.trial_metadata) == {"label", "trial_id"}
        assert {one.pointer: one.code for one in found.warnings} == {
            "/cue": "array_left_out",
            "/few": "array_left_out",
        }
        assert all("9 trials" in one.message for one in found.warnings)
        assert found.neuron_metadata == {"neuron_id": [3, 7], "depth": [1.5, 2.5]}

    def test_one_value_for_each_spike_is_no_metadata(self, file_format: str, tmp_path: Path) -> None:
        spikes = flat_spikes(range(1, 19))
        beside = {"amplitudes": np.arange(len(spikes["trial"])) * 1.5, "label": np.arange(1, 19)}
        for columns in (beside, {"amplitudes": beside["amplitudes"]}):
            found = read(write_flat(file_format, tmp_path / "f", spikes, columns))
            assert found.trial_metadata["trial_id"] == list(range(1, 19))
            assert set(found.trial_metadata) == {"trial_id", *columns} - {"amplitudes"}
            (warning,) = found.warnings
            assert (warning.code, warning.pointer) == ("array_left_out", "/amplitudes")
            assert "one value for each spike" in warning.message

    @pytest.mark.parametrize("neurons", [5, 9])
    def test_values_of_neurons_do_not_tell_the_number_of_trials(
        self, file_format: str, neurons: int, tmp_path: Path
    ) -> None:
        spikes = flat_spikes([1, 2, 4, 5, 7])
        for column, value in (("spike_times", 0.005), ("trial", 1)):
            spikes[column] = np.append(spikes[column], [value] * neurons)
        spikes["neuron"] = np.append(spikes["neuron"], np.arange(neurons)) % neurons
        beside = {"quality": np.arange(neurons) * 0.5, "target": np.arange(7) * 10}
        found = read(write_flat(file_format, tmp_path / "f", spikes, beside))
        assert found.trial_metadata["trial_id"] == list(range(1, 8))
        assert found.trial_metadata["target"] == [0, 10, 20, 30, 40, 50, 60]
        assert found.neuron_metadata["quality"] == beside["quality"].tolist()
        assert codes(found) == []

    @pytest.mark.parametrize("first", [0, 1, 101])
    def test_indices_of_a_split(self, file_format: str, first: int, tmp_path: Path) -> None:
        """By place from 0 or 1, or by the id of the trial: not metadata of two neurons or of trials."""
        ids = range(101, 119) if first > 1 else range(1, 19)
        train = np.array([place for place in range(18) if place not in (4, 9)])
        beside = {"train_inds": train + first, "valid_inds": np.array([9, 4]) + first}
        found = read(write_flat(file_format, tmp_path / "f", flat_spikes(ids), beside))
        assert np.flatnonzero(found.split == SPLIT_VALID).tolist() == [4, 9]
        assert np.flatnonzero(found.split == SPLIT_TRAIN).tolist() == train.tolist()
        assert set(found.trial_metadata) == {"trial_id", "split"}
        assert set(found.neuron_metadata) == {"neuron_id"}
        assert codes(found) == []

    def test_indices_that_are_no_split(self, file_format: str, tmp_path: Path) -> None:
        twice = {"train_inds": np.arange(1, 17), "valid_inds": np.array([1, 2])}
        reversed_ids = {"trial_id": np.arange(5, 0, -1), "train_inds": [1, 2, 3], "valid_inds": [4, 5]}
        for number, beside in ((18, twice), (5, reversed_ids)):
            spikes = flat_spikes(range(1, number + 1))
            found = read(write_flat(file_format, tmp_path / "f", spikes, beside))
            assert set(found.split) == {SPLIT_NOT_GIVEN}
            assert set(found.neuron_metadata) == {"neuron_id"}
            assert codes(found) == ["array_left_out"] * 2
            assert all("indices of a split" in warning.message for warning in found.warnings)

    @pytest.mark.parametrize("as_text", [str, "{:03d}".format])
    @pytest.mark.parametrize("text_in", ["spikes", "columns"])
    def test_ids_as_text_and_as_numbers_match_by_value(
        self, file_format: str, text_in: str, as_text: Callable[[int], str], tmp_path: Path
    ) -> None:
        ids, units = list(range(18, 0, -1)), [11, 7, 3]
        spikes = flat_spikes(range(1, 19))
        own: dict[str, Any] = {"trial_id": np.array(ids), "unit_ids": np.array(units)}
        texts = {name: np.array([as_text(int(one)) for one in values]) for name, values in own.items()}
        if text_in == "spikes":
            for name in ("trial", "neuron"):
                spikes[name] = np.array([as_text(int(one)) for one in spikes[name]])
        else:
            own = texts
        beside = {**own, "label": np.array(ids) * 10, "depth": np.array(units) * 1.5}
        found = read(write_flat(file_format, tmp_path / "f", spikes, beside))
        assert found.trial_metadata["label"] == [one * 10 for one in ids]
        assert np.asarray(found.spikes).sum(axis=1)[:, 0].tolist() == ids
        expected = [as_text(one) for one in ids] if text_in == "spikes" else ids
        assert found.trial_metadata["trial_id"] == expected
        neuron_ids = found.neuron_metadata["neuron_id"]
        assert [int(str(one)) for one in neuron_ids] == [3, 7, 11]
        assert found.neuron_metadata["depth"] == [4.5, 10.5, 16.5]
        assert np.asarray(found.spikes).sum(axis=(0, 1)).tolist() == [171, 18, 0]
        assert codes(found) == []

    def test_ids_that_do_not_match_are_told(self, file_format: str, tmp_path: Path) -> None:
        beside = {"trial_id": np.array(["a", "b", "c"]), "unit_ids": np.array(["n", "m"])}
        found = read(write_flat(file_format, tmp_path / "f", flat_spikes([1, 2, 3]), beside))
        assert found.trial_metadata["trial_id"] == ["a", "b", "c"]
        assert found.neuron_metadata["unit_ids"] == ["n", "m"]
        warnings = {one.pointer: one.code for one in found.warnings}
        assert warnings == {"/trial_id": "trial_ids_ambiguous", "/unit_ids": "neuron_ids_ambiguous"}

    def test_neurons_with_text_labels(self, file_format: str, tmp_path: Path) -> None:
        """`u2` comes before `u10`; values of neurons without their labels are told."""
        spikes = flat_spikes(range(1, 4))
        number = np.arange(len(spikes["trial"]) * 4)
        spikes = {name: np.tile(values, 4) for name, values in spikes.items()}
        spikes["neuron"] = np.array([f"u{one}" for one in number % 12])
        beside = {"depth": np.arange(12) * 10.0}
        found = read(write_flat(file_format, tmp_path / "f", spikes, beside))
        assert found.neuron_metadata["neuron_id"] == [f"u{one}" for one in range(12)]
        assert found.neuron_metadata["depth"] == beside["depth"].tolist()
        (warning,) = found.warnings
        assert (warning.code, warning.pointer) == ("neuron_ids_ambiguous", "/depth")
        assert "as text differs (u0, u1, u10, u11 and 8 more)" in warning.message
        assert "unit_ids" in warning.hint
        labelled = {**beside, "unit_ids": np.array([f"u{one}" for one in range(11, -1, -1)])}
        found = read(write_flat(file_format, tmp_path / "f", spikes, labelled))
        assert found.neuron_metadata["depth"] == beside["depth"].tolist()[::-1]
        assert codes(found) == []

    def test_as_many_spikes_as_trials(self, file_format: str, tmp_path: Path) -> None:
        spikes = {name: values[:1].repeat(6) for name, values in flat_spikes([1]).items()}
        spikes["trial"] = np.arange(6)
        found = read(write_flat(file_format, tmp_path / "f", spikes, {"label": np.arange(6) * 10}))
        assert found.trial_metadata["label"] == [0, 10, 20, 30, 40, 50]

    def test_trials_that_lie_in_another_order_in_the_file(self, file_format: str, tmp_path: Path) -> None:
        path = write_flat(file_format, tmp_path / "f", flat_spikes([8, 2, 5]), {"label": np.array([1, 2, 3])})
        found = read(path)
        assert found.trial_metadata["trial_id"] == [2, 5, 8]
        assert found.trial_metadata["label"] == [1, 2, 3]
        (warning,) = [one for one in found.warnings if one.code == "trial_ids_ambiguous"]
        assert '"file"' in warning.hint
        other = read(path, trials={"ids": "file"})
        assert other.trial_metadata["trial_id"] == [8, 2, 5]
        assert other.trial_metadata["label"] == spikes_of_neuron_3(other) == [1, 2, 3]
        assert codes(other) == []

    def test_values_of_neurons_follow_the_files_own_labels(self, file_format: str, tmp_path: Path) -> None:
        beside = {"unit_ids": np.array([7, 11, 3]), "depth": np.array([70.0, 110.0, 30.0])}
        found = read(write_flat(file_format, tmp_path / "f", flat_spikes(range(5)), beside))
        assert found.neuron_metadata["neuron_id"] == [3, 7, 11]
        assert found.neuron_metadata["depth"] == [30.0, 70.0, 110.0]
        assert np.asarray(found.spikes).sum(axis=(0, 1)).tolist() == [15, 5, 0]

    def test_times_of_the_session(self, file_format: str, tmp_path: Path) -> None:
        spikes = flat_spikes(range(101, 113))
        start_s = 5.0 * np.arange(1, 13)
        spikes["spike_times"] = spikes["spike_times"] + start_s[spikes["trial"] - 101]
        long = {name: np.tile(values, 4) for name, values in spikes.items()}
        path = write_flat(file_format, tmp_path / "f", long, {"label": np.arange(1, 13)})
        with pytest.raises(RejectedFile, match="trial_times_go_on"):
            read(path)
        bounds = {"trial_start": start_s, "trial_stop": start_s + 0.5, "label": np.arange(1, 13)}
        found = read(write_flat(file_format, tmp_path / "f", spikes, bounds))
        assert found.trial_start_s is not None
        assert found.trial_start_s.tolist() == start_s.tolist()
        assert found.trial_metadata["label"] == spikes_of_neuron_3(found) == list(range(1, 13))


@pytest.mark.parametrize("other", [-1, 0, np.nan])
@pytest.mark.parametrize("file_format", [*ARRAYS, *TABLES])
def test_spikes_of_no_trial_are_left_out_by_the_request(
    file_format: str, other: float, tmp_path: Path
) -> None:
    spikes = flat_spikes(range(1, 19))
    place = [0, 50, 188]
    spikes = {name: np.insert(values.astype(float), place, values[:3]) for name, values in spikes.items()}
    spikes["trial"][[0, 51, 190]] = other
    found = read(
        write_flat(file_format, tmp_path / "f", spikes, {}),
        trials={"ids": [1, 18]},
    )
    assert found.trial_metadata["trial_id"] == list(range(1, 19))
    assert np.asarray(found.spikes).sum(axis=1).tolist() == [[one, 1] for one in range(1, 19)]
    if file_format in ARRAYS or np.isfinite(other):
        (warning,) = [one for one in found.warnings if one.code == "spikes_outside_trials_ids"]
        assert f"3 spikes have the trial ids {other:g}" in warning.message


@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_indices_of_a_split_beside_cells(save: Callable[..., Path], tmp_path: Path) -> None:
    """They tell nothing of the axes, and are no metadata of the four neurons."""
    times = [np.arange(1, 2 + trial) * 0.01 for trial in range(18) for _ in range(4)]
    spikes = cells(times, (18, 4))
    beside = {"train_inds": np.arange(1.0, 15), "valid_inds": np.arange(15.0, 19), "rt": np.arange(18) * 0.5}
    found = read(save(tmp_path / "f.mat", {"spikes": spikes, **beside}))
    assert np.asarray(found.spikes).sum(axis=1)[:, 3].tolist() == list(range(1, 19))
    assert np.flatnonzero(found.split == SPLIT_VALID).tolist() == [14, 15, 16, 17]
    assert found.trial_metadata["rt"] == beside["rt"].tolist()
    assert "valid_inds" not in found.neuron_metadata
    assert codes(found) == []


@pytest.mark.parametrize("file_format", TABLES)
def test_times_of_the_session_in_tables(file_format: str, tmp_path: Path) -> None:
    spikes = flat_spikes(range(12))
    start_s = 5.0 * np.arange(1, 13)
    spikes["spike_times"] = spikes["spike_times"] + start_s[spikes["trial"]]
    bounds = {"start_time": start_s[spikes["trial"]], "stop_time": start_s[spikes["trial"]] + 0.5}
    found = read(write_table(file_format, tmp_path / "f", {**spikes, **bounds}))
    assert found.trial_start_s is not None
    assert found.trial_start_s.tolist() == start_s.tolist()
    assert spikes_of_neuron_3(found) == list(range(1, 13))


@pytest.mark.parametrize(
    ("seen", "values", "labels"),
    [
        ([2, 3, 4], 4, [1, 2, 3, 4]),
        ([0, 1, 2], 5, [0, 1, 2, 3, 4]),
        ([101, 103], 4, [101, 102, 103, 104]),
        ([4, 5], 5, [1, 2, 3, 4, 5]),
    ],
)
def test_more_values_than_ids(seen: list[int], values: int, labels: list[int]) -> None:
    found = find_trials(seen, True, {"v": list(range(values))}, DatasetOptions())
    assert found.labels == labels
    assert found.columns["v"] == list(range(values))
    assert bool(found.warnings) == (seen[0] > 100)


def test_an_option_without_use_is_told(tmp_path: Path) -> None:
    spikes = flat_spikes(range(9))
    del spikes["trial"]
    np.savez(tmp_path / "f.npz", **spikes)
    found = read(tmp_path / "f.npz", trials={"ids": [0, 8]}, chop={"window_s": 0.05, "overlap_s": 0})
    assert "/trials/ids" in [one.pointer for one in found.warnings if one.code == "option_not_used"]


def test_as_many_trials_as_neurons_is_a_guess(tmp_path: Path) -> None:
    columns = {"depth": np.arange(2.0), "side": np.array(["l", "r"])}
    path = write_flat("npz", tmp_path / "f", flat_spikes([4, 5]), columns)
    found = read(path)
    assert found.trial_metadata["depth"] == [0.0, 1.0]
    assert codes(found) == ["metadata_guessed"] * 2
    assert {one.pointer for one in found.warnings} == {"/depth", "/side"}
    other = read(path, mapping={"trial_metadata": ["side"], "neuron_metadata": ["depth"]})
    assert other.trial_metadata["side"] == ["l", "r"]
    assert other.neuron_metadata["depth"] == [0.0, 1.0]
    assert codes(other) == []


@pytest.mark.parametrize("file_format", ARRAYS)
def test_neurons_without_a_spike_keep_their_place(file_format: str, tmp_path: Path) -> None:
    spikes = {"spike_times": np.array([0.5, 1.5, 2.5]), "spike_times_index": np.array([1, 1, 3])}
    path = write_flat(file_format, tmp_path / "f", spikes, {"depth": [10.0, 20.0, 30.0]})
    found = read(path, chop={"window_s": 0.1, "overlap_s": 0})
    assert found.neuron_metadata["neuron_id"] == [0, 1, 2]
    assert found.neuron_metadata["depth"] == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("file_format", ["npz", "hdf5"])
def test_events_of_no_known_unit_do_not_reject_the_file(file_format: str, tmp_path: Path) -> None:
    spikes = {"spike_times": np.arange(100) * 0.1, "neuron": np.arange(100) % 2}
    path = write_flat(file_format, tmp_path / "f", spikes, {"cue_time": np.array([100, 2000, 5000])})
    found = read(path)
    assert codes(found) == ["events_left_out"]
    with pytest.raises(RejectedFile, match="time_unit_unclear"):
        read(path, trials={"align_to": "cue_time", "window_s": [0, 1]})
    cut = read(path, trials={"align_to": "cue_time", "window_s": [0, 1]}, trial_time_unit="ms")
    assert np.asarray(cut.spikes).sum(axis=(1, 2)).tolist() == [10, 10, 10]
