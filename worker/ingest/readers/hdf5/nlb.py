"""HDF5 in the layout of the Neural Latents Benchmark, as `nlb_tools` writes its input tensors; see docs/file-formats.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions, left_out, refuse_giant, refuse_shape_of_spikes
from worker.ingest.readers.hdf5.named import Hdf5Arrays
from worker.ingest.readers.hdf5.safety import CheckedHdf5, looks_like, open_checked
from worker.ingest.readers.split_arrays import read_indices, read_splits
from worker.ingest.readers.split_layout import Layout
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, MetadataValue, Recording

_SPLITS = {"train": SPLIT_TRAIN, "eval": SPLIT_NOT_GIVEN}
_USUAL_WIDTH = ("the default of the tools of the Neural Latents Benchmark", 0.005)


class NlbHdf5Reader:
    """Reads HDF5 files with `train_spikes_heldin` or `eval_spikes_heldin`."""

    format = "nlb_hdf5"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is HDF5 with spikes of held-in neurons."""
        return looks_like(path, lambda file: any(f"{split}_spikes_heldin" in file for split in _SPLITS))

    def read(self, path: Path, options: ReadOptions) -> Recording:
        """Read `path`."""
        with open_checked(path, options, variable_length=True) as checked:
            checked.refuse_giant(checked.datasets, options)
            _refuse_unread_spikes(checked)
            layout = Layout(spikes={}, splits=_SPLITS, words={split: split for split in _SPLITS})
            _lift_out_of_groups(checked, layout)
            held_in, held_out = _put_together(checked, layout)
            _pad_behaviour(checked, layout)
            refuse_giant(sum(d.size * 4 for d in checked.datasets.values() if isinstance(d, Joined)), options)
            file = Hdf5Arrays(checked, options, self.format)
            layout.drop_unlike_training(file.variables)
            layout.sort(file.variables)
            layout.place_trials(file.variables, read_indices(file, layout))
            recording = read_splits(file, layout, options, _USUAL_WIDTH)
            checked.set_aside |= dict.fromkeys(checked.references, "it holds references")
            recording.warnings += checked.left_out()
            if held_out:
                is_held_out: list[MetadataValue] = [*[False] * held_in, *[True] * held_out]
                recording.neuron_metadata["held_out"] = is_held_out
        return recording


class Joined:
    """Data sets joined along bins and neurons, with the interface of one HDF5 data set.

    Parameters
    ----------
    parts
        Data sets of the same trials: rows of later bins, columns of further neurons; each [trials, bins, k].
    bins
        Length to which the data are padded with NaN; by default that of the parts.
    """

    chunks = None

    def __init__(self, parts: Sequence[Sequence[h5py.Dataset]], bins: int | None = None) -> None:
        self._parts = parts
        trials = parts[0][0].shape[0]
        found = sum(row[0].shape[1] for row in parts)
        self.bins_before_forward = parts[0][0].shape[1]
        self._missing_bins = 0 if bins is None else bins - found
        self.shape = (trials, found + self._missing_bins, sum(part.shape[2] for part in parts[0]))
        dtypes = [part.dtype for row in parts for part in row]
        self.dtype = np.result_type(*dtypes, *([np.float32] if self._missing_bins else []))
        self.ndim, self.size = 3, int(np.prod(self.shape, dtype=object))

    def __getitem__(self, trials: slice) -> NDArray[Any]:
        rows = [np.concatenate([part[trials] for part in row], axis=2) for row in self._parts]
        if self._missing_bins:
            shape = (len(rows[0]), self._missing_bins, self.shape[2])
            rows.append(np.full(shape, np.nan, np.float32))
        return np.concatenate(rows, axis=1)


def _refuse_unread_spikes(file: CheckedHdf5) -> None:
    """Reject a file with spikes that cannot be read: the rest would be another recording."""
    for path, why in file.set_aside.items():
        if "_spikes_held" in path:
            said = f"`{path}` cannot be read: {why}."
            hint = "Write it again with gzip or lzf, or without compression."
            raise rejected("filter_not_allowed" if "filter" in why else "splits_differ", said, hint, path)


