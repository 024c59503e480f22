"""Parameters and documents of the analyses."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from api.analyses.decoding import HeldOut
from api.arrays.formats import FormatChoice
from api.arrays.grammar import MOST_CONDITIONS
from api.arrays.selection import Labels, Selection
from api.arrays.transformations import Transformation
from domain.scores.distances import Metric

MOST_NEAREST, MOST_VECTORS = 1000, 32


class ArrayOfTrials(BaseModel):
    """The array that an analysis reads."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    array: str = Field(
        "factors", min_length=1, max_length=200, description="Array of trials: `factors`, `rates`, …"
    )


class DistancesPictureQuery(ArrayOfTrials, Selection, Transformation):
    """Parameters of distances between conditions."""

    by: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Metadata of the trials, or `split`, whose values are the conditions. By default the conditions in "
        "the report of the data set.",
    )
    metric: Literal["euclidean", "mahalanobis"] = Field(
        "euclidean", description="`mahalanobis`: in standard deviations of single trials around their means."
    )
    unbiased: bool = Field(
        False, description="Subtract what noise adds to squared distances; the result may be below 0."
    )


class DistancesQuery(DistancesPictureQuery):
    """Parameters of distances as numbers."""

    over_time: bool = Field(False, description="Return the distances of every bin, too.")


class Condition(BaseModel):
    """Trials with the same value of the metadata."""

    value: str | int | float | bool
    trials: int = Field(description="Number of selected trials with this value.")


class DistancesDocument(BaseModel):
    """Distances between the mean trajectories of conditions; null where two have no bin in common."""

    array: str
    units: str = Field(description="Units of the distances: those of the array, or empty for `mahalanobis`.")
    by: str
    metric: str
    unbiased: bool
    conditions: list[Condition]
    bins: int = Field(description="Number of bins that are compared.")
    dimensions: int = Field(description="Dimensions of the space; `mahalanobis`: those in which trials vary.")
    distances: list[list[float | None]] = Field(
        description="Root mean square over bins, for every pair of conditions."
    )
    time_s: list[float] | None = Field(None, description="Start of each bin of `over_time`.")
    over_time: list[list[list[float | None]]] | None = Field(None, description="A matrix for every bin.")


class DecodingQuery(ArrayOfTrials, Selection, Transformation):
    """Parameters of the decoding of behaviour."""

    array: str = Field(
        "rates",
        min_length=1,
        max_length=200,
        description="Array of trials to decode from. By default `rates`; `factors` if a model has no array `rates` "
        "(of several sessions each has its own, such as `rates_0`), or more than 500 neurons; `spikes` of a data set.",
    )

    behaviour: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Array of the data set to decode; by default its only behaviour.",
    )
    lag_s: float = Field(
        0.0,
        ge=-60,
        le=60,
        allow_inf_nan=False,
        description="Time by which the behaviour follows the latents, in seconds: a whole multiple of the bin width.",
    )
    held_out: HeldOut = Field(
        "folds",
        description="`folds`: every trial is predicted by a decoder fitted on the other folds. `valid`: the validation trials of "
        "the job, by a decoder fitted on its training trials. `test`: the test trials, by a decoder fitted on training and "
        "validation trials.",
    )
    folds: int = Field(
        5, ge=2, le=20, description="Number of folds, for `held_out=folds` and to choose the penalty."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of the assignment of trials to folds.")
    baseline: bool | None = Field(
        None,
        description="Decode smoothed spikes, too, for comparison with latents of a model. By default only if it takes "
        "at most a few seconds.",
    )


class PredictionsQuery(DecodingQuery, FormatChoice):
    """Parameters of the predictions of a decoding."""


class Tested(BaseModel):
    """Numbers of trials and bins that decoders were fitted and tested on."""

    trials: int = Field(description="Number of predicted trials.")
    fitted_bins: int = Field(
        description="Number of bins with latents and behaviour that a decoder was fitted on; the mean over folds."
    )
    tested_bins: int = Field(description="Number of predicted bins, of all folds.")


class TrialGroups(BaseModel):
    """Trials that belong together: windows of one recorded trial, and trials that share bins in time."""

    number: int = Field(description="Number of groups of trials; a trial that stands alone is one.")
    kept_together: bool = Field(
        description="Whether no decoder is tested on trials of a group that it is fitted on. false: folds are blocks of time, "
        "because there are fewer groups than folds, or a group has more than half of the trials; or the job's "
        "split divides groups."
    )
    left_out: float = Field(
        description="Number of trials that a decoder is not fitted on because they share bins with a tested trial; "
        "the mean over decoders."
    )


class DecodedBaseline(BaseModel):
    """The score of a simple predictor for the same behaviour, trials, bins and folds."""

    name: Literal["smoothed_spikes"]
    width_s: float = Field(
        description="Standard deviation of the Gaussian, in seconds. Each decoder chooses among 0.03, 0.05, 0.08, 0.1 and 0.15 s "
        "(or half a bin, if that is wider) within the trials that it is fitted on; this is what most of them chose."
    )
    r2: float | None = Field(description="Mean over components; null if none varies.")
    r2_of_components: list[float | None]


class DecodingDocument(BaseModel):
    """The score of behaviour decoded from latents, for trials that the decoder was not fitted on."""

    array: str
    behaviour: str
    lag_s: float
    held_out: HeldOut
    folds: int
    r2: float | None = Field(description="Mean over components; null if none varies.")
    r2_of_components: list[float | None] = Field(description="1 - SSE / SST over all predictions together.")
    alphas: list[float] = Field(description="The penalty of each decoder.")
    features: int = Field(description="Number of components of the latents.")
    tested: Tested
    groups: TrialGroups
    baselines: list[DecodedBaseline] = Field(
        description="Scores of simple predictors on the same samples; `notes` say why there is none."
    )
    notes: list[str] = Field(
        description="Notes if the latents score below a simple predictor, with what to try, or if something was not computed."
    )
    behaviours: list[str] = Field(description="All behaviours of the data set.")


class NearestQuery(ArrayOfTrials, Transformation):
    """Parameters of a search for the nearest trials or states."""

    k: int = Field(10, ge=1, le=MOST_NEAREST, description="Number of neighbours.")
    metric: Metric = Field("euclidean", description="`cosine`: one minus the cosine of the angle.")
    split: Labels = Field(default_factory=list, max_length=50, description="Search only trials of a split.")
    where: list[str] = Field(
        default_factory=list,
        max_length=MOST_CONDITIONS,
        description="Search only trials that meet this condition.",
    )


class NearestToTrialQuery(NearestQuery):
    """Parameters of a search for the nearest to a trial, or to its state at a time."""

    trial: int = Field(ge=0, le=2**31 - 1, description="The given trial.")
    time_s: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Search the states nearest to its state at this time, in seconds.",
    )
    exclude_own_trial: bool = Field(True, description="Leave out the states of the given trial itself.")


