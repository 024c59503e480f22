"""Checks of a recording: reject what cannot be used for training, report what is in it, warn of what looks wrong."""

import numpy as np

from domain.cost import FEWEST_TRAINING_TRIALS, FEWEST_VALIDATION_TRIALS, Extent
from domain.errors import listed
from domain.feasibility import MANY_BINS, MUCH_STEP_BYTES, least_step_bytes
from domain.job_specification import Training, split_trials
from worker.ingest.bin_width import implausible_width
from worker.ingest.preprocessing.splits import given_split, split_groups
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.quality_control.conditions import Conditions, find_conditions
from worker.ingest.quality_control.correlations import Correlations, correlate
from worker.ingest.quality_control.drift import Drift, find_drift
from worker.ingest.quality_control.report import Findings, Report, make_report
from worker.ingest.quality_control.spike_statistics import SpikeStatistics, gather_statistics
from worker.ingest.quality_control.units import unit_warnings
from worker.ingest.recording import Recording
from worker.ingest.rows import Rows, blocks

__all__ = ["Report", "examine"]

FEWEST_TRIALS, FEWEST_BINS, FEWEST_NEURONS = 2, 2, 1
FEW_TRIALS, FEW_NEURONS = 50, 10
NARROW_BIN_S, WIDE_BIN_S = 0.001, 0.05
MOST_PADDING = 0.5
SMALLEST_USUAL_CONDITION = 3
FEWEST_WINDOWS, SHORTEST_WINDOW_BINS = 20, 10


def examine(recording: Recording) -> Report:
    """Examine a recording.

    Parameters
    ----------
    recording
        The recording.

    Returns
    -------
    Report
        With the reader's warnings and those of the checks.

    Raises
    ------
    RejectedFile
        With all reasons.
    """
    _refuse_too_small(recording.spikes.shape)
    _, odd_width = implausible_width(recording.bin_width_s)
    statistics = gather_statistics(recording)
    problems = [_spikes_past_end(statistics), _true_rates_problem(recording), _inputs_problem(recording)]
    if not statistics.total_spikes:
        said = "The file has no spikes."
        problems.append(Problem("no_spikes", said, "Check that `spikes` holds counts.", "/spikes"))
    found = [problem for problem in problems if problem is not None]
    if found:
        raise RejectedFile(found)
    conditions = find_conditions(recording)
    found_out = Findings(
        statistics,
        correlate(recording, statistics.rates_hz, statistics.duplicate_neurons),
        _drift(recording, statistics, conditions),
        conditions,
    )
    warnings = [
        *recording.warnings,
        *unit_warnings(recording, statistics),
        *_neuron_warnings(found_out),
        *_trial_warnings(recording, found_out),
        *(_behaviour_warning(recording, name) for name in recording.behaviour),
        odd_width,
        _unfit_for_presets(recording),
    ]
    kept = [warning for warning in warnings if warning is not None]
    return make_report(recording, found_out, _remarks(recording), kept)


def _drift(recording: Recording, statistics: SpikeStatistics, conditions: Conditions | None) -> Drift | None:
    trials = statistics.trials_counted
    starts_s = recording.starts_s()
    order = np.arange(len(trials)) if starts_s is None else np.argsort(starts_s[trials], kind="stable")
    durations_s = statistics.trial_bins.astype(np.float64) * recording.bin_width_s
    code = np.zeros(len(trials), np.int64) if conditions is None else conditions.code[trials]
    return find_drift(statistics.trial_counts[order], durations_s[order], code[order])


def _remarks(recording: Recording) -> list[str]:
    """Return remarks that are no warnings but useful before training."""
    trials, _, neurons = recording.spikes.shape
    said = []
    if trials < FEW_TRIALS:
        said.append(
            f"{trials} trials are few for finding dynamics; about {FEW_TRIALS} are needed. Judge models by their "
            "sample validation."
        )
    if neurons < FEW_NEURONS:
        said.append(
            f"{neurons} neurons are few for finding latent dynamics, which are inferred from what neurons share."
        )
    if recording.bin_width_s > WIDE_BIN_S:
        said.append(
            f"Bins of {recording.bin_width_s * 1000:g} ms are wide: dynamics faster than about {recording.bin_width_s * 2000:g} "
            "ms cannot be seen. 5 to 20 ms are usual."
        )
    if recording.bin_width_s < NARROW_BIN_S:
        said.append(
            f"Bins of {recording.bin_width_s * 1000:g} ms are narrow: training takes longer without a benefit. rebin_s makes "
            "them wider."
        )
    return said


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
        raise rejected("recording_too_small", said, hint, "/spikes")


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


