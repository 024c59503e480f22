"""The Celery app. Messages are hints; the database owns the work, so losing or doubling one does no harm.

Three queues: ``slices`` for training (one worker per device, one task at a time), ``control`` for ingest and `advance`, and
``infer`` for what is answered at once (`worker.inference.rpc_tasks`).
"""

import multiprocessing
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_shutting_down

from store.database import DatabaseUnusable, get_database
from store.migrate import refuse_newer
from store.rpc import CONTROL, broker_url
from store.settings import get_settings

SLICES = "slices"

app = Celery("latentry", broker=broker_url(get_settings().redis_url), include=["worker.tasks"])
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    task_routes={
        "run_slice": {"queue": SLICES},
        "ingest": {"queue": CONTROL},
        "advance": {"queue": CONTROL},
        "collect": {"queue": CONTROL},
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # a broker that is away is waited for
    broker_transport_options={"visibility_timeout": get_settings().broker_visibility_seconds},
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    timezone="UTC",
)

# Made before the pool forks, so that its children see the parent's shutdown and give their slice back in time.
shutting_down = multiprocessing.get_context("fork").Event()


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    shutting_down.set()


@worker_init.connect
def _refuse_newer_database(**_: Any) -> None:
    try:
        refuse_newer(get_database())
    except DatabaseUnusable as error:
        sys.exit(str(error))  # Celery goes on after any other exception of a signal
    get_database().close()  # children open connections of their own
