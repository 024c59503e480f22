"""The layout of the Neural Latents Benchmark."""

import contextlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.worker.ingest.ingest_examples import ExampleFile
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions
from worker.ingest.recording import Recording

TRIALS, EVAL_TRIALS, BINS, FORWARD, HELD_IN, HELD_OUT = 6, 3, 10, 4, 5, 2


def counts(trials: int, bins: int, neurons: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.4, (trials, bins, neurons)).astype(np.float32)


def tensors() -> dict[str, np.ndarray]:
    """What `make_train_input_tensors` and `make_eval_input_tensors` give for a validation set, under the same names."""
    parts = {}
    for seed, (split, trials) in enumerate((("train", TRIALS), ("eval", EVAL_TRIALS))):
        parts |= {
            f"{split}_spikes_heldin": counts(trials, BINS, HELD_IN, 4 * seed),
            f"{split}_spikes_heldout": counts(trials, BINS, HELD_OUT, 4 * seed + 1),
            f"{split}_spikes_heldin_forward": counts(trials, FORWARD, HELD_IN, 4 * seed + 2),
            f"{split}_spikes_heldout_forward": counts(trials, FORWARD, HELD_OUT, 4 * seed + 3),
        }
    return parts


def whole(parts: dict[str, np.ndarray], split: str) -> np.ndarray:
    names = (f"{split}_spikes_heldin{bins}" for bins in ("", "_forward"))
    rows = [np.concatenate([parts[name], parts[name.replace("heldin", "heldout")]], axis=2) for name in names]
    return np.concatenate(rows, axis=1).astype(np.uint8)


def write(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip" if np.ndim(array) else None)
    return path


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**options))


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0]


def codes(recording: Recording) -> list[str]:
    return [warning.code for warning in recording.warnings]


def only(parts: dict[str, np.ndarray], *suffixes: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in parts.items() if name.endswith(suffixes)}


EXAMPLE_FILES = [
    ExampleFile(
        "nlb_hdf5",
        lambda path: write(path, tensors()),
        np.concatenate([whole(tensors(), "train"), whole(tensors(), "eval")]),
    ),
    ExampleFile(
        "nlb_hdf5",
        lambda path: write(path, {"train_spikes_heldin": tensors()["train_spikes_heldin"]}),
        tensors()["train_spikes_heldin"].astype(np.uint8),
        {"bin_width_s": 0.02},
    ),
]


class TestSpikes:
    def test_neurons_side_by_side_and_forward_bins_last(self, tmp_path: Path) -> None:
        found = read(write(tmp_path / "f", tensors()))
        assert found.source_format == "nlb_hdf5"
        assert not found.behaviour
        np.testing.assert_array_equal(np.asarray(found.spikes), EXAMPLE_FILES[0].expected)
        assert found.neuron_metadata["held_out"] == [False] * HELD_IN + [True] * HELD_OUT
        np.testing.assert_array_equal(found.split, [0] * TRIALS + [-1] * EVAL_TRIALS)
        assert "held_out_used_as_input" in codes(found)
        assert any("train_spikes_heldout_forward" in note for note in found.notes)

    def test_held_in_neurons_alone_have_no_metadata(self, tmp_path: Path) -> None:
        found = read(write(tmp_path / "f", only(tensors(), "heldin")))
        assert found.spikes.shape == (TRIALS + EVAL_TRIALS, BINS, HELD_IN)
        assert "held_out" not in found.neuron_metadata
        assert "held_out_used_as_input" not in codes(found)

    @pytest.mark.parametrize("lacking", ["_heldout", "_forward"])
    def test_evaluation_trials_that_lack_something_are_left_out(self, lacking: str, tmp_path: Path) -> None:
        parts = tensors()
        kept = {name: a for name, a in parts.items() if not (name.startswith("eval") and lacking in name)}
        found = read(write(tmp_path / "f", kept))
        np.testing.assert_array_equal(np.asarray(found.spikes), whole(parts, "train"))
        assert "test_trials_left_out" in codes(found)

    def test_evaluation_trials_alone(self, tmp_path: Path) -> None:
        parts = {name: a for name, a in tensors().items() if name.startswith("eval")}
        found = read(write(tmp_path / "f", parts))
        np.testing.assert_array_equal(np.asarray(found.spikes), whole(tensors(), "eval"))
        assert (found.split == -1).all()

    def test_forward_bins_of_some_neurons_only(self, tmp_path: Path) -> None:
        parts = tensors() | {"train_spikes_heldout_forward": None, "eval_spikes_heldout_forward": None}
        found = read(write(tmp_path / "f", {name: a for name, a in parts.items() if a is not None}))
        assert found.spikes.shape == (TRIALS + EVAL_TRIALS, BINS, HELD_IN + HELD_OUT)
        assert codes(found).count("array_left_out") == 2

    def test_targets_joined_in_a_group(self, tmp_path: Path) -> None:
        parts = tensors()
        grouped = {
            f"mc_maze/{name}": parts.pop(name)
            for name in list(parts)
            if name.startswith("eval_spikes_heldout")
        }
        grouped["mc_maze/eval_spikes_heldin_forward"] = parts.pop("eval_spikes_heldin_forward")
        grouped["mc_maze/train_cond"] = np.arange(TRIALS)
        with h5py.File(write(tmp_path / "f", parts | grouped), "a") as file:
            ragged = file.create_dataset("mc_maze/train_cond_idx", 2, h5py.vlen_dtype(np.int32))
            ragged[0] = [1, 2, 3]
        found = read(tmp_path / "f")
        np.testing.assert_array_equal(np.asarray(found.spikes), EXAMPLE_FILES[0].expected)
        assert found.trial_metadata["cond"] == [*range(TRIALS), *[None] * EVAL_TRIALS]
        assert any("train_cond_idx" in warning.message for warning in found.warnings)

    def test_targets_in_wider_bins_are_left_out(self, tmp_path: Path) -> None:
        wide = {"mc_maze_20/eval_spikes_heldout": counts(EVAL_TRIALS, 3, HELD_OUT, 9)}
        found = read(write(tmp_path / "f", only(tensors(), "heldin") | wide))
        assert found.spikes.shape == (TRIALS + EVAL_TRIALS, BINS, HELD_IN)
        assert any("mc_maze_20" in warning.message for warning in found.warnings)


