"""Everything in a file of arrays that is not used is listed as left out, in every format and layout that has arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.worker.ingest.array_files import WRITE_ARRAYS, save_hdf5, save_npz
from tests.worker.ingest.ingest_examples import example_recording, write_hdf5, write_lfads_hdf5, write_npz
from tests.worker.ingest.matlab_files import (
    ARRAYS,
    by_neuron,
    by_trial_and_neuron,
    cells,
    read,
    save_v5,
    save_v7,
    save_v73,
    structs,
    structs_of_counts,
    trial_table,
)
from tests.worker.ingest.test_nlb_hdf5 import tensors
from worker.ingest.recording import Recording

STRAYS: dict[str, Any] = {
    "odd_shape": np.ones((3, 5)),
    "odd_cube": np.full((2, 3, 4), 0.5),
    "odd_length": np.arange(37.0),
    "stray_number": 3.25,
    "stray_text": "a note of some length",
    "stray_names": np.array(["a", "b", "c"]),
    "train_odd": np.ones((3, 5)),
    "nothing": np.zeros((0,)),
}
SPLIT = example_recording()


def _npz(path: Path, strays: dict[str, Any]) -> Path:
    return write_npz(path, example_recording(), **strays)


def _hdf5(path: Path, strays: dict[str, Any]) -> Path:
    return _with_strays(write_hdf5(path, example_recording()), strays)


def _lfads(path: Path, strays: dict[str, Any]) -> Path:
    return _with_strays(write_lfads_hdf5(path, example_recording()), strays)


def _nlb(path: Path, strays: dict[str, Any]) -> Path:
    return _with_strays(save_hdf5(path, tensors()), strays)


def _with_strays(path: Path, strays: dict[str, Any]) -> Path:
    with h5py.File(path, "a") as file:
        for name, value in strays.items():
            kept = np.asarray(value)
            file[name] = kept.astype(object) if kept.dtype.kind == "U" else kept
    return path


def _matlab(variables: dict[str, Any], save: Callable[[Path, dict[str, Any]], Path]) -> Callable[..., Path]:
    def write(path: Path, strays: dict[str, Any]) -> Path:
        kept = {
            n: cells(v.tolist()) if np.asarray(v).dtype.kind == "U" and np.ndim(v) else v
            for n, v in strays.items()
        }
        return save(path, variables | kept)

    return write


MATLAB = {
    "arrays": (ARRAYS, {}),
    "cells_of_times": ({"spike_times": by_trial_and_neuron()}, {}),
    "neurons_and_trials": ({"spikes": cells(by_neuron()), "trials": trial_table()}, {}),
    "structs_of_counts": ({"trial": structs(structs_of_counts())}, {"bin_width_s": 0.02}),
}
FLAT = {
    "spike_times": np.linspace(0.1, 9.9, 50),
    "spike_clusters": np.arange(50) % 4,
    "trial_start": np.arange(5) * 2.0,
    "trial_stop": np.arange(5) * 2.0 + 2,
}
PARTS = {"train_spikes": SPLIT.spikes[:8], "test_spikes": SPLIT.spikes[8:], "bin_width_s": 0.01}
WRITERS: dict[str, tuple[Callable[[Path, dict[str, Any]], Path], dict[str, Any]]] = {
    "npz": (_npz, {}),
    "hdf5": (_hdf5, {}),
    "lfads_hdf5": (_lfads, {}),
    "nlb_hdf5": (_nlb, {}),
    "npz_flat": (lambda path, strays: save_npz(path, FLAT | strays), {}),
    "hdf5_flat": (lambda path, strays: save_hdf5(path, FLAT | strays), {}),
    **{
        f"{name}_parts": (lambda path, strays, write=write: write(path, PARTS | strays), {})
        for name, write in WRITE_ARRAYS.items()
    },
    **{
        f"{save.__name__}_{kind}": (_matlab(variables, save), options)
        for kind, (variables, options) in MATLAB.items()
        for save in (save_v5, save_v7, save_v73)
    },
}


def told(found: Recording) -> set[str]:
    """Every name of the file that the report has, used or left out."""
    used = {one.variable for one in found.understood}
    used |= {*found.trial_metadata, *found.neuron_metadata, *found.behaviour}
    return used | {w.pointer.removeprefix("/") for w in found.warnings if w.code == "array_left_out"}


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_what_is_not_used_is_listed(layout: str, tmp_path: Path) -> None:
    write, options = WRITERS[layout]
    found = read(write(tmp_path / "f", STRAYS), **options)
    left_out = [w.pointer for w in found.warnings if w.code == "array_left_out"]
    assert set(STRAYS) <= told(found)
    assert "/odd_shape" in left_out
    assert "/odd_cube" in left_out
    assert "/stray_number" in left_out
    assert "/stray_text" in left_out
    assert len(left_out) == len(set(left_out))
    assert not {"odd_shape", "odd_cube"} & {*found.trial_metadata, *found.neuron_metadata, *found.behaviour}


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_without_strays_nothing_is_listed(layout: str, tmp_path: Path) -> None:
    write, options = WRITERS[layout]
    found = read(write(tmp_path / "f", {}), **options)
    assert [w for w in found.warnings if w.code == "array_left_out"] == []


@pytest.mark.parametrize("kind", ["hdf5", "lfads_hdf5"])
def test_texts_of_any_length_are_metadata(kind: str, tmp_path: Path) -> None:
    recording = example_recording()
    labels = [f"place {number}" * number for number in range(12)]
    if kind == "hdf5":
        path = _with_strays(write_hdf5(tmp_path / "f", recording), {"label": np.array(labels)})
    else:
        parts = {
            f"{split}_label": np.array(labels)[recording.split == code]
            for code, split in ((0, "train"), (1, "valid"), (-1, "test"))
        }
        path = _with_strays(write_lfads_hdf5(tmp_path / "f", recording), parts)
    found = read(path)
    assert found.source_format == kind
    assert found.trial_metadata["label"] == labels
    np.testing.assert_array_equal(found.spikes, recording.spikes)


def test_second_choices_of_one_role_are_listed(tmp_path: Path) -> None:
    recording = example_recording()
    assert recording.true_rates_hz is not None
    twice = {
        f"{split}_rates": recording.true_rates_hz[recording.split == code]
        for code, split in ((0, "train"), (1, "valid"))
    }
    found = read(_with_strays(write_lfads_hdf5(tmp_path / "f", recording), twice))
    assert {"train_rates", "valid_rates"} <= told(found)
    assert found.true_rates_hz is not None
