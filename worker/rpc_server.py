"""The worker's side of `store.rpc`: make a function a task that answers calls at once."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from store.rpc import give_answer, take_question
from worker.celery_app import app

logger = logging.getLogger(__name__)

Answer = Callable[..., Mapping[str, Any]]


class CannotAnswer(Exception):
    """The call fails; the caller gets `code` and `message` (see `store.rpc.CallFailed`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def answered(name: str) -> Callable[[Answer], Answer]:
    """Offer a function to `store.rpc.call_worker` under a name.

    The function takes its arguments by name and returns a dictionary, both of values that MessagePack can hold. It may raise
    `CannotAnswer`. Any other error is logged, and the caller gets the code ``internal``.
    """

    def offer(function: Answer) -> Answer:
        # Acknowledged before it runs, so that a call that kills its process is not repeated by the next one.
        @app.task(name=name, acks_late=False)
        def task(call_id: str) -> None:
            if (arguments := take_question(call_id)) is None:
                return  # the caller waits no longer
            try:
                answer = {"answer": dict(function(**arguments))}
            except CannotAnswer as error:
                answer = {"problem": {"code": error.code, "message": str(error)}}
            except Exception:
                logger.exception("%s failed", name)
                answer = {
                    "problem": {"code": "internal", "message": "the worker failed with an unexpected error"}
                }
            give_answer(call_id, answer)

        return function

    return offer
