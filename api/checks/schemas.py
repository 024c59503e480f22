"""Documents of checks."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field


class CheckStatus(StrEnum):
    """Severity of a finding, in rising order."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class CheckDocument(BaseModel):
    """One check of the service."""

    name: str = Field(examples=["broker"])
    status: CheckStatus
    message: str = Field(description="The result in words.")
    hint: str | None = Field(None, description="What to do.")
    seconds: float = Field(description="Duration of the check.")
    details: dict[str, Any] | None = Field(
        None,
        description="Numbers and addresses, without passwords. Only the operator of the service sees them.",
    )


class ChecksDocument(BaseModel):
    """All checks of the service."""

    status: CheckStatus = Field(description="The worst status of all checks.")
    checked_at: datetime
    version: str = Field(description="Version of the service.")
    checks: list[CheckDocument]
