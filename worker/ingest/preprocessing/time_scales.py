"""Check whether the times of trials and spikes fit together; if not, one of them has another unit or another clock."""

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, rejected
from worker.ingest.spike_trains import SpikeTrains

_SCALES = (("ms", 300.0, 3000.0), ("samples", 8e3, 1e5), ("us", 3e5, 3e6))
"""Factor by which a time span grows if times in this unit are read as seconds: lowest, highest."""
_FACTORS = {"ms": 1e3, "samples": 3e4, "us": 1e6}
_NAMES = {"ms": "milliseconds", "samples": "samples at about 30 kHz", "us": "microseconds"}
_FEWEST_TRIALS = 3


def check_time_scales(
    trains: SpikeTrains, start_s: NDArray[np.float64], length_s: NDArray[np.float64]
) -> None:
    """Warn if spikes last hundreds of times longer than trials, or the reverse; reject a file with no spikes in any trial.

    Parameters
    ----------
    trains
        The spikes; they know whether their times count from each trial's beginning.
    start_s, length_s : float64, [trials]
        Start of each trial on the clock of its spikes, and its length; NaN if unknown.

    Raises
    ------
    RejectedFile
        If every trial lies before the first spike or after the last.
    """
    known = np.isfinite(start_s) & np.isfinite(length_s)
    start_s, stop_s = start_s[known], (start_s + length_s)[known]
    first_s, last_s = trains.times.first_s, trains.times.last_s
    if len(start_s) == 0:
        return
    by_trial = trains.trial_offset_s is not None
    option, unit = (
        ("trial_time_unit", _unit_that_fits(start_s, first_s, last_s))
        if by_trial
        else _unit_by_span(last_s - first_s, float(stop_s.max() - start_s.min()), len(start_s))
    )
    outside = (stop_s <= first_s) | (start_s > last_s)
    number = int(np.count_nonzero(outside))
    clock = "the trial" if by_trial else "the session"
    said = (
        f"Spikes lie between {first_s:.6g} and {last_s:.6g} s of {clock}, trials between {start_s.min():.6g} and "
        f"{stop_s.max():.6g} s: {number} of {len(outside)} trials are before the first spike or after the last."
    )
    hint = "Check that the times of spikes and of trials are in one unit and on one clock: spike_time_unit, trial_time_unit."
    if unit is not None:
        whose = "spikes" if option == "spike_time_unit" else "trials"
        hint = f'If the times of {whose} are in {_NAMES[unit]}, give {option}: "{unit}".'
        if unit == "samples":
            hint = f"{hint[:-1]} and sampling_rate_hz."
    if number == len(outside):
        raise rejected("trials_outside_spikes", said, hint, "/time_unit")
    if number * 2 > len(outside) and (unit is None or by_trial):
        trains.warnings.append(Problem("trials_maybe_other_clock", said, hint, "/time_unit"))
    elif unit is not None and not by_trial:
        ratio = (last_s - first_s) / float(stop_s.max() - start_s.min())
        longer = f"{ratio:.3g} times as long as" if ratio > 1 else f"only 1/{1 / ratio:.3g} as long as"
        said = (
            f"{said} The spikes last {longer} the trials together, as if one of them were in {_NAMES[unit]}."
        )
        trains.warnings.append(Problem("time_units_disagree", said, hint, f"/{option}"))


def _unit_by_span(spikes_s: float, trials_s: float, trials: int) -> tuple[str, str | None]:
    """Return the option and unit that would make spikes and trials last about equally long; None as unit if none would."""
    if trials < _FEWEST_TRIALS or spikes_s <= 0 or trials_s <= 0:
        return "spike_time_unit", None
    for option, ratio in (("spike_time_unit", spikes_s / trials_s), ("trial_time_unit", trials_s / spikes_s)):
        for unit, least, most in _SCALES:
            if least <= ratio <= most:
                return option, unit
    return "spike_time_unit", None


def _unit_that_fits(start_s: NDArray[np.float64], first_s: float, last_s: float) -> str | None:
    """Return the unit in which most trials begin within the times of spikes; None if they do in seconds, or in no unit."""
    if np.mean((start_s >= first_s) & (start_s <= last_s)) >= 0.5:
        return None
    for unit, factor in _FACTORS.items():
        if np.mean((start_s / factor >= first_s - 1) & (start_s / factor <= last_s)) > 0.5:
            return unit
    return None
