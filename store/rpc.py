"""Remote procedure calls: the API calls a worker, which answers at once.

All other work uses rows and messages (`store.outbox`). A call has no row, and is lost if its caller dies, so it must change
nothing. The question is stored in the broker under a random id until the caller stops waiting. The message on the queue contains
only the id, and the answer comes through a list that only the caller reads. Both are MessagePack, which can hold bytes and does
not run code.
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
from structlog.contextvars import get_contextvars

from store.queues import INFER
from store.settings import get_settings

if TYPE_CHECKING:
    from celery import Celery

_ANSWER_KEPT_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 5.0
"""Length of one wait for the answer. A broker that hangs is noticed after twice this time."""


class WorkersAway(Exception):
    """No answer came in time: the broker or the worker does not run, or is too slow."""


class CallFailed(Exception):
    """The worker answered that it cannot do what it was asked.

    Parameters
    ----------
    code
        ``internal``, or a code of the task.
    message
        What was expected, and what was given.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def call_worker(
    task: str, arguments: Mapping[str, Any], *, timeout_s: float, queue: str = INFER
) -> dict[str, Any]:
    """Call a task of a worker, and return its answer.

    Parameters
    ----------
    task
        Name of a task that `worker.rpc_server.answered` made.
    arguments
        Arguments by name: numbers, text, bytes, None, and lists and dictionaries of those.
    timeout_s
        How long to wait for the answer, in seconds.
    queue
        Queue of the processes that may answer.

    Raises
    ------
    WorkersAway
        If no answer came in time.
    CallFailed
        If the worker answered with a problem.
    """
    call_id, deadline = secrets.token_hex(16), time.monotonic() + timeout_s
    try:
        _broker().set(_question_key(call_id), msgpack.packb(dict(arguments)), px=round(timeout_s * 1000))
        headers = {
            "log_context": get_contextvars()
        }  # the lines of the worker then have the id of the request
        _celery().send_task(
            task, args=[call_id], queue=queue, expires=timeout_s, retry=False, headers=headers
        )
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
    """Return the arguments of a call, for the worker; None if the caller waits no longer."""
    packed = _broker().getdel(_question_key(call_id))
    return None if packed is None else msgpack.unpackb(packed)


def give_answer(call_id: str, answer: Mapping[str, Any]) -> None:
    """Answer a call: ``{"answer": …}`` or ``{"problem": {"code": …, "message": …}}``."""
    with _broker().pipeline(transaction=False) as pipeline:
        pipeline.rpush(_answer_key(call_id), msgpack.packb(dict(answer)))
        pipeline.expire(_answer_key(call_id), _ANSWER_KEPT_SECONDS)
        pipeline.execute()


def pack_array(values: NDArray[Any]) -> dict[str, Any]:
    """Return an array in a form that MessagePack can hold."""
    return {"dtype": values.dtype.str, "shape": list(values.shape), "bytes": values.tobytes()}


def unpack_array(packed: Mapping[str, Any]) -> NDArray[Any]:
    """Return an array that `pack_array` packed, read-only.

    Raises
    ------
    ValueError
        If the array is not numeric.
    """
    dtype = np.dtype(packed["dtype"])
    if dtype.kind not in "buif":
        raise ValueError(f"expected numbers, got an array of dtype {dtype}")
    return np.frombuffer(packed["bytes"], dtype).reshape(packed["shape"])


def broker_url(redis_url: str) -> str:
    """Return a Redis URL in Celery's form: for a socket it is ``redis+socket://``."""
    if redis_url.startswith("unix://"):
        return "redis+socket://" + redis_url.removeprefix("unix://")
    return redis_url


def _question_key(call_id: str) -> str:
    return f"latentry:question:{call_id}"


def _answer_key(call_id: str) -> str:
    return f"latentry:answer:{call_id}"


@lru_cache
def _broker() -> Redis:
    """Return the client of the broker. Each thread uses its own connection."""
    return Redis.from_url(get_settings().redis_url, **_timeouts())


@lru_cache
def _celery() -> "Celery":
    from celery import Celery  # takes a third of a second, so only callers import it

    celery = Celery("latentry-calls", broker=broker_url(get_settings().redis_url), set_as_current=False)
    celery.conf.broker_transport_options = _timeouts()
    return celery


def _timeouts() -> dict[str, Any]:
    return {
        "socket_connect_timeout": _LONGEST_PAUSE_SECONDS,
        "socket_timeout": 2 * _LONGEST_PAUSE_SECONDS,
    }
