"""Warnings about probable mistakes of units: counts that are rates, units of spike times, order of axes, bins and rates."""

import math

from worker.ingest.problems import Problem
from worker.ingest.quality_control.report import session
from worker.ingest.quality_control.spike_statistics import SpikeStatistics
from worker.ingest.recording import Recording

HIGHEST_MEAN_RATE_HZ, LOWEST_MEAN_RATE_HZ = 200.0, 0.05
FEWEST_SPIKES = 100
"""With fewer spikes, regularities of the counts are chance."""
LONG_SESSION_S = 86400.0
SLOW_PLAUSIBLE_RATE_HZ = 0.5
BINS_THAT_CLIP_S = 0.005
"""In narrower bins a neuron rarely fires twice."""
FEWEST_BINS_OF_TWO = 30


def unit_warnings(recording: Recording, statistics: SpikeStatistics) -> list[Problem]:
    """Return warnings of everything that looks like a mistake of units or axes."""
    times = _times_warning(recording, statistics)
    candidates = [
        _axes_warning(recording, statistics),
        _multiples_warning(recording, statistics),
        _clipped_warning(recording, statistics),
        times,
        _rate_warning(statistics) if times is None else None,
    ]
    return [warning for warning in candidates if warning is not None]


def _axes_warning(recording: Recording, statistics: SpikeStatistics) -> Problem | None:
    """Warn if rates differ far more across another axis than across neurons."""
    if any(one.what == "spike_times" for one in recording.understood):
        return None  # the axes are ours
    _, bins, neurons = recording.spikes.shape
    spread = statistics.spread
    suspect = max(("trials", "bins"), key=lambda axis: spread[axis])
    swapped = spread[suspect] > 0.25 and spread[suspect] > 4 * spread["neurons"]
    huge = neurons >= 2000 and neurons > 20 * bins
    if not (swapped or huge):
        return None
    found = (
        f"activity differs far more across {suspect} than across neurons"
        if swapped
        else f"there are {neurons} neurons"
    )
    said = (
        f"The axes may be in another order than trials × bins × neurons ({recording.spikes.shape}): {found}."
    )
    hint = (
        'If so, give the order of the file in mapping.axes, such as ["neuron", "bin", "trial"], and derive another data set '
        "from this one: the file need not be uploaded again."
    )
    return Problem("axes_maybe_swapped", said, hint, "/mapping/axes")


def _multiples_warning(recording: Recording, statistics: SpikeStatistics) -> Problem | None:
    unit, per_second = statistics.divisor, 1 / recording.bin_width_s
    if unit < 2 or statistics.total_spikes / unit < FEWEST_SPIKES:
        return None
    if math.isclose(unit, per_second, rel_tol=0.01):
        said = f"Every count is a multiple of {unit}, which is 1 ÷ bin_width_s: these look like rates in Hz."
        hint = "Multiply them by the bin width (in seconds) to have counts, and upload them again."
    else:
        said = f"Every count is a multiple of {unit}: these look like rates, or counts that were scaled."
        hint = f"Divide them by {unit} if one spike is {unit}; the model expects one spike to count 1."
    return Problem("counts_look_like_rates", said, hint, "/spikes")


def _clipped_warning(recording: Recording, statistics: SpikeStatistics) -> Problem | None:
    width_s = recording.bin_width_s
    if statistics.max_count != 1 or width_s < BINS_THAT_CLIP_S:
        return None
    per_bin = statistics.rates_hz * width_s
    expected = float(((1 - (1 + per_bin) * math.e**-per_bin) * statistics.observed_bins).sum())
    if expected < FEWEST_BINS_OF_TWO:
        return None
    said = (
        f"No neuron has more than one spike in a bin of {width_s * 1000:g} ms, while its rate predicts two or more in "
        f"{expected:.0f} bins: counts may be clipped to 0 and 1."
    )
    hint = "If the counts are only 0 or 1 for each bin, count the spikes instead, or use narrower bins."
    return Problem("counts_clipped_maybe", said, hint, "/spikes")


def _times_warning(recording: Recording, statistics: SpikeStatistics) -> Problem | None:
    """Warn of spike times that may be in milliseconds or samples: far too few spikes in a recording of days."""
    mean_hz = float(statistics.rates_hz.mean())
    recorded_s = statistics.recorded_bins * recording.bin_width_s
    whole = session(recording)
    lasted_s = recorded_s if whole is None else max(recorded_s, whole[1] - whole[0])
    if mean_hz >= LOWEST_MEAN_RATE_HZ or lasted_s < LONG_SESSION_S:
        return None
    for code, unit, factor, least_hz in (
        ("times_maybe_milliseconds", "milliseconds", 1000, SLOW_PLAUSIBLE_RATE_HZ),
        ("times_maybe_samples", "samples at 30 kHz", 30000, LOWEST_MEAN_RATE_HZ),
    ):
        if least_hz <= mean_hz * factor <= HIGHEST_MEAN_RATE_HZ:
            said = (
                f"Read as seconds, the recording lasts {lasted_s / 86400:.1f} days and neurons fire at {mean_hz:.2g} Hz. If its "
                f"times are {unit}, that is {lasted_s / factor:.4g} s and {mean_hz * factor:.2g} Hz."
            )
            hint = "If so, set time_unit: `ms`, or `samples` with sampling_rate_hz, and derive another data set from this one."
            return Problem(code, said, hint, "/time_unit")
    return None


def _rate_warning(statistics: SpikeStatistics) -> Problem | None:
    mean_hz = float(statistics.rates_hz.mean())
    if LOWEST_MEAN_RATE_HZ <= mean_hz <= HIGHEST_MEAN_RATE_HZ:
        return None
    how = "high" if mean_hz > HIGHEST_MEAN_RATE_HZ else "low"
    said = (
        f"The mean rate of the neurons is {mean_hz:.3g} Hz, which is implausibly {how} "
        f"(expected {LOWEST_MEAN_RATE_HZ:g} to {HIGHEST_MEAN_RATE_HZ:g} Hz)."
    )
    hint = "Check bin_width_s (seconds, not milliseconds), and that spikes holds counts."
    return Problem("mean_rate_implausible", said, hint, "/bin_width_s")
