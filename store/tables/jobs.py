"""Tables of jobs: their slices and events."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from domain.states import JobState, SliceState
from store.tables.audit import CreatedByMixin, listed
from store.tables.base import Base, Document, LeaseMixin, counter_type, utc_now
from store.tables.labels import LabelsMixin

_MODEL_ROWS_BYTES = 2_100
"""Rows of a model that begins and is cancelled: measured on SQLite with 1000 of them."""


class Job(LabelsMixin, CreatedByMixin, Base):
    """One request: a data set, a search strategy, a budget."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant_state", "tenant_id", "state"),
        listed("jobs", "dataset_id"),
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_served", "served_at", "tenant_id"),
        Index("ix_jobs_dataset", "dataset_id"),
        Index("ix_jobs_ended", "tenant_id", "ended_at", "id"),
        Index("ix_jobs_row_bytes", "tenant_id", "row_bytes"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[JobState] = mapped_column(String(20))
    spec: Mapped[Document]  # a `domain.job_specification.JobSpecification`
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    warm_models: Mapped[list[Any] | None]  # what the first models begin with, see `api.jobs.warm_start`
    final_model_id: Mapped[str | None] = mapped_column(String(40))  # the refit of the selected model
    selected_model_id: Mapped[str | None] = mapped_column(String(40))
    warnings: Mapped[list[Any] | None]  # settings that are valid but probably not intended
    # Versions that trained parts of it, in order: [{"latentry": …, "torch": …}, …].
    trained_with: Mapped[list[Any] | None]
    precision: Mapped[str | None] = mapped_column(
        String(10)
    )  # in which its models train, see `worker.training.precision`
    diagnostics: Mapped[Document | None]  # see `worker.inference.diagnostics`
    error: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    served_at: Mapped[datetime | None]  # when a worker last claimed one of its slices
    paused_at: Mapped[
        datetime | None
    ]  # since when it is paused; of a job that ended and was resumed, see `store.budget`
    paused_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")  # all pauses before
    ended_at: Mapped[datetime | None]
    # Of the slices whose rows the retention has removed.
    swept_device_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")

    def size_bytes_of_row(self) -> int:
        """Return about how many bytes the job needs in the database, with all its models, their first decisions and events."""
        return super().size_bytes_of_row() + _MODEL_ROWS_BYTES * int(self.spec["budget"]["models"])


class Slice(LeaseMixin, Base):
    """A bounded piece of a job's work, which one Celery task does: training of a pack, or inference."""

    __tablename__ = "slices"
    __table_args__ = (Index("ix_slices_state", "state"), Index("ix_slices_job", "job_id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(10))  # train or infer
    pack: Mapped[int]
    model_ids: Mapped[list[Any]]
    first_epoch: Mapped[int]  # epochs trained before this slice
    last_epoch: Mapped[int]  # end of the slice; it may end before, when its time is over
    epochs_trained: Mapped[int | None]  # epoch that was reached
    not_before: Mapped[datetime | None]  # it cannot be claimed before
    device_seconds: Mapped[float | None]  # from claim to report
    state: Mapped[SliceState] = mapped_column(String(20))
    error: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Event(Base):
    """Something that happened to a job. Its id is the id of the server-sent event."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(counter_type, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[Document]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
