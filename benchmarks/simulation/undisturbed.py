"""What a job selects when nothing disturbs it: the same job in this process alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from benchmarks.simulation.fake_training import Pace, instead_of_the_network
from benchmarks.simulation.load import add_jobs, write_data
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Job, Model
from worker.context.process import TrainingProcess
from worker.process.run_next import run_next
from worker.scheduling.scheduler import advance


class Selected(NamedTuple):
    """The selected model of a job: its number, and its lowest smoothed SV loss."""

    number: int
    smoothed_sv_loss: float | None


def selected_of(session: Session, job_id: str) -> Selected | None:
    """What a job has selected so far."""
    job = session.get_one(Job, job_id)
    if job.selected_model_id is None:
        return None
    model = session.get_one(Model, job.selected_model_id)
    return Selected(model.number, model.smoothed_sv_loss)


def select_undisturbed(folder: Path, specifications: Sequence[Mapping[str, Any]]) -> list[Selected | None]:
    """Run jobs one after the other, with a training that takes no time."""
    database = Database(f"sqlite:///{folder / 'undisturbed.db'}")
    migrate(database)
    arrays = open_array_store("sql:", database)
    settings = Settings(slice_seconds=3600.0)
    process = TrainingProcess(database, arrays, settings, "undisturbed", device="cpu")
    write_data(arrays)
    found = []
    with instead_of_the_network(Pace(0.0)):
        for specification in specifications:
            (job_id,) = add_jobs(database, [specification])
            has_more = True
            while has_more:
                with database.write() as session:
                    advance(session, job_id, settings)
                has_more = run_next(process)
            with database.read() as session:
                found.append(selected_of(session, job_id))
    database.close()
    return found
