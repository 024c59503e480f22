"""MATLAB files, versions 4 to 7.3: arrays, cell arrays, structs and arrays of structs; see docs/file-formats.md."""

import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.arrays import SPIKE_TIMES, read_arrays
from worker.ingest.readers.base import ReadOptions, left_out
from worker.ingest.readers.matlab import v5, v73
from worker.ingest.readers.matlab.auxiliary_arrays import TimesBeside
from worker.ingest.readers.matlab.counts import pad_counts
from worker.ingest.readers.matlab.joined_trials import join_trials
from worker.ingest.readers.matlab.leaves import MatlabArrays, base_name, flatten, short_name
from worker.ingest.readers.matlab.spikes import CellOfTimes
from worker.ingest.readers.matlab.tree import Budget, Cell, Numbers, Tree, kind_of_cell
from worker.ingest.readers.variables import SPIKES, described, given, named
from worker.ingest.recording import Recording, Understood
from worker.ingest.spike_trains import SpikeTrains

_TIMES = (
    *SPIKE_TIMES, "spikes", "spike", "spks", "spk", "times", "ts", "timestamps", "spike_timestamps", "spike_train",
    "spike_trains", "spiketrain", "spiketrains", "sptimes", "spktimes", "units", "neurons", "cells",
)  # fmt: skip
_COUNTS = (*SPIKES, "spike", "spks", "raster", "spike_raster", "binned")


