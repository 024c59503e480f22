"""Documents of keys."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.auth import Scope

TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]


class KeyRequest(BaseModel):
    """A key that is to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="Whose it is, or what for.")
    scopes: list[Scope] = Field(
        ["read", "write"],
        min_length=1,
        description="`read`: look and download. `write`: everything else with data sets, jobs and models. `admin`: keys.",
    )
    tenant: TenantName | None = Field(
        None,
        description="Whose data sets and jobs it is for; yours unless given. Made if it is not there. Another than one's own may "
        "be named only by whoever runs the service.",
    )
    expires_at: AwareDatetime | None = Field(None, description="With its zone; never unless given.")


class KeyDocument(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    tenant: str
    scopes: list[Scope]
    beginning: str = Field(description="How the secret begins, to tell keys apart.")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None


class NewKey(KeyDocument):
    """A key that was just made."""

    secret: str | None = Field(
        description="Shown this once; null when the request is repeated with its Idempotency-Key."
    )


class CallerDocument(BaseModel):
    """Who you are to the service."""

    tenant: str
    scopes: list[Scope]
    key_id: str | None = Field(description="Null without a key, and for the key of the settings.")
    is_operator: bool = Field(
        description="Whether you run the service: you hold the key of its settings, or none is asked for."
    )
