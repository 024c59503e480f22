"""Documents of the results of a search: decisions, lineage, importance."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from domain.search_space import Value


class DecisionDocument(BaseModel):
    """A decision of the strategy about a model, with the reason."""

    id: int
    model_number: int
    kind: Literal["begin", "continue", "copy", "end"]
    epoch: int = Field(description="Epochs that the model had trained.")
    smoothed_sv_loss: float | None = Field(
        description="Lowest smoothed SV loss until then, in nats per sample."
    )
    latest_smoothed_sv_loss: float | None = Field(
        description="Smoothed SV loss of its last epoch then, in nats per sample."
    )
    parent_number: int | None = Field(
        description="For a copy, the number of the model whose weights it took."
    )
    hyperparameters: dict[str, Value] = Field(description="Hyperparameters after the decision.")
    reason: str
    created_at: datetime


class LineageSegment(BaseModel):
    """Epochs that one model trained between two copies."""

    model_number: int
    from_epoch: int
    to_epoch: int
    hyperparameters: dict[str, Value] = Field(
        description="Hyperparameters in these epochs, with searched sizes."
    )
    changes: dict[str, tuple[Value | None, Value | None]] = Field(
        description="Hyperparameters that differ from the segment before: the values before and after, by name."
    )
    reason: str = Field(
        description="Why the segment began: how the model was begun, or why it copied another."
    )
    has_best_epoch: bool = Field(
        description="Whether the kept weights were trained in this segment; its hyperparameters are then those of the model."
    )


class JobLineage(BaseModel):
    """From which models the weights of a model come: until a copy, they are the weights of the other model."""

    job_id: str
    model_id: str
    model_number: int
    is_selected: bool
    epochs: int
    best_epoch: int | None = Field(description="Epoch of its kept weights; null before it has any.")
    smoothed_sv_loss: float | None = Field(
        description="Smoothed SV loss of its kept weights, in nats per sample."
    )
    segments: list[LineageSegment] = Field(description="Segments from the first epoch to the last.")


class MarginalPart(BaseModel):
    """Models (with `pbt`, segments) in one part of a range, or with one choice of a list."""

    low: Value = Field(description="Lower end of the part, included; or the choice.")
    high: Value = Field(description="Upper end of the part, included only in the last part; or the choice.")
    observations: int = Field(
        description="Number of models or segments. Those outside the range count in the nearest part."
    )
    median: float | None = Field(description="Of the `measure`; null without an observation.")
    lowest: float | None = Field(description="Of the `measure`; null without an observation.")


class SearchedDimension(BaseModel):
    """A searched hyperparameter or size of the network, and the losses of models along it."""

    name: str
    scale: Literal["uniform", "log", "choices"]
    importance: float | None = Field(
        description="Share of the dimension in the difference between good and other models, 0 to 1. All shares sum to 1, or are "
        "0 if no dimension makes a difference. null: not known, see `note`."
    )
    p_value: float | None = Field(
        description="Probability that the parts of `marginals` differ as much as they do if the value does not matter: a "
        "permutation test (statistic of Kruskal and Wallis). Above 0.05, the differences may be chance. null if there is no "
        "importance."
    )
    marginals: list[MarginalPart] = Field(description="Parts of equal width on the scale, from low to high.")


class JobImportance(BaseModel):
    """Which hyperparameters matter: PED-ANOVA (Watanabe et al. 2023) over models, or over segments of a population.

    A segment is the epochs between two copies, which a model of a population trained with unchanged hyperparameters.
    """

    job_id: str
    measure: Literal["lowest_smoothed_sv_loss", "place_in_generation"] = Field(
        description="The compared quantity: `lowest_smoothed_sv_loss` of models, in nats per sample. With `pbt` it is "
        "`place_in_generation` of segments: 0 for the best and 1 for the worst model of a generation, by the smoothed SV loss "
        "at its end given the loss at its start. A segment has the mean over its generations."
    )
    observations: int = Field(description="Number of models with a loss; with `pbt`, of segments.")
    dimensions: list[SearchedDimension] = Field(description="Dimensions, the most important first.")
    note: str | None = Field(description="Why figures may be missing or unreliable.")
