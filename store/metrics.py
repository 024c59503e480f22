"""The metrics of all processes, in the format of Prometheus. docs/operating.md lists them.

The processes of a machine or a container write their values into files of one folder, `PROMETHEUS_MULTIPROC_DIR`, and one of them
serves the sums: `latentry up`, or the main process of a container. So the training process behind a Celery worker is counted too.
The metrics have their own port instead of a route of the API: it needs no key, no proxy offers it, and it responds while all
requests wait. Reading them reads these files alone.

Every metric has a label, since one without would open a file in each process that imports this module.
"""

import atexit
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector

from store.settings import Settings

logger = logging.getLogger(__name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_LONG_SECONDS = (0.5, 2, 5, 15, 30, 60, 120, 300, 900, 3600, 4 * 3600, 24 * 3600)
_MEASURED_EVERY_SECONDS = 10.0
_LATEST: Literal["livemostrecent"] = "livemostrecent"

# Of the API
requests = Counter(
    "latentry_http_requests", "Requests, by the status of their response.", ["method", "route", "status"]
)
request_seconds = Histogram(
    "latentry_http_request_duration_seconds",
    "Time from the header of a request to the end of its response, without event streams and long polls.",
    ["method", "route"],
    buckets=_SECONDS,
)
connections_refused = Counter(
    "latentry_http_connections_refused",
    "Connections that were refused before their request was read.",
    ["status"],
)
streams = Gauge("latentry_event_streams", "Open event streams.", ["process"], multiprocess_mode="livesum")
pool_timeouts = Counter(
    "latentry_database_pool_timeouts",
    "Requests that found no free connection to the database in time.",
    ["process"],
)

# Of workers
slices = Counter(
    "latentry_slices",
    "Slices and inferences that ended: `done`, `failed`, or `lost` to another worker.",
    ["kind", "device", "outcome"],
)
slice_seconds = Histogram(
    "latentry_slice_duration_seconds",
    "Duration of a slice or an inference.",
    ["kind", "device"],
    buckets=_LONG_SECONDS,
)
model_epochs = Counter("latentry_model_epochs", "Epochs of training, summed over models.", ["device"])
training_seconds = Counter(
    "latentry_training_seconds",
    "Time of these epochs. Divided by their number, it is the time of a model-epoch.",
    ["device"],
)
queue_wait_seconds = Histogram(
    "latentry_queue_wait_seconds",
    "Time from the creation of a slice, an inference or a data set to its first attempt.",
    ["kind"],
    buckets=_LONG_SECONDS,
)
leases_lost = Counter("latentry_leases_lost", "Leases that their holder found to be lost.", ["kind"])
leases_reaped = Counter(
    "latentry_leases_reaped",
    "Leases that were taken back: `worker_lost` after their time, `process_died` after a crash.",
    ["kind", "cause"],
)
ingests = Counter(
    "latentry_ingests", "Ingests that ended: `ready`, `rejected`, `failed` or `lost`.", ["format", "outcome"]
)
ingest_seconds = Histogram(
    "latentry_ingest_duration_seconds", "Duration of an ingest.", ["format"], buckets=_LONG_SECONDS
)
gpu_memory_used = Gauge(
    "latentry_gpu_memory_used_bytes", "GPU memory in use.", ["device"], multiprocess_mode=_LATEST
)
gpu_memory = Gauge("latentry_gpu_memory_bytes", "GPU memory.", ["device"], multiprocess_mode=_LATEST)
gpu_utilization = Gauge(
    "latentry_gpu_utilization_ratio",
    "Share of time in which the GPU computed.",
    ["device"],
    multiprocess_mode=_LATEST,
)

# Of the maintenance loop, which reads them from the database and the broker
queued = Gauge(
    "latentry_queued",
    "Work that waits: `slice`, `inference`, `ingest`, and `outbox` for messages that are not sent.",
    ["kind"],
    multiprocess_mode=_LATEST,
)
queue_oldest_seconds = Gauge(
    "latentry_queue_oldest_seconds",
    "Time for which the oldest of it waits; 0 if none waits.",
    ["kind"],
    multiprocess_mode=_LATEST,
)
leases_held = Gauge("latentry_leases_held", "Leases that workers hold.", ["kind"], multiprocess_mode=_LATEST)
queue_messages = Gauge(
    "latentry_queue_messages", "Messages in a queue of the broker.", ["queue"], multiprocess_mode=_LATEST
)
workers = Gauge(
    "latentry_workers", "Training processes that are alive.", ["device"], multiprocess_mode=_LATEST
)
open_jobs = Gauge("latentry_open_jobs", "Jobs that have not ended.", ["state"], multiprocess_mode=_LATEST)
stored_bytes = Gauge(
    "latentry_stored_bytes",
    "Bytes that a tenant stores: `files`, `arrays`, `models` or `inferences`.",
    ["tenant", "kind"],
    multiprocess_mode=_LATEST,
)

# Of all processes
connections_in_use = Gauge(
    "latentry_database_connections_in_use",
    "Connections to the database that transactions use.",
    ["process"],
    multiprocess_mode="livesum",
)
memory = Gauge(
    "latentry_process_resident_memory_bytes",
    "Memory of processes, summed over processes of one kind.",
    ["process"],
    multiprocess_mode="livesum",
)

measured_at = Gauge(
    "latentry_measured_timestamp_seconds",
    "When a process of this kind last measured its gauges (Unix time).",
    ["process"],
    multiprocess_mode=_LATEST,
)

KINDS = {"slices": "slice", "inferences": "inference", "datasets": "ingest"}
"""The label `kind` of work, by its table."""
_process = ""
"""The kind of this process; empty if its metrics are not collected."""


class LivingProcesses(MultiProcessCollector):
    """Sums the values of all processes of a folder, but not the gauges of those that have ended."""

    def __init__(self, registry: CollectorRegistry, folder: str) -> None:
        super().__init__(registry, folder)  # type: ignore[no-untyped-call]  # the library has no types here
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        for path in Path(self._folder).glob("gauge_live*.db"):
            pid = int(re.sub(r"\D", "", path.name.rpartition("_")[2]))
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except PermissionError:
                pass
        metrics: Iterable[Metric] = super().collect()  # type: ignore[no-untyped-call]  # nor here
        return metrics


def serve(settings: Settings, folder: str) -> None:
    """Serve the metrics of the processes of a folder, if the settings have a port for them."""
    if not settings.metrics_port:
        return
    registry = CollectorRegistry()
    LivingProcesses(registry, folder)
    try:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise RuntimeError(
            f"the metrics cannot have port {settings.metrics_port} of {settings.metrics_host} ({error.strerror}): set another "
            "LATENTRY_METRICS_PORT, or 0 for no metrics"
        ) from error


def start(
    process: str, settings: Settings, measure: Callable[[], None] | None = None, *, serves: bool
) -> None:
    """Begin to collect the metrics of this process, if the settings or the process that started it want it.

    Parameters
    ----------
    process
        Kind of this process.
    measure
        Called every ten seconds, for what must be measured while nothing happens.
    serves
        Whether this is the main process of a container, which also serves the metrics.
    """
    global _process
    if settings.metrics_port and _FOLDER not in os.environ:
        folder = os.environ[_FOLDER] = tempfile.mkdtemp(prefix="latentry-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if _FOLDER not in os.environ:
        return
    _process = process
    values.ValueClass = values.get_value_class()  # chosen when it was imported, maybe without the folder
    if serves:
        serve(settings, os.environ[_FOLDER])
    threading.Thread(target=_measure_until_end, args=(measure,), name="metrics", daemon=True).start()


def use_connections(number: int) -> None:
    """Count connections to the database that are taken, or given back if the number is negative."""
    if _process:
        connections_in_use.labels(_process).inc(number)


def _measure_until_end(measure: Callable[[], None] | None) -> None:
    page_bytes, pause, is_failing = os.sysconf("SC_PAGE_SIZE"), threading.Event(), False
    while True:
        with suppress(OSError):  # other systems than Linux
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.labels(_process).set(pages * page_bytes)
        try:
            if measure is not None:
                measure()
            measured_at.labels(_process).set_to_current_time()
            is_failing = False
        except Exception:  # the database, the broker or the GPU does not answer
            if not is_failing:
                logger.exception("metrics are not measured; trying again")
            is_failing = True
        pause.wait(_MEASURED_EVERY_SECONDS)