def _lift_out_of_groups(file: CheckedHdf5, layout: Layout) -> None:
    for path in [path for path in file.datasets if "/" in path]:
        dataset, name = file.datasets.pop(path), path.rsplit("/", 1)[-1]
        if name in file.datasets:
            file.set_aside[path] = f"there is `{name}` too"
        elif "_spikes_held" in name and not _same_bins(file, name, dataset):
            file.set_aside[path] = "its trials or bins are not those of the spikes outside its group"
        else:
            file.datasets[name] = dataset
            layout.notes.append(f"`{path}` was read as `{name}`.")


def _same_bins(file: CheckedHdf5, name: str, dataset: h5py.Dataset) -> bool:
    held_in = file.datasets.get(f"{name.split('_')[0]}_spikes_heldin")
    axes = slice(0, 1) if name.endswith("_forward") else slice(0, 2)
    return held_in is not None and bool(held_in.shape[axes] == dataset.shape[axes])


def _put_together(file: CheckedHdf5, layout: Layout) -> tuple[int, int]:
    """Replace each split's spikes by one joined data set; return the numbers of held-in and held-out neurons.

    Raises
    ------
    RejectedFile
        If parts of one split do not fit together.
    """
    neurons: dict[str, tuple[int, int]] = {}
    for split in _SPLITS:
        names = [
            [f"{split}_spikes_{held}{bins}" for held in ("heldin", "heldout")] for bins in ("", "_forward")
        ]
        if names[0][0] not in file.datasets:
            continue
        present = [[name for name in row if name in file.datasets] for row in names]
        parts = {name: file.datasets.pop(name) for row in present for name in row}
        for name, part in parts.items():
            refuse_shape_of_spikes(name, part.shape, part.dtype.kind)
        if len(present[1]) < len(present[0]):
            for name in present.pop():
                why = "the forward bins of the other neurons are missing"
                layout.warnings.append(left_out(name, parts[name].shape, why))
        _refuse_misfits(present, parts)
        joined = f"{split}_spikes"
        if joined in file.datasets:
            file.set_aside[joined] = f"there is `{names[0][0]}` too"
        file.datasets[joined] = Joined([[parts[name] for name in row] for row in present])
        layout.spikes[split] = joined
        neurons[split] = parts[names[0][0]].shape[2], sum(parts[name].shape[2] for name in present[0][1:])
        _tell(layout, joined, present, file.datasets[joined].shape)
    if not neurons:
        said = "`train_spikes_heldin` is no array of numbers."
        hint = "Give trials × bins × neurons, as nlb_tools writes them."
        raise rejected("spikes_missing", said, hint, "/train_spikes_heldin")
    return next(iter(neurons.values()))


def _refuse_misfits(names: list[list[str]], parts: dict[str, h5py.Dataset]) -> None:
    trials, _, _ = parts[names[0][0]].shape
    for row in names:
        for number, name in enumerate(row):
            shape = parts[name].shape
            wanted = (trials, parts[row[0]].shape[1], parts[names[0][number]].shape[2])
            if shape != wanted:
                said = f"`{name}` has shape {shape}: expected {wanted}, to go with `{names[0][0]}`."
                hint = "Held-in and held-out neurons, and forward bins, must be of the same trials, in the same order."
                raise rejected("splits_differ", said, hint, f"/{name}")


def _tell(layout: Layout, joined: str, names: list[list[str]], shape: tuple[int, ...]) -> None:
    flat = [name for row in names for name in row]
    layout.notes.append(f"`{joined}`, of shape {shape}, was assembled from {', '.join(flat)}.")
    if len(flat) > 1:
        said = f"Held-out neurons or forward bins of `{joined}` are input to the model, like all others."
        hint = "To keep them out of the model, upload the held-in spikes alone."
        layout.warnings.append(Problem("held_out_used_as_input", said, hint, f"/{flat[-1]}"))


def _pad_behaviour(file: CheckedHdf5, layout: Layout) -> None:
    """Pad arrays that end before the forward bins to the length of the spikes."""
    for split, spikes in layout.spikes.items():
        whole: Joined = file.datasets[spikes]
        within = whole.bins_before_forward
        for name, dataset in file.datasets.items():
            fits = dataset.ndim == 3 and dataset.shape[:2] == (whole.shape[0], within)
            if (
                fits
                and name.startswith(f"{split}_")
                and within < whole.shape[1]
                and dataset.dtype.kind in "buif"
            ):
                file.datasets[name] = Joined([[dataset]], whole.shape[1])
