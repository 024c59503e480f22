"""Deletion: what goes with a data set, a job, an inference or latents, and the request that workers then work off.

A request sets the state `deleting` and ends all leases in one short transaction, so that no worker writes for the resource any
more (fencing). `worker.maintenance.deletion` deletes rows, arrays and files, and the row of the resource last.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, String, cast, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from domain.states import DatasetState, InferenceState, JobState, ModelState, SliceState
from store import audit, outbox
from store.database import LOCK, database_now
from store.quotas import add_device_seconds, seconds_since_claim
from store.tables import (
    CurvePoint,
    Dataset,
    Decision,
    Deletion,
    Event,
    Inference,
    Job,
    Key,
    Model,
    Slice,
    Trial,
    WebhookDelivery,
)

DeletionKind = Literal["inference", "latents", "deliveries", "webhook", "job", "dataset"]
"""What can be deleted in the background, in the order in which workers delete it."""

OF_DATASET: dict[str, InstrumentedAttribute[Any]] = {"trials": Trial.dataset_id, "shares": Key.target_id}
OF_JOB: dict[str, InstrumentedAttribute[Any]] = {
    "slices": Slice.job_id,
    "events": Event.job_id,
    "decisions": Decision.job_id,
    "deliveries": WebhookDelivery.job_id,
    "shares": Key.target_id,
}
OF_MODEL: dict[str, InstrumentedAttribute[Any]] = {
    "curve_points": CurvePoint.model_id,
    "shares": Key.target_id,
}
"""Tables whose rows go with a data set, a job or a model, as the column that refers to it, by the name that clients see.

A new table needs only its line here: workers delete its rows, and the answer to a DELETE counts them.
"""

SHARED: dict[str, Any] = {"read": True}
"""Arguments of `with_for_update` for a row that a new row refers to. FOR SHARE: the row cannot be deleted until this transaction
ends."""


@dataclass(frozen=True)
class Scope:
    """The data sets, jobs and inferences that are deleted together.

    Parameters
    ----------
    dataset_ids
        A data set, and the data sets that were combined of it.
    job_ids
        Jobs on these data sets, or a single job.
    inference_ids
        Inferences of the models of these jobs, or on these data sets.
    """

    dataset_ids: Sequence[str]
    job_ids: Sequence[str]
    inference_ids: Sequence[str]


def mentions(column: Any, ids: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that the JSON of a column contains one of these ids."""
    return or_(*(cast(column, String).contains(one) for one in ids))


def dataset_scope(session: Session, dataset: Dataset) -> Scope:
    """Return what goes with a data set. A combined data set has a copy of its sessions, so it goes with each of them."""
    similar = select(Dataset).where(
        Dataset.tenant_id == dataset.tenant_id,
        Dataset.state != DatasetState.DELETING,
        mentions(Dataset.source, [dataset.id]),
    )
    combined = [
        one.id
        for one in session.execute(similar.order_by(Dataset.id)).scalars()
        if dataset.id in one.source.get("dataset_ids", [])
    ]
    ids = [dataset.id, *combined]
    jobs = select(Job.id).where(Job.dataset_id.in_(ids), Job.state != JobState.DELETING)
    return _scope(session, ids, session.execute(jobs.order_by(Job.id)).scalars().all())


def job_scope(session: Session, job: Job) -> Scope:
    """Return what goes with a job."""
    return _scope(session, [], [job.id])


def _scope(session: Session, dataset_ids: Sequence[str], job_ids: Sequence[str]) -> Scope:
    models = select(Model.id).where(Model.job_id.in_(job_ids))
    either = or_(Inference.dataset_id.in_(dataset_ids), Inference.model_id.in_(models))
    inferences = select(Inference.id).where(either, Inference.state != InferenceState.DELETING)
    found = session.execute(inferences.order_by(Inference.id)).scalars().all()
    return Scope(dataset_ids, job_ids, found)


def needing_weights(session: Session, tenant_id: str, job_ids: Collection[str]) -> list[str]:
    """Return the unfinished jobs that still have to begin models with the weights of these jobs."""
    unfinished = [state for state in JobState if not state.is_final]
    others = select(Job.id, Job.warm_models).where(
        Job.tenant_id == tenant_id,
        Job.state.in_(unfinished),
        Job.warm_models.is_not(None),
        Job.id.not_in(job_ids),
    )
    found = []
    for job_id, warm_models in session.execute(others.order_by(Job.id)):
        starts = [one for one in warm_models or [] if one.get("start_key") and one["job_id"] in job_ids]
        models = session.execute(select(Model.state, Model.start_key).where(Model.job_id == job_id)).all()
        waits = any(one.start_key and not ModelState(one.state).is_final for one in models)
        if starts and (waits or len(models) < len(warm_models or [])):
            found.append(job_id)
    return found


def request_deletion(session: Session, kind: DeletionKind, target_id: str, tenant_id: str) -> None:
    """Ask the workers to delete something. A second request changes nothing."""
    if session.get(Deletion, (kind, target_id)) is None:
        now = database_now(session)
        session.add(Deletion(kind=kind, target_id=target_id, tenant_id=tenant_id, requested_at=now))
    outbox.post(session, outbox.DELETE)
    session.flush()