def _neuron_warnings(findings: Findings) -> list[Problem | None]:
    return [
        _silent_warning(findings.statistics),
        _duplicates_warning(findings.statistics),
        _correlated_warning(findings.correlations),
        *([] if findings.drift is None else _drift_warnings(findings.drift)),
    ]


def _trial_warnings(recording: Recording, findings: Findings) -> list[Problem | None]:
    conditions = findings.conditions
    return [
        _empty_trials_warning(findings.statistics),
        _equal_trials_warning(findings.statistics),
        _padding_warning(recording, findings.statistics),
        None if conditions is None else _rare_conditions_warning(conditions),
    ]


def _silent_warning(statistics: SpikeStatistics) -> Problem | None:
    silent = statistics.silent_neurons
    if not silent:
        return None
    said = f"{len(silent)} neurons never fire: {listed(silent)} (counted from 0)."
    return Problem(
        "silent_neurons", said, "They carry no information; leave them out to train faster.", "/spikes"
    )


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


def _correlated_warning(correlations: Correlations) -> Problem | None:
    if not correlations.groups:
        return None
    strongest = correlations.pairs[0]
    said = (
        f"Some neurons share spikes far beyond chance, in the same bins only: {listed(correlations.groups, 6)} (counted from 0); "
        f"most of all {strongest.neurons[0]} and {strongest.neurons[1]}, whose counts correlate by {strongest.correlation:.2f}."
    )
    hint = (
        "It may be one unit on two electrodes, or an artefact that several pick up: a model predicts the one from the other, "
        "which spoils sample validation. Keep one of each group, or remove events that many electrodes have at once."
    )
    return Problem("correlated_neurons", said, hint, "/spikes")


def _drift_warnings(drift: Drift) -> list[Problem]:
    found = []
    times = f"the first third of the session ({drift.first_third_hz:.3g} Hz) and the last ({drift.last_third_hz:.3g} Hz)"
    if drift.lost:
        said = f"{len(drift.lost)} neurons are lost in the course of the session: {listed(drift.lost)} (counted from 0)."
        hint = "Leave them out, or the trials after they were lost: a model treats their silence as activity."
        found.append(Problem("neurons_lost", said, hint, "/spikes"))
    if drift.appeared:
        said = f"{len(drift.appeared)} neurons appear in the course of the session: {listed(drift.appeared)} (counted from 0)."
        hint = "Leave them out, or the trials before they appear: a model treats their silence as activity."
        found.append(Problem("neurons_appear", said, hint, "/spikes"))
    if drift.is_of_population:
        said = (
            f"The population drifts: between {times} its rate changes by a factor of {drift.population_ratio:.2f}, and "
            f"{len(drift.changed)} of {drift.neurons} neurons at least double or halve theirs."
        )
        hint = "See the rate over the session in the preview; use a stable part of the session."
        found.append(Problem("population_drift", said, hint, "/spikes"))
    return found


def _equal_trials_warning(statistics: SpikeStatistics) -> Problem | None:
    groups = statistics.duplicate_trials
    if not groups:
        return None
    said = f"Some trials have the same counts throughout: {listed(groups, 6)} (counted from 0)."
    hint = "A trial that is there twice may be trained on and validated with: keep one of each."
    return Problem("duplicate_trials", said, hint, "/spikes")


def _padding_warning(recording: Recording, statistics: SpikeStatistics) -> Problem | None:
    trials, bins, _ = recording.spikes.shape
    padding = statistics.padding_bins / (trials * bins)
    if padding <= MOST_PADDING:
        return None
    lengths = recording.trial_length_bins
    said = (
        f"{padding:.0%} of all bins are padding: the longest trial has {lengths.max()} bins, half of the trials have "
        f"{np.median(lengths):g} or fewer."
    )
    hint = "Cut long trials to the part of interest, or chop them into windows: padding costs time and has no information."
    return Problem("mostly_padding", said, hint, "/trial_length_bins")


