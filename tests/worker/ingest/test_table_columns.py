"""MATLAB cell arrays of trials × columns, whose columns are named `data(:,3)`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.ingest.matlab_files import COUNTS, WINDOW, codes, read, save_v5, save_v7, save_v73, times_of
from worker.ingest.problems import RejectedFile

every_version = pytest.mark.parametrize("write", [save_v5, save_v7, save_v73])
TEXTS = ["left", "right"] * 3


def table(*columns: list[Any]) -> np.ndarray:
    found = np.empty((6, len(columns)), dtype=object)
    for place, column in enumerate(columns):
        for row in range(6):
            found[row, place] = column[row]
    return found


SPIKES = [times_of(one[:, 0]) for one in COUNTS]
LICKS = [times_of(one[:, 1]) for one in COUNTS]
NUMBERS = [float(k) * 1.5 for k in range(6)]
ODD = [np.ones((3, 3))] * 6
EIGHT = table(SPIKES, NUMBERS, TEXTS, ODD, LICKS, ["x"] * 6, [1.0] * 6, NUMBERS[::-1])


@every_version
class TestColumns:
    def test_the_mapping_names_columns(self, write: Any, tmp_path: Path) -> None:
        path = write(tmp_path / "f", {"data": EIGHT})
        mapping = {"spike_times": "data(:,1)", "trial_metadata": ["data(:,3)", "data(:,8)"]}
        found = read(path, **WINDOW, mapping=mapping)
        np.testing.assert_array_equal(found.spikes[:, :, 0], COUNTS[:, :, 0])
        assert found.trial_metadata == {"data_3": TEXTS, "data_8": NUMBERS[::-1]}
        assert set(codes(found)) == {"array_left_out"}
        named = {warning.pointer for warning in found.warnings}
        assert named == {f"/data(:,{column})" for column in (2, 4, 5, 6, 7)}
        where = {"trials": {**WINDOW["trials"], "where": {"data_3": "left"}}}
        kept = read(path, **{**WINDOW, **where}, mapping=mapping)
        np.testing.assert_array_equal(kept.spikes[:, :, 0], COUNTS[::2, :, 0])

    def test_two_columns_of_times_are_asked(self, write: Any, tmp_path: Path) -> None:
        path = write(tmp_path / "f", {"data": EIGHT})
        with pytest.raises(RejectedFile) as caught:
            read(path, **WINDOW)
        problem = caught.value.problems[0]
        assert problem.code == "spikes_ambiguous"
        assert "data(:,1)" in problem.message
        assert "data(:,5)" in problem.message
        with pytest.raises(RejectedFile) as caught:
            read(path, **WINDOW, mapping={"spike_times": "data(:,9)"})
        assert caught.value.problems[0].code == "variable_unknown"

    def test_one_column_of_times_is_taken_with_its_metadata(self, write: Any, tmp_path: Path) -> None:
        found = read(write(tmp_path / "f", {"data": table(SPIKES, NUMBERS, TEXTS)}), **WINDOW)
        np.testing.assert_array_equal(found.spikes[:, :, 0], COUNTS[:, :, 0])
        assert found.trial_metadata["data_2"] == NUMBERS
        assert found.trial_metadata["data_3"] == TEXTS
        assert codes(found) == []

    def test_columns_of_times_and_neurons(self, write: Any, tmp_path: Path) -> None:
        times = [np.concatenate([times_of(one[:, n]) for n in range(4)]) for one in COUNTS]
        labels = [np.repeat(np.arange(4.0), one.sum(0).astype(int)) for one in COUNTS]
        mapping = {"spike_times": "data(:,2)", "neuron": "data(:,3)"}
        found = read(write(tmp_path / "f", {"data": table(TEXTS, times, labels)}), **WINDOW, mapping=mapping)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert found.trial_metadata["data_1"] == TEXTS

    def test_columns_of_counts_and_behaviour(self, write: Any, tmp_path: Path) -> None:
        hand = [np.full((9, 2), float(k)) for k in range(6)]
        path = write(tmp_path / "f", {"data": table(TEXTS, hand, [one.astype(float) for one in COUNTS])})
        mapping = {"spikes": "data(:,3)", "behaviour": ["data(:,2)"], "axes": ["bin", "neuron"]}
        found = read(path, bin_width_s=0.1, mapping=mapping)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert list(found.behaviour) == ["data_2"]
        np.testing.assert_array_equal(found.behaviour["data_2"][:, 0, 0], np.arange(6))
        assert found.trial_metadata == {"data_1": TEXTS}
        assert codes(found) == []

    def test_a_column_of_cells_of_one_kind(self, write: Any, tmp_path: Path) -> None:
        path = write(tmp_path / "f", {"data": table(SPIKES, LICKS)})
        found = read(path, **WINDOW, mapping={"spike_times": "data(:,2)"})
        np.testing.assert_array_equal(found.spikes[:, :, 0], COUNTS[:, :, 1])
