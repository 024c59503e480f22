"""Examines a recording: rejects what cannot be trained on, and reports what is in it and what looks odd."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worker.ingest.bin_width import implausible_width
from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID, Recording
from worker.ingest.rows import Rows, blocks
from worker.ingest.spike_statistics import SpikeStatistics, gather_statistics

FEWEST_TRIALS, FEWEST_BINS, FEWEST_NEURONS = 2, 2, 1
HIGHEST_MEAN_RATE_HZ, LOWEST_MEAN_RATE_HZ = 200.0, 0.05


@dataclass(frozen=True)
class Report:
    """What is in a recording that was accepted.

    Attributes
    ----------
    format
        The file's format.
    shape
        Trials, bins, neurons: by these names.
    bin_width_s
        Width of a bin, in seconds.
    trial_length_bins
        `min`, `median`, `max` of the trials' lengths, `distinct` (how many lengths there are) and `ragged`.
    duration_s
        Recorded time of all trials together, in seconds; padding is not counted.
    total_spikes
        Number of spikes.
    mean_rate_hz
        Over all neurons and recorded time, in spikes per second.
    rate_quartiles_hz
        Over neurons: minimum, lower quartile, median, upper quartile, maximum.
    max_count_per_bin
        The highest count of one neuron in one bin.
    split
        Number of trials: `train`, `valid`, `not_given`.
    silent_neurons, empty_trials
        Indices of those without a spike.
    duplicate_neurons
        Groups of indices of neurons whose counts are equal throughout.
    trial_metadata, behaviour
        Names, with the shape of each behaviour.
    has_true_rates
        Whether true rates came with it.
    external_inputs
        How many external inputs there are in each bin.
    notes
        What was understood, in sentences.
    warnings
        What looks odd, or was left out.
    """

    format: str
    shape: dict[str, int]
    bin_width_s: float
    trial_length_bins: dict[str, Any]
    duration_s: float
    total_spikes: int
    mean_rate_hz: float
    rate_quartiles_hz: list[float]
    max_count_per_bin: int
    split: dict[str, int]
    silent_neurons: list[int]
    empty_trials: list[int]
    duplicate_neurons: list[list[int]]
    trial_metadata: list[str]
    behaviour: dict[str, list[int]]
    has_true_rates: bool
    external_inputs: int
    notes: list[str]
    warnings: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Give the report as a JSON object."""
        return asdict(self)


def examine(recording: Recording) -> Report:
    """Examine a recording.

    Parameters
    ----------
    recording
        As a reader gave it.

    Returns
    -------
    Report
        With the reader's warnings and those of the checks.

    Raises
    ------
    RejectedFile
        With every reason that was found.
    """
    _refuse_too_small(recording.spikes.shape)
    fatal_width, odd_width = implausible_width(recording.bin_width_s)
    if fatal_width is not None:
        raise RejectedFile(fatal_width)
    statistics = gather_statistics(recording)
    problems = [
        _spikes_past_end(statistics),
        _true_rates_problem(recording),
        _inputs_problem(recording),
    ]
    if not statistics.total_spikes:
        said = "There is not one spike in the file."
        problems.append(Problem("no_spikes", said, "Check that `spikes` holds counts.", "/spikes"))
    found = [problem for problem in problems if problem is not None]
    if found:
        raise RejectedFile(found)
    warnings = [*recording.warnings, *_warnings(recording, statistics)]
    return _report(recording, statistics, warnings if odd_width is None else [*warnings, odd_width])


def _report(recording: Recording, statistics: SpikeStatistics, warnings: list[Problem]) -> Report:
    lengths = recording.trial_length_bins
    quartiles = np.quantile(statistics.rates_hz, [0, 0.25, 0.5, 0.75, 1])
    splits = {"train": SPLIT_TRAIN, "valid": SPLIT_VALID, "not_given": SPLIT_NOT_GIVEN}
    inputs = recording.external_inputs
    return Report(
        format=recording.source_format,
        shape=dict(zip(("trials", "bins", "neurons"), recording.spikes.shape, strict=True)),
        bin_width_s=recording.bin_width_s,
        trial_length_bins={
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "distinct": len(np.unique(lengths)),
            "ragged": bool(lengths.min() < recording.spikes.shape[1]),
        },
        duration_s=round(statistics.recorded_bins * recording.bin_width_s, 6),
        total_spikes=statistics.total_spikes,
        mean_rate_hz=round(float(statistics.rates_hz.mean()), 4),
        rate_quartiles_hz=[round(float(value), 4) for value in quartiles],
        max_count_per_bin=statistics.max_count,
        split={name: int((recording.split == code).sum()) for name, code in splits.items()},
        silent_neurons=statistics.silent_neurons,
        empty_trials=statistics.empty_trials,
        duplicate_neurons=statistics.duplicate_neurons,
        trial_metadata=list(recording.trial_metadata),
        behaviour={name: list(array.shape) for name, array in recording.behaviour.items()},
        has_true_rates=recording.true_rates_hz is not None,
        external_inputs=0 if inputs is None else inputs.shape[2],
        notes=list(recording.notes),
        warnings=warnings,
    )