def delete_job(session: Session, job: Job) -> None:
    """Let workers delete a job with its models, their arrays and their inferences. The caller holds the lock of the job."""
    add_device_seconds(session, job.tenant_id, _end_job(session, job))


def _end_job(session: Session, job: Job) -> float:
    """Let workers delete a job; return the device time of its running work."""
    if job.state != JobState.DELETING:
        audit.record(session, "job.deleted", job)
    now = database_now(session)
    job.state, job.ended_at = JobState.DELETING, job.ended_at or now
    session.flush()
    of_job = Slice.job_id == job.id
    running = session.execute(select(Slice).where(of_job, Slice.state == SliceState.LEASED)).scalars()
    used = sum(seconds_since_claim(session, piece) for piece in running)
    active = Slice.state.in_([SliceState.QUEUED, SliceState.LEASED])
    ended = {"state": SliceState.CANCELLED, "ended_at": now, "lease_token": None, "lease_expires_at": None}
    session.execute(_update(Slice).where(of_job, active).values(ended))
    models = select(Model.id).where(Model.job_id == job.id)
    used += _end_inferences(session, Inference.model_id.in_(models))
    revoke_shares(session, (Key.target_id == job.id) | Key.target_id.in_(models))
    request_deletion(session, "job", job.id, job.tenant_id)
    return used


def delete_dataset(session: Session, dataset: Dataset, scope: Scope) -> None:
    """Let workers delete a data set and all that `dataset_scope` found. An equal file makes a new data set from now on."""
    # As everywhere, jobs are locked before their slices; and data sets first, so that no job begins on one of them.
    rows = select(Dataset).where(Dataset.id.in_(scope.dataset_ids)).order_by(Dataset.id)
    locked = rows.with_for_update(**LOCK).execution_options(populate_existing=True)
    for row in session.execute(locked).scalars():
        if row.state != DatasetState.DELETING:
            audit.record(session, "dataset.deleted", row)
        row.state, row.digest = DatasetState.DELETING, None
        row.drop_lease()
        revoke_shares(session, Key.target_id == row.id)
        request_deletion(session, "dataset", row.id, row.tenant_id)
    jobs = select(Job).where(Job.id.in_(scope.job_ids)).order_by(Job.id).with_for_update(**LOCK)
    used = 0.0
    for job in session.execute(jobs.execution_options(populate_existing=True)).scalars():
        used += _end_job(session, job)
    used += _end_inferences(session, Inference.dataset_id.in_(scope.dataset_ids))
    add_device_seconds(session, dataset.tenant_id, used)


def delete_inference(session: Session, row: Inference) -> None:
    """Let workers delete an inference and its latents. The model loses them too, if it has no others."""
    used = _end_inferences(session, Inference.id == row.id)
    taken = (Model.id == row.model_id) & Model.latents_path.like(f"inferences/{row.id}/%")
    gone = {"latents_path": None, "latents_deleted_at": database_now(session)}
    session.execute(_update(Model).where(taken).values(gone))
    request_deletion(session, "inference", row.id, row.tenant_id)
    add_device_seconds(session, row.tenant_id, used)


def inference_with_latents(model: Model) -> str | None:
    """Return the id of the inference whose latents are those of a model; None if its job stored them."""
    kind, _, rest = (model.latents_path or "").partition("/")
    return rest.split("/")[0] if kind == "inferences" else None


def delete_latents(session: Session, model: Model) -> None:
    """Let workers delete the latents of a model. If an inference stored them, it is deleted too."""
    audit.record(session, "model.latents_deleted", model)
    inference_id = inference_with_latents(model)
    inference = None if inference_id is None else session.get(Inference, inference_id, with_for_update=True)
    model.latents_path, model.latents_deleted_at = None, database_now(session)
    session.flush()
    if inference is not None:
        delete_inference(session, inference)
    request_deletion(session, "latents", model.id, model.tenant_id)


def _update(table: type[Any]) -> Any:
    return update(table).execution_options(synchronize_session=False)


def revoke_shares(session: Session, condition: ColumnElement[bool]) -> None:
    """Revoke the shares that satisfy a condition, and record it."""
    shares = select(Key).where(Key.target_id.is_not(None), Key.revoked_at.is_(None), condition)
    for share in session.execute(shares.order_by(Key.id).with_for_update()).scalars():
        share.revoked_at = database_now(session)
        audit.record(session, "share.revoked", share)


def _end_inferences(session: Session, condition: ColumnElement[bool]) -> float:
    """Let no worker continue these inferences, which workers delete; return the device time of the running ones."""
    rows = (
        select(Inference).where(condition, Inference.state != InferenceState.DELETING).order_by(Inference.id)
    )
    used = 0.0
    for row in session.execute(rows.with_for_update().execution_options(populate_existing=True)).scalars():
        audit.record(session, "inference.deleted", row)
        used += seconds_since_claim(session, row) if row.state == InferenceState.RUNNING else 0.0
        row.state = InferenceState.DELETING
        row.drop_lease()
    session.flush()
    return used
