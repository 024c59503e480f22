"""A trained model run on data sets: what comes out, and what is left when a worker is lost on the way."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from domain.scores import bits_per_spike
from domain.sessions import sessions_of
from domain.split_groups import SPLITS
from domain.states import JobState
from models import infer_latents
from store.array_store import object_size
from store.database import database_now
from store.tables import Dataset, Inference, Job, Model
from tests.worker.fake_workers import read_job, read_models
from tests.worker.lab import Lab
from worker.context.checkpoints import load_checkpoint
from worker.context.slices import architecture_of
from worker.maintenance.garbage_collection import collect_all
from worker.process.run_next import run_next
from worker.scheduling.leases import reap
from worker.scheduling.scheduler import _queue, advance


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def trained(lab: Lab, spikes_file: Path) -> tuple[str, str]:
    """A data set and a job on it."""
    dataset_id = lab.ingest(spikes_file)
    return dataset_id, lab.search(dataset_id)


@pytest.fixture(scope="module")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Further trials of the same neurons, with true rates and without a split."""
    random = np.random.default_rng(1)
    rates_hz = random.uniform(5, 40, (10, 20, 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("files") / "other.npz"
    spikes = random.poisson(rates_hz * 0.02).astype(np.uint8)
    np.savez(path, spikes=spikes, bin_width_s=0.02, true_rates_hz=rates_hz, condition=np.arange(10) % 2)
    return path


def unselected(lab: Lab, job_id: str) -> Model:
    return next(one for one in read_models(lab.database, job_id) if one.latents_path is None)


def row(lab: Lab, table: type[Any], row_id: str) -> Any:
    with lab.database.read() as session:
        return session.get_one(table, row_id)


def begin(lab: Lab, model_id: str, **wanted: Any) -> str:
    answer = lab.client.post(f"/v1/models/{model_id}:apply", json=wanted)
    assert answer.status_code == 202, answer.text
    inference_id: str = answer.json()["id"]
    return inference_id


def run(lab: Lab, model_id: str, **wanted: Any) -> dict[str, Any]:
    inference_id = begin(lab, model_id, **wanted)
    assert run_next(lab.process)
    found: dict[str, Any] = lab.client.get(f"/v1/inferences/{inference_id}").json()
    return found


def test_a_further_recording(lab: Lab, trained: tuple[str, str], other_file: Path) -> None:
    model = row(lab, Model, read_job(lab.database, trained[1]).selected_model_id or "")
    other = lab.ingest(other_file)
    found = run(lab, model.id, dataset_id=other, arrays=["rates", "factors"], posterior_samples=3)
    assert (found["state"], found["error"]) == ("done", None)
    assert found["progress"] == {"trials_done": 10, "trials": 10, "fraction": 1.0}
    assert set(found["scores"]) == {
        "reconstruction_bits_per_spike_test", "r2_true_rates", "r2_true_rates_test", "psth_r2_test"
    }  # fmt: skip
    assert found["baselines"].keys() == found["scores"].keys()
    mean = found["baselines"]["reconstruction_bits_per_spike_test"]["mean"]
    assert mean < 0, "the means are those of the trials that trained the model"
    opened = lab.open(f"inferences/{found['id']}")
    assert set(opened.data_vars) == {"rates", "factors"}
    assert opened.attrs["inference_id"] == found["id"]
    assert (opened.split == SPLITS.index("test")).all(), "the job saw none of them"
    state = load_checkpoint(lab.arrays, model.checkpoint_key or "")
    architecture = architecture_of(model, sessions_of(row(lab, Dataset, trained[0])))
    spikes = lab.array(f"datasets/{other}", "spikes")
    expected = infer_latents(
        architecture, state, spikes, np.full(10, 20), posterior_samples=3, seed=model.seed
    )
    np.testing.assert_array_equal(opened.factors, expected.factors)
    np.testing.assert_array_equal(opened.rates, expected.rates / np.float32(0.02))
    assert found["scores"]["reconstruction_bits_per_spike_test"] == bits_per_spike(expected.rates, spikes)
    assert row(lab, Model, model.id).latents_path == model.latents_path, "the job's own stay"


def test_trials_of_the_same_recording_are_not_scored(
    lab: Lab, trained: tuple[str, str], spikes_file: Path
) -> None:
    """Another data set of the same file may have trials that trained the model: no score of them is unbiased."""
    derived = lab.ingest(spikes_file, split={"kind": "trial", "seed": 5})
    with lab.database.write() as session:
        session.execute(
            update(Dataset).where(Dataset.id.in_([trained[0], derived])).values(original="e" * 64)
        )
    model_id = read_job(lab.database, trained[1]).selected_model_id or ""
    found = run(lab, model_id, dataset_id=derived, arrays=["rates"], posterior_samples=2)
    assert found["state"] == "done"
    assert not [name for name in found["scores"] if name.endswith(("_test", "_valid"))]
    opened = lab.open(f"inferences/{found['id']}")
    assert (opened.split == SPLITS.index("gap")).all()


def test_the_model_s_own_trials_give_it_latents(lab: Lab, trained: tuple[str, str]) -> None:
    model = unselected(lab, trained[1])
    refused = lab.client.get(f"/v1/models/{model.id}/arrays")
    assert refused.status_code == 409
    assert f"POST /v1/models/{model.id}:apply" in refused.json()["hint"]
    found = run(lab, model.id)
    opened = lab.open(f"models/{model.id}")
    assert opened.attrs["inference_id"] == found["id"]
    assert set(found["scores"]) == {
        "reconstruction_bits_per_spike_valid", "r2_true_rates", "r2_true_rates_valid", "psth_r2_valid"
    }  # fmt: skip
    assert (np.bincount(opened.split) == [32, 8]).all()
    again = run(lab, model.id, arrays=["rates"])
    assert again["scores"] == found["scores"], "the same draws"
    assert lab.open(f"models/{model.id}").attrs["inference_id"] == again["id"], "the latest are shown"
    assert lab.array(f"inferences/{found['id']}", "factors").shape == (40, 20, 3), "and the first are kept"


def test_the_selected_model_again_gives_what_its_job_stored(lab: Lab, trained: tuple[str, str]) -> None:
    selected = row(lab, Model, read_job(lab.database, trained[1]).selected_model_id or "")
    found = run(lab, selected.id)
    for name in ("rates", "factors", "initial_conditions", "generator_states"):
        np.testing.assert_array_equal(
            lab.array(f"inferences/{found['id']}", name), lab.array(f"models/{selected.id}", name)
        )
    assert found["scores"].items() <= selected.scores.items()
    assert selected.baselines is not None
    assert found["baselines"].items() <= selected.baselines.items()
    assert found["baseline_settings"] == selected.baseline_settings


def test_a_model_of_several_sessions_on_one_of_them(lab: Lab, tmp_path: Path) -> None:
    ids = []
    for number in (0, 1):
        spikes = np.random.default_rng(number).poisson(0.5, (16, 16, 7 + number)).astype(np.uint8)
        np.savez(tmp_path / f"{number}.npz", spikes=spikes, bin_width_s=0.02)
        ids.append(lab.ingest(tmp_path / f"{number}.npz"))
    job_id = lab.search(lab.combine(ids), budget={"models": 1, "epochs": 1})
    model = lab.selected(job_id)
    found = run(lab, model.id, dataset_id=ids[1])
    assert found["sessions"] == [1], "known by the data set"
    one, both = lab.open(f"inferences/{found['id']}"), lab.open(f"models/{model.id}")
    np.testing.assert_array_equal(one.rates.values, both.rates_1.values)
    np.testing.assert_array_equal(one.factors.values, both.factors.values[16:])
    np.testing.assert_array_equal(one.split.values, both.split.values[16:])
    whole = run(lab, model.id, dataset_id=row(lab, Job, job_id).dataset_id)
    assert (whole["state"], whole["sessions"]) == ("done", [0, 1])
    refused = lab.client.post(f"/v1/models/{model.id}:apply", json={"dataset_id": ids[1], "session": 0})
    assert "expected the 7 neurons of session 0 of the model" in refused.json()["detail"]


def test_a_worker_that_dies_is_followed_by_another(
    lab: Lab, trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left is deleted, and the result is that of one attempt."""
    sum(collect_all(lab.database, lab.arrays))  # of the job
    model = read_models(lab.database, trained[1])[0]
    inference_id = begin(lab, model.id, arrays=["factors"])

    class Killed(BaseException):
        """As a signal: nothing runs after it."""

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("worker.inference.latents.score", die)
        with pytest.raises(Killed):
            run_next(lab.process)
    left = row(lab, Inference, inference_id)
    assert (left.state, left.trials_done) == ("running", 40), "it said how far it was"
    orphan = f"inferences/{inference_id}/{left.lease_token}/factors/zarr.json"
    assert object_size(lab.arrays, orphan), "it had written much"
    assert sum(collect_all(lab.database, lab.arrays)) == 0, "it may live"
    with lab.database.write() as session:
        session.get_one(Inference, inference_id).lease_expires_at = database_now(session) - timedelta(
            seconds=1
        )
    with lab.database.write() as session:
        assert reap(session, lab.settings) == 1
    assert row(lab, Inference, inference_id).state == "queued"
    assert run_next(lab.process)
    ended = row(lab, Inference, inference_id)
    assert (ended.state, ended.losses, ended.attempts, ended.error) == ("done", 1, 0, None)
    assert sum(collect_all(lab.database, lab.arrays)) == 1
    assert object_size(lab.arrays, orphan) is None
    assert lab.array(f"inferences/{inference_id}", "factors").shape == (40, 20, 3)


def test_one_that_is_cancelled_writes_no_more(lab: Lab, trained: tuple[str, str]) -> None:
    model = read_models(lab.database, trained[1])[0]
    inference_id = begin(lab, model.id)

    def cancel() -> bool:
        assert lab.client.post(f"/v1/inferences/{inference_id}:cancel").json()["state"] == "cancelled"
        return False

    lab.process.should_yield = cancel
    try:
        assert run_next(lab.process)
    finally:
        lab.process.should_yield = lambda: False
    ended = row(lab, Inference, inference_id)
    assert (ended.state, ended.latents_path, ended.lease_token) == ("cancelled", None, None)
    assert lab.client.get(f"/v1/inferences/{inference_id}/arrays").status_code == 409
    assert not run_next(lab.process)


def test_one_is_given_back_when_the_worker_is_to_end(lab: Lab, trained: tuple[str, str]) -> None:
    inference_id = begin(lab, read_models(lab.database, trained[1])[0].id)
    lab.process.should_yield = lambda: True
    try:
        assert run_next(lab.process)
    finally:
        lab.process.should_yield = lambda: False
    left = row(lab, Inference, inference_id)
    assert (left.state, left.lease_token, left.attempts, left.losses) == ("queued", None, 0, 0)
    assert run_next(lab.process)
    assert row(lab, Inference, inference_id).state == "done"


def test_one_that_fails_says_why_and_ends(
    lab: Lab, trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inference_id = begin(lab, read_models(lab.database, trained[1])[0].id)

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("worker.inference.batch_inference.load_checkpoint", fail)
    for _ in range(lab.settings.max_attempts):
        with pytest.raises(ValueError, match="no such thing"):
            run_next(lab.process)
    found = lab.client.get(f"/v1/inferences/{inference_id}").json()
    assert (found["state"], found["error"]["message"]) == ("failed", "no such thing")
    assert not run_next(lab.process)


def test_weights_that_are_dropped_meanwhile_are_kept_for_it(lab: Lab, trained: tuple[str, str]) -> None:
    """Its job goes on, and its model has other weights by then: the latents are not shown as the model's."""
    job_id = lab.search(trained[0], seed=7, budget={"models": 2, "epochs": 1})
    model = unselected(lab, job_id)
    inference_id = begin(lab, model.id)
    answer = lab.client.post(f"/v1/jobs/{job_id}:extend", json={"epochs": 1})
    assert answer.status_code == 200, answer.text
    while read_job(lab.database, job_id).state != JobState.DONE:
        with lab.database.write() as session:
            advance(session, job_id, lab.settings)
        lab.process.last_was_inference = True  # so that slices come first, for once
        assert run_next(lab.process)
        sum(collect_all(lab.database, lab.arrays))
    assert run_next(lab.process)
    ended, after = row(lab, Inference, inference_id), row(lab, Model, model.id)
    assert (ended.state, ended.error) == ("done", None)
    assert after.checkpoint_key != model.checkpoint_key
    assert after.latents_path != ended.latents_path
    sum(collect_all(lab.database, lab.arrays))
    assert object_size(lab.arrays, model.checkpoint_key or "") is None


def test_what_a_job_stores_anew_deletes_no_inference(lab: Lab, trained: tuple[str, str]) -> None:
    job_id = lab.search(trained[0], seed=8, budget={"models": 2, "epochs": 1})
    model = unselected(lab, job_id)
    found = run(lab, model.id, arrays=["factors"])
    with lab.database.write() as session:  # as if it were the one that the job selects now
        session.execute(update(Job).where(Job.id == job_id).values(state=JobState.INFERRING))
        job = session.get_one(Job, job_id)
        _queue(session, job, "infer", [session.get_one(Model, model.id)], 1)
    lab.process.last_was_inference = False
    assert run_next(lab.process)
    sum(collect_all(lab.database, lab.arrays))
    assert row(lab, Model, model.id).latents_path.startswith(f"models/{model.id}/")
    assert lab.array(f"inferences/{found['id']}", "factors").shape == (40, 20, 3)
