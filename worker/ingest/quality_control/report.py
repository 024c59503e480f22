"""The report on an accepted recording."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from domain.errors import listed
from worker.ingest.problems import Problem
from worker.ingest.quality_control.conditions import Conditions
from worker.ingest.quality_control.correlations import Correlations
from worker.ingest.quality_control.drift import Drift
from worker.ingest.quality_control.spike_statistics import SpikeStatistics
from worker.ingest.recording import (
    SPLIT_GAP,
    SPLIT_NOT_GIVEN,
    SPLIT_TRAIN,
    SPLIT_VALID,
    MetadataValue,
    Recording,
    Understood,
)

MOST_RATES, MOST_VALUES, MOST_TEXT = 2000, 20, 60
MOST_NAMES = 100


@dataclass(frozen=True)
class Report:
    """Report on an accepted recording.

    Attributes
    ----------
    format
        Format of the file.
    shape
        Numbers of trials, bins and neurons, by these names.
    bin_width_s
        Width of a bin, in seconds.
    time_zero_s
        When the first bin of a trial begins, in seconds from the alignment event.
    units
        Units of the quantities, by name.
    trial_length_bins
        `min`, `median`, `max` of the trials' lengths, `distinct` (how many lengths there are) and `ragged`.
    padding_fraction
        Share of the bins that is padding after a trial's end.
    missing_fraction
        Share of the samples within trials that were not observed.
    duration_s
        Recorded time of all trials together, in seconds, without padding; bins that windows share count once.
    session_s
        When the first trial begins and the last ends, in seconds of the session; None if unknown.
    chopped
        For a recording that was cut into windows: the numbers of `windows` and `segments`, `window_s`, `overlap_s`.
    total_spikes
        Number of spikes; those in bins that windows share count once.
    mean_rate_hz
        Mean of the neurons' rates over the time in which each was observed, in spikes per second.
    rate_quartiles_hz
        Over neurons: minimum, lower quartile, median, upper quartile, maximum.
    rates_hz
        Rate of each neuron, at most of the first 2000.
    max_count_per_bin
        The highest count of one neuron in one bin.
    variance_per_mean_quartiles
        Quartiles over neurons of the variance per mean of counts in a bin; 1 for a steady Poisson process.
    drift
        The last third of the trials compared with the first; None with few trials.
    correlated_pairs
        Pairs of neurons that seem to share spikes, the most suspicious 50.
    split
        Number of trials: `train`, `valid`, `not_given`, `gap`.
    silent_neurons, empty_trials
        Indices of neurons and trials without a spike.
    duplicate_neurons, correlated_neurons, duplicate_trials
        Groups of indices: of neurons whose counts are equal throughout, of neurons that seem to share spikes, of equal trials.
    conditions
        Name of the trial metadata that hold the conditions.
    trial_metadata, neuron_metadata
        By name: `kind` (number, text, true or false), `distinct` values, `missing`, and the most frequent `values` with counts;
        of numbers with many values `min`, `median` and `max` instead.
    behaviour
        Name → shape.
    has_true_rates
        Whether the recording has true rates.
    external_inputs
        Number of external inputs in each bin.
    understood
        The meaning of each variable of the file, the reason, and the alternatives.
    notes
        Notes on how the file was read.
    warnings
        Warnings of what looks wrong or was left out.
    """

    format: str
    shape: dict[str, int]
    bin_width_s: float
    time_zero_s: float
    units: dict[str, str]
    trial_length_bins: dict[str, Any]
    padding_fraction: float
    missing_fraction: float
    duration_s: float
    session_s: list[float] | None
    chopped: dict[str, Any] | None
    total_spikes: int
    mean_rate_hz: float
    rate_quartiles_hz: list[float]
    rates_hz: list[float]
    max_count_per_bin: int
    variance_per_mean_quartiles: list[float]
    drift: Drift | None
    correlated_pairs: list[dict[str, Any]]
    split: dict[str, int]
    silent_neurons: list[int]
    empty_trials: list[int]
    duplicate_neurons: list[list[int]]
    correlated_neurons: list[list[int]]
    duplicate_trials: list[list[int]]
    conditions: str | None
    trial_metadata: dict[str, dict[str, Any]]
    neuron_metadata: dict[str, dict[str, Any]]
    behaviour: dict[str, list[int]]
    has_true_rates: bool
    external_inputs: int
    understood: list[Understood]
    notes: list[str]
    warnings: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """Results of the checks: spike statistics, neurons that share spikes, drift, conditions."""

    statistics: SpikeStatistics
    correlations: Correlations
    drift: Drift | None
    conditions: Conditions | None


def make_report(
    recording: Recording, findings: Findings, remarks: list[str], warnings: list[Problem]
) -> Report:
    """Make the report; `remarks` are added to the reader's notes."""
    statistics, correlations, conditions = findings.statistics, findings.correlations, findings.conditions
    lengths = recording.trial_length_bins
    splits = {"train": SPLIT_TRAIN, "valid": SPLIT_VALID, "not_given": SPLIT_NOT_GIVEN, "gap": SPLIT_GAP}
    inputs = recording.external_inputs
    trials, bins, neurons = recording.spikes.shape
    notes = [*recording.notes, *remarks]
    if conditions is not None:
        others = f"; others that may be: {listed(conditions.alternatives)}" if conditions.alternatives else ""
        notes.append(
            f"Conditions are the {len(conditions.values)} values of the trial metadata `{conditions.name}`{others}."
        )
    if neurons > MOST_RATES:
        notes.append(f"The report gives the rates of the first {MOST_RATES} of {neurons} neurons.")
    return Report(
        format=recording.source_format,
        shape={"trials": trials, "bins": bins, "neurons": neurons},
        bin_width_s=recording.bin_width_s,
        time_zero_s=recording.time_zero_s,
        units={"spikes": "spikes per bin", "times": "s", "bin_width": "s", "rates": "spikes/s"},
        trial_length_bins={
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "distinct": len(np.unique(lengths)),
            "ragged": bool(lengths.min() < bins),
        },
        padding_fraction=round(statistics.padding_bins / (trials * bins), 4),
        missing_fraction=round(statistics.missing_fraction, 4),
        duration_s=round(statistics.recorded_bins * recording.bin_width_s, 6),
        session_s=session(recording),
        chopped=_chopped(recording),
        total_spikes=statistics.total_spikes,
        mean_rate_hz=round(float(statistics.rates_hz.mean()), 4),
        rate_quartiles_hz=_quartiles(statistics.rates_hz),
        rates_hz=[round(float(rate_hz), 3) for rate_hz in statistics.rates_hz[:MOST_RATES]],
        max_count_per_bin=statistics.max_count,
        variance_per_mean_quartiles=_quartiles(correlations.variance_per_mean),
        drift=findings.drift,
        correlated_pairs=[asdict(pair) for pair in correlations.pairs[:50]],
        split={name: int((recording.split == code).sum()) for name, code in splits.items()},
        silent_neurons=statistics.silent_neurons,
        empty_trials=statistics.empty_trials,
        duplicate_neurons=statistics.duplicate_neurons,
        correlated_neurons=correlations.groups,
        duplicate_trials=statistics.duplicate_trials,
        conditions=None if conditions is None else conditions.name,
        trial_metadata=_described(recording.trial_metadata),
        neuron_metadata=_described(recording.neuron_metadata),
        behaviour={name: list(array.shape) for name, array in recording.behaviour.items()},
        has_true_rates=recording.true_rates_hz is not None,
        external_inputs=0 if inputs is None else inputs.shape[2],
        understood=list(recording.understood),
        notes=notes,
        warnings=warnings,
    )


