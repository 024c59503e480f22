"""HDF5 in the layout of LFADS users: every array once for each split.

Arrays are named `train_<name>`, `valid_<name>` and `test_<name>`.

| `<name>` | shape | |
|---|---|---|
| `data`, or `encod_data` and `recon_data` | trials × bins × neurons | counts; needed |
| `inds` | trials | each trial's place in the original order; rows are put back into it |
| `truth`, `rates` | as the data | true rates, in Hz or counts per bin: whichever agrees with the spikes |
| `lowd`, `latent` | trials × bins × k | behaviour `true_latents` |
| `ext_input`, `external_inputs` | trials × bins × k | external inputs |
| `trial_length_bins` | trials | bins recorded of each trial |
| any other | trials | metadata of trials |
| any other | trials × bins (× k) | behaviour |

The bin width is an attribute or a data set (`bin_width_s`, `dt`, `bin_width_ms`), or comes with the upload,
or is taken from a time axis or from true rates in Hz. Where `recon_data` has more neurons or bins than
`encod_data`, it holds everything and is used. Trials of `test_*` come with split -1, neither train nor valid;
after the others if there is no `test_inds`.
"""

from pathlib import Path

import h5py
import numpy as np

from worker.ingest.bin_width import SECONDS_PER_UNIT, TIME_AXIS, BinWidthClues
from worker.ingest.counts import CountsBuilder
from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.readers.base import (
    ReadOptions,
    left_out,
    metadata_values,
    name_is_usable,
    parse_trial_lengths,
    refuse_shape_of_spikes,
    settle_split,
)
from worker.ingest.readers.hdf5.lfads_layout import SPLITS, Layout, lay_out
from worker.ingest.readers.hdf5.safety import CheckedHdf5, blocks, looks_like, open_checked
from worker.ingest.recording import MetadataValue, Recording
from worker.ingest.rows import Rows, filled
from worker.ingest.true_rates import counts_per_true_rate, settle_true_rates

_SPIKES = ("data", "encod_data", "recon_data")
_TRUE_RATES = ("truth", "rates", "true_rates")
_EXTERNAL_INPUTS = ("ext_input", "external_inputs")
_NEVER_OTHER = (
    *_SPIKES,
    "inds",
    "trial_length_bins",
    *_TRUE_RATES,
    *_EXTERNAL_INPUTS,
)
_BEHAVIOUR_NAMES = {"lowd": "true_latents", "latent": "true_latents", "latents": "true_latents"}


class LfadsHdf5Reader:
    """Reads HDF5 files with `train_data` and `valid_data`, or `train_encod_data` and so on."""

    format = "lfads_hdf5"

    def recognises(self, path: Path) -> bool:
        """Say whether the file is HDF5 with spikes of a training split."""
        return looks_like(path, lambda file: any(f"train_{name}" in file for name in _SPIKES))

    def read(self, path: Path, options: ReadOptions) -> Recording:
        """Read `path`; the module's table says what is understood."""
        with open_checked(path, options) as file:
            _set_groups_aside(file)
            file.refuse_giant(file.datasets, options)
            return read_splits(file, _layout_of(file), options, self.format)


def read_splits(
    file: CheckedHdf5,
    layout: Layout,
    options: ReadOptions,
    source_format: str,
    usual_width: tuple[str, float] | None = None,
) -> Recording:
    """Read a file of which every array is there once for each split.

    Parameters
    ----------
    file
        Its `datasets` are those of the layout; each split's spikes are trials × bins × neurons.
    layout
        What belongs together, and where each trial goes.
    options
        The bin width of the request goes first.
    source_format
        Name of the format.
    usual_width
        As `BinWidthClues.usual`.
    """
    _refuse_unlike_splits(file, layout)
    spikes = _read_spikes(file, layout)
    trials, bins, _ = spikes.shape
    recording = Recording(
        spikes=spikes,
        bin_width_s=float("nan"),
        trial_length_bins=np.full(trials, bins, np.int64),
        split=layout.split,
        source_format=source_format,
        notes=list(layout.notes),
        warnings=list(layout.warnings),
    )
    settle_split(recording)
    _Arrays(file, layout, recording).take_all(BinWidthClues(option_s=options.bin_width_s, usual=usual_width))
    return recording


