"""Search strategies: what decides, after each slice, which models begin, go on, copy another, or end. One file per member."""

from store.specification import JobSpecification
from store.strategies import AshaStrategy, HyperbandStrategy, PbtStrategy
from worker.strategies.base import Begin, Copy, Decision, End, GoOn, Mark, ModelRecord, Strategy
from worker.strategies.population_based import PopulationBasedTraining
from worker.strategies.samplers import make_sampler
from worker.strategies.successive_halving import Asha, Hyperband
from worker.strategies.whole_training import WholeTraining

__all__ = ["Begin", "Copy", "Decision", "End", "GoOn", "Mark", "ModelRecord", "Strategy", "make_strategy"]


def make_strategy(specification: JobSpecification) -> Strategy:
    """Return the strategy that a job asks for."""
    wanted = specification.strategy
    if isinstance(wanted, PbtStrategy):
        return PopulationBasedTraining(specification, wanted)
    if isinstance(wanted, AshaStrategy):
        return Asha(specification, wanted, make_sampler(specification, wanted.sampler))
    if isinstance(wanted, HyperbandStrategy):
        return Hyperband(specification, wanted, make_sampler(specification, wanted.sampler))
    return WholeTraining(specification, make_sampler(specification, wanted))
