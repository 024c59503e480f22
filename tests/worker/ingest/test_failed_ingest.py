"""A service that cannot read files says so of itself: data sets are `failed`, never `rejected`, and can be retried."""

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from domain.states import DatasetState
from store import outbox
from store.database import Database
from store.tables import Dataset, OutboxMessage
from tests.worker.ingest.ingest_examples import example_recording, write_npz
from tests.worker.lab import Lab
from worker.ingest import parse, sandbox, service
from worker.ingest.readers import ReadOptions
from worker.scheduling.failures import is_environmental
from worker.scheduling.fair_queue import claim_ingest
from worker.scheduling.leases import LeaseLost, reap, try_again_later


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "data")
    lab.settings.heartbeat_seconds, lab.settings.max_attempts = 1.0, 2
    return lab


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return write_npz(tmp_path / "upload", example_recording()).read_bytes()


def upload(client: TestClient, content: bytes) -> dict[str, Any]:
    answer = client.post(
        "/v1/datasets?filename=a.npz", content=content, headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def waiting(database: Database) -> int:
    """How often an ingest is asked for."""
    with database.write() as session:
        messages = session.query(OutboxMessage).filter_by(task=outbox.INGEST).all()
        for message in messages:
            session.delete(message)
        return len(messages)


def ingest_until_given_up(lab: Lab, dataset_id: str) -> None:
    for _ in range(lab.settings.max_attempts):
        assert waiting(lab.database) == 1
        with pytest.raises(sandbox.SandboxError):
            service.ingest_dataset(lab.database, lab.arrays, lab.settings, dataset_id, "test")
    assert waiting(lab.database) == 0


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program of the subprocess be one that reads nothing."""
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")


def test_a_broken_installation_fails_data_sets_and_a_retry_after_the_repair_reads_them(
    lab: Lab, content: bytes
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        broken(patch)
        dataset_id = upload(lab.client, content)["id"]
        ingest_until_given_up(lab, dataset_id)
    failed = lab.client.get(f"/v1/datasets/{dataset_id}").json()
    assert failed["state"] == "failed"
    assert failed["problems"][0]["code"] == "ingest_failed"
    assert "the file is not the cause" in failed["problems"][0]["message"]
    assert ":retry" in failed["problems"][0]["hint"]
    job = lab.client.post("/v1/jobs", json={"dataset_id": dataset_id})
    assert job.status_code == 409
    assert ":retry" in job.json()["hint"]

    again = lab.client.post(f"/v1/datasets/{dataset_id}:retry")
    assert (again.status_code, again.json()["state"], again.json()["problems"]) == (202, "ingesting", None)
    assert waiting(lab.database) == 1
    service.ingest_dataset(lab.database, lab.arrays, lab.settings, dataset_id, "test")
    assert lab.client.get(f"/v1/datasets/{dataset_id}").json()["state"] == "ready"
    refused = lab.client.post(f"/v1/datasets/{dataset_id}:retry")
    assert refused.status_code == 409
    assert "is ready" in refused.json()["detail"]
    assert f"/v1/datasets/{dataset_id}:derive" in refused.json()["hint"]


def test_the_same_upload_again_retries_a_failed_data_set(lab: Lab, content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        broken(patch)
        dataset_id = upload(lab.client, content)["id"]
        ingest_until_given_up(lab, dataset_id)
    assert upload(lab.client, content)["id"] == dataset_id
    assert waiting(lab.database) == 1
    service.ingest_dataset(lab.database, lab.arrays, lab.settings, None, "test")  # the one whose turn it is
    with lab.database.read() as session:
        row = session.get_one(Dataset, dataset_id)
        assert (row.state, row.attempts, row.problems) == (DatasetState.READY, 0, None)


def test_the_log_of_a_process_that_starts_says_that_it_cannot_read_files(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert service.log_sandbox(lab.settings)
    assert not caplog.records
    broken(monkeypatch)
    with caplog.at_level(logging.ERROR):
        assert not service.log_sandbox(lab.settings)
    assert "cannot read uploads" in caplog.text


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OperationalError("INSERT", {}, Exception("full"))],
)
def test_a_full_disk_or_a_database_that_is_away_puts_an_ingest_off_and_no_attempt_is_counted(
    lab: Lab, content: bytes, error: Exception
) -> None:
    lab.settings.full_disk_seconds = 0.01
    dataset_id = upload(lab.client, content)["id"]
    assert waiting(lab.database) == 1

    def fail(*_: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "write_dataset", fail)
        for _ in range(lab.settings.max_attempts + 1):
            with pytest.raises(type(error)):
                service.ingest_dataset(lab.database, lab.arrays, lab.settings, dataset_id, "test")
            _wait_until_it_is_queued_again(lab)
    service.ingest_dataset(lab.database, lab.arrays, lab.settings, dataset_id, "test")
    with lab.database.read() as session:
        row = session.get_one(Dataset, dataset_id)
        assert (row.state, row.attempts, row.losses) == (DatasetState.READY, 0, 0)


def _wait_until_it_is_queued_again(lab: Lab) -> None:
    taken = 0
    while not taken:
        with lab.database.write() as session:
            taken = reap(session, lab.settings)
    assert waiting(lab.database) == 1


def test_an_ingest_that_is_put_off_is_claimed_by_nobody(lab: Lab, content: bytes) -> None:
    dataset_id = upload(lab.client, content)["id"]
    with lab.database.write() as session:
        lease = claim_ingest(session, "w", lab.settings)
        try_again_later(session, session.get_one(Dataset, dataset_id), {"message": "full"}, 60)
    assert lease is not None
    with lab.database.write() as session:
        assert reap(session, lab.settings) == reap(session, lab.settings, held_by="w") == 0
        assert claim_ingest(session, "w", lab.settings) is None
        with pytest.raises(LeaseLost):
            lease.keep(session, lab.settings)


@pytest.mark.parametrize("code", [parse.DISK_ERROR, parse.NOT_WRITTEN])
def test_the_parser_tells_a_full_disk_from_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "upload").write_bytes(b"")
    monkeypatch.setattr(sandbox, "_run", lambda *_: (tmp_path / "out" / "parse.log").touch() or code)
    with pytest.raises(sandbox.SandboxError) as caught:
        sandbox.parse_in_sandbox(tmp_path / "upload", tmp_path / "out", ReadOptions())
    assert is_environmental(caught.value) is (code == parse.DISK_ERROR)
