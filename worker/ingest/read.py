"""From a file to a recording: read, bin, select, cut, split."""

from pathlib import Path

from domain.dataset_options import ChopOptions, TrialOptions
from worker.ingest.bin_width import implausible_width
from worker.ingest.preprocessing.binning import bin_spikes
from worker.ingest.preprocessing.chopping import chop, rebin
from worker.ingest.preprocessing.observation import drop_unobserved, mark_windows, warn_of_invalid
from worker.ingest.preprocessing.selection import keep_where, select_neurons, select_trials
from worker.ingest.preprocessing.splits import apply_split, condition_of_split
from worker.ingest.problems import Gatherer, Problem, RejectedFile
from worker.ingest.readers import ReadOptions, read_file
from worker.ingest.readers.base import refuse_empty
from worker.ingest.readers.splits import take_split
from worker.ingest.recording import SPLIT_NOT_GIVEN, Recording
from worker.ingest.spike_trains import SpikeTrains
from worker.ingest.time_units import columns_in_seconds


def read_recording(path: Path, options: ReadOptions) -> Recording:
    """Read a file and preprocess it as the options say.

    Raises
    ------
    RejectedFile
        For every unreadable file and every option that does not fit it, but not for failures of the service.
    """
    found = read_file(path, options)
    try:
        return _shaped(found, options)
    except RejectedFile as error:  # A warning of the reader may explain the rejection.
        explaining = [warning for warning in found.warnings if warning not in error.problems]
        raise RejectedFile([*error.problems, *explaining]) from error


def _shaped(found: Recording | SpikeTrains, options: ReadOptions) -> Recording:
    """Bin spike times, select trials and neurons, cut windows, split."""
    problems = Gatherer()
    if isinstance(found, Recording):
        recording = found
        _refuse_unusable(recording)
        recording.trial_metadata = columns_in_seconds(
            recording.trial_metadata, options, options.sampling_rate_hz, recording.notes
        )
        with problems:
            if options.mapping.split is None and (recording.split == SPLIT_NOT_GIVEN).all():
                take_split(recording, options)
        with problems:
            _choose_trials_of_counts(recording, options)
        with problems:
            if options.rebin_s is not None:
                rebin(recording, options.rebin_s)
    else:
        _tell_overridden_rate(found, options)
        recording = bin_spikes(found, options)
        _refuse_unusable(recording)
        if options.trials.ids is not None and all(one.what != "trial" for one in found.understood):
            recording.warnings.append(
                _unused("trials.ids", "the spikes of this file do not name their trials")
            )
        if options.rebin_s is not None:
            recording.warnings.append(_unused("rebin_s", "spikes were put into bins of bin_width_s"))
    _tell_unused_mapping(recording, options)
    if options.split.values and not any(one.what == "split" for one in recording.understood):
        recording.warnings.append(_unused("split.values", "no split was found in the file"))
    with problems:
        select_neurons(recording, options.neurons)
    with problems:
        if options.split.kind == "condition":
            condition_of_split(recording, options.split.condition)
    with problems:
        if options.chop is not None or recording.is_continuous:
            _cut_windows(recording, found, options)
    problems.refuse()
    if isinstance(found, SpikeTrains):
        warn_of_invalid(recording, found, options.trials.unobserved)
    drop_unobserved(recording, options.trials.unobserved)
    apply_split(recording, options.split)
    return recording


def _tell_overridden_rate(trains: SpikeTrains, options: ReadOptions) -> None:
    given_hz, file_hz = options.sampling_rate_hz, trains.sampling_rate_hz
    if given_hz is not None and file_hz is not None and abs(given_hz / file_hz - 1) > 1e-6:
        said = (
            f"sampling_rate_hz is {given_hz:g}, and the file says {file_hz:g} Hz: {given_hz:g} Hz was used."
        )
        hint = "Leave sampling_rate_hz out to use the file's."
        trains.warnings.append(Problem("sampling_rate_overridden", said, hint, "/sampling_rate_hz"))


def _cut_windows(recording: Recording, found: Recording | SpikeTrains, options: ReadOptions) -> None:
    """Cut windows; `trials.where` selects windows of a continuous recording."""
    was_continuous = recording.is_continuous
    chop(recording, options.chop or ChopOptions())
    if isinstance(found, SpikeTrains):
        mark_windows(recording, found)
    if was_continuous:
        _keep_where(recording, options)


def _keep_where(recording: Recording, options: ReadOptions) -> None:
    trials = len(recording.trial_length_bins)
    where = options.trials.where
    select_trials(recording, keep_where(recording.trial_metadata, where, trials, "trials", recording.notes))


def _refuse_unusable(recording: Recording) -> None:
    refuse_empty("spikes", recording.spikes.shape)
    fatal, _ = implausible_width(recording.bin_width_s)
    if fatal is not None:
        raise RejectedFile(fatal)


def _choose_trials_of_counts(recording: Recording, options: ReadOptions) -> None:
    wanted = options.trials
    if not recording.is_continuous:
        _keep_where(recording, options)
    for name in ("align_to", "window_s", "overlap", "ids", "unobserved"):
        if getattr(wanted, name) != TrialOptions.model_fields[name].default:
            recording.warnings.append(
                _unused(
                    f"trials.{name}",
                    "the file has counts, which are cut into trials already; latents can be aligned in requests",
                )
            )


def _tell_unused_mapping(recording: Recording, options: ReadOptions) -> None:
    """Warn of names in the mapping that the reader did not use."""
    taken = [one.variable for one in recording.understood]
    taken += [*recording.behaviour, *recording.trial_metadata, *recording.neuron_metadata]
    for role, given in options.mapping.model_dump(exclude_none=True, exclude={"axes"}).items():
        for name in [given] if isinstance(given, str) else given:
            base = name.strip("/").replace("/", ".")
            if not any(variable.replace("/", ".").endswith(base) for variable in taken):
                why = f"`{name}` has no meaning in this file, which was read as {recording.source_format}"
                recording.warnings.append(_unused(f"mapping.{role}", why))


def _unused(option: str, why: str) -> Problem:
    pointer = "/" + option.replace(".", "/")
    return Problem("option_not_used", f"{option} was not used: {why}.", "Leave it out.", pointer)
