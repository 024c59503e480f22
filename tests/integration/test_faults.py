"""What dies, stops, fills up or comes twice: every job comes to what it would have come to undisturbed.

Two services run, each with two workers: one on SQLite, with its arrays as files of a small disk and short slices; one on
PostgreSQL, with its arrays as rows, slices as long as a job, and clocks that are a minute off.
"""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from domain.states import JobState, SliceState
from store.tables import Slice, Worker
from tests.integration.faulty_service import EPOCHS, HOOKS, FaultyService
from tests.servers import PostgresServer, postgresql
from tests.waiting import wait_until

LEASE_SECONDS, HEARTBEAT_SECONDS, MAINTENANCE_SECONDS = 3.0, 0.3, 0.3
SETTINGS = {
    "LATENTRY_LEASE_SECONDS": str(LEASE_SECONDS),
    "LATENTRY_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "LATENTRY_MAINTENANCE_SECONDS": str(MAINTENANCE_SECONDS),
    "LATENTRY_OUTBOX_SECONDS": "0.05",
}
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
AHEAD_S, BEHIND_S = 60, -60
STOP_SECONDS = 60.0
BROKER_AWAY_SECONDS = 18.0  # workers try again after 2, 6, 12, 20, 30, … s


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder; a disk of its own where mounting is permitted."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    yield folder
    if mounted.returncode == 0:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def on_sqlite(
    tmp_path_factory: pytest.TempPathFactory, spikes_file: Path, small_disk: Path
) -> Iterator[FaultyService]:
    more = {
        "LATENTRY_ARRAY_URL": small_disk.as_uri(),
        "LATENTRY_SLICE_SECONDS": "1.5",
        "LATENTRY_FULL_DISK_SECONDS": "1",
    }
    service = FaultyService(tmp_path_factory.mktemp("sqlite") / "data", SETTINGS | more)
    service.start()
    service.prepare(spikes_file)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def on_postgresql(
    tmp_path_factory: pytest.TempPathFactory, spikes_file: Path, postgres: PostgresServer
) -> Iterator[FaultyService]:
    folder = tmp_path_factory.mktemp("postgresql")
    more = {"LATENTRY_DATABASE_URL": postgres.new_database(), "LATENTRY_BROKER_VISIBILITY_SECONDS": "1"}
    if COMPILER:
        library = folder / "wrong_clock.so"
        command = [COMPILER, "-shared", "-fPIC", "-O2", "-o", library, HOOKS / "wrong_clock.c"]
        subprocess.run(command, check=True)
        clocks = f"slices-0@={AHEAD_S} slices-1@={BEHIND_S} worker.maintenance.loop={AHEAD_S}"
        more |= {"WRONG_CLOCK_LIBRARY": str(library), "WRONG_CLOCKS": clocks}
    service = FaultyService(folder / "data", SETTINGS | more)
    service.start()
    service.prepare(spikes_file)
    yield service
    service.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest) -> FaultyService:
    """Each of the two."""
    found: FaultyService = request.getfixturevalue(f"on_{request.param}")
    return found


def row(service: FaultyService, piece: Slice) -> Slice:
    """A slice as it is now."""
    with service.database.read() as session:
        return session.get_one(Slice, piece.id)


def claimed_again(service: FaultyService, piece: Slice) -> Slice | None:
    """A slice once another worker holds it."""
    found = row(service, piece)
    return None if found.lease_token in (None, piece.lease_token) else found


@pytest.mark.slow
def test_a_model_that_never_fits_fails_alone(on_sqlite: FaultyService) -> None:
    """It is the first test, for packs are made smaller where workers died a moment ago."""
    job_id = on_sqlite.begin(models=3, name="model 1 never fits")
    on_sqlite.check(job_id, failed={1})
    assert "failed alone after its attempts" in on_sqlite.client.list_models(job_id)[1]["end_reason"]
    assert [len(piece.model_ids) for piece in on_sqlite.slices(job_id, SliceState.FAILED)] == [2, 1]


