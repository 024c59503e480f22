"""The settings, read from the environment (prefix ``LATENTRY_``)."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_SHORTEST_SECRET = 20

KeptDays = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | Literal["forever"]
"""An age in days after which something is removed, or `forever`."""
MonthOfDays = Annotated[float, Field(ge=32, le=100_000, allow_inf_nan=False)] | Literal["forever"]
"""The same for what the quotas of a month count."""


class Settings(BaseSettings):
    """All settings, with their defaults.

    The defaults are for the embedded service, ``latentry up``: SQLite, and files in `data_dir`.
    """

    model_config = SettingsConfigDict(env_prefix="LATENTRY_", extra="ignore", hide_input_in_errors=True)

    data_dir: Path = Field(
        Path("latentry-data"),
        description="Folder for all files of the service: uploads, and the database if it is SQLite.",
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL of the database. If empty, SQLite at `data_dir`/latentry.db. PostgreSQL: "
        "`postgresql+psycopg://user:password@host/name`.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="URL of the Redis-compatible broker. `latentry up` starts its own unless you set this.",
    )
    array_url: str = Field(
        "sql:",
        description="Where array chunks and checkpoints are stored: `sql:` (rows of the database) or `file:///a/folder`.",
    )
    log_format: Literal["json", "console", "auto"] = Field(
        "auto",
        description="Format of the logs: `json`, or `console` for people. `auto` is `console` in a terminal, else `json`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged: `debug`, `info`, `warning` or `error`."
    )
    log_lines_per_minute: int = Field(
        3000,
        ge=1,
        description="Maximum number of lines in a minute that each process logs for one logger and one tenant. Further lines are "
        "counted and dropped, so that no client fills the disk.",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the metrics for Prometheus, at `/metrics`; 0 for none. It needs no key.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address of this port. Do not open it to the internet."
    )
    require_key: bool = Field(
        False,
        description="Refuse requests without a key. If false, everyone who reaches the port has all permissions; use this "
        "only on your own machine.",
    )
    admin_key: SecretStr = Field(
        SecretStr(""),
        description="Key of the operator, which can create the first other keys; at least 20 characters. Required with "
        "`require_key`.",
    )
    wrong_keys_per_minute: int = Field(
        30,
        gt=0,
        description="Maximum number of requests with a wrong key from one address in a minute. More get 429.",
    )
    wrong_keys_per_minute_in_all: int = Field(
        600, gt=0, description="Maximum number of requests with a wrong key from all addresses in a minute."
    )
    upload_max_bytes: int = Field(
        10 * 2**30, gt=0, description="Largest accepted upload, in bytes. A larger one gets 413."
    )
    upload_url: str = Field(
        "",
        description="Where uploaded files are stored: `s3://bucket/prefix`, with `AWS_…` in the environment. If empty, the "
        "folder `uploads` of `data_dir`.",
    )
    upload_keep_seconds: float = Field(
        86_400.0,
        gt=0,
        description="The service deletes an upload that gets no bytes for this long, or that no data set uses, in seconds.",
    )
    body_max_bytes: int = Field(
        2**20, gt=0, description="Largest accepted body of any other request, in bytes."
    )
    max_header_bytes: int = Field(
        2**15, gt=0, description="Maximum size of the header of a request, in bytes. A larger one gets 431."
    )
    header_seconds: float = Field(
        10.0,
        gt=0,
        description="Time in which the whole header of a request must arrive, in seconds. After it the API closes the "
        "connection.",
    )
    stall_seconds: float = Field(
        30.0,
        gt=0,
        description="The API closes a connection whose body does not arrive, or whose response is not read, for this long, in "
        "seconds.",
    )
    keep_alive_seconds: int = Field(
        30, gt=0, description="Time after which the API closes a connection without requests, in seconds."
    )
    max_connections: int = Field(
        1000,
        gt=0,
        description="Maximum number of connections to a process of the API. Above it, the API closes connections that wait for "
        "a request.",
    )
    max_connections_per_client: int = Field(
        200,
        gt=0,
        description="Maximum number of connections of one address, except those of `trusted_proxies`. More get 429.",
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks of reverse proxies, separated by commas: `127.0.0.1,10.0.0.0/8`. The API reads the "
        "`X-Forwarded-…` headers of these alone.",
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path of the service behind a reverse proxy that removes it: `/latentry`. Links then begin with it.",
    )
    parse_memory_bytes: int = Field(
        4 * 2**30,
        gt=0,
        description="Maximum address space of the subprocess that parses an upload, in bytes.",
    )
    parse_seconds: float = Field(600.0, gt=0, description="Time limit for parsing one upload, in seconds.")
    json_max_elements: int = Field(
        200_000,
        gt=0,
        description="Maximum number of elements in a JSON response; use npy or Zarr for larger arrays.",
    )
    streams_per_key: int = Field(
        64,
        ge=1,
        description="Maximum number of event streams that one key may have open at each process of the API. A further one gets "
        "429.",
    )

    disk_min_free_bytes: int = Field(
        2**30,
        ge=0,
        description="Free space that uploads leave on the disk of `data_dir`, in bytes. An upload that needs it gets 507. Set at "
        "least what the database and the jobs write in a day.",
    )
    quota_stored_bytes: int = Field(
        500 * 2**30,
        ge=0,
        description="Maximum size of a tenant's uploaded files, arrays and weights, in bytes. For all quotas: 0 means no limit, "
        "and the operator can set another amount for a tenant.",
    )
    quota_database_bytes: int = Field(
        5 * 2**30,
        ge=0,
        description="Maximum size of a tenant's rows in the database, in bytes: jobs with their models, data sets, inferences, "
        "uploads, keys and webhooks. Sizes are estimates.",
    )
    quota_written_bytes_per_day: int = Field(
        256 * 2**20,
        ge=0,
        description="Maximum size of the rows that requests of a tenant add within 24 hours, in bytes, counted in each process "
        "of the API. It also bounds rows that nobody deletes, such as those of the audit log.",
    )
    quota_upload_bytes: int = Field(
        50 * 2**30,
        ge=0,
        description="Maximum size of a tenant's unfinished uploads, in bytes. An upload counts with its announced size.",
    )
    quota_open_jobs: int = Field(
        200, ge=0, description="Maximum number of jobs of a tenant that have not ended; paused jobs count."
    )
    quota_job_model_epochs: int = Field(
        2_000_000, ge=0, description="Maximum of models × epochs in the budget of a job."
    )
    quota_device_seconds_per_day: float = Field(
        1_382_400.0,
        ge=0,
        description="Device time of a tenant in a day (UTC), in seconds; the default is 16 devices for 24 hours. After it, jobs "
        "and inferences wait for the next day.",
    )
    quota_device_seconds_per_month: float = Field(
        20_736_000.0,
        ge=0,
        description="Device time of a tenant in a month (UTC), in seconds; the default is 8 devices for 30 days.",
    )
    quota_shares: int = Field(200, ge=0, description="Maximum number of valid shares of a tenant.")
    requests_at_once: int = Field(
        4,
        ge=1,
        description="Number of requests with one key that run at a time in each process of the API; three times as many with "
        "all keys of a tenant. Further ones wait for their turn, so that others need not.",
    )
    quota_requests_per_minute: int = Field(
        30_000,
        ge=0,
        description="Maximum number of requests of a tenant in a minute, counted in each process of the API.",
    )
    quota_key_requests_per_minute: int = Field(
        12_000,
        ge=0,
        description="Maximum number of requests with one key in a minute, counted in the same way.",
    )

    lease_seconds: float = Field(
        45.0,
        gt=0,
        description="Time without a heartbeat after which a worker loses its slice, in seconds. A killed machine delays its "
        "slices by at most this plus `maintenance_seconds`.",
    )
    heartbeat_seconds: float = Field(
        5.0, gt=0, description="Interval at which a worker renews its lease and writes progress, in seconds."
    )
    slice_seconds: float = Field(
        60.0,
        gt=0,
        description="A slice of training ends at the first end of an epoch after this many seconds.",
    )
    maintenance_seconds: float = Field(
        1.0, gt=0, description="Interval of the check for expired leases and forgotten rows, in seconds."
    )
    outbox_seconds: float = Field(
        0.2,
        gt=0,
        description="Interval at which the maintenance loop looks for messages to send, in seconds.",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        description="Maximum number of attempts of a slice or an ingest. An error, or the death of its process, ends an "
        "attempt.",
    )
    max_losses: int = Field(
        50,
        ge=1,
        description="Maximum number of times that the machine of a slice or an ingest may be lost. Losses do not count as "
        "attempts.",
    )
    full_disk_seconds: float = Field(
        30.0,
        gt=0,
        description="Delay before work is retried after a full disk or a missing database, in seconds. This does not count "
        "as an attempt.",
    )
    broker_visibility_seconds: int = Field(
        3600,
        gt=0,
        description="Time after which the broker delivers a message again while its task is still running, in seconds. This "
        "does no harm.",
    )
    collect_seconds: float = Field(
        600.0,
        gt=0,
        description="Interval at which the service deletes unused objects: files of lost workers, weights that are not kept, "
        "and unused uploads.",
    )
    keep_originals_days: KeptDays = Field(
        365.0,
        description="Days for which an uploaded file is kept after its upload or its last `:derive`. Data sets stay.",
    )
    keep_checkpoints_days: KeptDays = Field(
        90.0,
        description="Days after the end of a job for which it keeps the weights of all its best models. The weights of the "
        "selected model and of its refit stay as long as the job.",
    )
    keep_curves_days: KeptDays = Field(
        30.0,
        description="Days after the end of a job for which its learning curves have every epoch. Then about 50 points of each "
        "curve stay.",
    )
    keep_thinned_curves_days: KeptDays = Field(
        365.0,
        description="Days after the end of a job for which the thinned learning curves are kept. Those of the selected model and "
        "of its refit stay as long as the job.",
    )
    keep_events_days: KeptDays = Field(
        90.0, description="Days after the end of a job for which its events are kept."
    )
    keep_slices_days: MonthOfDays = Field(
        90.0,
        description="Days after the end of a job for which the rows of its slices are kept; at least 32. Their device time is "
        "then added up in the job.",
    )
    keep_idempotency_days: KeptDays = Field(
        7.0, description="Days for which the response to a request with an `Idempotency-Key` is kept."
    )
    keep_deliveries_days: KeptDays = Field(
        30.0, description="Days for which a message to a webhook is kept after it was delivered or given up."
    )
    keep_shares_days: KeptDays = Field(
        90.0, description="Days for which a share is listed after it expired or was revoked."
    )
    share_max_days: float = Field(
        365.0, gt=0, le=36_500, description="Maximum number of days for which a share is valid."
    )
    webhook_seconds: float = Field(
        86_400.0,
        gt=0,
        description="How long the service retries a webhook message, with increasing delays, in seconds.",
    )
    webhook_timeout_seconds: float = Field(
        15.0, gt=0, description="Time limit for the response of a webhook, in seconds."
    )
    webhook_allow_private: bool = Field(
        False,
        description="Allow webhooks at `http://` and at private and loopback addresses. Set it only if all users may reach "
        "everything that the service can reach.",
    )
    pack_models: int = Field(
        32,
        ge=1,
        description="Maximum number of models in a pack, which one worker trains between two reports. The worker decides how "
        "many of them run at a time.",
    )
    device: str = Field(
        "auto",
        description="Device for training: `auto` (the first GPU, or the CPU if there is none), `cpu`, `cuda` (the first GPU) or "
        "`cuda:N`. A worker without the GPU that is named does not start. `/readyz` says which device `auto` took, and why.",
    )
    threads: int = Field(
        1,
        ge=1,
        description="CPU threads of one training process. On CPUs, prefer more workers: the compiled recurrences use one "
        "thread, and several workers scale better than one worker with several threads.",
    )

    computation_threads: int = Field(
        2,
        ge=1,
        description="Analyses, pictures, transformations and pieces of downloads that one API process computes at a time. "
        "Tenants take turns.",
    )
    computation_seconds: float = Field(
        120.0,
        gt=0,
        description="Time limit of one such computation, in seconds; after it, the response is 504. After the same time without "
        "a turn, the response is 503.",
    )
    computations_per_tenant: int = Field(
        16,
        ge=1,
        description="Maximum number of such computations of one tenant that run and wait in one API process. A further one gets "
        "429.",
    )
    infer_max_bytes: int = Field(
        4 * 2**20,
        gt=0,
        description="Largest accepted body of a request for online inference (`:infer`), in bytes.",
    )
    infer_max_trials: int = Field(
        64,
        ge=1,
        description="Maximum number of trials in a request for online inference; use `:apply` for more.",
    )
    infer_seconds: float = Field(
        30.0,
        gt=0,
        description="Time limit for a request for online inference, in seconds. After it, the response is 503.",
    )
    infer_at_once: int = Field(
        4,
        ge=1,
        description="Requests for online inference that one API process sends to the processes `infer` at a time, in turns by "
        "tenant. Raise it with their number.",
    )
    infer_cache_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="Maximum size of the weights that the process `infer` keeps in memory, in bytes.",
    )
    infer_device: str = Field(
        "cpu",
        description="Device of the process `infer`: `cpu`, `cuda`, …",
    )
    infer_preload: bool = Field(
        False, description="Import torch when the process `infer` starts, instead of with its first request."
    )

    @model_validator(mode="after")
    def _complete(self) -> "Settings":
        self.data_dir = self.data_dir.expanduser().absolute()
        if not self.database_url:
            self.database_url = f"sqlite:///{self.data_dir / 'latentry.db'}"
        if self.upload_url and not re.fullmatch(r"s3://[^/?#]+(/[^?#]*)?", self.upload_url):
            raise ValueError(f"upload_url: expected 's3://bucket/prefix' or nothing, got {self.upload_url!r}")
        secret = self.admin_key.get_secret_value()
        if secret and len(secret) < _SHORTEST_SECRET:
            raise ValueError(
                f"admin_key: expected {_SHORTEST_SECRET} characters at least, got {len(secret)}; make one with "
                "`openssl rand -hex 32`"
            )
        if self.require_key and not secret:
            raise ValueError(
                "admin_key: expected a key, since require_key is set and other keys are made with this one; make one with "
                "`openssl rand -hex 32`"
            )
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError(
                f"lease_seconds ({self.lease_seconds}) must be at least three times heartbeat_seconds "
                f"({self.heartbeat_seconds}), or one late heartbeat loses a healthy slice"
            )
        return self

    @property
    def uploads_dir(self) -> Path:
        """Folder of unfinished uploads, and of uploaded files unless a bucket stores them."""
        return self.data_dir / "uploads"


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, which are read once."""
    return Settings()
