"""The tables. Every resource row carries its tenant; every leased row carries its fencing token."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from domain.states import (
    DatasetState,
    DeliveryState,
    InferenceState,
    JobState,
    ModelState,
    SliceState,
    UploadState,
)

DEFAULT_TENANT = "default"

Document = dict[str, Any]
"""A JSON document."""

# Keys are compared byte by byte, so that a prefix is a range of the index.
_key_type = String(400).with_variant(String(400, collation="C"), "postgresql")
_counter_type = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A UTC time; SQLite forgets the zone, this puts it back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without zone; convert to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone: use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Now, by this machine's clock. Leases use `store.database.database_now`."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), Document: JSON, list[Any]: JSON, bytes: LargeBinary}  # noqa: RUF012 (SQLAlchemy's own way)


class LeaseMixin:
    """What a row that one worker at a time may work on carries.

    A claim writes a fresh `lease_token`; every later write of that worker is conditional on it.
    """

    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_expires_at: Mapped[datetime | None]
    leased_by: Mapped[str | None] = mapped_column(String(200))
    attempts: Mapped[int] = mapped_column(default=0)  # that failed, or took their process with them
    losses: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # workers that were lost: no fault of the work


class Tenant(Base):
    """Whom data sets and jobs belong to."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Key(Base):
    """A secret by which a tenant's people and pipelines are known; only its digest is kept."""

    __tablename__ = "keys"
    __table_args__ = (
        Index("uq_keys_digest", "digest", unique=True),
        Index("ix_keys_tenant", "tenant_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the secret
    beginning: Mapped[str] = mapped_column(String(20))  # of the secret, to tell keys apart
    scopes: Mapped[list[Any]]  # read, write, admin
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Webhook(Base):
    """A URL that is told when jobs end."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_tenant", "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    url: Mapped[str] = mapped_column(String(2000))
    states: Mapped[list[Any]]  # of jobs, that are told: done, failed, cancelled
    secret: Mapped[str] = mapped_column(String(100))  # signs what is sent; shown once
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(LeaseMixin, Base):
    """One message to a webhook: sent until it is taken, or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "state", "due_at"),
        Index("ix_webhook_deliveries_webhook", "webhook_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))  # that ended; none in a test
    state: Mapped[DeliveryState] = mapped_column(String(20))
    body: Mapped[Document]
    status: Mapped[int | None]  # HTTP status of the last answer
    error: Mapped[str | None]  # why the last attempt failed
    due_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class Upload(Base):
    """A file on its way in, or that came and is no data set yet. How many bytes came, the disk knows."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_sha256", "sha256"),
        Index("ix_uploads_expires", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    state: Mapped[UploadState] = mapped_column(String(20))
    filename: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the bytes; if direct, as the client says
    is_direct: Mapped[bool]  # the client puts it into the bucket itself
    tus_metadata: Mapped[str] = mapped_column(String)  # as it came with the upload, to be told again
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime]


class Dataset(LeaseMixin, Base):
    """Spike counts `trials × bins × neurons` with all that belongs to them."""

    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_tenant", "tenant_id", "id"),
        Index("ix_datasets_original", "original"),
        # One of a content; what was rejected may be tried again.
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
    source: Mapped[
        Document
    ]  # {"kind": "upload", filename, bytes, sha256, options} or {"kind": "synthetic", …}
    digest: Mapped[str | None] = mapped_column(String(64))  # of the content, see `domain.content_hash`
    original: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of its file among the originals
    direct_upload_id: Mapped[str | None] = mapped_column(String(40))  # where its file is until it is read
    derived_from: Mapped[str | None] = mapped_column(String(40))  # the data set whose original it read anew
    trials: Mapped[int | None]
    bins: Mapped[int | None]
    neurons: Mapped[int | None]
    bin_width_s: Mapped[float | None]
    array_path: Mapped[str | None] = mapped_column(String(200))  # Zarr group in the array store
    report: Mapped[Document | None]
    problems: Mapped[list[Any] | None]  # why it was rejected, or why the service could not read it
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class Trial(Base):
    """One experimental trial of a data set, in the user's order, with its metadata."""

    __tablename__ = "trials"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True)
    length_bins: Mapped[int]
    split: Mapped[str | None] = mapped_column(String(10))  # as the data set has it: train, valid, test, gap
    split_group: Mapped[
        int | None
    ]  # trials that belong together, see `domain.split_groups`; None: stands alone
    group_first_bin: Mapped[float | None]  # where in its group the trial begins, in bins
    details: Mapped[Document]  # the metadata: condition, outcome, …


class Job(Base):
    """One request: a data set, a search strategy, a budget."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant", "tenant_id", "id"),
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_served", "served_at"),
        Index("ix_jobs_dataset", "dataset_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[JobState] = mapped_column(String(20))
    spec: Mapped[Document]  # a `domain.job_specification.JobSpecification`
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    warm_models: Mapped[list[Any] | None]  # what the first models begin with, see `store.warm_start`
    final_model_id: Mapped[str | None] = mapped_column(String(40))  # trained on all trials, if asked for
    selected_model_id: Mapped[str | None] = mapped_column(String(40))
    warnings: Mapped[list[Any] | None]  # what is allowed and probably not meant, by `api.jobs.warnings`
    # Each combination of versions that trained a part of it, in order: {"latentry": …, "torch": …}. None: older than this column.
    trained_with: Mapped[list[Any] | None]
    diagnostics: Mapped[Document | None]  # what `worker.inference.diagnostics` found when the job ended
    error: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    served_at: Mapped[datetime | None]  # when a worker last took a slice of it
    paused_at: Mapped[datetime | None]  # since when it rests: paused, or ended and begun again
    paused_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")  # rest before that
    ended_at: Mapped[datetime | None]


class Model(Base):
    """One candidate of a job."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_job", "job_id", "number"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int]  # 0, 1, … within the job
    pack: Mapped[int]  # models of one pack are trained together
    # Its pack failed: it trains by itself, until it has done so once.
    is_alone: Mapped[bool] = mapped_column(default=False, server_default=false())
    refit_of: Mapped[int | None]  # number of the model whose training it repeats on all trials
    state: Mapped[ModelState] = mapped_column(String(20))
    seed: Mapped[int]
    architecture: Mapped[Document]
    hyperparameters: Mapped[Document]  # that it trains with from now on
    best_hyperparameters: Mapped[
        Document | None
    ]  # that its best weights were trained with; None before it has any
    trained_by: Mapped[
        int | None
    ]  # number of the model that trained its best weights: another one if they were copied
    epochs_trained: Mapped[int] = mapped_column(default=0)
    target_epochs: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # what the strategy decided next at
    smoothed_sv_loss: Mapped[float | None]  # lowest so far: what selection compares
    latest_smoothed_sv_loss: Mapped[float | None]
    scores: Mapped[Document] = mapped_column(default=dict)
    baselines: Mapped[
        Document | None
    ]  # of the scores: {score: {baseline: value}}, see `worker.inference.baselines`
    baseline_settings: Mapped[Document | None]  # what was chosen on the training trials, by baseline
    end_reason: Mapped[str | None]
    checkpoint_key: Mapped[str | None] = mapped_column(String(200))  # may be another's, that it copied
    start_key: Mapped[str | None] = mapped_column(String(200))  # checkpoint whose best weights it begins with
    latents_path: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the best weights; None before there are any, and if it was not recorded."""
        epoch = self.scores.get("best_epoch")
        return int(epoch) if epoch else None

    @property
    def shown_hyperparameters(self) -> Document:
        """Those that the best weights were trained with; before there are any, those that the model begins with."""
        return self.hyperparameters if self.best_hyperparameters is None else self.best_hyperparameters


class Inference(LeaseMixin, Base):
    """Latents of a model for a data set: another one of the same neurons, or its own where the job stored none of it."""

    __tablename__ = "inferences"
    __table_args__ = (
        Index("ix_inferences_tenant", "tenant_id", "id"),
        Index("ix_inferences_state", "state"),
        Index("ix_inferences_model", "model_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    state: Mapped[InferenceState] = mapped_column(String(20))
    options: Mapped[Document]  # arrays, posterior samples, which session of the model the neurons are
    checkpoint_key: Mapped[str] = mapped_column(String(200))  # kept until it ends
    trials_done: Mapped[int] = mapped_column(default=0)
    scores: Mapped[Document] = mapped_column(default=dict)
    baselines: Mapped[Document | None]  # as of a model
    baseline_settings: Mapped[Document | None]
    latents_path: Mapped[str | None] = mapped_column(String(200))
    error: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Decision(Base):
    """What the strategy decided about a model, and why: the lineage of the search."""

    __tablename__ = "decisions"
    __table_args__ = (Index("ix_decisions_job", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_counter_type, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    model_number: Mapped[int]
    kind: Mapped[str] = mapped_column(String(10))  # begin, continue, copy or end
    epoch: Mapped[int]  # epochs that the model had trained
    lowest_sv_loss: Mapped[float | None]  # smoothed, in nats per sample, up to then
    latest_sv_loss: Mapped[float | None]  # smoothed, then
    parent_number: Mapped[int | None]  # whom it copied
    hyperparameters: Mapped[Document]  # from then on, with searched sizes
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CurvePoint(Base):
    """One epoch of one model: a point of its learning curve. Losses are in nats per sample."""

    __tablename__ = "curve_points"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    slice_id: Mapped[str] = mapped_column(String(40))
    train_loss: Mapped[float | None]
    sv_loss: Mapped[float | None]
    sv_bits_per_spike_valid: Mapped[
        float | None
    ]  # of `sv_loss`; None where it is not defined, or older than this column
    sv_loss_train: Mapped[float | None]
    validation_loss: Mapped[float | None]
    smoothed_sv_loss: Mapped[float | None]
    kl_initial_condition: Mapped[float | None]
    kl_inputs: Mapped[float | None]  # only with a controller
    gradient_norm: Mapped[float | None]
    learning_rate: Mapped[float | None]


class Slice(LeaseMixin, Base):
    """A bounded piece of work of a job that one Celery task does: training of a pack, or inference."""

    __tablename__ = "slices"
    __table_args__ = (Index("ix_slices_state", "state"), Index("ix_slices_job", "job_id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(10))  # train or infer
    pack: Mapped[int]
    model_ids: Mapped[list[Any]]
    first_epoch: Mapped[int]  # epochs trained before this slice
    last_epoch: Mapped[int]  # the budget; the slice may end before, at its time
    epochs_trained: Mapped[int | None]  # epoch reached when it was reported
    not_before: Mapped[datetime | None]  # no claim until then
    device_seconds: Mapped[float | None]  # from claim to report, of the attempt that was reported
    state: Mapped[SliceState] = mapped_column(String(20))
    error: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Event(Base):
    """What happened to a job, in order; its id is the id of the server-sent event."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_counter_type, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[Document]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class OutboxMessage(Base):
    """A message to the workers, written with the rows it is about and sent after their commit."""

    __tablename__ = "outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_counter_type, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(60))
    arguments: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class IdempotentRequest(Base):
    """The stored answer to a POST that carried an `Idempotency-Key`."""

    __tablename__ = "idempotent_requests"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, path and body
    body: Mapped[Document]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Worker(Base):
    """A training process that was alive at `seen_at`."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    device: Mapped[str] = mapped_column(String(100))
    overhead_pace: Mapped[float | None]  # as it measured itself at its start, see `domain.cost.Pace`
    arithmetic_pace: Mapped[float | None]
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)


class ArrayObject(Base):
    """One object of the array store: a Zarr chunk, its metadata, or a checkpoint."""

    __tablename__ = "array_objects"

    key: Mapped[str] = mapped_column(_key_type, primary_key=True)
    value: Mapped[bytes]
    size_bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
