"""Documents of what a search did and found: decisions, lineage, importance."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class DecisionDocument(BaseModel):
    """What the strategy decided about a model, and why."""

    id: int
    model_number: int
    kind: Literal["begin", "go_on", "copy", "end"]
    epoch: int = Field(description="Epochs that the model had trained.")
    smoothed_sv_loss: float | None = Field(description="Lowest up to then, in nats per sample.")
    latest_smoothed_sv_loss: float | None = Field(description="Of its last epoch then.")
    parent_number: int | None = Field(description="Of a copy: the model whose weights it took.")
    hyperparameters: dict[str, float] = Field(description="From then on.")
    reason: str
    created_at: datetime


class LineageSegment(BaseModel):
    """Epochs that one model trained, between two copies."""

    model_number: int
    from_epoch: int
    to_epoch: int
    hyperparameters: dict[str, float] = Field(description="Held in these epochs, with searched sizes.")
    changes: dict[str, tuple[float | None, float | None]] = Field(
        description="What differs from the segment before: name, then the value before and after."
    )
    reason: str = Field(description="Why it began: where the model came from, or why it copied.")
    has_best_epoch: bool = Field(
        description="Whether the best weights were trained in it: its hyperparameters are those of the model."
    )


class JobLineage(BaseModel):
    """Whose weights a model has: a copy at an epoch means that those before it are the other model's."""

    job_id: str
    model_id: str
    model_number: int
    is_selected: bool
    epochs: int
    best_epoch: int | None = Field(description="Epoch of its best weights; null before it has any.")
    smoothed_sv_loss: float | None = Field(description="Of its best weights, in nats per sample.")
    segments: list[LineageSegment] = Field(description="From the first epoch to the last.")


class MarginalPart(BaseModel):
    """Models in one part of a range, or with one choice of a list."""

    low: float = Field(description="The part's lower end, which belongs to it; or the choice.")
    high: float = Field(
        description="The part's upper end, which belongs to the last part only; or the choice."
    )
    models: int = Field(
        description="With a loss. Models outside the range count in the part that is nearest to them."
    )
    median_smoothed_sv_loss: float | None = Field(description="null without a model.")
    lowest_smoothed_sv_loss: float | None


class SearchedDimension(BaseModel):
    """One searched hyperparameter, or size of the network, and how models did along it."""

    name: str
    scale: Literal["uniform", "log", "choices"]
    importance: float | None = Field(
        description="Share in what tells the better models from the others, 0 to 1; all sum to 1, or are 0 where nothing does. "
        "null: not known, see `note`."
    )
    marginals: list[MarginalPart] = Field(description="Parts of equal width on the scale, from low to high.")


class JobImportance(BaseModel):
    """Which hyperparameters matter: PED-ANOVA (Watanabe et al. 2023) of lowest smoothed SV losses over models."""

    job_id: str
    models: int = Field(description="With a loss.")
    dimensions: list[SearchedDimension] = Field(description="The most important first.")
    note: str | None = Field(description="What keeps the figures from being known, or taken at their word.")
