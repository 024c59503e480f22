"""`POST /v1/datasets`: raw and as a form, streamed, cut off, too large, repeated."""

import asyncio
import hashlib
import socket
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from store.tables import Dataset, OutboxMessage, Upload
from tests.api.api_examples import PROBLEM, call, chunks, count, stream
from tests.app_copies import app_of
from tests.waiting import wait_until

RAW = {"Content-Type": "application/octet-stream"}


def files_left(settings: Settings) -> list[Path]:
    return sorted(settings.uploads_dir.iterdir()) if settings.uploads_dir.exists() else []


@pytest.mark.parametrize("how", ["raw", "form"])
def test_upload_keeps_the_bytes(client: TestClient, settings: Settings, database: Database, how: str) -> None:
    content = bytes(range(256)) * 100
    if how == "raw":
        answer = client.post("/v1/datasets?filename=spikes.npz&name=monkey%20J", content=content, headers=RAW)
    else:
        form = {"name": "monkey J", "bin_width_s": "0.02", "format": "npz"}
        answer = client.post("/v1/datasets", files={"file": ("spikes.npz", content)}, data=form)
    assert answer.status_code == 202
    dataset = answer.json()
    assert answer.headers["Location"] == dataset["links"]["self"] == f"/v1/datasets/{dataset['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert (dataset["state"], dataset["name"]) == ("ingesting", "monkey J")
    source = dataset["source"]
    assert (source["kind"], source["filename"], source["bytes"]) == ("upload", "spikes.npz", len(content))
    assert source["sha256"] == hashlib.sha256(content).hexdigest()
    assert dataset["options"] == ({} if how == "raw" else {"format": "npz", "bin_width_s": 0.02})
    assert [path.name for path in files_left(settings)] == [source["sha256"]]
    assert (settings.uploads_dir / source["sha256"]).read_bytes() == content
    with database.read() as session:
        messages = session.execute(select(OutboxMessage.task, OutboxMessage.arguments)).all()
    assert messages == [("ingest", [])]  # the database says whose turn it is
    assert client.get(answer.headers["Location"]).json() == dataset


def test_name_is_the_file_s_unless_given(light_client: TestClient) -> None:
    named = light_client.post("/v1/datasets?filename=a.npz", content=b"1").json()
    form = light_client.post("/v1/datasets", files={"file": ("b.h5", b"2")}).json()
    bare = light_client.post("/v1/datasets", content=b"3").json()
    assert [named["name"], form["name"], bare["name"]] == ["a.npz", "b.h5", bare["id"]]


@pytest.mark.parametrize(("is_form", "pieces"), [(False, 200), (True, 50)])
def test_upload_is_streamed(tmp_path: Path, sqlite_database: Database, is_form: bool, pieces: int) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    app = app_of(settings, sqlite_database, open_array_store("sql:", sqlite_database))
    piece, headers = bytes(2**20), RAW
    head = tail = b""
    if is_form:
        headers = {"Content-Type": "multipart/form-data; boundary=xxxx"}
        head = b'--xxxx\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'
        tail = b"\r\n--xxxx--\r\n"

    async def body() -> object:
        yield head
        async for one in stream(pieces, piece):
            yield one
        yield tail

    async def upload() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post("/v1/datasets", content=body(), headers=headers, timeout=60)

    tracemalloc.start()
    try:
        answer = asyncio.run(upload())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 202, answer.text
    assert answer.json()["source"]["bytes"] == pieces * 2**20
    assert answer.json()["source"]["sha256"] == hashlib.sha256(bytes(pieces * 2**20)).hexdigest()
    assert peak < 16 * 2**20


