"""What routes of data sets do in the database and on disk."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.datasets.schemas import DatasetDocument, SyntheticSystem, TrialDocument, UploadOptions
from api.errors import Invalid, NotFound, WrongState
from api.field_problems import FieldProblem
from api.idempotency import fingerprint, store_answer, stored_answer
from api.pagination import Page, cut_page, decode_id, decode_number
from store import outbox
from store.identifiers import PATTERN, new_id
from store.settings import Settings
from store.states import DatasetState
from store.tables import Dataset, Trial


def document(row: Dataset) -> DatasetDocument:
    """A data set as it is answered."""
    base = f"/v1/datasets/{row.id}"
    links = {"self": base}
    if row.state == DatasetState.READY:
        links |= {"trials": f"{base}/trials", "arrays": f"{base}/arrays", "zarr": f"{base}/zarr"}
    return DatasetDocument(
        id=row.id,
        name=row.name,
        state=row.state,
        source={key: value for key, value in row.source.items() if key != "path"},
        trials=row.trials,
        bins=row.bins,
        neurons=row.neurons,
        bin_width_s=row.bin_width_s,
        report=row.report,
        problems=row.problems,
        created_at=row.created_at,
        ended_at=row.ended_at,
        links=links,
    )


def find(session: Session, tenant_id: str, dataset_id: str) -> Dataset:
    """Return the tenant's data set, or raise `NotFound`."""
    row = session.get(Dataset, dataset_id) if PATTERN.fullmatch(dataset_id) else None
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no data set {dataset_id}", hint="GET /v1/datasets lists yours")
    return row


def find_ready(session: Session, tenant_id: str, dataset_id: str) -> Dataset:
    """Return the tenant's data set if it is ready, or raise `NotFound` or `WrongState`."""
    row = find(session, tenant_id, dataset_id)
    if row.state == DatasetState.REJECTED:
        raise WrongState(
            f"the data set {dataset_id} is rejected: expected one that is ready",
            hint=f"its problems are at /v1/datasets/{dataset_id}; correct the file and upload it again",
        )
    if row.state != DatasetState.READY:
        raise WrongState(
            f"the data set {dataset_id} is {row.state}: expected one that is ready",
            hint=f"wait for it: GET /v1/datasets/{dataset_id} with the header Prefer: wait=30",
            headers={"Retry-After": "1"},
        )
    return row


def list_page(
    session: Session, tenant_id: str, page_size: int, page_token: str | None
) -> Page[DatasetDocument]:
    """A page of the tenant's data sets, newest first."""
    query = select(Dataset).where(Dataset.tenant_id == tenant_id).order_by(Dataset.id.desc())
    if (before := decode_id(page_token)) is not None:
        query = query.where(Dataset.id < before)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [row.id for row in rows])
    return Page(items=[document(row) for row in rows], next_page_token=token)


def list_trials(
    session: Session, dataset_id: str, page_size: int, page_token: str | None
) -> Page[TrialDocument]:
    """A page of the trials of a data set, in the user's order."""
    query = select(Trial).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)
    if (after := decode_number(page_token)) is not None:
        query = query.where(Trial.trial > after)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [str(row.trial) for row in rows])
    items = [
        TrialDocument(trial=row.trial, length_bins=row.length_bins, split=row.split, details=row.details)
        for row in rows
    ]
    return Page(items=items, next_page_token=token)


@dataclass(frozen=True)
class ReceivedFile:
    """An upload on disk, under a name that no data set has yet."""

    path: Path
    size_bytes: int
    sha256: str


async def receive(chunks: AsyncIterator[bytes], settings: Settings) -> ReceivedFile:
    """Write a stream to disk, hashing it on the way; what was cut off leaves no file.

    Raises
    ------
    Invalid
        If nothing came.
    """
    settings.uploads_dir.mkdir(parents=True, exist_ok=True)
    path = settings.uploads_dir / f"{new_id('dat')}.partial"
    digest, size = hashlib.sha256(), 0
    try:
        async with await anyio.open_file(path, "wb") as file:
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                await file.write(chunk)
        if size == 0:
            raise _empty_upload()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return ReceivedFile(path, size, digest.hexdigest())


def _empty_upload() -> Invalid:
    message = "expected the bytes of a file as the body, or as the part `file` of a form; nothing came"
    return Invalid(
        message,
        hint="curl --data-binary @spikes.npz -H 'Content-Type: application/octet-stream' …/v1/datasets",
        errors=[FieldProblem(pointer="/file", code="missing", message=message)],
    )


def create_from_upload(
    session: Session,
    tenant_id: str,
    received: ReceivedFile,
    options: UploadOptions,
    idempotency_key: str | None,
    settings: Settings,
) -> DatasetDocument:
    """Keep an uploaded file as a data set and ask for its ingest."""
    request = fingerprint("POST /v1/datasets", received.sha256 + options.model_dump_json())
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        received.path.unlink(missing_ok=True)
        return DatasetDocument.model_validate(answer)
    dataset_id = new_id("dat")
    path = settings.uploads_dir / dataset_id
    source = {
        "kind": "upload",
        "filename": options.filename,
        "bytes": received.size_bytes,
        "sha256": received.sha256,
        "options": options.model_dump(include={"format", "bin_width_s"}, exclude_none=True),
    }
    received.path.rename(path)
    with contextlib.ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        name = options.name or options.filename or dataset_id
        answer_document = _create(session, tenant_id, dataset_id, name, source)
        store_answer(session, tenant_id, idempotency_key, request, answer_document.model_dump(mode="json"))
        session.flush()
        undo.pop_all()
    return answer_document


def create_synthetic(
    session: Session, tenant_id: str, system: SyntheticSystem, idempotency_key: str | None
) -> DatasetDocument:
    """Ask for a synthetic data set with known rates."""
    request = fingerprint("POST /v1/datasets:synthesize", system.model_dump_json())
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return DatasetDocument.model_validate(answer)
    source = {"kind": "synthetic", **system.model_dump(exclude={"name"})}
    created = _create(session, tenant_id, new_id("dat"), system.name or system.system, source)
    store_answer(session, tenant_id, idempotency_key, request, created.model_dump(mode="json"))
    return created


def _create(
    session: Session, tenant_id: str, dataset_id: str, name: str, source: dict[str, object]
) -> DatasetDocument:
    row = Dataset(
        id=dataset_id, tenant_id=tenant_id, name=name, state=DatasetState.INGESTING, source=source, attempts=0
    )
    session.add(row)
    outbox.post(session, outbox.INGEST, dataset_id)
    session.flush()
    return document(row)
