"""Faults inside the processes of a service. Python imports this at its start, where its folder is on PYTHONPATH.

A test asks for one by a file in the folder ``faults`` beside the service's data; the first process that comes to the place
takes the file away, so that each happens once.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COMMAND = " ".join(sys.orig_argv)


def _give_wrong_clock() -> None:
    """Begin again with a library that shifts the clock, in those processes that the test named with their seconds."""
    library = os.environ.get("WRONG_CLOCK_LIBRARY", "")
    for part in os.environ.get("WRONG_CLOCKS", "").split():
        word, seconds = part.split("=")
        if library and word in _COMMAND and "LD_PRELOAD" not in os.environ:
            os.environ |= {"LD_PRELOAD": library, "WRONG_CLOCK_SECONDS": seconds}
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _comes(fault: str) -> bool:
    folder = Path(os.environ["LATENTRY_DATA_DIR"]) / "faults"
    try:
        (folder / fault).rename(folder / f"{fault} happened")
    except FileNotFoundError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _inject() -> None:
    from safetensors.torch import save

    import worker.inference.job_results
    import worker.training.train
    from store.array_store import write_object
    from worker.training.progress import Progress

    save_checkpoint, end_slice = worker.training.train.save_checkpoint, worker.training.train.end_slice
    add = Progress.add

    def save_half(store: Any, key: str, state: Mapping[str, Any]) -> None:
        if _comes("killed while writing a checkpoint"):
            value = save(dict(state))
            write_object(store, key, value[: len(value) // 2])
            _die()
        save_checkpoint(store, key, state)

    def report_never(*arguments: Any) -> None:
        if _comes("killed before the report"):
            _die()
        end_slice(*arguments)

    def be_slow_or_run_out_of_memory(self: Progress, scores: Mapping[int, Any]) -> None:
        work = self._work
        if work.job.name == "model 1 never fits" and any(model.number == 1 for model in work.models):
            if work.piece.attempts == 0:
                _die()  # what the kernel does
            raise MemoryError("no memory is left")
        if work.job.name == "slow":
            time.sleep(0.02)
        add(self, scores)

    worker.training.train.save_checkpoint = save_half
    worker.training.train.end_slice = worker.inference.job_results.end_slice = report_never
    Progress.add = be_slow_or_run_out_of_memory


_give_wrong_clock()
if "worker.process.main" in _COMMAND:
    _inject()
