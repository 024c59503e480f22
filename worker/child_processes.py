"""How processes are started: they die with their parent, have unique names, and those that use torch keep their memory."""

import ctypes
import os
import secrets
import signal
import socket
import sys
from functools import cache

_PR_SET_PDEATHSIG = 1
TORCH_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Environment of a process that uses torch: the C library then keeps large buffers, which avoids page faults at every step."""


def process_name() -> str:
    """Return the name of this process, which holds its leases: host, process id, and a random part.

    Containers can share their host name and process ids, so these two are not unique.
    """
    return _name_of(os.getpid())


@cache
def _name_of(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{secrets.token_hex(4)}"


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Only Linux can; elsewhere the closed input ends the process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
