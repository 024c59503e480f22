"""A soak: jobs of several strategies on workers that are killed, frozen and told to go; then peace until all is done.

`soak` leaves database and array store as they are in the end, for `benchmarks.simulation.invariants` to read.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
from sqlalchemy import func, select
from zarr.abc.store import Store

from benchmarks.simulation.fault_injector import Disturber
from benchmarks.simulation.faults import plan_faults
from benchmarks.simulation.load import add_jobs, write_data
from benchmarks.simulation.process_pool import Crew
from benchmarks.simulation.processes import Place
from benchmarks.simulation.servers import broker
from domain.states import JobState, SliceState
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Job, Slice, Worker

_CONTROLS = 2
_START_SECONDS = 120.0
_END_SECONDS = 60.0
_ROUGH_FROM = 7  # of each ten jobs those from here on may be stopped and cancelled
_SMALL = {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 16, "factors": 4}
"""Sizes of networks: what a soak is about are transactions, not bytes."""


@dataclass(frozen=True)
class SoakPlan:
    """What is tried.

    Parameters
    ----------
    database_url
        Of a new database.
    seconds
        Of faults; peace comes after.
    jobs, models, workers
        How many; models of each job.
    seed
        Of faults and jobs.
    epoch_seconds
        Mean length of an epoch.
    load
        Share of the workers' time, while there are faults, that random search over all jobs would take undisturbed.
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
        """Short, so that there are many."""
        return max(0.5, self.epochs * self.epoch_seconds / 5)

    @property
    def fault_interval_s(self) -> float:
        """Mean time between two faults, those of jobs too."""
        return min(2.5, max(0.5, self.seconds / 150))

    @property
    def peace_seconds(self) -> float:
        """So long is waited at most until all is done."""
        return max(90.0, 1.5 * self.seconds)

    def specifications(self) -> list[dict[str, Any]]:
        """What the jobs ask for: four strategies in turns, small and large budgets, some of higher priority."""
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
    """What is there after a soak.

    Parameters
    ----------
    plan, settings, place
        Of the soak.
    database, arrays
        As they were left.
    job_ids
        In the order of the specifications.
    disturber
        What was done.
    jobs_ended_meanwhile
        Jobs that ended before peace.
    peace_s
        How long it took until all was done, or was waited in vain.
    never_went
        Processes that had to be killed in the end.
    """

    plan: SoakPlan
    settings: Settings
    place: Place
    database: Database
    arrays: Store
    job_ids: list[str]
    disturber: Disturber
    jobs_ended_meanwhile: int
    peace_s: float
    never_went: list[str]


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
        crew = Crew(place, plan.epoch_seconds)
        try:
            _start(plan, crew, database)
            write_data(arrays)
            job_ids = add_jobs(database, plan.specifications())
            disturber = Disturber(
                database=database,
                settings=settings,
                queue=redis.Redis.from_url(messages.url),
                crew=crew,
                job_ids=job_ids,
                rough_ids=[one for number, one in enumerate(job_ids) if number % 10 >= _ROUGH_FROM],
                random=np.random.default_rng([plan.seed, 0xD1]),
                freeze_s=1.1 * settings.lease_seconds + settings.maintenance_seconds + 1.0,
                rest_s=4 * plan.fault_interval_s,
            )
            _wait(lambda: _count(database, _BEGUN) > 0, _START_SECONDS, crew)
            _disturb(plan, crew, disturber)
            ended = _count(database, select(func.count()).where(Job.state.in_(_FINAL)))
            peace_s = _keep_peace(plan, crew, database)
        finally:
            place.stop_file.touch()
            never_went = crew.end(_END_SECONDS)
    return Survived(plan, settings, place, database, arrays, job_ids, disturber, ended, peace_s, never_went)


_FINAL = [state for state in JobState if state.is_final]
_BEGUN = select(func.count()).where(Slice.state == SliceState.LEASED)
_RESTING = [*_FINAL, JobState.PAUSED]


def _environment(settings: Settings) -> dict[str, str]:
    names = (
        "data_dir", "database_url", "redis_url", "array_url", "slice_seconds", "heartbeat_seconds",
        "collect_seconds", "lease_seconds", "maintenance_seconds", "outbox_seconds",
    )  # fmt: skip
    return {f"LATENTRY_{name.upper()}": str(getattr(settings, name)) for name in names}


def _start(plan: SoakPlan, crew: Crew, database: Database) -> None:
    for _ in range(plan.workers):
        crew.start("worker")
    workers = select(func.count()).select_from(Worker)
    _wait(lambda: _count(database, workers) >= plan.workers, _START_SECONDS, crew)
    for _ in range(_CONTROLS):
        crew.start("control")
    crew.start("maintenance")


def _disturb(plan: SoakPlan, crew: Crew, disturber: Disturber) -> None:
    """Do the faults at their times; in the end, everybody and everything may go on."""
    faults, started = plan_faults(plan.seed, plan.seconds, plan.fault_interval_s), time.monotonic()
    while (now := time.monotonic() - started) < plan.seconds:
        disturber.step(now)
        crew.replace_ended()
        if faults and faults[0].at_s <= now:
            disturber.disturb(faults.pop(0).fault, now)
        else:
            time.sleep(0.05)
    disturber.step(math.inf)


def _keep_peace(plan: SoakPlan, crew: Crew, database: Database) -> float:
    """Wait until no job goes on and no slice waits; returns the seconds it took, at most the plan's."""
    going_on = select(func.count()).where(Job.state.not_in(_RESTING))
    active = select(func.count()).where(Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]))
    started = time.monotonic()
    _wait(lambda: _count(database, going_on) + _count(database, active) == 0, plan.peace_seconds, crew)
    return time.monotonic() - started


def _wait(is_done: Callable[[], bool], seconds: float, crew: Crew) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not is_done():
        crew.replace_ended()
        time.sleep(0.2)


def _count(database: Database, query: Any) -> int:
    with database.read() as session:
        return int(session.execute(query).scalar_one())
