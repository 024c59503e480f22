"""Waiting for a state, never for a time: a busy machine makes a test slower, and does not make it fail."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 120.0) -> T:
    """Ask until the answer is true, and return the answer.

    Parameters
    ----------
    seconds
        After this time the test fails. It is long, since it only matters where the state never comes.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"the state did not come within {seconds:.0f} s"
        time.sleep(0.01)
    return answer
