"""Every model is trained to its whole budget: random search, and all that only choose where models begin."""

from collections.abc import Sequence

from domain.job_specification import JobSpecification
from worker.scheduling.strategies.base import Begin, Continue, Decision, ModelRecord, Strategy
from worker.scheduling.strategies.samplers import Sampler


class WholeTraining(Strategy):
    """Begins what a sampler suggests.

    Parameters
    ----------
    specification
        The job's.
    sampler
        Where models come from.
    """

    def __init__(self, specification: JobSpecification, sampler: Sampler) -> None:
        super().__init__(specification)
        self.sampler, self.takes_seconds = sampler, sampler.takes_seconds

    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Begin what the sampler suggests; models of a job whose budget was raised go on."""
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
