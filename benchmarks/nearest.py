"""Nearest states: how long it takes to compare all states, by number of states and components.

``python -m benchmarks.nearest [--states 100000,1000000] [--components 16,64] [--arrays sql|file]``

States are those of smooth trajectories of 200 bins, in 20 conditions with variation of single trials, on a manifold of 8
dimensions with a little noise. Printed for each size: CPU seconds of one search, with reading from the array store, and the
highest resident memory of the process so far.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from api.analyses.trajectories import Trajectories
from api.arrays.groups import open_cached
from domain.scores.distances import nearest_states
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, RowWriter
from store.database import Database
from store.migrate import migrate

BINS, CONDITIONS, DIMENSIONS, K = 200, 20, 8, 10
HEADINGS = ["states", "components", "search (CPU s)", "memory (MB)"]


def trajectories_in(folder: Path, arrays: str, states: int, components: int) -> Trajectories:
    """Write trajectories to an array store."""
    database = Database(f"sqlite:///{folder / 'database.db'}")
    migrate(database)
    store = open_array_store("sql:" if arrays == "sql" else f"file://{folder / 'arrays'}", database)
    writer = ArrayGroupWriter(store, "latents", {})
    trials = states // BINS
    dims = ("trial", "time_s", "factor")
    target = RowWriter(writer.create("factors", (trials, BINS, components), np.float32, dims))
    for block in _trajectories(trials, components):
        target.append(block)
    target.close()
    writer.close()
    array = open_cached(store, "latents").labelled("factors")
    return Trajectories(array, np.arange(trials), np.arange(BINS) / 100)


def _trajectories(trials: int, components: int) -> Iterator[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    time_s = np.linspace(0, 1, BINS)[:, None]
    basis = np.exp(-0.5 * ((time_s - np.linspace(0, 1, 12)) / 0.08) ** 2)
    means = random.normal(size=(CONDITIONS, 12, DIMENSIONS))
    mixing = random.normal(size=(DIMENSIONS, components)) / DIMENSIONS**0.5
    for first in range(0, trials, 50):
        condition = np.arange(first, min(trials, first + 50)) % CONDITIONS
        weights = means[condition] + 0.4 * random.normal(size=(len(condition), 12, DIMENSIONS))
        values = np.tanh(basis @ weights) @ mixing
        yield (values + 0.02 * random.normal(size=values.shape)).astype(np.float32)


def measure(folder: Path, arrays: str, states: int, components: int) -> list[str]:
    """Return one row of the table."""
    trajectories = trajectories_in(folder, arrays, states, components)
    candidates = np.ones(len(trajectories.trials), bool)
    vector = next(trajectories.blocks())[1].reshape(-1, components)[:1] + 0.005
    nearest_states(trajectories, candidates, vector, k=K, metric="euclidean")
    began = time.process_time()
    nearest_states(trajectories, candidates, vector, k=K, metric="euclidean")
    search_s = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return [f"{states:,}", str(components), f"{search_s:.3g}", f"{memory:.3g}"]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", default="100000,1000000")
    parser.add_argument("--components", default="16,64")
    parser.add_argument("--arrays", choices=["sql", "file"], default="sql")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, {platform.machine()}, arrays in {options.arrays}")
    print("| " + " | ".join(HEADINGS) + " |\n|" + " --- |" * len(HEADINGS))
    for states in map(int, options.states.split(",")):
        for components in map(int, options.components.split(",")):
            with tempfile.TemporaryDirectory(prefix="latentry-nearest-") as folder:
                row = measure(Path(folder), options.arrays, states, components)
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
