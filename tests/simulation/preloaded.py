"""The module that the fork server of a simulation imports, once.

Frozen objects are not visited by the garbage collector, so sixty processes share their memory.
"""

import gc

import tests.simulation.processes as _processes  # noqa: F401 (for all that it imports)

gc.collect()
gc.freeze()
