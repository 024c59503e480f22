"""Routes of data sets that are made of others."""

from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from api.datasets.combine import Combination, combine
from api.datasets.routes import FOUND, answer
from api.datasets.schemas import DatasetDocument
from api.dependencies import DatabaseDependency, TenantDependency
from api.errors import problem_responses
from api.idempotency import IdempotencyKey

router = APIRouter(tags=["data sets"])

_COMBINATIONS: dict[str, Example] = {
    "two_days": {
        "summary": "Two days of one animal",
        "value": {
            "name": "both days",
            "dataset_ids": ["dat_0192f3c4a5b6aabbccddeeff", "dat_0192f3c4a5b6001122334455"],
        },
    }
}


@router.post(
    "/v1/datasets:combine",
    operation_id="combine_datasets",
    status_code=202,
    responses=FOUND | problem_responses(400, 404, 409, 413, 415, 422),
)
def combine_datasets(
    combination: Annotated[Combination, Body(openapi_examples=_COMBINATIONS)],
    response: Response,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Make one data set of several sessions, whose models share their dynamics; the same ones in the same order are the same."""
    with database.write() as session:
        made = combine(session, tenant_id, combination, idempotency_key)
    return answer(response, made)
