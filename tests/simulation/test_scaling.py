"""The simulation of many workers and jobs, small, with kills: nothing lost, nothing twice, every model to its budget."""

from pathlib import Path

import pytest

from benchmarks.scaling_figures import describe
from tests.simulation.simulate import Plan, simulate


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_of_simulated_workers_end_with_every_model_trained_once(tmp_path: Path) -> None:
    plan = Plan(
        f"sqlite:///{tmp_path / 'latentry.db'}",
        "sql",
        workers=2,
        jobs=3,
        slice_seconds=0.5,
        seconds=500.0,  # it ends when all jobs are done
        models_per_job=2,
        epochs=120,
        kills=2,
        kill_every_s=1.0,
    )
    found = simulate(plan, tmp_path)
    line = describe(found, "sqlite")
    assert found.outcome.jobs_done == 3
    assert found.outcome.models_trained == 6
    assert found.outcome.epochs_of_jobs == [240, 240, 240]
    assert (line["lost"], line["trained_twice"]) == (0, 0)
    assert found.killed == 2
    assert found.outcome.slices_done >= 6
    assert line["slices"] >= 1  # of the workers that were not killed
    assert 0 < line["training_share"] < 1
    assert line["devices_borne"] > 1
    assert line["pack_wait_ms_median"] > 0
    assert {"claim", "report", "advance", "array write"} <= set(line["by_kind"])
    assert {measures.role for measures in found.measures} == {"worker", "control", "maintenance"}
