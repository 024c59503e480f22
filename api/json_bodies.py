"""JSON bodies are parsed, bounded and validated in threads, so that none of them delays the event loop."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio import to_thread
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from api.auth import caller_of
from api.errors import BadRequest, CarriedProblem, Invalid, Problem
from api.validation_errors import MOST_VALUES, excess_of

_SMALL_BYTES = 2**14
_small, _large = anyio.CapacityLimiter(2), anyio.CapacityLimiter(1)
"""Threads that read documents up to `_SMALL_BYTES`, and larger ones. They are few, since they compute: each running one delays
the event loop by the time after which Python switches threads."""


class JsonRoute(APIRoute):
    """A route that reads its JSON body in a thread, after the check of the key.

    The framework itself would parse and validate the body on the event loop. Every router with JSON bodies uses this class.
    """

    most_values = MOST_VALUES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give the handler a request that reads its body in this way."""
        handle, field, endpoint = super().get_route_handler(), self.body_field, self.endpoint
        if field is None:
            return handle

        def read(body: bytes) -> Any:
            document = _parse(body, self.most_values)
            value, errors = field.validate(document, loc=("body",))
            if errors:
                raise Invalid.of_request(RequestValidationError(errors, body=document), endpoint)
            return value

        async def handle_read(request: Request) -> Response:
            await to_thread.run_sync(caller_of, request)
            return await handle(_JsonRequest(request, read))

        return handle_read


class NumbersRoute(JsonRoute):
    """A `JsonRoute` whose body is mostly numbers: only the size of the body bounds how many."""

    most_values = 2**30


class _JsonRequest(Request):
    """A request whose `json` is the validated model. The framework does not validate a model a second time."""

    def __init__(self, request: Request, read: Callable[[bytes], Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._read = read

    async def json(self) -> Any:
        """Return the model.

        Raises
        ------
        CarriedProblem
            If the body is invalid.
        """
        body = await self.body()
        limiter = _small if len(body) <= _SMALL_BYTES else _large
        try:
            return await to_thread.run_sync(self._read, body, limiter=limiter)
        except Problem as problem:
            raise CarriedProblem(problem) from None


def _parse(body: bytes, most_values: int) -> Any:
    """Return the parsed body, if it is JSON of bounded size."""
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        message = f"expected JSON; {error.msg} at character {error.pos}"
        raise Invalid.field("", "json_invalid", message) from None
    except (ValueError, RecursionError):
        raise BadRequest("the body is not valid JSON", hint="expected JSON in UTF-8") from None
    if (excess := excess_of(document, most_values)) is not None:
        raise Invalid.field("", "document_size", f"the document has {excess}", "send a smaller document")
    return document
