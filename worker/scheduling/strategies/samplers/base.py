"""The protocol of a sampler: where the hyperparameters of new models come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from domain.job_specification import JobSpecification
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
        Of its initial weights and noise.
    reason
        How it was chosen.
    """

    number: int
    hyperparameters: dict[str, float]
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
    """Whether a suggestion may take so long that no lock should be held meanwhile."""

    def __init__(self, specification: JobSpecification) -> None:
        self.specification = specification
        self.space = specification.searched_space()
        self.round_of: Callable[[int], object] | None = None
        """Which models a sampler that works in rounds begins at once, by number, if its strategy says so."""

    @abstractmethod
    def suggest(self, history: Sequence[ModelRecord]) -> list[Suggestion]:
        """Return the models that the budget has, that have not begun, and that may begin now, by number."""

    def not_begun(self, history: Sequence[ModelRecord]) -> list[int]:
        """Numbers of the budget that the history lacks."""
        begun = {record.number for record in history}
        return [number for number in range(self.specification.budget.models) if number not in begun]

    def generator(self, number: int) -> np.random.Generator:
        """The random numbers of a model: they depend on the job's seed and its number alone."""
        return np.random.default_rng([self.specification.seed, number])
