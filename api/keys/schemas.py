"""Documents of keys."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.audit.schemas import CreatedBy
from api.auth import Scope
from api.grants import TargetKind

TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]


class KeyRequest(BaseModel):
    """A request to create a key."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="Name of the person or the purpose.")
    scopes: list[Scope] = Field(
        ["read", "write"],
        min_length=1,
        description="`read`: read and download. `write`: change data sets, jobs and models. `admin`: manage keys, "
        "and read the log of changes.",
    )
    tenant: TenantName | None = Field(
        None,
        description="The tenant, which owns data sets and jobs; by default yours. A new tenant is created. Only the operator of "
        "the service can name another tenant.",
    )
    expires_at: AwareDatetime | None = Field(
        None, description="Time of expiry, with a time zone. By default the key does not expire."
    )


class KeyDocument(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    tenant: str
    scopes: list[Scope]
    beginning: str = Field(description="The first characters of the secret, to distinguish keys.")
    created_at: datetime
    created_by: CreatedBy = None
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="Accurate to the minute.")
    revoked_at: datetime | None


class NewKey(KeyDocument):
    """A new key."""

    secret: str | None = Field(
        description="The secret, shown only once. Null if you repeat the request with its Idempotency-Key."
    )


class CallerShare(BaseModel):
    """What your share shows."""

    kind: TargetKind
    id: str = Field(description="Id of the data set, the job or the model.")
    expires_at: datetime


class CallerDocument(BaseModel):
    """Your tenant and your scopes, or what your share shows."""

    tenant: str | None = Field(description="Null for a share.")
    name: str | None = Field(None, description="Name of your key. Null without a key, and for a share.")
    scopes: list[Scope]
    key_id: str | None = Field(
        description="Id of your key or share. Null without a key, and for the key of the settings."
    )
    is_operator: bool = Field(
        description="Whether you operate the service: you use the key of its settings, or the service requires no key."
    )
    share: CallerShare | None = Field(None, description="What you may look at, if your key is a share.")
    waits_for: str | None = Field(
        None,
        description="Why no work of your tenant begins: the operator paused it. null: it is not paused, or your key is a share.",
    )
