"""A service with a data set of ragged trials, its latents, latents of two sessions, and a data set without splits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from domain.states import JobState, ModelState
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Dataset, Trial
from tests.api.api_examples import add_dataset, add_job, add_model
from tests.app_copies import app_of
from worker.ingest.dataset_arrays import write_dataset
from worker.ingest.recording import Recording

TRIALS, BINS, NEURONS, WIDTH_S = 8, 6, 3, 0.02
LENGTHS = np.array([6, 4, 6, 5, 6, 3, 6, 6])
SPLIT = np.array([0, 0, 1, 0, 1, -1, 0, 0], np.int8)
NAMES = {0: "train", 1: "valid", -1: None}
STARTS_S = np.arange(TRIALS) * 0.5 + 3


def make_recording(split: np.ndarray[Any, Any] = SPLIT) -> Recording:
    random = np.random.default_rng(0)
    recorded = np.arange(BINS)[None] < LENGTHS[:, None]
    rates = random.uniform(20, 60, (TRIALS, BINS, NEURONS)).astype(np.float32)
    hand = random.normal(size=(TRIALS, BINS, 2)).astype(np.float32)
    hand[~recorded] = np.nan
    return Recording(
        spikes=np.where(recorded[..., None], random.poisson(rates * WIDTH_S), 0).astype(np.uint8),
        bin_width_s=WIDTH_S,
        trial_length_bins=LENGTHS,
        split=split,
        trial_metadata={
            "condition": ["up left", "right", "=1+1", "päth", "right", "right", "up left", "right"],
            "reach time": [0.1, None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
            "go": [1, 0, 2, 3, 4, 5, 6, 7],
            "data": [0.5] * TRIALS,
        },
        neuron_metadata={"area": ["M1", "PMd", "M1"]},
        behaviour={"hand_velocity": hand},
        true_rates_hz=rates,
        external_inputs=random.normal(size=(TRIALS, BINS, 1)).astype(np.float32),
        time_zero_s=-0.04,
        trial_start_s=STARTS_S,
    )


@dataclass
class Lab:
    """A service with a data set, its latents, and a data set without splits."""

    client: TestClient
    database: Database
    store: Any
    recording: Recording
    latents: dict[str, np.ndarray[Any, Any]]
    dataset_id: str
    unsplit_id: str
    model_id: str
    sessions_id: str

    def get(self, owner: str, query: str = "") -> Any:
        kind = {"dat": "datasets", "mod": "models"}[owner[:3]]
        return self.client.get(f"/v1/{kind}/{owner}/download{query}")

    def file(self, owner: str, query: str, path: Path) -> Path:
        answer = self.get(owner, query)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers.get("Content-Length", len(answer.content))) == len(answer.content)
        path.write_bytes(answer.content)
        return path


def open_lab(folder: Path) -> Iterator[Lab]:
    settings = Settings(data_dir=folder)
    database = Database(settings.database_url)
    migrate(database)
    store = open_array_store("sql:", database)
    recording = make_recording()
    random = np.random.default_rng(1)
    latents = {
        "rates": random.uniform(1, 50, (TRIALS, BINS, NEURONS)).astype(np.float32),
        "factors": random.normal(size=(TRIALS, BINS, 2)).astype(np.float32),
        "initial_conditions": random.normal(size=(TRIALS, 4)).astype(np.float32),
        "inputs": random.normal(size=(TRIALS, BINS, 1)).astype(np.float32),
    }
    for name in ("rates", "factors", "inputs"):
        latents[name][np.arange(BINS)[None] >= LENGTHS[:, None]] = np.nan
    write_dataset(store, "sets/a", "dat", recording)
    _write_latents(store, latents)
    _write_latents_of_sessions(store, latents)
    with database.write() as session:
        ids = [
            add_dataset(session, splits=[NAMES[code] for code in codes.tolist()], array_path="sets/a")
            for codes in (SPLIT, np.full(TRIALS, -1))
        ]
        for number, dataset_id in enumerate(ids):
            row = session.get_one(Dataset, dataset_id)
            row.digest, row.bin_width_s, row.bins = f"d1ge57{number}", WIDTH_S, BINS
            for trial in range(TRIALS):
                known = session.get_one(Trial, (dataset_id, trial))
                known.length_bins = int(LENGTHS[trial])
                known.details = {name: column[trial] for name, column in recording.trial_metadata.items()}
        job = add_job(session, ids[0], state=JobState.DONE)
        ids += [
            add_model(session, job, number, state=ModelState.TRAINED, latents_path=path)
            for number, path in enumerate(("models/a", "models/b"))
        ]
    client = TestClient(app_of(settings, database, store), raise_server_exceptions=False)
    yield Lab(client, database, store, recording, latents, *ids)
    database.close()


def _write_latents(store: Any, latents: dict[str, Any]) -> None:
    writer = ArrayGroupWriter(
        store,
        "models/a",
        {
            "model_id": "mod_0",
            "bin_width_s": WIDTH_S,
            "posterior_samples": 8,
            "coordinates": "split trial_length_bins",
        },
    )
    for name, dims, units in (
        ("rates", ("trial", "time_s", "neuron"), "spikes/s"), ("factors", ("trial", "time_s", "factor"), ""),
        ("initial_conditions", ("trial", "initial_condition_dim"), ""), ("inputs", ("trial", "time_s", "input"), ""),
    ):  # fmt: skip
        writer.write(NamedArray(name, latents[name], dims, units, f"the {name}"))
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "train valid test"}
    writer.write(NamedArray("trial", np.arange(TRIALS), ("trial",)))
    writer.write(NamedArray("time_s", np.arange(BINS) * WIDTH_S - 0.04, ("time_s",), "s"))
    writer.write(NamedArray("neuron", np.arange(NEURONS), ("neuron",)))
    writer.write(
        NamedArray("split", np.where(SPLIT < 0, 2, SPLIT).astype(np.int8), ("trial",), attributes=flags)
    )
    writer.write(NamedArray("trial_length_bins", LENGTHS, ("trial",), "bins"))
    writer.close()


def _write_latents_of_sessions(store: Any, latents: dict[str, Any]) -> None:
    """The first five trials are of one session, the others of another with one neuron."""
    writer = ArrayGroupWriter(store, "models/b", {"bin_width_s": WIDTH_S, "coordinates": "split session"})
    writer.write(NamedArray("factors", latents["factors"], ("trial", "time_s", "factor")))
    for number, (rows, neurons) in enumerate(((slice(0, 5), 3), (slice(5, 8), 1))):
        dims = (f"trial_{number}", "time_s", f"neuron_{number}")
        writer.write(NamedArray(f"rates_{number}", latents["rates"][rows, :, :neurons], dims, "spikes/s"))
        writer.write(NamedArray(dims[0], np.arange(TRIALS)[rows], dims[:1]))
        writer.write(NamedArray(dims[2], np.arange(neurons), dims[2:]))
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "train valid test"}
    split = np.array([1, 0, 0, 0, 0, 2, 0, 1], np.int8)  # as the job drew it, not as it came
    writer.write(NamedArray("split", split, ("trial",), attributes=flags))
    writer.write(NamedArray("session", np.repeat([0, 1], [5, 3]), ("trial",)))
    writer.write(NamedArray("trial", np.arange(TRIALS), ("trial",)))
    writer.write(NamedArray("time_s", np.arange(BINS) * WIDTH_S, ("time_s",), "s"))
    writer.close()
