"""Routes of distances between conditions."""

from collections import Counter
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.analyses.analysis_request import (
    RequestDependency,
    Work,
    json_response,
    or_none,
)
from api.analyses.schemas import Condition, DistancesDocument, DistancesPictureQuery, DistancesQuery
from api.analyses.trajectories import Trajectories, conditions_of, query_trajectories, shared_query
from api.arrays.groups import ArrayResource, ReadContext
from api.arrays.messages import invalid_parameter
from api.computing.picture_types import PictureKind, picture_answers, picture_response
from api.errors import problem_responses
from api.http.http_cache import NOT_MODIFIED
from domain.errors import NoValues, NoVariance
from domain.scores.distances import condition_distances

MOST_SUMS = 10_000_000
"""Largest product of conditions, bins and components: 80 MB of sums."""
MOST_COMPONENTS = 500
"""Most components of a covariance."""


def make_distance_router(resource: ArrayResource) -> APIRouter:
    """Return the routes of the distances of one kind of resource."""
    router = APIRouter(tags=["analyses"])
    base = "/v1/" + resource.plural + "/{owner_id}/distances"

    @router.get(
        base,
        operation_id=f"get_{resource.kind}_distances",
        response_model=DistancesDocument,
        responses=NOT_MODIFIED | problem_responses(404, 409, 422),
    )
    async def get_distances(
        query: Annotated[DistancesQuery, Query()], request: RequestDependency
    ) -> Response:
        """Compare the mean trajectories of conditions: a matrix of distances."""

        def begin(context: ReadContext) -> Work:
            work = begin_distances(query, context, request.service.settings.json_max_elements)
            return lambda: json_response(work())

        return await request.answer(resource, query, shared_query(query), begin)

    for picture in ("png", "svg"):
        _add_picture(router, base, resource, picture)
    return router


def _add_picture(router: APIRouter, base: str, resource: ArrayResource, picture: PictureKind) -> None:
    @router.get(
        f"{base}.{picture}",
        operation_id=f"draw_{resource.kind}_distances_{picture}",
        response_class=Response,
        responses=picture_answers(picture) | problem_responses(404, 409, 422),
    )
    async def draw_distances(
        query: Annotated[DistancesPictureQuery, Query()], request: RequestDependency
    ) -> Response:
        """Draw the distances between conditions."""

        def begin(context: ReadContext) -> Work:
            from api.analyses.pictures import draw_distances as draw  # matplotlib takes a second to import

            work = begin_distances(query, context, request.service.settings.json_max_elements)
            return lambda: picture_response(draw(work(), picture), picture)

        return await request.answer(resource, query, shared_query(query), begin, picture)


def begin_distances(
    query: DistancesPictureQuery, context: ReadContext, json_max_elements: int
) -> Callable[[], DistancesDocument]:
    """Check a request for distances, and return the remaining work.

    Raises
    ------
    Invalid
        If the request does not fit the array.
    """
    trajectories = query_trajectories(query.array, shared_query(query), context)
    by, conditions, codes = conditions_of(trajectories, query.by, context)
    over_time = isinstance(query, DistancesQuery) and query.over_time
    elements = trajectories.bins * len(conditions) ** 2
    if over_time and elements > json_max_elements:
        raise invalid_parameter(
            "over_time",
            f"{elements} distances would be answered; at most {json_max_elements} are",
            "take fewer conditions (where=), a part of the time (time_s=) or wider bins (rebin_s=)",
        )
    is_mahalanobis = query.metric == "mahalanobis"
    number = Counter(codes.tolist())

    def work() -> DistancesDocument:
        _check_size(trajectories, len(conditions), is_mahalanobis)
        try:
            found = condition_distances(
                trajectories, codes, mahalanobis=is_mahalanobis, unbiased=query.unbiased
            )
        except NoValues as error:
            raise invalid_parameter("array", str(error), "choose other trials or bins") from None
        except NoVariance as error:
            raise invalid_parameter("metric", str(error), "metric=euclidean needs none") from None
        return DistancesDocument(
            array=query.array,
            units="" if is_mahalanobis else trajectories.array.units,
            by=by,
            metric=query.metric,
            unbiased=query.unbiased,
            conditions=[Condition(value=value, trials=number[code]) for code, value in enumerate(conditions)],
            bins=found.bins,
            dimensions=found.dimensions,
            distances=or_none(found.overall.tolist()),
            time_s=None if trajectories.time_s is None or not over_time else trajectories.time_s.tolist(),
            over_time=or_none(found.by_bin.tolist()) if over_time else None,
        )

    return work


def _check_size(trajectories: Trajectories, conditions: int, is_mahalanobis: bool) -> None:
    needed = conditions * trajectories.bins * trajectories.components
    hint = "take fewer components (components=), wider bins (rebin_s=) or fewer conditions (where=)"
    if needed > MOST_SUMS:
        raise invalid_parameter(
            "array", f"conditions × bins × components may be at most {MOST_SUMS:,}; they are {needed:,}", hint
        )
    if is_mahalanobis and trajectories.components > MOST_COMPONENTS:
        raise invalid_parameter(
            "metric",
            f"mahalanobis takes at most {MOST_COMPONENTS} components; there are {trajectories.components}",
            hint,
        )
