"""The one class of settings, read from the environment (prefix ``LATENTRY_``)."""

import re
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_SHORTEST_SECRET = 20


class Settings(BaseSettings):
    """Everything that can be configured, with its default.

    The defaults are those of the embedded service, ``latentry up``: SQLite and files under `data_dir`.
    """

    model_config = SettingsConfigDict(env_prefix="LATENTRY_", extra="ignore")

    data_dir: Path = Field(
        Path("latentry-data"),
        description="Folder of everything the service keeps on disk: uploads, and the database when it is SQLite.",
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL of the database; SQLite at `data_dir`/latentry.db when empty. "
        "PostgreSQL: `postgresql+psycopg://user:password@host/name`.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="URL of the Redis-compatible broker. `latentry up` starts its own unless this is set.",
    )
    array_url: str = Field(
        "sql:",
        description="Where array chunks and checkpoints live: `sql:` (rows of the database) or `file:///a/folder`.",
    )
    require_key: bool = Field(
        False,
        description="Answer only requests that carry a key. Without it whoever reaches the port may do everything: for one's own "
        "machine.",
    )
    admin_key: SecretStr = Field(
        SecretStr(""),
        description="A key of whoever runs the service, with which the first others are made; 20 characters at least. With "
        "`require_key` it must be set.",
    )
    upload_max_bytes: int = Field(
        10 * 2**30, gt=0, description="Largest accepted upload, in bytes; a larger one is answered 413."
    )
    upload_url: str = Field(
        "",
        description="Where uploaded files are kept: `s3://bucket/prefix`, with `AWS_…` in the environment; the folder `uploads` "
        "of `data_dir` when empty.",
    )
    upload_keep_seconds: float = Field(
        86_400.0,
        gt=0,
        description="An upload that got no more bytes for so many seconds, or that no data set was made of, is deleted.",
    )
    body_max_bytes: int = Field(
        2**20, gt=0, description="Largest accepted body of every other request, in bytes."
    )
    parse_memory_bytes: int = Field(
        4 * 2**30, gt=0, description="Address space of the subprocess that parses an upload, in bytes."
    )
    parse_seconds: float = Field(
        600.0, gt=0, description="Time limit of the parsing of one upload, in seconds."
    )
    json_max_elements: int = Field(
        200_000,
        gt=0,
        description="Most elements of an array that are answered as JSON; use npy or Zarr for more.",
    )

    lease_seconds: float = Field(
        45.0,
        gt=0,
        description="A slice whose worker gave no sign for this long is taken from it. The time from a killed "
        "machine to resumption is at most this plus `maintenance_seconds`.",
    )
    heartbeat_seconds: float = Field(
        5.0, gt=0, description="How often a worker renews its lease and writes progress, in seconds."
    )
    slice_seconds: float = Field(
        60.0,
        gt=0,
        description="A slice of training ends at the first epoch boundary after this many seconds.",
    )
    maintenance_seconds: float = Field(
        1.0, gt=0, description="Period of the sweep for expired leases and forgotten rows, in seconds."
    )
    outbox_seconds: float = Field(
        0.2, gt=0, description="How often the maintenance loop looks for messages to send, in seconds."
    )
    max_attempts: int = Field(
        3,
        ge=1,
        description="How often a slice or an ingest may fail, or take its process with it, before it counts as failed.",
    )
    max_losses: int = Field(
        50,
        ge=1,
        description="How often the worker of a slice or an ingest may be lost, machine and all, before it counts as failed: "
        "no fault of the work, and retried free of charge.",
    )
    full_disk_seconds: float = Field(
        30.0,
        gt=0,
        description="A slice that met a full disk, or a database that was away, is tried again after so many "
        "seconds; no attempt is counted.",
    )
    broker_visibility_seconds: int = Field(
        3600,
        gt=0,
        description="After so many seconds the broker delivers a message again whose task still runs. It does no harm.",
    )
    collect_seconds: float = Field(
        600.0,
        gt=0,
        description="How often what lost workers left in the array store, weights that are no longer kept and uploads that "
        "nobody used are deleted.",
    )
    webhook_seconds: float = Field(
        86_400.0,
        gt=0,
        description="A message to a webhook that is not taken is sent again, ever more rarely, for so many seconds.",
    )
    webhook_timeout_seconds: float = Field(
        15.0, gt=0, description="How long a webhook may take to answer, in seconds."
    )
    webhook_allow_private: bool = Field(
        False,
        description="Let webhooks be at `http://`, and at private and loopback addresses: for a service whose users may reach "
        "everything that it can reach.",
    )
    pack_models: int = Field(
        32,
        ge=1,
        description="Most models of a pack, which one worker trains from report to report; how many of them at once it "
        "finds by itself.",
    )
    device: str = Field("auto", description="Device of training: `auto`, `cpu`, `cuda`, `cuda:0`, …")
    threads: int = Field(
        1,
        ge=1,
        description="CPU threads of one training process. On CPUs run more workers instead: the compiled recurrences "
        "use one thread, and several workers scale better than one with several threads.",
    )

    infer_max_bytes: int = Field(
        4 * 2**20,
        gt=0,
        description="Largest accepted body of a request for latents at once (`:infer`), in bytes.",
    )
    infer_max_trials: int = Field(
        64, ge=1, description="Most trials of a request for latents at once; for more there is `:apply`."
    )
    infer_seconds: float = Field(
        30.0,
        gt=0,
        description="How long a request for latents at once may take, in seconds, before it is answered 503.",
    )
    infer_cache_bytes: int = Field(
        512 * 2**20, ge=0, description="Weights that the process of such requests keeps loaded, in bytes."
    )
    infer_device: str = Field(
        "cpu",
        description="Device of that process: `cpu`, `cuda`, …",
    )
    infer_preload: bool = Field(
        False, description="Import torch when that process starts, and not with its first request."
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
                "admin_key: with require_key set it must be too, or nobody could make a key; make one with "
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
        """Folder of uploads under way, and of uploaded files unless they are kept in a bucket."""
        return self.data_dir / "uploads"


@lru_cache
def get_settings() -> Settings:
    """Settings of this process, read once."""
    return Settings()