def _set_groups_aside(file: CheckedHdf5) -> None:
    """Tell of what lies in a group, and do not read it: this layout has none."""
    for name in [name for name in file.datasets if "/" in name]:
        del file.datasets[name]
        file.set_aside[f"/{name}"] = "it lies in a group"


def _layout_of(file: CheckedHdf5) -> Layout:
    shapes = {name: dataset.shape for name, dataset in file.datasets.items()}
    indices = {name: dataset[()] for name, dataset in file.datasets.items() if _is_indices(name, dataset)}
    layout = lay_out(shapes, indices)
    for path, why in file.set_aside.items():
        layout.warnings.append(left_out(path.removeprefix("/"), (), why))
    return layout


def _refuse_unlike_splits(file: CheckedHdf5, layout: Layout) -> None:
    """Reject spikes that are not trials × bins × neurons, or not of the same bins and neurons in each split."""
    shapes = {name: file.datasets[name].shape for name in layout.spikes.values()}
    for name in layout.spikes.values():
        refuse_shape_of_spikes(name, file.datasets[name].shape, file.datasets[name].dtype.kind)
    first, *others = layout.spikes.values()
    for name in others:
        if shapes[name][1:] != shapes[first][1:]:
            said = (
                f"`{name}` has shape {shapes[name]} and `{first}` {shapes[first]}: bins and neurons must "
                "be the same."
            )
            hint = "Give training and validation trials the same bins and neurons, in the same order."
            raise RejectedFile(Problem("splits_differ", said, hint, f"/{name}"))


def _is_indices(name: str, dataset: h5py.Dataset) -> bool:
    return name in {f"{split}_inds" for split in SPLITS} and dataset.ndim == 1 and dataset.dtype.kind in "uif"


def _read_spikes(file: CheckedHdf5, layout: Layout) -> Rows:
    _, bins, neurons = file.datasets[next(iter(layout.spikes.values()))].shape
    builder = CountsBuilder((len(layout.split), bins, neurons))
    for split, name in layout.spikes.items():
        for first, block in blocks(file.datasets[name]):
            builder.add(name, first, layout.rows[split][first : first + len(block)], block)
    return builder.finish()


