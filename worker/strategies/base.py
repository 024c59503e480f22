"""The protocol of a search strategy: a pure function of specification, history and seed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from store.specification import JobSpecification


@dataclass(frozen=True)
class ModelRecord:
    """What a strategy sees of a model.

    Parameters
    ----------
    number
        0, 1, … within the job.
    hyperparameters
        By name.
    epochs_trained
        So far.
    smoothed_sv_loss
        Lowest so far, in nats per sample; None before the first epoch.
    is_final
        Whether it trains no more.
    """

    number: int
    hyperparameters: dict[str, float]
    epochs_trained: int
    smoothed_sv_loss: float | None
    is_final: bool


@dataclass(frozen=True)
class Begin:
    """Decision: begin a model with these hyperparameters and this seed."""

    number: int
    hyperparameters: dict[str, float]
    seed: int


class Strategy(ABC):
    """Decides which models begin.

    Parameters
    ----------
    specification
        The job's; its seed is the only source of chance, so equal inputs give equal decisions.
    """

    def __init__(self, specification: JobSpecification) -> None:
        self.specification = specification

    @abstractmethod
    def decide(self, history: Sequence[ModelRecord]) -> list[Begin]:
        """Return the decisions that follow from the models so far; none of them twice."""
