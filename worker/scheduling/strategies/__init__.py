"""Search strategies: after each slice they decide which models begin, continue, copy another, or end. One file for each kind."""

from typing import assert_never

from domain.job_specification import JobSpecification
from domain.strategies import (
    AshaStrategy,
    HyperbandStrategy,
    IndependentSampler,
    LearningSampler,
    PbtStrategy,
)
from worker.scheduling.strategies.base import (
    Begin,
    Continue,
    Copy,
    Decision,
    End,
    Mark,
    ModelRecord,
    Strategy,
)
from worker.scheduling.strategies.population_based import PopulationBasedTraining
from worker.scheduling.strategies.samplers import make_sampler
from worker.scheduling.strategies.successive_halving import Asha, Hyperband
from worker.scheduling.strategies.whole_training import WholeTraining

__all__ = ["Begin", "Continue", "Copy", "Decision", "End", "Mark", "ModelRecord", "Strategy", "make_strategy"]


def make_strategy(specification: JobSpecification) -> Strategy:
    """Return the strategy that a job asks for."""
    wanted = specification.strategy
    if isinstance(wanted, PbtStrategy):
        return PopulationBasedTraining(specification, wanted)
    if isinstance(wanted, AshaStrategy):
        return Asha(specification, wanted, make_sampler(specification, wanted.sampler))
    if isinstance(wanted, HyperbandStrategy):
        return Hyperband(specification, wanted, make_sampler(specification, wanted.sampler))
    if isinstance(wanted, IndependentSampler | LearningSampler):
        return WholeTraining(specification, make_sampler(specification, wanted))
    assert_never(wanted)
