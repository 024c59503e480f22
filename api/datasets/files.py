"""From a file that came to a data set."""

import json
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.datasets.schemas import UploadReference
from api.datasets.service import Made, answered, find_content, keep_answer, make
from api.errors import WrongState
from api.idempotency import fingerprint
from api.uploads import service as uploads
from api.uploads.receiving import ReceivedFile
from domain.content_hash import content_digest
from domain.dataset_options import DatasetOptions
from domain.states import UploadState
from store.database import Database
from store.originals import OriginalStore
from store.settings import Settings
from store.tables import Upload


@dataclass(frozen=True)
class WantedDataset:
    """What is to be made of a file, by which request."""

    request: str
    name: str
    filename: str
    size_bytes: int
    sha256: str
    options: DatasetOptions

    @property
    def content(self) -> dict[str, object]:
        """What makes two of them the same."""
        return {"sha256": self.sha256, "options": self.options.canonical()}

    def make(self, session: Session, tenant_id: str, key: str | None, **columns: str | None) -> Made:
        """Make the data set, or find it, and keep the answer."""
        if (answer := answered(session, tenant_id, key, self.request)) is not None:
            return answer
        source = {
            "kind": "upload",
            "filename": self.filename,
            "bytes": self.size_bytes,
            "sha256": self.sha256,
            "options": self.options.canonical(),
        }
        made = make(
            session,
            tenant_id,
            name=self.name or self.filename,
            source=source,
            content=self.content,
            **columns,
        )
        return keep_answer(session, tenant_id, key, self.request, made)


def create_from_file(
    database: Database,
    originals: OriginalStore,
    settings: Settings,
    tenant_id: str,
    received: ReceivedFile,
    name: str,
    filename: str,
    options: DatasetOptions,
    idempotency_key: str | None,
) -> Made:
    """Keep a file that came with the request, and make a data set of it or find the one there is."""
    named = json.dumps([received.sha256, name, filename, options.canonical()], sort_keys=True)
    request = fingerprint("POST /v1/datasets", named)
    wanted = WantedDataset(request, name, filename, received.size_bytes, received.sha256, options)
    digest = content_digest("upload", wanted.content)
    try:
        with database.write() as session:
            if (answer := answered(session, tenant_id, idempotency_key, request)) is not None:
                return answer
            if (found := find_content(session, tenant_id, digest)) is not None:
                return keep_answer(session, tenant_id, idempotency_key, request, found)
        with (
            uploads.taken_in(database, originals, settings, tenant_id, received, filename) as upload_id,
            database.write() as session,
        ):
            made = wanted.make(session, tenant_id, idempotency_key, original=received.sha256)
            session.delete(session.get_one(Upload, upload_id))  # from here on the data set keeps the file
        return made
    finally:
        received.path.unlink(missing_ok=True)


def create_from_upload(
    database: Database,
    originals: OriginalStore,
    settings: Settings,
    tenant_id: str,
    reference: UploadReference,
    idempotency_key: str | None,
) -> Made:
    """Make a data set of an upload, or find the one there is.

    Raises
    ------
    NotFound, Gone, WrongState
        If there is no such upload, or it is not complete.
    """
    request = fingerprint("POST /v1/datasets", reference.model_dump_json())
    with database.read() as session:  # first: the upload may be gone since
        if (answer := answered(session, tenant_id, idempotency_key, request)) is not None:
            return answer
    row = uploads.settle(database, originals, settings, tenant_id, reference.upload_id)
    if row.state != UploadState.COMPLETE:
        raise _incomplete(row, settings)
    with database.write() as session:
        row = uploads.find(session, tenant_id, reference.upload_id, lock=True)
        wanted = WantedDataset(
            request, reference.name, row.filename, row.size_bytes, str(row.sha256), reference.options
        )
        where = {"direct_upload_id": row.id} if row.is_direct else {"original": row.sha256}
        return wanted.make(session, tenant_id, idempotency_key, **where)


def _incomplete(row: Upload, settings: Settings) -> WrongState:
    if row.is_direct:
        return WrongState(
            f"the upload {row.id} is {row.state}: the bucket does not have the {row.size_bytes} bytes that were announced",
            hint=f"PUT the file to the URL that GET /v1/uploads/{row.id} tells; if it has another size, begin a new upload",
        )
    came = uploads.offset(row, settings)
    return WrongState(
        f"the upload {row.id} is {row.state}: {came} of {row.size_bytes} bytes came; expected a complete one",
        hint=f"go on with it from there: PATCH /v1/uploads/{row.id}",
        headers={"Retry-After": "1"},
    )
