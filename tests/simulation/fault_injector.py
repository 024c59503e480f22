"""The faults of a soak: which come when, drawn from one seed; and how they are injected and recorded."""

import math
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.errors import WrongState
from api.jobs import lifecycle
from domain.states import JobState
from store import outbox
from store.database import LOCK, Database
from store.queues import CONTROL, SLICES
from store.settings import Settings
from store.tables import Job, Slice
from tests.simulation.processes import ProcessPool, Role
from worker.scheduling.leases import reap

_REPEATS = 10
_RETRIED_SHARE = 0.75


class Fault(StrEnum):
    """What is done to the service, or to its jobs."""

    KILL = "kill"
    """SIGKILL of a worker whose lease must expire."""
    KILL_AND_REAP = "kill_and_reap"
    """SIGKILL of a worker whose lease is taken back at once."""
    FREEZE = "freeze"
    """SIGSTOP of a worker for longer than its lease, then SIGCONT."""
    TERMINATE = "terminate"
    """SIGTERM of a worker."""
    KILL_CONTROL = "kill_control"
    """SIGKILL of a process that runs `advance`."""
    KILL_MAINTENANCE = "kill_maintenance"
    """SIGKILL of the maintenance loop."""
    EMPTY_QUEUES = "empty_queues"
    """Deletion of all messages of the broker."""
    REPEAT_MESSAGES = "repeat_messages"
    """Ten copies of each message."""
    PAUSE = "pause"
    """A pause of a job, which resumes later."""
    CANCEL = "cancel"
    """A cancel of a job, which is often retried later."""
    STOP = "stop"
    """A stop of a job: it selects among the models so far."""


WEIGHTS = {
    Fault.KILL: 3,
    Fault.KILL_AND_REAP: 3,
    Fault.FREEZE: 1,
    Fault.TERMINATE: 2,
    Fault.KILL_CONTROL: 2,
    Fault.KILL_MAINTENANCE: 2,
    Fault.EMPTY_QUEUES: 1,
    Fault.REPEAT_MESSAGES: 2,
    Fault.PAUSE: 6,
    Fault.CANCEL: 2,
    Fault.STOP: 1,
}
"""Relative frequencies."""


@dataclass(frozen=True)
class PlannedFault:
    """A fault, `at_s` seconds after the start."""

    at_s: float
    fault: Fault


def plan_faults(seed: int, seconds: float, interval_s: float) -> list[PlannedFault]:
    """Draw faults at random times, `interval_s` seconds apart on average; every kind is among the first eleven."""
    random, kinds = np.random.default_rng([seed, 0xFA]), list(WEIGHTS)
    times: list[float] = []
    while (at := (times[-1] if times else 0.0) + random.exponential(interval_s)) < seconds:
        times.append(float(at))
    weights = np.array([WEIGHTS[kind] for kind in kinds], float)
    drawn = [
        *random.permutation(len(kinds)),
        *random.choice(len(kinds), len(times), p=weights / weights.sum()),
    ]
    return [PlannedFault(at, kinds[kind]) for at, kind in zip(times, drawn, strict=False)]


@dataclass(frozen=True)
class Death:
    """A slice whose worker was killed, by `Fault.KILL` or `Fault.KILL_AND_REAP`, and when."""

    fault: Fault
    slice_id: str
    at: datetime


@dataclass(frozen=True)
class Freeze:
    """A worker that was frozen while it held a lease.

    Parameters
    ----------
    name
        Name of the worker.
    token
        Token of the lease.
    was_taken
        Whether the lease was no longer the worker's when the worker continued.
    """

    name: str
    token: str
    was_taken: bool


