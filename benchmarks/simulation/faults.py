"""What may go wrong in a soak, and when: drawn from one seed."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Fault(StrEnum):
    """What is done to the service, and to its jobs."""

    KILL = "kill"
    """SIGKILL of a worker; its lease must expire."""
    KILL_AND_REAP = "kill_and_reap"
    """SIGKILL of a worker whose death is seen at once."""
    FREEZE = "freeze"
    """SIGSTOP of a worker for longer than its lease, then SIGCONT."""
    TERMINATE = "terminate"
    """SIGTERM of a worker."""
    KILL_CONTROL = "kill_control"
    """SIGKILL of a process that runs `advance`."""
    KILL_MAINTENANCE = "kill_maintenance"
    """SIGKILL of the maintenance loop."""
    EMPTY_QUEUES = "empty_queues"
    """All messages of the broker are lost."""
    REPEAT_MESSAGES = "repeat_messages"
    """Messages are sent ten times."""
    PAUSE = "pause"
    """A job is paused, and resumed later."""
    CANCEL = "cancel"
    """A job is cancelled, and perhaps retried later."""
    STOP = "stop"
    """A job is stopped: what is there is selected from."""


WEIGHTS = {
    Fault.KILL: 3,
    Fault.KILL_AND_REAP: 3,
    Fault.FREEZE: 1,
    Fault.TERMINATE: 2,
    Fault.KILL_CONTROL: 2,
    Fault.KILL_MAINTENANCE: 2,
    Fault.EMPTY_QUEUES: 1,
    Fault.REPEAT_MESSAGES: 2,
    Fault.PAUSE: 6,
    Fault.CANCEL: 2,
    Fault.STOP: 1,
}
"""How often each is drawn."""


@dataclass(frozen=True)
class Planned:
    """A fault.

    Parameters
    ----------
    at_s
        Seconds from the beginning.
    fault
        What.
    """

    at_s: float
    fault: Fault


def plan_faults(seed: int, seconds: float, interval_s: float) -> list[Planned]:
    """Draw faults at random times, so many seconds apart on average; each kind is among the first ones."""
    random, kinds = np.random.default_rng([seed, 0xFA]), list(WEIGHTS)
    times: list[float] = []
    while (at := (times[-1] if times else 0.0) + random.exponential(interval_s)) < seconds:
        times.append(float(at))
    weights = np.array([WEIGHTS[kind] for kind in kinds], float)
    drawn = [
        *random.permutation(len(kinds)),
        *random.choice(len(kinds), len(times), p=weights / weights.sum()),
    ]
    return [Planned(at, kinds[kind]) for at, kind in zip(times, drawn, strict=False)]
