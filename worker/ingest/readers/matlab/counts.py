"""Counts in MATLAB cell arrays: one matrix for each trial, perhaps of unequal length, padded to one array."""

from typing import Any

import numpy as np

from worker.ingest.counts import CountsBuilder
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.readers.axis_evidence import Order, evidence_beside
from worker.ingest.readers.axis_names import base_of
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.matlab.leaves import MatlabArrays
from worker.ingest.readers.matlab.tree import Budget, Cell, Numbers
from worker.ingest.readers.variables import OTHER_SPIKES, SPIKE_LIKE, are_counts, is_named
from worker.ingest.recording import Understood
from worker.ingest.rows import filled

_LENGTHS = "trial_length_bins"


def pad_counts(
    name: str,
    arrays: MatlabArrays,
    options: ReadOptions,
    understood: list[Understood],
    *,
    budget: Budget,
    how: str,
) -> Problem | None:
    """Replace a cell array of matrices by an array of trials × bins × neurons; add trial lengths and behaviours.

    Parameters
    ----------
    name
        Name of the cell array, and of the array that replaces it.
    arrays
        Everything in the file.
    options
        `mapping.axes` may give the order of axes of a matrix.
    understood
        Gets an entry for the cell array, with the reason `how`.
    budget
        Limits the size of the padded arrays.

    Returns
    -------
    warning
        If the order of axes is a guess.
    """
    cell = arrays.cells.pop(name)
    matrices = [item if isinstance(item, Numbers) else None for item in cell.items]
    shapes = [
        (0, 0) if item is None or not item.size else (item.shape[0], item.shape[1]) for item in matrices
    ]
    bins_first, reason, warning = _bins_first(name, shapes, arrays, options)
    lengths = np.array([shape[0 if bins_first else 1] for shape in shapes], np.int64)
    neurons = max(shape[1 if bins_first else 0] for shape in shapes)
    trials, bins = len(shapes), int(lengths.max())
    budget.expand(trials * bins * neurons)
    builder = CountsBuilder((trials, bins, neurons))
    for trial, numbers in enumerate(matrices):
        block = np.zeros((1, bins, neurons), numbers.dtype if numbers else np.uint8)
        if numbers is not None and numbers.size:
            values = numbers.array()
            block[0, : lengths[trial]] = values if bins_first else values.T
        builder.add(name, trial, np.array([trial]), block)
    arrays.put(name, builder.finish())
    if (lengths != bins).any() and options.mapping.trial_length_bins is None:
        arrays.put(_LENGTHS, lengths)
    order = "bins × neurons" if bins_first else "neurons × bins"
    understood.append(
        Understood("spikes", name, f"{how}; a matrix of {order} for each trial, {reason}", cell.shape)
    )
    for other in [other for other, beside in arrays.cells.items() if len(beside.items) == trials]:
        is_behaviour = is_named(other, options.mapping.behaviour or ())
        if is_behaviour or not _is_other_spikes(other, arrays.cells[other], name, neurons):
            _pad_behaviour(other, arrays, lengths, budget)
        else:
            arrays.why_cell[other] = OTHER_SPIKES
    return warning


def _bins_first(
    name: str, shapes: list[tuple[int, int]], arrays: MatlabArrays, options: ReadOptions
) -> tuple[bool, str, Problem | None]:
    """Return whether matrices are bins × neurons, why, and a warning if that is a guess."""
    given = [axis for axis in options.mapping.axes or () if axis != "trial"]
    heights = {height for height, width in shapes if height and width}
    widths = {width for height, width in shapes if height and width}
    if len(given) == 2:
        first = given[0] == "bin"
        if len(widths if first else heights) > 1:
            raise RejectedFile(_ragged(name, heights, widths))
        return first, "as given in the mapping", None
    if len(heights) > 1 and len(widths) > 1:
        raise RejectedFile(_ragged(name, heights, widths))
    if len(heights) != len(widths):
        return len(widths) == 1, "the length that all trials share is that of neurons", None
    height, width = heights.pop(), widths.pop()
    default: Order = ("bin", "neuron") if height >= width else ("neuron", "bin")
    evidence = evidence_beside(arrays, name, (height, width), options.mapping)
    # Matrices have no axis of trials: a vector of as many values as there are trials tells nothing of them.
    evidence.clues = [clue for clue in evidence.clues if clue.role != "trial"]
    decision = evidence.decide([default, default[::-1]], default_is_documented=False)
    return decision.axes[0] == "bin", decision.how, decision.warning


def _ragged(name: str, heights: set[int], widths: set[int]) -> Problem:
    said = (
        f"The matrices in `{name}` have {min(heights)} to {max(heights)} rows and {min(widths)} to {max(widths)} columns: "
        "expected one number of neurons in all trials."
    )
    return Problem("counts_ragged_neurons", said, "Give every trial the same neurons.", f"/{name}")


def _is_other_spikes(name: str, cell: Cell, spikes: str, neurons: int) -> bool:
    """Return whether matrices are whole counts that are named like spikes, or have as many rows or columns as neurons."""
    items = [item for item in cell.items if isinstance(item, Numbers) and item.size]
    alike = base_of(name) == base_of(spikes) or SPIKE_LIKE.search(base_of(name)) is not None
    if not items or not (alike or all(neurons in item.shape for item in items)):
        return False
    return all(are_counts(item.array()) for item in items[:20])


def _pad_behaviour(name: str, arrays: MatlabArrays, lengths: np.ndarray[Any, Any], budget: Budget) -> None:
    """Replace a cell array of signals with one sample for each bin by one array; NaN after a trial's end."""
    cell: Cell = arrays.cells[name]
    if name in arrays.variables or not all(
        isinstance(item, Numbers) and len(item.shape) == 2 for item in cell.items
    ):
        return
    items = [item for item in cell.items if isinstance(item, Numbers)]
    for turn in (0, 1):
        widths = {item.shape[1 - turn] for item in items}
        if len(widths) == 1 and all(
            item.shape[turn] == length for item, length in zip(items, lengths, strict=True)
        ):
            shape = (len(items), int(lengths.max()), widths.pop())
            budget.expand(4 * shape[0] * shape[1] * shape[2])
            out = filled(shape, np.float32, np.nan)
            for trial, item in enumerate(items):
                row = np.full((1, *shape[1:]), np.nan, np.float32)
                values = item.array()
                with np.errstate(over="ignore"):
                    row[0, : lengths[trial]] = values.T if turn else values
                out[trial : trial + 1] = row
            del arrays.cells[name]
            arrays.put(name, out)
            return
