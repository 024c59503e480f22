"""Checks of the broker and of the workers of its queues."""

import time
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from api.checks.base import Finding, Parts, failed, ok, reason, warning
from store.queues import QUEUES, QueueWorker
from store.rpc import broker_url

_TIMEOUT_SECONDS = 2.0
_MANY_MESSAGES = 1000
AWAY_HINT = (
    "is it running, and is LATENTRY_REDIS_URL correct? No message is lost: messages wait in the database"
)


def check_broker(parts: Parts) -> Finding:
    """Check that the broker responds and does not evict messages."""
    where = {"host": urlsplit(parts.settings.redis_url).hostname}
    try:
        with _connect(parts.settings.redis_url) as broker:
            broker.ping()  # opens the connection
            begun = time.monotonic()
            broker.ping()
            seconds = time.monotonic() - begun
            server, memory = broker.info("server"), broker.info("memory")
            waiting = {queue: int(broker.llen(queue)) for queue in QUEUES}
    except AuthenticationError as error:
        return failed(
            "the broker rejects the password",
            "correct the password in LATENTRY_REDIS_URL",
            error=reason(error),
            **where,
        )
    except (RedisError, OSError) as error:
        return failed("the broker does not respond", AWAY_HINT, error=reason(error), **where)
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = server.get("valkey_version") or server.get("redis_version")
    queues = ", ".join(f"{number} in {queue}" for queue, number in waiting.items())
    message = f"{name} {version} responds in {seconds * 1000:.1f} ms; messages: {queues}"
    details = {**where, "seconds": round(seconds, 5), "queues": waiting}
    if memory.get("maxmemory") and memory.get("maxmemory_policy") != "noeviction":
        hint = "set `maxmemory-policy noeviction`: the service sends evicted messages again, but only after a delay"
        return warning(
            f"{message}; it evicts keys when its memory is full ({memory['maxmemory_policy']})",
            hint,
            **details,
        )
    if max(waiting.values()) > _MANY_MESSAGES:
        return warning(f"{message}: many messages are waiting", "start more workers", **details)
    return ok(message, **details)


def check_queues(parts: Parts) -> Finding:
    """Check that each queue has a worker."""
    from celery import Celery  # the import takes a third of a second

    application = Celery("latentry-checks", broker=broker_url(parts.settings.redis_url), set_as_current=False)
    options = {"socket_connect_timeout": _TIMEOUT_SECONDS, "socket_timeout": _TIMEOUT_SECONDS}
    application.conf.update(broker_transport_options=options, broker_connection_retry=False)
    try:
        with _connect(parts.settings.redis_url) as broker:
            broker.ping()  # fails at once, while Celery would retry for a long time
        answers = application.control.inspect(timeout=1.0).active_queues() or {}
    except (RedisError, OSError) as error:
        return failed("unknown: the broker does not respond", AWAY_HINT, error=reason(error))
    finally:
        application.close()
    workers = {
        queue: sorted(node for node, queues in answers.items() if queue in {one["name"] for one in queues})
        for queue in QUEUES
    }
    idle = [queue for queue, nodes in workers.items() if not nodes]
    message = "workers: " + ", ".join(f"{len(nodes)} of {queue}" for queue, nodes in workers.items())
    if not idle:
        return ok(message, workers=workers)
    hint = "; ".join(_how_to_serve(QUEUES[queue]) for queue in idle)
    hint += ". `latentry up` starts all of them: see its logs"
    judge = warning if all(QUEUES[queue].answers_calls for queue in idle) else failed
    return judge(message, hint, workers=workers)


def _how_to_serve(worker: QueueWorker) -> str:
    return f"{worker.purpose_missed}: start `celery -A worker.celery_app worker {' '.join(worker.options)}`"


def _connect(url: str) -> "Redis":
    return Redis.from_url(
        url,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        socket_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
