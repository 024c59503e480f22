"""A service in this process whose storage can be looked at as a whole: rows, objects, files, bucket."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import delete, select
from zarr.abc.store import Store
from zarr.core.sync import sync

from api.http.idempotency import store_answer
from domain.states import InferenceState, JobState, ModelState, SliceState
from store import outbox
from store.array_store import write_object
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.events import record
from store.identifiers import new_id
from store.tables import AuditEntry, Base, Dataset, Inference, Job, Model, Slice
from tests.api.api_examples import add_dataset, add_decision, add_job, add_model
from worker.ingest.service import ingest_dataset
from worker.maintenance.deletion import Storage, work_off

BUCKET = "lab"


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
        """Where any of these texts is in a row, a name or the bytes of a file, the database's own included.

        The audit log keeps the ids of what was deleted, but nothing else of it. Its rows are removed before the search.
        """
        with self.database.write() as session:
            details = repr(session.execute(select(AuditEntry.details, AuditEntry.key_name)).all())
            assert not any(one in details for one in texts), details
            session.execute(delete(AuditEntry))
        assert self.database.truncate_log()
        self.database.close()
        found = [name for name, value in self.snapshot().items() if any(one in repr(value) for one in texts)]
        for path in self.folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            found += [str(path) for one in texts if one.encode() in content or one in path.name]
        return found

    def upload(self, marker: str, *, ingests: bool = True) -> str:
        """A data set. The marker is in its file, its names and its metadata."""
        answer = self.client.post(
            "/v1/datasets",
            params={"filename": f"{marker}.npz", "name": f"of {marker}"},
            content=recording(marker),
            headers={"Content-Type": "application/octet-stream", "Idempotency-Key": f"upload {marker}"},
        )
        assert answer.status_code == 202, answer.text
        dataset_id: str = answer.json()["id"]
        if ingests:
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
            store_answer(session, "default", f"apply {job_id}", "", {"id": inference.id})
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

    def add_dataset(self) -> str:
        with self.database.write() as session:
            dataset_id = add_dataset(session)
            session.get_one(Dataset, dataset_id).array_path = f"datasets/{dataset_id}/a"
        write_group(self.storage.arrays, f"datasets/{dataset_id}/a", dataset_id)
        return dataset_id

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
