"""The document of a data set's preview."""

from typing import Literal

from pydantic import BaseModel, Field

Rows = list[list[float | None]]
Value = int | float | str | bool | None


class RasterTrial(BaseModel):
    """Spikes of one trial."""

    trial: int = Field(description="Its index.")
    start_s: float | None = Field(description="When it begins, in seconds of the session, if that is known.")
    length_bins: int
    condition: Value = Field(description="Its condition; null if there are none.")
    spikes: list[list[int]] = Field(
        description="For each of the raster's neurons the bins of its spikes; a bin with two spikes comes twice."
    )
    unobserved: list[list[int]] = Field(
        [],
        description="Stretches in which no neuron was observed: the first bin, and the bin after the last.",
    )


class Raster(BaseModel):
    """Spikes of up to 4 trials spread over the session and of up to 60 neurons spread over the rates."""

    neurons: list[int] = Field(description="Indices of the neurons, the fastest first.")
    bins: int = Field(
        description="Bins that are shown, from the first; fewer than the trials have if they are very long."
    )
    trials: list[RasterTrial]


class PreviewCondition(BaseModel):
    """A condition."""

    value: Value = Field(description="Null stands for all trials.")
    trials: int


class MeanRate(BaseModel):
    """Mean rates over trials."""

    mean_hz: Rows = Field(
        description="Conditions × bins, in spikes per second of a neuron; null where no trial reaches."
    )
    sem_hz: Rows = Field(description="Standard error of the mean; null of a single trial.")


class NeuronRate(MeanRate):
    """Mean rates of one neuron."""

    neuron: int = Field(description="Its index.")


class Psth(BaseModel):
    """Mean rates over trials by condition: of the population, and of the neurons that are most modulated."""

    by: str | None = Field(description="Name of the trial metadata that tell the condition; null if none do.")
    conditions: list[PreviewCondition] = Field(description="Those that are shown, at most 8.")
    conditions_in_all: int
    bin_width_s: float = Field(description="A multiple of the data set's, in seconds.")
    time_s: list[float] = Field(description="When each bin begins, from what trials are aligned to.")
    trials_per_bin: list[list[int]] = Field(description="Conditions × bins: how many trials reach each bin.")
    population: MeanRate
    neurons: list[NeuronRate]


class SessionRate(BaseModel):
    """Rate of the population over the session."""

    unit: Literal["s", "trial"] = Field(description="Of `at`: seconds of the session, or the trial's index.")
    at: list[float] = Field(
        description="Where each point lies, at most 500; neighbouring trials are put together."
    )
    rate_hz: list[float | None] = Field(description="Mean over neurons, in spikes per second.")


class RateHistogram(BaseModel):
    """How many neurons have which rate."""

    edges_hz: list[float] = Field(description="One more than `neurons`, at even distances of the logarithm.")
    neurons: list[int]
    silent: int = Field(description="Neurons without a spike.")


class PreviewDocument(BaseModel):
    """What a data set looks like; never more than 300 kB."""

    version: Literal[1]
    trials: int
    bins: int
    neurons: int
    bin_width_s: float
    time_zero_s: float = Field(description="When the first bin begins, from what trials are aligned to.")
    trials_looked_at: int = Field(
        description="Means are over these; fewer than there are in a large data set."
    )
    raster: Raster
    psth: Psth
    session: SessionRate
    rates: RateHistogram
