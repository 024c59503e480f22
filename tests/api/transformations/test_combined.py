"""Arrays of a data set of two sessions, whose dims are the sessions' own."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.arrays.groups import ArrayGroup, ReadContext
from api.arrays.transformations.alignment import find_event
from api.models.service import find_latents
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, Trial
from tests.api.api_examples import add_dataset
from tests.api.transformations.laboratory import (
    BINS,
    NEURONS,
    TRIALS,
    WIDTH_S,
    build,
    events_s,
    past_the_end,
    spikes,
)
from tests.app_copies import app_of
from worker.ingest.service import ingest_dataset


@pytest.fixture(scope="module")
def combined(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[TestClient, Database, str]]:
    """A client, and the combination of two sessions; in the second, events are 0.06 s later."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("combined"))
    database = Database(settings.database_url)
    migrate(database)
    store = open_array_store("sql:", database)
    lab = build(database, store)
    with database.write() as session:
        second = add_dataset(session, splits=(None,) * TRIALS, array_path="lab/data", neurons=NEURONS)
        row = session.get_one(Dataset, second)
        row.bins, row.bin_width_s = BINS, WIDTH_S
        session.flush()
        for trial in range(TRIALS):
            first = session.get_one(Trial, (lab.dataset_id, trial))
            cue = first.details["go_cue"]
            of_second = session.get_one(Trial, (second, trial))
            of_second.length_bins = first.length_bins
            of_second.details = {"condition": "left", "go_cue": None if cue is None else cue + 0.06}
    client = TestClient(app_of(settings, database, store), raise_server_exceptions=False)
    answer = client.post("/v1/datasets:combine", json={"dataset_ids": [lab.dataset_id, second]})
    assert answer.status_code == 202, answer.text
    ingest_dataset(database, store, settings, answer.json()["id"], "test")
    yield client, database, answer.json()["id"]
    database.close()


def test_each_session_has_the_events_and_conditions_of_its_own_trials(
    combined: tuple[TestClient, Database, str],
) -> None:
    client, _, dataset_id = combined
    made = {}
    for number in (0, 1):
        answer = client.get(
            f"/v1/datasets/{dataset_id}/arrays/spikes_{number}",
            params={"align_to": "go_cue", "window_s": "0:0.06", "average": "session"},
        )
        assert answer.status_code == 200, answer.text
        made[number] = np.load(io.BytesIO(answer.content))
        assert made[number].shape == (1, 3, NEURONS)
    counts = np.where(past_the_end()[..., None], np.nan, spikes())
    first = np.rint((events_s() + 0.1) / WIDTH_S)
    for number, later in ((0, 0), (1, 3)):
        around = np.full((TRIALS, 3, NEURONS), np.nan)
        for trial in np.flatnonzero(~np.isnan(first)):
            place = int(first[trial]) + later
            around[trial, : max(0, min(3, BINS - place))] = counts[trial, place : place + 3]
        np.testing.assert_allclose(made[number][0], np.nanmean(around, axis=0), rtol=1e-6)
    answer = client.get(f"/v1/datasets/{dataset_id}/arrays/spikes_1", params={"average": "condition"})
    np.testing.assert_allclose(np.load(io.BytesIO(answer.content))[0], np.nanmean(counts, axis=0), rtol=1e-6)


def test_trials_of_all_sessions_are_on_the_session_s_own_clock(
    combined: tuple[TestClient, Database, str],
) -> None:
    _, database, dataset_id = combined
    store = open_array_store("sql:", database)
    with database.read() as session:
        path = session.get_one(Dataset, dataset_id).array_path or ""
        group = ArrayGroup(path, dataset_id, "the data set")
        found = find_event(
            "go_cue", None, ReadContext(session, store, DEFAULT_TENANT, group, find_latents), WIDTH_S
        )
    assert found.clock == "session"
    np.testing.assert_allclose(found.time_s, np.concatenate([events_s(), events_s() + 0.06]))
