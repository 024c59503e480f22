"""The contract of every search strategy, and what is particular to each."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.space import CONTROLLER_HYPERPARAMETERS, Range, Space
from store.specification import JobSpecification
from worker.strategies import ModelRecord, make_strategy
from worker.strategies.samplers.random import draw

KINDS = ["random"]


def specification(kind: str, seed: int = 0, models: int = 6) -> JobSpecification:
    return JobSpecification.model_validate(
        {"dataset_id": "dat_1", "seed": seed, "strategy": {"kind": kind}, "budget": {"models": models}}
    )


@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    def test_equal_inputs_give_equal_decisions(self, kind: str) -> None:
        assert make_strategy(specification(kind)).decide([]) == make_strategy(specification(kind)).decide([])
        assert make_strategy(specification(kind)).decide([]) != make_strategy(
            specification(kind, seed=1)
        ).decide([])

    def test_every_draw_lies_in_its_range(self, kind: str) -> None:
        for begun in make_strategy(specification(kind, models=200)).decide([]):
            assert set(begun.hyperparameters) == set(Space.model_fields) - set(CONTROLLER_HYPERPARAMETERS)
            for name, value in begun.hyperparameters.items():
                values = getattr(Space(), name)
                if isinstance(values, Range):
                    assert values.low <= value <= values.high
                else:
                    assert value == values

    def test_a_controller_adds_its_hyperparameters(self, kind: str) -> None:
        plain = specification(kind)
        architecture = plain.architecture.model_copy(update={"controller_units": 8, "inferred_inputs": 1})
        controlled = plain.model_copy(update={"architecture": architecture})
        for begun in make_strategy(controlled).decide([]):
            assert set(begun.hyperparameters) == set(Space.model_fields)

    def test_no_decision_is_made_twice(self, kind: str) -> None:
        strategy = make_strategy(specification(kind))
        begun = strategy.decide([])
        history = [ModelRecord(one.number, one.hyperparameters, 0, None, False) for one in begun[:4]]
        assert strategy.decide(history) == begun[4:]
        history += [ModelRecord(one.number, one.hyperparameters, 3, 0.1, True) for one in begun[4:]]
        assert strategy.decide(history) == []


def test_a_larger_random_search_contains_the_smaller() -> None:
    assert make_strategy(specification("random", models=20)).decide([])[:6] == make_strategy(
        specification("random", models=6)
    ).decide([])


def test_a_controller_leaves_the_other_draws_as_they_are() -> None:
    plain = specification("random")
    architecture = plain.architecture.model_copy(update={"controller_units": 8, "inferred_inputs": 1})
    controlled = plain.model_copy(update={"architecture": architecture})
    for one, other in zip(make_strategy(plain).decide([]), make_strategy(controlled).decide([]), strict=True):
        shared = {name: other.hyperparameters[name] for name in one.hyperparameters}
        assert shared == one.hyperparameters


@given(st.floats(1e-8, 1.0), st.floats(1.0, 1e4), st.integers(0, 100))
def test_draws_stay_within_bounds_on_both_scales(low: float, factor: float, seed: int) -> None:
    import numpy as np

    for scale in ("log", "uniform"):
        values = Range(low=low, high=low * factor, scale=scale)
        assert values.low <= draw(values, np.random.default_rng(seed)) <= values.high


def test_a_log_range_is_uniform_in_its_logarithm() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    drawn = [math.log10(draw(Range(low=1e-6, high=1e-2, scale="log"), random)) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(-4, abs=0.1)
    assert np.std(drawn) == pytest.approx(4 / math.sqrt(12), abs=0.05)
