"""Data sets and slices in this process, with real training."""

from pathlib import Path
from typing import Any

from sqlalchemy import select
from zarr.abc.store import Store

from domain.states import DatasetState
from store.database import Database
from store.identifiers import new_id
from store.originals import file_sha256
from store.settings import Settings
from store.tables import DEFAULT_TENANT, CurvePoint, Dataset, Model
from worker.context.process import TrainingProcess
from worker.ingest.service import ingest_dataset
from worker.process.run_next import run_next
from worker.scheduling.scheduler import advance


def unhurried(settings: Settings) -> Settings:
    """Settings for an ingest: its heart beats in a thread, which takes a whole core where trainings report each millisecond."""
    return settings.model_copy(update={"heartbeat_seconds": settings.lease_seconds / 3})


def ingest(
    database: Database,
    arrays: Store,
    settings: Settings,
    source: Path | dict[str, Any],
    options: dict[str, Any] | None = None,
) -> str:
    """A data set made of a file, as an upload leaves it, or of a synthetic system."""
    dataset_id = new_id("dat")
    described = source if isinstance(source, dict) else {"kind": "upload", "options": options or {}}
    original = None
    if isinstance(source, Path):
        settings.uploads_dir.mkdir(parents=True, exist_ok=True)
        original = file_sha256(source)
        (settings.uploads_dir / original).write_bytes(source.read_bytes())
    with database.write() as session:
        session.add(
            Dataset(
                id=dataset_id, tenant_id=DEFAULT_TENANT, name="test", state=DatasetState.INGESTING,
                source=described, attempts=0, original=original,
            )
        )  # fmt: skip
    ingest_dataset(database, arrays, unhurried(settings), dataset_id, "test")
    with database.read() as session:
        row = session.get_one(Dataset, dataset_id)
        assert row.state == DatasetState.READY, row.problems
    return dataset_id


def run_job(process: TrainingProcess, job_id: str) -> None:
    while True:
        with process.database.write() as session:
            advance(session, job_id, process.settings)
        if not run_next(process):
            return


def curves(database: Database, job_id: str) -> dict[int, list[tuple[int, float | None]]]:
    with database.read() as session:
        rows = session.execute(
            select(Model.number, CurvePoint.epoch, CurvePoint.sv_loss)
            .join(Model, Model.id == CurvePoint.model_id)
            .where(Model.job_id == job_id)
            .order_by(CurvePoint.epoch)
        ).all()
    found: dict[int, list[tuple[int, float | None]]] = {}
    for number, epoch, loss in rows:
        found.setdefault(number, []).append((epoch, loss))
    return found
