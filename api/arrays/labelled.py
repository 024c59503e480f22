"""Arrays with dims, units and coordinates, whose values are read block by block.

Selections and transformations make one labelled array of another; formats write it. None of them holds more than a few blocks
at a time unless its result is small, so the memory of the server does not grow with the size of a response.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Coordinate:
    """A value for each entry along one dim: its time, its neuron, the condition of its trial.

    Attributes
    ----------
    name
        The name of the dim for its index; else for example ``split`` or ``condition``.
    dim
        The dim.
    values
        One for each entry: numbers, or codes whose meanings are in the attributes ``flag_values`` and ``flag_meanings``.
    """

    name: str
    dim: str
    values: NDArray[Any]
    units: str = ""
    description: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def taken(self, where: Any) -> "Coordinate":
        """Return the coordinate of some entries; `where` is any NumPy index that keeps the axis."""
        return replace(self, values=self.values[where])


@dataclass(frozen=True)
class LabelledArray:
    """Values with their meaning.

    Attributes
    ----------
    name, dims, shape, dtype, units, description
        As in the array store; units are empty for numbers without a unit.
    coordinates
        Any number for each dim.
    attributes
        Further attributes, such as ``flag_meanings`` where the values are codes, or how a transformation was done.
    blocks
        Reads the values from the beginning: rows of the first axis, in order, in blocks of about a chunk; one block without
        dims for an array without dims. May be called again.
    missing
        Reads in the same way whether each spike count is missing: not observed, which differs from 0. None if all counts were
        observed. Its blocks may be cut at other rows.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    units: str
    description: str
    coordinates: tuple[Coordinate, ...]
    attributes: Mapping[str, Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    missing: Callable[[], Iterator[NDArray[Any]]] | None = None

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of the values, uncompressed."""
        return self.size * self.dtype.itemsize

    def values(self) -> NDArray[Any]:
        """Return all values, in memory."""
        found = np.empty(self.shape, self.dtype)
        row = 0
        for block in self.blocks():
            if not self.dims:
                found[...] = block
                continue
            found[row : row + len(block)] = block
            row += len(block)
        return found

    def along(self, dim: str) -> tuple[Coordinate, ...]:
        """Return the coordinates of a dim."""
        return tuple(one for one in self.coordinates if one.dim == dim)

    def index(self, dim: str) -> Coordinate | None:
        """Return the coordinate that has the name of its dim, such as ``time_s``."""
        return next((one for one in self.along(dim) if one.name == dim), None)

    def with_coordinate(self, coordinate: Coordinate) -> "LabelledArray":
        """Return the array with a coordinate, in place of one of the same name."""
        others = tuple(one for one in self.coordinates if one.name != coordinate.name)
        return replace(self, coordinates=(*others, coordinate))


def in_memory(
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    *,
    units: str = "",
    description: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> LabelledArray:
    """Return an array whose values are in memory."""
    return LabelledArray(
        name,
        dims,
        values.shape,
        values.dtype,
        units,
        description,
        (),
        attributes or {},
        lambda: iter((values,)),
    )


def coordinates_of(arrays: Sequence[LabelledArray]) -> list[Coordinate]:
    """Return the coordinates of several arrays, each once, without those that are among the arrays themselves."""
    found: dict[str, Coordinate] = {}
    themselves = {array.name for array in arrays}
    for array in arrays:
        for one in array.coordinates:
            if one.name not in themselves:
                found.setdefault(one.name, one)
    return list(found.values())


class RowReader:
    """Reads a given number of rows at a time, whatever the sizes of the blocks."""

    def __init__(self, blocks: Iterator[NDArray[Any]]) -> None:
        self._blocks = blocks
        self._held: NDArray[Any] | None = None

    def next(self, count: int | None) -> NDArray[Any]:
        """Return the next rows; with None, the only block of an array without rows."""
        if count is None:
            return next(self._blocks)
        parts: list[NDArray[Any]] = []
        needed = count
        while needed or not parts:
            if self._held is None or (needed and not len(self._held)):
                self._held = np.atleast_1d(next(self._blocks))
            parts.append(self._held[:needed])
            self._held = self._held[needed:]
            needed -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def words_of(attributes: Mapping[str, Any]) -> dict[int, str]:
    """Return the word of each code, by the CF conventions; empty where numbers are no codes."""
    values = list(attributes.get("flag_values", ()))
    words = str(attributes.get("flag_meanings", "")).split()
    return dict(zip(map(int, values), words, strict=True)) if len(values) == len(words) else {}


def flags_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of codes 0, 1, … that stand for words."""
    meanings = " ".join(re.sub(r"\s+", "_", word) or "_" for word in words)
    return {"flag_values": list(range(len(words))), "flag_meanings": meanings}


def positions(codes: NDArray[Any], words: Mapping[int, str]) -> NDArray[np.int32]:
    """Return the position of each code's word among the words, in their order; -1 for a code without a word."""
    known = np.array(list(words), np.int64)
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    return np.where(known[order][places] == codes, order[places], -1).astype(np.int32)


def as_words(values: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """Return values with codes replaced by their words, empty for a code without a word; other values unchanged."""
    words = words_of(attributes)
    if not words or values.dtype.kind not in "iu":
        return values
    texts = np.array([*words.values(), ""], dtype=object)
    found: NDArray[Any] = texts[positions(values, words)]
    return found


def as_codes(values: NDArray[Any], attributes: Mapping[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return words as codes with their meanings, for formats that keep no text; other values unchanged."""
    if values.dtype.kind not in "UO":
        return values, dict(attributes)
    words, codes = np.unique(["" if one is None else str(one) for one in values], return_inverse=True)
    return codes.astype(np.int32), {**attributes, **flags_of([str(word) for word in words])}
