"""Whether anything is lost, done twice or forgotten when workers are killed, frozen and told to go at random.

``python -m benchmarks.chaos [--seconds 600] [--json] [--database sqlite|postgresql] [--seed N] [--jobs 50] [--models 20]
[--workers 4]``

Jobs of four strategies with training that sleeps, on the service's own scheduler, leases, slices, checkpoints, outbox, broker
and maintenance loop (`benchmarks.simulation`), with its own `lease_seconds` and `maintenance_seconds`. For so many seconds,
faults come at random times drawn from the seed (`benchmarks.simulation.faults`): processes are killed, frozen for longer than
their lease and told to go, messages are lost and sent ten times, jobs are paused, cancelled, retried and stopped. Then
everything is left in peace until all jobs have ended, and is judged (`benchmarks.simulation.invariants`). Jobs that were not
stopped or cancelled, of strategies that do not depend on the order in which models arrive, must have selected the model that
they select undisturbed.

Exit status 1 if anything is lost, trained twice, stuck, left in the array store or missing there, if a model or a job failed,
if a worker that had lost its lease was not refused, or if a job selected another model.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.paper.harness import machine
from benchmarks.simulation.faults import Fault
from benchmarks.simulation.invariants import Recovery, judge, read_recoveries
from benchmarks.simulation.killable_workers import read_notes
from benchmarks.simulation.servers import new_database, postgresql
from benchmarks.simulation.soak import SoakPlan, Survived, soak
from benchmarks.simulation.undisturbed import Selected, select_undisturbed, selected_of
from domain.states import JobState
from store.tables import Job

DETERMINISTIC = ("random", "hyperband", "pbt")
"""Strategies of which equal specification and seed give equal models, whatever the order in which slices end."""
MUST_BE_ZERO = (
    "lost", "trained_twice", "stuck", "orphans", "missing_objects", "failed", "not_refused", "selected_differs",
)  # fmt: skip
_KILLS = (Fault.KILL, Fault.KILL_AND_REAP, Fault.KILL_CONTROL, Fault.KILL_MAINTENANCE)


def run(plan: SoakPlan, folder: Path, database: str) -> dict[str, Any]:
    """Soak, judge, and say what was found."""
    survived = soak(plan, folder)
    found = asdict(judge(survived.database, survived.arrays))
    disturber = survived.disturber
    compared, differs = compare_selected(survived, folder)
    recoveries = read_recoveries(survived.database, disturber.deaths)
    survived.database.close()
    errors = [one["error"] for one in read_notes(survived.place, "error")]
    return {
        "database": database,
        "seed": plan.seed,
        "seconds": plan.seconds,
        "workers": plan.workers,
        "lease_s": survived.settings.lease_seconds,
        "maintenance_s": survived.settings.maintenance_seconds,
        "slice_s": round(plan.slice_seconds, 2),
        **found,
        "kills": sum(disturber.faults[kind] for kind in _KILLS),
        "events": dict(sorted(disturber.faults.items())),
        **_describe_recoveries(recoveries),
        **_describe_refusals(survived),
        "selected_compared": compared,
        "selected_differs": differs,
        "jobs_done": found["jobs"].get(JobState.DONE, 0),
        "jobs_ended_meanwhile": survived.jobs_ended_meanwhile,
        "peace_s": round(survived.peace_s, 1),
        "locked_out": disturber.locked_out,
        "task_errors": {error: errors.count(error) for error in sorted(set(errors))},
        "ended_untold": len(read_notes(survived.place, "ended")),
        "never_went": survived.never_went,
    }


def compare_selected(survived: Survived, folder: Path) -> tuple[int, int]:
    """How many jobs were compared with themselves undisturbed, and how many of them selected another model."""
    chosen: list[tuple[dict[str, Any], Selected | None]] = []
    with survived.database.read() as session:
        specifications = survived.plan.specifications()
        for job_id, specification in zip(survived.job_ids, specifications, strict=True):
            is_over = JobState(session.get_one(Job, job_id).state).is_final
            is_same = job_id not in survived.disturber.changed_ids
            if is_over and is_same and specification["strategy"]["kind"] in DETERMINISTIC:
                chosen.append((specification, selected_of(session, job_id)))
    expected = select_undisturbed(folder, [specification for specification, _ in chosen])
    return len(chosen), sum(one != other for (_, one), other in zip(chosen, expected, strict=True))


def _describe_recoveries(recoveries: list[Recovery]) -> dict[str, Any]:
    """Times of slices whose workers were killed; of those that must wait until a lease is over, apart."""

    def at_most_and_median(times: list[float | None], name: str) -> dict[str, float | None]:
        known = [one for one in times if one is not None]
        return {
            f"{name}_max": round(max(known), 1) if known else None,
            f"{name}_median": round(statistics.median(known), 1) if known else None,
        }

    expired = [one for one in recoveries if one.fault == Fault.KILL]
    reaped = [one for one in recoveries if one.fault == Fault.KILL_AND_REAP]
    return {
        "slices_of_the_dead": len(recoveries),
        "unrecovered": sum(one.recovery_s is None for one in recoveries),
        **at_most_and_median([one.recovery_s for one in recoveries], "recovery_s"),
        **at_most_and_median([one.taken_back_s for one in expired], "expired_taken_back_s"),
        **at_most_and_median([one.taken_back_s for one in reaped], "reaped_taken_back_s"),
    }


def _describe_refusals(survived: Survived) -> dict[str, int]:
    """Leases whose holders were told that they had lost them; workers that froze and lost one must be among these."""
    refused = {one["token"] for one in read_notes(survived.place, "refused")}
    overdue = [one for one in survived.disturber.freezes if one.was_taken]
    return {
        "refused": len(refused),
        "frozen_beyond_lease": len(overdue),
        "not_refused": sum(
            one.token not in refused and one.name not in survived.disturber.killed for one in overdue
        ),
    }


def main() -> None:
    """Soak once, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="of faults; peace comes after")
    parser.add_argument("--json", action="store_true", help="nothing but one line of JSON")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seed", type=int, default=0, help="of jobs and faults")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--models", type=int, default=20, help="of each job")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latentry-chaos-")))
        url = f"sqlite:///{folder / 'latentry.db'}"
        if given.database == "postgresql":
            url = new_database(stack.enter_context(postgresql()), "chaos")
        plan = SoakPlan(url, given.seconds, given.jobs, given.models, given.workers, given.seed)
        found = run(plan, folder, given.database)
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))
        print(f"{date.today()}, {machine()}")
    sys.exit(any(found[name] for name in MUST_BE_ZERO))


if __name__ == "__main__":
    main()
