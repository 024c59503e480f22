"""Documents of shares."""

from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from api.audit.schemas import CreatedBy
from api.grants import TargetKind
from api.http.links import Link

DEFAULT_DAYS = 30.0

ShareState = Literal["active", "expired", "revoked"]


class ShareRequest(BaseModel):
    """A request to share a data set, a job or a model. Give exactly one of the ids, and at most one time of expiry."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    dataset_id: str | None = Field(
        None,
        max_length=40,
        description="Share a data set: its trials, arrays, preview, analyses and downloads.",
    )
    job_id: str | None = Field(
        None,
        max_length=40,
        description="Share a job: its models, curves, events, decisions, and latents; the trials and arrays of its data set.",
    )
    model_id: str | None = Field(
        None,
        max_length=40,
        description="Share a model: its card, curve and latents; the trials and arrays of its data set.",
    )
    label: str = Field("", max_length=200, description="For whom or what it is; only your lab sees it.")
    expires_in_days: float | None = Field(
        None,
        gt=0,
        description=f"Days until it expires; {DEFAULT_DAYS:g} by default, at most `LATENTRY_SHARE_MAX_DAYS`.",
    )
    expires_at: AwareDatetime | None = Field(None, description="Time of expiry, with a time zone.")

    @model_validator(mode="after")
    def _has_one_of_each(self) -> Self:
        given = [name for name in ("dataset_id", "job_id", "model_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of dataset_id, job_id and model_id; got {', '.join(given) or 'none'}"
            )
        if self.expires_in_days is not None and self.expires_at is not None:
            raise ValueError("expected expires_in_days or expires_at; got both")
        return self

    @property
    def target_id(self) -> str:
        """The id of what is shared."""
        return self.dataset_id or self.job_id or self.model_id or ""


class ShareDocument(BaseModel):
    """A share, without its token."""

    id: str
    kind: TargetKind
    target_id: str = Field(description="Id of the data set, the job or the model.")
    target_name: str = Field(description="Name of the data set or the job; for a model its number and job.")
    label: str
    state: ShareState
    beginning: str = Field(description="The first characters of the token, to distinguish shares.")
    created_at: datetime
    created_by: CreatedBy = None
    expires_at: datetime
    last_used_at: datetime | None = Field(description="Accurate to the minute.")
    revoked_at: datetime | None
    links: dict[str, Link]


class NewShare(ShareDocument):
    """A new share."""

    token: str | None = Field(
        description="The token, shown only once: `Authorization: Bearer ltshare_…`. Null if you repeat the request with its "
        "Idempotency-Key."
    )
