"""The Celery app. Messages are hints and the database owns the work, so a lost or repeated message does no harm.

`store.queues` has the queues.
"""

import multiprocessing
import secrets
import sys
from typing import Any

from celery import Celery
from celery.apps import worker as program
from celery.signals import celeryd_init, setup_logging, task_prerun, worker_init, worker_shutting_down
from structlog.contextvars import bind_contextvars, clear_contextvars

from store import logs, metrics, outbox
from store.database import DatabaseUnusable, get_database
from store.migrate import refuse_newer
from store.queues import CONTROL, INGEST, SLICES
from store.rpc import broker_url
from store.settings import get_settings

app = Celery("latentry", broker=broker_url(get_settings().redis_url), include=["worker.tasks"])
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    task_routes={
        outbox.RUN_SLICE: {"queue": SLICES},
        outbox.INGEST: {"queue": INGEST},
        outbox.ADVANCE: {"queue": CONTROL},
        outbox.COLLECT: {"queue": CONTROL},
        outbox.DELETE: {"queue": CONTROL},
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # wait for a broker that does not answer
    broker_transport_options={"visibility_timeout": get_settings().broker_visibility_seconds},
    worker_cancel_long_running_tasks_on_connection_loss=False,
    timezone="UTC",
)

# Created before the pool forks, so that the children see the shutdown and return their slices in time.
shutting_down = multiprocessing.get_context("fork").Event()


@celeryd_init.connect
def _begin_node(instance: Any, **_: Any) -> None:
    """Add a random part to the name of the node: `slices@host` becomes `slices-1f2e3d4c@host`. Then begin its log.

    Two workers of one name would answer for each other, and containers can share their host name.
    """
    kind, _, host = instance.hostname.partition("@")
    instance.hostname = f"{kind}-{secrets.token_hex(4)}@{host}"
    if isinstance(instance, program.Worker):  # not a node within another process
        instance.quiet = True  # no banner, which is not in the format of the log
        program.safe_say = lambda *_: None  # nor its word of farewell
        logs.configure(instance.hostname.partition("@")[0])
        metrics.start(kind.partition("-")[0], get_settings(), serves=True)


@setup_logging.connect
def _keep_logs(**_: Any) -> None:
    """Let Celery configure no log."""


@task_prerun.connect
def _begin_task(task: Any, **_: Any) -> None:
    clear_contextvars()
    bind_contextvars(**{**(task.request.get("log_context") or {}), "task": task.name})


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    shutting_down.set()


@worker_init.connect
def _refuse_newer_database(**_: Any) -> None:
    try:
        refuse_newer(get_database())
    except DatabaseUnusable as error:
        sys.exit(str(error))  # after any other exception of a signal, Celery continues
    get_database().close()  # each child opens its own connections
