"""Recordings whose arrays exist once for each split (or other part)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import Mapping
from domain.errors import listed
from worker.ingest.counts import CountsBuilder
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.auxiliary_arrays import (
    bin_width_clues,
    is_other_spikes,
    known_roles,
    owner_guessed,
    owner_of_column,
)
from worker.ingest.readers.axes import Axes, refuse_wrong_axes
from worker.ingest.readers.axis_evidence import Clue, Decision, evidence_beside, orders_of_counts
from worker.ingest.readers.axis_names import Role, base_of
from worker.ingest.readers.base import (
    ReadOptions,
    left_out,
    metadata_values,
    name_is_usable,
    parse_trial_lengths,
    refuse_shape_of_spikes,
)
from worker.ingest.readers.split_layout import Layout
from worker.ingest.readers.splits import settle_split
from worker.ingest.readers.variables import OTHER_SPIKES, ArrayFile, Variable, is_named
from worker.ingest.recording import SPLIT_NOT_GIVEN, MetadataValue, Recording, Understood
from worker.ingest.rows import Rows, blocks, filled, zeros
from worker.ingest.true_rates import settle_width_and_rates

_TRUE_RATES = ("true_rates_hz", "truth", "rates", "true_rates")
_EXTERNAL_INPUTS = ("ext_input", "external_inputs")
_BEHAVIOUR_NAMES = {"lowd": "true_latents", "latent": "true_latents", "latents": "true_latents"}


def read_splits(
    file: ArrayFile, layout: Layout, options: ReadOptions, usual_width: tuple[str, float] | None = None
) -> Recording:
    """Read a file whose arrays exist once for each split.

    Parameters
    ----------
    file
        The file; the spikes of each split are trials × bins × neurons.
    layout
        The arrays that belong together, and the position of each trial.
    options
        Options of the request; its bin width takes precedence.
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
        source_format=file.format,
        understood=[
            Understood("spikes", name, f"{layout.how}; trials of {part}", file.variables[name].shape)
            for part, name in layout.spikes.items()
        ],
        notes=list(layout.notes),
        warnings=list(layout.warnings),
    )
    settle_split(recording)
    if layout.with_source:
        source: list[MetadataValue] = [None] * trials
        for part, rows in layout.rows.items():
            for row in rows.tolist():
                source[row] = layout.spikes[part]
        recording.trial_metadata["source"] = source
    beside = _Beside(file, layout, recording, options)
    beside.take_all(usual_width)
    return recording


def read_parts(file: ArrayFile, layout: Layout, options: ReadOptions) -> Recording:
    """Read spikes that lie in several arrays into one recording, with the arrays beside each.

    Parameters
    ----------
    file
        The file; axes may have any order, the same in all arrays.
    layout
        The layout; its spikes are known.
    options
        Options of the request; `mapping.axes` may give the order.
    """
    layout.sort(file.variables)
    decision = _axes_of_parts(file, layout, options.mapping)
    turned = _Turned(file, layout, Axes(decision.axes))
    if "train" in layout.spikes and layout.how == "by its name":
        layout.drop_unlike_training(turned.variables)
        layout.sort(file.variables)
    _refuse_unlike_splits(turned, layout)
    layout.place_trials(turned.variables, read_indices(turned, layout))
    recording = read_splits(turned, layout, options)
    recording.warnings += [decision.warning] if decision.warning is not None else []
    if decision.how:
        recording.notes.append(f"{decision.how[0].upper()}{decision.how[1:]}.")
    return recording


def _axes_of_parts(file: ArrayFile, layout: Layout, mapping: Mapping) -> Decision:
    """Decide the order of axes of all parts, from the first part and from the axis in which the parts differ."""
    part, spikes = next(iter(layout.spikes.items()))
    shapes = {
        file.variables[name].shape
        for one, name in layout.spikes.items()
        if one == part or layout.how != "by its name" or layout.splits[one] != SPLIT_NOT_GIVEN
    }
    shape = file.variables[spikes].shape
    refuse_wrong_axes(spikes, shape, mapping.axes)
    refuse_shape_of_spikes(spikes, shape, file.variables[spikes].dtype.kind)
    if len({len(one) for one in shapes}) > 1:
        raise RejectedFile(_not_alike(file, layout))
    if mapping.axes is not None:
        return Decision(tuple(mapping.axes), "axes as given in the mapping")
    others = {name for same in layout.names.values() for p, name in same.items() if p != part}
    evidence = evidence_beside(file, spikes, shape, mapping, others | set(layout.spikes.values()))
    if "inds" in layout.names and part in layout.names["inds"]:
        name = layout.names["inds"][part]
        evidence.add_vectors({name: file.variables[name].length or 0}, {name: "trial"})
    differing = [place for place in range(3) if len({one[place] for one in shapes}) > 1]
    # Splits have the same neurons. Recordings that the mapping lists may lack some: there, other clues are needed too.
    if len(differing) == 1 and (evidence.clues or layout.how == "by its name"):
        names = "` and `".join(layout.spikes.values())
        evidence.clues.append(Clue(names, "trial", frozenset(differing)))
    return evidence.decide(*orders_of_counts(shape, file.format))


