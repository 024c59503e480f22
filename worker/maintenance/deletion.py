"""Delete in the background what `store.deletion` was asked for: in small transactions, in an order that may stop anywhere.

Each kind of resource has a generator of steps. A step is one short transaction, or deletes some objects or a file, and finds by
itself what is left to do. So a process may die between any two steps, and the next one continues. The last step deletes the
row of the resource together with the request.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

from sqlalchemy import ColumnElement, delete, inspect, select, tuple_, update
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.states import UploadState
from store import outbox
from store.array_store import delete_objects_by_steps
from store.database import LOCK, Database, commit_without_waiting, database_now
from store.deletion import OF_DATASET, OF_JOB, OF_MODEL, DeletionKind, mentions
from store.originals import OriginalStore
from store.settings import Settings
from store.tables import (
    Dataset,
    Deletion,
    IdempotentRequest,
    Inference,
    Job,
    Model,
    OutboxMessage,
    Upload,
    Webhook,
    WebhookDelivery,
)
from store.uploads import UploadBusy, forget_upload, is_read_by_dataset, release_original
from store.workers import alive_workers
from worker.maintenance.garbage_collection import delete_old_latents

logger = logging.getLogger("latentry.maintenance")

ROWS_AT_ONCE = 1000
"""Rows that one transaction deletes."""
_HELD = timedelta(seconds=60)
"""How long a request stays with a process that may have died."""
_ATTEMPTS = 5
_REMOVED = "deleted"
"""Written in place of the id of a deleted job."""

Steps = Iterator[None]


@dataclass(frozen=True)
class Storage:
    """Everywhere that the service stores data."""

    database: Database
    arrays: Store
    originals: OriginalStore
    settings: Settings


def work_off(storage: Storage, seconds: float) -> bool:
    """Delete what was requested, for some seconds; return whether there is more to do now.

    A request that fails is logged and stays; the others continue.
    """
    end = time.monotonic() + seconds
    with storage.database.read() as session:
        found = session.execute(select(Deletion.kind, Deletion.target_id).order_by(Deletion.requested_at))
        order = get_args(DeletionKind)
        requests = sorted(found, key=lambda one: order.index(one.kind))
    finished = 0
    for kind, target_id in requests:
        if not _hold(storage.database, kind, target_id):
            continue
        try:
            for _ in steps(storage, kind, target_id):
                if time.monotonic() > end:
                    return True
            finished += 1
        except Exception:
            logger.exception("the deletion of the %s %s did not finish; it is tried again", kind, target_id)
        finally:
            _release(storage.database, kind, target_id)
    if finished:
        with (
            storage.database.write() as session
        ):  # idle training processes forget the data of deleted data sets
            for _ in alive_workers(session):
                outbox.post(session, outbox.RUN_SLICE)
        _empty_log(storage.database)
    return False


def _empty_log(database: Database) -> None:
    """Empty the log of SQLite. If other processes read all the time, the next deletion or collection of garbage does it."""
    for _ in range(_ATTEMPTS):
        if database.truncate_log():
            return
        time.sleep(0.05)


def steps(storage: Storage, kind: str, target_id: str) -> Steps:
    """Return the steps that delete one resource, in order."""
    makers: dict[str, Callable[[Storage, str], Steps]] = {
        "inference": _inference,
        "latents": _latents,
        "deliveries": _deliveries,
        "webhook": _webhook,
        "job": _job,
        "dataset": _dataset,
    }
    return makers[kind](storage, target_id)


def _hold(database: Database, kind: str, target_id: str) -> bool:
    """Take a request, unless another process works on it."""
    with database.write() as session:
        row = session.get(Deletion, (kind, target_id), with_for_update=True)
        now = database_now(session)
        if row is None or (row.held_until is not None and row.held_until > now):
            return False
        row.held_until = now + _HELD
        return True


def _release(database: Database, kind: str, target_id: str) -> None:
    with database.write() as session:
        if (row := session.get(Deletion, (kind, target_id))) is not None:
            row.held_until = None


def delete_rows(database: Database, table: type[Any], *conditions: ColumnElement[bool]) -> Steps:
    """Delete the rows of a table that satisfy the conditions, `ROWS_AT_ONCE` in each transaction."""
    key = inspect(table).primary_key
    chosen = select(*key).where(*conditions).limit(ROWS_AT_ONCE)
    own = key[0].in_(chosen) if len(key) == 1 else tuple_(*key).in_(chosen)
    count = ROWS_AT_ONCE
    while count == ROWS_AT_ONCE:
        with database.write() as session:
            commit_without_waiting(session)  # the request is still there
            statement = delete(table).where(own).execution_options(synchronize_session=False)
            count = session.execute(statement).rowcount  # type: ignore[attr-defined]  # a DELETE has a count
        yield


def delete_rows_of_models(database: Database, job_id: str) -> Steps:
    """Delete the rows that go with the models of a job: learning curves."""
    model_ids = _model_ids(database, job_id)
    for column in OF_MODEL.values():
        for start in range(0, len(model_ids), 100):
            yield from delete_rows(database, column.parent.class_, column.in_(model_ids[start : start + 100]))


def _model_ids(database: Database, job_id: str) -> Sequence[str]:
    with database.read() as session:
        return (
            session.execute(select(Model.id).where(Model.job_id == job_id).order_by(Model.id)).scalars().all()
        )


def _inferences(storage: Storage, condition: ColumnElement[bool]) -> Steps:
    """Delete inferences with their latents."""
    while True:
        with storage.database.read() as session:
            found = session.execute(select(Inference.id).where(condition).limit(100)).scalars().all()
        if not found:
            return
        for inference_id in found:
            yield from delete_objects_by_steps(storage.arrays, f"inferences/{inference_id}")
        with storage.database.write() as session:
            _forget_answers(session, found)
            session.execute(delete(Inference).where(Inference.id.in_(found)))
        yield


def _forget_answers(session: Session, ids: Sequence[str]) -> None:
    """Delete the stored responses to requests that made these resources."""
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.resource_id.in_(ids)))


def _forget_mentions(database: Database, tenant_id: str, resource_id: str) -> None:
    """Delete stored responses and messages that contain the id of a data set or a job."""
    of_tenant = IdempotentRequest.tenant_id == tenant_id
    answers = select(IdempotentRequest.key).where(of_tenant, mentions(IdempotentRequest.body, [resource_id]))
    messages = select(OutboxMessage.id).where(mentions(OutboxMessage.arguments, [resource_id]))
    with database.read() as session:  # such a search reads whole tables
        keys = session.execute(answers).scalars().all()
        message_ids = session.execute(messages).scalars().all()
    with database.write() as session:
        session.execute(delete(IdempotentRequest).where(of_tenant, IdempotentRequest.key.in_(keys)))
        session.execute(delete(OutboxMessage).where(OutboxMessage.id.in_(message_ids)))


def _end(session: Session, kind: str, target_id: str, row: object | None) -> None:
    """Delete the row of the resource together with the request."""
    if row is not None:
        session.delete(row)
        session.flush()
    session.execute(delete(Deletion).where(Deletion.kind == kind, Deletion.target_id == target_id))


def _inference(storage: Storage, inference_id: str) -> Steps:
    yield from _inferences(storage, Inference.id == inference_id)
    with storage.database.write() as session:
        _end(session, "inference", inference_id, None)
    yield


def _latents(storage: Storage, model_id: str) -> Steps:
    for _ in delete_old_latents(storage.database, storage.arrays, model_id):
        yield
    with storage.database.write() as session:
        _end(session, "latents", model_id, None)
    yield


def _deliveries(storage: Storage, webhook_id: str) -> Steps:
    with storage.database.read() as session:
        row = session.get(Deletion, ("deliveries", webhook_id))
    if row is not None:
        ended = WebhookDelivery.ended_at <= row.requested_at
        yield from delete_rows(
            storage.database, WebhookDelivery, WebhookDelivery.webhook_id == webhook_id, ended
        )
    with storage.database.write() as session:
        _end(session, "deliveries", webhook_id, None)
    yield


def _webhook(storage: Storage, webhook_id: str) -> Steps:
    yield from delete_rows(storage.database, WebhookDelivery, WebhookDelivery.webhook_id == webhook_id)
    with storage.database.write() as session:
        _forget_answers(session, [webhook_id])
        _end(session, "webhook", webhook_id, session.get(Webhook, webhook_id, with_for_update=LOCK))
    yield


def _job(storage: Storage, job_id: str) -> Steps:
    database = storage.database
    yield from _inferences(storage, Inference.model_id.in_(select(Model.id).where(Model.job_id == job_id)))
    for model_id in _model_ids(database, job_id):
        yield from delete_objects_by_steps(storage.arrays, f"models/{model_id}")
        yield
    yield from delete_rows_of_models(database, job_id)
    for column in OF_JOB.values():
        yield from delete_rows(database, column.parent.class_, column == job_id)
    with database.read() as session:
        row = session.get(Job, job_id)
    if row is not None:
        yield from _forget_warm_starts(database, row)
        _forget_mentions(database, row.tenant_id, job_id)
        yield
    yield from delete_rows(database, Model, Model.job_id == job_id)
    with database.write() as session:
        _end(session, "job", job_id, session.get(Job, job_id, with_for_update=LOCK))
    yield


def _forget_warm_starts(database: Database, job: Job) -> Steps:
    """Remove the id of a job, and of its models' weights, from the jobs that began with its weights. Their own weights stay."""
    others = Job.tenant_id == job.tenant_id, Job.id != job.id
    fields = Job.spec, Job.warm_models, Job.warnings
    with database.read() as session:
        either = fields[0].is_not(None) & (
            mentions(fields[0], [job.id]) | mentions(fields[1], [job.id]) | mentions(fields[2], [job.id])
        )
        found = session.execute(select(Job.id).where(*others, either)).scalars().all()
    for other_id in found:
        with database.write() as session:
            other = session.get(Job, other_id, with_for_update=LOCK)
            if other is None:
                continue
            other.spec = _replaced(other.spec, job.id)
            other.warnings = _replaced(other.warnings, job.id)
            ours = [one for one in other.warm_models or [] if one["job_id"] == job.id]
            keys = [one["start_key"] for one in ours if one.get("start_key")]
            other.warm_models = [
                {**one, "job_id": _REMOVED, **({"start_key": None} if "start_key" in one else {})}
                if one["job_id"] == job.id
                else one
                for one in other.warm_models or []
            ] or None
            begun = update(Model).where(Model.job_id == other_id, Model.start_key.in_(keys))
            session.execute(begun.values(start_key=None))
        yield


