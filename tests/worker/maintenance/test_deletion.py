"""Deletion: nothing of what is deleted stays anywhere, everything else stays, and a process may die between any two steps."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import zarr
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from sqlalchemy import inspect, select
from sqlalchemy.exc import OperationalError

from api import caches
from api.errors import NotFound
from api.jobs import creation
from domain.job_specification import JobSpecification
from domain.states import DeliveryState, JobState
from store.array_store import open_array_store, write_object
from store.database import LOCK, Database, database_now
from store.deletion import OF_DATASET, OF_JOB, OF_MODEL
from store.identifiers import new_id
from store.originals import open_originals
from store.settings import Settings
from store.tables import Base, Dataset, Deletion, Inference, Job, Key, Model, WebhookDelivery
from tests.api.api_examples import add_job, add_model
from tests.app_copies import app_of
from tests.worker.conftest import SPECIFICATION
from tests.worker.maintenance.stored_world import BUCKET, World, recording
from worker.context.process import TrainingProcess
from worker.ingest import service as ingest_service
from worker.ingest.service import ingest_dataset
from worker.maintenance import deletion
from worker.maintenance.deletion import Storage, steps, work_off
from worker.maintenance.garbage_collection import collect_strays
from worker.process import run_next as run_next_module
from worker.process.run_next import run_next
from worker.scheduling.leases import Lease
from worker.scheduling.scheduler import advance


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Iterator[World]:
    """On SQLite everything is in the database and a folder; with PostgreSQL, arrays are files and originals are in a bucket."""
    is_sqlite, bucket, upload_url = database.is_sqlite, None, ""
    if not is_sqlite:
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        for name, value in {
            "AWS_ENDPOINT_URL": request.getfixturevalue("bucket_server"), "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        bucket = boto3.client("s3")
        bucket.create_bucket(Bucket=BUCKET)
        upload_url = f"s3://{BUCKET}/u"
    settings = Settings(data_dir=tmp_path / "data", upload_url=upload_url)
    arrays = open_array_store("sql:" if is_sqlite else f"file://{tmp_path / 'arrays'}", database)
    storage = Storage(database, arrays, open_originals(settings), settings)
    client = TestClient(app_of(settings, database, arrays))
    for folder in ("datasets", "models", "inferences"):
        zarr.create_group(arrays, path=folder, zarr_format=3)  # as the first array does
    yield World(storage, client, tmp_path, bucket)
    if bucket is not None:
        for one in bucket.list_objects(Bucket=BUCKET).get("Contents", []):
            bucket.delete_object(Bucket=BUCKET, Key=one["Key"])


MARKER, OTHER = "zebrafinch", "bystander"

HAS_STEPS = {Job.dataset_id, Model.job_id, Inference.model_id, Inference.dataset_id}
"""References of resources. `worker.maintenance.deletion` deletes these rows with their arrays, in steps of their own."""


def test_each_table_of_a_resource_is_deleted_with_it() -> None:
    """A new table that refers to a data set, a job or a model needs its line in `store.deletion`."""
    own: dict[str, dict[str, Any]] = {"datasets": OF_DATASET, "jobs": OF_JOB, "models": OF_MODEL}
    found = {
        key.parent: key.column.table.name
        for table in Base.metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table.name in own
    }
    known = {
        column.property.columns[0]: target for target, columns in own.items() for column in columns.values()
    }
    known |= {column.property.columns[0]: found[column.property.columns[0]] for column in HAS_STEPS}
    del known[inspect(Key).columns["target_id"]]  # no foreign key: a share is of a data set, a job or a model
    assert found == known


def test_nothing_of_a_deleted_data_set_stays_anywhere(world: World) -> None:
    kept = world.add_dataset()
    world.search(kept, OTHER)
    client = world.client
    webhook = client.post("/v1/webhooks", json={"url": "https://8.8.8.8/hook"}).json()["id"]
    before = world.snapshot()
    dataset_id = world.upload(MARKER)
    digest = client.get(f"/v1/datasets/{dataset_id}").json()["digest"]
    job_id, model_id, inference_id = world.search(dataset_id, MARKER)
    headers = {"Idempotency-Key": "more"}
    made = client.post("/v1/jobs", json={"dataset_id": dataset_id, "name": MARKER}, headers=headers)
    assert made.status_code == 202, made.text
    assert client.post(f"/v1/jobs/{made.json()['id']}:cancel").status_code == 200  # a message to the webhook
    client.put("/v1/uploads", params={"filename": f"{MARKER}.npz"}, content=recording(MARKER))
    combined = client.post("/v1/datasets:combine", json={"dataset_ids": [kept, dataset_id], "name": "both"})
    ids = [dataset_id, job_id, model_id, inference_id, made.json()["id"], combined.json()["id"]]
    paths = [f"/v1/datasets/{dataset_id}", f"/v1/jobs/{job_id}", f"/v1/models/{model_id}"]
    paths += [f"/v1/models/{model_id}/arrays/rates", f"/v1/inferences/{inference_id}/zarr/zarr.json"]
    tags = {path: client.get(path).headers.get("ETag", "") for path in paths}

    refused = world.delete(paths[0], 409)
    assert all(one in refused["detail"] for one in ids if not one.startswith(("mod", dataset_id)))
    assert "cascade=true" in refused["hint"]
    planned = world.delete(paths[0], 200, cascade=True, dry_run=True)
    counts = [planned[name]["count"] for name in ("datasets", "jobs", "models", "inferences")]
    assert (counts, planned["rows"]["curve_points"], planned["dry_run"]) == ([2, 2, 2, 1], 4, True)
    assert planned["array_bytes"] > 1000
    assert planned["file_bytes"] == len(recording(MARKER))
    assert client.get(paths[0]).json()["state"] == "ready"

    assert world.delete(paths[0], cascade=True) == planned | {"dry_run": False}
    assert [client.get(path).json().get("state") for path in paths[:2]] == ["deleting", "deleting"]
    assert [client.get(path).status_code for path in paths[2:]] == [404, 404, 404]
    assert world.delete(paths[0], cascade=True)["jobs"]["count"] == 0
    listed = [client.get(f"/v1/{kind}").json()["items"] for kind in ("datasets", "jobs", "inferences")]
    assert not any(one["id"] in ids for items in listed for one in items)

    world.work_off()
    assert [client.get(path, headers={"If-None-Match": tags[path]}).status_code for path in paths] == [
        404
    ] * 5
    after = world.snapshot()
    assert without_messages(after) == without_messages(before)
    assert webhook in repr(after["webhooks"])
    assert world.traces(MARKER, digest, *ids) == []
    assert world.upload(MARKER, ingests=False) != dataset_id


def without_messages(found: dict[str, Any]) -> dict[str, Any]:
    stays = ("outbox", "workers", "audit", "device_usage")  # device time of a day has no id of what used it
    return {name: value for name, value in found.items() if name not in stays}


def test_a_process_may_die_between_any_two_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "ROWS_AT_ONCE", 7)
    before = world.snapshot()
    dataset_id = world.upload(MARKER)
    world.search(dataset_id, MARKER)
    world.delete(f"/v1/datasets/{dataset_id}", cascade=True)
    most = 0
    while requests := _requests(world.database):
        most += 1
        for kind, target_id in requests:
            for _ in zip(range(most), steps(world.storage, kind, target_id), strict=False):
                pass
    assert most > 8
    assert without_messages(world.snapshot()) == without_messages(before)
    assert world.traces(MARKER, dataset_id) == []


def test_a_step_that_fails_is_tried_again_and_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (world.search(world.add_dataset(), MARKER)[0] for _ in range(2))
    for job_id in (first, second):
        world.delete(f"/v1/jobs/{job_id}")
    with monkeypatch.context() as patch:
        patch.setattr(deletion, "delete_rows_of_models", _failing(first, deletion.delete_rows_of_models))
        world.work_off()
    assert f"the deletion of the job {first} did not finish" in caplog.text
    assert [world.client.get(f"/v1/jobs/{one}").status_code for one in (first, second)] == [200, 404]
    assert work_off(world.storage, 0)  # the time is over after a step
    with world.database.write() as session:
        row = session.get_one(Deletion, ("job", first))
        assert row.held_until is None
        row.held_until = database_now(session) + timedelta(seconds=60)  # by another process
    world.work_off()
    assert world.client.get(f"/v1/jobs/{first}").json()["state"] == "deleting"
    with world.database.write() as session:
        session.get_one(Deletion, ("job", first)).held_until = database_now(session) - timedelta(seconds=1)
    world.work_off()
    assert world.client.get(f"/v1/jobs/{first}").status_code == 404


def _requests(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        found = session.execute(
            select(Deletion.kind, Deletion.target_id).order_by(Deletion.kind.desc())
        ).all()
    return [(one.kind, one.target_id) for one in found]


def _failing(job_id: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def steps(database: Database, given: str) -> Iterator[None]:
        if given == job_id:
            raise OSError("the disk is broken")
        yield from real(database, given)

    return steps


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # it trains, and leases are the same
def test_a_slice_of_a_deleted_job_ends_and_leaves_nothing(world: World) -> None:
    before = world.snapshot()
    dataset_id = world.upload(MARKER)
    job_id = post_job(world, dataset_id)
    storage = world.storage
    process = TrainingProcess(storage.database, storage.arrays, storage.settings, name="here", device="cpu")
    with world.database.write() as session:
        advance(session, job_id, storage.settings)
    asked = []

    def delete_meanwhile() -> bool:
        if not asked:
            asked.append(world.delete(f"/v1/jobs/{job_id}", 409)["detail"])
            world.delete(f"/v1/datasets/{dataset_id}", cascade=True)
            world.work_off()
        return False

    process.should_yield = delete_meanwhile
    assert run_next(process)
    assert "is running; only a job that has ended" in asked[0]
    assert not run_next(process)
    with world.database.write() as session:
        advance(session, job_id, storage.settings)
    assert without_messages(world.snapshot()) == without_messages(before)
    assert process.data._kept is None


def post_job(world: World, dataset_id: str, **more: Any) -> str:
    answer = world.client.post("/v1/jobs", json={**SPECIFICATION, "dataset_id": dataset_id, **more})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def test_a_shared_file_stays_until_the_last_data_set_goes(world: World) -> None:
    before = world.snapshot()
    first = world.upload(MARKER, ingests=False)
    derived = world.client.post(f"/v1/datasets/{first}:derive", json={"options": {"rebin_s": 0.04}}).json()[
        "id"
    ]
    kept = world.delete(f"/v1/datasets/{first}")["kept"]
    assert kept == [f"data sets derived from it, with the file that they share with it: {derived}"]
    assert world.client.post(f"/v1/datasets/{first}:derive", json={"options": {}}).status_code == 404
    world.work_off()
    assert world.client.get(f"/v1/datasets/{derived}").json()["derived_from"] is None
    assert (
        world.client.post(f"/v1/datasets/{derived}:derive", json={"options": {"rebin_s": 0.08}}).status_code
        == 202
    )
    for item in world.client.get("/v1/datasets").json()["items"]:
        assert world.delete(f"/v1/datasets/{item['id']}")["id"] == item["id"]
    world.work_off()
    assert without_messages(world.snapshot()) == without_messages(before)


def test_an_ingest_that_is_under_way_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.snapshot()
    answer = world.client.post("/v1/datasets", content=recording(MARKER)).json()
    real = ingest_service.write_dataset

    def delete_meanwhile(*arguments: Any) -> Any:
        world.delete(f"/v1/datasets/{answer['id']}")
        world.work_off()
        return real(*arguments)

    monkeypatch.setattr(ingest_service, "write_dataset", delete_meanwhile)
    storage = world.storage
    ingest_dataset(storage.database, storage.arrays, storage.settings, answer["id"], "test")
    assert without_messages(world.snapshot()) == without_messages(before)


def test_jobs_that_began_with_deleted_weights(world: World) -> None:
    dataset_id = world.add_dataset()
    source, model_id, _ = world.search(dataset_id, MARKER)
    warm = {"job_id": source, "models": 1, "weights": True}
    with world.database.write() as session:
        key = str(session.get_one(Model, model_id).checkpoint_key)
        job_id = add_job(session, dataset_id, state=JobState.RUNNING, name="warm", warm_start=warm)
        job = session.get_one(Job, job_id)
        job.warm_models = [{"job_id": source, "number": 0, "hyperparameters": {}, "start_key": key}]
        job.warnings = [f"warm_start: its weights were trained in {source}"]
    refused = world.delete(f"/v1/jobs/{source}", 409)
    assert job_id in refused["detail"]
    assert world.delete(f"/v1/jobs/{source}", 200, dry_run=True)["refused"] == refused["detail"]
    with world.database.write() as session:  # it has begun, with weights of its own
        add_model(session, job_id, losses=(1.0,))
    assert f"weights of their own: {job_id}" in world.delete(f"/v1/jobs/{source}")["kept"][0]
    answer = world.client.post("/v1/jobs", json={"dataset_id": dataset_id, "warm_start": warm})
    assert (answer.status_code, source in answer.json()["detail"]) == (404, True)
    world.work_off()
    assert world.traces(source, model_id) == []
    job_document = world.client.get(f"/v1/jobs/{job_id}").json()
    assert job_document["specification"]["warm_start"]["job_id"] == "deleted"


def test_latents_go_and_the_model_stays(world: World) -> None:
    job_id, model_id, inference_id = world.search(world.add_dataset(), MARKER)
    path = f"/v1/models/{model_id}"
    assert world.client.get(f"{path}/arrays/rates").status_code == 200
    assert world.delete(f"{path}/latents", 200, dry_run=True)["array_bytes"] > 100
    for _ in range(2):
        assert world.delete(f"{path}/latents")["kind"] == "latents"
        assert ":apply" in world.client.get(f"{path}/arrays/rates").json()["hint"]
        world.work_off()
    objects = world.snapshot()["objects"]
    left = {one for one in objects if model_id in one and not one.endswith("zarr.json")}
    assert left == {f"models/{model_id}/checkpoints/000002-a.safetensors"}
    assert not any(f"{model_id}/latents/a" in one for one in objects)
    assert any(inference_id in one for one in objects)
    assert world.client.get(path).json()["state"] == "trained"
    with world.database.write() as session:  # an inference stored the latents of the model
        model = session.get_one(Model, model_id)
        model.latents_path, model.latents_deleted_at = f"inferences/{inference_id}/a", None
    assert world.delete(f"{path}/latents", 200, dry_run=True)["inferences"]["ids"] == [inference_id]
    world.delete(f"/v1/inferences/{inference_id}")
    assert world.client.get(f"{path}/arrays/rates").status_code == 404
    assert world.client.get(f"/v1/inferences/{inference_id}").json()["state"] == "deleting"
    world.work_off()
    assert world.client.get(f"/v1/inferences/{inference_id}").status_code == 404
    assert not any(inference_id in one for one in world.snapshot()["objects"])
    with world.database.write() as session:
        running = add_job(session, session.get_one(Job, job_id).dataset_id, state=JobState.RUNNING)
        unfinished = add_model(session, running)
    assert "cancel it first" in world.delete(f"/v1/models/{unfinished}/latents", 409)["hint"]


def test_messages_to_webhooks_go(world: World) -> None:
    client = world.client
    webhook = client.post("/v1/webhooks", json={"url": "https://8.8.8.8/hook"}).json()["id"]
    for _ in range(3):
        client.post(f"/v1/webhooks/{webhook}:test")
    with world.database.write() as session:
        for row in session.execute(select(WebhookDelivery)).scalars().all()[:2]:
            row.state, row.ended_at = DeliveryState.DELIVERED, database_now(session)
    path = f"/v1/webhooks/{webhook}/deliveries"
    planned = world.delete(path, 200, dry_run=True)
    assert (planned["rows"], planned["kept"]) == (
        {"deliveries": 2},
        ["1 messages that are still to be delivered"],
    )
    world.delete(path)
    world.work_off()
    assert len(client.get(path).json()["items"]) == 1
    assert client.delete(f"/v1/webhooks/{webhook}").status_code == 204
    world.work_off()
    assert world.traces(webhook) == []


def test_caches_and_the_log_of_sqlite_forget(world: World) -> None:
    dataset_id = world.add_dataset()
    _, model_id, _ = world.search(dataset_id, MARKER)
    for path in (f"datasets/{dataset_id}/arrays/rates", f"models/{model_id}/arrays/rates"):
        assert world.client.get(f"/v1/{path}").status_code == 200
    where = {"where": "condition:eq:1"}
    assert len(world.client.get(f"/v1/datasets/{dataset_id}/trials", params=where).json()["items"]) == 5
    held = [
        key
        for cache, _ in caches._caches
        for key in cache
        if model_id in repr(key) or dataset_id in repr(key)
    ]
    assert len(held) >= 3
    caches.forget_deleted(world.database)
    assert all(any(key in cache for cache, _ in caches._caches) for key in held)
    world.delete(f"/v1/datasets/{dataset_id}", cascade=True)
    caches.forget_deleted(world.database)
    assert not any(key in cache for cache, _ in caches._caches for key in held)
    world.work_off()
    if world.database.is_sqlite:
        assert (world.folder / "test.db-wal").stat().st_size == 0
        with world.database.read() as reading:
            reading.execute(select(Job.id)).all()
            world.add_dataset()
            assert not world.database.truncate_log()
        assert world.database.truncate_log()


def test_objects_without_a_row_are_garbage(world: World) -> None:
    world.search(world.add_dataset(), MARKER)
    before = world.snapshot()["objects"]
    for path in (
        f"datasets/{new_id('dat')}/a/x",
        f"models/{new_id('mod')}/latents/a/x",
        f"inferences/{new_id('inf')}/x",
    ):
        write_object(world.storage.arrays, path, b"x")
    assert sum(collect_strays(world.database, world.storage.arrays)) == 3
    assert world.snapshot()["objects"] == before


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_is_being_referred_to_is_not_deleted_before(world: World) -> None:
    dataset_id = world.add_dataset()
    job_id, _, _ = world.search(dataset_id, MARKER)
    specification = JobSpecification(
        dataset_id=dataset_id, warm_start={"job_id": job_id, "models": 1, "weights": False}
    )
    with world.database.write() as creating, world.database.write() as deleting:
        creation.check(creating, "default", specification, to_write=True)
        for table, row_id in ((Dataset, dataset_id), (Job, job_id)):
            with pytest.raises(OperationalError, match="could not obtain lock"), deleting.begin_nested():
                deleting.get(table, row_id, with_for_update={**LOCK, "nowait": True})
    world.delete(f"/v1/datasets/{dataset_id}", cascade=True)
    with world.database.write() as session, pytest.raises(NotFound, match="is being deleted"):
        creation.check(session, "default", specification, to_write=True)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_inference_that_is_under_way_leaves_nothing(world: World) -> None:
    _, _, inference_id = world.search(world.add_dataset(), MARKER)
    storage = world.storage
    process = TrainingProcess(storage.database, storage.arrays, storage.settings, name="here", device="cpu")
    lease = Lease(Inference, inference_id, "a")
    run_next_module._discard_if_deleted(process, lease, [])
    assert any(inference_id in one for one in world.snapshot()["objects"])
    world.delete(f"/v1/inferences/{inference_id}")
    world.work_off()
    write_object(storage.arrays, f"inferences/{inference_id}/a/x", b"written late")
    run_next_module._discard_if_deleted(process, lease, [])
    assert not any(inference_id in one for one in world.snapshot()["objects"])
