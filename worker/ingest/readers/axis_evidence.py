"""Decide which axis of the spikes is that of trials, bins or neurons, from the lengths of the arrays beside them.

| evidence | says |
|---|---|
| a vector whose name tells what it is of, and whose length is that of one axis | which axis that is |
| evenly spaced times of the bins (`time`, `bin_centers`, `timestamps`, …) or of their edges | which axis is that of bins |
| `trial_length_bins` | which axes are too short for bins |
| a vector such as `depth` | which order to guess |
| a vector of another name | that its axis is not that of bins, and a doubt if it is that of neurons |
| a behaviour that shares two axes with the spikes | which order to guess, if the default is not possible |

An order that the evidence leaves open, contradicts or puts in doubt is a guess: it gives the warning `axes_guessed`. The default
order of three axes needs no warning in NPZ and HDF5 if nothing speaks against it, and no vector fits two axes of one length.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import Mapping as MappingOptions
from worker.ingest.bin_width import TIME_AXIS, is_even
from worker.ingest.problems import Problem, listed
from worker.ingest.readers.axes import refuse_wrong_axes
from worker.ingest.readers.axis_names import (
    Role,
    base_of,
    fits_bins,
    is_likely_of_neurons,
    is_of_bins,
    role_of,
)
from worker.ingest.readers.base import UNREADABLE
from worker.ingest.readers.choosing import (
    SPIKE_LIKE,
    SPIKES,
    ArrayFile,
    is_named,
    is_table_column,
    looks_like_counts,
)
from worker.ingest.readers.split_layout import SPLIT_WORDS, is_index, part_of, split_by_indices

Order = tuple[Role, ...]


@dataclass(frozen=True)
class Clue:
    """What one variable says: `role` is one of the axes `places`, counted from 0.

    Attributes
    ----------
    is_length
        Whether the axis has the length of the variable. Otherwise the variable only excludes other axes.
    """

    variable: str
    role: Role
    places: frozenset[int]
    is_length: bool = True

    def agrees(self, order: Order) -> bool:
        """Return whether an order of axes fits."""
        return self.role in order and order.index(self.role) in self.places


@dataclass(frozen=True)
class Decision:
    """The order of axes that was taken, why, and the warning if it is a guess."""

    axes: Order
    how: str
    warning: Problem | None = None


@dataclass
class Evidence:
    """What lies beside the spikes and may tell their axes.

    Attributes
    ----------
    spikes
        Name of the spikes, for messages and to know what lies in one group with them.
    shape
        Length of each axis that is to be told apart.
    clues
        What must hold.
    hints
        Vectors that only make an order more likely.
    behaviours
        Arrays that only make an order more likely, and less so than its being the default.
    unknown
        Vectors whose name does not tell what they are of, and the axes of their length.
    """

    spikes: str
    shape: tuple[int, ...]
    clues: list[Clue] = field(default_factory=list)
    hints: list[Clue] = field(default_factory=list)
    behaviours: list[Clue] = field(default_factory=list)
    unknown: dict[str, frozenset[int]] = field(default_factory=dict)

    def add_vectors(self, lengths: Mapping[str, int], known: Mapping[str, Role]) -> None:
        """Take in vectors.

        Parameters
        ----------
        lengths
            Name → number of values.
        known
            Roles that the request gives; these go before the names.
        """
        for name, length in lengths.items():
            places = self._places(length)
            role = known.get(name) or role_of(name, self.spikes)
            if not places or length < 2:
                continue
            if role is not None:
                self.clues.append(Clue(name, role, places))
            elif is_likely_of_neurons(name):
                self.hints.append(Clue(name, "neuron", places))
            else:
                self.unknown[name] = places

    def add_time_axis(self, name: str, length: int) -> None:
        """Take in a vector of evenly rising times: one for each bin, or one for each edge of a bin."""
        places = frozenset(place for place, bins in enumerate(self.shape) if fits_bins(name, length, bins))
        if places:
            self.clues.append(Clue(name, "bin", places))

    def add_longest_trial(self, name: str, bins: int) -> None:
        """Take in the length of the longest trial, which no axis of bins is shorter than."""
        places = frozenset(place for place, length in enumerate(self.shape) if length >= bins)
        if places and len(places) < len(self.shape):
            self.clues.append(Clue(name, "bin", places, is_length=False))

    def add_behaviour(self, name: str, shape: tuple[int, ...]) -> None:
        """Take in an array that has all axes of the spikes but one, which then is that of its components."""
        others = [place for place in range(len(shape)) if shape[place] != self.shape[place]]
        if len(others) == 1:
            self.behaviours.append(Clue(name, "neuron", frozenset(others)))

    def decide(self, orders: Sequence[Order], default_is_documented: bool) -> Decision:
        """Choose one of some orders.

        Parameters
        ----------
        orders
            All that are possible, the default first; where much is open, an earlier one is taken.
        default_is_documented
            Whether the default is taken without a warning where nothing speaks against it. Otherwise something must speak
            against the second order.
        """
        foreign = [clue.variable for clue in self.clues if clue.role not in orders[0]]
        self.clues = [clue for clue in self.clues if clue.role in orders[0]]
        possible = [order for order in orders if all(clue.agrees(order) for clue in self.clues)]
        contradictory = not possible
        if contradictory:
            agreeing = [self._agreeing(self.clues, order) for order in orders]
            possible = [order for order, n in zip(orders, agreeing, strict=True) if n == max(agreeing)]
        fewest = min(len(self._on_bins(order)) for order in possible)
        likely = [order for order in possible if len(self._on_bins(order)) == fewest]
        chosen = max(likely, key=lambda order: self._rank(order, orders[0]))
        if len(possible) == 1 and not contradictory and not foreign:
            return Decision(chosen, f"axes {said(chosen)} by the length of {self._told()}")
        why = (
            f"{self._told()} contradict each other"
            if contradictory
            else f"{self._told(foreign)} may be of trials, which it has no axis for"
            if foreign
            else self._doubt(chosen, possible)
        )
        needs_warning = not default_is_documented and orders[1] in likely
        if chosen == orders[0] and not needs_warning and not why:
            return Decision(chosen, "")
        others = [order for order in (orders if contradictory or foreign else possible) if order != chosen]
        why = why or self._ground(chosen, likely)
        return Decision(chosen, f"axes {said(chosen)} guessed", self._guessed(chosen, others, why))

    def _rank(self, order: Order, default: Order) -> tuple[int, bool, int]:
        """Return how likely an order is: a behaviour does not override the default order of three axes."""
        is_default = len(order) == 3 and order == default
        return self._agreeing(self.hints, order), is_default, self._agreeing(self.behaviours, order)

    def _places(self, length: int) -> frozenset[int]:
        return frozenset(place for place, found in enumerate(self.shape) if found == length)

    def _doubt(self, chosen: Order, possible: Sequence[Order]) -> str:
        """Return what puts an order in doubt although the clues allow it, for a sentence; empty if nothing does."""
        if doubted := self._doubted(chosen, possible):
            return f"{self._told(doubted)} may be of trials or of neurons"
        first = max(possible, key=lambda order: self._rank(order, possible[0]))
        if on_bins := self._on_bins(chosen) or self._on_bins(first):
            return f"{self._told(on_bins)} may be of trials or of neurons, but not of bins, which have no metadata"
        tied = [
            clue.variable
            for clue in self.clues
            if clue.is_length and len({order.index(clue.role) for order in possible}) > 1
        ]
        if tied:
            return f"the length of {self._told(tied)} fits more than one axis{self._led(chosen, possible)}"
        most = max(self._agreeing(self.behaviours, order) for order in possible)
        if self._agreeing(self.behaviours, chosen) < most:
            against = [clue.variable for clue in self.behaviours if not clue.agrees(chosen)]
            return f"{self._told(against)} would be a behaviour in another order"
        return ""

    def _ground(self, chosen: Order, likely: Sequence[Order]) -> str:
        """Return on what little an order was chosen that nothing puts in doubt, for a sentence."""
        led = self._led(chosen, likely)
        if self.clues:
            return f"the length of {self._told()} leaves more than one order open{led}"
        return f"no vector proves which axis is which{led}" if led else "nothing tells which axis is which"

    def _led(self, chosen: Order, likely: Sequence[Order]) -> str:
        hints = [
            hint
            for hint in (*self.hints, *self.behaviours)
            if hint.agrees(chosen) and not all(map(hint.agrees, likely))
        ]
        return f", but {self._told(hint.variable for hint in hints)} fits this order" if hints else ""

    @staticmethod
    def _agreeing(clues: Sequence[Clue], order: Order) -> int:
        return sum(clue.agrees(order) for clue in clues)

    def _on_bins(self, order: Order) -> list[str]:
        """Return vectors that can only be of bins in this order, though their names do not say so."""
        if "trial" not in order or "bin" not in order:  # a vector along a continuous recording is a behaviour
            return []
        vectors = {hint.variable: hint.places for hint in self.hints} | self.unknown
        bins = {order.index("bin")}
        return [name for name, places in vectors.items() if places == bins and not is_of_bins(name)]

    def _doubted(self, chosen: Order, possible: Sequence[Order]) -> list[str]:
        """Return vectors of unknown name that would be of trials if another possible order were right."""
        if "trial" not in chosen:
            return []
        return [
            name
            for name, places in self.unknown.items()
            if places == {chosen.index("neuron")}
            and any(order.index("trial") in places for order in possible)
        ]

    def _told(self, names: Iterable[str] = ()) -> str:
        return listed(
            f"`{name}`"
            for name in dict.fromkeys(names) or dict.fromkeys(clue.variable for clue in self.clues)
        )

    def _guessed(self, chosen: Order, others: Sequence[Order], why: str) -> Problem:
        lengths = ", ".join(f"{length} {role}s" for role, length in zip(chosen, self.shape, strict=True))
        message = (
            f"`{self.spikes}` has the axes {' × '.join(map(str, self.shape))}, and {why}: they were taken as {said(chosen)} "
            f"({lengths}). They may also be {' or '.join(map(said, others))}."
        )
        alternatives = " or ".join(map(as_option, others))
        hint = f"If this is wrong, give mapping.axes: {alternatives}. To confirm it: {as_option(chosen)}."
        return Problem("axes_guessed", message, hint, "/mapping/axes")


def said(order: Sequence[str]) -> str:
    """Return an order of axes for a sentence: `neurons × bins × trials`."""
    return " × ".join(f"{role}s" for role in order)


def as_option(order: Sequence[str]) -> str:
    """Return an order of axes as `mapping.axes` has it."""
    return "[" + ", ".join(f'"{role}"' for role in order) + "]"


def orders_of_counts(shape: tuple[int, ...], file_format: str) -> tuple[list[Order], bool]:
    """Return the possible orders of an array of counts, the default first, and whether the default needs no warning.

    In MATLAB, neurons × bins × trials is common, and so the default order of three axes is a guess.
    """
    if len(shape) == 3:
        found: list[Order] = [
            ("trial", "bin", "neuron"), ("neuron", "bin", "trial"), ("bin", "neuron", "trial"),
            ("trial", "neuron", "bin"), ("neuron", "trial", "bin"), ("bin", "trial", "neuron"),
        ]  # fmt: skip
        return found, file_format != "matlab"
    tall: list[Order] = [("bin", "neuron"), ("neuron", "bin")]
    # A recording has many times more bins than neurons; otherwise the longer axis is a guess.
    clear = max(shape) >= 4 * min(shape)
    return tall if shape[0] >= shape[1] else tall[::-1], clear


def owner_of_column(
    name: str, length: int, numbers: Mapping[Role, int], spikes: str, known: Mapping[str, Role]
) -> tuple[Role | None, bool]:
    """Return whose metadata a vector is, trials' or neurons' (or None), and whether that is a guess.

    Parameters
    ----------
    name, length
        Of the vector.
    numbers
        How many trials and neurons there are, and bins, which have no metadata.
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
    """Make the warning for a vector that may be of trials or of neurons."""
    message = f"`{name[:100]}` has {length} values, and more than one axis has this length. It was taken as metadata of {owner}s."
    other = "neuron" if owner == "trial" else "trial"
    hint = f"If this is wrong, name it in mapping.{other}_metadata; mapping.{owner}_metadata confirms it."
    return Problem("metadata_guessed", message, hint, f"/{name[:100]}")


