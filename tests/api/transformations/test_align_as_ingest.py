"""Alignment of what is stored against an upload of the same file that was aligned from the beginning, in both clocks."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from tests.app_copies import app_of
from worker.ingest.service import ingest_dataset

TRIALS, WIDTH_S = 12, 0.02


def _file(clock: str, path: Path) -> Path:
    """Spike times with an event that is on the edge of a bin, in seconds of the session or of each trial."""
    random = np.random.default_rng(0)
    starts_s = 50 + 1.5 * np.arange(TRIALS) if clock == "session" else np.zeros(TRIALS)
    trial = np.sort(random.integers(0, TRIALS, 3000))
    arrays: dict[str, NDArray[Any]] = {
        "spike_times": starts_s[trial] + random.uniform(0, 1.0, 3000),
        "spike_neurons": random.integers(0, 4, 3000),
        "go_cue": starts_s + WIDTH_S * random.integers(15, 30, TRIALS),
    }
    arrays |= (
        {"trial_start": starts_s, "trial_stop": starts_s + 1.0}
        if clock == "session"
        else {"spike_trials": trial}
    )
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("clock", ["session", "trial"])
def test_it_is_the_same(sqlite_database: Database, tmp_path: Path, clock: str) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    store = open_array_store("sql:", sqlite_database)
    client = TestClient(app_of(settings, sqlite_database, store))
    path = _file(clock, tmp_path / "spikes.npz")

    def spikes(trials: dict[str, Any], **query: str) -> NDArray[Any]:
        options = json.dumps({"bin_width_s": WIDTH_S, "trials": trials})
        file = {"file": ("spikes.npz", path.read_bytes())}
        dataset_id = client.post("/v1/datasets", files=file, data={"options": options}).json()["id"]
        ingest_dataset(sqlite_database, store, settings, dataset_id, "test")
        answer = client.get(f"/v1/datasets/{dataset_id}/arrays/spikes", params=query)
        assert answer.status_code == 200, answer.text
        found: NDArray[Any] = np.load(io.BytesIO(answer.content))
        return found

    # The window begins before the trials do, so that their time axis is not from 0 on.
    stored = {"window_s": [-0.1, 1.0], "overlap": "keep"}
    aligned = spikes(stored, align_to="go_cue", window_s="-0.2:0.3")
    expected = spikes({"align_to": "go_cue", "window_s": [-0.2, 0.3], "overlap": "keep"})
    np.testing.assert_array_equal(aligned, expected)
    assert expected.shape == (TRIALS, 25, 4)
    assert expected.sum() > 500


@pytest.mark.parametrize(("window_s", "is_asked"), [([-200, 300], True), ([-1.0, 1.0], False)])
def test_a_window_in_milliseconds_is_asked_about(
    sqlite_database: Database, tmp_path: Path, window_s: list[float], is_asked: bool
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    store = open_array_store("sql:", sqlite_database)
    client = TestClient(app_of(settings, sqlite_database, store))
    options = {"bin_width_s": WIDTH_S, "trials": {"align_to": "go_cue", "window_s": window_s}}
    file = {"file": ("spikes.npz", _file("session", tmp_path / "spikes.npz").read_bytes())}
    made = client.post("/v1/datasets", files=file, data={"options": json.dumps(options)}).json()
    ingest_dataset(sqlite_database, store, settings, made["id"], "test")
    report = client.get(f"/v1/datasets/{made['id']}").json()["report"]
    [overlap] = [one for one in report["warnings"] if one["code"] == "trials_overlap"]
    assert ("did you mean [-0.2, 0.3]?" in overlap["hint"]) == is_asked
