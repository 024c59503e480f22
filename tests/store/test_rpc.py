"""Calls of a worker: question and answer through a real broker, and what comes where there is none."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from store import rpc as calls
from store.queues import INFER
from store.rpc import (
    CallFailed,
    WorkersAway,
    call_worker,
    give_answer,
    pack_array,
    take_question,
    unpack_array,
)
from store.settings import Settings
from tests.servers import Broker
from tests.servers import broker as running_broker
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The settings name a socket at which nobody listens."""
    settings = Settings(redis_url=f"unix://{tmp_path}/nobody")
    monkeypatch.setattr(calls, "get_settings", lambda: settings)
    for cached in (calls._broker, calls._celery):
        cached.cache_clear()
    yield
    for cached in (calls._broker, calls._celery):
        cached.cache_clear()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path) as broker:
        settings = Settings(redis_url=broker.url)
        monkeypatch.setattr(calls, "get_settings", lambda: settings)
        yield broker


def answering(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> threading.Thread:
    """A worker of Celery's messages: takes one call from the queue, and answers it."""
    import base64
    import json

    def work() -> None:
        found = calls._broker().brpop([INFER], timeout=10)
        assert found is not None
        body = json.loads(base64.b64decode(json.loads(found[1])["body"]))
        [[call_id], _, _] = body
        question = take_question(call_id)
        assert question is not None
        give_answer(call_id, answer(question))

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_question_and_answer(broker: Broker) -> None:
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    thread = answering(
        lambda question: {"answer": {"twice": pack_array(2 * unpack_array(question["values"]))}}
    )
    found = call_worker("double", {"values": pack_array(values), "nothing": None}, timeout_s=10)
    thread.join()
    np.testing.assert_array_equal(unpack_array(found["twice"]), 2 * values)
    assert not calls._broker().keys("latentry:*"), "nothing stays in the broker"


def test_a_worker_that_can_t_says_why(broker: Broker) -> None:
    thread = answering(lambda _: {"problem": {"code": "no_weights", "message": "they are gone"}})
    with pytest.raises(CallFailed, match="they are gone") as error:
        call_worker("double", {}, timeout_s=10)
    thread.join()
    assert error.value.code == "no_weights"


def test_nobody_answers(broker: Broker) -> None:
    with pytest.raises(WorkersAway, match="no process at the queue 'infer' answered"):
        call_worker("double", {}, timeout_s=0.2)
    # A worker that comes late finds nothing to do.
    wait_until(lambda: not calls._broker().keys("latentry:question:*"), seconds=20)


def test_there_is_no_broker() -> None:
    with pytest.raises(WorkersAway, match="the broker does not answer"):
        call_worker("double", {}, timeout_s=5)


def test_an_array_of_objects_is_never_read() -> None:
    with pytest.raises(ValueError, match="expected numbers"):
        unpack_array({"dtype": "|O", "shape": [1], "bytes": b"12345678"})


def test_a_broker_that_hangs_in_the_middle_is_given_up(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_LONGEST_PAUSE_SECONDS", 0.1)
    calls._broker.cache_clear()
    calls._celery().send_task("another", queue=INFER)

    def set_and_hang(self: Redis, *arguments: Any, **options: Any) -> None:
        self.execute_command("SET", *arguments)
        os.kill(broker.pid, signal.SIGSTOP)

    monkeypatch.setattr(Redis, "set", set_and_hang)
    began = time.monotonic()
    with pytest.raises(WorkersAway, match="does not answer"):
        call_worker("infer_now", {}, timeout_s=120)
    assert time.monotonic() - began < 60
