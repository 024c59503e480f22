"""Nearest states: comparing all against an index, by number of states and components, as the service does both.

``python -m benchmarks.nearest [--states 100000,1000000] [--components 16,64] [--arrays sql|file]``

States are those of smooth trajectories of 200 bins, in 20 conditions with variation of single trials, on a manifold of 8
dimensions with a little noise. For each size: CPU seconds to compare all, read from the array store, and to build the index; its
bytes; milliseconds of a search in it; the share of the 10 nearest that it finds, over 30 states; and the highest resident
memory of the process so far, with pages of the index that are mapped.
"""

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from api.analyses.index import StateIndexes
from api.analyses.nearest import nearest_states
from api.analyses.trajectories import Trajectories
from api.arrays.group_cache import opened
from api.arrays.labelled import labelled
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, RowWriter
from store.database import Database
from store.migrate import migrate

BINS, CONDITIONS, DIMENSIONS, K, ASKED = 200, 20, 8, 10, 30
HEADINGS = [
    "states",
    "components",
    "all (CPU s)",
    "build (CPU s)",
    "index (MB)",
    "index (ms)",
    "recall",
    "memory (MB)",
]


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
    array = labelled("factors", opened(store, "latents"))
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
    """One row of the table."""
    trajectories = trajectories_in(folder, arrays, states, components)
    everyone = np.ones(len(trajectories.trials), bool)
    _, values = next(trajectories.blocks())
    vectors = values.reshape(-1, components)[:: max(1, len(values) * BINS // ASKED)][:ASKED] + 0.005
    nearest_states(trajectories, everyone, vectors[:1], K, "euclidean")
    began = time.process_time()
    nearest_states(trajectories, everyone, vectors[:1], K, "euclidean")
    all_s = time.process_time() - began
    expected = nearest_states(trajectories, everyone, vectors, K, "euclidean")
    indexes = StateIndexes(folder / "indexes", 2**40)
    began = time.process_time()
    indexes.begin("latents", "factors", trajectories)
    indexes.wait()
    build_s = time.process_time() - began
    index = indexes.find("latents", "factors")
    assert index is not None
    search_s, shares = [], []
    for vector, exact in zip(vectors, expected, strict=True):
        began = time.perf_counter()
        [(_, ids)] = index.search(vector[None], K, range(0))
        search_s.append(time.perf_counter() - began)
        shares.append(len(set(ids.tolist()) & set(exact.positions.tolist())) / K)
    size = sum(file.stat().st_size for file in (folder / "indexes").rglob("*"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    figures = [all_s, build_s, size / 1e6, 1e3 * statistics.median(search_s), float(np.mean(shares)), memory]
    return [f"{states:,}", str(components), *(f"{figure:.3g}" for figure in figures)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", default="100000,1000000")
    parser.add_argument("--components", default="16,64")
    parser.add_argument("--arrays", choices=["sql", "file"], default="sql")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} CPU cores, {platform.machine()}, faiss {faiss.__version__}, arrays in {options.arrays}"
    )
    print("| " + " | ".join(HEADINGS) + " |\n|" + " --- |" * len(HEADINGS))
    for states in map(int, options.states.split(",")):
        for components in map(int, options.components.split(",")):
            with tempfile.TemporaryDirectory(prefix="latentry-nearest-") as folder:
                row = measure(Path(folder), options.arrays, states, components)
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
