"""Routes of the analyses of models, of inferences and, where they make sense, of data sets."""

from fastapi import APIRouter

from api.analyses.decoding_routes import make_decoding_router
from api.analyses.distances import make_distance_router
from api.analyses.nearest import make_nearest_router
from api.analyses.neurons import make_neurons_router
from api.arrays.groups import ArrayResource
from api.computing.computing import COMPUTING_RESPONSES


def make_analyses_router(resource: ArrayResource) -> APIRouter:
    """Return the routes of the analyses of one kind of resource."""
    router = APIRouter(responses=COMPUTING_RESPONSES)
    router.include_router(make_distance_router(resource))
    router.include_router(make_decoding_router(resource))
    if resource.kind != "dataset":
        router.include_router(make_neurons_router(resource))
        router.include_router(make_nearest_router(resource))
    return router
