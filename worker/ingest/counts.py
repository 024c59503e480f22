"""Spike counts, taken in by blocks of trials and held to be whole numbers from 0 to 65535."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.rows import Rows, blocks, zeros

LARGEST_COUNT = int(np.iinfo(np.uint16).max)


@dataclass
class _Fault:
    """How many counts have one fault, and the first of them."""

    count: int
    array: str
    place: tuple[int, ...]
    value: object


class CountsBuilder:
    """Gathers spike counts from blocks of trials into the smallest unsigned type that holds them.

    Parameters
    ----------
    shape
        Trials, bins, neurons of the whole.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._counts = zeros(shape, np.uint8)
        self._faults: dict[str, _Fault] = {}

    def add(self, array: str, first: int, rows: NDArray[np.int64], block: NDArray[Any]) -> None:
        """Take in a block of trials.

        Parameters
        ----------
        array
            Name of the array in the file, for messages.
        first
            Trial of that array at which the block begins.
        rows : int64, [trials of the block]
            Where these trials go in the whole.
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
        """Give the counts, uint8 or uint16 [trials, bins, neurons].

        Raises
        ------
        RejectedFile
            When any count was not finite, negative, not whole, or too large; every kind of fault is told.
        """
        if self._faults:
            raise RejectedFile([_problem(kind, fault) for kind, fault in self._faults.items()])
        return self._counts

    def _block_is_sound(self, array: str, first: int, block: NDArray[Any]) -> bool:
        if block.dtype.kind == "b":
            return True
        checks = {}
        if block.dtype.kind == "f":
            block = block.astype(np.float32) if block.dtype.itemsize < 4 else block
            finite = np.isfinite(block)
            checks["counts_not_finite"] = ~finite
            block = np.where(finite, block, 0)
            checks["counts_not_whole"] = block != np.trunc(block)
        checks["counts_negative"] = block < 0
        checks["counts_too_large"] = block > LARGEST_COUNT
        for kind, faulty in checks.items():
            self._note(kind, array, first, faulty, block)
        return not any(faulty.any() for faulty in checks.values())

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


def _problem(kind: str, fault: _Fault) -> Problem:
    trial, time_bin, neuron = fault.place
    where = f"the first at trial {trial}, bin {time_bin}, neuron {neuron} of `{fault.array}` (counted from 0)"
    said, hint = {
        "counts_not_finite": (
            f"{fault.count} spike counts are NaN or infinite, {where}",
            "For trials of unequal length give trial_length_bins. Leave out trials in which nothing was recorded for a while, or "
            "end them there: 0 would say that the neuron did not fire.",
        ),
        "counts_not_whole": (
            f"{fault.count} spike counts are not whole numbers, {where}: {fault.value!r}",
            "Counts must be whole numbers; these look like rates in Hz, or smoothed or normalised spikes. "
            "Give the number of spikes in each bin.",
        ),
        "counts_negative": (
            f"{fault.count} spike counts are negative, {where}: {fault.value!r}",
            "Give raw counts: not z-scored, not baseline-subtracted, and no -1 for padding.",
        ),
        "counts_too_large": (
            f"{fault.count} spike counts are above {LARGEST_COUNT}, {where}: {fault.value!r}",
            "No neuron fires so often in one bin: check that this array holds counts and not times "
            "or voltages.",
        ),
    }[kind]
    return Problem(kind, said, hint, f"/{fault.array}")
