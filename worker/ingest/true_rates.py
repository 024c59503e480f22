"""Units of true rates: spikes per second or per bin, whichever agrees with the spikes."""

import math

import numpy as np
from numpy.typing import NDArray

from worker.ingest.bin_width import BinWidthClues
from worker.ingest.problems import Problem
from worker.ingest.recording import Recording
from worker.ingest.rows import Rows, blocks

SCALE_TOLERANCE = 1.5
"""Rates are in a unit if the spikes agree with it within this factor."""


def _counts_per_true_rate(counts: Rows, rates: Rows, inside: NDArray[np.bool_]) -> float | None:
    """Return the number of spikes divided by the sum of the rates, over recorded bins.

    Parameters
    ----------
    counts : [trials, bins, neurons]
        Spike counts.
    rates : [trials, bins, neurons]
        True rates in an unknown unit.
    inside : bool, [trials, bins]
        Bins that were recorded.

    Returns
    -------
    float or None
        About the bin width in seconds for rates in Hz, about 1 for counts per bin; None if there is nothing
        to divide.
    """
    total_rate = total_count = 0.0
    for first, block in blocks(rates, 8):
        rows = slice(first, first + len(block))
        total_rate += float(np.nansum(block.sum(axis=2, dtype=np.float64)[inside[rows]]))
        total_count += float(counts[rows].sum(axis=2, dtype=np.int64)[inside[rows]].sum())
    if not (math.isfinite(total_rate) and total_rate > 0 and total_count > 0):
        return None
    return total_count / total_rate


def settle_width_and_rates(
    recording: Recording, clues: BinWidthClues, rates: Rows | None, name: str, stated_hz: bool
) -> None:
    """Set the bin width of a recording, for which true rates are a clue, and its true rates.

    Parameters
    ----------
    recording
        Its `bin_width_s`, `true_rates_hz`, `notes` and `warnings` are written.
    clues
        All other clues to the bin width.
    rates : float32, [trials, bins, neurons]
        True rates as the file has them, if it has any.
    name
        Name of the array of true rates.
    stated_hz
        Whether the file says that the rates are in Hz.
    """
    if rates is not None:
        inside = recording.inside_trials()
        clues.counts_per_true_rate = _counts_per_true_rate(recording.spikes, rates, inside)
    recording.bin_width_s = clues.settle(recording.notes, recording.warnings)
    if rates is not None:
        _settle_true_rates(recording, rates, name, stated_hz)


def _settle_true_rates(recording: Recording, rates: Rows, name: str, stated_hz: bool) -> None:
    """Set the true rates of a recording in Hz, and note how they were understood.

    Rates whose name states Hz are kept as they are, with a warning if the spikes disagree. Others are in Hz
    or in counts per bin, whichever agrees with the spikes; if neither does they are left out with a warning.

    Parameters
    ----------
    recording
        Its `true_rates_hz`, `notes` and `warnings` are written; shapes must agree already.
    rates : float32, [trials, bins, neurons]
        True rates as the file has them.
    name
        Name of the array in the file.
    stated_hz
        Whether the file says that the rates are in Hz.
    """
    ratio = _counts_per_true_rate(recording.spikes, rates, recording.inside_trials())
    width_s = recording.bin_width_s
    is_hz = ratio is not None and _agree(ratio, width_s)
    if stated_hz or is_hz:
        recording.true_rates_hz = rates
        recording.notes.append(f"`{name}` was read as true rates in Hz.")
        if ratio is not None and not is_hz:
            recording.warnings.append(
                _disagreement(name, ratio, width_s, "They were kept as Hz because of their name.")
            )
    elif ratio is not None and _agree(ratio, 1.0):
        for first, block in blocks(rates):
            rates[first : first + len(block)] = block / np.float32(width_s)
        recording.true_rates_hz = rates
        recording.notes.append(f"`{name}` was read as expected counts per bin and divided by the bin width.")
    else:
        recording.warnings.append(_disagreement(name, ratio, width_s, "They were left out."))


def _agree(ratio: float, unit: float) -> bool:
    return abs(math.log(ratio / unit)) <= math.log(SCALE_TOLERANCE) if unit > 0 else False


def _disagreement(name: str, ratio: float | None, width_s: float, outcome: str) -> Problem:
    found = "no spikes to compare with" if ratio is None else f"{ratio:.3g} spikes per unit of rate"
    return Problem(
        "true_rates_unit_unclear",
        f"True rates `{name}` fit neither Hz ({width_s:g} spikes per unit of rate in each bin) nor "
        "counts per bin (1): "
        f"there are {found}. {outcome}",
        "Check bin_width_s, and give rates in spikes per second under the name true_rates_hz.",
        f"/{name}",
    )
