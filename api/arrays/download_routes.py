"""The route that downloads all arrays of a data set, a model or an inference as one file."""

from collections.abc import Callable
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.arrays.downloads import Contents, encode_stored_zarr, gather
from api.arrays.formats import Encoded, Format, WriteContext
from api.arrays.formats.hdf5 import Hdf5
from api.arrays.formats.mat import Mat
from api.arrays.formats.npy import Npz
from api.arrays.formats.nwb import Nwb
from api.arrays.formats.zarr import Zarr
from api.arrays.groups import ArrayResource
from api.arrays.lfads_hdf5 import encode_lfads_hdf5
from api.arrays.provenance import find_provenance
from api.arrays.responses import BINARY, ArrayResponse, ConditionsDependency
from api.computing.computing import COMPUTING_RESPONSES, ComputingDependency
from api.dependencies import ContextDependency
from api.errors import problem_responses
from api.http.http_cache import CACHE, NOT_MODIFIED, REVALIDATED


class DownloadQuery(BaseModel):
    """Parameters of a download; an unknown parameter is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    format_: Literal["npz", "hdf5", "mat", "nwb", "zarr"] = Field(
        "npz",
        alias="format",
        description="`hdf5` is in the key layout of LFADS users, `train_…` and `valid_…`; `zarr` is the group as stored, zipped.",
    )
    arrays: str | None = Field(
        None,
        max_length=4000,
        description="Names, e.g. `rates,factors`; their coordinates come with them. By default all.",
    )


_DOWNLOADS: dict[str, tuple[Format, Callable[[Contents], Encoded]]] = {
    "npz": (Npz(), lambda contents: Npz().encode(contents.with_facts(), contents.context)),
    "hdf5": (Hdf5(), encode_lfads_hdf5),
    "mat": (Mat(), lambda contents: Mat().encode(contents.with_facts(), contents.context)),
    "nwb": (Nwb(), lambda contents: Nwb().encode(contents.arrays, contents.context)),
    "zarr": (Zarr(), encode_stored_zarr),
}


def make_download_router(resource: ArrayResource) -> APIRouter:
    """Return the route of the downloads of one kind of resource."""
    router = APIRouter(tags=["arrays"], responses=COMPUTING_RESPONSES)

    @router.get(
        "/v1/" + resource.plural + "/{owner_id}/download",
        operation_id=f"download_{resource.kind}",
        response_class=Response,
        responses={
            200: {
                "description": "The file.",
                "content": {one.media_type: BINARY for one, _ in _DOWNLOADS.values()},
            },
            **NOT_MODIFIED,
            **problem_responses(404, 409, 422),
        },
    )
    async def download(
        owner_id: str,
        query: Annotated[DownloadQuery, Query()],
        service: ContextDependency,
        conditions: ConditionsDependency,
        computing: ComputingDependency,
    ) -> Response:
        """Download all arrays, or some, as one file: with coordinates, units, splits and the original order of trials."""
        chosen, encode = _DOWNLOADS[query.format_]

        def make() -> Response:
            with service.database.read() as session:
                context = resource.context(session, service, owner_id)
                provenance = find_provenance(context, service.database)
            group, writing = context.group, WriteContext(service.settings.json_max_elements, provenance)
            wanted = None if query.arrays is None else [name.strip() for name in query.arrays.split(",")]
            contents = gather(group, service.arrays, wanted, writing, is_dataset=resource.kind == "dataset")
            key = (group.path, "download", *sorted(contents.names))
            kept = REVALIDATED if group.may_change else CACHE
            return ArrayResponse(chosen, key, kept, conditions).send(owner_id, lambda: encode(contents))

        if chosen.is_written_first:
            return await computing.run(make)
        return computing.in_turns(await to_thread.run_sync(make))

    return router
