"""What routes of models do in the database."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.arrays.groups import ArrayGroup
from api.errors import NotFound, WrongState
from api.models.schemas import CurvePointDocument, LearningCurve, ModelDocument
from domain.job_specification import JobSpecification, scored_on
from domain.states import ModelState
from store.identifiers import PATTERN
from store.tables import CurvePoint, Dataset, Job, Model


def document(row: Model, selected_model_id: str | None, scored_on: str) -> ModelDocument:
    """Return a model as it is answered; `scored_on` is that of its job."""
    base = f"/v1/models/{row.id}"
    links = {"self": base, "job": f"/v1/jobs/{row.job_id}", "learning_curve": f"{base}/learning_curve"}
    links["card"] = f"{base}/card"
    if row.checkpoint_key is not None and ModelState(row.state).is_final:
        links["export"] = f"{base}/export"
    if row.latents_path is not None:
        links |= {"arrays": f"{base}/arrays", "zarr": f"{base}/zarr"}
    return ModelDocument(
        id=row.id,
        job_id=row.job_id,
        number=row.number,
        state=row.state,
        is_selected=row.id == selected_model_id,
        seed=row.seed,
        architecture=row.architecture,
        hyperparameters=row.shown_hyperparameters,
        present_hyperparameters=row.hyperparameters,
        trained_by=row.trained_by,
        epochs_trained=row.epochs_trained,
        scores=row.scores,
        scored_on=scored_on_of(row, scored_on),
        baselines=row.baselines or {},
        baseline_settings=row.baseline_settings or {},
        end_reason=row.end_reason,
        created_at=row.created_at,
        ended_at=row.ended_at,
        links=links,
    )


def find(session: Session, tenant_id: str, model_id: str) -> Model:
    """Return the tenant's model, or raise `NotFound`."""
    row = session.get(Model, model_id) if PATTERN.fullmatch(model_id) else None
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(
            f"there is no model {model_id}", hint="GET /v1/jobs/{job_id}/models lists those of a job"
        )
    return row


def find_document(session: Session, tenant_id: str, model_id: str) -> ModelDocument:
    """Return the tenant's model as it is answered, or raise `NotFound`."""
    row = find(session, tenant_id, model_id)
    job = session.get_one(Job, row.job_id)
    dataset = session.get_one(Dataset, job.dataset_id)
    return document(row, job.selected_model_id, scored_on(JobSpecification.model_validate(job.spec), dataset))


def scored_on_of(row: Model, of_job: str) -> str:
    """Return the fingerprint of a model's SV loss, given its job's. A refit was trained on the validation trials."""
    return of_job if row.refit_of is None else f"{of_job}-final-fit"


def find_latents(session: Session, tenant_id: str, model_id: str) -> ArrayGroup:
    """The latents of the tenant's model, or raise `NotFound` or `WrongState`."""
    row = find(session, tenant_id, model_id)
    job = session.get_one(Job, row.job_id)
    if row.latents_path is None:
        raise WrongState(
            f"the model {model_id} is {row.state} and has no latents: its job {job.id} is {job.state}",
            hint=f"a job stores those of the model that it selects, once all have been trained: GET /v1/jobs/{job.id}; for those "
            f"of any other: POST /v1/models/{model_id}:apply",
        )
    return ArrayGroup(row.latents_path, job.dataset_id, f"the model {model_id}", may_change=True)


def learning_curve(session: Session, model_id: str) -> LearningCurve:
    """Every epoch of a model so far."""
    points = session.execute(
        select(CurvePoint).where(CurvePoint.model_id == model_id).order_by(CurvePoint.epoch)
    ).scalars()
    return LearningCurve(
        model_id=model_id,
        points=[CurvePointDocument.model_validate(point, from_attributes=True) for point in points],
    )
