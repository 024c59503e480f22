"""The database operations of the routes of data sets."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.arrays.groups import ArrayGroup
from api.arrays.trial_conditions import trial_conditions
from api.datasets.schemas import DatasetDocument, Derivation, SyntheticSystem, TrialDocument
from api.errors import NotFound, WrongState
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.http.pagination import (
    Filters,
    Page,
    ParentIdFilter,
    SessionIdFilter,
    cut_page,
    decode_number,
    newest_page,
)
from api.labels import LabelChanges, change
from api.limits.quotas import check_amounts
from api.validation_errors import read_model
from domain.content_hash import content_digest
from domain.dataset_options import DatasetOptions, changed_options
from domain.states import DatasetState
from store import audit, outbox
from store.database import LOCK, database_now
from store.deletion import SHARED
from store.identifiers import PATTERN, new_id
from store.retention import why_gone
from store.settings import Settings
from store.tables import Dataset, Trial


def document(row: Dataset) -> DatasetDocument:
    """Return the document of a data set."""
    base = f"/v1/datasets/{row.id}"
    links = {
        "self": base,
        "jobs": f"/v1/jobs?dataset_id={row.id}",
        "inferences": f"/v1/inferences?dataset_id={row.id}",
        "derived": f"/v1/datasets?derived_from={row.id}",
        "combined": f"/v1/datasets?session_id={row.id}",
    }
    if row.derived_from is not None:
        links["derived_from"] = f"/v1/datasets/{row.derived_from}"
    if row.state == DatasetState.READY:
        links |= {"trials": f"{base}/trials", "arrays": f"{base}/arrays", "zarr": f"{base}/zarr"}
        if row.source["kind"] != "sessions":
            links |= {"preview": f"{base}/preview", "preview_image": f"{base}/preview.png"}
    return DatasetDocument(
        id=row.id,
        name=row.name,
        notes=row.notes,
        tags=row.tags,
        state=row.state,
        digest=row.digest,
        derived_from=row.derived_from,
        original_removed_at=row.original_removed_at,
        options=row.source.get("options"),
        source={key: value for key, value in row.source.items() if key not in ("path", "options")},
        trials=row.trials,
        bins=row.bins,
        neurons=row.neurons,
        bin_width_s=row.bin_width_s,
        report=row.report,
        problems=row.problems,
        stored_bytes=row.stored_bytes,
        created_at=row.created_at,
        created_by=row.created_by,
        ended_at=row.ended_at,
        links=links,
    )


def find(
    session: Session, tenant_id: str, dataset_id: str, *, to_refer: bool = False, to_change: bool = False
) -> Dataset:
    """Return the tenant's data set, or raise `NotFound`.

    Parameters
    ----------
    to_refer
        The transaction writes a row that refers to the data set. So nobody may delete the data set before the transaction ends.
    to_change
        The transaction also changes the data set. Two such transactions that only referred to it at first would deadlock.
    """
    lock = LOCK if to_change else SHARED if to_refer else None
    row = session.get(Dataset, dataset_id, with_for_update=lock) if PATTERN.fullmatch(dataset_id) else None
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no data set {dataset_id}", hint="GET /v1/datasets lists yours")
    if to_refer or to_change:
        _check_not_deleting(row)
    return row


def _check_not_deleting(row: Dataset) -> None:
    if row.state == DatasetState.DELETING:
        raise NotFound(
            f"the data set {row.id} is being deleted", hint="upload its file again to use it again"
        )


def find_ready(session: Session, tenant_id: str, dataset_id: str, *, to_refer: bool = False) -> Dataset:
    """Return the tenant's data set if it is ready, or raise `NotFound` or `WrongState`; `to_refer` as of `find`."""
    row = find(session, tenant_id, dataset_id, to_refer=to_refer)
    _check_not_deleting(row)
    if row.state == DatasetState.REJECTED:
        raise WrongState(
            f"the data set {dataset_id} is rejected; expected one that is ready",
            hint=f"GET /v1/datasets/{dataset_id} lists the problems. Correct the file and upload it again, or correct the "
            f"options: POST /v1/datasets/{dataset_id}:derive",
        )
    if row.state == DatasetState.FAILED:
        raise WrongState(
            f"the data set {dataset_id} is failed: the service could not read its file",
            hint=f"GET /v1/datasets/{dataset_id} lists the problems. After the service is repaired: "
            f"POST /v1/datasets/{dataset_id}:retry",
        )
    if row.state != DatasetState.READY:
        raise WrongState(
            f"the data set {dataset_id} is {row.state}; expected one that is ready",
            hint=f"wait for it: GET /v1/datasets/{dataset_id} with the header Prefer: wait=30",
            headers={"Retry-After": "1"},
        )
    return row


def find_arrays(session: Session, tenant_id: str, dataset_id: str) -> ArrayGroup:
    """Return the arrays of the tenant's data set, or raise `NotFound` or `WrongState`."""
    row = find_ready(session, tenant_id, dataset_id)
    return ArrayGroup(row.array_path or "", row.id, f"the dataset {row.id}")


