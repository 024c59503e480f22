"""Train every model for its whole budget: random search, and other searches that only choose hyperparameters."""

from collections.abc import Sequence

from domain.job_specification import JobSpecification
from worker.scheduling.strategies.base import Begin, Continue, Decision, ModelRecord, Strategy
from worker.scheduling.strategies.samplers import Sampler


class WholeTraining(Strategy):
    """Begins the models that a sampler suggests.

    Parameters
    ----------
    specification
        The job's.
    sampler
        Chooses the hyperparameters.
    """

    def __init__(self, specification: JobSpecification, sampler: Sampler) -> None:
        super().__init__(specification)
        self.sampler, self.takes_seconds = sampler, sampler.takes_seconds

    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Begin the models that the sampler suggests; continue models if the budget was raised."""
        epochs = self.specification.budget.epochs
        further: list[Decision] = [
            Continue(record.number, epochs, f"its budget is {epochs} epochs")
            for record in history
            if record.is_waiting and record.epochs_trained < epochs
        ]
        return further + [
            Begin(one.number, one.hyperparameters, one.seed, epochs, one.reason)
            for one in self.sampler.suggest(history)
        ]
