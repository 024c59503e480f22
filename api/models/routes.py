"""Routes of models."""

from fastapi import APIRouter

from api.dependencies import DatabaseDependency, TenantDependency
from api.errors import problem_responses
from api.models import service
from api.models.schemas import LearningCurve, ModelDocument

router = APIRouter(tags=["models"])


@router.get("/v1/models/{model_id}", operation_id="get_model", responses=problem_responses(404))
def get_model(model_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> ModelDocument:
    """Read a model: hyperparameters, state, scores."""
    with database.read() as session:
        return service.find_document(session, tenant_id, model_id)


@router.get(
    "/v1/models/{model_id}/learning_curve",
    operation_id="get_learning_curve",
    responses=problem_responses(404),
)
def get_learning_curve(
    model_id: str, database: DatabaseDependency, tenant_id: TenantDependency
) -> LearningCurve:
    """Read the learning curve of a model, as far as it has come."""
    with database.read() as session:
        service.find(session, tenant_id, model_id)
        return service.learning_curve(session, model_id)
