"""The continuous series of latents that were inferred in windows of a longer recording."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.metadata import ArrayV3Metadata

from domain.windows import Windows
from store.arrays import ArrayGroupWriter, NamedArray, RowWriter


def write_continuous(
    writer: ArrayGroupWriter,
    windows: Windows,
    latents: Mapping[str, tuple["zarr.Array[Any]", int]],
    *,
    trial_length_bins: NDArray[np.int64],
    bin_width_s: float,
    suffix: str = "",
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Write the continuous series of latents that were inferred in windows.

    Parameters
    ----------
    writer
        Of the group of latents.
    windows
        Where the windows lie.
    latents
        By name: an array [trials, bins, k] that is already written, and the row of its first window.
    trial_length_bins
        Bins of each window.
    bin_width_s
        Width of a bin, in seconds.
    suffix
        End of the names of the session's arrays.
    beat
        Called after every window.
    """
    time = f"continuous_time_s{suffix}"
    bins = int(windows.segment_bins.sum())
    for name, (array, first_row) in latents.items():
        assert isinstance(array.metadata, ArrayV3Metadata)
        dims = array.metadata.dimension_names or ()
        described = f"{array.attrs['description']}; windows merged into one series"
        target = RowWriter(
            writer.create(
                f"continuous_{name.removesuffix(suffix)}{suffix}",
                (bins, array.shape[2]),
                np.float32,
                (time, str(dims[2])),
                units=str(array.attrs.get("units", "")),
                description=described,
            )
        )
        for piece in windows.merge(
            _ChunkByChunk(array, first_row, len(trial_length_bins)), trial_length_bins
        ):
            target.append(piece)
            beat()
        target.close()
    segments = zip(windows.segment_start_s, windows.segment_bins, strict=True)
    times_s = np.concatenate([start_s + np.arange(length) * bin_width_s for start_s, length in segments])
    of_bins = np.repeat(np.arange(len(windows.segment_bins)), windows.segment_bins)
    writer.write(NamedArray(time, times_s, (time,), "s", "start of the bin in the session"))
    writer.write(NamedArray(f"continuous_segment{suffix}", of_bins, (time,), "", "segment of the recording"))


class _ChunkByChunk:
    """Rows of an array that is read in order: it keeps one chunk in memory."""

    def __init__(self, array: "zarr.Array[Any]", first_row: int, rows: int) -> None:
        self._array, self._first_row = array, first_row
        self._held_from, self._held = 0, np.asarray(array[:0])
        self.shape = (rows, *array.shape[1:])
        self.dtype, self.ndim = array.dtype, array.ndim

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        first, last, _ = rows.indices(self.shape[0])
        first, last = first + self._first_row, last + self._first_row
        if not (self._held_from <= first and last <= self._held_from + len(self._held)):
            self._held_from = first // self._array.chunks[0] * self._array.chunks[0]
            self._held = np.asarray(
                self._array[self._held_from : max(last, self._held_from + self._array.chunks[0])]
            )
        return self._held[first - self._held_from : last - self._held_from]
