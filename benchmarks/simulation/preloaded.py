"""Imported once by the server that the processes of a simulation are forked from.

Objects that the garbage collector need not visit stay shared among sixty processes.
"""

import gc

import benchmarks.simulation.processes as _processes  # noqa: F401 (for all that it imports)

gc.collect()
gc.freeze()
