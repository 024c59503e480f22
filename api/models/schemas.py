"""Documents of models."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from store.states import ModelState


class ModelDocument(BaseModel):
    """A model: one candidate of a job."""

    id: str
    job_id: str
    number: int = Field(description="0, 1, … within the job.")
    state: ModelState
    is_selected: bool = Field(description="Whether the job selected it, for the lowest smoothed SV loss.")
    seed: int
    architecture: dict[str, Any]
    hyperparameters: dict[str, float]
    epochs_trained: int
    scores: dict[str, float | None] = Field(
        description="Losses in nats per sample (`sv_loss` is the one to trust, `ordinary_loss` the one that misleads), "
        "bits per spike, R² to the true rates where they are known."
    )
    end_reason: str | None = None
    created_at: datetime
    ended_at: datetime | None = None
    links: dict[str, str]


class CurvePointDocument(BaseModel):
    """One epoch of a learning curve. Losses are in nats per sample."""

    epoch: int
    train_loss: float | None
    sv_loss: float | None = Field(description="On held-out samples of validation trials.")
    smoothed_sv_loss: float | None
    sv_loss_train: float | None = Field(description="On held-out samples of training trials.")
    ordinary_loss: float | None = Field(description="On the samples of validation trials that the model saw.")
    kl_initial_condition: float | None
    gradient_norm: float | None
    learning_rate: float | None


class LearningCurve(BaseModel):
    """Every epoch of a model so far."""

    model_id: str
    points: list[CurvePointDocument]
