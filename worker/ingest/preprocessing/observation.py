"""Observed samples: excluded intervals and spans of trials become the mask `Recording.missing`."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.preprocessing.selection import select_trials
from worker.ingest.problems import Problem, rejected
from worker.ingest.recording import MetadataValue, Recording
from worker.ingest.rows import rows_per_block, zeros
from worker.ingest.spike_trains import SpikeTrains

IN_INVALID_TIMES = "in_invalid_times"
"""Metadata of trials: whether the trial (or window) overlaps an interval of `invalid_times`."""
MOST_CONTRADICTING = 0.5
"""Intervals of observation are ignored for a unit with more than this share of its spikes outside them."""
MOST_EDGE_BINS = 2
"""Bins in which the observation begins and ends: up to this many missing bins give a note instead of a warning."""
_TOLERANCE = 1e-6
"""Tolerance in bins."""

Intervals = NDArray[np.float64]
"""Float64 [intervals, 2]: start and stop in seconds of the session; disjoint and in order."""
Handling = Literal["mask", "drop", "keep"]


def merged(intervals_s: NDArray[np.float64]) -> Intervals:
    """Return intervals sorted and merged, without empty and NaN intervals."""
    kept = intervals_s[intervals_s[:, 1] > intervals_s[:, 0]]  # NaN is never greater
    if len(kept) == 0:
        return np.zeros((0, 2))
    kept = kept[np.argsort(kept[:, 0], kind="stable")]
    until = np.maximum.accumulate(kept[:, 1])
    first = np.flatnonzero(np.concatenate(([True], kept[1:, 0] > until[:-1])))
    return np.stack([kept[first, 0], np.maximum.reduceat(kept[:, 1], first)], axis=-1)


def complement(intervals_s: NDArray[np.float64]) -> Intervals:
    """Return the complement of intervals; all of time if there are none."""
    inside = merged(intervals_s)
    edges = np.concatenate(([-np.inf], inside.reshape(-1), [np.inf]))
    return edges.reshape(-1, 2)


def overlapping(
    start_s: NDArray[np.float64], stop_s: NDArray[np.float64], intervals_s: Intervals
) -> NDArray[np.bool_]:
    """Return whether each time span overlaps an interval; shapes are those of `start_s`."""
    if len(intervals_s) == 0:
        return np.zeros(start_s.shape, np.bool_)
    following = np.searchsorted(intervals_s[:, 1], start_s, side="right")
    begins = np.append(intervals_s[:, 0], np.inf)[following]
    found: NDArray[np.bool_] = begins < stop_s
    return found


def mask_intervals(
    recording: Recording, start_s: NDArray[np.float64], intervals_s: Sequence[Intervals]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mark the bins that overlap intervals as missing, and set their counts to 0.

    Parameters
    ----------
    recording
        Its `spikes` and `missing` are changed in place.
    start_s : float64, [trials]
        When each trial's first bin begins, on the clock of the intervals.
    intervals_s
        Intervals of each neuron.

    Returns
    -------
    bins : int64, [neurons]
        Number of bins of each neuron that overlap its intervals.
    spikes : int64, [neurons]
        Number of spikes in these bins.
    """
    trials, bins, neurons = recording.spikes.shape
    groups: dict[bytes, list[int]] = {}
    for neuron, own in enumerate(intervals_s):
        groups.setdefault(own.tobytes(), []).append(neuron)
    inside = recording.inside_trials().reshape(-1)
    width_s, slack_s = recording.bin_width_s, _TOLERANCE * recording.bin_width_s
    missing = None if recording.missing is None else recording.missing.reshape(-1, neurons)
    spikes, cells = recording.spikes.reshape(-1, neurons), trials * bins
    masked = np.zeros((2, neurons), np.int64)
    step = rows_per_block((cells, neurons), 16)
    if not any(len(own) for own in intervals_s):
        return masked[0], masked[1]
    for first in range(0, cells, step):
        cell = np.arange(first, min(first + step, cells))
        begins_s = start_s[cell // bins] + cell % bins * width_s
        block = np.zeros((len(cell), neurons), np.bool_)
        for members in groups.values():
            own = intervals_s[members[0]]
            found = overlapping(begins_s + slack_s, begins_s + width_s - slack_s, own) & inside[cell]
            block[:, members] = found[:, None]
        if not block.any():
            continue
        missing = zeros((cells, neurons), np.uint8) if missing is None else missing
        rows = slice(first, first + len(cell))
        counts = np.array(spikes[rows])
        masked += np.stack([block.sum(axis=0), (counts * block).sum(axis=0, dtype=np.int64)])
        counts[block] = 0
        spikes[rows] = counts
        missing[rows] = np.array(missing[rows]) | block
    if missing is not None:
        recording.missing = missing.reshape(trials, bins, neurons)
    return masked[0], masked[1]


def mark_invalid(
    start_s: NDArray[np.float64], stop_s: NDArray[np.float64], invalid_s: NDArray[np.float64]
) -> list[MetadataValue]:
    """Return the metadata `in_invalid_times` for trials (or windows) with these starts and stops."""
    slack_s = _TOLERANCE * (stop_s - start_s)
    return list(overlapping(start_s + slack_s, stop_s - slack_s, merged(invalid_s)).tolist())


def mask_unobserved(
    trains: SpikeTrains, recording: Recording, start_s: NDArray[np.float64], handling: Handling
) -> None:
    """Mark as missing what the file excludes: its invalid times, and times outside a unit's `obs_intervals`.

    Parameters
    ----------
    trains
        Spike times with `invalid_s` and `observed_s`.
    recording
        The recording before selection and cutting.
    start_s : float64, [trials]
        When each trial's first bin begins, in seconds of the session.
    handling
        `trials.unobserved`.
    """
    if handling == "keep":
        return
    if trains.observed_s is not None:
        unobserved_s = [complement(own) for own in _believed(trains, trains.observed_s)]
        bins, spikes = mask_intervals(recording, start_s, unobserved_s)
        warning = _units_warning(recording, bins, spikes)
        if bins.max(initial=0) > MOST_EDGE_BINS:
            recording.warnings.append(warning)
        elif bins.any():
            recording.notes.append(warning.message)
    mask_intervals(recording, start_s, [merged(trains.invalid_s)] * trains.neurons)


def _believed(trains: SpikeTrains, observed_s: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return intervals of observation; all of time, with a warning, for a unit with most spikes outside its own intervals."""
    contradicted = []
    for neuron, own in enumerate(observed_s):
        times_s = trains.times_of(neuron)
        outside = overlapping(times_s, np.nextafter(times_s, np.inf), complement(own))
        if len(times_s) and outside.mean() > MOST_CONTRADICTING:
            contradicted.append(neuron)
    if not contradicted:
        return observed_s
    said = (
        f"More than half of the spikes of {len(contradicted)} units lie outside of the intervals in which the file says that "
        f"they were observed: units {listed(contradicted)} (counted from 0). These intervals were not used."
    )
    hint = "Check obs_intervals: they must be in seconds of the session, as spike times are."
    trains.warnings.append(Problem("observation_contradicted", said, hint, "/units/obs_intervals"))
    always = np.array([[-np.inf, np.inf]])
    return [always if neuron in contradicted else own for neuron, own in enumerate(observed_s)]


def _units_warning(recording: Recording, bins: NDArray[np.int64], spikes: NDArray[np.int64]) -> Problem:
    units = np.flatnonzero(bins)
    each = [f"{unit} ({bins[unit] * recording.bin_width_s:.6g} s)" for unit in units.tolist()]
    said = (
        f"{len(units)} of {len(bins)} units were not observed all the time within trials, by the file's obs_intervals: units "
        f"{listed(each)} (counted from 0). These samples are marked as missing, and no model is trained on them"
        + (f"; {int(spikes.sum())} spikes in them were left out." if spikes.any() else ".")
    )
    hint = (
        "No action is needed. trials.unobserved `drop` keeps only trials in which all units were observed; `keep` uses the "
        "counts as they are."
    )
    return Problem("units_not_observed", said, hint, "/trials/unobserved")


def mark_windows(recording: Recording, trains: SpikeTrains) -> None:
    """Set the metadata `in_invalid_times` for each window of a recording that was cut."""
    starts_s, invalid_s = recording.trial_start_s, merged(trains.invalid_s)
    if len(invalid_s) and starts_s is not None:
        stops_s = starts_s + recording.trial_length_bins * recording.bin_width_s
        recording.trial_metadata[IN_INVALID_TIMES] = mark_invalid(starts_s, stops_s, invalid_s)


def warn_of_invalid(recording: Recording, trains: SpikeTrains, handling: Handling) -> None:
    """Warn of trials, or windows, that overlap invalid times."""
    marked = np.flatnonzero([bool(value) for value in recording.trial_metadata.get(IN_INVALID_TIMES, [])])
    if len(marked) == 0 or recording.trial_start_s is None:
        return
    width_s, counted = recording.bin_width_s, recording.counted_bins()
    slack_s, bins = _TOLERANCE * width_s, 0
    for trial in marked.tolist():
        begins_s = recording.trial_start_s[trial] + np.flatnonzero(counted[trial]) * width_s
        bins += int(
            overlapping(begins_s + slack_s, begins_s + width_s - slack_s, merged(trains.invalid_s)).sum()
        )
    what = "trials" if recording.windows is None else "windows"
    outcome = {
        "mask": "These samples are marked as missing, and no model is trained on them.",
        "drop": f"These {what} are left out.",
        "keep": "They were kept because of trials.unobserved.",
    }[handling]
    said = (
        f"{len(marked)} of {len(recording.trial_length_bins)} {what} overlap the file's invalid_times, for "
        f"{bins * width_s:.6g} s in all: {listed(marked)} (counted from 0). {outcome}"
    )
    hint = (
        f'To leave these {what} out as a whole, give trials.where: {{"{IN_INVALID_TIMES}": false}}, '
        'or trials.unobserved: "drop".'
    )
    recording.warnings.append(Problem("trials_in_invalid_times", said, hint, "/trials/where"))


def drop_unobserved(recording: Recording, handling: Handling) -> None:
    """Drop trials (or windows) without any observed sample; with `drop`, all that lack a sample.

    Raises
    ------
    RejectedFile
        If none is left.
    """
    if recording.missing is None:
        return
    kept = np.zeros(len(recording.trial_length_bins), np.bool_)
    for trial, length in enumerate(recording.trial_length_bins.tolist()):
        lacking = np.asarray(recording.missing[trial])[:length]
        kept[trial] = not lacking.any() if handling == "drop" else not lacking.all()
    left_out = np.flatnonzero(~kept)
    if len(left_out) == 0:
        return
    what = "trials" if recording.windows is None else "windows"
    why = "a sample in them was not observed" if handling == "drop" else "nothing was observed in them"
    said = f"{len(left_out)} of {len(kept)} {what} were left out, since {why}: {listed(left_out)} (counted from 0)."
    hint = "See the other warnings for what was not observed; trials.unobserved `keep` uses the file's counts unchanged."
    if not kept.any():
        raise rejected("no_trials_left", said, hint, "/trials/unobserved")
    recording.warnings.append(Problem("trials_left_out", said, hint, "/trials/unobserved"))
    select_trials(recording, kept)
    if not np.asarray(recording.missing.reshape(-1)[:]).any():
        recording.missing = None
