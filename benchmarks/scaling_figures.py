"""Figures of a simulation of `tests.simulation`."""

import statistics
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np

from models import Architecture
from tests.simulation.fake_training import state_bytes
from tests.simulation.jobs import NEURONS
from tests.simulation.measured_database import Transaction
from tests.simulation.simulate import EPOCHS_PER_SLICE, Simulated

REAL_SLICE_SECONDS = 60.0
PER_SLICE = ("claim", "heartbeat", "report", "advance", "outbox", "array write", "array delete")
"""Kinds of writing transactions whose number per slice does not depend on the length of the slice."""


def describe(found: Simulated, database: str) -> dict[str, Any]:
    """Return the figures of a simulation, for one line of JSON.

    Parameters
    ----------
    found
        The simulation.
    database
        Name of its database.
    """
    plan, outcome = found.plan, found.outcome
    workers = [measures for measures in found.measures if measures.role == "worker"]
    stopped = found.began + found.seconds  # the processes' end, all at once, is no part of the service's work
    transactions = [
        one
        for measures in found.measures
        for one in measures.transactions
        if found.began <= one.ended <= stopped
    ]
    whole = [  # begin, end and time in training of the slices that ended meanwhile
        (*piece, trained)
        for measures in workers
        for piece, trained in zip(measures.slices, measures.trained, strict=True)
        if found.began <= piece[1] <= stopped
    ]
    waits = [
        begin - end
        for measures in workers
        for (_, end), (begin, _) in pairwise(measures.slices)
        if found.began <= begin <= stopped
    ]
    slices, ended = max(1, len(whole)), max(1, sum(len(measures.slices) for measures in workers))
    lasted, trained = sum(end - begin for begin, end, _ in whole), sum(one[2] for one in whole)
    rest = [end - begin - trained for begin, end, trained in whole]
    locked_ms = _locked_ms_per_slice(transactions, slices)
    server_ms = 1000 * found.database_cpu_s / slices
    epochs = np.array(outcome.epochs_of_jobs, float)
    slices_per_s = slices / found.seconds
    model_bytes = state_bytes(Architecture(neurons=NEURONS))
    return {
        "database": database,
        "arrays": plan.arrays,
        "workers": plan.workers,
        "jobs": plan.jobs,
        "models_per_slice": round(outcome.models_per_pack, 1),
        "slice_s": plan.slice_seconds,
        "slices": slices,
        "slices_per_s": round(slices_per_s, 2),
        "devices_of_real_slices": round(slices_per_s * REAL_SLICE_SECONDS),
        "training_share": round(trained / max(1e-9, lasted + sum(waits)), 3),
        "overhead_s_per_slice": round(statistics.median(rest), 3) if rest else None,
        "wait_ms_median": _milliseconds(waits, 50),
        "wait_ms_p99": _milliseconds(waits, 99),
        "pack_wait_ms_median": _milliseconds(outcome.pack_waits_s, 50),
        "transactions_per_s": round(len(transactions) / found.seconds, 1),
        "transactions_per_slice": round(len(transactions) / slices, 1),
        "write_lock_ms_per_slice": round(locked_ms, 1),
        "server_cpu_ms_per_slice": None if plan.server is None else round(server_ms, 1),
        "worker_cpu_ms_per_slice": round(1000 * sum(one.cpu_s for one in workers) / ended, 1),
        "broker_cpu_ms_per_slice": round(1000 * found.broker_cpu_s / slices, 2),
        "devices_borne": round(
            1000 * REAL_SLICE_SECONDS / max(1e-9, server_ms if plan.server is not None else locked_ms)
        ),
        "checkpoint_mb_per_s": round(outcome.models_per_pack * model_bytes * slices_per_s / 1e6, 1),
        "loads_per_slice": round(sum(one.data_sets_loaded for one in workers) / ended, 2),
        "connections": found.connections,
        "jobs_begun": int((epochs > 0).sum()),
        "slices_apart": round(float(np.ptp(epochs)) / plan.models_per_job / EPOCHS_PER_SLICE, 1),
        "lost": outcome.slices_lost + outcome.epochs_missing,
        "trained_twice": outcome.epochs_doubled,
        "killed": found.killed,
        "repeated": outcome.slices_repeated,
        "by_kind": by_kind(transactions, slices),
    }


def _locked_ms_per_slice(transactions: list[Transaction], slices: int) -> float:
    """Return the time for which a slice's transactions keep SQLite's write lock: median per kind times number per slice."""
    opened = defaultdict(list)
    for one in transactions:
        if one.writes and one.kind in PER_SLICE:
            opened[one.kind].append(one.open_s)
    numbers = {kind: len(times) for kind, times in opened.items()}
    # The first slice of a pack replaces no checkpoint, and short simulations have many first slices.
    numbers["array delete"] = numbers.get("array write", 0)
    return sum(1000 * statistics.median(times) * numbers[kind] / slices for kind, times in opened.items())


def _milliseconds(seconds: list[float], percentile: float) -> float | None:
    return round(1000 * float(np.percentile(seconds, percentile)), 1) if seconds else None


def by_kind(transactions: list[Transaction], slices: int) -> dict[str, dict[str, float]]:
    """Return for each kind of transaction its number per slice, median open time, and median wait before it begins."""
    of_kind = defaultdict(list)
    for one in transactions:
        of_kind[one.kind].append(one)
    return {
        kind: {
            "per_slice": round(len(found) / slices, 2),
            "open_ms": round(1000 * statistics.median(one.open_s for one in found), 2),
            "open_ms_p99": round(1000 * float(np.percentile([one.open_s for one in found], 99)), 1),
            "waited_ms": round(1000 * statistics.median(one.waited_s for one in found), 2),
            "client_cpu_ms": round(1000 * statistics.mean(one.cpu_s for one in found), 2),
        }
        for kind, found in sorted(of_kind.items())
    }
