"""Documents of data sets."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domain.dataset_options import DatasetOptions, FileFormat
from domain.states import DatasetState

Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
"""Text that databases keep; PostgreSQL's has no NUL."""


class DatasetDocument(BaseModel):
    """A data set."""

    id: str
    name: str
    state: DatasetState
    digest: str | None = Field(
        None,
        description="SHA-256 of its content: what it is made of, and how. One of two data sets with the same is never made.",
    )
    derived_from: str | None = Field(
        None, description="The data set whose file was read anew, with other options."
    )
    options: dict[str, Any] | None = Field(
        None, description="How the file was read: the `DatasetOptions` that differ from their defaults."
    )
    source: dict[str, Any] = Field(
        description="The upload (file name, bytes, SHA-256) or the synthetic system."
    )
    trials: int | None = None
    bins: int | None = None
    neurons: int | None = None
    bin_width_s: float | None = Field(None, description="Width of a bin, in seconds.")
    report: dict[str, Any] | None = Field(None, description="What was found, with warnings.")
    problems: list[dict[str, Any]] | None = Field(
        None, description="Why it was rejected, or why the service failed to read it."
    )
    created_at: datetime
    ended_at: datetime | None = None
    links: dict[str, str]


class UploadFields(BaseModel):
    """What is said of an uploaded file, in a query or a form."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="A name for the data set; the file's unless given.")
    filename: Name = Field("", description="Name of the file, for the record.")
    format: FileFormat | None = Field(
        None, description="Format of the file; told from its contents unless given."
    )
    bin_width_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Width of a bin in seconds, if the file does not say."
    )
    options: str | None = Field(
        None,
        max_length=50_000,
        description="How to read the file, in full: `DatasetOptions` as JSON, which `format` and `bin_width_s` may fill in.",
        examples=['{"trials": {"window_s": [-0.25, 0.75]}}'],
    )


class UploadReference(BaseModel):
    """A data set to make of an upload that is complete."""

    model_config = ConfigDict(extra="forbid")

    upload_id: Annotated[str, Field(max_length=40)]
    name: Name = Field("", description="A name for the data set; the file's unless given.")
    options: DatasetOptions = Field(default_factory=DatasetOptions)


class Derivation(BaseModel):
    """A data set to make of the file of another one."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="A name for the data set; the other's unless given.")
    options: dict[str, Any] = Field(
        description="Changes to the other's options, as a JSON Merge Patch (RFC 7396) of `DatasetOptions`: objects are merged "
        "field by field, what is not given stays as it is, and `null` resets a field to its default.",
        examples=[{"rebin_s": 0.04, "trials": {"window_s": None}}],
    )


MOST_SYNTHETIC_SAMPLES = 10**8
"""About 2 GB while it is made."""


class _System(BaseModel):
    """What all synthetic systems have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Name = Field("", description="A name for the data set; the system's unless given.")
    conditions: int = Field(65, ge=1, le=1000, description="Initial states of the system.")
    trials_per_condition: int = Field(
        20, ge=2, le=1000, description="Trials of each; a fifth are for validation."
    )
    bins: int = Field(50, ge=2, le=2000, description="Bins of each trial.")
    neurons: int = Field(29, ge=1, le=2000)
    bin_width_s: float = Field(0.01, gt=0, le=1, description="Width of a bin, in seconds.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of everything random.")

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
    mean_count_per_bin: float = Field(0.2, gt=0, le=50, description="Mean spikes of each neuron in a bin.")


class TwoSessionsSystem(_System):
    """One of two sessions in which different neurons read the same Lorenz attractor, condition by condition."""

    system: Literal["two_sessions"]
    session: int = Field(
        0,
        ge=0,
        le=1,
        description="Which session: make the other with the same `conditions`, `bins` and `seed`.",
    )
    mean_count_per_bin: float = Field(0.2, gt=0, le=50, description="Mean spikes of each neuron in a bin.")


class _NetworkSystem(_System):
    """What systems have whose neurons are the units of a random recurrent network."""

    conditions: int = Field(400, ge=1, le=1000, description="Initial states of the network.")
    trials_per_condition: int = Field(
        10, ge=2, le=1000, description="Trials of each; a fifth are for validation."
    )
    bins: int = Field(100, ge=2, le=2000, description="Bins of each trial.")
    neurons: int = Field(50, ge=1, le=2000, description="Neurons, the units of the network.")
    gain: float = Field(
        2.5, gt=0, le=20, description="Of the recurrent weights: 1.5 is gently chaotic, 2.5 strongly."
    )
    max_rate_hz: float = Field(
        30.0,
        gt=0,
        le=1000,
        description="Spikes per second of a neuron at its highest; the mean is half of it.",
    )
    bin_width_s: float = Field(
        0.01,
        gt=0,
        le=0.05,
        description="Width of a bin, in seconds; the network's time constant is 0.025 s.",
    )


class ChaoticNetworkSystem(_NetworkSystem):
    """Spikes of the units of a chaotic recurrent network, with known rates."""

    system: Literal["chaotic_rnn"]


class DrivenSystem(_NetworkSystem):
    """Spikes of the units of a recurrent network that gets pulses at random times, with known rates and inputs."""

    system: Literal["driven"]
    inputs: int = Field(
        1,
        ge=1,
        le=16,
        description="Inputs, at most as many as neurons; each has a pulse of random sign in every trial.",
    )
    gain: float = Field(
        1.5, gt=0, le=20, description="Of the recurrent weights: 1.5 is gently chaotic, 2.5 strongly."
    )
    pulse: float = Field(50.0, gt=0, le=1000, description="Size of a pulse; it lasts a bin.")

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        if self.inputs > self.neurons:
            raise ValueError(f"inputs is {self.inputs}; expected at most as many as neurons, {self.neurons}")
        return self


SyntheticSystem = LorenzSystem | ChaoticNetworkSystem | DrivenSystem | TwoSessionsSystem


class TrialDocument(BaseModel):
    """One trial of a data set, in the user's order."""

    trial: int
    length_bins: int
    split: str | None = Field(
        None,
        description="`train`, `valid`, `test` or `gap` (shares bins with trials of two parts: neither trained on nor scored); "
        "null: each job draws its own.",
    )
    split_group: int | None = Field(
        None,
        description="Trials with the same number are windows of one trial, or share bins in time: no split that is drawn divides "
        "them, unless it is by blocks of time. null: the trial stands alone.",
    )
    details: dict[str, Any] = Field(description="Its metadata.")
