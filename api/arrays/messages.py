"""Texts about arrays: errors of parameters, lists of names, descriptions."""

from collections.abc import Iterable

from api.errors import Invalid

_MOST_NAMED = 20


def invalid_parameter(
    parameter: str, message: str, hint: str | None = None, *, code: str | None = None
) -> Invalid:
    """Return the error of one parameter of a request; by default its code is the parameter's name."""
    return Invalid.field(parameter, code or parameter, message, hint)


def listed(names: Iterable[object]) -> str:
    """Return names separated by commas: only the first of many, and the word none if there are none."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return ", ".join(texts[:_MOST_NAMED]) + more if texts else "none"


def described(description: str, done: str) -> str:
    """Return the description of an array after something was done to it."""
    return f"{description}; {done}" if description else done
