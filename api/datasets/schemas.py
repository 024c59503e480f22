"""Documents of data sets."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from store.states import DatasetState


class DatasetDocument(BaseModel):
    """A data set."""

    id: str
    name: str
    state: DatasetState
    source: dict[str, Any] = Field(description="The upload (file name, bytes, SHA-256) or the synthetic system.")
    trials: int | None = None
    bins: int | None = None
    neurons: int | None = None
    bin_width_s: float | None = Field(None, description="Width of a bin, in seconds.")
    report: dict[str, Any] | None = Field(None, description="What was found, with warnings.")
    problems: list[dict[str, Any]] | None = Field(None, description="Why it was rejected.")
    created_at: datetime
    ended_at: datetime | None = None
    links: dict[str, str]


class UploadOptions(BaseModel):
    """How to read an uploaded file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=200, description="A name for the data set; the file's unless given.")
    filename: str = Field("", max_length=200, description="Name of the file, for the record.")
    format: Literal["npz", "lfads_hdf5"] | None = Field(
        None, description="Format of the file; told from its contents unless given."
    )
    bin_width_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Width of a bin in seconds, if the file does not say."
    )


class LorenzSystem(BaseModel):
    """Spikes of neurons driven by a Lorenz attractor, with known rates."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    system: Literal["lorenz"]
    name: str = Field("", max_length=200)
    conditions: int = Field(65, ge=1, le=1000)
    trials_per_condition: int = Field(20, ge=2, le=1000)
    bins: int = Field(50, ge=2, le=2000)
    neurons: int = Field(29, ge=1, le=2000)
    mean_count_per_bin: float = Field(0.2, gt=0, le=50)
    bin_width_s: float = Field(0.01, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**31)


SyntheticSystem = LorenzSystem


class TrialDocument(BaseModel):
    """One trial of a data set, in the user's order."""

    trial: int
    length_bins: int
    split: str | None = Field(None, description="As the file gave it; each job makes its own where it gave none.")
    details: dict[str, Any] = Field(description="Its metadata.")
