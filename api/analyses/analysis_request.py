"""How the routes of analyses come from a question to an answer: one way for all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Header, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.analyses.schemas import ArrayOfTrials
from api.arrays.group import ArrayGroup, FindGroup
from api.arrays.query import ArrayQuery, what_decides
from api.arrays.service import REVALIDATED, etag, matches_tag
from api.arrays.transformations.context import Surroundings
from api.dependencies import ArraysDependency, DatabaseDependency, SettingsDependency, TenantDependency
from store.tables import Dataset

VERSION = "2"
"""Goes up when an analysis answers otherwise, so that nobody keeps the old answer."""
HEAVY = CapacityLimiter(2)
"""Analyses at a time: each takes a core for as long as it lasts, and others wait without holding a thread."""

T = TypeVar("T")
Work = Callable[[], Response]
Kind = Literal["png", "svg"]
MEDIA_TYPES: dict[Kind, str] = {"png": "image/png", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asking:
    """Who asks about what, and what is there to answer."""

    owner_id: str
    tenant_id: str
    if_none_match: str | None
    database: DatabaseDependency
    arrays: ArraysDependency
    settings: SettingsDependency

    async def answer(
        self,
        find_group: FindGroup,
        query: ArrayOfTrials,
        shared: ArrayQuery,
        begin: Callable[[Surroundings], Work],
        *others: str,
    ) -> Response:
        """Answer a question, or 304 if the client has the answer.

        Parameters
        ----------
        find_group
            Finds whose arrays they are.
        query, shared
            The whole question, and what of it is about one array.
        begin
            Looks at the question with a session of the database, and gives the work that is left.
        others
            What else the answer hangs on, such as its format.
        """

        def decides(surroundings: Surroundings) -> tuple[str, ...]:
            asked = type(query).__name__, query.model_dump_json(exclude_defaults=True)
            return VERSION, *asked, *what_decides(query.array, shared, surroundings), *others

        tag = etag(*await to_thread.run_sync(self._with_surroundings, find_group, decides))
        if matches_tag(self.if_none_match, tag):
            return Response(status_code=304, headers=self._headers(tag))
        response = await self.compute(find_group, begin)
        response.headers.update(self._headers(tag))
        return response

    async def compute(self, find_group: FindGroup, begin: Callable[[Surroundings], Work]) -> Response:
        """Do the work of a question, when its turn comes."""
        return await to_thread.run_sync(
            lambda: self._with_surroundings(find_group, begin)(), limiter=HEAVY, abandon_on_cancel=False
        )

    def _with_surroundings(self, find_group: FindGroup, look: Callable[[Surroundings], T]) -> T:
        with self.database.read() as session:
            group = find_group(session, self.tenant_id, self.owner_id)
            return look(Surroundings(session, self.arrays, self.tenant_id, group))

    def _headers(self, tag: str) -> dict[str, str]:
        return {"ETag": tag, "Cache-Control": REVALIDATED}


def _asking(
    owner_id: str,
    database: DatabaseDependency,
    arrays: ArraysDependency,
    settings: SettingsDependency,
    tenant_id: TenantDependency,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Asking:
    return Asking(owner_id, tenant_id, if_none_match, database, arrays, settings)


AskingDependency = Annotated[Asking, Depends(_asking)]


def dataset_group(surroundings: Surroundings) -> ArrayGroup:
    """The arrays of the data set whose trials those of an owner are."""
    row = surroundings.session.get_one(Dataset, surroundings.group.dataset_id)
    return ArrayGroup(row.array_path or "", row.id, f"the data set {row.id}")


def json_response(document: BaseModel) -> JSONResponse:
    """A document as an answer."""
    return JSONResponse(document.model_dump(mode="json"))


def picture_response(picture: bytes, kind: Kind) -> Response:
    """A picture as an answer."""
    return Response(picture, media_type=MEDIA_TYPES[kind])


def picture_answers(kind: Kind) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that draws."""
    schema = {"type": "string", "format": "binary"} if kind == "png" else {"type": "string"}
    return {
        200: {"description": "The picture.", "content": {MEDIA_TYPES[kind]: {"schema": schema}}},
        **UNCHANGED,
    }


UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "You have it already."}}


def or_none(values: Any) -> Any:
    """Numbers in lists as JSON has them: null for what is no number."""
    if isinstance(values, Sequence):
        return [or_none(value) for value in values]
    return values if math.isfinite(values) else None
