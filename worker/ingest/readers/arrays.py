"""Files of named arrays: NPZ, HDF5 of any layout, MATLAB. docs/file-formats.md says what each array becomes."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import Mapping
from domain.errors import listed
from worker.ingest.counts import CountsBuilder
from worker.ingest.problems import Gatherer, Problem, RejectedFile, rejected
from worker.ingest.readers.auxiliary_arrays import (
    bin_width_clues,
    is_other_spikes,
    known_roles,
    of_other_recording,
    owner_guessed,
    owner_of_column,
)
from worker.ingest.readers.axes import Axes
from worker.ingest.readers.axis_evidence import as_option, decide_axes, said
from worker.ingest.readers.axis_names import Role, base_of
from worker.ingest.readers.base import (
    UNREADABLE,
    ReadOptions,
    left_out,
    metadata_values,
    name_is_usable,
    parse_trial_lengths,
    refuse_empty,
    refuse_text_for_spikes,
    why_unreadable,
)
from worker.ingest.readers.spike_time_arrays import read_flat_spikes
from worker.ingest.readers.split_arrays import read_parts
from worker.ingest.readers.split_layout import (
    SPLIT_WORDS,
    Layout,
    is_index,
    part_of,
    parts_by_name,
    parts_given,
    split_by_indices,
)
from worker.ingest.readers.splits import parse_split, settle_split
from worker.ingest.readers.variables import (
    OTHER_SPIKES,
    SPIKES,
    ArrayFile,
    Variable,
    choose,
    described,
    given,
    is_named,
    looks_like_counts,
    named,
    own_name,
)
from worker.ingest.recording import SPLIT_NOT_GIVEN, Recording, Understood
from worker.ingest.rows import Rows, zeros
from worker.ingest.spike_trains import SpikeTrains
from worker.ingest.true_rates import settle_width_and_rates

SPIKE_TIMES = (
    "spike_times", "spike_times_s", "spiketimes", "spike_times_ms", "spike_times_us", "spike_times_samples", "spike_time",
    "spike_timestamps",
)  # fmt: skip
_TRUE_RATES = ("true_rates_hz", "true_rates", "truth", "rates", "rate", "lambda")
_EXTERNAL_INPUTS = ("external_inputs", "ext_input")


def read_arrays(file: ArrayFile, options: ReadOptions) -> Recording | SpikeTrains:
    """Read counts or spike times from a file of named arrays.

    Raises
    ------
    RejectedFile
        If there are neither counts nor spike times, the choice is ambiguous, or arrays do not fit together.
    """
    understood: list[Understood] = []
    times = _spike_times(file, options, understood)
    if times is not None:
        return read_flat_spikes(file, times, options, understood)
    layout = _parts(file, options.mapping)
    if layout is not None:
        return read_parts(file, layout, options)
    return _Counts(file, _spike_counts(file, options, understood), options, understood).recording()


def _parts(file: ArrayFile, mapping: Mapping) -> Layout | None:
    """Return the arrays that together hold one recording: those that the mapping lists, else those named by a split."""
    if isinstance(mapping.spikes, list):
        names = [given(file.variables, "spikes", name, []) for name in mapping.spikes]
        return parts_given([name for name in names if name is not None])
    whole = [
        name
        for name, v in file.variables.items()
        if len(v.shape) == 3 and base_of(name) in SPIKES[:5] and part_of(name, SPLIT_WORDS) is None
    ]
    if mapping.spikes is not None or whole:
        return None

    def is_counts(name: str) -> bool:
        variable = file.variables[name]
        return len(variable.shape) == 3 and variable.is_numbers and looks_like_counts(file, name)

    return parts_by_name(file.variables, is_counts)


def _spike_times(file: ArrayFile, options: ReadOptions, understood: list[Understood]) -> str | None:
    mapping = options.mapping
    if mapping.spikes is not None:
        return None
    found = given(file.variables, "spike_times", mapping.spike_times, understood)
    if found is None and named(file.variables, SPIKES[:5], lambda v: len(v.shape) in (2, 3)) is None:
        return choose(
            file.variables, "spike_times", None, SPIKE_TIMES, understood, fits=lambda v: len(v.shape) == 1
        )
    return found


def _spike_counts(file: ArrayFile, options: ReadOptions, understood: list[Understood]) -> str:
    variables = file.variables
    wanted = options.mapping.spikes
    found = None if isinstance(wanted, list) else given(variables, "spikes", wanted, understood)
    if found is not None:
        return found
    three_axes = {name: v for name, v in variables.items() if len(v.shape) == 3 and v.is_numbers}
    whole = {name for name, v in three_axes.items() if v.dtype.kind in "bui"}
    if not whole:
        whole = {name for name in three_axes if looks_like_counts(file, name)}
    by_name = named(variables, SPIKES, lambda v: len(v.shape) in (2, 3)) or named(variables, SPIKES[:4])
    bases = {base_of(by_name)} if by_name is not None else set()
    alike = {name for name in three_axes if base_of(name) in bases and looks_like_counts(file, name)}
    if (by_name is None and len(whole) > 1) or len(alike) > 1:
        names = sorted(alike or whole)
        told = listed(described(name, variables[name]) for name in names)
        message = f"The spike counts may be any of {told}."
        hint = f"Name one with mapping.spikes. To join the trials of several, give a list: {json.dumps(names[:4])}."
        raise rejected("spikes_ambiguous", message, hint, "/mapping/spikes")
    chosen = by_name or next(iter(whole), None)
    if chosen is None:
        raise RejectedFile(_no_spikes(file, three_axes))
    how = "by its name" if by_name else "the only array of whole numbers with three axes"
    others = tuple(described(name, v) for name, v in three_axes.items() if name != chosen)
    understood.append(Understood("spikes", chosen, how, variables[chosen].shape, others))
    return chosen


def _no_spikes(file: ArrayFile, three_axes: dict[str, Variable]) -> Problem:
    seen = listed((described(*item) for item in file.variables.items()), 30)
    said = f"There is no array `spikes` (trials × bins × neurons) in the file, nor spike times. It holds: {seen}."
    hint = "Name the counts with mapping.spikes, or the times with mapping.spike_times and mapping.neuron."
    if three_axes:
        hint += f" Is it {listed(three_axes)}?"
    return Problem("spikes_missing", said, hint, "/spikes")


class _Counts:
    """Reads counts and the arrays beside them into a recording."""

    def __init__(
        self, file: ArrayFile, spikes: str, options: ReadOptions, understood: list[Understood]
    ) -> None:
        self._file, self._options, self._understood = file, options, understood
        self._spikes = spikes
        variable = file.variables[spikes]
        refuse_text_for_spikes(spikes, variable.dtype.kind)
        refuse_empty(spikes, variable.shape)
        self._known = known_roles(options.mapping, file.variables)
        self._decision = decide_axes(file, spikes, options.mapping)
        self._axes = Axes(self._decision.axes)
        self._shape = self._axes.canonical(variable.shape)
        self._used = {spikes}

    def recording(self) -> Recording:
        """Read everything; each step needs the ones before."""
        trials, bins, _ = self._shape
        lengths = self._role("trial_length_bins", self._options.mapping.trial_length_bins)
        split = self._role("split", self._options.mapping.split)
        problems = Gatherer()
        with problems:
            self._refuse_wrong_lengths(lengths, split)
        has_right_shapes = not problems.problems
        if self._decision.how:
            self._understood[:] = [
                replace(one, how=f"{one.how}; {self._decision.how}") if one.what == "spikes" else one
                for one in self._understood
            ]
        recording = Recording(
            spikes=zeros(self._shape, np.uint8),
            bin_width_s=float("nan"),
            trial_length_bins=np.full(trials, bins, np.int64),
            split=np.full(trials, SPLIT_NOT_GIVEN, np.int8),
            is_continuous=self._axes.is_continuous,
            source_format=self._file.format,
            understood=self._understood,
            warnings=[self._decision.warning] if self._decision.warning is not None else [],
        )
        with problems:
            recording.spikes = self._read_counts()
        is_counted = not problems.problems
        if lengths is not None and has_right_shapes:
            with problems:
                recording.trial_length_bins = parse_trial_lengths(self._column(lengths), lengths, bins)
        if split is not None and has_right_shapes:
            with problems:
                values = metadata_values(self._column(split))
                recording.split = parse_split(values, split, self._options, recording.warnings)
                settle_split(recording)
        elif split is None and (by_indices := split_by_indices(self._file, trials)) is not None:
            with problems:
                recording.split, names = by_indices
                self._used |= set(names)
                recording.notes.append(f"The split was read from {listed(names)}.")
                settle_split(recording)
        with problems:
            # Without counts, true rates cannot tell the bin width: it may not be missing.
            if is_counted or self._true_rates_name() is None:
                self._settle_rates_and_bin_width(recording)
        with problems:
            inputs = self._role("external_inputs", self._options.mapping.external_inputs, _EXTERNAL_INPUTS)
            if inputs is not None and has_right_shapes:
                recording.external_inputs = self._per_bin(inputs)
        with problems:
            self._take_others(recording, problems)
        problems.refuse()
        return recording

    def _column(self, name: str) -> NDArray[Any]:
        return np.asarray(self._file.read(name)).reshape(-1)

    def _role(self, role: str, mapped: str | None, names: tuple[str, ...] | None = None) -> str | None:
        found = choose(self._file.variables, role, mapped, names or (role,), self._understood)
        if found is not None:
            self._used.add(found)
        return found

    def _refuse_wrong_lengths(self, *one_value_a_trial: str | None) -> None:
        """Reject arrays whose meaning is fixed by their name and whose shape does not fit the spikes."""
        trials, _, _ = self._shape
        rates = named(self._file.variables, _TRUE_RATES[:2])
        inputs = named(self._file.variables, _EXTERNAL_INPUTS)
        problems = []
        for name in one_value_a_trial:
            if name is not None and self._file.variables[name].length != trials:
                problems.append(self._wrong_shape(name, ("trial",)))
        if rates is not None and not self._fits(rates, exact=True):
            problems.append(self._wrong_shape(rates, self._axes.names))
        if inputs is not None and not self._fits(inputs):
            problems.append(self._wrong_shape(inputs, self._axes.names, components=True))
        if problems:
            raise RejectedFile(problems)

    def _wrong_shape(self, name: str, wanted: tuple[str, ...], components: bool = False) -> Problem:
        """Return the problem of an array that does not fit the spikes; axes are named in the order of the file."""
        variable, spikes = self._file.variables[name], self._file.variables[self._spikes].shape
        lengths: dict[str, Any] = dict(zip(self._axes.names, spikes, strict=True))
        lengths |= {"neuron": "k"} if components else {}
        expected = ", ".join(str(lengths.get(role, self._shape[0])) for role in wanted)
        message = (
            f"`{name}` has shape {variable.shape}: expected ({expected}{',' if len(wanted) == 1 else ''}), to go with "
            f"`{self._spikes}` of shape {spikes}, read as {said(self._axes.names)}."
        )
        hint = f"The axes of all arrays must come in the order of `{self._spikes}`: {said(self._axes.names)}."
        if variable.length in self._shape[1:] and "trial" in self._axes.names:
            other = list(self._axes.names)  # the order in which this array would fit
            here, there = other.index(wanted[0]), spikes.index(variable.size)
            other[here], other[there] = other[there], other[here]
            hint = (
                f"Another axis of `{self._spikes}` has this length. If its axes are {said(other)}, give mapping.axes: "
                f"{as_option(other)}."
            )
        return Problem("array_wrong_shape", message, hint, f"/{name}")

    def _read_counts(self) -> Rows:
        file, name = self._file, self._spikes
        shape = self._axes.as_stored(file.variables[name].shape)
        builder = CountsBuilder(shape)
        for first, block in file.blocks(name, file.variables[name].dtype.itemsize):
            builder.add(name, first, np.arange(first, first + len(block)), self._axes.block(block))
        return self._axes.arranged(builder.finish())

    def _settle_rates_and_bin_width(self, recording: Recording) -> None:
        clues, used = bin_width_clues(self._file, self._file.variables, recording, self._options)
        self._used |= used
        name = self._true_rates_name()
        rates = None if name is None else self._per_bin(name)
        self._used |= {name} if name is not None else set()
        stated_hz = name is not None and name.endswith("_hz")
        settle_width_and_rates(recording, clues, rates, name or "", stated_hz)

    def _true_rates_name(self) -> str | None:
        mapped = given(self._file.variables, "true_rates", self._options.mapping.true_rates, self._understood)
        if mapped is not None and not self._fits(mapped, exact=True):
            raise RejectedFile(self._wrong_shape(mapped, self._axes.names))
        if mapped is not None:
            return mapped
        fits = {
            name: v
            for name, v in self._file.variables.items()
            if v.is_numbers and self._fits(name, exact=True)
        }
        return choose(fits, "true_rates", None, _TRUE_RATES, self._understood)

    def _fits(self, name: str, exact: bool = False) -> bool:
        """Return whether an array has the trials and bins of the spikes; with `exact` also the neurons."""
        return self._axes.fits(self._file.variables[name].shape, self._shape, exact)

    def _per_bin(self, name: str) -> Rows:
        """Read an array as float32 [trials, bins, k]; k is 1 for an array of trials × bins."""
        variable = self._file.variables[name]
        if not variable.is_numbers:
            said = f"`{name}` does not hold numbers, but {variable.dtype}."
            raise rejected("array_not_numbers", said, "Give integers or floats.", f"/{name}")
        axes = self._axes.of_beside(variable.shape)
        out = zeros(axes.as_stored(variable.shape), np.float32)
        with np.errstate(over="ignore"):
            for first, block in self._file.blocks(name, 8):
                out[first : first + len(block)] = axes.block(block).astype(np.float32)
        return axes.arranged(out)

    def _take_others(self, recording: Recording, problems: Gatherer) -> None:
        mapping = self._options.mapping
        for role in ("behaviour", "trial_metadata", "neuron_metadata"):
            for name in getattr(mapping, role) or ():
                with problems:
                    given(self._file.variables, role, name, [])
        problems.refuse()
        for name in self._file.variables:
            if name not in self._used:
                try:
                    self._take_other(name, recording)
                except UNREADABLE as error:
                    shape = self._file.variables[name].shape
                    recording.warnings.append(left_out(name, shape, why_unreadable(error)))

    def _take_other(self, name: str, recording: Recording) -> None:
        """Add an array as metadata or behaviour by its shape, or warn that it was left out."""
        variable, called = self._file.variables[name], own_name(name)
        trials, bins, neurons = self._shape
        numbers: dict[Role, int] = {"trial": trials, "neuron": neurons, "bin": bins}
        if recording.is_continuous:
            del numbers["trial"]
        owner, is_guess = None, False
        if variable.is_column and not is_index(name):
            owner, is_guess = owner_of_column(name, variable.size, numbers, self._spikes, self._known)
        role = f"{owner}_metadata" if owner is not None else "behaviour"
        wanted = getattr(self._options.mapping, role)
        if not name_is_usable(called):
            why = "its name cannot be used"
        elif owner is None and not is_named(name, wanted or ()) and self._is_other_spikes(name):
            why = OTHER_SPIKES
        elif (other := of_other_recording(name, self._spikes, self._file.names)) and not is_named(
            name, wanted or ()
        ):
            why = other
        elif owner is None and not (variable.is_numbers and self._fits(name)):
            why = self._why_unfit(variable)
        elif wanted is not None and not is_named(name, wanted):
            why = f"mapping.{role} does not name it"
        else:
            self._take_as(role, name, is_guess, recording)
            return
        recording.warnings.append(left_out(name, variable.shape, why))

    def _take_as(self, role: str, name: str, is_guess: bool, recording: Recording) -> None:
        """Add an array as `behaviour`, `trial_metadata` or `neuron_metadata`."""
        if getattr(self._options.mapping, role) is not None:
            shape = self._file.variables[name].shape
            self._understood.append(Understood(role, name, "given in the mapping", shape))
        if role == "behaviour":
            recording.behaviour[own_name(name)] = self._per_bin(name)
            return
        values = metadata_values(self._column(name))
        owner: Role = "trial" if role == "trial_metadata" else "neuron"
        (recording.trial_metadata if owner == "trial" else recording.neuron_metadata)[own_name(name)] = values
        recording.warnings += [owner_guessed(name, owner, len(values))] if is_guess else []

    def _is_other_spikes(self, name: str) -> bool:
        return is_other_spikes(self._file, name, self._spikes, self._axes.names)

    def _why_unfit(self, variable: Variable) -> str:
        trials, bins, neurons = self._shape
        if variable.shape[:1] == (trials,) and not variable.is_numbers:
            return f"it is empty, or its values are of a type that is not read ({variable.dtype})"
        return f"its shape does not fit {trials} trials, {bins} bins and {neurons} neurons"
