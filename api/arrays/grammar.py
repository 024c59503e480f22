"""The grammar of selections, as text: slices, labels of dims, and conditions on trials.

| parameter | example |
|---|---|
| `slice` | ``0:5,::2,3``: one part for each axis from the first |
| a dim | ``trial=3,5,10:20``, ``time_s=0.1:0.4``: entries of a dim by the values of its coordinate |
| `where` | ``condition:in:3,4``: trials by their metadata |
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from api.arrays.labelled import Coordinate
from api.arrays.messages import invalid_parameter
from api.errors import Invalid
from api.validation_errors import FieldProblem

_WHOLE = r"-?[0-9]{1,15}"
_PART = re.compile(
    rf"\s*(?:(?P<index>{_WHOLE})"
    rf"|(?P<start>{_WHOLE})?:(?P<stop>{_WHOLE})?(?::(?P<step>[0-9]{{1,15}})?)?)\s*"
)


def parse_slice(text: str | None, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Parse a slice and bring it into the bounds of an array.

    Parameters
    ----------
    text
        For example ``0:5,::2,3``. An integer takes one entry and drops its axis, ``start:stop:step`` keeps it. Negative
        numbers count from the end. Axes that are left out are whole.
    shape
        Shape of the array.

    Returns
    -------
    tuple
        One integer or slice for each axis, with non-negative start and stop and a positive step.

    Raises
    ------
    Invalid
        If the text cannot be parsed, has too many axes, or an index lies outside.
    """
    parts = text.split(",") if text else []
    if len(parts) > len(shape):
        raise _slice_error(
            f"{len(parts)} parts were given for an array of {len(shape)} axes of sizes {list(shape)}"
        )
    parsed = [_parse_part(part, axis, shape[axis]) for axis, part in enumerate(parts)]
    return (*parsed, *(slice(0, size, 1) for size in shape[len(parts) :]))


def _parse_part(text: str, axis: int, size: int) -> int | slice:
    match = _PART.fullmatch(text)
    if match is None:
        raise _slice_error(f"expected an integer or start:stop:step for axis {axis}; got {text!r}")
    if match["index"] is not None:
        index = int(match["index"])
        if not -size <= index < size:
            raise _slice_error(f"index {index} is outside axis {axis} of size {size}")
        return index % size
    start, stop, step = (int(match[name]) if match[name] else None for name in ("start", "stop", "step"))
    if step == 0:
        raise _slice_error(f"the step of axis {axis} is 0; expected 1 or more")
    first, last, stride = slice(start, stop, step).indices(size)
    return slice(first, max(first, last), stride)


def _slice_error(message: str) -> Invalid:
    return invalid_parameter("slice", message, "the grammar is ?slice=0:5,::2,3 with one part for each axis")


_DECIMAL = re.compile(r"-?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?")
_TOLERANCE = 1e-3
"""Share of the distance between neighbours by which a decimal may miss a label: 0.3 is the bin at 0.30000000000000004."""
_FEW = 20
_MOST_ECHOED = 1000
"""Most characters of a message that repeats what was given."""


def shorten(text: str, most: int) -> str:
    """Return the beginning of a text, so that an error is not longer than a page."""
    return text if len(text) <= most else f"{text[:most]}…"


def label_error(name: str, message: str, hint: str | None = None) -> Invalid:
    """Return the error of a parameter that selects entries of a dim."""
    return invalid_parameter(shorten(name, 100), shorten(message, _MOST_ECHOED), hint, code="label")


def labelled_positions(
    given: Sequence[str], dim: str, index: Coordinate | None, size: int
) -> NDArray[np.int64]:
    """Return the positions of the entries that labels name, in the order of the array.

    Parameters
    ----------
    given
        Labels and ranges of labels, separated by commas. A range begins with its first label and ends before its second;
        either may be left out.
    dim
        Name of the dim.
    index
        Its coordinate; without one, labels are positions.
    size
        Number of its entries.

    Raises
    ------
    Invalid
        If a label cannot be parsed or does not exist, or a range is empty.
    """
    scale = _Scale(dim, index, size)
    is_taken = np.zeros(size, bool)
    for item in ",".join(given).split(","):
        bounds = item.strip().split(":")
        if len(bounds) > 2 or bounds == [""]:
            raise label_error(dim, f"expected {scale.kind} or start:stop; got {item!r}", scale.described())
        if len(bounds) == 1:
            is_taken[scale.entries_at(bounds[0])] = True
        else:
            is_taken[scale.entries_between(*bounds)] = True
    return np.flatnonzero(is_taken)


