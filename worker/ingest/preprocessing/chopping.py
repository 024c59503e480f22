"""Wider bins, and long recordings cut into overlapping windows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import ChopOptions
from domain.windows import Windows, window_starts
from worker.ingest.counts import LARGEST_COUNT, CountsBuilder
from worker.ingest.preprocessing.selection import select_trials
from worker.ingest.problems import rejected
from worker.ingest.recording import Recording
from worker.ingest.rows import Rows, filled, rows_per_block, zeros

MOST_WINDOWS = 200_000


def rebin(recording: Recording, rebin_s: float) -> None:
    """Add up neighbouring bins: counts are summed, behaviour, inputs and true rates averaged.

    A wider bin of a neuron is missing if any of its bins is: part of its spikes would count as all of them. Its count is 0.
    Bins that do not fill a wider one at a trial's end are left out, and trials shorter than one.

    Parameters
    ----------
    recording
        The recording, changed in place.
    rebin_s
        The new width, in seconds.

    Raises
    ------
    RejectedFile
        If the new width is not a multiple of the present one, or no trial is left.
    """
    width_s = recording.bin_width_s
    longest = int(recording.trial_length_bins.max())
    together = round(min(rebin_s / width_s, longest + 1))
    if together > longest:
        said = f"No trial is as long as one bin of {rebin_s:g} s."
        raise rejected("no_trials_left", said, "Give narrower bins.", "/rebin_s")
    if together < 1 or abs(together * width_s / rebin_s - 1) > 1e-3:
        near = max(1, together) * width_s
        said = f"rebin_s is {rebin_s:g}, with bins of {width_s:g} s: expected a multiple."
        raise rejected("rebin_not_a_multiple", said, f"The nearest is {near:g} s.", "/rebin_s")
    if together == 1:
        return
    lengths = recording.trial_length_bins // together
    lost = int((recording.trial_length_bins - lengths * together).sum())
    too_short = int((lengths < 1).sum())
    if too_short:
        select_trials(recording, lengths >= 1)
        lengths = lengths[lengths >= 1]
    recording.spikes = _sums(recording.spikes, recording.missing, lengths, together)
    for name, array in recording.per_bin().items():
        wider = _any if name == "missing" else _means
        recording.set_per_bin(name, wider(array, lengths, together))
    recording.trial_length_bins, recording.bin_width_s = lengths, width_s * together
    recording.notes.append(
        f"{together} bins of {width_s:g} s each were added up to bins of {rebin_s:g} s; {lost} bins at trials' ends did not fill "
        f"one, and {too_short} trials were shorter than one: those were left out."
    )


def _sums(spikes: Rows, missing: Rows | None, lengths: NDArray[np.int64], together: int) -> Rows:
    trials, most, neurons = len(lengths), int(lengths.max()), spikes.shape[2]
    builder = CountsBuilder((trials * most, 1, neurons))
    unobserved = None if missing is None else _groups(missing, lengths, together)
    for first, block in _groups(spikes, lengths, together):
        sums = block.sum(axis=1, dtype=np.int64).clip(max=LARGEST_COUNT)
        if unobserved is not None:
            sums[next(unobserved)[1].any(axis=1)] = 0
        builder.add("spikes", first, np.arange(first, first + len(sums)), sums[:, None, :])
    return builder.finish().reshape(trials, most, neurons)


def _any(missing: Rows, lengths: NDArray[np.int64], together: int) -> Rows:
    trials, most, neurons = len(lengths), int(lengths.max()), missing.shape[2]
    out = zeros((trials * most, neurons), np.uint8)
    for first, block in _groups(missing, lengths, together):
        out[first : first + len(block)] = np.asarray(block.any(axis=1))
    return out.reshape(trials, most, neurons)


def _means(array: Rows, lengths: NDArray[np.int64], together: int) -> Rows:
    trials, most, width = len(lengths), int(lengths.max()), array.shape[2]
    out = filled((trials * most, width), np.float32, np.nan)
    for first, block in _groups(array, lengths, together):
        finite = np.isfinite(block)
        number = finite.sum(axis=1)
        total = np.where(finite, block, 0).sum(axis=1, dtype=np.float64)
        out[first : first + len(block)] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return out.reshape(trials, most, width)


def _groups(
    array: Rows, lengths: NDArray[np.int64], together: int
) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Iterate over the wider bins of all trials: yield the index of the first and a block [wider bins, together, width]."""
    _, bins, width = array.shape
    most = int(lengths.max())
    flat = array.reshape(-1, width)
    step = rows_per_block((most, together * width), 8)
    for trial, length in enumerate(lengths.tolist()):
        for first in range(0, length, step):
            last = min(first + step, length)
            block = flat[trial * bins + first * together : trial * bins + last * together]
            yield trial * most + first, block.reshape(-1, together, width)


