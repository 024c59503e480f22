"""Simulated populations whose history is known: who trained the weights that each model holds, and with which hyperparameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from api.jobs import lifecycle
from api.jobs.schemas import BudgetExtension
from domain.states import JobState
from store.database import Database
from store.lineage import lineage, without_copies
from store.settings import Settings
from store.tables import Job, Model, Slice
from tests.worker.fake_workers import FakeWorkers, read_decisions, read_job, read_models


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """Of one kind: what is tested is not of the database."""
    return sqlite_database


PBT: dict[str, Any] = {"kind": "pbt", "generation_epochs": 2, "burn_in_epochs": 2, "patience_generations": 9}
FINAL: dict[str, Any] = {"posterior_samples": 4, "refit": True}


class Best(NamedTuple):
    """Best weights: their loss first, so that the lower of two is the better."""

    loss: float
    epoch: int
    trained_by: int
    hyperparameters: dict[str, float]


class Population:
    """Trains an epoch at a time, and follows weights by the names of checkpoints alone."""

    def __init__(self, database: Database, settings: Settings, job_id: str, losses: Any) -> None:
        self.database, self.job_id, self.losses = database, job_id, losses
        self.workers = FakeWorkers(database, settings, epochs=1)
        self.best: dict[str, Best] = {}
        self.trained_with: dict[int, list[dict[str, float]]] = {}
        """Of a refit, by its number: hyperparameters of each epoch."""

    def run(self) -> None:
        self.workers.advance(self.job_id)
        while (lease := self.workers.claim()) is not None:
            before = {model.id: model for model in read_models(self.database, self.job_id)}
            losses = {
                model.number: self.losses(model.number, model.epochs_trained + 1) for model in before.values()
            }
            with self.database.read() as session:
                piece = session.get_one(Slice, lease.row_id)
            self.workers.report(lease, losses=losses)
            after = {model.id: model for model in read_models(self.database, self.job_id)}
            for model_id in piece.model_ids if piece.kind == "train" else []:
                model = before[model_id]
                reached = Best(
                    losses[model.number], model.epochs_trained + 1, model.number, model.hyperparameters
                )
                held = self.best.get(model.checkpoint_key or "", reached)
                self.best[after[model_id].checkpoint_key or ""] = (
                    reached if reached.loss < held.loss else held
                )
                if model.refit_of is not None:
                    self.trained_with.setdefault(model.number, []).append(model.hyperparameters)
            self.workers.advance(self.job_id)

    def of(self, model: Model) -> Best:
        return self.best[model.checkpoint_key or ""]


def random_losses(seed: int) -> Callable[[int, int], float]:
    """Losses of few levels that fall, then rise, so that best weights lie before the end and are copied."""

    def loss(number: int, epoch: int) -> float:
        luck = np.random.default_rng([seed, number, epoch]).integers(0, 6)
        return float(0.3 + 0.01 * luck + 0.01 * abs(epoch - 7))

    return loss


@pytest.mark.parametrize("seed", range(4))
def test_every_model_says_who_trained_its_best_weights_and_with_what(
    database: Database, settings: Settings, make_job: Callable[..., str], seed: int
) -> None:
    job_id = make_job(strategy=PBT, budget={"models": 8, "epochs": 14}, seed=seed, inference=FINAL)
    population = Population(database, settings, job_id, random_losses(seed))
    population.run()
    job, models = read_job(database, job_id), read_models(database, job_id)
    assert job.state == JobState.DONE
    decisions = read_decisions(database, job_id)
    searched = [model for model in models if model.refit_of is None]
    for model in searched:
        best = population.of(model)
        assert (model.smoothed_sv_loss, model.best_epoch, model.trained_by) == best[:3]
        assert model.shown_hyperparameters == best.hyperparameters
        # the lineage, which reads decisions alone, says the same
        [segment] = [
            one
            for one in lineage(decisions, model.number)
            if one.from_epoch < best.epoch <= (one.to_epoch or 99)
        ]
        assert (segment.model_number, segment.hyperparameters) == (best.trained_by, best.hyperparameters)
    assert any(model.shown_hyperparameters != model.hyperparameters for model in searched)
    assert any(model.trained_by != model.number for model in searched)

    [selected] = [model for model in searched if model.id == job.selected_model_id]
    lowest = min(population.of(model).loss for model in searched)
    holders = [model for model in searched if population.of(model).loss == lowest]
    assert selected in holders
    if any(population.of(model).trained_by == model.number for model in holders):
        assert selected.trained_by == selected.number
    distinct = {(population.of(model).trained_by, population.of(model).epoch) for model in searched}
    assert len(without_copies(searched)) == len(distinct) < len(searched)

    # The refit repeats, epoch by epoch, what led to the best weights, and stops where hyperparameters changed next.
    segments = lineage(decisions, selected.number)
    best_epoch = population.of(selected).epoch
    [end] = [one.to_epoch or 14 for one in segments if one.from_epoch < best_epoch <= (one.to_epoch or 14)]
    [repeated] = population.trained_with.values()
    expected = [
        one.hyperparameters
        for epoch in range(end)
        for one in segments
        if one.from_epoch <= epoch < (one.to_epoch or 14)
    ]
    assert repeated == expected
    [final] = [model for model in models if model.refit_of is not None]
    assert (final.refit_of, final.epochs_trained) == (selected.number, end)


def early_best(number: int, epoch: int) -> float:
    """Until epoch 2 models of a higher number are better, afterwards those of a lower one; no later epoch is as good."""
    return 0.5 - 0.01 * number if epoch <= 2 else 0.6 + 0.01 * number


def test_of_models_that_hold_the_same_weights_the_one_that_trained_them_is_selected(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(strategy=PBT, budget={"models": 4, "epochs": 4})
    population = Population(database, settings, job_id, early_best)
    population.run()
    job, models = read_job(database, job_id), read_models(database, job_id)
    lowest = min(model.smoothed_sv_loss or 9.0 for model in models)
    holders = [model.number for model in models if model.smoothed_sv_loss == lowest]
    assert lowest == 0.47
    assert min(holders) < 3, "no model of a lower number copied it: the test shows nothing"
    assert models[3].id == job.selected_model_id
    assert [models[number].trained_by for number in holders] == [3] * len(holders)
    for number in holders:
        assert models[number].shown_hyperparameters == models[3].hyperparameters
        assert models[number].best_epoch == 1


def test_a_refit_is_repeated_only_if_other_training_led_to_the_best_weights(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(strategy=PBT, budget={"models": 4, "epochs": 6}, inference=FINAL)
    Population(database, settings, job_id, early_best).run()
    finals = []
    for later in (early_best, lambda number, epoch: early_best(number, epoch) - 0.3 * (epoch > 10)):
        finals.append(read_job(database, job_id).final_model_id)
        with database.write() as session:
            lifecycle.extend(session, session.get_one(Job, job_id), BudgetExtension(epochs=4))
        Population(database, settings, job_id, later).run()
    job, models = read_job(database, job_id), read_models(database, job_id)
    assert job.state == JobState.DONE
    assert [model.epochs_trained for model in models] == [14, 14, 14, 14, 2, 14]
    assert finals == [models[4].id, models[4].id]
    assert job.final_model_id == models[5].id
