"""Documents of uploads."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.states import UploadState

Filename = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
"""Text that databases keep; PostgreSQL's has no NUL."""


class DirectRequest(BaseModel):
    """How to put the bytes into the bucket."""

    method: Literal["PUT"] = "PUT"
    url: str = Field(description="Signed: whoever has it can send this one file.")
    headers: dict[str, str] = Field({}, description="To send with it.")
    expires_at: datetime


class UploadDocument(BaseModel):
    """A file on its way in, or that came and is not used yet."""

    id: str
    filename: str
    state: UploadState
    offset: int = Field(description="Bytes that came so far.")
    bytes: int = Field(description="Bytes of the whole file.")
    sha256: str | None = Field(None, description="Of the file; known when all of it came.")
    direct: DirectRequest | None = Field(None, description="Where to send a direct upload.")
    created_at: datetime
    expires_at: datetime = Field(description="When it is deleted, unless bytes come or it is used before.")
    links: dict[str, str]


class DirectUpload(BaseModel):
    """A file that is to go straight into the bucket."""

    model_config = ConfigDict(extra="forbid")

    filename: Filename = Field("", description="Name of the file, for the record.")
    bytes: int = Field(gt=0, le=2**62, description="Its size.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Its SHA-256, in hex; checked when the file is read."
    )
