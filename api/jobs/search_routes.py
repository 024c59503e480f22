"""Routes of the results of a search: decisions, lineage, importance."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse

from api.computing.computing import COMPUTING_RESPONSES, ComputingDependency
from api.dependencies import DatabaseDependency, TenantDependency
from api.errors import problem_responses
from api.http.http_cache import NOT_MODIFIED, REVALIDATED, matches_tag
from api.http.pagination import Page, PageSize, PageToken
from api.jobs import curves, lineage, service
from api.jobs.importance import importance
from api.jobs.schemas import CurvesDocument
from api.jobs.search_schemas import DecisionDocument, JobImportance, JobLineage

router = APIRouter(tags=["jobs"])

ModelNumber = Annotated[
    int | None,
    Query(
        ge=0,
        le=2**31 - 1,
        description="Number of the model to follow; default: the selected model, else the best so far.",
    ),
]
_FOLLOWS_A_MODEL = problem_responses(404, 409, 422)


@router.get(
    "/v1/jobs/{job_id}/decisions", operation_id="list_decisions", responses=problem_responses(404, 422)
)
def list_decisions(
    job_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Page[DecisionDocument]:
    """List the decisions of the strategy in order: which models begin, continue, copy another or end, with reasons."""
    with database.read() as session:
        return lineage.list_decisions(
            session, service.find(session, tenant_id, job_id), page_size, page_token
        )


@router.get(
    "/v1/jobs/{job_id}/curves",
    operation_id="get_curves",
    response_model=CurvesDocument,
    responses=NOT_MODIFIED | problem_responses(404, 422) | COMPUTING_RESPONSES,
)
async def get_curves(
    job_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    computing: ComputingDependency,
    *,
    points: Annotated[
        int,
        Query(
            ge=2, le=2000, description="Most points of each model, besides its first, best and last epoch."
        ),
    ] = 200,
    after: Annotated[
        str | None,
        Query(
            max_length=4000,
            description="`next_after` of an earlier response: only later points are returned.",
        ),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Read the learning curves of all models of a job, with every `step`-th epoch."""

    def work() -> Response:
        with database.read() as session:
            found = curves.job_curves(session, service.find(session, tenant_id, job_id), points, after)
            headers = {"ETag": found.etag, "Cache-Control": REVALIDATED}
            if matches_tag(if_none_match, found.etag):
                return Response(status_code=304, headers=headers)
            return Response(found.json(session), media_type="application/json", headers=headers)

    return await computing.run(work)


@router.get("/v1/jobs/{job_id}/lineage", operation_id="get_lineage", responses=_FOLLOWS_A_MODEL)
def get_lineage(
    job_id: str, database: DatabaseDependency, tenant_id: TenantDependency, model: ModelNumber = None
) -> JobLineage:
    """Follow a model back through the models that it copied, with the hyperparameters of every epoch."""
    with database.read() as session:
        return lineage.job_lineage(session, service.find(session, tenant_id, job_id), model)


@router.get(
    "/v1/jobs/{job_id}/lineage.svg",
    operation_id="draw_lineage",
    response_class=Response,
    responses={
        200: {"description": "The picture.", "content": {"image/svg+xml": {"schema": {"type": "string"}}}},
        **_FOLLOWS_A_MODEL,
        **COMPUTING_RESPONSES,
    },
)
async def draw_lineage(
    job_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    computing: ComputingDependency,
    model: ModelNumber = None,
) -> Response:
    """Draw the whole search as SVG: a line for each model, an arrow for each copy, the lineage of one model highlighted."""

    def work() -> Response:
        with database.read() as session:
            job = service.find(session, tenant_id, job_id)
            models, decisions = lineage.read_models(session, job), lineage.read_decisions(session, job)
            followed = lineage.followed_model(job, models, model)
        from api.jobs.lineage_picture import draw  # matplotlib takes a second to import

        picture = draw(job, models, decisions, followed)
        return Response(picture, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})

    return await computing.run(work)


@router.get(
    "/v1/jobs/{job_id}/importance",
    operation_id="get_importance",
    response_model=JobImportance,
    responses=problem_responses(404) | COMPUTING_RESPONSES,
)
async def get_importance(
    job_id: str, database: DatabaseDependency, tenant_id: TenantDependency, computing: ComputingDependency
) -> Response:
    """Read which searched hyperparameters matter, and the losses of models along each of them."""

    def work() -> Response:
        with database.read() as session:
            found = importance(session, service.find(session, tenant_id, job_id))
        return JSONResponse(found.model_dump(mode="json"))

    return await computing.run(work)
