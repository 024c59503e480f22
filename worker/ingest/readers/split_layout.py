"""Arrays that belong together because their names differ only by a split, and the position of each trial.

`train_data`, `data_valid`, `test/data` and `trainData` are `data` of the splits train, valid and test.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.variables import SPIKE_LIKE, ArrayFile, Variables
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID
from worker.ingest.spike_trains import SpikeTrains

SPLITS = {"train": SPLIT_TRAIN, "valid": SPLIT_VALID, "test": SPLIT_NOT_GIVEN}
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Word in the name of an array, or value of a split → split."""
_INDICES = ("inds", "ind", "indices", "index", "idx", "idxs", "trials")
"""Names of the positions of trials in the session, without the split."""
WHY_NO_SPLIT = (
    "it holds indices of a split, which were not used. Together they must name each trial once, by its position from 0 or 1 "
    "or by its id, and nothing else may give the split; mapping.trial_metadata keeps it as metadata"
)
"""Why indices beside spike times were left out."""
_COUNTS = (
    "spikes", "spike_counts", "counts", "binned_spikes", "spike_data", "data", "encod_data", "recon_data", "",
)  # fmt: skip
"""Names of counts without their split; `train` and `valid` alone are counts too."""


def part_of(name: str, words: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the part of the recording in a name, and the name without it; None if the name has no part.

    Parameters
    ----------
    name
        Path in the file. The word is the first or the last of a group's or an array's own name; the first one counts.
    words
        Word in lower case → part.
    """
    paths = name.replace("/", ".").split(".")
    for place, path in enumerate(paths):
        tokens = re.split(r"[_\-\s]+|(?<=[a-z0-9])(?=[A-Z])", path)
        first, last = tokens[0], tokens[-1]
        if path.lower() in words:
            return words[path.lower()], ".".join([*paths[:place], *paths[place + 1 :]])
        for word, rest in ((first, path[len(first) :]), (last, path[: -len(last)])):
            if word.lower() in words:
                return words[word.lower()], ".".join([*paths[:place], rest.strip("_- "), *paths[place + 1 :]])
    return None


def is_index(name: str) -> bool:
    """Return whether a name is that of the positions of one split's trials, such as `train_inds`.

    A flag in a table of trials, such as `trials.valid`, is not.
    """
    found = part_of(name, SPLIT_WORDS)
    is_flag = re.split(r"[./]", name)[-1].lower() in SPLIT_WORDS and "trials" in re.split(
        r"[./]", name.lower()
    )
    return found is not None and not is_flag and found[1].rsplit(".", 1)[-1].lower() in _INDICES


def split_by_indices(
    file: ArrayFile, trials: int, ids: Sequence[object] = ()
) -> tuple[NDArray[np.int8], list[str]] | None:
    """Return the split of trials from `train_inds` and similar arrays, and the names of these.

    None if they do not name each trial once, counted from 0 or from 1, or by its id if trials have ids. None too if they do so
    in both ways, and the two differ.
    """
    names = [name for name in file.variables if is_index(name) and file.variables[name].is_numbers]
    parts = [(part_of(name, SPLIT_WORDS) or ("", ""))[0] for name in names]
    places = [_places(np.asarray(file.read(name))) for name in names]
    joined = np.concatenate(places) if places else np.zeros(0)
    if len(joined) != trials or len(set(joined.tolist())) != trials:
        return None
    first = joined.min(initial=np.inf)
    by_id = {label: place for place, label in enumerate(ids) if isinstance(label, int | float)}
    are_places = first in (0, 1) and joined.max() == first + trials - 1
    are_ids = set(joined.tolist()) == set(by_id)
    are_ids &= not any(file.variables[name].dtype.kind == "b" for name in names)
    counted = {first + place: place for place in range(trials)}
    if are_places == are_ids and (not are_ids or by_id != counted):
        return None
    place_of = counted if are_places else by_id
    split = np.full(trials, SPLIT_NOT_GIVEN, np.int8)
    for part, index in zip(parts, places, strict=True):
        split[[place_of[one] for one in index.tolist()]] = SPLITS[part]
    return split, names


def take_split_by_indices(file: ArrayFile, trains: SpikeTrains, is_given: bool) -> set[str]:
    """Add a column `split` to the trials from `train_inds` and similar arrays; return the names of these if used.

    Parameters
    ----------
    file
        The file with the indices.
    trains
        Spike times with one table of trials.
    is_given
        Whether the request names another variable for the split.
    """
    table = next(iter(trains.tables.values()), None)
    if table is None or is_given or "split" in table.columns:
        return set()
    found = split_by_indices(file, len(table.start_s), table.columns.get("trial_id", ()))
    if found is None:
        return set()
    words = {code: part for part, code in SPLITS.items()}
    table.columns["split"] = [words[code] for code in found[0].tolist()]
    trains.notes.append(f"The split was read from {listed(found[1])}.")
    return set(found[1])


@dataclass
class Layout:
    """The parts of a recording, by the names and shapes in a file.

    Attributes
    ----------
    spikes
        Part (`train`, `valid`, `test`, or another) → name of its spikes.
    splits
        Which parts a file of this kind may have, in order, and the split of each.
    words
        Words in names → part.
    names
        Name without its part → part → full name, for all arrays of a part but the spikes.
    beside
        Arrays without a part in their names.
    rows
        Part → int64 [trials of the part]: where each of its trials goes in the recording.
    split : int8, [trials]
        Split of each trial of the recording.
    used
        Names of arrays that were used.
    why_unused
        Name → why it was not used, if known.
    how
        Why these spikes were chosen.
    with_source
        Whether the metadata `source` gives the array of each trial.
    notes, warnings
        Notes and warnings for the report.
    """

    spikes: dict[str, str]
    splits: dict[str, int] = field(default_factory=lambda: dict(SPLITS))
    words: Mapping[str, str] = field(default_factory=lambda: SPLIT_WORDS)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    split: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    used: set[str] = field(default_factory=set)
    why_unused: dict[str, str] = field(default_factory=dict)
    how: str = "by its name"
    with_source: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def sort(self, names: Iterable[str]) -> None:
        """Sort the arrays beside the spikes by part; of two with the same name and part the first is used."""
        self.names, self.beside = {}, []
        for full_name in names:
            if full_name in self.spikes.values():
                continue
            found = part_of(full_name, self.words)
            if found is not None and found[0] in self.spikes and found[1]:
                base = "inds" if found[1].rsplit(".", 1)[-1].lower() in _INDICES else found[1]
                same = self.names.setdefault(base, {})
                if same.setdefault(found[0], full_name) == full_name:
                    continue
                self.why_unused[full_name] = f"`{same[found[0]]}` is of the same name and split"
            self.beside.append(full_name)

    def drop_unlike_training(self, variables: Variables) -> None:
        """Drop test trials, with a warning, if their bins or neurons differ from those of training."""
        train = self.spikes.get("train")
        for split, test in list(self.spikes.items()):
            of_test = self.splits[split] == SPLIT_NOT_GIVEN
            if train is None or not of_test or variables[test].shape[1:] == variables[train].shape[1:]:
                continue
            del self.spikes[split]
            shapes = f"`{test}` has shape {variables[test].shape}, but `{train}` has {variables[train].shape}"
            hint = "Give test trials the same bins and neurons, or upload them as a recording of their own."
            message = f"Test trials were left out: {shapes}."
            self.warnings.append(Problem("test_trials_left_out", message, hint, f"/{test}"))
            self.used.add(test)  # which the warning tells

    def place_trials(self, variables: Variables, indices: Mapping[str, NDArray[Any]]) -> None:
        """Put trials into their original order.

        Parameters
        ----------
        variables
            Variables of the file; the first axis of the spikes is that of trials.
        indices
            Part → its `inds`: each trial's place in the session, counted from any number; or true for each trial of the
            session that is in this part.
        """
        numbers = {split: variables[name].shape[0] for split, name in self.spikes.items()}
        order = self._original_order(numbers, indices)
        trials = sum(numbers.values())
        if order is None:
            order = np.arange(trials, dtype=np.float64)
            self.notes.append(f"Trials are in the order of the file, part by part: {listed(numbers)}.")
        else:
            self.notes.append("Trials were put back into their original order, by `train_inds` and so on.")
            self.used |= set(self.names["inds"].values())
        ranks = np.empty(trials, np.int64)
        ranks[np.argsort(order, kind="stable")] = np.arange(trials)
        self.split = np.empty(trials, np.int8)
        first = 0
        for split, number in numbers.items():
            self.rows[split] = ranks[first : first + number]
            self.split[self.rows[split]] = self.splits[split]
            first += number

    def _original_order(
        self, numbers: dict[str, int], indices: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64] | None:
        """Return the position of each trial, part by part, or None if the file does not give it."""
        if "inds" not in self.names:
            return None
        given = {split: _places(index) for split, index in indices.items() if split in numbers}
        if "test" in numbers and "test" not in given:
            last = max((float(np.nanmax(index, initial=-1)) for index in given.values()), default=-1)
            given["test"] = last + 1 + np.arange(numbers["test"], dtype=np.float64)
        joined = np.concatenate([given[split] for split in numbers if split in given] or [np.zeros(0)])
        complete = all(split in given and len(given[split]) == number for split, number in numbers.items())
        whole = np.isfinite(joined).all() and (joined >= 0).all() and (joined == np.trunc(joined)).all()
        if complete and whole and len(np.unique(joined)) == len(joined):
            return joined
        names = listed(f"`{name}`" for name in self.names["inds"].values())
        message = f"The positions of the trials, {names}, do not name each trial once: they were not used."
        hint = "For each trial of a split, give its position in the session: a whole number from 0 or 1, none twice."
        self.warnings.append(Problem("original_order_unclear", message, hint, "/train_inds"))
        why = "it does not name each trial of the session once"
        self.why_unused |= dict.fromkeys(self.names["inds"].values(), why)
        return None


def _places(index: NDArray[Any]) -> NDArray[np.float64]:
    flat = index.reshape(-1)
    return np.flatnonzero(flat).astype(np.float64) if flat.dtype.kind == "b" else flat.astype(np.float64)


def parts_by_name(variables: Variables, is_counts: Callable[[str], bool]) -> Layout | None:
    """Find counts that the file has once for each of several splits, by the words in their names.

    Parameters
    ----------
    variables
        Variables of the file.
    is_counts
        Whether a variable holds whole counts.

    Raises
    ------
    RejectedFile
        If several groups of arrays may be the spikes.
    """
    groups: dict[str, dict[str, str]] = {}
    for full_name in variables:
        found = part_of(full_name, SPLIT_WORDS)
        if found is not None:
            groups.setdefault(found[1], {}).setdefault(found[0], full_name)
    groups = {
        base: parts
        for base, parts in groups.items()
        if len(parts) > 1 and all(map(is_counts, parts.values()))
    }
    named = [base for base in groups if base.rsplit(".", 1)[-1].lower() in _COUNTS]
    likely = named or [base for base in groups if SPIKE_LIKE.search(base.lower())] or list(groups)
    if {"encod_data", "recon_data"} == set(likely):
        layout = Layout(spikes={}, with_source=True)
        for part in groups["encod_data"].keys() | groups["recon_data"].keys():
            names = {base: groups[base][part] for base in likely if part in groups[base]}
            layout.spikes[part] = _spikes_of(names, variables, layout)
    elif len(likely) > 1:
        message = f"Several groups of arrays may be the spikes: {listed(listed(groups[b].values()) for b in likely)}."
        hint = "Name the arrays of one group with mapping.spikes, as a list."
        raise rejected("spikes_ambiguous", message, hint, "/mapping/spikes")
    elif likely:
        layout = Layout(spikes=groups[likely[0]], with_source=True)
    else:
        return None
    layout.spikes = {part: layout.spikes[part] for part in SPLITS if part in layout.spikes}
    return layout


def parts_given(names: list[str]) -> Layout:
    """Return the layout of the variables that `mapping.spikes` lists; trials come in the order of the list.

    If the names differ in one word, that word tells which other arrays belong to which. Words such as `train` and `valid`
    give the split.
    """
    tokens = [re.split(r"[._/\-\s]+|(?<=[a-z0-9])(?=[A-Z])", name) for name in names]
    differing = [place for place, words in enumerate(zip(*tokens, strict=False)) if len(set(words)) > 1]
    if len({len(one) for one in tokens}) == 1 and len(differing) == 1:
        labels = [one[differing[0]].lower() for one in tokens]
    else:
        labels = names
    if len(set(labels)) < len(names):
        labels = names
    splits = [SPLIT_WORDS.get(label) for label in labels]
    codes = [SPLIT_NOT_GIVEN if None in splits else SPLITS[split or "test"] for split in splits]
    return Layout(
        spikes=dict(zip(labels, names, strict=True)),
        splits=dict(zip(labels, codes, strict=True)),
        words={} if labels is names else {label: label for label in labels},
        how="given in the mapping",
        with_source=True,
    )


def spikes_of_lfads(variables: Variables) -> Layout:
    """Find the spikes of a file in the layout of LFADS.

    Raises
    ------
    RejectedFile
        If there are none for training.
    """
    parts: dict[str, dict[str, str]] = {}
    for full_name in variables:
        split, base = part_of(full_name, SPLIT_WORDS) or ("", "")
        if base in ("data", "encod_data", "recon_data"):
            parts.setdefault(split, {}).setdefault(base, full_name)
    layout = Layout(spikes={})
    for split in SPLITS:
        if split in parts:
            layout.spikes[split] = _spikes_of(parts[split], variables, layout)
    if "train" not in layout.spikes:
        raise RejectedFile(_no_spikes(variables))
    return layout


def _spikes_of(names: dict[str, str], variables: Variables, layout: Layout) -> str:
    """Choose the spikes of one split: `data`, else the larger of `encod_data` and `recon_data`."""
    if "data" in names or len(names) == 1:
        return names.get("data") or next(iter(names.values()))
    encoded, reconstructed = names["encod_data"], names["recon_data"]
    inside, outside = variables[encoded].shape, variables[reconstructed].shape
    if len(inside) != 3 or len(outside) != 3 or inside[0] != outside[0]:
        message = f"`{encoded}` has shape {inside} and `{reconstructed}` {outside}: expected the same trials in both."
        hint = "Give trials × bins × neurons in both."
        raise rejected("splits_differ", message, hint, f"/{reconstructed}")
    if any(more < fewer for fewer, more in zip(inside, outside, strict=True)):
        message = f"`{reconstructed}`, {outside}, is smaller than `{encoded}`, {inside}, which was used."
        hint = "Reconstructed data should hold all bins and neurons."
        layout.warnings.append(Problem("recon_smaller_than_encod", message, hint, f"/{reconstructed}"))
        layout.used.add(reconstructed)  # which the warning tells
        return encoded
    layout.why_unused[encoded] = f"`{reconstructed}` holds the same trials"
    if inside != outside:
        message = (
            f"`{reconstructed}`, {outside}, has more bins or neurons than `{encoded}`, {inside}. It was used: the "
            "held-out bins and neurons are input to the model, like all others."
        )
        hint = "To keep them out of the model, upload the encoded data alone."
        layout.warnings.append(Problem("held_out_used_as_input", message, hint, f"/{reconstructed}"))
    return reconstructed


def _no_spikes(variables: Variables) -> Problem:
    seen = listed(f"{name} {variable.shape}" for name, variable in variables.items())
    message = (
        "This HDF5 file has no spikes in the layout of LFADS: expected `train_data` and `valid_data` (or "
        f"`train_encod_data`, `valid_encod_data`), each trials × bins × neurons. Its data sets are: {seen}."
    )
    hint = "Rename the spike counts to train_data, or save an NPZ: np.savez(path, spikes=counts, bin_width_s=0.010)."
    return Problem("spikes_missing", message, hint, "/train_data")
