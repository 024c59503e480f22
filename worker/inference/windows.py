"""Windows of a longer recording, and how what was inferred in them is merged into one continuous series.

Neighbouring windows share bins. Each window's weight rises linearly over the bins it shares with the one before and falls over
those it shares with the next, and weights of a bin add up to one: the series has no step where windows meet, and near a
window's edge, where inference sees the least of what is around, the other window counts more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from store.arrays import RowArray


@dataclass(frozen=True)
class Windows:
    """Where the windows (trials of the data set) lie in the stretches they were cut from.

    Attributes
    ----------
    segment : int64, [trials]
        Which stretch each window was cut from: a continuous recording is one, a long trial is one each.
    first_bin : int64, [trials]
        Bin of the stretch at which the window begins; rising within a stretch.
    segment_start_s : float64, [segments]
        When each stretch begins, in seconds of the session.
    segment_bins : int64, [segments]
        How long each is.
    """

    segment: NDArray[np.int64]
    first_bin: NDArray[np.int64]
    segment_start_s: NDArray[np.float64]
    segment_bins: NDArray[np.int64]

    def merge(self, latents: "RowArray", lengths: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Merge what was inferred in windows: yields float32 [bins, k] piece by piece, stretch after stretch.

        Parameters
        ----------
        latents : float, [trials, bins, k]
            NaN where a window has no value (before the generator begins): other windows fill it where they can.
        lengths : int64, [trials]
            Bins of each window. Bins that no window has, since windows were left out, are NaN.
        """
        k = latents.shape[2]
        for segment, bins in enumerate(self.segment_bins.tolist()):
            windows = np.flatnonzero(self.segment == segment)
            first = self.first_bin[windows]
            ends = first + lengths[windows]
            if len(windows) == 0:
                yield np.full((bins, k), np.nan, np.float32)
            total, weight, begun = np.zeros((0, k)), np.zeros((0, 1)), 0
            for place, window in enumerate(windows.tolist()):
                before = int(ends[place - 1] - first[place]) if place else 0
                after = int(ends[place] - first[place + 1]) if place + 1 < len(windows) else 0
                values = np.asarray(latents[window : window + 1])[0, : int(lengths[window])]
                ramp = window_weights(len(values), before, after)[:, None]
                ramp = np.where(np.isfinite(values).all(axis=1, keepdims=True), ramp, 0.0)
                # No window after this one reaches the bins before the next one's first.
                until = int(first[place + 1]) if place + 1 < len(windows) else bins
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
    """Weight of each bin of a window that shares bins with the windows before and after it; above 0 throughout.

    Returns
    -------
    NDArray[np.float64]
        [bins]; over the bins shared by two windows the weights of both add up to 1.
    """
    weights = np.ones(bins)
    if before > 0:
        weights[:before] *= (np.arange(before) + 1) / (before + 1)
    if after > 0:
        weights[bins - after :] *= (np.arange(after, 0, -1)) / (after + 1)
    return weights