_Vector = Annotated[list[FiniteFloat], Field(fail_fast=True)]


class Vectors(BaseModel):
    """One vector, or several."""

    model_config = ConfigDict(extra="forbid")

    vector: _Vector | None = Field(None, min_length=1, max_length=10_000)
    vectors: Annotated[list[_Vector], Field(fail_fast=True)] | None = Field(
        None, min_length=1, max_length=MOST_VECTORS
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.vector is None) == (self.vectors is None):
            raise ValueError("expected vector or vectors, and not both")
        return self

    @property
    def all(self) -> list[list[float]]:
        """Return the vectors as a list."""
        return [self.vector] if self.vector is not None else self.vectors or []


class Neighbour(BaseModel):
    """A near trial or state."""

    trial: int
    time_s: float | None = Field(description="Start of the bin of the state; null for whole trials.")
    distance: float
    split: str | None = Field(description="Split of the trial, see `split=`.")
    details: dict[str, Any] = Field(description="Metadata of the trial: condition, outcome, ….")


class Asked(BaseModel):
    """The trial, state or vector that neighbours were searched for."""

    trial: int | None = None
    time_s: float | None = Field(None, description="Start of its bin.")
    vector: int | None = Field(None, description="Its position among the vectors of the request.")


class NearestOfOne(BaseModel):
    """The neighbours of one trial, state or vector."""

    asked: Asked
    nearest: list[Neighbour] = Field(description="Neighbours in order of distance.")


class NearestDocument(BaseModel):
    """The nearest trials or states."""

    array: str
    metric: Metric
    of: Literal["trials", "states"]
    units: str = Field(description="Units of the distances.")
    answers: list[NearestOfOne]


class NeuronsDocument(BaseModel):
    """How well the rates predict each neuron, as columns. null where a neuron has no spike or no sample."""

    array: str
    trials: int = Field(description="Number of selected trials.")
    neuron: list[int] = Field(description="Number of the neuron.")
    labels: dict[str, list[Any]] = Field(
        description="Metadata of the neurons, such as unit ids, as uploaded."
    )
    spikes: list[int]
    rate_hz: list[float | None] = Field(description="Mean rate of the spikes, in spikes per second.")
    inferred_rate_hz: list[float | None] = Field(description="Mean of the inferred rates.")
    reconstruction_bits_per_spike: list[float | None] = Field(
        description="Gain over the neuron's mean rate in the selected trials, in bits per spike. The model reads these spikes, "
        "so a leaking model scores best: compare neurons of one model by it, not models."
    )
