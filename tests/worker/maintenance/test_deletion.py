"""Deletion: nothing of what is deleted stays anywhere, everything else stays, and a process may die between any two steps."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from sqlalchemy import select
from zarr.abc.store import Store
from zarr.core.sync import sync

from domain.states import InferenceState, JobState, ModelState, SliceState
from store import outbox
from store.array_store import open_array_store, write_object
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.events import record
from store.identifiers import new_id
from store.originals import open_originals
from store.settings import Settings
from store.tables import Base, Inference, Job, Model, Slice
from tests.api.api_examples import add_decision, add_job, add_model
from tests.app_copies import app_of
from worker.ingest.service import ingest_dataset
from worker.maintenance.deletion import Storage, work_off

BUCKET = "lab"


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@dataclass
class World:
    """A service in this process whose storage can be looked at as a whole."""

    storage: Storage
    client: TestClient
    folder: Path
    bucket: Any = None

    @property
    def database(self) -> Database:
        return self.storage.database

    def snapshot(self) -> dict[str, Any]:
        """Every row, object and file, without the messages to workers."""
        found: dict[str, Any] = {}
        with self.database.read() as session:
            for table in Base.metadata.sorted_tables:
                rows = session.execute(select(table)).all()
                found[table.name] = sorted(repr(tuple(row)) for row in rows)
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        found["files"] = {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if "test.db" not in path.name
        }
        found["objects"] = sorted(sync(_listed(self.storage.arrays)))
        if self.bucket is not None:
            listed = self.bucket.list_objects(Bucket=BUCKET).get("Contents", [])
            found["bucket"] = [one["Key"] for one in listed]
        return found

    def traces(self, *texts: str) -> list[str]:
        """Where any of these texts is in a row, a name or the bytes of a file, the database's own included."""
        self.database.close()
        found = [name for name, value in self.snapshot().items() if any(one in repr(value) for one in texts)]
        for path in self.folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            found += [str(path) for one in texts if one.encode() in content or one in path.name]
        return found

    def upload(self, marker: str, **parameters: str) -> str:
        """A data set that is ingested. The marker is in its file, its names and its metadata."""
        answer = self.client.post(
            "/v1/datasets",
            params={"filename": f"{marker}.npz", "name": f"of {marker}", **parameters},
            content=recording(marker),
            headers={"Content-Type": "application/octet-stream", "Idempotency-Key": f"upload {marker}"},
        )
        assert answer.status_code == 202, answer.text
        dataset_id: str = answer.json()["id"]
        self.ingest(dataset_id)
        return dataset_id

    def ingest(self, dataset_id: str) -> None:
        storage = self.storage
        ingest_dataset(storage.database, storage.arrays, storage.settings, dataset_id, "test")
        assert self.client.get(f"/v1/datasets/{dataset_id}").json()["state"] == "ready"

    def search(self, dataset_id: str, marker: str) -> tuple[str, str, str]:
        """A job with everything that a job may have, its selected model and an inference; each with the marker."""
        arrays = self.storage.arrays
        with self.database.write() as session:
            job_id = add_job(session, dataset_id, state=JobState.DONE, name=marker)
            models = [
                add_model(session, job_id, number, state=ModelState.TRAINED, losses=(2.0, 1.0))
                for number in range(2)
            ]
            add_decision(session, job_id, 0, "begin", 0, f"because of {marker}")
            record(session, job_id, "progress", text=marker)
            session.add(
                Slice(
                    id=new_id("sli"), tenant_id="default", job_id=job_id, kind="train", pack=0, model_ids=models,
                    first_epoch=0, last_epoch=2, state=SliceState.DONE, error={"message": marker}, attempts=0,
                )
            )  # fmt: skip
            inference = Inference(
                id=new_id("inf"), tenant_id="default", model_id=models[0], dataset_id=dataset_id, attempts=0,
                state=InferenceState.DONE, options={"arrays": ["rates"], "posterior_samples": 1, "sessions": [0]},
                checkpoint_key=f"models/{models[0]}/checkpoints/000002-a.safetensors",
            )  # fmt: skip
            inference.latents_path = f"inferences/{inference.id}/a"
            session.add(inference)
            session.get_one(Job, job_id).selected_model_id = models[0]
            for model_id in models:
                row = session.get_one(Model, model_id)
                row.checkpoint_key = f"models/{model_id}/checkpoints/000002-a.safetensors"
                row.latents_path = f"models/{model_id}/latents/a"
            outbox.post(session, outbox.ADVANCE, job_id)
        for model_id in models:
            write_object(arrays, f"models/{model_id}/checkpoints/000002-a.safetensors", marker.encode())
            write_group(arrays, f"models/{model_id}/latents/a", marker)
        write_group(arrays, f"inferences/{inference.id}/a", marker)
        return job_id, models[0], inference.id

    def work_off(self) -> None:
        assert not work_off(self.storage, 60)

    def delete(self, path: str, expected: int = 202, **parameters: Any) -> dict[str, Any]:
        answer = self.client.delete(path, params=parameters)
        assert answer.status_code == expected, answer.text
        document: dict[str, Any] = answer.json()
        return document


