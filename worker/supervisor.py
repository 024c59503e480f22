"""Child processes of one command: they are started, restarted when they die, and stopped in order."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from store.logs import configure
from store.metrics import serve
from store.queues import QUEUES
from store.settings import Settings
from worker.child_processes import die_with_parent

logger = logging.getLogger(__name__)

BROKER = "broker"
"""The child that stops last, since the others use it."""
_LOG_BYTES = 10 * 2**20


class EmbeddedServiceError(RuntimeError):
    """The processes cannot start. The message says why, and what to do."""


def celery_command(queue: str, node: str) -> list[str]:
    """Return the command of a Celery worker of a queue, by the name of its node."""
    celery = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker"]
    celery += ["--without-gossip", "--without-mingle"]
    return [*celery, *QUEUES[queue].options, "-n", f"{node}@%h"]


@dataclass
class Child:
    """A process that this one started."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    restarts: int = 0
    has_been_drained: bool = False


class Supervisor:
    """Processes that live as long as this one.

    Parameters
    ----------
    name
        Name of this process in its own log.
    log_dir
        Folder of the logs, one for each process. With None the processes write to the standard output of this one.
    stop_seconds
        How long all processes together may take to stop. What still runs then is killed.
    """

    def __init__(self, name: str, log_dir: Path | None, stop_seconds: float = 20.0) -> None:
        self._name, self._log_dir, self._stop_seconds = name, log_dir, stop_seconds
        self._children: list[Child] = []
        self._environment: dict[str, str] = {}

    @property
    def log_dir(self) -> Path:
        """Folder of the logs, one for each process."""
        assert self._log_dir is not None
        return self._log_dir

    def configure_logs(self) -> None:
        """Let this process log as the others do, to its standard error."""
        configure(self._name, Settings())

    def _collect_metrics(self, settings: Settings, folder: Path) -> None:
        """Serve the metrics of all processes from this one, if the settings have a port for them."""
        if settings.metrics_port:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._environment |= {"PROMETHEUS_MULTIPROC_DIR": str(folder), "LATENTRY_METRICS_PORT": "0"}
            serve(settings, str(folder))

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Restart processes that die, until told to stop. Their work continues from its last checkpoint.

        A worker that the operator drained ends without an error, and stays away.
        """
        while not stopping():
            for child in self._children:
                if child.has_been_drained:
                    continue
                if child.process.poll() == 0 and child.name.startswith("worker-"):
                    child.has_been_drained = True
                    logger.info("%s was drained and has ended; the next start begins it again", child.name)
                elif child.process.poll() is not None:
                    child.restarts += 1
                    logger.warning(
                        "%s ended with status %s; it is started again", child.name, child.process.returncode
                    )
                    time.sleep(min(0.5 * child.restarts, 10.0))
                    self._before_restart(child)
                    child.process = self._popen(child.name, child.command, child.environment)
            self._cut_logs()
            time.sleep(0.2)

    def _before_restart(self, child: Child) -> None:
        """Prepare the restart of a process that died."""

    def _cut_logs(self) -> None:
        """Copy each large log to `NAME.log.1`, and empty it. Processes open logs to append, so they continue at its begin."""
        for path in self._log_dir.glob("*.log") if self._log_dir else ():
            if path.stat().st_size > _LOG_BYTES:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

    def stop(self) -> None:
        """Stop all processes. Workers end their slices at the next epoch and return them."""
        deadline = time.monotonic() + self._stop_seconds
        for child in reversed(self._children):
            if child.name != BROKER:
                _terminate(child)
        for child in self._children:
            if child.name != BROKER:
                _wait_or_kill(child, deadline)
        for child in self._children:
            if child.name == BROKER:
                _terminate(child)
                _wait_or_kill(child, time.monotonic() + 5.0)
        self._children = []

    def _spawn(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        whole = {**self._environment, **(environment or {})}
        self._children.append(Child(name, command, whole, self._popen(name, command, whole)))

    def _popen(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        log = (self._log_dir / f"{name}.log").open("ab") if self._log_dir else None
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the others in order
                preexec_fn=die_with_parent,
            )
        finally:
            if log:
                log.close()

    def _check_alive(self) -> None:
        for child in self._children:
            if child.process.poll() is not None:
                log = self.log_dir / f"{child.name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-5:]
                raise EmbeddedServiceError(
                    f"{child.name} ended at once; the end of {log}:\n" + "\n".join(last)
                )


def _terminate(child: Child) -> None:
    if child.process.poll() is None:
        child.process.send_signal(signal.SIGTERM)


def _wait_or_kill(child: Child, deadline: float) -> None:
    try:
        child.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        logger.warning(
            "%s did not end in time and is killed; its work continues at the next start", child.name
        )
        child.process.kill()
        child.process.wait()