def session(recording: Recording) -> list[float] | None:
    """Return when the first trial begins and the last ends, in seconds of the session."""
    starts_s = recording.starts_s()
    if starts_s is None:
        return None
    ends_s = starts_s + recording.trial_length_bins * recording.bin_width_s
    return [round(float(starts_s.min()), 6), round(float(ends_s.max()), 6)]


def _chopped(recording: Recording) -> dict[str, Any] | None:
    windows, lengths = recording.windows, recording.trial_length_bins
    if windows is None:
        return None
    follows = np.flatnonzero(np.diff(windows.segment) == 0)
    steps = np.diff(windows.first_bin)[follows]
    overlap = float(np.median(lengths[follows] - steps)) if len(steps) else 0.0
    return {
        "windows": len(windows.segment),
        "segments": len(windows.segment_bins),
        "window_s": round(int(lengths.max()) * recording.bin_width_s, 6),
        "overlap_s": round(overlap * recording.bin_width_s, 6),
    }


def _quartiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    """Return minimum, lower quartile, median, upper quartile and maximum; an empty list without values."""
    if not len(values):
        return []
    return [round(float(value), 4) for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]


def _described(columns: dict[str, list[MetadataValue]]) -> dict[str, dict[str, Any]]:
    return {name: _describe(column) for name, column in list(columns.items())[:MOST_NAMES]}


def _describe(column: Sequence[MetadataValue]) -> dict[str, Any]:
    # 1 and True are one key of a dictionary, so kinds are kept apart
    counts = Counter((type(value), value) for value in column if value is not None)
    kind = _kind({kind for kind, _ in counts})
    described = {"kind": kind, "distinct": len(counts), "missing": sum(value is None for value in column)}
    if kind == "number" and len(counts) > MOST_VALUES:
        numbers = [value for value in column if isinstance(value, int | float)]
        return described | {"min": min(numbers), "median": median(numbers), "max": max(numbers)}
    values = [
        {"value": value[:MOST_TEXT] if isinstance(value, str) else value, "count": count}
        for (_, value), count in counts.most_common(MOST_VALUES)
    ]
    return described | {"values": values}


def _kind(kinds: set[type]) -> str:
    if str in kinds:
        return "text"
    if kinds == {bool}:
        return "true or false"
    return "number" if kinds else "none"
