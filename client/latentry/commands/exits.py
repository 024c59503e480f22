"""Exit codes: what scripts can tell apart."""

from enum import IntEnum

from latentry import errors
from latentry.errors import LatentryError


class ExitCode(IntEnum):
    """How a command ended; ``docs/command-line.md`` has the same table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    NO_ANSWER = 5
    ENDED_BADLY = 6
    INTERRUPTED = 130


class UsageProblem(Exception):
    """The command line, or a file that it names, says something that makes no sense.

    Parameters
    ----------
    message
        What was expected, and what came.
    hint
        What to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


_OF_KIND: tuple[tuple[type[LatentryError], ExitCode], ...] = (
    (errors.BadRequest, ExitCode.USAGE),
    (errors.Invalid, ExitCode.USAGE),
    (errors.TooLarge, ExitCode.USAGE),
    (errors.UnsupportedFormat, ExitCode.USAGE),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Gone, ExitCode.NOT_FOUND),
    (errors.Unauthorized, ExitCode.NOT_ALLOWED),
    (errors.Forbidden, ExitCode.NOT_ALLOWED),
    (errors.Unavailable, ExitCode.NO_ANSWER),
    (errors.DatasetRejected, ExitCode.ENDED_BADLY),
    (errors.NotDone, ExitCode.ENDED_BADLY),
)


def code_of(error: LatentryError) -> ExitCode:
    """The exit code of an error of the client."""
    return next((code for kind, code in _OF_KIND if isinstance(error, kind)), ExitCode.FAILED)
