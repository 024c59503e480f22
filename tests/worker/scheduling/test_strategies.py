"""The contract of every search strategy and sampler, and what is particular to each."""

import itertools
import math
import random as python_random
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.cost import Pace
from domain.estimate import Work, Workers, estimate, expected_epochs
from domain.job_specification import JobSpecification
from domain.search_space import CONTROLLER_HYPERPARAMETERS, LIMITS, Document, Range, Space
from domain.strategies import Sampler, Strategy
from store.tables import Dataset
from worker.scheduling.strategies import (
    Begin,
    Continue,
    Copy,
    Decision,
    End,
    Mark,
    ModelRecord,
    make_strategy,
)
from worker.scheduling.strategies.samplers import make_sampler
from worker.scheduling.strategies.samplers.random import draw

SAMPLERS = ["random", "qmc", "grid", "tpe", "gp", "cmaes"]
STRATEGIES: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in SAMPLERS},
    **{f"asha over {kind}": {"kind": "asha", "sampler": {"kind": kind}} for kind in ("random", "tpe")},
    **{f"hyperband over {kind}": {"kind": "hyperband", "sampler": {"kind": kind}} for kind in ("random", "cmaes")},
    "pbt": {"kind": "pbt", "generation_epochs": 10},
    "pbt by truncation, resampled": {
        "kind": "pbt", "generation_epochs": 10, "exploit": "truncation", "explore": "resample",
    },
}  # fmt: skip
LEARNING = {"tpe", "gp", "cmaes"}
CONTROLLER = {"controller_units": 8, "inferred_inputs": 1}


def specification(
    strategy: dict[str, Any], seed: int = 0, models: int = 6, **changes: Any
) -> JobSpecification:
    given: dict[str, Any] = {"dataset_id": "dat_1", "seed": seed, "strategy": strategy}
    given |= {"budget": {"models": models, "epochs": 60}, "training": {"ramp_epochs": 5}}
    return JobSpecification.model_validate(given | changes)


class Job:
    """A job whose models are trained by a formula, as the scheduler would have it."""

    def __init__(self, given: JobSpecification, order: int | None = None) -> None:
        self.specification = given
        self.records: dict[int, ModelRecord] = {}
        self.hidden: dict[int, float] = {}
        self.decisions: list[Decision] = []
        self._order = None if order is None else python_random.Random(order)

    def history(self) -> list[ModelRecord]:
        return [self.records[number] for number in sorted(self.records)]

    def decide(self) -> list[Decision]:
        decided = make_strategy(self.specification).decide(self.history())
        before = dict(self.records)
        for one in decided:
            self._carry_out(one, before)
        self.decisions += decided
        return decided

    def _carry_out(self, one: Decision, before: dict[int, ModelRecord]) -> None:
        if isinstance(one, Begin):
            assert one.number not in self.records, "begun twice"
            self.records[one.number] = ModelRecord(
                one.number, dict(one.hyperparameters), 0, None, False, one.target_epochs,
                marks=[Mark(0, None, None, "begin")],
            )  # fmt: skip
            return
        record = before[one.number]
        assert record.is_waiting, "decided about a model that trains, or has ended"
        kind = {Continue: "continue", Copy: "copy", End: "end"}[type(one)]
        mark = Mark(record.epochs_trained, record.smoothed_sv_loss, record.latest_sv_loss, kind)
        changes: dict[str, Any] = {"marks": [*record.marks, mark]}
        if isinstance(one, End):
            changes["is_final"] = True
        else:
            assert one.target_epochs > record.epochs_trained
            changes["target_epochs"] = one.target_epochs
        if isinstance(one, Copy):
            parent = before[one.parent]
            assert parent.epochs_trained == record.epochs_trained
            changes |= {"hyperparameters": dict(one.hyperparameters)}
            changes |= {"smoothed_sv_loss": parent.smoothed_sv_loss, "latest_sv_loss": parent.latest_sv_loss}
        self.records[one.number] = _replaced(record, **changes)

    def train(self) -> bool:
        """Train one model, or in an order of its own any, to its target; False when none is to be trained."""
        due = [r for r in self.history() if not r.is_final and not r.is_waiting]
        if not due:
            return False
        record = due[0] if self._order is None else self._order.choice(due)
        values = record.hyperparameters
        loss = 0.3 + abs(math.log10(values["learning_rate"]) + 2.5) * 0.1 + values["dropout"] * 0.1
        loss += 1.0 / (record.target_epochs + 5)
        lowest = min(loss, record.smoothed_sv_loss or math.inf)
        ended = record.target_epochs >= self.specification.budget.epochs
        self.records[record.number] = _replaced(
            record,
            epochs_trained=record.target_epochs,
            smoothed_sv_loss=lowest,
            latest_sv_loss=loss,
            is_final=ended,
        )
        return True

    def run(self) -> "Job":
        for _ in range(5000):
            decided = self.decide()
            if not self.train() and not decided:
                return self
        raise AssertionError("the job did not end")


