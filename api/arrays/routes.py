"""Routes of arrays, the same for data sets, models and inferences."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from api.arrays import service
from api.arrays.formats import FORMATS, Context, choose_format
from api.arrays.group import FindGroup
from api.arrays.provenance import find_origin
from api.arrays.query import ArrayQuery, ask, how_long_kept, what_decides
from api.arrays.responses import ConditionsDependency, answer, coding_of, in_thread, ranges_of, unchanged
from api.arrays.schemas import ArrayList, ArrayValues
from api.arrays.transformations.parameters import Surroundings
from api.dependencies import ArraysDependency, DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The values.",
        "model": ArrayValues,
        "content": {one.media_type: _BINARY for one in FORMATS if one.name != "json"},
    },
    304: {"description": "You have them already."},
}
_RANGE: dict[int | str, dict[str, Any]] = {
    206: {
        "description": "A range of the bytes of an npy file.",
        "content": {"application/octet-stream": _BINARY},
    }
}


def make_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """Routes of the arrays of one kind of resource.

    Parameters
    ----------
    kind, plural
        ``dataset`` and ``datasets``, ``model`` and ``models``, …
    find_group
        Finds the group of a resource.
    """
    router = APIRouter(tags=["arrays"])
    base = "/v1/" + plural + "/{owner_id}"

    @router.get(base + "/arrays", operation_id=f"list_{kind}_arrays", responses=problem_responses(404, 409))
    def list_arrays(
        owner_id: str, database: DatabaseDependency, arrays: ArraysDependency, tenant_id: TenantDependency
    ) -> ArrayList:
        """List the arrays with their dims, units and types."""
        with database.read() as session:
            group = find_group(session, tenant_id, owner_id)
        return service.list_arrays(arrays, group.path, f"/v1/{plural}/{owner_id}")

    @router.head(
        base + "/arrays/{name}",
        operation_id=f"head_{kind}_array",
        response_class=Response,
        responses=_ANSWERS | problem_responses(404, 406, 409, 422),
    )
    @router.get(
        base + "/arrays/{name}",
        operation_id=f"read_{kind}_array",
        response_class=Response,
        responses=_ANSWERS | _RANGE | problem_responses(404, 406, 409, 416, 422),
    )
    async def read_array(
        owner_id: str,
        name: str,
        query: Annotated[ArrayQuery, Query()],
        database: DatabaseDependency,
        arrays: ArraysDependency,
        settings: SettingsDependency,
        tenant_id: TenantDependency,
        conditions: ConditionsDependency,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Response:
        """Read an array, or a part of it, or what is made of it."""
        chosen = choose_format(query.format_, accept)

        def make() -> Response:
            with database.read() as session:
                group = find_group(session, tenant_id, owner_id)
                surroundings = Surroundings(session, arrays, tenant_id, group)
                decides = what_decides(name, query, surroundings)
                kept = how_long_kept(query, group)
                if (same := unchanged(chosen, decides, conditions, kept)) is not None:
                    return same
                found = ask(name, query, surroundings)
                origin = find_origin(session, database, arrays, group)
            context = Context(settings.json_max_elements, origin)
            return answer(
                chosen,
                name,
                decides,
                conditions,
                kept,
                coding_of(found[0], chosen, conditions),
                lambda: chosen.encode(found, context),
                ranges_of(chosen, found[0]),
            )

        return await in_thread(chosen, make)

    return router
