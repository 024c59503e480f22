"""The queues of the broker, and how a Celery worker serves each of them.

The Celery app, the maintenance loop, `latentry up` and `latentry doctor` read this table. The commands of docker/compose.yaml are
the same, which a test checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SLICES, CONTROL, INGEST, INFER = "slices", "control", "ingest", "infer"


@dataclass(frozen=True)
class QueueWorker:
    """A Celery worker of one queue.

    Parameters
    ----------
    options
        Of ``celery -A worker.celery_app worker``.
    purpose_missed
        What does not happen without such a worker.
    answers_calls
        Whether the queue has only calls that a worker answers at once (`store.rpc`), so that no work waits in it.
    """

    options: tuple[str, ...]
    purpose_missed: str
    answers_calls: bool = False


def _one_task_at_a_time(queue: str) -> tuple[str, ...]:
    return ("--pool", "prefork", "-Q", queue, "-c", "1")


QUEUES: Mapping[str, QueueWorker] = MappingProxyType(
    {
        # Training: one worker for each device.
        SLICES: QueueWorker(_one_task_at_a_time(SLICES), "no model is trained"),
        # `advance` and other short steps.
        CONTROL: QueueWorker(_one_task_at_a_time(CONTROL), "no job advances"),
        # Uploads. It also answers the call of `latentry doctor`.
        INGEST: QueueWorker(_one_task_at_a_time(INGEST), "no upload is read"),
        # Calls of `worker.inference.rpc_tasks`. The process imports torch, so it must not fork.
        INFER: QueueWorker(
            ("--pool", "solo", "-Q", INFER, "--include", "worker.inference.rpc_tasks"),
            "online inference does not work",
            answers_calls=True,
        ),
    }
)
