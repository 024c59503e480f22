"""Groups of trials that belong together, and the split into training, validation and test trials."""

import math

import numpy as np
from numpy.typing import NDArray

from domain.conditions import CONDITION, condition_names
from domain.dataset_options import SplitOptions
from domain.errors import listed
from domain.split_groups import FEWEST_GROUPS_TO_DRAW, TOLERANCE, Split, SplitGroups, blocks_of_time
from worker.ingest.problems import Problem, rejected
from worker.ingest.recording import SPLIT_GAP, SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID, Recording


def split_groups(recording: Recording) -> SplitGroups:
    """Return groups of trials that belong together: windows of one trial, and trials that overlap in known time."""
    windows, width_s, starts_s = recording.windows, recording.bin_width_s, recording.starts_s()
    trials = len(recording.split)
    segment = np.arange(trials) if windows is None else windows.segment
    if starts_s is None:
        first_bin = np.zeros(trials) if windows is None else windows.first_bin.astype(np.float64)
        return SplitGroups.of(segment.tolist(), first_bin.tolist(), recording.trial_length_bins)
    if windows is None:
        begin, end = starts_s / width_s, starts_s / width_s + recording.trial_length_bins
    else:
        begin = windows.segment_start_s / width_s
        end = begin + windows.segment_bins
    order = np.argsort(begin, kind="stable")
    reached = np.maximum.accumulate(end[order])
    is_new = np.concatenate(([True], begin[order][1:] > reached[:-1] - TOLERANCE))
    group = np.empty(len(begin), np.int64)
    group[order] = np.cumsum(is_new) - 1
    first_bin = starts_s / width_s - begin[order][is_new][group[segment]]
    return SplitGroups.of(group[segment].tolist(), first_bin.tolist(), recording.trial_length_bins)


_NAMES: dict[int, Split] = {
    SPLIT_TRAIN: "train",
    SPLIT_VALID: "valid",
    SPLIT_NOT_GIVEN: "test",
    SPLIT_GAP: "gap",
}


def given_split(recording: Recording) -> list[Split | None]:
    """Return the split of each trial; None for all if no trial has one."""
    if (recording.split == SPLIT_NOT_GIVEN).all():
        return [None] * len(recording.split)
    return [_NAMES[code] for code in recording.split.tolist()]


def apply_split(recording: Recording, options: SplitOptions) -> None:
    """Set the split of a recording; trials that share bins always get the same part.

    Parameters
    ----------
    recording
        Its `split` is replaced. It stays if `options.kind` is `given` and the file has a split, or trials are no windows.
    options
        Options of the request.

    Raises
    ------
    RejectedFile
        If there is no metadata to stratify by, or too few trials for all parts.
    """
    groups = split_groups(recording)
    if options.kind == "given" and (recording.split != SPLIT_NOT_GIVEN).any():
        _warn_of_divided_groups(recording, groups)
        return
    if options.kind == "given" and recording.windows is None:
        return
    random = np.random.default_rng(options.seed)
    drawn = np.full(len(groups), SPLIT_TRAIN, np.int8)
    whole = (
        ""
        if groups.number == len(groups)
        else ", with all windows of a trial and all trials that share bins together"
    )
    if options.kind == "condition" and groups.stay_whole(2):
        name = condition_of_split(recording, options.condition)
        drawn = _draw(_strata(recording, name, groups), options, random)[groups.group]
        how = f"drawn in equal shares of each `{name}`{whole}"
    elif options.kind == "time" or not groups.stay_whole(FEWEST_GROUPS_TO_DRAW):
        drawn = _by_time(recording, groups, options)
        how = "blocks of time; a trial of a gap shares bins with trials of two parts"
    else:
        drawn = _draw(np.zeros(groups.number, np.int64), options, random)[groups.group]
        how = f"drawn{whole}"
    _refuse_if_empty(drawn, len(groups))
    recording.split = drawn
    numbers = {name: int((drawn == code).sum()) for code, name in _NAMES.items()}
    recording.notes.append(
        f"Split: {numbers['train']} trials for training, {numbers['valid']} for validation, {numbers['test']} for testing, "
        f"{numbers['gap']} in gaps; {how}."
    )


