"""The whole service, as `latentry up` runs it, through its client."""

import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import xarray
import zarr
from latentry import Client, LatentryError
from prometheus_client.parser import text_string_to_metric_families

from store.database import Database
from store.identifiers import new_id
from store.tables import Webhook
from store.webhooks import new_secret
from tests.waiting import wait_until
from worker.embedded import EmbeddedService, EmbeddedServiceError

StartService = Callable[..., EmbeddedService]

SMALL: dict[str, Any] = {
    "architecture": {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3},
    "training": {"batch_size": 16, "ramp_epochs": 2},
    "budget": {"models": 2, "epochs": 6},
    "inference": {"posterior_samples": 4},
}
LONG: dict[str, Any] = {**SMALL, "budget": {"models": 2, "epochs": 100_000}}


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
        other_id = next(one["id"] for one in client.list_models(job["id"]) if one["id"] != model_id)
    with httpx.Client(base_url=service.url, timeout=60) as http:
        infer_at_once(http, dataset["id"], model_id)
        apply_to_own_data_set(http, other_id)


def test_the_logs_follow_a_job_from_its_request_to_its_latents_without_secrets(
    service: EmbeddedService, spikes_file: Path, metrics_port: int
) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as http:
        key = http.post("/v1/keys", json={"name": "logs"}).json()["secret"]
        http.headers["Authorization"] = f"Bearer {key}"
        with Database(f"sqlite:///{service.data_dir / 'latentry.db'}").write() as session:
            url = "http://127.0.0.1:1/hook?token=t0ken-of-hook"  # which is refused when it is called
            hook = Webhook(
                id=new_id("whk"), tenant_id="default", url=url, secret=new_secret(), states=["done"]
            )
            session.add(hook)
        with Client(service.url, key=key) as client:
            dataset_id = client.upload_dataset(spikes_file)["id"]
            body = {**SMALL, "budget": {"models": 1, "epochs": 2}, "dataset_id": dataset_id}
            made = http.post("/v1/jobs", json=body, headers={"X-Request-Id": "request-of-the-test"})
            job = client.wait_for_job(made.json()["id"])
        share = http.post("/v1/shares", json={"job_id": job["id"]}).json()["token"]
        for secret in (share, "ltshare_" + 43 * "w", key[:-1]):
            http.get("/v1/jobs", params={"key": secret}, headers={"Authorization": f"Bearer {secret}"})
    secrets = [key, key[:-1], hook.secret, share, "ltshare_" + 43 * "w", "t0ken-of-hook"]
    expected = [
        ("api", "request", {"status": 202, "request_id": "request-of-the-test", "tenant": "default"}),
        ("control", "model.state", {"state": "queued", "task": "advance"}),
        ("training", "the work begins", {"tenant": "default", "device": "cpu"}),
        ("training", "the work ended", {}),
        ("training", "the latents are stored", {"model": job["selected_model_id"]}),
        ("training", "job.state", {"state": "done"}),
    ]

    def lines() -> list[dict[str, Any]]:
        texts = [path.read_text() for path in service.log_dir.glob("*.log") if path.stem != "broker"]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def is_followed() -> bool:
        of_job = [one for one in lines() if one.get("job") == job["id"]]
        assert all("lease" in one and "slice" in one for one in of_job if one["event"].startswith("the work"))
        assert all(one["seconds"] > 0 for one in of_job if one["event"] == "the work ended")
        return all(
            any(
                one["process"].startswith(process) and one.items() >= ({"event": event} | fields).items()
                for one in of_job
            )
            for process, event, fields in expected
        )

    wait_until(is_followed)
    wait_until(lambda: any("was not delivered" in one["event"] for one in lines()))
    for path in service.log_dir.iterdir():
        assert not [one for one in secrets if one in path.read_text()], path
    check_metrics(httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text, secrets)


