"""Documents of checks."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field


class CheckStatus(StrEnum):
    """How a check ended, the worst last."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class CheckDocument(BaseModel):
    """One check of the service."""

    name: str = Field(examples=["broker"])
    status: CheckStatus
    message: str = Field(description="What was found.")
    hint: str | None = Field(None, description="What to do.")
    seconds: float = Field(description="How long the check took.")
    details: dict[str, Any] | None = Field(
        None, description="Figures and addresses, without passwords; only for whoever runs the service."
    )


class ChecksDocument(BaseModel):
    """All checks of the service."""

    status: CheckStatus = Field(description="The worst of all.")
    checked_at: datetime
    version: str = Field(description="Of the service.")
    checks: list[CheckDocument]
