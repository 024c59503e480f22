"""Documents of data sets."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.states import DatasetState

Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
"""Text that databases keep; PostgreSQL's has no NUL."""


class DatasetDocument(BaseModel):
    """A data set."""

    id: str
    name: str
    state: DatasetState
    source: dict[str, Any] = Field(
        description="The upload (file name, bytes, SHA-256) or the synthetic system."
    )
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

    name: Name = Field("", description="A name for the data set; the file's unless given.")
    filename: Name = Field("", description="Name of the file, for the record.")
    format: Literal["npz", "lfads_hdf5"] | None = Field(
        None, description="Format of the file; told from its contents unless given."
    )
    bin_width_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Width of a bin in seconds, if the file does not say."
    )


MOST_SYNTHETIC_SAMPLES = 10**8
"""About 2 GB while it is made."""


class LorenzSystem(BaseModel):
    """Spikes of neurons driven by a Lorenz attractor, with known rates."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    system: Literal["lorenz"]
    name: Name = Field("", description="A name for the data set.")
    conditions: int = Field(65, ge=1, le=1000)
    trials_per_condition: int = Field(20, ge=2, le=1000)
    bins: int = Field(50, ge=2, le=2000)
    neurons: int = Field(29, ge=1, le=2000)
    mean_count_per_bin: float = Field(0.2, gt=0, le=50)
    bin_width_s: float = Field(0.01, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        samples = self.conditions * self.trials_per_condition * self.bins * self.neurons
        if samples > MOST_SYNTHETIC_SAMPLES:
            raise ValueError(
                f"conditions × trials_per_condition × bins × neurons is {samples}; expected at most "
                f"{MOST_SYNTHETIC_SAMPLES}"
            )
        return self


SyntheticSystem = LorenzSystem


class TrialDocument(BaseModel):
    """One trial of a data set, in the user's order."""

    trial: int
    length_bins: int
    split: str | None = Field(
        None, description="As the file gave it; each job makes its own where it gave none."
    )
    details: dict[str, Any] = Field(description="Its metadata.")
