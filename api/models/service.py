"""The database operations of the routes of models."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.arrays.groups import ArrayGroup
from api.errors import Gone, Invalid, NotFound, WrongState
from api.models.schemas import CurvePointDocument, LearningCurve, ModelDocument
from domain.job_specification import JobSpecification, scored_on
from domain.sessions import RecordedSession, sessions_of
from domain.states import JobState, ModelState
from store.database import LOCK
from store.identifiers import PATTERN
from store.retention import is_swept, why_gone
from store.tables import CurvePoint, Dataset, Job, Model


def document(row: Model, selected_model_id: str | None, scored_on: str) -> ModelDocument:
    """Return the document of a model; `scored_on` is that of its job."""
    base = f"/v1/models/{row.id}"
    links = {"self": base, "job": f"/v1/jobs/{row.job_id}", "learning_curve": f"{base}/learning_curve"}
    links["card"] = f"{base}/card"
    if row.checkpoint_key is not None and ModelState(row.state).is_final:
        links |= {"export": f"{base}/export", "dynamics": f"{base}/dynamics"}
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
    _check_not_deleting(session.get_one(Job, row.job_id))
    return row


def _check_not_deleting(job: Job) -> None:
    if job.state == JobState.DELETING:
        raise NotFound(f"the job {job.id} is being deleted, with its models")


def find_document(session: Session, tenant_id: str, model_id: str) -> ModelDocument:
    """Return the document of the tenant's model, or raise `NotFound`."""
    row = find(session, tenant_id, model_id)
    job = session.get_one(Job, row.job_id)
    dataset = session.get_one(Dataset, job.dataset_id)
    return document(row, job.selected_model_id, scored_on(JobSpecification.model_validate(job.spec), dataset))


def scored_on_of(row: Model, of_job: str) -> str:
    """Return the fingerprint of a model's SV loss, given its job's. A refit was trained on the validation trials."""
    return of_job if row.refit_of is None else f"{of_job}-refit"


def find_latents(session: Session, tenant_id: str, model_id: str) -> ArrayGroup:
    """Return the latents of the tenant's model, or raise `NotFound` or `WrongState`."""
    row = find(session, tenant_id, model_id)
    job = session.get_one(Job, row.job_id)
    if row.latents_path is None and row.latents_deleted_at is not None:
        raise NotFound(
            f"the latents of the model {model_id} were deleted at {row.latents_deleted_at:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"to compute them again: POST /v1/models/{model_id}:apply",
        )
    if row.latents_path is None:
        raise WrongState(
            f"the model {model_id} is {row.state} and has no latents: its job {job.id} is {job.state}",
            hint=f"a job stores those of the model that it selects, once all have been trained: GET /v1/jobs/{job.id}; for those "
            f"of any other: POST /v1/models/{model_id}:apply",
        )
    return ArrayGroup(row.latents_path, job.dataset_id, f"the model {model_id}", may_change=True)


@dataclass(frozen=True)
class TrainedModel:
    """A model that has weights, and its training data.

    Attributes
    ----------
    row, checkpoint_key
        The model and its weights.
    job, dataset, sessions
        The job of the model, the data set of the job, and the sessions of the data set.
    """

    row: Model
    checkpoint_key: str
    job: Job
    dataset: Dataset
    sessions: list[RecordedSession]

    @property
    def architecture(self) -> dict[str, Any]:
        """The architecture in the row, which excludes the numbers of neurons."""
        return self.row.architecture

    @property
    def specification(self) -> JobSpecification:
        """The specification of the job."""
        return JobSpecification.model_validate(self.job.spec)


def find_trained(session: Session, tenant_id: str, model_id: str, *, lock: bool = False) -> TrainedModel:
    """Return the tenant's model if it can run.

    Parameters
    ----------
    session, tenant_id, model_id
        The transaction, the tenant, and the model.
    lock
        Lock the job, so that no other transaction deletes the weights before this one ends.

    Raises
    ------
    NotFound, WrongState
        If the model does not exist, is still training, or has no weights.
    """
    row = find(session, tenant_id, model_id)
    job = session.get_one(Job, row.job_id, with_for_update=LOCK if lock else None, populate_existing=lock)
    if lock:
        _check_not_deleting(job)
        session.refresh(row)
    if not ModelState(row.state).is_final:
        raise WrongState(
            f"the model {model_id} is {row.state}; expected a model whose training has ended",
            hint=f"wait for the job, GET /v1/jobs/{job.id}, or end its training now: POST /v1/jobs/{job.id}:stop",
        )
    if row.checkpoint_key is None:
        kept = JobSpecification.model_validate(job.spec).budget.top_k
        if not row.epochs_trained:
            raise WrongState(f"the model {model_id} is {row.state} and was never trained")
        if is_swept(session, job, "checkpoints"):
            raise WrongState(
                f"the model {model_id} has no weights any more: {why_gone('checkpoints')}",
                hint=f"the selected model of the job and its refit keep their weights: GET /v1/jobs/{job.id}",
            )
        raise WrongState(
            f"the model {model_id} is {row.state} and has no weights any more: its job kept those of its {kept} best models",
            hint=f"use one of the best models, GET /v1/jobs/{job.id}; a job with a larger budget.top_k keeps more weights",
        )
    dataset = session.get_one(Dataset, job.dataset_id)
    return TrainedModel(row, row.checkpoint_key, job, dataset, sessions_of(dataset))


def choose_session(model: TrainedModel, given: int | None) -> int:
    """Return the number of the model's session. It may be omitted if the model has a single session.

    Raises
    ------
    Invalid
        If the number does not exist, or is missing.
    """
    number = len(model.sessions)
    if given is None and number == 1:
        return 0
    if given is None or given >= number:
        listed = ", ".join(f"{index}: {one.neurons} neurons" for index, one in enumerate(model.sessions))
        got = "none" if given is None else given
        message = f"expected 0 … {number - 1}, the session of the model whose neurons these are; got {got}"
        raise Invalid.field("/session", "session", message, f"the sessions are {listed}")
    return given


def learning_curve(session: Session, tenant_id: str, model_id: str) -> LearningCurve:
    """Return the learning curve of the tenant's model so far.

    Raises
    ------
    NotFound, Gone
        If the model does not exist, or the age of its curve has removed it.
    """
    row = find(session, tenant_id, model_id)
    of_model = select(CurvePoint).where(CurvePoint.model_id == model_id)
    points = session.execute(of_model.order_by(CurvePoint.epoch)).scalars().all()
    job = session.get_one(Job, row.job_id)
    if not points and row.epochs_trained and is_swept(session, job, "thinned_curves"):
        raise Gone(
            f"the model {model_id} has no learning curve any more: {why_gone('thinned_curves')}",
            hint=f"its scores stay: GET /v1/models/{model_id}; so do the curves of the selected model and of its refit",
        )
    return LearningCurve(
        model_id=model_id,
        is_thinned=row.epochs_trained > len(points) and is_swept(session, job, "curves"),
        points=[CurvePointDocument.model_validate(point, from_attributes=True) for point in points],
    )