def _refuse_too_small(shape: tuple[int, ...]) -> None:
    fewest = zip(
        ("trials", "bins", "neurons"), shape, (FEWEST_TRIALS, FEWEST_BINS, FEWEST_NEURONS), strict=True
    )
    too_few = [
        f"{number} {axis} (at least {least} needed)" for axis, number, least in fewest if number < least
    ]
    if too_few:
        said = f"spikes has shape {shape}: too few to train on: {listed(too_few)}."
        hint = "The axes must come in this order: trials × bins × neurons."
        raise RejectedFile(Problem("recording_too_small", said, hint, "/spikes"))


def _spikes_past_end(statistics: SpikeStatistics) -> Problem | None:
    trials = statistics.trials_with_spikes_past_end
    if not trials:
        return None
    said = (
        f"There are spikes after the end of {len(trials)} trials, by trial_length_bins: trials "
        f"{listed(trials)}."
    )
    hint = "Set the bins after each trial's end to 0, or correct trial_length_bins (in bins; counted from 0)."
    return Problem("spikes_past_trial_end", said, hint, "/trial_length_bins")


def _true_rates_problem(recording: Recording) -> Problem | None:
    rates = recording.true_rates_hz
    if rates is None:
        return None
    pointer = "/true_rates_hz"
    if rates.shape != recording.spikes.shape:
        said = f"True rates have shape {rates.shape}: expected {recording.spikes.shape}, as the spikes."
        return Problem("true_rates_wrong_shape", said, "Give one rate for each count.", pointer)
    inside = recording.inside_trials()
    unusable = 0
    for first, block in blocks(rates):
        values = block[inside[first : first + len(block)]]
        unusable += int(np.count_nonzero(~(np.isfinite(values) & (values >= 0))))
    if not unusable:
        return None
    said = f"{unusable} true rates inside trials are negative, NaN or infinite."
    return Problem(
        "true_rates_invalid",
        said,
        "Give rates in spikes per second; log-rates must be exponentiated.",
        pointer,
    )


def _inputs_problem(recording: Recording) -> Problem | None:
    bad = _not_finite_inside(recording, recording.external_inputs)
    if not bad:
        return None
    said = f"{bad} external inputs inside trials are NaN or infinite: the model cannot be driven by these."
    return Problem(
        "external_inputs_not_finite", said, "Fill gaps (with 0, or by interpolation).", "/external_inputs"
    )


def _not_finite_inside(recording: Recording, values: Rows | None) -> int:
    if values is None:
        return 0
    inside = recording.inside_trials()
    return sum(
        int(np.count_nonzero(~np.isfinite(block).all(axis=2) & inside[first : first + len(block)]))
        for first, block in blocks(values)
    )


def _warnings(recording: Recording, statistics: SpikeStatistics) -> list[Problem]:
    candidates = [
        _axes_warning(recording, statistics),
        _rate_warning(statistics),
        _silent_warning(statistics),
        _empty_trials_warning(statistics),
        _duplicates_warning(statistics),
        *(_behaviour_warning(recording, name) for name in recording.behaviour),
    ]
    return [warning for warning in candidates if warning is not None]


def _axes_warning(recording: Recording, statistics: SpikeStatistics) -> Problem | None:
    """Warn when neurons look alike while another axis looks like neurons: rates differ across it far more."""
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
    return Problem("axes_maybe_swapped", said, "If so, transpose the array and upload it again.", "/spikes")


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


def _silent_warning(statistics: SpikeStatistics) -> Problem | None:
    silent = statistics.silent_neurons
    if not silent:
        return None
    said = f"{len(silent)} neurons never fire: {listed(silent)} (counted from 0)."
    return Problem("silent_neurons", said, "They tell nothing; leave them out to train faster.", "/spikes")


def _empty_trials_warning(statistics: SpikeStatistics) -> Problem | None:
    empty = statistics.empty_trials
    if not empty:
        return None
    said = f"{len(empty)} trials have no spike: {listed(empty)} (counted from 0)."
    return Problem(
        "empty_trials", said, "Check that recording was on in these trials, or leave them out.", "/spikes"
    )


def _duplicates_warning(statistics: SpikeStatistics) -> Problem | None:
    groups = statistics.duplicate_neurons
    if not groups:
        return None
    said = f"Some neurons have the same counts throughout: {listed(groups, 6)} (counted from 0)."
    hint = (
        "The same unit in two columns is predicted from its copy, which spoils sample validation: keep "
        "one of each."
    )
    return Problem("duplicate_neurons", said, hint, "/spikes")


def _behaviour_warning(recording: Recording, name: str) -> Problem | None:
    gaps = _not_finite_inside(recording, recording.behaviour[name])
    if not gaps:
        return None
    said = f"Behaviour `{name}` is NaN or infinite in {gaps} bins inside trials."
    return Problem(
        "behaviour_has_gaps", said, "These bins are left out when behaviour is decoded.", f"/{name}"
    )
