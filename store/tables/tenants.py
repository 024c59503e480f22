"""Tables of tenants: their keys, webhooks and idempotent requests."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import Date, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from domain.states import DeliveryState
from store.tables.audit import CreatedByMixin
from store.tables.base import Base, Document, LeaseMixin, utc_now

DEFAULT_TENANT = "default"


class Tenant(Base):
    """The owner of data sets and jobs."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    # Days by kind, where they differ from the settings, see `store.retention`.
    retention: Mapped[Document | None]
    quotas: Mapped[Document | None]  # {quota: amount} that the operator set instead of the settings
    # Since its device time is spent, its work waits until then; see `store.quotas`.
    device_time_frees_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]  # since when the operator lets none of its work begin
    pause_reason: Mapped[str | None] = mapped_column(String(200))  # what the operator tells its members
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    @property
    def tenant_id(self) -> str:
        """Its id, as of everything that a tenant owns."""
        return self.id

    def has_no_device_time(self, now: datetime) -> bool:
        """Return whether the work of the tenant waits for device time."""
        return self.device_time_frees_at is not None and self.device_time_frees_at > now

    @property
    def pause_sentence(self) -> str | None:
        """Why no work of a paused tenant begins, for its members; None if the tenant is not paused."""
        if self.paused_at is None:
            return None
        why = f" ({self.pause_reason})" if self.pause_reason else ""
        since = f"{self.paused_at:%Y-%m-%dT%H:%M:%SZ}"
        return (
            f"the operator paused your tenant at {since}{why}; what runs ends, and nothing new begins. "
            "All results stay readable. Ask the operator to resume it"
        )


class DeviceUsage(Base):
    """Device time of a tenant on one day (UTC). It outlives the slices and inferences that used it."""

    __tablename__ = "device_usage"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    device_seconds: Mapped[float] = mapped_column(default=0.0)


class RetentionProgress(Base):
    """How far the sweep of one kind has come: it has swept the jobs of the tenant that ended before `swept_until`.

    Of the jobs that ended exactly then, it has swept those up to `job_id`.
    """

    __tablename__ = "retention_progress"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    swept_until: Mapped[datetime]
    job_id: Mapped[str] = mapped_column(String(40), default="")


class Key(CreatedByMixin, Base):
    """An API key of a tenant, or a share: a key that only shows one data set, job or model.

    Only the digest of the secret is stored.
    """

    __tablename__ = "keys"
    __table_args__ = (
        Index("uq_keys_digest", "digest", unique=True),
        Index("ix_keys_tenant", "tenant_id", "id"),
        Index("ix_keys_target", "tenant_id", "target_id", "revoked_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the secret
    beginning: Mapped[str] = mapped_column(String(20))  # first characters of the secret, to recognise the key
    scopes: Mapped[list[Any]]  # read, write, admin
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    # Of a share: the data set, job or model that it shows. It is deleted with it, see `store.deletion`.
    target_id: Mapped[str | None] = mapped_column(String(40))


class Webhook(CreatedByMixin, Base):
    """A URL to which a message is sent when a job ends."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_tenant", "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    url: Mapped[str] = mapped_column(String(2000))
    states: Mapped[list[Any]]  # final states of jobs that are announced: done, failed, cancelled
    secret: Mapped[str] = mapped_column(String(100))  # signs the messages; shown once
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(LeaseMixin, Base):
    """One message to a webhook. It is sent again until it is delivered or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "state", "due_at"),
        Index("ix_webhook_deliveries_webhook", "webhook_id", "id"),
        Index("ix_webhook_deliveries_ended", "webhook_id", "ended_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    job_id: Mapped[str | None] = mapped_column(
        ForeignKey("jobs.id")
    )  # the job that ended; none in a test message
    state: Mapped[DeliveryState] = mapped_column(String(20))
    body: Mapped[Document]
    status: Mapped[int | None]  # HTTP status of the last answer
    error: Mapped[str | None]  # why the last attempt failed
    due_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class IdempotentRequest(Base):
    """The stored response to a POST with an `Idempotency-Key`."""

    __tablename__ = "idempotent_requests"
    __table_args__ = (
        Index("ix_idempotent_requests_resource", "resource_id"),
        Index("ix_idempotent_requests_created", "tenant_id", "created_at"),
    )

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, path and body
    body: Mapped[Document]
    resource_id: Mapped[str | None] = mapped_column(String(40))  # the response is deleted with this resource
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
