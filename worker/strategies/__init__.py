"""Search strategies: what decides, after each slice, which models begin. One file per member."""

from store.specification import JobSpecification
from worker.strategies.base import Begin, ModelRecord, Strategy
from worker.strategies.random_search import RandomSearch

__all__ = ["Begin", "ModelRecord", "Strategy", "make_strategy"]


def make_strategy(specification: JobSpecification) -> Strategy:
    """Return the strategy that a job asks for."""
    kinds: dict[str, type[Strategy]] = {"random": RandomSearch}
    return kinds[specification.strategy.kind](specification)
