"""Samplers: where the hyperparameters of new models come from. One file per kind."""

from domain.job_specification import JobSpecification
from domain.strategies import Sampler as SamplerSpecification
from worker.scheduling.strategies.samplers.base import Sampler, Suggestion
from worker.scheduling.strategies.samplers.random import RandomSampler

__all__ = ["Sampler", "Suggestion", "make_sampler"]


def make_sampler(specification: JobSpecification, wanted: SamplerSpecification) -> Sampler:
    """Return the sampler that a job asks for; Optuna is loaded for its own kinds alone."""
    if wanted.kind == "random":
        return RandomSampler(specification)
    from worker.scheduling.strategies.samplers import optuna_samplers

    return optuna_samplers.make(specification, wanted)
