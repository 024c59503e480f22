"""Documents of latents at once."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from api.inferences.schemas import SessionNumber
from domain.latents import LatentArray
from domain.search_space import Document

_SPIKES = (
    "Whole counts, not negative: trials × bins × neurons, or bins × neurons of one trial. The neurons are the model's, in its "
    "order, and the bins as wide as its own."
)


def _usual() -> list[LatentArray]:
    return ["rates", "factors"]


class NowOptions(Document):
    """How latents are inferred at once."""

    arrays: list[LatentArray] = Field(
        default_factory=_usual,
        min_length=1,
        max_length=5,
        description="Which latents are answered.",
    )
    posterior_samples: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Draws that are averaged; as many as for the model's job, unless given.",
    )
    seed: int | None = Field(None, ge=0, lt=2**31, description="Of the draws; the model's, unless given.")
    first_trial: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Trial i of those sent has the draws of trial `first_trial` + i: with the number of a trial in its data set "
        "and the model's seed, the answer is what is stored for it.",
    )
    session: SessionNumber = None

    @field_validator("arrays", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """`rates,factors` in a query."""
        if isinstance(given, list) and all(isinstance(item, str) for item in given):
            return [name for item in given for name in item.split(",")]
        return given


class NowQuery(NowOptions):
    """The same in the query, for a body that is an array."""

    format_: Literal["json", "npz"] | None = Field(
        None, alias="format", description="`json`, which is the default, or `npz`. Or by Accept."
    )


class NowRequest(NowOptions):
    """Spikes of a few trials."""

    spikes: list[Any] = Field(description=_SPIKES, min_length=1)
    trial_length_bins: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, description="Bins recorded of each trial; all, unless given."
    )
    external_inputs: list[Any] | None = Field(
        None,
        description="What the model reads beside spikes: trials × bins × inputs, or bins × inputs of one trial.",
    )


class NowArray(BaseModel):
    """Latents of one kind."""

    dims: list[str] = Field(examples=[["trial", "bin", "neuron"]])
    units: str
    shape: list[int]
    values: list[Any] = Field(
        description="Nested lists; null in bins past a trial's end, or before the generator begins."
    )


class NowAnswer(BaseModel):
    """Latents of the trials that were sent, in their order."""

    model_id: str
    bin_width_s: float
    posterior_samples: int
    seed: int
    first_trial: int
    arrays: dict[str, NowArray]
