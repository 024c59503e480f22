"""The worker's side of `store.rpc`: how a function becomes a task that answers at once."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from store.rpc import give_answer, take_question
from worker.celery_app import app

logger = logging.getLogger(__name__)

Answer = Callable[..., Mapping[str, Any]]


class CannotAnswer(Exception):
    """The caller is told `code` and `message` (see `store.rpc.CallFailed`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def answered(name: str) -> Callable[[Answer], Answer]:
    """Offer a function to `store.rpc.call_worker` under a name.

    The function takes the arguments by name and returns a dictionary; both of what MessagePack holds. It may raise
    `CannotAnswer`; any other error is logged, and the caller is told that there was one.
    """

    def offer(function: Answer) -> Answer:
        # Acknowledged before it runs: one that takes its process along is not for the next process to try.
        @app.task(name=name, acks_late=False)
        def task(call_id: str) -> None:
            if (arguments := take_question(call_id)) is None:
                return  # whoever asked has gone
            try:
                answer = {"answer": dict(function(**arguments))}
            except CannotAnswer as error:
                answer = {"problem": {"code": error.code, "message": str(error)}}
            except Exception:
                logger.exception("%s failed", name)
                answer = {"problem": {"code": "internal", "message": "the worker met an error of its own"}}
            give_answer(call_id, answer)

        return function

    return offer
