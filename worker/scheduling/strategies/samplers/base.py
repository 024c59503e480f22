"""The protocol of a sampler, which chooses the hyperparameters of new models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from domain.job_specification import JobSpecification
from domain.search_space import Value
from worker.scheduling.strategies.base import ModelRecord


@dataclass(frozen=True)
class Suggestion:
    """A model to begin.

    Parameters
    ----------
    number
        Within the job.
    hyperparameters
        By name, with the searched sizes of the network.
    seed
        Of the initial weights and the noise.
    reason
        How the model was chosen.
    """

    number: int
    hyperparameters: dict[str, Value]
    seed: int
    reason: str


class Sampler(ABC):
    """Suggests models; a pure function of specification, history and seed.

    Parameters
    ----------
    specification
        The job's.
    """

    takes_seconds = False
    """Whether a suggestion may take seconds, so that no lock should be held meanwhile."""

    def __init__(self, specification: JobSpecification) -> None:
        self.specification = specification
        self.space = specification.searched_space()
        self.round_of: Callable[[int], object] | None = None
        """The round of each model by its number, for samplers that work in rounds, if the strategy sets it."""

    @abstractmethod
    def suggest(self, history: Sequence[ModelRecord]) -> list[Suggestion]:
        """Return the models of the budget that may begin now, by number."""

    def not_begun(self, history: Sequence[ModelRecord]) -> list[int]:
        """Return the numbers of the budget's models that are not in the history."""
        begun = {record.number for record in history}
        return [number for number in range(self.specification.budget.models) if number not in begun]

    def generator(self, number: int) -> np.random.Generator:
        """Return the random numbers of a model. They depend only on the job's seed and the model's number."""
        return np.random.default_rng([self.specification.seed, number])
