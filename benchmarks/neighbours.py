"""Whether one tenant can slow another: ``python -m benchmarks.neighbours [--quick] [--json]``.

Starts the service with required keys, on SQLite and on PostgreSQL. A quiet tenant reads a job, a list, slices and distances, one
request after the other: first alone, then beside a hostile tenant with one key. Each attack is one way to occupy the service
(`benchmarks.hostile_clients`). The attackers run in a process of the lowest CPU priority, since in reality they are other
machines.

`p50_ms_…` and `p99_ms_…` are the times of the quiet tenant's answers. `loop_lag_ms_max` is the longest time in which the event
loop of the API did not run, measured in the API during the attack. `small_dataset_s_…`, of attacks that queue work: time until
a small data set of the quiet tenant is ready. Quick: SQLite, and shorter measurements.
"""

import asyncio
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from latentry import Client
from latentry.sample import reaches

from benchmarks import report
from benchmarks.hostile_clients import ATTACKS
from tests.servers import postgresql
from worker.embedded import EmbeddedService

OPERATOR_KEY = "operator-of-the-benchmark"
_QUEUES_WORK = ("ingests", "jobs")
_LONGEST_SECONDS = 30.0
_LAG_HOOK = '''
"""Measure the lag of the API's event loop."""
import asyncio, os, struct, time
import uvicorn

serve = uvicorn.Server.serve

async def watch():
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.002)
        lag = time.monotonic() - began - 0.002
        with open(os.environ["LAG_FILE"], "r+b") as file:
            if lag > struct.unpack("d", file.read(8))[0]:
                file.seek(0)
                file.write(struct.pack("d", lag))

async def serve_watched(self, *arguments, **options):
    watching = asyncio.create_task(watch())
    try:
        await serve(self, *arguments, **options)
    finally:
        watching.cancel()

uvicorn.Server.serve = serve_watched
'''


class LoopLag:
    """The longest lag of the event loop of the API since the last reset."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "lag"
        self._file.write_bytes(struct.pack("d", 0.0))
        (folder / "sitecustomize.py").write_text(_LAG_HOOK)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
        self.environment = {"PYTHONPATH": path, "LAG_FILE": str(self._file)}

    def reset(self) -> None:
        """Forget what was measured so far."""
        with self._file.open("r+b") as file:  # never truncated, since the API reads it at any time
            file.write(struct.pack("d", 0.0))

    def longest_ms(self) -> float:
        """Return the longest lag in milliseconds."""
        return 1000 * float(struct.unpack("d", self._file.read_bytes())[0])


@contextmanager
def service(folder: Path, database_url: str, lag: LoopLag) -> Iterator[EmbeddedService]:
    """Run the whole service, with required keys."""
    wanted = lag.environment | {
        "LATENTRY_REQUIRE_KEY": "true",
        "LATENTRY_ADMIN_KEY": OPERATOR_KEY,
        "LATENTRY_DATABASE_URL": database_url,
    }
    kept = dict(os.environ)
    os.environ.update(wanted)
    running = EmbeddedService(folder, port=0, workers=1)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        os.environ.clear()
        os.environ.update(kept)


class Tenant:
    """A tenant with one key, a data set of reaches, and a job that is paused."""

    def __init__(self, url: str, name: str, *, trials: int) -> None:
        with Client(url, key=OPERATOR_KEY) as operator:
            self.key: str = operator.create_key(name, tenant=name)["secret"]
        self.url = url
        with tempfile.TemporaryDirectory() as folder, Client(url, key=self.key) as client:
            file = Path(folder) / "reaches.npz"
            write_reaches(file, trials)
            self.dataset_id: str = client.upload_dataset(file)["id"]
            job = client.create_job({"dataset_id": self.dataset_id, "budget": {"models": 4, "epochs": 400}})
            self.job_id: str = client.pause_job(job["id"])["id"]

    def small_dataset_s(self) -> float:
        """Return the time until a small data set of new content is ready, in seconds."""
        with tempfile.TemporaryDirectory() as folder, Client(self.url, key=self.key) as client:
            file = Path(folder) / "small.npz"
            write_reaches(file, 60)
            began = time.monotonic()
            client.upload_dataset(file)
            return time.monotonic() - began


def write_reaches(path: Path, trials: int) -> None:
    """Write a data set of reaches as NPZ; no two have the same spikes."""
    arrays: dict[str, Any] = {
        name: value if np.ndim(value) == 0 else np.concatenate([value] * -(-trials // 120))[:trials]
        for name, value in reaches().items()
    }
    arrays["spikes"] = np.random.default_rng().poisson(arrays["spikes"]).astype(np.uint8)
    np.savez_compressed(path, **arrays)


def quiet_paths(tenant: Tenant) -> list[str]:
    """Return what the quiet tenant reads."""
    dataset = f"/v1/datasets/{tenant.dataset_id}"
    return [
        f"/v1/jobs/{tenant.job_id}",
        "/v1/jobs",
        f"{dataset}/arrays/spikes?slice=3,5:10,2:12",
        f"{dataset}/arrays/spikes?where=condition:in:1,2&neuron=3&format=npy",
        f"{dataset}/distances?array=hand_velocity",
    ]


async def read_quietly(tenant: Tenant, seconds: float) -> list[float]:
    """Read again and again; return the time of each answer in milliseconds, sorted."""
    waits_ms: list[float] = []
    headers = {"Authorization": f"Bearer {tenant.key}"}
    paths, until = quiet_paths(tenant), time.monotonic() + seconds
    async with aiohttp.ClientSession(
        headers=headers, timeout=aiohttp.ClientTimeout(_LONGEST_SECONDS)
    ) as session:
        while time.monotonic() < until:
            path = paths[len(waits_ms) % len(paths)]
            sent = time.monotonic()
            try:
                async with session.get(tenant.url + path) as answer:
                    text = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"the quiet tenant got {answer.status} from {path}: {text[:500]!r}")
            except TimeoutError:
                pass  # counts as an answer after so long
            waits_ms.append(1000 * (time.monotonic() - sent))
            await asyncio.sleep(0.03)
    return sorted(waits_ms)


@contextmanager
def attacked(attack: str, hostile: Tenant) -> Iterator[None]:
    """Run an attack in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.hostile_clients", attack]
    target = {
        "url": hostile.url,
        "key": hostile.key,
        "dataset_id": hostile.dataset_id,
        "job_id": hostile.job_id,
    }
    process = subprocess.Popen([*command, json.dumps(target)], start_new_session=True)
    try:
        time.sleep(3.0)
        if process.poll() is not None:
            raise RuntimeError(f"the attack {attack} ended by itself")
        yield
    finally:
        process.terminate()
        process.wait(20)