def _by_time(recording: Recording, groups: SplitGroups, options: SplitOptions) -> NDArray[np.int8]:
    """Return a split by time: a block in the middle for validation, the last block for testing, gaps between blocks."""
    trials, starts_s = len(groups), recording.starts_s()
    in_time = np.argsort(starts_s, kind="stable") if starts_s is not None else groups.in_time()
    unit = groups.group if groups.stay_whole(FEWEST_GROUPS_TO_DRAW) else np.arange(trials)
    _, first = np.unique(unit[in_time], return_index=True)
    units = unit[in_time[np.sort(first)]]
    number_valid = max(1, round(options.valid_fraction * len(units)))
    valid, test = blocks_of_time(units, number_valid, math.ceil(options.test_fraction * len(units)))
    split = np.full(trials, "train", "<U5")
    split[np.isin(unit, valid)], split[np.isin(unit, test)] = "valid", "test"
    split = groups.separated(split, split != "train")
    return np.select([split == name for name in _NAMES.values()], list(_NAMES)).astype(np.int8)


def _warn_of_divided_groups(recording: Recording, groups: SplitGroups) -> None:
    """Warn if the split of the file divides trials that belong together."""
    train = recording.split == SPLIT_TRAIN
    held = (recording.split == SPLIT_VALID) | (recording.split == SPLIT_NOT_GIVEN)
    divided = np.isin(groups.group, groups.group[train]) & np.isin(groups.group, groups.group[held])
    if not divided.any():
        return
    shared = groups.sharing(held) & train
    said = (
        f"The file's split divides trials that belong together: {int(divided.sum())} trials are windows of one trial, or share "
        f"bins with each other, and are both for training and for validation or testing. {int(shared.sum())} training trials "
        "share bins with validation or test trials."
    )
    hint = (
        "Scores of such trials are too good. Draw the split with split.kind `trial` or `time`, or choose a shorter "
        "trials.window_s, or trials.overlap `drop` or `cut`."
    )
    recording.warnings.append(Problem("split_divides_trials", said, hint, "/split"))


def condition_of_split(recording: Recording, name: str | None) -> str:
    """Return the name of the metadata to stratify by: the given name, else that of the conditions."""
    there, found = recording.trial_metadata, condition_names(recording.trial_metadata)
    if name in there:
        return name
    if name in (None, CONDITION) and found:
        return found[0]
    said = "no trial metadata look like conditions" if name is None else f"split.condition is `{name}`"
    said = f"split.kind is `condition`: {said}. The trials of this file have {listed(there)}."
    hint = f"Name some in split.condition{f'; conditions may be {listed(found)}' if found else ''}."
    raise rejected("metadata_unknown", said, hint, "/split/condition")


def _strata(recording: Recording, name: str, groups: SplitGroups) -> NDArray[np.int64]:
    values = recording.trial_metadata[name]
    _, first = np.unique(groups.group, return_index=True)
    of_groups = [repr(values[trial]) for trial in first]
    return np.unique(of_groups, return_inverse=True)[1].astype(np.int64)


def _draw(strata: NDArray[np.int64], options: SplitOptions, random: np.random.Generator) -> NDArray[np.int8]:
    """Draw units for validation and testing, in nearly equal shares of each stratum.

    Units are sorted by stratum, in random order within each, and every n-th unit is picked.
    """
    drawn = np.full(len(strata), SPLIT_TRAIN, np.int8)
    order = random.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    parts = ((SPLIT_VALID, options.valid_fraction), (SPLIT_NOT_GIVEN, options.test_fraction))
    for code, share in parts:
        free = np.flatnonzero(drawn[order] == SPLIT_TRAIN)
        number = min(max(round(share * len(strata)), 1), len(free)) if share else 0
        picks = ((np.arange(number) + 0.5) / max(number, 1) * len(free)).astype(np.int64)
        drawn[order[free[picks]]] = code
    return drawn


def _refuse_if_empty(drawn: NDArray[np.int8], trials: int) -> None:
    for code, name in ((SPLIT_TRAIN, "training"), (SPLIT_VALID, "validation")):
        if not (drawn == code).any():
            said = f"Of {trials} trials (or windows), the split has none for {name}."
            hint = "Give other fractions, shorter windows, or more trials."
            raise rejected("split_leaves_none", said, hint, "/split")
