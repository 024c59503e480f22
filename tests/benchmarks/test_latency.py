"""The benchmark of latents at once, on a service whose worker answers at once."""

from typing import Any

import pytest

from api.app import create_app
from benchmarks import latency
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from tests.api.api_examples import add_dataset
from tests.api.conftest import serve
from tests.api.test_infer_now import Worker
from tests.api.test_inferences import add_trained


@pytest.mark.slow
def test_every_row_is_measured(
    sqlite_database: Database, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    monkeypatch.setattr("api.inferences.online.call_worker", worker.call)
    monkeypatch.setattr(latency, "BINS", 5)
    monkeypatch.setattr(latency, "NEURONS", 4)
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session)
        models = [add_trained(session, dataset_id) for _ in range(2)]
    app = create_app(Settings(data_dir=tmp_path), sqlite_database, open_array_store("sql:", sqlite_database))
    rows: list[dict[str, Any]] = []
    for url in serve(app):
        latency.measure_all(url, models, 16, rows.append)
    assert [(row["what"], row["trials"], row["clients"]) for row in rows] == [
        ("first request", 1, 1), ("first of a model", 1, 1),
        *(("warm, npy", trials, clients) for trials in (1, 4, 16) for clients in (1, 8)),
        ("warm, json", 1, 1), ("warm, json", 1, 8),
    ]  # fmt: skip
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert worker.asked["spikes"].shape == (1, 5, 4)