class _Scale:
    """The labels of a dim in rising order, and the position of each."""

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
        """Return the positions of a label."""
        label = self._number(text)
        first = np.searchsorted(self._values, label - self._tolerance, "left")
        last = np.searchsorted(self._values, label + self._tolerance, "right")
        if first >= last:
            message = f"there is no {self._dim} {label:g}{self._nearest(label)}"
            raise label_error(self._dim, message, self.described([label]))
        return self._order[first:last]

    def entries_between(self, start: str, stop: str) -> NDArray[np.int64]:
        """Return the positions of the labels from one label to before another."""
        bounds = [self._number(text) if text.strip() else None for text in (start, stop)]
        first, last = (
            0 if bounds[0] is None else self._rank(bounds[0]),
            len(self._values) if bounds[1] is None else self._rank(bounds[1]),
        )
        if first >= last and len(self._values):
            message = f"{start.strip()}:{stop.strip()} takes nothing; a range ends before its second label"
            raise label_error(self._dim, message, self.described([one for one in bounds if one is not None]))
        return self._order[first:last]

    def described(self, asked: Sequence[float] = ()) -> str:
        """Describe the labels of the dim, and whether the given labels look like milliseconds."""
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
        if self._is_whole and re.fullmatch(_WHOLE, text):
            return int(text)
        if not self._is_whole and _DECIMAL.fullmatch(text):
            return float(text)
        raise label_error(self._dim, f"expected {self.kind}; got {text!r}", self.described())


WHERE_DESCRIPTION = (
    "A condition on the metadata of trials, `name:operator:value`, e.g. `condition:in:3,4`, `reaction_time:between:0.2,0.5`, "
    "`outcome:exists`; of several, all hold. `trial`, `split` and `length_bins` are names too."
)
MOST_CONDITIONS = 20
_MOST_VALUES, _MOST_VALUES_IN_ALL = 500, 2000
"""Most values of one condition, and of all conditions of a request."""

Operator = Literal["eq", "ne", "in", "notin", "lt", "le", "gt", "ge", "between", "exists", "missing"]
_OPERATORS: dict[str, Operator] = {one: one for one in get_args(Operator)}
_OF_SEVERAL = ("in", "notin", "between")
_WITHOUT_VALUE = ("exists", "missing")
ORDERING = ("lt", "le", "gt", "ge", "between")

_NUMBER = re.compile(
    r"-?(?:[0-9]{1,30}(?P<fraction>\.[0-9]{0,30})?|(?P<bare>\.[0-9]{1,30}))(?P<exponent>[eE][+-]?[0-9]{1,3})?"
)
_QUOTED = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*')
_GRAMMAR = (
    'where=name:operator:value, as in condition:eq:3 or note:in:left,"a, b"; docs/querying.md has it whole'
)


@dataclass(frozen=True)
class Value:
    """A value of a condition, for each kind of metadata that it can be compared with.

    Attributes
    ----------
    number
        As decimal text, if it is a number.
    text, boolean
        If it can be one.
    is_null
        Whether it stands for a missing value.
    shown
        As it was given.
    """

    number: str | None
    text: str | None
    boolean: bool | None
    is_null: bool
    shown: str


@dataclass(frozen=True)
class Condition:
    """One condition on trials."""

    name: str
    operator: Operator
    values: tuple[Value, ...]
    given: str


