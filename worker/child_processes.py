"""How processes are started: they die with their parent, and those that use torch keep their memory."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
TORCH_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Environment of a process that uses torch: the C library then keeps large buffers, which avoids page faults at every step."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Only Linux can; elsewhere the closed input ends the process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
