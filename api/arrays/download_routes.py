"""Download of all arrays of a data set, a model or an inference as one file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.arrays.downloads.lfads_hdf5 import encode_lfads_hdf5
from api.arrays.downloads.stored_zarr import encode_stored_zarr
from api.arrays.downloads.whole import Whole, gather
from api.arrays.formats import Context, Encoded, Format
from api.arrays.formats.hdf5 import Hdf5
from api.arrays.formats.mat import Mat
from api.arrays.formats.npz import Npz
from api.arrays.formats.nwb import Nwb
from api.arrays.formats.zarr import Zarr
from api.arrays.group import FindGroup
from api.arrays.provenance import find_origin
from api.arrays.responses import ConditionsDependency, answer, in_thread
from api.arrays.service import CACHE, REVALIDATED
from api.dependencies import ArraysDependency, DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses

_BINARY = {"schema": {"type": "string", "format": "binary"}}


class DownloadQuery(BaseModel):
    """Parameters of a download; one that is not known is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    format_: Literal["npz", "hdf5", "mat", "nwb", "zarr"] = Field(
        "npz",
        alias="format",
        description="`hdf5` is in the key layout of LFADS users, `train_…` and `valid_…`; `zarr` is the group as stored, zipped.",
    )
    arrays: str | None = Field(
        None,
        max_length=4000,
        description="Names, e.g. `rates,factors`; their coordinates come with them. All unless given.",
    )


@dataclass(frozen=True)
class _Download:
    """A format of downloads: what it is called as, and how it is made."""

    format: Format
    encode: Callable[[Whole], Encoded]


_DOWNLOADS = {
    "npz": _Download(
        Npz(), lambda whole: Npz().encode((*whole.arrays, *whole.told_by_rows()), whole.context)
    ),
    "hdf5": _Download(Hdf5(), encode_lfads_hdf5),
    "mat": _Download(
        Mat(), lambda whole: Mat().encode((*whole.arrays, *whole.told_by_rows()), whole.context)
    ),
    "nwb": _Download(Nwb(), lambda whole: Nwb().encode(whole.arrays, whole.context)),
    "zarr": _Download(Zarr(), encode_stored_zarr),
}


def make_download_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """The route of the downloads of one kind of resource; parameters as `make_router`'s."""
    router = APIRouter(tags=["arrays"])

    @router.get(
        "/v1/" + plural + "/{owner_id}/download",
        operation_id=f"download_{kind}",
        response_class=Response,
        responses={
            200: {
                "description": "The file.",
                "content": {one.format.media_type: _BINARY for one in _DOWNLOADS.values()},
            },
            304: {"description": "You have it already."},
            **problem_responses(404, 409, 422),
        },
    )
    async def download(
        owner_id: str,
        query: Annotated[DownloadQuery, Query()],
        database: DatabaseDependency,
        arrays: ArraysDependency,
        settings: SettingsDependency,
        tenant_id: TenantDependency,
        conditions: ConditionsDependency,
    ) -> Response:
        """Download all arrays, or some, as one file: with coordinates, units, splits and the original order of trials."""
        chosen = _DOWNLOADS[query.format_]

        def make() -> Response:
            with database.read() as session:
                group = find_group(session, tenant_id, owner_id)
                context = Context(settings.json_max_elements, find_origin(session, database, arrays, group))
            wanted = None if query.arrays is None else [name.strip() for name in query.arrays.split(",")]
            whole = gather(group, arrays, wanted, context, is_dataset=kind == "dataset")
            return answer(
                chosen.format,
                owner_id,
                (group.path, "download", *sorted(whole.names)),
                conditions,
                REVALIDATED if group.may_change else CACHE,
                None,
                lambda: chosen.encode(whole),
            )

        return await in_thread(chosen.format, make)

    return router
