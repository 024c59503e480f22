"""The database of the service, which measures every transaction."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.orm import Session

from store.database import Database

KIND_OF_CALLER = {  # function of the service that opens a transaction → purpose of the transaction
    "run_next": "claim",
    "load_work": "load",
    "write_with_retry": "report",
    "leased_transaction": "heartbeat",
    "say_alive": "alive",
    "_get": "array read",
    "_values_of": "array read",
    "_set": "array write",
    "_delete": "array delete",
    "_size": "array size",
    "_keys": "array list",
    "_searched_models": "inference",
    "read_conditions": "inference",
    "run_control": "advance",
    "send_outbox": "outbox",
    "run": "sweep",
}


class Transaction(NamedTuple):
    """One transaction.

    Parameters
    ----------
    kind
        A value of `KIND_OF_CALLER`.
    writes
        Whether it may write. On SQLite it then holds the only write lock.
    ended
        Time of its end, in seconds of the machine's monotonic clock.
    waited_s
        Wait for a connection, and on SQLite for the write lock.
    open_s
        Time from its begin to its commit.
    cpu_s
        CPU time of its client.
    """

    kind: str
    writes: bool
    ended: float
    waited_s: float
    open_s: float
    cpu_s: float


@dataclass
class Locks:
    """How long writing transactions held their locks.

    Parameters
    ----------
    transactions
        Number of writing transactions.
    seconds
        Time of everything.
    open_ms, cpu_ms
        The longest transaction, and the most CPU time of one. On PostgreSQL, others wait that long for the rows that it changes.
    wait_ms, over_100_ms
        The longest wait of another process for SQLite's write lock, and the number of waits above 100 ms.
    """

    transactions: int = 0
    seconds: float = 0.0
    open_ms: float = 0.0
    cpu_ms: float = 0.0
    wait_ms: float = 0.0
    over_100_ms: int = 0


class MeasuredDatabase(Database):
    """A `Database` that records its transactions in `transactions`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.transactions: list[Transaction] = []
        self._clock = threading.local()
        event.listen(self.engine, "begin", self._after_begin)

    @cached_property
    def apart(self) -> "MeasuredDatabase":
        """Return a database as the service does; its transactions are recorded in ours."""
        other = MeasuredDatabase(self.url)
        other.transactions = self.transactions
        return other

    @cached_property
    def probe(self) -> "subprocess.Popen[str] | None":
        """Return a process that asks for SQLite's write lock all the time; None on PostgreSQL. It ends with this process."""
        if not self.is_sqlite:
            return None
        command = [sys.executable, "-m", "tests.simulation.lock_probe", str(self.engine.url.database)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        """End the probe, too."""
        super().close()
        if (probe := vars(self).pop("probe", None)) is not None:
            probe.communicate(timeout=10)

    @contextmanager
    def locks_in(self, locks: "Locks") -> Iterator[None]:
        """Measure the locks of a block."""
        self._probed()
        self.transactions.clear()
        begun = time.monotonic()
        yield
        waited = self._probed()
        open_s = [(one.open_s, one.cpu_s) for one in self.transactions if one.writes]
        locks.transactions += len(open_s)
        locks.seconds += time.monotonic() - begun
        locks.open_ms = max(locks.open_ms, *(round(1e3 * wall, 1) for wall, _ in open_s), 0.0)
        locks.cpu_ms = max(locks.cpu_ms, *(round(1e3 * cpu, 1) for _, cpu in open_s), 0.0)
        locks.wait_ms = max(locks.wait_ms, waited["longest_ms"])
        locks.over_100_ms += int(waited["over_100_ms"])

    def _probed(self) -> dict[str, float]:
        if self.probe is None:
            return {"longest_ms": 0.0, "over_100_ms": 0}
        assert self.probe.stdin is not None
        assert self.probe.stdout is not None
        print(file=self.probe.stdin, flush=True)
        waited: dict[str, float] = json.loads(self.probe.stdout.readline())
        return waited

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction as the service does."""
        with self._measured(_kind(), writes=True), super().write() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction as the service does."""
        with self._measured(_kind(), writes=False), super().read() as session:
            yield session

    @contextmanager
    def _measured(self, kind: str, *, writes: bool) -> Iterator[None]:
        cpu, clock = time.thread_time(), self._clock
        asked = clock.begun = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            self.transactions.append(
                Transaction(
                    kind, writes, ended, clock.begun - asked, ended - clock.begun, time.thread_time() - cpu
                )
            )

    def _after_begin(self, _connection: Any) -> None:
        self._clock.begun = time.monotonic()


def _kind() -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if (name := frame.f_code.co_name) in KIND_OF_CALLER:
            return KIND_OF_CALLER[name]
        frame = frame.f_back
    return "other"
