"""Documents of webhooks."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.states import DeliveryState

EndState = Literal["done", "failed", "cancelled"]


class WebhookRequest(BaseModel):
    """A webhook that is to be made."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=2000,
        pattern=r"^[^\x00]*$",
        description="Where messages are sent, `https://…`. Its host must be of the public network.",
        examples=["https://lab.example.org/latentry"],
    )
    states: list[EndState] = Field(
        ["done", "failed", "cancelled"], min_length=1, max_length=3, description="Of jobs, that are told."
    )


class WebhookDocument(BaseModel):
    """A webhook, without its secret."""

    id: str
    url: str
    states: list[EndState]
    created_at: datetime
    links: dict[str, str]


class NewWebhook(WebhookDocument):
    """A webhook that was just made."""

    secret: str | None = Field(
        description="Verifies what is sent. Shown this once; null when the request is repeated with its Idempotency-Key.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="],
    )


class DeliveryDocument(BaseModel):
    """A message to a webhook."""

    id: str = Field(description="What the header `webhook-id` says, the same at every attempt.")
    webhook_id: str
    job_id: str | None = Field(description="The job that ended; null in a test.")
    state: DeliveryState
    attempts: int
    status: int | None = Field(description="HTTP status of the last answer; null if there was none.")
    error: str | None = Field(description="Why the last attempt failed.")
    next_attempt_at: datetime | None = Field(description="null once it was delivered or given up.")
    created_at: datetime
    ended_at: datetime | None
    body: dict[str, Any] = Field(description="What is sent.")
