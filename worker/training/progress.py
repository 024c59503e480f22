"""Learning curves on their way to the database. They are written with each renewal of the lease."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import JobState
from models import EpochScores
from store import events
from store.tables import CurvePoint, Job, Model
from worker.context.data import LoadedData, finite
from worker.context.process import TrainingProcess
from worker.context.reports import Heartbeat
from worker.context.slices import Work


class _Point(NamedTuple):
    model: Model
    scores: EpochScores
    sv_bits_per_spike: float | None


class Progress:
    """The epochs that the models of a slice have trained.

    Attributes
    ----------
    data
        Of the slice.
    latest
        Scores of the last epoch of each model, by its place in the slice.
    lowest
        Lowest smoothed SV loss of each model in this slice.
    should_end
        Whether the job was paused or stopped. The slice then ends with the epoch.
    """

    def __init__(self, process: TrainingProcess, work: Work, data: LoadedData) -> None:
        self._work, self.data = work, data
        self._heartbeat = Heartbeat(process, work.lease, self._write_and_read_state)
        self._points: list[_Point] = []
        self._latest: dict[int, _Point] = {}
        self._job_state = JobState(work.job.state)
        self.latest: dict[int, EpochScores] = {}
        self.lowest: dict[int, float | None] = {}
        self.should_end = False

    def add(self, scores: Mapping[int, EpochScores]) -> None:
        """Keep the scores of one epoch for the next heartbeat, by the models' places in the slice."""
        self.latest |= scores
        for index, found in scores.items():
            self.lowest[index] = lowest(self.lowest.get(index), finite(found.smoothed_sv_loss))
            bits_per_spike = self.data.sv_bits_per_spike(found.sv_loss)
            self._latest[index] = _Point(self._work.models[index], found, bits_per_spike)
            self._points.append(self._latest[index])
        self.beat()

    def beat(self) -> None:
        """Renew the lease if it is time to, write the points and read the state of the job; call this at every step.

        If the database does not answer, training continues and the points wait for the next heartbeat.
        """
        if self._heartbeat.renew():
            self._points = []
            self.should_end = self._job_state in (JobState.PAUSED, JobState.STOPPING)

    def _write_and_read_state(self, session: Session) -> None:
        self.write(session)
        self._job_state = session.execute(select(Job.state).where(Job.id == self._work.job.id)).scalar_one()

    def write(self, session: Session) -> None:
        """Write the points that no committed transaction has written."""
        if not self._points:
            return
        piece = self._work.piece
        session.add_all(_curve_point(point, piece.id) for point in self._points)
        models = [
            {
                "model_id": model.id,
                "number": model.number,
                "epoch": scores.epoch,
                "sv_loss": finite(scores.sv_loss),
                "sv_bits_per_spike_valid": bits_per_spike,
                "validation_loss": finite(scores.validation_loss),
                "best_smoothed_sv_loss": finite(scores.best_smoothed_sv_loss),
                "trained_by": model.number if scores.best_epoch > piece.first_epoch else model.trained_by,
            }
            for model, scores, bits_per_spike in self._latest.values()
        ]
        events.record(session, self._work.job.id, "progress", slice_id=piece.id, models=models)


def lowest(*losses: float | None) -> float | None:
    """Return the lowest of the losses that are known; None if none is known."""
    return min((loss for loss in losses if loss is not None), default=None)


def _curve_point(point: _Point, slice_id: str) -> CurvePoint:
    model, scores, bits_per_spike = point
    return CurvePoint(
        model_id=model.id,
        epoch=scores.epoch,
        slice_id=slice_id,
        train_loss=finite(scores.train_loss),
        sv_loss=finite(scores.sv_loss),
        sv_bits_per_spike_valid=bits_per_spike,
        sv_loss_train=finite(scores.sv_loss_train),
        validation_loss=finite(scores.validation_loss),
        smoothed_sv_loss=finite(scores.smoothed_sv_loss),
        kl_initial_condition=finite(scores.kl_initial_condition),
        kl_inputs=finite(scores.kl_inputs) if model.architecture.get("controller_units") else None,
        gradient_norm=finite(scores.gradient_norm),
        learning_rate=finite(scores.learning_rate),
    )
