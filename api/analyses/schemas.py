"""Questions to the analyses, and their answers."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from api.analyses.decoding import HeldOut
from api.arrays.formats import FormatChoice
from api.arrays.grammar import MOST_CONDITIONS
from api.arrays.selection import Labels, Selection
from api.arrays.transformations import Transformation
from domain.scores.distances import Metric

MOST_NEAREST, MOST_VECTORS = 1000, 32


class ArrayOfTrials(BaseModel):
    """The array that an analysis is about."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    array: str = Field(
        "factors", min_length=1, max_length=200, description="Array of trials: `factors`, `rates`, …"
    )


class DistancesPictureQuery(ArrayOfTrials, Selection, Transformation):
    """A question about distances between conditions."""

    by: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Metadata of the trials, or `split`, whose values are the conditions; unless given, the conditions that the "
        "data set's report names.",
    )
    metric: Literal["euclidean", "mahalanobis"] = Field(
        "euclidean", description="`mahalanobis`: in units of how single trials vary around their means."
    )
    unbiased: bool = Field(
        False, description="Take off what noise adds to squared distances; what is left may be below 0."
    )


class DistancesQuery(DistancesPictureQuery):
    """The same, of numbers."""

    over_time: bool = Field(False, description="Answer the distances of every bin, too.")


class Condition(BaseModel):
    """Trials with the same value."""

    value: str | int | float | bool
    trials: int = Field(description="How many of the selected trials have it.")


class DistancesDocument(BaseModel):
    """Distances between the mean trajectories of conditions; null where two have no bin in common."""

    array: str
    units: str = Field(description="Of the distances: those of the array, or nothing for `mahalanobis`.")
    by: str
    metric: str
    unbiased: bool
    conditions: list[Condition]
    bins: int = Field(description="Bins that the distances are over.")
    dimensions: int = Field(
        description="Of the space they are in; `mahalanobis`: those in which trials vary."
    )
    distances: list[list[float | None]] = Field(
        description="Root mean square over bins, for every two conditions."
    )
    time_s: list[float] | None = Field(None, description="When the bins of `over_time` begin.")
    over_time: list[list[list[float | None]]] | None = Field(None, description="For every bin, a matrix.")


class DecodingQuery(ArrayOfTrials, Selection, Transformation):
    """A question about behaviour."""

    array: str = Field(
        "rates",
        min_length=1,
        max_length=200,
        description="Array of trials that is decoded from. Unless given: `rates`; `factors` where a model has no array `rates` "
        "(of several sessions each has its own, such as `rates_0`), or more than 500 neurons; `spikes` of a data set.",
    )

    behaviour: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Array of the data set that is decoded; its only behaviour unless given.",
    )
    lag_s: float = Field(
        0.0,
        ge=-60,
        le=60,
        allow_inf_nan=False,
        description="Behaviour comes so much later than the latents, in seconds: a whole multiple of the bin width.",
    )
    held_out: HeldOut = Field(
        "folds",
        description="`folds`: every trial is predicted by a decoder fitted on the other folds. `valid`: the validation trials of "
        "the job, by a decoder fitted on its training trials. `test`: the test trials, by a decoder fitted on training and "
        "validation trials.",
    )
    folds: int = Field(5, ge=2, le=20, description="Folds, of `held_out=folds` and to choose the penalty.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of which trials are in which fold.")
    baseline: bool | None = Field(
        None,
        description="Decode smoothed spikes too, for comparison with latents of a model. Unless given: if it takes a few "
        "seconds at most.",
    )


class PredictionsQuery(DecodingQuery, FormatChoice):
    """A question for predictions."""


class Tested(BaseModel):
    """What a decoder was fitted and tested on."""

    trials: int = Field(description="Trials that were predicted.")
    fitted_bins: int = Field(
        description="Bins with latents and behaviour that a decoder was fitted on; the mean of folds."
    )
    tested_bins: int = Field(description="Bins that were predicted, of all folds.")