def _replaced(document: Any, resource_id: str) -> Any:
    """Return a JSON document with `_REMOVED` for each occurrence of an id in its texts."""
    if isinstance(document, dict):
        return {name: _replaced(one, resource_id) for name, one in document.items()}
    if isinstance(document, list):
        return [_replaced(one, resource_id) for one in document]
    return document.replace(resource_id, _REMOVED) if isinstance(document, str) else document


def _dataset(storage: Storage, dataset_id: str) -> Steps:
    database = storage.database
    with database.read() as session:
        row = session.get(Dataset, dataset_id)
        if session.execute(select(Job.id).where(Job.dataset_id == dataset_id).limit(1)).first() is not None:
            return  # its jobs go first; the request stays
    yield from _inferences(storage, Inference.dataset_id == dataset_id)
    yield from delete_objects_by_steps(storage.arrays, f"datasets/{dataset_id}")
    for column in OF_DATASET.values():
        yield from delete_rows(database, column.parent.class_, column == dataset_id)
    if row is not None:
        yield from _forget_file(storage, row)
        with database.write() as session:
            derived = update(Dataset).where(Dataset.derived_from == dataset_id)
            session.execute(derived.values(derived_from=None))
        yield
        _forget_mentions(database, row.tenant_id, dataset_id)
        yield
    with database.write() as session:
        _end(session, "dataset", dataset_id, session.get(Dataset, dataset_id, with_for_update=LOCK))
    yield


