"""Recordings made for tests, and their files in every format that is read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worker.ingest.recording import SPLIT_TRAIN, SPLIT_VALID, Recording

SPLIT_PREFIXES = {SPLIT_TRAIN: "train", SPLIT_VALID: "valid", -1: "test"}


@dataclass(frozen=True)
class ExampleFile:
    """A small valid file of a format, and the counts that reading it must give: what the contract of readers is held to.

    `options` are those of the request; `write` writes the file and returns its path.
    """

    format: str
    write: Callable[[Path], Path]
    expected: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)


def example_recording(trials: int = 12, bins: int = 20, neurons: int = 7, seed: int = 0) -> Recording:
    """Ragged trials, three splits, metadata, behaviour, true rates in Hz and external inputs."""
    random = np.random.default_rng(seed)
    width_s = 0.05
    lengths = random.integers(bins // 2, bins + 1, trials)
    inside = np.arange(bins)[None, :] < lengths[:, None]
    rates_hz = np.exp(random.normal(1.5, 1.0, (1, 1, neurons))) * np.ones((trials, bins, 1)) + 2.0
    spikes = random.poisson(rates_hz * width_s * inside[:, :, None]).astype(np.uint8)
    position = random.normal(size=(trials, bins, 2)).astype(np.float32)
    position[~inside] = np.nan
    return Recording(
        spikes=spikes,
        bin_width_s=width_s,
        trial_length_bins=lengths.astype(np.int64),
        split=np.resize(np.array([0, 0, 1, 0, -1], np.int8), trials),
        trial_metadata={
            "direction": random.integers(0, 8, trials).tolist(),
            "reaction_time_s": [None, *random.random(trials - 1).tolist()],
            "target": [f"target {number % 3}" for number in range(trials)],
            "rewarded": [bool(number % 2) for number in range(trials)],
        },
        behaviour={
            "position": position,
            "true_latents": random.normal(size=(trials, bins, 3)).astype(np.float32),
        },
        true_rates_hz=rates_hz.astype(np.float32),
        external_inputs=random.normal(size=(trials, bins, 1)).astype(np.float32),
    )


def metadata_array(values: list[Any], text_kind: str) -> np.ndarray:
    if isinstance(values[0], str):
        return np.array(values, dtype=text_kind)
    return np.array([np.nan if value is None else value for value in values])


def named_arrays(recording: Recording, text_kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a recording under the names that readers know; `changes` replace them, or drop them (None)."""
    arrays: dict[str, Any] = {
        "spikes": recording.spikes,
        "bin_width_s": recording.bin_width_s,
        "trial_length_bins": recording.trial_length_bins,
        "split": np.array([SPLIT_PREFIXES[int(code)] for code in recording.split], dtype=text_kind),
        "true_rates_hz": recording.true_rates_hz,
        "external_inputs": recording.external_inputs,
        **{name: metadata_array(values, text_kind) for name, values in recording.trial_metadata.items()},
        **recording.behaviour,
        **changes,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def write_npz(path: Path, recording: Recording, **changes: Any) -> Path:
    """Save a recording as a user would; `changes` replace arrays, or drop them (None)."""
    with path.open("wb") as file:  # given a path, numpy would add to its name
        np.savez_compressed(file, **named_arrays(recording, "U", changes))
    return path


def write_hdf5(path: Path, recording: Recording, **changes: Any) -> Path:
    """Save a recording as data sets of an HDF5 file; `changes` replace data sets, or drop them (None)."""
    with h5py.File(path, "w") as file:
        for name, array in named_arrays(recording, "S", changes).items():
            file[name] = array
    return path


def write_lfads_hdf5(path: Path, recording: Recording, **changes: Any) -> Path:
    """Save a recording in the layout of LFADS; `changes` replace data sets, or drop them (None)."""
    arrays: dict[str, Any] = {"bin_width_s": recording.bin_width_s}
    whole = {
        "data": recording.spikes.astype(np.float32),
        "inds": np.arange(len(recording.split)),
        "trial_length_bins": recording.trial_length_bins,
        "truth": recording.true_rates_hz,
        "ext_input": recording.external_inputs,
        **{name: metadata_array(values, "S") for name, values in recording.trial_metadata.items()},
        **{
            ("lowd" if name == "true_latents" else name): array for name, array in recording.behaviour.items()
        },
    }
    for code, prefix in SPLIT_PREFIXES.items():
        rows = recording.split == code
        arrays |= {f"{prefix}_{name}": array[rows] for name, array in whole.items() if array is not None}
    with h5py.File(path, "w") as file:
        for name, array in (arrays | changes).items():
            if array is not None:
                compression = "gzip" if np.ndim(array) else None
                file.create_dataset(name, data=array, compression=compression)
    return path
