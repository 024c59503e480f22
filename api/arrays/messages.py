"""Texts about arrays: errors of parameters, descriptions."""

from api.errors import Invalid


def invalid_parameter(
    parameter: str, message: str, hint: str | None = None, *, code: str | None = None
) -> Invalid:
    """Return the error of one parameter of a request; by default its code is the parameter's name."""
    return Invalid.field(parameter, code or parameter, message, hint)


def described(description: str, done: str) -> str:
    """Return the description of an array after something was done to it."""
    return f"{description}; {done}" if description else done
