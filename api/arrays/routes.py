"""Routes of arrays, the same for data sets, models and inferences.

A request passes these steps: parameters (`query.ArrayQuery`) → the part that is read (`selection.select`) → what is made of it
(`transformations.transform`) → the file (`formats`) → headers and bytes (`responses.ArrayResponse`).
"""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Response

from api.arrays.formats import WriteContext, choose_format
from api.arrays.groups import ArrayResource
from api.arrays.provenance import find_provenance
from api.arrays.query import ArrayList, ArrayQuery, cache_control, cache_key, describe_arrays, query_array
from api.arrays.responses import BINARY, ArrayResponse, ConditionsDependency, values_responses
from api.computing.computing import COMPUTING_RESPONSES, ComputingDependency
from api.dependencies import ContextDependency
from api.errors import problem_responses

_RANGE: dict[int | str, dict[str, Any]] = {
    206: {
        "description": "A range of the bytes of an npy file.",
        "content": {"application/octet-stream": BINARY},
    }
}


def make_array_router(resource: ArrayResource) -> APIRouter:
    """Return the routes of the arrays of one kind of resource."""
    router = APIRouter(tags=["arrays"], responses=COMPUTING_RESPONSES)
    kind = resource.kind
    base = "/v1/" + resource.plural + "/{owner_id}"

    @router.get(base + "/arrays", operation_id=f"list_{kind}_arrays", responses=problem_responses(404, 409))
    def list_arrays(owner_id: str, service: ContextDependency) -> ArrayList:
        """List the arrays with their dims, units and types."""
        with service.database.read() as session:
            group = resource.find_group(session, service.tenant_id, owner_id)
        return describe_arrays(group.opened(service.arrays), f"/v1/{resource.plural}/{owner_id}")

    @router.head(
        base + "/arrays/{name}",
        operation_id=f"head_{kind}_array",
        response_class=Response,
        responses=values_responses("The values.") | problem_responses(404, 406, 409, 422),
    )
    @router.get(
        base + "/arrays/{name}",
        operation_id=f"read_{kind}_array",
        response_class=Response,
        responses=values_responses("The values.") | _RANGE | problem_responses(404, 406, 409, 416, 422),
    )
    async def read_array(
        owner_id: str,
        name: str,
        query: Annotated[ArrayQuery, Query()],
        service: ContextDependency,
        conditions: ConditionsDependency,
        computing: ComputingDependency,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Response:
        """Read an array, or a part of it, or what is made of it."""
        chosen = choose_format(query.format_, accept)

        def make() -> Response:
            with service.database.read() as session:
                context = resource.context(session, service, owner_id)
                key = cache_key(name, query, context)
                response = ArrayResponse(chosen, key, cache_control(query, context.group), conditions)
                if (unchanged := response.unchanged()) is not None:
                    return unchanged
                found = query_array(name, query, context)
                writing = WriteContext(
                    service.settings.json_max_elements, find_provenance(context, service.database)
                )
            return response.send(name, lambda: chosen.encode(found, writing), found[0], has_ranges=True)

        if chosen.is_written_first or query.is_transformation:
            return await computing.run(make)
        return computing.in_turns(await to_thread.run_sync(make))

    return router
