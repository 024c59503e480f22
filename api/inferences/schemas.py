"""Documents of inferences."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from api.models.schemas import BASELINE_SETTINGS, BASELINES
from domain.latents import LatentArray
from domain.search_space import Document
from domain.states import InferenceState

Arrays = Annotated[
    list[LatentArray] | None,
    Field(
        min_length=1,
        max_length=5,
        description="Which latents are stored; those that the model's job stored, unless given.",
    ),
]
SessionNumber = Annotated[
    int | None,
    Field(
        ge=0,
        lt=1000,
        description="Of a model trained on several sessions: whose neurons these are, 0, 1, …",
    ),
]


class Application(Document):
    """What a model is run on."""

    dataset_id: str | None = Field(
        None,
        max_length=40,
        description="A data set of the same neurons in bins of the same width; the model's own unless given.",
    )
    arrays: Arrays = None
    posterior_samples: int | None = Field(
        None, ge=1, le=10_000, description="Draws that are averaged; as many as for the job, unless given."
    )
    session: SessionNumber = None


class InferenceProgress(BaseModel):
    """How far an inference is."""

    trials_done: int
    trials: int
    fraction: float = Field(description="0 … 1, of the trials.")


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
        description="Of each session of the data set, which one of the model's it is."
    )
    scores: dict[str, float | None] = Field(
        description="As a model's. Trials that the model's job never saw are test trials: their scores end with `_test`."
    )
    baselines: dict[str, dict[str, float | None]] = Field({}, description=BASELINES)
    baseline_settings: dict[str, dict[str, float | bool]] = Field({}, description=BASELINE_SETTINGS)
    error: dict[str, Any] | None = Field(None, description="Why it failed, or why its last attempt did.")
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    links: dict[str, str]
