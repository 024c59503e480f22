"""Errors of arguments and of values that a method does not allow."""


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
