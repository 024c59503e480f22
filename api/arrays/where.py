"""Conditions on what is known of trials: ``?where=condition:in:3,4``, answered by the database."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from api.errors import Invalid
from api.validation_errors import FieldProblem

DESCRIPTION = (
    "A condition on the metadata of trials, `name:operator:value`, e.g. `condition:in:3,4`, `reaction_time:between:0.2,0.5`, "
    "`outcome:exists`; of several, all hold. `trial`, `split` and `length_bins` are names too."
)
MOST_CONDITIONS = 20
_MOST_VALUES = 500

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
    """A value of a condition, as each kind of metadata that it can be compared with.

    Attributes
    ----------
    number
        As decimal text, if it is one.
    text, boolean
        If it can be one.
    is_null
        Whether it stands for a value that is missing.
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


def parse_conditions(given: Sequence[str]) -> list[Condition]:
    """Read conditions.

    Raises
    ------
    Invalid
        If one can't be read.
    """
    return [_parse(text) for text in given]


def where_problem(given: str, message: str, hint: str | None = _GRAMMAR) -> Invalid:
    """The error of a condition."""
    problem = FieldProblem(pointer="where", code="where", message=message, hint=hint)
    return Invalid(f"where={given}: {message}", hint=hint, errors=[problem])


def _parse(given: str) -> Condition:
    if "\x00" in given:
        raise where_problem("…", "expected text without the character NUL")
    name, rest = _first_part(given)
    word, colon, values = (rest or "").partition(":")
    operator = _OPERATORS.get(word)
    if not name or operator is None:
        known = ", ".join(_OPERATORS)
        raise where_problem(given, f"expected a name and one of the operators {known}; got {given!r}")
    if operator in _WITHOUT_VALUE:
        if colon:
            raise where_problem(given, f"{operator} takes no value; got {values!r}")
        return Condition(name, operator, (), given)
    if not colon:
        raise where_problem(given, f"{operator} needs a value; none is given")
    parts = _items(values, given) if operator in _OF_SEVERAL else [values]
    if len(parts) > _MOST_VALUES:
        raise where_problem(given[:100] + "…", f"expected at most {_MOST_VALUES} values; got {len(parts)}")
    if operator == "between" and len(parts) != 2:
        raise where_problem(given, f"between needs two values, as in between:0.2,0.5; got {len(parts)}")
    return Condition(name, operator, tuple(_value(part, given) for part in parts), given)


def _first_part(given: str) -> tuple[str, str | None]:
    """The name, which may be quoted, and what stands after its colon."""
    if (quoted := _QUOTED.match(given)) is not None:
        rest = given[quoted.end() :]
        return _unquoted(quoted[1], given), rest[1:] if rest.startswith(":") else None
    name, colon, rest = given.partition(":")
    return name.strip(), rest if colon else None


def _items(values: str, given: str) -> list[str]:
    """Values between commas; a quoted one may have commas in it."""
    items, place = [], 0
    while True:
        quoted = _QUOTED.match(values, place)
        end = quoted.end() if quoted else values.find(",", place)
        end = len(values) if end < 0 else end
        items.append(values[place:end])
        if end == len(values):
            return items
        if values[end] != ",":
            raise where_problem(given, f"expected a comma after {items[-1]}; got {values[end:]!r}")
        place = end + 1


def _value(part: str, given: str) -> Value:
    if (quoted := _QUOTED.fullmatch(part)) is not None:
        return Value(None, _unquoted(quoted[1], given), None, False, part)
    text = part.strip()
    if text.startswith('"'):
        raise where_problem(given, f"expected a quote at the end of {text!r}")
    boolean = {"true": True, "false": False}.get(text)
    if text == "null":
        return Value(None, None, None, True, text)
    return Value(_number(text), text, boolean, False, text)


def _number(text: str) -> str | None:
    """A number as Python and JSON write it, so that equal numbers are equal texts; None if it is none."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match["fraction"] is None and match["bare"] is None and match["exponent"] is None:
        return str(int(text))
    number = float(text)
    return repr(number) if math.isfinite(number) else None


def _unquoted(quoted: str, given: str) -> str:
    """A text in quotes, with the escapes of JSON."""
    try:
        text = str(json.loads(quoted, strict=False))
        text.encode()
    except ValueError as error:
        raise where_problem(given, f"expected a text in quotes as JSON has it; got {quoted}") from error
    if "\x00" in text:
        raise where_problem(given, "expected text without the character NUL")
    return text