def test_empty_upload_is_refused(light_client: TestClient, settings: Settings) -> None:
    for answer in (
        light_client.post("/v1/datasets", content=b"", headers=RAW),
        light_client.post("/v1/datasets", files={"file": ("a.npz", b"")}),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
        assert answer.json()["errors"][0]["pointer"] == "/file"
        assert "got no bytes" in answer.json()["detail"]
    assert files_left(settings) == []


@pytest.mark.parametrize(
    ("name", "fields", "pointer", "says"),
    [
        ("spikes", {}, "/file", "expected a part named `file` with a file; got ['spikes']"),
        ("file", {"bin_width": "0.02"}, "/bin_width", "there is no such field"),
        ("file", {"bin_width_s": "-1"}, "/bin_width_s", "should be greater than 0; got '-1'"),
        ("file", {"bin_width_s": "nan"}, "/bin_width_s", "should be a finite number; got 'nan'"),
        ("file", {"format": "mat"}, "/format", "or 'neo'; got 'mat'"),
        ("file", {"name": "a\x00b"}, "/name", "should match pattern"),
    ],
)
def test_wrong_form_is_refused(
    light_client: TestClient, settings: Settings, name: str, fields: dict[str, str], pointer: str, says: str
) -> None:
    answer = light_client.post("/v1/datasets", files={name: ("a.npz", b"1")}, data=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [problem] = answer.json()["errors"]
    assert problem["pointer"] == pointer
    assert says in problem["message"]
    assert files_left(settings) == []


def test_wrong_parameter_is_refused(light_client: TestClient, settings: Settings) -> None:
    answer = light_client.post("/v1/datasets?bin_width=20", content=b"1")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "bin_width"
    assert files_left(settings) == []


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=b"])
def test_broken_form_is_a_bad_request(light_client: TestClient, content_type: str) -> None:
    answer = light_client.post("/v1/datasets", content=b"xx", headers={"Content-Type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)


def test_too_large_by_content_length(light_app: FastAPI, settings: Settings) -> None:
    headers = RAW | {"Content-Length": str(2**20 + 1)}
    answer = call(light_app, "POST", "/v1/datasets", [], headers)  # refused before a byte is read
    assert (answer.status, answer.headers["content-type"]) == (413, PROBLEM)
    assert answer.headers["connection"] == "close"
    assert "at most 1048576 bytes; it has 1048577" in answer.json()["detail"]
    assert "LATENTRY_UPLOAD_MAX_BYTES" in answer.json()["hint"]
    assert files_left(settings) == []


@pytest.mark.parametrize("content_type", [RAW["Content-Type"], "multipart/form-data; boundary=xxxx"])
def test_too_large_without_content_length(light_app: FastAPI, settings: Settings, content_type: str) -> None:
    head = b'--xxxx\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'
    messages = [{"type": "http.request", "body": head, "more_body": True}, *chunks(100, 2**16)]
    answer = call(light_app, "POST", "/v1/datasets", messages, {"Content-Type": content_type})
    assert (answer.status, answer.headers["content-type"]) == (413, PROBLEM)
    assert "LATENTRY_UPLOAD_MAX_BYTES" in answer.json()["hint"]
    assert files_left(settings) == []


def test_upload_of_the_very_limit_is_taken(light_client: TestClient) -> None:
    assert light_client.post("/v1/datasets", content=bytes(2**20), headers=RAW).status_code == 202


def test_cut_off_upload_leaves_nothing(
    light_app: FastAPI, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    answer = call(light_app, "POST", "/v1/datasets", chunks(3, 1000)[:-1], RAW)
    assert answer.status == 400  # nobody reads it
    assert files_left(settings) == []
    assert not caplog.records  # a client that goes away is no error of ours


def test_cut_off_connection_leaves_nothing(light_url: str, settings: Settings) -> None:
    host, port = light_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(5000)
        )
        assert wait_until(lambda: len(files_left(settings)) == 1)
        assert files_left(settings)[0].name.endswith(".partial")
    assert wait_until(lambda: files_left(settings) == [])


def test_failed_transaction_leaves_no_file(
    light_client: TestClient, settings: Settings, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no outbox")

    monkeypatch.setattr("api.datasets.service.outbox.post", fail)
    assert light_client.post("/v1/datasets", content=b"1").status_code == 500
    assert files_left(settings) == []
    assert (count(sqlite_database, Dataset), count(sqlite_database, Upload)) == (0, 0)


def test_repeated_key_is_answered_and_not_done_again(client: TestClient, settings: Settings) -> None:
    headers = RAW | {"Idempotency-Key": "one"}
    first = client.post("/v1/datasets?name=a", content=b"spikes", headers=headers)
    again = client.post("/v1/datasets?name=a", content=b"spikes", headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert len(client.get("/v1/datasets").json()["items"]) == len(files_left(settings)) == 1


@pytest.mark.parametrize(("query", "content"), [("?name=a", b"other"), ("?name=b", b"spikes")])
def test_key_with_another_body_is_refused(light_client: TestClient, query: str, content: bytes) -> None:
    headers = RAW | {"Idempotency-Key": "one"}
    assert light_client.post("/v1/datasets?name=a", content=b"spikes", headers=headers).status_code == 202
    answer = light_client.post(f"/v1/datasets{query}", content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["type"] == "urn:latentry:problem:idempotency-key-reused"
    assert len(light_client.get("/v1/datasets").json()["items"]) == 1


def test_many_at_once_with_few_keys_make_one(app: FastAPI, database: Database, settings: Settings) -> None:
    def post(number: int) -> httpx.Response:
        client = TestClient(app, raise_server_exceptions=False)
        return client.post(
            "/v1/datasets", content=b"spikes", headers=RAW | {"Idempotency-Key": f"k{number % 2}"}
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (count(database, Dataset), count(database, OutboxMessage), count(database, Upload)) == (1, 1, 0)
    assert len(files_left(settings)) == 1