def _forget_file(storage: Storage, dataset: Dataset) -> Steps:
    """Delete the file of a data set, and the complete uploads of it, unless another data set or a later upload needs them."""
    sha256 = dataset.original or dataset.source.get("sha256")
    if sha256 is None:
        return
    with storage.database.read() as session:
        of_tenant = Dataset.tenant_id == dataset.tenant_id, Dataset.id != dataset.id
        shared = select(Dataset.id).where(*of_tenant, Dataset.original == sha256).limit(1)
        requested = session.get(Deletion, ("dataset", dataset.id))
        uploads: Sequence[str] = ()
        if requested is not None and session.execute(shared).first() is None:
            same = select(Upload.id).where(
                Upload.tenant_id == dataset.tenant_id,
                Upload.sha256 == sha256,
                Upload.state == UploadState.COMPLETE,
                Upload.created_at <= requested.requested_at,
            )
            uploads = session.execute(same).scalars().all()
    for upload_id in uploads:
        with storage.database.write() as session:
            upload = session.get(Upload, upload_id, with_for_update=LOCK)
            if upload is None or is_read_by_dataset(session, upload):
                continue
            try:
                forget_upload(session, storage.originals, storage.settings, upload)
            except UploadBusy:
                continue
        yield
    if dataset.original is not None:
        with storage.database.write() as session:
            release_original(session, storage.originals, dataset.original, dataset_id=dataset.id)
        yield
