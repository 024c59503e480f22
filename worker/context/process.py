"""The process that trains and infers: its resources, and what it keeps from slice to slice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete
from zarr.abc.store import Store

from domain.cost import Pace
from store.database import Database, database_now
from store.settings import Settings
from store.tables import Worker
from worker.context.data import DataCache


@dataclass
class TrainingProcess:
    """A training process.

    Parameters
    ----------
    database, arrays, settings
        Of the service.
    name
        Of this process. Its leases carry it.
    device
        ``cpu``, ``cuda:0``, …
    device_name
        Its model, or why ``auto`` took the CPU; see `worker.context.devices.choose_device`.
    should_yield
        Asked at the end of each epoch. If it returns True, the slice ends early with a checkpoint.
    last_was_inference
        Whether the process did an inference last: then the next turn is a slice's.
    group_sizes
        How many models train at once, as `worker.training.micro_batching` has found so far.
    pace
        How fast this process trains; None if it was not measured.
    is_draining
        Whether the operator drains it, as it last read: it claims nothing more, and ends when it is idle.
    """

    database: Database
    arrays: Store
    settings: Settings
    name: str
    device: str
    device_name: str = ""
    should_yield: Callable[[], bool] = lambda: False
    last_was_inference: bool = False
    group_sizes: dict[tuple[Any, ...], int] = field(default_factory=dict)
    pace: Pace | None = None
    is_draining: bool = False

    def __post_init__(self) -> None:
        self.data = DataCache(self.arrays, self.device)

    def say_alive(self) -> None:
        """Write that this process is alive. The scheduler spreads models over the processes that were seen lately."""
        with self.database.write() as session:
            row = session.get(Worker, self.name) or Worker(name=self.name, device=self.device)
            row.seen_at, row.device_name = database_now(session), self.device_name or None
            if self.pace is not None:
                row.overhead_pace, row.arithmetic_pace = self.pace.overhead, self.pace.arithmetic
            session.add(row)
            self.is_draining = row.draining_since is not None

    def say_gone(self) -> None:
        """Delete the row that says that this process is alive."""
        with self.database.write() as session:
            session.execute(delete(Worker).where(Worker.name == self.name))
