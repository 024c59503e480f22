"""Sort rows that come in any order into their places, in constant memory."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.ingest.rows import BLOCK_BYTES, RowFile, rows_per_block

_MOST_FILES = 400
_OVERHEAD_BYTES = 24
"""Memory of a place in addition to its values while it is processed."""


@dataclass(frozen=True)
class Stretch:
    """Rows of consecutive places.

    Attributes
    ----------
    first
        The first place.
    counts : uint16, [places, k]
        Zero if the place has no row.
    signals : float32, [places, s]
        NaN if the place has no row.
    """

    first: int
    counts: NDArray[np.uint16]
    signals: NDArray[np.float32]


class Places:
    """Collects rows by their place, in temporary files of which each fits into memory.

    Parameters
    ----------
    places
        Number of places.
    counts, signals
        Number of counts and signals in each row.

    Attributes
    ----------
    places
        Number of places.
    repeated
        A place with more than one row; known after `stretches` is exhausted.
    """

    def __init__(self, places: int, counts: int, signals: int = 0) -> None:
        self._dtype = np.dtype([("place", "i8"), ("counts", "u2", (counts,)), ("signals", "f4", (signals,))])
        self.places, self._shape = places, (counts, signals)
        bytes_per_place = 2 * counts + 4 * signals + _OVERHEAD_BYTES
        self._length = max(1, min(places, BLOCK_BYTES // bytes_per_place), -(-places // _MOST_FILES))
        self._files: dict[int, RowFile] = {}
        self.repeated: int | None = None

    def add(
        self,
        places: NDArray[np.int64],
        counts: NDArray[np.uint16],
        signals: NDArray[np.float32] | None = None,
    ) -> None:
        """Add rows: places [rows] from 0, counts [rows, k], signals [rows, s]."""
        numbers = places // self._length
        order = np.argsort(numbers, kind="stable")
        records = np.empty(len(places), self._dtype)
        records["place"], records["counts"] = places[order], counts[order]
        if signals is not None:
            records["signals"] = signals[order]
        found, starts = np.unique(numbers[order], return_index=True)
        for number, first, last in zip(found.tolist(), starts, [*starts[1:], len(places)], strict=True):
            part = records[first:last].view(np.uint8).reshape(last - first, self._dtype.itemsize)
            file = self._files.get(number)
            if file is None:
                opened = tempfile.TemporaryFile(prefix="latentry-table-")  # noqa: SIM115 it lives as long as the rows
                file = self._files[number] = RowFile(opened, (0, self._dtype.itemsize), np.dtype(np.uint8))
            end = len(file)
            file.shape = (end + len(part), self._dtype.itemsize)
            file[end : end + len(part)] = part

    def stretches(self) -> Iterator[Stretch]:
        """Yield all places in order."""
        for number, first in enumerate(range(0, self.places, self._length)):
            length = min(self._length, self.places - first)
            stretch = Stretch(
                first,
                np.zeros((length, self._shape[0]), np.uint16),
                np.full((length, self._shape[1]), np.nan, np.float32),
            )
            if number in self._files:
                self._fill(stretch, self._files.pop(number))
            yield stretch

    def _fill(self, stretch: Stretch, file: RowFile) -> None:
        seen = np.zeros(len(stretch.counts), bool)
        step = rows_per_block(file.shape, 1)
        for begin in range(0, len(file), step):
            records = file[begin : begin + step].view(self._dtype).reshape(-1)
            places = records["place"] - stretch.first
            unique, number = np.unique(places, return_counts=True)
            again = unique[seen[unique] | (number > 1)]
            if len(again) and self.repeated is None:
                self.repeated = int(again[0]) + stretch.first
            seen[unique] = True
            stretch.counts[places] = records["counts"]
            stretch.signals[places] = records["signals"]
