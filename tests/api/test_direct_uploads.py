"""Files in an S3-compatible bucket: kept there, and put there by clients themselves. The bucket is moto's."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from domain.states import DatasetState
from store.array_store import open_array_store
from store.database import Database
from store.originals import BucketOriginals, open_originals
from store.settings import Settings
from store.tables import Dataset, Upload
from tests.api.api_examples import PROBLEM, count
from tests.api.test_resumable_uploads import CONTENT, SHA256, TUS, begin, patch, set_expiry
from tests.app_copies import app_of
from worker.ingest.service import ingest_dataset
from worker.maintenance.garbage_collection import collect_uploads

BUCKET = "lab"


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    environment = {
        "AWS_ENDPOINT_URL": bucket_server, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for key in keys(client):
        client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", upload_url=f"s3://{BUCKET}/uploads", upload_max_bytes=10**10)


@pytest.fixture
def client(bucket: Any, settings: Settings, sqlite_database: Database) -> TestClient:
    app = app_of(settings, sqlite_database, open_array_store("sql:", sqlite_database))
    return TestClient(app, raise_server_exceptions=False)


def keys(bucket: Any) -> list[str]:
    return [one["Key"] for one in bucket.list_objects(Bucket=BUCKET).get("Contents", [])]


def direct(client: TestClient, content: bytes = CONTENT, **changes: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    body = {"filename": "a.npz", "bytes": len(content), "sha256": sha256} | changes
    answer = client.post("/v1/uploads:direct", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == answer.json()["links"]["self"]
    document: dict[str, Any] = answer.json()
    return document


def send(upload: dict[str, Any], content: bytes = CONTENT) -> None:
    wanted = upload["direct"]
    answer = httpx.request(wanted["method"], wanted["url"], headers=wanted["headers"], content=content)
    assert answer.status_code == 200, answer.text


def make(client: TestClient, upload: dict[str, Any], **options: Any) -> httpx.Response:
    return client.post("/v1/datasets", json={"upload_id": upload["id"], "options": options})


def ingest(database: Database, settings: Settings, dataset_id: str) -> Dataset:
    ingest_dataset(database, open_array_store("sql:", database), settings, dataset_id, "test")
    with database.read() as session:
        return session.get_one(Dataset, dataset_id)


@pytest.mark.parametrize("how", ["tus", "put", "post"])
def test_what_comes_by_the_service_is_kept_in_the_bucket(
    client: TestClient,
    bucket: Any,
    settings: Settings,
    sqlite_database: Database,
    spikes_file: Path,
    how: str,
) -> None:
    content = spikes_file.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if how == "tus":
        url = begin(client, len(content))
        assert patch(client, url, 0, content).status_code == 204
        made = client.post("/v1/datasets", json={"upload_id": url.rsplit("/", 1)[1]})
    elif how == "put":
        made = make(client, client.put("/v1/uploads", content=content).json())
    else:
        made = client.post("/v1/datasets", content=content)
    assert made.status_code == 202, made.text
    assert keys(bucket) == [f"uploads/originals/{sha256}"]
    assert list(settings.uploads_dir.iterdir()) == [], "API and workers share no disk"
    row = ingest(sqlite_database, settings, made.json()["id"])
    assert (row.state, row.original) == (DatasetState.READY, sha256), row.problems


def test_a_file_goes_straight_into_the_bucket(
    client: TestClient, bucket: Any, settings: Settings, sqlite_database: Database, spikes_file: Path
) -> None:
    content = spikes_file.read_bytes()
    upload = direct(client, content)
    assert (upload["state"], upload["offset"], upload["direct"]["method"]) == ("receiving", 0, "PUT")
    early = make(client, upload)
    assert (early.status_code, early.headers["content-type"]) == (409, PROBLEM)
    assert f"the bucket does not have a file of {len(content)} bytes" in early.json()["detail"]
    send(upload, content[:-1])
    assert make(client, upload).status_code == 409
    send(upload, content)
    document = client.get(upload["links"]["self"]).json()
    assert (document["state"], document["offset"], document["direct"]) == ("complete", len(content), None)
    made = make(client, upload)
    assert made.status_code == 202, made.text
    dataset_id = made.json()["id"]
    assert make(client, upload).json()["id"] == dataset_id
    derive = f"/v1/datasets/{dataset_id}:derive"
    assert client.post(derive, json={"options": {}}).status_code == 409, "nobody has read it"
    assert client.delete(upload["links"]["self"], headers=TUS).status_code == 409
    set_expiry(sqlite_database, upload["links"]["self"], -1)
    assert sum(collect_uploads(sqlite_database, settings)) == 0, "it is still to be read"
    row = ingest(sqlite_database, settings, dataset_id)
    assert (row.state, row.original) == (DatasetState.READY, upload["sha256"]), row.problems
    assert sum(collect_uploads(sqlite_database, settings)) == 1
    assert keys(bucket) == [f"uploads/originals/{upload['sha256']}"]
    assert client.post(derive, json={"options": {"rebin_s": 0.04}}).status_code == 202
    assert count(sqlite_database, Upload) == 0


def test_a_file_that_is_not_what_was_announced_is_rejected(
    client: TestClient, bucket: Any, settings: Settings, sqlite_database: Database
) -> None:
    upload = direct(client)
    send(upload, bytes(len(CONTENT)))
    dataset_id = make(client, upload).json()["id"]
    row = ingest(sqlite_database, settings, dataset_id)
    assert (row.state, row.original) == (DatasetState.REJECTED, None)
    [problem] = row.problems or []
    assert problem["code"] == "digest_mismatch"
    assert SHA256 in problem["message"]
    assert keys(bucket) == [f"uploads/direct/{upload['id']}"]


def test_nobody_gets_at_a_file_by_knowing_its_digest(
    client: TestClient, bucket: Any, settings: Settings, sqlite_database: Database, spikes_file: Path
) -> None:
    """The bytes of another lab are there; to announce them is not to have them."""
    content = spikes_file.read_bytes()
    originals = open_originals(settings)
    settings.uploads_dir.mkdir(parents=True)
    copy = settings.uploads_dir / "copy"
    copy.write_bytes(content)
    originals.take_in(copy, hashlib.sha256(content).hexdigest())
    upload = direct(client, content)
    assert make(client, upload).status_code == 409
    send(upload, bytes(len(content)))
    dataset_id = make(client, upload).json()["id"]
    assert ingest(sqlite_database, settings, dataset_id).state == DatasetState.REJECTED
    answer = client.post(f"/v1/datasets/{dataset_id}:derive", json={"options": {}})
    assert (answer.status_code, "its file is not stored" in answer.json()["detail"]) == (409, True)
    assert client.delete(upload["links"]["self"], headers=TUS).status_code == 204
    assert originals.size(upload["sha256"]) == len(content)


def test_a_file_that_is_gone_is_told(
    client: TestClient, bucket: Any, settings: Settings, sqlite_database: Database
) -> None:
    upload = direct(client)
    send(upload)
    missing = make(client, upload).json()["id"]
    kept = client.post("/v1/datasets", content=b"other").json()["id"]
    for key in keys(bucket):
        bucket.delete_object(Bucket=BUCKET, Key=key)
    for dataset_id in (missing, kept):
        row = ingest(sqlite_database, settings, dataset_id)
        assert row.state == DatasetState.REJECTED
        assert [problem["code"] for problem in row.problems or []] == ["file_missing"]


def test_a_damaged_original_is_not_read(bucket: Any, settings: Settings, tmp_path: Path) -> None:
    originals = open_originals(settings)
    bucket.put_object(Bucket=BUCKET, Key=f"uploads/originals/{SHA256}", Body=b"x")
    with pytest.raises(OSError, match="is damaged: its SHA-256 is"):
        originals.local_path(SHA256, tmp_path)


def test_limits_of_direct_uploads(client: TestClient) -> None:
    body = {"bytes": 6 * 10**9, "sha256": SHA256}
    answer = client.post("/v1/uploads:direct", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/bytes")
    assert "at most 5000000000 bytes (5 GB) in one direct upload" in answer.json()["detail"]
    assert client.post("/v1/uploads:direct", json=body | {"bytes": 10**11}).status_code == 413
    wrong = client.post("/v1/uploads:direct", json=body | {"sha256": "xyz"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/sha256")
    upload = direct(client)
    answer = patch(client, upload["links"]["self"], 0, b"x")
    assert (answer.status_code, "goes directly into the bucket" in answer.json()["detail"]) == (409, True)


def test_a_repeated_key_tells_a_fresh_url(client: TestClient, sqlite_database: Database) -> None:
    body = {"bytes": 5, "sha256": SHA256}
    answers = [
        client.post("/v1/uploads:direct", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].json()["direct"]["url"].startswith("http://127.0.0.1:")
    assert count(sqlite_database, Upload) == 1


def test_without_a_bucket_there_are_none(tmp_path: Path, sqlite_database: Database) -> None:
    app = app_of(Settings(data_dir=tmp_path), sqlite_database, open_array_store("sql:", sqlite_database))
    answer = TestClient(app).post("/v1/uploads:direct", json={"bytes": 1, "sha256": SHA256})
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert answer.json()["type"] == "urn:latentry:problem:not-configured"
    assert "LATENTRY_UPLOAD_URL" in answer.json()["hint"]


def test_upload_url_is_checked() -> None:
    with pytest.raises(ValidationError, match="expected 's3://bucket/prefix' or nothing, got 'file:///a'"):
        Settings(upload_url="file:///a")
    assert isinstance(open_originals(Settings(upload_url="s3://bucket")), BucketOriginals)