def amend(
    session: Session, settings: Settings, tenant_id: str, dataset_id: str, changes: LabelChanges
) -> DatasetDocument:
    """Change the name, the notes or the tags of a data set. An empty name is the default: that of its source."""
    row = find(session, tenant_id, dataset_id)
    default = str(row.source.get("filename") or row.source.get("system") or row.id)
    if changes.name == "":
        changes.name = None
    change(session, settings, row, changes, {"name": default})
    session.flush()
    return document(row)


@dataclass(frozen=True)
class DatasetFilters:
    """The filters of the list of data sets, besides those that jobs have too."""

    state: Annotated[
        list[DatasetState] | None,
        Query(max_length=10, description="Only data sets in one of these states. Repeatable."),
    ] = None
    derived_from: ParentIdFilter = None
    session_id: SessionIdFilter = None


def list_page(
    session: Session,
    tenant_id: str,
    filters: Filters,
    wanted: DatasetFilters,
    *,
    page_size: int,
    page_token: str | None,
) -> Page[DatasetDocument]:
    """Return a page of the tenant's data sets, newest first."""
    query = select(Dataset).where(Dataset.tenant_id == tenant_id, *filters.conditions(Dataset))
    query = query.where(
        Dataset.state.in_(wanted.state) if wanted.state else Dataset.state != DatasetState.DELETING
    )
    if wanted.derived_from is not None:
        query = query.where(Dataset.derived_from == wanted.derived_from)
    if wanted.session_id is not None:
        sessions = Dataset.source["dataset_ids"].as_string()
        query = query.where(sessions.contains(wanted.session_id, autoescape=True))
    rows, token = newest_page(session, query, Dataset, page_size, page_token)
    return Page(items=[document(row) for row in rows], next_page_token=token)


def list_trials(
    session: Session, dataset_id: str, where: list[str], page_size: int, page_token: str | None
) -> Page[TrialDocument]:
    """Return a page of the trials that satisfy the conditions, in the user's order."""
    query = select(Trial).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)
    query = query.where(*trial_conditions(session, dataset_id, where))
    if (after := decode_number(page_token)) is not None:
        query = query.where(Trial.trial > after)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [str(row.trial) for row in rows])
    items = [
        TrialDocument(
            trial=row.trial,
            length_bins=row.length_bins,
            split=row.split,
            split_group=row.split_group,
            details=row.details,
        )
        for row in rows
    ]
    return Page(items=items, next_page_token=token)


@dataclass(frozen=True)
class Creation:
    """The result of a request for a data set: a new data set, or the existing one of equal content."""

    document: DatasetDocument
    is_new: bool


def create_synthetic(
    session: Session, settings: Settings, tenant_id: str, system: SyntheticSystem, idempotency_key: str | None
) -> Creation:
    """Create a synthetic data set with known rates."""
    request = fingerprint("POST /v1/datasets:synthesize", system.model_dump_json())
    if (stored := stored_creation(session, tenant_id, idempotency_key, request)) is not None:
        return stored
    parameters = system.model_dump(exclude={"name", "notes", "tags"})
    created = create_or_find(
        session,
        settings,
        tenant_id,
        name=system.name or system.system,
        source={"kind": "synthetic", **parameters},
        content=parameters,
        notes=system.notes,
        tags=system.tags,
    )
    return store_creation(session, tenant_id, idempotency_key, request, created)


def derive(
    session: Session,
    settings: Settings,
    tenant_id: str,
    dataset_id: str,
    wanted: Derivation,
    idempotency_key: str | None,
) -> Creation:
    """Create a data set from the file of another one, with changed options.

    Raises
    ------
    NotFound, WrongState
        If the other data set does not exist or has no file.
    RequestValidationError
        If the changed options are invalid.
    """
    # The lock also keeps the retention from removing the file before this transaction ends.
    parent = find(session, tenant_id, dataset_id, to_change=True)
    changed = changed_options(parent.source.get("options", {}), wanted.options)
    options = read_model(DatasetOptions, changed, below="options", body={"options": changed}).canonical()
    request = fingerprint(
        f"POST /v1/datasets/{dataset_id}:derive",
        content_digest(wanted.name, [options, wanted.notes, wanted.tags]),
    )
    if (stored := stored_creation(session, tenant_id, idempotency_key, request)) is not None:
        return stored
    original = _original(parent)
    parent.original_since = database_now(session)
    created = create_or_find(
        session,
        settings,
        tenant_id,
        name=wanted.name or parent.name,
        source={**parent.source, "options": options},
        content={"sha256": original, "options": options},
        notes=wanted.notes,
        tags=wanted.tags,
        original=original,
        derived_from=dataset_id,
    )
    return store_creation(session, tenant_id, idempotency_key, request, created)


