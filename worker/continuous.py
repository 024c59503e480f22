"""Windows of a longer recording in the array store, and the continuous series of what was inferred in them."""

from collections.abc import Iterator

import numpy as np
from zarr.abc.store import Store

from store.arrays import NamedArray, open_array
from worker.windows import Windows

_NAMES = ("segment", "segment_first_bin", "segment_start_s", "segment_bins")


def window_arrays(windows: Windows) -> Iterator[NamedArray]:
    """The arrays by which a data set keeps where its windows lie."""
    yield NamedArray("segment", windows.segment, ("trial",), "", "stretch that the window was cut from")
    yield NamedArray("segment_first_bin", windows.first_bin, ("trial",), "bins", "where in it the window begins")
    start = "when the stretch begins in the session"
    yield NamedArray("segment_start_s", windows.segment_start_s, ("segment_index",), "s", start)
    yield NamedArray("segment_bins", windows.segment_bins, ("segment_index",), "bins", "how long the stretch is")


def windows_of(store: Store, array_path: str) -> Windows | None:
    """Where the windows of a data set lie; None if it has trials instead."""
    found = [open_array(store, array_path, name) for name in _NAMES]
    present = [np.asarray(array[...]) for array in found if array is not None]
    return Windows(*present) if len(present) == len(_NAMES) else None


def continuous_coordinates(windows: Windows, bin_width_s: float) -> Iterator[NamedArray]:
    """Time of each bin of the continuous series in the session, and the stretch it is of."""
    stretches = zip(windows.segment_start_s, windows.segment_bins, strict=True)
    times_s = np.concatenate([start_s + np.arange(bins) * bin_width_s for start_s, bins in stretches])
    of_bins = np.repeat(np.arange(len(windows.segment_bins)), windows.segment_bins)
    dims = ("continuous_time_s",)
    yield NamedArray("continuous_time_s", times_s, dims, "s", "start of the bin in the session")
    yield NamedArray("continuous_segment", of_bins, dims, "", "stretch of the recording")
