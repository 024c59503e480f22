"""A whole service in one process, with real training: data sets, searches, and what is read of them over HTTP."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from zarr.abc.store import Store

from domain.states import JobState
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Model
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.worker.conftest import SPECIFICATION
from tests.worker.fake_workers import read_job, read_models
from tests.worker.real_training import ingest, run_job, unhurried
from worker.context.process import TrainingProcess
from worker.context.slices import Work, load_work
from worker.ingest.service import ingest_dataset
from worker.scheduling.fair_queue import claim_slice
from worker.scheduling.scheduler import advance


class Lab:
    """A service in this process: data sets, searches and what is read of them."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, lease_seconds=3, heartbeat_seconds=0.001, slice_seconds=60)
        self.database = Database(self.settings.database_url)
        migrate(self.database)
        self.arrays: Store = open_array_store("sql:", self.database)
        self.process = TrainingProcess(self.database, self.arrays, self.settings, name="here", device="cpu")
        self.app = app_of(self.settings, self.database, self.arrays)
        self.client = TestClient(self.app)

    def ingest(self, source: Path | dict[str, Any], **options: Any) -> str:
        return ingest(self.database, self.arrays, self.settings, source, options)

    def combine(self, session_ids: list[str]) -> str:
        """A combination as it is asked for and then ingested."""
        answer = self.client.post("/v1/datasets:combine", json={"dataset_ids": session_ids})
        assert answer.status_code == 202, answer.text
        dataset_id: str = answer.json()["id"]
        ingest_dataset(self.database, self.arrays, unhurried(self.settings), dataset_id, "test")
        return dataset_id

    def search(self, dataset_id: str, **changes: Any) -> str:
        """A job that has run to its end."""
        job_id = self.begin(dataset_id, **changes)
        run_job(self.process, job_id)
        job = read_job(self.database, job_id)
        assert job.state == JobState.DONE, job.error
        return job_id

    def begin(self, dataset_id: str, **changes: Any) -> str:
        body = {"dataset_id": dataset_id, **SPECIFICATION, **changes}
        answer = self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def selected(self, job_id: str) -> Model:
        """The model that has the job's latents."""
        [model] = [one for one in read_models(self.database, job_id) if one.latents_path]
        return model

    def array(self, owner: str, name: str) -> NDArray[Any]:
        answer = self.client.get(f"/v1/{owner}/arrays/{name}")
        assert answer.status_code == 200, answer.text
        values: NDArray[Any] = np.load(io.BytesIO(answer.content))
        return values

    def open(self, owner: str) -> xarray.Dataset:
        """A group of arrays as users open it."""
        for url in serve(self.app):
            found: xarray.Dataset = xarray.open_zarr(f"{url}/v1/{owner}/zarr").load()
        return found

    def work(self, job_id: str) -> Work:
        """The first slice of a job, as a worker would have it."""
        with self.database.write() as session:
            advance(session, job_id, self.settings)
            lease = claim_slice(session, "here", self.settings)
        assert lease is not None
        return load_work(self.database, lease)
