"""Documents of the log of changes."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainSerializer

from store.tables import current_actor


class ActorDocument(BaseModel):
    """The one who did something."""

    key_id: str | None = Field(
        description="Id of the key. Null for the operator, and for the service itself."
    )
    name: str = Field(
        description="Name of the key at that time; `operator` for the key of the settings, `service` for the service itself."
    )


def _unless_visitor(actor: ActorDocument | None) -> ActorDocument | None:
    return None if current_actor().is_visitor else actor


CreatedBy = Annotated[
    ActorDocument | None,
    Field(
        description="Who made it. Null if the service requires no key, if this was not yet recorded, and for a share."
    ),
    PlainSerializer(_unless_visitor, return_type=ActorDocument | None),
]


class AuditDocument(BaseModel):
    """One change."""

    id: int
    tenant: str
    at: datetime
    by: ActorDocument | None = Field(description="Who made the change. Null if the service requires no key.")
    action: str = Field(
        description="The kind of the object and what happened to it, such as `job.cancelled`.",
        examples=["dataset.created", "job.changed", "key.revoked"],
    )
    kind: str = Field(description="Kind of the object, such as `job`.")
    object_id: str
    object_name: str | None = Field(
        description="Name of the object now: of a job without a name, what it is; of a webhook, its address. Null if it has "
        "none, or was deleted."
    )
    details: dict[str, Any] = Field(description="Details, such as the names of the changed `fields`.")
