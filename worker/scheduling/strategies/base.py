"""The protocol of a search strategy: a pure function of specification, history and seed.

After every slice the scheduler shows the strategy all models of the job, and carries out what it decides. A decision shows in
the next history (the model's number, its `target_epochs`, or that it ended), so none is made twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domain.job_specification import JobSpecification


@dataclass(frozen=True)
class Mark:
    """What a model had come to when something was decided about it.

    Parameters
    ----------
    epoch
        Epochs trained.
    lowest
        Lowest smoothed SV loss up to then, in nats per sample; None if it had none.
    latest
        Smoothed SV loss then.
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
        So far.
    smoothed_sv_loss
        Lowest so far, in nats per sample; None before the first epoch.
    is_final
        Whether it trains no more.
    target_epochs
        Epochs until which it was told to train.
    latest_sv_loss
        Smoothed SV loss of its last epoch.
    marks
        What was decided about it before, in order.
    """

    number: int
    hyperparameters: dict[str, float]
    epochs_trained: int
    smoothed_sv_loss: float | None
    is_final: bool
    target_epochs: int = 0
    latest_sv_loss: float | None = None
    marks: Sequence[Mark] = field(default=())

    @property
    def is_waiting(self) -> bool:
        """Whether it has trained what it was told to, and something is to be decided about it."""
        return not self.is_final and self.epochs_trained >= self.target_epochs


@dataclass(frozen=True)
class Begin:
    """Decision: begin a model with these hyperparameters and this seed, and train it until an epoch."""

    number: int
    hyperparameters: Mapping[str, float]
    seed: int
    target_epochs: int
    reason: str


@dataclass(frozen=True)
class Continue:
    """Decision: train a waiting model on, until an epoch."""

    number: int
    target_epochs: int
    reason: str


@dataclass(frozen=True)
class Copy:
    """Decision: a waiting model takes the weights that another has now, and goes on with these hyperparameters."""

    number: int
    parent: int
    hyperparameters: Mapping[str, float]
    target_epochs: int
    reason: str


@dataclass(frozen=True)
class End:
    """Decision: a waiting model trains no more.

    Parameters
    ----------
    is_given_up
        Whether others were better; else it has come as far as it should.
    """

    number: int
    reason: str
    is_given_up: bool


Decision = Begin | Continue | Copy | End


class Strategy(ABC):
    """Decides which models begin, go on, copy another, or end.

    Parameters
    ----------
    specification
        The job's; its seed is the only source of chance, so equal inputs give equal decisions.
    """

    reads_marks = False
    """Whether it reads `ModelRecord.marks`; without them the scheduler need not."""
    takes_seconds = False
    """Whether a decision may take so long that no lock should be held meanwhile."""

    def __init__(self, specification: JobSpecification) -> None:
        self.specification = specification

    @abstractmethod
    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Return the decisions that follow from the models so far, by number; none of them twice.

        A model that has trained `budget.epochs` needs none: the scheduler ends it.
        """
