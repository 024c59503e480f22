"""Workers that claim slices and report them without training, and what they leave."""

from typing import Any

from sqlalchemy import select

from domain.states import JobState, ModelState, SliceState
from store.database import Database, database_now
from store.settings import Settings
from store.tables import Decision, Job, Model, Slice
from worker.scheduling.fair_queue import claim_slice
from worker.scheduling.leases import Lease
from worker.scheduling.model_rows import end_model, note_best_weights
from worker.scheduling.scheduler import advance


class FakeWorkers:
    """Claims slices and reports them without training: each slice trains `epochs` epochs, losses are given."""

    def __init__(self, database: Database, settings: Settings, epochs: int = 2) -> None:
        self.database, self.settings, self.epochs = database, settings, epochs
        self.device_seconds = 1.0
        self.trained: dict[str, list[tuple[int, int]]] = {}

    def advance(self, job_id: str) -> None:
        with self.database.write() as session:
            advance(session, job_id, self.settings)

    def claim(self, worker: str = "fake") -> Lease | None:
        with self.database.write() as session:
            return claim_slice(session, worker, self.settings)

    def report(
        self, lease: Lease, losses: dict[int, float] | None = None, diverged: tuple[int, ...] = ()
    ) -> None:
        with self.database.write() as session:
            lease.keep(session, self.settings)
            piece = session.get_one(Slice, lease.row_id)
            end = min(piece.first_epoch + self.epochs, piece.last_epoch)
            for model in session.execute(select(Model).where(Model.id.in_(piece.model_ids))).scalars():
                if piece.kind == "infer":
                    model.latents_path = f"latents/{lease.token}"
                    continue
                self.trained.setdefault(model.id, []).append((piece.first_epoch, end))
                first_epoch = model.epochs_trained
                model.epochs_trained = end
                model.checkpoint_key, model.start_key = f"{model.number}/{end}/{lease.token}", None
                model.latest_smoothed_sv_loss = (losses or {}).get(model.number, 1.0)
                best_epoch = model.scores.get("best_epoch", 0)
                if model.latest_smoothed_sv_loss < (before := model.smoothed_sv_loss or 9.0):
                    best_epoch = end
                model.smoothed_sv_loss = min(before, model.latest_smoothed_sv_loss)
                model.scores = {"smoothed_sv_loss": model.smoothed_sv_loss, "best_epoch": best_epoch}
                note_best_weights(model, best_epoch, first_epoch)
                model.is_alone = False
                if model.number in diverged:
                    end_model(session, model, ModelState.DIVERGED, "its loss was no longer finite")
            if piece.kind == "infer":
                job = session.get_one(Job, piece.job_id)
                job.state, job.ended_at = JobState.DONE, database_now(session)
            piece.state, piece.lease_token, piece.lease_expires_at = SliceState.DONE, None, None
            piece.epochs_trained, piece.ended_at = end, database_now(session)
            piece.device_seconds = self.device_seconds

    def run(self, job_id: str, **report: Any) -> None:
        self.advance(job_id)
        while (lease := self.claim()) is not None:
            self.report(lease, **report)
            self.advance(job_id)


def read_job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def read_models(database: Database, job_id: str) -> list[Model]:
    with database.read() as session:
        return list(
            session.execute(select(Model).where(Model.job_id == job_id).order_by(Model.number)).scalars()
        )


def read_slices(database: Database, job_id: str) -> list[Slice]:
    with database.read() as session:
        return list(session.execute(select(Slice).where(Slice.job_id == job_id).order_by(Slice.id)).scalars())


def read_decisions(database: Database, job_id: str) -> list[Decision]:
    with database.read() as session:
        of_job = select(Decision).where(Decision.job_id == job_id).order_by(Decision.id)
        return list(session.execute(of_job).scalars())
