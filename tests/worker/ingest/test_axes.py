"""Which axis is that of trials, bins and neurons, and what belongs to which: the same rule in every format."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.ingest.array_files import WRITE_ARRAYS
from tests.worker.ingest.matlab_files import cells, codes, read, save_v5, save_v7, save_v73, times_of
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.readers import ReadOptions, read_file
from worker.ingest.readers.axis_evidence import Evidence
from worker.ingest.readers.axis_names import role_of
from worker.ingest.recording import Recording

TRIALS, BINS, NEURONS = 24, 10, 8
COUNTS = np.random.default_rng(5).poisson(0.6, (TRIALS, BINS, NEURONS)).astype(np.uint8)
TURNED = np.ascontiguousarray(COUNTS.transpose(2, 1, 0))
CONDITION = np.arange(TRIALS) % 3
WIDTH = {"bin_width_s": 0.1}

every_format = pytest.mark.parametrize("file_format", sorted(WRITE_ARRAYS))


def guess_of(found: Recording) -> Problem:
    return next(warning for warning in found.warnings if warning.code == "axes_guessed")


@every_format
class TestArraysOfCounts:
    @staticmethod
    def read(
        tmp_path: Path, file_format: str, options: dict[str, Any] | None = None, **arrays: Any
    ) -> Recording:
        return read(WRITE_ARRAYS[file_format](tmp_path / "f", arrays), **WIDTH, **(options or {}))

    def test_the_documented_order_with_metadata_of_any_name_of_neurons(
        self, file_format: str, tmp_path: Path
    ) -> None:
        beside = {"condition": CONDITION, "foo": np.arange(NEURONS) + 0.5, "depth": np.arange(8.0)}
        found = self.read(tmp_path, file_format, spikes=COUNTS, **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert found.trial_metadata == {"condition": CONDITION.tolist()}
        assert found.neuron_metadata["foo"] == [n + 0.5 for n in range(NEURONS)]
        assert found.neuron_metadata["depth"] == [float(n) for n in range(NEURONS)]
        assert codes(found) == []

    def test_vectors_of_trials_and_neurons_prove_another_order(
        self, file_format: str, tmp_path: Path
    ) -> None:
        beside = {"condition": CONDITION, "unit_id": np.arange(NEURONS) + 100}
        found = self.read(tmp_path, file_format, spikes=TURNED, **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert found.trial_metadata["condition"] == CONDITION.tolist()
        assert found.neuron_metadata["unit_id"] == list(range(100, 100 + NEURONS))
        assert "axes_guessed" not in codes(found)

    @pytest.mark.parametrize("name", ["time", "t", "bin_centers", "time_ms"])
    def test_a_time_axis_proves_the_bins(self, name: str, file_format: str, tmp_path: Path) -> None:
        times = np.arange(BINS) * (100.0 if name == "time_ms" else 0.1) - 0.5
        beside = {"condition": CONDITION, name: times}
        found = self.read(tmp_path, file_format, spikes=COUNTS.transpose(1, 2, 0), **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert codes(found) == []

    def test_the_mapping_names_the_time_axis(self, file_format: str, tmp_path: Path) -> None:
        beside = {"condition": CONDITION, "peri": np.arange(BINS) * 0.05}
        said = {"mapping": {"time": "peri"}}
        path = WRITE_ARRAYS[file_format](tmp_path / "f", {"spikes": TURNED, **beside})
        found = read(path, **said)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert found.bin_width_s == pytest.approx(0.05)
        assert codes(found) == ["bin_width_derived"]

    def test_numbers_of_bins_are_no_times(self, file_format: str, tmp_path: Path) -> None:
        path = WRITE_ARRAYS[file_format](tmp_path / "f", {"spikes": COUNTS, "time": np.arange(BINS)})
        with pytest.raises(RejectedFile) as caught:
            read(path)
        assert caught.value.problems[0].code == "bin_width_missing"
        # In MATLAB neurons × bins × trials is common, and the times do not exclude it.
        guessed = ["axes_guessed"] if file_format.startswith("matlab") else []
        assert codes(read(path, **WIDTH)) == guessed

    def test_trials_alone_leave_bins_and_neurons_to_a_guess_that_is_told(
        self, file_format: str, tmp_path: Path
    ) -> None:
        beside = {"condition": CONDITION, "rt": np.linspace(0.2, 0.9, TRIALS) ** 2}
        found = self.read(tmp_path, file_format, spikes=TURNED, **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert set(found.trial_metadata) == {"condition", "rt"}
        guess = guess_of(found)
        assert "8 neurons, 10 bins, 24 trials" in guess.message
        assert '["bin", "neuron", "trial"]' in guess.hint
        assert guess.pointer == "/mapping/axes"
        said = {"mapping": {"axes": ["bin", "neuron", "trial"]}}
        other = self.read(tmp_path, file_format, said, spikes=TURNED, **beside)
        np.testing.assert_array_equal(other.spikes, TURNED.transpose(2, 0, 1))
        assert "axes_guessed" not in codes(other)

    def test_vectors_of_unknown_names_prove_nothing_and_the_doubt_is_told(
        self, file_format: str, tmp_path: Path
    ) -> None:
        found = self.read(tmp_path, file_format, spikes=TURNED, foo=np.arange(TRIALS), bar=np.arange(TRIALS))
        assert found.spikes.shape == (NEURONS, BINS, TRIALS)
        assert "may belong to trials or neurons" in guess_of(found).message
        assert "`foo`" in guess_of(found).message
        assert '["neuron", "bin", "trial"]' in guess_of(found).hint

    def test_the_mapping_says_whose_a_vector_is(self, file_format: str, tmp_path: Path) -> None:
        said = {"mapping": {"trial_metadata": ["foo"], "neuron_metadata": ["bar"]}}
        beside = {"foo": np.arange(TRIALS), "bar": np.arange(NEURONS)}
        found = self.read(tmp_path, file_format, said, spikes=TURNED, **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert found.trial_metadata == {"foo": list(range(TRIALS))}
        assert found.neuron_metadata["bar"] == list(range(NEURONS))
        assert codes(found) == []

    def test_contradictions_are_told(self, file_format: str, tmp_path: Path) -> None:
        beside = {"condition": CONDITION, "outcome": np.arange(NEURONS)}
        found = self.read(tmp_path, file_format, spikes=COUNTS, **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert "contradict" in guess_of(found).message

    def test_a_behaviour_does_not_override_the_default_order(self, file_format: str, tmp_path: Path) -> None:
        hand = np.random.default_rng(0).normal(size=(2, BINS, TRIALS))
        found = self.read(tmp_path, file_format, spikes=TURNED, hand=hand)
        np.testing.assert_array_equal(found.spikes, TURNED)
        assert found.behaviour == {}
        assert "`hand` would be a behaviour in another order" in guess_of(found).message
        said = {"mapping": {"axes": ["neuron", "bin", "trial"]}}
        found = self.read(tmp_path, file_format, said, spikes=TURNED, hand=hand)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        np.testing.assert_array_equal(found.behaviour["hand"], hand.T.astype(np.float32))

    def test_a_behaviour_chooses_among_the_orders_that_are_left(
        self, file_format: str, tmp_path: Path
    ) -> None:
        turned = COUNTS.transpose(1, 2, 0)
        hand = np.random.default_rng(0).normal(size=(BINS, 2, TRIALS))
        found = self.read(tmp_path, file_format, spikes=turned, hand=hand, condition=CONDITION)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        np.testing.assert_array_equal(found.behaviour["hand"], hand.transpose(2, 0, 1).astype(np.float32))
        message = guess_of(found).message
        assert "`condition` leaves more than one order open, but `hand` fits this order" in message

    def test_signals_and_counts_of_other_trials_do_not_turn_the_axes(
        self, file_format: str, tmp_path: Path
    ) -> None:
        lfp = np.random.default_rng(0).normal(size=(12, BINS, NEURONS))
        held_out = COUNTS[:12].astype(float)
        for name, other in (("lfp", lfp), ("held_out", held_out)):
            found = self.read(tmp_path, file_format, spikes=COUNTS, condition=CONDITION, **{name: other})
            np.testing.assert_array_equal(found.spikes, COUNTS)
            assert found.behaviour == {}
            assert codes(found) == ["array_left_out"]
        found = self.read(tmp_path, file_format, spikes=COUNTS, held_out=held_out)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        (left,) = [one for one in found.warnings if one.code == "array_left_out"]
        assert "counts of a second recording" in left.message
        assert ("axes_guessed" in codes(found)) == file_format.startswith("matlab")

    def test_a_vector_of_one_value_for_each_bin_puts_the_order_in_doubt(
        self, file_format: str, tmp_path: Path
    ) -> None:
        stored = COUNTS.transpose(1, 0, 2)
        beside = {"unit_id": np.arange(NEURONS), "label": np.array([f"k{k}" for k in range(TRIALS)])}
        found = self.read(tmp_path, file_format, spikes=stored, **beside)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        assert found.trial_metadata["label"] == [f"k{k}" for k in range(TRIALS)]
        assert "`label` may belong to trials or neurons, but not to bins" in guess_of(found).message
        assert '["trial", "bin", "neuron"]' in guess_of(found).hint
        said = {"mapping": {"axes": ["trial", "bin", "neuron"]}}
        found = self.read(tmp_path, file_format, said, spikes=stored, **beside)
        assert codes(found) == ["array_left_out"]
        assert found.spikes.shape == (BINS, TRIALS, NEURONS)

    @pytest.mark.parametrize("name", ["timestamps", "bin_edges", "bins", "edges", "time_points"])
    def test_more_names_of_time_axes(self, name: str, file_format: str, tmp_path: Path) -> None:
        square = COUNTS.transpose(1, 0, 2)[:, :NEURONS]
        more = 1 if name in ("bin_edges", "edges") else 0
        path = WRITE_ARRAYS[file_format](
            tmp_path / "f", {"spikes": square, name: np.arange(BINS + more) * 0.05}
        )
        found = read(path)
        assert found.spikes.shape == (NEURONS, BINS, NEURONS)
        assert found.bin_width_s == pytest.approx(0.05)
        assert name not in found.trial_metadata
        hint = guess_of(found).hint
        assert '["bin", "trial", "neuron"]' in hint
        assert '["bin", "neuron", "trial"]' in hint

    def test_trials_that_may_be_one_of_two_axes(self, file_format: str, tmp_path: Path) -> None:
        square = COUNTS[:NEURONS]
        found = self.read(tmp_path, file_format, spikes=square, condition=CONDITION[:NEURONS])
        np.testing.assert_array_equal(found.spikes, square)
        guess = guess_of(found)
        assert "the length of `condition` fits more than one axis" in guess.message
        assert '["neuron", "bin", "trial"] or ["bin", "neuron", "trial"] or ["trial", "neuron"' in guess.hint
        said = {"mapping": {"axes": ["neuron", "bin", "trial"]}}
        found = self.read(tmp_path, file_format, said, spikes=square, condition=CONDITION[:NEURONS])
        np.testing.assert_array_equal(found.spikes, square.transpose(2, 1, 0))
        assert codes(found) == []

    def test_an_array_alone(self, file_format: str, tmp_path: Path) -> None:
        found = self.read(tmp_path, file_format, spikes=COUNTS)
        np.testing.assert_array_equal(found.spikes, COUNTS)
        if not file_format.startswith("matlab"):
            assert codes(found) == []
            return
        guess = guess_of(found)
        assert "nothing shows which axis is which" in guess.message
        orders = set(permutations(["trial", "bin", "neuron"])) - {("trial", "bin", "neuron")}
        assert all(json.dumps(order) in guess.hint for order in orders)

    def test_as_many_trials_as_neurons(self, file_format: str, tmp_path: Path) -> None:
        square = COUNTS[:NEURONS]
        beside = {
            "foo": np.arange(NEURONS),
            "condition": np.arange(NEURONS) % 2,
            "channel": np.arange(NEURONS) + 7,
        }
        found = self.read(tmp_path, file_format, spikes=square, **beside)
        np.testing.assert_array_equal(found.spikes, square)
        assert set(found.trial_metadata) == {"foo", "condition"}
        assert found.neuron_metadata["channel"] == list(range(7, 7 + NEURONS))
        assert "fits more than one axis" in guess_of(found).message
        (warning,) = [one for one in found.warnings if one.code != "axes_guessed"]
        assert (warning.code, warning.pointer) == ("metadata_guessed", "/foo")
        said = {"mapping": {"axes": ["trial", "bin", "neuron"], "neuron_metadata": ["foo", "channel"]}}
        found = self.read(tmp_path, file_format, said, spikes=square, **beside)
        assert found.neuron_metadata["foo"] == list(range(NEURONS))
        assert set(found.trial_metadata) == {"condition"}
        assert codes(found) == []

    @pytest.mark.parametrize("shape", [(1, -1), (-1, 1)])
    def test_vectors_of_two_axes(self, shape: tuple[int, int], file_format: str, tmp_path: Path) -> None:
        beside = {
            "split": np.arange(TRIALS) % 2,
            "trial_length_bins": np.full(TRIALS, BINS),
            "condition": CONDITION,
            "depth": np.arange(NEURONS) * 1.5,
        }
        beside = {name: values.reshape(shape) for name, values in beside.items()}
        found = self.read(tmp_path, file_format, spikes=COUNTS, **beside)
        np.testing.assert_array_equal(found.split, np.arange(TRIALS) % 2)
        assert found.trial_metadata == {"condition": CONDITION.tolist()}
        assert found.neuron_metadata["depth"] == (np.arange(NEURONS) * 1.5).tolist()
        assert codes(found) == []

    def test_the_longest_trial_excludes_shorter_axes(self, file_format: str, tmp_path: Path) -> None:
        turned = COUNTS.transpose(0, 2, 1)
        found = self.read(tmp_path, file_format, spikes=turned, trial_length_bins=np.full(TRIALS, BINS))
        np.testing.assert_array_equal(found.spikes, COUNTS)

    def test_a_continuous_recording(self, file_format: str, tmp_path: Path) -> None:
        flat = np.random.default_rng(1).poisson(0.4, (60, 40)).astype(np.uint8)
        write = WRITE_ARRAYS[file_format]
        clear = read_file(write(tmp_path / "f", {"spikes": flat[:, :9]}), ReadOptions(**WIDTH))
        assert codes(clear) == []
        found = read_file(write(tmp_path / "f", {"spikes": flat}), ReadOptions(**WIDTH))
        assert isinstance(found, Recording)
        np.testing.assert_array_equal(found.spikes, flat[None])
        assert "axes_guessed" in codes(found)
        proved = {"spikes": flat.T, "unit_id": np.arange(40)}
        found = read_file(write(tmp_path / "f", proved), ReadOptions(**WIDTH))
        np.testing.assert_array_equal(found.spikes, flat[None])
        assert found.neuron_metadata["unit_id"] == list(range(40))
        assert codes(found) == []
        proved = {"spikes": flat.T[:, :30], "unit_id": np.arange(40)}
        found = read_file(write(tmp_path / "f", proved), ReadOptions(**WIDTH))
        np.testing.assert_array_equal(found.spikes, flat[None, :30])
        doubtful = {"spikes": flat, "condition": np.arange(60) % 4}
        found = read_file(write(tmp_path / "f", doubtful), ReadOptions(**WIDTH))
        assert "`condition` may belong to trials" in guess_of(found).message


every_version = pytest.mark.parametrize("write", [save_v5, save_v7, save_v73])


def grid(trials: int, neurons: int, turned: bool = False) -> np.ndarray:
    """Cells of spike times: of trial k and neuron n as in `COUNTS`."""
    found = np.empty((neurons, trials) if turned else (trials, neurons), dtype=object)
    for k in range(trials):
        for n in range(neurons):
            found[(n, k) if turned else (k, n)] = times_of(COUNTS[k, :, n])
    return found


@every_version
class TestCellsOfSpikeTimes:
    WINDOW = {"bin_width_s": 0.1, "trials": {"window_s": [0.0, 1.0]}}  # noqa: RUF012

    @pytest.mark.parametrize("name", ["depth", "region_code", "xyz", "offset_um"])
    def test_one_value_for_each_neuron_does_not_vote_for_trials(
        self, write: Any, name: str, tmp_path: Path
    ) -> None:
        values = np.arange(8.0)[:, None]
        found = read(write(tmp_path / "f", {"spike_times": grid(12, 8), name: values}), **self.WINDOW)
        np.testing.assert_array_equal(found.spikes, COUNTS[:12])
        assert found.neuron_metadata[name] == list(range(8))
        assert '["neuron", "trial"]' in guess_of(found).hint

    def test_fewer_trials_than_neurons(self, write: Any, tmp_path: Path) -> None:
        variables = {"spike_times": grid(5, 8), "depth": np.arange(8.0)}
        found = read(write(tmp_path / "f", variables), **self.WINDOW)
        np.testing.assert_array_equal(found.spikes, COUNTS[:5])
        assert found.neuron_metadata["depth"] == list(range(8))
        assert "axes_guessed" in codes(found)

    @pytest.mark.parametrize("turned", [False, True])
    def test_known_names_decide(self, write: Any, turned: bool, tmp_path: Path) -> None:
        for beside in ({"condition": CONDITION[:5]}, {"channel": np.arange(8)}, {"trialType": np.arange(5)}):
            variables = {"spike_times": grid(5, 8, turned), **beside}
            found = read(write(tmp_path / "f", variables), **self.WINDOW)
            np.testing.assert_array_equal(found.spikes, COUNTS[:5])
            assert codes(found) == []

    def test_names_that_contradict_each_other(self, write: Any, tmp_path: Path) -> None:
        variables = {"spike_times": grid(12, 8), "condition": np.arange(12), "target": np.arange(8)}
        assert "contradict" in guess_of(read(write(tmp_path / "f", variables), **self.WINDOW)).message

    def test_the_mapping_names_metadata_of_neurons(self, write: Any, tmp_path: Path) -> None:
        variables = {"spike_times": grid(8, 8), "xyz": np.arange(8.0)}
        path = write(tmp_path / "f", variables)
        assert "metadata_guessed" in codes(read(path, **self.WINDOW))
        said = {"axes": ["trial", "neuron"], "neuron_metadata": ["xyz"]}
        found = read(path, **self.WINDOW, mapping=said)
        assert found.neuron_metadata["xyz"] == list(range(8))
        assert codes(found) == []

    def test_matrices_by_a_time_axis_or_by_neurons(self, write: Any, tmp_path: Path) -> None:
        items = cells([one.T.astype(float) for one in COUNTS])
        for beside in ({"t": np.arange(BINS) * 0.1}, {"electrode": np.arange(NEURONS)}):
            found = read(write(tmp_path / "f", {"counts": items, **beside}), **WIDTH)
            np.testing.assert_array_equal(found.spikes, COUNTS)
            assert codes(found) == []


def test_names() -> None:
    of_trials = [
        "condition",
        "RT",
        "reactionTime",
        "trialType",
        "target_dir",
        "outcome",
        "trials.depth",
        "stim",
    ]
    of_neurons = [
        "unit_id",
        "channel",
        "electrodeLabel",
        "cell_type",
        "pref_direction",
        "units.x",
        "cluster/q",
    ]
    open_names = ["depth", "region", "x", "location", "weights", "notes", "hour", "target_channel"]
    assert [role_of(name) for name in of_trials] == ["trial"] * len(of_trials)
    assert [role_of(name) for name in of_neurons] == ["neuron"] * len(of_neurons)
    assert [role_of(name) for name in open_names] == [None] * len(open_names)
    assert role_of("trial.depth", "trial.spikes") is None


def test_evidence_is_symmetric() -> None:
    """Whatever the order of the file, vectors of all three axes give it back."""
    for order in (("trial", "bin", "neuron"), ("bin", "trial", "neuron"), ("neuron", "trial", "bin")):
        length = {"trial": 30, "bin": 20, "neuron": 10}
        evidence = Evidence("spikes", tuple(length[role] for role in order))
        evidence.add_vectors({"rt": 30, "unit": 10}, {})
        decision = evidence.decide([("trial", "bin", "neuron"), order], default_is_documented=True)
        assert (decision.axes, decision.warning) == (order, None)


@pytest.mark.parametrize("name", ["timestamps", "lfp"])
def test_a_damaged_array_says_nothing_and_is_left_out(name: str, tmp_path: Path) -> None:
    shape = (BINS,) if name == "timestamps" else (2, BINS, NEURONS)
    beside = np.random.default_rng(0).normal(size=shape)
    path = tmp_path / "f"
    with path.open("wb") as file:
        np.savez(file, spikes=COUNTS, condition=CONDITION, **{name: beside})
    content = path.read_bytes()
    assert content.count(beside.tobytes()) == 1
    path.write_bytes(content.replace(beside.tobytes(), bytes(beside.nbytes)))  # its checksum is wrong now
    found = read(path, **WIDTH)
    np.testing.assert_array_equal(found.spikes, COUNTS)
    (left,) = found.warnings
    assert (left.code, left.pointer) == ("array_left_out", f"/{name}")
