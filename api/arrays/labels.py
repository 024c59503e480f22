"""The grammar of labels: ``?trial=3,5,10:20&time_s=0.1:0.4``, entries of a dim by the values of its coordinate."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.labelled import Coordinate
from api.errors import Invalid
from api.validation_errors import FieldProblem

_WHOLE = re.compile(r"-?[0-9]{1,15}")
_DECIMAL = re.compile(r"-?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?")
_TOLERANCE = 1e-3
"""Of the distance between neighbours, by which a decimal may miss a label: 0.3 is the bin that begins at 0.30000000000000004."""
_FEW = 20


def labelled_positions(
    given: Sequence[str], dim: str, index: Coordinate | None, size: int
) -> NDArray[np.int64]:
    """Positions of the entries that labels name, in the order of the array.

    Parameters
    ----------
    given
        Texts of labels and ranges of labels, separated by commas; a range begins with its first label and ends before its
        second, either of which may be left out.
    dim
        Name of the dim.
    index
        Its coordinate; without one, labels are positions.
    size
        Number of its entries.

    Raises
    ------
    Invalid
        If a label can't be read or is not there, or a range takes nothing.
    """
    scale = _Scale(dim, index, size)
    is_taken = np.zeros(size, bool)
    for item in ",".join(given).split(","):
        bounds = item.strip().split(":")
        if len(bounds) > 2 or bounds == [""]:
            raise label_problem(dim, f"expected {scale.kind} or start:stop; got {item!r}", scale.described())
        if len(bounds) == 1:
            is_taken[scale.entries_at(bounds[0])] = True
        else:
            is_taken[scale.entries_between(*bounds)] = True
    return np.flatnonzero(is_taken)


def label_problem(name: str, message: str, hint: str | None = None) -> Invalid:
    """The error of a parameter that selects."""
    problem = FieldProblem(pointer=name, code="label", message=message, hint=hint)
    return Invalid(f"{name}: {message}", hint=hint, errors=[problem])


class _Scale:
    """The labels of a dim in rising order, and where each is."""

    def __init__(self, dim: str, index: Coordinate | None, size: int) -> None:
        values = np.arange(size) if index is None else index.values
        self._dim, self._units = dim, "" if index is None else index.units
        self._order = np.argsort(values, kind="stable")
        self._values = values[self._order]
        self._is_whole = values.dtype.kind in "iub"
        self.kind = "a whole number" if self._is_whole else "a number"
        steps = np.diff(self._values[np.isfinite(self._values)])
        steps = steps[steps > 0]
        self._tolerance: Any = 0 if self._is_whole or not len(steps) else _TOLERANCE * float(np.median(steps))

    def entries_at(self, text: str) -> NDArray[np.int64]:
        """Where a label is."""
        label = self._number(text)
        first = np.searchsorted(self._values, label - self._tolerance, "left")
        last = np.searchsorted(self._values, label + self._tolerance, "right")
        if first >= last:
            message = f"there is no {self._dim} {label:g}{self._nearest(label)}"
            raise label_problem(self._dim, message, self.described([label]))
        return self._order[first:last]

    def entries_between(self, start: str, stop: str) -> NDArray[np.int64]:
        """Where labels from one to before another are."""
        bounds = [self._number(text) if text.strip() else None for text in (start, stop)]
        first, last = (
            0 if bounds[0] is None else self._rank(bounds[0]),
            len(self._values) if bounds[1] is None else self._rank(bounds[1]),
        )
        if first >= last and len(self._values):
            message = f"{start.strip()}:{stop.strip()} takes nothing; a range ends before its second label"
            raise label_problem(
                self._dim, message, self.described([one for one in bounds if one is not None])
            )
        return self._order[first:last]

    def described(self, asked: Sequence[float] = ()) -> str:
        """What labels there are, and whether those asked for look like milliseconds."""
        if not len(self._values):
            return f"{self._dim} has no entries"
        lowest, highest = self._values[0], self._values[-1]
        units = f" {self._units}" if self._units else ""
        steps = set(np.diff(self._values).tolist()) if self._is_whole else {1}
        if steps <= {1} or len(self._values) > _FEW:
            text = f"{self._dim} goes from {lowest:g} to {highest:g}{units}"
        else:
            text = f"{self._dim} is one of {', '.join(map(str, self._values.tolist()))}"
        is_too_large = self._units == "s" and asked and max(asked) > 2 * highest
        return f"{text}: did you mean seconds?" if is_too_large and max(asked) / 1000 <= 2 * highest else text

    def _rank(self, label: float) -> int:
        return int(np.searchsorted(self._values, label - self._tolerance, "left"))

    def _nearest(self, label: float) -> str:
        if self._is_whole or not len(self._values):
            return ""
        place = int(np.searchsorted(self._values, label))
        beside = self._values[max(0, place - 1) : place + 1]
        are = "are" if len(beside) > 1 else "is"
        return f"; the nearest {are} {' and '.join(f'{value:g}' for value in beside)}"

    def _number(self, text: str) -> float:
        text = text.strip()
        if self._is_whole and _WHOLE.fullmatch(text):
            return int(text)
        if not self._is_whole and _DECIMAL.fullmatch(text):
            return float(text)
        raise label_problem(self._dim, f"expected {self.kind}; got {text!r}", self.described())
