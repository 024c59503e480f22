"""Routes of analyses, the same for models, inferences and, where they make sense, data sets."""

from fastapi import APIRouter

from api.analyses.decoding_routes import make_decoding_router
from api.analyses.distances import make_distance_router
from api.analyses.nearest import make_nearest_router
from api.arrays.group import FindGroup


def make_analyses_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """Routes of the analyses of one kind of resource.

    Parameters
    ----------
    kind, plural
        ``dataset`` and ``datasets``, ``model`` and ``models``, …
    find_group
        Finds the group of a resource.
    """
    router = APIRouter()
    router.include_router(make_distance_router(kind, plural, find_group))
    router.include_router(make_decoding_router(kind, plural, find_group))
    if kind != "dataset":
        router.include_router(make_nearest_router(kind, plural, find_group))
    return router
