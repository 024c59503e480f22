"""Documents of jobs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from store.specification import JobSpecification
from store.states import JobState


class JobProgress(BaseModel):
    """How far a job has come."""

    fraction: float = Field(description="Of the budget of epochs over all models, 0 to 1.")
    models: int = Field(description="Of the budget.")
    models_ended: int
    epochs_trained: int = Field(description="Over all models.")
    epochs_budget: int = Field(description="Over all models.")
    best_smoothed_sv_loss: float | None = Field(description="Lowest so far, in nats per sample.")
    best_model_id: str | None
    seconds_elapsed: float | None
    seconds_left: float | None = Field(description="Estimate from the pace so far.")


class JobDocument(BaseModel):
    """A job."""

    id: str
    name: str
    dataset_id: str
    state: JobState
    progress: JobProgress
    selected_model_id: str | None = Field(None, description="The model with the lowest smoothed SV loss.")
    error: dict[str, Any] | None = None
    specification: JobSpecification
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    links: dict[str, str]


class JobPreview(BaseModel):
    """What a job would do, without doing it."""

    valid: bool
    models: int
    epochs: int = Field(description="Over all models.")
    training_trials: int
    validation_trials: int
    steps_per_epoch: int
    specification: JobSpecification = Field(description="With every default written out.")
    warnings: list[str]


class EventDocument(BaseModel):
    """Something that happened to a job."""

    id: int
    kind: str = Field(description="`job.state`, `model.state`, `slice.state` or `progress`.")
    created_at: datetime
    data: dict[str, Any]