class TrialGroups(BaseModel):
    """Which of the trials belong together: windows of one recorded trial, and trials that share bins in time."""

    number: int = Field(description="How many groups the trials form; a trial that stands alone is one.")
    kept_together: bool = Field(
        description="Whether no decoder is tested on trials of a group that it is fitted on. false: folds are blocks of time, "
        "since there are fewer groups than folds, or a group has more than half of the trials; or the split of the job is."
    )
    left_out: float = Field(
        description="Trials that a decoder is not fitted on since they share bins with a tested trial; the mean over decoders."
    )


class DecodedBaseline(BaseModel):
    """How well a simple predictor decodes the same behaviour, in the same trials, bins and folds."""

    name: Literal["smoothed_spikes"]
    width_s: float = Field(
        description="Standard deviation of the Gaussian, in seconds. Each decoder chooses among 0.03, 0.05, 0.08, 0.1 and 0.15 s "
        "(or a bin, if it is wider) within the trials that it is fitted on; this is what most of them chose."
    )
    r2: float | None = Field(description="Mean over components; null where none varies.")
    r2_of_components: list[float | None]


class DecodingDocument(BaseModel):
    """How well behaviour is decoded from latents of trials that the decoder was not fitted on."""

    array: str
    behaviour: str
    lag_s: float
    held_out: HeldOut
    folds: int
    r2: float | None = Field(description="Mean over components; null where none varies.")
    r2_of_components: list[float | None] = Field(description="1 - SSE / SST over all predictions together.")
    alphas: list[float] = Field(description="The penalty that was chosen for each decoder.")
    features: int = Field(description="Components of the latents.")
    tested: Tested
    groups: TrialGroups
    baselines: list[DecodedBaseline] = Field(
        description="Simple predictors of the same samples; `notes` say why there is none."
    )
    notes: list[str] = Field(
        description="Whether the latents are below a simple predictor, and what to try then; what was not computed."
    )
    behaviours: list[str] = Field(description="All that the data set has.")


class NearestQuery(ArrayOfTrials, Transformation):
    """A question about what is nearest to vectors."""

    k: int = Field(10, ge=1, le=MOST_NEAREST, description="How many.")
    metric: Metric = Field("euclidean", description="`cosine`: one minus the cosine of the angle.")
    split: Labels = Field(default_factory=list, max_length=50, description="Look among trials of a split.")
    where: list[str] = Field(
        default_factory=list, max_length=MOST_CONDITIONS, description="Look among trials of which this holds."
    )


class NearestToTrialQuery(NearestQuery):
    """A question about what is nearest to a trial."""

    trial: int = Field(ge=0, le=2**31 - 1, description="The trial whose nearest are asked for.")
    time_s: float | None = Field(
        None, allow_inf_nan=False, description="The nearest states to its state at this time, in seconds."
    )
    exclude_own_trial: bool = Field(True, description="Leave out the states of the trial itself.")


class Vectors(BaseModel):
    """One vector, or several."""

    model_config = ConfigDict(extra="forbid")

    vector: list[FiniteFloat] | None = Field(None, min_length=1, max_length=10_000)
    vectors: list[list[FiniteFloat]] | None = Field(None, min_length=1, max_length=MOST_VECTORS)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.vector is None) == (self.vectors is None):
            raise ValueError("expected vector or vectors, and not both")
        return self

    @property
    def all(self) -> list[list[float]]:
        """Them all."""
        return [self.vector] if self.vector is not None else self.vectors or []


class Neighbour(BaseModel):
    """A trial or state that is near."""

    trial: int
    time_s: float | None = Field(description="When the bin of the state begins; null of whole trials.")
    distance: float
    split: str | None = Field(description="Part of the job that the trial was in.")
    details: dict[str, Any] = Field(description="Metadata of the trial: condition, outcome, ….")


class Asked(BaseModel):
    """What the nearest of are asked for."""

    trial: int | None = None
    time_s: float | None = Field(None, description="When its bin begins.")
    vector: int | None = Field(None, description="Its place among those that were sent.")


class NearestOfOne(BaseModel):
    """The nearest of one."""

    asked: Asked
    nearest: list[Neighbour] = Field(description="In order of distance.")


class NearestDocument(BaseModel):
    """What is nearest."""

    array: str
    metric: Metric
    of: Literal["trials", "states"]
    units: str = Field(description="Of the distances.")
    answers: list[NearestOfOne]
