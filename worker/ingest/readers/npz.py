"""NPZ: arrays saved with `np.savez` or `np.savez_compressed`.

| array | shape | |
|---|---|---|
| `spikes` | trials × bins × neurons | counts; needed |
| `bin_width_s` | one number | needed, here or with the upload (also `dt`, `bin_width_ms`, ...) |
| `trial_length_bins` | trials | bins recorded of each trial; all bins if absent |
| `split` | trials | 'train', 'valid', 'test', or 0, 1, -1 |
| `true_rates_hz` | as spikes | in spikes per second |
| `true_rates` | as spikes | in Hz or in counts per bin: whichever agrees with the spikes |
| `external_inputs` | trials × bins (× k) | |
| any other | trials | metadata of trials |
| any other | trials × bins (× k) | behaviour |

What is none of these is left out with a warning. Nothing is ever unpickled.
"""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.ingest.bin_width import SECONDS_PER_UNIT, TIME_AXES, BinWidthClues
from worker.ingest.counts import CountsBuilder, rows_per_block
from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.readers.base import (
    ReadOptions,
    left_out,
    metadata_values,
    name_is_usable,
    parse_split,
    parse_trial_lengths,
    refuse_shape_of_spikes,
    settle_split,
)
from worker.ingest.readers.npz_archive import NpyMember, NpzArchive
from worker.ingest.recording import SPLIT_NOT_GIVEN, Counts, Recording
from worker.ingest.true_rates import counts_per_true_rate, settle_true_rates

_ONE_VALUE_A_TRIAL = ("trial_length_bins", "split")
_TRUE_RATES = ("true_rates_hz", "true_rates")


class NpzReader:
    """Reads NPZ archives."""

    format = "npz"

    def recognises(self, path: Path) -> bool:
        """Say whether the file is a ZIP archive that holds arrays, or is too damaged to tell."""
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(".npy") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return True

    def read(self, path: Path, options: ReadOptions) -> Recording:
        """Read `path`; the module's table says what is understood."""
        with NpzArchive(path, options) as archive:
            _refuse_without_spikes(archive)
            _refuse_wrong_lengths(archive)
            return _read(archive, options)


def _read(archive: NpzArchive, options: ReadOptions) -> Recording:
    spikes = _read_spikes(archive)
    trials, bins, _ = spikes.shape
    recording = Recording(
        spikes=spikes,
        bin_width_s=float("nan"),
        trial_length_bins=np.full(trials, bins, np.int64),
        split=np.full(trials, SPLIT_NOT_GIVEN, np.int8),
        source_format="npz",
    )
    if "trial_length_bins" in archive.members:
        lengths = archive.read("trial_length_bins")
        recording.trial_length_bins = parse_trial_lengths(lengths, "trial_length_bins", bins)
    if "split" in archive.members:
        recording.split = parse_split(archive.read("split"), "split")
        settle_split(recording)
    _settle_rates_and_bin_width(archive, options, recording)
    for name in archive.members:
        if name not in ("spikes", *_ONE_VALUE_A_TRIAL, *_TRUE_RATES, *SECONDS_PER_UNIT):
            _take_other(archive, name, recording)
    return recording


def _refuse_without_spikes(archive: NpzArchive) -> None:
    if "spikes" in archive.members:
        member = archive.members["spikes"]
        refuse_shape_of_spikes("spikes", member.shape, member.dtype.kind)
        return
    seen = listed(f"{name} {member.shape}" for name, member in archive.members.items())
    candidates = [name for name, member in archive.members.items() if len(member.shape) == 3]
    hint = "Save the counts under the name spikes: np.savez(path, spikes=counts, bin_width_s=0.010)."
    if candidates:
        hint += f" Is it {listed(candidates)}?"
    said = f"There is no array `spikes` (trials × bins × neurons) in the file. It holds: {seen}."
    raise RejectedFile(Problem("spikes_missing", said, hint, "/spikes"))


