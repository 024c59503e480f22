"""How much memory and time the ingest of a large recording takes: ``python -m benchmarks.ingest [--gigabytes 2] [--json]``.

Makes a recording of each kind in a temporary folder, ingests it as the service does (the parsing subprocess, then the writing
of arrays by the worker), and tells the peak of resident memory of both processes.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import report

NEURONS, BINS, WIDTH_S = 200, 500, 0.01


def counts(random: np.random.Generator, trials: int) -> np.ndarray[Any, Any]:
    """Return counts [trials, bins, neurons] of neurons with different rates."""
    rates_hz = random.gamma(2.0, 5.0, NEURONS)
    return (random.random((trials, BINS, NEURONS), np.float32) < rates_hz * WIDTH_S).astype(np.uint8)


def npz_counts(path: Path, size: int) -> None:
    """Write counts as an NPZ without compression."""
    random, rows = np.random.default_rng(0), 100
    blocks = size // (rows * BINS * NEURONS)
    spikes = np.lib.format.open_memmap(
        path.with_suffix(".npy"), "w+", np.uint8, (blocks * rows, BINS, NEURONS)
    )
    for block in range(blocks):
        spikes[block * rows : (block + 1) * rows] = counts(random, rows)
    spikes.flush()
    np.savez(path, spikes=spikes, bin_width_s=WIDTH_S)
    path.with_suffix(".npy").unlink()


def hdf5_counts(path: Path, size: int) -> None:
    """Write counts in the LFADS layout, as float32 like its users."""
    random, rows = np.random.default_rng(1), 100
    blocks = max(2, size // (4 * rows * BINS * NEURONS))
    with h5py.File(path, "w") as file:
        for split, share in (("train", blocks - 1), ("valid", 1)):
            shape = (share * rows, BINS, NEURONS)
            target = file.create_dataset(f"{split}_data", shape, "f4", chunks=(1, BINS, NEURONS))
            for block in range(share):
                target[block * rows : (block + 1) * rows] = counts(random, rows)
        file["bin_width_s"] = WIDTH_S


def nwb_times(path: Path, size: int) -> None:
    """Write spike times of units with a table of trials as an NWB file."""
    random = np.random.default_rng(2)
    per_unit = size // (8 * NEURONS)
    trials = 2000
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        units = file.create_group("units")
        units.attrs["neurodata_type"] = "Units"
        times = units.create_dataset("spike_times", (per_unit * NEURONS,), "f8")
        length_s = per_unit / 20.0
        for unit in range(NEURONS):
            times[unit * per_unit : (unit + 1) * per_unit] = np.sort(random.uniform(0, length_s, per_unit))
        units["spike_times_index"] = (np.arange(NEURONS) + 1) * per_unit
        units["id"] = np.arange(NEURONS)
        table = file.create_group("intervals/trials")
        table.attrs["neurodata_type"] = "TimeIntervals"
        start_s = np.linspace(0, length_s - 5, trials)
        table["start_time"], table["stop_time"], table["id"] = start_s, start_s + 2.0, np.arange(trials)


KINDS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "npz": ("counts.npz", npz_counts),
    "lfads_hdf5": ("counts.h5", hdf5_counts),
    "nwb": ("times.nwb", nwb_times),
}


def ingest(path: Path, folder: Path) -> None:
    """Ingest a file as the worker does, and print the figures; run in a process of its own."""
    from store.array_store import open_array_store
    from store.database import Database
    from store.migrate import migrate
    from store.settings import Settings
    from worker.ingest.dataset_arrays import write_dataset
    from worker.ingest.readers import ReadOptions
    from worker.ingest.sandbox import ParsedFile, parse_in_sandbox

    settings = Settings(data_dir=folder)
    database = Database(settings.database_url)
    migrate(database)
    began = time.monotonic()
    outcome = parse_in_sandbox(path, folder / "parsed", ReadOptions())
    if not isinstance(outcome, ParsedFile):
        raise SystemExit(f"{path.name} was rejected: {outcome.problems}")
    parsed_s = time.monotonic() - began
    store = open_array_store(settings.array_url, database)
    write_dataset(store, "datasets/benchmark", "benchmark", outcome.recording())
    figures = {
        "shape": list(outcome.report["shape"].values()),
        "parse_s": round(parsed_s, 1),
        "store_s": round(time.monotonic() - began - parsed_s, 1),
        # Linux gives kilobytes; children are waited for, so theirs is the peak of the parsing process.
        "parser_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "worker_peak_mb": _own_peak_kb() // 1024,
    }
    print(json.dumps(figures))


def _own_peak_kb() -> int:
    """Peak of this program alone; `getrusage` counts what the process was before it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Run the benchmark."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of each file")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        name, make = KINDS[kind]
        with tempfile.TemporaryDirectory(prefix="latentry-benchmark-") as folder:
            path = Path(folder) / name
            make(path, int(arguments.gigabytes * 2**30))
            code = "import sys, pathlib; from benchmarks.ingest import ingest; ingest(*map(pathlib.Path, sys.argv[1:]))"
            command = [sys.executable, "-c", code, str(path), folder]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            figures = {"kind": kind, "bytes": path.stat().st_size, **found}
        if arguments.json:
            print(json.dumps(figures), flush=True)
        else:
            size = f"{kind:>11}: {figures['bytes'] / 2**30:.2f} GiB, {figures['shape']}"
            times = f"parsed in {figures['parse_s']} s, stored in {figures['store_s']} s"
            peaks = f"peak {figures['parser_peak_mb']} MB in the parser, {figures['worker_peak_mb']} MB in the worker"
            print(f"{size}; {times}; {peaks}", flush=True)


if __name__ == "__main__":
    main()
