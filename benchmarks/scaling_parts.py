"""Costs apart from slices: reading a data set from the array store, and a message through broker and Celery."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import redis
from celery import Celery

from models import Session, TrainingData
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray, open_array
from store.database import Database
from store.migrate import migrate
from tests.servers import Broker, broker, cpu_seconds
from worker.child_processes import die_with_parent

TRIALS, BINS, NEURONS = 2000, 500, 100
"""Sizes of the data set that is read: 100 MB of counts."""


def loading_seconds(folder: Path, postgresql_url: str | None) -> dict[str, float]:
    """Return the median of three times to read 100 MB of counts from each array store, and the time to make training data."""
    counts = np.random.default_rng(0).poisson(0.2, (TRIALS, BINS, NEURONS)).astype(np.uint8)
    found = {}
    urls = {"sqlite": f"sqlite:///{folder / 'arrays.db'}", "file": f"sqlite:///{folder / 'arrays.db'}"}
    if postgresql_url is not None:
        urls["postgresql"] = postgresql_url
    for name, url in urls.items():
        database = Database(url)
        migrate(database)
        arrays = open_array_store(f"file://{folder / 'arrays'}" if name == "file" else "sql:", database)
        writer = ArrayGroupWriter(arrays, "datasets/loaded")
        writer.write(NamedArray("spikes", counts, ("trial", "time_s", "neuron")))
        writer.close()

        def read(arrays: Any = arrays) -> None:
            array = open_array(arrays, "datasets/loaded", "spikes")
            assert array is not None
            assert np.asarray(array[...]).nbytes == counts.nbytes

        found[f"read_100_mb_s_{name}"] = round(statistics.median(_seconds(read) for _ in range(3)), 2)
        database.close()
    session = Session(counts, np.full(TRIALS, BINS), np.arange(TRIALS) % 5 == 0)
    found["make_training_data_s"] = round(_seconds(lambda: TrainingData(session, sv_rate=0.2, sv_seed=0)), 2)
    return found


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def message_milliseconds(folder: Path, messages: int) -> dict[str, float]:
    """Return the cost to send a message, and to handle one in a Celery worker with a transaction that finds no job."""
    with broker(folder) as server:
        environment = os.environ | {"LATENTRY_DATA_DIR": str(folder), "LATENTRY_REDIS_URL": server.url}
        migrate(Database(f"sqlite:///{folder / 'latentry.db'}"))
        command = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--pool", "prefork"]
        command += ["--without-gossip", "--without-mingle", "-Q", "control", "-c", "1"]
        with (folder / "celery.log").open("wb") as log:
            worker = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, preexec_fn=die_with_parent
            )
        try:
            return _send_and_wait(server, messages)
        finally:
            worker.terminate()
            worker.wait(30)


def _send_and_wait(server: Broker, messages: int) -> dict[str, float]:
    from store.rpc import broker_url

    app = Celery(broker=broker_url(server.url))
    client: Any = redis.Redis.from_url(server.url)

    def send(queue: str, number: int) -> None:
        for _ in range(number):
            app.send_task("advance", args=["job_that_is_not_there"], queue=queue, retry=False)

    def drain() -> None:
        while client.llen("control") or client.hlen("unacked"):
            time.sleep(0.005)

    send("control", 1)
    drain()  # the worker is there
    sending = _seconds(lambda: send("nobody", messages))
    before = cpu_seconds(server.pid)
    started = time.perf_counter()
    send("control", messages)
    drain()
    handling = time.perf_counter() - started
    return {
        "send_ms": round(1000 * sending / messages, 2),
        "handle_ms": round(1000 * handling / messages, 2),
        "broker_cpu_ms": round(1000 * (cpu_seconds(server.pid) - before) / messages, 2),
    }
