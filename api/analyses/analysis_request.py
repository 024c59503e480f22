"""The steps that every analysis takes from a request to a response."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Header, Response
from pydantic import BaseModel

from api.analyses.schemas import ArrayOfTrials
from api.arrays.groups import ArrayGroup, ArrayResource, ReadContext
from api.arrays.query import ArrayQuery, cache_key
from api.computing.computing import ComputingDependency
from api.dependencies import ContextDependency
from api.http.http_cache import REVALIDATED, etag, matches_tag
from api.http.on_loop import on_loop
from domain.cancellation import cancellation_point
from store.tables import Dataset

VERSION = "2"
"""Raise it when an analysis computes something else, so that clients drop their copies."""

Work = Callable[[], Response]


@dataclass(frozen=True)
class AnalysisRequest:
    """The resource that a request names, the parts of the service, and the copy that the client has."""

    owner_id: str
    service: ContextDependency
    computing: ComputingDependency
    if_none_match: Annotated[str | None, Header()] = None

    async def answer(
        self,
        resource: ArrayResource,
        query: ArrayOfTrials,
        shared: ArrayQuery,
        begin: Callable[[ReadContext], Work],
        *others: str,
    ) -> Response:
        """Return the response, or 304 if the client has a valid copy.

        Parameters
        ----------
        resource
            The kind of resource.
        query, shared
            The whole request, and the part of it that is about one array.
        begin
            Checks the request with a session of the database, and returns the remaining work.
        others
            What else the response depends on, such as its format.
        """
        headers = {"Cache-Control": REVALIDATED}

        def check(context: ReadContext) -> Work:
            asked = type(query).__name__, query.model_dump_json(exclude_defaults=True)
            tag = headers["ETag"] = etag(VERSION, *asked, *cache_key(query.array, shared, context), *others)
            if matches_tag(self.if_none_match, tag):
                return lambda: Response(status_code=304)
            cancellation_point()
            return begin(context)

        response = await self.compute(resource, check)
        response.headers.update(headers)
        return response

    async def compute(self, resource: ArrayResource, begin: Callable[[ReadContext], Work]) -> Response:
        """Do the work of a request, when it is the tenant's turn."""

        def run() -> Response:
            with self.service.database.read() as session:
                context = resource.context(session, self.service, self.owner_id)
                cancellation_point()
                work = begin(context)
            cancellation_point()
            return work()

        return await self.computing.run(run)


RequestDependency = Annotated[AnalysisRequest, on_loop(AnalysisRequest)]


def dataset_context(context: ReadContext) -> ReadContext:
    """Return the context of the data set whose trials the arrays hold."""
    row = context.session.get_one(Dataset, context.group.dataset_id)
    return replace(context, group=ArrayGroup(row.array_path or "", row.id, f"the data set {row.id}"))


def json_response(document: BaseModel) -> Response:
    """Return a document as a response. A large one is written several times as fast as by `JSONResponse`."""
    return Response(document.model_dump_json(), media_type="application/json")


def or_none(values: Any) -> Any:
    """Return numbers in lists as JSON can hold them: None in place of NaN and infinity."""
    if isinstance(values, Sequence):
        return [or_none(value) for value in values]
    return values if math.isfinite(values) else None
