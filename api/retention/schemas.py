"""Documents of the retention."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from store.settings import KeptDays, MonthOfDays

_DESCRIPTION = "Days, or `forever`; null: as the setting says."


class TenantDays(BaseModel):
    """For how many days the data of one tenant is kept, where that differs from the settings `LATENTRY_KEEP_…_DAYS`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"originals": "forever", "events": 30}]}
    )

    originals: KeptDays | None = Field(None, description=f"Uploaded files. {_DESCRIPTION}")
    checkpoints: KeptDays | None = Field(
        None, description=f"Weights of models that are neither selected nor a refit. {_DESCRIPTION}"
    )
    curves: KeptDays | None = Field(None, description=f"Every epoch of learning curves. {_DESCRIPTION}")
    thinned_curves: KeptDays | None = Field(None, description=f"Thinned learning curves. {_DESCRIPTION}")
    events: KeptDays | None = Field(None, description=f"Events of jobs. {_DESCRIPTION}")
    slices: MonthOfDays | None = Field(None, description=f"Rows of slices. {_DESCRIPTION}")
    idempotency: KeptDays | None = Field(
        None, description=f"Responses to requests with an `Idempotency-Key`. {_DESCRIPTION}"
    )
    deliveries: KeptDays | None = Field(None, description=f"Messages to webhooks. {_DESCRIPTION}")
    shares: KeptDays | None = Field(
        None, description=f"Shares that have expired or were revoked. {_DESCRIPTION}"
    )


class RetentionItem(BaseModel):
    """One kind of old data of one tenant, and what the next sweep removes of it."""

    tenant: str
    kind: str = Field(description="A field of `TenantDays`.", examples=["events"])
    days: float | None = Field(description="For how many days it is kept; null: for ever.")
    is_own: bool = Field(description="Whether these are days of the tenant instead of those of the setting.")
    setting: str = Field(examples=["LATENTRY_KEEP_EVENTS_DAYS"])
    older_than: datetime | None = Field(
        description="What is older is due. The age counts from the end of the job, else from the creation or the last use."
    )
    due: int = Field(
        description="Number of files, weights or rows that the next sweep removes. At most 1,000,000 rows are counted."
    )
    due_bytes: int = Field(
        description="Their size in bytes; an estimate for rows. Of weights, only those in the database are measured."
    )


class RetentionReport(BaseModel):
    """For how long data is kept, and what the next sweep removes. Reading it removes nothing."""

    items: list[RetentionItem]
