"""Documents of what a search did and found: decisions, lineage, importance."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from domain.search_space import Value


class DecisionDocument(BaseModel):
    """What the strategy decided about a model, and why."""

    id: int
    model_number: int
    kind: Literal["begin", "continue", "copy", "end"]
    epoch: int = Field(description="Epochs that the model had trained.")
    smoothed_sv_loss: float | None = Field(description="Lowest up to then, in nats per sample.")
    latest_smoothed_sv_loss: float | None = Field(description="Of its last epoch then.")
    parent_number: int | None = Field(description="Of a copy: the model whose weights it took.")
    hyperparameters: dict[str, Value] = Field(description="From then on.")
    reason: str
    created_at: datetime


class LineageSegment(BaseModel):
    """Epochs that one model trained, between two copies."""

    model_number: int
    from_epoch: int
    to_epoch: int
    hyperparameters: dict[str, Value] = Field(description="Held in these epochs, with searched sizes.")
    changes: dict[str, tuple[Value | None, Value | None]] = Field(
        description="What differs from the segment before: name, then the value before and after."
    )
    reason: str = Field(description="Why it began: where the model came from, or why it copied.")
    has_best_epoch: bool = Field(
        description="Whether the kept weights were trained in it: its hyperparameters are those of the model."
    )


class JobLineage(BaseModel):
    """Whose weights a model has: a copy at an epoch means that those before it are the other model's."""

    job_id: str
    model_id: str
    model_number: int
    is_selected: bool
    epochs: int
    best_epoch: int | None = Field(description="Epoch of its kept weights; null before it has any.")
    smoothed_sv_loss: float | None = Field(description="Of its kept weights, in nats per sample.")
    segments: list[LineageSegment] = Field(description="From the first epoch to the last.")


class MarginalPart(BaseModel):
    """Models, or with `pbt` segments, in one part of a range, or with one choice of a list."""

    low: Value = Field(description="The part's lower end, which belongs to it; or the choice.")
    high: Value = Field(
        description="The part's upper end, which belongs to the last part only; or the choice."
    )
    observations: int = Field(
        description="Models or segments. Those outside the range count in the part that is nearest to them."
    )
    median: float | None = Field(description="Of the job's `measure`; null without an observation.")
    lowest: float | None = Field(description="Of the job's `measure`; null without an observation.")


class SearchedDimension(BaseModel):
    """One searched hyperparameter, or size of the network, and how models did along it."""

    name: str
    scale: Literal["uniform", "log", "choices"]
    importance: float | None = Field(
        description="Share in what tells the better models from the others, 0 to 1; all sum to 1, or are 0 where nothing does. "
        "null: not known, see `note`."
    )
    p_value: float | None = Field(
        description="Probability that the parts of `marginals` differ as much as they do if the value does not matter: a "
        "permutation test (Kruskal and Wallis' statistic). Above 0.05 the differences may well be chance. null where there is no "
        "importance."
    )
    marginals: list[MarginalPart] = Field(description="Parts of equal width on the scale, from low to high.")


class JobImportance(BaseModel):
    """Which hyperparameters matter: PED-ANOVA (Watanabe et al. 2023) over models, or over segments of a population.

    A segment is what a model of a population trained with unchanged hyperparameters, between two copies.
    """

    job_id: str
    measure: Literal["lowest_smoothed_sv_loss", "place_in_generation"] = Field(
        description="What is compared. `lowest_smoothed_sv_loss` of models, in nats per sample. With `pbt` `place_in_generation` "
        "of segments: 0 for the best and 1 for the worst model of a generation, by the smoothed SV loss at its end given that at "
        "its beginning, as a mean over the generations of the segment."
    )
    observations: int = Field(description="Models with a loss; with `pbt` segments.")
    dimensions: list[SearchedDimension] = Field(description="The most important first.")
    note: str | None = Field(description="What keeps the figures from being known, or taken at their word.")