@dataclass
class FaultInjector:
    """Injects one fault after the other.

    Parameters
    ----------
    database, settings
        Database and settings of the service.
    queue
        Connection to the broker.
    pool
        The processes.
    job_ids
        Ids of all jobs.
    cancellable_ids
        Ids of the jobs that may be stopped and cancelled.
    random
        Chooses the process or the job that a fault meets.
    freeze_s
        How long a worker is frozen.
    rest_s
        How long a job is paused or cancelled, on average.
    """

    database: Database
    settings: Settings
    queue: Any
    pool: ProcessPool
    job_ids: Sequence[str]
    cancellable_ids: Sequence[str]
    random: np.random.Generator
    freeze_s: float
    rest_s: float
    faults: Counter[str] = field(default_factory=Counter)
    deaths: list[Death] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    """Names of killed workers."""
    changed_ids: set[str] = field(default_factory=set)
    """Jobs that were stopped or cancelled. They may select another model than undisturbed."""
    locked_out: int = 0
    """Transactions of the injector that the database refused: a frozen worker held SQLite's lock."""
    _later: list[tuple[float, Callable[[float], object]]] = field(default_factory=list)
    _frozen: str | None = None

    def inject(self, fault: Fault, now: float) -> None:
        """Inject a fault, if there is a process or a job that it can meet."""
        done = {
            Fault.KILL: self._kill_worker,
            Fault.KILL_AND_REAP: self._kill_worker,
            Fault.FREEZE: self._freeze,
            Fault.TERMINATE: self._terminate,
            Fault.KILL_CONTROL: self._kill_helper,
            Fault.KILL_MAINTENANCE: self._kill_helper,
            Fault.EMPTY_QUEUES: self._empty_queues,
            Fault.REPEAT_MESSAGES: self._repeat_messages,
            Fault.PAUSE: self._pause,
            Fault.CANCEL: self._cancel,
            Fault.STOP: self._stop,
        }[fault](fault, now)
        self.faults[str(fault)] += done

    def step(self, now: float) -> None:
        """Do what was put off until now: continue frozen workers and paused jobs."""
        due = [then for at, then in self._later if at <= now]
        self._later = [(at, then) for at, then in self._later if at > now]
        for then in due:
            then(now)

    def _kill_worker(self, fault: Fault, _now: float) -> bool:
        if (name := self._choose(self._awake())) is None:
            return False
        self.pool.kill(name)
        at = datetime.now(UTC)
        self.killed.add(name)
        self.pool.start("worker")
        self.deaths += [Death(fault, piece.id, at) for piece in self._leases(name)]
        if fault == Fault.KILL_AND_REAP:
            self._write(lambda session: reap(session, self.settings, held_by=name, process_died=False))
        return True

    def _freeze(self, _fault: Fault, now: float) -> bool:
        if now == math.inf:
            return False
        at_work = [name for name in self._awake() if self._leases(name)]
        if self._frozen is not None or (name := self._choose(at_work)) is None:
            self._later.append((now + 1.0, lambda then: self.inject(Fault.FREEZE, then)))
            return False
        self.pool.send(name, signal.SIGSTOP)
        self._frozen, held = name, self._leases(name)
        # First of all: on SQLite it may hold the lock that others wait for.
        self._later.insert(0, (now + self.freeze_s, lambda _: self._thaw(name, held)))
        return True

    def _thaw(self, name: str, held: Sequence[Slice]) -> None:
        for before in held:
            with self.database.read() as session:
                token = session.get_one(Slice, before.id).lease_token
            self.freezes.append(Freeze(name, before.lease_token or "", token != before.lease_token))
        self.pool.send(name, signal.SIGCONT)
        self._frozen = None

    def _terminate(self, _fault: Fault, _now: float) -> bool:
        if (name := self._choose(self._awake())) is None:
            return False
        self.pool.terminate(name)
        self.pool.start("worker")
        return True

    def _kill_helper(self, fault: Fault, _now: float) -> bool:
        role: Role = "control" if fault == Fault.KILL_CONTROL else "maintenance"
        name = self._choose(self.pool.names(role))
        if name is None:
            return False
        self.pool.kill(name)
        self.pool.start(role)
        return True

    def _empty_queues(self, _fault: Fault, _now: float) -> bool:
        self.queue.delete(SLICES, CONTROL)
        return True

    def _repeat_messages(self, _fault: Fault, _now: float) -> bool:
        for queue in (SLICES, CONTROL):
            for message in self.queue.lrange(queue, 0, -1):
                self.queue.lpush(queue, *[message] * (_REPEATS - 1))
        job_ids = self.random.choice(self.job_ids, 3)

        def post(session: Session) -> None:
            for _ in range(_REPEATS):
                outbox.post(session, outbox.RUN_SLICE)
                for job_id in job_ids:
                    outbox.post(session, outbox.ADVANCE, str(job_id))

        return self._write(post)

    def _pause(self, _fault: Fault, now: float) -> bool:
        job_id = self._choose(self._jobs(self.job_ids, JobState.QUEUED, JobState.RUNNING))
        if job_id is None or not self._change(job_id, lifecycle.pause):
            return False
        self._after_a_rest(now, lambda _: self._change(job_id, lifecycle.resume))
        return True

    def _cancel(self, _fault: Fault, now: float) -> bool:
        job_id = self._choose(self._jobs(self.cancellable_ids, *_UNFINISHED))
        if job_id is None or not self._change(job_id, lifecycle.cancel):
            return False
        self.changed_ids.add(job_id)
        if self.random.uniform() < _RETRIED_SHARE:
            self._after_a_rest(now, lambda _: self._change(job_id, lifecycle.retry))
        return True

    def _stop(self, _fault: Fault, _now: float) -> bool:
        job_id = self._choose(self._jobs(self.cancellable_ids, JobState.RUNNING, JobState.PAUSED))
        if job_id is None or not self._change(job_id, lifecycle.stop):
            return False
        self.changed_ids.add(job_id)
        return True

    def _after_a_rest(self, now: float, then: Callable[[float], object]) -> None:
        self._later.append((now + self.rest_s * self.random.uniform(0.5, 1.5), then))

    def _choose(self, among: Sequence[str]) -> str | None:
        return among[int(self.random.integers(len(among)))] if among else None

    def _awake(self) -> list[str]:
        return [name for name in self.pool.names("worker") if name != self._frozen]

    def _leases(self, name: str) -> list[Slice]:
        held = select(Slice).where(Slice.leased_by == name, Slice.lease_token.is_not(None))
        with self.database.read() as session:
            return list(session.execute(held).scalars())

    def _jobs(self, among: Sequence[str], *states: JobState) -> list[str]:
        found = select(Job.id).where(Job.id.in_(among), Job.state.in_(states)).order_by(Job.id)
        with self.database.read() as session:
            return list(session.execute(found).scalars())

    def _change(self, job_id: str, change: Callable[[Session, Job], None]) -> bool:
        def of_job(session: Session) -> None:
            change(session, session.get_one(Job, job_id, with_for_update=LOCK))

        try:
            return self._write(of_job)
        except WrongState:
            return False

    def _write(self, work: Callable[[Session], object]) -> bool:
        try:
            with self.database.write() as session:
                work(session)
        except OperationalError:
            self.locked_out += 1
            return False
        return True


_UNFINISHED = [state for state in JobState if not state.is_final]
