"""The training process: holds torch and the device, runs one slice per line on its standard input.

Started by `worker.process.handle` from a Celery task, kept warm between slices, and gone with its parent. It answers
each line with one of JSON on standard output: ``{"ran": true}``, or false when nothing was queued.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time

logger = logging.getLogger("latentry.training")


def choose_device(wanted: str) -> str:
    """Return the torch device of a setting; ``auto`` is the first CUDA device, or the CPU."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Serve until the standard input closes or SIGTERM comes; a slice under way ends at its epoch, with a checkpoint."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s training[%(process)d] %(message)s")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing printed by a library may look like an answer

    import torch

    from store.array_store import get_array_store
    from store.database import get_database
    from store.settings import get_settings
    from store.tables import Worker
    from worker.context.process import TrainingProcess
    from worker.process.calibration import measure_pace
    from worker.process.run_next import run_next

    settings, database = get_settings(), get_database()
    torch.set_num_threads(settings.threads)
    name = f"{socket.gethostname()}:{os.getpid()}"
    process = TrainingProcess(
        database=database,
        arrays=get_array_store(),
        settings=settings,
        name=name,
        device=choose_device(settings.device),
        should_yield=stopping.is_set,
    )

    def keep_saying() -> None:
        while not stopping.wait(10.0):
            try:
                process.say_alive()
            except Exception:
                logger.exception("could not say that this process is alive")

    try:
        process.pace = measure_pace(process.device)
    except Exception:
        logger.exception("could not measure the pace of this process: estimates of time assume one")
    process.say_alive()
    threading.Thread(target=keep_saying, daemon=True).start()
    logger.info("ready on %s, %d threads, %s", process.device, settings.threads, process.pace)
    answers.write(json.dumps({"name": name}) + "\n")
    for _line in sys.stdin:
        started = time.monotonic()
        ran = False
        try:
            ran = run_next(process)
        except Exception:
            logger.exception("the slice failed")
            ran = True
        if ran:
            logger.info("slice ended after %.1f s", time.monotonic() - started)
        answers.write(json.dumps({"ran": ran}) + "\n")
        if stopping.is_set():
            break
    with database.write() as session:
        row = session.get(Worker, name)
        if row is not None:
            session.delete(row)


if __name__ == "__main__":
    main()
