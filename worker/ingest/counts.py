"""Spike counts, gathered by blocks of trials and checked to be whole numbers from 0 to 65535."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.rows import Rows, blocks, zeros

LARGEST_COUNT = int(np.iinfo(np.uint16).max)


@dataclass
class _Fault:
    """Number of counts with one fault, and the first of them."""

    count: int
    array: str
    place: tuple[int, ...]
    value: object


class CountsBuilder:
    """Gathers spike counts from blocks of trials into the smallest unsigned type that holds them.

    Parameters
    ----------
    shape
        Trials, bins, neurons of the whole recording.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._counts = zeros(shape, np.uint8)
        self._faults: dict[str, _Fault] = {}

    def add(self, array: str, first: int, rows: NDArray[np.int64], block: NDArray[Any]) -> None:
        """Add a block of trials.

        Parameters
        ----------
        array
            Name of the array in the file, for messages.
        first
            Trial of that array at which the block begins.
        rows : int64, [trials of the block]
            Index of each of these trials in the whole recording.
        block : any real dtype, [trials of the block, bins, neurons]
            The counts.
        """
        if not self._block_is_sound(array, first, block):
            return
        if block.size and self._counts.dtype == np.uint8 and int(block.max()) > np.iinfo(np.uint8).max:
            narrow, self._counts = self._counts, zeros(self._counts.shape, np.uint16)
            for start, counts in blocks(narrow):
                self._counts[start : start + len(counts)] = counts
        self._counts[rows] = block

    def finish(self) -> Rows:
        """Return the counts, uint8 or uint16 [trials, bins, neurons].

        Raises
        ------
        RejectedFile
            If any count is not finite, negative, not whole, or too large; all kinds of faults are reported.
        """
        if self._faults:
            raise RejectedFile([_problem(kind, fault) for kind, fault in self._faults.items()])
        return self._counts

    def _block_is_sound(self, array: str, first: int, block: NDArray[Any]) -> bool:
        faults = count_faults(block)
        for kind, faulty in faults.items():
            self._note(kind, array, first, faulty, block)
        return not any(faulty.any() for faulty in faults.values())

    def _note(
        self, kind: str, array: str, first: int, faulty: NDArray[np.bool_], block: NDArray[Any]
    ) -> None:
        count = int(np.count_nonzero(faulty))
        if not count:
            return
        if kind in self._faults:
            self._faults[kind].count += count
            return
        place = np.unravel_index(int(np.argmax(faulty)), faulty.shape)
        value = block[place].item()
        trial, *rest = (int(index) for index in place)
        self._faults[kind] = _Fault(count, array, (first + trial, *rest), value)


def count_faults(values: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Return which values are not valid spike counts: code of the problem → mask of the shape of `values`."""
    if values.dtype.kind == "b":
        return {}
    faults = {}
    if values.dtype.kind == "f":
        values = values.astype(np.float32) if values.dtype.itemsize < 4 else values
        finite = np.isfinite(values)
        faults["counts_not_finite"] = ~finite
        values = np.where(finite, values, 0)
    faults |= {"counts_negative": values < 0, "counts_too_large": values > LARGEST_COUNT}
    if values.dtype.kind == "f":
        faults["counts_not_whole"] = values != np.trunc(values)
    return faults


def counts_problem(code: str, number: int, where: str, value: object, pointer: str) -> Problem:
    """Make the problem of values that are not valid spike counts: how many, where the first is, and its value."""
    in_tables = "If a column of a table holds no counts, name it with mapping.behaviour."
    what, hint = {
        "counts_not_finite": (
            "are NaN or infinite",
            "For trials of unequal length give trial_length_bins. Leave out trials in which nothing was recorded for a while, "
            "or end them there: 0 would mean that the neuron did not fire.",
        ),
        "counts_negative": (
            "are negative",
            "Give raw counts: not z-scored, not baseline-subtracted, and no -1 for padding.",
        ),
        "counts_not_whole": (
            "are not whole numbers",
            "Give the number of spikes in each bin. These look like rates in Hz, or smoothed or normalised spikes. "
            + in_tables,
        ),
        "counts_too_large": (
            f"are above {LARGEST_COUNT}",
            "No neuron fires so often in one bin: check that these are counts and not times or voltages. "
            + in_tables,
        ),
    }[code]
    return Problem(code, f"{number} spike counts {what}, {where}: {value!r}", hint, pointer)


def _problem(kind: str, fault: _Fault) -> Problem:
    trial, time_bin, neuron = fault.place
    where = f"the first at trial {trial}, bin {time_bin}, neuron {neuron} of `{fault.array}` (counted from 0)"
    return counts_problem(kind, fault.count, where, fault.value, f"/{fault.array}")
