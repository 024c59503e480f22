"""The protocol of a search strategy: a pure function of specification, history and seed.

After every slice the scheduler gives the strategy all models of the job, and carries out its decisions. The next history shows
each decision (the model's number, its `target_epochs`, or that it ended), so no decision is made twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domain.job_specification import JobSpecification
from domain.search_space import Value


@dataclass(frozen=True)
class Mark:
    """Epochs and losses of a model when a decision about it was made.

    Parameters
    ----------
    epoch
        Epochs trained.
    lowest
        Lowest smoothed SV loss until then, in nats per sample; None before the first.
    latest
        Smoothed SV loss at that epoch.
    kind
        Of the decision: ``begin``, ``continue``, ``copy`` or ``end``.
    """

    epoch: int
    lowest: float | None
    latest: float | None
    kind: str = "continue"


@dataclass(frozen=True)
class ModelRecord:
    """What a strategy sees of a model.

    Parameters
    ----------
    number
        0, 1, … within the job.
    hyperparameters
        By name, with the searched sizes of the network.
    epochs_trained
        Number of epochs so far.
    smoothed_sv_loss
        Lowest so far, in nats per sample; None before the first epoch.
    is_final
        Whether the model has ended.
    target_epochs
        The epoch until which it is to train.
    latest_sv_loss
        Smoothed SV loss of its last epoch.
    marks
        Of the earlier decisions about it, in order.
    """

    number: int
    hyperparameters: dict[str, Value]
    epochs_trained: int
    smoothed_sv_loss: float | None
    is_final: bool
    target_epochs: int = 0
    latest_sv_loss: float | None = None
    marks: Sequence[Mark] = field(default=())

    @property
    def is_waiting(self) -> bool:
        """Whether the model has reached its target and waits for a decision."""
        return not self.is_final and self.epochs_trained >= self.target_epochs


@dataclass(frozen=True)
class Begin:
    """Decision: begin a model with these hyperparameters and this seed, and train it until `target_epochs`."""

    number: int
    hyperparameters: Mapping[str, Value]
    seed: int
    target_epochs: int
    reason: str


@dataclass(frozen=True)
class Continue:
    """Decision: continue a waiting model until `target_epochs`."""

    number: int
    target_epochs: int
    reason: str


@dataclass(frozen=True)
class Copy:
    """Decision: a waiting model takes the current weights of another, and continues with these hyperparameters."""

    number: int
    parent: int
    hyperparameters: Mapping[str, Value]
    target_epochs: int
    reason: str


@dataclass(frozen=True)
class End:
    """Decision: end a waiting model.

    Parameters
    ----------
    is_given_up
        Whether other models were better. Else the model has trained all its epochs.
    """

    number: int
    reason: str
    is_given_up: bool


Decision = Begin | Continue | Copy | End


class Strategy(ABC):
    """Decides which models begin, continue, copy another, or end.

    Parameters
    ----------
    specification
        Of the job. Its seed is the only source of randomness, so equal inputs give equal decisions.
    """

    reads_marks = False
    """Whether it reads `ModelRecord.marks`. If not, the scheduler does not read them from the database."""
    takes_seconds = False
    """Whether a decision may take seconds, so that no lock should be held meanwhile."""

    def __init__(self, specification: JobSpecification) -> None:
        self.specification = specification

    @abstractmethod
    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Return the decisions that follow from the models so far.

        A model that has trained `budget.epochs` needs no decision: the scheduler ends it.
        """
