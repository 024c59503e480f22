"""One tree of errors, answered as RFC 9457 ``application/problem+json`` in one place."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

TYPE_PREFIX = "urn:latentry:problem:"
MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(description="JSON pointer into the body, or the name of a parameter.")
    code: str
    message: str = Field(description="What was expected, and what came.")
    hint: str | None = Field(None, description="What to do.")


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=[TYPE_PREFIX + "not-found"])
    title: str
    status: int
    detail: str
    hint: str | None = None
    errors: list[FieldProblem] | None = None


class Problem(Exception):
    """Base of the errors that are answered to the client.

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

    status = HTTPStatus.INTERNAL_SERVER_ERROR
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
        return problem_response(
            self.status, self.code, self.title, self.detail, self.hint, self.errors, self.headers
        )


class NotFound(Problem):
    """There is no such thing, or it is another tenant's."""

    status, code, title = HTTPStatus.NOT_FOUND, "not-found", "Not found"


class WrongState(Problem):
    """The request does not fit the state of the thing it is about."""

    status, code, title = HTTPStatus.CONFLICT, "wrong-state", "Wrong state"


class Invalid(Problem):
    """The request is understood and can't be carried out as it is."""

    status, code, title = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "Invalid request"


class IdempotencyMismatch(Problem):
    """An `Idempotency-Key` came again with another request."""

    status, code, title = (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "Idempotency-Key used for another request",
    )


class UnsupportedFormat(Problem):
    """None of the formats that the client accepts is offered."""

    status, code, title = HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", "Format not offered"


class RangeNotSatisfiable(Problem):
    """The range lies outside the object."""

    status, code, title = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range", "Range not satisfiable"


_CODES_BY_STATUS = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid",
    500: "internal",
}
"""Problems that the framework raises itself."""

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "A problem of the request.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    },
    "5XX": {
        "description": "A problem of the service.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    },
}


def problem_response(
    status: int,
    code: str,
    title: str,
    detail: str,
    hint: str | None = None,
    errors: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Build the answer to an error."""
    document = ProblemDocument(
        type=TYPE_PREFIX + code, title=title, status=status, detail=detail, hint=hint, errors=errors
    )
    return JSONResponse(
        document.model_dump(exclude_none=True), status_code=status, headers=headers, media_type=MEDIA_TYPE
    )


def field_problem(error: dict[str, Any]) -> FieldProblem:
    """Turn one of pydantic's errors into ours: where, what was expected, what came."""
    location = [str(part) for part in error["loc"]]
    where, path = (location[0], location[1:]) if location else ("body", [])
    # pydantic puts names of union members into the path; a client knows only its own document
    path = [part for part in path if not (part in ("float", "Range", "int") or "[" in part)]
    pointer = "/" + "/".join(path) if where == "body" else "/".join(path) or where
    came = error.get("input")
    message = str(error["msg"]).removeprefix("Value error, ")
    if came is not None and not isinstance(came, dict | list | bytes) and str(came) not in message:
        message += f"; got {came!r}"
    return FieldProblem(pointer=pointer, code=str(error["type"]), message=message)


def install(app: FastAPI) -> None:
    """Map every error of the app to a problem document."""

    async def on_problem(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return error.response()

    async def on_validation(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [field_problem(dict(item)) for item in error.errors()]
        detail = "; ".join(f"{item.pointer}: {item.message}" for item in errors)
        return problem_response(422, "invalid", "Invalid request", detail, errors=errors)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        code = _CODES_BY_STATUS.get(status, status.phrase.lower().replace(" ", "-"))
        headers = dict(error.headers or {})
        if status == HTTPStatus.NOT_FOUND:
            detail, hint = f"there is nothing at {request.url.path}", "the routes are listed at /docs"
        elif status == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not offered at {request.url.path}"
            hint = f"it offers {headers.get('allow', 'other methods')}"
        elif status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail, hint = _too_large(request)
            headers["connection"] = "close"
        else:
            detail, hint = str(error.detail), None
        return problem_response(status, code, status.phrase, detail, hint, headers=headers)

    async def on_crash(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem_response(
            500,
            "internal",
            "Internal error",
            "the service met an error of its own; nothing was changed",
            "the server's log has the details",
        )

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_crash)


def _too_large(request: Request) -> tuple[str, str]:
    settings = request.app.state.settings
    is_upload = request.method == "POST" and request.url.path == "/v1/datasets"
    limit, name = (
        (settings.upload_max_bytes, "LATENTRY_UPLOAD_MAX_BYTES")
        if is_upload
        else (settings.body_max_bytes, "LATENTRY_BODY_MAX_BYTES")
    )
    came = request.headers.get("content-length")
    detail = f"the body may have at most {limit} bytes" + (f"; it has {came}" if came else "; it has more")
    return detail, f"ask whoever runs this service to raise {name}"
