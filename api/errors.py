"""The errors of the API. `api.error_handlers` turns every error into one of them."""

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Self

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api.validation_errors import MOST_PROBLEMS, FieldProblem, field_problems
from domain.quotas import QUOTAS, QuotaState, Use

logger = logging.getLogger(__name__)

TYPE_PREFIX = "urn:latentry:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
"""Sent with a 503 when the database does not respond."""
_LONGEST_DETAIL = 4_000
"""Maximum number of characters of `detail`, which may repeat what the client sent."""


class ProblemDocument(BaseModel):
    """An error in the format of RFC 9457."""

    type: str = Field(examples=[TYPE_PREFIX + "not-found"])
    title: str
    status: int
    detail: str
    hint: str | None = None
    errors: list[FieldProblem] | None = Field(
        None, description=f"The first {MOST_PROBLEMS} problems.", max_length=MOST_PROBLEMS
    )
    more_errors: int | None = Field(None, description="Number of problems that `errors` leaves out.", ge=1)
    quota: QuotaState | None = Field(None, description="The quota that the request would exceed.")


class Problem(Exception):
    """The service has an internal error.

    Base class of all errors that the client sees.

    Parameters
    ----------
    detail
        What was expected and what was given.
    hint
        What to do.
    errors
        One entry for each invalid field. The response has the first `MOST_PROBLEMS` of them.
    more_errors
        Number of problems that are not in `errors`.
    headers
        Headers of the response.
    use
        The use of the quota that the request would exceed.
    """

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal"
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        hint: str | None = None,
        errors: list[FieldProblem] | None = None,
        more_errors: int = 0,
        headers: dict[str, str] | None = None,
        use: Use | None = None,
    ) -> None:
        super().__init__(detail)
        self.quota = None if use is None else QuotaState.of(use)
        self.detail = detail if len(detail) <= _LONGEST_DETAIL else detail[:_LONGEST_DETAIL] + "…"
        self.hint, self.headers = hint, headers
        self.errors = errors and errors[:MOST_PROBLEMS]
        self.more_errors = more_errors + len((errors or [])[MOST_PROBLEMS:])

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        document = ProblemDocument(
            type=TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            hint=self.hint,
            errors=self.errors,
            more_errors=self.more_errors or None,
            quota=self.quota,
        )
        return JSONResponse(
            document.model_dump(mode="json", exclude_none=True),
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


class BadRequest(Problem):
    """The server cannot read the request: the JSON or the form is malformed."""

    status, code, title = HTTPStatus.BAD_REQUEST, "bad-request", "Unreadable request"


class Unauthorized(Problem):
    """The request needs a valid key."""

    status, code, title = HTTPStatus.UNAUTHORIZED, "unauthorized", "No valid key"


class Forbidden(Problem):
    """The key has no permission for this request."""

    status, code, title = HTTPStatus.FORBIDDEN, "forbidden", "Not allowed"


class NotFound(Problem):
    """The resource does not exist, or it belongs to another tenant."""

    status, code, title = HTTPStatus.NOT_FOUND, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The path exists but does not support this method."""

    status, code, title = HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", "Method not offered"


class UnsupportedFormat(Problem):
    """The server has none of the formats that the client accepts."""

    status, code, title = HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", "Format not offered"


class WrongState(Problem):
    """The state of the resource does not allow this request."""

    status, code, title = HTTPStatus.CONFLICT, "wrong-state", "Wrong state"


class Gone(Problem):
    """The resource, or this part of it, was removed because of its age."""

    status, code, title = HTTPStatus.GONE, "gone", "No longer there"


class WrongTusVersion(Problem):
    """The request names another version of the tus protocol, or no version."""

    status, code, title = HTTPStatus.PRECONDITION_FAILED, "wrong-tus-version", "Wrong version of tus"


class TooLarge(Problem):
    """The body is larger than the limit."""

    status, code, title = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "Body too large"

    @classmethod
    def of(cls, limit: int, setting: str | None, given: str) -> Self:
        """Return an error that names the limit, the given size, and the setting that changes the limit, if there is one."""
        return cls(
            f"the body may have at most {limit} bytes; {given}",
            hint=f"ask the operator of this service to raise {setting}"
            if setting
            else "send a smaller document",
            headers={"Connection": "close"},
        )


class RequestTimeout(Problem):
    """The request did not arrive in time."""

    status, code, title = HTTPStatus.REQUEST_TIMEOUT, "request-timeout", "Request too slow"


class TooManyRequests(Problem):
    """The client has too many connections, or sends too many requests or wrong keys; `Retry-After` says when to go on."""

    status, code, title = HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", "Too many requests"


class HeadersTooLarge(Problem):
    """The header of the request is larger than the limit."""

    status, code, title = (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "Header too large",
    )


class UnsupportedMediaType(Problem):
    """The route does not read bodies of this media type."""

    status, code, title = (
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "Unsupported media type",
    )


class RangeNotSatisfiable(Problem):
    """The range lies outside the object."""

    status, code, title = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range", "Range not satisfiable"


class Invalid(Problem):
    """The server understands the request, but some of its values are invalid."""

    status, code, title = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "Invalid request"

    @classmethod
    def of(cls, problems: Sequence[FieldProblem]) -> Self:
        """Return the error of several fields. Its detail names the first field and the number of the others."""
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        detail = f"{first.pointer or 'the body'}: {first.message}{more}"
        return cls(detail, hint=first.hint, errors=list(problems))

    @classmethod
    def of_request(cls, error: RequestValidationError, route: Callable[..., Any] | None) -> Self:
        """Return the error of a request that does not fit the parameters of its route. Call it in a thread."""
        errors, more = field_problems(error.errors(), error.body, route)
        detail = "; ".join(f"{item.pointer or 'the body'}: {item.message}" for item in errors)
        return cls(f"{detail}; and {more} more" if more else detail, errors=errors, more_errors=more)

    @classmethod
    def field(cls, pointer: str, code: str, message: str, hint: str | None = None) -> Self:
        """Return the error of a single field; `code` is for programs, `message` for people."""
        return cls.of([FieldProblem(pointer=pointer, code=code, message=message, hint=hint)])

    @classmethod
    def check(cls, problems: Sequence[FieldProblem]) -> None:
        """Raise the error of these fields, if there are any."""
        if problems:
            raise cls.of(problems)


class IdempotencyMismatch(Problem):
    """The `Idempotency-Key` was used before for a different request."""

    status, code, title = (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "Idempotency-Key used for another request",
    )


class DigestMismatch(Problem):
    """The SHA-256 of the received bytes differs from the one that the client announced."""

    status, code, title = HTTPStatus.UNPROCESSABLE_ENTITY, "digest-mismatch", "Digest mismatch"


class UploadInUse(Problem):
    """Another request is sending bytes to the same upload."""

    status, code, title = HTTPStatus.LOCKED, "upload-in-use", "Upload in use"


class ChecksumMismatch(Problem):
    """The bytes of this request do not match their checksum; the server discards them."""

    status, code, title = 460, "checksum-mismatch", "Checksum mismatch"


class NotConfigured(Problem):
    """The service is not configured for this request."""

    status, code, title = HTTPStatus.CONFLICT, "not-configured", "Not configured"


class QuotaReached(Problem):
    """The request goes beyond an amount that the tenant may use; the answer says what to delete or when it frees."""

    status, code, title = HTTPStatus.CONFLICT, "quota-reached", "Quota reached"

    @classmethod
    def of(cls, use: Use, more: float = 0) -> Self:
        """Return the error of a quota that `more` goes beyond."""
        return cls(use.sentence(more), hint=QUOTAS[use.name].remedy, use=use)


class DiskFull(Problem):
    """The disk of the service is full, or has no space for this file. Nothing was changed."""

    status, code, title = HTTPStatus.INSUFFICIENT_STORAGE, "disk-full", "Disk full"

    @classmethod
    def of_service(cls) -> Self:
        """Return the error of a write that failed."""
        return cls(
            "the service cannot write: its disk, or that of its database, is full or read-only",
            hint="ask the operator of the service to free space, then repeat the request with the same Idempotency-Key",
        )


class TooManyComputations(Problem):
    """Too many analyses and other long computations of the tenant run or wait."""

    status, code, title = HTTPStatus.TOO_MANY_REQUESTS, "too-many-computations", "Too many computations"


class Unavailable(Problem):
    """The database or the worker does not respond at the moment, or the service is busy."""

    status, code, title = HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable"


class ComputationTimeout(Problem):
    """The computation takes longer than the service allows."""

    status, code, title = HTTPStatus.GATEWAY_TIMEOUT, "computation-timeout", "Computation too long"


class CarriedProblem(HTTPException):
    """A problem found while the framework reads a body: its parsers pass on `HTTPException` only."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail)
        self.problem = problem


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route, for the OpenAPI document."""
    kinds: list[type[Problem]] = [Problem, *Problem.__subclasses__()]
    return {
        status: {
            "description": " ".join(
                (kind.__doc__ or "").split("\n")[0] for kind in kinds if kind.status == status
            ),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in statuses
    }
