"""The tables. Every row of a resource names its tenant; every leased row holds the token of its lease."""

from store.tables.audit import Actor, AuditEntry, CreatedByMixin, acting, actor_document, current_actor
from store.tables.base import Base, Document, LeaseMixin, UtcDateTime, utc_now
from store.tables.datasets import Dataset, Trial, Upload, trial_bytes
from store.tables.jobs import Event, Job, Slice
from store.tables.labels import folded, tag_text
from store.tables.models import CurvePoint, Decision, Inference, Model
from store.tables.service import ArrayObject, Deletion, OutboxMessage, Worker
from store.tables.tenants import (
    DEFAULT_TENANT,
    DeviceUsage,
    IdempotentRequest,
    Key,
    RetentionProgress,
    Tenant,
    Webhook,
    WebhookDelivery,
)

__all__ = [
    "DEFAULT_TENANT",
    "Actor",
    "ArrayObject",
    "AuditEntry",
    "Base",
    "CreatedByMixin",
    "CurvePoint",
    "Dataset",
    "Decision",
    "Deletion",
    "DeviceUsage",
    "Document",
    "Event",
    "IdempotentRequest",
    "Inference",
    "Job",
    "Key",
    "LeaseMixin",
    "Model",
    "OutboxMessage",
    "RetentionProgress",
    "Slice",
    "Tenant",
    "Trial",
    "Upload",
    "UtcDateTime",
    "Webhook",
    "WebhookDelivery",
    "Worker",
    "acting",
    "actor_document",
    "current_actor",
    "folded",
    "tag_text",
    "trial_bytes",
    "utc_now",
]
