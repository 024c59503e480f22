"""Create data sets from files: read the options of a request, then make the data set or find an equal one."""

import json
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.datasets.schemas import UploadFields, UploadReference
from api.datasets.service import Creation, create_or_find, find_equal, store_creation, stored_creation
from api.dependencies import Context
from api.errors import Invalid, WrongState
from api.http.idempotency import fingerprint
from api.uploads import service as uploads
from api.uploads.receiving import ReceivedFile
from api.validation_errors import read_json, read_model
from domain.content_hash import content_digest
from domain.dataset_options import DatasetOptions
from domain.labels import Labels
from domain.states import UploadState
from store.settings import Settings
from store.tables import Upload


@dataclass(frozen=True)
class WantedDataset:
    """The data set that a request wants to make from a file. `request` is the fingerprint of the request."""

    request: str
    name: str
    filename: str
    size_bytes: int
    sha256: str
    options: DatasetOptions
    labels: Labels

    @property
    def content(self) -> dict[str, object]:
        """The part that decides whether two data sets are equal."""
        return {"sha256": self.sha256, "options": self.options.canonical()}

    def create(self, session: Session, context: Context, key: str | None, **columns: str | None) -> Creation:
        """Make the data set or find an equal one, and store the response for the idempotency key."""
        tenant_id = context.tenant_id
        if (stored := stored_creation(session, tenant_id, key, self.request)) is not None:
            return stored
        source = {"kind": "upload", "filename": self.filename, "bytes": self.size_bytes, **self.content}
        created = create_or_find(
            session, context.settings, tenant_id,
            name=self.name or self.filename, source=source, content=self.content,
            notes=self.labels.notes, tags=self.labels.tags, **columns,
        )  # fmt: skip
        return store_creation(session, tenant_id, key, self.request, created)


def merged_options(fields: UploadFields) -> DatasetOptions:
    """Return the options in a query or form: the JSON in `options`, merged with the separate fields.

    Raises
    ------
    Invalid, RequestValidationError
        If a value is invalid, or the two contradict each other.
    """
    options = DatasetOptions()
    if fields.options is not None:
        given = read_json(
            fields.options,
            lambda reason: Invalid.field("/options", "json_invalid", f"expected a JSON object; {reason}"),
        )
        options = read_model(DatasetOptions, given, below="options", body={"options": given})
    separate = {name: getattr(fields, name) for name in ("format", "bin_width_s")}
    for name, value in separate.items():
        other = getattr(options, name)
        if value is not None and other not in (None, value):
            message = (
                f"{name} is {value!r} here and {other!r} in options; expected one value, or equal values"
            )
            raise Invalid.field(f"/options/{name}", "contradiction", message)
    return options.model_copy(update={name: value for name, value in separate.items() if value is not None})


def create_from_file(
    context: Context, received: ReceivedFile, fields: UploadFields, options: DatasetOptions, key: str | None
) -> Creation:
    """Store a received file and make a data set from it, or find an equal one."""
    tenant_id = context.tenant_id
    named = [received.sha256, fields.name, fields.filename, options.canonical(), fields.notes, fields.tags]
    request = fingerprint("POST /v1/datasets", json.dumps(named, sort_keys=True))
    wanted = WantedDataset(
        request, fields.name, fields.filename, received.size_bytes, received.sha256, options, fields
    )
    digest = content_digest("upload", wanted.content)
    try:
        with context.database.write() as session:
            if (stored := stored_creation(session, tenant_id, key, request)) is not None:
                return stored
            found = find_equal(session, tenant_id, digest)
            if found is not None and found.document.original_removed_at is None:
                return store_creation(session, tenant_id, key, request, found)
        with (
            uploads.stored_original(context, received, fields.filename) as upload_id,
            context.database.write() as session,
        ):
            created = wanted.create(session, context, key, original=received.sha256)
            session.delete(session.get_one(Upload, upload_id))  # from now on the data set keeps the file
        return created
    finally:
        received.path.unlink(missing_ok=True)


def create_from_upload(context: Context, reference: UploadReference, key: str | None) -> Creation:
    """Make a data set from an upload, or find an equal one.

    Raises
    ------
    NotFound, Gone, WrongState
        If the upload does not exist or is not complete.
    """
    tenant_id = context.tenant_id
    request = fingerprint("POST /v1/datasets", reference.model_dump_json())
    with context.database.read() as session:  # first, because the upload may be deleted since
        if (stored := stored_creation(session, tenant_id, key, request)) is not None:
            return stored
    row = uploads.complete_if_whole(context, reference.upload_id)
    if row.state != UploadState.COMPLETE:
        raise _incomplete(row, context.settings)
    with context.database.write() as session:
        row = uploads.find(session, tenant_id, reference.upload_id, lock=True)
        wanted = WantedDataset(
            request,
            reference.name,
            row.filename,
            row.size_bytes,
            str(row.sha256),
            reference.options,
            reference,
        )
        file = {"direct_upload_id": row.id} if row.is_direct else {"original": row.sha256}
        return wanted.create(session, context, key, **file)


def _incomplete(row: Upload, settings: Settings) -> WrongState:
    if row.is_direct:
        return WrongState(
            f"the upload {row.id} is {row.state}: the bucket does not have a file of {row.size_bytes} bytes",
            hint=f"PUT the file to the URL in GET /v1/uploads/{row.id}; if its size differs, start a new upload",
        )
    return WrongState(
        f"the upload {row.id} is {row.state}: it has {uploads.offset(row, settings)} of {row.size_bytes} bytes",
        hint=f"send the rest: PATCH /v1/uploads/{row.id}",
        headers={"Retry-After": "1"},
    )
