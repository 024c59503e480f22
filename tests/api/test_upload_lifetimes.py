"""How long uploads and their bytes stay: over in time, stored after a crash, kept while a row names them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.states import DatasetState
from store.database import Database
from store.settings import Settings
from store.tables import Dataset
from store.uploads import locked, partial_path
from tests.api.api_examples import PROBLEM
from tests.api.test_resumable_uploads import CONTENT, SHA256, TUS, begin, offset_of, patch, set_expiry
from worker.maintenance.garbage_collection import collect_uploads


@pytest.mark.parametrize("how", ["GET", "POST"])
def test_what_was_whole_when_the_server_died_is_stored_later(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It dies before the file is taken in, and then after."""
    for moment in ("before", "after"):
        url = begin(client)
        originals = client.app.state.originals  # type: ignore[attr-defined]
        take_in: Callable[..., None] = originals.take_in

        def die(*arguments: Any, when: str = moment, take: Callable[..., None] = take_in) -> None:
            if when == "after":
                take(*arguments)
            raise RuntimeError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(originals, "take_in", die)
            assert patch(client, url, 0, CONTENT).status_code == 500
        assert offset_of(client, url) == len(CONTENT)
        if how == "GET":
            assert client.get(url).json()["state"] == "complete"
        else:
            made = client.post("/v1/datasets", json={"upload_id": url.rsplit("/", 1)[1]})
            assert made.status_code in (200, 202), made.text
        assert [path.name for path in settings.uploads_dir.iterdir()] == [SHA256]


def test_uploads_are_over_in_time(client: TestClient, database: Database, settings: Settings) -> None:
    urls = {name: begin(client) for name in ("cut off", "complete", "used", "kept", "gone on with", "busy")}
    for name in ("complete", "used", "kept"):
        content = name.encode() * 1000 + bytes(len(CONTENT) - 1000 * len(name))
        assert patch(client, urls[name], 0, content).status_code == 204
    for name in ("cut off", "gone on with", "busy"):
        assert patch(client, urls[name], 0, b"abc").status_code == 204
    used = {"upload_id": urls["used"].rsplit("/", 1)[1]}
    key = {"Idempotency-Key": "k"}
    assert client.post("/v1/datasets", json=used, headers=key).status_code == 202
    for name in ("cut off", "complete", "used", "busy"):
        set_expiry(database, urls[name], -1)
    set_expiry(database, urls["gone on with"], 1000)
    assert patch(client, urls["gone on with"], 3, b"d").status_code == 204
    for answer in (
        client.get(urls["cut off"]),
        patch(client, urls["cut off"], 3, b"d"),
        client.get(urls["used"]),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (410, PROBLEM)
        assert "expired at" in answer.json()["detail"]
    with locked(partial_path(settings, urls["busy"].rsplit("/", 1)[1])):
        assert sum(collect_uploads(database, settings)) == 3
    assert sum(collect_uploads(database, settings)) == 1
    assert {name for name, url in urls.items() if client.get(url).status_code == 200} == {
        "kept",
        "gone on with",
    }
    assert len(list(settings.uploads_dir.iterdir())) == 3, "of the data set, of two uploads"
    assert client.post("/v1/datasets", json=used, headers=key).status_code == 202
    assert client.post("/v1/datasets", json=used).status_code == 404


def test_an_original_stays_while_a_row_names_it(
    client: TestClient, database: Database, settings: Settings
) -> None:
    urls = [begin(client), begin(client)]
    for url in urls:
        assert patch(client, url, 0, CONTENT).status_code == 204
    dataset = client.post("/v1/datasets", content=CONTENT).json()
    for url in urls:
        assert client.delete(url, headers=TUS).status_code == 204
    assert (settings.uploads_dir / SHA256).read_bytes() == CONTENT
    with database.write() as session:
        session.get_one(Dataset, dataset["id"]).state = DatasetState.REJECTED
    whole = client.put("/v1/uploads", content=CONTENT).json()
    assert client.delete(whole["links"]["self"], headers=TUS).status_code == 204
    assert (settings.uploads_dir / SHA256).exists(), "a rejected data set can be read anew"
    other = client.put("/v1/uploads", content=b"other").json()
    assert client.delete(other["links"]["self"], headers=TUS).status_code == 204
    assert [path.name for path in settings.uploads_dir.iterdir()] == [SHA256]


def test_the_last_goes_while_others_come(app: FastAPI, settings: Settings) -> None:
    """The same bytes are deleted and taken in at once: whoever has an upload of them has them."""
    lost: list[str] = []

    def come_and_go(name: str) -> None:
        client = TestClient(app, raise_server_exceptions=False)
        for _ in range(12):
            answer = client.put(f"/v1/uploads?filename={name}", content=CONTENT)
            if answer.status_code != 201 or not (settings.uploads_dir / SHA256).exists():
                lost.append(answer.text)
            client.delete(answer.json()["links"]["self"], headers=TUS)

    threads = [threading.Thread(target=come_and_go, args=(f"{number}.npz",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    assert list(settings.uploads_dir.iterdir()) == []


def test_stray_partial_files_are_deleted(sqlite_database: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", upload_keep_seconds=0.001)
    settings.uploads_dir.mkdir(parents=True)
    for name in ("upl_1.partial", "upl_2.partial", SHA256):
        (settings.uploads_dir / name).write_bytes(b"abc")
    with locked(settings.uploads_dir / "upl_2.partial"):
        assert sum(collect_uploads(sqlite_database, settings)) == 1
    assert sorted(path.name for path in settings.uploads_dir.iterdir()) == sorted(["upl_2.partial", SHA256])
