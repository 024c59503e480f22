"""Leaks in real training: a job of one model on a small synthetic recording, with and without coordinated dropout."""

from typing import Any

import pytest
from sqlalchemy import select
from zarr.abc.store import Store

from domain.states import JobState
from store.database import Database
from store.settings import Settings
from store.tables import CurvePoint
from tests.worker.conftest import add_job
from tests.worker.fake_workers import read_job, read_models
from tests.worker.real_training import ingest, run_job
from worker.context.process import TrainingProcess

RECORDING = {
    "kind": "synthetic", "system": "lorenz", "conditions": 12, "trials_per_condition": 5, "bins": 50, "neurons": 30,
    "seed": 0,
}  # fmt: skip
ARCHITECTURE = {
    "encoder_units": 64, "initial_condition_dim": 64, "generator_units": 64, "factors": 20, "controller_units": 64,
    "controller_encoder_units": 64, "inferred_inputs": 4,
}  # fmt: skip
SPACE = {
    "learning_rate": 4e-3, "dropout": 0.05, "kl_weight_initial_condition": 1e-8, "kl_weight_inputs": 1e-8,
    "l2_weight_generator": 1e-4, "l2_weight_controller": 1e-4,
}  # fmt: skip


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """Of one kind, since training takes long."""
    return sqlite_database


def diagnostics(
    database: Database, process: TrainingProcess, dataset_id: str, epochs: int, **space: float
) -> dict[str, Any]:
    """Train one model, and return what its job says at the end."""
    job_id = add_job(
        database, dataset_id, architecture=ARCHITECTURE, space={**SPACE, **space},
        training={"batch_size": 16, "ramp_epochs": 20}, budget={"models": 1, "epochs": epochs},
        inference={"posterior_samples": 2, "arrays": ["rates"]},
    )  # fmt: skip
    run_job(process, job_id)
    job = read_job(database, job_id)
    assert job.state == JobState.DONE, job.error
    assert job.diagnostics is not None
    (model,), (entry,) = read_models(database, job_id), job.diagnostics["models"]
    with database.read() as session:
        points = session.execute(select(CurvePoint).where(CurvePoint.model_id == model.id)).scalars()
        curve = {point.epoch: point for point in points}
    for prefix, epoch in (("", entry["best_epoch"]), ("last_", epochs)):
        for name in ("sv_loss", "validation_loss"):
            assert entry[prefix + name] == model.scores[prefix + name] == getattr(curve[epoch], name)
    return job.diagnostics


@pytest.mark.slow
def test_a_leak_of_the_only_model_is_told(
    database: Database, arrays: Store, process: TrainingProcess, settings: Settings
) -> None:
    dataset_id = ingest(database, arrays, settings, RECORDING)
    leaky = diagnostics(database, process, dataset_id, 45, cd_rate=0.0)
    (model,) = leaky["models"]
    assert (leaky["leaking"], leaky["leaking_later"]) == ([], [0])
    assert model["last_sv_loss"] > model["sv_loss"] + 0.03
    assert model["last_validation_loss"] < model["validation_loss"] - 0.02
    assert model["lost_share"] < 0.3 < 0.5 < model["last_lost_share"]
    assert model["best_epoch"] < 25
    assert leaky["is_best_epoch_in_ramp"] == (model["best_epoch"] <= 20)
    assert "Model 0 learned to pass single spikes from input to output" in leaky["warning"]
    assert "raise space.cd_rate, here 0 or more, to 0.2 or more" in leaky["warning"]

    passing = diagnostics(database, process, dataset_id, 60, cd_rate=0.5, cd_pass_rate=0.95)
    assert (passing["leaking"], passing["leaking_later"]) == ([], [0])
    assert "set space.cd_pass_rate to 0" in passing["warning"]

    calm = diagnostics(database, process, dataset_id, 45, cd_rate=0.3)
    (model,) = calm["models"]
    assert (calm["leaking"], calm["leaking_later"], calm["warning"]) == ([], [], None)
    assert max(model["lost_share"], model["last_lost_share"]) < 0.15
