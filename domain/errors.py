"""The error of arguments that a method does not allow."""


class ConfigurationError(ValueError):
    """An argument is outside what the method allows; the message says what is expected and what was given."""


def require(condition: bool, message: str) -> None:
    """Raise `ConfigurationError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigurationError(message)
