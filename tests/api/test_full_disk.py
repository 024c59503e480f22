"""A full disk: each route that writes answers 507, nothing is half done, and reading goes on."""

import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from api.limits.disk import DiskWatch
from domain.states import JobState, ModelState
from store import disk_errors
from store.database import Database
from store.settings import Settings
from store.tables import Dataset, Inference, Job, Key, Upload, Webhook
from tests.api.api_examples import PROBLEM, add_dataset, add_job, add_model, add_upload, count
from tests.api.test_keys import ADMIN, bearer, make
from tests.api.test_quotas import TUS, client_with

FULL = "urn:latentry:problem:disk-full"
PIECE = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}


def disk_error(database: Database) -> Exception:
    """The error that a database raises whose disk is full; SQLite's is provoked."""
    if not database.is_sqlite:
        return psycopg.errors.DiskFull("could not extend file: No space left on device")
    small = sqlite3.connect(":memory:")
    small.execute("PRAGMA max_page_count=2")
    small.execute("CREATE TABLE things (bytes)")
    with pytest.raises(sqlite3.OperationalError) as raised:
        small.execute("INSERT INTO things VALUES (zeroblob(100000))")
    return raised.value


@contextmanager
def full(database: Database) -> Iterator[None]:
    """Let every write of a database fail as on a full disk."""
    error = disk_error(database)

    def refuse(_cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            raise error

    for name in ("do_execute", "do_executemany"):
        event.listen(database.engine, name, refuse)
    try:
        yield
    finally:
        for name in ("do_execute", "do_executemany"):
            event.remove(database.engine, name, refuse)


def assert_full(answer: httpx.Response) -> None:
    assert answer.status_code == 507, f"{answer.request.method} {answer.request.url}: {answer.text}"
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json()["type"] == FULL


def test_every_route_that_writes(client: TestClient, database: Database) -> None:
    with database.write() as session:
        dataset_id, upload_id = add_dataset(session), add_upload(session)
        job_id, ended_id = add_job(session, dataset_id), add_job(session, dataset_id, state=JobState.FAILED)
        model_id = add_model(session, job_id, state=ModelState.TRAINED, losses=(1.0,), checkpoint_key="k")
    begun = client.post("/v1/uploads", headers={**TUS, "Upload-Length": "5"}).headers["Location"]
    tables = (Dataset, Job, Inference, Upload, Key, Webhook)
    before = [count(database, table) for table in tables]
    job, dataset = f"/v1/jobs/{job_id}", f"/v1/datasets/{dataset_id}"
    with full(database):
        for answer in (
            client.post("/v1/datasets?filename=a.npz", content=b"1"),
            client.post("/v1/datasets", files={"file": ("a.npz", b"1")}),
            client.post("/v1/datasets", json={"upload_id": upload_id}),
            client.post("/v1/datasets:synthesize", json={"system": "lorenz"}),
            client.put("/v1/uploads", content=b"1"),
            client.post("/v1/uploads", headers={**TUS, "Upload-Length": "5"}),
            client.patch(begun, content=b"12345", headers=PIECE),
            client.delete(begun, headers=TUS),
            client.post("/v1/jobs", json={"dataset_id": dataset_id}),
            client.patch(job, json={"name": "other"}),
            *(client.post(f"{job}:{verb}") for verb in ("pause", "stop", "cancel")),
            client.post(f"{job}:extend", json={"models": 1}),
            client.post(f"/v1/jobs/{ended_id}:retry"),
            client.post(f"/v1/models/{model_id}:apply", json={"dataset_id": dataset_id}),
            client.post("/v1/keys", json={"name": "Ada"}),
            client.patch("/v1/usage/tenants/default", json={"open_jobs": 5}),
        ):
            assert_full(answer)
        for path in (job, dataset, "/v1/jobs", "/v1/usage", f"{dataset}/trials"):
            assert client.get(path).status_code == 200
    assert [count(database, table) for table in tables] == before
    assert client.get(job).json()["state"] == "running"
    assert client.patch(begun, content=b"12345", headers=PIECE).status_code == 204


def test_a_key_is_accepted_though_its_use_cannot_be_stored(database: Database, tmp_path: Path) -> None:
    client = client_with(database, tmp_path, require_key=True, admin_key=ADMIN)
    key = bearer(make(client)["secret"])
    with full(database):
        assert client.get("/v1/jobs", headers=key).status_code == 200


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_uploads_onto_a_full_disk(sqlite_database: Database, tiny_disk: Path) -> None:
    client = client_with(sqlite_database, tiny_disk, disk_min_free_bytes=0)
    path = client.post("/v1/uploads", headers={**TUS, "Upload-Length": str(2**20)}).headers["Location"]
    (tiny_disk / "other").write_bytes(bytes(2**21 - 2**19))
    begun = client.patch(path, content=bytes(2**20), headers=PIECE)
    assert_full(begun)
    assert begun.headers["Tus-Resumable"] == "1.0.0"
    for answer in (
        client.put("/v1/uploads", content=bytes(2**20)),
        client.put("/v1/uploads", content=iter([bytes(2**19)] * 2)),
        client.post("/v1/datasets?filename=a.npz", content=bytes(2**20)),
        client.post("/v1/datasets", files={"file": ("a.npz", bytes(2**20))}),
    ):
        assert_full(answer)
    assert [one.name for one in (tiny_disk / "uploads").iterdir()] == [f"{path.rsplit('/')[-1]}.partial"]
    (tiny_disk / "other").unlink()
    arrived = int(client.head(path, headers=TUS).headers["Upload-Offset"])
    rest = {**PIECE, "Upload-Offset": str(arrived)}
    assert client.patch(path, content=bytes(2**20 - arrived), headers=rest).status_code == 204


def test_a_database_on_a_full_disk(migrated_file: Path, tiny_disk: Path, tmp_path: Path) -> None:
    path = shutil.copy(migrated_file, tiny_disk / "test.db")
    database = Database(f"sqlite:///{path}")
    client = client_with(database, tmp_path)
    answer = client.post("/v1/datasets:synthesize", json={"system": "lorenz"})
    assert answer.status_code == 202
    (tiny_disk / "other").write_bytes(bytes(disk_errors.free_bytes(tiny_disk)))
    codes = set()
    for seed in range(1, 10):  # SQLite's journal has some space left
        answer = client.post(
            "/v1/datasets:synthesize", json={"system": "lorenz", "seed": seed, "name": "x" * 200}
        )
        codes.add(answer.status_code)
    assert codes <= {202, 507}
    assert_full(answer)
    assert client.get("/v1/datasets").status_code == 200
    (tiny_disk / "other").unlink()
    assert client.post("/v1/datasets:synthesize", json={"system": "lorenz", "seed": 99}).status_code == 202
    database.close()


def test_a_nearly_full_disk_refuses_uploads_before_it_is_full(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_with(sqlite_database, tmp_path, disk_min_free_bytes=10**6)
    monkeypatch.setattr("api.limits.disk.free_bytes", lambda _folder: 10**6 + 10)
    assert client.post("/v1/uploads", headers={**TUS, "Upload-Length": "10"}).status_code == 201
    refused = client.post("/v1/uploads", headers={**TUS, "Upload-Length": "11"})
    assert_full(refused)
    assert "1000010 bytes free" in refused.json()["detail"]
    assert_full(client.put("/v1/uploads", content=b"1" * 11))
    assert_full(client.put("/v1/uploads", content=iter([b"1" * 11])))
    assert client.post("/v1/datasets:synthesize", json={"system": "lorenz"}).status_code == 202


def test_a_form_leaves_space_on_the_disk_of_temporary_files(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_with(sqlite_database, tmp_path, disk_min_free_bytes=10**6)
    temporary = Path(tempfile.gettempdir())
    monkeypatch.setattr(
        "api.limits.disk.free_bytes", lambda folder: 10**6 + 10 if folder == temporary else 10**12
    )
    assert_full(client.post("/v1/datasets", files={"file": ("a.npz", bytes(2**21))}))


def test_free_space_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert disk_errors.free_bytes(tmp_path / "a" / "b") == pytest.approx(
        shutil.disk_usage(tmp_path).free, rel=0.1
    )


def test_the_event_loop_does_not_ask_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def free_bytes(_folder: Path) -> int:
        asked.append(threading.get_ident())
        return 10**12

    async def receive() -> None:
        disk = DiskWatch(Settings(data_dir=tmp_path))
        for _ in range(48):
            await disk.count(2**16)

    monkeypatch.setattr("api.limits.disk.free_bytes", free_bytes)
    anyio.run(receive)
    assert len(asked) == 3
    assert threading.get_ident() not in asked
