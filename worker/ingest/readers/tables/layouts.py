"""Roles of the columns of a table: from the mapping, else by name."""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Gatherer, Problem, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.tables.table import Table
from worker.ingest.recording import Understood
from worker.ingest.time_units import UNITS, in_seconds

_TRIAL = {
    "trial", "trials", "trialid", "trialids", "trialnumber", "trialno", "trialnum", "trialindex", "trialidx",
}  # fmt: skip
_NEURON = {
    *(
        "neuron",
        "neurons",
        "neuronid",
        "neuronids",
        "neuronindex",
        "neuronidx",
        "unit",
        "units",
        "unitid",
        "unitids",
    ),
    *("unitindex", "unitidx", "cell", "cells", "cellid", "cluster", "clusters", "clusterid", "clusterids"),
    *("spikeclusters", "spikeunits", "spikeneurons", "channel", "channelid", "electrode"),
}
_BIN = {
    "bin", "bins", "binid", "binindex", "binidx", "binnumber", "timebin", "timebins", "timestep", "timeindex",
}  # fmt: skip
_COUNT = {
    *("count", "counts", "spikecount", "spikecounts", "nspikes", "numspikes", "numberofspikes", "spikes")
}
_TIMES = ("spiketimes", "spiketime", "timestamps", "timestamp", "times", "time", "t")
_LISTS = {*_TIMES, "spikes"}


@dataclass
class Roles:
    """Roles of the columns of a table.

    Attributes
    ----------
    trial, neuron, bin, time, count
        Names of columns.
    understood
        How each was found.
    """

    trial: str | None = None
    neuron: str | None = None
    bin: str | None = None
    time: str | None = None
    count: str | None = None
    understood: list[Understood] = field(default_factory=list)

    def used(self) -> set[str]:
        """Return the columns that have a role."""
        return {
            name for name in (self.trial, self.neuron, self.bin, self.time, self.count) if name is not None
        }


def plain(name: str) -> str:
    """Return a name in lower case, without blanks and punctuation."""
    return re.sub(r"[\W_]+", "", name.lower())


def _is_time(name: str) -> bool:
    """Return whether a name is one of times, perhaps with a unit, such as `time_ms` and `t (s)`."""
    text = plain(name)
    return any(
        text.startswith(stem) and text.removeprefix(stem) in ("", *map(plain, UNITS)) for stem in _TIMES
    )


def is_known(name: str) -> bool:
    """Return whether the name of a column alone tells its role."""
    return plain(name) in _TRIAL | _NEURON | _BIN | _COUNT or _is_time(name) or is_of_neuron(name)


def is_of_neuron(name: str) -> bool:
    """Return whether a column has a name such as `neuron_3`, `unit12`, `ch 4a` or `17`."""
    text = plain(name)
    return bool(
        re.fullmatch(
            r"(neuron|unit|cell|cluster|channel|chan|ch|electrode|n|u|spikes?|counts?)?\d{1,9}[a-z]?", text
        )
    )


def find_roles(table: Table, options: ReadOptions) -> Roles:
    """Return the roles of the columns.

    Raises
    ------
    RejectedFile
        If the mapping names a column that does not exist.
    """
    mapping, roles = options.mapping, Roles()
    given = {
        "trial": ("trial",),
        "neuron": ("neuron",),
        "bin": ("bin",),
        "time": ("time", "spike_times"),
        "count": ("count", "spikes"),
    }
    names = {"trial": _TRIAL, "neuron": _NEURON, "bin": _BIN, "count": _COUNT}
    problems = Gatherer()
    for role, fields in given.items():
        field_name = next((name for name in fields if getattr(mapping, name) is not None), None)
        if field_name is not None:
            with problems:
                found = known_column(table, field_name, getattr(mapping, field_name))
                setattr(roles, role, found)
                roles.understood.append(Understood(role, found, "given in the mapping"))
    kept = {*(mapping.behaviour or ()), *(mapping.trial_metadata or ())}
    for name in kept:
        with problems:
            known_column(table, "behaviour" if name in (mapping.behaviour or ()) else "trial_metadata", name)
    if mapping.bin_width is not None:
        with problems:
            known_column(table, "bin_width", mapping.bin_width)
    problems.refuse()
    for role in given:
        free = [name for name in table.columns if name not in roles.used() | kept]
        if role == "time":
            fits = [name for name in free if _is_time(name)]
            fits += [name for name in free if table.columns[name] == "list" and plain(name) in _LISTS]
        else:
            fits = [name for name in free if plain(name) in names[role]]
        # Text in place of numbers is rejected when it is read. But if there are bins, a time of day in text does no harm.
        numbers = [name for name in fits if _may_be(role, table.columns[name])]
        fits = numbers or ([] if role == "time" and roles.bin is not None else fits)
        if getattr(roles, role) is None and fits:
            setattr(roles, role, fits[0])
            roles.understood.append(Understood(role, fits[0], "by its name", alternatives=tuple(fits[1:])))
    return roles


def _may_be(role: str, kind: str) -> bool:
    if role in ("trial", "neuron"):
        return kind in ("whole", "number", "label")
    return kind in ("whole", "number", *(["list"] if role == "time" else []))


def known_column(table: Table, role: str, name: str) -> str:
    """Return a column that the mapping names; reject a name that the table does not have."""
    if name not in table.columns:
        said = f"mapping.{role} is `{name}`, which is not a column of the table. It has: {listed(table.columns, 30)}."
        raise rejected("variable_unknown", said, "Name one of these.", f"/mapping/{role}")
    return name


def seconds(
    table: Table, name: str, values: NDArray[np.float64], options: ReadOptions
) -> NDArray[np.float64]:
    """Convert a column of times to seconds.

    Raises
    ------
    RejectedFile
        If they are whole numbers without a known unit.
    """
    may_be_whole = table.columns[name] in ("whole", "list")
    is_whole = may_be_whole and bool((np.abs(values) < 2**53).all() and (values == np.trunc(values)).all())
    return in_seconds(values.astype(np.int64) if is_whole else values, options, name)


def names_neurons(name: str) -> bool:
    """Return whether a column has a name such as `unit`, `cluster` or `electrode`."""
    return plain(name) in _NEURON


def column_left_out(name: str, why: str) -> Problem:
    """Return the warning for a column that was left out."""
    hint = "A column is kept as metadata if it has one value in all rows of a trial, or of a neuron."
    return Problem("column_left_out", f"`{name[:100]}` was left out: {why}.", hint, f"/{name[:100]}")


def rows_without_label(number: int) -> list[Problem]:
    """Return the warning for rows without a neuron or a trial, if there are any."""
    if not number:
        return []
    said = f"{number} rows have no neuron or no trial, and were left out."
    hint = "Fill in the label, or ignore this if they lie outside of trials."
    return [Problem("rows_without_label", said, hint)]
