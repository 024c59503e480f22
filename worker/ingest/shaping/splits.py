"""Which trials are for training, which for validation, which for neither."""

import math

import numpy as np
from numpy.typing import NDArray

from store.conditions import CONDITION, condition_names
from store.dataset_options import SplitOptions
from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID, Recording

FEWEST_SEGMENTS_TO_DRAW = 5
"""Windows of fewer segments are split by blocks of time: too few segments to draw from."""


def apply_split(recording: Recording, options: SplitOptions) -> None:
    """Write a recording's split; windows that share bins never come to be in training and validation both.

    Parameters
    ----------
    recording
        Its `split` is replaced, unless `options.kind` is `given` and trials of a session need none: each job draws then.
    options
        As the request has them.

    Raises
    ------
    RejectedFile
        When there is no metadata to take shares of, or too few trials for all parts.
    """
    if options.kind == "given" and ((recording.split != SPLIT_NOT_GIVEN).any() or recording.windows is None):
        return
    random = np.random.default_rng(options.seed)
    trials = len(recording.split)
    if options.kind == "condition":
        unit, name = _units(recording), condition_of_split(recording, options.condition)
        drawn = _draw(_strata(recording, name, unit), options, random)[unit]
        how = f"drawn in equal shares of each `{name}`"
    elif options.kind == "time" or (
        recording.windows is not None and _segments(recording) < FEWEST_SEGMENTS_TO_DRAW
    ):
        drawn, how = _by_time(recording, options), "blocks of time"
    else:
        unit = _units(recording)
        drawn = _draw(np.zeros(int(unit.max()) + 1, np.int64), options, random)[unit]
        how = "drawn" if recording.windows is None else "drawn, whole trials with all their windows"
    _refuse_if_empty(drawn, trials)
    recording.split = drawn
    numbers = [int((drawn == code).sum()) for code in (SPLIT_TRAIN, SPLIT_VALID, SPLIT_NOT_GIVEN)]
    recording.notes.append(
        f"Split: {numbers[0]} trials for training, {numbers[1]} for validation, {numbers[2]} for neither; {how}."
    )


def _segments(recording: Recording) -> int:
    return 0 if recording.windows is None else len(recording.windows.segment_bins)


def _units(recording: Recording) -> NDArray[np.int64]:
    """What is drawn as a whole: each trial, or all windows of one."""
    return np.arange(len(recording.split)) if recording.windows is None else recording.windows.segment


def condition_of_split(recording: Recording, name: str | None) -> str:
    """Return the metadata to take shares of: those named, else the conditions."""
    there, found = recording.trial_metadata, condition_names(recording.trial_metadata)
    if name in there:
        return name
    if name in (None, CONDITION) and found:
        return found[0]
    said = "no trial metadata look like conditions" if name is None else f"split.condition is `{name}`"
    said = f"split.kind is `condition`: {said}. The trials of this file have {listed(there)}."
    hint = f"Name some in split.condition{f'; conditions may be {listed(found)}' if found else ''}."
    raise RejectedFile(Problem("metadata_unknown", said, hint, "/split/condition"))


def _strata(recording: Recording, name: str, unit: NDArray[np.int64]) -> NDArray[np.int64]:
    values = recording.trial_metadata[name]
    _, first = np.unique(unit, return_index=True)
    of_units = [repr(values[trial]) for trial in first]
    return np.unique(of_units, return_inverse=True)[1].astype(np.int64)


def _draw(strata: NDArray[np.int64], options: SplitOptions, random: np.random.Generator) -> NDArray[np.int8]:
    """Draw units for validation and for neither, in as equal shares of each stratum as can be.

    Units of a stratum stand side by side in random order, and every so-many-th of the whole row is picked.
    """
    drawn = np.full(len(strata), SPLIT_TRAIN, np.int8)
    order = random.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    parts = ((SPLIT_VALID, options.valid_fraction), (SPLIT_NOT_GIVEN, options.test_fraction))
    for code, share in parts:
        free = np.flatnonzero(drawn[order] == SPLIT_TRAIN)
        number = max(round(share * len(strata)), 1) if share else 0
        picks = ((np.arange(number) + 0.5) / max(number, 1) * len(free)).astype(np.int64)
        drawn[order[free[picks]]] = code
    return drawn


def _by_time(recording: Recording, options: SplitOptions) -> NDArray[np.int8]:
    """A block in the middle for validation, the last for neither; windows that share bins with either are for neither."""
    trials = len(recording.split)
    starts = recording.trial_start_s
    order = np.arange(trials) if starts is None else np.argsort(starts, kind="stable")
    number_test = math.ceil(options.test_fraction * trials) if options.test_fraction else 0
    number_valid = max(1, round(options.valid_fraction * trials))
    rest = trials - number_test
    first = (rest - number_valid) // 2
    drawn = np.full(trials, SPLIT_TRAIN, np.int8)
    drawn[order[first : first + number_valid]] = SPLIT_VALID
    drawn[order[rest:]] = SPLIT_NOT_GIVEN
    if recording.windows is not None:
        drawn[_sharing(recording, drawn)] = SPLIT_NOT_GIVEN
    return drawn


def _sharing(recording: Recording, drawn: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Training windows that share bins with a window that is not for training."""
    windows = recording.windows
    assert windows is not None
    first, last = windows.first_bin, windows.first_bin + recording.trial_length_bins
    shared = np.zeros(len(drawn), np.bool_)
    for segment in np.unique(windows.segment):
        here = np.flatnonzero(windows.segment == segment)
        held = here[drawn[here] != SPLIT_TRAIN]
        # Windows of a stretch are in order: those that end after mine begins, less those that begin after mine ends.
        ended = np.searchsorted(last[held], first[here], side="right")
        begun = np.searchsorted(first[held], last[here], side="left")
        shared[here] = begun > ended
    still_training: NDArray[np.bool_] = shared & (drawn == SPLIT_TRAIN)
    return still_training


def _refuse_if_empty(drawn: NDArray[np.int8], trials: int) -> None:
    for code, name in ((SPLIT_TRAIN, "training"), (SPLIT_VALID, "validation")):
        if not (drawn == code).any():
            said = f"The split leaves no trial for {name}, of {trials} trials (or windows)."
            hint = "Give other fractions, shorter windows, or more trials."
            raise RejectedFile(Problem("split_leaves_none", said, hint, "/split"))
