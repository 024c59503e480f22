"""Routes of arrays, the same for data sets, models and inferences."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from api.arrays import service
from api.arrays.formats import FORMATS, choose_format
from api.arrays.group import FindGroup
from api.arrays.query import ArrayQuery, ask
from api.arrays.schemas import ArrayList, ArrayValues
from api.arrays.transformations.parameters import Surroundings
from api.dependencies import ArraysDependency, DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses

_BINARY = {"schema": {"type": "string", "format": "binary"}}


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

    @router.get(
        base + "/arrays/{name}",
        operation_id=f"read_{kind}_array",
        response_class=Response,
        responses={
            200: {
                "description": "The values.",
                "model": ArrayValues,
                "content": {one.media_type: _BINARY for one in FORMATS if one.name != "json"},
            },
            304: {"description": "You have them already."},
            **problem_responses(404, 406, 409, 422),
        },
    )
    def read_array(
        owner_id: str,
        name: str,
        query: Annotated[ArrayQuery, Query()],
        database: DatabaseDependency,
        arrays: ArraysDependency,
        settings: SettingsDependency,
        tenant_id: TenantDependency,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Read an array, or a part of it, or what is made of it."""
        chosen = choose_format(query.format_, accept)
        with database.read() as session:
            group = find_group(session, tenant_id, owner_id)
            found = ask(name, query, Surroundings(session, arrays, tenant_id, group))
        asked = query.model_dump_json(exclude={"format_"}, exclude_defaults=True)
        tag = service.etag(group.path, name, asked, chosen.name)
        headers = {"ETag": tag, "Cache-Control": service.CACHE, "Vary": "Accept"}
        if service.matches_tag(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        encoded = chosen.encode(found, settings.json_max_elements)
        if encoded.size is not None:
            headers["Content-Length"] = str(encoded.size)
        if chosen.name != "json":
            headers["Content-Disposition"] = f'attachment; filename="{name}.{chosen.ending}"'
        return StreamingResponse(encoded.pieces, media_type=chosen.media_type, headers=headers)

    return router