class MatlabReader:
    """Reads MATLAB files of every version."""

    format = "matlab"

    def recognises(self, path: Path) -> bool:
        """Return whether the file begins as MATLAB files do."""
        try:
            with path.open("rb") as file:
                start = file.read(128)
            return v5.is_v5(start) or v5.is_v4(start) or v73.is_v73(path)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError):
            return False

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read `path`."""
        version = v73 if v73.is_v73(path) else v5
        with version.open_tree(path, options) as tree:
            return _read_tree(tree, options)


def _read_tree(tree: Tree, options: ReadOptions) -> Recording | SpikeTrains:
    leaves = flatten(tree, options)
    joined = join_trials(leaves, options)
    if joined is not None:
        options = joined.options
    arrays = MatlabArrays(leaves, options)
    chosen = _choose_cell(arrays, options)
    if chosen is None:
        found, name = _read_plain(arrays, options)
    else:
        name, how = chosen if joined is None else (chosen[0], "joined of several variables")
        if kind_of_cell(arrays.cells[name]) == "matrices":
            found = _read_counts(name, how, arrays, options, tree.budget)
        else:
            found = CellOfTimes(name, arrays, options, []).trains(how)
    if joined is not None:
        found.understood = [*joined.understood, *found.understood]
        found.notes += joined.notes
    if isinstance(found, Recording):
        _shorten_names(found, name)
    found.notes += arrays.notes
    for text in arrays.cut_texts:
        message = f"The text `{text}` does not hold as many characters as its shape declares: it was cut to that shape."
        hint = "Check its values in the report, and save it again in MATLAB."
        found.warnings.append(Problem("text_cut", message, hint, f"/{text}"))
    taken = {understood.variable for understood in found.understood}
    for other, (shape, why) in arrays.left_out().items():
        if other not in taken and other not in arrays.variables:
            found.warnings.append(left_out(other, shape, why))
    return found


def _choose_cell(arrays: MatlabArrays, options: ReadOptions) -> tuple[str, str] | None:
    """Return the cell array that holds the spikes and the reason; None if plain arrays hold them."""
    mapping = options.mapping
    for role, wanted in (("spikes", mapping.spikes), ("spike_times", mapping.spike_times)):
        if isinstance(wanted, list):
            return None
        if wanted is not None:
            name = given(arrays.all_variables(), role, wanted, [])
            assert name is not None
            if name in arrays.cells:
                _refuse_other_cells(name, arrays.cells[name], f"/mapping/{role}")
                return name, "given in the mapping"
            return None
    kinds = {
        name: kind_of_cell(cell)
        for name, cell in arrays.cells.items()
        if name not in arrays.variables or re.search("spike|spk", base_name(name))
    }
    by_name = _named_cell(kinds)
    if named(arrays.variables, SPIKES[:5], lambda v: len(v.shape) in (2, 3) and v.is_numbers) is not None:
        return None
    free = {name: v for name, v in arrays.variables.items() if name not in arrays.cells}
    if named(free, SPIKE_TIMES, lambda v: len(v.shape) == 1 and v.is_numbers) is not None:
        return None
    if by_name is not None:
        same = [n for n, kind in kinds.items() if kind == "matrices" and base_name(n) == base_name(by_name)]
        if kinds[by_name] == "matrices" and len(same) > 1:
            _ambiguous(arrays, same)
        second = [
            n
            for n, kind in kinds.items()
            if kind in ("times", "nested") and base_name(n) == base_name(by_name)
        ]
        why = "it holds the spike times of a second recording; mapping.spike_times can name it"
        arrays.why_cell |= dict.fromkeys(second, why)
        return by_name, "by its name"
    if any(len(v.shape) == 3 and v.is_numbers for v in arrays.variables.values()):
        return None
    likely = [name for name, kind in kinds.items() if _is_likely(arrays, name, kind)]
    if len(likely) > 1:
        _ambiguous(arrays, likely)
    return (likely[0], "the only cell array that may hold spikes") if likely else None


def _named_cell(kinds: dict[str, str]) -> str | None:
    for names, wanted in ((_COUNTS, ("matrices",)), (_TIMES, ("times", "nested"))):
        for base in names:
            found = next((n for n, kind in kinds.items() if kind in wanted and base_name(n) == base), None)
            if found is not None:
                return found
    return None


def _is_likely(arrays: MatlabArrays, name: str, kind: str) -> bool:
    """Return whether a cell array may hold spikes though its name does not say so."""
    if kind in ("times", "nested"):
        return name not in arrays.variables
    if kind != "matrices":
        return False
    for item in arrays.cells[name].items[:20]:
        values = item.array() if isinstance(item, Numbers) else np.zeros(0)
        if not (np.isfinite(values).all() and (values >= 0).all() and (values == np.trunc(values)).all()):
            return False
    return True


def _ambiguous(arrays: MatlabArrays, likely: list[str]) -> NoReturn:
    variables = arrays.all_variables()
    said = f"The spikes may be in any of these cell arrays: {listed(described(name, variables[name]) for name in likely)}."
    hint = (
        "Name the one with spike times in mapping.spike_times, or the one with counts in mapping.spikes. To join the trials "
        "of several cell arrays of counts, name them in mapping.spikes as a list."
    )
    raise rejected("spikes_ambiguous", said, hint, "/mapping/spike_times")


def _refuse_other_cells(name: str, cell: Cell, pointer: str) -> None:
    if kind_of_cell(cell) in ("", "empty"):
        said = f"`{name}` is a cell array, of {listed(cell.shape)} cells, that holds neither vectors nor matrices of numbers."
        hint = (
            "Give a vector of spike times for each neuron (and trial), or a matrix of counts for each trial."
        )
        raise rejected("cells_not_spikes", said, hint, pointer)


def _read_counts(
    name: str, how: str, arrays: MatlabArrays, options: ReadOptions, budget: Budget
) -> Recording | SpikeTrains:
    understood: list[Understood] = []
    warning = pad_counts(name, arrays, options, understood, budget=budget, how=how)
    order = ["trial", "bin", "neuron"]  # the order that `pad_counts` gives
    mapping = options.mapping.model_copy(update={"spikes": name, "spike_times": None, "axes": order})
    found = read_arrays(arrays, options.model_copy(update={"mapping": mapping}))
    found.understood = understood + [one for one in found.understood if one.variable != name]
    found.warnings += [warning] if warning is not None else []
    return found


def _read_plain(arrays: MatlabArrays, options: ReadOptions) -> tuple[Recording | SpikeTrains, str]:
    """Read plain arrays; return the result and the name of the array of spikes."""
    found = read_arrays(arrays, options)
    spikes = next(one.variable for one in found.understood if one.what in ("spikes", "spike_times"))
    if isinstance(found, SpikeTrains) and found.trial_offset_s is None and not found.tables:
        beside = TimesBeside(spikes, arrays, options, found.understood)
        left = {warning.pointer.removeprefix("/") for warning in found.warnings}
        beside.columns = {name: number for name, number in beside.columns.items() if name in left}
        beside.take_tables_and_events(found)
        taken = {f"/{name[:100]}" for name in beside.used}
        found.warnings = [warning for warning in found.warnings if warning.pointer not in taken]
    return found, spikes


def _shorten_names(recording: Recording, spikes: str) -> None:
    """Shorten names within the struct of the spikes: `trial.direction` becomes `direction`."""
    groups: list[dict[str, Any]] = [recording.trial_metadata, recording.neuron_metadata, recording.behaviour]
    for group in groups:
        names = {name: short_name(name, spikes) for name in group}
        if len(set(names.values())) == len(names):
            items = {names[name]: value for name, value in group.items()}
            group.clear()
            group.update(items)
