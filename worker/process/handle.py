"""The Celery side of the training process: start it, give it turns, notice its death.

The Celery child never imports torch, since a fork after threaded torch hangs. And if a model runs out of memory, only the
training process dies.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import IO

from worker.child_processes import TORCH_ENVIRONMENT, die_with_parent

logger = logging.getLogger(__name__)


class TrainingProcessDied(Exception):
    """The training process ended during a slice.

    Parameters
    ----------
    name
        Name in its leases; empty if the process ended before it was ready.
    returncode
        Its exit status. The kernel's out-of-memory killer leaves -9.
    """

    def __init__(self, name: str, returncode: int) -> None:
        when = "during a slice" if name else "before it was ready; its last lines above say why"
        super().__init__(f"the training process {name} ended with status {returncode} {when}")
        self.name, self.returncode = name, returncode


class TrainingHandle:
    """A training process. It starts at the first use and stays between slices.

    Parameters
    ----------
    threads
        CPU threads it may use.
    worker_pid
        Process that it ends when the operator drains it: Celery's main process. 0: none.
    """

    def __init__(self, threads: int, worker_pid: int = 0) -> None:
        self._threads, self._worker_pid = threads, worker_pid
        self._process: subprocess.Popen[str] | None = None
        self.name = ""

    def request_slice(self, should_yield: Callable[[], bool]) -> bool:
        """Tell the process to run the next queued slice, and wait for its end.

        Parameters
        ----------
        should_yield
            Asked four times a second. If it returns True, the process ends its slice at the next epoch, and then itself.

        Returns
        -------
        bool
            Whether a slice was queued.

        Raises
        ------
        TrainingProcessDied
            If the process ended before it answered.
        """
        process = self._started()
        try:
            _input(process).write("run\n")
            _input(process).flush()
        except BrokenPipeError:
            self._raise_death(process)
        told = False
        with selectors.DefaultSelector() as selector:
            selector.register(_output(process), selectors.EVENT_READ)
            while not selector.select(timeout=0.25):
                if not told and should_yield():
                    process.send_signal(signal.SIGTERM)
                    told = True
        line = _output(process).readline()
        if not line:
            self._raise_death(process)
        return bool(json.loads(line)["ran"])

    def warm_up(self) -> None:
        """Start the process if it does not run; do not wait until it is ready."""
        if self._process is not None and self._process.poll() is None:
            return
        threads = str(self._threads)
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads
        )
        environment |= TORCH_ENVIRONMENT
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "worker.process.main",
                *([str(self._worker_pid)] if self._worker_pid else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.name = ""

    def _started(self) -> subprocess.Popen[str]:
        self.warm_up()
        assert self._process is not None
        if not self.name:
            greeting = _output(self._process).readline()
            if not greeting:
                self._raise_death(self._process)
            self.name = json.loads(greeting)["name"]
        return self._process

    def _raise_death(self, process: subprocess.Popen[str]) -> None:
        self._process = None
        raise TrainingProcessDied(self.name, process.wait())


def _input(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout
