"""Errors of arguments and of values that a method does not allow, and lists of names in their messages."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


class ConfigurationError(ValueError):
    """An argument is outside what the method allows; the message says what is expected and what was given."""


def require(condition: bool, message: str) -> None:
    """Raise `ConfigurationError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigurationError(message)


class NoValues(ValueError):
    """There are no finite values to compute a result from."""


class NoVariance(ValueError):
    """The values do not vary, so the result is not defined."""


def require_whole_number(name: str, value: object, least: int) -> None:
    """Raise `ConfigurationError` unless the value is an integer of at least `least`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(is_whole, f"{name} must be a whole number of at least {least}, got {value!r}")


def require_valid(document: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` with the first problem unless the document accepts the values, without conversions."""
    try:
        document.model_validate(values, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in problem["loc"][:1])
        text = f"{name}: {message}, got {problem['input']!r}" if name else message
        raise ConfigurationError(text) from error


def listed(names: Iterable[object], most: int = 12) -> str:
    """Join names (or numbers) for a message, and shorten a long list; without names return ``none``."""
    texts = [str(name)[:100] for name in names]
    if not texts:
        return "none"
    rest = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + rest
