"""Windows of a longer recording: how it is cut into them, and how latents of windows are merged into one continuous series.

Neighbouring windows share bins. The weight of a window rises linearly over the bins that it shares with the window before it,
and falls over those that it shares with the next. The weights of a bin add up to one, so the series has no step where windows
meet. Inference knows the least near the edge of a window, and there the other window counts more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class RowArray(Protocol):
    """An array that is read by rows of its first axis: in memory, or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return some rows, in memory."""


@dataclass(frozen=True)
class Windows:
    """Where the windows (trials of the data set) lie in the segments from which they were cut.

    Attributes
    ----------
    segment : int64, [trials]
        The segment of each window. A continuous recording is one segment; a long trial is one segment each.
    first_bin : int64, [trials]
        Bin of the segment at which the window begins; rising within a segment.
    segment_start_s : float64, [segments]
        When each segment begins, in seconds of the session.
    segment_bins : int64, [segments]
        Length of each segment.
    """

    segment: NDArray[np.int64]
    first_bin: NDArray[np.int64]
    segment_start_s: NDArray[np.float64]
    segment_bins: NDArray[np.int64]

    def merge(self, latents: RowArray, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Merge latents of windows; yield float32 [bins, k] piece by piece, segment after segment.

        Parameters
        ----------
        latents : float, [trials, bins, k]
            NaN where a window has no value (before the generator begins). Other windows fill these bins where they can.
        lengths : int64, [trials]
            Bins of each window. If windows were left out, bins that no window has are NaN.
        """
        for segment, bins in enumerate(self.segment_bins.tolist()):
            windows = np.flatnonzero(self.segment == segment)
            yield from self._merge_segment(windows, bins, latents, lengths)

    def _merge_segment(
        self, windows: NDArray[np.int64], bins: int, latents: RowArray, lengths: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float32]]:
        k, first = latents.shape[2], self.first_bin[windows]
        ends = first + lengths[windows]
        if len(windows) == 0:
            yield np.full((bins, k), np.nan, np.float32)
        total, weight, begun = np.zeros((0, k)), np.zeros((0, 1)), 0
        for place, window in enumerate(windows.tolist()):
            is_last = place + 1 == len(windows)
            before = int(ends[place - 1] - first[place]) if place else 0
            after = 0 if is_last else int(ends[place] - first[place + 1])
            values = np.asarray(latents[window : window + 1])[0, : int(lengths[window])]
            ramp = window_weights(len(values), before, after)[:, None]
            ramp = np.where(np.isfinite(values).all(axis=1, keepdims=True), ramp, 0.0)
            # No later window reaches the bins before the first bin of the next window.
            until = bins if is_last else int(first[place + 1])
            more = max(int(ends[place]), until) - begun - len(total)
            if more > 0:
                total = np.concatenate((total, np.zeros((more, k))))
                weight = np.concatenate((weight, np.zeros((more, 1))))
            span = slice(int(first[place]) - begun, int(ends[place]) - begun)
            total[span] += np.where(ramp > 0, values, 0.0) * ramp
            weight[span] += ramp
            done = until - begun
            merged = np.where(weight[:done] > 0, total[:done] / np.maximum(weight[:done], 1e-12), np.nan)
            yield merged.astype(np.float32)
            total, weight, begun = total[done:], weight[done:], begun + done


def window_weights(bins: int, before: int, after: int) -> NDArray[np.float64]:
    """Return the weight of each bin of a window that shares bins with the windows before and after it.

    Returns
    -------
    NDArray[np.float64]
        [bins], above 0. Over the bins that two windows share, the weights of both add up to 1.
    """
    weights = np.ones(bins)
    if before > 0:
        weights[:before] *= (np.arange(before) + 1) / (before + 1)
    if after > 0:
        weights[bins - after :] *= (np.arange(after, 0, -1)) / (after + 1)
    return weights


def window_starts(length: int, window: int, overlap: int) -> NDArray[np.int64]:
    """Return the first bin of each window of a segment.

    Each window but the last begins `window` - `overlap` bins after the one before. The last window ends with the segment, and may
    share more bins. A segment that is not longer than a window is one window.
    """
    if length <= window:
        return np.zeros(1, np.int64)
    starts = np.arange(0, length - window + 1, window - overlap)
    return starts if starts[-1] + window == length else np.append(starts, length - window)