class _Turned:
    """A file with the arrays of parts transposed to trials × bins × neurons (or components): an `ArrayFile`."""

    def __init__(self, file: ArrayFile, layout: Layout, axes: Axes) -> None:
        self._file, self._axes = file, axes
        self.format, self.numbers, self.names = file.format, file.numbers, file.names
        names = {*layout.spikes.values(), *(one for same in layout.names.values() for one in same.values())}
        self._names = {
            name
            for name in names
            if axes.names != ("trial", "bin", "neuron")
            and len(file.variables[name].shape) in (2, 3)
            and file.variables[name].is_numbers
            and file.variables[name].length is None
        }
        self.variables = {name: self._turned(name) for name in file.variables}

    def read(self, name: str) -> NDArray[Any]:
        """Read one array whole."""
        return np.asarray(self._rows(name)) if name in self._names else self._file.read(name)

    def blocks(self, name: str, item_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read one array by blocks of its first axis."""
        if name in self._names:
            return blocks(self._rows(name), item_bytes)
        return self._file.blocks(name, item_bytes)

    def _turned(self, name: str) -> Variable:
        variable = self._file.variables[name]
        if name not in self._names:
            return variable
        axes = self._axes.of_beside(variable.shape)
        return Variable(axes.canonical(variable.shape), variable.dtype)

    def _rows(self, name: str) -> Rows:
        variable = self._file.variables[name]
        axes = self._axes.of_beside(variable.shape)
        out = zeros(axes.as_stored(variable.shape), variable.dtype)
        for first, block in self._file.blocks(name, variable.dtype.itemsize):
            out[first : first + len(block)] = axes.block(block)
        return axes.arranged(out)


def read_indices(file: ArrayFile, layout: Layout) -> dict[str, NDArray[Any]]:
    """Read the position of each trial in the session (`train_inds` and so on) for the parts that have them."""
    names = layout.names.get("inds", {})
    usable = {
        part: name
        for part, name in names.items()
        if file.variables[name].is_numbers and file.variables[name].length is not None
    }
    return {part: np.asarray(file.read(name)).reshape(-1) for part, name in usable.items()}


def _refuse_unlike_splits(file: ArrayFile, layout: Layout) -> None:
    """Reject spikes that are not trials × bins × neurons, or have unequal bins or neurons in different splits."""
    shapes = {name: file.variables[name].shape for name in layout.spikes.values()}
    for name in layout.spikes.values():
        refuse_shape_of_spikes(name, shapes[name], file.variables[name].dtype.kind)
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise RejectedFile(_not_alike(file, layout))


def _not_alike(file: ArrayFile, layout: Layout) -> Problem:
    shapes = listed(f"`{name}` {file.variables[name].shape}" for name in layout.spikes.values())
    message = f"The arrays of counts do not fit together: {shapes}. Expected the same bins and neurons in all of them."
    hint = (
        "Give all trials the same bins and neurons, in the same order, or name one array with mapping.spikes. If trials are "
        'not the first axis, give mapping.axes, such as ["neuron", "bin", "trial"].'
    )
    return Problem("splits_differ", message, hint, f"/{[*layout.spikes.values()][-1]}")


def _read_spikes(file: ArrayFile, layout: Layout) -> Rows:
    _, bins, neurons = file.variables[next(iter(layout.spikes.values()))].shape
    builder = CountsBuilder((len(layout.split), bins, neurons))
    for part, name in layout.spikes.items():
        for first, block in file.blocks(name, file.variables[name].dtype.itemsize):
            builder.add(name, first, layout.rows[part][first : first + len(block)], block)
    return builder.finish()


class _Beside:
    """Reads everything beside the spikes into a recording."""

    def __init__(self, file: ArrayFile, layout: Layout, recording: Recording, options: ReadOptions) -> None:
        self._file, self._layout, self._recording = file, layout, recording
        self._mapping, self._options = options.mapping, options
        self._known = known_roles(options.mapping, file.variables)
        self._trials, self._bins, self._neurons = map(int, recording.spikes.shape)
        self._spikes = next(iter(layout.spikes.values()))

    def take_all(self, usual_width: tuple[str, float] | None) -> None:
        """Fill the recording; each step needs the ones before."""
        recording, names = self._recording, self._layout.names
        self._layout.used |= set(self._layout.spikes.values())
        if "trial_length_bins" in names:
            lengths = np.array(self._values("trial_length_bins"), np.float64)
            recording.trial_length_bins = parse_trial_lengths(lengths, "trial_length_bins", self._bins)
        self._settle_rates_and_bin_width(usual_width)
        inputs = next((n for n in names if base_of(n) in _EXTERNAL_INPUTS and self._per_bin(n)), None)
        if inputs is not None:
            recording.external_inputs = self._gather(inputs)
        for name in names:
            base = base_of(name)
            if base not in ("inds", "trial_length_bins", *_TRUE_RATES, *_EXTERNAL_INPUTS):
                self._take_other(name)
        for name in self._layout.beside:
            if name not in self._layout.used:
                self._take_beside(name)
        told = {one.pointer for one in recording.warnings if one.code == "array_left_out"}
        for name, variable in self._file.variables.items():
            if name not in self._layout.used and f"/{name[:100]}" not in told:
                why = self._layout.why_unused.get(name, self._why_unfit(variable))
                recording.warnings.append(left_out(name, variable.shape, why))

    def _why_unfit(self, variable: Variable) -> str:
        fitting = f"these trials, {self._bins} bins and {self._neurons} neurons"
        return f"its shape does not fit {fitting}, or its name or type cannot be used"

    def _settle_rates_and_bin_width(self, usual_width: tuple[str, float] | None) -> None:
        clues, used = bin_width_clues(self._file, self._layout.beside, self._recording, self._options)
        clues.usual = usual_width
        self._layout.used |= used
        found = {base_of(name): name for name in self._layout.names}
        base = next((found[name] for name in _TRUE_RATES if name in found), None)
        rates = None if base is None else self._true_rates(base)
        name = "" if base is None else next(iter(self._layout.names[base].values()))
        stated_hz = base is not None and base.endswith("_hz")
        settle_width_and_rates(self._recording, clues, rates, name, stated_hz)

    def _true_rates(self, name: str) -> Rows | None:
        """Read true rates; None, with a reason, if their shape differs or a split has none."""
        missing = [split for split in self._layout.spikes if split not in self._layout.names[name]]
        for full_name in self._layout.names[name].values():
            shape = self._file.variables[full_name].shape
            if shape[1:] != (self._bins, self._neurons):
                why = f"true rates must have {self._bins} bins and {self._neurons} neurons, as the spikes"
            elif missing:
                why = f"there are no true rates for {listed(missing)} trials"
            else:
                continue
            self._layout.why_unused |= dict.fromkeys(self._layout.names[name].values(), why)
            return None
        return self._gather(name)

    def _take_other(self, name: str) -> None:
        """Add an array of all parts as behaviour or metadata by its shape, or record why not."""
        recording, base = self._recording, base_of(name)
        own_name = _BEHAVIOUR_NAMES.get(base, name)
        own_name = name if own_name in recording.behaviour else own_name
        if not name_is_usable(own_name):
            return
        if self._per_trial(name):
            if self._is_wanted("trial_metadata", name):
                recording.trial_metadata[own_name] = self._values(name)
        elif self._per_bin(name) and self._is_wanted("behaviour", name) and not self._is_other_spikes(name):
            recording.behaviour[own_name] = self._gather(name)

    def _is_other_spikes(self, name: str) -> bool:
        """Return whether an array looks like spikes of another recording and the mapping does not name it as behaviour."""
        full_names, axes = self._layout.names[name].values(), ("trial", "bin", "neuron")
        found = [one for one in full_names if is_other_spikes(self._file, one, self._spikes, axes)]
        self._layout.why_unused |= dict.fromkeys(found, OTHER_SPIKES)
        return bool(found) and not any(
            is_named(n, self._mapping.behaviour or ()) for n in (name, *full_names)
        )

    def _is_wanted(self, role: str, name: str) -> bool:
        """Return whether the mapping names an array (with or without its split) or has no list for the role."""
        wanted, full_names = getattr(self._mapping, role), self._layout.names[name].values()
        if wanted is None or any(is_named(one, wanted) for one in (name, *full_names)):
            return True
        self._layout.why_unused |= dict.fromkeys(full_names, f"mapping.{role} does not name it")
        return False

    def _take_beside(self, name: str) -> None:
        """Add an array without a split in its name as metadata of neurons, or record why not."""
        variable, own_name = self._file.variables[name], name.replace("/", ".")
        numbers: dict[Role, int] = {"neuron": self._neurons, "bin": self._bins}
        owner, is_guess = None, False
        if variable.is_column:
            owner, is_guess = owner_of_column(name, variable.size, numbers, self._spikes, self._known)
        wanted = self._mapping.neuron_metadata
        why = "its name has no split, and it does not have one value for each neuron"
        if owner == "neuron" and name_is_usable(own_name):
            if wanted is None or is_named(name, wanted):
                values = metadata_values(np.asarray(self._file.read(name)).reshape(-1))
                self._recording.neuron_metadata[own_name] = values
                self._recording.warnings += [owner_guessed(name, owner, variable.size)] if is_guess else []
                self._layout.used.add(name)
                return
            why = "mapping.neuron_metadata does not name it"
        self._layout.why_unused.setdefault(name, why)

    def _per_bin(self, name: str) -> bool:
        """Return whether `name` is trials × bins (× k) numbers in each split that has it, with one k."""
        variables = self._variables(name).values()
        fits = all(
            len(variable.shape) in (2, 3) and variable.shape[1] == self._bins and variable.is_numbers
            for variable in variables
        )
        return fits and self._has_all_trials(name) and len({v.shape[2:] for v in variables}) == 1

    def _per_trial(self, name: str) -> bool:
        parts = self._layout.names[name]
        return all(
            variable.is_column and variable.size == len(self._layout.rows[part])
            for part, variable in zip(parts, self._variables(name).values(), strict=True)
        )

    def _has_all_trials(self, name: str) -> bool:
        parts = self._layout.names[name]
        return all(
            self._file.variables[full].shape[0] == len(self._layout.rows[part])
            for part, full in parts.items()
        )

    def _variables(self, name: str) -> dict[str, Variable]:
        return {full: self._file.variables[full] for full in self._layout.names[name].values()}

    def _gather(self, name: str) -> Rows:
        """Read an array in the original order of trials: float32 [trials, bins, k]; NaN for splits without it."""
        width = max((*variable.shape, 1)[2] for variable in self._variables(name).values())
        gathered = filled((self._trials, self._bins, width), np.float32, np.nan)
        with np.errstate(over="ignore"):
            for part, full_name in self._layout.names[name].items():
                for first, block in self._file.blocks(full_name, 8):
                    rows = self._layout.rows[part][first : first + len(block)]
                    gathered[rows] = block.reshape(len(block), self._bins, width).astype(np.float32)
        self._warn_of_missing_splits(name)
        return gathered

    def _values(self, name: str) -> list[MetadataValue]:
        """Read one value for each trial in the original order; None for splits without it."""
        values: list[MetadataValue] = [None] * self._trials
        for part, full_name in self._layout.names[name].items():
            rows, variable = self._layout.rows[part], self._file.variables[full_name]
            if not variable.is_column or variable.size != len(rows):
                message = f"`{full_name}` has shape {variable.shape}: expected one value for each of {len(rows)} trials."
                hint = "Check how it was written."
                raise rejected("array_wrong_shape", message, hint, f"/{full_name}")
            found = metadata_values(np.asarray(self._file.read(full_name)).reshape(-1))
            for row, value in zip(rows.tolist(), found, strict=True):
                values[row] = value
        self._warn_of_missing_splits(name)
        return values

    def _warn_of_missing_splits(self, name: str) -> None:
        present = self._layout.names[name]
        self._layout.used |= set(present.values())
        for split in self._layout.spikes:
            if split not in present:
                message = f"There is `{listed(present.values())}` but no `{split}_{name}`: its trials have no values there."
                hint = "Give it for every split, if you have it."
                warning = Problem("array_missing_in_split", message, hint, f"/{split}_{name}")
                self._recording.warnings.append(warning)