@pytest.mark.parametrize(
    ("database", "victim"),
    [
        pytest.param("sqlite", "worker", marks=pytest.mark.slow),
        ("postgresql", "worker"),
        pytest.param("sqlite", "pool child", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_loses_nothing(request: pytest.FixtureRequest, database: str, victim: str) -> None:
    """What it started dies with it. Its slice is claimed when the lease is over, and no attempt is counted."""
    service: FaultyService = request.getfixturevalue(f"on_{database}")
    service.wait_for_workers()
    while True:
        job_id = service.begin(models=1)
        piece = service.slice_under_way(job_id)
        process = service.training_process(piece).parent()
        assert process is not None
        if victim == "worker":
            process = process.parent()
            assert process is not None
        killed_at = datetime.now(UTC)
        process.kill()
        if row(service, piece).lease_token == piece.lease_token:
            break
        service.wait_for_workers()  # the slice, which takes a second, ended just before the kill
    claimed = wait_until(lambda: claimed_again(service, piece))
    seconds = (claimed.started_at - killed_at).total_seconds()
    print(f"claimed again {seconds:.2f} s after the kill")
    assert (claimed.losses, claimed.attempts) == (1, 0)
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (1, 0)


@pytest.mark.slow
def test_a_killed_training_process_is_an_attempt(on_sqlite: FaultyService) -> None:
    """The kernel's way with who takes too much memory. Training goes on from the checkpoint, at once."""
    job_id = on_sqlite.begin(name="slow")  # else a fast machine may need one slice only
    piece = on_sqlite.slice_under_way(job_id, goes_on=True)
    on_sqlite.training_process(piece).kill()
    on_sqlite.check(job_id)
    assert on_sqlite.lost_and_failed(job_id) == (0, 1)


@pytest.mark.slow
def test_killed_while_writing_and_before_reporting(on_sqlite: FaultyService) -> None:
    """Half a checkpoint, and a whole one that nobody knows of: neither is read, both are deleted."""
    job_id = on_sqlite.begin(models=1)
    for fault in ("killed while writing a checkpoint", "killed before the report"):
        (on_sqlite.faults / fault).touch()
        wait_until((on_sqlite.faults / f"{fault} happened").exists)
    on_sqlite.client.wait_for_job(job_id)
    assert len(on_sqlite.orphans()) == 2
    on_sqlite.check(job_id)
    assert on_sqlite.lost_and_failed(job_id) == (0, 2)


@pytest.mark.slow
def test_a_stalled_process_writes_no_more(service: FaultyService) -> None:
    """It wakes after its slice went to another worker, and goes on as if nothing had been."""
    service.wait_for_workers()
    job_id = service.begin(models=1)
    piece = service.slice_under_way(job_id)
    stalled = service.training_process(piece)
    stalled.suspend()
    try:
        claimed = wait_until(lambda: claimed_again(service, piece))
    finally:
        stalled.resume()
    assert claimed.leased_by != piece.leased_by
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (1, 0)
    refused = f"{piece.id} was cancelled or given to another worker"
    wait_until(lambda: any(refused in service.log(f"worker-{number}") for number in range(2)))
    assert stalled.is_running()


def test_sigterm_gives_the_slice_back(on_postgresql: FaultyService) -> None:
    service = on_postgresql
    service.wait_for_workers()
    job_id = service.begin(models=1)
    piece = service.slice_under_way(job_id)
    pool_child = service.training_process(piece).parent()
    assert pool_child is not None
    worker = pool_child.parent()
    assert worker is not None
    began = time.monotonic()
    worker.terminate()
    worker.wait(STOP_SECONDS)
    print(f"ended {time.monotonic() - began:.2f} s after SIGTERM")
    wait_until(lambda: any(child.has_been_drained for child in service.embedded._children))
    service.start_drained()
    given_back = row(service, piece)
    assert given_back.state == SliceState.DONE
    assert 0 < (given_back.epochs_trained or 0) < EPOCHS
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
def test_a_drained_worker_ends_and_the_others_go_on(on_postgresql: FaultyService) -> None:
    service = on_postgresql
    service.wait_for_workers()
    job_id = service.begin(models=1)
    piece = service.slice_under_way(job_id)
    alive = [one["name"] for one in service.client.workers()["workers"]]
    busy, idle = piece.leased_by, next(name for name in alive if name != piece.leased_by)
    assert busy is not None
    assert service.client.drain_worker(busy)["draining_since"] is not None
    wait_until(lambda: [one["name"] for one in service.client.workers()["workers"]] == [idle])
    assert row(service, piece).state == SliceState.DONE  # it was not interrupted
    wait_until(lambda: any(child.has_been_drained for child in service.embedded._children))
    service.start_drained()
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)
    service.client.drain_worker(idle)
    wait_until(lambda: idle not in [one["name"] for one in service.client.workers()["workers"]])
    service.start_drained()


@pytest.mark.slow
def test_a_killed_broker(on_sqlite: FaultyService) -> None:
    job_id = on_sqlite.begin()
    on_sqlite.slice_under_way(job_id)
    on_sqlite.child("broker").kill()
    on_sqlite.check(job_id)
    assert on_sqlite.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
def test_a_broker_that_hangs_keeps_nobody_from_writing(on_sqlite: FaultyService) -> None:
    """SQLite has one writer: no transaction may be open while the broker is waited for."""
    broker = on_sqlite.child("broker")
    broker.suspend()
    try:
        job_id = on_sqlite.begin(models=1)
        time.sleep(1.0)  # the maintenance loop waits for the broker by now
        asked_at = time.monotonic()
        on_sqlite.client.change_job(job_id, name="written meanwhile")
        seconds = time.monotonic() - asked_at
    finally:
        broker.resume()
    assert seconds < 25
    on_sqlite.check(job_id)


@pytest.mark.slow
def test_a_broker_that_is_away_and_comes_back_empty(on_sqlite: FaultyService) -> None:
    """What is under way is reported meanwhile; what is asked for meanwhile is accepted, and done afterwards."""
    under_way = on_sqlite.begin(models=1)
    piece = on_sqlite.slice_under_way(under_way)
    with on_sqlite.nothing_is_restarted():
        on_sqlite.child("broker").kill()
        shutil.rmtree(on_sqlite.embedded.data_dir / "broker" / "appendonlydir")
        accepted = on_sqlite.begin(models=1)
        time.sleep(BROKER_AWAY_SECONDS)
        wait_until(lambda: row(on_sqlite, piece).state == SliceState.DONE)
        assert on_sqlite.client.get_job(under_way)["state"] == JobState.RUNNING
    back = time.monotonic()
    on_sqlite.client.wait_for_job(under_way)
    on_sqlite.client.wait_for_job(accepted)
    print(f"both done {time.monotonic() - back:.2f} s after the broker came back")
    for job_id in (under_way, accepted):
        on_sqlite.check(job_id)
        assert on_sqlite.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
def test_every_message_ten_times(on_sqlite: FaultyService) -> None:
    service = on_sqlite
    job_id = service.begin()
    service.slice_under_way(job_id)
    for _ in range(10):
        service.broker.send_task("run_slice", queue="slices")
        service.broker.send_task("advance", args=[job_id], queue="control")
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
def test_a_message_that_comes_again_while_its_task_runs(on_postgresql: FaultyService) -> None:
    """The broker gives out again what was not acknowledged in time; here after a second."""
    service = on_postgresql
    job_id = service.begin()

    def comes_again() -> bool:
        with service.broker.connection_for_write() as connection:
            channel = connection.default_channel
            channel.qos.restore_visible()  # what each worker does now and then
            return bool(channel.client.llen("slices"))

    service.slice_under_way(job_id)
    wait_until(comes_again)
    assert service.slices(job_id, SliceState.LEASED) != []
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
def test_a_database_that_restarts_twice(on_postgresql: FaultyService, postgres: PostgresServer) -> None:
    """``pg_ctl stop -m immediate``, then ``-m fast``, in the middle of a slice, which trains on."""
    service = on_postgresql
    job_id = service.begin()
    for how in (signal.SIGQUIT, signal.SIGINT):
        piece = service.slice_under_way(job_id)
        epochs = service.epochs(job_id)
        postgres.stop(how)
        postgres.start()
        wait_until(lambda known=epochs: service.epochs(job_id) > known)
        assert row(service, piece).lease_token == piece.lease_token
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler to make a library that shifts the clock")
def test_clocks_that_are_a_minute_off(on_postgresql: FaultyService) -> None:
    """Healthy leases are kept, though workers and maintenance disagree; that dead ones are not, the kills show."""
    service = on_postgresql
    service.wait_for_workers()
    job_id = service.begin()
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)
    off = []
    with service.database.read() as session:
        for process in service.processes("worker.process.main"):
            (worker,) = session.execute(
                select(Worker).where(Worker.name.contains(f":{process.pid}:"))
            ).scalars()
            off.append(round((worker.started_at.timestamp() - process.create_time()) / AHEAD_S))
    assert sorted(off) == [-1, 1]


@pytest.mark.slow
def test_a_full_disk_is_waited_for(on_sqlite: FaultyService, small_disk: Path) -> None:
    if not small_disk.is_mount():
        pytest.skip("mounting a small disk is not permitted here")
    job_id = on_sqlite.begin(models=1)
    on_sqlite.slice_under_way(job_id)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(small_disk).free == 0
    waits_for = wait_until(lambda: on_sqlite.client.get_job(job_id)["progress"]["waits_for"])
    filler.unlink()
    assert "No space left on device" in waits_for
    on_sqlite.check(job_id)
    assert on_sqlite.lost_and_failed(job_id) == (0, 0)
    assert on_sqlite.client.get_job(job_id)["progress"]["waits_for"] is None


def test_pause_resume_cancel_retry(on_postgresql: FaultyService) -> None:
    """Slices here are as long as the job: one that ends before was told to."""
    service = on_postgresql
    job_id = service.begin()
    service.slice_under_way(job_id)
    under_way = service.slices(job_id, SliceState.LEASED)
    assert service.verb(job_id, "pause")["state"] == JobState.PAUSED
    began = time.monotonic()
    wait_until(lambda: not service.slices(job_id, SliceState.LEASED))
    print(f"paused after {time.monotonic() - began:.2f} s")
    for piece in under_way:
        paused = row(service, piece)
        assert paused.state == SliceState.DONE
        assert 0 < (paused.epochs_trained or 0) < EPOCHS
    service.broker.send_task("advance", args=[job_id], queue="control")
    time.sleep(1.0)
    assert service.client.get_job(job_id)["state"] == JobState.PAUSED
    assert service.slices(job_id, SliceState.QUEUED, SliceState.LEASED) == []
    assert service.verb(job_id, "resume")["state"] == JobState.QUEUED
    service.slice_under_way(job_id, goes_on=True)
    assert service.verb(job_id, "cancel")["state"] == JobState.CANCELLED
    assert service.slices(job_id, SliceState.QUEUED, SliceState.LEASED) == []
    assert service.verb(job_id, "retry")["state"] == JobState.QUEUED
    service.check(job_id)
    assert service.lost_and_failed(job_id) == (0, 0)


@pytest.mark.slow
def test_a_stopped_job_selects_from_what_is_there(on_postgresql: FaultyService) -> None:
    """It does so while no ingest makes progress."""
    service = on_postgresql
    with service.suspended("ingest"):
        system = {"system": "lorenz", "conditions": 4, "trials_per_condition": 4, "bins": 20, "neurons": 5}
        answer = httpx.post(f"{service.embedded.url}/v1/datasets:synthesize", json=system)
        waiting = answer.json()["id"]
        job_id = service.begin()
        service.slice_under_way(job_id)
        assert service.verb(job_id, "stop")["state"] == JobState.STOPPING
        job = service.client.wait_for_job(job_id)
        assert service.client.get_dataset(waiting)["state"] == "ingesting"
    wait_until(lambda: service.client.get_dataset(waiting)["state"] == "ready")
    models = service.client.list_models(job_id)
    assert all(0 < model["epochs_trained"] < EPOCHS for model in models)
    for number, points in service.curves(job_id).items():
        assert points == service.reference[number][: models[number]["epochs_trained"]]
    best = min(models, key=lambda model: model["scores"]["smoothed_sv_loss"])
    assert job["selected_model_id"] == best["id"]
    assert np.isfinite(service.client.read_model_array(best["id"], "rates")).all()
    service.check_slices(job_id)
    service.check_objects()


@pytest.mark.slow
def test_stopping_the_service_and_starting_it_again(on_sqlite: FaultyService) -> None:
    """Every process ends within the grace time; what was under way is kept and goes on."""
    job_id = on_sqlite.begin(models=1)
    piece = on_sqlite.slice_under_way(job_id)
    began = time.monotonic()
    on_sqlite.stop()
    print(f"ended {time.monotonic() - began:.2f} s after it was told to")
    assert on_sqlite.processes("latentry") == on_sqlite.processes("worker") == []
    assert row(on_sqlite, piece).state == SliceState.DONE
    assert on_sqlite.slices(job_id, SliceState.LEASED) == []
    on_sqlite.start()
    on_sqlite.check(job_id)
    assert on_sqlite.lost_and_failed(job_id) == (0, 0)