def chop(recording: Recording, options: ChopOptions) -> None:
    """Cut each trial (a continuous recording is one trial) into windows that begin at fixed steps.

    The last window of a trial ends with it, so that every bin is in a window; it may share more with the one before. A trial
    shorter than a window is one by itself.

    Parameters
    ----------
    recording
        The recording, changed in place: its trials become windows, and `windows` holds their positions.
    options
        Length and overlap of windows, in seconds.

    Raises
    ------
    RejectedFile
        If a window has fewer than two bins.
    """
    width_s = recording.bin_width_s
    lengths = recording.trial_length_bins
    window = round(min(options.window_s / width_s, int(lengths.max())))
    if window < 2:
        said = f"chop.window_s is {options.window_s:g}, with bins of {width_s:g} s: expected at least two bins in a window."
        raise rejected("window_too_short", said, "Give a longer window.", "/chop/window_s")
    overlap = round(min(options.overlap_s / width_s, window // 2))
    starts = [window_starts(int(length), window, overlap) for length in lengths]
    number = sum(len(part) for part in starts)
    if number > MOST_WINDOWS:
        said = f"Windows of {options.window_s:g} s would be {number}: at most {MOST_WINDOWS} are cut."
        raise rejected("too_many_windows", said, "Give longer windows.", "/chop/window_s")
    segment = np.repeat(np.arange(len(lengths)), [len(part) for part in starts])
    first_bin = np.concatenate(starts)
    segment_start_s = np.zeros(len(lengths)) if recording.trial_start_s is None else recording.trial_start_s
    windows = Windows(segment, first_bin, segment_start_s, lengths)
    recording.spikes = _cut(recording.spikes, windows, window)
    for name, array in recording.per_bin().items():
        recording.set_per_bin(name, _cut(array, windows, window))
    recording.trial_length_bins = np.minimum(window, lengths[segment] - first_bin)
    recording.split = recording.split[segment]
    recording.trial_metadata = {
        name: [values[index] for index in segment] for name, values in recording.trial_metadata.items()
    }
    for name in ("start_time", "stop_time"):
        recording.trial_metadata.pop(name, None)
    recording.trial_start_s = segment_start_s[segment] + first_bin * width_s
    columns = {"segment": segment, "segment_first_bin": first_bin, "start_time": recording.trial_start_s}
    for name, values in columns.items():
        recording.trial_metadata[name] = list(values.tolist())
    recording.windows, recording.is_continuous = windows, False
    recording.notes.append(
        f"{'The recording' if len(lengths) == 1 else f'{len(lengths)} trials'} of {int(lengths.sum())} bins became "
        f"{len(first_bin)} windows of {window * width_s:g} s that share {overlap * width_s:g} s; rates and factors are merged "
        "into one continuous series after inference."
    )


def _cut(array: Rows, windows: Windows, longest: int) -> Rows:
    _, bins, width = array.shape
    out = zeros((len(windows.segment), longest, width), array.dtype)
    flat = array.reshape(-1, width)
    for window, (segment, first) in enumerate(zip(windows.segment, windows.first_bin, strict=True)):
        length = min(longest, int(windows.segment_bins[segment]) - int(first))
        row = np.zeros((1, longest, width), array.dtype)
        if array.dtype.kind == "f":
            row[0, length:] = np.nan
        row[0, :length] = flat[int(segment) * bins + int(first) : int(segment) * bins + int(first) + length]
        out[window : window + 1] = row
    return out
