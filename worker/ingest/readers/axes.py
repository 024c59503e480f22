"""The order of axes in a file, and its conversion to trials × bins × neurons."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import rejected
from worker.ingest.rows import BLOCK_BYTES, RowFile, Rows, zeros

_ORDER = ("trial", "bin", "neuron")


@dataclass(frozen=True)
class Axes:
    """Order of the axes of an array.

    Attributes
    ----------
    names
        `trial`, `bin`, `neuron`, in the file's order; a continuous recording has no trials. In arrays beside the spikes, the
        axis `neuron` is that of their components; it is missing if they have none.
    """

    names: tuple[str, ...]

    @property
    def is_continuous(self) -> bool:
        """Whether there is no axis of trials."""
        return "trial" not in self.names

    def of_beside(self, shape: tuple[int, ...]) -> "Axes":
        """Return the axes of an array beside the spikes, which may lack the last axis (components)."""
        if len(shape) == len(self.names):
            return self
        return Axes(tuple(name for name in self.names if name != "neuron"))

    def canonical(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return trials, bins and neurons (or components) of an array with these axes."""
        length = dict(zip(self.names, shape, strict=True))
        return length.get("trial", 1), length["bin"], length.get("neuron", 1)

    def fits(self, shape: tuple[int, ...], spikes: tuple[int, int, int], exact: bool) -> bool:
        """Return whether an array has the trials and bins of the spikes; with `exact` also their neurons."""
        if len(shape) not in (len(self.names), len(self.names) - 1) or 0 in shape:
            return False
        axes = self.of_beside(shape)
        found = axes.canonical(shape)
        return found[:2] == spikes[:2] and (not exact or (len(shape) == len(self.names) and found == spikes))

    def as_stored(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape in which blocks of the first axis are gathered: always three axes."""
        padded = (*shape, 1, 1)
        if self.is_continuous:  # every bin a row, so that a block is a part of the recording
            return padded[0], 1, padded[1]
        return padded[0], padded[1], padded[2]

    def block(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return a block of the file's first axis in the shape of `as_stored`."""
        return block.reshape(len(block), *self.as_stored(block.shape)[1:])

    def arranged(self, stored: Rows) -> Rows:
        """Return the gathered blocks as trials × bins × neurons."""
        names = self.names if "neuron" in self.names else (*self.names, "neuron")
        if self.is_continuous:
            rows, _, columns = stored.shape
            flat = stored.reshape(rows, columns)
            if names == ("neuron", "bin"):
                flat = _transposed(flat)
            return flat.reshape(1, *flat.shape)
        order = tuple(names.index(name) for name in _ORDER)
        if order == (0, 1, 2):
            return stored
        if isinstance(stored, np.ndarray):
            return np.ascontiguousarray(np.transpose(stored, order))
        return _permuted_on_disk(stored, order)


def refuse_wrong_axes(name: str, shape: tuple[int, ...], given: list[Any] | None) -> None:
    """Reject spike counts that have not two or three axes, or not those that `mapping.axes` names."""
    if given is not None and (len(given) != len(shape) or "bin" not in given):
        message = (
            f"mapping.axes names {' × '.join(f'{axis}s' for axis in given)}, but `{name}` holds counts in "
            f"{len(shape)} axes, {shape}."
        )
        hint = "Name each axis once, in the order of the file, and one of them `bin`."
        raise rejected("spikes_wrong_axes", message, hint, "/mapping/axes")
    if len(shape) not in (2, 3):
        message = f"`{name}` has shape {shape}: expected three axes, trials × bins × neurons (or two, bins × neurons)."
        hint = "Save trials first, then bins, and neurons last, or name another variable with mapping.spikes."
        raise rejected("spikes_wrong_axes", message, hint, f"/{name}")


def _transposed(array: Rows) -> Rows:
    """Transpose [a, b] to [b, a]; on disk by blocks of columns, each of which needs one pass over the file."""
    rows, columns = array.shape
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array.T)
    out = zeros((columns, rows), array.dtype)
    wide = max(1, 4 * BLOCK_BYTES // (rows * array.dtype.itemsize))
    tall = max(1, BLOCK_BYTES // (columns * array.dtype.itemsize))
    for first in range(0, columns, wide):
        part = np.empty((min(wide, columns - first), rows), array.dtype)
        for row in range(0, rows, tall):
            block = array[row : row + tall]
            part[:, row : row + len(block)] = block[:, first : first + wide].T
        out[first : first + len(part)] = part
    return out


def _permuted_on_disk(array: RowFile, order: tuple[int, ...]) -> Rows:
    """Permute three axes on disk by transpositions that involve the first or the last axis."""
    a, b, c = array.shape
    if order == (0, 2, 1):
        out = zeros((a, c, b), array.dtype)
        for row in range(a):
            out[row : row + 1] = np.ascontiguousarray(array[row].T)[None]
        return out
    if order in ((1, 2, 0), (2, 0, 1)):
        rows = a if order == (1, 2, 0) else a * b
        turned = _transposed(array.reshape(rows, -1))
        return turned.reshape(*(array.shape[axis] for axis in order))
    # (1, 0, 2) and (2, 1, 0): a turn, then the two axes behind the first are swapped.
    turn = (1, 2, 0) if order == (1, 0, 2) else (2, 0, 1)
    turned = _permuted_on_disk(array, turn)
    if isinstance(turned, np.ndarray):
        return np.ascontiguousarray(turned.transpose(0, 2, 1))
    return _permuted_on_disk(turned, (0, 2, 1))
