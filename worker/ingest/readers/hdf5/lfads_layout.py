"""Which arrays of an LFADS file belong together, and where each trial goes in the original order."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID

SPLITS = {"train": SPLIT_TRAIN, "valid": SPLIT_VALID, "test": SPLIT_NOT_GIVEN}

Shape = tuple[int, ...]


@dataclass
class Layout:
    """What the names and shapes in a file say.

    Attributes
    ----------
    spikes
        Split (`train`, `valid`, `test`) → name of its spikes.
    splits
        Which splits a file of this kind may have, in order, and what each is for.
    names
        Name without its split → split → full name, for all arrays of a split but the spikes.
    beside
        Arrays whose names begin with no split.
    rows
        Split → int64 [trials of the split]: where each of its trials goes in the recording.
    split : int8, [trials]
        Split of each trial of the recording.
    notes, warnings
        What was understood, and what is odd.
    """

    spikes: dict[str, str]
    splits: dict[str, int] = field(default_factory=lambda: dict(SPLITS))
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    split: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def lay_out(shapes: dict[str, Shape], indices: dict[str, NDArray[np.generic]]) -> Layout:
    """Sort a file's arrays.

    Parameters
    ----------
    shapes
        Name → shape of every data set of the file.
    indices
        `train_inds` and so on as the file has them: place of each trial in the original order.

    Raises
    ------
    RejectedFile
        When there are no spikes in this layout.
    """
    layout = Layout(spikes={})
    for split in SPLITS:
        name = _spikes_of(split, shapes, layout)
        if name is not None:
            layout.spikes[split] = name
    if "train" not in layout.spikes:
        raise RejectedFile(_no_spikes(shapes))
    arrange(layout, shapes, indices)
    return layout


def arrange(layout: Layout, shapes: dict[str, Shape], indices: dict[str, NDArray[np.generic]]) -> None:
    """Sort the arrays beside the spikes of a layout and place its trials; parameters as in `lay_out`."""
    _drop_unlike_training(layout, shapes)
    for full_name in shapes:
        split, _, name = full_name.partition("_")
        if full_name in layout.spikes.values():
            continue
        if split in layout.spikes and name:
            layout.names.setdefault(name, {})[split] = full_name
        else:
            layout.beside.append(full_name)
    _place_trials(layout, shapes, indices)


def _spikes_of(split: str, shapes: dict[str, Shape], layout: Layout) -> str | None:
    whole, encoded, reconstructed = (f"{split}_{name}" for name in ("data", "encod_data", "recon_data"))
    if whole in shapes:
        return whole
    if encoded not in shapes or reconstructed not in shapes:
        return next((name for name in (encoded, reconstructed) if name in shapes), None)
    inside, outside = shapes[encoded], shapes[reconstructed]
    if len(inside) != 3 or len(outside) != 3 or inside[0] != outside[0]:
        said = (
            f"`{encoded}` has shape {inside} and `{reconstructed}` {outside}: expected the same trials in "
            "both."
        )
        raise RejectedFile(
            Problem("splits_differ", said, "Give trials × bins × neurons in both.", f"/{reconstructed}")
        )
    if any(more < fewer for fewer, more in zip(inside, outside, strict=True)):
        said = f"`{reconstructed}`, {outside}, is smaller than `{encoded}`, {inside}, which was used."
        hint = "Reconstructed data should hold all bins and neurons."
        layout.warnings.append(Problem("recon_smaller_than_encod", said, hint, f"/{reconstructed}"))
        return encoded
    if inside != outside:
        said = (
            f"`{reconstructed}`, {outside}, has more bins or neurons than `{encoded}`, {inside}. It "
            "was used: the held-out "
            "bins and neurons are input to the model, like all others."
        )
        hint = "To keep them out of the model, upload the encoded data alone."
        layout.warnings.append(Problem("held_out_used_as_input", said, hint, f"/{reconstructed}"))
    return reconstructed


def _no_spikes(shapes: dict[str, Shape]) -> Problem:
    seen = listed(f"{name} {shape}" for name, shape in shapes.items())
    said = (
        "This HDF5 file has no spikes in the layout of LFADS: expected `train_data` and `valid_data` (or "
        f"`train_encod_data`, `valid_encod_data`), each trials × bins × neurons. Its data sets are: {seen}."
    )
    hint = (
        "Rename the spike counts to train_data, or save an NPZ: np.savez(path, spikes=counts, "
        "bin_width_s=0.010)."
    )
    return Problem("spikes_missing", said, hint, "/train_data")


def _drop_unlike_training(layout: Layout, shapes: dict[str, Shape]) -> None:
    """Leave test trials out, with a warning, when their bins or neurons are not those of training."""
    train = layout.spikes.get("train")
    for split, test in list(layout.spikes.items()):
        of_test = layout.splits[split] == SPLIT_NOT_GIVEN
        if train is None or not of_test or shapes[test][1:] == shapes[train][1:]:
            continue
        del layout.spikes[split]
        said = f"Test trials were left out: `{test}` has shape {shapes[test]}, but `{train}` has {shapes[train]}."
        hint = (
            "Give test trials the same bins and neurons as the others, or upload them as a recording of "
            "their own."
        )
        layout.warnings.append(Problem("test_trials_left_out", said, hint, f"/{test}"))


def _place_trials(layout: Layout, shapes: dict[str, Shape], indices: dict[str, NDArray[np.generic]]) -> None:
    numbers = {split: (*shapes[name], 0)[0] for split, name in layout.spikes.items()}
    order = _original_order(layout, numbers, indices)
    trials = sum(numbers.values())
    if order is None:
        order = np.arange(trials, dtype=np.float64)
        said = f"Trials are in the order of the file, split by split: {listed(numbers)}."
    else:
        said = "Trials were put back into their original order, by `train_inds` and so on."
    layout.notes.append(said)
    ranks = np.empty(trials, np.int64)
    ranks[np.argsort(order, kind="stable")] = np.arange(trials)
    layout.split = np.empty(trials, np.int8)
    first = 0
    for split, number in numbers.items():
        layout.rows[split] = ranks[first : first + number]
        layout.split[layout.rows[split]] = layout.splits[split]
        first += number


def _original_order(
    layout: Layout, numbers: dict[str, int], indices: dict[str, NDArray[np.generic]]
) -> NDArray[np.float64] | None:
    """Give the place of each trial, training trials first, or None where the file does not say it."""
    given = {
        split: indices[f"{split}_inds"].astype(np.float64) for split in numbers if f"{split}_inds" in indices
    }
    if not given:
        return None
    if "test" in numbers and "test" not in given:
        last = max((float(np.nanmax(index, initial=-1)) for index in given.values()), default=-1)
        given["test"] = last + 1 + np.arange(numbers["test"], dtype=np.float64)
    joined = np.concatenate([given[split] for split in numbers if split in given])
    complete = all(split in given and len(given[split]) == number for split, number in numbers.items())
    if complete and np.isfinite(joined).all() and len(np.unique(joined)) == len(joined):
        return joined
    said = "`train_inds` and `valid_inds` do not name each trial once."
    hint = (
        "Each must hold one number for each trial of its split, different in both: the trial's place in "
        "the session."
    )
    layout.warnings.append(Problem("original_order_unclear", said, hint, "/train_inds"))
    return None