def check_metrics(text: str, secrets: list[str]) -> None:
    """Check that one port serves the metrics of all processes."""
    assert not [one for one in secrets if one in text]
    found = {
        (one.name, *sorted(one.labels.values())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    for name, *labels in (
        ("latentry_http_requests_total", "202", "/v1/jobs", "POST"),
        ("latentry_slices_total", "cpu", "done", "train"),
        ("latentry_slices_total", "cpu", "done", "infer"),
        ("latentry_model_epochs_total", "cpu"),
        ("latentry_ingests_total", "npz", "ready"),
        ("latentry_queue_wait_seconds_count", "slice"),
    ):
        assert found[(name, *sorted(labels))] > 0
    for process in ("api", "control", "ingest", "slices", "training", "maintenance"):
        assert found["latentry_process_resident_memory_bytes", process] > 1e7
    assert ("latentry_queued", "slice") in found
    if (promtool := shutil.which("promtool")) is not None:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_every_link_leads_somewhere(service: EmbeddedService, spikes_file: Path) -> None:
    """From what `latentry up` prints, through every list and every document's links."""
    with Client(service.url) as client:
        dataset = client.upload_dataset(spikes_file)
        client.wait_for_job(client.create_job({**SMALL, "dataset_id": dataset["id"]})["id"])
    seen, waiting = set[str](), ["/v1", "/", "/docs"]
    with httpx.Client(base_url=service.url, timeout=60, follow_redirects=True) as http:
        while waiting:
            path = waiting.pop()
            seen.add(path)
            with http.stream("GET", path) as answer:
                # A job that was cancelled before it trained has no lineage: 409 says so.
                assert answer.status_code < 400 or answer.status_code == 409, (path, answer.status_code)
                if not answer.headers["Content-Type"].startswith("application/json"):
                    continue
                document = json.loads(answer.read())
            documents = [document, *document.get("items", [])] if isinstance(document, dict) else []
            found = [
                link for one in documents for link in [*one.get("links", {}).values(), one.get("href", "")]
            ]
            waiting += {link for link in found if link and link not in seen and link not in waiting}
    kinds = {re.sub(r"[a-z]+_[0-9a-f]{24}", "ID", path) for path in seen}
    assert {
        "/v1/datasets/ID/preview.png",
        "/v1/jobs/ID/lineage.svg",
        "/v1/models/ID/card",
        "/v1/models/ID/zarr",
    } <= kinds
    assert len(kinds) > 25


def infer_at_once(http: httpx.Client, dataset_id: str, model_id: str) -> None:
    """What the process at the queue `infer` answers is what the job stored."""
    spikes = http.get(f"/v1/datasets/{dataset_id}/arrays/spikes").content
    body = {"content": spikes, "headers": {"Content-Type": "application/x-npy"}}
    answer = http.post(f"/v1/models/{model_id}:infer", params={"format": "npz"}, **body)
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as found:
        for name in ("rates", "factors"):
            stored = np.load(io.BytesIO(http.get(f"/v1/models/{model_id}/arrays/{name}").content))
            np.testing.assert_allclose(found[name], stored, rtol=1e-4, atol=1e-5)


def apply_to_own_data_set(http: httpx.Client, model_id: str) -> None:
    """A model that the job did not select gets latents too."""
    assert http.get(f"/v1/models/{model_id}/arrays").status_code == 409
    made = http.post(f"/v1/models/{model_id}:apply", json={})
    done = http.get(made.headers["Location"], headers={"Prefer": "wait=30"}).json()
    assert (done["state"], done["progress"]["trials_done"]) == ("done", 40), done["error"]
    assert http.get(f"/v1/models/{model_id}/arrays").status_code == 200


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
            "reconstruction_bits_per_spike_valid", "sv_bits_per_spike_valid", "co_smoothing_bits_per_spike_valid",
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


@pytest.mark.slow
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
        user.join(280)
    assert set(results) == {"anna", "ben"}
    with Client(service.url) as client:
        for job in results.values():
            for curve in curves(client, job["id"]).values():
                assert [epoch for epoch, _ in curve] == list(range(1, 61))
    with sqlite3.connect(service.data_dir / "latentry.db") as database:
        attempts = database.execute(
            "SELECT attempts + losses, leased_by FROM slices WHERE kind = 'train'"
        ).fetchall()
    assert {number for number, _ in attempts} == {0}, "a slice was trained twice"
    assert len({worker for _, worker in attempts}) == 2, "one worker did it all"
    service.stop()


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


def test_a_deleted_data_set_leaves_nothing(service: EmbeddedService) -> None:
    with Client(service.url) as client:
        dataset = client.synthesize_dataset("lorenz", conditions=4, trials_per_condition=5, neurons=8, seed=9)
        job = dataset.submit(**LONG)
        marker = "notes of one who wants them deleted"
        for one in (dataset, job):
            one.change(notes=marker)
        wait_until(lambda: epochs(client, job.id) > 0)
        with pytest.raises(LatentryError, match=job.id):
            dataset.delete()
        assert dataset.delete(cascade=True)["jobs"]["ids"] == [job.id]

        def is_gone() -> bool:
            paths = (dataset.path, job.path, f"{dataset.path}/arrays")
            return all(httpx.get(service.url + path).status_code == 404 for path in paths)

        wait_until(is_gone)
        database = service.data_dir / "latentry.db"

        def holds_nothing() -> bool:
            files = (database, database.with_name("latentry.db-wal"))
            return not any(
                marker.encode() in path.read_bytes() for path in files
            )  # the audit log has the ids

        wait_until(holds_nothing)


def test_two_services_never_share_a_folder(service: EmbeddedService) -> None:
    with pytest.raises(EmbeddedServiceError, match="give another --data-dir"):
        EmbeddedService(service.data_dir, port=0).start()


def test_a_taken_port_is_told(service: EmbeddedService, tmp_path: Path) -> None:
    other = EmbeddedService(tmp_path, port=service.port)
    with pytest.raises(EmbeddedServiceError, match="give another --port"):
        other.start()
    other.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_up_runs_until_interrupted_or_its_terminal_is_closed(tmp_path: Path, number: signal.Signals) -> None:
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
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("Page   http://127.0.0.1:")
    with Client(first.split()[1]) as client:
        assert client.get("/readyz")["ready"] is True
    process.send_signal(number)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert rest.rstrip().endswith("Stopped.")
    left = [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(one.info["cmdline"] or [])
    ]
    assert left == []