def _rare_conditions_warning(conditions: Conditions) -> Problem | None:
    single = [
        value for value, trials in zip(conditions.values, conditions.trials, strict=True) if trials == 1
    ]
    if not single or np.median(conditions.trials) < SMALLEST_USUAL_CONDITION:
        return None
    said = f"{len(single)} of {len(conditions.values)} values of `{conditions.name}` have one trial only: {listed(single)}."
    hint = "A mean over trials needs two or more. Check the values for typing errors."
    return Problem("rare_conditions", said, hint, f"/{conditions.name}")


def _behaviour_warning(recording: Recording, name: str) -> Problem | None:
    gaps = _not_finite_inside(recording, recording.behaviour[name])
    if not gaps:
        return None
    said = f"Behaviour `{name}` is NaN or infinite in {gaps} bins inside trials."
    return Problem(
        "behaviour_has_gaps", said, "These bins are left out when behaviour is decoded.", f"/{name}"
    )


def _unfit_for_presets(recording: Recording) -> Problem | None:
    """Warn of a recording that no preset can train, by the rules of job creation; the hint lists options that help."""
    trials, bins, neurons = recording.spikes.shape
    split = split_trials(given_split(recording), split_groups(recording), Training())
    inputs = recording.external_inputs
    report = {"external_inputs": 0 if inputs is None else inputs.shape[2]}
    extent = Extent(neurons, bins, split.count("train"), split.count("valid"), report)
    needed = least_step_bytes(extent)
    reasons, hints = [], []
    if not extent.has_enough_trials:
        reasons.append(
            f"of its {trials} trials {extent.training_trials} are for training and {extent.validation_trials} for validation; "
            f"at least {FEWEST_TRAINING_TRIALS} and {FEWEST_VALIDATION_TRIALS} are needed"
        )
        hints.append(_windows_of_few_trials(recording))
    if bins > MANY_BINS or needed > MUCH_STEP_BYTES:
        reasons.append(
            f"its trials have {bins} bins of {recording.bin_width_s:g} s, a training step takes about {needed / 1e9:.1f} GB, and "
            f"models hardly learn over more than {MANY_BINS} bins"
        )
        window_s = _round_down(min(1.0, 1000 * recording.bin_width_s))
        wider_s = 10 * recording.bin_width_s
        hint = f"Cut trials into windows: {_chop_option(window_s)}"
        if bins / 10 <= MANY_BINS and needed / 10 <= MUCH_STEP_BYTES and wider_s <= WIDE_BIN_S:
            hint += f', or use wider bins: {{"rebin_s": {wider_s:g}}}, for spike times {{"bin_width_s": {wider_s:g}}}'
        hints = [f"{hint}."]
    if not reasons:
        return None
    said = f"No preset can train this data set: {'; '.join(reasons)}."
    hint = f"{' '.join(hints)} These are options of `latentry datasets derive` and of POST …:derive."
    return Problem("no_preset_fits", said, hint, "/chop")


def _windows_of_few_trials(recording: Recording) -> str:
    """Return a hint on how to get more trials: windows of the existing trials, if they are long enough."""
    bins = int(recording.trial_length_bins.sum())
    window_s = _round_down(min(1.0, bins * recording.bin_width_s / FEWEST_WINDOWS))
    if window_s < SHORTEST_WINDOW_BINS * recording.bin_width_s or recording.windows is not None:
        return "Upload more trials; or shorter windows, if the recording is cut with chop."
    return f"Upload more trials, or cut these into windows: {_chop_option(window_s)}."


def _chop_option(window_s: float) -> str:
    return f'{{"chop": {{"window_s": {window_s:g}, "overlap_s": {window_s / 5:g}}}}}'


def _round_down(seconds: float) -> float:
    """Round down to one digit: 0.37 becomes 0.3."""
    digit = 10.0 ** np.floor(np.log10(seconds) + 1e-9)
    return float(np.floor(seconds / digit + 1e-9) * digit)
