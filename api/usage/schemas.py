"""Documents of usage and quotas."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.http.links import Link
from domain.quotas import QuotaState

_Amount = Annotated[
    float | None, Field(ge=0, le=2**62, description="0: no limit. null: the amount of the settings.")
]


class QuotaAmounts(BaseModel):
    """Amounts of a tenant that replace those of the settings. Quotas that are not named keep theirs."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    stored_bytes: _Amount = None
    database_bytes: _Amount = None
    written_bytes_per_day: _Amount = None
    upload_bytes: _Amount = None
    open_jobs: _Amount = None
    shares: _Amount = None
    job_model_epochs: _Amount = None
    device_seconds_per_day: _Amount = None
    device_seconds_per_month: _Amount = None
    requests_per_minute: _Amount = None
    key_requests_per_minute: _Amount = None


class TenantPause(BaseModel):
    """Why the operator pauses a tenant."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(
        "", max_length=200, description="What the members of the tenant read, where work waits."
    )


class UsageDocument(BaseModel):
    """What a tenant uses of its quotas."""

    tenant: str
    quotas: list[QuotaState] = Field(
        description="The use of each quota. `job_model_epochs` applies to each job, so nothing of it is used. Requests are those "
        "that one process of the API counted; those of a key are only shown to its holder."
    )
    own_amounts: dict[str, float] = Field(
        description="Amounts that the operator set for this tenant; the others are those of the settings."
    )
    waits_for: str | None = Field(
        description="Why jobs and inferences of the tenant do not begin: the operator paused it, or its device time is spent. "
        "null: they may begin."
    )
    paused_at: datetime | None = Field(
        description="Since when the operator lets no job, inference or ingest of the tenant begin; null: not paused."
    )
    pause_reason: str | None = Field(description="What the operator tells the members of a paused tenant.")
    links: dict[str, Link]


class WorkDocument(BaseModel):
    """What a worker does now."""

    kind: str = Field(description="`train` or `infer` of a job, or `inference`.")
    id: str = Field(description="Id of the slice or of the inference.")
    tenant: str
    job_id: str | None = Field(description="Null for an inference.")
    job_name: str | None = Field(description="Name of the job, or else what it is; null for an inference.")
    models: int
    since: datetime | None


class WorkerDocument(BaseModel):
    """A training process that is alive."""

    name: str
    device: str
    device_name: str | None = Field(
        description="Model of a GPU; of a CPU that `LATENTRY_DEVICE=auto` took, the reason. null: `cpu` was set."
    )
    started_at: datetime
    seen_at: datetime
    draining_since: datetime | None = Field(
        description="Since when the operator drains it: it begins nothing, and ends when it is idle. null: it takes work."
    )
    work: list[WorkDocument] = Field(description="Empty: it is idle.")


class QueueDocument(BaseModel):
    """One kind of work."""

    name: Literal["slices", "inferences", "ingests", "deletions", "messages"]
    waiting: int
    running: int
    waiting_since: datetime | None = Field(
        description="When the oldest of those that wait was made; null if none waits. Work that was interrupted and waits again "
        "counts from its beginning."
    )


class WorkersDocument(BaseModel):
    """The training processes that are alive, and the work that waits and runs, of all tenants."""

    workers: list[WorkerDocument]
    queues: list[QueueDocument]