def _replaced(record: ModelRecord, **changes: Any) -> ModelRecord:
    return ModelRecord(**{**record.__dict__, **changes})


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> dict[str, Any]:
    wanted: dict[str, Any] = request.param
    return wanted


class UnknownStrategy(Document):
    """A kind that no factory knows."""

    kind: str = "unknown"
    points: int = 3


def kinds(union: Any) -> set[str]:
    return {one.model_fields["kind"].annotation.__args__[0] for one in get_args(get_args(union)[0])}


def test_the_contract_covers_every_kind() -> None:
    assert {wanted["kind"] for wanted in STRATEGIES.values()} == kinds(Strategy)
    assert set(SAMPLERS) == kinds(Sampler)


def test_an_unknown_kind_is_an_error() -> None:
    given = specification({"kind": "random"})
    unknown = given.model_copy(update={"strategy": UnknownStrategy()})
    dataset = Dataset(trials=100, bins=50, neurons=10)
    for call in (
        lambda: make_strategy(unknown),
        lambda: make_sampler(given, unknown.strategy),  # type: ignore[arg-type]  # the error under test
        lambda: expected_epochs(unknown),
        lambda: Work(unknown, dataset),
    ):
        with pytest.raises(AssertionError, match="unreachable"):
            call()


class TestContract:
    def test_a_job_has_an_estimated_time(self, strategy: dict[str, Any]) -> None:
        dataset = Dataset(trials=100, bins=50, neurons=10)
        found = estimate(specification(strategy), dataset, Workers(1, Pace(), "assumed"))
        assert found.seconds > 0

    def test_equal_inputs_give_equal_decisions(self, strategy: dict[str, Any]) -> None:
        one, other = Job(specification(strategy)).run(), Job(specification(strategy)).run()
        assert one.decisions == other.decisions
        assert one.decisions != Job(specification(strategy, seed=1)).run().decisions

    def test_every_model_begins_once_and_ends(self, strategy: dict[str, Any]) -> None:
        job = Job(specification(strategy, models=20)).run()
        begun = [one.number for one in job.decisions if isinstance(one, Begin)]
        assert sorted(begun) == list(range(20))
        assert all(record.is_final for record in job.history())
        assert job.decide() == []

    def test_every_value_lies_in_its_range(self, strategy: dict[str, Any]) -> None:
        space = {
            "cd_pass_rate": [0.0, 0.1, 0.2],
            "l2_weight_generator": 0.01,
            "dropout": {"low": 0.3, "high": 0.3},
        }
        given = specification(strategy, models=20, space=space, architecture={"factors": [4, 8]})
        unbounded = set(strategy.get("unbounded", ["kl_weight_initial_condition", "l2_weight_generator"]))
        for one in Job(given).run().decisions:
            if not isinstance(one, Begin | Copy):
                continue
            assert list(one.hyperparameters) == list(given.searched_space())
            for name, values in given.searched_space().items():
                value = one.hyperparameters[name]
                assert isinstance(value, float)
                if isinstance(values, list):
                    assert value in values
                elif not isinstance(values, Range):
                    assert value == values
                elif isinstance(one, Begin) or name not in unbounded:
                    assert values.low <= value <= values.high

    def test_a_controller_adds_its_hyperparameters(self, strategy: dict[str, Any]) -> None:
        plain = Job(specification(strategy)).decide()
        controlled = Job(specification(strategy, architecture=CONTROLLER)).decide()
        assert all(set(one.hyperparameters) == set(Space.model_fields) for one in controlled)  # type: ignore[union-attr]
        for one in plain:
            assert isinstance(one, Begin)
            assert set(one.hyperparameters) == set(Space.model_fields) - set(CONTROLLER_HYPERPARAMETERS)

    def test_nothing_is_decided_about_models_in_training(self, strategy: dict[str, Any]) -> None:
        job = Job(specification(strategy))
        begun = job.decide()
        assert begun
        assert job.decide() == []

    def test_half_of_the_beginnings_carried_out_gives_the_rest(self, strategy: dict[str, Any]) -> None:
        """A transaction is whole, yet what is decided must not hang on it."""
        job = Job(specification(strategy))
        begun = job.decide()
        half = [job.records[one.number] for one in begun[: len(begun) // 2]]
        again = make_strategy(job.specification).decide(half)
        assert [one for one in again if isinstance(one, Begin)] == begun[len(begun) // 2 :]

    def test_diverged_models_hold_up_nobody(self, strategy: dict[str, Any]) -> None:
        job = Job(specification(strategy, models=9))
        job.decide()
        for number in (0, 3):
            job.records[number] = _replaced(job.records[number], is_final=True, epochs_trained=2)
        job.run()
        assert all(record.is_final for record in job.history())
        assert len(job.records) == 9

    def test_a_larger_budget_adds_to_the_same_models(self, strategy: dict[str, Any]) -> None:
        job = Job(specification(strategy, models=6)).run()
        before = {record.number: record for record in job.history()}
        job.specification = specification(strategy, models=9, budget={"models": 9, "epochs": 90})
        for record in job.history():
            if record.epochs_trained == 60:  # as the API does it
                job.records[record.number] = _replaced(record, is_final=False, target_epochs=60)
        job.run()
        assert sorted(job.records) == list(range(9))
        for number, record in before.items():
            if record.epochs_trained < 60:
                assert job.records[number].epochs_trained == record.epochs_trained
        assert any(record.epochs_trained == 90 for record in job.history())


@pytest.mark.parametrize("name", [name for name in STRATEGIES if not name.startswith("asha")])
def test_the_order_in_which_models_arrive_does_not_matter(name: str) -> None:
    straight = Job(specification(STRATEGIES[name], models=18)).run()
    for order in range(3):
        job = Job(specification(STRATEGIES[name], models=18), order).run()
        assert job.history() == straight.history()


class TestPopulationBasedTraining:
    STRATEGY: dict[str, Any] = {"kind": "pbt", "generation_epochs": 10, "start": {"learning_rate": 0.002}}  # noqa: RUF012

    def run(self, models: int = 12, **changes: Any) -> Job:
        return Job(specification(self.STRATEGY | changes, models=models)).run()

    def test_all_begin_at_once_with_the_values_they_are_given(self) -> None:
        begun = Job(specification(self.STRATEGY)).decide()
        assert len(begun) == 6
        for one in begun:
            assert isinstance(one, Begin)
            assert one.target_epochs == 10
            assert one.hyperparameters["learning_rate"] == 0.002
        assert len({one.hyperparameters["dropout"] for one in begun}) == 6  # type: ignore[union-attr]

    def test_no_model_copies_another_before_the_burn_in_is_over(self) -> None:
        for epochs, first in ((None, 20), (30, 30), (0, 10)):
            job = self.run(
                burn_in_epochs=epochs
            )  # unless given: 5 of the ramp and a generation, thus from 20 on
            copies = [m.epoch for r in job.history() for m in r.marks if m.kind == "copy"]
            assert min(copies) == first

    def test_losers_copy_better_models_and_winners_stay(self) -> None:
        job = Job(specification(self.STRATEGY | {"burn_in_epochs": 0}, models=12))
        job.decide()
        while job.train():
            pass
        before = {record.number: record for record in job.history()}
        decided = job.decide()
        copies = [one for one in decided if isinstance(one, Copy)]
        assert copies
        assert len(copies) + sum(isinstance(one, Continue) for one in decided) == 12
        best = min(before.values(), key=lambda record: record.latest_sv_loss or 0)
        assert best.number not in {one.number for one in copies}
        for one in copies:
            loser, winner = before[one.number], before[one.parent]
            assert winner.latest_sv_loss is not None
            assert loser.latest_sv_loss is not None
            assert winner.latest_sv_loss < loser.latest_sv_loss
            assert "lost" in one.reason
            for name, value in one.hyperparameters.items():
                factor = value / winner.hyperparameters[name] if winner.hyperparameters[name] else 1.0
                most = 0.8 if "weight" in name else 0.3
                assert 1 - most <= factor <= 1 + most or value in (0.0, 1e-3, 5e-3, 0.6, 0.01, 0.7)

    def test_by_truncation_the_worst_quarter_copies_the_best(self) -> None:
        job = Job(specification(self.STRATEGY | {"burn_in_epochs": 0, "exploit": "truncation"}, models=12))
        job.decide()
        while job.train():
            pass
        ranked = [r.number for r in sorted(job.history(), key=lambda r: r.latest_sv_loss or 0)]
        copies = [one for one in job.decide() if isinstance(one, Copy)]
        assert {one.number for one in copies} == set(ranked[-3:])
        assert {one.parent for one in copies} <= set(ranked[:3])

    def test_it_ends_when_the_best_loss_has_stopped_improving(self) -> None:
        strategy = self.STRATEGY | {"burn_in_epochs": 10, "patience_generations": 2, "explore": "perturb"}
        strategy |= {"perturbation": dict.fromkeys(Space.model_fields, 0.0), "min_delta": 0.3}
        job = Job(specification(strategy, models=4, budget={"models": 4, "epochs": 1000})).run()
        assert {record.epochs_trained for record in job.history()} == {30}  # 10, and two generations
        ends = [one for one in job.decisions if isinstance(one, End)]
        assert len(ends) == 4
        assert not any(one.is_given_up for one in ends)
        assert "in 2 generations" in ends[0].reason
        for record in job.history():  # taken up again: it may go on for as long as before
            job.records[record.number] = _replaced(
                record, is_final=False, target_epochs=record.epochs_trained
            )
        job.run()
        assert {record.epochs_trained for record in job.history()} == {50}

    def test_it_goes_on_while_the_best_loss_improves(self) -> None:
        job = self.run(patience_generations=1, min_delta=1e-9)
        assert {record.epochs_trained for record in job.history()} == {60}

    def of_copies(self, name: str, **changes: Any) -> list[float]:
        """Values of a hyperparameter in the copies of a population whose perturbation goes far within its 60 epochs."""
        job = self.run(models=16, burn_in_epochs=0, generation_epochs=2, patience_generations=99, **changes)
        return [float(one.hyperparameters[name]) for one in job.decisions if isinstance(one, Copy)]

    def test_weights_may_leave_their_range_unless_nothing_is_unbounded(self) -> None:
        low, high = 1e-6, 1e-3
        free = self.of_copies("kl_weight_initial_condition")
        assert min(free) < low or max(free) > high
        kept = self.of_copies("kl_weight_initial_condition", unbounded=[])
        assert low <= min(kept) < max(kept) <= high
        for name in ("l2_weight_generator", "dropout", "cd_rate", "learning_rate"):
            values = Space().model_dump()[name]
            kept = self.of_copies(name, unbounded=[])
            assert values["low"] <= min(kept) < max(kept) <= values["high"]

    @pytest.mark.parametrize("explore", ["perturb", "resample"])
    def test_bounds_hold_outside_the_range(self, explore: str) -> None:
        low, high = 8e-7, 1.2e-3
        bounds = {"kl_weight_initial_condition": {"low": low, "high": high}}
        found = self.of_copies("kl_weight_initial_condition", bounds=bounds, explore=explore)
        if explore == "perturb":
            assert min(found) == low
        else:
            assert min(found) >= 1e-6
        assert max(found) <= high

    def test_what_is_unbounded_stays_a_possible_value(self) -> None:
        """Without the limits of the space a share of dropped samples goes above 1."""
        found = self.of_copies("cd_rate", perturbation={"cd_rate": 0.9}, unbounded=["cd_rate"])
        assert max(found) == 0.95
        for name, limits in LIMITS.items():
            with pytest.raises(ValueError, match="is outside"):
                Space.model_validate({name: limits.high * 1.01})
            assert getattr(Space.model_validate({name: limits.high}), name) == limits.high

    def test_a_copy_keeps_its_sizes(self) -> None:
        given = specification(
            self.STRATEGY | {"burn_in_epochs": 0}, models=12, architecture={"factors": [4, 8, 16]}
        )
        job = Job(given).run()
        by_number = {
            one.number: one.hyperparameters["factors"] for one in job.decisions if isinstance(one, Begin)
        }
        for one in job.decisions:
            if isinstance(one, Copy):
                assert one.hyperparameters["factors"] in by_number.values()

    def test_it_finds_better_values_than_it_began_with(self) -> None:
        job = self.run(models=12)
        begun = min(self._loss(one.hyperparameters) for one in job.decisions if isinstance(one, Begin))
        assert min(self._loss(record.hyperparameters) for record in job.history()) < begun

    @staticmethod
    def _loss(values: Any) -> float:
        return float(abs(math.log10(values["learning_rate"]) + 2.5) * 0.1 + values["dropout"] * 0.1)


class TestSuccessiveHalving:
    def test_rungs_are_powers_of_the_factor(self) -> None:
        given = {"kind": "asha", "first_rung_epochs": 5, "reduction_factor": 2}
        job = Job(specification(given, models=16)).run()
        assert {record.epochs_trained for record in job.history()} <= {5, 10, 20, 40, 60}
        assert sum(record.epochs_trained == 60 for record in job.history()) >= 1

    def test_models_that_arrive_together_are_halved_exactly(self) -> None:
        job = Job(specification({"kind": "asha", "first_rung_epochs": 5, "reduction_factor": 4}, models=16))
        job.decide()
        while job.train():
            pass
        ranked = [r.number for r in sorted(job.history(), key=lambda r: r.smoothed_sv_loss or 0)]
        decided = job.decide()
        assert {one.number for one in decided if isinstance(one, Continue)} == set(ranked[:4])
        ends = [one for one in decided if isinstance(one, End)]
        assert {one.number for one in ends} == set(ranked[4:])
        assert all(one.is_given_up for one in ends)
        assert "of the 16 that came to epoch 5 so far; 4 of them go on" in ends[0].reason

    def test_the_best_model_is_never_given_up(self) -> None:
        for kind in ("asha", "hyperband"):
            for order in range(3):
                job = Job(specification({"kind": kind, "first_rung_epochs": 4}, models=20), order).run()
                best = min(job.history(), key=lambda record: record.smoothed_sv_loss or math.inf)
                assert best.epochs_trained == 60

    def test_brackets_of_hyperband_take_about_as_long(self) -> None:
        strategy: Any = make_strategy(
            specification(
                {"kind": "hyperband", "first_rung_epochs": 5},
                models=100,
                budget={"models": 100, "epochs": 81},
            )
        )
        sizes = [strategy._turn.count(bracket) for bracket in range(len(strategy.rungs) + 1)]
        assert strategy.rungs == [5, 15, 45]
        assert sizes == [27, 12, 6, 4]
        assert [strategy.first_target(strategy._turn.index(b)) for b in range(4)] == [5, 15, 45, 81]
        assert strategy.bracket(0) != strategy.bracket(len(strategy._turn))

    def test_much_less_is_trained_than_without(self) -> None:
        job = Job(specification({"kind": "hyperband", "first_rung_epochs": 4}, models=20)).run()
        assert sum(record.epochs_trained for record in job.history()) < 0.6 * 20 * 60


class TestSamplers:
    @pytest.mark.parametrize("kind", sorted(LEARNING))
    def test_rounds_wait_for_the_models_before_them(self, kind: str) -> None:
        job = Job(specification({"kind": kind, "models_at_once": 4, "startup_models": 4}, models=10))
        assert [one.number for one in job.decide()] == [0, 1, 2, 3]
        for _ in range(3):
            job.train()
        assert job.decide() == []
        job.train()
        second = job.decide()
        assert [one.number for one in second] == [4, 5, 6, 7]
        assert all(
            f"chosen by {kind} from 4 models" == one.reason for one in second if isinstance(one, Begin)
        )

    @pytest.mark.parametrize(
        "kind",
        [pytest.param(kind, marks=pytest.mark.slow if kind == "gp" else ()) for kind in sorted(LEARNING)],
    )
    def test_they_learn(self, kind: str) -> None:
        """Later models are better than drawn at random, on average over seeds."""
        gains = []
        for seed in range(3):
            given = {"kind": kind, "models_at_once": 6, "startup_models": 12}
            history = Job(specification(given, seed=seed, models=36)).run().history()
            losses = [record.smoothed_sv_loss or 0.0 for record in history]
            gains.append(np.mean(losses[:12]) - np.mean(losses[24:]))
        assert np.mean(gains) > 0.01

    def test_models_outside_the_space_are_passed_over(self) -> None:
        """Those of a warm start may lie outside."""
        job = Job(specification({"kind": "tpe", "models_at_once": 4, "startup_models": 4}, models=8))
        job.decide()
        while job.train():
            pass
        job.records[1] = _replaced(
            job.records[1], hyperparameters=job.records[1].hyperparameters | {"dropout": 0.9}
        )
        assert len(job.decide()) == 4

    def test_a_grid_has_every_combination_once(self) -> None:
        space = dict.fromkeys(Space.model_fields, 0.1) | {
            "dropout": [0.1, 0.2],
            "cd_rate": {"low": 0.1, "high": 0.5},
        }
        given = specification({"kind": "grid", "points": 3}, models=50, space=space)
        begun = Job(given).decide()
        combinations = {
            (one.hyperparameters["dropout"], round(one.hyperparameters["cd_rate"], 9)) for one in begun
        }  # type: ignore[union-attr]
        assert len(begun) == 6
        assert combinations == set(itertools.product([0.1, 0.2], [0.1, 0.3, 0.5]))
        some = Job(specification({"kind": "grid", "points": 3}, models=3, space=space)).decide()
        assert some == begun[:3]

    def test_a_grid_too_large_to_list_is_drawn_from(self) -> None:
        begun = Job(specification({"kind": "grid", "points": 50}, models=20)).decide()
        assert len({tuple(one.hyperparameters.values()) for one in begun}) == 20  # type: ignore[union-attr]

    def test_a_sobol_sequence_covers_more_evenly(self) -> None:
        def discrepancy(kind: str) -> float:
            from scipy.stats import qmc

            begun = Job(specification({"kind": kind}, models=64)).decide()
            points = [
                [one.hyperparameters[n] / m for n, m in (("dropout", 0.6), ("cd_rate", 0.7))] for one in begun
            ]  # type: ignore[union-attr]
            return float(qmc.discrepancy(np.array(points)))

        assert discrepancy("qmc") < 0.5 * discrepancy("random")


def test_a_larger_random_search_contains_the_smaller() -> None:
    random = {"kind": "random"}
    assert Job(specification(random, models=20)).decide()[:6] == Job(specification(random, models=6)).decide()


def test_a_controller_leaves_the_other_draws_as_they_are() -> None:
    plain = Job(specification({"kind": "random"})).decide()
    controlled = Job(specification({"kind": "random"}, architecture=CONTROLLER)).decide()
    for one, other in zip(plain, controlled, strict=True):
        assert isinstance(one, Begin)
        assert isinstance(other, Begin)
        assert {name: other.hyperparameters[name] for name in one.hyperparameters} == one.hyperparameters


@given(st.floats(1e-8, 1.0), st.floats(1.0, 1e4), st.integers(0, 100))
def test_draws_stay_within_bounds_on_both_scales(low: float, factor: float, seed: int) -> None:
    for scale in ("log", "uniform"):
        values = Range(low=low, high=low * factor, scale=scale)
        assert values.low <= draw(values, np.random.default_rng(seed)) <= values.high


def test_a_log_range_is_uniform_in_its_logarithm() -> None:
    random = np.random.default_rng(0)
    drawn = [math.log10(draw(Range(low=1e-6, high=1e-2, scale="log"), random)) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(-4, abs=0.1)
    assert np.std(drawn) == pytest.approx(4 / math.sqrt(12), abs=0.05)
