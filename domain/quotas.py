"""Quotas of tenants: their names, units and words, and the rule that refuses what goes beyond one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Literal, Self

from pydantic import BaseModel, Field

QuotaName = Literal[
    "stored_bytes",
    "database_bytes",
    "written_bytes_per_day",
    "upload_bytes",
    "open_jobs",
    "shares",
    "job_model_epochs",
    "device_seconds_per_day",
    "device_seconds_per_month",
    "requests_per_minute",
    "key_requests_per_minute",
    "streams",
    "analyses",
]


@dataclass(frozen=True)
class Quota:
    """A quota.

    Parameters
    ----------
    title
        A short name in plain words, for headings.
    what
        What is counted, as the subject of a sentence in the plural.
    unit
        Unit of the amounts.
    remedy
        What a user does when the quota is reached.
    """

    title: str
    what: str
    unit: str
    remedy: str


_WAITS = "jobs wait and continue by themselves"
QUOTAS: Mapping[QuotaName, Quota] = MappingProxyType(
    {
        "stored_bytes": Quota(
            "Stored data",
            "the uploaded files, arrays and weights of your tenant",
            "bytes",
            "delete data sets, jobs or inferences that you do not need; each document has its `stored_bytes`",
        ),
        "database_bytes": Quota(
            "Rows in the database",
            "the rows of your tenant in the database: jobs with their models, data sets, inferences, uploads, keys and webhooks",
            "bytes",
            "delete jobs or data sets that you do not need; a job counts about 2 kB for each of its models",
        ),
        "written_bytes_per_day": Quota(
            "Written today",
            "the rows that requests of your tenant wrote within a day",
            "bytes",
            "wait as `Retry-After` says, and make fewer changes; DELETE and `:cancel` always work",
        ),
        "upload_bytes": Quota(
            "Unfinished uploads",
            "the announced sizes of your tenant's unfinished uploads (1 MiB each at least)",
            "bytes",
            "finish or delete an upload: DELETE /v1/uploads/{upload_id}; unfinished ones expire",
        ),
        "open_jobs": Quota(
            "Unfinished jobs",
            "the running and waiting jobs of your tenant",
            "jobs",
            "wait until a job ends, or cancel one: POST /v1/jobs/{job_id}:cancel",
        ),
        "shares": Quota(
            "Shared links",
            "the valid shares of your tenant",
            "shares",
            "revoke a share that is no longer needed: DELETE /v1/shares/{share_id}",
        ),
        "job_model_epochs": Quota(
            "Models × epochs of one job",
            "the models × epochs of a job",
            "epochs",
            "ask for fewer models or epochs in `budget`",
        ),
        "device_seconds_per_day": Quota(
            "Device time today", "the device seconds of your tenant today (UTC)", "s", _WAITS
        ),
        "device_seconds_per_month": Quota(
            "Device time this month", "the device seconds of your tenant this month (UTC)", "s", _WAITS
        ),
        "requests_per_minute": Quota(
            "Requests in a minute",
            "the requests of your tenant in a minute",
            "requests",
            "wait as `Retry-After` says",
        ),
        "key_requests_per_minute": Quota(
            "Requests in a minute, your key",
            "the requests with your key in a minute",
            "requests",
            "wait as `Retry-After` says",
        ),
        "streams": Quota(
            "Event streams, your key", "the open event streams with your key", "streams", "close a stream"
        ),
        "analyses": Quota(
            "Analyses at the same time",
            "the analyses and other long computations of your tenant that run or wait",
            "analyses",
            "wait until one has ended",
        ),
    }
)
DEVICE_TIME: tuple[QuotaName, QuotaName] = ("device_seconds_per_day", "device_seconds_per_month")


@dataclass(frozen=True)
class Use:
    """How much of a quota a tenant uses.

    Parameters
    ----------
    name
        The quota.
    used
        The amount in use.
    allowed
        The largest allowed amount; 0: no limit.
    frees_at
        When the amount falls by itself; None if only the tenant can change it.
    """

    name: QuotaName
    used: float
    allowed: float
    frees_at: datetime | None = None

    @property
    def rest(self) -> float | None:
        """The amount that is left; None without a limit."""
        return max(0.0, self.allowed - self.used) if self.allowed else None

    def refuses(self, more: float = 0) -> bool:
        """Return whether `more` goes beyond the quota."""
        return bool(self.allowed) and self.used + more > self.allowed

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return bool(self.allowed) and self.used >= self.allowed

    def sentence(self, more: float = 0) -> str:
        """Return the amounts used, asked for and allowed as a sentence, with the time when the quota frees."""
        quota = QUOTAS[self.name]
        asked = f", this request asks for {_number(more)}" if more else ""
        end = f"; it frees at {self.frees_at:%Y-%m-%dT%H:%M:%SZ}" if self.frees_at else ""
        return f"{quota.what}: {_number(self.used)} {quota.unit} are used{asked}, and {_number(self.allowed)} are allowed{end}"


class QuotaState(BaseModel):
    """How much of a quota is used."""

    name: QuotaName
    title: str = Field(description="What it is in plain words.")
    used: float
    allowed: float | None = Field(description="The largest allowed amount; null: no limit.")
    rest: float | None = Field(description="What is left; null: no limit.")
    unit: str
    frees_at: datetime | None = Field(
        None, description="When the amount falls by itself; null if only you can lower it."
    )

    @classmethod
    def of(cls, use: Use) -> Self:
        """Return the document of a use."""
        return cls(
            name=use.name,
            title=QUOTAS[use.name].title,
            used=use.used,
            allowed=use.allowed or None,
            rest=use.rest,
            unit=QUOTAS[use.name].unit,
            frees_at=use.frees_at,
        )


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() or value >= 100 else f"{value:.1f}"


def amount(name: QuotaName, defaults: Mapping[str, float], own: Mapping[str, float] | None) -> float:
    """Return the allowed amount of a quota: the tenant's own, else the default. 0: no limit."""
    return float((own or {}).get(name, defaults[name]))


def next_day(today: date) -> datetime:
    """Return the beginning of the next day (UTC)."""
    return datetime.combine(today + timedelta(days=1), time(), UTC)


def next_month(today: date) -> datetime:
    """Return the beginning of the next month (UTC)."""
    first = today.replace(day=1)
    return datetime.combine((first + timedelta(days=32)).replace(day=1), time(), UTC)
