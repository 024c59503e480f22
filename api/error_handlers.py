"""The one place that turns every error into ``application/problem+json`` (RFC 9457)."""

import logging
import re

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.errors import (
    RETRY_AFTER_SECONDS,
    BadRequest,
    CarriedProblem,
    DiskFull,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Problem,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from store import metrics
from store.disk_errors import is_disk_error

logger = logging.getLogger(__name__)

_describing = CapacityLimiter(1)
"""Threads that describe invalid requests."""
_BY_STATUS: dict[int, type[Problem]] = {
    kind.status: kind
    for kind in (BadRequest, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType, Invalid, Problem)
}
"""Our class for each error that the framework raises."""


def install(app: FastAPI) -> None:
    """Map every error of the app to a problem document."""

    async def on_problem(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return error.response()

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        if isinstance(error.body, bytes):
            return _not_json(request).response()
        endpoint = request.scope.get("endpoint")
        problem = await to_thread.run_sync(Invalid.of_request, error, endpoint, limiter=_describing)
        return problem.response()

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, CarriedProblem):
            return error.problem.response()
        return _framework_problem(request, error).response()

    async def on_disconnect(_request: Request, _error: Exception) -> JSONResponse:
        return BadRequest("the connection closed before the whole body arrived").response()

    async def on_database_away(request: Request, error: Exception) -> JSONResponse:
        if is_disk_error(error):
            return await on_os_error(request, error)
        if isinstance(error, PoolTimeout):
            metrics.pool_timeouts.labels("api").inc()
        logger.error("%s %s: no connection to the database: %s", request.method, request.url.path, error)
        return Unavailable(
            f"the database does not respond; try again in {RETRY_AFTER_SECONDS} s",
            hint="repeat the request with the same Idempotency-Key, so that nothing is done twice",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        ).response()

    async def on_os_error(request: Request, error: Exception) -> JSONResponse:
        if not is_disk_error(error):
            return await on_crash(request, error)
        logger.error("%s %s: the disk is full or read-only: %s", request.method, request.url.path, error)
        return DiskFull.of_service().response()

    async def on_crash(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Problem(
            "the service has an internal error",
            hint="try again with the same Idempotency-Key; if the error remains, see the log of the API",
        ).response()

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(kind, on_database_away)
    app.add_exception_handler(OSError, on_os_error)
    app.add_exception_handler(Exception, on_crash)


def _framework_problem(request: Request, error: HTTPException) -> Problem:
    kind = _BY_STATUS.get(error.status_code, Problem)
    headers = {}
    detail, hint = str(error.detail), None
    if kind is NotFound:
        detail, hint = f"there is no route {request.url.path}", "/docs lists the routes"
    elif kind is MethodNotAllowed:
        detail = f"{request.url.path} does not support {request.method}"
        headers["Allow"] = ", ".join(_allowed_methods(request))
        hint = f"it supports {headers['Allow']}"
    elif kind is BadRequest and "parsing the body" in detail:
        detail, hint = "the body is not valid JSON", "expected JSON in UTF-8"
    return kind(detail, hint=hint, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return all methods of a path; the framework names the methods of one route only."""
    allowed: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template).replace(r"\{key\}", ".*"))
        if re.fullmatch(pattern, request.url.path.removeprefix(request.scope.get("root_path", ""))):
            allowed |= {method.upper() for method in operations}
    return sorted(allowed) or ["GET"]


def _not_json(request: Request) -> UnsupportedMediaType:
    given = request.headers.get("content-type", "none")
    return UnsupportedMediaType(
        f"expected the Content-Type application/json; got {given}",
        hint="add the header Content-Type: application/json",
    )