def known_roles(mapping: MappingOptions, variables: Iterable[str]) -> dict[str, Role]:
    """Return the vectors of which the mapping says that they are of trials, or of neurons."""
    of_trials = [*(mapping.trial_metadata or ()), mapping.split or "", mapping.trial_length_bins or ""]
    roles: list[tuple[Role, Sequence[str]]] = [
        ("trial", of_trials),
        ("neuron", mapping.neuron_metadata or ()),
    ]
    known: dict[str, Role] = {name: "trial" for name in variables if is_table_column(name)}
    return known | {name: role for role, names in roles for name in variables if is_named(name, names)}


def decide_axes(file: ArrayFile, spikes: str, mapping: MappingOptions) -> Decision:
    """Decide the order of the axes of an array of counts: as the mapping says, else by what lies beside it."""
    shape = file.variables[spikes].shape
    refuse_wrong_axes(spikes, shape, mapping.axes)
    if mapping.axes is not None:
        return Decision(tuple(mapping.axes), "axes as given in the mapping")
    evidence = evidence_beside(file, spikes, shape, mapping)
    for trials in set(shape) if len(shape) == 3 else ():
        if (by_indices := split_by_indices(file, trials)) is not None:
            evidence.add_vectors({listed(by_indices[1]): trials}, {listed(by_indices[1]): "trial"})
    return evidence.decide(*orders_of_counts(shape, file.format))


