"""Files of named arrays in every format that has them, written alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.worker.ingest.matlab_files import save_v5, save_v73


def save_npz(path: Path, arrays: dict[str, Any]) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def save_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            kept = np.asarray(array)
            file[name.replace(".", "/")] = kept.astype(object) if kept.dtype.kind == "U" else kept
    return path


def _in_structs(save: Callable[[Path, dict[str, Any]], Path]) -> Callable[[Path, dict[str, Any]], Path]:
    """Put `a.b` into the struct `a`."""

    def write(path: Path, arrays: dict[str, Any]) -> Path:
        variables: dict[str, Any] = {}
        for name, array in arrays.items():
            kept = np.asarray(array)
            value = kept.astype(object).reshape(-1, 1) if kept.dtype.kind == "U" and kept.ndim else array
            outer, _, inner = name.partition(".")
            if inner:
                variables.setdefault(outer, {})[inner] = value
            else:
                variables[name] = value
        return save(path, variables)

    return write


WRITE_ARRAYS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {
    "npz": save_npz,
    "hdf5": save_hdf5,
    "matlab": _in_structs(save_v5),
    "matlab73": _in_structs(save_v73),
}
"""Format → writer of arrays by name; `a.b` lies in the group or struct `a` where the format has these."""
