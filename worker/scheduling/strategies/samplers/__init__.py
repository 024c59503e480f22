"""Samplers: they choose the hyperparameters of new models. One file for each kind."""

from domain.job_specification import JobSpecification
from domain.strategies import RandomStrategy
from domain.strategies import Sampler as SamplerSpecification
from worker.scheduling.strategies.samplers.base import Sampler, Suggestion
from worker.scheduling.strategies.samplers.random import RandomSampler

__all__ = ["Sampler", "Suggestion", "make_sampler"]


def make_sampler(specification: JobSpecification, wanted: SamplerSpecification) -> Sampler:
    """Return the sampler of a job. Optuna is imported only for samplers that use it."""
    if isinstance(wanted, RandomStrategy):
        return RandomSampler(specification)
    from worker.scheduling.strategies.samplers import optuna_samplers

    return optuna_samplers.make(specification, wanted)
