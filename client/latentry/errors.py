"""The exceptions of the client: a class for each type of problem of the service, all of them `LatentryError`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

_TYPE_PREFIX = "urn:latentry:problem:"


class LatentryError(Exception):
    """The service answered with a problem, or a job, an inference or a data set failed.

    Parameters
    ----------
    message
        What was expected, and what was given.
    hint
        What to do.
    status
        HTTP status; 0 if the request itself succeeded, or was not answered.
    problem
        The whole problem document (RFC 9457).
    """

    def __init__(
        self, message: str, hint: str = "", status: int = 0, problem: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message, self.hint, self.status, self.problem = message, hint, status, problem or {}
        self.retry_after: str | None = None
        """Header `Retry-After` of the answer."""

    @property
    def detail(self) -> str:
        """Return what was expected, and what was given."""
        return self.message

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Return for each field that is wrong ``pointer``, ``code``, ``message`` and ``hint``."""
        return list(self.problem.get("errors") or [])

    @property
    def type(self) -> str:
        """Return the stable type of the problem; empty if the service sent no problem document."""
        return str(self.problem.get("type", ""))


class BadRequest(LatentryError):
    """The service cannot read the request."""


class Unauthorized(LatentryError):
    """The key is missing, unknown, revoked or expired."""


class Forbidden(LatentryError):
    """The key does not permit this."""


class NotFound(LatentryError):
    """The resource does not exist, or belongs to another tenant."""


class UnsupportedFormat(LatentryError):
    """The service does not offer this format."""


class WrongState(LatentryError):
    """The request does not fit the state of the resource."""


class QuotaReached(WrongState):
    """The request goes beyond a quota of the tenant; ``problem["quota"]`` says what is used and allowed."""


class NotConfigured(LatentryError):
    """The service is not configured for this."""


class Gone(LatentryError):
    """The resource has expired."""


class TooLarge(LatentryError):
    """The request has more bytes than the service accepts."""


class Invalid(LatentryError):
    """The request is readable but not valid; `errors` says which fields are wrong."""


class IdempotencyMismatch(Invalid):
    """An `Idempotency-Key` was used before for another request."""


class DigestMismatch(Invalid):
    """The received bytes differ from the sent bytes."""


class UploadInUse(LatentryError):
    """Another request is sending bytes to the same upload."""


class TooManyRequests(LatentryError):
    """The service asks to wait longer than the client retries."""


class DiskFull(LatentryError):
    """The disk of the service is full, or has no space for this file."""


class ComputationTimeout(LatentryError):
    """The computation takes longer than the service allows. A repetition would take as long."""


class ServiceFault(LatentryError):
    """The service has an internal error; its log has the details."""


class Unavailable(LatentryError):
    """The service, its database or its workers are temporarily unavailable."""


class NoAnswer(Unavailable):
    """Nothing answers at the address, or the connection broke."""


class DatasetRejected(LatentryError):
    """A file cannot be used as a data set; the message has the reasons, and `dataset_id` says which data set it is."""

    def __init__(self, message: str, hint: str = "", dataset_id: str = "") -> None:
        super().__init__(message, hint)
        self.dataset_id = dataset_id


class NotDone(LatentryError):
    """A job, an inference or the reading of a data set failed or was cancelled; it has no result."""


BY_TYPE: dict[str, type[LatentryError]] = {
    "bad-request": BadRequest,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "not-acceptable": UnsupportedFormat,
    "wrong-state": WrongState,
    "quota-reached": QuotaReached,
    "not-configured": NotConfigured,
    "gone": Gone,
    "too-large": TooLarge,
    "invalid": Invalid,
    "idempotency-key-reused": IdempotencyMismatch,
    "digest-mismatch": DigestMismatch,
    "upload-in-use": UploadInUse,
    "too-many-requests": TooManyRequests,
    "disk-full": DiskFull,
    "internal": ServiceFault,
    "computation-timeout": ComputationTimeout,
    "unavailable": Unavailable,
}
"""Classes by the last part of a problem's type."""

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
    507: DiskFull,
}
"""Classes for problems of other types, and for answers without a problem document, such as those of a proxy."""


def error_of(answer: httpx.Response) -> LatentryError:
    """Return the error of an answer whose body has been read."""
    status = answer.status_code
    kind = _BY_STATUS.get(status, ServiceFault if status >= 500 else LatentryError)
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        kind = BY_TYPE.get(str(problem.get("type", "")).removeprefix(_TYPE_PREFIX), kind)
        error = kind(str(problem.get("detail", problem)), _hint(problem), status, problem)
    else:
        error = kind(f"the service answered {status} {answer.reason_phrase}".rstrip(), status=status)
    error.retry_after = answer.headers.get("Retry-After")
    return error


def _hint(problem: dict[str, Any]) -> str:
    """Return the hint of a problem, else the hints of its fields."""
    if problem.get("hint"):
        return str(problem["hint"])
    hints = [str(one["hint"]) for one in problem.get("errors") or [] if one.get("hint")]
    return "; ".join(dict.fromkeys(hints))
