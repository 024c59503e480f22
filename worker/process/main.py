"""The training process: it holds torch and the device, and runs one slice for each line on its standard input.

A Celery task starts it by `worker.process.handle`. It stays between slices and dies with its parent. It answers each line with a
line of JSON on standard output: ``{"ran": true}``, or false if nothing was queued.

``python -m worker.process.main PID``: when the operator drains it and it is idle, it sends SIGTERM to PID, the whole worker.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from store import metrics
from store.logs import configure
from worker.scheduling.failures import DeviceFailed

if TYPE_CHECKING:
    from worker.context.process import TrainingProcess

logger = logging.getLogger("latentry.training")


def main() -> None:
    """Serve until the standard input closes or SIGTERM comes. A running slice ends at its epoch, with a checkpoint."""
    configure("training")
    stopping, drain = threading.Event(), _Drain()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that no library's output looks like an answer
    from worker.process.run_next import run_next  # imports torch, which may write to standard output

    process = _make_process(stopping)
    metrics.start("training", process.settings, lambda: _measure_gpu(process.device), serves=False)
    threading.Thread(target=_keep_saying_alive, args=(process, stopping, drain), daemon=True).start()
    answers.write(json.dumps({"name": process.name}) + "\n")
    try:
        for _line in sys.stdin:
            with drain.turn:
                ran = _take_turn(lambda: run_next(process))
            if process.is_draining:
                drain.end_worker()  # before the answer, so that Celery gives no further task
            answers.write(json.dumps({"ran": ran}) + "\n")
            if stopping.is_set():
                break
    except DeviceFailed as failure:
        logger.exception("%s; this process ends, and the next slice starts another one", failure)
        process.say_gone()
        logging.shutdown()
        os._exit(1)  # at an ordinary exit torch would use the GPU, which may never return
    process.say_gone()


def _make_process(stopping: threading.Event) -> "TrainingProcess":
    """Return this process, once its pace is measured and its row is written."""
    import torch

    from store.array_store import get_array_store
    from store.database import get_database
    from store.settings import get_settings
    from worker.child_processes import process_name
    from worker.context.devices import DeviceUnavailable, choose_device, use_device
    from worker.context.process import TrainingProcess
    from worker.process.calibration import measure_pace

    settings = get_settings()
    torch.set_num_threads(settings.threads)
    try:
        device, device_name = choose_device(settings.device)
    except DeviceUnavailable as unavailable:
        sys.exit(f"LATENTRY_DEVICE={settings.device} cannot be used: {unavailable}")
    use_device(device)
    process = TrainingProcess(
        database=get_database(),
        arrays=get_array_store(),
        settings=settings,
        name=process_name(),
        device=device,
        device_name=device_name,
        should_yield=stopping.is_set,
    )
    try:
        process.pace = measure_pace(process.device)
    except Exception:
        logger.exception("could not measure the pace of this process; estimates of time use a default")
    process.say_alive()
    logger.info(
        "ready on %s (LATENTRY_DEVICE=%s%s), %d threads, %s",
        device, settings.device, f"; {device_name}" if device_name else "", settings.threads, process.pace,
    )  # fmt: skip
    return process


def _measure_gpu(device: str) -> None:
    from worker.context.devices import is_gpu, use_of_gpu

    if is_gpu(device):
        used, whole, utilization = use_of_gpu(device)
        metrics.gpu_memory.labels(device).set(whole)
        metrics.gpu_memory_used.labels(device).set(used)
        metrics.gpu_utilization.labels(device).set(utilization)


class _Drain:
    """The end of a worker that the operator drains: once, and in no turn."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._has_ended = threading.Event()

    def end_worker(self) -> None:
        """Send SIGTERM to the worker. It ends this process when its task has returned, as at any other SIGTERM."""
        if self._has_ended.is_set() or len(sys.argv) < 2:
            return
        self._has_ended.set()
        logger.info("the operator drains this worker, which is idle: it ends")
        os.kill(int(sys.argv[1]), signal.SIGTERM)


def _keep_saying_alive(process: "TrainingProcess", stopping: threading.Event, drain: _Drain) -> None:
    """Write every ten seconds that this process is alive. The row also says whether the operator drains it."""
    while not stopping.wait(10.0):
        try:
            process.say_alive()
        except Exception:
            logger.exception("could not write that this process is alive")
        if process.is_draining and not drain.turn.locked():  # a turn that begins now claims nothing
            drain.end_worker()


def _take_turn(run: Callable[[], bool]) -> bool:
    """Run the next slice or inference; return whether one was queued."""
    started = time.monotonic()
    try:
        ran = run()
    except DeviceFailed:
        raise
    except Exception:
        logger.exception("the work failed")
        ran = True
    if ran:
        logger.info("the work ended", extra={"seconds": round(time.monotonic() - started, 3)})
    return ran


if __name__ == "__main__":
    main()
