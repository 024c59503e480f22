"""A soak test: workers are killed, frozen and terminated at random, and nothing may be lost, done twice or forgotten.

``python -m tests.simulation.soak [--seconds 600] [--json] [--database sqlite|postgresql] [--seed N] [--jobs 50] [--models 20]
[--workers 4]``

Jobs of four strategies with training that sleeps run on the service's own scheduler, leases, slices, checkpoints, outbox,
broker and maintenance loop (`tests.simulation.processes`), with its `lease_seconds` and `maintenance_seconds`. Faults come at
random times drawn from the seed (`tests.simulation.fault_injector`): processes are killed, frozen for longer than their lease
and terminated, messages are lost and sent ten times, jobs are paused, cancelled, retried and stopped. Then nothing disturbs the
service until all jobs have ended, and the invariants are checked (`tests.simulation.invariants`). A job that was not stopped or
cancelled must have selected the same model as undisturbed, if its strategy does not depend on the order in which slices end.

Exit status 1 if anything is lost, trained twice, stuck, left in the array store or missing there; if a model or a job failed; if
a worker that had lost its lease was not refused; or if a job selected another model.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
from sqlalchemy import func, select
from zarr.abc.store import Store

from domain.states import JobState, SliceState
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Job, Slice, Worker
from tests.servers import broker, postgresql
from tests.simulation.fault_injector import Fault, FaultInjector, plan_faults
from tests.simulation.invariants import Recovery, check_invariants, read_recoveries
from tests.simulation.jobs import Selected, add_jobs, select_undisturbed, selected_of, write_data
from tests.simulation.processes import Place, ProcessPool

DETERMINISTIC = ("random", "hyperband", "pbt")
"""Strategies for which equal specification and seed give equal models, whatever the order in which slices end."""
MUST_BE_ZERO = (
    "lost", "trained_twice", "stuck", "orphans", "missing_objects", "failed", "not_refused", "selected_differs",
)  # fmt: skip
_KILLS = (Fault.KILL, Fault.KILL_AND_REAP, Fault.KILL_CONTROL, Fault.KILL_MAINTENANCE)
_CONTROLS = 2
_START_SECONDS = 120.0
_END_SECONDS = 60.0
_CANCELLABLE_FROM = 7  # of each ten jobs those from here on may be stopped and cancelled
_SMALL = {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 16, "factors": 4}
"""Sizes of networks: a soak is about transactions, not bytes."""
_FINAL = [state for state in JobState if state.is_final]
_RESTING = [*_FINAL, JobState.PAUSED]


@dataclass(frozen=True)
class SoakPlan:
    """The size of a soak.

    Parameters
    ----------
    database_url
        URL of a new database.
    seconds
        Time with faults; the undisturbed time comes after.
    jobs, models, workers
        How many; models of each job.
    seed
        Seed of faults and jobs.
    epoch_seconds
        Mean length of an epoch.
    load
        Share of the workers' time, during the faults, that random search over all jobs would take undisturbed.
    """

    database_url: str
    seconds: float = 600.0
    jobs: int = 50
    models: int = 20
    workers: int = 4
    seed: int = 0
    epoch_seconds: float = 0.2
    load: float = 0.75

    @property
    def epochs(self) -> int:
        """Budget of a model of an average job."""
        packs = self.jobs * max(1.0, self.models / 10)
        return max(12, round(self.load * self.workers * self.seconds / (packs * self.epoch_seconds)))

    @property
    def slice_seconds(self) -> float:
        """Length of a slice: short, so that there are many."""
        return max(0.5, self.epochs * self.epoch_seconds / 5)

    @property
    def fault_interval_s(self) -> float:
        """Mean time between two faults."""
        return min(2.5, max(0.5, self.seconds / 150))

    @property
    def rest_seconds(self) -> float:
        """Longest time after the faults until all jobs must have ended."""
        return max(240.0, 1.5 * self.seconds)

    def specifications(self) -> list[dict[str, Any]]:
        """Return the jobs' specifications: four strategies in turns, small and large budgets, three priorities."""
        return [self._specification(number) for number in range(self.jobs)]

    def _specification(self, number: int) -> dict[str, Any]:
        epochs = max(10, round(self.epochs * (0.6 + 0.2 * (number % 5))))
        strategies: list[dict[str, Any]] = [
            {"kind": "random"},
            {"kind": "asha", "first_rung_epochs": max(1, epochs // 9)},
            {"kind": "hyperband", "first_rung_epochs": max(1, epochs // 9)},
            {"kind": "pbt", "generation_epochs": max(2, epochs // 5), "burn_in_epochs": max(2, epochs // 5)},
        ]
        return {
            "strategy": strategies[number % len(strategies)],
            "seed": 1000 * self.seed + number,
            "priority": number % 3,
            "architecture": _SMALL,
            "training": {"ramp_epochs": 0},
            "budget": {"models": self.models, "epochs": epochs, "top_k": 3 if number % 2 else 20},
            "inference": {"posterior_samples": 2},
        }


@dataclass(frozen=True)
class Survived:
    """What a soak leaves.

    Parameters
    ----------
    plan, settings, place
        Of the soak.
    database, arrays
        As the soak left them.
    job_ids
        In the order of the specifications.
    injector
        Records the faults.
    jobs_ended_meanwhile
        Jobs that ended before the last fault.
    rest_s
        Seconds after the faults until all jobs had ended.
    not_ended
        Processes that had to be killed in the end.
    """

    plan: SoakPlan
    settings: Settings
    place: Place
    database: Database
    arrays: Store
    job_ids: list[str]
    injector: FaultInjector
    jobs_ended_meanwhile: int
    rest_s: float
    not_ended: list[str]


def soak(plan: SoakPlan, folder: Path) -> Survived:
    """Run a soak in an empty folder, with the lease and the maintenance of the service's settings."""
    given = Settings()
    database = Database(plan.database_url)
    migrate(database)
    arrays = open_array_store("sql:", database)
    with broker(folder) as messages:
        settings = given.model_copy(
            update={
                "data_dir": folder,
                "database_url": plan.database_url,
                "redis_url": messages.url,
                "array_url": "sql:",
                "slice_seconds": plan.slice_seconds,
                "heartbeat_seconds": min(plan.slice_seconds / 4, given.heartbeat_seconds),
                "collect_seconds": max(5.0, plan.seconds / 20),
            }
        )
        place = Place(folder / "soak", _environment(settings))
        place.folder.mkdir()
        place.begin_file.touch()
        pool = ProcessPool(place, plan.epoch_seconds)
        try:
            _start(plan, pool, database)
            write_data(arrays)
            job_ids = add_jobs(database, plan.specifications())
            injector = FaultInjector(
                database=database,
                settings=settings,
                queue=redis.Redis.from_url(messages.url),
                pool=pool,
                job_ids=job_ids,
                cancellable_ids=[one for n, one in enumerate(job_ids) if n % 10 >= _CANCELLABLE_FROM],
                random=np.random.default_rng([plan.seed, 0xD1]),
                freeze_s=1.1 * settings.lease_seconds + settings.maintenance_seconds + 1.0,
                rest_s=4 * plan.fault_interval_s,
            )
            leased = select(func.count()).where(Slice.state == SliceState.LEASED)
            _wait(lambda: _count(database, leased) > 0, _START_SECONDS, pool)
            _inject_faults(plan, pool, injector)
            ended = _count(database, select(func.count()).where(Job.state.in_(_FINAL)))
            rest_s = _wait_for_all_jobs(plan, pool, database)
        finally:
            place.stop_file.touch()
            not_ended = pool.end(_END_SECONDS)
    return Survived(plan, settings, place, database, arrays, job_ids, injector, ended, rest_s, not_ended)


def _environment(settings: Settings) -> dict[str, str]:
    names = (
        "data_dir", "database_url", "redis_url", "array_url", "slice_seconds", "heartbeat_seconds",
        "collect_seconds", "lease_seconds", "maintenance_seconds", "outbox_seconds",
    )  # fmt: skip
    return {f"LATENTRY_{name.upper()}": str(getattr(settings, name)) for name in names}


def _start(plan: SoakPlan, pool: ProcessPool, database: Database) -> None:
    for _ in range(plan.workers):
        pool.start("worker")
    workers = select(func.count()).select_from(Worker)
    _wait(lambda: _count(database, workers) >= plan.workers, _START_SECONDS, pool)
    for _ in range(_CONTROLS):
        pool.start("control")
    pool.start("maintenance")


def _inject_faults(plan: SoakPlan, pool: ProcessPool, injector: FaultInjector) -> None:
    """Inject the faults at their times; in the end, continue all processes and jobs."""
    faults, started = plan_faults(plan.seed, plan.seconds, plan.fault_interval_s), time.monotonic()
    while (now := time.monotonic() - started) < plan.seconds:
        injector.step(now)
        pool.replace_ended()
        if faults and faults[0].at_s <= now:
            injector.inject(faults.pop(0).fault, now)
        else:
            time.sleep(0.05)
    injector.step(math.inf)


def _wait_for_all_jobs(plan: SoakPlan, pool: ProcessPool, database: Database) -> float:
    """Wait until every job has ended or is paused and no slice is left, and return the seconds it took."""
    unfinished = select(func.count()).where(Job.state.not_in(_RESTING))
    active = select(func.count()).where(Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]))
    started = time.monotonic()
    _wait(lambda: _count(database, unfinished) + _count(database, active) == 0, plan.rest_seconds, pool)
    return time.monotonic() - started


def _wait(is_done: Callable[[], bool], seconds: float, pool: ProcessPool) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not is_done():
        pool.replace_ended()
        time.sleep(0.2)


def _count(database: Database, query: Any) -> int:
    with database.read() as session:
        return int(session.execute(query).scalar_one())


def run(plan: SoakPlan, folder: Path, database: str) -> dict[str, Any]:
    """Run a soak, check the invariants, and return the findings for one line of JSON."""
    survived = soak(plan, folder)
    found = asdict(check_invariants(survived.database, survived.arrays))
    injector = survived.injector
    compared, differs = compare_selected(survived, folder)
    recoveries = read_recoveries(survived.database, injector.deaths)
    survived.database.close()
    errors = [one["error"] for one in survived.place.read_notes("error")]
    return {
        "database": database,
        "seed": plan.seed,
        "seconds": plan.seconds,
        "workers": plan.workers,
        "lease_s": survived.settings.lease_seconds,
        "maintenance_s": survived.settings.maintenance_seconds,
        "slice_s": round(plan.slice_seconds, 2),
        **found,
        "kills": sum(injector.faults[kind] for kind in _KILLS),
        "events": dict(sorted(injector.faults.items())),
        **_describe_recoveries(recoveries),
        **_describe_refusals(survived),
        "selected_compared": compared,
        "selected_differs": differs,
        "jobs_done": found["jobs"].get(JobState.DONE, 0),
        "jobs_ended_meanwhile": survived.jobs_ended_meanwhile,
        "rest_s": round(survived.rest_s, 1),
        "locked_out": injector.locked_out,
        "task_errors": {error: errors.count(error) for error in sorted(set(errors))},
        "ended_by_themselves": len(survived.place.read_notes("ended")),
        "not_ended": survived.not_ended,
    }


def compare_selected(survived: Survived, folder: Path) -> tuple[int, int]:
    """Return how many jobs were compared with themselves undisturbed, and how many of them selected another model."""
    chosen: list[tuple[dict[str, Any], Selected | None]] = []
    with survived.database.read() as session:
        specifications = survived.plan.specifications()
        for job_id, specification in zip(survived.job_ids, specifications, strict=True):
            is_over = JobState(session.get_one(Job, job_id).state).is_final
            is_same = job_id not in survived.injector.changed_ids
            if is_over and is_same and specification["strategy"]["kind"] in DETERMINISTIC:
                chosen.append((specification, selected_of(session, job_id)))
    expected = select_undisturbed(folder, [specification for specification, _ in chosen])
    return len(chosen), sum(one != other for (_, one), other in zip(chosen, expected, strict=True))


def _describe_recoveries(recoveries: list[Recovery]) -> dict[str, Any]:
    """Return times of slices whose workers were killed, with and without waiting for the end of the lease."""

    def at_most_and_median(times: list[float | None], name: str) -> dict[str, float | None]:
        known = [one for one in times if one is not None]
        return {
            f"{name}_max": round(max(known), 1) if known else None,
            f"{name}_median": round(statistics.median(known), 1) if known else None,
        }

    expired = [one for one in recoveries if one.fault == Fault.KILL]
    reaped = [one for one in recoveries if one.fault == Fault.KILL_AND_REAP]
    return {
        "slices_of_the_dead": len(recoveries),
        "unrecovered": sum(one.recovery_s is None for one in recoveries),
        **at_most_and_median([one.recovery_s for one in recoveries], "recovery_s"),
        **at_most_and_median([one.taken_back_s for one in expired], "expired_taken_back_s"),
        **at_most_and_median([one.taken_back_s for one in reaped], "reaped_taken_back_s"),
    }


def _describe_refusals(survived: Survived) -> dict[str, int]:
    """Return how many leases were refused to workers that had lost them; a frozen worker must be among these."""
    refused = {one["token"] for one in survived.place.read_notes("refused")}
    overdue = [one for one in survived.injector.freezes if one.was_taken]
    return {
        "refused": len(refused),
        "frozen_beyond_lease": len(overdue),
        "not_refused": sum(
            one.token not in refused and one.name not in survived.injector.killed for one in overdue
        ),
    }


def main() -> None:
    """Run one soak, and print the findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="time with faults")
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seed", type=int, default=0, help="of jobs and faults")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--models", type=int, default=20, help="of each job")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latentry-soak-")))
        url = f"sqlite:///{folder / 'latentry.db'}"
        if given.database == "postgresql":
            url = stack.enter_context(postgresql(durable=True)).new_database()
        plan = SoakPlan(url, given.seconds, given.jobs, given.models, given.workers, given.seed)
        found = run(plan, folder, given.database)
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    sys.exit(any(found[name] for name in MUST_BE_ZERO))


if __name__ == "__main__":
    main()