async def _listed(arrays: Store) -> list[str]:
    return [key async for key in arrays.list()]


def recording(marker: str) -> bytes:
    file = io.BytesIO()
    spikes = np.random.default_rng(len(marker)).poisson(0.5, (20, 20, 6)).astype(np.uint8)
    np.savez(
        file, spikes=spikes, bin_width_s=0.02, condition=np.array([f"{marker}{i % 4}" for i in range(20)])
    )
    return file.getvalue()


def write_group(arrays: Store, path: str, marker: str) -> None:
    writer = ArrayGroupWriter(arrays, path, {"note": marker})
    writer.write(NamedArray("rates", np.ones((4, 3), np.float32), ("trial", "neuron"), "spikes/s", marker))
    writer.close()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Iterator[World]:
    """On SQLite everything is in the database and a folder; with PostgreSQL, arrays are files and originals are in a bucket."""
    is_sqlite, bucket, upload_url = database.is_sqlite, None, ""
    if not is_sqlite:
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        for name, value in {
            "AWS_ENDPOINT_URL": request.getfixturevalue("bucket_server"), "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        bucket = boto3.client("s3")
        bucket.create_bucket(Bucket=BUCKET)
        upload_url = f"s3://{BUCKET}/u"
    settings = Settings(data_dir=tmp_path / "data", upload_url=upload_url)
    arrays = open_array_store("sql:" if is_sqlite else f"file://{tmp_path / 'arrays'}", database)
    storage = Storage(database, arrays, open_originals(settings), settings)
    client = TestClient(app_of(settings, database, arrays))
    yield World(storage, client, tmp_path, bucket)
    if bucket is not None:
        for one in bucket.list_objects(Bucket=BUCKET).get("Contents", []):
            bucket.delete_object(Bucket=BUCKET, Key=one["Key"])


MARKER, OTHER = "zebrafinch", "bystander"


def test_nothing_of_a_deleted_data_set_stays_anywhere(world: World) -> None:
    kept = world.upload(OTHER)
    world.search(kept, OTHER)
    client = world.client
    webhook = client.post("/v1/webhooks", json={"url": "https://8.8.8.8/hook"}).json()["id"]
    before = world.snapshot()
    dataset_id = world.upload(MARKER)
    digest = client.get(f"/v1/datasets/{dataset_id}").json()["digest"]
    job_id, model_id, inference_id = world.search(dataset_id, MARKER)
    headers = {"Idempotency-Key": "more"}
    made = client.post("/v1/jobs", json={"dataset_id": dataset_id, "name": MARKER}, headers=headers)
    assert made.status_code == 202, made.text
    assert client.post(f"/v1/jobs/{made.json()['id']}:cancel").status_code == 200  # a message to the webhook
    client.put("/v1/uploads", params={"filename": f"{MARKER}.npz"}, content=recording(MARKER))
    combined = client.post("/v1/datasets:combine", json={"dataset_ids": [kept, dataset_id], "name": "both"})
    world.ingest(combined.json()["id"])
    ids = [dataset_id, job_id, model_id, inference_id, made.json()["id"], combined.json()["id"]]
    paths = [f"/v1/datasets/{dataset_id}", f"/v1/jobs/{job_id}", f"/v1/models/{model_id}"]
    paths += [f"/v1/models/{model_id}/arrays/rates", f"/v1/inferences/{inference_id}/zarr/zarr.json"]
    tags = {path: client.get(path).headers.get("ETag", "") for path in paths}

    refused = world.delete(paths[0], 409)
    assert all(one in refused["detail"] for one in ids if not one.startswith(("mod", dataset_id)))
    assert "cascade=true" in refused["hint"]
    planned = world.delete(paths[0], 200, cascade=True, dry_run=True)
    counts = [planned[name]["count"] for name in ("datasets", "jobs", "models", "inferences")]
    assert (counts, planned["rows"]["curve_points"], planned["dry_run"]) == ([2, 2, 2, 1], 4, True)
    assert planned["array_bytes"] > 1000
    assert planned["file_bytes"] == len(recording(MARKER))
    assert client.get(paths[0]).json()["state"] == "ready"

    assert world.delete(paths[0], cascade=True) == planned | {"dry_run": False}
    assert [client.get(path).json().get("state") for path in paths[:2]] == ["deleting", "deleting"]
    assert [client.get(path).status_code for path in paths[2:]] == [404, 404, 404]
    assert world.delete(paths[0], cascade=True)["jobs"]["count"] == 0
    listed = [client.get(f"/v1/{kind}").json()["items"] for kind in ("datasets", "jobs", "inferences")]
    assert not any(one["id"] in ids for items in listed for one in items)

    world.work_off()
    assert [client.get(path, headers={"If-None-Match": tags[path]}).status_code for path in paths] == [
        404
    ] * 5
    after = world.snapshot()
    assert {name: after[name] for name in before if name not in ("outbox", "workers")} == {
        name: before[name] for name in before if name not in ("outbox", "workers")
    }
    assert webhook in repr(after["webhooks"])
    assert world.traces(MARKER, digest, *ids) == []
    assert world.upload(MARKER) != dataset_id
