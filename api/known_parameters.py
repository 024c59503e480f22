"""Query parameters that a route doesn't have are refused, as fields are that a document doesn't have."""

from collections.abc import Iterator

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel


def _refuse_unknown(request: Request) -> None:
    """Raise unless the route has all parameters that came; models of parameters refuse what they don't have themselves."""
    route = request.scope["route"]
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = set[str]()
    for name, kind in _parameters(route.dependant):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return
        known.add(name)
    unknown = [
        {"type": "extra_forbidden", "loc": ("query", name), "known": known}
        for name in request.query_params
        if name not in known
    ]
    if unknown:
        raise RequestValidationError(unknown)


def _parameters(dependant: Dependant) -> Iterator[tuple[str, object]]:
    """Name and type of each query parameter of a route and of what it depends on."""
    for field in dependant.query_params:
        yield field.alias, field.field_info.annotation
    for further in dependant.dependencies:
        yield from _parameters(further)


KNOWN_PARAMETERS = Depends(_refuse_unknown)
"""Of every router whose callers are known."""