def retry(session: Session, tenant_id: str, dataset_id: str) -> DatasetDocument:
    """Read the file of a failed data set again.

    Raises
    ------
    NotFound, WrongState
        If the data set does not exist or is not failed.
    """
    row = find(session, tenant_id, dataset_id)
    if row.state != DatasetState.FAILED:
        raise WrongState(
            f"the data set {dataset_id} is {row.state}; only a failed data set can be retried",
            hint=f"to read its file with other options: POST /v1/datasets/{dataset_id}:derive",
        )
    _refuse_removed(row)
    _ingest_again(session, row)
    return document(row)


def _ingest_again(session: Session, row: Dataset) -> None:
    row.state, row.problems, row.ended_at = DatasetState.INGESTING, None, None
    row.attempts = row.losses = 0
    audit.record(session, "dataset.retried", row)
    outbox.post(session, outbox.INGEST)
    session.flush()


def _original(row: Dataset) -> str:
    """Return the SHA-256 of the file of a data set, or raise `WrongState`."""
    if row.source["kind"] != "upload":
        raise WrongState(
            f"the data set {row.id} has no file, its source is {row.source['kind']}; only an uploaded data set can be derived",
            hint="create a new one with other parameters: POST /v1/datasets:synthesize or POST /v1/datasets:combine",
        )
    if row.original is not None:
        return row.original
    if row.state == DatasetState.INGESTING:
        raise WrongState(
            f"the data set {row.id} is ingesting: the service has not read its file yet",
            hint=f"wait for it: GET /v1/datasets/{row.id} with the header Prefer: wait=30",
            headers={"Retry-After": "1"},
        )
    _refuse_removed(row)
    raise WrongState(
        f"the data set {row.id} is {row.state} and its file is not stored", hint="upload the file again"
    )


def _refuse_removed(row: Dataset) -> None:
    """Raise `WrongState` if the age of the file of a data set has removed it."""
    if row.original is None and row.original_removed_at is not None:
        raise WrongState(
            f"the file of the data set {row.id} is not stored any more: {why_gone('originals')}",
            hint="upload the same file with the same options again: this data set then has its file again",
        )


def stored_creation(session: Session, tenant_id: str, key: str | None, request: str) -> Creation | None:
    """Return the stored result of an earlier equal request, or None."""
    answer = stored_answer(session, tenant_id, key, request)
    if answer is None:
        return None
    return Creation(DatasetDocument.model_validate(answer), answer.get("is_new", True))


def store_creation(
    session: Session, tenant_id: str, key: str | None, request: str, created: Creation
) -> Creation:
    """Store a result for repetitions of the request, and return it."""
    body = created.document.model_dump(mode="json") | {"is_new": created.is_new}
    store_answer(session, tenant_id, key, request, body)
    return created


def create_or_find(
    session: Session,
    settings: Settings,
    tenant_id: str,
    *,
    name: str,
    source: dict[str, Any],
    content: Any,
    **columns: Any,
) -> Creation:
    """Create a data set and enqueue its ingest, or return the existing data set of equal content.

    Parameters
    ----------
    session, settings, tenant_id
        The transaction, the settings, and the tenant.
    name
        Name of a new data set; its id if empty.
    source
        The file or the parameters that it is made from.
    content
        The part of the source that decides, together with its kind, whether two data sets are equal.
    columns
        `notes`, `tags`, `original`, `direct_upload_id` and `derived_from` of a new data set.

    Raises
    ------
    QuotaReached
        If the tenant may store nothing more.
    """
    digest = content_digest(source["kind"], content)
    if (found := find_equal(session, tenant_id, digest, columns.get("original"))) is not None:
        return found
    check_amounts(session, settings, tenant_id, stored_bytes=1)
    try:
        with session.begin_nested():
            dataset_id = new_id("dat")
            row = Dataset(
                id=dataset_id,
                tenant_id=tenant_id,
                name=name or dataset_id,
                state=DatasetState.INGESTING,
                source=source,
                digest=digest,
                original_bytes=source.get("bytes"),
                attempts=0,
                **columns,
            )
            session.add(row)
            audit.record(session, "dataset.created", row)
            outbox.post(session, outbox.INGEST)
            session.flush()
    except IntegrityError:  # another request has created it in the meantime
        found = find_equal(session, tenant_id, digest, columns.get("original"))
        if found is None:
            raise
        return found
    return Creation(document(row), is_new=True)


def find_equal(session: Session, tenant_id: str, digest: str, original: str | None = None) -> Creation | None:
    """Return the tenant's data set of this content unless it was rejected; start the ingest of a failed one again.

    If its age has removed the file of the data set, it gets `original`, which was uploaded again.
    """
    same = select(Dataset).where(
        Dataset.tenant_id == tenant_id, Dataset.digest == digest, Dataset.state != DatasetState.REJECTED
    )
    row = session.execute(same).scalar_one_or_none()
    if row is None:
        return None
    if original is not None and row.original is None and row.original_removed_at is not None:
        row.original, row.original_removed_at, row.original_since = original, None, database_now(session)
    if row.state == DatasetState.FAILED:
        _ingest_again(session, row)
    return Creation(document(row), is_new=False)