class TestBeside:
    def test_behaviour_ends_before_the_forward_bins(self, tmp_path: Path) -> None:
        behaviour = np.random.default_rng(0).normal(size=(TRIALS, BINS, 2)).astype(np.float32)
        found = read(write(tmp_path / "f", tensors() | {"train_behavior": behaviour}))
        assert set(found.behaviour) == {"behavior"}
        got = np.asarray(found.behaviour["behavior"])
        np.testing.assert_array_equal(got[:TRIALS, :BINS], behaviour)
        assert np.isnan(got[:TRIALS, BINS:]).all()
        assert np.isnan(got[TRIALS:]).all()
        assert "array_missing_in_split" in codes(found)

    def test_labels_are_metadata_of_trials(self, tmp_path: Path) -> None:
        labels = {"train_decode_labels": np.arange(TRIALS), "eval_decode_labels": np.arange(EVAL_TRIALS)}
        found = read(write(tmp_path / "f", tensors() | labels))
        assert found.trial_metadata["decode_labels"] == [*range(TRIALS), *range(EVAL_TRIALS)]

    def test_bins_are_5_ms_wide_unless_said(self, tmp_path: Path) -> None:
        path = write(tmp_path / "f", tensors())
        found = read(path)
        assert found.bin_width_s == 0.005
        assert "bin_width_derived" in codes(found)
        said = read(path, bin_width_s=0.01)
        assert said.bin_width_s == 0.01
        assert "bin_width_derived" not in codes(said)
        stated = read(write(tmp_path / "g", tensors() | {"bin_width_ms": 20}))
        assert stated.bin_width_s == 0.02
        assert "bin_width_derived" not in codes(stated)


class TestHostile:
    @pytest.mark.parametrize(
        ("name", "shape", "code"),
        [
            ("train_spikes_heldout", (TRIALS + 1, BINS, HELD_OUT), "splits_differ"),
            ("train_spikes_heldout", (TRIALS, BINS + 1, HELD_OUT), "splits_differ"),
            ("train_spikes_heldin_forward", (TRIALS, FORWARD, HELD_IN + 1), "splits_differ"),
            ("train_spikes_heldin", (TRIALS, BINS), "spikes_wrong_axes"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, name: str, shape: tuple[int, ...], code: str, tmp_path: Path
    ) -> None:
        assert rejected(write(tmp_path / "f", tensors() | {name: np.zeros(shape)})).code == code

    def test_spikes_that_are_a_group_or_text(self, tmp_path: Path) -> None:
        path = write(tmp_path / "f", {"train_spikes_heldin/x": np.zeros(3)})
        assert rejected(path).code == "spikes_missing"
        path = write(tmp_path / "f", {"train_spikes_heldin": np.full((2, 3, 4), b"a")})
        assert rejected(path).code == "spikes_not_numbers"

    def test_padding_is_counted_before_it_is_made(self, tmp_path: Path) -> None:
        parts = {
            "train_spikes_heldin": np.zeros((2, 1, 1)),
            "train_spikes_heldin_forward": np.zeros((2, 10_000, 1)),
            "train_behavior": np.zeros((2, 1, 1000)),
        }
        path = write(tmp_path / "f", parts)
        assert rejected(path, max_expanded_bytes=10**7).code == "file_too_large_expanded"

    def test_external_links_are_refused(self, tmp_path: Path) -> None:
        with h5py.File(write(tmp_path / "f", tensors()), "a") as file:
            file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "x")
        assert rejected(tmp_path / "f").code == "external_link"

    def test_damage_is_told_as_damage(self, tmp_path: Path) -> None:
        content = write(tmp_path / "f", tensors()).read_bytes()
        random = np.random.default_rng(0)
        for trial in range(60):
            mutated = bytearray(content)
            if trial % 3 == 0:
                mutated = mutated[: int(random.integers(len(content)))]
            for _ in range(8 if mutated else 0):
                mutated[int(random.integers(len(mutated)))] = int(random.integers(256))
            (tmp_path / "g").write_bytes(bytes(mutated))
            with contextlib.suppress(RejectedFile):
                assert isinstance(read(tmp_path / "g"), Recording)

    def test_it_is_recognised_by_its_content(self, tmp_path: Path) -> None:
        reader = READERS["nlb_hdf5"]
        assert reader.recognises(write(tmp_path / "f.csv", tensors()))
        assert not reader.recognises(write(tmp_path / "g.h5", {"train_data": np.zeros((2, 3, 4))}))
        (tmp_path / "h").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
        assert not reader.recognises(tmp_path / "h")
