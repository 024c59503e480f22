"""The database operations of the routes of inferences."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.arrays.groups import ArrayGroup
from api.errors import Invalid, NotFound, WrongState
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.http.pagination import DatasetIdFilter, JobIdFilter, ModelIdFilter, Page, newest_page
from api.inferences.checks import check_arrays, check_dataset, choose_sessions, find_target
from api.inferences.schemas import Application, InferenceDocument, InferenceProgress
from api.limits.quotas import check_amounts
from api.models.service import find_trained
from domain.states import InferenceState
from store import audit, outbox
from store.database import database_now
from store.identifiers import PATTERN, new_id
from store.quotas import add_device_seconds, seconds_since_claim
from store.settings import Settings
from store.tables import Dataset, Inference, Model


def document(session: Session, row: Inference) -> InferenceDocument:
    """Return the document of an inference."""
    base = f"/v1/inferences/{row.id}"
    links = {"self": base, "model": f"/v1/models/{row.model_id}", "dataset": f"/v1/datasets/{row.dataset_id}"}
    if row.latents_path is not None:
        links |= {"arrays": f"{base}/arrays", "zarr": f"{base}/zarr", "download": f"{base}/download"}
    trials = session.get_one(Dataset, row.dataset_id).trials or 0
    fraction = min(1.0, row.trials_done / max(1, trials))
    return InferenceDocument(
        id=row.id,
        model_id=row.model_id,
        dataset_id=row.dataset_id,
        state=row.state,
        progress=InferenceProgress(trials_done=row.trials_done, trials=trials, fraction=fraction),
        **row.options,
        scores=row.scores,
        baselines=row.baselines or {},
        baseline_settings=row.baseline_settings or {},
        error=row.error,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        ended_at=row.ended_at,
        links=links,
    )


def find(session: Session, tenant_id: str, inference_id: str, *, lock: bool = False) -> Inference:
    """Return the tenant's inference, or raise `NotFound`."""
    is_id = PATTERN.fullmatch(inference_id)
    row = session.get(Inference, inference_id, with_for_update=True if lock else None) if is_id else None
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no inference {inference_id}", hint="GET /v1/inferences lists yours")
    return row


def find_document(session: Session, tenant_id: str, inference_id: str) -> InferenceDocument:
    """Return the document of the tenant's inference, or raise `NotFound`."""
    return document(session, find(session, tenant_id, inference_id))


def find_latents(session: Session, tenant_id: str, inference_id: str) -> ArrayGroup:
    """Return the latents of the tenant's inference, or raise `NotFound` or `WrongState`."""
    row = find(session, tenant_id, inference_id)
    if row.state == InferenceState.DELETING:
        raise NotFound(f"the inference {inference_id} is being deleted")
    if row.latents_path is None:
        raise WrongState(
            f"the inference {inference_id} is {row.state}; expected one that is done",
            hint=f"wait for it: GET /v1/inferences/{inference_id} with the header Prefer: wait=30",
        )
    return ArrayGroup(row.latents_path, row.dataset_id, f"the inference {inference_id}")


def create(
    session: Session,
    settings: Settings,
    tenant_id: str,
    model_id: str,
    wanted: Application,
    idempotency_key: str | None,
) -> InferenceDocument:
    """Create an inference and notify a worker.

    Raises
    ------
    NotFound, WrongState, Invalid
        If the model or the data set cannot be used, or they do not match.
    """
    request = fingerprint(f"POST /v1/models/{model_id}:apply", wanted.model_dump_json())
    if (stored := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return InferenceDocument.model_validate(stored)
    # The data set is locked before the job, as a deletion does.
    model = find_trained(session, tenant_id, model_id)
    dataset = find_target(session, tenant_id, model, wanted.dataset_id, to_refer=True)
    model = find_trained(session, tenant_id, model_id, lock=True)
    sessions = choose_sessions(model, dataset, wanted.session)
    Invalid.check([*check_dataset(model, dataset, sessions), *check_arrays(model, wanted.arrays)])
    check_amounts(session, settings, tenant_id, stored_bytes=1)
    of_job = model.specification.inference
    row = Inference(
        id=new_id("inf"),
        tenant_id=tenant_id,
        model_id=model.row.id,
        dataset_id=dataset.id,
        state=InferenceState.QUEUED,
        options={
            "arrays": wanted.arrays or of_job.arrays,
            "posterior_samples": wanted.posterior_samples or of_job.posterior_samples,
            "sessions": sessions,
        },
        checkpoint_key=model.checkpoint_key,
        trials_done=0,
        scores={},
        created_at=database_now(session),
    )
    session.add(row)
    audit.record(session, "inference.created", row)
    outbox.post(session, outbox.RUN_SLICE)
    session.flush()
    created = document(session, row)
    store_answer(session, tenant_id, idempotency_key, request, created.model_dump(mode="json"))
    return created


def cancel(session: Session, tenant_id: str, inference_id: str) -> InferenceDocument:
    """Cancel an inference. Cancelling it again changes nothing.

    Raises
    ------
    WrongState
        If it has ended in another state.
    """
    row = find(session, tenant_id, inference_id, lock=True)
    if InferenceState(row.state).is_final:
        if row.state != InferenceState.CANCELLED:
            raise WrongState(
                f"the inference {inference_id} is {row.state}; only a queued or running inference can be cancelled"
            )
        return document(session, row)
    used = seconds_since_claim(session, row) if row.state == InferenceState.RUNNING else 0.0
    row.state, row.ended_at = InferenceState.CANCELLED, database_now(session)
    row.drop_lease()
    audit.record(session, "inference.cancelled", row)
    session.flush()
    add_device_seconds(session, tenant_id, used)
    return document(session, row)


@dataclass(frozen=True)
class InferenceFilters:
    """The filters of the list of inferences."""

    model_id: ModelIdFilter = None
    job_id: JobIdFilter = None
    dataset_id: DatasetIdFilter = None


def list_page(
    session: Session, tenant_id: str, wanted: InferenceFilters, page_size: int, page_token: str | None
) -> Page[InferenceDocument]:
    """Return a page of the tenant's inferences, newest first."""
    query = select(Inference).where(
        Inference.tenant_id == tenant_id, Inference.state != InferenceState.DELETING
    )
    if wanted.model_id is not None:
        query = query.where(Inference.model_id == wanted.model_id)
    if wanted.dataset_id is not None:
        query = query.where(Inference.dataset_id == wanted.dataset_id)
    if wanted.job_id is not None:
        query = query.where(Inference.model_id.in_(select(Model.id).where(Model.job_id == wanted.job_id)))
    rows, token = newest_page(session, query, Inference, page_size, page_token)
    return Page(items=[document(session, row) for row in rows], next_page_token=token)
