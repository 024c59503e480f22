"""Documents of data sets."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.audit.schemas import CreatedBy
from api.http.links import Link
from domain.dataset_options import DatasetOptions, FileFormat
from domain.labels import Labels, Name
from domain.states import DatasetState


class DatasetDocument(Labels):
    """A data set."""

    id: str
    name: str
    state: DatasetState
    digest: str | None = Field(
        None,
        description="SHA-256 of the source and the options. Data sets with equal content have equal digests; the service creates "
        "no second data set with the same digest.",
    )
    derived_from: str | None = Field(
        None, description="The data set that was made from the same file with other options."
    )
    original_removed_at: datetime | None = Field(
        None, description="When its age removed the uploaded file. The data set stays."
    )
    options: dict[str, Any] | None = Field(
        None,
        description="The options for reading the file (`DatasetOptions`) that differ from their defaults.",
    )
    source: dict[str, Any] = Field(
        description="The uploaded file (name, size, SHA-256), or the synthetic system and its parameters."
    )
    trials: int | None = None
    bins: int | None = None
    neurons: int | None = None
    bin_width_s: float | None = Field(None, description="Width of a bin, in seconds.")
    report: dict[str, Any] | None = Field(
        None, description="What the service found in the file, with warnings."
    )
    problems: list[dict[str, Any]] | None = Field(
        None, description="Why the data set was rejected, or why the service could not read the file."
    )
    stored_bytes: int = Field(
        0, description="Size of its file and arrays, in bytes. Data sets from one file have one file."
    )
    created_at: datetime
    created_by: CreatedBy = None
    ended_at: datetime | None = None
    links: dict[str, Link]


class UploadFields(Labels):
    """The description of an uploaded file in a query or a form."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="Name of the data set; by default the name of the file.")
    filename: Name = Field("", description="Name of the file, for the record.")
    format: FileFormat | None = Field(
        None, description="Format of the file; by default the service detects it."
    )
    bin_width_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Width of a bin in seconds, if the file does not state it.",
    )
    options: str | None = Field(
        None,
        max_length=50_000,
        description="Options for reading the file: `DatasetOptions` as JSON. `format` and `bin_width_s` are shortcuts for two of "
        "its fields.",
        examples=['{"trials": {"window_s": [-0.25, 0.75]}}'],
    )


class UploadReference(Labels):
    """A request to make a data set from a complete upload."""

    model_config = ConfigDict(extra="forbid")

    upload_id: Annotated[str, Field(max_length=40)]
    name: Name = Field("", description="Name of the data set; by default the name of the file.")
    options: DatasetOptions = Field(default_factory=DatasetOptions)


class Derivation(Labels):
    """A request to make a data set from the file of another data set."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="Name of the data set; by default the name of the other one.")
    options: dict[str, Any] = Field(
        description="Changes to the options of the other data set, as a JSON Merge Patch (RFC 7396) of `DatasetOptions`. Objects "
        "are merged field by field. Fields that you do not give stay unchanged, and `null` resets a field to its default.",
        examples=[{"rebin_s": 0.04, "trials": {"window_s": None}}],
    )


MOST_SYNTHETIC_SAMPLES = 10**8
"""The largest size that the service synthesizes; it takes about 2 GB of memory."""

_TRIALS = "Trials per condition. One fifth of them are validation trials."
_BINS = "Bins per trial."
_GAIN = "Gain of the recurrent weights: 1.5 is weakly chaotic, 2.5 strongly."
_MEAN_COUNT = "Mean number of spikes per neuron and bin."


class _System(Labels):
    """The parameters that all synthetic systems have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Name = Field("", description="Name of the data set; by default the name of the system.")
    conditions: int = Field(
        65, ge=1, le=1000, description="Number of conditions, each with its own initial state."
    )
    trials_per_condition: int = Field(20, ge=2, le=1000, description=_TRIALS)
    bins: int = Field(50, ge=2, le=2000, description=_BINS)
    neurons: int = Field(29, ge=1, le=2000)
    bin_width_s: float = Field(0.01, gt=0, le=1, description="Width of a bin, in seconds.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random numbers.")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        samples = self.conditions * self.trials_per_condition * self.bins * self.neurons
        if samples > MOST_SYNTHETIC_SAMPLES:
            raise ValueError(
                f"conditions × trials_per_condition × bins × neurons is {samples}; expected at most "
                f"{MOST_SYNTHETIC_SAMPLES}"
            )
        return self


class LorenzSystem(_System):
    """Spikes of neurons driven by a Lorenz attractor, with known rates."""

    system: Literal["lorenz"]
    mean_count_per_bin: float = Field(0.2, gt=0, le=50, description=_MEAN_COUNT)


class TwoSessionsSystem(_System):
    """One of two sessions. Different neurons in each session are driven by the same Lorenz trajectory per condition."""

    system: Literal["two_sessions"]
    session: int = Field(
        0,
        ge=0,
        le=1,
        description="Number of the session. Make the other session with the same `conditions`, `bins` and `seed`.",
    )
    mean_count_per_bin: float = Field(0.2, gt=0, le=50, description=_MEAN_COUNT)


class _NetworkSystem(_System):
    """The parameters of systems whose neurons are the units of a random recurrent network."""

    conditions: int = Field(
        400, ge=1, le=1000, description="Number of conditions, each with its own initial state."
    )
    trials_per_condition: int = Field(10, ge=2, le=1000, description=_TRIALS)
    bins: int = Field(100, ge=2, le=2000, description=_BINS)
    neurons: int = Field(50, ge=1, le=2000, description="Number of neurons, which are the network's units.")
    gain: float = Field(2.5, gt=0, le=20, description=_GAIN)
    max_rate_hz: float = Field(
        30.0,
        gt=0,
        le=1000,
        description="Maximum rate of a neuron in spikes per second; the mean rate is half of it.",
    )
    bin_width_s: float = Field(
        0.01,
        gt=0,
        le=0.05,
        description="Width of a bin, in seconds. The time constant of the network is 0.025 s.",
    )


class ChaoticNetworkSystem(_NetworkSystem):
    """Spikes of the units of a chaotic recurrent network, with known rates."""

    system: Literal["chaotic_rnn"]


class DrivenSystem(_NetworkSystem):
    """Spikes of the units of a recurrent network that receives pulses at random times, with known rates and inputs."""

    system: Literal["driven"]
    inputs: int = Field(
        1,
        ge=1,
        le=16,
        description="Number of inputs, at most the number of neurons. Each has one pulse of random sign in every trial.",
    )
    gain: float = Field(1.5, gt=0, le=20, description=_GAIN)
    pulse: float = Field(50.0, gt=0, le=1000, description="Amplitude of a pulse, which lasts one bin.")

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        if self.inputs > self.neurons:
            raise ValueError(
                f"inputs is {self.inputs}; expected at most the number of neurons, {self.neurons}"
            )
        return self


SyntheticSystem = LorenzSystem | ChaoticNetworkSystem | DrivenSystem | TwoSessionsSystem


class TrialDocument(BaseModel):
    """One trial of a data set."""

    trial: int
    length_bins: int
    split: str | None = Field(
        None,
        description="`train`, `valid`, `test`, or `gap`. A `gap` trial shares bins with trials of two parts, so it is neither "
        "trained on nor scored. Null if each job draws its own split.",
    )
    split_group: int | None = Field(
        None,
        description="Number of the group. Trials of a group are windows of one trial, or share bins in time. A drawn split keeps "
        "a group together, unless it splits by blocks of time. Null if the trial is in no group.",
    )
    details: dict[str, Any] = Field(description="Metadata of the trial.")
