"""What the client raises: one class for each type of problem that the service tells, all of them `LatentryError`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

_TYPE_PREFIX = "urn:latentry:problem:"


class LatentryError(Exception):
    """The service answered with a problem, or what was waited for did not end well.

    Parameters
    ----------
    message
        What was expected, and what came.
    hint
        What to do.
    status
        HTTP status; 0 when the request itself was answered well, or not at all.
    problem
        The whole problem document (RFC 9457).
    """

    def __init__(
        self, message: str, hint: str = "", status: int = 0, problem: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message, self.hint, self.status, self.problem = message, hint, status, problem or {}

    @property
    def detail(self) -> str:
        """What was expected, and what came."""
        return self.message

    @property
    def errors(self) -> list[dict[str, Any]]:
        """For each field that is wrong: ``pointer``, ``code``, ``message``, ``hint``."""
        return list(self.problem.get("errors") or [])

    @property
    def type(self) -> str:
        """Stable name of the kind of problem; empty when no problem document came."""
        return str(self.problem.get("type", ""))


class BadRequest(LatentryError):
    """The service can't read the request."""


class Unauthorized(LatentryError):
    """There is no key, or it is not known, revoked or expired."""


class Forbidden(LatentryError):
    """The key may not do this."""


class NotFound(LatentryError):
    """There is no such thing, or it is not yours."""


class UnsupportedFormat(LatentryError):
    """The format is not offered."""


class WrongState(LatentryError):
    """The request does not fit the state of the thing it is about."""


class NotConfigured(LatentryError):
    """The service is not set up for it."""


class Gone(LatentryError):
    """It was there, and its time is over."""


class TooLarge(LatentryError):
    """More bytes than the service accepts."""


class Invalid(LatentryError):
    """The request is understood and can't be carried out as it is; `errors` says what of it."""


class IdempotencyMismatch(Invalid):
    """An `Idempotency-Key` came again with another request."""


class DigestMismatch(Invalid):
    """Other bytes came than were sent."""


class UploadInUse(LatentryError):
    """Another request is sending bytes to the same upload."""


class TooManyRequests(LatentryError):
    """The service asks to be left alone for a while, and the client's patience is over."""


class ServiceFault(LatentryError):
    """The service met an error of its own; its log has the details."""


class Unavailable(LatentryError):
    """The service, or its database or workers, do not answer for the moment."""


class NoAnswer(Unavailable):
    """Nothing answers at the address, or the connection broke."""


class DatasetRejected(LatentryError):
    """A file could not be made a data set; the message has the reasons."""


class NotDone(LatentryError):
    """A job, an inference or the reading of a data set failed, or was cancelled: there is no result."""


BY_TYPE: dict[str, type[LatentryError]] = {
    "bad-request": BadRequest,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "not-acceptable": UnsupportedFormat,
    "wrong-state": WrongState,
    "not-configured": NotConfigured,
    "gone": Gone,
    "too-large": TooLarge,
    "invalid": Invalid,
    "idempotency-key-reused": IdempotencyMismatch,
    "digest-mismatch": DigestMismatch,
    "upload-in-use": UploadInUse,
    "internal": ServiceFault,
    "unavailable": Unavailable,
}
"""By the last part of a problem's type."""

_BY_STATUS: dict[int, type[LatentryError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    406: UnsupportedFormat,
    409: WrongState,
    410: Gone,
    413: TooLarge,
    422: Invalid,
    423: UploadInUse,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
"""For problems of other types, and for answers that are no problem document: those of a proxy."""


def error_of(answer: httpx.Response) -> LatentryError:
    """The error that an answer tells; its body must have been read."""
    status = answer.status_code
    kind = _BY_STATUS.get(status, ServiceFault if status >= 500 else LatentryError)
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return kind(f"the service answered {status} {answer.reason_phrase}".rstrip(), status=status)
    kind = BY_TYPE.get(str(problem.get("type", "")).removeprefix(_TYPE_PREFIX), kind)
    return kind(str(problem.get("detail", problem)), _hint(problem), status, problem)


def _hint(problem: dict[str, Any]) -> str:
    """What to do: of the whole, or else of its fields."""
    if problem.get("hint"):
        return str(problem["hint"])
    hints = [str(one["hint"]) for one in problem.get("errors") or [] if one.get("hint")]
    return "; ".join(dict.fromkeys(hints))
