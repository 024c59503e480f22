"""The processes of a soak: started, killed, frozen, and replaced when they are gone."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from benchmarks.simulation.killable_workers import (
    note,
    run_mortal_control,
    run_mortal_maintenance,
    run_mortal_worker,
)
from benchmarks.simulation.processes import Place

Role = Literal["worker", "control", "maintenance"]
_TARGETS: dict[Role, Callable[..., None]] = {
    "worker": run_mortal_worker,
    "control": run_mortal_control,
    "maintenance": run_mortal_maintenance,
}


class Crew:
    """Processes by name; a name is never used again.

    Parameters
    ----------
    place
        Where they meet.
    epoch_seconds
        Mean length of an epoch of training.
    """

    def __init__(self, place: Place, epoch_seconds: float) -> None:
        self._place, self._epoch_seconds = place, epoch_seconds
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.simulation.preloaded"])
        self._running: dict[str, BaseProcess] = {}
        self._leaving: dict[str, BaseProcess] = {}
        self._started = 0

    def start(self, role: Role) -> str:
        """Start a process and return its name."""
        name = f"{role}-{self._started:03d}"
        self._started += 1
        more: Sequence[Any] = (self._epoch_seconds,) if role == "worker" else ()
        process = self._context.Process(target=_TARGETS[role], args=(self._place, name, *more), daemon=True)
        process.start()
        self._running[name] = process
        return name

    def names(self, role: Role) -> list[str]:
        """Those of a role that are there and not on their way out."""
        return [name for name in self._running if name.startswith(role)]

    def kill(self, name: str) -> None:
        """SIGKILL; returns when it is dead."""
        process = self._running.pop(name)
        process.kill()
        process.join()

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal, if the process is there."""
        process = self._running.get(name)
        if process is not None and process.pid is not None and process.exitcode is None:
            os.kill(process.pid, number)

    def tell_to_go(self, name: str) -> None:
        """SIGTERM; it goes when it has ended its epoch."""
        self.send(name, signal.SIGTERM)
        self._leaving[name] = self._running.pop(name)

    def replace_ended(self) -> None:
        """Start others for those that ended untold, and note them."""
        for name, process in list(self._running.items()):
            if process.exitcode is not None:
                del self._running[name]
                note(self._place, "ended", name=name, status=str(process.exitcode))
                self.start(_role(name))

    def end(self, seconds: float) -> list[str]:
        """Wait until everybody has gone, and kill those that have not; returns their names."""
        deadline, late = time.monotonic() + seconds, []
        for name, process in (self._running | self._leaving).items():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                late.append(name)
                process.kill()
                process.join()
        return late


def _role(name: str) -> Role:
    role: Role = next(role for role in _TARGETS if name.startswith(f"{role}-"))
    return role
