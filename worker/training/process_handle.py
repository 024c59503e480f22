"""The Celery side of the training process: starts it, hands it slices, notices its death.

The Celery child never imports torch: a fork after threaded torch hangs, and a model that runs out of memory takes the
training process alone.
"""

import ctypes
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import IO

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
KEEPS_BUFFERS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Environment of a process that holds torch: large buffers, taken anew at every step, are else paid in page faults."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere the closed input ends it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class TrainingProcessDied(Exception):
    """The training process ended in the middle of a slice.

    Parameters
    ----------
    name
        The name its leases carry.
    returncode
        Its exit status; -9 is what the kernel's out-of-memory killer leaves.
    """

    def __init__(self, name: str, returncode: int) -> None:
        super().__init__(
            f"the training process {name} ended with status {returncode} in the middle of a slice"
        )
        self.name, self.returncode = name, returncode


class TrainingHandle:
    """A training process that is started when first needed and kept warm.

    Parameters
    ----------
    threads
        CPU threads it may use.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None
        self.name = ""

    def run_next(self, should_yield: Callable[[], bool]) -> bool:
        """Have the process run the next queued slice.

        Parameters
        ----------
        should_yield
            Asked four times a second; once True, the process is told to end its slice at the next epoch, and to go.

        Returns
        -------
        bool
            Whether there was one.

        Raises
        ------
        TrainingProcessDied
            If it ended before it answered.
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
        """Start the process if it is not there, without waiting until it is ready."""
        if self._process is not None and self._process.poll() is None:
            return
        threads = str(self._threads)
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads
        )
        environment |= KEEPS_BUFFERS
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.training.process"],
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
