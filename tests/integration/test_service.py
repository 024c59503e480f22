"""The whole service, as `latentry up` runs it, through its client."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xarray
import zarr
from latentry import Client, LatentryError

from worker.embedded import EmbeddedService, EmbeddedServiceError

StartService = Callable[..., EmbeddedService]

SMALL: dict[str, Any] = {
    "architecture": {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3},
    "training": {"batch_size": 16, "ramp_epochs": 2},
    "budget": {"models": 2, "epochs": 6},
    "inference": {"posterior_samples": 4},
}
LONG: dict[str, Any] = {**SMALL, "budget": {"models": 2, "epochs": 100_000}}


def descendants(service: EmbeddedService, word: str) -> list[psutil.Process]:
    """Processes of this service whose command line has a word."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("LATENTRY_DATA_DIR") == str(service.data_dir)
            if is_ours and word in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)


def epochs(client: Client, job_id: str) -> int:
    return int(client.get_job(job_id)["progress"]["epochs_trained"])


def curves(client: Client, job_id: str) -> dict[int, list[tuple[int, float]]]:
    return {
        model["number"]: [
            (point["epoch"], point["sv_loss"])
            for point in client.get(f"/v1/models/{model['id']}/learning_curve")["points"]
        ]
        for model in client.list_models(job_id)
    }


def selected_number(client: Client, job: dict[str, Any]) -> int:
    return int(client.get_model(job["selected_model_id"])["number"])


def test_the_main_job(service: EmbeddedService, spikes_file: Path) -> None:
    with Client(service.url) as client:
        dataset = client.upload_dataset(spikes_file)
        assert (dataset["trials"], dataset["bins"], dataset["neurons"]) == (40, 20, 8)
        job = client.create_job({**SMALL, "dataset_id": dataset["id"]})
        seen = [event["kind"] for event in client.events(job["id"])]
        job = client.wait_for_job(job["id"])
        assert seen[0] == seen[-1] == "job.state"
        assert "progress" in seen
        model_id = job["selected_model_id"]
        rates = client.read_model_array(model_id, "rates")
        assert rates.shape == (40, 20, 8)
        np.testing.assert_array_equal(client.read_model_array(model_id, "rates", "3:5,::2"), rates[3:5, ::2])
        url = f"{service.url}/v1/models/{model_id}/zarr"
        with xarray.open_zarr(url) as opened:
            np.testing.assert_array_equal(opened.rates.values, rates)
            assert {"trial", "time_s", "neuron", "split", "trial_length_bins"} <= set(opened.coords)
        group = zarr.open_group(url, mode="r")
        np.testing.assert_array_equal(group["factors"][2], client.read_model_array(model_id, "factors", "2"))


def test_a_job_with_inferred_inputs(service: EmbeddedService, spikes_file: Path) -> None:
    """Controller, neurons and bins that are never read: inputs, scores and diagnostics come out."""
    architecture = {
        **SMALL["architecture"], "controller_units": 6, "controller_encoder_units": 5, "inferred_inputs": 2,
        "held_out_neurons": [2, 5], "encoded_bins": 16,
    }  # fmt: skip
    with Client(service.url) as client:
        dataset = client.upload_dataset(spikes_file)
        job = client.create_job({**SMALL, "dataset_id": dataset["id"], "architecture": architecture})
        events = {event["kind"]: event["data"] for event in client.events(job["id"])}
        job = client.wait_for_job(job["id"])
        model = client.get_model(job["selected_model_id"])
        inputs = client.read_model_array(model["id"], "inputs")
        assert inputs.shape == (40, 20, 2)
        assert np.isfinite(inputs).all()
        with xarray.open_zarr(f"{service.url}/v1/models/{model['id']}/zarr") as opened:
            assert opened.inputs.dims == ("trial", "time_s", "input")
            assert opened.generator_states.shape == (40, 20, 8)
        for name in (
            "bits_per_spike_valid", "bits_per_spike_sv", "co_smoothing_bits_per_spike_valid",
            "forward_prediction_bits_per_spike_valid", "r2_true_rates", "psth_r2_valid",
        ):  # fmt: skip
            assert isinstance(model["scores"][name], float), name
        assert model["hyperparameters"].keys() >= {"kl_weight_inputs", "l2_weight_controller"}
        curve = client.get(f"/v1/models/{model['id']}/learning_curve")["points"]
        assert all(isinstance(point["kl_inputs"], float) for point in curve)
        assert job["diagnostics"] == events["job.diagnostics"]
        assert (job["diagnostics"]["leaking"], len(job["diagnostics"]["models"])) == (None, 2)


def test_a_rejected_file_says_why(service: EmbeddedService, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", spikes=np.full((10, 5, 3), 0.25), bin_width_s=0.01)
    with Client(service.url) as client, pytest.raises(LatentryError, match="whole"):
        client.upload_dataset(tmp_path / "bad.npz")


@pytest.mark.parametrize("victim", ["training process", "pool child", "worker"])
def test_a_killed_worker_loses_nothing(start_service: StartService, spikes_file: Path, victim: str) -> None:
    """SIGKILL in the middle of a slice: the job ends with the same learning curves and the same selected model."""
    service = start_service(workers=1)
    stopping = threading.Event()
    watcher = threading.Thread(target=service.watch, args=(stopping.is_set,))
    watcher.start()
    try:
        with Client(service.url) as client:
            dataset = client.upload_dataset(spikes_file)
            specification = {**SMALL, "dataset_id": dataset["id"], "budget": {"models": 2, "epochs": 400}}
            undisturbed = client.wait_for_job(client.create_job(specification)["id"])
            job_id = client.create_job(specification)["id"]
            wait_until(lambda: client.get_job(job_id)["state"] == "running")
            time.sleep(1.0)
            training = descendants(service, "worker.training_process")
            assert len(training) == 1
            pool_child = training[0].parent()
            assert pool_child is not None
            main = pool_child.parent()
            assert main is not None
            {"training process": training[0], "pool child": pool_child, "worker": main}[victim].kill()
            assert client.get_job(job_id)["state"] == "running", "it was over before the kill; make it longer"
            job = client.wait_for_job(job_id)
            assert curves(client, job_id) == curves(client, undisturbed["id"])
            assert selected_number(client, job) == selected_number(client, undisturbed)
            assert [model["epochs_trained"] for model in client.list_models(job_id)] == [400, 400]
    finally:
        stopping.set()
        watcher.join()
        service.stop()


def test_on_postgresql_a_killed_worker_loses_nothing_either(
    start_service: StartService,
    spikes_file: Path,
    postgres_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LATENTRY_DATABASE_URL", postgres_database_url)
    service = start_service(workers=2)
    assert not (service.data_dir / "latentry.db").exists()
    with Client(service.url) as client:
        dataset = client.upload_dataset(spikes_file)
        specification = {**SMALL, "dataset_id": dataset["id"], "budget": {"models": 4, "epochs": 300}}
        undisturbed = client.wait_for_job(client.create_job(specification)["id"])
        job_id = client.create_job(specification)["id"]
        wait_until(lambda: client.get_job(job_id)["state"] == "running")
        time.sleep(1.0)
        descendants(service, "worker.training_process")[0].kill()
        assert client.get_job(job_id)["state"] == "running", "it was over before the kill; make it longer"
        job = client.wait_for_job(job_id)
        assert curves(client, job_id) == curves(client, undisturbed["id"])
        assert selected_number(client, job) == selected_number(client, undisturbed)
        rates = client.read_model_array(job["selected_model_id"], "rates")
        assert np.isfinite(rates).all()
    service.stop()


def test_two_jobs_of_two_users_on_two_workers(start_service: StartService, spikes_file: Path) -> None:
    service = start_service(workers=2)
    results: dict[str, dict[str, Any]] = {}

    def use(name: str, seed: int) -> None:
        with Client(service.url) as client:
            dataset = client.upload_dataset(spikes_file, name=name)
            budget = {"models": 3, "epochs": 60}
            job = client.create_job({**SMALL, "dataset_id": dataset["id"], "seed": seed, "budget": budget})
            results[name] = client.wait_for_job(job["id"])

    users = [threading.Thread(target=use, args=(name, seed)) for seed, name in enumerate(("anna", "ben"))]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
    assert set(results) == {"anna", "ben"}
    with Client(service.url) as client:
        for job in results.values():
            for curve in curves(client, job["id"]).values():
                assert [epoch for epoch, _ in curve] == list(range(1, 61))
    with sqlite3.connect(service.data_dir / "latentry.db") as database:
        attempts = database.execute("SELECT attempts, leased_by FROM slices WHERE kind = 'train'").fetchall()
    assert {number for number, _ in attempts} == {1}, "a slice was trained twice"
    assert len({worker for _, worker in attempts}) == 2, "one worker did it all"
    service.stop()


def test_stopping_gives_the_slice_back_and_starting_goes_on(
    start_service: StartService, spikes_file: Path
) -> None:
    first = start_service(workers=1)
    with Client(first.url) as client:
        dataset = client.upload_dataset(spikes_file)
        job_id = client.create_job(
            {**SMALL, "dataset_id": dataset["id"], "budget": {"models": 2, "epochs": 1500}}
        )["id"]
        wait_until(lambda: client.get_job(job_id)["state"] == "running")
        time.sleep(1.0)
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < 20
    assert descendants(first, "latentry") == descendants(first, "worker") == []
    with sqlite3.connect(first.data_dir / "latentry.db") as database:
        (trained,) = database.execute("SELECT min(epochs_trained) FROM models").fetchone()
        states = {state for (state,) in database.execute("SELECT state FROM slices")}
    assert 0 < trained < 1500, "the slice under way was not saved"
    assert "leased" not in states
    second = start_service(first.data_dir, workers=1)
    with Client(second.url) as client:
        job = client.wait_for_job(job_id)
        assert job["progress"]["epochs_trained"] == 3000
        assert all(len(curve) == 1500 for curve in curves(client, job_id).values())
    second.stop()


def test_a_running_job_can_be_cancelled(service: EmbeddedService, spikes_file: Path) -> None:
    with Client(service.url) as client:
        dataset = client.upload_dataset(spikes_file)
        job_id = client.create_job({**LONG, "dataset_id": dataset["id"]})["id"]
        wait_until(lambda: epochs(client, job_id) > 0)
        assert client.cancel_job(job_id)["state"] == "cancelled"
        after = epochs(client, job_id)
        quick = client.create_job({**SMALL, "dataset_id": dataset["id"]})
        assert client.wait_for_job(quick["id"])["state"] == "done", "the worker is free again"
        assert epochs(client, job_id) <= after
        with pytest.raises(LatentryError, match="is cancelled"):
            client.wait_for_job(job_id)


def test_an_emptied_broker_loses_nothing(start_service: StartService, spikes_file: Path) -> None:
    import redis

    service = start_service(workers=1)
    with Client(service.url) as client:
        dataset = client.upload_dataset(spikes_file)
        broker = redis.Redis(unix_socket_path=str(service.data_dir / "broker" / "socket"))
        job_ids = [client.create_job({**SMALL, "dataset_id": dataset["id"]})["id"] for _ in range(3)]
        for _ in range(20):
            broker.delete("slices", "control")
            time.sleep(0.05)
        for job_id in job_ids:
            assert client.wait_for_job(job_id)["state"] == "done"
    service.stop()


def test_two_services_never_share_a_folder(service: EmbeddedService) -> None:
    with pytest.raises(EmbeddedServiceError, match="give another --data-dir"):
        EmbeddedService(service.data_dir, port=0).start()


def test_a_taken_port_is_told(service: EmbeddedService, tmp_path: Path) -> None:
    other = EmbeddedService(tmp_path, port=service.port)
    with pytest.raises(EmbeddedServiceError, match="give another --port"):
        other.start()
    other.stop()


def test_up_runs_until_interrupted(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "latentry.main",
        "up",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path / "data"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("API    http://127.0.0.1:")
    with Client(first.split()[1].removesuffix("/v1")) as client:
        assert client.get("/readyz")["ready"] is True
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    assert rest.rstrip().endswith("Stopped.")
    left = [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(one.info["cmdline"] or [])
    ]
    assert left == []
