"""Arrays beside the spikes: their axis, whether they are the time of bins, and whether they belong to other spikes."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import DatasetOptions
from domain.dataset_options import Mapping as MappingOptions
from worker.ingest.bin_width import SECONDS_PER_UNIT, TIME_AXIS, BinWidthClues, is_even, stated_width
from worker.ingest.problems import Problem
from worker.ingest.readers.axis_names import Role, base_of, fits_bins, role_of
from worker.ingest.readers.base import UNREADABLE, left_out
from worker.ingest.readers.split_layout import SPLIT_WORDS, part_of
from worker.ingest.readers.variables import (
    SPIKE_LIKE,
    SPIKES,
    ArrayFile,
    given,
    is_named,
    is_table_column,
    looks_like_counts,
)
from worker.ingest.recording import Recording


def known_roles(mapping: MappingOptions, variables: Iterable[str]) -> dict[str, Role]:
    """Return the vectors that the mapping assigns to trials or to neurons."""
    of_trials = [*(mapping.trial_metadata or ()), mapping.split or "", mapping.trial_length_bins or ""]
    roles: list[tuple[Role, Sequence[str]]] = [
        ("trial", of_trials),
        ("neuron", mapping.neuron_metadata or ()),
    ]
    known: dict[str, Role] = {name: "trial" for name in variables if is_table_column(name)}
    return known | {name: role for role, names in roles for name in variables if is_named(name, names)}


def owner_of_column(
    name: str, length: int, numbers: Mapping[Role, int], spikes: str, known: Mapping[str, Role]
) -> tuple[Role | None, bool]:
    """Return whether a vector is metadata of trials or neurons (or None), and whether that is a guess.

    Parameters
    ----------
    name, length
        Name and length of the vector.
    numbers
        Numbers of trials and neurons, and of bins, which have no metadata.
    spikes
        Name of the spikes.
    known
        As for `Evidence.add_vectors`.
    """
    fits = [role for role, number in numbers.items() if number == length]
    role = known.get(name) or role_of(name, spikes)
    if role in fits:
        return role, False
    if length < 2 or name in known or fits in ([], ["bin"]):
        return None, False
    return next(one for one in fits if one != "bin"), len(fits) > 1


def owner_guessed(name: str, owner: Role, length: int) -> Problem:
    """Return the warning for a vector that may belong to trials or to neurons."""
    message = f"`{name[:100]}` has {length} values, and more than one axis has this length. It was read as metadata of {owner}s."
    other = "neuron" if owner == "trial" else "trial"
    hint = f"If this is wrong, name it in mapping.{other}_metadata; mapping.{owner}_metadata confirms it."
    return Problem("metadata_guessed", message, hint, f"/{name[:100]}")


def read_time_axis(file: ArrayFile, name: str, mapping: MappingOptions) -> NDArray[Any] | None:
    """Return a vector if it holds the time of each bin, else None."""
    if not file.variables[name].is_numbers:
        return None
    is_given = mapping.time is not None and is_named(name, [mapping.time])
    if not is_given and TIME_AXIS.fullmatch(base_of(name)) is None:
        return None
    try:
        values = np.asarray(file.read(name)).reshape(-1)
    except UNREADABLE:  # The reader warns of this array when it leaves it out.
        return None
    return values if is_given or is_even(values) else None


def of_other_recording(name: str, spikes: str, names: Iterable[str]) -> str | None:
    """Return why an array belongs to other spikes than the chosen ones, or None.

    Parameters
    ----------
    name
        Name of the array.
    spikes
        Name of the chosen spikes.
    names
        Names of everything in the file.
    """
    own, other = part_of(spikes, SPLIT_WORDS), part_of(name, SPLIT_WORDS)
    if own is not None and other is not None and own[0] != other[0]:
        return f"it is of the {other[0]} trials, and `{spikes}` holds the {own[0]} trials"
    group, spikes_group = name[: -len(base_of(name))], spikes[: -len(base_of(spikes))]
    if group and not spikes_group.startswith(group):
        for one in names:
            if one != name and one.startswith(group) and base_of(one) == base_of(spikes):
                return f"it lies beside `{one}`, a second recording"
    return None


def is_other_spikes(file: ArrayFile, name: str, spikes: str, axes: Sequence[str]) -> bool:
    """Return whether an array holds whole counts and is named like spikes or has as many components as neurons."""
    variable, own = file.variables[name], file.variables[spikes]
    if not variable.is_numbers or len(variable.shape) != len(own.shape):
        return False
    base, place = base_of(name), axes.index("neuron")
    is_alike = base == base_of(spikes) or base in SPIKES or SPIKE_LIKE.search(base) is not None
    return (is_alike or variable.shape[place] == own.shape[place]) and looks_like_counts(file, name)


def bin_width_clues(
    file: ArrayFile, names: Iterable[str], recording: Recording, options: DatasetOptions
) -> tuple[BinWidthClues, set[str]]:
    """Collect clues to the bin width from some arrays; return them and the names of the arrays that were used.

    Parameters
    ----------
    file
        The file; its `numbers` may give the bin width too.
    names
        The arrays to look at.
    recording
        The recording; its notes and warnings are written.
    options
        Options of the request; its bin width takes precedence.
    """
    notes, bins, used = recording.notes, recording.spikes.shape[1], set[str]()
    clues = BinWidthClues(option_s=options.bin_width_s)
    told = [stated_width(name, value, notes) for name, value in file.numbers.items()]
    clues.stated = dict(one for one in told if one is not None)
    mapped = given(file.variables, "bin_width", options.mapping.bin_width, recording.understood)
    given(file.variables, "time", options.mapping.time, recording.understood)
    for name in names:
        variable = file.variables[name]
        is_number = variable.size == 1 and variable.dtype.kind in "uif"
        value = float(file.read(name).reshape(())) if is_number else math.nan
        stated = stated_width(name, value, notes) if is_number else None
        if name == mapped or re.split(r"[./]", name)[-1] in SECONDS_PER_UNIT or stated is not None:
            used.add(name)
            if is_number:
                unit, value = stated or ("bin_width_s", value)
                clues.stated[unit] = value
            else:
                why = "expected one number, the width of every bin"
                recording.warnings.append(left_out(name, variable.shape, why))
        elif fits_bins(name, variable.length or 0, bins):
            times = read_time_axis(file, name, options.mapping)
            if times is not None:
                used.add(name)
                clues.add_time_axis(name, times, options)
    return clues, used
