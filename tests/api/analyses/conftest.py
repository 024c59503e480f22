"""A service with one model whose latents have conditions, NaN, splits, and behaviour that follows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from zarr.abc.store import Store

from domain.states import DatasetState, JobState, ModelState
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.identifiers import new_id
from store.migrate import migrate
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, Job, Trial
from tests.api.api_examples import OTHER_TENANT, add_job, add_model, add_tenant
from tests.app_copies import app_of

TRIALS, BINS, FACTORS, LAG_BINS = 60, 30, 5, 2
WIDTH_S, ZERO_S = 0.02, -0.1
CONDITIONS = ("left", "right", "up")


@dataclass(frozen=True)
class Lab:
    """A service and what is in it."""

    client: TestClient
    settings: Settings
    dataset_id: str
    model_id: str
    other_model_id: str
    factors: NDArray[np.float32]
    initial_conditions: NDArray[np.float32]
    velocity: NDArray[np.float64]
    details: list[dict[str, Any]]
    splits: NDArray[np.int8]
    lengths: NDArray[np.int64]
    spikes: NDArray[np.uint8]

    @property
    def condition(self) -> list[str | None]:
        return [one["condition"] for one in self.details]

    def get(self, what: str, status: int = 200, **query: Any) -> Any:
        return self.ask(f"/v1/models/{self.model_id}/{what}", status, **query)

    def ask(self, path: str, status: int = 200, **query: Any) -> Any:
        answer = self.client.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()


def make_latents() -> tuple[
    NDArray[np.float32], NDArray[np.float64], NDArray[np.int64], list[dict[str, Any]]
]:
    random = np.random.default_rng(0)
    details: list[dict[str, Any]] = [
        {"condition": CONDITIONS[trial % 3], "speed": float(trial % 2), "number": trial}
        for trial in range(TRIALS)
    ]
    details[7]["condition"] = None
    time = np.linspace(0, 2, BINS)[:, None]
    means = np.stack([np.sin(time * (1 + code) + np.arange(FACTORS)) for code in range(3)])
    factors = means[np.arange(TRIALS) % 3] + 0.3 * random.normal(size=(TRIALS, BINS, FACTORS)) + 4
    lengths = np.where(np.arange(TRIALS) % 10 == 0, BINS - 8, BINS)
    weights = random.normal(size=(FACTORS, 2))
    velocity = np.full((TRIALS, BINS, 2), np.nan)
    velocity[:, LAG_BINS:] = factors[:, :-LAG_BINS] @ weights + 0.4 * random.normal(
        size=(TRIALS, BINS - LAG_BINS, 2)
    )
    velocity[:, :LAG_BINS] = random.normal(size=(TRIALS, LAG_BINS, 2))
    past = np.arange(BINS) >= lengths[:, None]
    factors[past] = np.nan
    velocity[past] = np.nan
    return factors.astype(np.float32), velocity, lengths, details


def write(store: Store, path: str, arrays: list[NamedArray], **attributes: str) -> None:
    beside = "split trial_length_bins"
    writer = ArrayGroupWriter(store, path, {"bin_width_s": WIDTH_S, "coordinates": beside, **attributes})
    writer.write_all(arrays)
    writer.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("analyses"), nearest_index_bytes=2**40)
    database = Database(settings.database_url)
    migrate(database)
    store = open_array_store("sql:", database)
    factors, velocity, lengths, details = make_latents()
    splits = (np.arange(TRIALS) % 4 == 3).astype(np.int8)
    initial = np.random.default_rng(1).normal(size=(TRIALS, 3)).astype(np.float32)
    time_s = ZERO_S + WIDTH_S * np.arange(BINS)
    coordinates = [
        NamedArray("trial", np.arange(TRIALS), ("trial",)),
        NamedArray("time_s", time_s, ("time_s",), "s"),
        NamedArray("trial_length_bins", lengths, ("trial",), "bins"),
    ]
    of_split = {"flag_values": [0, 1, 2], "flag_meanings": "train valid test"}
    write(store, "latents", [
        *coordinates,
        NamedArray("factors", factors, ("trial", "time_s", "factor")),
        NamedArray("initial_conditions", initial, ("trial", "initial_condition_dim")),
        NamedArray("split", splits, ("trial",), "", "", of_split),
    ], model_id="of both tenants")  # fmt: skip
    spikes = np.random.default_rng(2).poisson(1.0, (TRIALS, BINS, 4)).astype(np.uint8)
    spikes[np.arange(BINS) >= lengths[:, None]] = 0
    write(store, "data", [
        *coordinates,
        NamedArray("spikes", spikes, ("trial", "time_s", "neuron"), "spikes"),
        NamedArray("velocity", velocity, ("trial", "time_s", "velocity_component")),
        NamedArray("still", np.zeros((TRIALS, BINS, 1)), ("trial", "time_s", "still_component")),
    ])  # fmt: skip
    app = app_of(settings, database, store)
    ids = {}
    with database.write() as session:
        add_tenant(session)
        for tenant in (DEFAULT_TENANT, OTHER_TENANT):
            dataset_id = new_id("dat")
            session.add(Dataset(
                id=dataset_id, tenant_id=tenant, name="example", state=DatasetState.READY,
                source={"kind": "upload"}, trials=TRIALS, bins=BINS, neurons=4, bin_width_s=WIDTH_S,
                array_path="data", report={"warnings": []},
            ))  # fmt: skip
            session.flush()
            session.add_all(
                Trial(
                    dataset_id=dataset_id,
                    trial=trial,
                    length_bins=int(lengths[trial]),
                    split=None,
                    details=one,
                )
                for trial, one in enumerate(details)
            )
            job_id = add_job(session, dataset_id, state=JobState.DONE, tenant=tenant)
            model_id = add_model(
                session, job_id, state=ModelState.TRAINED, latents_path="latents", tenant=tenant
            )
            session.get_one(Job, job_id).selected_model_id = model_id
            ids[tenant] = dataset_id, model_id
    client = TestClient(app, raise_server_exceptions=False)
    yield Lab(
        client, settings, *ids[DEFAULT_TENANT], ids[OTHER_TENANT][1],
        factors, initial, velocity, details, splits, lengths, spikes,
    )  # fmt: skip
    database.close()
