"""One tree of errors, answered as RFC 9457 ``application/problem+json`` in one place."""

import logging
import re
from http import HTTPStatus
from typing import Any, Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.validation_errors import FieldProblem, field_problems

logger = logging.getLogger(__name__)

TYPE_PREFIX = "urn:latentry:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
"""Of an answer that the database was away."""


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=[TYPE_PREFIX + "not-found"])
    title: str
    status: int
    detail: str
    hint: str | None = None
    errors: list[FieldProblem] | None = None


class Problem(Exception):
    """The service met an error of its own.

    Base of the errors that are answered to the client.

    Parameters
    ----------
    detail
        What was expected, and what came.
    hint
        What to do.
    errors
        Per field.
    headers
        Of the answer.
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
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail, self.hint, self.errors, self.headers = detail, hint, errors, headers

    def response(self) -> JSONResponse:
        """The answer."""
        document = ProblemDocument(
            type=TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            hint=self.hint,
            errors=self.errors,
        )
        return JSONResponse(
            document.model_dump(exclude_none=True),
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


class BadRequest(Problem):
    """The request can't be read: broken JSON encoding, a broken form."""

    status, code, title = HTTPStatus.BAD_REQUEST, "bad-request", "Unreadable request"


class Unauthorized(Problem):
    """The request needs a key that is valid."""

    status, code, title = HTTPStatus.UNAUTHORIZED, "unauthorized", "No valid key"


class Forbidden(Problem):
    """The key may not do this."""

    status, code, title = HTTPStatus.FORBIDDEN, "forbidden", "Not allowed"


class NotFound(Problem):
    """There is no such thing, or it is not yours."""

    status, code, title = HTTPStatus.NOT_FOUND, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The path exists and does not offer the method."""

    status, code, title = HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", "Method not offered"


class UnsupportedFormat(Problem):
    """None of the formats that the client accepts is offered."""

    status, code, title = HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", "Format not offered"


class WrongState(Problem):
    """The request does not fit the state of the thing it is about."""

    status, code, title = HTTPStatus.CONFLICT, "wrong-state", "Wrong state"


class Gone(Problem):
    """It was there, and its time is over."""

    status, code, title = HTTPStatus.GONE, "gone", "No longer there"


class WrongTusVersion(Problem):
    """The request is in another version of the tus protocol, or names none."""

    status, code, title = HTTPStatus.PRECONDITION_FAILED, "wrong-tus-version", "Wrong version of tus"


class TooLarge(Problem):
    """The body has more bytes than are accepted."""

    status, code, title = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "Body too large"

    @classmethod
    def of(cls, limit: int, setting: str, came: str) -> Self:
        """Name the limit, what came, and the setting that raises it."""
        return cls(
            f"the body may have at most {limit} bytes; {came}",
            hint=f"ask whoever runs this service to raise {setting}",
            headers={"Connection": "close"},
        )


class UnsupportedMediaType(Problem):
    """The body came as another type than the route reads."""

    status, code, title = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Body of another type"


class RangeNotSatisfiable(Problem):
    """The range lies outside the object."""

    status, code, title = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range", "Range not satisfiable"


class Invalid(Problem):
    """The request is understood and can't be carried out as it is."""

    status, code, title = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "Invalid request"

    @classmethod
    def of(cls, problems: list[FieldProblem]) -> Self:
        """Return the error of some fields; its detail names the first, and how many more there are."""
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return cls(f"{first.pointer or 'the body'}: {first.message}{more}", hint=first.hint, errors=problems)


class IdempotencyMismatch(Problem):
    """An `Idempotency-Key` came again with another request."""

    status, code, title = (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "Idempotency-Key used for another request",
    )


class DigestMismatch(Problem):
    """The bytes that came are not those that were sent: their SHA-256 is another one."""

    status, code, title = HTTPStatus.UNPROCESSABLE_ENTITY, "digest-mismatch", "Other bytes than were sent"


class UploadInUse(Problem):
    """Another request is sending bytes to the same upload."""

    status, code, title = HTTPStatus.LOCKED, "upload-in-use", "Upload in use"


class ChecksumMismatch(Problem):
    """The bytes of this request do not have the checksum that came with them; none of them is kept."""

    status, code, title = 460, "checksum-mismatch", "Checksum mismatch"


class NotConfigured(Problem):
    """The service is not set up for it."""

    status, code, title = HTTPStatus.CONFLICT, "not-configured", "Not set up here"


class Unavailable(Problem):
    """The service can't answer for the moment: its database does not, or no worker."""

    status, code, title = HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Unavailable for the moment"


class CarriedProblem(HTTPException):
    """A problem met while a body is read: the framework's parsers let only this kind of error through."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail)
        self.problem = problem


_BY_STATUS: dict[int, type[Problem]] = {
    kind.status: kind
    for kind in (BadRequest, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType, Invalid, Problem)
}
"""Problems that the framework raises itself."""


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems of a route for its OpenAPI document."""
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


def install(app: FastAPI) -> None:
    """Map every error of the app to a problem document."""

    async def on_problem(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return error.response()

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        if isinstance(error.body, bytes):
            return _not_json(request).response()
        errors = field_problems(error.errors(), error.body, request.scope.get("endpoint"))
        detail = "; ".join(f"{item.pointer or 'the body'}: {item.message}" for item in errors)
        return Invalid(detail, errors=errors).response()

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, CarriedProblem):
            return error.problem.response()
        return _framework_problem(request, error).response()

    async def on_disconnect(_request: Request, _error: Exception) -> JSONResponse:
        return BadRequest("the connection ended before the body did").response()

    async def on_database_away(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s found no database: %s", request.method, request.url.path, error)
        return Unavailable(
            f"the database does not answer; try again in {RETRY_AFTER_SECONDS} s",
            hint="send the same Idempotency-Key again, and nothing is done twice",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        ).response()

    async def on_crash(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Problem(
            "the service met an error of its own",
            hint="try again with the same Idempotency-Key; if it stays, the server's log has the details",
        ).response()

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(kind, on_database_away)
    app.add_exception_handler(Exception, on_crash)


def _framework_problem(request: Request, error: HTTPException) -> Problem:
    kind = _BY_STATUS.get(error.status_code, Problem)
    headers = {}
    detail, hint = str(error.detail), None
    if kind is NotFound:
        detail, hint = f"there is nothing at {request.url.path}", "the routes are listed at /docs"
    elif kind is MethodNotAllowed:
        detail = f"{request.method} is not offered at {request.url.path}"
        headers["Allow"] = ", ".join(_methods_offered(request))
        hint = f"it offers {headers['Allow']}"
    elif kind is BadRequest and "parsing the body" in detail:
        detail, hint = "the body could not be read as JSON", "expected JSON in UTF-8"
    return kind(detail, hint=hint, headers=headers)


def _methods_offered(request: Request) -> list[str]:
    """Methods of a path; the framework names those of one route only."""
    offered: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template).replace(r"\{key\}", ".*"))
        if re.fullmatch(pattern, request.url.path):
            offered |= {method.upper() for method in operations}
    return sorted(offered) or ["GET"]


def _not_json(request: Request) -> UnsupportedMediaType:
    came = request.headers.get("content-type", "no type")
    return UnsupportedMediaType(
        f"expected a body of JSON, marked as such; it came as {came}",
        hint="add the header Content-Type: application/json",
    )
