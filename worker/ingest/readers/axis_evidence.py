"""Decide which axis of the spikes is that of trials, bins or neurons, from the lengths of the arrays beside them.

docs/data.md has the rules under "Which axis is which". A guess gives the warning `axes_guessed`.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from domain.dataset_options import Mapping as MappingOptions
from domain.errors import listed
from worker.ingest.problems import Problem
from worker.ingest.readers.auxiliary_arrays import known_roles, of_other_recording, read_time_axis
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
from worker.ingest.readers.split_layout import is_index, split_by_indices
from worker.ingest.readers.variables import (
    SPIKE_LIKE,
    ArrayFile,
    looks_like_counts,
)

Order = tuple[Role, ...]


@dataclass(frozen=True)
class Clue:
    """Evidence of one variable: the axis `role` is one of `places`, counted from 0.

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
    """The chosen order of axes, the reason, and a warning if it is a guess."""

    axes: Order
    how: str
    warning: Problem | None = None


@dataclass
class Evidence:
    """Arrays beside the spikes that may tell the order of their axes.

    Attributes
    ----------
    spikes
        Name of the spikes, for messages and to find arrays of the same group.
    shape
        Length of each axis.
    clues
        Evidence that must hold.
    hints
        Vectors that only make an order more likely.
    behaviours
        Arrays that only make an order more likely, with less weight than the default order.
    unknown
        Vectors whose name does not tell their axis, and the axes of their length.
    """

    spikes: str
    shape: tuple[int, ...]
    clues: list[Clue] = field(default_factory=list)
    hints: list[Clue] = field(default_factory=list)
    behaviours: list[Clue] = field(default_factory=list)
    unknown: dict[str, frozenset[int]] = field(default_factory=dict)

    def add_vectors(self, lengths: Mapping[str, int], known: Mapping[str, Role]) -> None:
        """Add vectors.

        Parameters
        ----------
        lengths
            Name → number of values.
        known
            Roles from the request; these take precedence over names.
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
        """Add a vector of evenly spaced times: one for each bin, or for each edge of a bin."""
        places = frozenset(place for place, bins in enumerate(self.shape) if fits_bins(name, length, bins))
        if places:
            self.clues.append(Clue(name, "bin", places))

    def add_longest_trial(self, name: str, bins: int) -> None:
        """Add the length of the longest trial: the axis of bins is not shorter."""
        places = frozenset(place for place, length in enumerate(self.shape) if length >= bins)
        if places and len(places) < len(self.shape):
            self.clues.append(Clue(name, "bin", places, is_length=False))

    def add_behaviour(self, name: str, shape: tuple[int, ...]) -> None:
        """Add an array that differs from the spikes in one axis: that of its components."""
        others = [place for place in range(len(shape)) if shape[place] != self.shape[place]]
        if len(others) == 1:
            self.behaviours.append(Clue(name, "neuron", frozenset(others)))

    def decide(self, orders: Sequence[Order], default_is_documented: bool) -> Decision:
        """Choose one of some orders.

        Parameters
        ----------
        orders
            All possible orders, the default first; if several remain, the earliest is chosen.
        default_is_documented
            Whether the default needs no warning if nothing contradicts it. Otherwise something must contradict
            the second order.
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
            else f"{self._told(foreign)} may belong to trials, which have no axis here"
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
        """Return a phrase on what puts an order in doubt although the clues allow it; empty if nothing does."""
        if doubted := self._doubted(chosen, possible):
            return f"{self._told(doubted)} may belong to trials or neurons"
        first = max(possible, key=lambda order: self._rank(order, possible[0]))
        if on_bins := self._on_bins(chosen) or self._on_bins(first):
            return f"{self._told(on_bins)} may belong to trials or neurons, but not to bins, which have no metadata"
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
        """Return why an order was guessed although no array contradicts it."""
        led = self._led(chosen, likely)
        if self.clues:
            return f"the length of {self._told()} leaves more than one order open{led}"
        return f"no vector proves which axis is which{led}" if led else "nothing shows which axis is which"

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
        """Return vectors that could only belong to bins in this order, though their names do not say so."""
        if "trial" not in order or "bin" not in order:  # a vector along a continuous recording is a behaviour
            return []
        vectors = {hint.variable: hint.places for hint in self.hints} | self.unknown
        bins = {order.index("bin")}
        return [name for name, places in vectors.items() if places == bins and not is_of_bins(name)]

    def _doubted(self, chosen: Order, possible: Sequence[Order]) -> list[str]:
        """Return vectors of unknown meaning that would belong to trials in another possible order."""
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
            f"`{self.spikes}` has the axes {' × '.join(map(str, self.shape))}, and {why}: they were read as {said(chosen)} "
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


def decide_axes(file: ArrayFile, spikes: str, mapping: MappingOptions) -> Decision:
    """Decide the order of axes of an array of counts: from the mapping, else from the arrays beside it."""
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
    """Collect evidence from the arrays beside the spikes for axes of some lengths; arrays in `apart` are ignored."""
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
    """Return whether an array may be a behaviour: floats that are neither named like spikes nor whole counts."""
    variable = file.variables[name]
    if variable.dtype.kind != "f" or not variable.is_numbers or SPIKE_LIKE.search(base_of(name)):
        return False
    try:
        return not looks_like_counts(file, name)
    except UNREADABLE:  # The reader warns of this array when it leaves it out.
        return False