def measure(attacks: list[str], database_url: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the figures of each attack."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latentry-benchmark-")))
        lag = LoopLag(folder)
        running = stack.enter_context(service(folder / "data", database_url, lag))
        quiet = Tenant(running.url, "quiet", trials=120)
        hostile = Tenant(running.url, "hostile", trials=1000)
        asyncio.run(read_quietly(quiet, 2.0))
        for attack in attacks:
            alone = asyncio.run(read_quietly(quiet, seconds))
            found: dict[str, Any] = {"attack": attack}
            if attack in _QUEUES_WORK:
                found["small_dataset_s_alone"] = round(quiet.small_dataset_s(), 2)
            with attacked(attack, hostile):
                lag.reset()
                beside = asyncio.run(read_quietly(quiet, seconds))
                found["loop_lag_ms_max"] = round(lag.longest_ms(), 1)
                if attack in _QUEUES_WORK:
                    found["small_dataset_s_beside"] = round(quiet.small_dataset_s(), 2)
            for name, waits_ms in (("alone", alone), ("beside", beside)):
                found[f"p50_ms_{name}"] = round(waits_ms[len(waits_ms) // 2], 1)
                found[f"p99_ms_{name}"] = round(waits_ms[len(waits_ms) * 99 // 100], 1)
            yield found


def main() -> None:
    """Run the benchmark."""
    parser = report.parser(__doc__ or "", quick="SQLite, and shorter measurements")
    parser.add_argument("--attacks", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="one of them alone")
    given = parser.parse_args()
    databases = (
        [given.database] if given.database else ["sqlite"] if given.quick else ["sqlite", "postgresql"]
    )
    rows: list[list[Any]] = []
    for database in databases:
        with ExitStack() as stack:
            url = ""
            if database == "postgresql":
                url = stack.enter_context(postgresql(durable=True)).new_database()
            for found in measure(given.attacks, url, 5.0 if given.quick else 15.0):
                figures = {"database": database} | found
                if given.json:
                    print(json.dumps(figures), flush=True)
                else:
                    print(figures, file=sys.stderr, flush=True)
                    rows.append([figures.get(name, "") for name in _COLUMNS])
    if not given.json:
        print(report.machine(), report.markdown_table([_COLUMNS, *rows]), sep="\n\n")


_COLUMNS = [
    "database", "attack", "p50_ms_alone", "p50_ms_beside", "p99_ms_alone", "p99_ms_beside", "loop_lag_ms_max",
    "small_dataset_s_alone", "small_dataset_s_beside",
]  # fmt: skip


if __name__ == "__main__":
    main()
