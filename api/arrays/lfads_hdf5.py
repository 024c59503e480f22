"""HDF5 in the key layout of LFADS users: every array once for each split, `train_…`, `valid_…`, `test_…`.

| array | key after the split | content |
|---|---|---|
| `rates` | `output_params` | expected counts per bin: spikes/s times the bin width |
| `factors` | `factors` | |
| `initial_conditions` | `ic_mean` | posterior mean of the initial condition |
| `generator_states` | `gen_states` | |
| `inputs` | `gen_inputs` | inferred inputs, without the external ones |
| `spikes` | `encod_data`, `recon_data` | counts; both keys are one data set |
| `true_rates_hz` | `truth` | spikes/s |
| `external_inputs` | `ext_input` | |
| any other | its name | |

`…_inds` holds each trial's place in the user's order. Arrays without trials keep their names. Of several sessions, keys end as
the arrays do: `train_output_params_0`, with `train_inds_0`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from api.arrays.axes import is_trial_dim, trial_dim, trials_along
from api.arrays.downloads import Contents
from api.arrays.formats import Encoded
from api.arrays.formats.hdf5 import create, open_new, tell, write_rows
from api.arrays.formats.naming import Names
from api.arrays.formats.streams import spooled
from api.arrays.labelled import LabelledArray, as_words, coordinates_of
from domain.split_groups import SPLITS

_OF_LATENTS = {
    "rates": "output_params",
    "initial_conditions": "ic_mean",
    "generator_states": "gen_states",
    "inputs": "gen_inputs",
}
_OF_DATASETS = {"spikes": "encod_data", "true_rates_hz": "truth", "external_inputs": "ext_input"}
_TOLD_OTHERWISE = ("split", "trial_start_s", "trial_length_bins")
"""Coordinates of trials that are no columns: keys tell the split, readers take no starts, lengths are written anyway."""

_MEANT_OTHERWISE = frozenset(
    {
        *("data", "encod_data", "recon_data", "inds", "trial_length_bins", "truth", "rates", "true_rates"),
        *("ext_input", "external_inputs", "lowd", "latent", "latents"),
    }
)
"""Names that readers of this layout understand otherwise than as behaviour or metadata."""


def encode_lfads_hdf5(contents: Contents) -> Encoded:
    """Return the file, which is written to a temporary file first."""
    return spooled(lambda path: _Writer(contents).write(path), ending="h5")


class _Writer:
    """Writes the arrays of a group, split by split."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._facts = contents.context.provenance.trials()
        self._split = contents.splits()
        self._names = Names()

    def write(self, path: Path) -> None:
        """Write the file, block by block."""
        contents = self._contents
        with open_new(path) as file:
            tell(file, {**contents.context.provenance.attributes, "bin_width_s": contents.bin_width_s})
            suffixes = dict.fromkeys(
                (dim.removeprefix("trial"), tuple(trials_along(array, dim).tolist()))
                for array in contents.arrays
                if (dim := trial_dim(array)) is not None
            )
            for array in contents.arrays:
                if trial_dim(array) is None:
                    write_rows(file, self._names.free(array.name), array)
                else:
                    self._write_by_split(file, array)
            for suffix, trials in suffixes:
                self._write_columns(file, suffix, np.array(trials, np.int64))
            self._write_coordinates(file)

    def _of(self, split: str, trials: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some trials belong to a split; unknown trials are for training."""
        known = trials < len(self._split)
        of_split = np.full(len(trials), "train", dtype=object)
        of_split[known] = self._split[trials[known]]
        return np.asarray(of_split == split, np.bool_)

    def _key(self, name: str) -> str:
        """Return the key of an array or a column after its split."""
        keys = _OF_DATASETS if self._contents.is_dataset else _OF_LATENTS
        return keys.get(name, f"{name}_as_uploaded" if name in _MEANT_OTHERWISE else name)

    def _write_by_split(self, file: h5py.File, array: LabelledArray) -> None:
        suffix = (trial_dim(array) or "").removeprefix("trial")
        own_name = array.name.removesuffix(suffix)
        is_rates = not self._contents.is_dataset and own_name == "rates"
        factor = np.asarray(self._contents.bin_width_s if is_rates else 1, array.dtype)
        trials = trials_along(array, array.dims[0])
        of_split = {split: self._of(split, trials) for split in SPLITS}
        targets = {}
        for split, mask in of_split.items():
            if mask.any():
                key = self._names.free(f"{split}_{self._key(own_name)}{suffix}")
                targets[split] = create(file, key, (int(mask.sum()), *array.shape[1:]), array.dtype)
                units = "spikes/bin" if is_rates else array.units
                tell(targets[split], {"units": units, "description": array.description, **array.attributes})
                if own_name == "spikes" and self._contents.is_dataset:
                    file[self._names.free(key.replace("encod", "recon"))] = targets[split]
        row, written = 0, dict.fromkeys(targets, 0)
        for block in array.blocks():
            for split, target in targets.items():
                part = block[of_split[split][row : row + len(block)]]
                target[written[split] : written[split] + len(part)] = part * factor if is_rates else part
                written[split] += len(part)
            row += len(block)

    def _write_columns(self, file: h5py.File, suffix: str, trials: NDArray[np.int64]) -> None:
        """Write for each split the positions of the trials, their lengths and their metadata."""
        columns = dict(self._columns(suffix, trials))
        for split in SPLITS:
            mask = self._of(split, trials)
            if mask.any():
                file[self._names.free(f"{split}_inds{suffix}")] = trials[mask]
                for name, values in columns.items():
                    file[self._names.free(f"{split}_{name}{suffix}")] = values[mask]

    def _columns(self, suffix: str, trials: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield what is known of each trial: its coordinates, and its metadata as they came."""
        known = [self._facts[trial] if trial < len(self._facts) else None for trial in trials.tolist()]
        details = [{} if one is None else one.details for one in known]
        names = dict.fromkeys(name for one in details for name in one)
        in_arrays = {re.sub(r"[^A-Za-z0-9_.-]", "_", name) for name in names}
        if None not in known:
            yield "trial_length_bins", np.array([one.length_bins for one in known if one is not None])
        for one in coordinates_of(self._contents.arrays):
            if one.dim == f"trial{suffix}" and one.name not in (one.dim, *_TOLD_OTHERWISE, *in_arrays):
                yield (
                    self._key(one.name.removesuffix(suffix)),
                    _storable(as_words(one.values, one.attributes).tolist()),
                )
        for name in names:
            yield self._key(name), _storable([one.get(name) for one in details])

    def _write_coordinates(self, file: h5py.File) -> None:
        """Write coordinates of the other dims, and when trials began, once and not by split."""
        for one in coordinates_of(self._contents.arrays):
            if not is_trial_dim(one.dim) or one.name == "trial_start_s":
                dataset = file.create_dataset(
                    self._names.free(one.name),
                    data=_storable(as_words(one.values, one.attributes).tolist()),
                )
                tell(dataset, {"units": one.units, "description": one.description})


def _storable(values: Sequence[Any]) -> NDArray[Any]:
    """Return a column as readers expect it: text as UTF-8 of one length, numbers with NaN for unknown values."""
    if any(isinstance(value, str) for value in values):
        texts = [("" if value is None else str(value)).replace("\0", "").encode() for value in values]
        return np.array(texts)
    if None in values:
        return np.array([np.nan if value is None else float(value) for value in values])
    return np.array(values)
