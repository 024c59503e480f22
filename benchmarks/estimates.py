"""Estimates of time beside the time that jobs take, through the whole service.

``python -m benchmarks.estimates [FILE …] [--workers 1] [--json]``: for each data set (three synthetic ones, and the files) a
fresh service, and on it one job after the other. The preview of the first job is "assumed", those of the others are "measured".
Each row has the preview's seconds, the seconds from the job's creation to its end, and their ratio; then the ratio of
`seconds_left` to the time that was really left, after a quarter, a half and three quarters of the job.

On a machine that does other work too, jobs wait for processors, and the ratio to the wall clock says little. `cpu` is the
processor time of the service meanwhile, without the API: with one worker about what a quiet machine takes.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from latentry import Client

from benchmarks import report
from worker.embedded import EmbeddedService

DATASETS: dict[str, dict[str, Any]] = {
    "60 × 50 × 29": {"system": "lorenz", "conditions": 6, "trials_per_condition": 10, "bins": 50, "neurons": 29},
    "120 × 100 × 60": {"system": "lorenz", "conditions": 12, "trials_per_condition": 10, "bins": 100, "neurons": 60},
    "400 × 40 × 100": {"system": "chaotic_rnn", "conditions": 10, "trials_per_condition": 40, "bins": 40, "neurons": 100},
}  # fmt: skip
"""Synthetic data sets, named by their trials, bins and neurons."""

JOBS: dict[str, dict[str, Any]] = {
    "small batches": {
        "preset": "quick", "budget": {"models": 4, "epochs": 60}, "training": {"batch_size": 8, "ramp_epochs": 20},
    },
    "large batches": {"preset": "quick", "budget": {"models": 2, "epochs": 100}},
    "controller": {"preset": "paper-2019", "budget": {"models": 1, "epochs": 40, "patience_epochs": None}},
    "population": {
        "preset": "autolfads", "budget": {"models": 4, "epochs": 30}, "training": {"batch_size": 16, "ramp_epochs": 5},
        "strategy": {"generation_epochs": 5},
    },
    "halving": {
        "preset": "quick", "strategy": {"kind": "asha", "first_rung_epochs": 10}, "budget": {"models": 9, "epochs": 90},
        "training": {"batch_size": 16, "ramp_epochs": 5},
    },
}  # fmt: skip
SHARES = (0.25, 0.5, 0.75)


def run_jobs(
    client: Client, dataset: str, specification: dict[str, Any], process: int
) -> Iterator[dict[str, Any]]:
    """Run one job after the other on one data set."""
    for name, job in JOBS.items():
        yield {"data set": dataset, "job": name, **run_job(client, {**specification, **job}, process)}


def run_job(client: Client, specification: dict[str, Any], process: int) -> dict[str, Any]:
    """Preview a job, run it, and compare."""
    preview = client.preview_job(specification)
    cpu, job, told = _cpu_seconds(process), client.create_job(specification), []
    created = time.monotonic()
    while (document := client.get_job(job["id"]))["state"] != "done":
        if document["state"] == "failed":
            raise RuntimeError(f"the job failed: {document['error']}")
        told.append((time.monotonic() - created, document["progress"]["seconds_left"]))
        time.sleep(0.25)
    begin, end = (datetime.fromisoformat(document[name]) for name in ("created_at", "ended_at"))
    actual = (end - begin).total_seconds()
    return {
        "basis": preview["seconds_basis"],
        "estimate": preview["seconds"],
        "actual": round(actual, 1),
        "ratio": round(preview["seconds"] / actual, 2),
        "cpu": round(_cpu_seconds(process) - cpu, 1),
        **{f"left at {share:.0%}": _ratio_left(told, actual, share) for share in SHARES},
    }


def _ratio_left(told: list[tuple[float, float | None]], actual: float, share: float) -> float | None:
    """Return `seconds_left`, as told at a share of a job's time, beside what was left."""
    at, left = min(told, key=lambda one: abs(one[0] - share * actual), default=(0.0, None))
    return None if left is None or at >= actual else round(left / (actual - at), 2)


def _cpu_seconds(process: int) -> float:
    """Return the processor time of a process and of all below it, except those of the API; Linux alone tells it."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process and b"api.server" not in command:  # its parent
            total += sum(int(one) for one in fields[11:15]) / ticks + _cpu_seconds(int(folder.name))
    return total


def main() -> None:
    """Run all jobs on all data sets."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("files", nargs="*", type=Path, help="further recordings")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for source in [*DATASETS, *arguments.files]:
        with tempfile.TemporaryDirectory(prefix="latentry-estimates-") as folder:
            service = EmbeddedService(Path(folder), port=0, workers=arguments.workers)
            try:
                service.start()
                with Client(service.url) as client:
                    made = (
                        client.upload_dataset(source)
                        if isinstance(source, Path)
                        else client.synthesize_dataset(**DATASETS[source])
                    )
                    name = source.name if isinstance(source, Path) else source
                    for row in run_jobs(client, name, {"dataset_id": made.id}, os.getpid()):
                        rows.append(row)
                        if arguments.json:
                            print(json.dumps(row), flush=True)
            finally:
                service.stop()
    if not arguments.json:
        print(report.machine())
        print(report.markdown_table([list(rows[0]), *(list(row.values()) for row in rows)]))


if __name__ == "__main__":
    main()
