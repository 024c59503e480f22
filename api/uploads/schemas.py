"""Documents of uploads."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.audit.schemas import CreatedBy
from api.http.links import Link
from domain.states import UploadState

Filename = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
"""Text without NUL, which PostgreSQL cannot store."""


class DirectRequest(BaseModel):
    """The request that puts the file into the bucket."""

    method: Literal["PUT"] = "PUT"
    url: str = Field(description="Signed URL. Anyone who has it can send this one file.")
    headers: dict[str, str] = Field({}, description="Headers to send with the request.")
    expires_at: datetime


class UploadDocument(BaseModel):
    """A file that is being uploaded, or that was uploaded and is not yet used."""

    id: str
    filename: str
    state: UploadState
    offset: int = Field(description="Number of bytes received so far.")
    bytes: int = Field(description="Size of the whole file.")
    sha256: str | None = Field(None, description="SHA-256 of the file, once the upload is complete.")
    direct: DirectRequest | None = Field(None, description="Where to send a direct upload.")
    created_at: datetime
    created_by: CreatedBy = None
    expires_at: datetime = Field(
        description="When the upload is deleted. New bytes move this time; a data set made from the upload keeps the file."
    )
    links: dict[str, Link]


class DirectUpload(BaseModel):
    """A request to upload a file directly into the bucket."""

    model_config = ConfigDict(extra="forbid")

    filename: Filename = Field("", description="Name of the file, for the record.")
    bytes: int = Field(gt=0, le=2**62, description="Size of the file.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the file, in hex. The service checks it when it reads the file.",
    )