def _refuse_wrong_lengths(archive: NpzArchive) -> None:
    """Reject arrays whose meaning is fixed by their name and whose shape does not fit the spikes."""
    shape = archive.members["spikes"].shape
    expected = dict.fromkeys(_ONE_VALUE_A_TRIAL, shape[:1]) | dict.fromkeys(_TRUE_RATES, shape)
    problems = []
    for name, wanted in expected.items():
        if name in archive.members and archive.members[name].shape != wanted:
            found = archive.members[name].shape
            hint = "The axes of all arrays must come in the same order: trials, bins, neurons."
            if len(found) == 1 and found[0] in shape[1:]:
                hint = (
                    f"An axis of spikes has this length: are the axes of spikes {shape} trials × bins × "
                    "neurons?"
                )
            said = f"`{name}` has shape {found}: expected {wanted}, to go with spikes of shape {shape}."
            problems.append(Problem("array_wrong_shape", said, hint, f"/{name}"))
    inputs = archive.members.get("external_inputs")
    if inputs is not None and (inputs.shape[:2] != shape[:2] or len(inputs.shape) not in (2, 3)):
        said = (
            f"`external_inputs` has shape {inputs.shape}: expected {shape[0]} trials × {shape[1]} bins × k."
        )
        problems.append(
            Problem("array_wrong_shape", said, "Give inputs in the bins of spikes.", "/external_inputs")
        )
    if problems:
        raise RejectedFile(problems)


def _read_spikes(archive: NpzArchive) -> Counts:
    member = archive.members["spikes"]
    trials, bins, neurons = member.shape
    builder = CountsBuilder((trials, bins, neurons))
    for first, block in archive.blocks("spikes", rows_per_block(member.shape, member.dtype.itemsize)):
        builder.add("spikes", first, np.arange(first, first + len(block)), block)
    return builder.finish()


def _settle_rates_and_bin_width(archive: NpzArchive, options: ReadOptions, recording: Recording) -> None:
    bins = recording.spikes.shape[1]
    clues = BinWidthClues(option_s=options.bin_width_s)
    for name, member in archive.members.items():
        if name in SECONDS_PER_UNIT and member.size == 1 and member.dtype.kind in "uif":
            clues.stated[name] = float(archive.read(name).reshape(()))
        elif name in TIME_AXES and member.shape == (bins,) and member.dtype.kind in "uif":
            clues.time_axes_s[name] = archive.read(name).astype(np.float64)
        elif name in SECONDS_PER_UNIT:
            recording.warnings.append(
                left_out(name, member.shape, "expected one number, the width of every bin")
            )
    rates_name = next((name for name in _TRUE_RATES if name in archive.members), None)
    rates = None if rates_name is None else _numbers(archive, rates_name)
    if rates is not None:
        clues.counts_per_true_rate = counts_per_true_rate(recording.spikes, rates, recording.inside_trials())
    recording.bin_width_s = clues.settle(recording.notes, recording.warnings)
    if rates is not None and rates_name is not None:
        settle_true_rates(recording, rates, rates_name, stated_hz=rates_name == "true_rates_hz")
    if rates_name == "true_rates_hz" and "true_rates" in archive.members:
        shape = archive.members["true_rates"].shape
        recording.warnings.append(left_out("true_rates", shape, "`true_rates_hz` was used"))


def _numbers(archive: NpzArchive, name: str) -> NDArray[np.float32]:
    """Read an array as float32 [trials, bins, k]; one of trials × bins gets k = 1."""
    member = archive.members[name]
    if member.dtype.kind not in "buif":
        said = f"`{name}` does not hold numbers, but {member.dtype}."
        raise RejectedFile(Problem("array_not_numbers", said, "Give integers or floats.", f"/{name}"))
    values = np.empty(member.shape, np.float32)
    with np.errstate(over="ignore"):
        for first, block in archive.blocks(name, rows_per_block(member.shape, 8)):
            values[first : first + len(block)] = block
    return values[:, :, None] if values.ndim == 2 else values


def _take_other(archive: NpzArchive, name: str, recording: Recording) -> None:
    """Take an array as inputs, metadata or behaviour by its shape, or warn that it was left out."""
    member = archive.members[name]
    trials, bins, _ = recording.spikes.shape
    if name == "external_inputs":
        recording.external_inputs = _numbers(archive, name)
    elif not name_is_usable(name):
        recording.warnings.append(left_out(name, member.shape, "its name cannot be used"))
    elif member.shape == (trials,) and member.dtype.kind in "buifSU":
        recording.trial_metadata[name] = metadata_values(archive.read(name))
    elif member.shape[:2] == (trials, bins) and len(member.shape) in (2, 3) and _has_numbers(member):
        recording.behaviour[name] = _numbers(archive, name)
    elif name not in TIME_AXES or member.shape != (bins,):
        why = f"its shape does not fit {trials} trials and {bins} bins"
        if member.shape[:1] == (trials,) and not _has_numbers(member):
            why = f"it is empty, or its values are of a type that is not read ({member.dtype})"
        recording.warnings.append(left_out(name, member.shape, why))


def _has_numbers(member: NpyMember) -> bool:
    return member.size > 0 and member.dtype.kind in "buif"