def evidence_beside(
    file: ArrayFile, spikes: str, shape: tuple[int, ...], mapping: MappingOptions, apart: Container[str] = ()
) -> Evidence:
    """Collect what the arrays beside the spikes tell of axes of some lengths; those in `apart` tell nothing."""
    evidence, lengths = Evidence(spikes, shape), {}
    for name, variable in file.variables.items():
        length = variable.length
        may_be_times = any(fits_bins(name, length or 0, bins) for bins in shape)
        if name == spikes or name in apart or is_index(name) or of_other_recording(name, spikes, file.names):
            continue
        if may_be_times and read_time_axis(file, name, mapping) is not None:
            evidence.add_time_axis(name, variable.size)
        elif length is not None and variable.is_column:
            lengths[name] = length
            if variable.is_numbers and name in (mapping.trial_length_bins, "trial_length_bins"):
                evidence.add_longest_trial(name, int(np.nanmax(file.read(name), initial=0)))
        elif len(variable.shape) == len(shape) == 3 and _is_behaviour(file, name):
            evidence.add_behaviour(name, variable.shape)
    evidence.add_vectors(lengths, known_roles(mapping, file.variables))
    return evidence


def _is_behaviour(file: ArrayFile, name: str) -> bool:
    """Return whether an array may be a behaviour: floats that are neither called like spikes nor whole counts."""
    variable = file.variables[name]
    if variable.dtype.kind != "f" or not variable.is_numbers or SPIKE_LIKE.search(base_of(name)):
        return False
    try:
        return not looks_like_counts(file, name)
    except UNREADABLE:  # which is told when the array is left out
        return False


