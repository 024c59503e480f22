"""Documents of inferences."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from api.audit.schemas import CreatedBy
from api.http.links import Link
from api.models.schemas import BASELINE_SETTINGS, BASELINES
from domain.latents import LatentArray
from domain.search_space import Document
from domain.states import InferenceState

Arrays = Annotated[
    list[LatentArray] | None,
    Field(
        min_length=1,
        max_length=5,
        description="Latents to store; by default the same arrays as for the model's job.",
    ),
]
SessionNumber = Annotated[
    int | None,
    Field(
        ge=0,
        lt=1000,
        description="For a model of several sessions: number of the session whose neurons these are, from 0.",
    ),
]


class Application(Document):
    """A request to run a model on a data set."""

    dataset_id: str | None = Field(
        None,
        max_length=40,
        description="A data set of the same neurons with the same bin width; by default the model's own data set.",
    )
    arrays: Arrays = None
    posterior_samples: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Number of posterior draws to average; by default the same as for the job.",
    )
    session: SessionNumber = None


class InferenceProgress(BaseModel):
    """Progress of an inference."""

    trials_done: int
    trials: int
    fraction: float = Field(description="Fraction of the trials that are done, 0 … 1.")


class InferenceDocument(BaseModel):
    """A model run on a data set."""

    id: str
    model_id: str
    dataset_id: str
    state: InferenceState
    progress: InferenceProgress
    arrays: list[LatentArray]
    posterior_samples: int
    sessions: list[int] = Field(
        description="For each session of the data set, the number of the model's session."
    )
    scores: dict[str, float | None] = Field(
        description="Scores, named like those of a model. Trials that the model's job never saw are test trials: the names of "
        "their scores end with `_test`."
    )
    baselines: dict[str, dict[str, float | None]] = Field({}, description=BASELINES)
    baseline_settings: dict[str, dict[str, float | bool]] = Field({}, description=BASELINE_SETTINGS)
    error: dict[str, Any] | None = Field(None, description="Why the inference or its last attempt failed.")
    created_at: datetime
    created_by: CreatedBy = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    links: dict[str, Link]


_SPIKES = (
    "Whole, non-negative counts: trials × bins × neurons, or bins × neurons of one trial. The neurons, their order and the bin "
    "width must be those of the model's training data."
)


def _default_arrays() -> list[LatentArray]:
    return ["rates", "factors"]


class OnlineOptions(Document):
    """Options of online inference."""

    arrays: list[LatentArray] = Field(
        default_factory=_default_arrays, min_length=1, max_length=5, description="Latents to return."
    )
    posterior_samples: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Number of posterior draws to average; by default the same as for the model's job.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Seed of the draws; by default the seed of the model."
    )
    first_trial: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Trial i of the request uses the random draws of trial number `first_trial` + i. With the number of a trial "
        "in its data set and the model's seed, the result equals the stored latents.",
    )
    session: SessionNumber = None

    @field_validator("arrays", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """Split `rates,factors` in a query."""
        if isinstance(given, list) and all(isinstance(item, str) for item in given):
            return [name for item in given for name in item.split(",")]
        return given


class OnlineQuery(OnlineOptions):
    """Options of online inference in the query."""

    format_: Literal["json", "npz"] | None = Field(
        None,
        alias="format",
        description="Format of the response: `json` (default) or `npz`. The header Accept works too.",
    )


class OnlineRequest(OnlineOptions):
    """A request for the latents of a few trials."""

    spikes: list[Any] = Field(description=_SPIKES, min_length=1)
    trial_length_bins: Annotated[list[Annotated[int, Field(ge=1)]], Field(fail_fast=True)] | None = Field(
        None, description="Number of recorded bins of each trial; by default all bins."
    )
    external_inputs: list[Any] | None = Field(
        None,
        description="External inputs of the model: trials × bins × inputs, or bins × inputs of one trial.",
    )


class OnlineArray(BaseModel):
    """Latents of one kind."""

    dims: list[str] = Field(examples=[["trial", "bin", "neuron"]])
    units: str
    shape: list[int]
    values: list[Any] = Field(
        description="Nested lists. Null after the end of a trial, and before the first bin of the generator."
    )


class OnlineLatents(BaseModel):
    """Latents of the trials of the request, in their order."""

    model_id: str
    bin_width_s: float
    posterior_samples: int
    seed: int
    first_trial: int
    arrays: dict[str, OnlineArray]
