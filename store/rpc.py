"""Calls of a worker that are answered at once: what HTTP asks of a process that holds torch.

Everything else goes by rows and doorbells (`store.outbox`). A call has no row: it is lost with whoever waits for it, so it must
change nothing. The question lies in the broker under a random id until the waiting is over, the message on the queue carries the
id alone, and the answer comes through a list that nobody else reads. Both are MessagePack, which holds bytes and runs nothing.
"""

import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
from numpy.typing import NDArray
from redis import Redis
from redis.exceptions import RedisError

from store.settings import get_settings

if TYPE_CHECKING:
    from celery import Celery

CALLS, CONTROL = "infer", "control"
"""The queues of processes that answer calls, and the names of these processes."""

_ANSWER_KEPT_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 5.0
"""Of one wait for the answer: a broker that hangs is noticed after twice this."""


class WorkersAway(Exception):
    """No answer came in time: there is no broker, or no worker at its queue, or it is too slow."""


class CallFailed(Exception):
    """The worker answered that it can't do what it was asked.

    Parameters
    ----------
    code
        ``internal``, or a name of the task's own.
    message
        What was expected, and what came.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def call_worker(
    task: str, arguments: Mapping[str, Any], *, timeout_s: float, queue: str = CALLS
) -> dict[str, Any]:
    """Have a worker do something small and return its answer.

    Parameters
    ----------
    task
        Name of a task that `worker.inference.rpc_tasks.answered` made.
    arguments
        Its arguments by name: numbers, text, bytes, None, and lists and dictionaries of those.
    timeout_s
        How long the answer is waited for, in seconds.
    queue
        Of the processes that may answer.

    Raises
    ------
    WorkersAway
        If none came.
    CallFailed
        If the worker says that it can't.
    """
    call_id, deadline = secrets.token_hex(16), time.monotonic() + timeout_s
    try:
        _broker().set(_question_key(call_id), msgpack.packb(dict(arguments)), px=round(timeout_s * 1000))
        _celery().send_task(task, args=[call_id], queue=queue, expires=timeout_s, retry=False)
        packed = None
        while packed is None and (left_s := deadline - time.monotonic()) > 0:
            pause_s = max(0.01, min(left_s, _LONGEST_PAUSE_SECONDS))
            packed = _broker().blpop([_answer_key(call_id)], timeout=pause_s)
    except (RedisError, OSError) as error:
        raise WorkersAway(f"the broker does not answer: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith("kombu."):
            raise WorkersAway(f"the broker does not answer: {error}") from error
        raise
    if packed is None:
        raise WorkersAway(f"no process at the queue {queue!r} answered {task!r} within {timeout_s:g} s")
    answer: dict[str, Any] = msgpack.unpackb(packed[1])
    if (problem := answer.get("problem")) is not None:
        raise CallFailed(problem["code"], problem["message"])
    found: dict[str, Any] = answer["answer"]
    return found


def take_question(call_id: str) -> dict[str, Any] | None:
    """The arguments of a call, for the worker; None when nobody waits for its answer any more."""
    packed = _broker().getdel(_question_key(call_id))
    return None if packed is None else msgpack.unpackb(packed)


def give_answer(call_id: str, answer: Mapping[str, Any]) -> None:
    """Answer a call: ``{"answer": …}`` or ``{"problem": {"code": …, "message": …}}``."""
    with _broker().pipeline(transaction=False) as pipeline:
        pipeline.rpush(_answer_key(call_id), msgpack.packb(dict(answer)))
        pipeline.expire(_answer_key(call_id), _ANSWER_KEPT_SECONDS)
        pipeline.execute()


def pack_array(values: NDArray[Any]) -> dict[str, Any]:
    """An array as what MessagePack holds."""
    return {"dtype": values.dtype.str, "shape": list(values.shape), "bytes": values.tobytes()}


def unpack_array(packed: Mapping[str, Any]) -> NDArray[Any]:
    """What `pack_array` packed, read-only.

    Raises
    ------
    ValueError
        If it is no array of numbers.
    """
    dtype = np.dtype(packed["dtype"])
    if dtype.kind not in "buif":
        raise ValueError(f"expected numbers, got an array of dtype {dtype}")
    return np.frombuffer(packed["bytes"], dtype).reshape(packed["shape"])


def broker_url(redis_url: str) -> str:
    """Celery's form of a Redis URL: it calls the one of a socket ``redis+socket://``."""
    if redis_url.startswith("unix://"):
        return "redis+socket://" + redis_url.removeprefix("unix://")
    return redis_url


def _question_key(call_id: str) -> str:
    return f"latentry:question:{call_id}"


def _answer_key(call_id: str) -> str:
    return f"latentry:answer:{call_id}"


@lru_cache
def _broker() -> Redis:
    """Connections to the broker, kept; each thread takes one."""
    return Redis.from_url(get_settings().redis_url, **_timeouts())


@lru_cache
def _celery() -> "Celery":
    from celery import Celery  # takes a third of a second, which who never calls need not pay

    celery = Celery("latentry-calls", broker=broker_url(get_settings().redis_url), set_as_current=False)
    celery.conf.broker_transport_options = _timeouts()
    return celery


def _timeouts() -> dict[str, Any]:
    return {
        "socket_connect_timeout": _LONGEST_PAUSE_SECONDS,
        "socket_timeout": 2 * _LONGEST_PAUSE_SECONDS,
    }
