"""Tables of uploads, data sets and their trials."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.states import DatasetState, UploadState
from store.tables.audit import CreatedByMixin, listed
from store.tables.base import Base, Document, LeaseMixin, utc_now
from store.tables.labels import LabelsMixin


class Upload(CreatedByMixin, Base):
    """A file that is being uploaded, or is complete but no data set yet. The file on disk says how many bytes have arrived."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_sha256", "sha256"),
        Index("ix_uploads_expires", "expires_at"),
        Index("ix_uploads_bytes", "tenant_id", "state", "sha256", "size_bytes"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    state: Mapped[UploadState] = mapped_column(String(20))
    filename: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(
        String(64)
    )  # of the bytes; of a direct upload, as the client declared
    is_direct: Mapped[bool]  # whether the client writes it into the bucket itself
    tus_metadata: Mapped[str] = mapped_column(String)  # as the client sent it; returned on request
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime]


class Dataset(LeaseMixin, LabelsMixin, CreatedByMixin, Base):
    """Spike counts `trials × bins × neurons`, with their metadata and arrays."""

    __tablename__ = "datasets"
    __table_args__ = (
        listed("datasets", "derived_from"),
        Index("ix_datasets_original", "original"),
        Index("ix_datasets_derived_from", "derived_from"),
        Index("ix_datasets_original_since", "tenant_id", "original_since"),
        Index("ix_datasets_state", "state"),
        Index("ix_datasets_started", "started_at"),
        Index("ix_datasets_bytes", "tenant_id", "original", "original_bytes", "array_bytes"),
        Index("ix_datasets_row_bytes", "tenant_id", "row_bytes"),
        # One data set for each content, but a rejected one may be tried again.
        Index(
            "uq_datasets_content",
            "tenant_id",
            "digest",
            unique=True,
            sqlite_where=text("state != 'rejected'"),
            postgresql_where=text("state != 'rejected'"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[DatasetState] = mapped_column(String(20))
    # {"kind": "upload", filename, bytes, sha256, options} or {"kind": "synthetic", …}
    source: Mapped[Document]
    digest: Mapped[str | None] = mapped_column(String(64))  # of the content, see `domain.content_hash`
    original: Mapped[str | None] = mapped_column(
        String(64)
    )  # SHA-256 of its uploaded file, see `store.originals`
    # When the file was uploaded or last used; its age counts from then.
    original_since: Mapped[datetime | None] = mapped_column(default=utc_now)
    original_removed_at: Mapped[datetime | None]  # by the retention
    original_bytes: Mapped[int | None] = mapped_column(BigInteger)
    direct_upload_id: Mapped[str | None] = mapped_column(
        String(40)
    )  # the upload that holds its file until it is read
    derived_from: Mapped[str | None] = mapped_column(String(40))  # the data set whose original was read again
    trials: Mapped[int | None]
    bins: Mapped[int | None]
    neurons: Mapped[int | None]
    bin_width_s: Mapped[float | None]
    array_path: Mapped[str | None] = mapped_column(String(200))  # Zarr group in the array store
    array_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the group; None: not measured
    trial_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the rows of its trials
    report: Mapped[Document | None]
    problems: Mapped[list[Any] | None]  # why it was rejected, or could not be read
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]  # when a worker last began its ingest
    ended_at: Mapped[datetime | None]

    def search_parts(self) -> list[str]:
        """Return the texts that a search looks in, besides the tags: also the name of the file."""
        return [*super().search_parts(), self.source.get("filename") or ""]

    @property
    def stored_bytes(self) -> int:
        """Size of its file and its arrays, as quotas count them. A file that several data sets share is of each of them."""
        file_bytes = 0 if self.original is None else self.original_bytes
        return (file_bytes or 0) + (self.array_bytes or 0)

    def size_bytes_of_row(self) -> int:
        """Return about how many bytes the data set needs in the database, with its trials but without its arrays."""
        return super().size_bytes_of_row() + (self.trial_bytes or 0)


_TRIAL_ROW_BYTES = 100
"""About what the row of a trial needs besides its metadata."""


def trial_bytes(metadata: Iterable[Mapping[str, Any]]) -> int:
    """Return about how many bytes the rows of trials with these metadata need."""
    return sum(_TRIAL_ROW_BYTES + len(json.dumps(one)) for one in metadata)


class Trial(Base):
    """One experimental trial of a data set, in the user's order, with its metadata."""

    __tablename__ = "trials"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True)
    length_bins: Mapped[int]
    split: Mapped[str | None] = mapped_column(String(10))  # given by the data set: train, valid, test or gap
    # Trials of a group belong together, see `domain.split_groups`; None: the trial is a separate group.
    split_group: Mapped[int | None]
    group_first_bin: Mapped[float | None]  # where the trial begins in its group, in bins
    details: Mapped[Document]  # metadata: condition, outcome, …