def where_error(given: str, message: str, hint: str | None = _GRAMMAR) -> Invalid:
    """Return the error of a condition."""
    message = shorten(message, _MOST_ECHOED)
    problem = FieldProblem(pointer="where", code="where", message=message, hint=hint)
    return Invalid(f"where={shorten(given, 100)}: {message}", hint=hint, errors=[problem])


def parse_conditions(given: Sequence[str]) -> list[Condition]:
    """Parse conditions.

    Raises
    ------
    Invalid
        If one cannot be parsed.
    """
    conditions = [_parse_condition(text) for text in given]
    values = sum(len(one.values) for one in conditions)
    if values > _MOST_VALUES_IN_ALL:
        message = f"expected at most {_MOST_VALUES_IN_ALL} values in all conditions; got {values}"
        hint = "use a range, as in trial:between:0,999, or several requests"
        problem = FieldProblem(pointer="where", code="where", message=message, hint=hint)
        raise Invalid(f"where: {message}", hint=hint, errors=[problem])
    return conditions


def _parse_condition(given: str) -> Condition:
    if "\x00" in given:
        raise where_error("…", "expected text without the character NUL")
    name, rest = _first_part(given)
    word, colon, values = (rest or "").partition(":")
    operator = _OPERATORS.get(word)
    if not name or operator is None:
        known = ", ".join(_OPERATORS)
        raise where_error(given, f"expected a name and one of the operators {known}; got {given!r}")
    if operator in _WITHOUT_VALUE:
        if colon:
            raise where_error(given, f"{operator} takes no value; got {values!r}")
        return Condition(name, operator, (), given)
    if not colon:
        raise where_error(given, f"{operator} needs a value; none is given")
    parts = _items(values, given) if operator in _OF_SEVERAL else [values]
    if len(parts) > _MOST_VALUES:
        raise where_error(given, f"expected at most {_MOST_VALUES} values; got {len(parts)}")
    if operator == "between" and len(parts) != 2:
        raise where_error(given, f"between needs two values, as in between:0.2,0.5; got {len(parts)}")
    return Condition(name, operator, tuple(_value(part, given) for part in parts), given)


def _first_part(given: str) -> tuple[str, str | None]:
    """Return the name, which may be quoted, and the text after its colon."""
    if (quoted := _QUOTED.match(given)) is not None:
        rest = given[quoted.end() :]
        return _unquoted(quoted[1], given), rest[1:] if rest.startswith(":") else None
    name, colon, rest = given.partition(":")
    return name.strip(), rest if colon else None


def _items(values: str, given: str) -> list[str]:
    """Return the values between commas; a quoted value may contain commas."""
    items, place = [], 0
    while True:
        quoted = _QUOTED.match(values, place)
        end = quoted.end() if quoted else values.find(",", place)
        end = len(values) if end < 0 else end
        items.append(values[place:end])
        if end == len(values):
            return items
        if values[end] != ",":
            raise where_error(given, f"expected a comma after {items[-1]}; got {values[end:]!r}")
        place = end + 1


def _value(part: str, given: str) -> Value:
    if (quoted := _QUOTED.fullmatch(part)) is not None:
        return Value(None, _unquoted(quoted[1], given), None, False, part)
    text = part.strip()
    if text.startswith('"'):
        raise where_error(given, f"expected a quote at the end of {text!r}")
    boolean = {"true": True, "false": False}.get(text)
    if text == "null":
        return Value(None, None, None, True, text)
    return Value(_decimal(text), text, boolean, False, text)


def _decimal(text: str) -> str | None:
    """Return a number as Python and JSON write it, so that equal numbers are equal texts; None for other text."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match["fraction"] is None and match["bare"] is None and match["exponent"] is None:
        return str(int(text))
    number = float(text)
    return repr(number) if math.isfinite(number) else None


def _unquoted(quoted: str, given: str) -> str:
    """Return the text within quotes, with the escapes of JSON resolved."""
    try:
        text = str(json.loads(quoted, strict=False))
        text.encode()
    except ValueError as error:
        raise where_error(given, f"expected a text in quotes as JSON has it; got {quoted}") from error
    if "\x00" in text:
        raise where_error(given, "expected text without the character NUL")
    return text