def read_time_axis(file: ArrayFile, name: str, mapping: MappingOptions) -> NDArray[Any] | None:
    """Read a vector if it is the time of each bin."""
    if not file.variables[name].is_numbers:
        return None
    is_given = mapping.time is not None and is_named(name, [mapping.time])
    if not is_given and TIME_AXIS.fullmatch(base_of(name)) is None:
        return None
    try:
        values = np.asarray(file.read(name)).reshape(-1)
    except UNREADABLE:  # which is told when the array is left out
        return None
    return values if is_given or is_even(values) else None


def of_other_recording(name: str, spikes: str, names: Iterable[str]) -> str | None:
    """Return why an array belongs to other spikes than those that were taken, or None.

    Parameters
    ----------
    name
        Of the array.
    spikes
        Of the spikes that were taken.
    names
        Of everything in the file.
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
    """Return whether an array holds whole counts, and is called like spikes or has as many components as there are neurons."""
    variable, own = file.variables[name], file.variables[spikes]
    if not variable.is_numbers or len(variable.shape) != len(own.shape):
        return False
    base, place = base_of(name), axes.index("neuron")
    is_alike = base == base_of(spikes) or base in SPIKES or SPIKE_LIKE.search(base) is not None
    return (is_alike or variable.shape[place] == own.shape[place]) and looks_like_counts(file, name)
