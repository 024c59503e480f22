"""Documents of webhooks."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.audit.schemas import CreatedBy
from api.http.links import Link
from domain.states import DeliveryState

EndState = Literal["done", "failed", "cancelled"]


class WebhookRequest(BaseModel):
    """A request for a webhook."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=2000,
        pattern=r"^[^\x00]*$",
        description="Where messages are sent, `https://…`. The host must be in the public internet.",
        examples=["https://lab.example.org/latentry"],
    )
    states: list[EndState] = Field(
        ["done", "failed", "cancelled"], min_length=1, max_length=3, description="States of jobs to report."
    )


class WebhookDocument(BaseModel):
    """A webhook, without its secret."""

    id: str
    url: str
    states: list[EndState]
    created_at: datetime
    created_by: CreatedBy = None
    links: dict[str, Link]


class NewWebhook(WebhookDocument):
    """A webhook that was just created."""

    secret: str | None = Field(
        description="Verifies messages. Only this answer has it; null if the request is repeated with its Idempotency-Key.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="],
    )


class DeliveryDocument(BaseModel):
    """A message to a webhook."""

    id: str = Field(description="Value of the header `webhook-id`, the same at every attempt.")
    webhook_id: str
    job_id: str | None = Field(description="The job that ended; null in a test.")
    state: DeliveryState
    attempts: int
    status: int | None = Field(description="HTTP status of the last response; null if there was none.")
    error: str | None = Field(description="Why the last attempt failed.")
    next_attempt_at: datetime | None = Field(description="null once the message is delivered or dropped.")
    created_at: datetime
    ended_at: datetime | None
    body: dict[str, Any] = Field(description="The message.")