class _Arrays:
    """Takes everything beside the spikes from a file into a recording."""

    def __init__(self, file: CheckedHdf5, layout: Layout, recording: Recording) -> None:
        self._file = file
        self._layout = layout
        self._recording = recording
        self._trials, self._bins, self._neurons = map(int, recording.spikes.shape)

    def take_all(self, clues: BinWidthClues) -> None:
        """Fill the recording, in the order in which one thing is needed for the next."""
        recording = self._recording
        if "trial_length_bins" in self._layout.names:
            lengths = np.array(self._values("trial_length_bins"), np.float64)
            recording.trial_length_bins = parse_trial_lengths(lengths, "trial_length_bins", self._bins)
        self._settle_rates_and_bin_width(clues)
        for name in self._layout.names:
            if name in _EXTERNAL_INPUTS and recording.external_inputs is None and self._per_bin(name):
                recording.external_inputs = self._gather(name)
            elif name not in _NEVER_OTHER:
                self._take_other(name)
        for name in self._layout.beside:
            shape = self._file.datasets[name].shape
            if name not in SECONDS_PER_UNIT and not TIME_AXIS.fullmatch(name):
                recording.warnings.append(left_out(name, shape, "it belongs to no split"))

    def _settle_rates_and_bin_width(self, clues: BinWidthClues) -> None:
        recording, file = self._recording, self._file
        clues.stated = {name: value for name, value in file.attributes.items() if name in SECONDS_PER_UNIT}
        for name, dataset in file.datasets.items():
            if name in SECONDS_PER_UNIT and dataset.size == 1 and dataset.dtype.kind in "uif":
                clues.stated[name] = float(np.reshape(dataset[()], ()))
            elif TIME_AXIS.fullmatch(name) and dataset.shape == (self._bins,) and dataset.dtype.kind in "uif":
                clues.time_axes_s[name] = dataset[()].astype(np.float64)
        rates_name = next((name for name in _TRUE_RATES if name in self._layout.names), None)
        rates = None if rates_name is None else self._true_rates(rates_name)
        if rates is not None:
            clues.counts_per_true_rate = counts_per_true_rate(
                recording.spikes, rates, recording.inside_trials()
            )
        recording.bin_width_s = clues.settle(recording.notes, recording.warnings)
        if rates is not None:
            settle_true_rates(recording, rates, f"train_{rates_name}", stated_hz=False)

    def _true_rates(self, name: str) -> Rows | None:
        """Read true rates, or warn that they were left out: their shape differs, or a split has none."""
        missing = [split for split in self._layout.spikes if split not in self._layout.names[name]]
        for full_name in self._layout.names[name].values():
            shape = self._file.datasets[full_name].shape
            if shape[1:] != (self._bins, self._neurons):
                why = f"true rates must have {self._bins} bins and {self._neurons} neurons, as the spikes"
            elif missing:
                why = f"there are no true rates for {listed(missing)} trials"
            else:
                continue
            self._recording.warnings.append(left_out(full_name, shape, why))
            return None
        return self._gather(name)

    def _take_other(self, name: str) -> None:
        """Take an array as behaviour or metadata by its shape, or warn that it was left out."""
        recording = self._recording
        own_name = _BEHAVIOUR_NAMES.get(name, name)
        own_name = name if own_name in recording.behaviour else own_name
        if self._per_bin(name) and name_is_usable(own_name):
            recording.behaviour[own_name] = self._gather(name)
        elif self._per_trial(name) and name_is_usable(own_name):
            recording.trial_metadata[own_name] = self._values(name)
        else:
            for full_name in self._layout.names[name].values():
                why = f"its shape does not fit these trials and {self._bins} bins, or its name cannot be used"
                recording.warnings.append(left_out(full_name, self._file.datasets[full_name].shape, why))

    def _per_bin(self, name: str) -> bool:
        """Whether `name` is trials × bins (× k) numbers in each split that has it, with one k."""
        datasets = self._datasets(name)
        fits = all(
            dataset.ndim in (2, 3)
            and dataset.shape[1] == self._bins
            and dataset.dtype.kind in "buif"
            and dataset.size
            for dataset in datasets.values()
        )
        return fits and self._has_all_trials(datasets) and len({d.shape[2:] for d in datasets.values()}) == 1

    def _per_trial(self, name: str) -> bool:
        datasets = self._datasets(name)
        fits = all(dataset.ndim == 1 and dataset.dtype.kind in "buifS" for dataset in datasets.values())
        return fits and self._has_all_trials(datasets)

    def _has_all_trials(self, datasets: dict[str, h5py.Dataset]) -> bool:
        return all(dataset.shape[0] == len(self._layout.rows[split]) for split, dataset in datasets.items())

    def _datasets(self, name: str) -> dict[str, h5py.Dataset]:
        return {split: self._file.datasets[full] for split, full in self._layout.names[name].items()}

    def _gather(self, name: str) -> Rows:
        """Read an array in the original order: float32 [trials, bins, k]; NaN where a split lacks it."""
        datasets = self._datasets(name)
        width = max((*dataset.shape, 1)[2] for dataset in datasets.values())
        gathered = filled((self._trials, self._bins, width), np.float32, np.nan)
        with np.errstate(over="ignore"):
            for split, dataset in datasets.items():
                for first, block in blocks(dataset):
                    rows = self._layout.rows[split][first : first + len(block)]
                    gathered[rows] = block.reshape(len(block), self._bins, width).astype(np.float32)
        self._warn_of_missing_splits(name)
        return gathered

    def _values(self, name: str) -> list[MetadataValue]:
        """Read one value for each trial, in the original order; None where a split lacks it."""
        values: list[MetadataValue] = [None] * self._trials
        for split, dataset in self._datasets(name).items():
            rows = self._layout.rows[split]
            if dataset.shape != rows.shape:
                said = (
                    f"`{dataset.name}` has shape {dataset.shape}: expected one value for each of "
                    f"{len(rows)} trials."
                )
                raise RejectedFile(
                    Problem("array_wrong_shape", said, "Check how it was written.", dataset.name)
                )
            for row, value in zip(rows, metadata_values(dataset[()]), strict=True):
                values[row] = value
        self._warn_of_missing_splits(name)
        return values

    def _warn_of_missing_splits(self, name: str) -> None:
        present = self._layout.names[name]
        for split in self._layout.spikes:
            if split not in present:
                said = (
                    f"There is `{listed(present.values())}` but no `{split}_{name}`: its trials have no "
                    "values there."
                )
                hint = "Give it for every split, if you have it."
                self._recording.warnings.append(
                    Problem("array_missing_in_split", said, hint, f"/{split}_{name}")
                )
