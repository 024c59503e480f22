"""Importances of a simulated population: one hyperparameter matters and the others do not."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from api.jobs.importance import importance
from api.jobs.search_schemas import JobImportance
from store.database import Database
from store.settings import Settings
from store.tables import Job, Slice
from tests.worker.fake_workers import FakeWorkers, read_models

PBT: dict[str, Any] = {"kind": "pbt", "generation_epochs": 2, "burn_in_epochs": 4, "patience_generations": 99}
SPACE = {"learning_rate": {"low": 1e-5, "high": 5e-3, "scale": "log"}}
NAMES = ["learning_rate", "dropout", "cd_rate", "kl_weight_initial_condition", "l2_weight_generator"]


def learning_rate_matters(values: dict[str, float]) -> tuple[float, float]:
    """Losses come down the fastest at 2e-3."""
    return 0.5 * math.exp(-(math.log10(values["learning_rate"] / 2e-3) ** 2)), 0.3


def dropout_matters(values: dict[str, float]) -> tuple[float, float]:
    """Losses come down to the lowest value at 0.25."""
    return 0.5, 0.3 + 1.5 * (values["dropout"] - 0.25) ** 2


def nothing_matters(_values: dict[str, float]) -> tuple[float, float]:
    return 0.5, 0.3


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """Of one kind: what is tested is not of the database."""
    return sqlite_database


@pytest.fixture
def simulate(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> Callable[..., JobImportance]:
    """Run a population whose weights come to a loss by a rate and a limit of their hyperparameters, and by luck."""

    def run(
        effect: Callable[[dict[str, float]], tuple[float, float]], seed: int = 0, models: int = 20
    ) -> Any:
        settings.pack_models = models
        job_id = make_job(strategy=PBT, space=SPACE, budget={"models": models, "epochs": 30}, seed=seed)
        workers, random = FakeWorkers(database, settings), np.random.default_rng(seed)
        reached: dict[str, float] = {}
        workers.advance(job_id)
        while (lease := workers.claim()) is not None:
            with database.read() as session:
                piece = session.get_one(Slice, lease.row_id)
            losses = {}
            before = {model.id: model for model in read_models(database, job_id)}
            for model in before.values() if piece.kind == "train" else ():
                rate, limit = effect(model.hyperparameters)
                loss = reached.get(model.checkpoint_key or "", 1.0)
                losses[model.number] = loss - rate * (loss - limit) + float(random.normal(0, 0.002))
            workers.report(lease, losses=losses)
            for model in read_models(database, job_id) if losses else ():
                reached[model.checkpoint_key or ""] = losses[model.number]
            workers.advance(job_id)
        with database.read() as session:
            return importance(session, session.get_one(Job, job_id))

    return run


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("effect", "matters"), [(learning_rate_matters, "learning_rate"), (dropout_matters, "dropout")]
)
def test_what_matters_is_told_from_what_does_not(
    simulate: Callable[..., JobImportance], effect: Callable[..., Any], matters: str, seed: int
) -> None:
    found = simulate(effect, seed)
    assert found.measure == "place_in_generation"
    assert found.observations > 100
    first, *others = found.dimensions
    assert {first.name, *(one.name for one in others)} == set(NAMES)
    assert (first.name, first.p_value) == (matters, pytest.approx(0.01, abs=0.008))
    assert first.importance is not None
    assert first.importance > 0.3
    assert sum(one.importance or 0.0 for one in found.dimensions) == pytest.approx(1)


def test_what_does_not_matter_is_told_by_its_p_values(simulate: Callable[..., JobImportance]) -> None:
    """Importances sum to 1 all the same; p-values are as likely to lie anywhere."""
    p_values = np.array(
        [one.p_value for seed in range(4) for one in simulate(nothing_matters, seed).dimensions]
    )
    assert p_values.shape == (20,)
    assert p_values.min() > 0.01
    assert (p_values < 0.05).sum() <= 3
    assert 0.3 < p_values.mean() < 0.7
